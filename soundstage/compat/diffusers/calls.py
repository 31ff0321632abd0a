"""The words of one call as requests, one for each clip it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soundstage.compat.diffusers.conditions import guides_of, in_conditions, references_of
from soundstage.compat.diffusers.given import GivenLatents, given_latents
from soundstage.compat.diffusers.telling import entries, number, numbers, whole
from soundstage.errors import RequestError, shown
from soundstage.planning.plan import Plan
from soundstage.request.defaults import Defaults
from soundstage.request.inputs import Lora
from soundstage.request.request import Request
from soundstage.sampling.schedules import partial

MAX_SEED = 2**63 - 1

# Words of a call that are a request's fields by another name.
FIELDS = {
    "negative_prompt": "negative_prompt",
    "num_frames": "num_frames",
    "frame_rate": "fps",
    "num_inference_steps": "steps",
    "sigmas": "sigmas",
    "guidance_scale": "video_guidance",
    "audio_guidance_scale": "audio_guidance",
}
# Words of a call that are guidance of one modality: which, and the name in sampling.scales.Scales.
SCALES = {
    "stg_scale": ("video_scales", "stg"),
    "modality_scale": ("video_scales", "modality"),
    "guidance_rescale": ("video_scales", "rescale"),
    "audio_stg_scale": ("audio_scales", "stg"),
    "audio_modality_scale": ("audio_scales", "modality"),
    "audio_guidance_rescale": ("audio_scales", "rescale"),
}
OWN_GUIDANCE = ("guidance", "video_guidance", "audio_guidance", "stg", "modality_guidance", "rescale")
BLOCKS = "spatio_temporal_guidance_blocks"
OFF: Mapping[str, Any] = {
    "guidance": 1.0,
    "video_scales": {"stg": 0, "modality": 1},
    "audio_scales": {"stg": 0, "modality": 1},
}


@dataclass(frozen=True)
class ClipCall:
    """One clip of a call. given: latents it starts from."""

    request: Request
    given: GivenLatents | None = None
    denoise_strength: float | None = None

    def started(self, plan: Plan) -> Plan:
        """Return the request's plan, which starts from the given latents where there are some.

        Raises RequestError for latents that the plan has no place for.
        """
        if self.given is None:
            return plan
        first = replace(plan.passes[0], start="previous")
        if self.denoise_strength is not None:
            first = replace(first, sigmas=partial(first.sigmas, strength=self.denoise_strength))
        self.given.check(plan, first)
        return replace(plan, passes=(first, *plan.passes[1:]))


def clip_calls(
    words: Mapping[str, Any], defaults: Defaults, loras: Sequence[Lora], scheduler: Mapping[str, Any]
) -> list[ClipCall]:
    """Return one call for each prompt and each of its takes.

    words: the arguments of a call that are given, checked. scheduler: fields that the pipeline's scheduler
    sets. Raises RequestError for values that do not fit each other.
    """
    words = in_conditions(words)
    prompts = _texts(words.get("prompt"), "prompt")
    takes = whole(words.get("num_videos_per_prompt", 1), "num_videos_per_prompt")
    if takes < 1:
        raise RequestError(f"num_videos_per_prompt is {takes}; give a whole number, 1 or more")
    count = len(prompts) * takes
    seeds = seeds_of(words.get("generator"), words.get("seed"), count)
    negatives = _for_each(words.get("negative_prompt"), len(prompts), "negative_prompt")
    images = _images(words.get("image"), len(prompts))
    given = given_latents(words, count)
    fields = {**scheduler, **call_fields({k: v for k, v in words.items() if k not in APART})}
    fields.setdefault("loras", list(loras))
    if "sigmas" in fields:
        fields.pop("schedule", None)
    if not _is_guided(fields, defaults):
        negatives = [None] * len(prompts)
    denoise = words.get("denoise_strength")
    denoise = None if denoise is None else number(denoise, "denoise_strength")
    calls = []
    for i in range(count):
        own = _shaped(words, given[i])
        one = {**fields, **size_of(words), **own, "prompt": prompts[i // takes], "seed": seeds[i]}
        if negatives[i // takes] is not None:
            one["negative_prompt"] = negatives[i // takes]
        length = one.get("num_frames") or defaults.num_frames
        guides = guides_of(words, images[i // takes], length)
        if guides:
            one["guides"] = [*guides, *one.get("guides", ())]
        if words.get("reference_conditions") is not None:
            one["references"] = references_of(words)
        calls.append(ClipCall(Request(**one), given[i], denoise))
    return calls


# Words that are read one by one, not as fields.
APART = frozenset({
    "prompt", "negative_prompt", "num_videos_per_prompt", "generator", "seed", "latents", "audio_latents",
    "width", "height", "image", "image_crf", "video", "frame_index", "strength", "conditions",
    "reference_conditions", "reference_downscale_factor", "conditioning_attention_strength",
    "conditioning_attention_mask", "noise_scale", "denoise_strength", "attention_kwargs",
})  # fmt: skip


def call_fields(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as fields of a Request; None means not given."""
    fields: dict[str, Any] = {}
    scales: dict[str, dict[Any, Any]] = {"video_scales": {}, "audio_scales": {}}
    for name, value in words.items():
        if value is None:
            continue
        if name in SCALES:
            record, key = SCALES[name]
            scales[record][key] = value if isinstance(value, Mapping) else number(value, name)
        elif name == BLOCKS:
            for record in scales:
                scales[record]["stg_blocks"] = tuple(entries(value, name))
        elif name in scales and isinstance(value, Mapping):
            scales[name].update(value)
        elif name in ("guidance_scale", "audio_guidance_scale"):
            fields[FIELDS[name]] = number(value, name)
        elif name in FIELDS or name in Request.model_fields:
            fields[FIELDS.get(name, name)] = value
    fields |= {name: value for name, value in scales.items() if value}
    fields |= _sigmas(words)
    return _unguided(fields)


