"""The audio VAE gives the reference's numbers: printed vectors, and diffusers on the same weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLLTX2Audio
from torch import Tensor

from soundstage.errors import ConfigError
from soundstage.model.audio_vae import AudioVae, patchify_audio, unpatchify_audio
from soundstage.model.config import AudioVaeConfig
from soundstage.model.published import audio_vae_header
from soundstage.weights.diffusers_names import to_diffusers


def build(base_channels: int = 32, mel_bins: int = 16) -> AudioVae:
    header = {"audio_vae": audio_vae_header(base_channels=base_channels, mel_bins=mel_bins)}
    return AudioVae(AudioVaeConfig.from_header(header)).eval().requires_grad_(False)


def printed_fill(key: str, shape: torch.Size) -> Tensor:
    """The deterministic weights that the printed vectors were made with; keys relative to each half."""
    phase = sum(key.encode("ascii")) % 1000
    index = torch.arange(shape.numel(), dtype=torch.float64)
    noise = 43758.5453 * torch.sin(index + 1 + phase)
    value = (2 * (noise - noise.floor()) - 1).view(shape)
    if key.endswith("std-of-means"):
        return 1 + 0.1 * value
    return 0.1 * value if len(shape) == 1 else value / (shape.numel() / shape[0]) ** 0.5


def printed_input(batch: int, channels: int, frames: int, bins: int) -> Tensor:
    s, t, f = (torch.arange(n, dtype=torch.float64) for n in (channels, frames, bins))
    x = torch.sin(0.3 * t[:, None] + 0.5 * f + s[:, None, None])
    return x.float().expand(batch, -1, -1, -1)


@pytest.fixture(scope="module")
def tiny() -> AudioVae:
    vae = build()
    state = vae.state_dict()
    for key, tensor in state.items():
        local = key.removeprefix("encoder.").removeprefix("decoder.")
        state[key] = printed_fill(local, tensor.shape).float()
    vae.load_state_dict(state)
    return vae


@pytest.fixture(scope="module")
def random_vae() -> AudioVae:
    torch.manual_seed(0)
    vae = build()
    state = vae.state_dict()
    state["per_channel_statistics.mean-of-means"].normal_()
    state["per_channel_statistics.std-of-means"].uniform_(0.5, 2)
    return vae


def test_encoder_gives_the_printed_vector(tiny: AudioVae) -> None:
    z = tiny.encode(printed_input(1, 2, 9, 16))
    assert z.shape == (1, 8, 3, 4)
    found = [z[0, 0, 0, 0], z[0, 7, 2, 3], z[0, 3, 1, 2], z.mean(), z.std()]
    assert [v.item() for v in found] == pytest.approx(
        [0.02181, 0.55673, 0.08362, -0.01400, 0.29342], abs=2e-5
    )


def test_decoder_gives_the_printed_vector(tiny: AudioVae) -> None:
    mel = tiny.decode(tiny.encode(printed_input(1, 2, 9, 16)))
    assert mel.shape == (1, 2, 9, 16)
    found = [mel[0, 0, 0, 0], mel[0, 1, 8, 15], mel[0, 0, 4, 7], mel.mean(), mel.std()]
    printed = [0.22051, -0.14778, -0.10673, -0.00255, 0.28540]
    assert [v.item() for v in found] == pytest.approx(printed, abs=2e-5)


@pytest.fixture(scope="module")
def reference(random_vae: AudioVae) -> AutoencoderKLLTX2Audio:
    model = AutoencoderKLLTX2Audio(base_channels=32, mel_bins=16).eval().requires_grad_(False)
    state = {to_diffusers("audio_vae", key): tensor for key, tensor in random_vae.state_dict().items()}
    model.load_state_dict(state, strict=True)
    return model


def relative_error(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return ((found - wanted).norm() / wanted.norm()).item()


def test_encoder_agrees_with_diffusers(random_vae: AudioVae, reference: AutoencoderKLLTX2Audio) -> None:
    mel = torch.randn(2, 2, 30, 16)
    means = reference.encode(mel).latent_dist.mode()
    wanted = (patchify_audio(means) - reference.latents_mean) / reference.latents_std
    assert relative_error(random_vae.encode(mel), unpatchify_audio(wanted)) <= 1e-4


def test_decoder_agrees_with_diffusers(random_vae: AudioVae, reference: AutoencoderKLLTX2Audio) -> None:
    latents = torch.randn(2, 8, 7, 4)
    means = unpatchify_audio(patchify_audio(latents) * reference.latents_std + reference.latents_mean)
    assert relative_error(random_vae.decode(latents), reference.decode(means).sample) <= 1e-4


def test_tokens_hold_channel_then_row() -> None:
    latents = torch.arange(2 * 8 * 3 * 16).view(2, 8, 3, 16)
    tokens = patchify_audio(latents)
    assert tokens.shape == (2, 3, 128)
    assert tokens[1, 2, 5 * 16 + 9] == latents[1, 5, 2, 9]
    assert torch.equal(unpatchify_audio(tokens), latents)


@pytest.mark.parametrize("frames", [1, 2, 4, 5, 8, 9, 26, 101])
def test_lengths_follow_the_algebra(random_vae: AudioVae, frames: int) -> None:
    latents = random_vae.encode(torch.randn(1, 2, frames, 16))
    assert latents.shape == (1, 8, -(-frames // 4), 4)
    assert random_vae.decode(latents).shape == (1, 2, 4 * latents.shape[2] - 3, 16)


def test_a_latent_sees_no_mel_frame_after_its_own(random_vae: AudioVae) -> None:
    mel = torch.randn(1, 2, 33, 16)
    latents = random_vae.encode(mel)
    for i in (0, 1, 4, 7):
        changed = mel.clone()
        changed[:, :, 4 * i + 1 :] += 1
        after = random_vae.encode(changed)
        torch.testing.assert_close(after[:, :, : i + 1], latents[:, :, : i + 1])
        assert not torch.allclose(after[:, :, i + 1], latents[:, :, i + 1])


def test_a_mel_frame_sees_no_latent_after_its_own(random_vae: AudioVae) -> None:
    latents = torch.randn(1, 8, 9, 4)
    mel = random_vae.decode(latents)
    for i in (0, 1, 4, 7):
        changed = latents.clone()
        changed[:, :, i + 1 :] += 1
        after = random_vae.decode(changed)
        torch.testing.assert_close(after[:, :, : 4 * i + 1], mel[:, :, : 4 * i + 1])
        assert not torch.allclose(after[:, :, 4 * i + 1], mel[:, :, 4 * i + 1])


def test_published_size_has_the_published_counts() -> None:
    with torch.device("meta"):
        vae = build(base_channels=128, mel_bins=64)
    assert len(vae.state_dict()) == 102
    assert sum(p.numel() for p in vae.encoder.parameters()) == 21_333_008
    assert sum(p.numel() for p in vae.decoder.parameters()) == 31_915_138
    assert sum(b.numel() for b in vae.buffers()) == 256
    shapes = {key: tuple(tensor.shape) for key, tensor in vae.state_dict().items()}
    assert shapes["encoder.down.1.block.0.nin_shortcut.conv.weight"] == (256, 128, 1, 1)
    assert shapes["encoder.down.0.downsample.conv.weight"] == (128, 128, 3, 3)
    assert shapes["decoder.up.2.upsample.conv.conv.weight"] == (512, 512, 3, 3)
    assert shapes["decoder.up.0.block.0.conv1.conv.weight"] == (128, 256, 3, 3)
    assert shapes["per_channel_statistics.std-of-means"] == (128,)


def test_a_mono_picture_is_refused(random_vae: AudioVae) -> None:
    with pytest.raises(ValueError, match="stereo"):
        random_vae.encode(torch.randn(1, 1, 9, 16))


def test_a_header_of_another_model_is_refused_by_name() -> None:
    header = audio_vae_header()
    header["model"]["params"]["ddconfig"]["norm_type"] = "group"
    with pytest.raises(ConfigError, match="norm_type"):
        AudioVaeConfig.from_header({"audio_vae": header})
    header = audio_vae_header()
    del header["preprocessing"]["stft"]["hop_length"]
    with pytest.raises(ConfigError, match="hop_length"):
        AudioVaeConfig.from_header({"audio_vae": header})
