"""At the published size every part has the published keys, shapes and parameter counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from soundstage.weights.configs import published_config
from soundstage.weights.diffusers_names import from_diffusers, to_diffusers
from soundstage.weights.layouts import locate
from soundstage.weights.load import builder


def on_meta(build: Callable[[], nn.Module]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return build().state_dict()


def full(part: str) -> dict[str, torch.Tensor]:
    return on_meta(builder(part, {}, published_config()))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def transformer() -> dict[str, torch.Tensor]:
    return full("transformer")


def count(state: dict[str, torch.Tensor]) -> int:
    return sum(value.numel() for value in state.values())


COUNTS = {
    "video_connector": (129, 1_612_546_304),
    "audio_connector": (129, 403_620_096),
    "text_projection": (4, 1_156_061_184),
    "video_vae": (170, 726_105_969 + 2 * 128),
}


@pytest.mark.parametrize("part", COUNTS)
def test_part_has_the_published_size(part: str) -> None:
    state = full(part)
    assert (len(state), count(state)) == COUNTS[part]


def test_transformer_has_the_published_size(transformer: dict[str, torch.Tensor]) -> None:
    assert (len(transformer), count(transformer)) == (4_186, 18_988_838_144)
    text = sum(COUNTS[part][1] for part in ("video_connector", "audio_connector", "text_projection"))
    assert count(transformer) + text == 22_161_065_728


def test_an_official_file_has_5947_tensors_and_each_finds_its_part(
    transformer: dict[str, torch.Tensor],
) -> None:
    prefixes = {
        "video_connector": "model.diffusion_model.video_embeddings_connector.",
        "audio_connector": "model.diffusion_model.audio_embeddings_connector.",
        "text_projection": "text_embedding_projection.",
        "video_vae": "vae.",
        "audio_vae": "audio_vae.",
        "vocoder": "vocoder.",
    }
    found = {("transformer", key): f"model.diffusion_model.{key}" for key in transformer}
    for part, prefix in prefixes.items():
        found |= {(part, key): prefix + key for key in full(part)}
    assert len(found) == 5_947
    assert all(locate(name) == place for place, name in found.items())


def test_a_block_has_the_published_size(transformer: dict[str, torch.Tensor]) -> None:
    prefix = "transformer_blocks.47."
    block = {key.removeprefix(prefix): v for key, v in transformer.items() if key.startswith(prefix)}
    assert (len(block), count(block)) == (86, 386_695_360)
    sizes = {
        module: count({key: v for key, v in block.items() if key.startswith(f"{module}.")})
        for module in ("attn1", "attn2", "audio_attn1", "audio_to_video_attn", "video_to_audio_attn", "ff")
    }
    assert sizes == {
        "attn1": 67_264_544,
        "attn2": 67_264_544,
        "audio_attn1": 16_855_072,
        "audio_to_video_attn": 25_311_264,
        "video_to_audio_attn": 25_243_680,
        "ff": 134_238_208,
    }


SHAPES = {
    "patchify_proj.weight": (4096, 128),
    "audio_patchify_proj.weight": (2048, 128),
    "proj_out.weight": (128, 4096),
    "audio_proj_out.bias": (128,),
    "scale_shift_table": (2, 4096),
    "audio_scale_shift_table": (2, 2048),
    "adaln_single.emb.timestep_embedder.linear_1.weight": (4096, 256),
    "adaln_single.linear.weight": (9 * 4096, 4096),
    "audio_adaln_single.emb.timestep_embedder.linear_2.weight": (2048, 2048),
    "prompt_adaln_single.linear.bias": (2 * 4096,),
    "av_ca_video_scale_shift_adaln_single.linear.weight": (4 * 4096, 4096),
    "av_ca_audio_scale_shift_adaln_single.linear.weight": (4 * 2048, 2048),
    "av_ca_a2v_gate_adaln_single.linear.weight": (4096, 4096),
    "av_ca_v2a_gate_adaln_single.linear.weight": (2048, 2048),
    "transformer_blocks.0.attn1.to_out.0.weight": (4096, 4096),
    "transformer_blocks.0.attn2.to_gate_logits.weight": (32, 4096),
    "transformer_blocks.0.audio_to_video_attn.to_q.weight": (2048, 4096),
    "transformer_blocks.0.audio_to_video_attn.to_k.weight": (2048, 2048),
    "transformer_blocks.0.audio_to_video_attn.to_out.0.weight": (4096, 2048),
    "transformer_blocks.0.video_to_audio_attn.to_v.weight": (2048, 4096),
    "transformer_blocks.0.video_to_audio_attn.q_norm.weight": (2048,),
    "transformer_blocks.0.ff.net.0.proj.weight": (16384, 4096),
    "transformer_blocks.0.audio_ff.net.2.weight": (2048, 8192),
    "transformer_blocks.0.scale_shift_table": (9, 4096),
    "transformer_blocks.0.audio_prompt_scale_shift_table": (2, 2048),
    "transformer_blocks.0.scale_shift_table_a2v_ca_video": (5, 4096),
    "transformer_blocks.0.scale_shift_table_a2v_ca_audio": (5, 2048),
}


def test_transformer_keys_have_the_published_shapes(transformer: dict[str, torch.Tensor]) -> None:
    found = {key: tuple(transformer[key].shape) if key in transformer else None for key in SHAPES}
    assert found == SHAPES


def test_the_tables_are_the_only_tensors_kept_in_float32(transformer: dict[str, torch.Tensor]) -> None:
    assert sum("scale_shift_table" in key for key in transformer) == 48 * 6 + 2


def test_diffusers_names_go_there_and_back(transformer: dict[str, torch.Tensor]) -> None:
    for part, state in (("transformer", transformer), ("video_vae", full("video_vae"))):
        names = {key: to_diffusers(part, key) for key in state}  # type: ignore[arg-type]
        assert len(set(names.values())) == len(state)
        assert all(from_diffusers(part, name) == key for key, name in names.items())  # type: ignore[arg-type]


def test_official_names_are_found_with_and_without_prefix(transformer: dict[str, torch.Tensor]) -> None:
    for key in transformer:
        for prefix in ("model.diffusion_model.", "diffusion_model.", ""):
            assert locate(prefix + key) == ("transformer", key)
    for key in full("video_vae"):
        assert locate(f"vae.{key}") == locate(key) == ("video_vae", key)
