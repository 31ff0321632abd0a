"""The order of a dataset's samples, and the batch of each step: all that is drawn is drawn here.

Batches are numbered. A batch follows from the seed and its number alone, noise included, so that a run that
was killed goes on with the same losses, on any device. SampleOrder of one batch are of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from soundstage.dataset.encoded import EncodedDataset, Sample
from soundstage.dataset.index import SampleInfo
from soundstage.sampling.streams import Stream
from soundstage.text.encoder import PromptContext
from soundstage.training.batches import Batch, joined
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.kept import (
    DrawnConditions,
    audio_stream,
    draw_given,
    draw_references,
    video_stream,
)
from soundstage.training.tuning.sigmas import drawn_sigmas
from soundstage.types import Modality

# Keys of the generators: of the order, and of all else of a batch.
ORDER, DRAWS = 1, 2
MODALITIES: tuple[Modality, Modality] = ("video", "audio")
PRIOR = "prior "  # begins the kind of a batch whose prediction is to stay as it was
BLANK = ""  # the sample id under which the context of an empty prompt is kept
ContextOf = Callable[[str], PromptContext]  # sample id -> its caption's context, a batch of one


def own_tokens(sample: Sample, name: Modality) -> int:
    """Return the tokens of a sample's own picture or sound, without references."""
    if name == "video":
        return 0 if sample.video is None else sample.video.shape[1:].numel()
    return 0 if sample.audio is None else sample.audio.shape[1]


@dataclass
class SampleOrder:
    """The samples of a dataset in the order of a run. contexts: what the transformer reads of captions."""

    data: EncodedDataset
    config: TrainConfig
    contexts: ContextOf
    prior: SampleOrder | None = None  # samples whose prediction is to stay as it was, one batch a step
    _epochs: dict[int, list[tuple[SampleInfo, ...]]] = field(default_factory=dict)

    def batches(self, first: int) -> Iterator[Batch]:
        """Yield what step number `first` is computed on, and all that follow."""
        count = self.config.accumulate
        step = first
        while True:
            parts = tuple(self.batch(step * count + i) for i in range(count))
            if self.prior is not None:
                beside = self.prior.batch(step)
                parts = (*parts, replace(beside, kind=PRIOR + beside.kind))
            yield parts[0] if len(parts) == 1 else joined(parts)
            step += 1

    def batch(self, number: int) -> Batch:
        """Return the batch of a number."""
        infos = self.infos(number)
        rng = np.random.default_rng([self.config.seed, DRAWS, number])
        beside = draw_references(rng, self.config)
        loaded = [self.data.load(info) for info in infos]
        pairs = [self._streams(rng, *pair, beside) for pair in zip(loaded, infos, strict=True)]
        tensors = self._texts(rng, infos)
        shared = None
        for index, name in enumerate(MODALITIES):
            streams = [stream for pair in pairs if (stream := pair[index]) is not None]
            if not streams:
                del tensors[f"{name}.context"]
                continue
            tensors |= self._stream_tensors(rng, name, streams, own_tokens(loaded[0], name), shared)
            if loaded[0].video is not None and name == "video":
                tensors["video.frames"] = torch.tensor(loaded[0].video.shape[1])
            shared = tensors.get(f"{name}.sigma") if self.config.sigma.audio == "shared" else None
        kind = " ".join(f"{name} {tuple(x.shape)}" for name, x in sorted(tensors.items()))
        return Batch(kind, tensors, len(infos))

    def infos(self, number: int) -> tuple[SampleInfo, ...]:
        """Return the samples of a batch: each epoch has all of them, as often as they repeat."""
        per_epoch = len(self._epoch(0))
        return self._epoch(number // per_epoch)[number % per_epoch]

    def _epoch(self, epoch: int) -> list[tuple[SampleInfo, ...]]:
        if epoch not in self._epochs:
            self._epochs = {0: self._epochs[0]} if 0 in self._epochs else {}
            self._epochs[epoch] = self._drawn_epoch(epoch)
        return self._epochs[epoch]

    def _drawn_epoch(self, epoch: int) -> list[tuple[SampleInfo, ...]]:
        rng = np.random.default_rng([self.config.seed, ORDER, epoch])
        shelves: dict[object, list[SampleInfo]] = {}
        for info in self.data.samples:
            shelves.setdefault(info.shape, []).extend([info] * info.repeats)
        batches: list[tuple[SampleInfo, ...]] = []
        for shelf in shelves.values():
            order = rng.permutation(len(shelf))
            size = self.config.batch
            batches += [tuple(shelf[i] for i in order[at : at + size]) for at in range(0, len(shelf), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _streams(
        self, rng: np.random.Generator, sample: Sample, info: SampleInfo, beside: DrawnConditions
    ) -> tuple[Stream | None, Stream | None]:
        given = draw_given(rng, self.config)
        video = replace(given.video, reference=beside.video.reference)
        audio = replace(given.audio, reference=beside.audio.reference)
        exchange = self.config.exchange
        return video_stream(sample, info, video, exchange), audio_stream(sample, audio, exchange)

    def _stream_tensors(
        self,
        rng: np.random.Generator,
        name: Modality,
        streams: Sequence[Stream],
        own: int,
        shared: Tensor | None,
    ) -> dict[str, Tensor]:
        """Return the tensors of a stream of several samples; of one that is given, no noise.

        own: tokens of the clip itself. shared: noise levels that another stream has drawn.
        """
        first = streams[0]
        found = {
            "clean": torch.cat([stream.clean for stream in streams]),
            "mask": torch.cat([stream.mask for stream in streams]),
            "positions": first.positions,
        }
        for key in ("unread", "unreading"):
            if (flags := getattr(first, key)) is not None:
                found[key] = flags
        if not first.frozen:
            shape = (len(streams), own, first.clean.shape[2])
            sigma = torch.from_numpy(drawn_sigmas(rng, len(streams), own, self.config.sigma)).float()
            noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
            found |= {"sigma": sigma if shared is None else shared, "noise": noise}
        return {f"{name}.{key}": tensor for key, tensor in found.items()}

    def _texts(self, rng: np.random.Generator, infos: Sequence[SampleInfo]) -> dict[str, Tensor]:
        blank = rng.random(len(infos)) < self.config.blank_captions
        read = [self.contexts(BLANK if empty else info.id) for info, empty in zip(infos, blank, strict=True)]
        return {
            "video.context": torch.cat([context.video for context in read]),
            "audio.context": torch.cat([context.audio for context in read]),
        }
