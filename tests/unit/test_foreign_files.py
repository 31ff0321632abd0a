"""Weights as people have them: of other models and quantizers, torn, half downloaded. One sentence each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from soundstage.errors import ConfigError, SoundstageError, WeightsError
from soundstage.library.identify import identify
from soundstage.library.installed import Library
from soundstage.library.model_files import find_model
from soundstage.library.verify import verify
from soundstage.rendering.parts import ModelParts
from soundstage.text.source import check_tokenizer, gemma_files
from soundstage.weights.foreign import quantizer_in_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_gemma, find_parts
from tests.tiny_model import write_tiny_model

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 123\n"
PAGE = b"<!DOCTYPE html><html>Sign in</html>"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A model of one's own to damage."""
    return shutil.copytree(tiny, tmp_path / "model")


# --- quantizers -------------------------------------------------------------------------------------


def marker(name: str) -> Tensor:
    return torch.tensor(list(json.dumps({"format": name}).encode()), dtype=torch.uint8)


BYTE, ONE = torch.zeros(4, 4, dtype=torch.int8), torch.tensor(1.0)
FP4 = {"weight": torch.zeros(4, 2, dtype=torch.uint8), "weight_scale": torch.ones(4, 1)}
QUANTIZERS: dict[str, tuple[str, dict[str, Tensor]]] = {
    "quanto": ("quanto .as WanGP's", {"weight._data": BYTE, "weight._scale": torch.ones(4, 1),
               "input_scale": ONE, "output_scale": ONE}),
    "nvfp4": ("NVFP4", {**FP4, "weight_scale_2": ONE}),
    "comfy nvfp4": ("NVFP4", {**FP4, "comfy_quant": marker("nvfp4")}),
    "comfy mxfp8": ("MXFP8", {**FP4, "comfy_quant": marker("mxfp8")}),
    "gptq": ("GPTQ", {"qweight": BYTE.int(), "qzeros": BYTE.int(), "scales": ONE, "g_idx": ONE.int()}),
    "awq": ("AWQ or GPTQ", {"qweight": BYTE.int(), "qzeros": BYTE.int(), "scales": torch.ones(4)}),
    "nf4": ("bitsandbytes in 4 bits", {"weight": BYTE.byte(), "weight.absmax": torch.ones(4),
            "weight.quant_state.bitsandbytes__nf4": BYTE.byte()}),
    "llm.int8": ("bitsandbytes in 8 bits", {"weight": BYTE, "SCB": torch.ones(4)}),
    "nunchaku": ("SVDQuant", {"qweight": BYTE, "wscales": torch.ones(4), "lora_down": torch.ones(4, 4)}),
    "compressed-tensors": ("compressed-tensors", {"weight_packed": BYTE.int(), "weight_scale": ONE}),
    "deepseek fp8": ("FP8 in blocks", {"weight": BYTE, "weight_scale_inv": torch.ones(1, 1)}),
}  # fmt: skip
LAYERS = {
    "model.diffusion_model.transformer_blocks.0.attn1.to_q": find_parts,
    "transformer_blocks.0.ff.net.0.proj": find_parts,
    "model.layers.0.mlp.up_proj": find_gemma,
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("case", QUANTIZERS)
def test_another_quantizer_is_named_wherever_the_file_is_met(tmp_path: Path, case: str, layer: str) -> None:
    quantizer, tensors = QUANTIZERS[case]
    path = tmp_path / "model.safetensors"
    save_file({f"{layer}.{name}": value.clone() for name, value in tensors.items()}, path)
    sentence = f"model.safetensors is quantized with {quantizer}.*not read; (get|use) "
    with pytest.raises(WeightsError, match=sentence):
        LAYERS[layer]([read_header(path)])
    description = identify(path)
    assert description.refusal is not None
    assert quantizer.split()[0] in description.refusal
    with pytest.raises(SoundstageError, match=quantizer.split()[0]):
        find_model(path)
    (verdict,) = verify([path], Library(tmp_path / "models.json"), quick=True)
    assert verdict.problem == description.refusal


def test_a_config_names_its_quantizer() -> None:
    def named(**settings: Any) -> str | None:
        return quantizer_in_config({"quantization_config": settings})

    assert named(quant_method="bitsandbytes", load_in_4bit=True) == "bitsandbytes in 4 bits"
    assert named(quant_method="gptq", bits=4) == "GPTQ"
    assert named(quant_method="awq") == "AWQ"
    assert named(quant_method="something new") == "something new"
    assert quantizer_in_config({}) is None
    assert quantizer_in_config([]) is None


@pytest.mark.parametrize(
    ("names", "model"),
    [
        (["blocks.0.self_attn.q.weight", "blocks.0.ffn.0.weight"], "a model of Wan"),
        (["double_blocks.0.img_attn.qkv.weight"], "a model of Flux or HunyuanVideo"),
        (["encoder.block.0.layer.0.SelfAttention.q.weight"], "a model of T5"),
        (["transformer_blocks.0.attn1.to_q.weight", "caption_projection.linear_1.weight"], "LTX-Video 0.9"),
    ],
)
def test_checkpoints_of_other_models_are_named(tmp_path: Path, names: list[str], model: str) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: torch.ones(2, 2) for name in names}, path)
    with pytest.raises(WeightsError, match=f"other.safetensors is {model}; this engine runs LTX-2.3"):
        find_parts([read_header(path)])
    assert f"is {model}" in str(identify(path).refusal)


