"""`soundstage nano`: train nano's parts, measure what it makes, look at its world."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from soundstage.cli import parameters
from soundstage.cli.announcing import at_work, loading_pytorch
from soundstage.cli.parameters import FILE, SETTINGS, Ordered, as_json
from soundstage.cli.printing import print_table
from soundstage.cli.process import INTERRUPTED
from soundstage.errors import RequestError, listed
from soundstage.nano.training import parts

PART_HELP = f"The part: {', '.join(parts.PARTS)}"


@click.group("nano", cls=Ordered, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Train and measure nano, a model of a small world."""


@app.command()
@click.option(
    "--section",
    multiple=True,
    help="Measure this section: prompts, image, reference, retake, extend, ..., or all. A wrong name lists "
    "them. Repeatable. [default: prompts]",
)
@click.option(
    "--prompts",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Make this many clips of each section. [default: 108 for prompts, else the section's own number]",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Choose the cases and the noise of their clips."
)
@click.option(
    "--ground-truth",
    is_flag=True,
    help="Measure the world's own clips instead, as a check of the measurement.",
)
@click.option("--model", default="nano", show_default=True, metavar="NAME|FOLDER", help="Measure this model.")
@click.option(
    "--lora", multiple=True, metavar="FILE[:STRENGTH]", help="Measure the model with this LoRA. Repeatable."
)
@click.option("--steps", type=int, metavar="COUNT", help="Denoising steps. [default: the model's]")
@click.option("--guidance", type=float, help="Guidance scale, 1 = off. [default: the model's]")
@click.option(
    "--codecs",
    is_flag=True,
    help="Measure only what the VAEs and the vocoder lose. With --section, measure the world's own clips "
    "after them.",
)
@click.option("--text", is_flag=True, help="Measure only how well the text encoder reads captions.")
@parameters.output("Write the clips, an overview and the report into this folder.")
@as_json
def evaluate(
    section: tuple[str, ...],
    prompts: int | None,
    seed: int,
    ground_truth: bool,
    model: str,
    lora: tuple[str, ...],
    steps: int | None,
    guidance: float | None,
    codecs: bool,
    text: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure a model on cases that training never showed.

    Makes clips of held-out prompts and measures them from pixels and samples alone.

    Example: soundstage nano evaluate --section image --section retake --prompts 4
    """
    if ground_truth or codecs or text:
        _refuse_rendering({"--lora": lora, "--steps": steps, "--guidance": guidance})
    with loading_pytorch():
        from soundstage.nano.evaluation import session

    if (codecs and not section) or text:
        with at_work("measure"):
            losses = codecs and not section
            numbers = (
                session.codec_losses(model, prompts, seed) if losses else session.text_scores(model, prompts)
            )
        _print_numbers(numbers, as_json)
        return
    names = session.sections_named(section)
    made = session.Session(
        model,
        steps,
        guidance,
        seed,
        ground_truth,
        codecs,
        output,
        loras=lora,
        on_measured=lambda line: print(line, file=sys.stderr),
    )
    with at_work("measure"):
        reports = list(made.measure(names, prompts))
    if as_json:
        print(session.reports_json(reports))
        return
    for report in reports:
        print_table(report.not_measured or report.table())


def _refuse_rendering(options: Mapping[str, object]) -> None:
    """Raise RequestError for options of rendering where nothing is rendered."""
    given = [name for name, value in options.items() if value is not None and value != ()]
    if given:
        raise RequestError(
            f"{given[0]} changes how clips are made, and --ground-truth, --codecs and --text make none; "
            f"leave {given[0]} out",
            field=given[0].removeprefix("--"),
        )


def _print_numbers(numbers: Mapping[str, float | None], as_json: bool) -> None:
    lines = "\n".join(f"{name}: {number}" for name, number in numbers.items())
    print(json.dumps(numbers) if as_json else lines)


@app.command()
@click.argument("part", nargs=-1, required=True, help=f"{PART_HELP}. Several, or all.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="COUNT",
    help="Minutes of the run; several parts share them. [default: each part's own, for a CPU]",
)
@click.option("--device", default="auto", show_default=True, help="Train on this device: auto, cpu, cuda.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="COUNT",
    help="Processes that make data; 0: none besides this one. [default: all cores but one]",
)
@click.option(
    "--start-at",
    type=click.FloatRange(min=0, max=1, max_open=True),
    metavar="SHARE",
    help="Start from the exported weights, at this share of the schedule (0 to 1). distilled begins anew.",
)
@click.option("--tiny", is_flag=True, help="Use tiny batches of tiny clips, to try every step out.")
@click.option("--install/--no-install", default=None, help="Install the result. [default: with all]")
@parameters.output("Install into this folder. [default: the package's own]")
def train(
    part: tuple[str, ...],
    minutes: float | None,
    device: str,
    workers: int | None,
    start_at: float | None,
    tiny: bool,
    install: bool | None,
    output: Path | None,
) -> None:
    """Train parts to the end of their schedules.

    Continues from the last state. The clock decides when rates fall, so a training always ends in the
    minutes given with usable weights, exported every minute. With all, train every part in order and
    install the result.

    Example: soundstage nano train all --device cuda --minutes 10
    """
    every = "all" in part
    if every and len(part) > 1:
        raise RequestError(
            "part is all and another; give all alone, or the parts that you mean", field="part"
        )
    chosen = {_known_part(name) for name in part if name != "all"}
    names = [name for name in parts.PARTS if every or name in chosen]
    wanted = every and not tiny if install is None else install
    if tiny and wanted and output is None:
        raise RequestError(
            "tiny parts are no model; give an output folder, or leave out install", field="output"
        )
    if start_at is not None and "text" in names:
        raise RequestError(
            "start-at is not for text: another text encoder fits no other part; name the parts behind it",
            field="start_at",
        )
    _train(names, minutes, device, workers, start_at, tiny)
    if wanted or output is not None:
        _install(output)


def _train(
    names: Sequence[str],
    minutes: float | None,
    device: str,
    workers: int | None,
    start_at: float | None,
    tiny: bool,
) -> None:
    """Train parts one after the other. Raises Exit where one was stopped."""
    with loading_pytorch():
        import torch

        from soundstage.memory.machine import pick_device
        from soundstage.nano.training import train as training
        from soundstage.training.workers import Workers, usual_number

    began, chosen = time.monotonic(), torch.device(pick_device(device))
    with Workers(usual_number() if workers is None else workers) as made:
        settings = training.Settings(chosen, made, tiny, start_at)
        for name in names:
            since = time.monotonic()
            own = None
            if minutes is not None:
                own = parts.minutes_of(name, names, minutes - (since - began) / 60)
            complete = training.train_part(name, settings, own)
            state = "complete" if complete else "stopped; the same command goes on"
            print(f"{parts.state_folder(name)}: {state}, {time.monotonic() - since:.0f} s")
            if not complete:
                raise click.exceptions.Exit(INTERRUPTED)


@app.command()
@click.argument("part", help=f"{PART_HELP}.")
def export(part: str) -> None:
    """Write a part's weights as its training stands.

    Example: soundstage nano export transformer
    """
    _known_part(part)
    from soundstage.nano.training.train import export_part

    steps = export_part(part)
    print(f"{parts.weights_folder()}: {part} after {steps} steps")


@app.command()
@parameters.output("Write the model into this folder. [default: the package's own]")
def install(output: Path | None) -> None:
    """Join the exported parts in a model folder.

    Example: soundstage nano install --output my-nano
    """
    _install(output)


def _install(output: Path | None) -> None:
    from soundstage.nano.training import install

    for path in install.install(parts.weights_folder(), output or install.PACKAGED):
        print(f"{path} {path.stat().st_size / 1e6:.1f} MB")


@app.command()
@click.argument(
    "folder",
    required=False,
    type=FILE,
    help="A model folder that was installed. [default: the package's own]",
)
def unpack(folder: Path | None) -> None:
    """Split a model folder into exported parts.

    `train --start-at` can continue from them.

    Example: soundstage nano unpack
    """
    from soundstage.nano.training import install

    for path in install.unpack(folder or install.PACKAGED, parts.weights_folder()):
        print(path)


def _known_part(part: str) -> str:
    """Return a part's name. Raises RequestError for an unknown one."""
    if part not in parts.PARTS:
        raise RequestError(
            f"part is '{part}'; the parts are {listed(part, parts.PARTS)}, or all", field="part"
        )
    return part


@app.command()
@click.option("--seed", type=int, default=0, show_default=True, help="Choose the scene of the world.")
@click.option(
    "--size",
    default="landscape",
    show_default=True,
    metavar="NAME",
    help="Frame size: landscape (192x128), portrait (128x192) or square (128x128).",
)
@click.option(
    "--frames", type=int, default=49, show_default=True, metavar="COUNT", help="Length in frames, 8k + 1."
)
@click.option("--held-out", is_flag=True, help="Choose among the scenes that training never shows.")
@click.option(
    "--layer",
    metavar="NAME",
    help="Show depth (near is white) or silhouettes of the subjects in place of the picture, without sound.",
)
@parameters.output("Write to this file, such as ball.mp4. [default: world-SEED.mp4, world-SEED-LAYER.mp4]")
def sample(seed: int, size: str, frames: int, held_out: bool, layer: str | None, output: Path | None) -> None:
    """Write a clip of the world itself, with sound, or a layer of it.

    Prints its caption and its path.

    Example: soundstage nano sample --seed 7 --output ball.mp4
    """
    from soundstage.nano.world.sample import sample as sampled

    clip = sampled(seed, size, frames, held_out=held_out, layer=layer)
    name = f"world-{seed}.mp4" if layer is None else f"world-{seed}-{layer}.mp4"
    path = clip.save(output or Path(name), overwrite=False)
    print(clip.provenance["caption"])
    print(path)
