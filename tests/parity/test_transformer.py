"""The transformer gives the reference's numbers: printed vectors, and diffusers on the same weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.model.config import TransformerConfig
from soundstage.model.modulation import sinusoid
from soundstage.model.published import transformer_header
from soundstage.model.rope import frequencies, rope_table
from soundstage.model.transformer import ModalityInputs, Perturbation, Transformer
from tests.tiny_transformer import (
    NUM_TEXT,
    NUM_VIDEO,
    diffusers_twin,
    modalities,
    run_diffusers,
)

# --- printed vectors --------------------------------------------------------------------------------

TINY = TransformerConfig.from_header(
    {
        "transformer": transformer_header(
            num_layers=2, num_heads=2, head_dim=20, audio_num_heads=2, audio_head_dim=8, channels=8
        )
    }
)


def fill(shape: tuple[int, ...], rank: int, amplitude: float) -> Tensor:
    """The deterministic filling the printed vectors were made with."""
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
    return (amplitude * (((31 * n * n + 17 * n + 101 * rank + 7) % 997) / 997 - 0.5)).float().view(shape)


@pytest.fixture(scope="module")
def tiny() -> Transformer:
    model = Transformer(TINY)
    state = model.state_dict()
    assert len(state) == 230
    for rank, key in enumerate(sorted(state)):
        state[key] = fill(tuple(state[key].shape), rank, 0.4) + (1.0 if key.endswith("_norm.weight") else 0.0)
    assert sorted(state)[48] == "patchify_proj.weight"
    torch.testing.assert_close(
        state["patchify_proj.weight"].flatten()[:3],
        torch.tensor([0.147844, 0.167101, -0.188766]),
        atol=1e-6,
        rtol=0,
    )
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def tiny_video(**changes: Any) -> ModalityInputs:
    return dataclasses.replace(
        ModalityInputs(
            latents=fill((1, 4, 8), 1001, 4.0),
            sigma=torch.tensor([0.6]),
            timesteps=torch.tensor([[0.0, 0.0, 0.6, 0.6]]),
            positions=video_positions(2, 1, 2, 24.0),
            context=fill((1, 3, 40), 1003, 4.0),
        ),
        **changes,
    )


def tiny_audio(**changes: Any) -> ModalityInputs:
    return dataclasses.replace(
        ModalityInputs(
            latents=fill((1, 3, 8), 1002, 4.0),
            sigma=torch.tensor([0.4]),
            timesteps=torch.full((1, 3), 0.4),
            positions=audio_positions(3),
            context=fill((1, 3, 16), 1004, 4.0),
        ),
        **changes,
    )


def assert_printed(found: Tensor, printed: list[float], digits: int) -> None:
    """Equal up to one unit of the last printed digit."""
    torch.testing.assert_close(found, torch.tensor(printed), atol=1.01 * 10**-digits, rtol=0)


GOLDEN = {
    "base": (
        [-0.22167, 1.11747, 1.56963, 0.87246], [0.99946, 1.01890, 0.70933, -2.02245], 22.9316,
        [-0.06612, 0.69437, -0.33197, -0.20130], 7.8870,
    ),
    "stg": (
        [-0.01411, 1.06313, 1.73773, 0.78525], [0.91876, 1.06459, 0.50452, -2.00571], 23.2594,
        [-0.07826, 0.71605, -0.27831, -0.17102], 7.8851,
    ),
    "isolated": (
        [-0.40696, 0.57606, 1.20749, 1.35404], [1.00378, 0.86184, 0.59844, -1.73588], 21.1924,
        [-0.06672, 0.72626, -0.20016, -0.11759], 7.9568,
    ),
    "one sigma": (
        [0.49222, 0.99239, 1.86723, 1.09757], [0.94917, 0.95464, 0.58830, -1.91854], 24.0579,
        [0.24444, 1.12738, -0.32577, -0.15079], 8.6441,
    ),
}  # fmt: skip
PERTURBATIONS = {"stg": Perturbation.stg([1]), "isolated": Perturbation.isolated()}


@pytest.mark.parametrize("case", GOLDEN)
def test_tiny_model_gives_the_printed_velocities(tiny: Transformer, case: str) -> None:
    video, audio = tiny_video(), tiny_audio()
    if case == "one sigma":
        video.timesteps = torch.full((1, 4), 0.6)
        audio = tiny_audio(sigma=torch.tensor([0.6]), timesteps=torch.full((1, 3), 0.6))
    v, a = tiny(video, audio, perturbation=PERTURBATIONS.get(case))
    first, last, video_sum, audio_first, audio_sum = GOLDEN[case]
    assert_printed(v[0, 0, :4], first, 5)
    assert_printed(v[0, 3, :4], last, 5)
    assert v.abs().sum().item() == pytest.approx(video_sum, abs=1.01e-4)
    assert_printed(a[0, 0, :4], audio_first, 5)
    assert a.abs().sum().item() == pytest.approx(audio_sum, abs=1.01e-4)


def test_sinusoid_of_725() -> None:
    found = sinusoid(torch.tensor(725.0))
    assert_printed(found[:4], [-0.759727, -0.712539, 0.880237, 0.994940], 6)
    assert_printed(found[128:132], [0.650242, 0.701633, -0.474534, -0.100468], 6)
    assert_printed(found[[127, 255]], [0.996967, 0.077830], 6)


@pytest.mark.parametrize(
    ("count", "printed"),
    [
        (682, [1.5707964, 1.5921853, 1.6138654, 1.6358408]),
        (1024, [1.5707964, 1.5850024, 1.5993371, 1.6138014]),
        (2048, [1.5707964, 1.5778799, 1.5849955, 1.5921432]),
    ],
)
def test_rotary_frequencies(count: int, printed: list[float]) -> None:
    found = frequencies(count, 10000.0)
    assert_printed(found[:4], printed, 7)
    assert found[-1].item() == pytest.approx(15707.963, abs=1e-3)


def test_rotary_table_of_video_tokens() -> None:
    positions = video_positions(2, 1, 2, 24.0)
    cos, sin = rope_table(
        positions, width=4096, num_heads=32, max_positions=(20.0, 2048.0, 2048.0), theta=10000.0
    )
    assert cos.shape == (1, 4, 32, 64)
    assert_printed(cos[0, 0, 0, :8], [1, 1, 0.003272, 0.024541, 0.024541, -0.018071, 0.003489, 0.003489], 6)
    assert_printed(
        sin[0, 0, 0, :8], [0, 0, -0.999995, -0.999699, -0.999699, -0.999837, -0.999994, -0.999994], 6
    )
    assert_printed(cos[0, 0, 31, -3:], [0.257815, 0.923889, 0.923889], 6)
    assert_printed(cos[0, 3, 0, 2:8], [0.032719, 0.024541, 0.073564, 0.011781, 0.003489, 0.053220], 6)
    assert_printed(cos[0, 3, 1, :4], [-0.381490, -0.455085, -0.464736, -0.406048], 6)
    assert_printed(sin[0, 3, 31, -3:], [0.500144, 0.382660, 0.923935], 6)


def test_rotary_tables_of_time() -> None:
    settings: dict[str, Any] = {"width": 2048, "num_heads": 32, "max_positions": (20.0,), "theta": 10000.0}
    cos, _ = rope_table(video_positions(2, 1, 2, 24.0)[:, :1], **settings)
    assert_printed(cos[0, 3, 0, :4], [0.032719, 0.018814, 0.004779, -0.009384], 6)
    assert_printed(cos[0, 3, 31, -2:], [0.989041, 0.865942], 6)
    cos, sin = rope_table(audio_positions(3), **settings)
    assert_printed(cos[0, 2, 0, :4], [0.010995, -0.003111, -0.017344, -0.031703], 6)
    assert_printed(sin[0, 2, 31, -2:], [-0.999997, -0.000689], 6)


def test_positions_are_the_printed_intervals() -> None:
    time = video_positions(3, 1, 1, 24.0)[0, 0]
    torch.testing.assert_close(time * 24, torch.tensor([[0.0, 1.0], [1.0, 9.0], [9.0, 17.0]]))
    rows, columns = video_positions(1, 2, 2, 24.0)[0, 1:]
    assert rows.tolist() == [[0, 32], [0, 32], [32, 64], [32, 64]]
    assert columns.tolist() == [[0, 32], [32, 64], [0, 32], [32, 64]]
    audio = audio_positions(3)[0, 0]
    torch.testing.assert_close(audio, torch.tensor([[0.0, 0.01], [0.01, 0.05], [0.05, 0.09]]))
    assert torch.equal(audio_positions(2, shift=1)[0, 0], audio[1:])


# --- diffusers on the same weights ------------------------------------------------------------------

NUM_LAYERS = 3
HEADER = {
    "transformer": transformer_header(
        num_layers=NUM_LAYERS, num_heads=4, head_dim=32, audio_num_heads=4, audio_head_dim=16, channels=16
    )
}


@pytest.fixture(scope="module")
def pair() -> tuple[Transformer, Any]:
    """Our model with the routing that diffusers has, and diffusers' with the same random weights."""
    torch.manual_seed(0)
    config = dataclasses.replace(TransformerConfig.from_header(HEADER), cross_timestep="other")
    ours = Transformer(config).eval().requires_grad_(False)
    for name, parameter in ours.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("_norm.weight") else 0.0, std=0.15)
    return ours, diffusers_twin(ours)


