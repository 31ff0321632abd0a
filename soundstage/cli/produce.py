"""`soundstage produce`: the film of a script, and what of it is missing or was changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli.parameters import FILE, SETTINGS, WHOLE_NUMBER
from soundstage.cli.printing import json_text

if TYPE_CHECKING:
    from soundstage.production.producing import Produced
    from soundstage.production.runner import EventReport


@click.command("produce", context_settings=SETTINGS)
@click.argument("script", type=FILE, help="The script: a .yaml file, or a Fountain screenplay.")
@click.option("--only", metavar="SHOTS", help="Make these shots only: numbers or ids, such as 3,5.")
@click.option(
    "--takes",
    type=WHOLE_NUMBER,
    default=1,
    show_default=True,
    metavar="COUNT",
    help="Make so many takes of each shot, with seeds counted up from its own; `soundstage pick` chooses.",
)
@click.option("--draft", is_flag=True, help="Make the shots by the script's draft recipe, to film-draft.mp4.")
@click.option("--final", is_flag=True, help="Make the takes that are picked twice as large.")
@click.option(
    "--retries",
    type=WHOLE_NUMBER,
    default=0,
    show_default=True,
    metavar="COUNT",
    help="While the takes of a shot have faults, make up to so many more, and use the best.",
)
@click.option("--no-review", is_flag=True, help="Do not check takes for faults.")
@click.option("--no-previews", is_flag=True, help="Refresh no thumbnails while takes are made.")
@click.option("--burn-captions", is_flag=True, help="Draw the spoken lines into the picture.")
@click.option(
    "--output",
    "-o",
    type=FILE,
    metavar="FOLDER",
    help="Keep the film in this folder. [default: SCRIPT.produced beside the script]",
)
@click.option(
    "--devices",
    default="auto",
    show_default=True,
    metavar="NAMES",
    help="Devices to use, one worker each: auto (all GPUs), or names such as cuda:0,cuda:1.",
)
@click.option(
    "--model",
    multiple=True,
    metavar="NAME|PATH",
    help="Use this model: its name, its folder, or a weights file. [default: the script's]",
)
@click.option(
    "--residency",
    default="auto",
    metavar="POLICY",
    help="Place of weights that are not used: resident, offload, stream, disk or auto.",
)
@click.option(
    "--weights", default="auto", metavar="FORM", help="Form of the transformer's weights, as in `generate`."
)
@click.option("--dtype", default="auto", metavar="DTYPE", help="Compute in bfloat16 or float32.")
@click.option("--memory", type=float, metavar="GB", help="Use at most this much memory on each device.")
@click.option(
    "--checkpoint-every",
    "checkpoint_every",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Keep where a take stands each time so many seconds have passed; 0 keeps every step.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print each event as a line of JSON, the last with the film."
)
@click.option("--quiet", "-q", is_flag=True, help="Print no progress; errors are printed.")
def app(script: Path, **values: Any) -> None:
    """Make the film of a script, and print its path.

    What is there already and was not changed is not made again; the same command goes on with what was
    stopped.

    Example: soundstage produce film.yaml --takes 2 --retries 1
    """
    from soundstage.production.producing import produce

    names = list(values["model"])
    with _reporting(values) as report, kept_told():
        made = produce(
            script,
            only=_only(values["only"]),
            takes=values["takes"],
            draft=values["draft"],
            final=values["final"],
            retries=values["retries"],
            output=values["output"],
            devices=values["devices"],
            model=names[0] if len(names) == 1 else names or None,
            review=not values["no_review"],
            previews=not values["no_previews"],
            burn_captions=values["burn_captions"],
            checkpoint_every_s=values["checkpoint_every"],
            progress=report,
            residency=values["residency"],
            weights=values["weights"],
            dtype=None if values["dtype"] == "auto" else values["dtype"],
            memory_gb=values["memory"],
        )
    _tell(made, as_json=values["as_json"])


@contextmanager
def kept_told() -> Iterator[None]:
    """Say how to go on when the command is interrupted."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note("what is done is kept; the same command goes on from there")
        raise


def _only(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


@contextmanager
def _reporting(values: dict[str, Any]) -> Iterator[EventReport]:
    """Give what shows the events: lines of JSON on standard output, or the table on standard error."""
    from soundstage.production.board import Board

    if values["as_json"]:
        yield lambda event: print(json_text(event), flush=True)
        return
    with Board(quiet=values["quiet"], shown=os.path.relpath) as board:
        yield board.heed


def _tell(made: Produced, *, as_json: bool) -> None:
    if as_json:
        film = None if made.film is None else str(made.film)
        shots = {name: str(path) for name, path in made.shots.items()}
        print(json_text({"event": "produced", "film": film, "shots": shots, "missing": list(made.missing)}))
    elif made.film is not None:
        print(made.film)
    else:
        for path in made.shots.values():
            print(path)
        are = "is" if len(made.missing) == 1 else "are"
        print(f"the film is not cut yet: {', '.join(made.missing)} {are} missing", file=sys.stderr)
