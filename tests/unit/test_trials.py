"""A fast path is taken where it works, agrees and is faster, and what was found is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from soundstage.speed.trials import Probe, Trial


@pytest.fixture(autouse=True)
def fast_paths_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the tests run with all of them switched off."""
    monkeypatch.delenv("SOUNDSTAGE_FAST_PATHS", raising=False)


ONES = torch.ones(4, 4)


def after(seconds: float, result: Tensor = ONES) -> Callable[[], Tensor]:
    def run() -> Tensor:
        time.sleep(seconds)
        return result

    return run


def broken() -> Tensor:
    raise RuntimeError("could not create a primitive descriptor")


@pytest.mark.parametrize(
    ("fast", "taken", "said"),
    [
        (after(0), True, ""),
        (after(0.02), False, "it takes"),
        (after(0, 1.001 * ONES), False, "its numbers differ by 1.0e-03"),
        (after(0, float("nan") * ONES), False, "its numbers differ by nan"),
        (broken, False, "RuntimeError: could not create a primitive descriptor"),
    ],
)
def test_a_path_is_taken_only_where_it_is_right_and_faster(
    fast: Callable[[], Tensor], taken: bool, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="soundstage.speed"):
        assert Probe("here").takes(Trial("a path", after(0.005), fast)) is taken
    assert said in caplog.text
    assert bool(caplog.text) is not taken


def test_what_was_found_is_kept_by_machine_and_damage_is_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUNDSTAGE_CACHE", str(tmp_path / "new folder"))
    quick, broken_path = Trial("quick", after(0.005), after(0)), Trial("broken", after(0.005), broken)
    first = Probe.open("here")
    assert first.takes(quick)
    assert not first.takes(broken_path)

    def never() -> Tensor:
        raise AssertionError("it was tried again")

    later = Probe.open("here")
    assert later.takes(Trial("quick", never, never))
    assert not later.takes(Trial("broken", never, never))
    assert Probe.open("elsewhere").found == {}
    (tmp_path / "new folder" / "fast-paths.json").write_text("{")
    assert Probe.open("here").found == {}


def test_a_trial_on_the_processors_clock_does_not_count_waiting_and_leaves_the_threads_as_they_are() -> None:
    def work() -> Tensor:
        for _ in range(200):
            _ = torch.ones(64, 64) @ torch.ones(64, 64)
        return ONES

    before = torch.get_num_threads()
    assert Probe("here").takes(Trial("waits", work, after(0.02), alone=True))
    assert torch.get_num_threads() == before


def test_the_record_is_kept_where_encodings_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_CACHE", "off")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _name: str(tmp_path))
    assert Probe.open("here").takes(Trial("quick", after(0.005), after(0)))
    assert Probe.open("here").found == {"quick": True}


def test_a_folder_that_cannot_be_written_to_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SOUNDSTAGE_CACHE", str(tmp_path / "file"))
    assert Probe.open("here").takes(Trial("quick", after(0.005), after(0)))


def test_the_environment_switches_all_paths_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_FAST_PATHS", "off")
    assert not Probe("here", found={"a path": True}).takes(Trial("a path", after(0), after(0)))
