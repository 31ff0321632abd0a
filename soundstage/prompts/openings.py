"""Openings of prompts and captions that say nothing: "The video shows", "The scene opens with"."""

from __future__ import annotations

import re

FEW_WORDS = 4
NOUN = r"(the|this) (video|clip|image|picture|footage|scene|film|movie|photo|frame)s?( clip)?"
SAYS = (
    r"(shows?|depicts?|features?|presents?|captures?|displays?|is of|(begins|opens|starts) (with|on|in|to))"
)
# Every caption would teach them, and in a prompt they take words from what is seen.
OPENING = re.compile(
    rf"^(here('s| is)( a| the)? (caption|description|prompt)\b[^:]*:\s*|{NOUN},? {SAYS}[:,]?\s+"
    rf"|in {NOUN},?\s+((we|you)( can)? see\s+)?|(now |here )?(we|you)( can)? see\s+|sure[,!.:]\s*"
    r"|certainly[,!.:]\s*)",
    re.IGNORECASE,
)


def without_boilerplate(text: str) -> str:
    """Return a caption or prompt without openings that say nothing, its first letter large."""
    return without_opening(" ".join(text.strip().strip('"*').split()))


def without_opening(text: str) -> str:
    """Return a text without such openings, the rest letter by letter but for a capital at the beginning."""
    before = ""
    while before != text:
        before = text
        rest = OPENING.sub("", text, count=1)
        if len(rest.split()) < FEW_WORDS:
            break
        text = rest[:1].upper() + rest[1:]
    return text
