"""The text side gives the reference's numbers: printed vectors, and diffusers on the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from soundstage.model.config import ConnectorConfig, TextProjectionConfig
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.model.rope import RopeTable, rope_table
from soundstage.weights.diffusers_names import to_diffusers

MAX_POSITION = 4096.0
TINY_VIDEO = ConnectorConfig(
    num_layers=2, num_heads=2, head_dim=8, num_registers=4, max_position=MAX_POSITION
)
TINY_AUDIO = ConnectorConfig(
    num_layers=2, num_heads=2, head_dim=4, num_registers=4, max_position=MAX_POSITION
)
TINY_TEXT = TextProjectionConfig(text_width=6, num_states=3, video_width=16, audio_width=8)


def fill(shape: tuple[int, ...], rank: int, amplitude: float) -> Tensor:
    """The deterministic filling the printed vectors were made with."""
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
    return (amplitude * (((31 * n * n + 17 * n + 101 * rank + 7) % 997) / 997 - 0.5)).float().view(shape)


def tiny_parts() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "feature_extractor": FeatureExtractor(TINY_TEXT),
            "video_connector": Connector(TINY_VIDEO),
            "audio_connector": Connector(TINY_AUDIO),
        }
    )


@pytest.fixture(scope="module")
def tiny() -> nn.ModuleDict:
    parts = tiny_parts()
    state = parts.state_dict()
    assert len(state) == 70
    for rank, key in enumerate(sorted(state)):
        state[key] = fill(tuple(state[key].shape), rank, 0.4) + (1.0 if key.endswith("_norm.weight") else 0.0)
    parts.load_state_dict(state)
    return parts.eval().requires_grad_(False)


def assert_printed(found: Tensor, printed: list[float], digits: int = 5) -> None:
    """Equal up to one unit of the last printed digit."""
    torch.testing.assert_close(found, torch.tensor(printed), atol=1.01 * 10**-digits, rtol=0)


def connector_table(width: int) -> RopeTable:
    return rope_table(
        torch.tensor([5.0, 5.0]).view(1, 1, 1, 2),
        width=width,
        num_heads=32,
        max_positions=(MAX_POSITION,),
        theta=10000.0,
    )


def test_rotary_table_of_position_5() -> None:
    video = connector_table(4096)
    assert_printed(video.cos[0, 0, 0, :4], [0.003835, -0.003231, -0.010329, -0.017459], 6)
    assert_printed(video.sin[0, 0, 0, :4], [-0.999993, -0.999995, -0.999947, -0.999848], 6)
    assert_printed(video.cos[0, 0, 31, -2:], [-0.305766, 0.795554], 6)
    audio = connector_table(2048)
    assert_printed(audio.cos[0, 0, 0, :4], [0.003835, -0.010336, -0.024634, -0.039055], 6)
    assert_printed(audio.cos[0, 0, 31, -2:], [-0.962028, 0.795554], 6)


def test_tiny_text_side_gives_the_printed_values(tiny: nn.ModuleDict) -> None:
    hidden_states = torch.stack([fill((1, 8, 6), 2000 + layer, 4.0) for layer in range(3)], dim=-1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    video, audio = tiny["feature_extractor"](hidden_states, mask)
    assert_printed(video[0, 3, :4], [0.22621, 0.66424, 0.69143, -0.64310])
    assert_printed(audio[0, 3, :4], [-0.20575, -0.51781, -0.76299, 0.75887])
    video, audio = tiny["video_connector"](video, mask), tiny["audio_connector"](audio, mask)
    assert_printed(video[0, 0, :4], [1.88340, 0.60005, 0.18928, -0.90204])
    assert_printed(video[0, 7, :4], [-1.43166, -0.67761, 0.43312, 2.03046])
    assert video.abs().sum().item() == pytest.approx(106.7194, abs=1.01e-4)
    assert_printed(audio[0, 0, :4], [-0.80349, -0.67400, -0.73453, 0.97703])
    assert_printed(audio[0, 7, :4], [-0.15379, -1.14066, 0.04736, -0.33951])
    assert audio.abs().sum().item() == pytest.approx(51.1465, abs=1.01e-4)


def test_padding_gets_the_bias_of_the_projection(tiny: nn.ModuleDict) -> None:
    extractor = tiny["feature_extractor"]
    hidden_states = torch.randn(2, 8, 6, 3)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 1]])
    video, _ = extractor(hidden_states, mask)
    bias = extractor.video_aggregate_embed.bias
    assert torch.equal(video[1, :7], bias.expand(7, -1))
    assert not torch.equal(video[1, 7], bias)


def test_prompts_of_different_length_do_not_touch_each_other(tiny: nn.ModuleDict) -> None:
    features = torch.randn(2, 8, 16)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1, 1]])
    connector = tiny["video_connector"]
    both = connector(features, mask)
    alone = torch.cat([connector(features[i : i + 1], mask[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=0)


def test_a_length_the_registers_cannot_fill_is_refused(tiny: nn.ModuleDict) -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        tiny["video_connector"](torch.zeros(1, 6, 16), torch.ones(1, 6))


def test_connectors_and_projections_match_diffusers() -> None:
    """Same weights, two prompts of different length, at the 2.3 structure and small width."""
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    torch.manual_seed(0)
    text = TextProjectionConfig(text_width=48, num_states=5, video_width=64, audio_width=32)
    video_config = ConnectorConfig(
        num_layers=3, num_heads=4, head_dim=16, num_registers=16, max_position=MAX_POSITION
    )
    audio_config = ConnectorConfig(
        num_layers=3, num_heads=4, head_dim=8, num_registers=16, max_position=MAX_POSITION
    )
    extractor = FeatureExtractor(text)
    video_connector, audio_connector = Connector(video_config), Connector(audio_config)
    for parameter in [*extractor.parameters(), *video_connector.parameters(), *audio_connector.parameters()]:
        nn.init.normal_(parameter, std=0.2)

    reference = LTX2TextConnectors(
        caption_channels=48,
        text_proj_in_factor=5,
        video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=16,
        video_connector_num_layers=3,
        video_connector_num_learnable_registers=16,
        video_gated_attn=True,
        audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=3,
        audio_connector_num_learnable_registers=16,
        audio_gated_attn=True,
        connector_rope_base_seq_len=4096,
        rope_type="split",
        per_modality_projections=True,
        video_hidden_dim=64,
        audio_hidden_dim=32,
        proj_bias=True,
    )
    state = {to_diffusers("text_projection", k): v for k, v in extractor.state_dict().items()}
    for name, connector in (("video_connector", video_connector), ("audio_connector", audio_connector)):
        for key, value in connector.state_dict().items():
            state[f"{name}.{to_diffusers(name, key)}"] = value  # type: ignore[arg-type]
    reference.load_state_dict(state, strict=True)

    hidden_states = torch.randn(2, 32, 48, 5) * 3
    mask = torch.zeros(2, 32, dtype=torch.int64)
    mask[0, 20:], mask[1, 31:] = 1, 1
    with torch.no_grad():
        video, audio = extractor(hidden_states, mask)
        video, audio = video_connector(video, mask), audio_connector(audio, mask)
        their_video, their_audio, _ = reference(hidden_states, mask, padding_side="left")
    assert relative_error(video, their_video) < 1e-4
    assert relative_error(audio, their_audio) < 1e-4


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()
