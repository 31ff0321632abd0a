"""Open a file or an address with the system's own program: the last thing that `--open` does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import click

from soundstage.cli.results import Saved

WAIT_S = 1.0  # for the opener to fail; one that lasts longer shows the file itself
OPENER = "xdg-open"  # of Linux and its relatives
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")


def open_made(made: Sequence[Saved], comparison: str | None, say: Callable[[str], None]) -> None:
    """Open a clip; of several the sheet that compares them, else the folder of the first.

    say: prints a line for people, here that nothing could be opened.
    """
    if not made:
        return
    first = made[0].path
    path = first if len(made) == 1 and first.is_file() else first.parent
    path = Path(path if comparison is None else comparison).absolute()
    problem = open_it(path)
    if problem is not None:
        say(f"notice: {path} was not opened: {problem}")


def open_it(what: Path | str) -> str | None:
    """Open a file, a folder or an address; return what kept it from being opened, None where nothing did."""
    if sys.platform in ("darwin", "win32"):
        return None if click.launch(str(what)) == 0 else "no program opens it"
    if not any(os.environ.get(name) for name in DISPLAYS):
        return "there is no display"
    if shutil.which(OPENER) is None:
        return f"there is no {OPENER}"
    silent = subprocess.DEVNULL
    opener = subprocess.Popen(
        [OPENER, what], stdin=silent, stdout=silent, stderr=silent, start_new_session=True
    )
    with suppress(subprocess.TimeoutExpired):
        if opener.wait(WAIT_S) != 0:
            return "no program opens it"
    return None
