"""3x3x3 convolutions of the video VAE on the CPU by Winograd's minimal filtering over height and width.

A tile of 4 x 4 results takes 36 products for each pair of channels instead of 144. The three taps in time are
summed as they are. Small matrices bring the input into the products' domain and the results out of it;
between them are 36 matrix products.

Weights are transformed at every call, some output channels at a time, and not kept: they would take 4 times
their memory. That pays only where enough results share them, which `is_less_work` decides from shapes alone,
so that a seed gives the same bits.
Measured in float32 on one core of Zen 4, AVX2, PyTorch 2.13: 9 frames of 64x64 and 128 channels took 0.293 s
and take 0.147, of 32x32 and 256 0.287 and 0.147; 10 frames of 16x24 and 1024 2.00 and 1.07. The error against
float64 is 2e-6, that of PyTorch's own convolution.
Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015 (arXiv 1509.09308).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.speed.rows import even_share, is_plain

KERNEL, PADDING = (3, 3, 3), (0, 1, 1)
TILE, SIDE = 4, 6  # results and numbers given, along a side of a tile
MIN_CHANNELS = 32  # fewer leave the products too thin
MIN_RESULTS = 1024  # that share a transform of the weights; it pays from some 800 on
MIN_SIDE = 8  # of a frame: below, tiles are mostly edge
ENOUGH_TILES = 128  # columns of a product; frames with fewer tiles are taken together
MOST_BYTES = 16 * 2**20  # of transformed input at a time
MOST_WEIGHT_BYTES = 128 * 2**20  # of transformed weights: 290 output channels of 1024 input channels

Matrix = tuple[tuple[float, ...], ...]
# B^T (for the input), G (for the weights) and A^T (for the results), for the points 0, 1, -1, 2, -2 and
# infinity. Source: as above, section 4.
GIVEN: Matrix = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
WEIGHTS: Matrix = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
RESULTS: Matrix = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class WinogradConv3d(nn.Conv3d):
    """Convolve as nn.Conv3d of kernel 3, stride 1 and padding (0, 1, 1), by tiles where that is less work."""

    def forward(self, x: Tensor) -> Tensor:
        if not is_less_work(x, self.weight, self.bias):
            return super().forward(x)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = F.pad(x, (1, 1, 1, 1, 0, 0), mode=mode)
        return torch.stack([convolved(sample, self.weight, self.bias) for sample in padded])


def is_suited(module: nn.Module) -> bool:
    """Return whether a layer is of the kind that `WinogradConv3d` computes."""
    return (
        type(module) is nn.Conv3d
        and module.kernel_size == KERNEL
        and module.padding == PADDING
        and module.stride == module.dilation == (1, 1, 1)
        and module.groups == 1
    )


def is_less_work(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether tiles are less work than PyTorch's own way, for x (B, C, T, H, W)."""
    frames, height, width = x.shape[2:]
    return (
        x.dtype == torch.float32
        and is_plain(x, weight, bias)
        and min(weight.shape[:2]) >= MIN_CHANNELS
        and min(height, width) >= MIN_SIDE
        and (frames - 2) * height * width >= MIN_RESULTS
    )


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x (C, T, H + 2, W + 2) with a weight (O, C, 3, 3, 3) -> (O, T - 2, H, W)."""
    _, frames, height, width = x.shape
    height, width = height - 2, width - 2
    x = F.pad(x, (0, -width % TILE, 0, -height % TILE))  # whole tiles; the results beyond are cut off
    out = x.new_empty(weight.shape[0], frames - 2, height, width)
    most = MOST_WEIGHT_BYTES // (3 * SIDE**2 * x.shape[0] * x.element_size())
    size = even_share(len(weight), max(MIN_CHANNELS, most))
    for first in range(0, len(weight), size):
        _convolve(x, weight[first : first + size], out[first : first + size])
    return out if bias is None else out.add_(bias[:, None, None, None])


def _convolve(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write the results for x, in whole tiles, with some of the output channels' weights into `out`."""
    taps = _transformed_weight(weight)
    for top in range(0, out.shape[2], (rows := _rows(x))):
        part = x[:, :, top : top + rows + 2]
        target = out[:, :, top : top + rows]
        for first, given in _windows(part):
            made = torch.bmm(taps[0], given[0])
            for tap in (1, 2):
                made.baddbmm_(taps[tap], given[tap])
            _place(made, target, first, x.shape[3] - 2)


def _rows(x: Tensor) -> int:
    """Return how many rows of results are taken at a time, a multiple of the tile's side."""
    channels, _, _, width = x.shape
    of_a_row = channels * (width // TILE) * SIDE**2 * x.element_size()
    return TILE * max(1, MOST_BYTES // of_a_row)


def _windows(x: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield the first result frame and the input of each tap in time, (36, C, columns).

    A column is one tile of one frame. Frames of few tiles are taken together.
    """
    results = x.shape[1] - 2
    tiles = ((x.shape[2] - 2) // TILE) * ((x.shape[3] - 2) // TILE)
    if tiles >= ENOUGH_TILES:
        last: list[Tensor] = []
        for frame in range(x.shape[1]):
            last = [*last[-2:], _transformed(x[:, frame : frame + 1])]
            if len(last) == 3:
                yield frame - 2, last
        return
    count = -(-ENOUGH_TILES // tiles)
    for first in range(0, results, count):
        given = _transformed(x[:, first : first + count + 2])
        columns = given.shape[2] - 2 * tiles
        yield first, [given[:, :, tap * tiles : tap * tiles + columns] for tap in range(3)]


def _transformed(x: Tensor) -> Tensor:
    """Bring (C, F, H + 2, W + 2) into the products' domain: (36, C, F times tiles)."""
    channels, frames, height, width = x.shape
    down, across = (height - 2) // TILE, (width - 2) // TILE
    of_channel, of_frame, of_row, of_column = x.stride()
    tiles = x.as_strided(
        (SIDE, SIDE, channels, frames, down, across),
        (of_row, of_column, of_channel, of_frame, TILE * of_row, TILE * of_column),
        x.storage_offset(),
    )
    return torch.mm(_both_ways(GIVEN), tiles.reshape(SIDE * SIDE, -1)).view(SIDE * SIDE, channels, -1)


def _transformed_weight(weight: Tensor) -> list[Tensor]:
    """Bring each tap in time of (O, C, 3, 3, 3) into the products' domain: (36, O, C)."""
    both = _both_ways(WEIGHTS)
    flat = [weight[:, :, tap].reshape(-1, 9) for tap in range(3)]
    return [torch.mm(both, one.T).view(-1, *weight.shape[:2]) for one in flat]


def _place(made: Tensor, target: Tensor, first: int, width: int) -> None:
    """Bring results (36, O, columns) out of the products' domain and into frames of `target`."""
    across = width // TILE
    channels = made.shape[1]
    height = -(-target.shape[2] // TILE) * TILE
    tiles = torch.mm(_both_ways(RESULTS), made.view(made.shape[0], -1))
    frames = tiles.view(TILE, TILE, channels, -1, height // TILE, across).permute(2, 3, 4, 0, 5, 1)
    if (height, width) == tuple(target.shape[2:]):
        own = target[:, first : first + frames.shape[1]]
        own.view(*own.shape[:2], -1, TILE, across, TILE).copy_(frames)
        return
    whole = frames.reshape(channels, -1, height, width)
    target[:, first : first + whole.shape[1]] = whole[:, :, : target.shape[2], : target.shape[3]]


@cache
def _both_ways(matrix: Matrix) -> Tensor:
    """Return the matrix that applies `matrix` to both rows and columns of a tile, laid out flat."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one).float()
