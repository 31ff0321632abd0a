"""Gemma 3 as a writer: the text encoder's own weights, in any form they are read in, with their tied head.

The encoder reads prompts without a chat template; a writer is asked with it. Source: docs/model/text.md,
"Gemma 3".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage.errors import ConfigError
from soundstage.memory.machine import pick_device
from soundstage.text.source import open_gemma
from soundstage.writing.asked import Question

if TYPE_CHECKING:
    from soundstage.text.gemma import Gemma

TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"
LONGEST = 4096  # tokens of a question


def can_write(path: Path) -> bool:
    """Return whether a text encoder's tokenizer has the turns of a conversation, which a reader alone lacks.

    Reads headers and the tokenizer. Raises ConfigError or WeightsError for what is no Gemma 3.
    """
    return open_gemma(path).read_tokenizer().token_to_id(TURN) is not None


class GemmaWriter:
    """The text encoder of a model, as a writer. It sees no pictures: only its language model is read."""

    sees = False

    def __init__(self, path: Path, device: str = "auto", dtype: str = "bfloat16") -> None:
        """Load the weights. Raises ConfigError for an encoder that cannot write, and WeightsError."""
        import torch

        from soundstage.text.gemma import Gemma

        self.path = path
        self._gemma = Gemma.load(
            path, num_tokens=LONGEST, dtype=getattr(torch, dtype), device=pick_device(device)
        )
        if self._gemma.tokenizer.token_to_id(TURN) is None:
            raise ConfigError(f"{path} only reads prompts, and writes none; give Gemma 3 12B, or another way")
        self._model = _with_head(self._gemma)

    def write(self, question: Question) -> str:
        """Return the answer. Raises ConfigError for one without words."""
        import torch
        from transformers import GenerationConfig

        ids = torch.tensor([self._ids(question)], device=self._gemma.device)
        stops = [self._model.config.eos_token_id, self._gemma.tokenizer.token_to_id(END_OF_TURN)]
        drawn = {"temperature": question.temperature, "top_k": 50} if question.temperature else {}
        settings = GenerationConfig(
            max_new_tokens=question.max_tokens,
            do_sample=bool(question.temperature),
            eos_token_id=[stop for stop in stops if stop is not None],
            pad_token_id=self._model.config.pad_token_id,
            **drawn,
        )
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(question.seed)
            made = self._model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        text: str = self._gemma.tokenizer.decode(made[0, ids.shape[1] :].tolist(), skip_special_tokens=True)
        if not text.strip():
            raise ConfigError(f"{self.path} wrote an empty answer; try again with another seed")
        return text

    def _ids(self, question: Question) -> list[int]:
        """Return the tokens of a question as a turn of a user, and the beginning of the model's."""
        tokenizer: Any = self._gemma.tokenizer

        def piece(name: str) -> list[int]:
            found = tokenizer.token_to_id(name)
            return [] if found is None else [found]

        def words(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)

        system = f"{question.system.strip()}\n\n" if question.system else ""
        asked = words(f"user\n{system}{question.text.strip()}")
        turn = piece(TURN)
        return [
            self._model.config.bos_token_id,
            *(*turn, *asked, *piece(END_OF_TURN), *words("\n")),
            *(*turn, *words("model\n")),
        ]


def _with_head(gemma: Gemma) -> Any:
    """Return the language model with its output layer, which is its embedding."""
    import torch
    from transformers import Gemma3ForCausalLM

    model: Any = gemma.model
    with torch.device("meta"):
        whole: Any = Gemma3ForCausalLM(model.config)
    whole.model = model
    whole.lm_head.weight = model.embed_tokens.weight
    return whole.eval()
