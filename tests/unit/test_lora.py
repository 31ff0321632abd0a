"""Adapters and merged weights are the same sum, and adapters go without a trace."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from soundstage.errors import RequestError, WeightsError
from soundstage.lora.adapters import Adapters
from soundstage.lora.files import LoraFile
from soundstage.lora.layers import Layer, LowRank, group_of, rows_of
from soundstage.lora.merge import Merge, merged
from soundstage.lora.metadata import LoraReferences
from soundstage.memory.offload import chunk_feed_forward, stream_blocks
from soundstage.memory.policy import Residency
from soundstage.model.config import ConnectorConfig
from soundstage.model.connector import Connector
from soundstage.model.transformer import Transformer
from soundstage.types import GROUPS
from soundstage.weights.quantize import QuantizedLinear, quantize, quantize_weight
from tests.tiny_transformer import (
    HEADER,
    NUM_AUDIO,
    NUM_VIDEO,
    assert_differ,
    assert_near,
    assert_same,
    linears,
    modalities,
    random_dora,
    random_lora,
    relative_error,
    transformer,
    velocities,
)

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))


@pytest.fixture(scope="module")
def plain() -> Transformer:
    """Never changed: the oracle, and the model that adapters come and go on."""
    return transformer()


def adapters_on(model: Transformer, count: int = 1, **options: Any) -> Adapters:
    adapters = Adapters(model)
    for number in range(count):
        adapters.add("abc"[number], random_lora(model, seed=number, **options))
    return adapters


def clear(adapters: Adapters) -> None:
    for name in adapters.weights:
        adapters.remove(name)


def by_hand(weights: dict[str, float], groups: dict[str, float] | None = None) -> Transformer:
    """The oracle: a float32 model whose weights were added to with plain products."""
    model = transformer()
    layers = linears(model)
    for name, strength in weights.items():
        lora = random_lora(model, seed="abc".index(name))
        for layer, pair in lora.layers.items():
            at = strength * (groups or {}).get(group_of(layer), 1.0)
            layers[layer.key].weight.data += at * pair.scale * pair.up @ pair.down
    return model


# --- at run time ------------------------------------------------------------------------------------


@DTYPES
def test_three_adapters_are_the_sum_of_their_changes(dtype: torch.dtype) -> None:
    weights = {"a": 0.8, "b": -0.5, "c": 1.3}
    model = transformer(dtype)
    adapters = adapters_on(model, 3)
    adapters.set(weights)
    found = velocities(model)
    assert_near(found, velocities(by_hand(weights)), TOLERANCE[dtype])
    assert_differ(found, velocities(transformer()))


def test_the_order_in_which_adapters_were_made_known_changes_no_bit() -> None:
    """One engine serves many requests: which LoRA it met first is none of the others' business."""
    found = []
    for known_first in ("abc", "cab"):
        model = transformer()
        adapters = Adapters(model)
        for name in known_first:
            adapters.add(name, random_lora(model, seed="abc".index(name)))
        adapters.set({"a": 0.8, "b": -0.5, "c": 1.3})
        found.append(velocities(model))
    assert_same(*found)


def test_strength_zero_is_the_model_without_bit_for_bit(plain: Transformer) -> None:
    before = velocities(plain)
    adapters = adapters_on(plain, 2)
    assert_same(velocities(plain), before)
    adapters.set({"a": 1.0, "b": 1.0})
    assert_differ(velocities(plain), before)
    adapters.set({"a": 0.0})
    assert_same(velocities(plain), before)
    adapters.set({"a": 1.0})
    clear(adapters)
    assert_same(velocities(plain), before)
    assert adapters.weights == {}
    assert not any(child._forward_hooks for child in plain.modules())