# --- the text encoder's folder ----------------------------------------------------------------------


def edited(path: Path, **values: Any) -> None:
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def listed(text: Path, *names: str) -> None:
    (text / "model.safetensors").unlink()
    index = {"weight_map": {f"tensor{number}": name for number, name in enumerate(names)}}
    (text / "model.safetensors.index.json").write_text(json.dumps(index))


def without_layer(text: Path) -> None:
    path = text / "model.safetensors"
    tensors = load_file(path)
    save_file({name: value.clone() for name, value in tensors.items() if ".layers.1." not in name}, path)


def as_gguf(text: Path, architecture: str) -> None:
    writer = gguf.GGUFWriter(text / "gemma.gguf", architecture)
    writer.add_tensor("token_embd.weight", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pointer": (lambda t: (t / "model.safetensors").write_bytes(LFS), "Git LFS pointer"),
    "page": (lambda t: (t / "model.safetensors").write_bytes(PAGE), "web page"),
    "cut": (lambda t: cut(t / "model.safetensors"), "incomplete or damaged"),
    "no weights": (lambda t: (t / "model.safetensors").unlink(), r"lacks .*model\.safetensors"),
    "pickle": (lambda t: (t / "model.safetensors").rename(t / "pytorch_model.bin"), "lacks .*safetensors"),
    "dead link": (
        lambda t: ((t / "model.safetensors").unlink(), (t / "model.safetensors").symlink_to("blobs/1")),
        r"lacks .*model\.safetensors"),
    "a layer less": (without_layer, "has 2 states of width 16; this model's projection reads 3"),
    "config: a layer more": (
        lambda t: edited(t / "config.json", num_hidden_layers=3), "num_hidden_layers=3, .* have 2"),
    "config: other layer types": (
        lambda t: edited(t / "config.json", layer_types=["full_attention"]), "layer_types for another"),
    "config: another width": (lambda t: edited(t / "config.json", hidden_size=3840), "hidden_size=3840"),
    "config: another model": (lambda t: edited(t / "config.json", model_type="llama"), "of type 'llama'"),
    "config: pointer": (lambda t: (t / "config.json").write_bytes(LFS), "is not JSON: it is a Git LFS"),
    "config: page": (lambda t: (t / "config.json").write_bytes(PAGE), "is not JSON: it is a web page"),
    "config: list": (lambda t: (t / "config.json").write_text("[]"), "holds no JSON object"),
    "config: nested": (lambda t: (t / "config.json").write_text("[" * 10**5), "is not JSON"),
    "config: missing": (lambda t: (t / "config.json").unlink(), r"lacks .*config\.json"),
    "config: gptq": (
        lambda t: edited(t / "config.json", quantization_config={"quant_method": "gptq"}), "with GPTQ"),
    "vision without text": (
        lambda t: (t / "config.json").write_text('{"model_type": "gemma3"}'), "has no text_config"),
    "tokenizer: pointer": (lambda t: (t / "tokenizer.json").write_bytes(LFS), "tokenizer.json is a Git LFS"),
    "tokenizer: page": (lambda t: (t / "tokenizer.json").write_bytes(PAGE), "tokenizer.json is a web page"),
    "tokenizer: cut": (lambda t: (t / "tokenizer.json").write_text('{"model": {'), "is cut short"),
    "tokenizer: empty": (lambda t: (t / "tokenizer.json").write_text(""), "tokenizer.json is empty"),
    "tokenizer: missing": (lambda t: (t / "tokenizer.json").unlink(), r"lacks .*tokenizer\.json"),
    "tokenizer.model: pointer": (
        lambda t: (t / "tokenizer.json").rename(t / "tokenizer.model").write_bytes(LFS),
        "tokenizer.model is a Git LFS"),
    "index: a shard missing": (
        lambda t: listed(t, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        r"lacks .*model-00001-of-00002\.safetensors, .*model-00002-of-00002"),
    "index: elsewhere": (lambda t: listed(t, "../../secret.safetensors"), "lists no weights"),
    "index: nothing": (lambda t: listed(t), "lists no weights"),
    "empty": (lambda t: [file.unlink() for file in t.iterdir()], r"lacks .*config\.json.*tokenizer\.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_a_text_encoder_that_is_not_whole_is_refused_when_the_model_is_opened(model: Path, case: str) -> None:
    damage, sentence = FOLDERS[case]
    damage(model / "text")
    with pytest.raises(SoundstageError, match=sentence) as caught:
        find_model(model)
    assert str(model) in str(caught.value)


def test_what_lies_beside_whole_weights_is_left_alone(model: Path) -> None:
    text = model / "text"
    for name in ("model.safetensors.index.json", "generation_config.json", "README.md"):
        (text / name).write_text("{}")
    save_file({"layers.0.lora_A.weight": torch.ones(2, 2)}, text / "adapter_model.safetensors")
    assert gemma_files(text) == [text / "model.safetensors"]
    find_model(model)


def test_shards_of_an_index_are_the_weights(model: Path) -> None:
    text = model / "text"
    tensors = load_file(text / "model.safetensors")
    names = sorted(tensors)
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for shard, half in zip(shards, (names[::2], names[1::2]), strict=True):
        save_file({name: tensors[name] for name in half}, text / shard)
    listed(text, *shards)
    assert gemma_files(text) == [text / shard for shard in shards]
    find_model(model)
    (text / "model.safetensors.index.json").unlink()
    find_model(model)
    (text / shards[0]).unlink()
    with pytest.raises(WeightsError, match=rf"lacks .*{shards[0]}"):
        find_model(model)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "wan"])
def test_a_gguf_of_another_model_is_named(model: Path, architecture: str) -> None:
    as_gguf(model / "text", architecture)
    files = [
        model / name for name in ("transformer.safetensors", "video_vae.safetensors", "audio_vae.safetensors")
    ]
    with pytest.raises(ConfigError, match=f"describes a model of type '{architecture}'"):
        find_model(files, text=model / "text" / "gemma.gguf")


class Words:
    """A tokenizer of so many pieces, of which one begins a text."""

    def __init__(self, size: int, start: str = "<bos>") -> None:
        self.size, self.start = size, start

    def get_vocab_size(self) -> int:
        return self.size

    def id_to_token(self, number: int) -> str:
        return self.start


class Rows:
    vocab_size, bos_token_id = 262_208, 2


@pytest.mark.parametrize("size", [262_144, 262_145, 262_208])
def test_gemma_3s_own_tokenizers_fit(size: int) -> None:
    check_tokenizer(Path("gemma"), Words(size), Rows)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (Words(256_000), "knows 256,000 pieces where the text encoder has 262,208 rows"),
        (Words(300_000), "knows 300,000 pieces"),
        (Words(262_144, "<|begin_of_text|>"), "as piece 2, where the text encoder expects <bos>"),
    ],
)
def test_a_tokenizer_of_another_vocabulary_is_refused(words: Words, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_tokenizer(Path("gemma"), words, Rows)


# --- the other files of a model ----------------------------------------------------------------------

FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "pointer": (lambda p: p.write_bytes(LFS), "Git LFS pointer"),
    "page": (lambda p: p.write_bytes(PAGE), "web page"),
    "pickle": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(40)), "PyTorch pickle"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "incomplete or damaged"),
    "folder": (lambda p: (p.unlink(), p.mkdir()), "lacks|is a folder"),
    "dead link": (lambda p: (p.unlink(), p.symlink_to("blobs/1")), "lacks"),
    "link in a ring": (lambda p: (p.unlink(), p.symlink_to(p.name)), "lacks"),
}


