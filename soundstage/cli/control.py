"""`soundstage control`: the references that adapters follow, made from clips."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from soundstage.cli.announcing import at_work
from soundstage.cli.parameters import WHOLE_NUMBER, Ordered, as_json
from soundstage.cli.printing import json_text
from soundstage.errors import RequestError
from soundstage.files import NameTakenError


@click.group("control", cls=Ordered, no_args_is_help=True)
def app() -> None:
    """Prepare the references that in-context adapters follow.

    Example: soundstage control prepare canny ball.mp4 --output edges.mkv
    """


@app.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Print the kinds of references, what each is for and its settings.

    Example: soundstage control list
    """
    from soundstage.control.kinds import KINDS
    from soundstage.control.settings import told

    if as_json:
        print(json_text([_facts(name) for name in KINDS]))
        return
    for name, kind in KINDS.items():
        pairs = f" Training pairs: {kind.made_by}." if kind.made_by else ""
        print(f"{name}: {kind.about}{pairs}")
        files = [*(f"{f}=PATH: must be given" for f in kind.needs), *(f"{f}=PATH" for f in kind.takes)]
        for line in (*files, *told(kind.settings)):
            print(f"    {line}")


@app.command()
@click.argument("kind", metavar="KIND", help="A kind that `soundstage control list` prints.")
@click.argument("file", metavar="FILE", help="The clip that the reference is made from.")
@click.option(
    "--output",
    "-o",
    required=True,
    metavar="PATH",
    help="Write to this file. In .mkv, or %04d.png for each frame, no pixel changes.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set one of the kind's settings. Repeatable.",
)
@click.option("--mask", metavar="PATH", help="Picture or clip that is white where the kind does its work.")
@click.option("--image", metavar="PATH", help="Picture that the kind shows beside the clip.")
@click.option("--model", metavar="PATH", help="ONNX model that the kind runs.")
@click.option("--detector", metavar="PATH", help="ONNX model that finds people for the model of key points.")
@click.option("--paths", metavar="PATH", help="JSON or YAML file of points to draw paths through.")
@click.option(
    "--frames",
    "num_frames",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Show a still picture for so many frames. [default: 121 where the kind lasts as long as a film]",
)
@click.option(
    "--for-training",
    is_flag=True,
    help="Make the reference of a training pair from a finished clip: for uncompress, one badly compressed.",
)
@click.option(
    "--quality",
    type=WHOLE_NUMBER,
    help="1 to 100: larger is better and takes more room. [default: the format's own]",
)
@click.option(
    "--codec",
    metavar="NAME",
    help="Use this codec, as for generate. [default: ffv1 for .mkv, else the format's own]",
)
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option("--quiet", "-q", is_flag=True, help="Print no progress and no notices; errors are printed.")
@as_json
def prepare(kind: str, file: str, output: str, **values: Any) -> None:
    """Write the reference of a kind, and print its path.

    Example: soundstage control prepare canny ball.mp4 --set low=60 --output edges.mkv
    """
    from soundstage.control.kinds import FILES
    from soundstage.steering import planned_preparation

    files = {name: values[name] for name in FILES if values[name] is not None}
    settings: dict[str, str] = {}
    for name, value in map(_setting, values["settings"]):
        if name in settings:
            raise RequestError(f"--set has {name} twice, {settings[name]} and {value}; keep one")
        settings[name] = value
    options = {**settings, **files}
    written = {name: values[name] for name in ("for_training", "num_frames", "codec", "quality")}
    planned = planned_preparation(kind, file, output, options, **written)
    try:
        planned.output.check(planned.num_frames, overwrite=values["force"])
    except NameTakenError as error:
        raise NameTakenError(f"{error}, or add --force to replace it") from error
    for notice in () if values["quiet"] else planned.notices:
        print(f"notice: {notice}", file=sys.stderr)
    with at_work(f"write {os.path.basename(output)}", quiet=values["quiet"]) as show:
        path = planned.run(overwrite=values["force"], progress=show)
    shape = {"size": list(planned.size), "fps": planned.excerpt.fps} if planned.num_frames else {}
    facts = {"num_frames": planned.num_frames, **shape}
    print(json_text({"path": str(path), "source": file, **facts}) if values["as_json"] else path)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise RequestError(f"--set is '{text}'; give NAME=VALUE, such as low=60")
    return name.strip().replace("-", "_"), value


def _facts(name: str) -> dict[str, Any]:
    from soundstage.control.kinds import KINDS

    kind = KINDS[name]
    settings = {
        key: {"default": one.default, "about": one.about, "range": one.range}
        for key, one in kind.settings.items()
    }
    return {
        "kind": name,
        "about": kind.about,
        "needs": list(kind.needs),
        "takes": list(kind.takes),
        "downscale": kind.downscale,
        "made_by": kind.made_by or None,
        "settings": settings,
    }
