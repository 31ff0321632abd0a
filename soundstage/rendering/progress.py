"""Progress of a run: the share of its work that is done, counted from its events."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from soundstage.errors import RequestError, shown
from soundstage.planning.plan import PassPlan, Plan
from soundstage.rendering.events import Done, Event, Phase, Step

# Share of a run's work when all steps are done, and when the picture is decoded too.
DENOISED, DECODED = 0.9, 0.98
NUM_PREVIEWS = 8  # about so many of a run: one takes as long as a step or two of a small model
# Names of phases, besides those of the windows of a take.
PHASES = frozenset({"load", "resume", "encode", "denoise", "upsample", "decode video", "decode audio"})


@dataclass(frozen=True)
class Progress:
    """The progress of a run after one of its events.

    fraction: done share of all work, from 0 to 1; it never falls. phase: "queued", then the name of the last
    Phase, then "done". step, num_steps: those of the pass under way, 0 before its first step. window,
    num_windows: those of a long take, counted from 1; 1 and 1 for a clip made at once. event: the event that
    was reported; None before any.
    """

    fraction: float = 0.0
    phase: str = "queued"
    step: int = 0
    num_steps: int = 0
    window: int = 1
    num_windows: int = 1
    event: Event | None = field(default=None, repr=False)


Report = bool | Callable[[Progress], object] | None


class ProgressCount:
    """Counts the work of a plan that is done. A pass counts by its forwards and their tokens."""

    def __init__(self, plan: Plan) -> None:
        self._clips = plan.made_clips
        self._works = [sum(map(_work, clip.passes)) for clip in self._clips]
        self._total = sum(self._works) or 1
        self._now = Progress(num_windows=len(self._clips))

    def see(self, event: Event) -> Progress:
        """Return the progress after an event."""
        self._now = replace(self._now, event=event)
        if isinstance(event, Phase):
            self._begin(event)
        elif isinstance(event, Step):
            self._now = replace(self._now, step=event.step, num_steps=event.num_steps)
            self._reach_work(made_until(self._clips[self._now.window - 1], event, _work))
        elif isinstance(event, Done):
            self._now = replace(self._now, phase="done", step=0, num_steps=0)
            self._reach(1.0)
        return self._now

    def _begin(self, phase: Phase) -> None:
        window = window_of(phase)
        if window is not None:
            self._now = replace(self._now, window=window + 1, step=0, num_steps=0)
            self._reach_work(0.0)
            return
        self._now = replace(self._now, phase=phase.name, step=0, num_steps=0)
        if phase.name == "denoise" and phase.detail.done:  # a run that goes on from a checkpoint
            step = Step(phase.detail.part, phase.detail.done, phase.detail.total, 0.0)
            self._reach_work(made_until(self._clips[self._now.window - 1], step, _work))
        if phase.name.startswith("decode"):
            self._reach(DENOISED if phase.name == "decode video" else DECODED)

    def _reach_work(self, work: float) -> None:
        """Count the windows before this one, and some work of this one."""
        self._reach((sum(self._works[: self._now.window - 1]) + work) / self._total * DENOISED)

    def _reach(self, fraction: float) -> None:
        """Raise the fraction. A window that is lost and made again does not lower it."""
        self._now = replace(self._now, fraction=max(self._now.fraction, fraction))


def preview_every(plan: Plan) -> int:
    """Return after how many steps a preview is worth its time."""
    return max(1, round(max(pass_.num_steps for pass_ in plan.passes) / NUM_PREVIEWS))


def check_report(progress: Report) -> None:
    """Raise RequestError for a value of `progress` that reports nothing."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise RequestError(
            f"progress is {shown(progress)}; give True for bars, or a function that takes a Progress",
            field="progress",
        )


@contextmanager
def reporting(progress: Report, plan: Plan) -> Iterator[Callable[[Event], object]]:
    """Give a function that reports a run's events: as bars on stderr, to a callable, or not at all."""
    if progress is True:
        from soundstage.rendering.bars import ProgressBars

        with ProgressBars(plan) as bars:
            yield bars.show
    elif callable(progress):
        count, report = ProgressCount(plan), progress
        yield lambda event: report(count.see(event))
    else:
        yield lambda event: None


def made_until(clip: Plan, event: Step, work: Callable[[PassPlan], float]) -> float:
    """Return the work of a clip's passes up to a step. work: gives that of a whole pass."""
    made = 0.0
    for pass_ in clip.passes:
        if pass_.name == event.name:
            return made + work(pass_) * event.step / event.num_steps
        made += work(pass_)
    return made


def window_of(phase: Phase) -> int | None:
    """Return the index of the window that a phase begins; None where it begins none."""
    found = re.fullmatch(r"window (\d+) of \d+", phase.name)
    return None if found is None else int(found[1]) - 1


def names_phase(text: str) -> bool:
    """Return whether a text is the name of a phase."""
    return text in PHASES or window_of(Phase(text)) is not None


def _work(pass_: PassPlan) -> float:
    tokens = pass_.video_tokens + pass_.audio_tokens + pass_.added_video + pass_.added_audio
    return pass_.num_forwards * tokens