def test_weights_change_between_steps_without_a_trace_of_the_step_before(plain: Transformer) -> None:
    adapters = adapters_on(plain, 2)
    results = []
    for weights in ({"a": 1.0}, {"a": 0.3, "b": 0.7}, {"a": 1.0}):
        adapters.set(weights)
        results.append(velocities(plain))
    clear(adapters)
    assert_same(results[0], results[2])
    assert_near(results[1], velocities(by_hand({"a": 0.3, "b": 0.7})), 1e-5)


def test_the_weights_of_the_model_are_untouched(plain: Transformer) -> None:
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    adapters = adapters_on(plain)
    adapters.set({"a": 1.0})
    velocities(plain)
    assert list(plain.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    clear(adapters)


def test_groups_multiply_the_strength(plain: Transformer) -> None:
    groups: dict[Any, float] = {"audio": 0.0, "a2v": 2.0, "v2a": 0.5}
    adapters = adapters_on(plain)
    adapters.set({"a": 0.9})
    adapters.set_groups("a", groups)
    found = velocities(plain)
    clear(adapters)
    assert_near(found, velocities(by_hand({"a": 0.9}, groups)), 1e-5)


def test_a_group_at_zero_is_not_even_watched(plain: Transformer) -> None:
    adapters = adapters_on(plain, only="audio_attn1")
    adapters.set({"a": 1.0})
    adapters.set_groups("a", {"audio": 0.0})
    assert not any(child._forward_hooks for child in plain.modules())
    clear(adapters)


def test_every_layer_has_a_group_and_rows(plain: Transformer) -> None:
    layers = [Layer("transformer", name) for name in linears(plain)]
    assert {group_of(layer) for layer in layers} == set(GROUPS) - {"text"}
    assert all(rows_of(layer) is not None for layer in layers)
    connector = Layer("audio_connector", "transformer_1d_blocks.0.attn1.to_q")
    assert group_of(connector) == "text"
    assert rows_of(connector) is None


def test_gradients_reach_the_factors_and_nothing_else() -> None:
    model = transformer()
    lora = random_lora(model, only="attn1.to_q")
    for pair in lora.layers.values():
        pair.down.requires_grad_(True)
        pair.up.requires_grad_(True)
    adapters = Adapters(model)
    adapters.add("new", lora, training=True)
    adapters.set({"new": 1.0})
    video, audio = model(*modalities())
    (video.square().mean() + audio.square().mean()).backward()
    for pair in lora.layers.values():
        assert pair.up.grad is not None
        assert pair.up.grad.abs().sum() > 0
        assert pair.down.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_connectors_are_adapted_too() -> None:
    torch.manual_seed(0)
    connector = Connector(ConnectorConfig.from_header(HEADER, "video")).eval().requires_grad_(False)
    layer = Layer("video_connector", "transformer_1d_blocks.0.attn1.to_v")
    width = connector.config.width
    lora = LoraFile({layer: LowRank(torch.randn(2, width), torch.randn(width, 2))})
    features, mask = torch.randn(1, 128, width), torch.ones(1, 128)
    before = connector(features, mask)
    adapters = Adapters({"video_connector": connector})
    report = adapters.add("a", lora)
    assert (report.matched, set(report.change)) == (1, {"text"})
    adapters.set({"a": 1.0})
    assert relative_error(connector(features, mask), before) > 1e-3


def test_streamed_blocks_take_adapters_as_resident_ones_do(plain: Transformer) -> None:
    adapters = adapters_on(plain, 2)
    adapters.set({"a": 1.0, "b": 0.5})
    wanted = velocities(plain)
    clear(adapters)
    model = transformer()
    residency = Residency("stream", resident_blocks=0, num_slots=1)
    placed = stream_blocks(model, list(model.transformer_blocks), residency, torch.device("cpu"))
    on_streamed = adapters_on(model, 2)
    on_streamed.set({"a": 1.0, "b": 0.5})
    assert_same(velocities(model), wanted)
    placed.streamer.close()


# --- per token --------------------------------------------------------------------------------------


def test_tokens_at_weight_one_change_nothing_and_at_zero_remove_the_adapter(plain: Transformer) -> None:
    before = velocities(plain)
    adapters = adapters_on(plain)
    adapters.set({"a": 1.0})
    whole = velocities(plain)
    adapters.weigh("a", video=torch.ones(1, NUM_VIDEO, 1), audio=torch.ones(1, NUM_AUDIO, 1))
    assert_same(velocities(plain), whole)
    adapters.weigh("a", video=torch.zeros(1, NUM_VIDEO, 1), audio=torch.zeros(2, NUM_AUDIO, 1))
    assert_near(velocities(plain), before, 1e-5)
    adapters.weigh("a")
    assert_same(velocities(plain), whole)
    clear(adapters)


def test_equal_weights_of_all_tokens_are_a_strength(plain: Transformer) -> None:
    adapters = adapters_on(plain)
    adapters.set({"a": 1.0})
    adapters.weigh("a", video=torch.full((1, NUM_VIDEO, 1), 0.3), audio=torch.full((1, NUM_AUDIO, 1), 0.3))
    found = velocities(plain)
    clear(adapters)
    assert_near(found, velocities(by_hand({"a": 0.3})), 1e-5)


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_a_layer_changes_exactly_the_tokens_that_are_weighed(plain: Transformer, stream: str) -> None:
    name = "transformer_blocks.0." + ("ff.net.2" if stream == "video" else "audio_ff.net.2")
    count = NUM_VIDEO if stream == "video" else NUM_AUDIO
    linear = linears(plain)[name]
    x = torch.randn(2, count, linear.in_features, generator=torch.Generator().manual_seed(5))
    before = linear(x)
    adapters = adapters_on(plain, only=name)
    adapters.set({"a": 1.0})
    whole = linear(x)
    tokens = torch.zeros(1, count, 1)
    tokens[:, :4] = 1
    tokens[:, 4] = 0.5
    adapters.weigh("a", **{stream: tokens})
    found = linear(x)
    assert torch.equal(found[:, 5:], before[:, 5:])
    torch.testing.assert_close(found[:, :4], whole[:, :4], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[:, 4], (before + whole)[:, 4] / 2, atol=1e-6, rtol=1e-5)
    clear(adapters)


@pytest.mark.parametrize(
    ("name", "stream", "per_token"),
    [
        ("transformer_blocks.0.attn1.to_k", "video", True),
        ("transformer_blocks.0.audio_attn2.to_q", "audio", True),
        ("transformer_blocks.0.attn2.to_v", "video", False),
        ("transformer_blocks.0.audio_attn2.to_k", "audio", False),
        ("transformer_blocks.0.audio_to_video_attn.to_q", "video", True),
        ("transformer_blocks.0.audio_to_video_attn.to_k", "audio", True),
        ("transformer_blocks.0.audio_to_video_attn.to_out.0", "video", True),
        ("transformer_blocks.0.video_to_audio_attn.to_gate_logits", "audio", True),
        ("transformer_blocks.0.video_to_audio_attn.to_v", "video", True),
        ("audio_patchify_proj", "audio", True),
        ("proj_out", "video", True),
        ("audio_adaln_single.linear", "audio", False),
        ("av_ca_v2a_gate_adaln_single.linear", "audio", False),
        ("av_ca_a2v_gate_adaln_single.emb.timestep_embedder.linear_1", "video", False),
    ],
)
def test_which_tokens_a_layer_sees(name: str, stream: str, per_token: bool) -> None:
    assert rows_of(Layer("transformer", name)) == (stream, per_token)


def test_what_tokens_share_is_applied_at_their_mean(plain: Transformer) -> None:
    name = "transformer_blocks.0.attn2.to_v"
    linear = linears(plain)[name]
    text = torch.randn(1, 7, linear.in_features, generator=torch.Generator().manual_seed(5))
    adapters = adapters_on(plain, only=name)
    adapters.set({"a": 0.25})
    wanted = linear(text)
    adapters.set({"a": 1.0})
    adapters.weigh("a", video=torch.cat([torch.ones(1, 6, 1), torch.zeros(1, 18, 1)], dim=1))
    torch.testing.assert_close(linear(text), wanted, atol=1e-6, rtol=1e-5)
    clear(adapters)


def test_feed_forwards_in_pieces_keep_each_tokens_weight(plain: Transformer) -> None:
    adapters = adapters_on(plain)
    adapters.set({"a": 1.0})
    adapters.weigh("a", video=torch.linspace(0, 2, NUM_VIDEO).view(1, -1, 1))
    whole = velocities(plain)
    chunk_feed_forward(plain, 5)
    in_pieces = velocities(plain)
    chunk_feed_forward(plain, None)
    clear(adapters)
    assert_near(in_pieces, whole, 1e-5)


def test_weights_of_another_number_of_tokens_are_refused(plain: Transformer) -> None:
    adapters = adapters_on(plain)
    with pytest.raises(ValueError, match=r"\[24\]; \(batch or 1, tokens, 1\)"):
        adapters.weigh("a", video=torch.ones(NUM_VIDEO))
    adapters.set({"a": 1.0})
    adapters.weigh("a", video=torch.ones(1, 5, 1))
    with pytest.raises(ValueError, match=r"'a' has video weights of shape \[1, 5, 1\], but 'patchify_proj'"):
        velocities(plain)
    clear(adapters)


@pytest.mark.parametrize("scheme", ["fp8", "int8", "int8-dynamic"])
def test_adapters_on_8_bit_layers(scheme: Any) -> None:
    model = transformer()
    quantize(model, scheme)
    wide = transformer()  # what the 8-bit weights stand for
    for name, child in model.named_modules():
        if isinstance(child, QuantizedLinear):
            linears(wide)[name].weight.data = child.quantized.dequantize()
    adapters, reference = Adapters(model), Adapters(wide)
    lora = random_lora(wide, only="attn")
    adapters.add("a", lora)
    reference.add("a", lora)
    adapters.set({"a": 1.0})
    reference.set({"a": 1.0})
    wanted = velocities(wide)
    exact = scheme != "int8-dynamic"  # which also rounds activations
    assert_near(velocities(model), wanted, 1e-5 if exact else 0.05)


# --- DoRA -------------------------------------------------------------------------------------------


def dora_by_hand(strength: float, lora: LoraFile) -> Transformer:
    """The oracle: W + strength * (magnitude * (W + change) / norm of each row - W), layer by layer."""
    model = transformer()
    layers = linears(model)
    for layer, pair in lora.layers.items():
        weight = layers[layer.key].weight
        changed = weight + pair.scale * pair.up @ pair.down
        assert pair.magnitude is not None
        target = pair.magnitude[:, None] * changed / changed.norm(dim=1, keepdim=True)
        weight.data += strength * (target - weight)
    return model


@DTYPES
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_dora_at_a_strength_is_so_much_of_the_way(dtype: torch.dtype, strength: float) -> None:
    model = transformer(dtype)
    lora = random_dora(transformer())
    adapters = Adapters(model)
    report = adapters.add("a", lora)
    assert all(change is not None and change > 0.05 for change in report.change.values())
    adapters.set({"a": strength})
    found = velocities(model)
    assert_near(found, velocities(dora_by_hand(strength, lora)), TOLERANCE[dtype])
    assert_differ(found, velocities(transformer()))


def test_dora_beside_a_lora_changes_the_weight_alone_and_merges_so(plain: Transformer) -> None:
    """Neither sees what the other changed, at run time and when both are merged into weights."""
    dora, lora = random_dora(plain, only="attn1"), random_lora(plain, seed=1)
    adapters = Adapters(plain)
    adapters.add("d", dora)
    adapters.add("l", lora)
    adapters.set({"d": 0.6, "l": 0.9})
    found = velocities(plain)
    clear(adapters)
    model = transformer()
    merge = Merge([(dora, 0.6), (lora, 0.9)])
    for name, linear in linears(model).items():
        changed = merge("transformer", f"{name}.weight", linear.weight.data)
        linear.weight.data = changed
    assert_near(found, velocities(model), 1e-5)


def test_dora_at_token_weight_one_is_the_dora_and_at_zero_nothing(plain: Transformer) -> None:
    before = velocities(plain)
    adapters = Adapters(plain)
    adapters.add("a", random_dora(plain))
    adapters.set({"a": 1.0})
    whole = velocities(plain)
    adapters.weigh("a", video=torch.ones(1, NUM_VIDEO, 1), audio=torch.ones(1, NUM_AUDIO, 1))
    assert_near(velocities(plain), whole, 1e-6)
    adapters.weigh("a", video=torch.zeros(1, NUM_VIDEO, 1), audio=torch.zeros(1, NUM_AUDIO, 1))
    assert_near(velocities(plain), before, 1e-6)
    clear(adapters)


def test_dora_needs_the_weights_it_changes() -> None:
    with torch.device("meta"):
        model = Transformer(transformer().config)
    with pytest.raises(WeightsError, match=r"is DoRA, and the weight of .* is neither in memory nor on disk"):
        Adapters(model).add("a", random_dora(transformer()))


def test_factors_in_training_stay_wide_and_multiply_as_the_activations_do() -> None:
    model = transformer(torch.bfloat16)
    lora = random_lora(model, only="attn1.to_q")
    for pair in lora.layers.values():
        pair.down.requires_grad_(True)
        pair.up.requires_grad_(True)
    adapters = Adapters(model)
    adapters.add("new", lora, training=True)
    adapters.set({"new": 1.0})
    video, _ = model(*modalities())
    video.float().square().mean().backward()
    assert all(
        pair.down.grad is not None and pair.down.grad.dtype == torch.float32 for pair in lora.layers.values()
    )
    trained = velocities(model)
    adapters.remove("new")
    for pair in lora.layers.values():
        pair.down.requires_grad_(False)
        pair.up.requires_grad_(False)
    adapters.add("same", lora)
    adapters.set({"same": 1.0})
    assert_same(velocities(model), trained)


# --- merged -----------------------------------------------------------------------------------------


def weight_and_change(size: float) -> tuple[torch.Tensor, LowRank]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 48, generator=generator)
    down, up = torch.randn(2, 48, generator=generator), torch.randn(64, 2, generator=generator)
    return weight, LowRank(down, up * size)


