"""A plan: everything that will be done for a request, worked out before torch or any weight is loaded.

Pure data, made by `planning.make_plan`. `print(plan)` explains it; `plan.to_json()` hands it to a program.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from soundstage.conditioning.seams import Seam
from soundstage.library.model_files import ModelFile
from soundstage.planning.windows import Window
from soundstage.prompts.timeline import Timeline
from soundstage.request.request import Request
from soundstage.sampling.cache import StepCache
from soundstage.sampling.sampler_info import SAMPLER_INFO, predictions
from soundstage.sampling.scales import NEUTRAL, Guidance, Scales, bound_at, passes_needed, scales_at
from soundstage.types import TIME_SCALE, Group, Range, UpsamplerRole, VideoShape

# The forward passes of one step run as one batch up to this many tokens, one after the other beyond it.
MAX_BATCHED_TOKENS = 16_384

KeptPart = Literal["none", "start", "part", "all"]


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
class Condition:
    """A guide or reference as one pass uses it.

    index: its place in request.guides or request.references. frame: the pixel frame of the pass where it
    begins, negative before the clip. num_frames: pixel frames that are encoded, from `num_latents`. doubled:
    its first frame is encoded twice and the first latent dropped, so that every latent covers 8 frames.
    tokens: those added beside the clip; 0 in place. downscale, temporal: the factors of a reference.
    """

    kind: Literal["replace", "guide", "reference"]
    index: int
    name: str
    frame: int
    num_frames: int
    num_latents: int
    doubled: bool
    width: int
    height: int
    strength: float
    attention: float
    tokens: int
    downscale: int = 1
    temporal: int = 1

    @property
    def latent(self) -> int:
        """Return the latent frame that holds `frame`."""
        return (self.frame + TIME_SCALE - 1) // TIME_SCALE


@dataclass(frozen=True)
class SourceUse:
    """The use of the request's source by one pass.

    video, audio: "none", "start" (the latents to start from), "part" (kept but for the ranges made) or
    "all" (kept whole). first_frame, num_frames: taken from the file, at the pass's rate. before: frames
    made in front of it. margins: pixels made around it, left, top, right, bottom. video_made, audio_made:
    latents that are made anew. video_seams, audio_seams: frames and samples at the output's rate that change
    in the result.
    """

    video: KeptPart
    audio: KeptPart
    first_frame: int
    num_frames: int
    before: int
    margins: tuple[int, int, int, int]
    video_made: tuple[Range, ...]
    audio_made: tuple[Range, ...]
    video_seams: tuple[Seam, ...] = ()
    audio_seams: tuple[Seam, ...] = ()


@dataclass(frozen=True)
class LoraUse:
    """An adapter in one pass. span: seconds, or None for the whole clip. groups: see `inputs.Lora`."""

    path: str
    strength: float
    span: tuple[float, float] | None = None
    groups: Mapping[Group, float] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        groups = "".join(f", {group} {multiplier:g}" for group, multiplier in self.groups.items())
        return f"{self.path} at {self.strength:g}{groups}"


@dataclass(frozen=True)
class PassPlan:
    """One run of the loop. Tokens are 0 and scales None for a modality that is not made.

    video_tokens, audio_tokens: the result's tokens; added_video, added_audio: tokens added for conditions and
    dropped after the pass. video, audio: guidance, one set of scales or one for each stretch of noise levels.
    kinds: all forward passes that some step makes. frozen: modalities that are given, not made. seed: None
    continues the random numbers of the pass before. cache: skips blocks on some steps.
    """

    name: str
    width: int
    height: int
    num_frames: int
    fps: float
    video_tokens: int
    audio_tokens: int
    added_video: int
    added_audio: int
    start: str
    upsample: tuple[UpsamplerRole, ...]
    sampler: str
    sigmas: tuple[float, ...]
    video: Guidance | None = field(hash=False)
    audio: Guidance | None = field(hash=False)
    kinds: tuple[str, ...]
    frozen: tuple[str, ...]
    conditions: tuple[Condition, ...]
    source: SourceUse | None
    identity: str
    loras: tuple[LoraUse, ...]
    seed: int | None
    cache: StepCache | None = None

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def num_forwards(self) -> int:
        """Return the number of model evaluations in the pass."""
        return sum(len(self._kinds_at(sigma, step)) for sigma, step in self.predictions)

    @property
    def predictions(self) -> tuple[tuple[float, int], ...]:
        """Return (noise level, step) of every prediction."""
        return predictions(self.sampler, self.sigmas)

    def _kinds_at(self, sigma: float, step: int) -> tuple[str, ...]:
        """Return the kinds of forwards of one prediction; none where all modalities skip the step."""
        scales = [scales_at(s, sigma) for s in (self.video, self.audio) if s is not None]
        active = [s for s in scales if not s.skips(step)]
        unconditional = SAMPLER_INFO[self.sampler].needs_negative
        return passes_needed(active, exchange=len(scales) == 2, unconditional=unconditional) if active else ()

    @property
    def shape(self) -> VideoShape:
        return VideoShape(self.num_frames, self.height, self.width)


@dataclass(frozen=True, repr=False)
class Plan:
    """The work for one request on one model. width, height in pixels; num_frames: those that are made.

    thin: every thin-th frame is kept. audio_pass: name of the pass whose sound is kept. driven: the sound of
    the result is the input's own samples. windows, clips: the windows of a long take and the plan of each;
    `passes` are then those of the first. notices: sentences that the user should read before the work begins;
    the command line prints them on stderr. shown_frames: frames of the result, where the last of those made
    only fill a latent and are cut off; None is all. whole_sound: a given sound is kept to its own end.
    shown_size: width and height of the result where the last pixels only fill cells and are cut off; None is
    all. source_size: what the source is drawn out to at its edges then.
    """

    request: Request
    model: str
    recipe: str
    width: int
    height: int
    num_frames: int
    fps: float
    thin: int
    modalities: tuple[str, ...]
    timeline: Timeline
    video_negative: str | None
    audio_negative: str | None
    text_tokens: int
    image_crf: int
    snaps: tuple[Snap, ...]
    passes: tuple[PassPlan, ...]
    audio_pass: str
    driven: bool
    files: tuple[ModelFile, ...]
    windows: tuple[Window, ...] = ()
    clips: tuple[Plan, ...] = ()
    notices: tuple[str, ...] = ()
    shown_frames: int | None = None
    whole_sound: bool = False
    shown_size: tuple[int, int] | None = None
    source_size: tuple[int, int] | None = None

    @property
    def num_shown(self) -> int:
        """Return the number of frames of the result, before thinning."""
        return self.num_frames if self.shown_frames is None else self.shown_frames

    @property
    def duration_s(self) -> float:
        """Return the length of the result in seconds."""
        return self.num_shown / self.fps

    @property
    def negative_prompt(self) -> str | None:
        """Return the negative prompt, the picture's if the modalities differ."""
        return self.video_negative if self.video_negative is not None else self.audio_negative

    @property
    def made_clips(self) -> tuple[Plan, ...]:
        """Return the plans that are carried out one after the other: those of windows, or the plan itself."""
        return self.clips or (self,)

    @property
    def num_forwards(self) -> int:
        """Return the number of model evaluations in the whole plan."""
        return sum(p.num_forwards for clip in self.made_clips for p in clip.passes)

    @property
    def summary(self) -> str:
        """Return what is made, with which model and how many steps: "nano: 49 frames of 192x128 ..."."""
        steps = " + ".join(str(pass_.num_steps) for pass_ in self.passes)
        windows = f" in each of {len(self.windows)} windows" if self.windows else ""
        return f"{self.model}: {_result(self)}, {steps} steps{windows}"

    def to_dict(self) -> dict[str, Any]:
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["request"] = self.request.describe()
        data["timeline"] = asdict(self.timeline)
        data["snaps"] = [asdict(snap) for snap in self.snaps]
        data["passes"] = [{**asdict(p), "num_forwards": p.num_forwards} for p in self.passes]
        data["windows"] = [asdict(window) for window in self.windows]
        data["clips"] = [
            {"prompt": clip.request.prompt, "num_frames": clip.num_frames, "seed": clip.request.seed}
            for clip in self.clips
        ]
        data["duration_s"] = self.duration_s
        data["num_forwards"] = self.num_forwards
        data["files"] = [{**asdict(file), "path": str(file.path)} for file in self.files]
        return data

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def __repr__(self) -> str:
        return f"<Plan: {self.summary}>"

    def _repr_html_(self) -> str:
        """Return what `print` shows, for a notebook."""
        return f'<pre style="white-space:pre-wrap">{html.escape(str(self))}</pre>'


