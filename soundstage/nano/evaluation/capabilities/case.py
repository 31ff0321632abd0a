"""One mechanism for every section: a case asks for clips, a maker makes them, the section measures them.

A case knows the held-out scene it is drawn from, so it also knows what perfect clips would be (`truth`); the
sections' meters are held to those by tests/behavior/test_capabilities.py. What is measured are frames and
samples alone; seconds and the seams of a take are what the engine says of its own work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from soundstage.conditioning.pixels import fit, to_uint8
from soundstage.engine import Engine
from soundstage.nano.evaluation.backdrop import Array, Frames
from soundstage.nano.evaluation.report import Report, Samples, Target
from soundstage.nano.world.captions import caption
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import BUCKETS, Scene, draw_scene
from soundstage.nano.world.sound import synthesize
from soundstage.rendering.events import Done
from soundstage.rendering.parts import Parts
from soundstage.request.request import Request
from soundstage.types import OUTPUT_RATE_HZ, TIME_SCALE, VideoShape

NUM_FRAMES = 49
MAX_DRAWS = 200_000
KEPT_PHASES = ("load", "encode")


@dataclass(frozen=True)
class Recode:
    """Asks for frames (F, H, W, 3) as the video VAE gives them back."""

    frames: Frames


@dataclass(frozen=True)
class Enlarge:
    """Asks for frames (F, H, W, 3) encoded, put through an upsampler of latents, and decoded."""

    role: str
    frames: Frames


Ask = Request | Recode | Enlarge


@dataclass(frozen=True)
class Shown:
    """What was made for an ask. frames: (F, H, W, 3) uint8. waveform: (2, n) at 48 kHz. seconds: of the
    work, without loading and encoding, which are kept for the next ask. seams: frames at which a take's
    windows begin anew."""

    frames: Frames | None
    waveform: Array | None = None
    seconds: float = 0.0
    seams: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """One held-out case. asks: what is to be made. truth: what a perfect model would make of each ask.

    facts: whatever the section's measure needs to know of the case.
    """

    scene: Scene
    asks: tuple[Ask, ...]
    truth: Callable[[], tuple[Shown, ...]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str | None:
        """Of the first request; None where nothing is asked for in words."""
        return next((ask.prompt for ask in self.asks if isinstance(ask, Request)), None)


@dataclass(frozen=True)
class Row:
    """counts: what one sample is and when it counts."""

    name: str
    counts: str
    target: Target


@dataclass(frozen=True)
class Section:
    """One capability. cases: (how many, seed) -> cases. measure: samples of the rows that apply to a case.

    num_cases: the usual number. needs: roles of optional model parts, as in model_set.EXTRAS.
    """

    name: str
    rows: tuple[Row, ...]
    cases: Callable[[int, int], Sequence[Case]]
    measure: Callable[[Case, Sequence[Shown]], Mapping[str, Samples]]
    num_cases: int = 8
    needs: tuple[str, ...] = ()

    def empty(self, num_cases: int, seed: int, not_measured: str | None = None) -> Report:
        return Report(
            num_cases,
            seed,
            section=self.name,
            meanings={row.name: row.counts for row in self.rows},
            targets={row.name: row.target for row in self.rows},
            not_measured=not_measured,
        )


class Maker(Protocol):
    """Makes what cases ask for."""

    def missing(self, roles: Sequence[str]) -> list[str]:
        """What there is none of, in words."""
        ...

    def make(self, case: Case) -> Sequence[Shown]:
        """One for each ask."""
        ...


def evaluate_section(
    section: Section,
    maker: Maker,
    num_cases: int | None = None,
    seed: int = 0,
    *,
    on_case: Callable[[Case, Sequence[Shown]], None] | None = None,
) -> Report:
    """Make and measure a section's cases. A section whose parts are missing is not measured, and says so."""
    missing = maker.missing(section.needs)
    if missing:
        return section.empty(0, seed, f"{section.name}: not measured; there is no {' and no '.join(missing)}")
    count, began = num_cases or section.num_cases, time.monotonic()
    report = section.empty(count, seed)
    for case in section.cases(count, seed):
        shown = maker.make(case)
        report.add(case.scene, section.measure(case, shown), case.prompt)
        if on_case is not None:
            on_case(case, shown)
    report.seconds = time.monotonic() - began
    return report


class TruthMaker:
    """Hands out what a perfect model would make: a test of the meter."""

    def missing(self, roles: Sequence[str]) -> list[str]:
        return []

    def make(self, case: Case) -> Sequence[Shown]:
        return case.truth()


