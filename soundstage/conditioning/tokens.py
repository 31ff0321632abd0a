"""The tokens of one modality while a pass is prepared: kept, put in place, or added.

One mechanism serves every use. A token has a clean value, a mask (1: made, 0: kept, between: in part), a
start and a position. Putting in place changes clean values and masks of the clip's own tokens; adding puts
tokens behind them, which attend and are attended to and are dropped after the pass.
Source: docs/model/conditioning.md, "Tokens".
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from soundstage.sampling.streams import Stream
from soundstage.types import Exchange

Grid = tuple[int, int, int]  # latent frames, height, width


def to_tokens(latents: Tensor) -> Tensor:
    """Return latents (B, C, T, h, w) as tokens (B, N, C), in (frame, row, column) order."""
    return latents.flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, grid: Grid) -> Tensor:
    """Return tokens (1, N, C) as latents (1, C, T, h, w); added tokens, beyond the grid, are dropped."""
    frames, height, width = grid
    own = tokens[:, : frames * height * width]
    return own.transpose(1, 2).reshape(1, tokens.shape[2], *grid)


@dataclass
class Added:
    """Hold tokens beside the clip.

    attention: the weight of attention between the clip and them, a scalar or one value per token.
    is_reference: identity guidance leaves them out of its own pass. exchange: whether they read the other
    stream and are read by it (all), read it without being read (reads), or neither (clip).
    """

    clean: Tensor
    mask: float
    positions: Tensor
    attention: Tensor | float = 1.0
    is_reference: bool = False
    exchange: Exchange = "all"


@dataclass
class Tokens:
    """Hold the clip's own tokens and those added so far.

    clean, start: (B, N, C). mask: (B, N, 1) float32. positions: (B or 1, A, N, 2). start: the
    latents that are mixed with noise at first; zeros for a start from noise alone. A pass has one sample,
    training many.
    """

    clean: Tensor
    start: Tensor
    mask: Tensor
    positions: Tensor
    added: list[Added] = field(default_factory=list)

    @classmethod
    def fresh(cls, positions: Tensor, width: int, dtype: torch.dtype) -> Tokens:
        """Return tokens that are all made, from noise."""
        count, device = positions.shape[2], positions.device
        zeros = torch.zeros(1, count, width, dtype=dtype, device=device)
        return cls(zeros, zeros.clone(), torch.ones(1, count, 1, device=device), positions)

    def begin(self, start: Tensor) -> None:
        """Start from latents (1, N, C), which are also the clean value of tokens that nothing else sets."""
        self.start = start.to(self.start)
        self.clean = self.start.clone()

    def keep(self, clean: Tensor, made: Tensor) -> None:
        """Keep latents (1, N, C) where `made` (1, N, 1) is 0, in part where it is between 0 and 1.

        Where all is made, the clean value stays as it was.
        """
        kept = (made < 1).to(self.clean.device)
        self.clean = torch.where(kept, clean.to(self.clean), self.clean)
        self.mask = self.mask * made.to(self.mask)

    def replace(self, latents: Tensor, first: int, strength: float) -> None:
        """Put latents (1, n, C) in place from token `first` on; the start stays as it is."""
        end = first + latents.shape[1]
        if end > self.clean.shape[1]:
            raise ValueError(
                f"{latents.shape[1]} tokens from token {first} on do not fit {self.clean.shape[1]}"
            )
        self.clean[:, first:end] = latents.to(self.clean)
        self.mask[:, first:end] = 1 - strength

    def add(self, added: Added) -> None:
        self.added.append(added)

    def stream(self, *, frozen: bool = False) -> Stream:
        """Return the stream for the denoising loop. frozen: all tokens are given."""
        clean = torch.cat([self.clean, *(a.clean.to(self.clean) for a in self.added)], dim=1)
        start = torch.cat(
            [self.start, *(torch.zeros_like(a.clean).to(self.start) for a in self.added)], dim=1
        )
        masks = [torch.full_like(a.clean[..., :1], a.mask).to(self.mask) for a in self.added]
        return Stream(
            clean=clean,
            mask=torch.cat([self.mask, *masks], dim=1),
            positions=_joined([self.positions, *(a.positions for a in self.added)]),
            initial=start,
            attention_mask=self._attention(),
            frozen=frozen,
            reference=self._reference(),
            unread=self._flags([a.exchange != "all" for a in self.added]),
            unreading=self._flags([a.exchange == "clip" for a in self.added]),
        )

    def _reference(self) -> Tensor | None:
        return self._flags([a.is_reference for a in self.added])

    def _flags(self, added: list[bool]) -> Tensor | None:
        """Return (N,) bool of all tokens, False for the clip's own; None where no group has the flag."""
        if not any(added):
            return None
        flags = [torch.zeros(self.clean.shape[1], dtype=torch.bool)]
        flags += [torch.full((a.clean.shape[1],), on) for a, on in zip(self.added, added, strict=True)]
        return torch.cat(flags).to(self.clean.device)

    def _attention(self) -> Tensor | None:
        """Return (1, N, N) in [0, 1], or None where every token attends to every other fully.

        The first added group with an attention below 1 begins the matrix; groups after that do not see
        those before them. Source: docs/model/conditioning.md, "Attention strength".
        """
        own = self.clean.shape[1]
        count, matrix = own, None
        for added in self.added:
            full = not isinstance(added.attention, Tensor) and added.attention == 1
            size = added.clean.shape[1]
            if matrix is None and not full:
                matrix = torch.ones(count, count, device=self.clean.device)
            if matrix is not None:
                matrix = _with_group(matrix, own, size, added.attention)
            count += size
        return None if matrix is None else matrix.unsqueeze(0)


def _joined(positions: list[Tensor]) -> Tensor:
    """Return positions (B or 1, A, n, 2) of groups of tokens one behind the other."""
    batch = max(len(group) for group in positions)
    return torch.cat([group.expand(batch, -1, -1, -1) for group in positions], dim=2)


def _with_group(matrix: Tensor, own: int, size: int, attention: Tensor | float) -> Tensor:
    """Add a group to the matrix that attends to itself, to the clip by `attention`, and to no other group."""
    count = matrix.shape[0]
    grown = matrix.new_zeros(count + size, count + size)
    grown[:count, :count] = matrix
    grown[count:, count:] = 1
    strength = torch.as_tensor(attention, dtype=grown.dtype, device=grown.device).expand(size)
    grown[:own, count:] = strength[None, :]
    grown[count:, :own] = strength[:, None]
    return grown
