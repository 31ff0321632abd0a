"""A request becomes a plan: every pass is worked out and every problem found before any weight is read.

resolve.py reads the inputs, sizes.py and lengths.py find the film's shape, conditions.py what each pass is
given, checks.py what would be ignored.
"""

from __future__ import annotations

from typing import Any

from soundstage.errors import RequestError, SoundstageError
from soundstage.library.model_files import ModelFile, ModelSet
from soundstage.lora.metadata import read_references
from soundstage.planning.checks import (
    check_needs,
    check_options,
    check_rate,
    check_readable,
    check_trained,
    check_use,
    reads_negative,
)
from soundstage.planning.conditions import ConditioningPlan, tell_changes
from soundstage.planning.grid import heard_s, identity_latents, scaled_side
from soundstage.planning.lengths import film_length
from soundstage.planning.light import check_embeddings, planned_hdr
from soundstage.planning.plan import LoraUse, PassPlan, Plan, SourceUse
from soundstage.planning.resolve import ResolvedRequest
from soundstage.planning.seeds import seeded
from soundstage.planning.sizes import film_size, tell_cuts
from soundstage.request.recipe import DISTILLED_LORA, Pass, Recipe
from soundstage.request.request import Request
from soundstage.request.speakers import speakers_named, with_voice
from soundstage.sampling import schedules
from soundstage.sampling.sampler_info import SAMPLER_INFO, sampler_key
from soundstage.sampling.scales import NEUTRAL, Guidance, every, passes_needed, with_words
from soundstage.types import VideoShape, audio_latent_length


def make_plan(request: Request, model: ModelSet, recipe: Recipe | None = None) -> Plan:
    """Return the plan of a request for one clip. Reads file sizes and the headers of inputs, no weights.

    recipe: the request's, where it was found already; None finds it by its name. Raises RequestError with
    every problem, one after the other, "; " between them.
    """
    named = speakers_named(request.prompt) if request.speakers else ()
    request = with_voice(seeded(request))
    resolved = ResolvedRequest(request, model, recipe)
    if len(named) > 1:
        resolved.notice(
            f"the prompt names {len(named)} speakers, and a clip has one voice, that of speaker {named[0]}; "
            "give each a window of a long take"
        )
    check_options(resolved)
    check_needs(resolved)
    size = film_size(resolved)
    width, height = size.made
    check_rate(resolved)
    fps = resolved.made_fps
    length = film_length(resolved, fps)
    passes = _PassPlanner(resolved).passes(VideoShape(length.made, height, width), fps)
    tell_cuts(resolved, passes[-1], size)
    tell_changes(resolved, passes[-1], length.shown)
    check_trained(resolved, passes)
    check_use(resolved, passes)
    check_readable(resolved, passes)
    timeline = resolved.timeline(passes[-1])
    hdr = planned_hdr(resolved)
    check_embeddings(resolved, len(timeline.segments))
    files = _files(resolved)
    for notice in model.notices:
        resolved.notice(notice)
    resolved.raise_problems()
    negatives = _negatives(resolved, passes)
    return Plan(
        request=request,
        model=model.name,
        recipe=resolved.recipe.name,
        width=passes[-1].width,
        height=passes[-1].height,
        num_frames=passes[-1].num_frames,
        fps=passes[-1].fps,
        thin=request.thin,
        modalities=tuple(sorted(request.modalities, reverse=True)),
        timeline=timeline,
        video_negative=negatives[0],
        audio_negative=negatives[1],
        text_tokens=model.defaults.text_tokens,
        image_crf=model.defaults.image_crf,
        snaps=tuple(resolved.snaps),
        passes=passes,
        audio_pass=resolved.recipe.audio_from or passes[-1].name,
        driven=resolved.driving,
        files=files,
        notices=tuple(resolved.notices),
        shown_frames=None if length.shown == length.made else length.shown,
        whole_sound=length.whole_sound,
        shown_size=size.shown,
        source_size=size.source,
        hdr=hdr,
    )


