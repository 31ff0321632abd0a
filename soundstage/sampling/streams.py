"""The tokens of one modality over a run: kept ones, made ones, and their noise.

B samples, N tokens, D = 128 features. mask m is 1 where a token is generated and 0 where it is kept.
Source: docs/model/sampling.md, "Flow" and "Masked step".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from soundstage.model.transformer import ModalityInputs

Pair = tuple[Tensor | None, Tensor | None]  # video, audio; None where the modality is absent


@dataclass(frozen=True)
class Stream:
    """Hold all that does not change while a modality is denoised.

    clean: (B, N, D) latents that kept tokens hold, in the dtype of the run. mask: (B, N, 1) float32 in
    [0, 1]. positions: (B or 1, A, N, 2). initial: (B, N, D) latents to start from besides noise; None is
    the clean ones. attention_mask: (B or 1, N, N) in [0, 1] or None. frozen: nothing is generated; the
    model gets the level of a clean stream. reference: (N,) bool or None, the tokens of a reference
    that identity guidance leaves out of its own pass; they are kept tokens. unread, unreading: (N,) bool or
    None, tokens that the other stream does not read, and tokens that do not read it.
    """

    clean: Tensor
    mask: Tensor
    positions: Tensor
    initial: Tensor | None = None
    attention_mask: Tensor | None = None
    frozen: bool = False
    reference: Tensor | None = None
    unread: Tensor | None = None
    unreading: Tensor | None = None

    @classmethod
    def fresh(cls, positions: Tensor, *, width: int, batch: int = 1, dtype: torch.dtype) -> Stream:
        """Return a stream of which all tokens are made."""
        num_tokens, device = positions.shape[2], positions.device
        return cls(
            clean=torch.zeros(batch, num_tokens, width, dtype=dtype, device=device),
            mask=torch.ones(batch, num_tokens, 1, device=device),
            positions=positions,
        )

    def noised(self, noise: Tensor, sigma: Tensor | float) -> Tensor:
        """Return the start: kept tokens clean, the others noise mixed with the initial latents at sigma.

        (1 - m) c + m ((1 - sigma) y + sigma n), in float32, rounded once. sigma: one for all samples, or
        (B,). A frozen stream is its clean latents; the noise it was drawn is not used.
        """
        if self.frozen:
            return self.clean
        clean = self.clean.float()
        initial = clean if self.initial is None else self.initial.float()
        made = mixed(initial, noise, sigma)
        return ((1 - self.mask) * clean + self.mask * made).to(self.clean.dtype)

    def blended(self, denoised: Tensor) -> Tensor:
        """Put kept tokens back into a prediction: m D + (1 - m) c, in the dtype of D.

        Tokens with mask 0 are their clean latents even where D is not finite.
        """
        if self.frozen:
            return self.clean.to(denoised.dtype)
        wide = torch.promote_types(denoised.dtype, torch.float32)
        clean = self.clean.to(wide)
        mixed = self.mask * denoised.to(wide) + (1 - self.mask) * clean
        return torch.where(self.mask == 0, clean, mixed).to(denoised.dtype)

    def without_reference(self) -> Stream:
        """Return the stream without its reference tokens; itself if it has none."""
        if self.reference is None:
            return self
        kept = ~self.reference
        mask = self.attention_mask
        return Stream(
            clean=self.clean[:, kept],
            mask=self.mask[:, kept],
            positions=self.positions[:, :, kept],
            initial=None if self.initial is None else self.initial[:, kept],
            attention_mask=None if mask is None else mask[:, kept][:, :, kept],
            frozen=self.frozen,
            unread=None if self.unread is None else self.unread[kept],
            unreading=None if self.unreading is None else self.unreading[kept],
        )

    def levels(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 noise levels: the stream's own (B,), and each token's (B, N), m times sigma.

        sigma: one for all samples, or (B,).
        """
        batch = self.clean.shape[0]
        if self.frozen:
            zeros = torch.zeros(batch, self.clean.shape[1], device=self.clean.device)
            return zeros[:, 0], zeros
        return sigma.float().expand(batch), self.mask[..., 0] * _over(sigma, 1)

    def at(self, latents: Tensor, sigma: Tensor, context: Tensor, *, enabled: bool = True) -> ModalityInputs:
        """Return the transformer's input for latents (B, N, D) at sigma, with a context (B, S, W).

        sigma: one for all samples, or (B,).
        """
        own, tokens = self.levels(sigma)
        return ModalityInputs(
            latents=latents,
            sigma=own,
            timesteps=tokens,
            positions=self.positions,
            context=context,
            attention_mask=self.attention_mask,
            enabled=enabled,
            unread=self.unread,
            unreading=self.unreading,
        )


def mixed(clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """Return (1 - sigma) c + sigma n, where rectified flow stands at sigma. clean: float32, (B, ...).

    sigma: one for all samples, or (B,). Sampling and training noise latents here and nowhere else.
    """
    level = _over(sigma, clean.ndim - 1)
    return (1 - level) * clean + level * noise.float()


def draw_noise(
    video: Stream | None, audio: Stream | None, generator: torch.Generator
) -> tuple[Tensor | None, Tensor | None]:
    """Draw standard normal noise in token layout and latent dtype: video first, then audio.

    A frozen stream takes its draw all the same, so that freezing one does not change the other's noise;
    an absent one takes none. Source: docs/model/sampling.md, "Order of draws".
    """
    return _draw(video, generator), _draw(audio, generator)


def _draw(stream: Stream | None, generator: torch.Generator) -> Tensor | None:
    if stream is None:
        return None
    like = stream.clean
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def _over(sigma: Tensor | float, num_axes: int) -> Tensor | float:
    """Return sigma (B,) with so many axes behind it; one that all samples share as it is."""
    if not isinstance(sigma, Tensor) or sigma.ndim == 0:
        return sigma
    return sigma.view(-1, *(1,) * num_axes)


Streams = tuple[Stream | None, Stream | None]  # video, audio
