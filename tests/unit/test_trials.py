"""A fast path is taken where it works, agrees and is faster, and what was found is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from soundstage.cli.program import app
from soundstage.errors import RequestError
from soundstage.speed.trials import Probe, Trial, switched_off


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


def use_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have the user's cache folder elsewhere."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _name: str(folder))


def never() -> Tensor:
    raise AssertionError("it was tried again")


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
    use_folder(monkeypatch, tmp_path / "new folder")
    quick, broken_path = Trial("quick", after(0.005), after(0)), Trial("broken", after(0.005), broken)
    first = Probe.open("here")
    assert first.takes(quick)
    assert not first.takes(broken_path)
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


@pytest.mark.parametrize("named", ["off", "another folder", ""])
def test_where_encodings_are_kept_does_not_move_the_record(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes of one machine take the same paths, or a seed would give them different bits."""
    use_folder(monkeypatch, tmp_path)
    assert Probe.open("here").takes(Trial("quick", after(0.005), after(0)))
    monkeypatch.setenv("SOUNDSTAGE_CACHE", str(tmp_path / named) if named == "another folder" else named)
    assert Probe.open("here").found == {"quick": True}


def test_of_processes_that_try_at_once_the_first_is_right_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_folder(monkeypatch, tmp_path)
    here, there = Probe.open("here"), Probe.open("here")
    quick, slow = Trial("a path", after(0.005), after(0)), Trial("a path", after(0), after(0.005))
    late: list[bool] = []

    def while_there_is_tried() -> Tensor:
        if not late:
            late.append(here.takes(quick))
        return ONES

    assert there.takes(Trial("a path", slow.plain, lambda: slow.fast() * while_there_is_tried()))
    assert late == [True]
    assert Probe.open("here").found == {"a path": True}
    assert Probe("here", tmp_path / "fast-paths.json").takes(Trial("a path", never, never))


@pytest.mark.parametrize("record", ['{"here": {"a path": "no"}}', '{"here": [1]}', "[]", "null"])
def test_a_record_that_holds_no_findings_is_absence(
    record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_folder(monkeypatch, tmp_path)
    (tmp_path / "fast-paths.json").write_text(record)
    assert not Probe.open("here").takes(Trial("a path", after(0), after(0.005)))
    assert Probe.open("here").found == {"a path": False}


def test_a_folder_that_cannot_be_written_to_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    use_folder(monkeypatch, tmp_path / "file")
    assert Probe.open("here").takes(Trial("quick", after(0.005), after(0)))


def test_the_environment_switches_all_paths_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_FAST_PATHS", "off")
    assert not Probe("here", found={"a path": True}).takes(Trial("a path", after(0), after(0)))


def test_another_word_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for word, off in (("", False), ("auto", False), ("OFF", True)):
        monkeypatch.setenv("SOUNDSTAGE_FAST_PATHS", word)
        assert switched_off() == off
    monkeypatch.setenv("SOUNDSTAGE_FAST_PATHS", "nonsense")
    with pytest.raises(RequestError, match="SOUNDSTAGE_FAST_PATHS is 'nonsense'; give auto or off"):
        switched_off()
    result = CliRunner().invoke(app, ["generate", "A red ball.", "--frames", "9", "--steps", "1"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith("soundstage: SOUNDSTAGE_FAST_PATHS is 'nonsense'; give auto or off\n")
