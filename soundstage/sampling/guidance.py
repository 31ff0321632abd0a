"""Guided prediction of the clean latents, from up to four forward passes a step.

All passes see the same noisy latents. "cond" has the prompt, "uncond" the negative prompt, "perturbed"
replaces self-attention by its values in some blocks (STG), "isolated" cuts the attention between picture
and sound. They are combined as predictions of the clean latents, in float32.
Source: the multi-modal guider, spec of LTX-2.3 sampling, section 5.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from soundstage.model.transformer import Modality, Perturbation, RunTables
from soundstage.sampling.scales import BinnedScales, Scales, passes_needed, scales_at
from soundstage.sampling.streams import Stream

Pair = tuple[Tensor | None, Tensor | None]


class Velocity(Protocol):
    """What guidance needs of a transformer; `model.transformer.Transformer` is one."""

    def prepare(self, video: Modality | None, audio: Modality | None) -> RunTables: ...

    def __call__(
        self,
        video: Modality | None,
        audio: Modality | None,
        *,
        perturbation: Sequence[Perturbation] | None = None,
        tables: RunTables | None = None,
    ) -> Pair: ...


@dataclass(frozen=True)
class Contexts:
    """A prompt as the two streams see it, (B, S, W) each; None for a stream that is absent."""

    video: Tensor | None
    audio: Tensor | None


def combine(
    scales: Scales,
    cond: Tensor,
    *,
    uncond: Tensor | None = None,
    perturbed: Tensor | None = None,
    isolated: Tensor | None = None,
) -> Tensor:
    """One modality's guided prediction (B, N, D), in the dtype of `cond`.

    C + (cfg - 1)(C - U) + stg (C - T) + (modality - 1)(C - M), then scaled so that its standard deviation
    goes `rescale` of the way back to that of C. A pass that was not made adds nothing. The deviation is
    unbiased and taken over all tokens of a sample.
    """
    c = cond.float()
    guided = c
    for factor, other in ((scales.cfg - 1, uncond), (scales.stg, perturbed), (scales.modality - 1, isolated)):
        if other is not None and factor != 0:
            guided = guided + factor * (c - other.float())
    if scales.rescale != 0:
        ratio = _deviation(c) / _deviation(guided)
        guided = guided * (scales.rescale * ratio + 1 - scales.rescale)
    return guided.to(cond.dtype)


def _deviation(x: Tensor) -> Tensor:
    return x.flatten(1).std(dim=1).view(-1, *(1,) * (x.ndim - 1))


class Guider:
    """Predicts the clean latents of both streams at a noise level; made anew for every run.

    negative: may be None where no scale asks for it. A modality without scales is not there. batched:
    make the passes of a step as one batch, or one after the other with less memory; the numbers are the
    same to rounding.
    """

    def __init__(
        self,
        transformer: Velocity,
        streams: tuple[Stream | None, Stream | None],
        scales: tuple[Scales | BinnedScales | None, Scales | BinnedScales | None],
        positive: Contexts,
        negative: Contexts | None = None,
        *,
        batched: bool = True,
    ) -> None:
        self.transformer = transformer
        self.streams = streams
        self.scales = scales
        self.positive = positive
        self.negative = negative
        self.batched = batched
        self._last: Pair = (None, None)
        self._tables: RunTables | None = None

    def __call__(self, video: Tensor | None, audio: Tensor | None, sigma: Tensor, step: int) -> Pair:
        """Predictions for latents (B, N, D) at a scalar float32 sigma; step counts from 0.

        A modality that skips this step repeats its last prediction; where all skip, the model rests.
        """
        latents = (video, audio)
        scales = [None if s is None else scales_at(s, float(sigma)) for s in self.scales]
        active = [s is not None and not s.skips(step) for s in scales]
        if any(active):
            computing = [s for s, on in zip(scales, active, strict=True) if s is not None and on]
            kinds = passes_needed(computing, exchange=None not in scales)
            made = self._predict(latents, sigma, kinds, scales, active)
            self._last = self._guide(made, scales, active)
        return self._last

    def _guide(self, made: dict[str, Pair], scales: Sequence[Scales | None], active: Sequence[bool]) -> Pair:
        guided = list(self._last)
        for i, s in enumerate(scales):
            own = {kind: pair[i] for kind, pair in made.items()}
            cond = own.pop("cond")
            if s is not None and cond is not None and active[i]:
                guided[i] = combine(s, cond, **own)
        return guided[0], guided[1]

    def _predict(
        self,
        latents: Pair,
        sigma: Tensor,
        kinds: Sequence[str],
        scales: Sequence[Scales | None],
        active: Sequence[bool],
    ) -> dict[str, Pair]:
        """Clean predictions of every pass, before they are combined."""
        groups = [kinds] if self.batched else [[kind] for kind in kinds]
        made: dict[str, Pair] = {}
        for group in groups:
            video, audio = (self._inputs(i, latents[i], sigma, group, active[i]) for i in (0, 1))
            if self._tables is None:
                self._tables = self._prepare(latents)
            perturbations = [_perturbation(kind, scales) for kind in group for _ in range(_batch(latents))]
            velocities = self.transformer(video, audio, perturbation=perturbations, tables=self._tables)
            clean = [_clean(modality, v) for modality, v in zip((video, audio), velocities, strict=True)]
            for n, kind in enumerate(group):
                made[kind] = (_nth(clean[0], n, len(group)), _nth(clean[1], n, len(group)))
        return made

    def _inputs(
        self, i: int, latents: Tensor | None, sigma: Tensor, kinds: Sequence[str], enabled: bool
    ) -> Modality | None:
        stream = self.streams[i]
        if stream is None or latents is None:
            return None
        context = torch.cat([self._context(i, kind, latents.shape[0]) for kind in kinds])
        one = stream.at(latents, sigma, context, enabled=enabled)
        return _repeated(one, len(kinds))

    def _context(self, i: int, kind: str, batch: int) -> Tensor:
        """A pass's context (B, S, W); without a negative one the positive serves."""
        positive = (self.positive.video, self.positive.audio)[i]
        context = positive
        if kind == "uncond" and self.negative is not None:
            context = (self.negative.video, self.negative.audio)[i]
            context = positive if context is None else context
        if context is None:
            raise ValueError(f"the prompt has no context for the {('video', 'audio')[i]} stream")
        return context.expand(batch, -1, -1)

    def _prepare(self, latents: Pair) -> RunTables:
        """Tables for the whole run, at sigma 1, where a token's timestep is its mask."""
        device = next(x.device for x in latents if x is not None)
        one = torch.ones((), device=device)
        video, audio = (self._inputs(i, latents[i], one, ["cond"], True) for i in (0, 1))
        return self.transformer.prepare(video, audio)


