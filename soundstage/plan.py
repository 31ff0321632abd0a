"""A plan: everything that will be done for a request, worked out before torch or any weight is loaded.

Pure data. `print(plan)` explains it; `plan.to_json()` hands it to a program. All problems of a request
are found here, together.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from soundstage.errors import RequestError
from soundstage.model_set import ModelFile, ModelSet
from soundstage.recipes import Defaults, Pass, recipe_named
from soundstage.request import Request
from soundstage.sampling import schedules
from soundstage.sampling.scales import Scales, passes_needed
from soundstage.types import SPACE_SCALE, TIME_SCALE, VideoShape, audio_latent_length


@dataclass(frozen=True)
class Snap:
    """A value that was rounded to what the model can make."""

    field: str
    asked: str
    used: str
    rule: str

    def __str__(self) -> str:
        return f"{self.field}: {self.asked} -> {self.used} ({self.rule})"


@dataclass(frozen=True)
class PassPlan:
    """One run of the loop. Tokens are 0 and scales None for a modality that is not made.

    forwards: model evaluations per step, each one a pass of `kinds`.
    """

    name: str
    width: int
    height: int
    num_frames: int
    video_tokens: int
    audio_tokens: int
    sampler: str
    sigmas: tuple[float, ...]
    video: Scales | None
    audio: Scales | None
    kinds: tuple[str, ...]
    seed: int

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1


@dataclass(frozen=True)
class Plan:
    """The work for one request on one model. width, height in pixels; duration_s = num_frames / fps."""

    request: Request
    model: str
    width: int
    height: int
    num_frames: int
    fps: float
    modalities: tuple[str, ...]
    negative_prompt: str | None
    text_tokens: int
    snaps: tuple[Snap, ...]
    passes: tuple[PassPlan, ...]
    files: tuple[ModelFile, ...]

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps

    @property
    def num_forwards(self) -> int:
        """Model evaluations of the whole plan."""
        return sum(p.num_steps * len(p.kinds) for p in self.passes)

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        data["request"] = self.request.to_dict()
        data["duration_s"] = self.duration_s
        data["num_forwards"] = self.num_forwards
        data["files"] = [{**asdict(file), "path": str(file.path)} for file in self.files]
        return data

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def make_plan(request: Request, model: ModelSet) -> Plan:
    """Work out a request. Reads nothing but file sizes.

    Raises RequestError with every problem, one after the other, "; " between them.
    """
    draft = _Draft(request, model.defaults)
    width, height = draft.size()
    fps = request.fps or model.defaults.fps
    num_frames = draft.frames(fps)
    passes = draft.passes(VideoShape(num_frames, height, width), fps)
    draft.raise_problems()
    guided = any("uncond" in p.kinds for p in passes)
    negative = request.negative_prompt
    return Plan(
        request=request,
        model=model.name,
        width=width,
        height=height,
        num_frames=num_frames,
        fps=fps,
        modalities=tuple(sorted(request.modalities, reverse=True)),
        negative_prompt=(model.defaults.negative_prompt if negative is None else negative)
        if guided
        else None,
        text_tokens=model.defaults.text_tokens,
        snaps=tuple(draft.snaps),
        passes=passes,
        files=model.files(),
    )


class _Draft:
    """Gathers snaps and problems while a plan is worked out; after a problem it goes on with a default."""

    def __init__(self, request: Request, defaults: Defaults) -> None:
        self.request = request
        self.defaults = defaults
        self.snaps: list[Snap] = []
        self.problems: list[RequestError] = []

    def raise_problems(self) -> None:
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            raise RequestError("; ".join(str(problem) for problem in self.problems))

    def size(self) -> tuple[int, int]:
        asked = self.request.size or self.defaults.size
        if isinstance(asked, str):
            if asked not in self.defaults.presets:
                known = ", ".join(self.defaults.presets)
                self._problem("size", f"this model has no size '{asked}'; it has {known}")
                return self.defaults.size
            return self.defaults.presets[asked]
        used = (snap_side(asked[0]), snap_side(asked[1]))
        if used != tuple(asked):
            self._snap("size", f"{asked[0]}x{asked[1]}", f"{used[0]}x{used[1]}", "multiples of 32")
        return used

    def frames(self, fps: float) -> int:
        request = self.request
        if request.duration_s is not None:
            asked = max(1, round(request.duration_s * fps))
            used = snap_frames(asked)
            if not math.isclose(used / fps, request.duration_s, rel_tol=1e-9):
                self._snap(
                    "duration",
                    f"{request.duration_s:g} s",
                    f"{used / fps:.4g} s",
                    f"{used} frames at {fps:g} fps, 8k+1",
                )
        else:
            asked = request.num_frames or self.defaults.num_frames
            used = snap_frames(asked)
            if used != asked:
                self._snap("frames", str(asked), str(used), "8k+1")
        limit = self.defaults.max_duration_s
        if used / fps > limit:
            self._problem(
                "duration_s",
                f"the clip would last {used / fps:.4g} s; this model makes at most {limit:g} s at once, "
                "so give a shorter duration or fewer frames",
            )
            return self.defaults.num_frames
        return used

    def passes(self, shape: VideoShape, fps: float) -> tuple[PassPlan, ...]:
        try:
            recipe = recipe_named(self.request.recipe)
        except RequestError as problem:
            self.problems.append(problem)
            return ()
        plans = [self._pass(p, shape, fps) for p in recipe.passes]
        return tuple(p for p in plans if p is not None)

    def _pass(self, step: Pass, shape: VideoShape, fps: float) -> PassPlan | None:
        try:
            sigmas = self._sigmas(step)
        except RequestError as problem:
            self.problems.append(problem)
            return None
        request = self.request
        has_video, has_audio = "video" in request.modalities, "audio" in request.modalities
        video = self._scales(step.video or self.defaults.video, request.video_guidance, has_video)
        audio = self._scales(step.audio or self.defaults.audio, request.audio_guidance, has_audio)
        return PassPlan(
            name=step.name,
            width=shape.width,
            height=shape.height,
            num_frames=shape.num_frames,
            video_tokens=shape.num_tokens if has_video else 0,
            audio_tokens=audio_latent_length(shape.num_frames, fps) if has_audio else 0,
            sampler=step.sampler,
            sigmas=sigmas,
            video=video,
            audio=audio,
            kinds=passes_needed(
                [scales for scales in (video, audio) if scales], exchange=has_video and has_audio
            ),
            seed=request.seed,
        )

    def _sigmas(self, step: Pass) -> schedules.Sigmas:
        if self.request.sigmas is not None:
            return schedules.check(self.request.sigmas)
        if step.sigmas is not None:
            return step.sigmas
        # No token count: the published one-stage recipe uses the 4096-token line at every size.
        return schedules.named(
            step.schedule or self.defaults.schedule,
            self.request.steps or step.steps or self.defaults.steps,
        )

    def _scales(self, base: Scales, own_cfg: float | None, present: bool) -> Scales | None:
        if not present:
            return None
        request = self.request
        stg = _first(request.stg, base.stg)
        if stg and not base.stg_blocks:
            self._problem("stg", f"stg is {stg:g}, but this model names no blocks for it; leave stg at 0")
        return Scales(
            cfg=_first(own_cfg, request.guidance, base.cfg),
            stg=stg,
            stg_blocks=base.stg_blocks,
            modality=_first(request.modality_guidance, base.modality)
            if len(request.modalities) == 2
            else 1.0,
            rescale=_first(request.rescale, base.rescale),
            skip_step=base.skip_step,
        )

    def _snap(self, field: str, asked: str, used: str, rule: str) -> None:
        self.snaps.append(Snap(field, asked, used, rule))

    def _problem(self, field: str, sentence: str) -> None:
        if sentence not in (str(problem) for problem in self.problems):
            self.problems.append(RequestError(sentence, field=field))


def snap_side(pixels: int) -> int:
    """The nearest multiple of 32, at least 32; halves go up."""
    return max(SPACE_SCALE, (pixels + SPACE_SCALE // 2) // SPACE_SCALE * SPACE_SCALE)


def snap_frames(count: int) -> int:
    """The nearest 8k + 1, at least 1; halves go up."""
    return max(0, (count - 1 + TIME_SCALE // 2) // TIME_SCALE) * TIME_SCALE + 1


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _lines(plan: Plan) -> list[str]:
    size = f"{plan.width}x{plan.height}, " if "video" in plan.modalities else ""
    lines = [
        f"model     {plan.model}",
        f"output    {size}{plan.num_frames} frames at {plan.fps:g} fps, {plan.duration_s:.4g} s, "
        f"{' and '.join(plan.modalities)}",
        *(f"snapped   {snap}" for snap in plan.snaps),
    ]
    for p in plan.passes:
        lines += [
            f"pass      {p.name}: {p.num_steps} {p.sampler} steps x {len(p.kinds)} forward(s) "
            f"({', '.join(p.kinds)}), seed {p.seed}",
            f"  tokens  {p.video_tokens} video, {p.audio_tokens} audio, {plan.text_tokens} text",
            f"  sigmas  {' '.join(f'{sigma:.4g}' for sigma in p.sigmas)}",
        ]
        lines += [
            f"  {name:7} {_scales_line(s)}" for name, s in (("video", p.video), ("audio", p.audio)) if s
        ]
    for file in plan.files:
        found = "missing" if file.num_bytes is None else f"{file.num_bytes / 1e6:.1f} MB"
        lines.append(f"file      {file.path} ({file.part}, {found})")
    return lines


def _scales_line(scales: Scales) -> str:
    if scales.cfg == 1 and scales.stg == 0 and scales.modality == 1:
        return "no guidance"
    return (
        f"guidance {scales.cfg:g}, stg {scales.stg:g}, modality {scales.modality:g}, "
        f"rescale {scales.rescale:g}"
    )
