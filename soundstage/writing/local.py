"""A language model that sees pictures, in a folder that transformers reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from soundstage.errors import ConfigError
from soundstage.memory.machine import pick_device
from soundstage.writing.asked import Question


class LocalWriter:
    """A vision model in a folder, run by transformers."""

    sees = True

    def __init__(self, folder: Path, device: str = "auto") -> None:
        """Load the model. Raises ConfigError for a folder that holds none."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.folder = folder
        try:
            self._processor: Any = AutoProcessor.from_pretrained(str(folder), local_files_only=True)
            self._model: Any = AutoModelForImageTextToText.from_pretrained(
                str(folder), local_files_only=True, dtype="auto"
            )
        except Exception as error:  # the package raises whatever its parsing runs into
            told = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"{folder} is no vision model that transformers reads ({told}); get another"
            ) from error
        self._model = self._model.eval().to(pick_device(device))

    def write(self, question: Question) -> str:
        """Return the answer. Raises ConfigError for one without words."""
        import numpy as np
        import torch
        from PIL import Image

        pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in question.pictures]
        parts = [{"type": "image", "image": picture} for picture in pictures]
        asked = [{"role": "user", "content": [*parts, {"type": "text", "text": question.text}]}]
        if question.system:
            asked.insert(0, {"role": "system", "content": [{"type": "text", "text": question.system}]})
        given = self._processor.apply_chat_template(
            asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self._model.device)
        draws: dict[str, Any] = {"do_sample": False}
        if question.temperature:
            draws = {"do_sample": True, "temperature": question.temperature, "top_k": 50}
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(question.seed)
            made = self._model.generate(**given, max_new_tokens=question.max_tokens, **draws)
        new = made[:, given["input_ids"].shape[1] :]
        text: str = self._processor.batch_decode(new, skip_special_tokens=True)[0]
        if not text.strip():
            raise ConfigError(f"{self.folder} wrote an empty answer; try another prompt or model")
        return text
