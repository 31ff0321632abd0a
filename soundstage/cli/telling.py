"""Tell what was raised: one sentence on standard error, or with --json an object on standard output.

    {"error": {"kind": "RequestError", "field": "duration_s", "option": "--duration", "message": "..."}}

kind is the exception's class, or UsageError, SystemError, Interrupted, Fault. Messages name options as they
are typed, where users of Python and JSON read fields; options.py has the table of both.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from soundstage.cli import process
from soundstage.cli.default_values import Default
from soundstage.cli.defaults import left_out, provided
from soundstage.cli.log import PROVIDED
from soundstage.cli.parameters import lowered, wanted
from soundstage.cli.printing import json_text
from soundstage.cli.signals import DEBUG, INTERRUPTION
from soundstage.cli.spelling import Spoken
from soundstage.errors import ConfigError, SoundstageError, listed, nearest

NUM_SHOWN = 12  # options or commands in one message


class Failure(NamedTuple):
    """The parts of an error message, as --json prints them."""

    kind: str
    field: str | None
    option: str | None
    message: str
    sentences: tuple[str, ...] = ()  # of a message with several, which are printed a line each

    def to_dict(self) -> dict[str, Any]:
        """Return what --json prints: sentences only where there are several."""
        return {key: value for key, value in self._asdict().items() if key != "sentences" or value}


def tell(error: BaseException, root: Any, words: Sequence[str]) -> int:
    """Print what happened and return the exit code. root: the program. words: the command line."""
    as_json = asks_json(root, words)
    if os.environ.get(DEBUG):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, BrokenPipeError):
        process.drop_output()
        return process.PIPE_CLOSED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else process.FAULT
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        print(error, file=sys.stderr)
        return process.MISUSE
    if isinstance(error, SoundstageError):
        return _print(as_json, failure(error, spoken_of(root, words)))
    if isinstance(error, click.ClickException):
        option, message = _misuse(error, root, words)
        return _print(as_json, Failure("UsageError", None, option, message))
    if isinstance(error, OSError) and error.filename == process.OUTPUT:  # which cannot hold the error either
        process.drop_output()
        as_json = False
    if isinstance(error, (OSError, MemoryError)):
        return _print(as_json, failure(error, Spoken({}, {})))
    return _print(as_json, Failure("Fault", None, None, _fault_sentence(error)), process.FAULT)


def failure(error: Exception, spoken: Spoken) -> Failure:
    """Return the message of an error of Soundstage's, of the system or of memory."""
    if isinstance(error, SoundstageError):
        # What is wrong in a file, such as a recipe, is told with the file's own names of fields.
        in_file = error.in_file or isinstance(error, ConfigError) or isinstance(error.__cause__, ConfigError)
        message = str(error) if in_file else spoken.sentence(str(error))
        field = getattr(error, "field", None)
        option = None if error.in_file else spoken.option(field, message)
        told = error.sentences if in_file and len(error.sentences) > 1 else ()
        message = _in_one_line(spoken.with_places(message))
        return Failure(type(error).__name__, field, option, message, tuple(map(_in_one_line, told)))
    sentence = "the memory of this machine does not suffice; make a smaller or shorter film, or free some"
    if isinstance(error, OSError):
        sentence = _system_sentence(error)
    return Failure("SystemError", None, None, _in_one_line(sentence))


def tell_interruption(error: BaseException, root: Any, words: Sequence[str], code: int) -> int:
    """Print that a signal ended the work and what of it is kept, and return the exit code.

    error: what the signal raised, or what a library has made of that; its notes say what is kept. root: the
    program.
    """
    kept: list[str] = []
    cause: BaseException | None = error
    while cause is not None and not kept:
        kept, cause = list(getattr(cause, "__notes__", ())), cause.__cause__ or cause.__context__
    told = f"interrupted; {'; '.join(kept)}" if kept else INTERRUPTION
    return _print(asks_json(root, words), Failure("Interrupted", None, None, told), code)


def asks_json(root: Any, words: Sequence[str]) -> bool:
    """Return whether a command line, or a default of its command, asks for JSON."""
    if "--json" in _before_dashes(words):
        return True
    asked = _provided(root, words).get("as_json")
    return asked is not None and bool(asked.value)


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _print(as_json: bool, told: Failure, code: int = process.MISUSE) -> int:
    message = _in_one_line(told.message)
    if not as_json:
        for sentence in told.sentences or (message,):
            print(f"soundstage: {sentence}", file=sys.stderr)
        return code
    try:
        print(json_text({"error": {**told.to_dict(), "message": message}}), flush=True)
    except (OSError, ValueError):
        process.drop_output()
        print(f"soundstage: {message}", file=sys.stderr)
    return code


# --- sentences ------------------------------------------------------------------------------------------


def _in_one_line(message: str) -> str:
    return " ".join(message.split())


def _system_sentence(error: OSError) -> str:
    """Return the sentence for an error of the operating system: its words and the file's name."""
    where = "" if error.filename is None else f"{error.filename}: "
    reason = error.strerror or str(error) or type(error).__name__
    return f"{where}{reason[:1].lower()}{reason[1:]}; see that the place exists, can be written and has room"


