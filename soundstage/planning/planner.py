"""From a request to its plan: every pass worked out, and every problem found, before any weight is read.

`facts` has what is asked for, `shaping` what is given besides words, `refusals` what would be ignored.
"""

from __future__ import annotations

from typing import Any

from soundstage.errors import RequestError, SoundstageError
from soundstage.library.model_files import ModelFile, ModelSet, lora_file
from soundstage.planning.checks import check_needs, check_options, check_trained, check_use, reads_negative
from soundstage.planning.conditions import Shaping, tell_changes
from soundstage.planning.grid import heard_s, identity_latents, scaled_side
from soundstage.planning.lengths import film_length
from soundstage.planning.plan import LoraUse, PassPlan, Plan, SourceUse
from soundstage.planning.readable import check_readable
from soundstage.planning.resolve import Facts
from soundstage.planning.sizes import film_size, tell_cuts
from soundstage.request.recipe import DISTILLED_LORA, Pass
from soundstage.request.request import Request
from soundstage.sampling import schedules
from soundstage.sampling.facts import SAMPLERS, sampler_key
from soundstage.sampling.scales import NEUTRAL, Guidance, every, passes_needed, with_words
from soundstage.types import VideoShape, audio_latent_length


def make_plan(request: Request, model: ModelSet) -> Plan:
    """Work out a request. Reads file sizes and the headers of inputs, no weights.

    Raises RequestError with every problem, one after the other, "; " between them.
    """
    facts = Facts(request, model)
    draft = _Draft(facts)
    check_options(facts)
    check_needs(facts)
    size = film_size(facts)
    width, height = size.made
    fps = facts.fps()
    length = film_length(facts, fps)
    passes = draft.passes(VideoShape(length.made, height, width), fps)
    tell_cuts(facts, passes[-1], size)
    tell_changes(facts, passes[-1], length.shown)
    check_trained(facts, passes)
    check_use(facts, passes)
    check_readable(facts, passes)
    timeline = facts.timeline(passes[-1])
    files = draft.files()
    for notice in model.notices:
        facts.notice(notice)
    facts.raise_problems()
    negatives = draft.negatives(passes)
    return Plan(
        request=request,
        model=model.name,
        recipe=facts.recipe.name,
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
        snaps=tuple(facts.snaps),
        passes=passes,
        audio_pass=facts.recipe.audio_from or passes[-1].name,
        driven=facts.driving,
        files=files,
        notices=tuple(facts.notices),
        shown_frames=None if length.shown == length.made else length.shown,
        whole_sound=length.whole_sound,
        shown_size=size.shown,
        source_size=size.source,
    )


