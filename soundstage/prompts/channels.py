"""Channel tags: the parts [VISUAL], [SPEECH] and [SOUNDS] of a prompt, as identity adapters know them.

[VISUAL]: A close-up of a woman who speaks in a park. [SPEECH]: Hello there. [SOUNDS]: Birds chirp.
"""

from __future__ import annotations

import re

from soundstage.errors import RequestError

NAMES = ("VISUAL", "SPEECH", "SOUNDS")
TAG = re.compile(r"\[(VISUAL|SPEECH|SOUNDS?|AUDIO)\]\s*:?", re.IGNORECASE)


def channels(visual: str = "", speech: str = "", sounds: str = "") -> str:
    """Return one prompt of the channels that have words, each behind its tag.

    visual: what is seen, which should say who speaks. speech: the words that are said. sounds: how the voice
    sounds, and what else is heard. Raises RequestError for a prompt without words, or with tags in its parts.
    """
    parts = {
        name: " ".join(words.split()) for name, words in zip(NAMES, (visual, speech, sounds), strict=True)
    }
    for name, words in parts.items():
        tag = TAG.search(words)
        if tag is not None:
            raise RequestError(
                f"{name.lower()} holds the tag {tag[0]}; give the words of each channel alone",
                field=name.lower(),
            )
    if not any(parts.values()):
        raise RequestError("no channel has words; give visual, speech or sounds")
    return " ".join(f"[{name}]: {words}" for name, words in parts.items() if words)
