"""Long sound made stretch by stretch is the sound made at once."""

from __future__ import annotations

import pytest
import torch

from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import AudioVaeConfig, VocoderConfig
from soundstage.model.long_sound import (
    EDGE_MELS,
    audio_decoder_reach,
    decode_sound,
    held_edges,
    vocoder_reach,
)
from soundstage.model.published import audio_vae_header, vocoder_header
from soundstage.model.vocoder import Vocoder


@pytest.fixture(scope="module")
def parts() -> tuple[AudioVae, Vocoder]:
    """Small and random, with residual branches as loud as their sums, so that far cells are heard."""
    torch.manual_seed(0)
    vae = AudioVae(AudioVaeConfig.from_header({"audio_vae": audio_vae_header(base_channels=8)}))
    header = {"vocoder": vocoder_header(base_channels=64, bwe_channels=32)}
    vocoder = Vocoder(VocoderConfig.from_header(header))
    for module in (vae, vocoder):
        for parameter in module.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        module.double().eval().requires_grad_(False)
    torch.nn.init.normal_(vocoder.vocoder.conv_post.weight, std=1e-3)  # the output is not to be clamped
    torch.nn.init.normal_(vocoder.bwe_generator.conv_post.weight, std=1e-3)
    return vae, vocoder


def whole_sound(vae: AudioVae, vocoder: Vocoder, latents: torch.Tensor, num_mels: int) -> torch.Tensor:
    """What pieces are to join to, in one call of each module."""
    sound = vocoder(held_edges(vae.decode(latents), num_mels))
    edge = 480 * EDGE_MELS
    return sound[:, :, edge : sound.shape[2] - edge]


def test_stretches_join_to_the_whole(parts: tuple[AudioVae, Vocoder]) -> None:
    vae, vocoder = parts
    latents = torch.randn(1, 8, 110, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = whole_sound(vae, vocoder, latents, 4 * 110 - 3)
    assert 1e-4 < whole.abs().max() < 1
    pieces = list(decode_sound(vae, vocoder, latents, stretch=40))
    assert [piece.shape[2] for piece in pieces] == [40 * 4 * 480, 40 * 4 * 480, (30 * 4 - 3) * 480]
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, rtol=0, atol=1e-9 * float(whole.abs().max()))


def test_short_sound_is_made_at_once(parts: tuple[AudioVae, Vocoder]) -> None:
    vae, vocoder = parts
    latents = torch.randn(1, 8, 5, 16, dtype=torch.float64)
    (piece,) = decode_sound(vae, vocoder, latents)
    assert torch.equal(piece, whole_sound(vae, vocoder, latents, 17))


@pytest.mark.parametrize(("asked", "made"), [(1, 1), (17, 17), (22, 22), (90, 25)])
def test_the_end_is_held_for_as_long_as_is_asked(
    parts: tuple[AudioVae, Vocoder], asked: int, made: int
) -> None:
    vae, vocoder = parts
    latents = torch.randn(1, 8, 5, 16, dtype=torch.float64)
    (piece,) = decode_sound(vae, vocoder, latents, num_mels=asked)
    assert torch.equal(piece, whole_sound(vae, vocoder, latents, made))


def test_far_from_the_edges_it_is_the_sound_of_the_bare_modules(parts: tuple[AudioVae, Vocoder]) -> None:
    vae, vocoder = parts
    latents = torch.randn(1, 8, 60, 16, dtype=torch.float64)
    bare = vocoder(vae.decode(latents))
    (piece,) = decode_sound(vae, vocoder, latents)
    inside = slice(480 * vocoder_reach(vocoder.config), -480 * vocoder_reach(vocoder.config))
    assert piece.shape == bare.shape
    tolerance = 1e-9 * float(bare.abs().max())
    torch.testing.assert_close(piece[:, :, inside], bare[:, :, inside], rtol=0, atol=tolerance)


def test_the_reaches_are_needed(parts: tuple[AudioVae, Vocoder]) -> None:
    """A change at half the reach is seen; one beyond it is not."""
    vae, vocoder = parts
    reach = audio_decoder_reach(vae.config)
    latents = torch.randn(1, 8, reach + 8, 16, dtype=torch.float64)
    plain = vae.decode(latents)[:, :, -1]
    for place, seen in ((7 + reach // 2, True), (6, False)):
        changed = latents.clone()
        changed[:, :, place] += 1
        assert ((vae.decode(changed)[:, :, -1] - plain).abs().max() > 0) == seen
    mels = vocoder_reach(vocoder.config)
    assert 40 < mels < 90
