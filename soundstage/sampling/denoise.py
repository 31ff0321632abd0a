"""The one denoising loop, for every recipe: a generator that yields its state after each step.

Progress, preview and cancel belong to the caller: closing the generator ends the work.
Source: docs/model/sampling.md, "Masked step".
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from soundstage.sampling.samplers import Euler, Moment, Past, Sampler, each
from soundstage.sampling.streams import Pair, Stream, draw_noise

# The most earlier steps that a sampler uses.
MAX_PAST = 2


class Denoiser(Protocol):
    """Predict clean latents (B, N, D) of both streams at a scalar sigma; `guidance.Guider` is one.

    step counts from 0; a sampler's second prediction within a step says 0, as the published loop does.
    """

    def __call__(self, video: Tensor | None, audio: Tensor | None, sigma: Tensor, step: int) -> Pair: ...


@runtime_checkable
class UnconditionalDenoiser(Denoiser, Protocol):
    """Predict as a Denoiser, and show the negative prompt's own prediction of the last call."""

    @property
    def unconditional(self) -> Pair: ...


@dataclass(frozen=True)
class Standing:
    """Hold all that the next step of a run is computed from, so that another run can go on from here.

    step: how many are done. latents: at the level of that step. past: earlier steps, the newest first.
    noise: the states of the generators of a sampler's own noise, by purpose.
    """

    step: int
    latents: Pair
    past: tuple[Past, ...] = ()
    noise: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """Hold the state after a step. Tensors are (B, N, D), None for an absent stream.

    step: counts from 1 to num_steps. video, audio: latents at sigma_next. clean_video, clean_audio: the
    prediction the step was made with, which a preview can show. num_steps: one more than the list's
    with a sampler that ends on a prediction of its own (res2s). standing: where the run stands now.
    """

    step: int
    num_steps: int
    sigma: float
    sigma_next: float
    video: Tensor | None
    audio: Tensor | None
    clean_video: Tensor | None
    clean_audio: Tensor | None
    standing: Standing


@torch.no_grad()
def denoise(
    denoiser: Denoiser,
    video: Stream | None,
    audio: Stream | None,
    sigmas: Sequence[float],
    generator: torch.Generator,
    *,
    sampler: Sampler = Euler(),
    noise_seed: int | None = None,
    standing: Standing | None = None,
) -> Iterator[State]:
    """Noise both streams to the first sigma and take every step of the list.

    generator: seeded by the caller, on the streams' device; gives the video noise, then the audio noise.
    sampler: see `samplers.SAMPLERS`. noise_seed: seed of the noise that a sampler adds at its steps, to which
    the sampler adds an offset of its own; None is the generator's seed. standing: where another run of the
    same arguments stood; this one draws no noise and goes on from there, with the same bits.
    Each step: predict the clean latents, put kept tokens back, step with the global sigma. Tokens with
    mask 0 stay equal to their clean latents, bit for bit, with every sampler.
    Raises ValueError for a sampler that needs the negative prompt's prediction and a denoiser without it.
    """
    seed = generator.initial_seed() if noise_seed is None else noise_seed
    run = _Run(denoiser, (video, audio), sampler, generator.device, seed)
    if standing is None:
        standing = Standing(0, run.start(draw_noise(video, audio, generator), sigmas[0]))
    run.go_on(standing)
    x, past = standing.latents, deque(standing.past, maxlen=MAX_PAST)
    levels = sampler.levels(sigmas)
    num_steps = len(levels) - 1
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(levels)):
        if i < standing.step:
            continue
        denoised = run.settled(denoiser(*x, run.level(sigma), i))
        now = run.moment(x, denoised, sigma, sigma_next, tuple(past))
        past.appendleft(Past(sigma, x, denoised))
        x = sampler.step(now)
        clean = each(lambda a, d: d.to(a.dtype), x, denoised)
        reached = Standing(i + 1, x, tuple(past), run.noise_states())
        yield State(i + 1, num_steps, sigma, sigma_next, *x, *clean, reached)


class _Run:
    """Offer a sampler the functions it may call during one run."""

    def __init__(
        self,
        denoiser: Denoiser,
        streams: tuple[Stream | None, Stream | None],
        sampler: Sampler,
        device: torch.device,
        seed: int,
    ) -> None:
        self.denoiser = denoiser
        self.streams = streams
        self.sampler = sampler
        self.device = device
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def start(self, noise: Pair, sigma: float) -> Pair:
        made = [
            None if stream is None or n is None else stream.noised(n, self.level(sigma))
            for stream, n in zip(self.streams, noise, strict=True)
        ]
        return made[0], made[1]

    def go_on(self, standing: Standing) -> None:
        """Draw a sampler's own noise from where another run had come to."""
        for purpose, state in standing.noise.items():
            self._generator(purpose).set_state(state)

    def noise_states(self) -> dict[str, Tensor]:
        return {purpose: generator.get_state() for purpose, generator in self._generators.items()}

    def level(self, sigma: float) -> Tensor:
        return torch.tensor(sigma, dtype=torch.float32, device=self.device)

    def predict(self, x: Pair, sigma: float) -> Pair:
        """Return a second prediction within a step, with the kept tokens put back."""
        return self.settled(self.denoiser(*x, self.level(sigma), 0))

    def settled(self, predicted: Pair) -> Pair:
        """Put kept tokens back into a prediction, in the dtype that the sampler computes in."""
        return self.blend(self._widened(predicted))

    def moment(
        self, x: Pair, denoised: Pair, sigma: float, sigma_next: float, past: Sequence[Past]
    ) -> Moment:
        return Moment(
            x=x,
            denoised=denoised,
            sigma=sigma,
            sigma_next=sigma_next,
            predict=self.predict,
            noise=self.noise,
            blend=self.blend,
            past=past,
            unconditional=self._unconditional() if self.sampler.needs_unconditional else None,
        )

    def blend(self, values: Pair) -> Pair:
        """Put kept tokens back, in the dtype of the values."""
        blended = [
            None if stream is None or value is None else stream.blended(value)
            for stream, value in zip(self.streams, values, strict=True)
        ]
        return blended[0], blended[1]

    def noise(self, purpose: str) -> Pair:
        """Draw fresh noise, video first, also for frozen streams; each purpose has its own generator."""
        generator = self._generator(purpose)
        drawn = [None if s is None else self.sampler.draw(s.clean, generator) for s in self.streams]
        return drawn[0], drawn[1]

    def _generator(self, purpose: str) -> torch.Generator:
        if purpose not in self._generators:
            seed = self.sampler.noise_seed(self.seed, purpose)
            self._generators[purpose] = torch.Generator(self.device).manual_seed(seed)
        return self._generators[purpose]

    def _unconditional(self) -> Pair:
        shown: Pair = (None, None)
        if isinstance(self.denoiser, UnconditionalDenoiser):
            shown = self.denoiser.unconditional
        if any(x is None and stream is not None for x, stream in zip(shown, self.streams, strict=True)):
            raise ValueError(
                f"the sampler {type(self.sampler).__name__} needs the negative prompt's own prediction, "
                "which this denoiser does not show; make the Guider with unconditional=True"
            )
        return self.settled(shown)

    def _widened(self, values: Pair) -> Pair:
        if not self.sampler.wide:
            return values
        return each(lambda d: d.to(torch.promote_types(d.dtype, torch.float32)), values)
