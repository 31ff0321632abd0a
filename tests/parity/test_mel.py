"""Resampling and the log-mel front end give the reference's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from soundstage.errors import MediaError
from soundstage.model.mel import log_mel, mel_filters, resample, to_stereo
from soundstage.types import audio_latent_length


def tone(hz: float, rate_hz: int, samples: int) -> torch.Tensor:
    n = torch.arange(samples, dtype=torch.float64)
    return torch.sin(2 * math.pi * hz * n / rate_hz).float()


def test_mel_bank_has_the_reference_values() -> None:
    bank = mel_filters(64, 513, 8000.0)
    assert bank.shape == (513, 64)
    expected = torch.tensor([0.00725564, 0.01451128, 0.02133115, 0.01407551, 0.00681987])
    torch.testing.assert_close(bank[1:6, 0], expected, atol=1e-8, rtol=0)
    assert bank.max().item() == pytest.approx(0.02133115, abs=1e-8)
    assert bank[466, 63].item() == pytest.approx(8.8103e-5, abs=1e-9)
    assert bank.min().item() == 0


def test_log_mel_of_a_tone_has_the_reference_values() -> None:
    mel = log_mel(0.5 * tone(440, 16_000, 16_000).view(1, 1, -1).expand(1, 2, -1))
    assert mel.shape == (1, 2, 101, 64)
    for frame, band, value in ((50, 8, 1.0858), (50, 9, 0.9799), (0, 8, 1.2133), (50, 40, -11.5129)):
        assert mel[0, :, frame, band].tolist() == pytest.approx([value, value], abs=1e-4)


def test_silence_is_the_floor() -> None:
    mel = log_mel(torch.zeros(1, 2, 513))
    assert mel.shape == (1, 2, 4, 64)
    assert torch.equal(mel, torch.full_like(mel, math.log(1e-5)))


def test_channels_do_not_mix() -> None:
    left, right = torch.randn(2, 1, 1, 1600).unbind(0)
    both = log_mel(torch.cat([left, right], dim=1))
    torch.testing.assert_close(both[:, :1], log_mel(left))
    torch.testing.assert_close(both[:, 1:], log_mel(right))


def test_too_short_a_sound_is_refused_with_the_limit() -> None:
    with pytest.raises(MediaError, match="513"):
        log_mel(torch.zeros(1, 2, 512))


def test_resampling_a_tone_has_the_reference_values() -> None:
    out = resample(tone(1000, 44_100, 4410).view(1, -1), 44_100, 16_000)
    assert out.shape == (1, 1600)
    assert out[0, [0, 1, 800, 1599]].tolist() == pytest.approx([0.036799, 0.377109, 0.0, -0.377112], abs=5e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_a_tone_well_below_both_limits_passes_unchanged(rate_hz: int) -> None:
    out = resample(tone(700, rate_hz, rate_hz // 5).view(1, 1, -1).expand(2, 2, -1), rate_hz, 16_000)
    assert out.shape == (2, 2, 3200)
    inside = slice(200, -200)
    torch.testing.assert_close(out[1, 1, inside], tone(700, 16_000, 3200)[inside], atol=2e-3, rtol=0)


def test_resampling_agrees_with_scipy_away_from_the_cutoff() -> None:
    generator = np.random.default_rng(0)
    smooth = np.convolve(generator.standard_normal(9600), np.hanning(41) / 20, mode="same")
    ours = resample(torch.from_numpy(smooth).float().view(1, -1), 48_000, 16_000)[0, 100:-100].numpy()
    theirs = resample_poly(smooth, 1, 3, window=("kaiser", 12.0))[100:-100]
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.02


def test_lengths_round_up_and_equal_rates_change_nothing() -> None:
    sound = torch.randn(1, 2, 1001)
    assert resample(sound, 48_000, 16_000).shape[-1] == 334
    assert resample(sound, 16_000, 48_000).shape[-1] == 3003
    assert resample(sound, 16_000, 16_000) is sound


def test_every_channel_layout_becomes_stereo_at_unit_gain() -> None:
    for channels in (1, 2, 6, 8):
        assert to_stereo(torch.randn(3, channels, 5)).shape == (3, 2, 5)
    surround = torch.zeros(1, 6, 1)
    surround[0, [0, 2, 4]] = 1.0  # left, centre, left surround
    left, right = to_stereo(surround)[0, :, 0].tolist()
    assert (left, right) == pytest.approx((1.0, 0.707 / 2.414), abs=1e-6)
    torch.testing.assert_close(to_stereo(torch.ones(1, 1, 4)), torch.ones(1, 2, 4))


def test_low_frequency_channel_is_left_out() -> None:
    surround = torch.zeros(1, 6, 1)
    surround[0, 3] = 1.0
    assert to_stereo(surround).abs().max() == 0


@pytest.mark.parametrize(
    ("frames", "fps", "latents"),
    [
        *[(121, 24, 126), (121, 25, 121), (97, 25, 97), (241, 24, 251), (257, 25, 257), (121, 30, 101)],
        *[(121, 50, 60), (9, 50, 4), (25, 50, 12), (145, 48, 76), (1, 24, 1)],
    ],
)
def test_latents_of_a_clip_follow_the_reference_rounding(frames: int, fps: float, latents: int) -> None:
    assert audio_latent_length(frames, fps) == latents
