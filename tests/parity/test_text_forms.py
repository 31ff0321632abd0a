"""Gemma from every form people have it in; its states gathered without a second copy of any."""

from __future__ import annotations

import io
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding, Gemma3TextModel

from soundstage.errors import ConfigError, WeightsError
from soundstage.library.model_files import AUDIO_VAE, TEXT, TRANSFORMER, VIDEO_VAE, find_model
from soundstage.rendering.parts import ModelParts
from soundstage.text.gemma import Gemma
from soundstage.text.pieces import build_tokenizer, read_pieces
from soundstage.text.source import shaped_config
from soundstage.weights.entry import TensorEntry
from soundstage.weights.layouts import StoredTensor
from soundstage.weights.load import check_fit
from tests.tiny_model import TEXT_LAYERS, TEXT_WIDTH, write_tiny_model

WIDTH, LAYERS, LENGTH = 32, 8, 24
WORDS = ["the", "red", "blue", "ball", "cube", "rolls", "bounces", "left", "right", "while", "star", "falls"]
PROMPTS = ["the red ball bounces", "", "the star falls left while the blue cube rolls right"]


class LiveBytes(TorchDispatchMode):
    """Counts bytes of the storages that operations make, while they live. peak: the most at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._users: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {
            x.untyped_storage().data_ptr() for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)
        }
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor) and value.device.type == "cpu":
                self._watch(value, given)
        return result

    def _watch(self, value: Tensor, given: set[int]) -> None:
        storage = value.untyped_storage()
        where, size = storage.data_ptr(), storage.nbytes()
        if where not in self._users:
            if where in given:  # a view of something made before the count began
                return
            self._users[where] = 0
            self.live += size
            self.peak = max(self.peak, self.live)
        self._users[where] += 1
        weakref.finalize(value, self._drop, where, size)

    def _drop(self, where: int, size: int) -> None:
        self._users[where] -= 1
        if not self._users[where]:
            del self._users[where]
            self.live -= size


def word_tokenizer() -> Tokenizer:
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    vocabulary |= {word: 4 + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def random_gemma(**sizes: int) -> Gemma3ForCausalLM:
    """A random Gemma 3 with every trait of the real one: both kinds of layer, both rotary tables."""
    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "vocab_size": 4 + len(WORDS),
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 1024,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        },
    }
    model = Gemma3ForCausalLM(Gemma3TextConfig(**fields | sizes)).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn_like(param) * 0.3)
    return model


def half(model: Gemma3ForCausalLM) -> Gemma3ForCausalLM:
    """In bfloat16 as transformers loads it: the rotary frequencies stay in float32."""
    model = model.to(torch.bfloat16)
    model.model.rotary_emb = Gemma3RotaryEmbedding(model.config)
    return model


@pytest.fixture(scope="module")
def reference() -> Gemma3ForCausalLM:
    return random_gemma()


def engine(model: Gemma3ForCausalLM, num_tokens: int = LENGTH) -> Gemma:
    return Gemma(model.model, word_tokenizer(), num_tokens)


@torch.no_grad()
def reference_states(model: Gemma3ForCausalLM, gemma: Gemma, side: str) -> list[Tensor]:
    """transformers' own output_hidden_states of a padded batch; each prompt's tokens (n, width, L + 1)."""
    rows = [gemma.tokenize(prompt) for prompt in PROMPTS]
    ids = torch.zeros(len(rows), gemma.num_tokens, dtype=torch.long)
    mask = torch.zeros_like(ids)
    places = [
        slice(len(row)) if side == "right" else slice(gemma.num_tokens - len(row), None) for row in rows
    ]
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        ids[i, place], mask[i, place] = torch.tensor(row), 1
    output = model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    stack = torch.stack(output.hidden_states, dim=-1)
    return [stack[i, place] for i, place in enumerate(places)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_states_are_those_that_transformers_hands_out(reference: Gemma3ForCausalLM, side: str) -> None:
    gemma = engine(reference)
    states, mask = gemma.hidden_states(PROMPTS)
    assert states.shape == (3, LENGTH, WIDTH, LAYERS + 1)
    for ours, valid, wanted in zip(states, mask, reference_states(reference, gemma, side), strict=True):
        torch.testing.assert_close(ours[valid], wanted, atol=2e-5, rtol=1e-4)
        assert not ours[~valid].any()


def test_in_bfloat16_positions_of_left_padding_come_nearest_to_the_reference() -> None:
    """Why tokens do not start at position 0: the tables that turn queries and keys are rounded there."""
    model = half(random_gemma())
    gemma = engine(model, num_tokens=512)
    wanted = reference_states(model, gemma, "left")
    from_zero = reference_states(model, gemma, "right")
    states, mask = gemma.hidden_states(PROMPTS)

    def distance(found: list[Tensor]) -> float:
        return sum(float((a - b).float().norm()) for a, b in zip(found, wanted, strict=True))

    ours = distance([row[valid] for row, valid in zip(states, mask, strict=True)])
    assert ours < 0.75 * distance(from_zero)  # 0.57 of it when this was written


def test_no_state_exists_twice() -> None:
    """At any time: the stack, and what one layer needs. transformers' own way holds every state two times."""
    model = random_gemma(num_hidden_layers=24, hidden_size=64)
    gemma = engine(model, num_tokens=256)
    prompt = " ".join(WORDS * 19)
    with LiveBytes() as ours:
        states, _ = gemma.hidden_states([prompt], pad=False)
    ids = torch.tensor([gemma.tokenize(prompt)])
    with torch.no_grad(), LiveBytes() as theirs:
        output = model.model(input_ids=ids, output_hidden_states=True, use_cache=False)
        stacked = torch.stack(output.hidden_states, dim=-1)
    assert stacked.shape == states.shape
    one_state = states.nbytes // gemma.num_states
    assert states.nbytes <= ours.peak < states.nbytes + 10 * one_state
    assert theirs.peak >= 2 * states.nbytes


