"""`soundstage verify`: whether the files of a produced film are as they were written."""

from __future__ import annotations

from pathlib import Path

import click

from soundstage.cli.parameters import FILE, SETTINGS, as_json
from soundstage.cli.printing import json_text
from soundstage.errors import num_of

DIFFERS = 1  # exit code


@click.command("verify", context_settings=SETTINGS)
@click.argument(
    "path",
    type=FILE,
    metavar="FOLDER|FILE",
    help="The folder of a produced film, or a file that Soundstage wrote.",
)
@as_json
def app(path: Path, as_json: bool) -> None:
    """Check the files of a film against its manifest.

    Of one file, also those that it was made from. The exit code is 0 if all are as they were, 1 if one is
    not, and 2 if there is nothing to check.

    Example: soundstage verify film.produced
    """
    from soundstage.production.manifest import verify_film

    found = verify_film(path)
    bad = [one for one in found if one.why is not None]
    if as_json:
        print(
            json_text(
                [{"path": str(one.path), "problem": one.why, "unused": one.unused} for one in found], indent=2
            )
        )
    else:
        for one in bad:
            print(f"{one.path} {one.why}")
        are = "is as it was" if len(found) == 1 else "are as they were"
        unused = sum(one.unused for one in found)
        more = f", with {num_of(unused, 'take')} that the film does not use" if unused else ""
        print(f"{len(found) - len(bad)} of {num_of(len(found), 'file')} {are} written{more}")
    if bad:
        raise click.exceptions.Exit(DIFFERS)
