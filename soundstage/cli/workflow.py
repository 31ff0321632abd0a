"""`soundstage import-workflow`: a ComfyUI workflow as a request, and what of it was carried over."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli.parameters import FILE, SETTINGS, as_json
from soundstage.cli.printing import json_text

if TYPE_CHECKING:
    from soundstage.compat.comfy.workflow import Workflow


@click.command("import-workflow", context_settings=SETTINGS)
@click.argument(
    "file", type=FILE, help="A ComfyUI workflow (.json), or a picture, clip or sound that ComfyUI saved."
)
@click.option(
    "--output", "-o", type=FILE, help="Write the request to this .json file, and its recipe beside it."
)
@click.option(
    "--inputs",
    type=FILE,
    multiple=True,
    metavar="FOLDER",
    help="Look here for the pictures, clips, sounds and LoRAs that the workflow loads. Repeatable.",
)
@click.option("--node", metavar="ID", help="Read the clip that this node saves, where there are several.")
@click.option("--prompt", metavar="TEXT", help="Use this prompt instead of the workflow's.")
@click.option("--force", is_flag=True, help="Replace the output files if they exist.")
@as_json
def app(
    file: Path,
    output: Path | None,
    inputs: tuple[Path, ...],
    node: str | None,
    prompt: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Read a ComfyUI workflow's LTX nodes into a request.

    Prints the request as JSON, and on standard error what was carried over and what was not. Needs no model.

    Example: soundstage import-workflow video_ltx2_t2v.json -o request.json
    """
    from soundstage.compat.comfy.workflow import import_workflow

    found = import_workflow(file, inputs=inputs, node=node, prompt=prompt)
    if output is not None:
        found.save(output, overwrite=force)
    if as_json:
        print(json_text(_told(found, output)))
        return
    _say(found)
    print(output if output is not None else json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    _say_next(found, output)


def _told(found: Workflow, output: Path | None) -> dict[str, Any]:
    """Return all that was found, JSON-ready."""
    from soundstage.compat.comfy.recipe import file_of

    return {
        "request": found.to_dict(),
        "recipe": None if found.recipe is None else file_of(found.recipe),
        "models": list(found.models),
        "output": None if output is None else str(output),
        "notes": [{"carried": n.carried, "what": n.what, "node": n.node} for n in found.notes],
    }


def _say(found: Workflow) -> None:
    for carried, title in ((True, "carried over:"), (False, "not carried over:")):
        lines = [f"  {note}" for note in found.notes if note.carried is carried]
        print("\n".join([title, *(lines or ["  nothing"])]), file=sys.stderr)


def _say_next(found: Workflow, output: Path | None) -> None:
    """Print which model files the workflow names, and the command that makes the clip."""
    from soundstage.library.catalog import by_file_name

    known = [(name, by_file_name(name)) for name in found.models]
    for name, entry in known:
        pull = "" if entry is None else f", published as {entry.name}"
        print(f"model file: {name}{pull}", file=sys.stderr)
    if known:
        print(
            "give the model by --model: a name that `soundstage models list` shows, or files", file=sys.stderr
        )
    if output is not None:
        print(f"make it: soundstage rerun {shlex.quote(str(output))} --model NAME", file=sys.stderr)
    elif found.recipe is not None:
        print("its passes need a recipe of their own: -o FILE.json writes it beside", file=sys.stderr)