# --- tokenizers -------------------------------------------------------------------------------------

CORPUS = [
    "a red ball bounces on the wooden floor",
    "the blue cube rolls left, while a star falls at 25 fps",
    "rain  falls on a tin roof (2024)!",
    "den r\u00f6da bollen studsar",
    "camera pans right; the door opens slowly",
]
OWN_PIECES = ["<start_of_turn>", "\n", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581", "<b>"]


@cache
def spiece(**changes: Any) -> bytes:
    """A SentencePiece model made the way Gemma's is, of a few hundred pieces."""
    out = io.BytesIO()
    options: dict[str, Any] = {
        "vocab_size": 480,
        "model_type": "bpe",
        "byte_fallback": True,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": OWN_PIECES,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 50), model_writer=out, **options, **ids, **changes
    )
    return out.getvalue()


@cache
def tokenizers() -> tuple[Any, Any]:
    """sentencepiece's own, and ours."""
    return (
        sentencepiece.SentencePieceProcessor(model_proto=spiece()),
        build_tokenizer(read_pieces(spiece())),
    )


SNIPPETS = ["a red ball", " ", "  ", "     ", "\n", "\n\n\n", "\u00f6", "\u65e5\u672c", "\U0001f3ac", "<b>"]
SNIPPETS += ["<start_of_turn>", "25", "camera", "zzqx", "\t", "-", "the ", " the", "\u2581"]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(SNIPPETS), max_size=8).map("".join) | st.text(max_size=30))
def test_pieces_split_text_as_sentencepiece_does(text: str) -> None:
    if "\0" in text:  # ends the text for sentencepiece
        return
    theirs, ours = tokenizers()
    ids = ours.encode(text).ids
    assert ids == theirs.encode(text)
    assert ours.decode(ids, skip_special_tokens=False) == text.replace("\u2581", " ")


def test_a_tokenizer_unlike_gemmas_is_refused() -> None:
    with pytest.raises(WeightsError, match="not a SentencePiece model"):
        read_pieces(spiece()[:-3])
    with pytest.raises(WeightsError, match=r"has no pieces|not a SentencePiece"):
        read_pieces(b"")
    with pytest.raises(ConfigError, match="changes text before"):
        read_pieces(spiece(treat_whitespace_as_suffix=False, escape_whitespaces=True) + b"\x1a\x02\x18\x01")


# --- forms ------------------------------------------------------------------------------------------

FORM_PROMPTS = ["a red ball bounces", "", "the camera  pans right; r\u00f6d (25)\n\U0001f3ac"]


@pytest.fixture(scope="module")
def model() -> Gemma3ForCausalLM:
    sizes = {"hidden_size": 64, "intermediate_size": 128}  # multiples of the blocks of every quantization
    return half(random_gemma(vocab_size=len(read_pieces(spiece())) + 8, **sizes))


