"""`soundstage config`: show the defaults that are set, and where; set one in a file, or take it out again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from soundstage.cli import config_files
from soundstage.cli.config_files import (
    PROJECT_NAME,
    ConfigFile,
    Keys,
    Written,
    project_file,
    toml_of,
    user_file,
)
from soundstage.cli.default_values import PREFIX, Default, native
from soundstage.cli.defaults import of_environment
from soundstage.cli.file_defaults import FilePlace, of_file
from soundstage.cli.options import TableOption
from soundstage.cli.parameters import SETTINGS, as_json
from soundstage.cli.printing import json_text
from soundstage.cli.spelling import Spoken
from soundstage.cli.variables import OTHERS, OWN
from soundstage.errors import ConfigError, RequestError, SoundstageError, nearest

project = click.option("--project", is_flag=True, help=f"Use the project's file, {PROJECT_NAME}.")


@click.group("config", invoke_without_command=True, context_settings=SETTINGS)
@as_json
@click.pass_context
def app(ctx: click.Context, as_json: bool) -> None:
    """Show defaults that are set by files and variables, or change them.

    A default is an option as typed, without its dashes. Those of one command have its name before them, as in
    generate.steps.

    Example: soundstage config set steps 12
    """
    if ctx.invoked_subcommand is not None:
        return
    all_set = _set(ctx.find_root().command)
    for name in () if as_json else _unknown(all_set):
        print(f"{name} is set, and nothing reads it", file=sys.stderr)
    print(json_text(_facts(all_set), indent=2) if as_json else "\n".join(_lines(all_set)))


@app.command("set", context_settings={"ignore_unknown_options": True})  # a value may be -1
@click.argument("key", help="The option, such as steps or generate.steps.")
@click.argument(
    "values", nargs=-1, required=True, metavar="VALUE...", help="Its value as typed; several of --lora."
)
@project
@click.pass_context
def set_(ctx: click.Context, key: str, values: tuple[str, ...], project: bool) -> None:
    """Set a default in the user's file, or the project's.

    Example: soundstage config set model ltx-2.3-distilled --project
    """
    path, text, written = _changed(project)
    keys = _as_written(written.values, key)
    place, here = (_place_in(ctx, file) for file in (path, Path(PROJECT_NAME)))
    value = _value(place.option(keys), values)
    default = place.default(keys, value)
    _check(default, ctx)
    found, seen_here = default.native, here.default(keys, value).native
    config_files.save(path, config_files.with_key(text, keys, value, path))
    print(f"{'.'.join(keys)} = {toml_of(value)} in {path}", file=sys.stderr)
    if found != seen_here:
        wish = "" if project else ", or add --project"
        print(f"notice: seen from there it is {toml_of(found)}; give a whole path{wish}", file=sys.stderr)


def _place_in(ctx: click.Context, path: Path) -> FilePlace:
    """Return a place for keys of a file, of which nothing is read."""
    return FilePlace(ctx.find_root().command, ConfigFile(path, ""), Written({}, {}), 0)


# What an option about an input may be about; one of them has to do.
_INPUTS: dict[str, Sequence[dict[str, Any]]] = {
    "guides": [{"image": ["picture.png"]}],
    "references": [{"reference": ["clip.mp4"]}],
    "source": [{"video": "clip.mp4"}, {"video": "clip.mp4", "remake": "video"}],
    "audio": [{"audio": "sound.wav"}],
}


def _check(default: Default, ctx: click.Context) -> None:
    """Raise RequestError for a value that no clip is made with: out of its range, or an unknown name."""
    option = default.option
    if not isinstance(option, TableOption):
        return
    from soundstage.cli.request_fields import request_fields
    from soundstage.request.request import Request

    given = {default.name: option.type_cast_value(ctx, default.value)}
    problems: list[SoundstageError] = []
    for inputs in next((_INPUTS[root] for root in option.roots if root in _INPUTS), [{}]):
        try:
            Request(prompt="A clip.", **request_fields({**inputs, **given}))
            _check_name(default.name, given[default.name])
            return
        except SoundstageError as error:
            problems.append(error)
    sentence = Spoken({default.name: default.key}, given).sentence(str(problems[0]))
    raise RequestError(sentence, field=default.key)


def _check_name(name: str, value: Any) -> None:
    """Raise SoundstageError for an unknown recipe or sampler, and a quality that no format has."""
    from soundstage.media.formats import output
    from soundstage.request.recipes import recipe_named
    from soundstage.sampling.sampler_info import sampler_key

    if name == "recipe":
        recipe_named(value)
    elif name == "sampler":
        sampler_key(value)
    elif name == "quality":
        output("clip.mp4", 2, quality=value)


def _value(option: click.Option, texts: Sequence[str]) -> Any:
    """Return typed words as a value of a file; what is no value of the option stays as it is."""
    return native(option, list(texts) if option.multiple else " ".join(texts))


@app.command()
@click.argument("key", help="The option, such as steps or generate.steps.")
@project
def unset(key: str, project: bool) -> None:
    """Take a default out of the user's file, or the project's."""
    path, text, written = _changed(project)
    keys = _as_written(written.values, key)
    if not _holds(written.values, keys):
        near = nearest(key, [".".join(where) for where in written.lines])
        told = f"near it: {', '.join(near)}" if near else "`soundstage config` shows what is set"
        raise ConfigError(f"{key} is not set in {path}; {told}")
    config_files.save(path, config_files.with_key(text, keys, None, path))
    print(f"{'.'.join(keys)} is no longer set in {path}", file=sys.stderr)


@app.command("path")
@project
def path_(project: bool) -> None:
    """Print the place of the user's file, or the project's.

    The file need not be there.

    Example: soundstage config path
    """
    print(_place(project))


def _changed(project: bool) -> tuple[Path, str, Written]:
    """Return (a file that is to be changed, its text, what it holds). Raises RequestError if none is read."""
    if os.environ.get(config_files.VARIABLE, "").lower() == config_files.OFF:
        raise RequestError(f"{config_files.VARIABLE} is off, so no file would be read; unset it first")
    path = _place(project)
    text = config_files.text_of(path) if path.is_file() else ""
    return path, text, config_files.parsed(text, path)


def _place(project: bool) -> Path:
    """Return the user's file, or the project's: the nearest one, or else one in the current folder."""
    return (project_file() or Path(PROJECT_NAME)) if project else user_file()


def _as_written(values: Any, key: str) -> Keys:
    """Return a key with its sections, as a file has it if it does. values: those of the file."""
    keys: Keys = ()
    for part in key.lstrip("-").split("."):
        known = values if isinstance(values, dict) else {}
        name = part.strip().replace("_", "-")
        keys = (*keys, next((other for other in known if other.replace("_", "-") == name), name))
        values = known.get(keys[-1])
    return keys


def _holds(values: Any, keys: Keys) -> bool:
    """Return whether the values of a file have a key with its sections."""
    for name in keys:
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


# --- what is set ----------------------------------------------------------------------------------------


def _set(root: Any) -> list[Default]:
    """Return all defaults of all commands; of one key, that which counts comes first."""
    found = {
        default.source: default
        for path, command in _commands(root, ())
        for default in of_environment(path, command)
    }
    of_files = [
        default
        for number, file in enumerate(config_files.config_files())
        for default in of_file(root, file, number, None)
    ]
    return sorted([*found.values(), *of_files], key=lambda d: (d.command, d.key, d.rank))


def _commands(group: Any, path: Keys) -> Iterator[tuple[Keys, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _nearer(default: Default, all_set: Sequence[Default]) -> Default | None:
    """Return the default of the same key that counts in place of this one."""
    first = next(d for d in all_set if (d.name, d.command) == (default.name, default.command))
    return None if first is default else first


def _facts(all_set: Sequence[Default]) -> dict[str, Any]:
    """Return all that is set as JSON-ready values."""
    defaults = [
        {
            "key": default.dotted,
            "value": default.native,
            "source": default.source,
            "line": default.line,
            "counts": _nearer(default, all_set) is None,
        }
        for default in all_set
    ]
    variables = {
        name: {"value": os.environ.get(name), "takes": one.takes, "meaning": one.meaning}
        for name, one in (OWN | OTHERS).items()
    }
    return {
        "defaults": defaults,
        "files": [{"kind": kind, "path": str(path), "is_read": is_read} for kind, path, is_read in _files()],
        "variables": variables,
        "unknown_variables": _unknown(all_set),
    }


def _files() -> Iterator[tuple[str, Path, bool]]:
    """Yield (kind, path, whether it is read) of the places of config files."""
    reads = [file.path for file in config_files.config_files()]
    for kind, path in (("project", _place(project=True)), ("user", user_file())):
        yield kind, path, path in reads


def _unknown(all_set: Sequence[Default]) -> list[str]:
    """Return the variables that look like Soundstage's, and that nothing reads."""
    known = {*OWN, *(default.source for default in all_set)}
    return sorted(
        name for name, text in os.environ.items() if name.startswith(PREFIX) and text and name not in known
    )


def _lines(all_set: Sequence[Default]) -> Iterator[str]:
    """Yield the lines of the page: defaults, files, variables."""
    rows = []
    for default in all_set:
        nearer = _nearer(default, all_set)
        hidden = "" if nearer is None else f", hidden by {nearer.where}"
        rows.append((f"{default.dotted} = {toml_of(default.native)}", f"{default.where}{hidden}"))
    yield "defaults" if rows else "defaults: none is set"
    yield from _columns(rows)
    yield "\nfiles"
    yield from _columns(
        [(f"{kind}'s", f"{path}{'' if is_read else ', not there'}") for kind, path, is_read in _files()]
    )
    yield "\nvariables"
    rows = []
    for name, one in (OWN | OTHERS).items():
        value = os.environ.get(name)
        rows.append((f"{name}={one.takes}" if value is None else f"{name} is {value}", one.meaning))
    yield from _columns(
        [(f"{PREFIX}OPTION, {PREFIX}COMMAND_OPTION", "default of an option, in one command"), *rows]
    )


def _columns(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max((len(first) for first, _ in rows), default=0)
    for first, second in rows:
        yield f"  {first:<{width}}  {second}"