@pytest.mark.parametrize("format", ["fp8", "int8"])
@pytest.mark.parametrize("per", ["tensor", "row"])
def test_small_changes_survive_a_merge_into_8_bits_on_average(format: Any, per: Any) -> None:
    """Far below half a step: lost by rounding to nearest, kept by the mean of random roundings."""
    weight, pair = weight_and_change(0.002)
    start = quantize_weight(weight, format, per)
    change = pair.delta()

    def kept(generator: torch.Generator | None) -> torch.Tensor:
        found = merged(start, [(pair, 1.0)], generator=generator)
        return found.dequantize() - start.dequantize()  # type: ignore[union-attr]

    def share(found: torch.Tensor) -> float:
        return ((found * change).sum() / change.square().sum()).item()

    generator = torch.Generator().manual_seed(1)
    mean = torch.stack([kept(generator) for _ in range(200)]).mean(dim=0)
    assert share(mean) == pytest.approx(1, abs=0.12)
    assert relative_error(mean, change) < relative_error(kept(None), change)


def test_a_plain_cast_to_e4m3_stays_one() -> None:
    weight, pair = weight_and_change(0.05)
    cast = weight.to(torch.float8_e4m3fn)
    found = merged(cast, [(pair, 1.0)], generator=torch.Generator().manual_seed(0))
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float8_e4m3fn
    assert relative_error(found, cast.float() + pair.delta()) < 0.05


