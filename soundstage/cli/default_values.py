"""A default of an option: its value as it would be typed, checked as the command line checks it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from soundstage.cli.config_files import Keys, toml_of
from soundstage.cli.parameters import wanted
from soundstage.errors import SHOWN_LETTERS, ConfigError

PREFIX = "SOUNDSTAGE_"  # of variables
# Options that begin with a path; of the last ones only what looks like a path is one.
_INPUTS = ("image", "last_image", "reference", "video", "mask", "audio", "speaker", "lora")
_PATHS = (*_INPUTS, "output", "prompts", "log")
_NAMES_OR_PATHS = ("model", "recipe")
_PATH_ENDINGS = (".yaml", ".yml", ".safetensors", ".gguf")


@dataclass(frozen=True)
class Default:
    """A default of an option.

    option: None until it is found. command: the command it is for, () for all. key: as in a file. value: as
    typed. source: a file or variable. line: its line in the file. rank: 0 is what counts most.
    """

    option: click.Option | None
    command: Keys
    key: str
    value: Any
    source: str
    line: int | None
    rank: int

    @property
    def name(self) -> str:
        """Return the option's parameter."""
        return "" if self.option is None else str(self.option.name)

    @property
    def native(self) -> Any:
        """Return the value as a file has it."""
        return self.value if self.option is None else native(self.option, self.value)

    @property
    def where(self) -> str:
        """Return the file and line, or the variable."""
        return self.source if self.line is None else f"{self.source} line {self.line}"

    @property
    def typed(self) -> str:
        """Return what messages say in place of the option."""
        return self.source if self.is_variable else f"{self.key} in {self.where}"

    @property
    def is_variable(self) -> bool:
        return self.source.startswith(PREFIX)

    @property
    def dotted(self) -> str:
        """Return the key with its command."""
        return ".".join((*self.command, self.key))


def keys_of(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command that may have a default, by their keys; the usual spelling first."""
    options = [p for p in command.params if isinstance(p, click.Option)]
    options = [p for p in options if p.name not in ("help", "version")]
    return {flag[2:]: p for p in options for flag in p.opts if flag.startswith("--")}


def native(option: click.Option, value: Any) -> Any:
    """Return what is typed for an option as a value of a file: a number or truth value if it is one."""
    if not isinstance(value, str) or option.type.name == "text":
        return value
    if option.is_flag and not option.count:
        return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(
            value.lower(), value
        )
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def fitted_value(default: Default, option: click.Option, value: Any) -> Any:
    """Return a value as it would be typed: a text, a list of them, or a truth value or count of a flag.

    Raises ConfigError for what the command line would refuse too.
    """
    is_text = isinstance(value, str) and default.is_variable
    if option.count and not is_text and isinstance(value, bool):
        return int(value)
    if option.is_flag and not option.count:
        if isinstance(value, bool):
            return value
        if not is_text:
            raise _misfit(default, value, "it should be true or false")
        return _converted(default, click.BOOL, option, value)
    if isinstance(value, list):
        if not option.multiple:
            raise _misfit(default, value, "it should be a single value")
        return [_one(default, option, item) for item in value]
    return [_one(default, option, value)] if option.multiple else _one(default, option, value)


def _one(default: Default, option: click.Option, value: Any) -> Any:
    _converted(default, option.type, option, value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _misfit(default, value, "it should be a text within quotation marks")
    return int(value) if option.count else str(value)


def _converted(default: Default, kind: Any, option: click.Option, value: Any) -> Any:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    try:
        return kind.convert(text, option, None)
    except click.BadParameter as error:
        raise _misfit(default, value, wanted(error, kind)) from None


def _misfit(default: Default, value: Any, advice: str) -> ConfigError:
    text = f"'{value}'" if isinstance(value, str) else toml_of(value)
    text = "a table" if isinstance(value, dict) else text
    text = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}..."
    return ConfigError(f"{default.typed} is {text}; {advice}")


def from_folder(folder: Path, option: click.Option, value: Any) -> Any:
    """Return the value of a file with relative paths as seen from the file's folder."""
    if isinstance(value, list):
        return [from_folder(folder, option, item) for item in value]
    if not isinstance(value, str) or not value:
        return value
    if option.name == "take":
        name, equals, path = value.partition("=")
        return f"{name}{equals}{_joined(folder, path)}" if name == "folder" and path else value
    is_path = option.name in _PATHS or isinstance(option.type, click.Path)
    if option.name in _NAMES_OR_PATHS:
        is_path = value.startswith((".", "~")) or value.endswith(_PATH_ENDINGS)
        is_path = is_path or ("/" in value and os.path.exists(_joined(folder, value)))
    return _joined(folder, value) if is_path and value != "-" else value


def _joined(folder: Path, path: str) -> str:
    """Return a path of a file as seen from the current folder."""
    if path.startswith("~"):
        return os.path.expanduser(path)
    return path if folder == Path() else os.path.join(folder, path.removeprefix("./"))
