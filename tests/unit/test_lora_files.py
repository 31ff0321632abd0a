"""Every published spelling of a LoRA reads as the same changes; what cannot be applied is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from soundstage.errors import WeightsError
from soundstage.library.identify import identify
from soundstage.lora.files import LoraFile, find_layer, read_lora, write_lora
from soundstage.lora.layers import Layer, LowRank
from soundstage.lora.metadata import LoraReferences, read_references
from soundstage.lora.report import AdapterReport
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import Transformer
from soundstage.weights.diffusers_names import to_diffusers

KEY = "transformer_blocks.1.attn1.to_q"
OUT, IN, RANK = 6, 5, 2
DOWN = torch.arange(RANK * IN).float().view(RANK, IN) + 1
UP = torch.arange(OUT * RANK).float().view(OUT, RANK) - 5


def write(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, metadata or None)
    return path


def pair(module: str, a: str = ".lora_A.weight", b: str = ".lora_B.weight") -> dict[str, Tensor]:
    return {module + a: DOWN, module + b: UP}


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffixes",
    [
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_A.default.weight", ".lora_B.default.weight"),
        (".lora_down.weight", ".lora_up.weight"),
        (".lora.down.weight", ".lora.up.weight"),
        ("_lora.down.weight", "_lora.up.weight"),
    ],
)
@pytest.mark.parametrize(
    "module",
    [
        KEY,
        f"diffusion_model.{KEY}",
        f"model.diffusion_model.{KEY}",
        f"transformer.{KEY}",
        f"base_model.model.{KEY}",
        f"base_model.model.diffusion_model.{KEY}",
        f"base_model.model.transformer.{KEY}",
        f"diffusion_model._orig_mod.{KEY}",
        "lora_unet_" + KEY.replace(".", "_"),
        "lycoris_" + KEY.replace(".", "_"),
    ],
)
def test_all_dialects_read_as_the_same_change(tmp_path: Path, module: str, suffixes: tuple[str, str]) -> None:
    lora = read_lora(write(tmp_path / "a.safetensors", pair(module, *suffixes)))
    assert list(lora.layers) == [Layer("transformer", KEY)]
    (change,) = lora.layers.values()
    assert torch.equal(change.delta(), UP @ DOWN)
    assert lora.unknown == ()


def all_linears() -> list[str]:
    with torch.device("meta"):
        model = Transformer(TransformerConfig.from_header({"transformer": transformer_header()}))
    return [name for name, child in model.named_modules() if isinstance(child, nn.Linear)]


def test_all_1660_layers_of_the_published_model_are_found_in_every_spelling() -> None:
    names = all_linears()
    assert len(names) == 1660
    for name in names:
        for spelled in (
            f"diffusion_model.{name}",
            f"transformer.{to_diffusers('transformer', name)}",
            "lora_unet_" + name.replace(".", "_"),
            "lora_unet_" + to_diffusers("transformer", name).replace(".", "_"),
        ):
            assert find_layer(spelled) == Layer("transformer", name), spelled


@pytest.mark.parametrize(
    ("name", "part", "key"),
    [
        ("diffusion_model.video_embeddings_connector.transformer_1d_blocks.7.attn1.to_k",
         "video_connector", "transformer_1d_blocks.7.attn1.to_k"),
        ("connectors.audio_connector.transformer_blocks.3.ff.net.0.proj",
         "audio_connector", "transformer_1d_blocks.3.ff.net.0.proj"),
        ("text_embedding_projection.video_aggregate_embed", "text_projection", "video_aggregate_embed"),
        ("connectors.audio_text_proj_in", "text_projection", "audio_aggregate_embed"),
    ],
)  # fmt: skip
def test_layers_of_the_text_side_are_found(name: str, part: Any, key: str) -> None:
    assert find_layer(name) == Layer(part, key)


@pytest.mark.parametrize(
    "name", ["down_blocks.0.attn", "transformer_blocks.0.attn1.q_norm", "caption_projection.linear_1", ""]
)
def test_names_the_model_does_not_have_are_not_guessed(name: str) -> None:
    assert find_layer(name) is None


def test_layers_of_another_model_are_listed_not_dropped(tmp_path: Path) -> None:
    tensors = {**pair(KEY), **pair("caption_projection.linear_1")}
    lora = read_lora(write(tmp_path / "a.safetensors", tensors))
    assert lora.unknown == ("caption_projection.linear_1",)
    assert lora.base_version == "2.0"


# --- scales -----------------------------------------------------------------------------------------


def scale_of(path: Path) -> float:
    return read_lora(path).layers[Layer("transformer", KEY)].scale


def test_alpha_is_divided_by_the_layers_own_rank(tmp_path: Path) -> None:
    tensors = pair(KEY) | {f"{KEY}.alpha": torch.tensor(8.0)}
    assert scale_of(write(tmp_path / "a.safetensors", tensors)) == 8 / RANK


def test_without_alpha_the_scale_is_one(tmp_path: Path) -> None:
    assert scale_of(write(tmp_path / "a.safetensors", pair(KEY))) == 1


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"lora_alpha": 6, "r": 2}, 3.0),
        ({"transformer.lora_alpha": 6, "transformer.r": 2}, 3.0),
        ({"lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 1}}, 0.5),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 2**0.5),
    ],
)
def test_alpha_of_pefts_settings(tmp_path: Path, settings: dict[str, Any], scale: float) -> None:
    path = write(tmp_path / "a.safetensors", pair(KEY), lora_adapter_metadata=json.dumps(settings))
    assert scale_of(path) == scale


def test_a_stored_alpha_counts_before_pefts_settings(tmp_path: Path) -> None:
    tensors = pair(KEY) | {f"{KEY}.alpha": torch.tensor(1.0)}
    path = write(tmp_path / "a.safetensors", tensors, lora_adapter_metadata='{"lora_alpha": 6}')
    assert scale_of(path) == 0.5


@pytest.mark.parametrize(
    "alpha",
    [
        torch.tensor([8.0]),
        torch.tensor([[8.0]], dtype=torch.float16),
        torch.tensor(8, dtype=torch.int64),
        torch.tensor(8.0, dtype=torch.bfloat16),
        torch.tensor(8.0).to(torch.float8_e4m3fn),
    ],
)
def test_alpha_is_one_number_of_any_dtype_and_shape(tmp_path: Path, alpha: Tensor) -> None:
    assert scale_of(write(tmp_path / "a.safetensors", pair(KEY) | {f"{KEY}.alpha": alpha})) == 8 / RANK


def test_alpha_may_be_zero_or_negative(tmp_path: Path) -> None:
    for alpha in (0.0, -2.0):
        tensors = pair(KEY) | {f"{KEY}.alpha": torch.tensor(alpha)}
        assert scale_of(write(tmp_path / "a.safetensors", tensors)) == alpha / RANK


def test_the_report_says_the_effective_scale_where_it_is_not_one(tmp_path: Path) -> None:
    other = "transformer_blocks.0.ff.net.2"
    path = write(tmp_path / "a.safetensors", pair(KEY) | {f"{KEY}.alpha": torch.tensor(1.0)})
    report = AdapterReport.of(read_lora(path))
    assert report.scales == (0.5, 0.5)
    assert "rank 2, scale 0.5 (alpha / rank)" in str(report)
    assert report.summary()["scale"] == 0.5
    path = write(path, pair(KEY) | pair(other) | {f"{KEY}.alpha": torch.tensor(8.0)})
    assert "scale 1 to 4 (alpha / rank)" in AdapterReport.of(read_lora(path)).line
    path = write(path, pair(KEY) | {f"{KEY}.alpha": torch.tensor(float(RANK))})
    assert "scale" not in str(AdapterReport.of(read_lora(path)))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_factors_in_8_bits_are_the_values_they_hold(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in pair(KEY).items()}
    (change,) = read_lora(write(tmp_path / "a.safetensors", tensors)).layers.values()
    down, up = (tensor.float() for tensor in tensors.values())
    assert torch.equal(change.down.float(), down)
    assert torch.equal(change.up.float(), up)
    assert change.norm() == pytest.approx((up @ down).norm().item())


def test_a_lora_written_again_does_not_change_the_one_that_was_read(tmp_path: Path) -> None:
    """A trainer writes the same name while an engine holds the factors: they are read, not mapped."""
    path = write(tmp_path / "a.safetensors", pair(KEY))
    (change,) = read_lora(path).layers.values()
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert torch.equal(change.down, DOWN)


def test_without_values_a_lora_has_its_shapes_and_scales_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", pair(KEY) | {f"{KEY}.alpha": torch.tensor(1.0)})
    lora = read_lora(path, values=False)
    assert lora.layers[Layer("transformer", KEY)].down.is_meta
    assert AdapterReport.of(lora) == AdapterReport.of(read_lora(path))


def test_ranks_differ_by_layer_and_convolutions_of_one_pixel_are_matrices(tmp_path: Path) -> None:
    other = "transformer_blocks.0.ff.net.2"
    tensors = pair(KEY) | {
        f"{other}.lora_down.weight": torch.ones(1, 4, 1, 1),
        f"{other}.lora_up.weight": torch.ones(3, 1, 1, 1),
    }
    lora = read_lora(write(tmp_path / "a.safetensors", tensors))
    assert lora.ranks == (1, 2)
    assert lora.layers[Layer("transformer", other)].shape == (3, 4)


def test_norm_is_that_of_the_product() -> None:
    change = LowRank(DOWN, UP, scale=-0.5)
    assert change.norm() == pytest.approx(change.delta().norm().item(), rel=1e-5)


# --- refusals ---------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[dict[str, Tensor], str]] = {
    "dora of columns": (pair(KEY) | {f"{KEY}.dora_scale": torch.ones(1, 5)}, "a magnitude for each column"),
    "dora of another shape": (
        pair(KEY) | {f"{KEY}.lora_magnitude_vector.weight": UP},
        r"F32 \[6, 2\] where the magnitudes of 6 rows",
    ),
    "dora alone": (
        {**pair(KEY), "proj_out.dora_scale": torch.ones(4, 1)},
        "magnitudes but no pair for proj_out",
    ),
    "half a lokr": ({f"{KEY}.lokr_w1": UP}, "has lokr_w1 but no lokr_w2;"),
    "a lokr without a factor": (
        {f"{KEY}.lokr_w1": UP, f"{KEY}.lokr_w2_b": DOWN},
        "has lokr_w1, lokr_w2_b but no lokr_w2_a",
    ),
    "a lokr with a matrix twice": (
        {f"{KEY}.lokr_w1": UP, f"{KEY}.lokr_w2": UP, f"{KEY}.lokr_w2_a": UP},
        "lokr_w2 twice",
    ),
    "a lokr that does not fit": (
        {f"{KEY}.lokr_w1": UP, f"{KEY}.lokr_w2_a": UP, f"{KEY}.lokr_w2_b": UP},
        r"lokr_w2 of '.*' does not fit: \[6, 2\] needs \[2, in\] where \[6, 2\]",
    ),
    "half a loha": ({f"{KEY}.hada_w1_a": UP}, "has hada_w1_a but no hada_w1_b"),
    "a loha of two shapes": (
        {
            f"{KEY}.hada_w1_a": UP,
            f"{KEY}.hada_w1_b": DOWN,
            f"{KEY}.hada_w2_a": UP,
            f"{KEY}.hada_w2_b": DOWN[:, :4],
        },
        r"two matrices of '.*' do not fit: \[6, 5\] and \[6, 4\]",
    ),
    "convolutions": ({f"{KEY}.lokr_w1": UP, f"{KEY}.lokr_t2": UP}, "LoKr or LoHa of convolutions"),
    "two forms": ({f"{KEY}.diff": UP, f"{KEY}.lokr_w1": UP}, "twice, as diff, lokr_w1"),
    "a pair and a difference": (pair(KEY) | {f"{KEY}.diff": UP}, "by diff and by a pair"),
    "a dora of lokr": (
        {f"{KEY}.lokr_w1": UP, f"{KEY}.lokr_w2": UP, f"{KEY}.dora_scale": torch.ones(6, 1)},
        "by lokr_w1, lokr_w2 with magnitudes",
    ),
    "whole numbers in a lokr": (
        {f"{KEY}.lokr_w1": UP, f"{KEY}.lokr_w2": UP.to(torch.int8)},
        "stored as I8",
    ),
    "a difference of a norm": ({f"{KEY}.diff": UP[:, 0]}, r"shape \[6\]"),
    "whole weights": (pair(KEY) | {f"{KEY}.set_weight": UP}, "holds whole weights"),
    "ia3": ({f"{KEY}.ia3_l": UP}, "holds IA3"),
    "glora": ({f"{KEY}.a1.weight": UP, f"{KEY}.b1.weight": UP}, "holds GLoRA"),
    "diff_b": (pair(KEY) | {f"{KEY}.diff_b": UP}, "holds changes of biases"),
    "lora bias": (pair(KEY) | {f"{KEY}.lora_B.bias": UP}, "holds changes of biases"),
    "no lora": ({f"{KEY}.weight": UP}, "is not a LoRA"),
    "one side": ({f"{KEY}.lora_A.weight": DOWN}, f"'{KEY}' has lora_A but no lora_B"),
    "ranks": (
        {f"{KEY}.lora_A.weight": DOWN, f"{KEY}.lora_B.weight": UP[:, :1].contiguous()},
        r"does not fit: \[2, 5\] needs \[out, 2\] where \[6, 1\]",
    ),
    "conv": (
        {f"{KEY}.lora_A.weight": torch.ones(2, 4, 3, 3), f"{KEY}.lora_B.weight": UP},
        r"shape \[2, 4, 3, 3\]; all layers .* are linear",
    ),
    "integers": ({f"{KEY}.lora_A.weight": DOWN.to(torch.int8), f"{KEY}.lora_B.weight": UP}, "stored as I8"),
    "twice": (pair(KEY) | pair(f"diffusion_model.{KEY}"), "changes .* twice"),
    "alpha alone": (pair(KEY) | {"proj_out.alpha": torch.tensor(1.0)}, "alpha but no pair for proj_out"),
    "bad alpha": (pair(KEY) | {f"{KEY}.alpha": torch.tensor(float("nan"))}, "not one finite number"),
    "bad alpha shape": (pair(KEY) | {f"{KEY}.alpha": torch.ones(2)}, r"shape \[2\]; alpha is one number"),
    "infinite alpha": (pair(KEY) | {f"{KEY}.alpha": torch.tensor(float("inf"))}, "not one finite number"),
    "transposed": (
        {f"{KEY}.lora_A.weight": DOWN.T, f"{KEY}.lora_B.weight": UP.T},
        r"'transformer_blocks.1.attn1.to_q' is stored transposed, \[5, 2\] and \[2, 6\]",
    ),
    "no rank": (
        {f"{KEY}.lora_A.weight": DOWN[:0], f"{KEY}.lora_B.weight": UP[:, :0]},
        r"does not fit: \[0, 5\]",
    ),
    "flags": ({f"{KEY}.lora_A.weight": DOWN > 0, f"{KEY}.lora_B.weight": UP}, "stored as BOOL"),
    "a vector": ({f"{KEY}.lora_A.weight": DOWN[0], f"{KEY}.lora_B.weight": UP}, r"shape \[5\]"),
    "nothing": ({}, "none of its 0 tensors"),
    "oft": ({f"{KEY}.oft_blocks": UP}, "holds OFT"),
    "quantized": (pair(KEY) | {f"{KEY}.lora_A.weight._data": UP}, "quantized with quanto"),
    "strays": (pair(KEY) | {"reference_proj.weight": UP}, "not low-rank pairs: reference_proj.weight"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_a_plain_lora_is_refused_by_name(tmp_path: Path, case: str) -> None:
    tensors, message = BROKEN[case]
    path = write(tmp_path / "broken.safetensors", tensors)
    with pytest.raises(WeightsError, match=message) as error:
        read_lora(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("case", BROKEN)
def test_the_plan_and_inspect_refuse_by_the_header_alone(tmp_path: Path, case: str) -> None:
    """Whatever is not in a value is found before any value is read."""
    tensors, message = BROKEN[case]
    if case in ("bad alpha", "infinite alpha", "twice"):
        pytest.skip("seen in values, or in the model's names")
    path = write(tmp_path / "broken.safetensors", tensors)
    with pytest.raises(WeightsError, match=message):
        read_references(str(path))


# Names as these models' LoRAs have them, in both dialects where there are two.
OTHER_MODELS = {
    "blocks.0.self_attn.q": "Wan",
    "diffusion_model.blocks.3.cross_attn.k": "Wan",
    "lora_unet_blocks_0_ffn_0": "Wan",
    "transformer.single_transformer_blocks.0.attn.to_q": "Flux or HunyuanVideo",
    "lora_unet_double_blocks_0_img_attn_qkv": "Flux or HunyuanVideo",
    "diffusion_model.double_blocks.0.img_attn_q": "Flux or HunyuanVideo",
    "lora_unet_joint_blocks_0_x_block_attn_qkv": "Stable Diffusion 3",
    "transformer.transformer_blocks.0.attn.add_k_proj": "Flux, Stable Diffusion 3 or Qwen-Image",
    "transformer_blocks.0.img_mlp.net.0.proj": "Qwen-Image",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": "Stable Diffusion 1.5 or XL",
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": "Stable Diffusion 1.5 or XL",
    "base_model.model.model.layers.0.self_attn.q_proj": "a language model",
    "blocks.0.attn.qkv_x": "Mochi",
}


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_a_lora_of_another_model_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "other.safetensors", pair(name))
    for read in (read_lora, lambda path: read_references(str(path))):
        with pytest.raises(WeightsError, match=f"is a LoRA of {OTHER_MODELS[name]} "):
            read(path)
    described = identify(path)
    assert described.kind == "LoRA"
    assert described.refusal is not None
    assert f"is a LoRA of {OTHER_MODELS[name]} " in described.refusal


def test_a_lora_of_the_first_ltx_video_is_told_by_its_width(tmp_path: Path) -> None:
    tensors = {f"{KEY}.lora_A.weight": torch.ones(2, 2048), f"{KEY}.lora_B.weight": torch.ones(2048, 2)}
    with pytest.raises(WeightsError, match=r"is a LoRA of LTX-Video 0\.9"):
        read_lora(write(tmp_path / "a.safetensors", tensors))


def test_a_lora_of_no_known_model_is_refused_when_it_is_reported_on(tmp_path: Path) -> None:
    lora = read_lora(write(tmp_path / "a.safetensors", pair("trunk.7.mixer")))
    with pytest.raises(WeightsError, match=r"matches no layer of this model \(it is for trunk.7.mixer\)"):
        AdapterReport.of(lora)


@pytest.mark.parametrize(
    "settings",
    [
        '{"lora_alpha": "six"}',
        '{"lora_alpha": NaN}',
        '{"lora_alpha": true}',
        '{"lora_alpha": 6, "alpha_pattern": {"(": 1}}',
        '{"lora_alpha": 6, "alpha_pattern": [1]}',
        '{"lora_alpha": 6, "alpha_pattern": {"to_q": null}}',
        "[]",
        "{",
        "[" * 100_000,
    ],
)
def test_damaged_settings_of_peft_are_one_sentence(tmp_path: Path, settings: str) -> None:
    path = write(tmp_path / "a.safetensors", pair(KEY), lora_adapter_metadata=settings)
    with pytest.raises(WeightsError, match=r"a\.safetensors"):
        read_lora(path)


def test_dora_that_lost_its_magnitudes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", pair(KEY), lora_adapter_metadata='{"use_dora": true}')
    with pytest.raises(WeightsError, match="says that it is DoRA"):
        read_lora(path)


@pytest.mark.parametrize(
    "name", ["dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.default.weight"]
)
def test_magnitudes_are_read_in_both_spellings(tmp_path: Path, name: str) -> None:
    magnitude = torch.arange(6.0)
    stored = magnitude[:, None].contiguous() if name == "dora_scale" else magnitude
    lora = read_lora(write(tmp_path / "a.safetensors", pair(KEY) | {f"{KEY}.{name}": stored}))
    found = lora.layers[Layer("transformer", KEY)].magnitude
    assert found is not None
    assert torch.equal(found, magnitude)


def test_a_lora_of_ltx_2_5_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"LTX-2\.5"):
        read_lora(write(tmp_path / "a.safetensors", pair(KEY), model_version="2.5.0"))


# --- metadata ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "metadata", "downscale"),
    [
        ("a", {}, 1),
        ("a", {"reference_downscale_factor": "2"}, 2),
        ("a", {"reference_downscale_factor": "2.0"}, 2),
        ("a", {"reference_downscale_factor": "ref0.5"}, 2),
        ("a", {"reference_spatial_scale_factor": "4"}, 4),
        ("union-control-ref0.5", {}, 2),
        ("union-control-ref0.5", {"reference_downscale_factor": "1"}, 1),
    ],
)
def test_reference_downscale(tmp_path: Path, name: str, metadata: dict[str, str], downscale: int) -> None:
    lora = read_lora(write(tmp_path / f"{name}.safetensors", pair(KEY), **metadata))
    assert lora.references.downscale == downscale
    assert lora.references.in_context == (downscale != 1 or bool(metadata))


@pytest.mark.parametrize("stored", ["0", "1.5", "half", "-2"])
def test_a_factor_that_is_no_whole_number_is_refused(tmp_path: Path, stored: str) -> None:
    path = write(tmp_path / "a.safetensors", pair(KEY), reference_downscale_factor=stored)
    with pytest.raises(WeightsError, match=f"reference_downscale_factor is '{stored}'"):
        read_lora(path)


def test_temporal_factor_hdr_version_and_companions(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.safetensors",
        pair(KEY) | {"slot_embeddings": torch.ones(3, 4)},
        reference_temporal_scale_factor="2",
        hdr_transform="true",
        model_version="2.3.0",
    )
    lora = read_lora(path)
    slots = ("slot_embeddings",)
    assert lora.references == LoraReferences(temporal=2, in_context=True, hdr="logc3", slots=slots)
    assert lora.base_version == "2.3.0"
    assert list(lora.companions) == ["slot_embeddings"]


def test_a_gate_tells_the_base_version(tmp_path: Path) -> None:
    module = "transformer_blocks.0.attn1.to_gate_logits"
    assert read_lora(write(tmp_path / "a.safetensors", pair(module))).base_version == "2.3"


# --- writing ----------------------------------------------------------------------------------------


def test_a_written_lora_has_the_official_names_and_reads_back(tmp_path: Path) -> None:
    lora = LoraFile(
        {
            Layer("transformer", KEY): LowRank(DOWN, UP, scale=0.5),
            Layer("video_connector", "transformer_1d_blocks.0.attn1.to_v"): LowRank(DOWN, UP),
            Layer("text_projection", "video_aggregate_embed"): LowRank(DOWN, UP),
        },
        metadata={"trigger": "ohwx"},
        references=LoraReferences(downscale=2, temporal=3, in_context=True, hdr="logc3"),
    )
    path = write_lora(tmp_path / "out.safetensors", lora)
    assert [p.name for p in tmp_path.iterdir()] == ["out.safetensors"]
    stored = load_file(path)
    assert set(stored) == {
        f"{module}.lora_{side}.weight"
        for side in "AB"
        for module in (
            f"diffusion_model.{KEY}",
            "diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_v",
            "text_embedding_projection.video_aggregate_embed",
        )
    }
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    again = read_lora(path)
    assert again.references == lora.references
    assert again.metadata["trigger"] == "ohwx"
    for layer, change in lora.layers.items():
        torch.testing.assert_close(again.layers[layer].delta(), change.delta())
