"""Quantized storage in every published form: what is read, with which error, and what is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from soundstage.errors import MissingExtraError, RequestError, WeightsError
from soundstage.library.convert import convert
from soundstage.library.identify import identify
from soundstage.model.published import transformer_header
from soundstage.weights import gguf as gguf_files
from soundstage.weights.configs import stored_config
from soundstage.weights.diffusers_names import to_diffusers
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_gemma, find_parts
from soundstage.weights.load import builder, load_part
from soundstage.weights.quantize import QuantizedLinear, quantize_weight
from soundstage.weights.read import TensorReader, WideE4m3
from soundstage.weights.storage import candidates, check_storage
from tests.limits import LONG_S

HEADER = transformer_header(
    num_layers=1, num_heads=2, head_dim=16, audio_num_heads=2, audio_head_dim=16, channels=32,
    caption_channels=6, connector_num_layers=1, connector_num_registers=4,
)  # fmt: skip
CONFIG = {"transformer": HEADER}
LAYER = "transformer_blocks.0.attn1.to_q"
PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def original() -> nn.Module:
    torch.manual_seed(0)
    return builder("transformer", {}, CONFIG)()


def stored(module: nn.Module, prefix: str = PREFIX) -> dict[str, Tensor]:
    return {
        prefix + key: value.clone() if "scale_shift_table" in key else value.bfloat16()
        for key, value in module.state_dict().items()
    }


def write(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    save_file(tensors, path, {"config": json.dumps(CONFIG), **metadata})
    return path


def load(path: Path, **options: Any) -> nn.Module:
    files = [read_header(path)]
    parts = find_parts(files)
    config = {**CONFIG, **stored_config(files)}
    return load_part(builder("transformer", parts, config), parts, "transformer", **options)


def row_scale(weight: Tensor, largest: float) -> Tensor:
    return weight.abs().amax(dim=1, keepdim=True) / largest


# --- forms that are read ----------------------------------------------------------------------------

Quantize = Callable[[Tensor], dict[str, Tensor]]


def per_tensor(weight: Tensor) -> dict[str, Tensor]:
    scale = weight.abs().max() / 448
    return {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale": scale}


def per_row(weight: Tensor) -> dict[str, Tensor]:
    scale = row_scale(weight, 448)
    return {"weight": (weight / scale).to(torch.float8_e4m3fn), "weight_scale": scale}


def int8(weight: Tensor) -> dict[str, Tensor]:
    scale = row_scale(weight, 127)
    return {"weight": (weight / scale).round().to(torch.int8), "weight_scale": scale}


FORMS: dict[str, tuple[Quantize, float]] = {
    "official fp8, with its input scale": (
        lambda w: {**per_tensor(w), "input_scale": torch.tensor(0.5)}, 2**-4),
    "one element instead of a scalar": (
        lambda w: {k: v.reshape(1) if v.dim() == 0 else v for k, v in per_tensor(w).items()}, 2**-4),
    "older Comfy names": (
        lambda w: {"weight": per_tensor(w)["weight"], "scale_weight": per_tensor(w)["weight_scale"],
                   "scale_input": torch.tensor(1.0)}, 2**-4),
    "a scale a row": (per_row, 2**-4),
    "a flat scale a row": (
        lambda w: {k: v.flatten() if k != "weight" else v for k, v in per_row(w).items()}, 2**-4),
    "e5m2": (lambda w: {"weight": w.to(torch.float8_e5m2), "weight_scale": torch.tensor(1.0)}, 2**-2),
    "a plain cast": (lambda w: {"weight": w.to(torch.float8_e4m3fn)}, 2**-2),
    "int8": (int8, 2**-7),
    "int8 with Comfy's marker": (
        lambda w: {**int8(w), "comfy_quant": marker({"format": "int8_tensorwise"})}, 2**-7),
    "fp16": (lambda w: {"weight": w.half()}, 2**-10),
    "fp32": (lambda w: {"weight": w}, 0.0),
}  # fmt: skip


def marker(content: dict[str, Any]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_every_form_is_read_next_to_bf16_layers(
    tmp_path: Path, original: nn.Module, form: str, prefix: str
) -> None:
    """A file with one such layer among others, as in the published mixed files."""
    quantize, bound = FORMS[form]
    weight = original.state_dict()[f"{LAYER}.weight"]
    tensors = stored(original, prefix)
    tensors |= {f"{prefix}{LAYER}.{name}": value for name, value in quantize(weight).items()}
    tensors["scaled_fp8"] = torch.zeros(2)
    loaded = load(write(tmp_path / "mixed.safetensors", tensors), dtype=torch.float32).state_dict()
    assert (loaded[f"{LAYER}.weight"] - weight).abs().max() <= bound * weight.abs().max()
    for key, value in stored(original, "").items():
        if key != f"{LAYER}.weight":
            assert torch.equal(loaded[key], value.float())


def test_a_scaled_weight_is_rounded_once(tmp_path: Path, original: nn.Module) -> None:
    """values * scale in float32, then the run's dtype; the same as the quantized layer computes with."""
    tensors = stored(original)
    tensors |= {
        f"{PREFIX}{LAYER}.{name}": value
        for name, value in per_row(original.state_dict()[f"{LAYER}.weight"]).items()
    }
    path = write(tmp_path / "rows.safetensors", tensors)
    name = f"{PREFIX}{LAYER}.weight"
    wanted = (tensors[name].float() * tensors[f"{name}_scale"]).bfloat16()
    assert torch.equal(load(path).state_dict()[f"{LAYER}.weight"], wanted)
    layer = load(path, storage="stored").get_submodule(LAYER)
    assert isinstance(layer, QuantizedLinear)
    assert torch.equal(layer.quantized.dequantize(torch.bfloat16), wanted)
    assert torch.equal(layer.weight.view(torch.uint8), tensors[name].view(torch.uint8))


