"""Prompts become contexts as the reference makes them, from files, in any company."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from soundstage.errors import ConfigError, WeightsError
from soundstage.model.config import ConnectorConfig, TextProjectionConfig
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.text.encoder import TextEncoder
from soundstage.text.gemma import Gemma

WIDTH, LAYERS, LENGTH = 24, 7, 32
PROMPTS = [
    "a red ball bounces",
    "",
    "on the left a cube rolls while a star falls on the right and the camera pans",
]
WORDS = sorted({word for prompt in PROMPTS for word in prompt.split()})


def word_tokenizer(*, adds_bos: bool = True) -> Tokenizer:
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}
    vocabulary |= {word: 4 + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 2)]
        )
    return tokenizer


@pytest.fixture(scope="module")
def reference() -> Gemma3ForCausalLM:
    """A random Gemma 3 with every trait of the real one: both kinds of layer, both rotary tables."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=40,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=6,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    )
    model = Gemma3ForCausalLM(config).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn_like(param) * 0.3)
    return model


@pytest.fixture(scope="module")
def folder(reference: Gemma3ForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gemma")
    reference.save_pretrained(path)
    word_tokenizer().save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def gemma(folder: Path) -> Gemma:
    return Gemma.load(folder, num_tokens=LENGTH, dtype=torch.float32)


def text_encoder(gemma: Gemma) -> TextEncoder:
    torch.manual_seed(1)
    video = ConnectorConfig(num_layers=2, num_heads=2, head_dim=8, num_registers=16, max_position=4096.0)
    audio = ConnectorConfig(num_layers=2, num_heads=2, head_dim=4, num_registers=16, max_position=4096.0)
    projection = TextProjectionConfig(text_width=WIDTH, num_states=LAYERS + 1, video_width=16, audio_width=8)
    return TextEncoder(gemma, FeatureExtractor(projection), Connector(video), Connector(audio))


@torch.no_grad()
def reference_features(model: Gemma3ForCausalLM, linear: nn.Linear) -> list[Tensor]:
    """The slow and obvious way: all prompts left-padded to full length with a mask, token by token."""
    rows = [[2, *(4 + WORDS.index(word) for word in prompt.split())] for prompt in PROMPTS]
    ids = torch.tensor([[0] * (LENGTH - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (LENGTH - len(row)) + [1] * len(row) for row in rows])
    layers: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out: layers.append(out if isinstance(out, Tensor) else out[0])
        )
        for layer in model.model.layers
    ]
    final = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    for hook in hooks:
        hook.remove()
    embedded = model.model.embed_tokens.weight[ids] * WIDTH**0.5
    states = [embedded, *layers[:-1], final]
    features = []
    for i, row in enumerate(rows):
        tokens = []
        for t in range(LENGTH - len(row), LENGTH):
            normed = [s[i, t] / (s[i, t].square().mean() + 1e-6).sqrt() for s in states]
            flat = torch.tensor([float(layer[d]) for d in range(WIDTH) for layer in normed])
            tokens.append(linear(flat * (linear.out_features / WIDTH) ** 0.5))
        features.append(torch.stack(tokens))
    return features


def test_features_are_those_of_a_left_padded_batch(reference: Gemma3ForCausalLM, gemma: Gemma) -> None:
    encoder = text_encoder(gemma)
    with torch.no_grad():
        found = encoder.encode_features(PROMPTS)
    assert found.mask.sum(dim=1).tolist() == [5, 1, 18]
    for ours, linear in (
        (found.video, encoder.projection.video_aggregate_embed),
        (found.audio, encoder.projection.audio_aggregate_embed),
    ):
        assert ours.shape[:2] == (3, LENGTH)
        for row, mask, wanted in zip(ours, found.mask, reference_features(reference, linear), strict=True):
            torch.testing.assert_close(row[mask], wanted, atol=2e-5, rtol=1e-4)


def test_first_and_last_state_are_the_embedding_and_the_final_norm(
    reference: Gemma3ForCausalLM, gemma: Gemma
) -> None:
    states, mask = gemma.hidden_states(PROMPTS[:1])
    assert states.shape == (1, LENGTH, WIDTH, LAYERS + 1)
    assert mask[0].tolist() == [True] * 5 + [False] * (LENGTH - 5)
    assert not states[0, 5:].any()
    ids = torch.tensor([gemma.tokenize(PROMPTS[0])])
    with torch.no_grad():
        final = reference.model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(states[0, :5, :, 0], reference.model.embed_tokens.weight[ids[0]] * WIDTH**0.5)
    torch.testing.assert_close(states[0, :5, :, -1], final[0])