def seeds_of(generator: Any, seed: Any, count: int) -> list[int]:
    """Return the seeds of a call's clips.

    A fresh generator gives its own seed, then seeds drawn from it; one that was used before gives drawn ones
    only, and so do PyTorch's own random numbers where nothing is given. A seed counts up.
    """
    if seed is not None and generator is not None:
        raise RequestError("both seed and generator are given; keep one", field="seed")
    if seed is not None:
        first = whole(seed, "seed")
        return [first + i for i in range(count)]
    if isinstance(generator, (list, tuple)):
        if len(generator) != count:
            raise RequestError(
                f"generator has {len(generator)} entries for {count} clips; give one for each",
                field="generator",
            )
        return [_next_seed(one) for one in generator]
    return [_next_seed(generator) for _ in range(count)]


def _next_seed(generator: Any) -> int:
    """Return a seed from a generator, and move the generator on."""
    import torch

    if generator is None:
        return int(torch.randint(MAX_SEED, ()).item())
    if not isinstance(generator, torch.Generator):
        raise RequestError(
            f"generator is {shown(generator)}; give a torch.Generator, or seed", field="generator"
        )
    fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
    is_fresh = torch.equal(fresh.get_state(), generator.get_state())
    drawn = int(torch.randint(MAX_SEED, (), generator=generator, device=generator.device).item())
    return generator.initial_seed() & MAX_SEED if is_fresh else drawn


def _sigmas(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return noise levels as a Request has them: falling to 0, in place of a number of steps."""
    sigmas, times = words.get("sigmas"), words.get("timesteps")
    if sigmas is None and times is None:
        return {}
    if sigmas is not None and times is not None:
        raise RequestError("both sigmas and timesteps are given; keep one", field="sigmas")
    name, value, scale = ("sigmas", sigmas, 1) if times is None else ("timesteps", times, 1000)
    levels = [level / scale for level in numbers(value, name)]
    if not levels:
        raise RequestError(f"{name} is empty; give at least one level, or leave it out", field=name)
    return {"sigmas": tuple(levels if levels[-1] == 0 else [*levels, 0.0]), "steps": None}


def _unguided(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn all guidance off where guidance_scale says so and nothing else of guidance is given."""
    asked = [name for name in (*OWN_GUIDANCE, "video_scales", "audio_scales") if fields.get(name) is not None]
    if asked == ["video_guidance"] and number(fields["video_guidance"], "video_guidance") <= 1:
        del fields["video_guidance"]
        made = fields.get("modalities") or ("video", "audio")
        fields |= {name: value for name, value in OFF.items() if name == "guidance" or name[:5] in made}
    return fields


def _is_guided(fields: Mapping[str, Any], defaults: Defaults) -> bool:
    """Return whether a negative prompt is read, or the recipe decides."""
    if fields.get("recipe") not in (None, "single") or fields.get("sampler") is not None:
        return True
    for kind in ("video", "audio"):
        own = getattr(defaults, kind)
        scale = next(
            (fields[name] for name in (f"{kind}_guidance", "guidance") if fields.get(name) is not None),
            own.cfg,
        )
        asked = fields.get(f"{kind}_scales", {})
        if (
            asked.get("cfg", scale) != 1
            or asked.get("nag")
            or any(isinstance(v, Mapping) for v in asked.values())
        ):
            return True
    return False


def size_of(words: Mapping[str, Any]) -> dict[str, Any]:
    width, height = words.get("width"), words.get("height")
    if (width is None) != (height is None):
        raise RequestError("width and height go together; give both or neither", field="size")
    if width is None:
        return {}
    return {"size": (whole(width, "width"), whole(height, "height"))}


def _shaped(words: Mapping[str, Any], given: GivenLatents | None) -> dict[str, Any]:
    """Return the size and length that given latents have. Raises RequestError for others that were asked."""
    shape = None if given is None else given.shape
    if shape is None:
        return {}
    found = {"width": shape.width, "height": shape.height, "num_frames": shape.num_frames}
    for name, value in found.items():
        if words.get(name) not in (None, value):
            raise RequestError(
                f"{name} is {words[name]}, but the latents have {value}; leave it out", field=name
            )
    return {"size": (shape.width, shape.height), "num_frames": shape.num_frames, "duration_s": None}


def _texts(value: Any, name: str) -> list[Any]:
    if value is None:
        raise RequestError(f"{name} is not given; say what the clip shows", field=name)
    texts = list(value) if isinstance(value, (list, tuple)) else [value]
    if not texts:
        raise RequestError(f"{name} is an empty list; give at least one", field=name)
    return texts


def _for_each(value: Any, count: int, name: str) -> list[Any]:
    """Return a value for each prompt: one for all, or a list of as many."""
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise RequestError(
            f"{name} has {len(value)} entries for {count} prompts; give one for each", field=name
        )
    return list(value)


def _images(value: Any, count: int) -> list[Any]:
    one_for_all = isinstance(value, (list, tuple)) and len(value) == 1
    images = _for_each(value[0] if one_for_all else value, count, "image")
    if value is not None and any(image is None for image in images):
        raise RequestError("image has an entry that is None; give a picture for each prompt", field="image")
    return images
