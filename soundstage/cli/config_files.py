"""Config files: where they are, what they hold, and one key of theirs written while the rest stays as it is.

The project's is `soundstage.toml` in the current folder or one above it, the user's `config.toml` beside
their recipes. SOUNDSTAGE_CONFIG names another in place of the user's, or is off.
"""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import ConfigError, RequestError
from soundstage.files import whole_file

VARIABLE, OFF = "SOUNDSTAGE_CONFIG", "off"
USER_NAME, PROJECT_NAME = "config.toml", "soundstage.toml"
ROOTS = (".git", ".hg")  # what the root of a repository holds
MAX_BYTES = 2**20  # of a file
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
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(f"{path} cannot be read ({reason}); correct it or take it away") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES >> 20} MB, so it is no config file; move it")
    return text


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


def with_key(text: str, keys: Keys, value: Any, path: Path) -> str:
    """Return a TOML text with one key set, or without it where the value is None; the rest as it was.

    Raises ConfigError where one of the sections is something else, such as a list of tables.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    *sections, key = keys
    before = parsed(text, path).values
    try:
        document = tomlkit.parse(text)
        changed = _within(document, sections, tomlkit.table)
        if value is None:
            del changed[key]
        else:
            changed[key] = value
        made = tomlkit.dumps(document)
        as_wanted = _filled(tomllib.loads(made)) == _filled(_wanted(before, keys, value))
    except (TOMLKitError, TypeError, ValueError, AttributeError):
        as_wanted = False
    if not as_wanted:
        raise ConfigError(f"{path} writes {'.'.join(keys)} in a way of its own; change it there by hand")
    return made


def _wanted(before: dict[str, Any], keys: Keys, value: Any) -> dict[str, Any]:
    """Return the values of a file with one key set, or without it where the value is None."""
    wanted = copy.deepcopy(before)
    place = _within(wanted, keys[:-1], dict)
    if value is None:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return wanted


def _filled(values: Any) -> Any:
    """Return the values of a file without empty sections, which mean nothing."""
    if not isinstance(values, dict):
        return values
    return {name: filled for name, value in values.items() if (filled := _filled(value)) != {}}


def _within(values: Any, sections: Sequence[str], empty: Callable[[], Any]) -> Any:
    """Return the section of a file's values, which is added if it is missing."""
    for name in sections:
        values = values.setdefault(name, empty())
    return values


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
    """Return a text, number, truth value, date or list of them as TOML."""
    import tomlkit

    text: str = tomlkit.item(value).as_string()
    return text