def relative_error(found: Tensor | None, wanted: Tensor) -> float:
    assert found is not None
    assert found.shape == wanted.shape
    return ((found - wanted).norm() / wanted.norm()).item()


def assert_parity(
    pair: tuple[Transformer, Any], video: ModalityInputs, audio: ModalityInputs, **options: Any
) -> None:
    perturbation = options.pop("perturbation", None)
    found = pair[0](video, audio, perturbation=perturbation)
    wanted = run_diffusers(pair[1], video, audio, **options)
    for ours, theirs in zip(found, wanted, strict=True):
        assert relative_error(ours, theirs) < 1e-4


def test_joint_forward_matches_diffusers(pair: tuple[Transformer, Any]) -> None:
    assert_parity(pair, *modalities())


def test_first_frame_and_frozen_audio_match_diffusers(pair: tuple[Transformer, Any]) -> None:
    video, audio = modalities()
    video.timesteps[:, :8] = 0  # the first latent frame is given
    video.timesteps[1, 8:12] *= 0.5  # in one sample some tokens are half given
    audio.timesteps.zero_()
    audio.sigma = torch.zeros(2)
    assert_parity(pair, video, audio)


def test_own_timestep_routing_matches_diffusers_where_all_share_a_sigma(
    pair: tuple[Transformer, Any],
) -> None:
    ours = Transformer(dataclasses.replace(pair[0].config, cross_timestep="own")).eval()
    ours.load_state_dict(pair[0].state_dict())
    assert_parity((ours, pair[1]), *modalities(), use_cross_timestep=False)


