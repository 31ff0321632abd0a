"""Log the program's own work: memory choices, parts that are read, fast paths, seconds by phase.

Nothing is written by default. `-v` writes to stderr, `-vv` in more detail. SOUNDSTAGE_LOG=LEVEL[:FILE] does
so for every command, to stderr or at the end of a file. All of it goes through Python's logging, under the
name "soundstage".
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

import click

from soundstage.errors import RequestError, listed

VARIABLE = "SOUNDSTAGE_LOG"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "off": logging.CRITICAL + 1}
FLAGS, HELP = ("-v", "--verbose"), "Print on standard error what is done; -vv in more detail."
verbose = click.option(*FLAGS, count=True, help=HELP)
FORM = "{relativeCreated:9.0f} ms  {name}: {message}"


class _Stderr(logging.Handler):
    """Write to what stderr is at the time: a progress bar exchanges it for its own."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def begin(verbosity: int = 0) -> None:
    """Begin to write the log that -v and the environment ask for, in place of the one before.

    verbosity: how often -v was given. The more detailed level of the two counts; the file is the
    environment's. Raises RequestError for an unknown level and for a file that cannot be written.
    """
    logging.raiseExceptions = False  # a disk that is full ends the log, not the work
    logger = logging.getLogger("soundstage")
    for handler in [h for h in logger.handlers if h.get_name() == VARIABLE]:
        logger.removeHandler(handler)
        with suppress(OSError):
            handler.close()
    word, _, path = os.environ.get(VARIABLE, "").partition(":")
    level = min(_level(word or "off"), _level(("off", "info", "debug")[min(verbosity, 2)]))
    logger.setLevel(level)
    if level <= logging.CRITICAL:
        handler = _handler(path)
        handler.set_name(VARIABLE)
        handler.setFormatter(logging.Formatter(FORM, style="{"))
        logger.addHandler(handler)


def _level(word: str) -> int:
    if word.lower() not in LEVELS:
        raise RequestError(
            f"{VARIABLE} is '{word}'; give {listed(word, LEVELS)}, and :FILE after it to write there"
        )
    return LEVELS[word.lower()]


def _handler(path: str) -> logging.Handler:
    if not path:
        return _Stderr()
    try:
        return logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise RequestError(
            f"{VARIABLE} names {path}, which cannot be written ({error.strerror}); "
            "name a file in a folder that exists"
        ) from error


def _begin_if_asked(_: click.Context, __: click.Parameter, verbosity: int) -> None:
    if verbosity:
        begin(verbosity)


def with_verbose(command: click.Command) -> click.Command:
    """Give a command, or those of a group, the option -v as well: `soundstage generate ... -v`."""
    if isinstance(command, click.Group):
        for child in command.commands.values():
            with_verbose(child)
    elif all(option.name != "verbose" for option in command.params):
        command.params.append(
            click.Option(FLAGS, count=True, help=HELP, expose_value=False, callback=_begin_if_asked)
        )
    return command
