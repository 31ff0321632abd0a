"""Fonts for lettering: the one that is asked for, and others of this machine for the letters that it lacks.

A letter that a font lacks is drawn as its box. Whether it does is seen by drawing it: Pillow reads no tables.
"""

from __future__ import annotations

import functools
import os
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from soundstage.errors import MediaError

USUAL_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")
OWN_FONT = ""  # key of Pillow's own font
ENDINGS = (".ttf", ".otf", ".ttc")
TRIED_PX = 24  # size in which letters are compared with the box
NO_LETTER = "\U0010ffff"  # that no font has
MOST_FONTS = 2000  # that are looked at
JOINED = ("M", "C", "Z")  # categories of Unicode that need no letter of their own: marks, controls, spaces
BOXES_ALONE = "lastresort"  # a font that has a box for every letter


@dataclass(frozen=True)
class LackedLetters:
    """Letters that a font lacks. font: its name. used: the font that has them; None where boxes are drawn."""

    letters: str
    font: str
    used: str | None

    def told(self) -> str:
        """Return it as a sentence without a beginning."""
        lacks = f"{self.font} lacks {' '.join(self.letters)}"
        if self.used is not None:
            return f"{lacks}; {self.used} is used for them"
        return (
            f"{lacks}, as do all fonts that were found here, so boxes are drawn; install a font that has "
            "them, such as one of Noto"
        )


class FontStack:
    """A font of so many pixels, with others of this machine for the letters that it lacks.

    path: None is the usual font. Raises MediaError for a file that is no font.
    """

    def __init__(self, path: Path | None, size: int) -> None:
        self._first = _usual_font() if path is None else str(path)
        self._size = size
        try:
            _opened(self._first, size)
        except OSError as error:
            raise MediaError(f"font is {path}, which is no font that can be read ({error})") from error

    def getlength(self, text: str) -> float:
        """Return the width of a text in pixels."""
        return sum((float(self._font(key).getlength(part)) for key, part in self._runs(text)), 0.0)

    def draw(self, canvas: Any, at: tuple[float, float], text: str, **options: Any) -> None:
        """Draw a text. canvas: Pillow's. at: its left end, and its middle from the top. options: Pillow's."""
        left, middle = at
        for key, part in self._runs(text):
            font = self._font(key)
            canvas.text((left, middle), part, font=font, anchor="lm", **options)
            left += font.getlength(part)

    def lacked(self, text: str) -> list[LackedLetters]:
        """Return the letters of a text that the first font lacks, by what is used for them."""
        found: dict[str | None, str] = {}
        for letter in dict.fromkeys(text):
            if not _needs_none(letter) and not _has(self._first, letter):
                key = _other_font(letter)
                found[key] = found.get(key, "") + letter
        name = _name(self._first)
        return [
            LackedLetters(letters, name, None if key is None else _name(key))
            for key, letters in found.items()
        ]

    def _font(self, key: str) -> Any:
        return _opened(key, self._size)

    def _runs(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield the parts of a text that are drawn in one font, with its key."""
        key, keyed = self._first, []
        for letter in text:
            if not _needs_none(letter):
                key = self._first if _has(self._first, letter) else _other_font(letter) or self._first
            keyed.append((key, letter))
        for own, part in groupby(keyed, key=lambda one: one[0]):
            yield own, "".join(letter for _, letter in part)


def _needs_none(letter: str) -> bool:
    return unicodedata.category(letter)[0] in JOINED


@functools.lru_cache(maxsize=64)
def _opened(key: str, size: int) -> Any:
    """Return a font by its file. Raises OSError for one that is none, or has no letters of this size."""
    from PIL import ImageFont

    return ImageFont.load_default(size) if key == OWN_FONT else ImageFont.truetype(key, size)


@functools.cache
def _usual_font() -> str:
    for name in USUAL_FONTS:
        try:
            _opened(name, TRIED_PX)
        except OSError:
            continue
        return name
    return OWN_FONT


def _name(key: str) -> str:
    family, _ = _opened(key, TRIED_PX).getname()
    return family or Path(key).name or "Pillow's own font"


@functools.lru_cache(maxsize=10_000)
def _has(key: str, letter: str) -> bool:
    """Return whether a font has a letter, which then looks unlike its box."""
    return _picture(key, letter) != _picture(key, NO_LETTER)


@functools.lru_cache(maxsize=10_000)
def _picture(key: str, letter: str) -> tuple[Any, bytes]:
    mask, offset = _opened(key, TRIED_PX).getmask2(letter, mode="L")
    return (mask.size, offset), bytes(mask)


@functools.lru_cache(maxsize=10_000)
def _other_font(letter: str) -> str | None:
    """Return the first font of this machine that has a letter; None where none has."""
    for key in _fonts_here():
        try:
            if _has(key, letter):
                return key
        except (OSError, ValueError):  # damaged, or of pictures in one size
            continue
    return None


@functools.cache
def _fonts_here() -> tuple[str, ...]:
    """Return the files of the fonts of this machine: upright ones of usual weight first."""
    found = [
        os.path.join(folder, name)
        for root in _font_folders()
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(ENDINGS) and not name.lower().startswith(BOXES_ALONE)
    ]
    return tuple(sorted(found, key=_plainness)[:MOST_FONTS])


def _plainness(path: str) -> tuple[bool, bool, bool, str]:
    name = Path(path).stem.lower()
    odd = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "condensed")
    return any(word in name for word in odd), "serif" in name, "sans" not in name, path


def _font_folders() -> list[str]:
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        return [os.path.join(os.environ.get("WINDIR", r"C:\Windows"), "Fonts")]
    if sys.platform == "darwin":
        return [os.path.join(home, "Library/Fonts"), "/Library/Fonts", "/System/Library/Fonts"]
    return [
        os.path.join(home, ".fonts"),
        os.path.join(home, ".local/share/fonts"),
        "/usr/local/share/fonts",
        "/usr/share/fonts",
    ]
