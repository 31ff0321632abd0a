"""What a recipe or the modalities would ignore is refused, with the reason; what lacks something is told."""

from __future__ import annotations

import math

from soundstage.errors import listed
from soundstage.planning.plan import PassPlan
from soundstage.planning.resolve import Facts
from soundstage.planning.sizes import shaped_size, side_step
from soundstage.request.recipe import Pass
from soundstage.request.request import Request
from soundstage.sampling.cache import StepCache
from soundstage.sampling.facts import SAMPLERS
from soundstage.sampling.scales import Guidance, Scales, bound_at, every, level_of
from soundstage.sampling.schedules import DISTILLED


def check_options(facts: Facts) -> None:
    """Refuse what the recipe or the modalities would ignore."""
    request, first = facts.request, facts.recipe.passes[0]
    for field, present, reason in _ignored(facts, first):
        if present:
            value = getattr(request, field)
            told = f"{field} is {value!r}" if isinstance(value, (int, float, str)) else f"{field} is given"
            facts.problem(field, f"{told}, but {reason}")
    names = [step.name for step in facts.recipe.passes]
    for i, lora in enumerate(request.loras):
        for name in lora.passes or ():
            if name not in names:
                facts.problem(
                    "loras",
                    f"loras[{i}].passes names '{name}'; recipe '{facts.recipe.name}' has "
                    f"{listed(name, names)}",
                )
    if facts.recipe.passes[0].start == "source" and (facts.source is None or facts.source.video is None):
        facts.problem("source", f"recipe '{facts.recipe.name}' starts from a clip; give source.video")
    if not facts.has_video and len(facts.recipe.passes) > 1:
        facts.problem(
            "recipe",
            f"recipe is '{facts.recipe.name}', which refines the picture, but only sound is made; "
            "use 'single'",
        )


def _ignored(facts: Facts, first: Pass) -> list[tuple[str, bool, str]]:
    request, recipe = facts.request, facts.recipe.name
    fixed = first.sigmas is not None
    only_sound = "only sound is made; leave it out, or make video too"
    only_picture = "only a picture is made; leave it out, or make audio too"
    given = {name for name in Request.model_fields if getattr(request, name) not in (None, (), {})}
    rules = [
        (
            "steps",
            fixed,
            f"recipe '{recipe}' has a fixed list of noise levels; leave steps out or give sigmas",
        ),
        (
            "schedule",
            fixed,
            f"recipe '{recipe}' has a fixed list of noise levels; leave schedule out or give sigmas",
        ),
        (
            "references",
            not any(p.references for p in facts.recipe.passes),
            f"no pass of '{recipe}' sees any",
        ),
    ]
    rules += [
        (name, not facts.has_video, only_sound)
        for name in (
            "size",
            "guides",
            "references",
            "video_guidance",
            "video_negative_prompt",
            "video_scales",
        )
    ]
    rules += [
        (name, not facts.has_audio, only_picture)
        for name in ("audio", "audio_guidance", "audio_negative_prompt", "audio_scales")
    ]
    rules.append(("thin", request.thin > 1 and facts.source is not None, "a source keeps its own frames"))
    if facts.driving:
        why = "the sound is given (audio mode 'driving') and not made; leave it out"
        rules += [(name, True, why) for name in ("audio_guidance", "audio_negative_prompt", "audio_scales")]
    if request.modality_guidance not in (None, 1.0):
        rules.append(
            ("modality_guidance", len(request.modalities) == 1, "it needs picture and sound together")
        )
    return [(name, name in given and wrong, why) for name, wrong, why in rules]


def check_needs(facts: Facts) -> None:
    """Refuse a dub without a speaker, and tell of references, voices and adapters that lack each other."""
    request, follows = facts.request, facts.defaults.follows
    voice = request.audio is not None and request.audio.mode == "identity"
    if any(step.identity == "soundtrack" for step in facts.recipe.passes):
        if not (request.references and voice):
            facts.problem(
                "recipe",
                f"recipe '{facts.recipe.name}' gives a speaker new words; give references, the clip of the "
                "speaker, and its sound by audio.file with audio.mode 'identity'",
            )
        elif not request.loras:
            facts.notice(
                f"recipe '{facts.recipe.name}' is made for a dubbing LoRA, and none is given; without one "
                "the speaker is hardly followed, so give one by loras"
            )
        return
    if request.references and "references" not in follows and not any(f.in_context for f in facts.loras):
        facts.notice(
            "references are given without an in-context LoRA, so they may have little effect; give "
            "one by loras"
        )
    if voice and "voices" not in follows and not request.loras:
        facts.notice(
            "a voice is given without an identity LoRA, so it may have little effect; give one by loras"
        )
    if any(f.in_context for f in facts.loras) and not request.references:
        facts.notice(
            "a LoRA is given that was trained to follow a reference clip, and no clip to follow is; "
            "give references"
        )


