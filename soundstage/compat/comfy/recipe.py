"""The passes of a workflow as a recipe: a shipped one where all numbers agree, else one of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from soundstage.compat.comfy.passes import FoundPass
from soundstage.errors import RequestError
from soundstage.request.defaults import Defaults
from soundstage.request.recipe import DISTILLED_LORA, Recipe
from soundstage.request.recipes import shipped
from soundstage.sampling.scales import words_of
from soundstage.types import enlargement

NAMES = {1: ("denoise",), 2: ("draft", "refine"), 3: ("draft", "half", "whole")}
SCALES = ("1/4", "1/2", "2/3", "1")
ROUNDING = 5e-5  # workflows write levels with four digits: 0.4219 is 0.421875


def is_distilled_lora(name: str) -> bool:
    """Return whether a LoRA's file is the family's distilled one, by its name."""
    stem = PurePosixPath(name.replace("\\", "/")).name.lower()
    return "distill" in stem and "lora" in stem


def pass_names(count: int) -> tuple[str, ...]:
    """Return the names of that many passes."""
    return NAMES.get(count) or ("draft", *(f"refine {n}" for n in range(1, count)))


def own_recipe(passes: Sequence[FoundPass], name: str, audio_from: int) -> Recipe:
    """Return the recipe of the passes found, first to last. audio_from: the pass whose sound is kept.

    Raises RequestError where a pass is smaller than a quarter of the result.
    """
    names = pass_names(len(passes))
    while audio_from > 0 and _keeps_sound(passes, audio_from):
        audio_from -= 1
    data: dict[str, Any] = {
        "name": name,
        "summary": "the passes of a ComfyUI workflow",
        "passes": [_pass(passes, i, names[i]) for i in range(len(passes))],
    }
    if audio_from < len(passes) - 1:
        data["audio_from"] = names[audio_from]
    return Recipe.from_dict(data, f"{name}.yaml")


def _pass(passes: Sequence[FoundPass], i: int, name: str) -> dict[str, Any]:
    found = passes[i]
    roles = [role for later in passes[i + 1 :] for role in later.shape.upsample]
    scale, time = 1 / enlargement(roles, "space"), 1 / enlargement(roles, "time")
    if str(scale) not in SCALES or str(time) not in ("1/2", "1"):
        raise RequestError(
            f"the workflow begins at {scale} of its size and {time} of its rate; a recipe begins at a "
            "quarter of the size and half the rate at the least"
        )
    data: dict[str, Any] = {"name": name, "scale": str(scale), "time_scale": str(time)}
    if i > 0:
        data["start"] = "previous"
    if found.shape.upsample:
        data["upsample"] = list(found.shape.upsample)
        data["start"] = "previous" if i > 0 else "source"
    elif i == 0 and starts_from_source(found):
        data["start"] = "source"
    data |= levels_of(found)
    data |= {"sampler": found.sampler, "video": dict(found.video), "audio": dict(found.audio)}
    distilled = [strength for file, strength, _ in found.loras if is_distilled_lora(file)]
    if distilled:
        data["loras"] = {DISTILLED_LORA: sum(distilled)}
    if _keeps_sound(passes, i):
        data["freeze"] = ["audio"]
    if found.guide_strength is not None:
        data["guide_strength"] = found.guide_strength
    elif found.no_guides:
        data["guides"] = "none"
    if i > 0 and not found.shape.references:
        data["references"] = False
    return data | _voice(passes, i)


def _keeps_sound(passes: Sequence[FoundPass], i: int) -> bool:
    """Return whether a pass takes the sound of the pass before over as it is."""
    return i > 0 and passes[i].shape.frozen_sound and passes[i].shape.sound == "previous"


def _voice(passes: Sequence[FoundPass], i: int) -> dict[str, Any]:
    """Return which voice a pass hears, where the workflow has one."""
    if all(one.shape.audio is None or one.shape.audio["mode"] != "identity" for one in passes):
        return {} if i == 0 else {"identity": "none"}
    if passes[i].shape.voice_before and i > 0:
        return {"identity": "previous"}
    if passes[i].shape.audio is None:
        return {"identity": "none"}
    return {"identity": "soundtrack"} if passes[i].shape.whole_voice else {}


def starts_from_source(found: FoundPass) -> bool:
    """Return whether a pass begins with a clip, as noisy as its first level, and makes all of it anew."""
    source = found.shape.source or {}
    return "video" in source and "regenerate" not in source


def levels_of(found: FoundPass) -> dict[str, Any]:
    """Return the fields of a pass's noise levels."""
    levels = found.levels
    if levels.sigmas:
        return {"sigmas": list(levels.sigmas)}
    named = {"schedule": levels.schedule, "steps": levels.steps}
    return {key: value for key, value in named.items() if value is not None}


