"""A weights file either fits, and its tensors are in place, or the error names what is wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from soundstage.errors import ConfigError, WeightsError
from soundstage.model.config import ConnectorConfig, TextProjectionConfig, TransformerConfig
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.model.published import transformer_header, video_vae_header
from soundstage.model.transformer import Transformer
from soundstage.model.video_vae import VideoVae
from soundstage.weights.configs import published_config, stored_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts, locate
from soundstage.weights.load import builder, load_part

HEADER = transformer_header(
    num_layers=2,
    num_heads=2,
    head_dim=8,
    audio_num_heads=2,
    audio_head_dim=4,
    channels=4,
    caption_channels=6,
    connector_num_layers=1,
    connector_num_registers=4,
)
CONFIG = {
    "transformer": HEADER,
    "vae": video_vae_header(encoder_base_channels=8, decoder_base_channels=4, latent_channels=8),
}
PREFIXES = {
    "transformer": "model.diffusion_model.",
    "video_connector": "model.diffusion_model.video_embeddings_connector.",
    "audio_connector": "model.diffusion_model.audio_embeddings_connector.",
    "text_projection": "text_embedding_projection.",
    "video_vae": "vae.",
}


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "transformer": Transformer(TransformerConfig.from_header(CONFIG)),
        "video_connector": Connector(ConnectorConfig.from_header(CONFIG, "video")),
        "audio_connector": Connector(ConnectorConfig.from_header(CONFIG, "audio")),
        "text_projection": FeatureExtractor(TextProjectionConfig.from_header(CONFIG, 6 * 3)),
        "video_vae": VideoVae(builder("video_vae", {}, CONFIG)().config),  # type: ignore[arg-type]
    }


def stored(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """A module's tensors as published files store them: bfloat16, but for the tables."""
    return {
        prefix + key: value.clone() if "scale_shift_table" in key else value.bfloat16()
        for key, value in module.state_dict().items()
    }


def write(path: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = CONFIG) -> Path:
    save_file(tensors, path, metadata=None if config is None else {"config": json.dumps(config)})
    return path


@pytest.fixture
def transformer_file(tmp_path: Path) -> Path:
    return write(tmp_path / "transformer.safetensors", stored(modules()["transformer"]))


def load(path: Path, **options: Any) -> nn.Module:
    files = [read_header(path)]
    parts = find_parts(files)
    return load_part(builder("transformer", parts, stored_config(files)), parts, "transformer", **options)


# --- what fits --------------------------------------------------------------------------------------


def test_every_part_of_an_official_file_is_loaded(tmp_path: Path) -> None:
    originals = modules()
    tensors = {}
    for part, module in originals.items():
        tensors |= stored(module, PREFIXES[part])
    files = [read_header(write(tmp_path / "ltx.safetensors", tensors))]
    parts = find_parts(files)
    assert set(parts) == set(originals)
    for part, original in originals.items():
        build = builder(part, parts, stored_config(files))  # type: ignore[arg-type]
        loaded = load_part(build, parts, part)  # type: ignore[arg-type]
        assert type(loaded) is type(original)
        state = loaded.state_dict()
        for key, value in stored(original).items():
            assert state[key].dtype == value.dtype
            assert torch.equal(state[key], value)
        assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_a_split_file_may_have_any_prefix(tmp_path: Path, prefix: str) -> None:
    original = modules()["transformer"]
    path = write(tmp_path / "split.safetensors", stored(original, prefix))
    assert torch.equal(load(path).patchify_proj.bias, original.patchify_proj.bias.bfloat16())  # type: ignore


def test_a_prefix_is_stripped_once() -> None:
    assert locate("vocoder.vocoder.conv_pre.weight") == ("vocoder", "vocoder.conv_pre.weight")
    assert locate("audio_vae.encoder.conv_in.conv.weight") == ("audio_vae", "encoder.conv_in.conv.weight")
    assert locate("something.else") is None


def test_tables_stay_in_float32(transformer_file: Path) -> None:
    for key, value in load(transformer_file).state_dict().items():
        assert value.dtype == (torch.float32 if "scale_shift_table" in key else torch.bfloat16)
    assert load(transformer_file, dtype=torch.float32).patchify_proj.weight.dtype == torch.float32  # type: ignore


def test_a_file_of_one_stream_gives_a_model_of_one_stream(tmp_path: Path) -> None:
    original = Transformer(TransformerConfig.from_header(CONFIG, audio=False))
    loaded = load(write(tmp_path / "video.safetensors", stored(original)))
    assert isinstance(loaded, Transformer)
    assert loaded.config.audio is None


