"""`soundstage nano`: train nano's parts, measure what it makes, look at its world."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soundstage.cli.app import PLAIN, print_table
from soundstage.errors import RequestError, listed
from soundstage.nano.training import parts

if TYPE_CHECKING:
    from soundstage.nano.evaluation.capabilities.case import Maker, StageMaker
    from soundstage.nano.evaluation.report import Clips, Report
    from soundstage.nano.world.scene import Scene

NUM_PROMPTS = 108

app = typer.Typer(
    no_args_is_help=True,
    **PLAIN,
    help="The small model trained on the procedural world: train it, measure it, look at its data.",
)


@app.command()
def evaluate(
    section: Annotated[
        list[str] | None,
        typer.Option(
            help="What to measure: prompts, a capability's section, or all; a wrong name lists them. "
            "Repeatable. [default: prompts]"
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(min=1, help="Held-out cases to make clips of. [default: 108; a section's own number]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which prompts; also the seed of each clip's noise.")] = 0,
    ground_truth: Annotated[
        bool, typer.Option("--ground-truth", help="Measure the world's own clips: a test of the meter.")
    ] = False,
    model: Annotated[str, typer.Option(help="A shipped model's name or a model folder.")] = "nano",
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [default: the model's]")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Pull towards the prompt. [default: the model's]")
    ] = None,
    codecs: Annotated[
        bool,
        typer.Option(
            "--codecs",
            help="Measure what the VAEs and the vocoder lose, and nothing else; with --section, the world's "
            "own clips after them.",
        ),
    ] = False,
    text: Annotated[
        bool,
        typer.Option("--text", help="Measure how well the text encoder reads captions, and nothing else."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the clips, an overview and the report.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Make clips of prompts that training never showed, and measure them from pixels and samples alone.

    Example: soundstage nano evaluate --section image --section retake --prompts 4
    """
    from soundstage.nano.evaluation.report import PROMPTS

    if codecs and not section:
        _print_numbers(_codec_losses(model, prompts or NUM_PROMPTS, seed), as_json)
        return
    if text:
        _print_numbers(_text_scores(model, prompts), as_json)
        return
    names = _sections(section or [PROMPTS])
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    maker = None if ground_truth else _Maker(model, steps, guidance, codecs=codecs)
    reports = []
    for name in names:
        if name == PROMPTS:
            reports.append(_prompts_report(maker, prompts or NUM_PROMPTS, seed, output))
        else:
            reports.append(_section_report(name, maker, prompts, seed, output))
        if output is not None:
            _write_reports(reports, output)
    _print_reports(reports, as_json)


def _sections(asked: list[str]) -> list[str]:
    """The sections to measure, in the order of the documentation. Raises RequestError for an unknown one."""
    from soundstage.nano.evaluation.capabilities import SECTIONS
    from soundstage.nano.evaluation.report import PROMPTS

    known = [PROMPTS, *SECTIONS]
    for name in asked:
        if name not in (*known, "all"):
            raise RequestError(
                f"section is '{name}'; the sections are {listed(name, known)}, or all", field="section"
            )
    return [name for name in known if name in asked or "all" in asked]


class _Maker:
    """The model that is measured, loaded when it is first used. codecs: of it, only the codecs."""

    def __init__(self, model: str, steps: int | None, guidance: float | None, *, codecs: bool) -> None:
        self.model = model
        self.codecs = codecs
        self.overrides = {"steps": steps, "guidance": guidance}

    @cached_property
    def stage(self) -> StageMaker:
        import torch

        from soundstage.engine import Engine
        from soundstage.library.model_files import find_model
        from soundstage.memory.machine import pick_device
        from soundstage.nano.evaluation.capabilities.case import StageMaker
        from soundstage.rendering.parts import ModelParts, pick_dtype

        model = find_model(self.model)
        device = torch.device(pick_device("auto"))
        parts = ModelParts(model, device, pick_dtype(None, model.defaults.dtype, device))
        return StageMaker(Engine(model, parts=parts), parts, self.overrides)

    @property
    def of_sections(self) -> Maker:
        """What makes the clips of a section's cases."""
        from soundstage.nano.evaluation.capabilities.case import CodedMaker

        return CodedMaker(self.stage) if self.codecs else self.stage

    def clips(self, scenes: list[Scene], seed: int) -> Clips:
        """One clip per scene from its caption and size; the noise of clip k has seed + k."""
        from soundstage.nano.evaluation.capabilities.case import CodedMaker, request_of, shown_of
        from soundstage.nano.world.captions import caption

        for number, scene in enumerate(scenes):
            if self.codecs:
                clip = CodedMaker(self.stage).coded(shown_of(scene))
            else:
                words = caption(scene, full=True)
                clip = self.stage.clip(request_of(scene, words, fps=scene.fps, seed=seed + number))
            assert clip.frames is not None
            yield clip.frames, clip.waveform


