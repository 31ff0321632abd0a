"""`soundstage lora`: inspect adapters, make them smaller, one of several, or as other programs name them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli.announcing import at_work, loading_pytorch
from soundstage.cli.parameters import FILE, SETTINGS, Ordered, as_json
from soundstage.cli.printing import json_text, print_rows
from soundstage.errors import RequestError
from soundstage.files import NameTakenError
from soundstage.lora.asked import (
    RankLimit,
    check_format,
    check_groups,
    check_several,
    check_sources,
    check_strip,
    check_target,
    names_called,
)
from soundstage.request.words import lora_fields

if TYPE_CHECKING:
    from soundstage.lora.effect import LoraEffect
    from soundstage.lora.factoring import LoraMade

OUTPUT_HELP = "The .safetensors file to write; in the names peft another name is a folder for PEFT."
NAMES_HELP = "Names of the tensors: comfyui, kijai, diffusers or peft."
MOST = 5  # layers that are shown as those that change most


@click.group("lora", cls=Ordered, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Inspect, resize, merge, extract, convert and strip adapters."""


def _writes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the commands that write a LoRA."""
    for option in reversed(
        (
            click.option(
                "--output",
                "-o",
                type=FILE,
                required=True,
                help=OUTPUT_HELP,
            ),
            click.option("--force", is_flag=True, help="Overwrite the file if it is there."),
            click.option("--dtype", help="Number format of the factors: bf16, f16 or f32. [default: theirs]"),
            as_json,
        )
    ):
        command = option(command)
    return command


def _reads(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the commands that read LoRAs and write one."""
    dropping = click.option(
        "--drop-unknown", is_flag=True, help="Leave out layers that LTX-2.3 does not have."
    )
    return _writes(dropping(command))


names = click.option("--names", default="comfyui", show_default=True, help=NAMES_HELP)


# --- inspect ----------------------------------------------------------------------------------------


@app.command()
@click.argument("file", type=FILE)
@click.option("--on", "model", metavar="MODEL", help="Measure the change against this model's weights.")
@as_json
def inspect(file: Path, model: str | None, as_json: bool) -> None:
    """Show what an adapter is, and measure what it changes.

    Shows the base model, ranks, metadata, trigger, references, what the catalogue knows, and the change by
    group of layers. With --on, all changed weights of the model are read.

    Example: soundstage lora inspect style.safetensors --on nano
    """
    from soundstage.library.model_files import weights_of

    check_sources(file)
    if model is not None:
        weights_of(model)
    with loading_pytorch():
        from soundstage.library.lora_inspection import inspect_lora
    with at_work("measure") as show:
        found = inspect_lora(file, model, on_progress=show)
    if as_json:
        print(json_text(found.to_dict(), indent=2))
        return
    for line in found.lines:
        print(line)
    _print_effect(found.effect)


def _print_effect(effect: LoraEffect) -> None:
    rows = [
        (
            name,
            f"{group.layers:,}",
            f"{low}" if low == high else f"{low} to {high}",
            f"{group.holds:.3g}",
            f"{group.change:.4g}",
            "" if group.share is None else f"{group.share:.2%}",
            f"{group.part:.1%}",
        )
        for name, group in effect.groups.items()
        for low, high in (group.ranks,)
    ]
    titles = ("group", "layers", "rank", "90 % in", "change", "of the weights", "of the adapter")
    print_rows(titles, rows)
    print("changes most:")
    for layer in effect.most(MOST):
        size = f"{layer.change:.4g}" if layer.share is None else f"{layer.share:.2%} of the weight"
        print(f"  {layer.name}: {size}")


# --- resize, merge, extract -------------------------------------------------------------------------


@app.command()
@click.argument("file", type=FILE)
@click.option("--rank", type=int, help="Largest rank of a layer.")
@click.option("--energy", type=float, help="Least share of each layer's change to keep, such as 0.95.")
@names
@_reads
def resize(file: Path, output: Path, dtype: str | None, as_json: bool, force: bool, **options: Any) -> None:
    """Make an adapter smaller by singular values, and say what is lost.

    The share counts squares, as energies do: of a layer's change, 0.81 keeps nine tenths of its norm.

    Example: soundstage lora resize style.safetensors --rank 4 -o small.safetensors
    """
    RankLimit(options["rank"], options["energy"]).check_given()
    _check(options, dtype, output, force, file)
    with loading_pytorch():
        from soundstage.lora import rewrite
    _make(lambda how: rewrite.resize(file, output, **options, **how), dtype, force, as_json)


@app.command()
@click.argument("files", nargs=-1, required=True, metavar="PATH[:STRENGTH][,GROUP=NUMBER]...")
@click.option("--rank", type=int, help="Largest rank of a layer. [default: the sum of theirs]")
@click.option("--energy", type=float, help="Least share of each layer's change to keep, such as 0.95.")
@names
@_reads
def merge(
    files: tuple[str, ...], output: Path, dtype: str | None, as_json: bool, force: bool, **options: Any
) -> None:
    """Make one adapter of several, each at its strength.

    Without --rank and --energy the ranks add up, and the change is the sum of theirs.

    Example: soundstage lora merge style.safetensors:0.8 dub.safetensors:0.5 -o both.safetensors
    """
    items = [_ingredient(text) for text in files]
    RankLimit(options["rank"], options["energy"])
    check_several([(item["path"], item.get("strength", 1.0)) for item in items])
    _check(options, dtype, output, force, *(item["path"] for item in items))
    with loading_pytorch():
        from soundstage.lora import combine
    several = [combine.Ingredient(**item) for item in items]
    _make(lambda how: combine.merge(several, output, **options, **how), dtype, force, as_json)


