"""The script that measures a CUDA device runs here on tiny sizes, every line of it."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import gpu


@pytest.mark.parametrize("section", gpu.SECTIONS, ids=lambda section: section.__name__)
def test_every_line_is_a_way_beside_the_plain_one(section: object) -> None:
    at = gpu.settings(dry=True, layers=1, repeats=1)
    lines = list(section(at))  # type: ignore[operator]
    assert lines
    for line in lines:
        assert line.plain_s > 0
        assert line.way_s > 0
        assert line.difference < 0.02, line
        assert math.isfinite(line.difference)
        assert len(str(line)) >= len(gpu.HEADER)


def test_without_a_device_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "there is no CUDA device here; --dry runs tiny sizes on the CPU" in capsys.readouterr().err
