"""Soundstage: film with synchronized sound from prompts, images, audio and video.

Names are imported on first use, so that `import soundstage` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Clip": "soundstage.clip",
    "Done": "soundstage.engine",
    "Engine": "soundstage.engine",
    "Phase": "soundstage.engine",
    "Plan": "soundstage.plan",
    "Request": "soundstage.request",
    "SoundstageError": "soundstage.errors",
    "Step": "soundstage.engine",
    "load": "soundstage.engine",
}

__all__ = [
    "Clip",
    "Done",
    "Engine",
    "Phase",
    "Plan",
    "Request",
    "SoundstageError",
    "Step",
    "__version__",
    "load",
]

if TYPE_CHECKING:
    from soundstage.clip import Clip
    from soundstage.engine import Done, Engine, Phase, Step, load
    from soundstage.errors import SoundstageError
    from soundstage.plan import Plan
    from soundstage.request import Request


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'soundstage' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