def test_the_number_of_text_layers_comes_from_the_projection(tmp_path: Path) -> None:
    path = write(
        tmp_path / "text.safetensors", stored(modules()["text_projection"], PREFIXES["text_projection"])
    )
    parts = find_parts([read_header(path)])
    loaded = load_part(builder("text_projection", parts, CONFIG), parts, "text_projection")
    assert isinstance(loaded, FeatureExtractor)
    assert (loaded.config.text_width, loaded.config.num_states) == (6, 3)


def test_fp8_weights_are_multiplied_by_their_scale(tmp_path: Path) -> None:
    original = modules()["transformer"]
    tensors = stored(original, "model.diffusion_model.")
    name = "model.diffusion_model.transformer_blocks.0.attn1.to_q"
    weight = original.state_dict()["transformer_blocks.0.attn1.to_q.weight"]
    scale = weight.abs().max() / 448
    tensors[f"{name}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
    tensors[f"{name}.weight_scale"] = scale
    tensors[f"{name}.input_scale"] = torch.tensor(1.0)
    loaded = load(write(tmp_path / "fp8.safetensors", tensors), dtype=torch.float32)
    found = loaded.state_dict()["transformer_blocks.0.attn1.to_q.weight"]
    torch.testing.assert_close(found, weight, rtol=2**-4, atol=scale.item())


def test_statistics_that_nothing_reads_are_ignored(tmp_path: Path) -> None:
    tensors = stored(modules()["video_vae"], "vae.")
    tensors["vae.per_channel_statistics.mean-of-stds"] = torch.ones(8)
    parts = find_parts([read_header(write(tmp_path / "vae.safetensors", tensors))])
    assert isinstance(load_part(builder("video_vae", parts, CONFIG), parts, "video_vae"), VideoVae)


def test_split_files_without_a_config_get_the_published_one() -> None:
    assert stored_config([]) == {}
    published = published_config()
    assert TransformerConfig.from_header(published).num_layers == 48
    assert TextProjectionConfig.from_header(published, 188160).num_states == 49


# --- what does not fit ------------------------------------------------------------------------------


def test_missing_unexpected_and_misshapen_keys_are_all_named(tmp_path: Path) -> None:
    tensors = stored(modules()["transformer"])
    del tensors["proj_out.bias"]
    tensors["transformer_blocks.7.attn1.to_q.bias"] = torch.zeros(3)
    tensors["patchify_proj.weight"] = torch.zeros(16, 5)
    path = write(tmp_path / "odd.safetensors", tensors)
    with pytest.raises(WeightsError) as caught:
        load(path)
    message = str(caught.value)
    assert "1 missing: proj_out.bias" in message
    assert "1 unexpected: transformer_blocks.7.attn1.to_q.bias" in message
    assert "1 of another shape: patchify_proj.weight [16, 5] where [16, 4] is needed" in message
    assert str(path) in message


def test_a_long_list_of_keys_is_capped(tmp_path: Path) -> None:
    tensors = stored(modules()["transformer"])
    kept = {key: value for key, value in tensors.items() if not key.startswith("transformer_blocks.1.")}
    with pytest.raises(WeightsError, match=r"86 missing: .* and 78 more"):
        load(write(tmp_path / "short.safetensors", kept))


def test_a_truncated_file_is_refused_before_any_tensor_is_read(transformer_file: Path) -> None:
    content = transformer_file.read_bytes()
    for keep, sentence in (
        (len(content) - 1, "incomplete"),
        (200, "within its header"),
        (5, "not a safetensors"),
    ):
        transformer_file.write_bytes(content[:keep])
        with pytest.raises(WeightsError, match=sentence):
            read_header(transformer_file)


def test_trailing_bytes_are_refused(transformer_file: Path) -> None:
    transformer_file.write_bytes(transformer_file.read_bytes() + b"\0\0")
    with pytest.raises(WeightsError, match="bytes where its header needs"):
        read_header(transformer_file)


def raw(header: dict[str, Any], num_bytes: int) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(num_bytes)


BROKEN = {
    "overlap": (
        raw({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
             "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, 8), "overlap before 'b'"),
    "size": (raw({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, 8), "'a' holds 8 bytes"),
    "dtype": (raw({"a": {"dtype": "F3", "shape": [8], "data_offsets": [0, 3]}}, 3), "dtype F3"),
    "fields": (raw({"a": {"dtype": "F32"}}, 8), "damaged header"),
    "json": ((4).to_bytes(8, "little") + b"{no}", "damaged header"),
    "pickle": (pickle.dumps({"weight": [1.0] * 9}), "pickle"),
    "zip": (b"PK\x03\x04" + bytes(40), "PyTorch pickle"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "page": (b"<!DOCTYPE html><html>401</html>", "web page"),
    "text": (b"just some text that is not weights at all", "not a safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, case: str) -> None:
    content, sentence = BROKEN[case]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=sentence):
        read_header(path)


@pytest.mark.parametrize("length", [0x280, 0x480, 0x100 + ord("<")])
def test_a_header_whose_length_looks_like_a_pickle_or_a_page_is_read(tmp_path: Path, length: int) -> None:
    """The first bytes of the file are the header's length, which may be any number."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + text.ljust(length) + bytes(4))
    assert len(text) <= length
    assert list(read_header(path).tensors) == ["a"]


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no file .*gone\.safetensors"):
        read_header(tmp_path / "gone.safetensors")


OTHER_KINDS = {
    "LTX-2.0": ["text_embedding_projection.aggregate_embed.weight"],
    "LTX-2.5": ["model.diffusion_model.keyframes_abs_pos_embedding"],
    "a LoRA": ["diffusion_model.transformer_blocks.0.attn1.to_q.lora_A.weight"],
    "a latent upsampler": ["initial_conv.weight", "final_conv.weight"],
    "does not have: what.is.this": ["what.is.this"],
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_files_of_other_models_are_recognised(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "other.safetensors", {name: torch.zeros(2, 2) for name in OTHER_KINDS[kind]})
    with pytest.raises(WeightsError, match=kind):
        find_parts([read_header(path)])


def test_a_part_in_two_files_is_refused(tmp_path: Path, transformer_file: Path) -> None:
    again = write(tmp_path / "again.safetensors", stored(modules()["transformer"]))
    with pytest.raises(WeightsError, match=r"again.*is also in .*transformer\.safetensors"):
        find_parts([read_header(transformer_file), read_header(again)])


def test_a_part_that_no_file_holds_is_named(transformer_file: Path) -> None:
    parts = find_parts([read_header(transformer_file)])
    with pytest.raises(WeightsError, match=r"no file holds the video_vae \(found: transformer\)"):
        load_part(builder("video_vae", parts, CONFIG), parts, "video_vae")


def test_unreadable_quantizations_are_refused_by_name(tmp_path: Path) -> None:
    tensors = stored(modules()["transformer"])
    tensors["proj_out.weight"] = torch.zeros(4, 16, dtype=torch.int8)
    with pytest.raises(WeightsError, match=r"'proj_out.weight' is stored as I8 without a scale"):
        load(write(tmp_path / "int8.safetensors", tensors))


def test_a_bad_scale_is_refused(tmp_path: Path) -> None:
    tensors = stored(modules()["transformer"])
    tensors["proj_out.weight"] = tensors["proj_out.weight"].to(torch.float8_e4m3fn)
    tensors["proj_out.weight_scale"] = torch.tensor(0.0)
    with pytest.raises(WeightsError, match=r"proj_out\.weight_scale' is not positive and finite"):
        load(write(tmp_path / "zero.safetensors", tensors))
    del tensors["proj_out.weight"]
    with pytest.raises(WeightsError, match=r"scale 'proj_out\.weight_scale' but not its weight"):
        load(write(tmp_path / "orphan.safetensors", tensors))


def test_files_with_different_configs_are_refused(tmp_path: Path, transformer_file: Path) -> None:
    other = write(tmp_path / "vae.safetensors", stored(modules()["video_vae"]),
                  {"transformer": {**HEADER, "num_layers": 3}})  # fmt: skip
    with pytest.raises(WeightsError, match="different 'transformer' configs"):
        stored_config([read_header(transformer_file), read_header(other)])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rope_type": "interleaved"}, "rope_type='interleaved'"),
        ({"cross_attention_adaln": False}, "cross_attention_adaln=False"),
        ({"caption_proj_before_connector": False}, "caption_proj_before_connector"),
        ({"use_prompt_adaln_single": False}, "use_prompt_adaln_single=False"),
        ({"cross_attention_dim": 17}, "cross_attention_dim=17"),
        ({"positional_embedding_max_pos": [20]}, "1 axes"),
        ({"num_layers": None}, "no 'num_layers'"),
        ({"av_ca_timestep_scale_multiplier": None}, "no 'av_ca_timestep_scale_multiplier'"),
    ],
)
def test_configs_of_other_models_are_refused(change: dict[str, Any], sentence: str) -> None:
    """A value of None stands for a key that is absent."""
    section = {key: value for key, value in {**HEADER, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=sentence):
        TransformerConfig.from_header({"transformer": section})


def test_absent_audio_connector_keys_have_the_video_connectors_values() -> None:
    section = {key: value for key, value in HEADER.items() if not key.startswith("audio_connector_")}
    audio = ConnectorConfig.from_header({"transformer": section}, "audio")
    assert audio == ConnectorConfig.from_header(CONFIG, "video")
    del section["connector_positional_embedding_max_pos"]
    with pytest.raises(ConfigError, match="connector_positional_embedding_max_pos"):
        ConnectorConfig.from_header({"transformer": section}, "audio")
