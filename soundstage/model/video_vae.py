"""Video VAE: pixels (B, 3, F, H, W) in [-1, 1] <-> normalised latents (B, 128, F', H/32, W/32).

F = 8(F' - 1) + 1. The encoder is causal in time (latent k depends on pixel frames up to 8k); the decoder is
not. All normalisation is PixelNorm, which has no parameters, so frames are mixed only by the convolutions.
Checkpoint names are the attribute names (`conv_in.conv.weight`, ...).

Source: docs/model/video-vae.md, "Structure" and "Building blocks"; numbers held by
tests/parity/test_video_vae.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.model.config import STRIDES, VaeBlock, VideoVaeConfig
from soundstage.model.statistics import ChannelStatistics

NORM_EPS = 1e-8
# Size of a piece that is normed at once: it fits a processor's cache and keeps a device busy.
PIECE_BYTES = {"cpu": 1 << 20, "cuda": 1 << 28}

# (x (B, C, T, H, W), frames before, frames after) -> as `activated`, which a faster function can replace.
Activate = Callable[[Tensor, int, int], Tensor]


def pixel_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over channels (dim 1), in x's dtype."""
    return x * _inverse_size(x)


def _inverse_size(x: Tensor) -> Tensor:
    """Return the factor of `pixel_norm`, (B, 1, T, H, W)."""
    return torch.rsqrt(x.square().mean(dim=1, keepdim=True) + NORM_EPS)


