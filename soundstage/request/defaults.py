"""Defaults of a model, for what neither a request nor its recipe says. Data only.

A bundle may replace the values here in its `bundle.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from soundstage.fields.record import from_file, record, unit
from soundstage.request.inputs import MAX_FRAMES, MAX_SECONDS, Crf, Fps, Side, Steps
from soundstage.sampling import schedules
from soundstage.sampling.scales import Scales

# Written from the traits the published negative prompt lists, in our own words.
NEGATIVE_PROMPT = (
    "subtitles on screen, censored blur, fade from black, fade to black, speech cut off, blurry, out of "
    "focus, overexposed, underexposed, low contrast, washed-out colours, noise, grain, poor lighting, "
    "flicker, motion blur, distorted proportions, unnatural skin, deformed face, asymmetric face, missing "
    "features, extra limbs, malformed hands, wrong finger count, artefacts around text, broken "
    "perspective, shaky camera, tilted camera, wrong depth of field, oversharpened, cluttered background, "
    "distracting reflections, harsh inconsistent light, colour banding, cartoon look, CGI look, uncanny, "
    "unreal materials, exaggerated expressions, wrong gaze, lip-sync errors, silence, distorted voice, "
    "robotic voice, echo, background noise, audio out of sync, wrong dialogue, repeated dialogue, jitter, "
    "awkward pauses, wrong timing, unnatural transitions, unstable framing, flat light, uneven tone, "
    "oversaturated, stylised filter, generic AI artefacts"
)

DEV_VIDEO = Scales(cfg=3, stg=1, stg_blocks=(28,), modality=3, rescale=0.7)
DEV_AUDIO = Scales(cfg=7, stg=1, stg_blocks=(28,), modality=3, rescale=0.7)


Sides = tuple[Side, Side]


@record
class Defaults:
    """Values that a model takes where a request says nothing.

    The values here are the 22B dev model's published ones, sized for a single pass.
    """

    size: Sides = (768, 512)
    """Width and height."""
    presets: Mapping[str, Sides] = field(
        default_factory=lambda: {"landscape": (1216, 704), "portrait": (704, 1216), "square": (960, 960)}
    )
    """Sizes by orientation."""
    resolutions: Mapping[str, Sides] = field(
        default_factory=lambda: {
            "480p": (854, 480),
            "540p": (960, 544),
            "720p": (1280, 720),
            "1080p": (1920, 1080),
            "1440p": (2560, 1440),
            "2160p": (3840, 2160),
        }
    )
    """Sizes by name, in landscape."""
    num_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES), unit("frames")] = 121
    """Length of a clip."""
    fps: Fps = 24.0
    """Frame rate."""
    max_duration_s: Annotated[float, Field(gt=0, le=MAX_SECONDS), unit("seconds")] = 20.0
    """The longest clip whose times the position encoding can tell apart."""
    text_tokens: Annotated[int, Field(ge=1, le=100_000), unit("tokens")] = 1024
    """Length of the prompt context."""
    schedule: str = "ltx2"
    """How noise falls over the steps; a name of sampling.schedules."""
    schedule_tokens: Annotated[int, Field(ge=1), unit("tokens")] | None = schedules.MAX_TOKENS
    """Number of tokens that "ltx2" is shifted for; None is each pass's own number."""
    steps: Steps = 30
    """Number of denoising steps."""
    video: Scales = DEV_VIDEO
    """Guidance of the picture."""
    audio: Scales = DEV_AUDIO
    """Guidance of the sound."""
    negative_prompt: str = NEGATIVE_PROMPT
    """What to steer away from."""
    image_crf: Crf = 33
    """H.264 compression of conditioning pictures, which the model was trained on."""
    distilled: bool = False
    """Whether the model needs no guidance and no distilled LoRA."""
    dtype: str = "bfloat16"
    """Number format of the transformer and the video VAE."""
    follows: tuple[Literal["references", "voices"], ...] = ()
    """What the model follows without an adapter for it."""
    trained_pixels: Annotated[int, Field(ge=1), unit("pixels")] | None = None
    """Area of the largest frames it was trained on; larger ones get a notice. Left out, no limit is known."""
    max_pixels: Annotated[int, Field(ge=1), unit("pixels")] | None = None
    """Area of the largest frames that still show what was asked for; larger ones are refused unless the
    request has allow_unfit. Left out, no limit is known."""
    trained_fps: Fps | None = None
    """The one frame rate it was trained at; others get a notice. Left out, it is not known."""

    @classmethod
    def from_dict(cls, data: Any, where: str) -> Defaults:
        """Read the "defaults" object of a bundle.json; keys left out keep the values above.

        where: the file, for messages. Raises ConfigError naming a key or value that does not fit.
        """
        return from_file(cls, data, where)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that `from_dict` reads."""
        made: dict[str, Any] = TypeAdapter(Defaults).dump_python(self, mode="json")
        return made
