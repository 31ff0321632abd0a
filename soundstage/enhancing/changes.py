"""Changes between two prompts, word by word."""

from __future__ import annotations

import difflib
import re
from typing import Literal, NamedTuple

ChangeKind = Literal["same", "removed", "added"]


class WordChange(NamedTuple):
    """Words that stayed, were taken out or put in."""

    kind: ChangeKind
    text: str


def word_changes(before: str, after: str) -> list[WordChange]:
    """Return the words of both prompts in order, each run of words with what happened to it."""
    old, new = re.findall(r"\S+", before), re.findall(r"\S+", after)
    found: list[WordChange] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            found.append(WordChange("same", " ".join(old[a:b])))
            continue
        if b > a:
            found.append(WordChange("removed", " ".join(old[a:b])))
        if d > c:
            found.append(WordChange("added", " ".join(new[c:d])))
    return found
