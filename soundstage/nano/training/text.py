"""Train nano's text encoder: a small Gemma 3 and its tokenizer, on captions alone.

It learns to predict captions, and, half of the time, another wording of a scene after a first one. The
second can only be predicted from the meaning of the first, so synonyms and orders of clauses end up close to
each other. The transformer reads all layers of it, frozen.

transformers and tokenizers take seconds to import, so they are imported where they are used: training
another part does without them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from soundstage.nano.training.runs import PartRun, TrainingScale
from soundstage.nano.world.captions import NEGATIVE, caption
from soundstage.nano.world.scene import BUCKETS, draw_scene
from soundstage.training.batches import Batch
from soundstage.training.optimizers import Schedule
from soundstage.training.precision import training_precision
from soundstage.types import VideoShape

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")  # ids 0 to 3, those of Gemma 3
PAD, EOS, BOS = 0, 1, 2
VOCABULARY = 1536  # at most; fewer where the captions have no more pairs to merge
TOKENIZER_CAPTIONS = 20_000
MAX_TOKENS = 128  # of nano's prompt context
ROW = 256  # tokens of a training row
ROWS: dict[TrainingScale, int] = {"tiny": 1, "cpu": 8, "cuda": 64}
PAIRED = 0.5  # share of documents with two wordings of one scene
FULL = 0.3  # share of captions that state everything
FRAMES = (25, 49, 73)
SCHEDULE = Schedule(minutes=20, rate=2e-3, warmup=60, average=0.99)


# --- tokenizer -------------------------------------------------------------------------------------


def train_tokenizer(num_captions: int = TOKENIZER_CAPTIONS) -> Any:
    """Return a `tokenizers.Tokenizer`: lower-casing BPE over bytes, so that no token is unknown."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_corpus(num_captions), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    return tokenizer


def _tokenizer_corpus(num_captions: int) -> Iterator[str]:
    rng = np.random.default_rng(5)
    yield from (NEGATIVE,) * 20
    for _ in range(num_captions):
        yield _captions(rng, 1)[0]


def stored_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a training folder, trained and written there the first time."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        train_tokenizer().save(str(part))
        os.replace(part, path)
    return Tokenizer.from_file(str(path))


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Any:
    return stored_tokenizer(folder)


# --- model -----------------------------------------------------------------------------------------


def text_config(vocab_size: int) -> Any:
    """Return nano's Gemma3TextConfig: every third layer attends to the whole prompt, others to 48 tokens."""
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(
        vocab_size=vocab_size,
        hidden_size=192,
        intermediate_size=448,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
        query_pre_attn_scalar=48,
        sliding_window=48,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        max_position_embeddings=1024,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        attn_implementation="sdpa",
    )


def build(vocab_size: int) -> nn.Module:
    """Return nano's Gemma3ForCausalLM with fresh weights; the output layer is the embedding's."""
    from transformers import Gemma3ForCausalLM

    torch.manual_seed(0)
    return Gemma3ForCausalLM(text_config(vocab_size))  # type: ignore[no-any-return]


# --- data ------------------------------------------------------------------------------------------


def _captions(rng: np.random.Generator, count: int, *, held_out: bool = False) -> list[str]:
    """Return `count` wordings of one scene."""
    width, height = list(BUCKETS.values())[int(rng.integers(len(BUCKETS)))]
    shape = VideoShape(FRAMES[int(rng.integers(len(FRAMES)))], height, width)
    scene = draw_scene(int(rng.integers(2**62)), shape, held_out=held_out)
    return [caption(scene, int(rng.integers(2**31)), full=bool(rng.random() < FULL)) for _ in range(count)]


def batch(step: int, tokenizer: Any, *, rows: int, held_out: bool = False) -> Tensor:
    """Return token ids (rows, ROW + 1) of documents one after another; a function of its arguments alone."""
    rng = np.random.default_rng([13, step, int(held_out)])
    newline = tokenizer.token_to_id("\u010a")  # byte-level spelling of a line feed
    ids = []
    for _ in range(rows):
        row: list[int] = []
        while len(row) <= ROW:
            wordings = _captions(rng, 2 if rng.random() < PAIRED else 1, held_out=held_out)
            encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in wordings]
            row += [BOS, *encoded[0], *(t for more in encoded[1:] for t in (newline, *more)), EOS]
        ids.append(row[: ROW + 1])
    return torch.tensor(ids)


@dataclass(frozen=True)
class TextMaker:
    """Make the rows of a step, as `Make`. folder: has the tokenizer."""

    folder: Path
    rows: int

    def __call__(self, number: int, progress: float) -> Batch:
        return Batch("text", {"ids": batch(number, _tokenizer(self.folder), rows=self.rows)}, self.rows)


def batches(run: PartRun, folder: Path) -> Iterator[Batch]:
    """Yield rows of captions for every step."""
    return run.batches(TextMaker(folder, ROWS[run.scale]))


class TextLoss:
    """The loss of a batch: cross-entropy of the next token."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        ids = batch["ids"]
        with training_precision(self.device):
            logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits
        return {"loss": cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())}


# --- export ----------------------------------------------------------------------------------------


def export(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Write a Hugging Face folder, whole or not at all: config, bfloat16 weights and tokenizer.

    model: what `build` made, trained; it is left in bfloat16. The folder of an earlier export is replaced.
    """
    from transformers import PreTrainedTokenizerFast

    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(part)  # type: ignore[operator]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=MAX_TOKENS,
    ).save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
