"""`soundstage models convert`: a model in another layout or number format, with LoRAs merged."""

from __future__ import annotations

import sys

import click

from soundstage.cli.announcing import at_work, loading_pytorch
from soundstage.errors import RequestError
from soundstage.library.installed import Library
from soundstage.request.words import file_fields


@click.command()
@click.argument(
    "source",
    nargs=-1,
    required=True,
    metavar="SOURCE... TARGET",
    help="Files, folders or a model's name; then the file or folder to write.",
)
@click.option(
    "--layout", required=True, metavar="LAYOUT", help="Write as official, bundle, kijai or diffusers."
)
@click.option(
    "--dtype",
    metavar="DTYPE",
    help="Convert weights to bf16, fp8 or int8. [default: every byte stays as it is]",
)
@click.option(
    "--lora", multiple=True, metavar="PATH[:STRENGTH]", help="Merge this LoRA into the weights. Repeatable."
)
def convert(source: tuple[str, ...], layout: str, dtype: str | None, lora: tuple[str, ...]) -> None:
    """Convert a model to another layout or dtype.

    Prints the files that are written. TARGET is a new .safetensors file for the official layout, else a
    folder. Weights are converted one by one, so that a large model needs little memory.

    Example: soundstage models convert ltx-2.3-22b-dev.safetensors dev --layout diffusers --dtype fp8
    """
    if len(source) < 2:
        raise RequestError(f"'{source[0]}' has no target; give what to convert, then where to")
    with loading_pytorch():
        from soundstage.library.convert import convert_merged
    from soundstage.library.model_files import named_paths

    library = Library.open()
    paths = [path for name in source[:-1] for path in named_paths(name, library)]
    with at_work("convert") as show:
        written, merged = convert_merged(
            paths,
            source[-1],
            [_strength(text) for text in lora],
            layout=layout,
            dtype=dtype,
            on_progress=lambda done, total: show(done / max(total, 1)),
        )
    for count, unmet in merged:
        print(f"merged into {count:,} layers, {len(unmet)} of the adapter's not met", file=sys.stderr)
    for path in written:
        print(path)


def _strength(text: str) -> tuple[str, float]:
    """Read PATH[:STRENGTH]."""
    if not text:
        raise RequestError("--lora is ''; give PATH[:STRENGTH], such as style.safetensors:0.8")
    fields = file_fields("path", text)
    return fields["path"], fields.get("strength", 1.0)