def check_trained(facts: Facts, passes: tuple[PassPlan, ...]) -> None:
    """Refuse or tell of frames that are larger than the model was trained on, and of another rate."""
    if not facts.has_video or all("video" in p.frozen for p in passes):
        return
    first, last = passes[0], passes[-1]
    trained, most, fps = (
        getattr(facts.defaults, name) for name in ("trained_pixels", "max_pixels", "trained_fps")
    )
    pixels = last.width * last.height
    kept = last.source is not None and last.source.video == "part"
    best = f"{'x'.join(map(str, shaped_size(last.width / last.height, trained or pixels, side_step(facts))))}"
    if most is not None and pixels > most and not kept and not facts.request.allow_unfit:
        facts.problem(
            "size" if facts.request.size is not None else "recipe",
            f"the film would be {last.width}x{last.height}, and above {most:,} pixels a frame "
            f"{facts.model.name} shows nothing of what was asked for; choose a size or recipe that makes "
            f"{best} or so, or set allow_unfit",
        )
    elif trained is not None and pixels > trained:
        facts.notice(
            f"{last.width}x{last.height} is larger than what {facts.model.name} was trained on, and it may "
            f"show things twice; it does best at {best} or so"
        )
    if fps is not None and not math.isclose(first.fps, fps, rel_tol=0.05):
        facts.notice(
            f"{facts.model.name} was trained at {fps:g} frames a second, and at {first.fps:g} things may "
            "move wrongly"
        )


def check_use(facts: Facts, passes: tuple[PassPlan, ...]) -> None:
    """Refuse what only the finished passes show to be without effect."""
    request = facts.request
    for i, modality in ((0, "video"), (1, "audio")):
        names = ["negative_prompt"] * (i == 0) + [f"{modality}_negative_prompt"]
        reads = reads_negative(passes, modality)
        if i == 0:
            everyone = reads or reads_negative(passes, "audio")
        for name in names:
            used = everyone if name == "negative_prompt" else reads
            if getattr(request, name) is not None and not used:
                facts.problem(
                    name,
                    f"{name} is given, but this runs without guidance, so nothing would read it; raise "
                    "guidance above 1, or leave it out",
                )
    _check_levels(facts, passes[0])
    if request.cache is not None:
        reason = _no_use_for_cache(facts, request.cache, passes[0])
        if reason:
            facts.problem("cache", f"cache is {request.cache}, but {reason}; leave cache out")
    for i, lora in enumerate(request.loras):
        if lora.span is not None and any("identity" in p.kinds for p in passes):
            facts.problem(
                "loras",
                f"loras[{i}].span does not go with a voice that guidance pulls to; leave span out, or "
                "set audio.guidance to 0",
            )
        if lora.path not in {use.path for p in passes for use in p.loras}:
            facts.problem("loras", f"loras[{i}]: no pass would use {lora.path}; name its passes")
        groups = [[use.groups for use in p.loras if use.path == lora.path] for p in passes]
        if lora.span is not None and any(other != own[0] for own in groups for other in own):
            facts.problem(
                "loras",
                f"loras has {lora.path} with different groups in spans of one pass; give it the same groups "
                "in all of them",
            )
    for name in ("guides", "references"):
        if getattr(request, name) and all("video" in p.frozen for p in passes):
            facts.problem(name, f"{name} is given, but the picture is kept as it is; leave it out")
    if all(len(p.frozen) == len(request.modalities) for p in passes):
        facts.problem("source", "everything is given and nothing would be made; let go of one modality")


def _check_levels(facts: Facts, p: PassPlan) -> None:
    """Refuse noise levels of the request's guidance at which nothing changes in the first pass."""
    for modality in ("video", "audio"):
        guidance: Guidance | None = getattr(p, modality)
        if guidance is None or isinstance(guidance, Scales):
            continue
        used = {bound_at(guidance, sigma) for sigma, _ in p.predictions}
        starts = ", ".join(f"{sigma:.4g}" for sigma in p.sigmas[:-1])
        for word in getattr(facts.request, f"{modality}_scales"):
            level = level_of(word)
            if level is not None and level not in used:
                facts.problem(
                    f"{modality}_scales",
                    f"{modality}_scales changes from noise level {word} down, but no step would use it; the "
                    f"steps of pass '{p.name}' begin at {starts}",
                )


def _no_use_for_cache(facts: Facts, cache: StepCache, p: PassPlan) -> str | None:
    """Why the first pass could leave nothing out, or only at a large error."""
    step, name = facts.recipe.passes[0], facts.request.schedule
    if step.sigmas is None:
        distilled = (name or step.schedule or facts.defaults.schedule) == "distilled"
    else:
        distilled = set(step.sigmas) <= set(DISTILLED)
    if distilled and facts.request.sigmas is None:
        return f"too much changes between the {p.num_steps} distilled steps of pass '{p.name}'"
    above, up_to = cache.levels(p.sigmas)
    return None if above < up_to else f"each of the {p.num_steps} steps of pass '{p.name}' is made in full"


def reads_negative(passes: tuple[PassPlan, ...], modality: str) -> bool:
    """Whether some pass looks at the negative prompt of a modality."""
    for p in passes:
        guidance: Guidance | None = getattr(p, modality)
        for scales in every(guidance):
            if scales.cfg != 1 or scales.nag or SAMPLERS[p.sampler].needs_negative:
                return True
    return False