@pytest.fixture(scope="module")
def wanted(model: Gemma3ForCausalLM) -> Tensor:
    gemma = Gemma(model.model, build_tokenizer(read_pieces(spiece())), 64)
    return gemma.hidden_states(FORM_PROMPTS)[0]


def text_state(model: Gemma3ForCausalLM, prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value.clone() for key, value in model.model.state_dict().items()}


def vision() -> dict[str, Tensor]:
    """What a reader of prompts leaves alone."""
    return {
        "vision_tower.vision_model.encoder.layers.0.layer_norm1.weight": torch.zeros(3),
        "multi_modal_projector.mm_input_projection_weight": torch.zeros(3),
    }


def write_folder(model: Gemma3ForCausalLM, folder: Path) -> Path:
    """Hugging Face's: shards, the vision half, a config in two levels, tokenizer.json."""
    folder.mkdir(parents=True)
    state = text_state(model, "language_model.model.") | vision()
    names = sorted(state)
    for number in range(3):
        shard = {name: state[name] for name in names[number::3]}
        save_file(shard, folder / f"model-{number + 1:05d}-of-00003.safetensors")
    text_config = json.loads(model.config.to_json_string(use_diff=False))
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text_config}))
    build_tokenizer(read_pieces(spiece())).save(str(folder / "tokenizer.json"))
    return folder


def write_diffusers(model: Gemma3ForCausalLM, folder: Path) -> Path:
    """The tokenizer has a folder of its own, and may be the one of SentencePiece alone."""
    written = write_folder(model, folder / "text_encoder")
    (written / "tokenizer.json").unlink()
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.model").write_bytes(spiece())
    return written


def write_single(model: Gemma3ForCausalLM, path: Path, *, fp8: bool = False, scales: bool = True) -> Path:
    """ComfyUI's one file: flat names, the tokenizer's bytes, fp8 weights with a scale each."""
    state = text_state(model, "model.")
    state |= {"vision_model.embeddings.weight": torch.zeros(3), "multi_modal_projector.x": torch.zeros(3)}
    state["spiece_model"] = torch.frombuffer(bytearray(spiece()), dtype=torch.uint8)
    for key in [key for key in state if fp8 and key.endswith("_proj.weight")]:
        name, weight = key.removesuffix(".weight"), state[key].float()
        scale = weight.abs().amax() / 448 if scales else torch.tensor(1.0)
        state[key] = (weight / scale).to(torch.float8_e4m3fn)
        if scales:
            state[f"{name}.weight_scale"] = scale
            state[f"{name}.comfy_quant"] = torch.zeros(4, dtype=torch.uint8)
    save_file(state, path)
    return path


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write_gguf(model: Gemma3ForCausalLM, path: Path, *, packed: bool = False) -> Path:
    """llama.cpp's names and norms; values in F32, or in blocks of Q8_0."""
    writer = gguf.GGUFWriter(path, "gemma3")
    pieces = read_pieces(spiece())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.text for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.kind for piece in pieces])
    for key, value in model.model.state_dict().items():
        layer, _, module = key.removesuffix(".weight").removeprefix("layers.").partition(".")
        top = {"embed_tokens": "token_embd", "norm": "output_norm"}.get(layer)
        name = f"{top}.weight" if top else f"blk.{layer}.{GGUF_NAMES[module]}.weight"
        data = (value.float() + 1 if "norm" in key else value.float()).numpy()
        if packed and data.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def load(path: Path) -> Gemma:
    return Gemma.load(path, num_tokens=64)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("hf", write_folder),
        ("diffusers", write_diffusers),
        ("comfy.safetensors", write_single),
        ("g.gguf", write_gguf),
    ],
)
def test_every_form_gives_the_same_bits(
    model: Gemma3ForCausalLM,
    wanted: Tensor,
    tmp_path: Path,
    name: str,
    write: Callable[[Gemma3ForCausalLM, Path], Path],
) -> None:
    path = write(model, tmp_path / name)
    assert torch.equal(load(path).hidden_states(FORM_PROMPTS)[0], wanted)