def activated(x: Tensor, before: int = 0, after: int = 0) -> Tensor:
    """Return SiLU of PixelNorm, with copies of the first and last frame around: (B, C, before+T+after, H, W).

    Without gradients it is computed in place, some frames at a time: only x and the result are held, and the
    values between stay in a CPU's cache.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        made = F.silu(pixel_norm(x))
        return torch.cat([*[made[:, :, :1]] * before, made, *[made[:, :, -1:]] * after], dim=2)
    batch, channels, frames, height, width = x.shape
    out = x.new_empty(batch, channels, before + frames + after, height, width)
    for cut in _cuts(x):
        place = out[:, :, before + cut.start : before + cut.stop]
        piece = x[:, :, cut]
        torch.mul(piece, _inverse_size(piece), out=place)
        F.silu(place, inplace=True)
    out[:, :, :before] = out[:, :, before : before + 1]
    out[:, :, before + frames :] = out[:, :, before + frames - 1 : before + frames]
    return out


def _cuts(x: Tensor) -> Iterator[slice]:
    """Return runs of frames of up to PIECE_BYTES, one at least."""
    frames = x.shape[2]
    most = PIECE_BYTES["cpu" if x.device.type == "cpu" else "cuda"]
    step = max(1, most * frames // (x.numel() * x.element_size()))
    for start in range(0, frames, step):
        yield slice(start, min(start + step, frames))


def _added(h: Tensor, x: Tensor) -> Tensor:
    """Return h + x, in place of h where h is not needed again."""
    return h + x if torch.is_grad_enabled() and (h.requires_grad or x.requires_grad) else h.add_(x)


def patchify(x: Tensor, size: int) -> Tensor:
    """Pack (B, C, T, H, W) as (B, C*size*size, T, H/size, W/size); the width offset is the slower index."""
    b, c, t, h, w = x.shape
    x = x.view(b, c, t, h // size, size, w // size, size)
    return x.permute(0, 1, 6, 4, 2, 3, 5).reshape(b, c * size * size, t, h // size, w // size)


def unpatchify(x: Tensor, size: int) -> Tensor:
    """Undo `patchify`."""
    b, c, t, h, w = x.shape
    x = x.view(b, c // (size * size), size, size, t, h, w)
    return x.permute(0, 1, 4, 5, 3, 6, 2).reshape(b, c // (size * size), t, h * size, w * size)


def space_to_depth(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Pack each (st, sh, sw) cell into channels, channel slowest: ((c*st + dt)*sh + dy)*sw + dx."""
    b, c, t, h, w = x.shape
    st, sh, sw = stride
    x = x.view(b, c, t // st, st, h // sh, sh, w // sw, sw)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * st * sh * sw, t // st, h // sh, w // sw)


def depth_to_space(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Undo `space_to_depth`."""
    b, c, t, h, w = x.shape
    st, sh, sw = stride
    x = x.view(b, c // (st * sh * sw), st, sh, sw, t, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, -1, t * st, h * sh, w * sw)


class Conv3d(nn.Module):
    """Convolve 3x3x3 and keep the size, replicating frames in time.

    causal: two copies of the first frame in front; otherwise one copy at each end. activate: the function
    that `of_activated` applies to its input.
    A single frame needs only the sum of the three time taps, a 2-D convolution at a third of the work.
    """

    activate: Activate = staticmethod(activated)

    def __init__(self, in_channels: int, out_channels: int, *, causal: bool, padding: str) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            in_channels,
            out_channels,
            3,
            padding=(0, 1, 1),
            padding_mode=padding,  # type: ignore[arg-type]  # read from a header, so a plain str
        )
        self.causal = causal

    def of_activated(self, x: Tensor) -> Tensor:
        """Convolve SiLU(PixelNorm(x)); x is not kept meanwhile."""
        if x.shape[2] == 1:
            return self._single_frame(self.activate(x, 0, 0))
        padded = self.activate(x, *self.margins)
        del x
        return self.conv(padded)  # type: ignore[no-any-return]

    @property
    def margins(self) -> tuple[int, int]:
        """Return how many frames are repeated before and after a clip."""
        return (2, 0) if self.causal else (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] == 1:
            return self._single_frame(x)
        first = x[:, :, :1]
        if self.causal:
            x = torch.cat([first, first, x], dim=2)
        else:
            x = torch.cat([first, x, x[:, :, -1:]], dim=2)
        return self.conv(x)  # type: ignore[no-any-return]

    def _single_frame(self, x: Tensor) -> Tensor:
        weight = self.conv.weight.sum(dim=2)
        frame = x[:, :, 0]
        if self.conv.padding_mode == "zeros":
            frame = F.conv2d(frame, weight, self.conv.bias, padding=1)
        else:
            frame = F.pad(frame, (1, 1, 1, 1), mode=self.conv.padding_mode)
            frame = F.conv2d(frame, weight, self.conv.bias)
        return frame.unsqueeze(2)


class ResBlock(nn.Module):
    def __init__(self, channels: int, *, causal: bool, padding: str) -> None:
        super().__init__()
        self.conv1 = Conv3d(channels, channels, causal=causal, padding=padding)
        self.conv2 = Conv3d(channels, channels, causal=causal, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return _added(self.conv2.of_activated(self.conv1.of_activated(x)), x)


class ResStage(nn.Module):
    def __init__(self, channels: int, count: int, *, causal: bool, padding: str) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList(
            ResBlock(channels, causal=causal, padding=padding) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.res_blocks:
            x = block(x)
        return x


def _one_by_one(stages: nn.ModuleList) -> Iterator[nn.Module]:
    """Yield the blocks of all stages in order.

    A stage that is called as a whole would keep its input alive to its end."""
    for stage in stages:
        yield from stage.res_blocks if isinstance(stage, ResStage) else (stage,)


class Downsample(nn.Module):
    """Convolve and pack, and add a skip that packs the input and averages groups of channels."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: tuple[int, int, int], *, padding: str
    ) -> None:
        super().__init__()
        cell = stride[0] * stride[1] * stride[2]
        self.stride = stride
        self.group = in_channels * cell // out_channels
        self.conv = Conv3d(in_channels, out_channels // cell, causal=True, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            h = self.conv(x)
        elif x.shape[2] == 1:  # twins give twins: convolve one of them
            h = self.conv(x).expand(-1, -1, 2, -1, -1)
            x = x.expand(-1, -1, 2, -1, -1)
        else:  # the first frame has no pair: pack it with a copy of itself
            x = torch.cat([x[:, :, :1], x], dim=2)
            h = self.conv(x)
        return self.pack(h, x)

    def pack(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the packed sum of a convolution's result and its input, frames paired."""
        skip = torch.unflatten(space_to_depth(x, self.stride), 1, (-1, self.group)).mean(dim=2)
        return space_to_depth(h, self.stride) + skip


class Upsample(nn.Module):
    """Convolve and unpack. Doubling time drops the first frame: T -> 2T - 1."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: tuple[int, int, int], *, causal: bool, padding: str
    ) -> None:
        super().__init__()
        cell = stride[0] * stride[1] * stride[2]
        self.stride = stride
        self.conv = Conv3d(in_channels, out_channels * cell, causal=causal, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        x = depth_to_space(self.conv(x), self.stride)
        return x[:, :, 1:] if self.stride[0] == 2 else x


class VideoEncoder(nn.Module):
    """Encode pixels as means of latents, not yet normalised, (B, 128, T', H', W')."""

    def __init__(self, config: VideoVaeConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.latent_channels = config.latent_channels
        padding = config.encoder_padding
        width = config.encoder_base_channels
        self.conv_in = Conv3d(3 * config.patch_size**2, width, causal=True, padding=padding)
        self.down_blocks = nn.ModuleList()
        for block in config.encoder_blocks:
            self.down_blocks.append(_encoder_block(block, width, padding))
            width *= block.multiplier
        self.conv_out = Conv3d(width, config.latent_channels + 1, causal=True, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.posterior(x)[:, : self.latent_channels]

    def posterior(self, x: Tensor) -> Tensor:
        """Return the means and then their one shared log-variance, (B, 129, T', H', W'), for training."""
        x = self.conv_in(patchify(x, self.patch_size))
        for block in _one_by_one(self.down_blocks):
            x = block(x)
        return self.conv_out.of_activated(x)


def _encoder_block(block: VaeBlock, width: int, padding: str) -> nn.Module:
    if block.kind == "res":
        return ResStage(width, block.count, causal=True, padding=padding)
    return Downsample(width, width * block.multiplier, STRIDES[block.kind], padding=padding)


class VideoDecoder(nn.Module):
    """Decode denormalised latents to pixels, about [-1, 1], not clamped."""

    def __init__(self, config: VideoVaeConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        causal, padding = config.causal_decoder, config.decoder_padding
        width = config.decoder_width
        self.conv_in = Conv3d(config.latent_channels, width, causal=causal, padding=padding)
        self.up_blocks = nn.ModuleList()
        for block in config.decoder_blocks:
            if block.kind == "res":
                stage: nn.Module = ResStage(width, block.count, causal=causal, padding=padding)
            else:
                out_width = width // block.multiplier
                stage = Upsample(width, out_width, STRIDES[block.kind], causal=causal, padding=padding)
                width = out_width
            self.up_blocks.append(stage)
        self.conv_out = Conv3d(width, 3 * config.patch_size**2, causal=causal, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in _one_by_one(self.up_blocks):
            x = block(x)
        return unpatchify(self.conv_out.of_activated(x), self.patch_size)


class VideoVae(nn.Module):
    """Hold encoder, decoder and their statistics."""

    def __init__(self, config: VideoVaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VideoEncoder(config)
        self.decoder = VideoDecoder(config)
        self.per_channel_statistics = ChannelStatistics(config.latent_channels)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, 8k+1, H, W) in [-1, 1] as normalised latents (B, 128, k+1, H/32, W/32).

        Raises ValueError for sizes that do not fit the latent grid.
        """
        frames, height, width = pixels.shape[2:]
        if (frames - 1) % 8 or height % 32 or width % 32:
            raise ValueError(f"frames must be 8k+1 and sides multiples of 32, not {frames}x{height}x{width}")
        return self.per_channel_statistics.normalize(self.encoder(pixels))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents to pixels (B, 3, 8(T-1)+1, 32H, 32W), about [-1, 1], not clamped."""
        return self.decoder(self.per_channel_statistics.denormalize(latents))  # type: ignore[no-any-return]
