"""The settings of a kind of reference: their defaults, their ranges, and how the words for them are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from soundstage.errors import RequestError, listed, shown

Value = float | int | str
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "green": (0, 255, 0),
    "canvas-green": (102, 255, 0),  # of the official adapters for what is painted in or around
    "grey": (128, 128, 128),
}


@dataclass(frozen=True)
class Setting:
    """A setting by name.

    low, high: range of a number. choices: the words that it takes. numbers: how many numbers a text
    holds, such as the 4 of a box. colour: a text is a colour's name or its six hexadecimal digits.
    """

    default: Value
    about: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    colour: bool = False

    def checked(self, name: str, value: Any) -> Value:
        """Return a value, or the text for it, in the setting's own type. Raises RequestError."""
        if isinstance(self.default, str):
            return self._text(name, value)
        return self._number(name, value)

    def _text(self, name: str, value: Any) -> str:
        text = str(value).strip()
        if self.choices and text not in self.choices:
            raise refused(f"{name} is {shown(value)}; give one of {listed(text, self.choices)}")
        if self.colour and (text or self.default):
            colour(text, name)
        if self.numbers and text:
            found = numbers(text, name)
            if len(found) not in self.numbers:
                wanted = " or ".join(map(str, self.numbers))
                raise refused(f"{name} has {len(found)} numbers; give {wanted} with spaces between them")
        return text

    def _number(self, name: str, value: Any) -> float | int:
        whole = isinstance(self.default, int)
        try:
            number = float(value)
            wrong = isinstance(value, bool) or not abs(number) < 1e12 or (whole and number != int(number))
        except (TypeError, ValueError):
            wrong = True
        if wrong:
            raise refused(f"{name} is {shown(value)}; give a {'whole ' if whole else ''}number")
        if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
            raise refused(f"{name} is {number:g}; give {self.range}")
        return int(number) if whole else number

    @property
    def range(self) -> str:
        """Return what the setting takes, in words; empty for any text."""
        if self.choices:
            return ", ".join(self.choices)
        if self.colour:
            return f"{', '.join(COLOURS)}, or six hexadecimal digits"
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return "" if self.low is None else f"{self.low:g} or more"


def refused(sentence: str) -> RequestError:
    """Return the error for a control that cannot be prepared as asked."""
    return RequestError(sentence, field="controls")


def completed(kind: str, known: Mapping[str, Setting], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a kind, those given checked, the others at their defaults."""
    for name in given:
        if name not in known:
            takes = f"it takes {listed(name, known)}" if known else "it has no settings"
            raise refused(f"control '{kind}' has no setting {shown(name)}; {takes}")
    return {
        name: setting.checked(f"{name} of control '{kind}'", given.get(name, setting.default))
        for name, setting in known.items()
    }


def check_unused(known: Mapping[str, Setting], given: Mapping[str, Any], names: str, why: str) -> None:
    """Raise RequestError for a setting that is given and would change nothing. names: with spaces between."""
    for name in names.split():
        if given[name] != known[name].default:
            raise refused(f"{name} is {given[name]}, and {why}; leave it out")


def numbers(text: str, name: str) -> list[float]:
    """Read numbers with spaces or slashes between them."""
    try:
        found = [float(part) for part in re.split(r"[\s/]+", text.strip()) if part]
        if all(abs(number) < 1e6 for number in found):
            return found
        raise ValueError
    except ValueError:
        raise refused(f"{name} is {shown(text)}; give numbers with spaces between them") from None


def colour(text: str, name: str) -> tuple[int, int, int]:
    """Return a colour as red, green and blue from 0 to 255."""
    if text in COLOURS:
        return COLOURS[text]
    digits = text.removeprefix("#")
    if not re.fullmatch(r"[0-9a-fA-F]{6}", digits):
        known = listed(text, COLOURS)
        raise refused(f"{name} is {shown(text)}; give {known}, or six hexadecimal digits such as ff00ff")
    value = int(digits, 16)
    return (value >> 16, value >> 8 & 255, value & 255)


def told(known: Mapping[str, Setting]) -> Iterator[str]:
    """Yield a line for each setting: its name with the default, what it does, and its range."""
    for name, setting in known.items():
        within = f" ({setting.range})" if setting.range else ""
        default = f"={setting.default}" if setting.default != "" else ""
        yield f"{name}{default}: {setting.about}{within}"


def seeded(what: str = "drawn values") -> dict[str, Setting]:
    """Return the setting of a seed. what: drawn from it."""
    return {"seed": Setting(0, f"seed of the {what}", 0, 2**31 - 1)}


def whole_texts(names: Iterable[str]) -> str:
    """Return names for a sentence, "mask and model"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
