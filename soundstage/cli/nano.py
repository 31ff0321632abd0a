"""`soundstage nano`: train nano's parts, measure what it makes, look at its world."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
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
        model, steps, guidance, seed, ground_truth, codecs, output, lambda line: print(line, file=sys.stderr)
    )
    with at_work("measure"):
        reports = list(made.measure(names, prompts))
    if as_json:
        print(session.reports_json(reports))
        return
    for report in reports:
        print_table(report.not_measured or report.table())


def _print_numbers(numbers: Mapping[str, float | None], as_json: bool) -> None:
    lines = "\n".join(f"{name}: {number}" for name, number in numbers.items())
    print(json.dumps(numbers) if as_json else lines)


@app.command()
@click.argument("part", help=f"{PART_HELP}; or all.")
@click.option(
    "--from-step",
    type=click.IntRange(min=0),
    metavar="STEP",
    help="Start from the exported weights, at this step of the schedule.",
)
def train(part: str, from_step: int | None) -> None:
    """Train a part to the end of its schedule.

    Continues from the last state. With all, train every part in order and install the result.

    Example: soundstage nano train video-vae
    """
    if part == "all" and from_step is not None:
        raise RequestError("from_step is for one part, not for all; name the part", field="from_step")
    names = parts.PARTS if part == "all" else (_known_part(part),)
    with loading_pytorch():
        from soundstage.nano.training.train import train_part

    for name in names:
        began = time.monotonic()
        complete = train_part(name, from_step=from_step)
        state = "complete" if complete else "stopped; the same command goes on"
        print(f"{parts.state_folder(name)}: {state}, {time.monotonic() - began:.0f} s")
        if not complete:
            raise click.exceptions.Exit(INTERRUPTED)
    if part == "all":
        _install(None)


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

    `train --from-step` can continue from them.

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
@parameters.output("Write to this .mp4 file. [default: world-SEED.mp4]")
def sample(seed: int, size: str, frames: int, held_out: bool, output: Path | None) -> None:
    """Write a clip of the world itself, with sound.

    Prints its caption and its path.

    Example: soundstage nano sample --seed 7 --output ball.mp4
    """
    from soundstage.nano.world.sample import sample as sampled

    clip = sampled(seed, size, frames, held_out=held_out)
    path = clip.save(output or Path(f"world-{seed}.mp4"), overwrite=False)
    print(clip.provenance["caption"])
    print(path)
