"""Log the program's own work: memory choices, parts that are read, fast paths, seconds by phase.

Nothing is written by default. `-v` writes to stderr, `-vv` in more detail, `--log FILE` all details at the
end of a file. SOUNDSTAGE_LOG=LEVEL[:FILE] does so for every command, to stderr or a file. All of it goes
through Python's logging, under the name "soundstage".
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import click

from soundstage.errors import RequestError, listed

VARIABLE = "SOUNDSTAGE_LOG"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "off": logging.CRITICAL + 1}
FORM = "{relativeCreated:9.0f} ms  {name}: {message}"
# In the meta data of click's contexts: what was asked for; the defaults that the command got.
_ASKED, PROVIDED = "soundstage.log", "soundstage.defaults"
LOG = logging.getLogger("soundstage.cli")


class _Stderr(logging.Handler):
    """Write to what stderr is at the time: a progress bar exchanges it for its own."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def begin(verbosity: int = 0, path: str | None = None) -> None:
    """Begin to write the log that -v, --log and the environment ask for, in place of the one before.

    verbosity: how often -v was given. The more detailed level of -v and the environment counts, and goes to
    the environment's file or stderr. path: the file of --log. Raises RequestError for an unknown level and
    for a file that cannot be written.
    """
    logging.raiseExceptions = False  # a disk that is full ends the log, not the work
    logger = logging.getLogger("soundstage")
    for handler in [h for h in logger.handlers if h.get_name() == VARIABLE]:
        logger.removeHandler(handler)
        with suppress(OSError):
            handler.close()
    logger.setLevel(LEVELS["off"])
    for level, handler in _handlers(verbosity, path):
        handler.set_name(VARIABLE)
        handler.setLevel(level)
        handler.setFormatter(logging.Formatter(FORM, style="{"))
        logger.addHandler(handler)
        logger.setLevel(min(level, logger.level))


def _handlers(verbosity: int, path: str | None) -> Iterator[tuple[int, logging.Handler]]:
    """Yield (level, handler) of all that is written."""
    word, _, named = os.environ.get(VARIABLE, "").partition(":")
    level = min(_level(word or "off"), _level(("off", "info", "debug")[min(verbosity, 2)]))
    if level <= logging.CRITICAL:
        yield level, _file(named, f"{VARIABLE} names") if named else _Stderr()
    if path is not None:
        yield logging.DEBUG, _file(path, "--log is")


def _level(word: str) -> int:
    if word.lower() not in LEVELS:
        raise RequestError(
            f"{VARIABLE} is '{word}'; give {listed(word, LEVELS)}, and :FILE after it to write there"
        )
    return LEVELS[word.lower()]


def _file(path: str, asked: str) -> logging.Handler:
    try:
        return logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{asked} {path}, which cannot be written ({getattr(error, 'strerror', None) or error}); "
            "name a file in a folder that exists"
        ) from error


# --- options ------------------------------------------------------------------------------------------


def options() -> tuple[click.Option, click.Option]:
    """Return the options -v and --log. Both may be given before a command and behind it."""
    verbose = click.Option(
        ("-v", "--verbose"),
        count=True,
        is_eager=True,  # the other's callback, which is called last and for every command, reads it
        expose_value=False,
        callback=_note,
        help="Print on standard error what is done; -vv in more detail.",
    )
    log = click.Option(
        ("--log",),
        metavar="FILE",
        expose_value=False,
        callback=_begin,
        help="Write what is done at the end of this file, in detail.",
    )
    return verbose, log


def _note(ctx: click.Context, _: click.Parameter, verbosity: int) -> None:
    asked = _asked(ctx)
    asked["verbosity"] = max(verbosity, asked["verbosity"])


def _begin(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    asked = _asked(ctx)
    asked["path"] = asked["path"] if path is None else path
    if not ctx.resilient_parsing:
        begin(**asked)
        for default in ctx.meta.get(PROVIDED, {}).values():
            LOG.info("%s is %s", default.typed, default.value)


def _asked(ctx: click.Context) -> dict[str, Any]:
    """Return what the command line asks for so far; a program and its command share it."""
    asked: dict[str, Any] = ctx.meta.setdefault(_ASKED, {"verbosity": 0, "path": None})
    return asked


def with_log(command: click.Command) -> click.Command:
    """Give a command, or those of a group, the options as well: `soundstage generate ... -v`."""
    if isinstance(command, click.Group):
        for child in command.commands.values():
            with_log(child)
    elif all(option.name != "verbose" for option in command.params):
        command.params.extend(options())
    return command
