"""What a model is used with where neither a request nor its recipe says. Data only.

A bundle may replace the values here in its `bundle.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from soundstage.errors import ConfigError, listed
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


@dataclass(frozen=True)
class Defaults:
    """What a model is used with when a request says nothing.

    size, presets and resolutions: (width, height) pixels; presets by orientation, resolutions by name, in
    landscape. image_crf: compression of conditioning pictures, which the model was trained on. distilled:
    the model needs no guidance and no distilled LoRA. text_tokens: length of the prompt context.
    max_duration_s: the longest time the position encoding was trained to tell apart. schedule: one of
    sampling.schedules.NAMES. schedule_tokens: the length "ltx2" is shifted for; None is each pass's own.
    video, audio: guidance. dtype: of the transformer and the video VAE. follows: what the model follows
    without an adapter for it, of "references" and "voices". trained_pixels: of the largest frames it was
    trained on; larger ones are told. max_pixels: of the largest that still show what was asked for; larger
    ones are refused unless the request allows them. trained_fps: the one rate it was trained at. None is no
    limit that is known.
    The values here are the 22B dev model's published ones, sized for a single pass.
    """

    size: tuple[int, int] = (768, 512)
    presets: Mapping[str, tuple[int, int]] = field(
        default_factory=lambda: {"landscape": (1216, 704), "portrait": (704, 1216), "square": (960, 960)}
    )
    resolutions: Mapping[str, tuple[int, int]] = field(
        default_factory=lambda: {
            "480p": (854, 480),
            "540p": (960, 544),
            "720p": (1280, 720),
            "1080p": (1920, 1080),
            "1440p": (2560, 1440),
            "2160p": (3840, 2160),
        }
    )
    num_frames: int = 121
    fps: float = 24.0
    max_duration_s: float = 20.0
    text_tokens: int = 1024
    schedule: str = "ltx2"
    schedule_tokens: int | None = schedules.MAX_TOKENS
    steps: int = 30
    video: Scales = DEV_VIDEO
    audio: Scales = DEV_AUDIO
    negative_prompt: str = NEGATIVE_PROMPT
    image_crf: int = 33
    distilled: bool = False
    dtype: str = "bfloat16"
    follows: tuple[str, ...] = ()
    trained_pixels: int | None = None
    max_pixels: int | None = None
    trained_fps: float | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Defaults:
        """Read the "defaults" object of a bundle.json; keys left out keep the values above.

        where: the file, for messages. Raises ConfigError naming a key or value that does not fit.
        """
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise ConfigError(
                    f"{where} has an unknown default '{key}'; the defaults are {listed(str(key), known)}"
                )
        values = dict(data)
        try:
            if "size" in values:
                values["size"] = _pair(values["size"])
            for name in ("presets", "resolutions"):
                if name in values:
                    values[name] = {key: _pair(size) for key, size in values[name].items()}
            for name in ("video", "audio"):
                if name in values:
                    values[name] = _scales(values[name])
            if "follows" in values:
                values["follows"] = tuple(str(name) for name in values["follows"])
            return cls(**values)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{where} holds defaults that do not fit: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The JSON object `from_dict` reads."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["presets"], data["resolutions"] = dict(self.presets), dict(self.resolutions)
        data["follows"] = list(self.follows)
        data["video"], data["audio"] = vars(self.video).copy(), vars(self.audio).copy()
        return data


def _pair(value: Any) -> tuple[int, int]:
    width, height = value
    return int(width), int(height)


def _scales(value: Mapping[str, Any]) -> Scales:
    return Scales(**{**value, "stg_blocks": tuple(value.get("stg_blocks", ()))})
