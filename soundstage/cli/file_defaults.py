"""Defaults from a config file: its sections are commands, its keys are their options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import click

from soundstage.cli.config_files import ConfigFile, Keys, Written, read
from soundstage.cli.default_values import Default, fitted_value, from_folder, keys_of
from soundstage.errors import ConfigError, nearest

WITHOUT = ("completion", "config")  # commands that have no defaults


def of_file(root: Any, file: ConfigFile, number: int, path: Keys | None) -> Iterator[Default]:
    """Yield the defaults of a config file, checked. root: the program. number: its place among the files.

    path: the command that is run, so that files of other commands are not loaded; None loads all. Raises
    ConfigError for a key or value that does not fit.
    """
    place = FilePlace(root, file, read(file.path), 2 * number + 3)
    loaded = {*root.commands, *(path or ())[:1]}
    for key, value in place.written.values.items():
        if not isinstance(value, dict) or place.is_option((key,)):
            yield place.default((key,), value)
        elif path is None or key in loaded or key not in root.list_commands(None):
            yield from _of_section(replace(place, rank=place.rank - 1), (key,), value)


def _of_section(place: FilePlace, keys: Keys, values: dict[str, Any]) -> Iterator[Default]:
    """Yield the defaults of a section of a file: those of a command, or of the commands of a group."""
    place.command(keys)
    for key, value in values.items():
        if isinstance(value, dict) and not place.is_option((*keys, key)):
            yield from _of_section(place, (*keys, key), value)
        else:
            yield place.default((*keys, key), value)


@dataclass(frozen=True)
class FilePlace:
    """A config file while its keys are looked up. root: the program. rank: that of its defaults."""

    root: Any
    file: ConfigFile
    written: Written
    rank: int

    def default(self, keys: Keys, value: Any) -> Default:
        """Return a key with its sections as a default. Raises ConfigError for what does not fit."""
        option, found = self.option(keys), self._found(keys, value)
        fitted = from_folder(self.file.path.parent, option, fitted_value(found, option, value))
        return replace(found, option=option, value=fitted)

    def option(self, keys: Keys) -> click.Option:
        """Return the option of a key with its sections. Raises ConfigError for an unknown one."""
        *sections, key = keys
        spelled, command = key.replace("_", "-"), self.command(tuple(sections))
        if isinstance(command, click.Group):
            shared = _of_all(command, spelled)
            if shared is not None:
                return shared
            example = f"[{'.'.join(sections)}.{command.list_commands(click.Context(command))[0]}]"
            raise ConfigError(
                f"{self._found(keys, None).typed} is in [{'.'.join(sections)}], which has several commands; "
                f"write the section of one, such as {example}"
            )
        known = keys_of(command)
        if spelled not in known:
            raise ConfigError(f"{self._found(keys, None).typed} is no option of {self._owner(keys, known)}")
        return known[spelled]

    def is_option(self, keys: Keys) -> bool:
        """Return whether a key that has a table is an option instead of a command."""
        owner: Any = self.command(keys[:-1]) if keys[:-1] else self.root
        if isinstance(owner, click.Group) and (keys[:-1] or keys[-1] in self.root.list_commands(None)):
            return False
        return keys[-1].replace("_", "-") in keys_of(self.command(keys[:-1]))

    def command(self, sections: Keys) -> click.Command:
        """Return the command of a section; `generate` has the keys at the top. Raises ConfigError."""
        command: Any = self.root
        for depth, name in enumerate(sections or ("generate",), 1):
            names = command.list_commands(None) if hasattr(command, "list_commands") else []
            names = [other for other in names if other not in WITHOUT]
            if name not in names:
                near = nearest(name, names)
                told = f"near it: {', '.join(near)}" if near else "a section has a command's name: [generate]"
                where = self._found(sections[:depth], None).where
                raise ConfigError(f"[{'.'.join(sections[:depth])}] in {where} is no command; {told}")
            command = command.get_command(None, name)
        assert isinstance(command, click.Command)
        return command

    def _found(self, keys: Keys, value: Any) -> Default:
        """Return a default that is not checked yet, at the line of its key or of the first in its section."""
        lines = self.written.lines
        line = next((line for where, line in lines.items() if where[: len(keys)] == keys), None)
        return Default(
            None, keys[:-1], keys[-1].replace("_", "-"), value, str(self.file.path), line, self.rank
        )

    def _owner(self, keys: Keys, known: Mapping[str, click.Option]) -> str:
        """Return whose option an unknown key is not, and the commands that have it, or what is near it."""
        key = keys[-1].replace("_", "-")
        commands = [name for name in self.root.list_commands(None) if name not in WITHOUT]
        has = [name for name in commands if key in keys_of(self.root.get_command(None, name))]
        near = nearest(key, known)
        told = f"near it: {', '.join(near)}" if near else "`--help` shows all"
        if key in commands:
            told = f"the section of a command is written once, [{key}]"
        elif has:
            told = f"write it in {' or '.join(f'[{name}]' for name in has)}"
        return f"`soundstage {' '.join(keys[:-1]) or 'generate'}`; {told}"


def _of_all(group: click.Group, key: str) -> click.Option | None:
    """Return the option that all commands of a group have, such as --server of `remote`."""
    names = group.list_commands(click.Context(group))
    found = [keys_of(command).get(key) for command in map(group.commands.get, names) if command is not None]
    return None if None in found or not found else found[0]
