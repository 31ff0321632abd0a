"""Nano's text encoder: its tokenizer takes any prompt, its data is reproducible, its export loads."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from transformers import PreTrainedTokenizerFast

from soundstage.cli.program import app
from soundstage.nano.evaluation.text import linear_probe, mean_states
from soundstage.nano.training.text import (
    BOS,
    EOS,
    MAX_TOKENS,
    ROW,
    SPECIAL_TOKENS,
    TextLoss,
    batch,
    build,
    export,
    train_tokenizer,
)
from soundstage.nano.world.captions import NEGATIVE, caption
from soundstage.nano.world.scene import draw_scene
from soundstage.text.gemma import Gemma
from soundstage.training.batches import Batch
from soundstage.types import VideoShape

SHAPE = VideoShape(73, 128, 192)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(num_captions=1500)


def test_special_tokens_have_the_ids_of_gemma(tokenizer: Any) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3]
    assert (BOS, EOS) == (2, 1)


def test_every_caption_comes_back_in_lower_case_and_fits(tokenizer: Any) -> None:
    longest = 0
    for seed in range(400):
        text = caption(draw_scene(seed, SHAPE, held_out=seed % 4 == 0), full=True)
        ids = tokenizer.encode(text).ids
        assert ids[0] == BOS
        assert not {0, 1, 3} & set(ids)
        assert tokenizer.decode(ids) == f" {text.lower()}"
        longest = max(longest, len(ids))
    assert longest <= MAX_TOKENS


@pytest.mark.parametrize(
    "text", [NEGATIVE, "Ein gr\u00fcner W\u00fcrfel f\u00e4llt", "\u7ea2\u7403 \U0001f534", "zq%\t{}", ""]
)
def test_no_prompt_has_an_unknown_token(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert 3 not in ids
    assert tokenizer.decode(ids).strip() == text.lower()


def test_words_of_the_world_are_single_tokens(tokenizer: Any) -> None:
    for word in ("red", "ball", "cube", "bounces", "left", "right", "three", "camera", "thud", "wooden"):
        assert len(tokenizer.encode(word, add_special_tokens=False).ids) == 1


def test_a_row_of_training_depends_on_its_step_alone(tokenizer: Any) -> None:
    first = batch(3, tokenizer, rows=2)
    assert torch.equal(first, batch(3, tokenizer, rows=2))
    assert not torch.equal(first, batch(4, tokenizer, rows=2))
    assert first.shape[1] == ROW + 1
    assert (first[:, 0] == BOS).all()
    newline = tokenizer.encode("\n", add_special_tokens=False).ids[-1]
    documents, pairs = int((first == EOS).sum()), int((first == newline).sum())
    assert 0.2 < pairs / documents < 0.9


def test_fresh_weights_know_nothing_and_learn_from_a_few_steps(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = build(tokenizer.get_vocab_size())
    loss_fn = TextLoss(model, torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(4):
        loss = loss_fn(Batch("text", {"ids": batch(step, tokenizer, rows=1)}, 1))["loss"]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(tokenizer.get_vocab_size()), abs=0.6)
    assert losses[-1] < losses[0] - 0.3


def test_an_export_loads_as_the_text_encoder_and_is_small(tokenizer: Any, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    model = build(tokenizer.get_vocab_size())
    for _ in range(2):  # the second replaces the first
        export(model, tokenizer, folder)
    assert not (tmp_path / "text.part").exists()
    assert (folder / "model.safetensors").stat().st_size < 5_000_000
    gemma = Gemma.load(folder, num_tokens=MAX_TOKENS)
    states, mask = gemma.hidden_states(["A red ball drops.", ""])
    assert states.shape == (2, MAX_TOKENS, gemma.width, gemma.num_states)
    assert mask.sum(dim=1).tolist() == [6, 1]
    means = mean_states(gemma, ["A red ball drops.", ""])
    alone = torch.cat([mean_states(gemma, [text]) for text in ("A red ball drops.", "")])
    torch.testing.assert_close(means, alone, atol=0.05, rtol=0.05)
    fast = PreTrainedTokenizerFast.from_pretrained(folder)
    assert fast.padding_side == "left"
    assert fast("A red ball drops.").input_ids == gemma.tokenize("A red ball drops.")


def test_a_linear_probe_finds_what_is_there_and_guesses_what_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 12, generator=generator)
    assert linear_probe(features, features[:, :4].argmax(dim=1), 300) > 0.85
    assert linear_probe(features, torch.randint(4, (400,), generator=generator), 300) < 0.45


def test_the_command_line_measures_the_shipped_text_encoder() -> None:
    result = CliRunner().invoke(app, ["nano", "evaluate", "--text", "--prompts", "40", "--json"])
    assert result.exit_code == 0, result.stderr
    scores = json.loads(result.stdout)
    assert 1 < scores["perplexity, seen combinations"] < 5
    assert scores["left action, all states"] > 0.7
    assert scores["nearest wording is the twin"] > 0.4
