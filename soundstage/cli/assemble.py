"""`soundstage assemble`: a film cut and mixed from a timeline."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from soundstage.cli.announcing import at_work
from soundstage.cli.parameters import WHOLE_NUMBER, as_json
from soundstage.cli.printing import json_text
from soundstage.errors import RequestError
from soundstage.files import NameTakenError

OFF = "off"


@click.command()
@click.argument("timeline", metavar="TIMELINE", help="A YAML file of cuts, titles, music and captions.")
@click.option(
    "--output",
    "-o",
    required=True,
    metavar="PATH",
    help="Write the film to this file. Its ending is the format, such as .mp4, .mov or .mkv.",
)
@click.option(
    "--loudness",
    "loudness_lufs",
    default="-16",
    show_default=True,
    metavar="LUFS|off",
    help="Bring the sound to this integrated loudness by EBU R128; off leaves it.",
)
@click.option(
    "--peak",
    "peak_dbtp",
    type=float,
    default=-1.0,
    show_default=True,
    metavar="DBTP",
    help="Highest true peak.",
)
@click.option(
    "--quality",
    type=WHOLE_NUMBER,
    help="1 to 100: larger is better and takes more room. [default: the format's own]",
)
@click.option(
    "--codec", metavar="NAME", help="Use this codec: h264, h265, prores. [default: the format's own]"
)
@click.option(
    "--export",
    "export",
    multiple=True,
    metavar="PATH",
    help="Also write this file: .otio, .fcpxml or .edl for editing programs, .srt or .vtt subtitles, a .png "
    "storyboard, an .html page with players; a folder that ends in / takes stems as WAV. Repeatable.",
)
@click.option(
    "--burn-captions", is_flag=True, help="Draw the captions into the picture, as burn_captions does."
)
@click.option("--report", metavar="PATH", help="Write what was measured to this JSON file.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--quiet", "-q", is_flag=True, help="Print no progress and no notices; errors are printed.")
@as_json
def app(timeline: str, output: str, **values: Any) -> None:
    """Cut and mix a timeline to a film, and print the paths of what was written.

    Example: soundstage assemble cuts.yaml --output film.mp4 --loudness -23
    """
    from soundstage.editing import planned_assembly

    wished = {name: values[name] for name in ("codec", "quality", "report", "peak_dbtp")}
    try:
        planned = planned_assembly(
            timeline,
            output,
            loudness_lufs=_loudness(values["loudness_lufs"]),
            exports=values["export"],
            burn_captions=values["burn_captions"],
            overwrite=values["force"],
            **wished,
        )
        known = planned.notices
        _notice(known, quiet=values["quiet"])
        with at_work(f"write {os.path.basename(output)}", quiet=values["quiet"]) as show:
            made = planned.run(show)
    except NameTakenError as error:
        raise NameTakenError(f"{error}, or add --force to replace it") from error
    _notice([notice for notice in made.notices if notice not in known], quiet=values["quiet"])
    if values["as_json"]:
        print(json_text(made.facts()))
        return
    if not values["quiet"]:
        print(made.told(), file=sys.stderr)
    for path in (made.path, *made.exports):
        print(path)


def _notice(notices: Sequence[str], *, quiet: bool) -> None:
    for notice in () if quiet else notices:
        print(f"notice: {notice}", file=sys.stderr)


def _loudness(text: str) -> float | None:
    if text.lower() == OFF:
        return None
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"--loudness is '{text}'; give LUFS such as -16, or {OFF}") from None
