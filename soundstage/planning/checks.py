"""Checks of a request: a problem for what has no effect or cannot be read, a notice for what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable

from soundstage.errors import MediaError, listed
from soundstage.media.check import picture_notice, sound_notice
from soundstage.media.in_memory import File
from soundstage.planning.grid import heard_s, sample_times
from soundstage.planning.plan import Condition, PassPlan
from soundstage.planning.resolve import ResolvedRequest
from soundstage.planning.sizes import shaped_size, side_step
from soundstage.request.recipe import Pass
from soundstage.request.request import Request
from soundstage.sampling.cache import StepCache
from soundstage.sampling.sampler_info import SAMPLER_INFO
from soundstage.sampling.scales import Guidance, Scales, bound_at, every, level_of
from soundstage.sampling.schedules import DISTILLED


def check_options(resolved: ResolvedRequest) -> None:
    """Refuse what the recipe or the modalities would ignore."""
    request, first = resolved.request, resolved.recipe.passes[0]
    for field, present, reason in _ignored(resolved, first):
        if present:
            value = getattr(request, field)
            told = f"{field} is {value!r}" if isinstance(value, (int, float, str)) else f"{field} is given"
            resolved.problem(field, f"{told}, but {reason}", unused=True)
    names = [pass_.name for pass_ in resolved.recipe.passes]
    for i, lora in enumerate(request.loras):
        for name in lora.passes or ():
            if name not in names:
                resolved.problem(
                    "loras",
                    f"loras[{i}].passes names '{name}'; recipe '{resolved.recipe.name}' has "
                    f"{listed(name, names)}",
                )
    if resolved.recipe.passes[0].start == "source" and (
        resolved.source is None or resolved.source.video is None
    ):
        resolved.problem("source", f"recipe '{resolved.recipe.name}' starts from a clip; give source.video")
    if not resolved.has_video and len(resolved.recipe.passes) > 1:
        resolved.problem(
            "recipe",
            f"recipe is '{resolved.recipe.name}', which refines the picture, but only sound is made; "
            "use 'single'",
        )


def _ignored(resolved: ResolvedRequest, first: Pass) -> list[tuple[str, bool, str]]:
    request, recipe = resolved.request, resolved.recipe.name
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
        *(
            (name, not any(p.references for p in resolved.recipe.passes), f"no pass of '{recipe}' sees any")
            for name in ("references", "controls")
        ),
    ]
    rules += [
        (name, not resolved.has_video, only_sound)
        for name in (
            "size",
            "guides",
            "references",
            "controls",
            "video_guidance",
            "video_negative_prompt",
            "video_scales",
        )
    ]
    rules += [
        (name, not resolved.has_audio, only_picture)
        for name in ("audio", "speakers", "audio_guidance", "audio_negative_prompt", "audio_scales")
    ]
    rules.append(("thin", request.thin > 1 and resolved.source is not None, "a source keeps its own frames"))
    if resolved.driving:
        why = "the sound is given (audio mode 'driving') and not made; leave it out"
        rules += [(name, True, why) for name in ("audio_guidance", "audio_negative_prompt", "audio_scales")]
    if request.modality_guidance not in (None, 1.0):
        rules.append(
            ("modality_guidance", len(request.modalities) == 1, "it needs picture and sound together")
        )
    return [(name, name in given and wrong, why) for name, wrong, why in rules]


def check_needs(resolved: ResolvedRequest) -> None:
    """Refuse a dub without a speaker; note references, voices and LoRAs that need each other."""
    request, follows = resolved.request, resolved.defaults.follows
    voice = request.audio is not None and request.audio.mode == "identity"
    if any(pass_.identity == "soundtrack" for pass_ in resolved.recipe.passes):
        if not (request.followed and voice):
            resolved.problem(
                "recipe",
                f"recipe '{resolved.recipe.name}' gives a speaker new words; give references, the clip of "
                "the speaker, and its sound by audio.file with audio.mode 'identity'",
            )
        elif not request.loras:
            resolved.notice(
                f"recipe '{resolved.recipe.name}' is made for a dubbing LoRA, and none is given; without one "
                "the speaker is hardly followed, so give one by loras"
            )
        return
    if request.followed and "references" not in follows and not any(f.in_context for f in resolved.loras):
        name = "references" if request.references else "controls"
        resolved.notice(
            f"{name} are given without an in-context LoRA, so they may have little effect; give one by loras"
        )
    if voice and "voices" not in follows and not request.loras:
        resolved.notice(
            "a voice is given without an identity LoRA, so it may have little effect; give one by loras"
        )
    if any(f.in_context for f in resolved.loras) and not request.followed:
        resolved.notice(
            "a LoRA is given that was trained to follow a reference clip, and no clip to follow is; "
            "give references"
        )


def check_rate(resolved: ResolvedRequest) -> None:
    """Refuse another frame rate than the source's."""
    asked, own = resolved.request.fps, None if resolved.source_info is None else resolved.source_info.fps
    if asked is not None and own is not None and not math.isclose(asked, own, rel_tol=1e-3):
        resolved.problem(
            "fps",
            f"fps is {asked:g}, but the source has {own:g}; leave fps out or convert the source",
            unused=True,
        )


