"""Join windows: give one the end of another, and make one of their latents.

The latents of a window: picture (B, C, T, h, w), sound (B, C, T, F), time on axis 2 of both. Joined, they
are decoded as one clip, so neither pixels nor samples have a seam of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from soundstage.conditioning.positions import MEL_FRAMES_PER_LATENT
from soundstage.planning.windows import Window
from soundstage.sampling.streams import Stream
from soundstage.types import MEL_HOP, MEL_RATE_HZ, OUTPUT_RATE_HZ, TIME_SCALE

TIME_AXIS = 2


def continued_video(
    stream: Stream, window: Window, before: Tensor, first: Tensor | None, *, strength: float, reference: float
) -> Stream:
    """Return a window's video stream with its first latent frames given by the window before.

    stream: the window's as a clip of its own, tokens (B, N, D) in (frame, row, column) order, with or
    without appended tokens. before: latents (B, C, T, h, w) of the window before, of this pass. first: the
    take's first latent frame (B, C, 1, h, w), appended at `reference` as a guide one latent frame before the
    window, or None.
    """
    height, width = before.shape[3:]
    given = before[:, :, before.shape[TIME_AXIS] - window.overlap :]
    stream = _given(stream, given.flatten(2).transpose(1, 2), strength)
    positions = stream.positions.clone()
    positions[:, 0, : height * width, 0] = -(TIME_SCALE - 1) / window.fps
    stream = replace(stream, positions=positions)
    if first is None or reference == 0:
        return stream
    space = positions[:, :, : height * width]
    guide = space.clone()
    guide[:, 0, :, 0], guide[:, 0, :, 1] = -TIME_SCALE / window.fps, -(TIME_SCALE - 1) / window.fps
    return appended(stream, first.flatten(2).transpose(1, 2), guide, reference)


def continued_audio(stream: Stream, window: Window, before: Tensor, *, strength: float) -> Stream:
    """Return a window's audio stream with its first latents given by the window before, in the take's time.

    before: latents (B, C, T, F) of the window before.
    """
    given = before[:, :, before.shape[TIME_AXIS] - window.audio_overlap :]
    tokens = given.transpose(1, 2).flatten(2)  # channel, then bin: the order of a token's features
    stream = _given(stream, tokens, strength)
    return replace(stream, positions=stream.positions + window.audio_shift_s)


def _given(stream: Stream, tokens: Tensor, strength: float) -> Stream:
    """Replace the first tokens of a stream by given ones; a frozen stream has its own already."""
    if stream.frozen:
        return stream
    clean, mask = stream.clean.clone(), stream.mask.clone()
    clean[:, : tokens.shape[1]] = tokens.to(clean)
    mask[:, : tokens.shape[1]] = 1 - strength
    initial = stream.initial
    if initial is not None:
        initial = initial.clone()
        initial[:, : tokens.shape[1]] = tokens.to(initial)
    return replace(stream, clean=clean, mask=mask, initial=initial)


def appended(stream: Stream, tokens: Tensor, positions: Tensor, strength: float) -> Stream:
    """Append guide tokens (B, n, D) to a stream. positions: (B or 1, A, n, 2)."""
    if stream.frozen:
        return stream
    batch, count = tokens.shape[:2]
    clean = torch.cat([stream.clean, tokens.to(stream.clean)], dim=1)
    mask = torch.cat([stream.mask, stream.mask.new_full((batch, count, 1), 1 - strength)], dim=1)
    initial = stream.initial
    if initial is not None:
        initial = torch.cat([initial, tokens.to(initial)], dim=1)
    seen, voice = stream.attention_mask, stream.reference
    if seen is not None:  # everything sees them, and they everything
        seen = torch.nn.functional.pad(seen, (0, count, 0, count), value=1.0)
    if voice is not None:
        voice = torch.nn.functional.pad(voice, (0, count), value=False)
    return replace(
        stream,
        clean=clean,
        mask=mask,
        positions=torch.cat([stream.positions, positions], dim=2),
        initial=initial,
        attention_mask=seen,
        reference=voice,
    )


def adain(latents: Tensor, like: Tensor, factor: float) -> Tensor:
    """Move the mean and deviation of each channel of latents to those of others, `factor` of the way.

    Both (B, C, ...), any length. Source: docs/model/conditioning.md, "Long takes".
    """
    if factor == 0:
        return latents
    own_mean, own_std = _statistics(latents)
    mean, std = _statistics(like)
    moved = (latents.float() - own_mean) / own_std * std + mean
    return torch.lerp(latents.float(), moved, factor).to(latents.dtype)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
    flat = x.float().flatten(2)
    return flat.mean(2).view(shape), flat.std(2).clamp(min=1e-6).view(shape)


def fade(count: int) -> Tensor:
    """Return the new window's weights over an overlap, (count,), rising from above 0 to below 1."""
    return torch.linspace(0, 1, count + 2)[1:-1]


def joined(parts: Iterator[tuple[int, Tensor]]) -> Iterator[Tensor]:
    """Join windows that come one after the other; yield the take in pieces, in order.

    parts: (overlap with the part before, latents with time on axis 2). Over the overlap the old gives way
    to the new evenly; where both are equal, they stay to the bit. Holds one window at a time.
    """
    held: Tensor | None = None
    for overlap, latents in parts:
        if held is None:
            held = latents
            continue
        settled = held.shape[TIME_AXIS] - overlap
        if settled:
            yield held[:, :, :settled]
        weights = fade(overlap).view(-1, *(1,) * (latents.ndim - 3)).to(latents.device)
        mixed = torch.lerp(held[:, :, settled:].float(), latents[:, :, :overlap].float(), weights)
        held = torch.cat([mixed.to(latents.dtype), latents[:, :, overlap:]], dim=TIME_AXIS)
    if held is not None:
        yield held


def first_sample(latent: int) -> int:
    """Return the sample at 48 kHz at which a latent's sound begins; one past the last gives the length.

    Latent 0 of a clip holds one step of the mel, later ones four.
    """
    return max(0, MEL_FRAMES_PER_LATENT * latent - 3) * OUTPUT_RATE_HZ * MEL_HOP // MEL_RATE_HZ
