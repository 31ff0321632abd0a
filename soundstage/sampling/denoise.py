"""The one denoising loop, for every recipe: a generator that hands over its state after each step.

Progress, preview and cancel belong to the caller: closing the generator ends the work.
Source of the step: spec of LTX-2.3 sampling, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from soundstage.sampling.samplers import Sampler, euler
from soundstage.sampling.streams import Stream, draw_noise

Pair = tuple[Tensor | None, Tensor | None]


class Denoiser(Protocol):
    """Predicts clean latents (B, N, D) of both streams at a scalar sigma; `guidance.Guider` is one."""

    def __call__(self, video: Tensor | None, audio: Tensor | None, sigma: Tensor, step: int) -> Pair: ...


@dataclass(frozen=True)
class State:
    """After a step. step counts from 1 to num_steps. Tensors are (B, N, D), None for an absent stream.

    video, audio: latents at sigma_next. clean_video, clean_audio: the prediction the step was made with,
    which a preview can show.
    """

    step: int
    num_steps: int
    sigma: float
    sigma_next: float
    video: Tensor | None
    audio: Tensor | None
    clean_video: Tensor | None
    clean_audio: Tensor | None


@torch.no_grad()
def denoise(
    denoiser: Denoiser,
    video: Stream | None,
    audio: Stream | None,
    sigmas: Sequence[float],
    generator: torch.Generator,
    *,
    sampler: Sampler = euler,
) -> Iterator[State]:
    """Noise both streams to the first sigma and take every step of the list.

    generator: seeded by the caller, on the streams' device; gives the video noise, then the audio noise.
    Each step: predict the clean latents, put kept tokens back, step with the global sigma. Tokens with
    mask 0 stay equal to their clean latents, bit for bit.
    """
    noise = draw_noise(video, audio, generator)
    levels = torch.tensor(sigmas, dtype=torch.float32, device=generator.device)
    streams = (video, audio)
    x: list[Tensor | None] = [_start(s, n, levels[0]) for s, n in zip(streams, noise, strict=True)]
    num_steps = len(sigmas) - 1
    for i in range(num_steps):
        clean = denoiser(x[0], x[1], levels[i], i)
        blended = [_blend(s, d) for s, d in zip(streams, clean, strict=True)]
        x = [_step(sampler, a, d, levels[i], levels[i + 1]) for a, d in zip(x, blended, strict=True)]
        yield State(i + 1, num_steps, sigmas[i], sigmas[i + 1], x[0], x[1], blended[0], blended[1])


def _start(stream: Stream | None, noise: Tensor | None, sigma: Tensor) -> Tensor | None:
    return None if stream is None or noise is None else stream.noised(noise, sigma)


def _blend(stream: Stream | None, clean: Tensor | None) -> Tensor | None:
    return None if stream is None or clean is None else stream.blended(clean)


def _step(
    sampler: Sampler, x: Tensor | None, clean: Tensor | None, sigma: Tensor, sigma_next: Tensor
) -> Tensor | None:
    return None if x is None or clean is None else sampler(x, clean, sigma, sigma_next)