def test_merge_serves_a_converter_in_any_order(plain: Transformer) -> None:
    lora_a, lora_b = random_lora(plain, seed=0), random_lora(plain, seed=1)
    state = plain.state_dict()
    merge = Merge([(lora_a, 0.8), (lora_b, -0.5)], groups={"audio": 0.0})
    model = transformer()
    model.load_state_dict({key: merge("transformer", key, value) for key, value in state.items()})
    wanted = by_hand({"a": 0.8, "b": -0.5}, {"audio": 0.0})
    assert_near(velocities(model), velocities(wanted), 1e-5)
    assert merge.check() == [(len(lora_a.layers), ()), (len(lora_b.layers), ())]
    table = state["scale_shift_table"]
    assert merge("transformer", "scale_shift_table", table) is table


def test_a_converter_merges_into_fp8_files(tmp_path: Path) -> None:
    """A bf16 file merged and quantized in one go, and an fp8 file merged into, are near the plain sum."""
    from safetensors.torch import load_file, save_file

    from soundstage.library.convert import convert

    model = transformer(torch.bfloat16)
    prefix = "model.diffusion_model."
    source = tmp_path / "model.safetensors"
    save_file(
        {prefix + key: value for key, value in model.state_dict().items()},
        source,
        {"config": json.dumps(HEADER), "model_version": "2.3.0"},
    )
    lora = random_lora(model, seed=0, only="attn", size=0.1)
    layer = Layer("transformer", "transformer_blocks.0.attn1.to_q")
    wanted = linears(model)[layer.key].weight.float() + lora.layers[layer].delta(0.8)
    convert(source, tmp_path / "fp8.safetensors", layout="official", dtype="fp8")
    cases: list[tuple[Path, Any]] = [(source, "fp8"), (tmp_path / "fp8.safetensors", None)]
    for begin, dtype in cases:
        merge = Merge([(lora, 0.8)])
        (path,) = convert(begin, tmp_path / f"of-{begin.name}", layout="official", dtype=dtype, edit=merge)
        assert merge.check() == [(len(lora.layers), ())]
        stored = load_file(path)
        found = stored[f"{prefix}{layer.key}.weight"]
        assert found.dtype == torch.float8_e4m3fn
        assert relative_error(found.float() * stored[f"{prefix}{layer.key}.weight_scale"], wanted) < 0.06
        untouched = stored[f"{prefix}scale_shift_table"]
        assert torch.equal(untouched, model.state_dict()["scale_shift_table"])


