"""Gemma 3 as a frozen reader of prompts: token ids in, the hidden states of all layers out.

The language model is transformers' own; it is built, checked and filled as every other part is, so a file
that does not fit is named key by key. Nothing but the language model is read of a folder that also holds a
vision tower. Tokens come from tokenizer.json alone.

Source: spec of the LTX-2.3 text side, sections 1 to 3; held by tests/parity/test_text_encoder.py.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.errors import ConfigError, WeightsError
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_gemma
from soundstage.weights.load import assign, check_dtypes, check_fit

TEXT_MODEL = "gemma3_text"
WITH_VISION = "gemma3"


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
        folder: Path,
        *,
        num_tokens: int,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> Gemma:
        """Read a Hugging Face folder of Gemma 3, with or without its vision tower.

        Raises ConfigError if it is another model, WeightsError if a file is missing or does not fit.
        """
        config = _text_config(folder)
        tensors = find_gemma([read_header(path) for path in _weights_files(folder)])
        check_dtypes(tensors)
        model = _build(config)
        check_fit(model, tensors, "text encoder")
        assign(model, tensors, dtype, torch.device(device))
        model = model.to(device).requires_grad_(False).eval()
        return cls(model, _tokenizer(folder / "tokenizer.json"), num_tokens)

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
        output. S is num_tokens, or the longest prompt's length if not pad; states of padding are zero.
        """
        rows = [self.tokenize(prompt) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        longest = max(len(row) for row in rows)
        ids = torch.full((len(rows), longest), self._pad, device=self.device)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens, device=self.device)
        # Attention is causal and padding comes last, so no token can see it and no mask is needed.
        with torch.no_grad():
            output = self.model(input_ids=ids, output_hidden_states=True, use_cache=False)
        length = self.num_tokens if pad else longest
        mask = torch.arange(length, device=self.device) < lengths[:, None]
        states = torch.stack(output.hidden_states, dim=-1)
        states = nn.functional.pad(states, (0, 0, 0, 0, 0, length - longest))
        return states.masked_fill(~mask[:, :, None, None], 0), mask

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def _text_config(folder: Path) -> Any:
    """Gemma3TextConfig of a folder's config.json."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
        kind = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not the config of a model ({error}); get the Gemma 3 folder") from error
    if kind not in (TEXT_MODEL, WITH_VISION):
        raise ConfigError(f"{path} describes a model of type '{kind}'; the text encoder is Gemma 3")
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(**(config["text_config"] if kind == WITH_VISION else config))


def _weights_files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder} has no .safetensors file; get the Gemma 3 folder with its weights")
    return paths


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise WeightsError(f"there is no file {path}; get the Gemma 3 folder with its tokenizer")
    return Tokenizer.from_file(str(path))


def _build(config: Any) -> nn.Module:
    """A Gemma3TextModel without weights. Its buffers, which no file stores, are computed here."""
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding, Gemma3TextModel

    with torch.device("meta"):
        model = Gemma3TextModel(config)
    model.rotary_emb = Gemma3RotaryEmbedding(config)
    model.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5)
    return model  # type: ignore[no-any-return]