def _ingredient(text: str) -> dict[str, Any]:
    fields = lora_fields(text, "FILES")
    if "span" in fields:
        raise RequestError(f"'{text}' has a span of time, which a file cannot hold; leave it out")
    return fields


@app.command()
@click.argument("base", metavar="BASE")
@click.argument("tuned", metavar="TUNED")
@click.option("--rank", type=int, required=True, help="Largest rank of a layer.")
@click.option("--energy", type=float, help="Least share of each layer's difference to keep, within the rank.")
@click.option("--group", "groups", multiple=True, help="Only layers of this group. Repeatable.")
@names
@_writes
def extract(
    base: str,
    tuned: str,
    output: Path,
    dtype: str | None,
    as_json: bool,
    force: bool,
    groups: tuple[str, ...],
    **options: Any,
) -> None:
    """Write the difference of two models as an adapter.

    BASE and TUNED are weights files, folders or names of models. Weights are compared one by one.

    Example: soundstage lora extract ltx-2.3-22b-dev.safetensors model.safetensors --rank 32 -o c.safetensors
    """
    from soundstage.library.model_files import weights_of

    RankLimit(options["rank"], options["energy"])
    check_groups(groups)
    _check(options, dtype, output, force)
    before, after = weights_of(base), weights_of(tuned)
    with loading_pytorch():
        from soundstage.lora.extract import extract

    if groups:
        options["groups"] = groups
    _make(lambda how: extract(before, after, output, **options, **how), dtype or "bf16", force, as_json)


# --- convert, strip ---------------------------------------------------------------------------------


@app.command("convert")
@click.argument("file", type=FILE)
@click.option("--to", "names", required=True, help=NAMES_HELP)
@_reads
def convert_names(
    file: Path, output: Path, dtype: str | None, as_json: bool, force: bool, **options: Any
) -> None:
    """Write an adapter with the names that another program reads.

    Example: soundstage lora convert style.safetensors --to diffusers -o style-diffusers.safetensors
    """
    _check(options, dtype, output, force, file)
    with loading_pytorch():
        from soundstage.lora import rewrite
    _make(lambda how: rewrite.convert(file, output, **options, **how), dtype, force, as_json)


@app.command()
@click.argument("file", type=FILE)
@click.option("--audio", is_flag=True, help="Leave out all that makes or hears sound: audio, a2v and v2a.")
@click.option("--group", "groups", multiple=True, help="Leave out this group of layers. Repeatable.")
@click.option("--slots", is_flag=True, help="Leave out slot embeddings and the order of reference tokens.")
@names
@_reads
def strip(
    file: Path,
    output: Path,
    dtype: str | None,
    as_json: bool,
    force: bool,
    audio: bool,
    groups: tuple[str, ...],
    **options: Any,
) -> None:
    """Write an adapter without some of its layers.

    Example: soundstage lora strip style.safetensors --audio -o silent.safetensors
    """
    left_out: list[Any] = [*groups, *(["audio", "a2v", "v2a"] if audio else [])]
    check_strip(left_out, options["slots"])
    _check(options, dtype, output, force, file)
    with loading_pytorch():
        from soundstage.lora import rewrite
    _make(lambda how: rewrite.strip(file, output, groups=left_out, **options, **how), dtype, force, as_json)


# --- what they share --------------------------------------------------------------------------------


def _check(
    options: dict[str, Any], dtype: str | None, output: Path, force: bool, *sources: str | Path
) -> None:
    """Refuse what could not be read or written, before PyTorch is loaded."""
    options["names"] = names_called(options["names"])
    check_format(dtype)
    try:
        check_target(output, force, options["names"])
    except NameTakenError as error:
        raise NameTakenError(f"{error}, or add --force to replace it") from error
    check_sources(*sources)


def _make(work: Callable[[dict[str, Any]], LoraMade], dtype: str | None, force: bool, as_json: bool) -> None:
    """Do the work, and print what was made and how near it is."""
    from soundstage.lora.rewrite import DTYPES

    with at_work("write", quiet=as_json) as show:
        kind = None if dtype is None else DTYPES[dtype]
        made = work({"dtype": kind, "overwrite": force, "on_progress": show})
    if as_json:
        print(json_text(made.to_dict(), indent=2))
        return
    for notice in made.notices:
        print(notice, file=sys.stderr)
    low, high = made.ranks
    rank = f"rank {low}" if low == high else f"rank {low} to {high}, {made.mean_rank:.1f} on average"
    size = f"{made.num_bytes / 1e6:.1f} MB"
    print(f"{len(made.layers):,} layers, {rank}, {size}, error {made.error:.3%}", file=sys.stderr)
    if made.error > 0:
        print(f"largest error: {made.worst.share:.3%} in {made.worst.name}", file=sys.stderr)
    print(made.path)