def test_company_does_not_change_a_context(gemma: Gemma) -> None:
    encoder = text_encoder(gemma)
    together = encoder.encode(PROMPTS)
    assert together.video.shape == (3, LENGTH, 16)
    assert together.audio.shape == (3, LENGTH, 8)
    with torch.no_grad():
        batched = encoder.connect(encoder.encode_features(PROMPTS))
    for i, prompt in enumerate(PROMPTS):
        alone = encoder.encode([prompt])
        assert torch.equal(together.video[i : i + 1], alone.video)
        assert torch.equal(together.audio[i : i + 1], alone.audio)
    torch.testing.assert_close(batched.video, together.video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batched.audio, together.audio, atol=1e-5, rtol=1e-5)


def test_training_gets_gradients_in_the_connectors_and_none_in_gemma(gemma: Gemma) -> None:
    encoder = text_encoder(gemma)
    encoder.connect(encoder.encode_features(PROMPTS)).video.square().mean().backward()
    assert encoder.projection.video_aggregate_embed.weight.grad is not None
    assert encoder.video_connector.learnable_registers.grad is not None
    assert all(p.grad is None for p in gemma.model.parameters())


def test_tokens_are_stripped_begun_with_bos_and_not_ended(gemma: Gemma) -> None:
    plain = Gemma(gemma.model, word_tokenizer(adds_bos=False), LENGTH)
    wanted = [2, *(4 + WORDS.index(word) for word in PROMPTS[0].split())]
    assert gemma.tokenize(f" {PROMPTS[0]}\n") == plain.tokenize(PROMPTS[0]) == wanted
    assert gemma.tokenize("") == gemma.tokenize("  ") == [2]


def test_a_prompt_that_is_too_long_is_cut_at_its_end_with_a_warning(gemma: Gemma) -> None:
    with pytest.warns(UserWarning, match="has 41 tokens; what follows the first 32"):
        ids = gemma.tokenize("red ball " * 20)
    assert ids == gemma.tokenize("red ball " * 15 + "red")


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_files_with_a_vision_tower_read_the_same(
    folder: Path, gemma: Gemma, tmp_path: Path, prefix: str
) -> None:
    state = load_file(folder / "model.safetensors")
    renamed = {prefix + key.removeprefix("model."): value.clone() for key, value in state.items()}
    renamed |= {"vision_tower.vision_model.head": torch.zeros(2), "lm_head.weight": torch.zeros(2)}
    save_file(renamed, tmp_path / "model-00001-of-00001.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    other = Gemma.load(tmp_path, num_tokens=LENGTH, dtype=torch.float32)
    assert torch.equal(other.hidden_states(PROMPTS)[0], gemma.hidden_states(PROMPTS)[0])


def test_scaled_weights_are_multiplied_by_their_scale(folder: Path, gemma: Gemma, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    state[f"{name}_scale"] = torch.tensor(0.25)
    state[name] = state[name] * 4
    save_file(state, tmp_path / "model.safetensors")
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_text((folder / file).read_text())
    scaled = Gemma.load(tmp_path, num_tokens=LENGTH, dtype=torch.float32)
    assert torch.equal(scaled.hidden_states(PROMPTS)[0], gemma.hidden_states(PROMPTS)[0])


def test_in_bfloat16_the_states_stay_near(folder: Path, gemma: Gemma) -> None:
    half = Gemma.load(folder, num_tokens=LENGTH)
    states, _ = half.hidden_states(PROMPTS)
    assert states.dtype == torch.bfloat16
    exact = gemma.hidden_states(PROMPTS)[0]
    assert float((states.float() - exact).norm() / exact.norm()) < 0.05


def test_a_folder_that_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*config\.json"):
        Gemma.load(tmp_path, num_tokens=LENGTH)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match="'llama'"):
        Gemma.load(tmp_path, num_tokens=LENGTH)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"there is no file .*model\.safetensors"):
        Gemma.load(tmp_path, num_tokens=LENGTH)
    state = load_file(folder / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing: norm\.weight"):
        Gemma.load(tmp_path, num_tokens=LENGTH)
    save_file(state | {"unet.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"'unet\.weight', which Gemma 3 does not have"):
        Gemma.load(tmp_path, num_tokens=LENGTH)


def test_parts_of_different_models_are_refused(gemma: Gemma) -> None:
    parts = text_encoder(gemma)
    other = TextProjectionConfig(text_width=WIDTH, num_states=LAYERS, video_width=16, audio_width=8)
    with pytest.raises(ConfigError, match="8 states of width 24"):
        TextEncoder(gemma, FeatureExtractor(other), parts.video_connector, parts.audio_connector)
    odd = Gemma(gemma.model, gemma.tokenizer, 24)
    with pytest.raises(ConfigError, match="not a multiple"):
        TextEncoder(odd, parts.projection, parts.video_connector, parts.audio_connector)