def _repeated(modality: Modality, times: int) -> Modality:
    """A modality with its batch repeated, but for the context, which differs by pass already."""
    if times == 1:
        return modality
    mask = modality.attention_mask
    return Modality(
        latents=modality.latents.repeat(times, 1, 1),
        sigma=modality.sigma.repeat(times),
        timesteps=modality.timesteps.repeat(times, 1),
        positions=_repeat_unless_shared(modality.positions, times),
        context=modality.context,
        attention_mask=None if mask is None else _repeat_unless_shared(mask, times),
        enabled=modality.enabled,
    )


def _repeat_unless_shared(x: Tensor, times: int) -> Tensor:
    return x if x.shape[0] == 1 else x.repeat(times, *(1,) * (x.ndim - 1))


def _perturbation(kind: str, scales: Sequence[Scales | None]) -> Perturbation:
    if kind == "isolated":
        return Perturbation.isolated()
    if kind != "perturbed":
        return Perturbation()
    video, audio = (frozenset(s.stg_blocks) if s is not None and s.stg else frozenset() for s in scales)
    return Perturbation(skip_video_self=video, skip_audio_self=audio)


def _clean(modality: Modality | None, velocity: Tensor | None) -> Tensor | None:
    """x - m sigma v per token, in float32, rounded to the dtype of x."""
    if modality is None or velocity is None:
        return None
    x = modality.latents
    return (x.float() - modality.timesteps.unsqueeze(-1) * velocity.float()).to(x.dtype)


def _nth(x: Tensor | None, n: int, count: int) -> Tensor | None:
    return None if x is None else x.chunk(count)[n]


def _batch(latents: Pair) -> int:
    return next(x.shape[0] for x in latents if x is not None)