class _Draft:
    """The passes of a plan, and what they need."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.shaping = Shaping(facts)

    def passes(self, shape: VideoShape, fps: float) -> tuple[PassPlan, ...]:
        return tuple(self._pass(i, step, shape, fps) for i, step in enumerate(self.facts.recipe.passes))

    def _pass(self, i: int, step: Pass, whole: VideoShape, whole_fps: float) -> PassPlan:
        shape = VideoShape(
            int((whole.num_frames - 1) * step.time) + 1,
            scaled_side(whole.height, step.space),
            scaled_side(whole.width, step.space),
        )
        fps = whole_fps * float(step.time)
        sound = audio_latent_length(whole.num_frames, whole_fps) if self.facts.has_audio else 0
        source = self.shaping.source_use(step, shape, fps, sound)
        conditions = self.shaping.conditions(step, shape, fps) if self.facts.has_video else ()
        frozen = self._frozen(step, source)
        video = self._scales("video", i, step, frozen)
        audio = self._scales("audio", i, step, frozen)
        identity = self._identity(step)
        denoise = self._denoise(i)
        sampler = self._sampler(i, step)
        return PassPlan(
            name=step.name,
            width=shape.width,
            height=shape.height,
            num_frames=shape.num_frames,
            fps=fps,
            video_tokens=shape.num_tokens if self.facts.has_video else 0,
            audio_tokens=sound,
            added_video=sum(c.tokens for c in conditions),
            added_audio=self._identity_tokens(identity, sound),
            start="source" if denoise is not None else step.start,
            upsample=step.upsample if self.facts.has_video else (),
            sampler=sampler,
            sigmas=self._sigmas(i, step, shape, denoise),
            video=video,
            audio=audio,
            kinds=passes_needed(
                [*every(video), *every(audio)],
                exchange=self.facts.has_video and self.facts.has_audio,
                unconditional=SAMPLERS[sampler].needs_negative,
            ),
            frozen=frozen,
            conditions=conditions,
            source=source,
            identity=identity,
            loras=self._loras(step),
            seed=self.facts.request.seed if i == 0 else None,
            cache=self.facts.request.cache if self._is_main(i) else None,
        )

    def _is_main(self, i: int) -> bool:
        """Whether the request's steps, sampler and guidance are meant for this pass."""
        return i == 0

    def _sampler(self, i: int, step: Pass) -> str:
        try:
            return sampler_key((self.facts.request.sampler if self._is_main(i) else None) or step.sampler)
        except RequestError as problem:
            self.facts.problem("sampler", str(problem))
            return "euler"

    def _denoise(self, i: int) -> float | None:
        return self.facts.source.denoise if self.facts.source is not None and i == 0 else None

    def _sigmas(self, i: int, step: Pass, shape: VideoShape, denoise: float | None) -> schedules.Sigmas:
        try:
            return self._sigma_list(i, step, shape, denoise)
        except RequestError as problem:
            self.facts.problem(problem.field or "sigmas", str(problem))
            return schedules.DISTILLED

    def _sigma_list(self, i: int, step: Pass, shape: VideoShape, denoise: float | None) -> schedules.Sigmas:
        request, fixed = self.facts.request, step.sigmas
        if self._is_main(i) and request.sigmas is not None:
            fixed = schedules.check(request.sigmas)
        if fixed is not None:
            return fixed if denoise is None else _cut(fixed, denoise)
        name = (
            (request.schedule if self._is_main(i) else None) or step.schedule or self.facts.defaults.schedule
        )
        count = (request.steps if self._is_main(i) else None) or step.steps or self.facts.defaults.steps
        # The published one-stage recipe uses the 4096-token line at every size.
        tokens = None if step.all_tokens else self.facts.defaults.schedule_tokens
        if name == "distilled" and denoise is not None:
            return _cut(schedules.named(name, count), denoise)
        return schedules.named(name, count, num_tokens=tokens or shape.num_tokens, denoise=denoise or 1.0)

    def _scales(self, modality: str, i: int, step: Pass, frozen: tuple[str, ...]) -> Guidance | None:
        if modality not in self.facts.request.modalities:
            return None
        if modality in frozen:
            return NEUTRAL
        base: Guidance = getattr(step, modality) or getattr(self.facts.defaults, modality)
        scales = self._asked_scales(modality, step, base) if self._is_main(i) else base
        for one in every(scales):
            if one.stg and not one.stg_blocks:
                self.facts.problem(
                    "stg", f"stg is {one.stg:g}, but this model names no blocks for it; leave stg at 0"
                )
        alone = len(self.facts.request.modalities) == 1
        return with_words(scales, {"modality": 1.0}, modality) if alone else scales

    def _asked_scales(self, modality: str, step: Pass, base: Guidance) -> Guidance:
        """The pass's guidance of a modality with what the request says in place."""
        request = self.facts.request
        asked: dict[str, Any] = {
            "cfg": _first(getattr(request, f"{modality}_guidance"), request.guidance),
            "stg": request.stg,
            "modality": request.modality_guidance,
            "rescale": request.rescale,
        }
        field = f"{modality}_scales"
        asked.update(getattr(request, field))
        audio = request.audio
        if audio is not None and self._identity(step) != "none" and modality == "audio":
            asked.setdefault("identity", audio.guidance)
        try:
            return with_words(base, {k: v for k, v in asked.items() if v is not None}, field)
        except RequestError as problem:
            self.facts.problem(field, str(problem))
            return base

    def _frozen(self, step: Pass, source: SourceUse | None) -> tuple[str, ...]:
        frozen = set(step.freeze)
        if self.facts.driving:
            frozen.add("audio")
        if source is not None:
            frozen |= {name for name in ("video", "audio") if getattr(source, name) == "all"}
        return tuple(sorted(frozen & self.facts.request.modalities, reverse=True))

    def _identity(self, step: Pass) -> str:
        audio = self.facts.request.audio
        return (
            step.identity
            if audio is not None and audio.mode == "identity" and self.facts.has_audio
            else "none"
        )

    def _identity_tokens(self, identity: str, sound: int) -> int:
        info = self.facts.infos.get("audio.file")
        if identity == "none" or info is None or info.sound_s is None or self.facts.request.audio is None:
            return 0
        if identity == "previous":
            return sound
        left_s = info.sound_s - self.facts.request.audio.start_s
        if left_s > heard_s(identity):
            self.facts.notice(
                f"the voice lasts {left_s:.4g} s; only its first {heard_s(identity):g} s are heard"
            )
        return identity_latents(left_s, identity)

    def _loras(self, step: Pass) -> tuple[LoraUse, ...]:
        uses = []
        for role, strength in step.loras:
            if role != DISTILLED_LORA:
                uses.append(LoraUse(role, strength))
            elif not self.facts.defaults.distilled:
                uses.append(LoraUse(str(self.facts.model.extra(role).path), strength))
        for lora in self.facts.request.loras:
            span = None if lora.span is None else (lora.span.start_s, lora.span.end_s)
            if lora.passes is None:
                used = step.references or not self._in_context(lora.path)
            else:
                used = step.name in lora.passes
            if used:
                uses.append(LoraUse(lora.path, lora.strength, span, dict(lora.groups)))
        return tuple(uses)

    def _in_context(self, path: str) -> bool:
        try:
            return bool(self.facts.request.references) and lora_file(path).in_context
        except SoundstageError:
            return False  # reported already

    def negatives(self, passes: tuple[PassPlan, ...]) -> tuple[str | None, str | None]:
        """What each modality is steered away from; None where nothing reads it."""
        request = self.facts.request
        shared = _first(request.negative_prompt, self.facts.defaults.negative_prompt)
        if not any(reads_negative(passes, m) for m in ("video", "audio")):
            return None, None
        video, audio = (
            _first(t, shared) for t in (request.video_negative_prompt, request.audio_negative_prompt)
        )
        # Beside a driving sound the negative pass reads the prompt: that stream has no text of its own.
        hears = self.facts.has_audio and not self.facts.driving
        return (video if self.facts.has_video else None), (audio if hears else None)

    def files(self) -> tuple[ModelFile, ...]:
        """Weights that the plan needs; those missing beyond the model's own are problems."""
        roles = [role for step in self.facts.recipe.passes for role in step.upsample if self.facts.has_video]
        if not self.facts.defaults.distilled:
            roles += [
                role for step in self.facts.recipe.passes for role, _ in step.loras if role == DISTILLED_LORA
            ]
        extras = {role: self.facts.model.extra(role) for role in roles}
        for role, file in extras.items():
            if file.num_bytes is None:
                self.facts.problem(
                    "recipe",
                    f"recipe '{self.facts.recipe.name}' needs the {file.part}, and there is no {file.path}; "
                    "put the file there or choose another recipe",
                )
                continue
            try:
                self.facts.model.check_extra(role)
            except SoundstageError as error:
                self.facts.problem("recipe", f"recipe '{self.facts.recipe.name}' cannot be used: {error}")
        return (*self.facts.model.files(), *extras.values())


def _cut(fixed: schedules.Sigmas, denoise: float) -> schedules.Sigmas:
    """A fixed list from the level `denoise` on: that much of the start is replaced by noise."""
    return (denoise, *(sigma for sigma in fixed if sigma < denoise))


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