def test_binary_attention_mask_matches_diffusers(pair: tuple[Transformer, Any]) -> None:
    mask = (torch.rand(2, NUM_VIDEO, NUM_VIDEO, generator=torch.Generator().manual_seed(2)) > 0.3).float()
    mask = mask.maximum(torch.eye(NUM_VIDEO))
    assert_parity(pair, *modalities(attention_mask=mask))


def test_stg_matches_diffusers(pair: tuple[Transformer, Any]) -> None:
    assert_parity(
        pair, *modalities(), perturbation=Perturbation.stg([1]), spatio_temporal_guidance_blocks=[1]
    )


def test_stg_of_one_sample_of_a_batch_matches_diffusers(pair: tuple[Transformer, Any]) -> None:
    assert_parity(
        pair,
        *modalities(),
        perturbation=[Perturbation(), Perturbation.stg([0, 2])],
        spatio_temporal_guidance_blocks=[0, 2],
        perturbation_mask=torch.tensor([1.0, 0.0]),
    )


def test_modality_isolation_matches_diffusers(pair: tuple[Transformer, Any]) -> None:
    assert_parity(pair, *modalities(), perturbation=Perturbation.isolated(), isolate_modalities=True)


def test_single_stream_models_match_diffusers_isolated(pair: tuple[Transformer, Any]) -> None:
    video, audio = modalities()
    wanted_video, wanted_audio = run_diffusers(pair[1], video, audio, isolate_modalities=True)
    state = pair[0].state_dict()
    video_only = Transformer(TransformerConfig.from_header(HEADER, audio=False))
    video_only.load_state_dict({key: state[key] for key in video_only.state_dict()})
    found, nothing = video_only(video, None)
    assert nothing is None
    assert relative_error(found, wanted_video) < 1e-4
    audio_only = Transformer(TransformerConfig.from_header(HEADER, video=False))
    audio_only.load_state_dict({key: state[key] for key in audio_only.state_dict()})
    nothing, found = audio_only(None, audio)
    assert nothing is None
    assert relative_error(found, wanted_audio) < 1e-4


# --- properties -------------------------------------------------------------------------------------


def test_absent_stream_equals_isolation(pair: tuple[Transformer, Any]) -> None:
    video, audio = modalities()
    isolated = pair[0](video, audio, perturbation=Perturbation.isolated())
    torch.testing.assert_close(pair[0](video, None)[0], isolated[0])
    torch.testing.assert_close(pair[0](None, audio)[1], isolated[1])