class _PassPlanner:
    """The passes of a plan, worked out one after the other."""

    def __init__(self, resolved: ResolvedRequest) -> None:
        self.resolved = resolved
        self.request, self.recipe, self.defaults = resolved.request, resolved.recipe, resolved.defaults
        self.conditioning = ConditioningPlan(resolved)

    def passes(self, shape: VideoShape, fps: float) -> tuple[PassPlan, ...]:
        return tuple(self._pass(i, pass_, shape, fps) for i, pass_ in enumerate(self.recipe.passes))

    def _pass(self, i: int, pass_: Pass, whole: VideoShape, whole_fps: float) -> PassPlan:
        shape = VideoShape(
            int((whole.num_frames - 1) * pass_.time) + 1,
            scaled_side(whole.height, pass_.space),
            scaled_side(whole.width, pass_.space),
        )
        fps = whole_fps * float(pass_.time)
        sound = audio_latent_length(whole.num_frames, whole_fps) if self.resolved.has_audio else 0
        source = self.conditioning.source_use(pass_, shape, fps, sound)
        conditions = self.conditioning.conditions(pass_, shape, fps) if self.resolved.has_video else ()
        frozen = self._frozen(pass_, source)
        video = self._scales("video", i, pass_, frozen)
        audio = self._scales("audio", i, pass_, frozen)
        identity = self._identity(pass_)
        denoise = self._denoise(i)
        sampler = self._sampler(i, pass_)
        return PassPlan(
            name=pass_.name,
            width=shape.width,
            height=shape.height,
            num_frames=shape.num_frames,
            fps=fps,
            video_tokens=shape.num_tokens if self.resolved.has_video else 0,
            audio_tokens=sound,
            added_video=sum(c.tokens for c in conditions),
            added_audio=self._identity_tokens(identity, sound),
            start="source" if denoise is not None else pass_.start,
            upsample=pass_.upsample if self.resolved.has_video else (),
            sampler=sampler,
            sigmas=self._sigmas(i, pass_, shape, denoise),
            video=video,
            audio=audio,
            kinds=passes_needed(
                [*every(video), *every(audio)],
                exchange=self.resolved.has_video and self.resolved.has_audio,
                unconditional=SAMPLER_INFO[sampler].needs_negative,
            ),
            frozen=frozen,
            conditions=conditions,
            source=source,
            identity=identity,
            loras=self._loras(pass_),
            seed=self.request.seed if i == 0 else None,
            cache=self.request.cache if self._is_main(i) else None,
            exchange=pass_.exchange or self.resolved.exchange,
        )

    def _is_main(self, i: int) -> bool:
        """Return whether the request's steps, sampler and guidance are meant for this pass."""
        return i == 0

    def _sampler(self, i: int, pass_: Pass) -> str:
        try:
            return sampler_key((self.request.sampler if self._is_main(i) else None) or pass_.sampler)
        except RequestError as problem:
            self.resolved.problem("sampler", str(problem))
            return "euler"

    def _denoise(self, i: int) -> float | None:
        return self.resolved.source.denoise if self.resolved.source is not None and i == 0 else None

    def _sigmas(self, i: int, pass_: Pass, shape: VideoShape, denoise: float | None) -> schedules.Sigmas:
        try:
            return self._sigma_list(i, pass_, shape, denoise)
        except RequestError as problem:
            self.resolved.problem(problem.field or "sigmas", str(problem))
            return schedules.DISTILLED

    def _sigma_list(self, i: int, pass_: Pass, shape: VideoShape, denoise: float | None) -> schedules.Sigmas:
        request, fixed = self.request, pass_.sigmas
        if self._is_main(i) and request.sigmas is not None:
            fixed = schedules.check(request.sigmas)
        if fixed is not None:
            return fixed if denoise is None else _cut(fixed, denoise)
        name = (request.schedule if self._is_main(i) else None) or pass_.schedule or self.defaults.schedule
        count = (request.steps if self._is_main(i) else None) or pass_.steps or self.defaults.steps
        # The published one-stage recipe uses the 4096-token line at every size.
        tokens = None if pass_.all_tokens else self.defaults.schedule_tokens
        if name == "distilled" and denoise is not None:
            return _cut(schedules.named(name, count), denoise)
        return schedules.named(name, count, num_tokens=tokens or shape.num_tokens, denoise=denoise or 1.0)

    def _scales(self, modality: str, i: int, pass_: Pass, frozen: tuple[str, ...]) -> Guidance | None:
        if modality not in self.request.modalities:
            return None
        if modality in frozen:
            return NEUTRAL
        base: Guidance = getattr(pass_, modality) or getattr(self.defaults, modality)
        scales = self._asked_scales(modality, pass_, base) if self._is_main(i) else base
        for one in every(scales):
            if one.stg and not one.stg_blocks:
                self.resolved.problem(
                    "stg", f"stg is {one.stg:g}, but this model names no blocks for it; leave stg at 0"
                )
        alone = len(self.request.modalities) == 1
        return with_words(scales, {"modality": 1.0}, modality) if alone else scales

    def _asked_scales(self, modality: str, pass_: Pass, base: Guidance) -> Guidance:
        """Return a pass's guidance of a modality with the request's values in place of its own."""
        request = self.request
        asked: dict[str, Any] = {
            "cfg": _first(getattr(request, f"{modality}_guidance"), request.guidance),
            "stg": request.stg,
            "modality": request.modality_guidance,
            "rescale": request.rescale,
        }
        field = f"{modality}_scales"
        asked.update(getattr(request, field))
        audio = request.audio
        if audio is not None and self._identity(pass_) != "none" and modality == "audio":
            asked.setdefault("identity", audio.guidance)
        try:
            return with_words(base, {k: v for k, v in asked.items() if v is not None}, field)
        except RequestError as problem:
            self.resolved.problem(field, str(problem))
            return base

    def _frozen(self, pass_: Pass, source: SourceUse | None) -> tuple[str, ...]:
        frozen = set(pass_.freeze)
        if self.resolved.driving:
            frozen.add("audio")
        if source is not None:
            frozen |= {name for name in ("video", "audio") if getattr(source, name) == "all"}
        return tuple(sorted(frozen & self.request.modalities, reverse=True))

    def _identity(self, pass_: Pass) -> str:
        audio = self.request.audio
        return (
            pass_.identity
            if audio is not None and audio.mode == "identity" and self.resolved.has_audio
            else "none"
        )

    def _identity_tokens(self, identity: str, sound: int) -> int:
        info = self.resolved.infos.get("audio.file")
        if identity == "none" or info is None or info.sound_s is None or self.request.audio is None:
            return 0
        if identity == "previous":
            return sound
        left_s = info.sound_s - self.request.audio.start_s
        if left_s > heard_s(identity):
            self.resolved.notice(
                f"the voice lasts {left_s:.4g} s; only its first {heard_s(identity):g} s are heard"
            )
        return identity_latents(left_s, identity)

    def _loras(self, pass_: Pass) -> tuple[LoraUse, ...]:
        uses = []
        for role, strength in pass_.loras:
            if role != DISTILLED_LORA:
                uses.append(LoraUse(role, strength))
            elif not self.defaults.distilled:
                uses.append(LoraUse(str(self.resolved.model.extra(role).path), strength))
        for lora in self.request.loras:
            span = None if lora.span is None else (lora.span.start_s, lora.span.end_s)
            if lora.passes is None:
                used = pass_.references or not self._in_context(lora.path)
            else:
                used = pass_.name in lora.passes
            if used:
                uses.append(LoraUse(lora.path, lora.strength, span, dict(lora.groups)))
        return tuple(uses)

    def _in_context(self, path: str) -> bool:
        try:
            return bool(self.request.followed) and read_references(path).in_context
        except SoundstageError:
            return False  # reported already


