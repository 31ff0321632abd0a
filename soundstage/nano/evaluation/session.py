"""Evaluate a model on held-out cases: load it once, measure sections, keep clips and reports in a folder.

for report in Session("nano", seed=1).measure(["prompts", "image"]): print(report.to_markdown())
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch

from soundstage.engine import Engine
from soundstage.errors import RequestError, listed
from soundstage.library.model_files import find_model
from soundstage.memory.machine import pick_device
from soundstage.nano.evaluation.capabilities import SECTIONS
from soundstage.nano.evaluation.capabilities.case import (
    Case,
    CodedMaker,
    Maker,
    Shown,
    StageMaker,
    TruthMaker,
    evaluate_section,
    request_of,
    shown_of,
)
from soundstage.nano.evaluation.codecs import evaluate_codecs
from soundstage.nano.evaluation.report import PROMPTS, Clips, Report, evaluate, ground_truth, write_overview
from soundstage.nano.evaluation.text import NUM_SCENES, measure_text
from soundstage.nano.world.captions import caption
from soundstage.nano.world.sample import clip_of
from soundstage.nano.world.scene import Scene
from soundstage.rendering.parts import ModelParts, pick_dtype

NUM_PROMPTS = 108


def sections_named(asked: Sequence[str]) -> list[str]:
    """Return sections in the order of the documentation. "all" means every one, nothing means PROMPTS.

    Raises RequestError for an unknown section.
    """
    known, asked = [PROMPTS, *SECTIONS], asked or [PROMPTS]
    for name in asked:
        if name not in (*known, "all"):
            raise RequestError(
                f"section is '{name}'; the sections are {listed(name, known)}, or all", field="section"
            )
    return [name for name in known if name in asked or "all" in asked]


@dataclass
class Session:
    """One model that is measured; it is loaded when it is first used."""

    model: str = "nano"
    steps: int | None = None  # None: the model's
    guidance: float | None = None  # None: the model's
    seed: int = 0  # chooses the cases; clip k of the prompts has the noise of seed + k
    ground_truth: bool = False  # measure the world's own clips instead, a test of the meter
    codecs: bool = False  # measure the world's own clips after the model's codecs
    folder: Path | None = None  # keeps clips and reports
    loras: Sequence[str] = ()  # paths or names, each with :STRENGTH where it is not 1
    on_measured: Callable[[str], None] = lambda _: None  # called with a line after each case

    def measure(self, sections: Sequence[str], num_cases: int | None = None) -> Iterator[Report]:
        """Yield the report of each section. num_cases: None is a section's own number."""
        reports = []
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        for name in sections:
            report = self._prompts(num_cases) if name == PROMPTS else self._section(name, num_cases)
            reports.append(report)
            if self.folder is not None:
                (self.folder / "report.json").write_text(reports_json(reports) + "\n")
                markdown = "\n\n".join(report.to_markdown() for report in reports)
                (self.folder / "report.md").write_text(markdown + "\n")
            yield report

    def _prompts(self, num_cases: int | None) -> Report:
        """Measure how clips follow their captions."""
        count = num_cases or NUM_PROMPTS
        done = iter(range(1, count + 1))

        def generate(scenes: list[Scene]) -> Clips:
            clips = ground_truth(scenes) if self.ground_truth else self._clips(scenes)
            return clips if self.folder is None else _kept(clips, scenes, self.folder)

        def measured(_: Scene) -> None:
            self.on_measured(f"measured {next(done)} of {count}")

        return evaluate(generate, count, self.seed, on_clip=measured)

    def _section(self, name: str, num_cases: int | None) -> Report:
        """Measure one capability."""
        section = SECTIONS[name]
        count = num_cases or section.num_cases
        done = iter(range(1, count + 1))

        def measured(case: Case, shown: Sequence[Shown]) -> None:
            number = next(done)
            self.on_measured(f"{name}: measured {number} of {count}")
            for i, one in enumerate(shown):
                if self.folder is not None and one.frames is not None:
                    clip = clip_of(case.scene, one.frames, one.waveform, case.prompt)
                    clip.save(self.folder / f"{name}-{number:02}-{i}.mp4")

        return evaluate_section(section, self._maker, count, self.seed, on_case=measured)

    @property
    def _maker(self) -> Maker:
        """Return the maker of the clips of a section's cases."""
        if self.ground_truth:
            return TruthMaker()
        return CodedMaker(self._stage) if self.codecs else self._stage

    @cached_property
    def _stage(self) -> StageMaker:
        model, device = find_model(self.model), torch.device(pick_device("auto"))
        parts = ModelParts(model, device, pick_dtype(None, model.defaults.dtype, device))
        loras = tuple(self.loras) or None
        overrides = {"steps": self.steps, "guidance": self.guidance, "loras": loras}
        return StageMaker(Engine(model, parts=parts), parts, overrides)

    def _clips(self, scenes: list[Scene]) -> Clips:
        """Make a clip per scene from its caption and size."""
        for number, scene in enumerate(scenes):
            if self.codecs:
                clip = CodedMaker(self._stage).coded(shown_of(scene))
            else:
                words = caption(scene, full=True)
                clip = self._stage.clip(request_of(scene, words, fps=scene.fps, seed=self.seed + number))
            assert clip.frames is not None
            yield clip.frames, clip.waveform


def reports_json(reports: Sequence[Report]) -> str:
    """Return one report as JSON, or several as an object by section."""
    if len(reports) == 1:
        return reports[0].to_json()
    return json.dumps({report.section: report.to_dict() for report in reports}, indent=2)


def codec_losses(model: str, num_clips: int | None = None, seed: int = 0) -> dict[str, float | None]:
    """Return what a model's VAEs and vocoder lose on held-out clips, by name."""
    parts = ModelParts(find_model(model), torch.device("cpu"), torch.float32)
    codecs = parts.video_vae, parts.audio_vae, parts.vocoder
    return asdict(evaluate_codecs(*codecs, num_clips=num_clips or NUM_PROMPTS, seed=seed))


def text_scores(model: str, num_scenes: int | None = None) -> dict[str, float]:
    """Return how well a model's text encoder reads captions, by name."""
    parts = ModelParts(find_model(model), torch.device("cpu"), torch.float32)
    return measure_text(parts.text.encoder.gemma, num_scenes or NUM_SCENES)


def _kept(clips: Clips, scenes: list[Scene], folder: Path) -> Clips:
    """Pass clips on; save each of them, and at the end an overview of all."""
    shown = []
    for scene, (frames, waveform) in zip(scenes, clips, strict=True):
        shown.append(frames[:: max(1, len(frames) // 5)][:5].copy())
        clip_of(scene, frames, waveform, caption(scene, full=True)).save(folder / f"{len(shown):03}.mp4")
        yield frames, waveform
    write_overview(shown, folder / "overview.png")
