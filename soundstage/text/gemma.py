"""Gemma 3 as a frozen reader of prompts: token ids in, the hidden states of all layers out.

The language model is transformers' own; it is built, checked and filled as every other part is, so a file
that does not fit is named key by key. Nothing but the language model is read of files that also hold a vision
tower, and each weight is read once, into its place.

Source: docs/model/text.md, "Tokens" and "Hidden states"; held by tests/parity/test_text_encoder.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.text.source import check_tokenizer, open_gemma
from soundstage.weights.dtypes import check_dtypes
from soundstage.weights.layouts import PartTensors
from soundstage.weights.load import assign, check_fit


class Gemma:
    """A tokenizer and a Gemma3TextModel. num_tokens: length of a prompt's context, and its limit."""

    def __init__(self, model: nn.Module, tokenizer: Any, num_tokens: int) -> None:
        """tokenizer: a tokenizers.Tokenizer; its padding and truncation are switched off."""
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.model, self.tokenizer, self.num_tokens = model, tokenizer, num_tokens
        config: Any = model.config
        self.width: int = config.hidden_size
        self.num_states: int = config.num_hidden_layers + 1
        self._bos, self._pad = config.bos_token_id, config.pad_token_id

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        num_tokens: int,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> Gemma:
        """Read Gemma 3 from any of the forms in source.py, with or without its vision tower.

        Every weight is turned into dtype. Raises ConfigError if it is another model, WeightsError if a file
        is missing or does not fit.
        """
        gemma, tensors = cls.open(path, num_tokens=num_tokens)
        model, device = gemma.model, torch.device(device)
        assign(model, tensors, dtype, device)
        model.to(device).requires_grad_(False)
        return gemma

    @classmethod
    def open(cls, path: Path, *, num_tokens: int) -> tuple[Gemma, PartTensors]:
        """Gemma with its weights on the meta device, and where they are, known to fit; reads none of them.

        Raises ConfigError and WeightsError as `load` does.
        """
        source = open_gemma(path)
        check_dtypes(source.tensors)
        model = _build(source.config)
        check_fit(model, source.tensors, "text encoder")
        tokenizer = source.read_tokenizer()
        check_tokenizer(path, tokenizer, source.config)
        return cls(model.requires_grad_(False).eval(), tokenizer, num_tokens), source.tensors

    def tokenize(self, prompt: str) -> list[int]:
        """Ids with one BOS first and no EOS; what is past num_tokens is cut off, with a warning."""
        ids: list[int] = self.tokenizer.encode(prompt.strip()).ids
        if ids[:1] != [self._bos]:
            ids = [self._bos, *ids]
        if len(ids) > self.num_tokens:
            warnings.warn(
                f"the prompt has {len(ids)} tokens; what follows the first {self.num_tokens} is ignored",
                stacklevel=2,
            )
        return ids[: self.num_tokens]

    def hidden_states(self, prompts: Sequence[str], *, pad: bool = True) -> tuple[Tensor, Tensor]:
        """States (B, S, width, num_states) and mask (B, S) bool, True for tokens, which come first.

        The states are the scaled embedding, the stream after each layer but the last, and the final norm's
        output. S is num_tokens, or the longest prompt's length if not pad; states of padding are zero. They
        are those of a batch padded on the left to num_tokens, moved to the front.
        """
        rows = [self.tokenize(prompt) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [self._pad] * (longest - len(row)) for row in rows], device=self.device)
        return self.states_of(ids, lengths, pad=pad)

    def states_of(self, ids: Tensor, lengths: Tensor, *, pad: bool = True) -> tuple[Tensor, Tensor]:
        """Return what `hidden_states` does for token ids (B, n), of which the first `lengths` (B,) count.

        Without `pad`, S is n.
        """
        # Attention is causal and padding comes last, so no token can see it and no mask is needed. Positions
        # are those of left padding, since the rotary tables are rounded to the model's dtype.
        count, longest = ids.shape
        positions = torch.arange(longest, device=self.device) + (self.num_tokens - lengths)[:, None]
        length = self.num_tokens if pad else longest
        mask = torch.arange(length, device=self.device) < lengths[:, None]
        states = torch.zeros(
            (count, length, self.width, self.num_states), dtype=self.dtype, device=self.device
        )
        with torch.no_grad(), _gathered(self.model, states[:, :longest]):
            self.model(input_ids=ids, position_ids=positions, use_cache=False)
        return states.masked_fill_(~mask[:, :, None, None], 0), mask

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_parameter("norm.weight").dtype

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


@contextmanager
def _gathered(model: nn.Module, states: Tensor) -> Iterator[None]:
    """Have a forward pass write each state where it belongs, so that none of them exists twice.

    states: (B, S, width, num_states), whose storage is all that outlives a layer. Asking transformers for
    its hidden states keeps every one of them, and stacking them makes the second copy.
    """

    def keep(index: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            states[..., index].copy_(output)

        return hook

    modules: Any = model
    sources = [modules.embed_tokens, *modules.layers[:-1], modules.norm]
    handles = [source.register_forward_hook(keep(index)) for index, source in enumerate(sources)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _build(config: Any) -> nn.Module:
    """Build a Gemma3TextModel without weights. Its buffers, which no file stores, are computed here."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding, Gemma3TextModel

    with torch.device("meta"):
        model = Gemma3TextModel(config)
    model.rotary_emb = Gemma3RotaryEmbedding(config)
    model.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5)
    return model  # type: ignore[no-any-return]
