"""A take is priced over all its windows, and its bar says how much is done and how long the rest takes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from soundstage.errors import RequestError
from soundstage.library.model_files import ModelSet
from soundstage.library.sizes import ModelSizes
from soundstage.memory.machine import Machine
from soundstage.planning.cost import price
from soundstage.planning.long_take import plan_request
from soundstage.planning.placement import choose
from soundstage.planning.plan import Plan
from soundstage.rendering import screen as module
from soundstage.rendering.bars import ProgressBars
from soundstage.rendering.events import Notice, Phase, Step
from soundstage.request.defaults import Defaults
from soundstage.request.request import Request
from soundstage.request.take import Take

SIZES = ModelSizes.published("bfloat16")
CARD = Machine("a card", "cuda", 256e9, 80e9, flops_per_s=1e14)
CPU = Machine("the CPU", "cpu", 256e9)


def planned(**fields: Any) -> Plan:
    return plan_request(Request(**{"prompt": "a", **fields}), ModelSet("test", Path("nowhere"), Defaults()))


@pytest.fixture(scope="module")
def take() -> Plan:
    return planned(duration_s=60)


def phases(plan: Plan, machine: Machine) -> dict[str, float]:
    found = price(plan, SIZES, machine, choose(planned(), SIZES, machine).residency)
    return {phase.name: phase.seconds for phase in found.phases}


def test_every_window_counts(take: Plan) -> None:
    """A window that is computed costs its steps, wherever it lies; the whole is decoded once."""
    alone = [phases(replace(clip, windows=(), clips=()), CPU) for clip in take.clips]
    whole = phases(take, CPU)
    assert len(alone) > 10
    assert whole["denoise denoise"] == pytest.approx(sum(one["denoise denoise"] for one in alone))
    assert whole["encode"] == pytest.approx(sum(one["encode"] for one in alone))
    frames = sum(clip.num_frames for clip in take.clips)
    latents = [(plan.num_frames - 1) // 8 + 1 for plan in (take, take.clips[0])]
    assert whole["decode video"] == pytest.approx(alone[0]["decode video"] * latents[0] / latents[1])
    assert take.num_frames < frames


def test_a_second_more_does_not_make_a_clip_cheaper() -> None:
    """21 s are two windows or more, and cost about what 20 s in one piece do, not a tenth of it."""
    one, more = (
        price(planned(duration_s=s), SIZES, CPU, choose(planned(), SIZES, CPU).residency) for s in (20, 21)
    )
    assert 0.3 < more.seconds / one.seconds < 1.5


def test_the_memory_of_a_take_is_a_windows_and_the_films(take: Plan) -> None:
    window = replace(take.clips[0], windows=(), clips=())
    found, alone = (
        {p.name: p.device_bytes for p in choose(plan, SIZES, CARD).price.phases} for plan in (take, window)
    )
    assert found["denoise denoise"] == pytest.approx(alone["denoise denoise"], rel=0.2)
    pixels = take.width * take.height * take.num_frames * 3
    assert found["decode video"] >= pixels
    audio = {
        s: price(planned(duration_s=s), SIZES, CARD, choose(take, SIZES, CARD).residency) for s in (60, 120)
    }
    sound = [{p.name: p.device_bytes for p in a.phases}["decode audio"] for a in audio.values()]
    assert sound[0] == sound[1]  # it is decoded in stretches


def test_a_take_that_does_not_fit_is_refused_with_a_size_at_its_own_length(take: Plan) -> None:
    small = replace(CARD, device_bytes=6e9, host_bytes=256e9)
    large = planned(duration_s=60, size=(3840, 2176))
    with pytest.raises(RequestError, match=rf"at {large.num_frames} frames.* what fits: \d+x\d+ at") as error:
        choose(large, SIZES, small)
    assert str(error.value).count(f"at {large.num_frames} frames") == 2


# --- the bar ------------------------------------------------------------------------------------------


@pytest.fixture
def short() -> Plan:
    take = Take(window_frames=25, overlap_frames=16)
    return planned(num_frames=57, fps=50.0, steps=4, size=(64, 64), take=take)


class Screen:
    """A console that keeps what is written, and a clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
        self.text, self.now = io.StringIO(), 0.0
        made = Console(file=self.text, force_terminal=terminal, width=100)
        monkeypatch.setattr(module, "Console", lambda **_: made)
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def events(plan: Plan, first: int = 0) -> Iterator[Any]:
    for window in plan.windows[first:]:
        yield Phase(f"window {window.index + 1} of {len(plan.windows)}")
        yield Phase("denoise")
        for step in range(1, 5):
            yield Step("denoise", step, 4, 0.0)


def test_a_pipe_is_told_the_time_spent_and_left_at_every_window(
    short: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(monkeypatch, terminal=False)
    shown = ProgressBars(short)
    shown.show(Notice("finished windows are kept in [here]"))
    for event in events(short):
        if isinstance(event, Step):
            screen.now += 10
        shown.show(event)
    lines = screen.text.getvalue().splitlines()
    assert lines[0] == "notice: finished windows are kept in [here]"
    assert [line for line in lines if line.startswith("window")] == [
        "window 1 of 3 ...",
        "window 2 of 3 ... (0:40 so far, about 1:20 left)",
        "window 3 of 3 ... (1:20 so far, about 0:40 left)",
    ]


def test_windows_of_an_earlier_run_are_not_counted_as_done_quickly(
    short: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Screen(monkeypatch, terminal=False)
    shown = ProgressBars(short)
    for event in events(short, first=1):
        if isinstance(event, Step):
            screen.now += 10
        shown.show(event)
    lines = [line for line in screen.text.getvalue().splitlines() if line.startswith("window")]
    assert lines == ["window 2 of 3 ...", "window 3 of 3 ... (0:40 so far, about 0:40 left)"]


@pytest.mark.parametrize("first", [0, 1])
def test_the_bar_of_a_take_counts_all_that_this_run_makes(
    short: Plan, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    Screen(monkeypatch, terminal=True)
    with ProgressBars(short) as shown:
        _, whole, own = shown._bars.tasks
        seen = []
        for event in events(short, first):
            shown.show(event)
            seen.append(whole.completed)
            if isinstance(event, Step):
                assert own.completed == event.step
        assert whole.total == short.num_forwards * (3 - first) / 3
        assert seen == sorted(seen)
        assert whole.completed == whole.total


def test_a_clip_has_no_bar_for_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    Screen(monkeypatch, terminal=True)
    with ProgressBars(planned(recipe="single")) as shown:
        assert [task.description for task in shown._bars.tasks[1:]] == ["denoise"]