def _prompts_report(maker: _Maker | None, count: int, seed: int, output: Path | None) -> Report:
    from soundstage.nano.evaluation.report import evaluate as measure
    from soundstage.nano.evaluation.report import ground_truth as world_clips

    def generate(scenes: list[Scene]) -> Clips:
        clips = world_clips(scenes) if maker is None else maker.clips(scenes, seed)
        return clips if output is None else _kept(clips, scenes, output)

    done = iter(range(1, count + 1))
    return measure(
        generate,
        count,
        seed,
        on_clip=lambda _: print(f"measured {next(done)} of {count}", file=sys.stderr),
    )


def _section_report(
    name: str, maker: _Maker | None, count: int | None, seed: int, output: Path | None
) -> Report:
    from soundstage.clip import Clip
    from soundstage.nano.evaluation.capabilities import SECTIONS
    from soundstage.nano.evaluation.capabilities.case import Case, Shown, TruthMaker, evaluate_section

    section = SECTIONS[name]
    count = count or section.num_cases
    done = iter(range(1, count + 1))

    def measured(case: Case, shown: Sequence[Shown]) -> None:
        number = next(done)
        print(f"{name}: measured {number} of {count}", file=sys.stderr)
        for i, one in enumerate(shown):
            if output is not None and one.frames is not None:
                words = {"world_seed": case.scene.seed, "caption": case.prompt}
                clip = Clip(one.frames, one.waveform, case.scene.fps, words)
                clip.save(output / f"{name}-{number:02}-{i}.mp4")

    made_by = TruthMaker() if maker is None else maker.of_sections
    return evaluate_section(section, made_by, count, seed, on_case=measured)


def _write_reports(reports: Sequence[Report], folder: Path) -> None:
    """report.json and report.md, as far as there are reports."""
    (folder / "report.json").write_text(_as_json(reports) + "\n")
    (folder / "report.md").write_text("\n\n".join(report.to_markdown() for report in reports) + "\n")


def _print_reports(reports: Sequence[Report], as_json: bool) -> None:

    if as_json:
        print(_as_json(reports))
        return
    for report in reports:
        print_table(report.not_measured or report.table())


def _as_json(reports: Sequence[Report]) -> str:
    """One report's object, or all of them by section."""
    import json

    if len(reports) == 1:
        return reports[0].to_json()
    return json.dumps({report.section: report.to_dict() for report in reports}, indent=2)


@app.command()
def train(
    part: Annotated[
        str,
        typer.Argument(metavar="PART", help="Which part, or all; the message for a wrong one lists them."),
    ],
    from_step: Annotated[
        int | None,
        typer.Option(help="Begin with the exported weights, as if so many steps had been made.", min=0),
    ] = None,
) -> None:
    """Train one part to the end of its schedule, going on from its last state; all also installs the result.

    Example: soundstage nano train video-vae
    """
    if part == "all" and from_step is not None:
        raise RequestError("from_step is for one part, not for all; name the part", field="from_step")
    names = parts.PARTS if part == "all" else (_known_part(part),)
    from soundstage.nano.training.train import train_part

    for name in names:
        began = time.monotonic()
        complete = train_part(name, from_step=from_step)
        state = "complete" if complete else "stopped; the same command goes on"
        print(f"{parts.state_folder(name)}: {state}, {time.monotonic() - began:.0f} s")
        if not complete:
            raise typer.Exit(130)
    if part == "all":
        install()


@app.command()
def export(
    part: Annotated[str, typer.Argument(metavar="PART", help="Which part.")],
) -> None:
    """Write a part's weights as its training stands, without waiting for the end of its schedule.

    Example: soundstage nano export transformer
    """
    _known_part(part)
    from soundstage.nano.training.train import export_part

    steps = export_part(part)
    print(f"{parts.weights_folder()}: {part} after {steps} steps")


