"""What standard error shows while work goes on: the first line at once, and never nothing for long."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import soundstage as ss
from soundstage.cli import announcing
from soundstage.cli.run_times import RunTimes
from soundstage.planning.plan import Plan
from soundstage.rendering import screen
from soundstage.rendering.bars import ProgressBars
from soundstage.rendering.events import Detail, Phase, Step
from soundstage.rendering.screen import Screen
from tests.limits import LONG_S

ROOT = Path(__file__).parents[2]
# Prints with each line whether torch is loaded by then, and stops at the second.
WATCHED = """
import sys
from soundstage.rendering.screen import Screen
say, lines = Screen.say, []
def watched(self, text):
    say(self, f"{'torch' in sys.modules} {text}")
    lines.append(text)
    if len(lines) == 2:
        sys.exit(0)
Screen.say = watched
from soundstage.cli.main import run
run()
"""


@pytest.fixture(scope="module")
def stage() -> ss.Engine:
    return ss.load("nano", device="cpu")


@pytest.fixture
def plan(stage: ss.Engine) -> Plan:
    return stage.plan(ss.Request(prompt="A red ball bounces.", num_frames=9, steps=2, size=(64, 64)))


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "A red ball bounces.", "--seed", "1"),
        ("generate", "A red ball bounces.", "A blue ball bounces.", "--seed", "1"),
        ("t2a", "Steady rain is heard.", "--seed", "1"),
    ],
    ids=["one", "several", "sound"],
)
def test_the_first_line_comes_before_torch_is_imported(words: tuple[str, ...], tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *words],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=LONG_S,
    )
    first, *_ = (line for line in done.stderr.splitlines() if not line.startswith("clip "))
    what = "2.04 s of sound" if words[0] == "t2a" else r"49 frames of 192x128 (2.04 s) with sound"
    assert first.startswith(f"False nano: {what}, 20 steps; about "), done.stderr
    assert "GB of memory" in first
    assert list(tmp_path.iterdir()) == []


def until(text: io.StringIO, wanted: str) -> None:
    end = time.monotonic() + LONG_S
    while wanted not in text.getvalue():
        assert time.monotonic() < end, text.getvalue()
        time.sleep(0.01)


def test_a_long_step_is_told_on_a_pipe_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_S", "MOST_S", "LOOK_S"):
        monkeypatch.setattr(screen, name, 0.001)
    text = io.StringIO()
    with Screen(console=Console(file=text)) as shown:
        detail = Detail("transformer")
        shown.begin("load", detail)
        until(text, "load ...\nload: transformer, 0:00\nload: transformer, 0:00\n")
        shown.begin("denoise", Detail("denoise", 7, 20))
        until(text, "denoise 7/20, 0:00\n")
    ended = text.getvalue()
    assert not shown._thread.is_alive() if shown._thread else False
    assert text.getvalue() == ended


def test_lines_become_seldom() -> None:
    """Two seconds at most at first; half a minute in a run of hours."""
    spans = [screen.pause_s(gone_s) for gone_s in (0, 10, 60, 3600)]
    assert spans == [1.5, 1.5, 6.0, 30.0]


def test_a_quiet_display_prints_nothing(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(quiet=True) as shown, ProgressBars(plan, shown) as bars:
        bars.show(Phase("load"))
        bars.show(Step("denoise", 2, 2, 0.0))
        shown.say("notice")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_row_for_the_work_under_way(plan: Plan) -> None:
    text = io.StringIO()
    with Screen(console=Console(file=text, force_terminal=True, width=100)) as shown:
        detail = Detail("video VAE")
        with ProgressBars(plan, shown) as bars:
            bars.show(Phase("load", detail))
            until(text, "load: video VAE")
            detail.part, detail.done, detail.total = "", 3, 9
            until(text, "3/9")
            bars.show(Phase("denoise", Detail("denoise", 0, 2)))
            bars.show(Step("denoise", 1, 2, 0.5))
            until(text, "1/2")
    assert "load ..." not in text.getvalue()


def test_a_share_is_told_in_per_cent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_S", "MOST_S", "LOOK_S"):
        monkeypatch.setattr(screen, name, 0.001)
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    with announcing.at_work("write a.gif") as show:
        show(0.375)
        until(text, "write a.gif 38%, 0:00\n")
    assert text.getvalue().startswith("write a.gif ...\n")


def test_phases_say_what_they_are_at(stage: ss.Engine, plan: Plan) -> None:
    """The detail of a phase is looked at while it lasts; here when it has ended."""
    phases = {event.name: event.detail for event in stage.run(plan) if isinstance(event, ss.Phase)}
    assert phases["load"] == Detail("vocoder")
    assert phases["encode"] == Detail("text encoder")
    assert phases["denoise"] == Detail("denoise", 2, 2)
    assert phases["decode video"] == Detail("", 9, 9)


# --- the time it will take ---------------------------------------------------------------------------------


@pytest.fixture
def times(stage: ss.Engine, plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return what looks up a plan's times as in a process that has not loaded torch."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    modules = {name: module for name, module in sys.modules.items() if name != "torch"}

    def of(wanted: Plan = plan) -> RunTimes:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "modules", modules)
            found = RunTimes()
        found.of(stage, wanted, stage.choose(wanted))
        return found

    return of


def test_the_time_is_that_of_the_last_clip_scaled_to_this_one(stage: ss.Engine, times: Any) -> None:
    first = times()
    assert first.expected() is None
    first.made()
    phases = {"load": 1.0, "encode": 3.0, "denoise": 8.0, "decode video": 2.0, "decode audio": 0.5}
    first.keep(phases)
    assert times().expected() == pytest.approx(sum(phases.values()), rel=0.05)
    longer = stage.plan(ss.Request(prompt="A ball.", num_frames=9, steps=4, size=(64, 64)))
    assert times(longer).expected() == pytest.approx(sum(phases.values()) + 8.0, rel=0.05)
    huge = stage.plan(ss.Request(prompt="A ball.", num_frames=9, steps=400, size=(64, 64)))
    assert times(huge).expected() is None  # too far from what was measured
    second = RunTimes()  # torch is loaded here
    second.of(stage, longer, stage.choose(longer))
    assert second.expected() < times(longer).expected()


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"load": ["x", 1]}}', "\0"])
def test_damaged_times_are_none(times: Any, tmp_path: Path, text: str) -> None:
    file = tmp_path / "soundstage" / "run-times.json"
    file.parent.mkdir()
    file.write_text(text)
    assert times().expected() is None
    times().keep({"load": 1.0})
    assert len(json.loads(file.read_text())) == 1


def test_times_are_told_in_words_of_their_size(stage: ss.Engine, plan: Plan) -> None:
    choice = stage.choose(plan)
    assert announcing.cost(choice, None).endswith("GB of memory")
    assert [announcing.cost(choice, s).rpartition("about ")[2] for s in (0.2, 9.4, 240, 9000)] == [
        "1 s",
        "9 s",
        "4 min",
        "2.5 h",
    ]
