"""From the passes of a step to one guided prediction: formulas over predictions of the clean latents.

C is the positive pass, U the negative prompt's, T the one without self-attention, M the one without
exchange, N the one without the reference. All arithmetic is float32.
Source: docs/model/sampling.md, "Guidance".
"""

from __future__ import annotations

import torch
from torch import Tensor

from soundstage.sampling.scales import Scales

# Keeps a division by an all-zero prediction finite.
TINY = 1e-8


class RunningPull:
    """Carry the CFG pull on from step to step, for one modality of one run."""

    def __init__(self) -> None:
        self.last: Tensor | None = None

    def add(self, pull: Tensor, momentum: float) -> Tensor:
        """Return the pull plus `momentum` times the last result."""
        self.last = pull if self.last is None else momentum * self.last + pull
        return self.last


def combine(
    scales: Scales,
    cond: Tensor,
    *,
    uncond: Tensor | None = None,
    perturbed: Tensor | None = None,
    isolated: Tensor | None = None,
    identity: Tensor | None = None,
    running: RunningPull | None = None,
) -> Tensor:
    """Return one modality's guided prediction (B, N, D), in the dtype of `cond`.

    C + (cfg - 1)(C - U) + stg (C - T) + (modality - 1)(C - M) + identity (C - N), then scaled so that its
    standard deviation goes `rescale` of the way back to that of C. A pass that was not made adds nothing.
    The deviation is unbiased and taken over all tokens of a sample. (C - U) is shaped first as `apg_*` and
    `cfg_star` say. running: the pull of the steps before, needed where apg_momentum is not 0.
    """
    c = cond.float()
    guided = c
    if uncond is not None and scales.cfg != 1:
        guided = guided + (scales.cfg - 1) * negative_pull(scales, c, uncond.float(), running)
    others = (
        (scales.stg, perturbed),
        (scales.modality - 1, isolated),
        (scales.identity, identity),
    )
    for factor, other in others:
        if other is not None and factor != 0:
            guided = guided + factor * (c - other.float())
    if scales.rescale != 0:
        ratio = _deviation(c) / _deviation(guided)
        guided = guided * (scales.rescale * ratio + 1 - scales.rescale)
    return guided.to(cond.dtype)


def negative_pull(scales: Scales, c: Tensor, u: Tensor, running: RunningPull | None = None) -> Tensor:
    """Return C - U, with U shrunk (CFG-zero-star) and the result carried on, limited and projected (APG)."""
    pull = c - (zero_star(c, u) if scales.cfg_star else u)
    if scales.apg_momentum != 0:
        if running is None:
            raise ValueError("momentum needs a RunningPull that lives as long as the run")
        pull = running.add(pull, scales.apg_momentum)
    if scales.apg_norm > 0:
        length = torch.linalg.vector_norm(pull, dim=_sample(pull), keepdim=True)
        pull = pull * (scales.apg_norm / length).clamp(max=1)
    if scales.apg_eta != 1:
        pull = pull + (scales.apg_eta - 1) * along(pull, c)
    return pull


def zero_star(c: Tensor, u: Tensor) -> Tensor:
    """Return U times <C, U> / (|U|^2 + 1e-8), per sample. Source: CFG-Zero*, Fan et al. 2025."""
    return along(c, u)


def along(x: Tensor, direction: Tensor) -> Tensor:
    """Return the part of x along a direction, per sample: (<x, d> / (|d|^2 + 1e-8)) d."""
    dims = _sample(x)
    inner = (x * direction).sum(dim=dims, keepdim=True)
    return inner / (direction.square().sum(dim=dims, keepdim=True) + TINY) * direction


def _sample(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _deviation(x: Tensor) -> Tensor:
    return x.flatten(1).std(dim=1).view(-1, *(1,) * (x.ndim - 1))