def test_shapes_of_the_published_files_give_the_published_model() -> None:
    """Gemma 3 12B from names and shapes alone: its constants, and its number of parameters."""
    layer = {
        "self_attn.q_proj": (4096, 3840),
        "self_attn.k_proj": (2048, 3840),
        "self_attn.v_proj": (2048, 3840),
        "self_attn.o_proj": (3840, 4096),
        "self_attn.q_norm": (256,),
        "self_attn.k_norm": (256,),
        "mlp.gate_proj": (15360, 3840),
        "mlp.up_proj": (15360, 3840),
        "mlp.down_proj": (3840, 15360),
        "input_layernorm": (3840,),
        "post_attention_layernorm": (3840,),
        "pre_feedforward_layernorm": (3840,),
        "post_feedforward_layernorm": (3840,),
    }
    shapes = {f"layers.{i}.{name}.weight": shape for i in range(48) for name, shape in layer.items()}
    shapes |= {"embed_tokens.weight": (262208, 3840), "norm.weight": (3840,)}
    path = Path("gemma_3_12B_it.safetensors")
    tensors = {key: StoredTensor(path, key, TensorEntry("BF16", shape)) for key, shape in shapes.items()}
    assert sum(tensor.entry.num_params for tensor in tensors.values()) == 11_766_034_176
    config = shaped_config(path, tensors)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (16, 8, 256)
    assert config.query_pre_attn_scalar**-0.5 == 1 / 16
    assert [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"] == list(
        range(5, 48, 6)
    )
    assert config.rope_parameters["full_attention"]["factor"] == 8.0
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 10_000.0
    with torch.device("meta"):
        check_fit(Gemma3TextModel(config), tensors, "text encoder")


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize("scales", [True, False])
def test_fp8_weights_are_near(model: Gemma3ForCausalLM, wanted: Tensor, tmp_path: Path, scales: bool) -> None:
    path = write_single(model, tmp_path / "fp8.safetensors", fp8=True, scales=scales)
    assert 0 < distance(load(path).hidden_states(FORM_PROMPTS)[0], wanted) < 0.5


def test_gguf_blocks_are_near(model: Gemma3ForCausalLM, wanted: Tensor, tmp_path: Path) -> None:
    states = load(write_gguf(model, tmp_path / "q8.gguf", packed=True)).hidden_states(FORM_PROMPTS)[0]
    assert 0 < distance(states, wanted) < 0.2


def test_loading_holds_the_weights_and_little_more(tmp_path: Path) -> None:
    """At most one full-precision weight beside what stays: fp8 becomes bf16 a few rows at a time."""
    big = random_gemma(vocab_size=len(read_pieces(spiece())), hidden_size=256, intermediate_size=512)
    path = write_single(half(big), tmp_path / "fp8.safetensors", fp8=True)
    with LiveBytes() as bytes_alive:
        gemma = load(path)
    weights = sum(param.nbytes for param in gemma.model.parameters())
    layer = sum(param.nbytes for param in gemma.model.get_submodule("layers.0").parameters())
    assert weights <= bytes_alive.peak < weights + layer


def test_what_a_form_lacks_is_named(model: Gemma3ForCausalLM, tmp_path: Path) -> None:
    bare = text_state(model, "model.")
    save_file(bare, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match=r"carries no tokenizer \('spiece_model'\)"):
        load(tmp_path / "bare.safetensors")
    del bare["model.layers.0.self_attn.q_norm.weight"]
    save_file(bare, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match=r"has no 'layers\.0\.self_attn\.q_norm\.weight'"):
        load(tmp_path / "bare.safetensors")
    shards = write_folder(model, tmp_path / "hf")
    (shards / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match="model-00002-of-00003"):
        load(shards)
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="a model of type 'llama'"):
        load(tmp_path / "llama.gguf")


def test_a_model_runs_with_gemma_from_one_file(tmp_path: Path) -> None:
    """Named files, as people have them for ComfyUI, against the same Gemma as a folder in the model's own."""
    folder = write_tiny_model(tmp_path / "tiny")
    small = random_gemma(
        vocab_size=len(read_pieces(spiece())), hidden_size=TEXT_WIDTH, num_hidden_layers=TEXT_LAYERS
    )
    single = write_single(small, tmp_path / "gemma_3_12B_it.safetensors")
    shutil.rmtree(folder / TEXT)
    write_folder(small, folder / TEXT)
    files = [folder / name for name in (TRANSFORMER, VIDEO_VAE, AUDIO_VAE)]
    contexts = []
    for model in (find_model([*files, single]), find_model(folder)):
        defaults = find_model(folder).defaults
        parts = ModelParts(replace(model, defaults=defaults), torch.device("cpu"), torch.float32)
        contexts.append(parts.encode(FORM_PROMPTS[:1])[0])
    assert contexts[0].video is not None
    assert contexts[1].video is not None
    assert torch.equal(contexts[0].video, contexts[1].video)