@pytest.mark.parametrize("name", ["transformer", "video_vae", "audio_vae"])
@pytest.mark.parametrize("case", FILES)
def test_a_damaged_file_of_a_model_is_refused_when_it_is_opened(model: Path, case: str, name: str) -> None:
    damage, sentence = FILES[case]
    damage(model / f"{name}.safetensors")
    with pytest.raises(SoundstageError, match=sentence) as caught:
        find_model(model)
    assert f"{name}.safetensors" in str(caught.value) or case in ("folder", "dead link", "link in a ring")


@pytest.mark.parametrize(("file", "part"), [("video_vae", "video_vae"), ("audio_vae", "vocoder")])
def test_a_codec_that_does_not_fit_is_found_before_the_transformer_is_read(
    model: Path, file: str, part: str
) -> None:
    path = model / f"{file}.safetensors"
    metadata, tensors = read_header(path).metadata, load_file(path)
    lost = next(name for name in sorted(tensors) if name.startswith(part.removeprefix("video_")))
    save_file({name: value for name, value in tensors.items() if name != lost}, path, metadata)
    parts = ModelParts(find_model(model), torch.device("cpu"), torch.float32)
    with pytest.raises(WeightsError, match=f"{path.name} does not fit the {part}: 1 missing"):
        parts.load(("video", "audio"))
    assert "transformer" not in parts.__dict__