@app.command()
def install(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A model folder. [default: the package's own]")
    ] = None,
) -> None:
    """Put the exported parts together as a model folder.

    Example: soundstage nano install --output my-nano
    """
    from soundstage.library.model_files import SHIPPED
    from soundstage.nano.training.install import install as write_model

    for path in write_model(parts.weights_folder(), output or SHIPPED["nano"]):
        print(f"{path} {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def unpack(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER", help="A model folder that was installed. [default: the package's own]"
        ),
    ] = None,
) -> None:
    """Take a model folder apart into exported parts, for training to go on from with --from-step.

    Example: soundstage nano unpack
    """
    from soundstage.library.model_files import SHIPPED
    from soundstage.nano.training.install import unpack as take_apart

    for path in take_apart(source or SHIPPED["nano"], parts.weights_folder()):
        print(path)


def _known_part(part: str) -> str:
    if part not in parts.PARTS:
        raise RequestError(
            f"part is '{part}'; the parts are {listed(part, parts.PARTS)}, or all", field="part"
        )
    return part


@app.command()
def sample(
    seed: Annotated[int, typer.Option(help="Which scene of the world.")] = 0,
    size: Annotated[str, typer.Option(help="landscape, portrait or square.")] = "landscape",
    frames: Annotated[int, typer.Option(help="Length in frames, 8k+1.")] = 49,
    held_out: Annotated[bool, typer.Option("--held-out", help="Of those that training never shows.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="An .mp4 file. [default: world-SEED.mp4]")
    ] = None,
) -> None:
    """Write a clip of the world itself, picture and sound, and print its caption and path.

    Example: soundstage nano sample --seed 7 --output ball.mp4
    """
    from soundstage.clip import Clip
    from soundstage.nano.evaluation.report import ground_truth as world_clips
    from soundstage.nano.world.captions import caption
    from soundstage.nano.world.scene import BUCKETS, draw_scene
    from soundstage.types import VideoShape

    if size not in BUCKETS:
        raise RequestError(f"size is '{size}'; give one of {listed(size, BUCKETS)}", field="size")
    if frames < 1 or frames % 8 != 1:
        raise RequestError(f"frames is {frames}; give 8k + 1, such as 9, 17 or 49", field="frames")
    width, height = BUCKETS[size]
    scene = draw_scene(seed, VideoShape(frames, height, width), held_out=held_out)
    words = caption(scene, full=True)
    for pictures, waveform in world_clips([scene]):
        path = Clip(pictures, waveform, scene.fps, {"world_seed": seed, "caption": words}).save(
            output or Path(f"world-{seed}.mp4"), overwrite=False
        )
    print(words)
    print(path)


def _codec_losses(model: str, num_clips: int, seed: int) -> dict[str, float]:
    """Measure what a model's codecs lose on held-out clips."""
    from dataclasses import asdict

    import torch

    from soundstage.library.model_files import find_model
    from soundstage.nano.evaluation.codecs import evaluate_codecs
    from soundstage.rendering.parts import ModelParts

    loaded = ModelParts(find_model(model), torch.device("cpu"), torch.float32)
    codecs = loaded.video_vae, loaded.audio_vae, loaded.vocoder
    return asdict(evaluate_codecs(*codecs, num_clips=num_clips, seed=seed))


def _text_scores(model: str, num_scenes: int | None) -> dict[str, float]:
    """Measure how a model's text encoder reads captions."""
    import torch

    from soundstage.library.model_files import find_model
    from soundstage.nano.evaluation.text import NUM_SCENES, measure_text
    from soundstage.rendering.parts import ModelParts

    loaded = ModelParts(find_model(model), torch.device("cpu"), torch.float32)
    return measure_text(loaded.text.encoder.gemma, num_scenes or NUM_SCENES)


def _print_numbers(numbers: dict[str, float], as_json: bool) -> None:
    import json

    print(json.dumps(numbers) if as_json else "\n".join(f"{name}: {x}" for name, x in numbers.items()))


def _kept(clips: Clips, scenes: list[Scene], folder: Path) -> Clips:
    """Pass clips on, saving each, and an overview of all at the end."""
    from soundstage.clip import Clip
    from soundstage.nano.evaluation.report import write_overview
    from soundstage.nano.world.captions import caption

    shown = []
    for scene, (frames, waveform) in zip(scenes, clips, strict=True):
        shown.append(frames[:: max(1, len(frames) // 5)][:5].copy())
        words = {"world_seed": scene.seed, "caption": caption(scene, full=True)}
        Clip(frames, waveform, scene.fps, words).save(folder / f"{len(shown):03}.mp4")
        yield frames, waveform
    write_overview(shown, folder / "overview.png")
