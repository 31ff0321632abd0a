"""Soundstage: film with synchronized sound from prompts, images, audio and video.

Names are imported on first use, so that `import soundstage` loads no torch.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # type checkers take it for that of typing, which takes milliseconds to load

__version__ = "0.1.0"

_HOMES = {
    "Audio": "soundstage.inputs",
    "Canvas": "soundstage.inputs",
    "Clip": "soundstage.clip",
    "Continuous": "soundstage.continuous",
    "Done": "soundstage.engine",
    "Engine": "soundstage.engine",
    "Guide": "soundstage.inputs",
    "LTXVideoPipeline": "soundstage.pipeline",
    "Lora": "soundstage.inputs",
    "LoraAttached": "soundstage.engine",
    "Notice": "soundstage.engine",
    "Pacer": "soundstage.continuous",
    "Pass": "soundstage.recipe",
    "Phase": "soundstage.engine",
    "Plan": "soundstage.plan",
    "Preview": "soundstage.engine",
    "Recipe": "soundstage.recipe",
    "Reference": "soundstage.inputs",
    "Relay": "soundstage.prompts.timeline",
    "Request": "soundstage.request",
    "SoundstageError": "soundstage.errors",
    "Source": "soundstage.inputs",
    "Span": "soundstage.inputs",
    "Step": "soundstage.engine",
    "Take": "soundstage.long_take.windows",
    "load": "soundstage.engine",
}

__all__ = [
    "Audio",
    "Canvas",
    "Clip",
    "Continuous",
    "Done",
    "Engine",
    "Guide",
    "LTXVideoPipeline",
    "Lora",
    "LoraAttached",
    "Notice",
    "Pacer",
    "Pass",
    "Phase",
    "Plan",
    "Preview",
    "Recipe",
    "Reference",
    "Relay",
    "Request",
    "SoundstageError",
    "Source",
    "Span",
    "Step",
    "Take",
    "__version__",
    "load",
]

if TYPE_CHECKING:
    from typing import Any

    from soundstage.clip import Clip
    from soundstage.continuous import Continuous, Pacer
    from soundstage.engine import Done, Engine, LoraAttached, Notice, Phase, Preview, Step, load
    from soundstage.errors import SoundstageError
    from soundstage.inputs import Audio, Canvas, Guide, Lora, Reference, Source, Span
    from soundstage.long_take.windows import Take
    from soundstage.pipeline import LTXVideoPipeline
    from soundstage.plan import Plan
    from soundstage.prompts.timeline import Relay
    from soundstage.recipe import Pass, Recipe
    from soundstage.request import Request


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'soundstage' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