def test_a_quantized_transformer_in_a_folder_is_the_reason_given(model: Path) -> None:
    """Nobody named the file, so it is passed over; but it is why there is no transformer."""
    (model / "transformer.safetensors").unlink()
    layer = "model.diffusion_model.transformer_blocks.0.attn1.to_q"
    save_file(
        {f"{layer}.weight._data": BYTE, f"{layer}.weight._scale": ONE}, model / "ltx_quanto.safetensors"
    )
    with pytest.raises(
        WeightsError, match=r"holds no transformer.*ltx_quanto.safetensors is quantized with quanto"
    ):
        find_model(model)


def test_verify_says_what_is_no_weights_file(tmp_path: Path) -> None:
    library = Library(tmp_path / "models.json")
    (tmp_path / "model.ckpt").write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "link.safetensors").symlink_to("gone")
    (tmp_path / "empty").mkdir()
    verdicts = verify([tmp_path / "model.ckpt", tmp_path / "link.safetensors"], library)
    pickle, link = (str(verdict.problem) for verdict in verdicts)
    assert "is a PyTorch pickle" in pickle
    assert "is a link to gone, which is not there" in link
    with pytest.raises(WeightsError, match=r"empty holds no \.safetensors or \.gguf file"):
        list(verify([tmp_path / "empty"], library))


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a\0b", "~nobody/x", "\udce9", "no such", "", "/dev/null", "a\nb"]
)
def test_names_that_are_no_model_are_one_sentence(name: str) -> None:
    with pytest.raises(SoundstageError):
        find_model(name)
    with pytest.raises(SoundstageError):
        identify(name or "nothing")
