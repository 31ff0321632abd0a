"""Limits of files that come from outside."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class IntakeLimits:
    """The largest file of each kind. They are checked before anything of it is used."""

    picture_bytes: int = 128 * MIB
    """Largest picture or animation."""
    clip_bytes: int = 2048 * MIB
    """Largest video."""
    sound_bytes: int = 1024 * MIB
    """Largest file of sound alone."""
    lora_bytes: int = 4096 * MIB
    """Largest LoRA."""
    data_bytes: int = 65_536 * MIB
    """Largest zip to train on."""
    header_bytes: int = 16 * MIB
    """Largest header of a LoRA."""
    picture_pixels: int = 2**27
    """Pixels of a picture, and of a frame of an animation."""
    frame_pixels: int = 2**26
    """Pixels of a video's frame: 8192x8192."""
    side_pixels: int = 32_768
    """Pixels of the longer side of either."""
    num_frames: int = 500_000
    """Frames of a video."""
    animation_frames: int = 10_000
    """Frames of an animation."""
    duration_s: float = 4 * 3600.0
    """Seconds of a video or a sound."""
    streams: int = 64
    """Tracks of a video."""
    sample_rate_hz: int = 768_000
    """Samples a second of a sound."""
    channels: int = 64
    """Channels of a sound."""
    fetch_bytes: int = 1024 * MIB
    """Bytes that are fetched from an address."""
    fetch_s: float = 120.0
    """Seconds that a fetch may take."""
    data_uri_bytes: int = 48 * MIB
    """Bytes that a data: URI may hold."""
    look_s: float = 60.0
    """Seconds that looking into a file may take."""
    look_bytes: int = 6144 * MIB
    """Memory that looking into a file may take."""


STANDARD = IntakeLimits()
