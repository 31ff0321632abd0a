"""Captions by a model: any OpenAI-compatible server, or a vision model on this machine through transformers.

The model sees a few frames of each clip. A caption is kept as soon as it is there, in captions.jsonl, so an
interrupted run goes on; openings that say nothing are cut off. A model hears nothing here: what a clip sounds
like is to be added by hand, or by a prompt that tells it.
"""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from soundstage.dataset.config import CaptionMaking, Dataset
from soundstage.dataset.findings import DataFinding, ShowShare
from soundstage.dataset.items import DataItem
from soundstage.dataset.kept import read_captions, write_captions
from soundstage.dataset.scanning import Scan
from soundstage.errors import DatasetError, MissingExtraError, RequestError, shown
from soundstage.media.arrays import Pixels
from soundstage.media.load import frames_shown
from soundstage.prompts.openings import without_boilerplate

SEEN_PIXELS = 768  # of a frame's longer side at most
AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))  # statuses of calls to make again
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


class Captioner(Protocol):
    """Writes the caption of a clip from frames of it."""

    def caption(self, frames: Sequence[Pixels]) -> str:
        """Return the text. Raises DatasetError where there is none."""


def captioner(making: CaptionMaking) -> Captioner:
    """Return the captioner of a config. Raises RequestError where it names none."""
    if making.url is not None:
        return ServedCaptioner(making)
    if making.model is None:
        raise RequestError(
            "no model is named that could write captions; give --url of an OpenAI-compatible server, or "
            "--model with the folder of a vision model",
            field="url",
        )
    return LocalCaptioner(making)


def write_all(
    dataset: Dataset,
    found: Scan,
    writer: Captioner,
    *,
    every: bool = False,
    report: ShowShare = lambda _: None,
) -> tuple[int, list[DataFinding]]:
    """Write the caption of every sample that has none, and return their number and what could not be done.

    every: write those of the others anew too; those that are kept from a model or by hand stay.
    """
    captions = read_captions(dataset.folder)
    wanted = [item for item in found.items if item.id not in captions and (every or not item.caption)]
    seen = [item for item in wanted if item.bucket is not None]
    findings = [
        DataFinding(
            "no picture", f"{item.id} is sound alone, which this model does not hear", item.id, "notice"
        )
        for item in wanted
        if item.bucket is None
    ]
    for number, item in enumerate(seen, 1):
        captions[item.id] = without_boilerplate(writer.caption(_frames(dataset, item)))
        write_captions(dataset.folder, captions)
        report(number / len(seen))
    return len(seen), findings


def _frames(dataset: Dataset, item: DataItem) -> list[Pixels]:
    """Return the frames that a model sees, evenly over the sample."""
    assert item.bucket is not None
    fps, count = dataset.config.fps, dataset.config.captions.frames
    last_s = (item.bucket[2] - 1) / fps
    times = [item.start_s + (i + 0.5) / count * last_s for i in range(count)] if item.video else [0.0]
    return [_smaller(frame) for frame in frames_shown(str(dataset.path(item.main)), times, fps)]


def _smaller(frame: Pixels) -> Pixels:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(frame))
    picture.thumbnail((SEEN_PIXELS, SEEN_PIXELS))
    return np.asarray(picture)


@dataclass(frozen=True)
class ServedCaptioner:
    """A model behind an OpenAI-compatible server: `POST URL/chat/completions`."""

    making: CaptionMaking

    def caption(self, frames: Sequence[Pixels]) -> str:
        """Return the text; calls that fail in passing are made again. Raises DatasetError in the end."""
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("client", "writing captions by a server") from error
        url = f"{(self.making.url or '').rstrip('/')}/chat/completions"
        failure = ""
        for attempt in range(self.making.retries + 1):
            if attempt:
                time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1)))
            try:
                answer = httpx.post(
                    url, json=self._body(frames), headers=self._headers(), timeout=self.making.timeout_s
                )
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = f"it cannot be reached ({error or type(error).__name__})"
                continue
            if answer.status_code == 200:
                return _text(answer, url)
            failure = f"it answers {answer.status_code}: {' '.join(answer.text.split())[:200]}"
            if answer.status_code not in AGAIN:
                break
        raise DatasetError(f"{url} wrote no caption: {failure}; captions so far are kept, run it again")

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.making.key_variable)
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _body(self, frames: Sequence[Pixels]) -> dict[str, Any]:
        pictures = [{"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in frames]
        content = [{"type": "text", "text": self.making.prompt}, *pictures]
        return {
            "model": self.making.model or "default",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.making.max_tokens,
        }


def _data_url(frame: Pixels) -> str:
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(stored, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode()}"


def _text(answer: Any, url: str) -> str:
    """Return the text of an answer. Raises DatasetError for one that holds none."""
    try:
        text = answer.json()["choices"][0]["message"]["content"]
        text = text if isinstance(text, str) else "".join(part.get("text", "") for part in text)
    except (ValueError, LookupError, TypeError, AttributeError):
        text = ""
    if not text.strip():
        raise DatasetError(f"{url} answers {shown(answer.text)}, which holds no caption; check the model")
    return str(text)


class LocalCaptioner:
    """A vision model in a folder, run by transformers."""

    def __init__(self, making: CaptionMaking) -> None:
        """Load the model. Raises DatasetError for a folder that holds none."""
        folder = Path(making.model or "")
        if not folder.is_dir():
            raise DatasetError(
                f"captions.model is {shown(str(folder))}, and there is no such folder; give one that holds a "
                "vision model, or --url"
            )
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.making = making
        try:
            self._processor: Any = AutoProcessor.from_pretrained(str(folder), local_files_only=True)
            self._model: Any = AutoModelForImageTextToText.from_pretrained(
                str(folder), local_files_only=True, dtype="auto"
            )
        except Exception as error:  # the package raises whatever its parsing runs into
            told = " ".join(str(error).split())[:200]
            raise DatasetError(
                f"{folder} is no vision model that transformers reads ({told}); get another"
            ) from error
        self._model = self._model.eval().to(_device())

    def caption(self, frames: Sequence[Pixels]) -> str:
        """Return the text that the model writes, the most likely words."""
        import torch
        from PIL import Image

        pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
        parts = [{"type": "image", "image": picture} for picture in pictures]
        asked = [{"role": "user", "content": [*parts, {"type": "text", "text": self.making.prompt}]}]
        given = self._processor.apply_chat_template(
            asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self._model.device)
        with torch.no_grad():
            made = self._model.generate(**given, max_new_tokens=self.making.max_tokens, do_sample=False)
        new = made[:, given["input_ids"].shape[1] :]
        text: str = self._processor.batch_decode(new, skip_special_tokens=True)[0]
        if not text.strip():
            raise DatasetError(f"{self.making.model} wrote an empty caption; try another prompt or model")
        return text


def _device() -> str:
    from soundstage.memory.machine import pick_device

    return pick_device("auto")
