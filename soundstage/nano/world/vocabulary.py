"""Write vocabulary.json: every word of the world's captions, and a few of each kind as examples.

python -m soundstage.nano.world.vocabulary        # writes vocabulary.json beside the shipped weights
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from soundstage.library.model_files import SHIPPED_MODELS
from soundstage.nano.world.captions import (
    AMBIENCE_WORDS,
    COLOR_WORDS,
    PLACE_WORDS,
    SHAPE_WORDS,
    caption,
)
from soundstage.nano.world.scene import BUCKETS, draw_scene
from soundstage.prompts.vocabulary import FILE
from soundstage.types import VideoShape

NUM_CAPTIONS = 2000  # the last new word of 20,000 captions comes with number 291
# One wording of each: what users are told in a hint.
ACTIONS = ("bounces", "rolls", "slides", "circles", "swings", "grows", "blinks", "rests", "collides")
SOUNDS = ("a thud", "a rumble", "a chime", "a click", "a voice")
PLACES = {"day": 1, "night": 0, "fog": 0, "wood": 0, "grid": 0, "gradient": 0}  # which of PLACE_WORDS


def vocabulary() -> dict[str, Any]:
    """Return what vocabulary.json holds: the same on every machine."""
    width, height = BUCKETS["square"]
    words: set[str] = set()
    for seed in range(NUM_CAPTIONS):
        scene = draw_scene(seed, VideoShape(49, height, width))
        words.update(_words(caption(scene, full=seed % 2 == 0)))
    examples = {
        "colors": [COLOR_WORDS[color][0] for color in COLOR_WORDS],
        "shapes": [SHAPE_WORDS[shape][0] for shape in SHAPE_WORDS],
        "actions": list(ACTIONS),
        "sounds": [*(AMBIENCE_WORDS[sound][0] for sound in AMBIENCE_WORDS), *SOUNDS],
        "places": [PLACE_WORDS[place][number] for place, number in PLACES.items()],
    }
    return {"words": sorted(words), "examples": examples}


def write_vocabulary(folder: Path) -> Path:
    """Write vocabulary.json into a model folder and return its path."""
    path = folder / FILE
    path.write_text(json.dumps(vocabulary(), indent=1) + "\n", encoding="utf-8")
    return path


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:-[a-z]+)*", re.sub(r"\[[^\]]*\]", " ", text.lower()))


if __name__ == "__main__":
    print(write_vocabulary(SHIPPED_MODELS["nano"]))
