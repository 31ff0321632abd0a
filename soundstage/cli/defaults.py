"""Defaults of options, from the environment and config files, for what a command line leaves out.

In this order, each before the ones below:

    SOUNDSTAGE_GENERATE_STEPS, SOUNDSTAGE_STEPS           of one command, of all
    soundstage.toml: [generate] steps = 20, steps = 20    the project's file
    config.toml                                           the user's file, in the same way

A key is an option as typed, without its dashes. Those at the top of a file are `generate`'s, and hold for
every command that makes clips; other commands have a section of their own. Click gets all as default_map.
A typed --no-steps leaves the default of --steps out.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from soundstage.cli.config_files import Keys, config_files
from soundstage.cli.default_values import PREFIX, Default, fitted_value, keys_of
from soundstage.cli.file_defaults import WITHOUT, of_file
from soundstage.cli.log import LOG, PROVIDED
from soundstage.cli.official import OfficialFlags
from soundstage.cli.options import TABLE, TableOption, Values
from soundstage.cli.rivals import GIVES_WAY, options_of_word
from soundstage.cli.variables import OWN
from soundstage.errors import RequestError
from soundstage.media.formats import UnusedCodingError

NOT = "--no-"  # before an option's name, leaves its default out
EVERYWHERE = ("json", "verbose", "log")  # options that mean the same in every command
_VALUES = (str, int, float, tuple, list)  # what click's parser has for what is typed


# --- for the command that is run ------------------------------------------------------------------------


def provide(ctx: click.Context, name: str, command: click.Command, words: list[str]) -> list[str]:
    """Give a command that is about to be parsed its defaults, and return its words that are left to parse.

    ctx: the group's. words: the command's own. Raises ConfigError for a file or variable that does not fit.
    Nothing is read where help is asked for.
    """
    if isinstance(command, click.Group) or name in WITHOUT or {"-h", "--help"} & set(words):
        return words
    path = (*_path(ctx), name)
    found = provided(ctx.find_root().command, path, command, words)
    ctx.meta[PROVIDED] = found
    ctx.default_map = {name: {default.name: default.value for default in found.values()}}
    return left_out(command, words)[0]


def left_out(command: click.Command, words: Sequence[str]) -> tuple[list[str], set[str]]:
    """Split a command line into (its words without --no-OPTION, the parameters that those are about)."""
    own = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    options = {f"{NOT}{key}": str(option.name) for key, option in keys_of(command).items()}
    end = words.index("--") if "--" in words else len(words)
    found = {word for word in words[:end] if word in options and word not in own}
    kept = [word for word in words[:end] if word not in found]
    return [*kept, *words[end:]], {options[word] for word in found}


def _path(ctx: click.Context) -> Keys:
    """Return the names of a group's context, without the program's."""
    return () if ctx.parent is None else (*_path(ctx.parent), str(ctx.info_name))


def provided(root: Any, path: Keys, command: click.Command, words: Sequence[str]) -> dict[str, Default]:
    """Return the defaults that count for a command line, by their parameters."""
    if not any(name.startswith(PREFIX) for name in os.environ) and not config_files():
        return {}
    best: dict[str, Default] = {}
    words, without = left_out(command, words)
    for default in (*of_environment(path, command), *_of_files(root, path, command)):
        if default.name in without:
            continue
        if default.name not in best or default.rank < best[default.name].rank:
            best[default.name] = default
    typed = _typed(command, words)
    nearer = dict.fromkeys(typed, -1) | {name: d.rank for name, d in best.items() if name not in typed}
    found = {name: d for name, d in best.items() if name not in typed and not _gives_way(d, nearer)}
    scales = {n: _without_rivals(d, nearer) for n, d in found.items() if n in ("video_scale", "audio_scale")}
    return {name: default for name, default in (found | scales).items() if default.value != []}


def _typed(command: click.Command, words: Sequence[str]) -> set[str]:
    """Return the parameters that a command line gives."""
    ctx = click.Context(command, resilient_parsing=True, **command.context_settings)
    own = command.own_words(words) if isinstance(command, OfficialFlags) else list(words)
    given, _, _ = command.make_parser(ctx).parse_args(own)
    return {name for name, value in given.items() if isinstance(value, _VALUES) and value != ()}


def _gives_way(default: Default, nearer: Mapping[str, int]) -> bool:
    return _is_nearer(GIVES_WAY.get(default.name, ()), nearer, default.rank)


def _is_nearer(names: Sequence[str], nearer: Mapping[str, int], rank: int) -> bool:
    """Return whether one of these options is set nearer to the command line than a rank."""
    return any(nearer.get(name, rank) < rank for name in names)


def _without_rivals(default: Default, nearer: Mapping[str, int]) -> Default:
    """Return a default of --video-scale or --audio-scale without values whose own options are set nearer."""
    names = [text.partition("=")[0].strip() for text in default.value]
    rivals = [options_of_word(f"{default.name}s", name) for name in names]
    kept = [not _is_nearer(own, nearer, default.rank) for own in rivals]
    return replace(default, value=list(itertools.compress(default.value, kept)))


def without_unused(
    ctx: click.Context,
    values: Values,
    error: RequestError | UnusedCodingError,
    told: str,
    say: Callable[[str], None],
) -> Values:
    """Return values without the defaults that an error says nothing would read.

    Raises the error itself if it is about no default. told: the error in the command line's words. say:
    prints a line for people. Options of an input that is not given are left out without a word.
    """
    found: list[Default] = list(ctx.meta.get(PROVIDED, {}).values())
    unused = [d for d in found if values.get(d.name) is not None and _is_unused(d.name, error.unused)]
    if not unused:
        raise error
    sentence = f"left out, {', '.join(default.typed for default in unused)}: {told}"
    LOG.info("%s", sentence)
    if error.field is None or error.field in error.unused:
        say(f"notice: {sentence}")
    return values | {default.name: None for default in unused}


def _is_unused(name: str, unused: Collection[str]) -> bool:
    fields = {field.partition(".")[0] for option in TABLE if option.name == name for field in option.fields}
    return name in unused or (bool(fields) and fields <= set(unused))


# --- from the environment -------------------------------------------------------------------------------


def makes_clips(command: click.Command) -> bool:
    """Return whether a command reads the keys at the top of a file: it has options of the table."""
    return any(isinstance(option, TableOption) for option in command.params)


def variable(*keys: str) -> str:
    """Return the name of the variable of an option, with its command before it if it is of one command."""
    return PREFIX + "_".join(keys).replace("-", "_").upper()


def shares(command: click.Command, key: str) -> bool:
    """Return whether an option of a command has the default that is set for all."""
    return key in EVERYWHERE or makes_clips(command)


def of_environment(path: Keys, command: click.Command) -> Iterator[Default]:
    """Yield the defaults of a command that variables set, checked."""
    for key, option in keys_of(command).items():
        names = [(path, variable(*path, key))]
        if shares(command, key) and variable(key) not in OWN:
            names.append(((), variable(key)))
        for rank, (owner, name) in enumerate(names):
            text = os.environ.get(name, "")
            if text:
                made = Default(option, owner, key, text, name, None, rank)
                yield replace(made, value=fitted_value(made, option, _read_list(text, option)))


def _read_list(text: str, option: click.Option) -> Any:
    """Return a variable's value: a list in TOML for an option that may be given several times."""
    if option.multiple and text.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            return tomllib.loads(f"list = {text}")["list"]
    return text


def _of_files(root: Any, path: Keys, command: click.Command) -> Iterator[Default]:
    for number, file in enumerate(config_files()):
        for default in of_file(root, file, number, path):
            option = keys_of(command).get(default.key)
            of_group = bool(default.command) and default.command == path[:-1] and option is not None
            if (
                default.command == path
                or of_group
                or (not default.command and option is not None and shares(command, default.key))
            ):
                yield default
