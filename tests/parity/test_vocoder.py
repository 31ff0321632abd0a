"""The vocoder gives the reference's numbers: printed vectors, and diffusers on the same weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE
from scipy.signal.windows import kaiser
from torch import Tensor

from soundstage.errors import ConfigError, WeightsError
from soundstage.model.config import VocoderConfig
from soundstage.model.mel import resample
from soundstage.model.published import vocoder_header
from soundstage.model.vocoder import Activation, SnakeBeta, Vocoder, kaiser_sinc_filter
from soundstage.weights.diffusers_names import from_diffusers, to_diffusers

PRINTED_TAPS = [0.002028966, 0.009389464, -0.025543464, -0.057657375, 0.128572609, 0.443209800]


def build(base_channels: int = 128, bwe_channels: int = 64) -> Vocoder:
    header = {"vocoder": vocoder_header(base_channels=base_channels, bwe_channels=bwe_channels)}
    return Vocoder(VocoderConfig.from_header(header)).eval().requires_grad_(False)


def fill(vocoder: Vocoder, make: Callable[[str, torch.Size], Tensor]) -> None:
    state = vocoder.state_dict()
    for key, tensor in state.items():
        if "filter" not in key and "basis" not in key:
            state[key] = make(key, tensor.shape).float()
    vocoder.load_state_dict(state)


def printed_fill(key: str, shape: torch.Size) -> Tensor:
    """The deterministic weights that the printed vectors were made with."""
    phase = sum(key.encode("ascii")) % 1000
    index = torch.arange(shape.numel(), dtype=torch.float64)
    noise = 43758.5453 * torch.sin(index + 1 + phase)
    value = (2 * (noise - noise.floor()) - 1).view(shape)
    return 0.1 * value if len(shape) == 1 else value / (shape.numel() / shape[0]) ** 0.5


def random_fill(key: str, shape: torch.Size) -> Tensor:
    """Loud enough for every activation to bend and for the output to vary: nothing may cancel out."""
    noise = torch.randn(shape)
    if len(shape) == 1:
        return 0.5 * noise if key.endswith(("alpha", "beta")) else 0.1 * noise
    return noise * (0.7 / (shape.numel() / shape[0]) ** 0.5)


@pytest.fixture(scope="module")
def tiny() -> Vocoder:
    vocoder = build()
    fill(vocoder, printed_fill)
    return vocoder


@pytest.fixture(scope="module")
def printed_mel() -> Tensor:
    s, t, f = (torch.arange(n, dtype=torch.float64) for n in (2, 4, 64))
    return torch.sin(0.3 * t[:, None] + 0.5 * f + s[:, None, None]).float()[None]


def test_base_generator_gives_the_printed_vector(tiny: Vocoder, printed_mel: Tensor) -> None:
    sound = tiny.vocoder(printed_mel)
    assert sound.shape == (1, 2, 640)
    found = [sound[0, 0, 0], sound[0, 0, 320], sound[0, 1, 639], sound.std(), sound.abs().max()]
    assert [v.item() for v in found] == pytest.approx(
        [0.06786, -0.03237, -0.01219, 0.03732, 0.10187], abs=2e-5
    )


def test_mel_between_the_stages_gives_the_printed_vector(tiny: Vocoder, printed_mel: Tensor) -> None:
    mel = tiny.mel_stft(tiny.vocoder(printed_mel))
    assert mel.shape == (1, 2, 8, 64)
    found = [mel[0, 0, 0, 0], mel[0, 0, 4, 10], mel[0, 1, 7, 63], mel.mean()]
    assert [v.item() for v in found] == pytest.approx([-5.2316, -4.6901, -5.9320, -5.9101], abs=1e-4)


def test_the_whole_gives_the_printed_vector(tiny: Vocoder, printed_mel: Tensor) -> None:
    sound = tiny(printed_mel)
    assert sound.shape == (1, 2, 1920)
    found = [sound[0, 0, 0], sound[0, 0, 960], sound[0, 1, 1919], sound.mean(), sound.std()]
    assert [v.item() for v in found] == pytest.approx([0.06518, 0.01780, 0.08200, 0.15467, 0.09547], abs=2e-5)


@pytest.fixture(scope="module")
def pair() -> tuple[Vocoder, LTX2VocoderWithBWE]:
    """Random weights, filters and bases off their usual values: the stored ones must be the ones used."""
    torch.manual_seed(0)
    ours = build()
    fill(ours, random_fill)
    state = ours.state_dict()
    for key in state:
        if "filter" in key or key.endswith(("mel_basis", "forward_basis")):
            state[key] *= 1 + 0.01 * torch.rand_like(state[key])
    ours.load_state_dict(state)
    theirs = LTX2VocoderWithBWE(hidden_channels=128, bwe_hidden_channels=64, final_act_fn="clamp").eval()
    theirs.load_state_dict({to_diffusers("vocoder", k): v for k, v in ours.state_dict().items()}, strict=True)
    return ours, theirs.requires_grad_(False)


@pytest.mark.parametrize("frames", [1, 7, 33])
def test_agrees_with_diffusers_on_the_same_weights(
    pair: tuple[Vocoder, LTX2VocoderWithBWE], frames: int
) -> None:
    ours, theirs = pair
    mel = torch.randn(2, 2, frames, 64)
    found, wanted = ours(mel), theirs(mel)
    assert found.shape == wanted.shape == (2, 2, 480 * frames)
    assert wanted.std() > 0.01
    assert ((wanted.abs() == 1).float().mean()) < 0.5, "a clamped reference would hide differences"
    assert ((found - wanted).norm() / wanted.norm()).item() <= 1e-4


def test_filter_of_the_activations_has_the_printed_taps() -> None:
    taps = kaiser_sinc_filter().flatten()
    torch.testing.assert_close(taps[:6], torch.tensor(PRINTED_TAPS), atol=1e-8, rtol=0)
    torch.testing.assert_close(taps, taps.flip(0))
    window = torch.from_numpy(kaiser(12, 4.66380))
    by_scipy = window * torch.sinc(0.5 * (torch.arange(12) - 5.5))
    torch.testing.assert_close(taps.double(), by_scipy / by_scipy.sum(), atol=1e-6, rtol=0)


def plain_activation(act: SnakeBeta, taps: Tensor, x: Tensor) -> Tensor:
    """The same by its definition: depthwise convolutions, one filter per channel."""
    channels = x.shape[1]
    filters = taps.expand(channels, 1, -1)
    up = F.pad(x, (5, 5), mode="replicate")
    up = 2 * F.conv_transpose1d(up, filters, stride=2, groups=channels)[..., 15:-15]
    alpha, beta = act.alpha.exp()[:, None], act.beta.exp()[:, None]
    bent = up + torch.sin(alpha * up) ** 2 / (beta + 1e-9)
    return F.conv1d(F.pad(bent, (5, 6), mode="replicate"), filters, stride=2, groups=channels)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100, 333])
def test_fast_activation_is_the_plain_one_at_any_length(length: int) -> None:
    activation = Activation(5).double().requires_grad_(False)
    activation.act.alpha.normal_()
    activation.act.beta.normal_()
    x = torch.randn(2, 5, length, dtype=torch.float64)
    wanted = plain_activation(activation.act, activation.upsample.filter, x)
    torch.testing.assert_close(activation(x), wanted, atol=1e-12, rtol=1e-12)


def test_gradients_pass_through_the_fast_activation() -> None:
    activation = Activation(2).double()
    x = torch.randn(1, 2, 20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(activation, (x,))


def test_the_skip_to_48_khz_keeps_the_edges_and_has_the_printed_taps() -> None:
    impulse = torch.zeros(1, 40)
    impulse[0, 20] = 1 / 3
    out = resample(impulse, 16_000, 48_000, edges="replicate")[0]
    taps = [0.33, 0.27194273, 0.13534595, 0.00311387, -0.05947993, -0.04678098]
    assert out[60:66].tolist() == pytest.approx(taps, abs=1e-7)
    assert out[55:61].flip(0).tolist() == pytest.approx(taps, abs=1e-7)
    level = resample(torch.ones(1, 40), 16_000, 48_000, edges="replicate")
    assert level[0, :3].tolist() == pytest.approx(level[0, 60:63].tolist(), abs=1e-6)


def test_published_size_has_the_published_counts() -> None:
    with torch.device("meta"):
        vocoder = build(base_channels=1536, bwe_channels=512)
    state = vocoder.state_dict()
    assert len(state) == 1227
    assert sum(p.numel() for p in vocoder.vocoder.parameters()) == 115_075_032
    assert sum(p.numel() for p in vocoder.bwe_generator.parameters()) == 13_462_416
    assert sum(b.numel() for b in vocoder.buffers()) == 547_584
    by_part = {part: sum(k.startswith(part + ".") for k in state) for part in ("vocoder", "bwe_generator")}
    assert by_part == {"vocoder": 667, "bwe_generator": 557}
    assert all(from_diffusers("vocoder", to_diffusers("vocoder", key)) == key for key in state)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    assert shapes["vocoder.ups.0.weight"] == (1536, 768, 11)
    assert shapes["bwe_generator.conv_post.weight"] == (2, 16, 7)
    assert shapes["vocoder.resblocks.17.acts2.2.downsample.lowpass.filter"] == (1, 1, 12)
    assert shapes["mel_stft.stft_fn.inverse_basis"] == (514, 1, 512)
    assert shapes["mel_stft.mel_basis"] == (64, 257)


def test_bfloat16_weights_are_refused_with_the_remedy(printed_mel: Tensor) -> None:
    with pytest.raises(WeightsError, match="float32"):
        build().bfloat16()(printed_mel)


def test_a_24_khz_vocoder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"LTX-2\.0"):
        VocoderConfig.from_header({"vocoder": vocoder_header()["vocoder"]})


def test_rates_that_do_not_meet_are_refused() -> None:
    header = vocoder_header()
    header["bwe"]["hop_length"] = 96
    with pytest.raises(ConfigError, match="hop of 96"):
        VocoderConfig.from_header({"vocoder": header})