def test_every_e4m3_code_has_the_value_pytorch_gives_it() -> None:
    """Subnormals, both zeros and the last finite ones; NaN where it is NaN."""
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    finite = codes[(codes.view(torch.uint8) & 127) != 127].reshape(2, 127)
    wide = WideE4m3(256)
    assert torch.equal(wide(finite).view(torch.int32), finite.float().view(torch.int32))
    assert torch.equal(wide(codes).isnan(), codes.float().isnan())
    assert torch.equal(wide(codes).nan_to_num(0), codes.float().nan_to_num(0))
    assert wide(codes[:0]).numel() == 0


def test_kept_quantized_layers_have_their_input_scale_and_bias(tmp_path: Path, original: nn.Module) -> None:
    tensors = stored(original)
    weight = original.state_dict()[f"{LAYER}.weight"]
    form = {**per_tensor(weight), "input_scale": torch.tensor(0.25)}
    tensors |= {f"{PREFIX}{LAYER}.{name}": value for name, value in form.items()}
    model = load(write(tmp_path / "fp8.safetensors", tensors), storage="stored")
    layer = model.get_submodule(LAYER)
    assert isinstance(layer, QuantizedLinear)
    assert layer.input_scale is not None
    assert layer.input_scale.item() == 0.25
    assert torch.equal(layer.bias, tensors[f"{PREFIX}{LAYER}.bias"])  # type: ignore[arg-type]
    assert sum(isinstance(module, QuantizedLinear) for module in model.modules()) == 1


# --- forms that are refused -------------------------------------------------------------------------

