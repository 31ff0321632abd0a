"""Tiles of a clip blend to the whole: exactly where their surroundings are read, and in geometry always."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from soundstage.model.tiling import DECODE, ENCODE, Span, Tiling, _axis, decode_tiled, encode_tiled, spans
from soundstage.model.video_vae import VideoVae
from tests.unit.test_streaming_decode import noise, tiny_vae

SMALL = Tiling(frames=32, frames_overlap=16, side=96, side_overlap=32)


@pytest.fixture(scope="module")
def vae() -> VideoVae:
    return tiny_vae()


class Stretcher:
    """Stands for a VAE whose latents look at themselves only: decoding repeats, encoding picks."""

    def decode(self, latents: Tensor) -> Tensor:
        times = F.pad(latents[:, :3].repeat_interleave(8, dim=2), (0, 0))[:, :, 7:]
        return times.repeat_interleave(32, dim=3).repeat_interleave(32, dim=4)

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels[:, :, ::8, ::32, ::32]


@pytest.mark.parametrize(
    "tiling",
    [
        SMALL,
        Tiling(frames=16, frames_overlap=0, side=64, side_overlap=0),
        Tiling(frames=16, frames_overlap=8, side=64, side_overlap=32),
        Tiling(frames=48, frames_overlap=40, side=160, side_overlap=128),
        Tiling(),
    ],
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (12, 6, 4)])
def test_every_point_comes_out_once(tiling: Tiling, shape: tuple[int, int, int]) -> None:
    """Weights sum to 1 and every tile lands where it was taken from, overlaps of three tiles included."""
    latents = noise(1, 3, *shape)
    plain = Stretcher()
    decoded = torch.cat(list(decode_tiled(plain, latents, tiling)), dim=2)  # type: ignore[arg-type]
    torch.testing.assert_close(decoded, plain.decode(latents), rtol=0, atol=1e-6)
    encoded = encode_tiled(plain, decoded, tiling)  # type: ignore[arg-type]
    torch.testing.assert_close(encoded, latents, rtol=0, atol=1e-6)


def test_the_published_split_of_a_clip() -> None:
    """121 frames at 768x1344 in the official tiles; in time a later tile starts a latent early."""
    assert spans(16, 10, 3, time=True) == [Span(0, 10, 0, 3), Span(6, 16, 4, 0)]
    assert spans(24, 14, 2) == [Span(0, 14, 0, 2), Span(12, 24, 2, 0)]
    assert spans(42, 24, 2) == [Span(0, 24, 0, 2), Span(22, 42, 2, 0)]


def test_the_frame_that_stands_alone_counts_for_nothing() -> None:
    """The first frame of a later tile is one frame decoded as if it began a clip."""
    for scales in (DECODE, ENCODE):
        first, second = _axis(spans(16, 10, 3, time=True), scales, time=True, exact=False)
        assert second.weight[0] == 0
        assert first.weight[0] == 1
        assert second.weight[-1] == 1


def test_tiles_that_cover_the_clip_are_the_whole(vae: VideoVae) -> None:
    latents = noise(1, 8, 3, 2, 3)
    (pixels,) = decode_tiled(vae, latents, Tiling())
    assert torch.equal(pixels, vae.decode(latents))
    assert torch.equal(encode_tiled(vae, pixels, Tiling()), vae.encode(pixels))


@pytest.mark.parametrize("shape", [(40, 1, 1), (1, 1, 40), (1, 40, 1)])
def test_exact_tiles_decode_to_the_whole(vae: VideoVae, shape: tuple[int, int, int]) -> None:
    latents = noise(1, 8, *shape)
    exact = Tiling(frames=64, frames_overlap=24, side=128, side_overlap=32, exact=True)
    pieces = list(decode_tiled(vae, latents, exact))
    assert len(pieces) == (8 if shape[0] > 1 else 1)
    whole = vae.decode(latents)
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, rtol=0, atol=1e-6)
    blended = torch.cat(list(decode_tiled(vae, latents, Tiling(64, 24, 128, 32))), dim=2)
    assert (blended - whole).abs().max() > 1e-3  # without its surroundings a tile is another clip


@pytest.mark.parametrize("shape", [(257, 32, 32), (1, 32, 1024)])
def test_exact_tiles_encode_to_the_whole(vae: VideoVae, shape: tuple[int, int, int]) -> None:
    pixels = noise(1, 3, *shape).clamp(-1, 1)
    exact = Tiling(frames=64, frames_overlap=24, side=128, side_overlap=64, exact=True)
    torch.testing.assert_close(encode_tiled(vae, pixels, exact), vae.encode(pixels), rtol=0, atol=1e-6)


def test_sizes_that_do_not_fit_are_refused(vae: VideoVae) -> None:
    with pytest.raises(ValueError, match="frames is 20; give a multiple of 8"):
        Tiling(frames=20)
    with pytest.raises(ValueError, match="side_overlap is 768; give a multiple of 32 below 768"):
        Tiling(side_overlap=768)
    with pytest.raises(ValueError, match="10x32x32 cannot be encoded: num_frames must be 8k\\+1"):
        encode_tiled(vae, noise(1, 3, 10, 32, 32), SMALL)
