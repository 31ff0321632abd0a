"""Steppers: functions from one noise level to the next, given the guided, mask-blended prediction.

x: (B, N, D) latents at sigma. denoised: the same shape, the prediction of the clean latents.
sigma, sigma_next: scalars, 0-dim tensors in the loop. Returns latents at sigma_next in x's dtype.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Sampler(Protocol):
    def __call__(
        self, x: Tensor, denoised: Tensor, sigma: Tensor | float, sigma_next: Tensor | float
    ) -> Tensor: ...


def euler(x: Tensor, denoised: Tensor, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
    """x + (x - D) / sigma * (sigma_next - sigma).

    The arithmetic is float32 (or wider), but the slope is rounded to x's dtype before it is used: the
    published trajectories in bfloat16 carry both roundings. Raises ValueError at sigma 0, where the
    slope is not defined.
    """
    if sigma == 0:
        raise ValueError("an Euler step cannot start at sigma 0: the list must end there")
    wide = torch.promote_types(x.dtype, torch.float32)
    slope = ((x.to(wide) - denoised.to(wide)) / sigma).to(x.dtype)
    return (x.to(wide) + slope.to(wide) * (sigma_next - sigma)).to(x.dtype)


SAMPLERS: dict[str, Sampler] = {"euler": euler}
