"""Make and measure a section: a case asks for clips, a maker makes them, the section measures them.

A case has the held-out scene that it is drawn from, and so a perfect model's clips (`truth`), by which
tests/behavior/test_capabilities.py checks the meters. Only frames and samples are measured; seconds and the
seams of a take are the engine's own figures.
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
from soundstage.media.arrays import Frames, LightFrames
from soundstage.nano.evaluation.backdrop import Floats
from soundstage.nano.evaluation.report import Report, Samples, Target
from soundstage.nano.world.captions import caption
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import BUCKETS, Scene, draw_scene
from soundstage.nano.world.sound import synthesize
from soundstage.rendering.events import Done
from soundstage.rendering.parts import ModelParts
from soundstage.request.request import Request
from soundstage.types import OUTPUT_RATE_HZ, TIME_SCALE, VideoShape

NUM_FRAMES = 49
MAX_DRAWS = 200_000
KEPT_PHASES = ("load", "encode")
LORA = "lora"  # among a section's needs: a LoRA of the measurement's own


@dataclass(frozen=True)
class Recode:
    """An ask for frames (F, H, W, 3) after the video VAE's encoder and decoder."""

    frames: Frames


@dataclass(frozen=True)
class Enlarge:
    """An ask for frames (F, H, W, 3) encoded, put through a latent upsampler, and decoded."""

    role: str
    frames: Frames


Ask = Request | Recode | Enlarge


@dataclass(frozen=True)
class Shown:
    """A clip that was made for an ask."""

    frames: Frames | None  # (F, H, W, 3) uint8
    waveform: Floats | None = None  # (2, n) at 48 kHz
    seconds: float = 0.0  # without loading and encoding, which the next ask need not repeat
    linear: LightFrames | None = None  # (F, H, W, 3), of a clip in high dynamic range
    seams: tuple[int, ...] = ()  # frames at which the windows of a take begin


@dataclass(frozen=True)
class Case:
    """One held-out case."""

    scene: Scene
    asks: tuple[Ask, ...]
    truth: Callable[[], tuple[Shown, ...]]  # makes a perfect model's clip for each ask
    facts: Mapping[str, Any] = field(default_factory=dict)  # more that the section's measure needs

    @property
    def prompt(self) -> str | None:
        """Return the prompt of the first request; None where no ask has one."""
        return next((ask.prompt for ask in self.asks if isinstance(ask, Request)), None)


@dataclass(frozen=True)
class Row:
    """A row of a section's report."""

    name: str
    counts: str  # what one sample is, and when it is right
    target: Target | None  # None: told beside the others


@dataclass(frozen=True)
class Section:
    """The measurement of one capability."""

    name: str
    rows: tuple[Row, ...]
    cases: Callable[[int, int], Sequence[Case]]  # (count, seed) -> cases
    measure: Callable[[Case, Sequence[Shown]], Mapping[str, Samples]]  # of the rows that apply to a case
    num_cases: int = 8
    needs: tuple[str, ...] = ()  # LORA, and roles of optional model parts as in library.model_files.EXTRAS

    def empty(self, num_cases: int, seed: int, not_measured: str | None = None) -> Report:
        return Report(
            num_cases,
            seed,
            section=self.name,
            meanings={row.name: row.counts for row in self.rows},
            targets={row.name: row.target for row in self.rows if row.target is not None},
            not_measured=not_measured,
        )


class Maker(Protocol):
    """A source of the clips that cases ask for."""

    def missing(self, roles: Sequence[str]) -> list[str]:
        """Return names of the parts of these roles that are missing, for a message."""
        ...

    def make(self, case: Case) -> Sequence[Shown]:
        """Return a clip for each ask."""
        ...


def evaluate_section(
    section: Section,
    maker: Maker,
    num_cases: int | None = None,
    seed: int = 0,
    *,
    on_case: Callable[[Case, Sequence[Shown]], None] | None = None,
) -> Report:
    """Make and measure a section's cases. A report without rows says which parts the section lacks."""
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
    """A maker of a perfect model's clips: a test of the meter."""

    def missing(self, roles: Sequence[str]) -> list[str]:
        return []

    def make(self, case: Case) -> Sequence[Shown]:
        return case.truth()