def _negatives(resolved: ResolvedRequest, passes: tuple[PassPlan, ...]) -> tuple[str | None, str | None]:
    """Return the negative prompts of picture and sound; None where nothing reads one."""
    request = resolved.request
    shared = _first(request.negative_prompt, resolved.defaults.negative_prompt)
    if not any(reads_negative(passes, m) for m in ("video", "audio")):
        return None, None
    video, audio = (_first(t, shared) for t in (request.video_negative_prompt, request.audio_negative_prompt))
    # Beside a driving sound the negative pass reads the prompt: that stream has no text of its own.
    hears = resolved.has_audio and not resolved.driving
    return (video if resolved.has_video else None), (audio if hears else None)


def _files(resolved: ResolvedRequest) -> tuple[ModelFile, ...]:
    """Return the files that the plan needs; missing ones besides the model's own are problems."""
    roles: list[str] = [
        role for pass_ in resolved.recipe.passes for role in pass_.upsample if resolved.has_video
    ]
    if not resolved.defaults.distilled:
        roles += [
            role for pass_ in resolved.recipe.passes for role, _ in pass_.loras if role == DISTILLED_LORA
        ]
    extras = {role: resolved.model.extra(role) for role in roles}
    for role, file in extras.items():
        if file.num_bytes is None:
            resolved.problem(
                "recipe",
                f"recipe '{resolved.recipe.name}' needs the {file.part}, and there is no "
                f"{file.path}; put the file there or choose another recipe",
            )
            continue
        try:
            resolved.model.check_extra(role)
        except SoundstageError as error:
            resolved.problem("recipe", f"recipe '{resolved.recipe.name}' cannot be used: {error}")
    return (*resolved.model.files(), *extras.values())


def _cut(fixed: schedules.Sigmas, denoise: float) -> schedules.Sigmas:
    """Return a fixed list from the level `denoise` on: that much of the start is replaced by noise."""
    return (denoise, *(sigma for sigma in fixed if sigma < denoise))


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
