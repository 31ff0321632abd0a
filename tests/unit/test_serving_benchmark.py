"""The figures of the server are measured: a small run of `python -m benchmarks.serving`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import serving


@pytest.mark.parametrize(
    "part", [part if part == "list" else pytest.param(part, marks=pytest.mark.slow) for part in serving.PARTS]
)
def test_each_part_gives_its_figures(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if part == "page" and serving.chromium() is None:
        pytest.skip("there is no Chromium to open the page")
    figures = serving.main(["--quick", "--only", part, "--json", str(tmp_path / "found.json")])
    written = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in written] == [figure.name for figure in figures]
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [str(figure) for figure in figures]
    if part == "clients":
        assert figures[0].value == 0, "a stream missed an event"


def test_the_page_is_not_measured_without_a_browser(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "chromium", lambda: None)
    with pytest.raises(SystemExit):
        serving.main(["--quick"])
    assert "page needs a Chromium; install one, or name the other" in capsys.readouterr().err
