"""Attention with a bias, in parts of which most need none.

With a bias, attention cannot use its fastest kernels and takes twice the time, though most rows of most
biases add nothing, and masked keys need not be computed. `parts_of` reads a bias once per run and cuts it
into runs of tokens with the same mask. A run whose bias is 0 on all keys that it may read is computed on
these keys without a bias; other runs with the bias of the keys that any of their tokens may read. The dense
bias is the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

# Limits of the parts that are worth their own call; other rows are computed together.
MOST_PARTS = 8
LEAST_ROWS = 64


class BiasPart(NamedTuple):
    """Hold some queries, the runs of keys they see, and the bias of their logits, (B or 1, 1, n or 1, M)."""

    queries: slice
    keys: tuple[slice, ...]
    bias: Tensor | None


class BiasParts(NamedTuple):
    """Hold a bias in parts, in the order of the queries, and as one tensor `dense` (B or 1, 1, N, M)."""

    parts: tuple[BiasPart, ...]
    dense: Tensor


Bias = Tensor | BiasParts
# As attention.AttentionKernel.
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def parts_of(bias: Tensor) -> Bias | None:
    """Return a bias (B or 1, 1, N, M) in parts; None if it adds nothing, itself if parts would not help.

    Waits for the device, so it is for what is kept over a run.
    """
    if not bool((bias != 0).any()):
        return None
    if bias.shape[0] != 1 or bias.shape[1] != 1:
        return bias
    parts = _parts(bias)
    if len(parts) > MOST_PARTS or not any(part.bias is None for part in parts):
        return bias
    return BiasParts(parts, bias)


def _parts(bias: Tensor) -> tuple[BiasPart, ...]:
    rows = bias[0, 0]
    length, count = rows.shape
    lowest = torch.finfo(bias.dtype).min
    parts: list[BiasPart] = []
    for start, stop, alike in _runs(rows):
        seen = (rows[start] > lowest) if alike else (rows[start:stop] > lowest).any(dim=0)
        keys = _slices(seen)
        if not keys:  # all keys are masked: softmax decides, as with the dense bias
            keys = (slice(0, count),)
        chosen = rows[start : start + 1] if alike else rows[start:stop]
        picked = picked_keys(chosen, keys, dim=1)
        adds = bool((picked != 0).any())
        parts.append(BiasPart(slice(start, stop), keys, picked[None, None].contiguous() if adds else None))
    assert parts[-1].queries.stop == length
    return tuple(parts)


def _runs(rows: Tensor) -> list[tuple[int, int, bool]]:
    """Return runs of rows (N, M) as (start, stop, all equal); short ones are joined with their neighbours."""
    changes = (rows[1:] != rows[:-1]).any(dim=1).nonzero().flatten().tolist()
    edges = [0, *(change + 1 for change in changes), rows.shape[0]]
    runs: list[tuple[int, int, bool]] = []
    for start, stop in pairwise(edges):
        alike = stop - start >= LEAST_ROWS
        if not alike and runs and not runs[-1][2]:
            runs[-1] = (runs[-1][0], stop, False)
        else:
            runs.append((start, stop, alike))
    return runs


def _slices(seen: Tensor) -> tuple[slice, ...]:
    """Return the runs of True in (M,)."""
    flags = torch.cat([seen.new_zeros(1), seen, seen.new_zeros(1)]).to(torch.int8)
    edges = (flags[1:] != flags[:-1]).nonzero().flatten().tolist()
    return tuple(slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True))


def picked_keys(x: Tensor, keys: Sequence[slice], dim: int) -> Tensor:
    """Return the entries of an axis that lie in the slices; a view where there is one slice."""
    pieces = [x.narrow(dim, run.start, run.stop - run.start) for run in keys]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)


def attend_in_parts(kernel: Kernel, queries: Tensor, keys: Tensor, values: Tensor, bias: BiasParts) -> Tensor:
    """Run an attention kernel on (B, H, N, d), (B, H, M, d) twice, part by part of a bias."""
    made = [
        kernel(
            queries[:, :, part.queries],
            picked_keys(keys, part.keys, dim=2),
            picked_keys(values, part.keys, dim=2),
            part.bias,
        )
        for part in bias.parts
    ]
    return torch.cat(made, dim=2)
