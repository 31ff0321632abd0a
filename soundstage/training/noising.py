"""Noise a batch by sampling's own rule, and compare the model's velocities with the true ones.

Tokens stand at x = (1 - sigma) c + sigma n, kept ones at c; the model predicts the velocity n - c. Kept
tokens, the mix and the model's inputs come from `Stream`, as in sampling. B samples, N tokens of the
clip, D features; a stream may have kept tokens behind the clip's own.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from soundstage.model.transformer import ModalityInputs
from soundstage.sampling.streams import Stream


def noised_modality(stream: Stream, noise: Tensor, sigma: Tensor, context: Tensor) -> ModalityInputs:
    """Return the transformer's input for a stream whose samples are noised to sigma (B,).

    noise: (B, N, D), for the clip's own tokens. context: (B, S, W).
    """
    num_added = stream.clean.shape[1] - noise.shape[1]
    latents = stream.noised(F.pad(noise, (0, 0, 0, num_added)), sigma)
    return stream.at(latents, sigma, context)


def velocity_loss(velocity: Tensor, stream: Stream, noise: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the squared error of velocities (B, N or more, D) per sample (B,), a mean over generated tokens.

    weights: (B, N), how much each token counts. A sample whose tokens are all kept has a loss of 0.
    """
    count = noise.shape[1]
    error = (velocity[:, :count].float() - (noise - stream.clean[:, :count])).square().mean(dim=2)
    generated = stream.mask[:, :count, 0]
    counted = generated if weights is None else generated * weights
    return (error * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
