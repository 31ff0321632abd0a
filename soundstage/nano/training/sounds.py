"""Draw sounds of the procedural world, on which the audio VAE and the vocoder are trained and measured.

A training sound is a function of its seed. Two clips in three of the world are silent for most of their
length. So most windows are laid around events, and most silent ones are passed over; some are kept, or
silence would not stay silent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from soundstage.model.mel import log_mel, resample
from soundstage.nano.world.motion import SoundEvent, simulate
from soundstage.nano.world.scene import draw_scene
from soundstage.nano.world.sound import synthesize
from soundstage.types import MEL_HOP, MEL_RATE_HZ, OUTPUT_RATE_HZ, VideoShape

SHAPES = (VideoShape(49, 128, 192), VideoShape(49, 192, 128), VideoShape(97, 128, 128))
SAMPLES_PER_MEL = MEL_HOP * OUTPUT_RATE_HZ // MEL_RATE_HZ
TAIL_S = 0.1  # of silence after a sound, as clips are padded to fill their last latent
LEAD_S = 0.25  # an event chosen for a window stands at most this far from its beginning

KEEP_SILENT = 0.15
AIM_AT_EVENT = 0.65
FROM_START = 0.2

NEPER_DB = 8.685889638  # one natural-log unit of amplitude


@dataclass(frozen=True)
class Sound:
    """A sound and its events."""

    samples: Tensor  # (2, N) at 48 kHz, float32
    events: list[SoundEvent]


def draw_sound(seed: int, shape: VideoShape = SHAPES[0], *, held_out: bool = False) -> Sound:
    """Return the whole sound of the scene with this seed."""
    scene = draw_scene(seed, shape, held_out=held_out)
    motion = simulate(scene)
    return Sound(torch.from_numpy(synthesize(scene, motion)), motion.events)


def draw_window(rng: np.random.Generator, num_samples: int) -> Tensor:
    """Return (2, num_samples) cut from a training sound at whole mel frames."""
    while True:
        shape = SHAPES[int(rng.integers(len(SHAPES)))]
        sound = draw_sound(int(rng.integers(2**62)), shape)
        samples = pad(sound.samples, (0, round(TAIL_S * OUTPUT_RATE_HZ)))
        start = _window_start(rng, sound.events, samples.shape[1] - num_samples)
        window = samples[:, start : start + num_samples]
        if bool(window.any()) or rng.random() < KEEP_SILENT:
            return window


def _window_start(rng: np.random.Generator, events: list[SoundEvent], last: int) -> int:
    kind = rng.random()
    if kind < FROM_START:
        return 0
    start = int(rng.integers(last + 1))
    if events and kind < FROM_START + AIM_AT_EVENT:
        event = events[int(rng.integers(len(events)))]
        start = round((event.time_s - LEAD_S * float(rng.random())) * OUTPUT_RATE_HZ)
    return min(max(start, 0), last) // SAMPLES_PER_MEL * SAMPLES_PER_MEL


def batch(key: int, step: int, count: int, num_samples: int) -> Tensor:
    """Return training windows (count, 2, num_samples); a function of key (the part) and step alone."""
    rng = np.random.default_rng([key, step])
    return torch.stack([draw_window(rng, num_samples) for _ in range(count)])


def mel_of(samples: Tensor) -> Tensor:
    """Return the log-mel (B, 2, M, 64) of (B, 2, N) at 48 kHz, as the engine makes it from a file."""
    return log_mel(resample(samples, OUTPUT_RATE_HZ, MEL_RATE_HZ))