def _fault_sentence(error: BaseException) -> str:
    first = (str(error).strip() or "no message").splitlines()[0][:200]
    return (
        f"a fault of Soundstage's own ({type(error).__name__}: {first}); run the same command with "
        f"{DEBUG}=1 before it and report what it prints"
    )


def _misuse(error: click.ClickException, root: Any, words: Sequence[str]) -> tuple[str | None, str]:
    """Return (option, sentence) for an error of click's."""
    ctx: click.Context | None = getattr(error, "ctx", None)
    command = " ".join(("soundstage", *_command(root, words)[1])) if ctx is None else ctx.command_path
    see = f"`{command} --help` shows what it takes"
    if isinstance(error, click.NoSuchOption):
        known = [] if ctx is None else [flag for p in ctx.command.get_params(ctx) for flag in _flags(p)]
        name = error.option_name
        return name, f"{command} has no option {name}; {_near(name, known)}{see}"
    if isinstance(error, click.NoSuchCommand):
        name, group = error.command_name, getattr(ctx, "command", root)
        commands = listed(name, group.list_commands(ctx))
        return None, f"{command} has no command '{name}'; the commands are {commands}"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        name, what = spelling(error.param), (error.param.help or "").rstrip(".")
        meaning = f" ({lowered(what)})" if what else ""
        return name, f"{command} needs {name}{meaning}; {see}"
    if isinstance(error, click.BadParameter) and error.param is not None:
        name, value = spelling(error.param), _value(error.param, words)
        found = name if value is None else f"{name} is '{value}'"
        return name, f"{found}; {wanted(error, error.param.type)}; {see}"
    message = error.format_message().rstrip(".")
    extra = re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", message)
    if extra is not None:
        return None, f"{command} has no use for '{extra[1]}'; {_quoted(ctx)}{see}"
    return getattr(error, "option_name", None), f"{lowered(message)}; {see}"


def _quoted(ctx: click.Context | None) -> str:
    """Return the advice for too many words after a prompt, which is one word to the shell."""
    arguments = [] if ctx is None else [spelling(param) for param in ctx.command.get_params(ctx)]
    return 'put PROMPT within quotation marks, "like this"; ' if "PROMPT" in arguments else ""


def _value(param: click.Parameter, words: Sequence[str]) -> str | None:
    """Return what was typed after an option, the last time."""
    value = None
    for i, word in enumerate(_before_dashes(words)):
        flag, equals, after = word.partition("=")
        if flag in _flags(param):
            value = after if equals else words[i + 1] if i + 1 < len(words) else value
    return value


def _near(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f"near it: {', '.join(near)}; " if near else ""


def _flags(param: Any) -> list[str]:
    return [flag for flag in (*param.opts, *param.secondary_opts) if flag.startswith("-")]


def spelling(param: click.Parameter) -> str:
    """Return what a user types or reads for a parameter: its first long flag, or an argument's name."""
    flags = _flags(param)
    if flags:
        return next((flag for flag in flags if flag.startswith("--")), flags[0])
    return param.human_readable_name


# --- the command that was meant ---------------------------------------------------------------------------


def spoken_of(root: Any, words: Sequence[str]) -> Spoken:
    """Return how the command that was called spells the request's fields."""
    command, _, rest = _command(root, words)
    if command is None:
        return Spoken({}, {})
    found, own = _provided(root, words), left_out(command, rest)[0]
    values = {name: default.value for name, default in found.items()}
    try:
        with command.make_context(command.name or "", own, resilient_parsing=True, default_map=values) as ctx:
            ctx.meta[PROVIDED] = found
            return spoken_within(ctx)
    except Exception:  # the command line may be what is wrong
        return Spoken(_spelled(command), {})


def spoken_within(ctx: Any) -> Spoken:
    """Return how the command of a context of click's spells the request's fields."""
    spelled = _spelled(ctx.command)
    places = {spelled[d.name]: d.typed for d in ctx.meta.get(PROVIDED, {}).values() if d.name in spelled}
    return Spoken(spelled, dict(ctx.params), places)


def _provided(root: Any, words: Sequence[str]) -> dict[str, Default]:
    """Return the defaults of the command that was called; none where they are what is wrong."""
    command, path, rest = _command(root, words)
    if command is not None:
        with contextlib.suppress(Exception):  # and so may the command line be
            return provided(root, tuple(path), command, rest)
    return {}


def _spelled(command: Any) -> dict[str, str]:
    """Return what is typed for each parameter of a command."""
    return {param.name: spelling(param) for param in command.params}


def _command(root: Any, words: Sequence[str]) -> tuple[Any, Sequence[str], Sequence[str]]:
    """Return (the command that the words name or None, the words that name it, the words left for it)."""
    command: Any = root
    path: list[str] = []
    for i, word in enumerate(words):
        if not hasattr(command, "get_command"):
            return command, path, words[i:]
        if word.startswith("-"):
            continue
        found = command.get_command(None, word)
        if found is None:
            break
        command = found
        path.append(word)
    return (None if hasattr(command, "get_command") else command), path, ()
