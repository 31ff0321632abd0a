"""What was raised -> one sentence on stderr, or with --json one object on stdout, and an exit code.

    {"error": {"kind": "RequestError", "field": "duration_s", "option": "--duration", "message": "..."}}

kind is the exception's class, or UsageError, SystemError, Interrupted, Fault. Messages name options as they
are typed, where Python and JSON users read fields; options.py has the table of both.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from soundstage.cli import process
from soundstage.cli.app import json_text
from soundstage.cli.signals import DEBUG, INTERRUPTION
from soundstage.cli.spelling import Spoken
from soundstage.errors import SoundstageError, near_first, nearest

NUM_SHOWN = 12  # options or commands in one message


def tell(error: BaseException, root: Any, words: Sequence[str]) -> int:
    """Print what happened and return the exit code. root: the program. words: the command line."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, BrokenPipeError):
        process.drop_output()
        return process.PIPE_CLOSED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else process.FAULT
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error, file=sys.stderr)
        return process.MISUSE
    if isinstance(error, SoundstageError):
        spoken = spoken_of(root, words)
        message = spoken.sentence(str(error))
        field = getattr(error, "field", None)
        return _print(words, type(error).__name__, message, field, spoken.option(field, message))
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # of click
        option, message = _misuse(error, root, words)
        return _print(words, "UsageError", message, None, option)
    if isinstance(error, OSError):
        if error.filename == process.OUTPUT:  # which cannot hold the error either
            process.drop_output()
            words = ()
        return _print(words, "SystemError", _system_sentence(error))
    if isinstance(error, MemoryError):
        sentence = "the memory of this machine does not suffice; make a smaller or shorter film, or free some"
        return _print(words, "SystemError", sentence)
    return _print(words, "Fault", _fault_sentence(error), code=process.FAULT)


def tell_interruption(error: BaseException, words: Sequence[str], code: int) -> int:
    """Print that a signal ended the work and what of it is kept, and return the exit code.

    error: what the signal raised, or what a library has made of that; its notes say what is kept.
    """
    kept: list[str] = []
    cause: BaseException | None = error
    while cause is not None and not kept:
        kept, cause = list(getattr(cause, "__notes__", ())), cause.__cause__ or cause.__context__
    told = f"interrupted; {'; '.join(kept)}" if kept else INTERRUPTION
    return _print(words, "Interrupted", told, code=code)


def is_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON."""
    return "--json" in _before_dashes(words)


def _before_dashes(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _print(
    words: Sequence[str],
    kind: str,
    message: str,
    field: str | None = None,
    option: str | None = None,
    code: int = process.MISUSE,
) -> int:
    message = " ".join(message.split())
    if not is_json(words):
        print(f"soundstage: {message}", file=sys.stderr)
        return code
    told = {"kind": kind, "field": field, "option": option, "message": message}
    try:
        print(json_text({"error": told}), flush=True)
    except (OSError, ValueError):
        process.drop_output()
        print(f"soundstage: {message}", file=sys.stderr)
    return code


# --- sentences ------------------------------------------------------------------------------------------


def _system_sentence(error: OSError) -> str:
    """An error of the system that nobody foresaw: its own words and the file's name."""
    where = "" if error.filename is None else f"{error.filename}: "
    reason = error.strerror or str(error) or type(error).__name__
    return f"{where}{reason[:1].lower()}{reason[1:]}; see that the place exists, can be written and has room"


def _fault_sentence(error: BaseException) -> str:
    first = (str(error).strip() or "no message").splitlines()[0][:200]
    return (
        f"a fault of Soundstage's own ({type(error).__name__}: {first}); run the same command with "
        f"{DEBUG}=1 before it and report what it prints"
    )