def check_trained(resolved: ResolvedRequest, passes: tuple[PassPlan, ...]) -> None:
    """Refuse or note frames larger than the model was trained on; note another frame rate."""
    if not resolved.has_video or all("video" in p.frozen for p in passes):
        return
    first, last = passes[0], passes[-1]
    trained, most, fps = (
        getattr(resolved.defaults, name) for name in ("trained_pixels", "max_pixels", "trained_fps")
    )
    pixels = last.width * last.height
    kept = last.source is not None and last.source.video == "part"
    fitting = shaped_size(last.width / last.height, trained or pixels, side_step(resolved))
    best = f"{fitting[0]}x{fitting[1]}"
    if most is not None and pixels > most and not kept and not resolved.request.allow_unfit:
        resolved.problem(
            "size" if resolved.request.size is not None else "recipe",
            f"the film would be {last.width}x{last.height}, and above {most:,} pixels a frame "
            f"{resolved.model.name} shows nothing of what was asked for; choose a size or recipe that makes "
            f"{best} or so, or set allow_unfit",
        )
    elif trained is not None and pixels > trained:
        resolved.notice(
            f"{last.width}x{last.height} is larger than what {resolved.model.name} was trained on, and it "
            f"may show things twice; it does best at {best} or so"
        )
    if fps is not None and not math.isclose(first.fps, fps, rel_tol=0.05):
        resolved.notice(
            f"{resolved.model.name} was trained at {fps:g} frames a second, and at {first.fps:g} things may "
            "move wrongly"
        )


def check_use(resolved: ResolvedRequest, passes: tuple[PassPlan, ...]) -> None:
    """Refuse what only the finished passes show to be without effect."""
    request = resolved.request
    for i, modality in ((0, "video"), (1, "audio")):
        names = ["negative_prompt"] * (i == 0) + [f"{modality}_negative_prompt"]
        reads = reads_negative(passes, modality)
        if i == 0:
            everyone = reads or reads_negative(passes, "audio")
        for name in names:
            used = everyone if name == "negative_prompt" else reads
            if getattr(request, name) is not None and not used:
                resolved.problem(
                    name,
                    f"{name} is given, but this runs without guidance, so nothing would read it; raise "
                    "guidance above 1, or leave it out",
                    unused=True,
                )
    _check_levels(resolved, passes[0])
    if request.cache is not None:
        reason = _no_use_for_cache(resolved, request.cache, passes[0])
        if reason:
            told = f"cache is {request.cache}, but {reason}; leave cache out"
            resolved.problem("cache", told, unused=True)
    for i, lora in enumerate(request.loras):
        if lora.span is not None and any("identity" in p.kinds for p in passes):
            resolved.problem(
                "loras",
                f"loras[{i}].span does not go with a voice that guidance pulls to; leave span out, or "
                "set audio.guidance to 0",
            )
        if lora.path not in {use.path for p in passes for use in p.loras}:
            resolved.problem("loras", f"loras[{i}]: no pass would use {lora.path}; name its passes")
        groups = [[use.groups for use in p.loras if use.path == lora.path] for p in passes]
        if lora.span is not None and any(other != own[0] for own in groups for other in own):
            resolved.problem(
                "loras",
                f"loras has {lora.path} with different groups in spans of one pass; give it the same groups "
                "in all of them",
            )
    for name in ("guides", "references", "controls"):
        if getattr(request, name) and all("video" in p.frozen for p in passes):
            told = f"{name} is given, but the picture is kept as it is; leave it out"
            resolved.problem(name, told, unused=True)
    if all(len(p.frozen) == len(request.modalities) for p in passes):
        resolved.problem("source", "everything is given and nothing would be made; let go of one modality")


