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
from soundstage.media.hdr import Hdr
from soundstage.planning.plan_text import lines_of, summary_of
from soundstage.planning.windows import Window
from soundstage.prompts.timeline import PromptTimeline
from soundstage.request.request import Request
from soundstage.sampling.cache import StepCache
from soundstage.sampling.sampler_info import SAMPLER_INFO, predictions
from soundstage.sampling.scales import Guidance, passes_needed, scales_at
from soundstage.types import TIME_SCALE, Exchange, Group, Range, UpsamplerRole, VideoShape

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

    index: its place in request.guides or request.followed. frame: the pixel frame of the pass where it
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
    exchange: Exchange = "all"

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
    all. source_size: what the source is drawn out to at its edges then. hdr: how the picture's light is
    decoded, with its curve; None for standard range.
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
    timeline: PromptTimeline
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
    hdr: Hdr | None = None

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
        return summary_of(self)

    def to_dict(self) -> dict[str, Any]:
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["request"] = self.request.describe()
        data["timeline"] = asdict(self.timeline)
        data["hdr"] = None if self.hdr is None else asdict(self.hdr)
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
        return "\n".join(lines_of(self))

    def __repr__(self) -> str:
        return f"<Plan: {self.summary}>"

    def _repr_html_(self) -> str:
        """Return what `print` shows, for a notebook."""
        return f'<pre style="white-space:pre-wrap">{html.escape(str(self))}</pre>'


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
        **({} if plan.hdr is None else {"hdr": asdict(plan.hdr)}),
        "negative_prompt": plan.negative_prompt,
        "audio_negative_prompt": plan.audio_negative,
        "passes": [asdict(pass_) for pass_ in plan.passes],
        "windows": [asdict(window) for window in plan.windows],
    }
