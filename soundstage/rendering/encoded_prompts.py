"""Turn the prompts of a plan into contexts: from the cache of encodings, or encoded and kept there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from soundstage.planning.plan import PassPlan, Plan
from soundstage.rendering.embeddings import read_contexts
from soundstage.rendering.encoding_cache import EncodingCache, content_key
from soundstage.rendering.events import At, unseen
from soundstage.rendering.finite import checked
from soundstage.rendering.parts import ModelParts
from soundstage.sampling.guidance import Contexts


def encoded_prompts(
    parts: ModelParts, plan: Plan, pass_: PassPlan, cache: EncodingCache, at: At = unseen
) -> tuple[list[Contexts], Contexts | None]:
    """Return one pair of contexts per segment of the prompt, and one for the negative prompts if any.

    A file of embeddings stands for the prompt. All else is encoded with the pass's LoRAs on, which may change
    the connectors. at: is told when prompts have to be read by the model.
    """
    parts.adapt(pass_.loras, None, None)
    given = plan.request.embeddings
    texts = () if given is not None else plan.timeline.texts
    negatives = [text for text in (plan.video_negative, plan.audio_negative) if text is not None]
    contexts = _encoded(parts, [*texts, *negatives], cache, at)
    negative = _negative(contexts, plan.video_negative, plan.audio_negative) if negatives else None
    if given is not None:
        return [read_contexts(given, parts)], negative
    return [contexts[text] for text in texts], negative


def _encoded(
    parts: ModelParts, prompts: Sequence[str], cache: EncodingCache, at: At
) -> Mapping[str, Contexts]:
    """Return contexts by prompt. The text encoder is not built if the cache has all of them."""
    reader = parts.identity("text")
    keys = {prompt: content_key("prompt", prompt.strip(), *reader) for prompt in prompts}
    kept = {prompt: cache.get(key, parts.device) for prompt, key in keys.items()}
    found = {prompt: Contexts(**tensors) for prompt, tensors in kept.items() if tensors is not None}
    new = [prompt for prompt in keys if prompt not in found]
    if new:
        at("text encoder")
        with torch.no_grad():
            found.update(zip(new, parts.encode(new), strict=True))
    for prompt in new:
        tensors = {"video": found[prompt].video, "audio": found[prompt].audio}
        cache.put(keys[prompt], {name: _finite(x, parts) for name, x in tensors.items()})
    return found


def _finite(context: Tensor | None, parts: ModelParts) -> Tensor:
    """Return a new context. Raises NotFiniteError if some values of it are not finite."""
    assert context is not None
    return checked(context, "the prompt, as the text encoder reads it,", parts)


def _negative(contexts: Mapping[str, Contexts], video: str | None, audio: str | None) -> Contexts:
    """Return one pair of contexts in which each modality has its own text."""
    return Contexts(
        None if video is None else contexts[video].video, None if audio is None else contexts[audio].audio
    )
