"""The loss of a batch: the velocities of all streams that are made, as the model predicts them.

Picture and sound are summed, each a mean over its generated tokens. What is given, references among it,
counts in no loss. Losses are told by stream, and by the noise level of their samples: a total hides a stream
that learns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from soundstage.model.transformer import ModalityInputs, Transformer
from soundstage.sampling.streams import Pair, Stream
from soundstage.text.encoder import PromptContext
from soundstage.training.batches import Batch
from soundstage.training.noising import noised_modality, velocity_loss
from soundstage.training.tuning.blocks import BlockRun
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.regularisers import SteadyFrames, balanced_weight, is_on
from soundstage.training.tuning.samples import MODALITIES, PRIOR
from soundstage.types import Modality

BUCKETS = 4  # of noise levels, by which losses are told
Inputs = dict[Modality, ModalityInputs]


@dataclass
class VelocityObjective:
    """The loss of a batch as `SampleOrder` makes them.

    blocks: runs the blocks. switch: puts the LoRA that is trained on the model (True) or takes it off. blank:
    the context of an empty prompt. notes: what is kept over a kill. precision: returns the context that
    forwards run in.
    """

    transformer: Transformer
    config: TrainConfig
    blocks: BlockRun = field(default_factory=lambda: BlockRun(again=False))
    steady: SteadyFrames | None = None
    switch: Callable[[bool], None] = lambda is_on: None
    blank: PromptContext | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    precision: Callable[[], AbstractContextManager[object]] = nullcontext

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of a batch, and what is told besides."""
        streams = streams_of(batch)
        inputs = self._inputs(batch, streams)
        if batch.kind.startswith(PRIOR):
            kept = self._unchanged(batch, inputs)
            return {"loss": self.config.regularisers.prior * kept, "prior": kept}
        with self.precision():
            made = self._velocities(inputs)
        errors = {
            name: velocity_loss(velocity, streams[name], batch[f"{name}.noise"])
            for name, velocity in zip(MODALITIES, made, strict=True)
            if velocity is not None and f"{name}.noise" in batch.tensors
        }
        losses: dict[str, Tensor] = {}
        for name, values in errors.items():
            losses |= told(name, values, batch[f"{name}.sigma"])
        weights = self._weights(errors)
        total = torch.stack([weights[name] * values.mean() for name, values in errors.items()]).sum()
        total = total + self._kept(batch, inputs, losses)
        return {"loss": total / self.config.accumulate, **losses}

    def _kept(self, batch: Batch, inputs: Inputs, losses: dict[str, Tensor]) -> Tensor | float:
        """Return the terms that keep the rest of the model as it is; their values go into `losses`."""
        wanted = self.config.regularisers
        total: Tensor | float = 0.0
        if self.steady is not None and self.blocks.seen:
            own = batch["video.noise"].shape[1]
            similar = self.steady(self.blocks.seen, int(batch["video.frames"]), own)
            if similar is not None and is_on(self.steady.config, float(similar.detach()), self.notes):
                losses["similarity"] = similar.detach()
                total = total - self.steady.config.weight * similar
        if wanted.blank and self.blank is not None:
            empty = {name: _with_context(given, name, self.blank) for name, given in inputs.items()}
            losses["blank"] = kept = self._unchanged(batch, empty)
            total = total + wanted.blank * kept
        return total

    def _unchanged(self, batch: Batch, inputs: Inputs) -> Tensor:
        """Return how far the LoRA changes the velocities of these inputs, a mean over generated tokens."""
        self.switch(False)
        with torch.no_grad(), self.precision():
            before = self._velocities(inputs)
        self.switch(True)
        with self.precision():
            after = self._velocities(inputs)
        gaps = []
        for name, old, new in zip(MODALITIES, before, after, strict=True):
            if old is not None and new is not None and f"{name}.noise" in batch.tensors:
                own = batch[f"{name}.noise"].shape[1]
                made = batch[f"{name}.mask"][:, :own]
                gap = (new[:, :own].float() - old[:, :own].float()).square() * made
                gaps.append(gap.sum() / (made.sum() * gap.shape[2]).clamp(min=1))
        return torch.stack(gaps).sum()

    def _weights(self, errors: Mapping[Modality, Tensor]) -> dict[Modality, float]:
        """Return how much each stream's loss counts. Only a balanced one waits for the losses."""
        config = self.config
        found: dict[Modality, float] = {"video": config.video.weight, "audio": config.audio.weight}
        if config.regularisers.audio_balance == "video":
            losses = {name: float(values.detach().mean()) for name, values in errors.items()}
            found["audio"] *= balanced_weight(losses, self.notes)
        return found

    def _inputs(self, batch: Batch, streams: dict[Modality, Stream]) -> Inputs:
        """Return the transformer's inputs: noised where something is made, clean where all is given."""
        found: Inputs = {}
        for name, stream in streams.items():
            context = batch[f"{name}.context"]
            noise = batch.tensors.get(f"{name}.noise")
            if noise is None:
                level = torch.zeros(len(stream.clean), device=stream.clean.device)
                found[name] = stream.at(stream.clean, level, context)
            else:
                found[name] = noised_modality(stream, noise, batch[f"{name}.sigma"], context)
        return found

    def _velocities(self, inputs: Inputs) -> Pair:
        return self.transformer(inputs.get("video"), inputs.get("audio"), shortcut=self.blocks)  # type: ignore[no-any-return]


def _with_context(given: ModalityInputs, name: Modality, context: PromptContext) -> ModalityInputs:
    """Return a stream's inputs with another prompt, the same for all samples."""
    other = context.video if name == "video" else context.audio
    return replace(given, context=other.to(given.context).expand_as(given.context))


def streams_of(batch: Batch) -> dict[Modality, Stream]:
    """Return the streams of a batch; one without noise is frozen."""
    return {
        name: Stream(
            clean=batch[f"{name}.clean"],
            mask=batch[f"{name}.mask"],
            positions=batch[f"{name}.positions"],
            frozen=f"{name}.noise" not in batch.tensors,
            unread=batch.tensors.get(f"{name}.unread"),
            unreading=batch.tensors.get(f"{name}.unreading"),
        )
        for name in MODALITIES
        if f"{name}.clean" in batch.tensors
    }


def told(name: Modality, errors: Tensor, sigmas: Tensor) -> dict[str, Tensor]:
    """Return the mean of a stream's losses (B,), and the means of those in each bucket of noise levels."""
    errors = errors.detach()
    found: dict[str, Tensor] = {name: errors.mean()}
    buckets = [min(int(sigma * BUCKETS), BUCKETS - 1) for sigma in sigmas.tolist()]
    for bucket in sorted(set(buckets)):
        chosen = torch.tensor([b == bucket for b in buckets], device=errors.device)
        found[bucket_name(name, bucket)] = errors[chosen].mean()
    return found


def bucket_name(name: str, bucket: int) -> str:
    """Return the name of a stream's loss in a bucket, such as "video 0.25-0.5"."""
    return f"{name} {bucket / BUCKETS:g}-{(bucket + 1) / BUCKETS:g}"
