"""Records from YAML files that people write: unknown keys, wrong values, keys given twice, by line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from soundstage.errors import ConfigError, RequestError, shown

Made = TypeVar("Made")


def read_record(kind: type[Made], path: Path, words: Callable[[str], str] = str) -> Made:
    """Read a record from a YAML file. words: puts a sentence about a field in other words.

    Raises ConfigError whose `sentences` are all faults, each with its line, for one that does not fit.
    """
    data, lines = read_fields(path)
    try:
        return kind(**data)
    except RequestError as error:
        told = [(line_in(one, lines), words(one)) for one in error.sentences or (str(error),)]
        sentences = [
            f"{path}, line {line}: {why}" if line else f"{path}: {why}" for line, why in sorted(told)
        ]
        raise ConfigError("; ".join(sentences), sentences=sentences) from error


def read_fields(path: Path, what: str = "a YAML file") -> tuple[dict[str, Any], dict[str, int]]:
    """Return the fields of a YAML file, and the line of each place, such as "shots[2].seconds".

    what: what is asked for, in messages.

    Raises ConfigError for a file that cannot be read, holds no fields, or has a key twice.
    """
    import yaml

    text = read_text(path, what)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = {} if root is None else yaml.safe_load(text)
    except (RecursionError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} is not a YAML file that can be read ({error}); correct it, or give {what}"
        ) from error
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path} holds {shown(data)}; give {what}, with fields such as `name: value`")
    lines: dict[str, int] = {}
    for place, line in _places(root, ""):
        if place in lines:
            raise ConfigError(f"{path}, line {line}: {place} was given in line {lines[place]}; keep one")
        lines[place] = line
    return {str(key): value for key, value in data.items()}, lines


def read_text(path: Path, what: str) -> str:
    """Return the text of a file that people write. what: what is asked for, such as "a YAML file".

    Raises ConfigError for one that is not there, is a folder, cannot be read or is no text.
    """
    if path.is_dir():
        raise ConfigError(f"{shown(str(path))} is a folder; give {what}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {shown(str(path))}; give {what}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown(str(path))} is no text in UTF-8; give {what}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{shown(str(path))} cannot be read ({why}); give {what}") from error


def line_in(sentence: str, lines: Mapping[str, int]) -> int:
    """Return the line of the field that a sentence begins with, else of what that is in; 0 for none."""
    return line_of_place(re.match(r"[\w.\[\]'-]*", sentence)[0].strip("'.;,:"), lines)  # type: ignore[index]


def line_of_place(place: str, lines: Mapping[str, int]) -> int:
    """Return the line of a place such as "shots[2].seconds", else of what that is in; 0 for none."""
    while place not in lines and place:
        place = re.sub(r"(\.[^.\[]*|\[\d+\]|^[^.\[]+)$", "", place)
    return lines.get(place, 0)


def line_of(message: str, text: str) -> str:
    """Return ", line 7" for the first field that a message names and the YAML has, else nothing."""
    import yaml

    return _line(message, dict(_places(yaml.compose(text, Loader=yaml.SafeLoader), "")))


def _line(message: str, lines: Mapping[str, int]) -> str:
    named = (word.strip("'.;,:") for word in re.findall(r"[\w.\[\]'-]+", message))
    line = next((lines[word] for word in named if word in lines), None)
    return "" if line is None else f", line {line}"


def _places(node: Any, path: str) -> Iterator[tuple[str, int]]:
    """Yield the path and the line of every field below a YAML node."""
    if node is None or isinstance(node.value, str):
        return
    for number, item in enumerate(node.value):
        key, value = item if isinstance(item, tuple) else (None, item)
        place = f"{path}[{number}]" if key is None else f"{path}.{key.value}" if path else str(key.value)
        yield place, (value if key is None else key).start_mark.line + 1
        yield from _places(value, place)
