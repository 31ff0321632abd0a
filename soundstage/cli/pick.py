"""`soundstage pick`: the take of a shot that the film uses."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from soundstage.cli.parameters import FILE, SETTINGS
from soundstage.errors import RequestError, shown


@click.command("pick", context_settings=SETTINGS)
@click.argument("script", type=FILE, help="The script of the film.")
@click.argument("shot", help="The shot: its number or id.")
@click.argument("take", help="The take, counted from 1; best forgets the choice.")
@click.option("--output", "-o", type=FILE, metavar="FOLDER", help="The film's folder, as given to `produce`.")
def app(script: Path, shot: str, take: str, output: Path | None) -> None:
    """Choose the take of a shot that the film uses.

    The next `soundstage produce` cuts it in. Without a choice it is the one with the best review.

    Example: soundstage pick film.yaml 3 2
    """
    from soundstage.production.producing import pick_take

    if take != "best" and not (take.isascii() and take.isdigit()):
        raise RequestError(f"take is {shown(take)}; give its number, counted from 1, or best", field="take")
    number = None if take == "best" else int(take)
    seed = pick_take(script, shot, number, output=output)
    told = "uses its best take" if seed is None else f"uses take {number}, seed {seed}"
    print(f"shot {shot} {told}; `soundstage produce {script}` cuts the film with it", file=sys.stderr)