def test_batched_passes_equal_separate_ones(pair: tuple[Transformer, Any]) -> None:
    """Four passes of a guided step in one batch, with tables made for one sample."""
    passes = [Perturbation(), Perturbation.stg([1], audio=False), Perturbation.isolated(),
              Perturbation(skip_video_to_audio=frozenset({0, 2}))]  # fmt: skip
    video, audio = modalities(batch=1)
    video.timesteps[:, :8] = 0
    tables = pair[0].prepare(video, audio)

    def four(m: ModalityInputs) -> ModalityInputs:
        changes = {name: getattr(m, name).repeat(4, *[1] * (getattr(m, name).ndim - 1))
                   for name in ("latents", "sigma", "timesteps", "context")}  # fmt: skip
        return dataclasses.replace(m, **changes)

    batched = pair[0](four(video), four(audio), perturbation=passes, tables=tables)
    for index, perturbation in enumerate(passes):
        alone = pair[0](video, audio, perturbation=perturbation, tables=tables)
        for stream in range(2):
            torch.testing.assert_close(batched[stream][index], alone[stream][0], atol=2e-4, rtol=1e-4)


def test_tables_serve_every_step_of_a_run(pair: tuple[Transformer, Any]) -> None:
    video, audio = modalities()
    mask = torch.ones(2, NUM_VIDEO)
    mask[:, :8], mask[:, 8:10] = 0, 0.25
    video.timesteps = mask * video.sigma[:, None]
    tables = pair[0].prepare(video, audio)
    video.sigma = video.sigma * 0.5
    video.timesteps = mask * video.sigma[:, None]
    kept, fresh = pair[0](video, audio, tables=tables), pair[0](video, audio)
    assert torch.equal(kept[0], fresh[0])
    assert torch.equal(kept[1], fresh[1])


def test_tables_of_other_streams_are_refused(pair: tuple[Transformer, Any]) -> None:
    video, audio = modalities()
    both, alone = pair[0].prepare(video, audio), pair[0].prepare(video, None)
    with pytest.raises(ValueError, match="prepared without"):
        pair[0](video, audio, tables=alone)
    torch.testing.assert_close(pair[0](video, None, tables=both)[0], pair[0](video, None)[0])
    only_video = Transformer(TransformerConfig.from_header(HEADER, audio=False))
    with pytest.raises(ValueError, match="built without"):
        only_video(video, audio)


def test_disabled_stream_is_not_updated_but_heard(pair: tuple[Transformer, Any]) -> None:
    video, audio = modalities()
    silent = dataclasses.replace(audio, enabled=False)
    found, nothing = pair[0](video, silent)
    assert nothing is None
    assert relative_error(found, pair[0](video, None)[0]) > 1e-2
    louder = dataclasses.replace(silent, latents=2 * audio.latents)
    assert relative_error(pair[0](video, louder)[0], found) > 1e-4


def test_attention_strength_scales_a_tokens_weight(pair: tuple[Transformer, Any]) -> None:
    """A mask of one half for every token is no mask at all; zero removes a token."""
    plain = pair[0](*modalities())[0]
    half = pair[0](*modalities(attention_mask=torch.full((1, NUM_VIDEO, NUM_VIDEO), 0.5)))[0]
    torch.testing.assert_close(half, plain, atol=1e-4, rtol=1e-4)
    mask = torch.ones(1, NUM_VIDEO, NUM_VIDEO)
    mask[:, :-1, -1] = 0
    video, _ = modalities(attention_mask=mask)
    changed = video.latents.clone()
    changed[:, -1] += 5
    before = pair[0](video, None)[0]
    after = pair[0](dataclasses.replace(video, latents=changed), None)[0]
    torch.testing.assert_close(after[:, :-1], before[:, :-1])
    assert not torch.allclose(after[:, -1], before[:, -1])


def test_masked_text_is_not_read(pair: tuple[Transformer, Any]) -> None:
    mask = torch.ones(2, NUM_TEXT, dtype=torch.int64)
    mask[:, 4:] = 0
    video, audio = modalities(context_mask=mask)
    short = dataclasses.replace(video, context=video.context[:, :4], context_mask=None)
    torch.testing.assert_close(pair[0](video, audio)[0], pair[0](short, audio)[0], atol=1e-4, rtol=1e-4)


def test_every_parameter_gets_a_gradient(tiny: Transformer) -> None:
    model = Transformer(TINY)
    model.load_state_dict(tiny.state_dict())
    video, audio = model(tiny_video(), tiny_audio())
    (video.square().mean() + audio.square().mean()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_bfloat16_weights_with_float32_tables_stay_close(pair: tuple[Transformer, Any]) -> None:
    half = Transformer(pair[0].config).requires_grad_(False)
    half.load_state_dict(pair[0].state_dict())
    for name, parameter in half.named_parameters():
        if not name.endswith(("scale_shift_table", "_ca_video", "_ca_audio")):
            parameter.data = parameter.data.bfloat16()
    assert half.dtype == torch.bfloat16
    found, wanted = half(*modalities()), pair[0](*modalities())
    for stream in range(2):
        assert found[stream].dtype == torch.bfloat16
        assert relative_error(found[stream].float(), wanted[stream]) < 0.05
