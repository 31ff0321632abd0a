"""Make film without an end: clips one after the other, with prompts that may change, as fast as it plays.

    film = Continuous(stage, request, continues=True)
    for chunk in film:                      # for ever; leave the loop or close the film to end it
        play(chunk.clip, at=chunk.start_s)
        film.prompt = next_words()          # from the next chunk on

Chunks are the windows of a long take whose end is not known (`continues`), each given the end of the one
before; or, as in Scope, clips of their own that know nothing of each other. The seed of each is new where
`randomize_seed` is on. `Pacer` keeps the maker from running ahead of whoever watches.
Source of the pace: docs/scope.md, "Pacing".
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from soundstage.clip import Clip
from soundstage.compat.scope import SEEDS
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.media.arrays import fit_audio
from soundstage.planning.plan import Plan
from soundstage.planning.planner import make_plan
from soundstage.planning.seeds import seed_of, seeded
from soundstage.planning.windows import endless_windows, given_frames, window_seed
from soundstage.rendering.events import Done
from soundstage.rendering.windows import Handover, Joint
from soundstage.request.request import Request
from soundstage.request.take import Take
from soundstage.types import OUTPUT_RATE_HZ


@dataclass(frozen=True)
class Chunk:
    """A piece of the film.

    start_s, audio_start_s: when its picture and its sound begin, counted from the film's start. They differ
    by the sound that is held back for the next seam. Picture and sound both go on without a gap.
    """

    index: int
    clip: Clip
    seed: int
    start_s: float
    audio_start_s: float

    @property
    def end_s(self) -> float:
        """Return the time at which the next chunk begins."""
        if self.clip.frames is not None:
            return float(self.start_s + len(self.clip.frames) / self.clip.fps)
        assert self.clip.waveform is not None
        return float(self.audio_start_s + self.clip.waveform.shape[1] / self.clip.sample_rate_hz)


class Pacer:
    """Waits where media is made faster than it is played.

    slack: how far it may run ahead, as a share of the time that has passed, 0 for no pacing at all. The
    first chunk, and the first after a change of prompt, only set the time to count from.
    """

    def __init__(
        self,
        slack: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not slack >= 0:
            raise RequestError(f"slack is {slack:g}; give 0 (no pacing) or more", field="slack")
        self.slack = slack
        self._clock, self._sleep = clock, sleep
        self._anchor: tuple[float, float] | None = None

    def forget(self) -> None:
        """Have the next chunk set the time to count from."""
        self._anchor = None

    def wait(self, media_s: float) -> float:
        """Wait after `media_s` seconds of film have been made in all; return the seconds it slept."""
        if self.slack == 0:
            return 0.0
        now = self._clock()
        if self._anchor is None:
            self._anchor = (now, media_s)
            return 0.0
        wall, media = now - self._anchor[0], media_s - self._anchor[1]
        if media <= wall * (1 + self.slack):
            return 0.0
        self._sleep(media - wall)
        self._anchor = (self._clock(), media_s)
        return media - wall


class Continuous:
    """An endless iterator of chunks.

    request: makes one chunk; its `take` says how chunks are joined. continues: each chunk is given the end of
    the one before. randomize_seed: a new seed for every chunk; else the request's, moved on by the window
    where chunks continue. rng: where seeds come from. pacer: None runs as fast as it can.
    `prompt` may be set at any time and holds from the next chunk on.
    Raises RequestError for a request that makes no chunk.
    """

    def __init__(
        self,
        stage: Engine,
        request: Request,
        *,
        continues: bool = False,
        randomize_seed: bool = False,
        rng: random.Random | None = None,
        pacer: Pacer | None = None,
    ) -> None:
        self.stage = stage
        self.randomize_seed = randomize_seed
        self.pacer = pacer or Pacer(0)
        self._rng = rng or random.SystemRandom()
        self._prompt = request.prompt
        self._request = seeded(_with(request, take=None))
        plan = make_plan(self._request, stage.model)
        if plan.thin > 1:
            raise RequestError(
                "thin leaves frames out, and a film without an end has no last one; leave it at 1"
            )
        if continues and (problems := _problems(request, plan)):
            raise RequestError("; ".join(problems))
        self._frames, self._fps = plan.num_frames, plan.fps
        self._take = (request.take or Take()) if continues else None

    @property
    def prompt(self) -> str:
        return self._prompt

    @prompt.setter
    def prompt(self, words: str) -> None:
        if words != self._prompt:
            self._request = _with(self._request, prompt=words)  # refuses what cannot be read
            self._prompt = words
            self.pacer.forget()

    def __iter__(self) -> Iterator[Chunk]:
        for chunk in self._alone() if self._take is None else self._continued(self._take):
            yield chunk
            self.pacer.wait(chunk.end_s)

    def _alone(self) -> Iterator[Chunk]:
        """Yield clips that know nothing of each other, their sound cut or padded to the picture's length."""
        duration_s = self._frames / self._fps
        for index in itertools.count():
            done = self._made(self._request, seed_of(self._request), None)
            clip = done.clip
            if clip.waveform is not None:
                count = round(duration_s * clip.sample_rate_hz)
                clip = replace(clip, waveform=fit_audio(clip.waveform, count))
            yield Chunk(index, clip, seed_of(clip.request), index * duration_s, index * duration_s)

    def _continued(self, take: Take) -> Iterator[Chunk]:
        """Yield the windows of a take without an end. Guides hold for the film's beginning."""
        joint = Joint(take)
        shown = 0
        for window in endless_windows(self._frames, self._fps, take):
            request = _with(self._request, guides=()) if window.index else self._request
            done = self._made(request, window_seed(seed_of(request), window), joint.handover(window))
            clip = done.clip
            frames, waveform, first_sample = joint.new_part(window, done.latents, clip.frames, clip.waveform)
            clip = replace(clip, frames=frames, waveform=waveform)
            yield Chunk(
                window.index, clip, seed_of(clip.request), shown / self._fps, first_sample / OUTPUT_RATE_HZ
            )
            shown += self._frames - given_frames(window)

    def _made(self, request: Request, seed: int, handover: Handover | None) -> Done:
        seed = self._rng.randrange(SEEDS) if self.randomize_seed else seed
        for event in self.stage.run(_with(request, seed=seed), handover=handover):
            if isinstance(event, Done):
                return event
        raise AssertionError("a run ends with Done")


def _with(request: Request, **changes: Any) -> Request:
    """Return a request with other values, checked again."""
    values = {name: getattr(request, name) for name in Request.model_fields}
    return Request(**{**values, **changes})


def _problems(request: Request, plan: Plan) -> list[str]:
    """Return a sentence for each thing that a film which goes on cannot have."""
    rules = [
        (plan.driven, "a film that goes on makes its own sound; leave out the driving sound"),
        (request.source is not None, "a film that goes on cannot start from a source; leave it out"),
        (bool(request.followed), "a film that goes on cannot see references; leave them and controls out"),
        (
            len({(p.num_frames, p.fps) for p in plan.passes}) > 1,
            f"recipe '{plan.recipe}' changes the frame rate between its passes; use another",
        ),
    ]
    return [sentence for wrong, sentence in rules if wrong]
