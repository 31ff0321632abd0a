"""ComfyUI's pictures, sounds, films and latents to and from Soundstage's.

IMAGE is (F, H, W, 3) float from 0 to 1. AUDIO is {"waveform": (1, channels, n), "sample_rate": Hz}. VIDEO is
a class of ComfyUI's. LATENT is {"samples": tensor}: (1, 128, T, h, w) of the picture, (1, 8, T, 16) of the
sound, or both as one nested tensor, as ComfyUI's own LTX-2 nodes join them. Both programs keep latents
normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from soundstage.clip import Clip
from soundstage.errors import RequestError
from soundstage.media.in_memory import InMemory
from soundstage.types import AUDIO_LATENT_CHANNELS, LATENT_CHANNELS

if TYPE_CHECKING:
    import torch

    from soundstage.rendering.prepare import Latents

MASK_CHANNELS = 3


@dataclass(frozen=True)
class Film:
    """A source clip as it came from other nodes. fps: of its picture; None where there is none."""

    frames: NDArray[np.uint8] | None
    waveform: NDArray[np.float32] | None = None
    fps: float | None = None
    sample_rate_hz: int = 48_000

    @property
    def media(self) -> InMemory:
        """Return it as a field of a request takes it."""
        return InMemory(self.frames, self.waveform, self.fps, self.sample_rate_hz)


def pixels(image: Any, what: str = "image") -> NDArray[np.uint8]:
    """Return an IMAGE as bytes (F, H, W, 3). Raises RequestError for what is none."""
    shape = tuple(getattr(image, "shape", ()))
    if len(shape) != 4 or shape[-1] not in (3, 4) or 0 in shape:
        raise RequestError(f"{what} is {shape or type(image).__name__}; link an IMAGE (F, H, W, 3)")
    values = image[..., :3].detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise RequestError(f"{what} has values that are not numbers (NaN or infinity)")
    shown: NDArray[np.uint8] = (values.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return shown


def picture(image: Any) -> InMemory:
    """Return an IMAGE as a picture, or as a clip where it is a batch of several."""
    return InMemory(pixels(image))


def mask_picture(mask: Any) -> InMemory:
    """Return a MASK (F, H, W) as grey pictures, white where it is 1."""
    shape = tuple(getattr(mask, "shape", ()))
    if len(shape) == 2:
        mask = mask[None]
    elif len(shape) != 3:
        raise RequestError(f"mask is {shape or type(mask).__name__}; link a MASK (F, H, W)")
    return InMemory(pixels(mask[..., None].repeat(1, 1, 1, MASK_CHANNELS), "mask"))


def samples(audio: Any) -> tuple[NDArray[np.float32], int]:
    """Return the samples (channels, n) and the rate of an AUDIO. Raises RequestError for what is none."""
    waveform = audio.get("waveform") if isinstance(audio, Mapping) else None
    shape = tuple(getattr(waveform, "shape", ()))
    if waveform is None or len(shape) != 3:
        raise RequestError(f"audio is {shape or type(audio).__name__}; link an AUDIO of ComfyUI's")
    if shape[0] != 1:
        raise RequestError(f"audio holds {shape[0]} sounds; link one")
    sound: NDArray[np.float32] = waveform[0].detach().float().cpu().numpy()
    return sound, int(audio["sample_rate"])


def sound(audio: Any) -> InMemory:
    """Return an AUDIO as a field of a request takes it."""
    waveform, rate = samples(audio)
    return InMemory(None, waveform, None, rate)


def film(video: Any, images: Any, audio: Any, fps: float) -> Film:
    """Return the clip of a VIDEO, or of IMAGE at a rate and AUDIO. Raises RequestError for none."""
    if video is not None:
        parts = video.get_components()
        images = parts.images if images is None else images
        audio = parts.audio if audio is None else audio
        fps = float(parts.frame_rate)
    if images is None and audio is None:
        raise RequestError("there is no clip; link video, or images, or audio", field="source")
    waveform, rate = (None, 48_000) if audio is None else samples(audio)
    frames = None if images is None else pixels(images, "images")
    return Film(frames, waveform, None if frames is None else fps, rate)


def image_of(clip: Clip) -> torch.Tensor | None:
    """Return a clip's frames as IMAGE; None for sound alone."""
    import torch

    return None if clip.frames is None else torch.from_numpy(clip.frames.astype(np.float32) / 255)


def audio_of(clip: Clip) -> dict[str, Any] | None:
    """Return a clip's sound as AUDIO; None for a silent one."""
    import torch

    if clip.waveform is None:
        return None
    return {"waveform": torch.from_numpy(clip.waveform.copy())[None], "sample_rate": clip.sample_rate_hz}


def video_of(clip: Clip) -> Any:
    """Return a clip as VIDEO; None for sound alone, and where this ComfyUI has no such type."""
    try:
        from comfy_api.input_impl import VideoFromComponents
        from comfy_api.util import VideoComponents
    except ImportError:
        return None
    if clip.frames is None:
        return None
    rate = Fraction(clip.fps).limit_denominator(1001)
    parts = VideoComponents(images=image_of(clip), audio=audio_of(clip), frame_rate=rate)
    return VideoFromComponents(parts)


def latent_of(tensor: torch.Tensor | None, kind: str) -> dict[str, Any] | None:
    """Return latents as LATENT. kind: "video" or "audio"."""
    if tensor is None:
        return None
    found: dict[str, Any] = {"samples": tensor.detach().float().cpu()}
    return found | ({"type": "audio"} if kind == "audio" else {})


def latents(video: Any, audio: Any) -> Latents | None:
    """Return the latents of a LATENT of the picture, or of both, and of a LATENT of the sound.

    None where neither is linked. Raises RequestError for shapes of other models and for masks.
    """
    from soundstage.rendering.prepare import Latents

    first, second = _tensors(video, "latent"), _tensors(audio, "audio_latent")
    if len(first) == 2 and second:
        raise RequestError("latent holds picture and sound; leave audio_latent unlinked", field="latent")
    found: dict[str, Any] = {"video": None, "audio": None}
    for tensor in (*first, *second):
        kind = _kind(tensor)
        if found[kind] is not None:
            raise RequestError(f"both latents are of {kind}; link one of picture and one of sound")
        found[kind] = tensor
    return Latents(**found) if first or second else None


def _tensors(latent: Any, what: str) -> list[Any]:
    """Return the tensors of a LATENT, two of a nested one, as tensors of their own."""
    if latent is None:
        return []
    held = latent.get("samples") if isinstance(latent, Mapping) else None
    if held is None:
        raise RequestError(f"{what} is a {type(latent).__name__}; link a LATENT of ComfyUI's", field=what)
    mask = latent.get("noise_mask")
    if mask is not None:
        raise RequestError(f"{what} has a noise mask; use Soundstage Source with a mask", field=what)
    parts = held.unbind() if getattr(held, "is_nested", False) else [held]
    return [part.detach().clone() for part in parts]


def _kind(tensor: Any) -> str:
    shape = tuple(tensor.shape)
    if len(shape) == 5 and shape[:2] == (1, LATENT_CHANNELS):
        return "video"
    if len(shape) == 4 and shape[:2] == (1, AUDIO_LATENT_CHANNELS):
        return "audio"
    raise RequestError(
        f"latents are {shape}; link those of one clip of LTX-2.3: (1, {LATENT_CHANNELS}, T, h, w) of the "
        f"picture or (1, {AUDIO_LATENT_CHANNELS}, T, 16) of the sound",
        field="latent",
    )
