"""Docstrings are plain: a first line that says what is done, and parameters described by a noun."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "soundstage"
ROOMS = sorted({path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")})

QUESTION = re.compile(r"(What|Where|Whether|How|Who|Which|Why|When)\b")
OF = re.compile(r"(^|[.;,]\s+|\n\s*)([a-z_]+, )*[a-z_]+: of ")
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(room: str) -> Iterator[tuple[str, str]]:
    """Yield (place, docstring) of everything in a room that has a docstring."""
    folder = PACKAGE / room
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.get_docstring(node) if isinstance(node, Documented) else None
            if text:
                place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 1)}"
                yield place, text


def riddles(room: str) -> list[str]:
    """Return the docstrings of a room that begin with a question word or describe a parameter as "of ..."."""
    found = []
    for place, text in docstrings(room):
        first = text.splitlines()[0]
        if QUESTION.match(first):
            found.append(f"{place}: {first}")
        found += [f"{place}: {match[0].strip()}..." for match in OF.finditer(text)]
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_are_plain(room: str) -> None:
    assert riddles(room) == []