def test_a_merge_that_met_no_weight_is_an_error(plain: Transformer) -> None:
    merge = Merge([(random_lora(plain), 1.0)])
    merge("video_vae", "decoder.conv_in.conv.weight", torch.ones(1))
    with pytest.raises(WeightsError, match="lora 0 matches no weight"):
        merge.check()
    with pytest.raises(WeightsError, match=r"'proj_out' is for a weight of shape \[16, 128\] .* \[3, 3\]"):
        merge("transformer", "proj_out.weight", torch.ones(3, 3))


# --- reports and refusals ---------------------------------------------------------------------------


def test_the_report_tells_what_matches_and_how_much_it_changes(plain: Transformer) -> None:
    lora = random_lora(plain, only="attn1")
    missing = Layer("transformer", "transformer_blocks.47.attn1.to_q")
    other = Layer("video_connector", "transformer_1d_blocks.0.attn1.to_q")
    pair = next(iter(lora.layers.values()))
    lora = dataclasses.replace(
        lora,
        layers={**lora.layers, missing: pair, other: pair},
        unknown=("caption_projection.linear_1",),
        base_version="2.3.0",
        references=LoraReferences(downscale=2, in_context=True),
    )
    report = Adapters(plain).add("a", lora)
    assert report.matched == len(lora.layers) - 2
    assert report.unmatched == (
        "caption_projection.linear_1",
        "transformer: transformer_blocks.47.attn1.to_q",
        "video_connector: transformer_1d_blocks.0.attn1.to_q",
    )
    assert report.ranks == (3, 5)
    assert set(report.change) == {"video", "audio"}
    layers = linears(plain)
    video = [layer for layer in lora.layers if ".attn1." in layer.key and layer not in (missing, other)]
    change = math.sqrt(sum(lora.layers[layer].delta().square().sum().item() for layer in video))
    weight = math.sqrt(sum(layers[layer.key].weight.square().sum().item() for layer in video))
    assert report.change["video"] == pytest.approx(change / weight, rel=1e-4)
    text = str(report)
    for words in ("lora 0: 20 layers, rank 3 to 5, scale 0.5 to 1.5 (alpha / rank), base model 2.3.0",
                  "video 3.02%", "2 times smaller",
                  "3 not in this model: caption_projection"):  # fmt: skip
        assert words in text