def file_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as people write it in a file, its LoRAs by name."""
    data = recipe.to_dict()
    for one in data["passes"]:
        if "loras" in one:
            one["loras"] = dict(one["loras"])
    return data


def reads_negative(found: FoundPass) -> bool:
    """Return whether a pass reads the negative prompt."""
    return found.guided or bool(found.nag)


def nearest_shipped(own: Recipe, *, seen: bool, heard: bool) -> tuple[Recipe, list[str]] | None:
    """Return the shipped recipe of as many passes whose numbers differ least, and how; None without one.

    seen, heard: whether the request has references, a voice; only then it counts which passes get them.
    """
    alike = (recipe for recipe in shipped() if len(recipe.passes) == len(own.passes))
    found = [
        (recipe, told)
        for recipe in alike
        if (told := _differences(own, recipe, seen=seen, heard=heard)) is not None
    ]
    return min(found, key=lambda pair: len(pair[1]), default=None)


def _differences(own: Recipe, other: Recipe, *, seen: bool, heard: bool) -> list[str] | None:
    """Return how a recipe differs from another, in words; None where their sizes are not alike."""
    told: list[str] = []
    for mine, theirs in zip(own.passes, other.passes, strict=True):
        if (mine.scale, mine.time_scale, mine.start, mine.upsample) != (
            theirs.scale, theirs.time_scale, theirs.start, theirs.upsample
        ):  # fmt: skip
            return None
        ours, published = _numbers(mine), _numbers(theirs)
        ours |= {"references": mine.references} if seen else {}
        ours |= {"voice": mine.identity} if heard else {}
        published |= {"references": theirs.references, "voice": theirs.identity}
        for name in ours:
            if not _alike(ours[name], published[name]):
                told.append(f"{mine.name}: {name} {_shown(ours[name])}, not {_shown(published[name])}")
    kept = [r.audio_from or r.passes[-1].name for r in (own, other)]
    ends = [[p.name for p in r.passes].index(name) for r, name in zip((own, other), kept, strict=True)]
    if ends[0] != ends[1]:
        told.append(f"the sound of pass {ends[0] + 1} is kept, not of pass {ends[1] + 1}")
    return told


def _numbers(one: Any) -> dict[str, Any]:
    """Return what a pass of a recipe computes with, defaults of the dev model filled in."""
    defaults = Defaults()
    video, audio = (one.video or defaults.video), (one.audio or defaults.audio)
    return {
        "sigmas": one.sigmas or "",
        "schedule": "" if one.sigmas else one.schedule or defaults.schedule,
        "steps": "" if one.sigmas else one.steps or defaults.steps,
        "tokens": "all" if one.all_tokens else "4096",
        "sampler": one.sampler,
        "guidance of the picture": words_of(video),
        "guidance of the sound": words_of(audio),
        "LoRAs": dict(one.loras),
        "kept": sorted(one.freeze),
        "guides": one.guides,
        "strength of guides": "their own" if one.guide_strength is None else one.guide_strength,
    }


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) <= ROUNDING
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    return bool(a == b)


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)) and len(value) > 5:
        return f"{len(value) - 1} steps of other levels"
    if isinstance(value, (tuple, list)):
        return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
