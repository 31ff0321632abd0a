"""Config files: where they are, what they hold, and one key of theirs written while the rest stays as it is.

The project's is `soundstage.toml` in the current folder or one above it, the user's `config.toml` beside
their recipes. SOUNDSTAGE_CONFIG names another in place of the user's, or is off.
"""

from __future__ import annotations

import copy
import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import ConfigError, RequestError
from soundstage.files import whole_file

VARIABLE, OFF = "SOUNDSTAGE_CONFIG", "off"
USER_NAME, PROJECT_NAME = "config.toml", "soundstage.toml"
ROOTS = (".git", ".hg")  # what the root of a repository holds
_WORD = r'(?:[\w-]+|"[^"]*"|\'[^\']*\')'
_KEY = re.compile(rf"\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*=")
_HEADER = re.compile(rf"\s*\[\s*({_WORD}(?:\s*\.\s*{_WORD})*)\s*\]")

Keys = tuple[str, ...]  # a key with the sections it is in


@dataclass(frozen=True)
class ConfigFile:
    """A config file that is read. kind: project or user."""

    path: Path
    kind: str


@dataclass(frozen=True)
class Written:
    """The content of a config file. lines: where each key stands, counted from 1."""

    values: dict[str, Any]
    lines: dict[Keys, int]


def config_files() -> list[ConfigFile]:
    """Return the files that are read, the project's before the user's.

    Raises ConfigError where SOUNDSTAGE_CONFIG names a file that is not there.
    """
    named = os.environ.get(VARIABLE, "")
    if named.lower() == OFF:
        return []
    project, user = project_file(), user_file()
    if named and not user.is_file():
        raise ConfigError(f"{VARIABLE} is {named}, which is no file; name a config file, or off to read none")
    found = [] if project is None else [ConfigFile(project, "project")]
    return [*found, ConfigFile(user, "user")] if os.path.isfile(user) else found


def user_file() -> Path:
    """Return the user's config file, which need not be there."""
    named = os.environ.get(VARIABLE, "")
    if named and named.lower() != OFF:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_config_dir("soundstage")) / USER_NAME


def project_file() -> Path | None:
    """Return the project's config file, the nearest one; None where there is none."""
    return next((path for path in _project_names() if os.path.isfile(path)), None)


def _project_names() -> Iterator[Path]:
    """Yield the places of a project's file: here and above, up to a repository's root or the home folder.

    Where neither is above, only the current folder counts: others may write to those above it.
    """
    yield Path(PROJECT_NAME)
    try:
        here = Path.cwd()
    except OSError:  # it was deleted
        return
    home, above = os.path.expanduser("~"), []
    for folder in (here, *here.parents):
        if folder != here:
            above.append(folder / PROJECT_NAME)
        if str(folder) == home or any(os.path.exists(folder / name) for name in ROOTS):
            yield from above
            return


def read(path: Path) -> Written:
    """Read a config file. Raises ConfigError for one that cannot be read or is no TOML."""
    return parsed(text_of(path), path)


def text_of(path: Path) -> str:
    """Return the text of a config file. Raises ConfigError for one that cannot be read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(f"{path} cannot be read ({reason}); correct it or take it away") from None


def parsed(text: str, path: Path) -> Written:
    """Return what a text in TOML holds. path: its file, for messages."""
    try:
        return Written(tomllib.loads(text), dict(_lines(text)))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML that can be read ({error}); correct it") from None


def _lines(text: str) -> Iterator[tuple[Keys, int]]:
    section: Keys = ()
    for number, line in enumerate(text.splitlines(), 1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header is not None:
            section = _split(header[1])
        elif key is not None:
            yield (*section, *_split(key[1])), number


def _split(dotted: str) -> Keys:
    return tuple(word.strip("\"'") for word in re.findall(_WORD, dotted))


# --- writing ------------------------------------------------------------------------------------------


def with_key(text: str, keys: Sequence[str], value: Any, path: Path) -> str:
    """Return a TOML text with one key set, or without it where the value is None; the rest as it was.

    Raises ConfigError where the text writes the key in a way that only its author can change.
    """
    *section, key = keys
    before = parsed(text, path).values
    wanted = _wanted(before, keys, value)
    lines = text.splitlines()
    place = next((n - 1 for where, n in _lines(text) if where == tuple(keys)), None)
    if place is not None:
        length, comment = _extent(lines[place:])
        before_value = lines[place].partition("=")[0].rstrip()
        new = f"{before_value} = {toml_of(value)}{comment}"
        lines[place : place + length] = [] if value is None else [new]
    elif value is not None:
        lines = _inserted(lines, section, f"{_bare(key)} = {toml_of(value)}")
    made = "\n".join(lines) + "\n"
    try:
        correct = tomllib.loads(made) == wanted
    except ValueError:
        correct = False
    if not correct:
        raise ConfigError(f"{path} writes {'.'.join(keys)} in a way of its own; change it there by hand")
    return made


def save(path: Path, text: str) -> None:
    """Write a config file whole; its folder is made. Raises RequestError where it cannot be written."""
    try:
        data = text.encode()
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it has letters that no text file holds"
        raise RequestError(f"{path} cannot be written ({reason}); see that its folder can be") from None
    with whole_file(path) as part:
        part.write_bytes(data)


def toml_of(value: Any) -> str:
    """Return a text, number, truth value or list of them as TOML."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_of, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else toml_of(key)


def _wanted(values: dict[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Return the values of a file with one key set, or without it where the value is None."""
    wanted = copy.deepcopy(values)
    place, (*section, key) = wanted, keys
    for name in section:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):  # which no command is
            return {}
    if value is None:
        place.pop(key, None)
    else:
        place[key] = list(value) if isinstance(value, tuple) else value
    return wanted


def _extent(lines: Sequence[str]) -> tuple[int, str]:
    """Return (number of lines of the first key's value, the comment behind it if it is a single one)."""
    for end in range(1, len(lines) + 1):
        try:
            value = tomllib.loads("\n".join(lines[:end]))
        except ValueError:
            continue
        return end, _comment(lines[0], value) if end == 1 else ""
    return len(lines), ""


def _comment(line: str, value: dict[str, Any]) -> str:
    for match in re.finditer(r"\s*#", line):
        try:
            if tomllib.loads(line[: match.start()]) == value:
                return line[match.start() :]
        except ValueError:
            continue
    return ""


def _inserted(lines: list[str], section: Sequence[str], new: str) -> list[str]:
    """Return lines with a new one at the end of its section, which is added if it is missing."""
    headers = [(i, _split(m[1])) for i, line in enumerate(lines) if (m := _HEADER.match(line))]
    begin = next((i for i, where in headers if where == tuple(section)), None)
    if section and begin is None:
        return [*lines, *([""] if lines else []), f"[{'.'.join(map(_bare, section))}]", new]
    end = next((i for i, _ in headers if begin is None or i > begin), len(lines))
    last = next((i for i in range(end, 0, -1) if lines[i - 1].strip()), 0)
    gap = [""] if end < len(lines) and last == end else []
    return [*lines[:last], new, *gap, *lines[last:]]