class StageMaker:
    """Runs requests through an engine, and the other asks through its parts.

    overrides: fields of every request whose recipe is the plain one, such as steps.
    """

    def __init__(self, stage: Engine, parts: Parts, overrides: Mapping[str, Any] | None = None) -> None:
        self.stage = stage
        self.parts = parts
        self.overrides = {name: value for name, value in (overrides or {}).items() if value is not None}

    def missing(self, roles: Sequence[str]) -> list[str]:
        files = [self.stage.model.extra(role) for role in roles]
        return [f"{file.part} ({file.path.name})" for file in files if file.num_bytes is None]

    def make(self, case: Case) -> Sequence[Shown]:
        return [self._made(ask) for ask in case.asks]

    def _made(self, ask: Ask) -> Shown:
        if isinstance(ask, Request):
            return self.clip(ask)
        began = time.perf_counter()
        frames = self.through_vae(ask)
        return Shown(frames, None, time.perf_counter() - began)

    def clip(self, request: Request) -> Shown:
        """The clip of a request, with the overrides."""
        if request.recipe == "single" and self.overrides:
            fields = {name: getattr(request, name) for name in request.model_fields_set}
            request = Request(**{**fields, **self.overrides})
        done = next(event for event in self.stage.run(request) if isinstance(event, Done))
        seconds = sum(spent for phase, spent in done.seconds.items() if phase not in KEPT_PHASES)
        return Shown(done.clip.frames, done.clip.waveform, seconds, seams_of(done))

    def through_vae(self, ask: Recode | Enlarge) -> Frames:
        """(F, H, W, 3) of the decoder."""
        height, width = ask.frames.shape[1:3]
        with torch.no_grad():
            latents = self.parts.encode_video(fit(ask.frames, width, height))
            if isinstance(ask, Enlarge):
                latents = self.parts.upsample(ask.role, latents)
            return to_uint8(self.parts.decode_video(latents))


class CodedMaker:
    """What a perfect model would make, through the video VAE and the audio path: the most a model with these
    codecs can reach, where it does not show what it was given as it came."""

    def __init__(self, stage: StageMaker) -> None:
        self.stage = stage

    def missing(self, roles: Sequence[str]) -> list[str]:
        return []

    def make(self, case: Case) -> Sequence[Shown]:
        return [self.coded(one) for one in case.truth()]

    def coded(self, shown: Shown) -> Shown:
        """A clip encoded and decoded, picture and sound."""
        frames, waveform, parts = shown.frames, shown.waveform, self.stage.parts
        if frames is not None:
            frames = self.stage.through_vae(Recode(frames))
        if waveform is not None:
            with torch.no_grad():
                latents = parts.encode_audio(torch.from_numpy(waveform)[None], OUTPUT_RATE_HZ)
                waveform = parts.decode_audio(latents)[0].float().cpu().numpy()
        return replace(shown, frames=frames, waveform=waveform)


def seams_of(done: Done) -> tuple[int, ...]:
    """The first new frame of every window of a take but the first."""
    windows = done.clip.provenance.get("windows", ())
    return first_new_frames((w["start"], w["overlap"]) for w in windows)


def first_new_frames(windows: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """From (first latent frame, those shared with the window before) of a take's windows."""
    return tuple(TIME_SCALE * (start + overlap - 1) + 1 for start, overlap in windows)[1:]


# --- scenes -----------------------------------------------------------------------------------------------


def scenes_where(
    wanted: Callable[[Scene], bool], count: int, seed: int, num_frames: int = NUM_FRAMES
) -> list[Scene]:
    """Landscape scenes that training never shows and that are wanted; the same for the same arguments."""
    width, height = BUCKETS["landscape"]
    shape = VideoShape(num_frames, height, width)
    first = seed * 1_000_003 + 500_000  # not those of the prompts' report
    drawn = (draw_scene(first + i, shape, held_out=True) for i in range(MAX_DRAWS))
    found = [scene for scene, _ in zip((s for s in drawn if wanted(s)), range(count), strict=False)]
    assert len(found) == count, "the world has no such scenes"
    return found


def is_solo(scene: Scene, *actions: str) -> bool:
    """One subject, doing one of these."""
    return len(scene.subjects) == 1 and scene.subjects[0].action in actions


def words(scene: Scene) -> str:
    """A caption that states every fact, in one paragraph without the tags of its kinds of words."""
    wordings = (caption(scene, scene.seed + i, full=True) for i in range(50))
    return next(text for text in wordings if "[VISUAL]" not in text)


def request_of(scene: Scene, prompt: str | None = None, **fields: Any) -> Request:
    """The request of a scene's clip; the noise has the scene's seed. Raises RequestError for a bad field."""
    shape = scene.shape
    base = {"size": (shape.width, shape.height), "num_frames": shape.num_frames, "seed": scene.seed}
    return Request(prompt=prompt or words(scene), **{**base, **fields})


def shown_of(scene: Scene, **facts: Any) -> Shown:
    """The world's own clip of a scene."""
    motion = simulate(scene)
    return Shown(render(scene, motion), synthesize(scene, motion), **facts)


def cut(waveform: Array, start_s: float, end_s: float) -> Array:
    """(2, n) samples of a stretch."""
    return np.ascontiguousarray(waveform[:, round(start_s * OUTPUT_RATE_HZ) : round(end_s * OUTPUT_RATE_HZ)])
