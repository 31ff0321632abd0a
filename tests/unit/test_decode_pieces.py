"""Pieces of a clip through the video VAE give the whole's numbers, in memory its length does not change."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from soundstage.model.config import VideoVaeConfig
from soundstage.model.pieces import decode_pieces, encode_pieces
from soundstage.model.published import video_vae_header
from soundstage.model.video_vae import VideoVae
from tests.limits import LONG_S

ROOT = Path(__file__).parents[2]


def tiny_vae(*, causal: bool = False) -> VideoVae:
    header = video_vae_header(encoder_base_channels=8, decoder_base_channels=4, latent_channels=8)
    torch.manual_seed(0)
    vae = VideoVae(VideoVaeConfig.from_header({"vae": {**header, "causal_decoder": causal}}))
    vae.per_channel_statistics.get_buffer("mean-of-means").copy_(torch.randn(8))
    vae.per_channel_statistics.get_buffer("std-of-means").copy_(1 + torch.rand(8))
    return vae.double().eval().requires_grad_(False)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def vae() -> VideoVae:
    return tiny_vae()


@pytest.mark.parametrize("max_bytes", [1, 20_000, 200_000, 2**40])
@pytest.mark.parametrize("frames", [1, 2, 17])
def test_decoding_in_pieces_gives_the_whole(vae: VideoVae, frames: int, max_bytes: int) -> None:
    """From a frame at a time to all at once."""
    latents = noise(1, 8, frames, 2, 1)
    pieces = list(decode_pieces(vae, latents, max_bytes=max_bytes))
    whole = vae.decode(latents)
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, rtol=0, atol=1e-12)
    if max_bytes == 2**40:
        assert len(pieces) == 1
        assert torch.equal(pieces[0], whole)
    elif frames == 17:
        assert len(pieces) > 2


def test_a_causal_decoder_streams_as_well() -> None:
    causal = tiny_vae(causal=True)
    latents = noise(1, 8, 5, 1, 2)
    pieces = torch.cat(list(decode_pieces(causal, latents, max_bytes=1)), dim=2)
    torch.testing.assert_close(pieces, causal.decode(latents), rtol=0, atol=1e-12)


def test_frames_come_as_soon_as_no_later_latent_can_change_them(vae: VideoVae) -> None:
    """14 latents ahead, the decoder's reach; the first frame waits for no more than that."""
    asked = 0

    statistics = vae.per_channel_statistics
    plain = statistics.denormalize

    def counting(x: Tensor) -> Tensor:
        nonlocal asked
        asked += x.shape[2]
        return plain(x)

    statistics.denormalize = counting  # type: ignore[method-assign]
    try:
        next(decode_pieces(vae, noise(1, 8, 40, 1, 1), max_bytes=1))
    finally:
        del statistics.denormalize  # the method of the class again
    assert asked == 15


def reached(run: Callable[[Tensor], Tensor], x: Tensor, dim: int, at: int) -> tuple[int, int]:
    """Return the first and last point of a result along an axis that depend on the input at one place.

    They are no numbers where the input is none; last bits of the others may follow the memory they lie in.
    """
    other = x.clone()
    other.select(dim, at).fill_(torch.nan)
    places = run(other).isnan().movedim(dim, 0).flatten(1).any(dim=1).nonzero().flatten().tolist()
    return places[0], places[-1]


def test_results_depend_on_no_more_than_the_reach(vae: VideoVae) -> None:
    """In latents, as the page about the model has it: before, after, to each side."""
    page = (ROOT / "docs" / "model" / "video-vae.md").read_text()
    assert "| decoder | 14 | 14 | 16 |" in page
    first, last = reached(vae.decode, noise(1, 8, 45, 1, 1), 2, 22)
    left, right = reached(vae.decode, noise(1, 8, 1, 1, 45), 4, 22)
    assert (math.ceil(first / 8), math.ceil(last / 8)) == (22 - 14, 22 + 14)
    assert (left // 32, right // 32) == (22 - 16, 22 + 16)
    assert re.search(r"\| encoder \| 27 \| 0: .* \| 15 \|", page)
    first, last = reached(vae.encode, noise(1, 3, 8 * 60 + 1, 32, 32), 2, 8 * 20 - 7)
    left, right = reached(vae.encode, noise(1, 3, 1, 32, 32 * 45), 4, 32 * 22)
    assert first == 20
    assert 20 + 20 < last <= 20 + 27
    assert (left, right) == (22 - 15, 22 + 14)


@pytest.mark.parametrize("sizes", [(1,), (17,), (9, 8), (1,) * 17, (4, 3, 10)])
def test_encoding_in_chunks_gives_the_whole(vae: VideoVae, sizes: tuple[int, ...]) -> None:
    """Whatever the chunks' lengths."""
    pixels = noise(1, 3, sum(sizes), 32, 64).clamp(-1, 1)
    whole = vae.encode(pixels)
    for max_bytes in (1, 2**40):
        latents = encode_pieces(vae, torch.split(pixels, list(sizes), dim=2), max_bytes=max_bytes)
        torch.testing.assert_close(latents, whole, rtol=0, atol=1e-12)


def test_the_vae_has_methods_for_pieces(vae: VideoVae) -> None:
    latents = noise(1, 8, 2, 1, 1)
    pixels = torch.cat(list(decode_pieces(vae, latents)), dim=2)
    assert torch.equal(pixels, vae.decode(latents))
    assert torch.equal(encode_pieces(vae, iter([pixels])), vae.encode(pixels))


def test_chunks_off_the_grid_are_refused(vae: VideoVae) -> None:
    with pytest.raises(ValueError, match="12 frames in all; they must sum to 8k\\+1"):
        encode_pieces(vae, [noise(1, 3, 9, 32, 32), noise(1, 3, 3, 32, 32)])
    with pytest.raises(ValueError, match="0 frames"):
        encode_pieces(vae, [])
    with pytest.raises(ValueError, match="multiples of 32, not 40x32"):
        encode_pieces(vae, [noise(1, 3, 9, 40, 32)])


PEAKS = """
from pathlib import Path
import torch
from tests.unit.test_decode_pieces import tiny_vae
from soundstage.model.pieces import decode_pieces

torch.set_num_threads(1)
vae = tiny_vae().float()


def peak_mb(frames, decode):
    for piece in decode(torch.randn(1, 8, frames, 2, 2)):
        del piece
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


pieces = lambda latents: decode_pieces(vae, latents, max_bytes=2**18)
print(peak_mb(20, pieces), peak_mb(30, pieces), peak_mb(45, pieces))
print(peak_mb(45, lambda latents: [vae.decode(latents)]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_peak_memory_of_decoding_does_not_grow_with_length() -> None:
    """Of a process: 20, 30 and 45 latents in pieces hold nearly the same; 45 at once hold much more."""
    # Freed blocks go back to the system at once, so that the peak is of what was alive.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    done = subprocess.run(
        [sys.executable, "-c", PEAKS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG_S,
    )
    short, middle, long, whole = map(float, done.stdout.split())
    assert short <= middle <= long, done.stdout
    # What is not the decode's (pages of libraries touched late, the allocator's own) varies by a few MB.
    assert whole - long > 5 * (long - short), done.stdout