class StageMaker:
    """A maker that runs requests through an engine, and the other asks through its parts.

    overrides: fields of every request whose recipe is the plain one, such as steps.
    """

    def __init__(self, stage: Engine, parts: ModelParts, overrides: Mapping[str, Any] | None = None) -> None:
        self.stage = stage
        self.parts = parts
        self.overrides = {name: value for name, value in (overrides or {}).items() if value is not None}

    def missing(self, roles: Sequence[str]) -> list[str]:
        files = [self.stage.model.extra(role) for role in roles if role != LORA]
        found = [f"{file.part} ({file.path.name})" for file in files if file.num_bytes is None]
        return found + (["LoRA (--lora FILE)"] if LORA in roles and not self.overrides.get("loras") else [])

    def make(self, case: Case) -> Sequence[Shown]:
        return [self._made(ask) for ask in case.asks]

    def _made(self, ask: Ask) -> Shown:
        if isinstance(ask, Request):
            return self.clip(ask)
        began = time.perf_counter()
        frames = self.through_vae(ask)
        return Shown(frames, None, time.perf_counter() - began)

    def clip(self, request: Request) -> Shown:
        """Return the clip of a request, with the overrides."""
        if request.recipe == "single" and self.overrides:
            fields = {name: getattr(request, name) for name in request.model_fields_set}
            request = Request(**{**fields, **self.overrides})
        done = next(event for event in self.stage.run(request) if isinstance(event, Done))
        seconds = sum(spent for phase, spent in done.seconds.items() if phase not in KEPT_PHASES)
        clip = done.clip
        return Shown(clip.frames, clip.waveform, seconds, clip.linear, seams_of(done))

    def through_vae(self, ask: Recode | Enlarge) -> Frames:
        """Return the decoder's frames (F, H, W, 3)."""
        height, width = ask.frames.shape[1:3]
        with torch.no_grad():
            latents = self.parts.encode_video(fit(ask.frames, width, height))
            if isinstance(ask, Enlarge):
                latents = self.parts.upsample(ask.role, latents)
            return to_uint8(self.parts.decode_video(latents))


class CodedMaker:
    """A maker of a perfect model's clips after the video VAE and the audio path.

    A model with these codecs reaches no more, except where it returns what it was given unchanged.
    """

    def __init__(self, stage: StageMaker) -> None:
        self.stage = stage

    def missing(self, roles: Sequence[str]) -> list[str]:
        return []

    def make(self, case: Case) -> Sequence[Shown]:
        return [self.coded(one) for one in case.truth()]

    def coded(self, shown: Shown) -> Shown:
        """Return a clip encoded and decoded, picture and sound."""
        frames, waveform, parts = shown.frames, shown.waveform, self.stage.parts
        if frames is not None:
            frames = self.stage.through_vae(Recode(frames))
        if waveform is not None:
            with torch.no_grad():
                latents = parts.encode_audio(torch.from_numpy(waveform)[None], OUTPUT_RATE_HZ)
                waveform = parts.decode_audio(latents)[0].float().cpu().numpy()
        return replace(shown, frames=frames, waveform=waveform)


def seams_of(done: Done) -> tuple[int, ...]:
    """Return the first new frame of every window of a take but the first."""
    windows = done.clip.provenance.get("windows", ())
    return first_new_frames((w["start"], w["overlap"]) for w in windows)


def first_new_frames(windows: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """Return the first new frame of every window but the first.

    windows: (first latent frame, latent frames shared with the window before) of each.
    """
    return tuple(TIME_SCALE * (start + overlap - 1) + 1 for start, overlap in windows)[1:]


# --- scenes -----------------------------------------------------------------------------------------------


def scenes_where(
    wanted: Callable[[Scene], bool], count: int, seed: int, num_frames: int = NUM_FRAMES
) -> list[Scene]:
    """Return wanted landscape scenes that training never shows; the same for the same arguments."""
    width, height = BUCKETS["landscape"]
    shape = VideoShape(num_frames, height, width)
    first = seed * 1_000_003 + 500_000  # not those of the prompts' report
    drawn = (draw_scene(first + i, shape, held_out=True) for i in range(MAX_DRAWS))
    found = [scene for scene, _ in zip((s for s in drawn if wanted(s)), range(count), strict=False)]
    assert len(found) == count, "the world has no such scenes"
    return found


def is_solo(scene: Scene, *actions: str) -> bool:
    """Return whether a scene has one subject, which does one of these actions."""
    return len(scene.subjects) == 1 and scene.subjects[0].action in actions


def words(scene: Scene) -> str:
    """Return a caption that states every fact, without tags such as [VISUAL]."""
    wordings = (caption(scene, scene.seed + i, full=True) for i in range(50))
    return next(text for text in wordings if "[VISUAL]" not in text)


def request_of(scene: Scene, prompt: str | None = None, **fields: Any) -> Request:
    """Return the request for a scene's clip, with the scene's seed. Raises RequestError for a bad field."""
    shape = scene.shape
    base = {"size": (shape.width, shape.height), "num_frames": shape.num_frames, "seed": scene.seed}
    return Request(prompt=prompt or words(scene), **{**base, **fields})


def shown_of(scene: Scene, **facts: Any) -> Shown:
    """Return the world's own clip of a scene."""
    motion = simulate(scene)
    return Shown(render(scene, motion), synthesize(scene, motion), **facts)


def cut(waveform: Floats, start_s: float, end_s: float) -> Floats:
    """Return the samples (2, n) between two times."""
    return np.ascontiguousarray(waveform[:, round(start_s * OUTPUT_RATE_HZ) : round(end_s * OUTPUT_RATE_HZ)])