def _misuse(error: Any, root: Any, words: Sequence[str]) -> tuple[str | None, str]:
    """(option, sentence) of an error of click's."""
    ctx = getattr(error, "ctx", None)
    command = " ".join(("soundstage", *_command(root, words)[1])) if ctx is None else ctx.command_path
    see = f"`{command} --help` shows what it takes"
    param = getattr(error, "param", None)
    kind = type(error).__name__
    if kind == "NoSuchOption":
        known = [] if ctx is None else [flag for p in ctx.command.get_params(ctx) for flag in _flags(p)]
        return error.option_name, (
            f"{command} has no option {error.option_name}; {_near(error.option_name, known)}{see}"
        )
    if kind == "MissingParameter" and param is not None:
        name, what = spelling(param), (param.help or "").rstrip(".")
        meaning = f" ({_lowered(what)})" if what else ""
        return name, f"{command} needs {name}{meaning}; {see}"
    if isinstance(error, typer.BadParameter) and param is not None:
        name, value = spelling(param), _value(param, words)
        reason = error.message.partition(", unable to parse")[0].rstrip(".")
        reason = f"{reason[:1].lower()}{reason[1:]}".replace("input should", "it should")
        found = name if value is None else f"{name} is '{value}'"
        return name, f"{found}; {reason}; {see}"
    unknown = _unknown_command(error, ctx)
    if ctx is not None and unknown is not None:
        known = ctx.command.list_commands(ctx)
        return None, (
            f"{command} has no command '{unknown}'; the commands are {', '.join(near_first(unknown, known))}"
        )
    message = error.format_message().rstrip(".")
    extra = re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", message)
    if extra is not None:
        return None, f"{command} has no use for '{extra[1]}'; {_quoted(ctx)}{see}"
    return getattr(error, "option_name", None), f"{message[:1].lower()}{message[1:]}; {see}"


def _quoted(ctx: Any) -> str:
    """The advice on words that are too many where a command takes a prompt, one word to the shell."""
    arguments = [] if ctx is None else [spelling(param) for param in ctx.command.get_params(ctx)]
    return 'put PROMPT within quotation marks, "like this"; ' if "PROMPT" in arguments else ""


def _lowered(text: str) -> str:
    """Help as a part of a sentence: its first letter small, unless it begins with a name in capitals."""
    return text if text[1:2].isupper() else f"{text[:1].lower()}{text[1:]}"


def _unknown_command(error: Any, ctx: Any) -> str | None:
    """The word that is no command, where that is what click complains about."""
    if ctx is None or not hasattr(ctx.command, "list_commands") or "No such command" not in error.message:
        return None
    return str(error.message.split("'")[1])


def _value(param: Any, words: Sequence[str]) -> str | None:
    """What was typed after an option, the last time."""
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


def spelling(param: Any) -> str:
    """Return what a user types or reads for a parameter: its first long flag, or an argument's name."""
    flags = _flags(param)
    if flags:
        return next((flag for flag in flags if flag.startswith("--")), flags[0])
    return str(param.metavar or param.name.upper()).removesuffix("...")


# --- the command that was meant ---------------------------------------------------------------------------


def spoken_of(root: Any, words: Sequence[str]) -> Spoken:
    """Return how the command that was called spells the request's fields."""
    command, _, rest = _command(root, words)
    if command is None:
        return Spoken({}, {})
    try:
        with command.make_context(command.name or "", list(rest), resilient_parsing=True) as ctx:
            return spoken_within(ctx)
    except Exception:  # the command line may be what is wrong
        return Spoken(_spelled(command), {})


def spoken_within(ctx: Any) -> Spoken:
    """Return how the command of a context of click's spells the request's fields."""
    return Spoken(_spelled(ctx.command), dict(ctx.params))


def _spelled(command: Any) -> dict[str, str]:
    """What is typed for each parameter of a command."""
    return {param.name: spelling(param) for param in command.params}


def _command(root: Any, words: Sequence[str]) -> tuple[Any, Sequence[str], Sequence[str]]:
    """(the command that the words name or None, the words that name it, those left for it)."""
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
