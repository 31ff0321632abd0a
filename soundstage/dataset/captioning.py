"""Captions by a model: any OpenAI-compatible server, or a vision model on this machine through transformers.

The model sees a few frames of each clip. A caption is kept as soon as it is there, in captions.jsonl, so an
interrupted run goes on; openings that say nothing are cut off. A model hears nothing here: what a clip sounds
like is to be added by hand, or by a prompt that tells it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soundstage.dataset.config import CaptionMaking, Dataset
from soundstage.dataset.findings import DataFinding, ShowShare
from soundstage.dataset.items import DataItem
from soundstage.dataset.kept import read_captions, write_captions
from soundstage.dataset.scanning import Scan
from soundstage.errors import ConfigError, DatasetError, RequestError, ServerError, shown
from soundstage.media.arrays import Pixels
from soundstage.media.load import frames_shown
from soundstage.prompts.openings import without_boilerplate
from soundstage.writing.asked import Question, Writer, smaller
from soundstage.writing.local import LocalWriter
from soundstage.writing.served import ServedWriter


@dataclass(frozen=True)
class Captioner:
    """Writes the caption of a clip from frames of it."""

    making: CaptionMaking
    writer: Writer

    def caption(self, frames: Sequence[Pixels]) -> str:
        """Return the text. Raises DatasetError where there is none."""
        question = Question(self.making.prompt, pictures=frames, max_tokens=self.making.max_tokens)
        try:
            return self.writer.write(question)
        except (ServerError, ConfigError) as error:
            raise DatasetError(f"{error}; captions so far are kept, run it again") from error


def captioner(making: CaptionMaking) -> Captioner:
    """Return the captioner of a config.

    Raises RequestError where it names none, DatasetError for a folder that holds no model.
    """
    if making.url is not None:
        model, key, timeout_s = making.model or "default", making.key_variable, making.timeout_s
        return Captioner(making, ServedWriter(making.url, model, key, timeout_s, making.retries))
    if making.model is None:
        raise RequestError(
            "no model is named that could write captions; give --url of an OpenAI-compatible server, or "
            "--model with the folder of a vision model",
            field="url",
        )
    folder = Path(making.model)
    if not folder.is_dir():
        raise DatasetError(
            f"captions.model is {shown(str(folder))}, and there is no such folder; give one that holds a "
            "vision model, or --url"
        )
    try:
        return Captioner(making, LocalWriter(folder))
    except ConfigError as error:
        raise DatasetError(str(error)) from error


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
    return [smaller(frame) for frame in frames_shown(str(dataset.path(item.main)), times, fps)]