def _check_levels(resolved: ResolvedRequest, p: PassPlan) -> None:
    """Refuse noise levels of the request's guidance at which nothing changes in the first pass."""
    for modality in ("video", "audio"):
        guidance: Guidance | None = getattr(p, modality)
        if guidance is None or isinstance(guidance, Scales):
            continue
        used = {bound_at(guidance, sigma) for sigma, _ in p.predictions}
        starts = ", ".join(f"{sigma:.4g}" for sigma in p.sigmas[:-1])
        for word in getattr(resolved.request, f"{modality}_scales"):
            level = level_of(word)
            if level is not None and level not in used:
                resolved.problem(
                    f"{modality}_scales",
                    f"{modality}_scales changes from noise level {word} down, but no step would use it; the "
                    f"steps of pass '{p.name}' begin at {starts}",
                )


def _no_use_for_cache(resolved: ResolvedRequest, cache: StepCache, p: PassPlan) -> str | None:
    """Return the reason why a step cache would not help the first pass, None where it does."""
    pass_, name = resolved.recipe.passes[0], resolved.request.schedule
    if pass_.sigmas is None:
        distilled = (name or pass_.schedule or resolved.defaults.schedule) == "distilled"
    else:
        distilled = set(pass_.sigmas) <= set(DISTILLED)
    if distilled and resolved.request.sigmas is None:
        return f"too much changes between the {p.num_steps} distilled steps of pass '{p.name}'"
    above, up_to = cache.levels(p.sigmas)
    return None if above < up_to else f"each of the {p.num_steps} steps of pass '{p.name}' is made in full"


def reads_negative(passes: tuple[PassPlan, ...], modality: str) -> bool:
    """Return whether some pass reads the negative prompt of a modality."""
    for p in passes:
        guidance: Guidance | None = getattr(p, modality)
        for scales in every(guidance):
            if scales.cfg != 1 or scales.nag or SAMPLER_INFO[p.sampler].needs_negative:
                return True
    return False


# --- reading the inputs ----------------------------------------------------------------------------------


def check_readable(resolved: ResolvedRequest, passes: tuple[PassPlan, ...]) -> None:
    """Decode the ends of every stretch that will be read, or all of a short one.

    What cannot be read is a problem; damage that is bridged is a notice.
    """
    if resolved.problems:  # stretches are known only of what can be planned
        return
    for pass_ in passes:
        for condition in pass_.conditions:
            _check_condition(resolved, condition, pass_)
        _check_source(resolved, pass_)
    _check_sounds(resolved, passes)


def _check_condition(resolved: ResolvedRequest, condition: Condition, pass_: PassPlan) -> None:
    i = condition.index
    if condition.kind == "reference":
        where, file = resolved.request.followed[i][0], resolved.request.followed[i][1].video
    else:
        where, file = f"guides[{i}].image", resolved.request.guides[i].image
    limit = (condition.num_frames - 1) * condition.temporal + 1
    _check_pictures(
        resolved, where, file, sample_times(resolved.infos[where], pass_.fps, resolved.made_fps, limit)
    )


def _check_source(resolved: ResolvedRequest, pass_: PassPlan) -> None:
    source, use = resolved.source, pass_.source
    if source is None or use is None or source.video is None or use.video == "none":
        return
    end = use.first_frame + use.num_frames
    times = sample_times(resolved.infos["source.video"], pass_.fps, resolved.made_fps, end, use.first_frame)
    _check_pictures(resolved, "source.video", source.video, times)


def _check_pictures(resolved: ResolvedRequest, where: str, file: File, times_s: list[float]) -> None:
    if times_s:
        _report(resolved, where, file, lambda: picture_notice(file, times_s[0], times_s[-1]))


def _check_sounds(resolved: ResolvedRequest, passes: tuple[PassPlan, ...]) -> None:
    last, source, audio = passes[-1], resolved.source, resolved.request.audio
    length_s = last.num_frames / last.fps
    if audio is not None and resolved.has_audio:
        heard = [heard_s(pass_.identity) for pass_ in passes if pass_.identity in ("input", "soundtrack")]
        wanted_s = length_s if resolved.driving else max(heard, default=0.0)
        if wanted_s:
            _report(
                resolved, "audio.file", audio.file, lambda: sound_notice(audio.file, audio.start_s, wanted_s)
            )
    uses = [pass_.source for pass_ in passes if pass_.source is not None and pass_.source.audio != "none"]
    if source is not None and uses:
        where = "source.video" if source.audio is None else "source.audio"
        file = source.video if source.audio is None else source.audio
        assert file is not None
        _report(resolved, where, file, lambda: sound_notice(file, source.start_s, length_s))


def _report(resolved: ResolvedRequest, where: str, file: File, notice: Callable[[], str | None]) -> None:
    try:
        found = notice()
    except MediaError as error:
        resolved.problem(where.split(".")[0].split("[")[0], f"{where}: {error}")
        return
    if found is not None:
        resolved.notice(f"{file}: {found}")