WEIGHT = torch.ones(32, 32)
FP8_ONES = WEIGHT.to(torch.float8_e4m3fn)
REFUSED: dict[str, tuple[dict[str, Tensor], str]] = {
    "NVFP4": (
        {"weight": torch.zeros(32, 16, dtype=torch.uint8), "weight_scale": torch.ones(32, 2),
         "weight_scale_2": torch.tensor(1.0)},
        r"is quantized with NVFP4 .*to_q\.weight_scale_2"),
    "MXFP8": (
        {"weight": FP8_ONES, "weight_scale": torch.ones(32, 1, dtype=torch.uint8)},
        r"to_q\.weight' has a scale of dtype U8 \(MXFP8\)"),
    "a scale per column": (
        {"weight": torch.ones(32, 32).to(torch.float8_e4m3fn), "weight_scale": torch.ones(1, 32)},
        r"shape \[1, 32\], which is neither one number nor one per row"),
    "int8 without a scale": (
        {"weight": torch.ones(32, 32, dtype=torch.int8)}, r"stored as I8 without a scale"),
    "whole numbers": ({"weight": torch.ones(32, 32, dtype=torch.int64)}, r"stored as I64, which is no dtype"),
    "rotated int8": (
        {**int8(WEIGHT), "comfy_quant": marker({"format": "int8_tensorwise", "convrot": True})},
        r"to_q' is quantized to int8_tensorwise with rotation \(convrot\)"),
    "another int8": (
        {**int8(WEIGHT), "comfy_quant": marker({"format": "awq_w4a16"})}, r"quantized to awq_w4a16"),
    "a marker that is no JSON": (
        {**int8(WEIGHT), "comfy_quant": torch.zeros(3, dtype=torch.uint8)}, r"comfy_quant' is not JSON"),
    "a negative scale": (
        {"weight": FP8_ONES, "weight_scale": torch.tensor(-1.0)}, r"scale' is not positive and finite"),
    "an infinite scale": (
        {"weight": FP8_ONES, "weight_scale": torch.tensor(float("inf"))}, r"is not positive and finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_forms_are_refused_by_name(tmp_path: Path, original: nn.Module, case: str) -> None:
    form, sentence = REFUSED[case]
    tensors = stored(original) | {f"{PREFIX}{LAYER}.{name}": value for name, value in form.items()}
    with pytest.raises(WeightsError, match=sentence) as caught:
        load(write(tmp_path / "odd.safetensors", tensors))
    assert "odd.safetensors" in str(caught.value)


@pytest.mark.parametrize("key", ["transformer_blocks.0.attn1.q_norm.weight", "scale_shift_table"])
def test_norms_and_tables_must_not_be_quantized(tmp_path: Path, original: nn.Module, key: str) -> None:
    tensors = stored(original)
    tensors[PREFIX + key] = tensors[PREFIX + key].to(torch.float8_e4m3fn)
    with pytest.raises(WeightsError, match=r"stored as F8_E4M3, where LTX-2.3 needs floating-point values"):
        load(write(tmp_path / "norm.safetensors", tensors))


def test_what_the_header_declares_is_compared_with_what_is_stored(
    tmp_path: Path, original: nn.Module
) -> None:
    """The declared name may lack the file's prefix."""

    def declared(kind: str) -> str:
        return json.dumps({"format_version": "1.0", "layers": {LAYER: {"format": kind}}})

    path = tmp_path / "declared.safetensors"
    write(path, stored(original), _quantization_metadata=declared("float8_e4m3fn"))
    with pytest.raises(WeightsError, match=rf"declares '{LAYER}' as float8_e4m3fn but stores BF16"):
        load(path)
    write(path, stored(original), _quantization_metadata=declared("nvfp4"))
    with pytest.raises(WeightsError, match=rf"'{LAYER}' is quantized to nvfp4"):
        load(path)
    assert identify(path).kind == "model"  # to describe is not to refuse
    tensors = stored(original)
    weight = tensors[f"{PREFIX}{LAYER}.weight"]
    tensors |= {f"{PREFIX}{LAYER}.{name}": value for name, value in per_tensor(weight.float()).items()}
    assert load(write(path, tensors, _quantization_metadata=declared("float8_e4m3fn"))) is not None


def test_a_name_twice_in_one_header_is_refused(tmp_path: Path) -> None:
    entry = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = f"{{{entry},{entry}}}".encode()
    path = tmp_path / "twice.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(WeightsError, match=r"twice\.safetensors lists 'a' more than once"):
        read_header(path)


def test_a_file_that_shrinks_after_its_header_was_read_is_named(tmp_path: Path, original: nn.Module) -> None:
    path = write(tmp_path / "shrinks.safetensors", stored(original))
    parts = find_parts([read_header(path)])
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(WeightsError, match=r"shrinks\.safetensors has become shorter"):
        load_part(builder("transformer", parts, CONFIG), parts, "transformer")


# --- GGUF -------------------------------------------------------------------------------------------

Type = gguf.GGMLQuantizationType


def write_gguf(
    path: Path, tensors: dict[str, Tensor], kinds: dict[str, Any], architecture: str = "ltxv"
) -> Path:
    """kinds: of a tensor, where it is not plain F32."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in tensors.items():
        kind = kinds.get(name, Type.F32)
        data = gguf.quantize(value.float().numpy(), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


KINDS = {"Q8_0": (Type.Q8_0, 2**-7), "Q4_0": (Type.Q4_0, 2**-2.9), "Q5_1": (Type.Q5_1, 2**-4),
         "BF16": (Type.BF16, 2**-8), "F16": (Type.F16, 2**-10)}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", ["official", "diffusers"])
def test_gguf_files_are_decoded(tmp_path: Path, original: nn.Module, kind: str, spelling: str) -> None:
    """Block formats by the package, plain types as in any file, names in both spellings."""
    state = original.state_dict()
    names = {key: key if spelling == "official" else to_diffusers("transformer", key) for key in state}
    packed, bound = KINDS[kind]
    kinds = {names[key]: packed for key in state if key.endswith(".weight") and state[key].shape[-1] == 32}
    path = write_gguf(tmp_path / "model.gguf", {names[k]: v for k, v in state.items()}, kinds)
    found = identify(path)
    assert (found.kind, found.layout, found.part_names) == ("model", "GGUF", ("transformer",))
    assert found.parts[0].dtypes[kind] == len(kinds) > 20
    loaded = load(path, dtype=torch.float32).state_dict()
    for key, value in state.items():
        if names[key] in kinds:
            wanted = gguf.dequantize(gguf.quantize(value.numpy(), packed), packed)
            assert np.array_equal(loaded[key].numpy(), wanted), key
            assert (loaded[key] - value).abs().max() <= bound * value.abs().max()
        else:
            assert torch.equal(loaded[key], value), key


def test_a_gguf_converts_to_bf16_safetensors(tmp_path: Path, original: nn.Module) -> None:
    state = original.state_dict()
    path = write_gguf(tmp_path / "model.gguf", dict(state), {f"{LAYER}.weight": Type.Q8_0})
    convert(path, tmp_path / "model.safetensors", layout="official")
    written = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.bfloat16, torch.float32}
    parts = find_parts([read_header(path)])
    with TensorReader() as files:
        stored_weight = parts["transformer"][f"{LAYER}.weight"]
        wanted = files.value(stored_weight, torch.bfloat16, torch.device("cpu"))
    assert torch.equal(written[f"{PREFIX}{LAYER}.weight"], wanted)


def test_a_shape_that_a_gguf_keeps_apart_is_restored(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "flat.gguf", "ltxv")
    writer.add_array("comfy.gguf.orig_shape.proj_out.weight", [4, 16])
    writer.add_tensor("proj_out.weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_header(tmp_path / "flat.gguf").tensors["proj_out.weight"].shape == (4, 16)


def test_gemma_in_llama_cpp_names_loses_the_one_its_norms_gained(tmp_path: Path) -> None:
    tensors = {
        "token_embd.weight": torch.ones(8, 32),
        "output_norm.weight": torch.full((32,), 1.5),
        "blk.0.attn_q.weight": torch.ones(32, 32),
        "blk.0.attn_q_norm.weight": torch.full((16,), 1.25),
        "blk.0.post_ffw_norm.weight": torch.full((32,), 0.5),
    }
    path = write_gguf(tmp_path / "gemma.gguf", tensors, {"blk.0.attn_q.weight": Type.Q8_0}, "gemma3")
    assert identify(path).layout == "Gemma, GGUF"
    found = find_gemma([read_header(path)])
    assert set(found) == {
        "embed_tokens.weight",
        "norm.weight",
        "layers.0.self_attn.q_proj.weight",
        "layers.0.self_attn.q_norm.weight",
        "layers.0.post_feedforward_layernorm.weight",
    }
    with TensorReader() as files:
        values = {
            key: files.value(stored, torch.float32, torch.device("cpu")) for key, stored in found.items()
        }
    assert values["norm.weight"].unique().tolist() == [0.5]
    assert values["layers.0.self_attn.q_norm.weight"].unique().tolist() == [0.25]
    assert values["layers.0.post_feedforward_layernorm.weight"].unique().tolist() == [-0.5]
    assert values["embed_tokens.weight"].unique().tolist() == [1.0]


def test_damaged_gguf_files_and_a_missing_package_are_named(
    tmp_path: Path, original: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "model.gguf", {"proj_out.bias": torch.ones(64)}, {})
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) - 40):
        (tmp_path / "short.gguf").write_bytes(content[:size])
        with pytest.raises(WeightsError, match=r"short\.gguf is a GGUF file, damaged or cut short"):
            read_header(tmp_path / "short.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'soundstage\[gguf\]'"):
        gguf_files.read_gguf(path)


# --- memory -----------------------------------------------------------------------------------------

MEASURE = """
import resource, sys, torch
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from soundstage.weights.configs import stored_config
from soundstage.weights.load import builder, load_part
files = [read_header(sys.argv[1])]
parts = find_parts(files)
build = builder("video_vae", parts, stored_config(files))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
with torch.device("meta"):
    build()
before = peak()
model = load_part(build, parts, "video_vae", dtype=getattr(torch, sys.argv[2]))
weights = sum(p.numel() * p.element_size() for p in model.state_dict().values())
largest = max(p.numel() * p.element_size() for p in model.state_dict().values())
print(peak() - before, weights, largest)
"""


def test_a_load_takes_the_memory_of_the_weights_and_of_a_tensor(tmp_path: Path) -> None:
    """Also where every tensor is converted on the way, as it is here."""
    from soundstage.model.config import VideoVaeConfig
    from soundstage.model.published import video_vae_header
    from soundstage.model.video_vae import VideoVae

    config = {"vae": video_vae_header(encoder_base_channels=32, decoder_base_channels=32)}
    module = VideoVae(VideoVaeConfig.from_header(config)).bfloat16()
    path = tmp_path / "vae.safetensors"
    save_file(
        {f"vae.{key}": value for key, value in module.state_dict().items()},
        path,
        {"config": json.dumps(config)},
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), "float32"],
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG_S,
    )
    grown, weights, largest = (int(word) for word in done.stdout.split())
    assert weights > 150_000_000
    assert grown <= weights + 3 * largest + 10_000_000


def test_gguf_can_be_held_in_8_bits_but_not_as_stored(tmp_path: Path, original: nn.Module) -> None:
    """Its blocks are decoded, then rounded as any weight is."""
    state = original.state_dict()
    path = write_gguf(tmp_path / "model.gguf", dict(state), {f"{LAYER}.weight": Type.Q8_0})
    tensors = find_parts([read_header(path)])["transformer"]
    assert candidates(tensors) == ("full", "int8")
    with pytest.raises(RequestError, match=r"weights is 'stored', and .*model\.gguf holds no layer in e4m3"):
        check_storage(tensors, "stored")
    full, held = load(path, dtype=torch.float32), load(path, dtype=torch.float32, storage="int8")
    layer, wide = held.get_submodule(LAYER), full.get_submodule(LAYER).weight
    assert isinstance(layer, QuantizedLinear)
    assert isinstance(wide, Tensor)
    assert torch.equal(layer.weight, quantize_weight(wide, "int8").values)