# --- printing -------------------------------------------------------------------------------------------


def _result(plan: Plan) -> str:
    if "video" not in plan.modalities:
        return f"{plan.duration_s:.3g} s of sound"
    width, height = plan.shown_size or (plan.width, plan.height)
    frames = -(-plan.num_shown // plan.thin)
    sound = "with sound" if "audio" in plan.modalities else "without sound"
    return f"{frames} frames of {width}x{height} ({plan.duration_s:.3g} s) {sound}"


def _lines(plan: Plan) -> list[str]:
    width, height = plan.shown_size or (plan.width, plan.height)
    size = f"{width}x{height}, " if "video" in plan.modalities else ""
    thinned = f", every {plan.thin}. frame kept" if plan.thin > 1 else ""
    if plan.num_shown != plan.num_frames:
        thinned += f", cut back from {plan.num_frames} frames that are made"
    if plan.shown_size is not None:
        thinned += f", cut back from {plan.width}x{plan.height}"
    lines = [
        f"model     {plan.model}",
        f"recipe    {plan.recipe}",
        f"output    {size}{plan.num_shown} frames at {plan.fps:g} fps, {plan.duration_s:.4g} s, "
        f"{' and '.join(plan.modalities)}{thinned}",
        *(f"snapped   {snap}" for snap in plan.snaps),
        *(f"notice    {notice}" for notice in plan.notices),
    ]
    if len(plan.timeline.segments) > 1:
        lines += [f"prompt    {s.start_s:.4g} to {s.end_s:.4g} s: {s.text}" for s in plan.timeline.segments]
    if plan.driven:
        lines.append("sound     the given samples, unchanged")
    lines += [
        f"window {w.index + 1:<3}{w.offset_s:.4g} to {w.end_s:.4g} s, {clip.num_frames} frames, "
        f"{w.overlap} latent frames given, seed {clip.request.seed}"
        for w, clip in zip(plan.windows, plan.clips, strict=True)
    ]
    for p in plan.passes:
        lines += _pass_lines(plan, p)
    for file in plan.files:
        found = "missing" if file.num_bytes is None else f"{file.num_bytes / 1e6:.1f} MB"
        lines.append(f"file      {file.path} ({file.part}, {found})")
    return lines


def _pass_lines(plan: Plan, p: PassPlan) -> list[str]:
    seed = "the seed goes on" if p.seed is None else f"seed {p.seed}"
    start = " then ".join([f"from {p.start}", *p.upsample])
    added = [f"+{n} {name}" for n, name in ((p.added_video, "video"), (p.added_audio, "audio")) if n]
    lines = [
        f"pass      {p.name}: {p.width}x{p.height}, {p.num_frames} frames, {start}: "
        f"{p.num_steps} {p.sampler} steps {_forwards(p)} ({', '.join(p.kinds)}), {seed}",
        f"  tokens  {p.video_tokens} video, {p.audio_tokens} audio, {plan.text_tokens} text"
        + (f", beside them {', '.join(added)}" if added else ""),
        f"  sigmas  {' '.join(f'{sigma:.4g}' for sigma in p.sigmas)}",
    ]
    for name, guidance in (("video", p.video), ("audio", p.audio)):
        if guidance is not None:
            lines += [f"  {name:7} given"] if name in p.frozen else _guidance_lines(name, guidance, p)
    if p.cache is not None:
        lines.append(f"  cache   {p.cache}: fewer blocks on steps that change little, passes one by one")
    lines += [f"  {c.kind:9} {_condition_line(c)}" for c in p.conditions]
    if p.source is not None:
        lines += _source_lines(p.source)
    lines += [f"  lora    {use}" for use in p.loras]
    return lines


def _condition_line(c: Condition) -> str:
    where = f"at latent {c.latent}" if c.kind == "replace" else f"at frame {c.frame}"
    count = f"{c.num_frames} frame(s)" + (f", {c.tokens} tokens" if c.tokens else "")
    return f"{c.name} {where}, strength {c.strength:g}, {count}, {c.width}x{c.height}"


def _source_lines(use: SourceUse) -> list[str]:
    lines = []
    for name, part, made in (("video", use.video, use.video_made), ("audio", use.audio, use.audio_made)):
        ranges = ", ".join(f"[{a}, {b})" for a, b in made)
        told = {
            "start": "start from it",
            "all": "kept whole",
            "part": f"latents {ranges} made, the rest kept",
        }
        if part != "none":
            lines.append(f"  source  {name}: {told[part]}")
    return lines


def _forwards(p: PassPlan) -> str:
    """Say how often the model is evaluated: for each prediction, or in all where predictions differ."""
    if p.num_forwards == len(p.kinds) * len(p.predictions):
        return f"x {len(p.kinds)} forward(s)"
    return f"with {p.num_forwards} forwards in all"


def _guidance_lines(name: str, guidance: Guidance, p: PassPlan) -> list[str]:
    """Return one line, or one for each stretch of noise levels that some prediction lies in."""
    if isinstance(guidance, Scales):
        return [f"  {name:7} {_scales_line(guidance)}"]
    bounds = [bound_at(guidance, sigma) for sigma, _ in p.predictions]
    return [
        f"  {name:7} from level {bound:g} down, {bounds.count(bound)} of {len(bounds)} predictions: "
        f"{_scales_line(guidance[bound])}"
        for bound in sorted(set(bounds), reverse=True)
    ]


def _scales_line(scales: Scales) -> str:
    if scales == NEUTRAL or (scales.cfg == 1 and scales.stg == 0 and scales.modality == 1):
        return "no guidance"
    return (
        f"guidance {scales.cfg:g}, stg {scales.stg:g}, modality {scales.modality:g}, "
        f"rescale {scales.rescale:g}"
    )


def plan_metadata(plan: Plan) -> Mapping[str, Any]:
    """Return what a clip's metadata keeps of its plan."""
    return {
        "recipe": plan.recipe,
        "width": plan.width,
        "height": plan.height,
        "num_frames": plan.num_frames,
        "shown_frames": plan.num_shown,
        "shown_size": plan.shown_size,
        "fps": plan.fps,
        "thin": plan.thin,
        "negative_prompt": plan.negative_prompt,
        "audio_negative_prompt": plan.audio_negative,
        "passes": [asdict(pass_) for pass_ in plan.passes],
        "windows": [asdict(window) for window in plan.windows],
    }
