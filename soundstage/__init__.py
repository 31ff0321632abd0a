"""Soundstage: film with synchronized sound from prompts, images, audio and video.

    import soundstage as ss

    stage = ss.load("nano")                                                  # an Engine
    clip = stage.generate("A red ball bounces.", duration_s=1, seed=7)       # a Clip: a player in a notebook
    clip.save("ball.mp4")                                                    # or .gif, .webm, .wav, frames/
    help(ss.Request)                                                         # all that `generate` takes

Names are imported on first use, so that `import soundstage` loads no torch.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # type checkers take it for that of typing, which takes milliseconds to load

__version__ = "0.1.0"

_HOMES = {
    "Asked": "soundstage.review.record",
    "AsyncClient": "soundstage.client.client",
    "Audio": "soundstage.request.inputs",
    "Canvas": "soundstage.request.inputs",
    "Client": "soundstage.client.client",
    "Clip": "soundstage.clip",
    "ConfigError": "soundstage.errors",
    "Control": "soundstage.request.inputs",
    "Continuous": "soundstage.continuous",
    "DatasetError": "soundstage.errors",
    "Done": "soundstage.rendering.events",
    "Engine": "soundstage.engine",
    "Guide": "soundstage.request.inputs",
    "Handle": "soundstage.rendering.handle",
    "Hdr": "soundstage.media.hdr",
    "LTX2ConditionPipeline": "soundstage.compat.diffusers",
    "LTX2ImageToVideoPipeline": "soundstage.compat.diffusers",
    "LTX2InContextPipeline": "soundstage.compat.diffusers",
    "LTX2LatentUpsamplePipeline": "soundstage.compat.diffusers",
    "LTX2Pipeline": "soundstage.compat.diffusers",
    "LTXConditionPipeline": "soundstage.compat.diffusers",
    "LTXImageToVideoPipeline": "soundstage.compat.diffusers",
    "LTXLatentUpsamplePipeline": "soundstage.compat.diffusers",
    "LTXPipeline": "soundstage.compat.diffusers",
    "LTXVideoPipeline": "soundstage.compat.diffusers",
    "Lora": "soundstage.request.inputs",
    "LoraAttached": "soundstage.rendering.events",
    "MediaError": "soundstage.errors",
    "MissingExtraError": "soundstage.errors",
    "NotFiniteError": "soundstage.errors",
    "Notice": "soundstage.rendering.events",
    "Pacer": "soundstage.continuous",
    "Pass": "soundstage.request.recipe",
    "Phase": "soundstage.rendering.events",
    "Plan": "soundstage.planning.plan",
    "Preview": "soundstage.rendering.events",
    "Progress": "soundstage.rendering.progress",
    "Recipe": "soundstage.request.recipe",
    "Reference": "soundstage.request.inputs",
    "Relay": "soundstage.prompts.timeline",
    "Request": "soundstage.request.request",
    "RequestError": "soundstage.errors",
    "Review": "soundstage.review.record",
    "Script": "soundstage.production.script",
    "ServerError": "soundstage.errors",
    "SoundstageError": "soundstage.errors",
    "SoundPolicy": "soundstage.review.policy",
    "Source": "soundstage.request.inputs",
    "Speaker": "soundstage.request.inputs",
    "Span": "soundstage.request.inputs",
    "Step": "soundstage.rendering.events",
    "Take": "soundstage.request.take",
    "WeightsError": "soundstage.errors",
    "compose_prompt": "soundstage.prompts.compose:compose",
    "convert": "soundstage.conversion",
    "enhance_prompt": "soundstage.enhancing.enhance:enhance",
    "import_workflow": "soundstage.compat.comfy.workflow",
    "lint_prompt": "soundstage.prompts.lint:lint",
    "load": "soundstage.engine",
    "pick_take": "soundstage.production.producing",
    "prepare_control": "soundstage.steering",
    "produce": "soundstage.production.producing",
    "read_script": "soundstage.production.reading",
    "review_clip": "soundstage.review.reviewing",
    "shot_requests": "soundstage.production.shots",
    "verify_film": "soundstage.production.manifest",
}

__all__ = [
    "Asked",
    "AsyncClient",
    "Audio",
    "Canvas",
    "Client",
    "Clip",
    "ConfigError",
    "Continuous",
    "Control",
    "DatasetError",
    "Done",
    "Engine",
    "Guide",
    "Handle",
    "Hdr",
    "LTX2ConditionPipeline",
    "LTX2ImageToVideoPipeline",
    "LTX2InContextPipeline",
    "LTX2LatentUpsamplePipeline",
    "LTX2Pipeline",
    "LTXConditionPipeline",
    "LTXImageToVideoPipeline",
    "LTXLatentUpsamplePipeline",
    "LTXPipeline",
    "LTXVideoPipeline",
    "Lora",
    "LoraAttached",
    "MediaError",
    "MissingExtraError",
    "NotFiniteError",
    "Notice",
    "Pacer",
    "Pass",
    "Phase",
    "Plan",
    "Preview",
    "Progress",
    "Recipe",
    "Reference",
    "Relay",
    "Request",
    "RequestError",
    "Review",
    "Script",
    "ServerError",
    "SoundPolicy",
    "SoundstageError",
    "Source",
    "Span",
    "Speaker",
    "Step",
    "Take",
    "WeightsError",
    "__version__",
    "compose_prompt",
    "convert",
    "enhance_prompt",
    "import_workflow",
    "lint_prompt",
    "load",
    "pick_take",
    "prepare_control",
    "produce",
    "read_script",
    "review_clip",
    "shot_requests",
    "verify_film",
]

if TYPE_CHECKING:
    from typing import Any

    from soundstage.client.client import AsyncClient, Client
    from soundstage.clip import Clip
    from soundstage.compat.comfy.workflow import import_workflow
    from soundstage.compat.diffusers import (
        LTX2ConditionPipeline,
        LTX2ImageToVideoPipeline,
        LTX2InContextPipeline,
        LTX2LatentUpsamplePipeline,
        LTX2Pipeline,
        LTXConditionPipeline,
        LTXImageToVideoPipeline,
        LTXLatentUpsamplePipeline,
        LTXPipeline,
        LTXVideoPipeline,
    )
    from soundstage.continuous import Continuous, Pacer
    from soundstage.conversion import convert
    from soundstage.engine import Engine, load
    from soundstage.enhancing.enhance import enhance as enhance_prompt
    from soundstage.errors import (
        ConfigError,
        DatasetError,
        MediaError,
        MissingExtraError,
        NotFiniteError,
        RequestError,
        ServerError,
        SoundstageError,
        WeightsError,
    )
    from soundstage.media.hdr import Hdr
    from soundstage.planning.plan import Plan
    from soundstage.production.manifest import verify_film
    from soundstage.production.producing import pick_take, produce
    from soundstage.production.reading import read_script
    from soundstage.production.script import Script
    from soundstage.production.shots import shot_requests
    from soundstage.prompts.compose import compose as compose_prompt
    from soundstage.prompts.lint import lint as lint_prompt
    from soundstage.prompts.timeline import Relay
    from soundstage.rendering.events import Done, LoraAttached, Notice, Phase, Preview, Step
    from soundstage.rendering.handle import Handle
    from soundstage.rendering.progress import Progress
    from soundstage.request.inputs import (
        Audio,
        Canvas,
        Control,
        Guide,
        Lora,
        Reference,
        Source,
        Span,
        Speaker,
    )
    from soundstage.request.recipe import Pass, Recipe
    from soundstage.request.request import Request
    from soundstage.request.take import Take
    from soundstage.review.policy import SoundPolicy
    from soundstage.review.record import Asked, Review
    from soundstage.review.reviewing import review_clip
    from soundstage.steering import prepare_control


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'soundstage' has no attribute {name!r}")
    module, _, own = _HOMES[name].partition(":")  # own: its name there, where that is another
    return getattr(importlib.import_module(module), own or name)


def __dir__() -> list[str]:
    return __all__
