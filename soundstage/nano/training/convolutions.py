"""Compute 3-D convolutions of few channels as 2-D ones, for CUDA devices.

cuDNN's 3-D kernels at nano's widths run at a hundredth of the card's rate; its 2-D ones are good. A kernel
of three frames over C channels is a 2-D kernel over 3 C channels, of three frames side by side. The numbers
are the same.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def use_flat_convolutions(module: nn.Module) -> None:
    """Have every 3x3x3 convolution of a module computed as a 2-D one."""
    for child in module.modules():
        if isinstance(child, nn.Conv3d) and child.kernel_size == (3, 3, 3) and child.padding_mode == "zeros":
            child.__dict__["forward"] = partial(_flat, child)


def _flat(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Return conv(x), (B, C, T, H, W) in and out."""
    in_time, *in_space = (int(side) for side in conv.padding)
    rows = F.pad(x, (0, 0, 0, 0, in_time, in_time)).permute(0, 2, 3, 4, 1)  # (B, T, H, W, C)
    frames = rows.shape[1] - 2
    wide = torch.cat([rows[:, k : k + frames] for k in range(3)], dim=4)
    flat = wide.flatten(0, 1).permute(0, 3, 1, 2)  # channels last in memory
    kernel = conv.weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    out = F.conv2d(flat, kernel, conv.bias, padding=in_space)
    return torch.unflatten(out, 0, (x.shape[0], frames)).permute(0, 2, 1, 3, 4)