def test_where_weights_are_in_no_memory_the_change_is_unknown() -> None:
    with torch.device("meta"):
        model = Transformer(transformer().config)
    adapters = Adapters(model)
    report = adapters.add("a", random_lora(transformer(), only="attn1.to_q"))
    assert report.change == {"video": None, "audio": None}
    assert "video ?" in str(report)


def test_an_adapter_that_changes_nothing_is_an_error(plain: Transformer) -> None:
    lora = random_lora(plain, only="0.attn1.to_q")
    adapters = Adapters(plain)
    silent = [
        LoraFile(
            {layer: LowRank(pair.down, pair.up * up, scale) for layer, pair in lora.layers.items()}, "mute"
        )
        for up, scale in ((1.0, 0.0), (0.0, 1.0))
    ]
    for mute in silent:
        with pytest.raises(WeightsError, match=r"mute changes nothing: .* zero"):
            adapters.add("a", mute)
    assert adapters.add("new", silent[1], training=True).change == {"video": 0.0}


def test_an_adapter_that_does_not_fit_is_an_error(plain: Transformer) -> None:
    lora = random_lora(plain, only="0.attn1.to_q")
    adapters = Adapters(plain)
    (layer, *_), pair = lora.layers, next(iter(lora.layers.values()))
    elsewhere = LoraFile(
        {Layer("transformer", "transformer_blocks.9.ff.net.2"): pair}, "far.safetensors", ("x",)
    )
    with pytest.raises(WeightsError, match=r"far.safetensors matches no layer .* transformer_blocks.9.ff"):
        adapters.add("a", elsewhere)
    wide = LoraFile({layer: LowRank(torch.ones(1, 7), pair.up[:, :1])}, "wide.safetensors")
    with pytest.raises(
        WeightsError, match=r"wide.safetensors: '.*to_q' is for .* \[128, 7\] .* \[128, 128\]"
    ):
        adapters.add("a", wide)
    broken = LoraFile({layer: LowRank(pair.down * math.nan, pair.up)}, "broken.safetensors")
    with pytest.raises(WeightsError, match=r"broken.safetensors holds numbers that are not finite in .*to_q"):
        adapters.add("a", broken)
    assert adapters.weights == {}


def test_wrong_names_and_numbers_are_refused(plain: Transformer) -> None:
    adapters = adapters_on(plain, only="attn1.to_q")
    with pytest.raises(RequestError, match="already an adapter 'a'"):
        adapters.add("a", random_lora(plain))
    with pytest.raises(RequestError, match=r"no adapter 'z' \(added: a\)"):
        adapters.set({"z": 1.0})
    with pytest.raises(RequestError, match="strength of adapter 'a' is nan"):
        adapters.set({"a": math.nan})
    with pytest.raises(RequestError, match=r"'face' is not a group .* video, audio, a2v, v2a, text"):
        adapters.set_groups("a", {"face": 1.0})  # type: ignore[dict-item]
    adapters.remove("a")
    assert adapters.weights == {}
