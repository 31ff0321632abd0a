"""The loss of a batch: the velocities of all streams that are made, as the model predicts them.

Picture and sound are summed, each a mean over its generated tokens. What is given, references among it,
counts in no loss. Losses are told by stream, and by the noise level of their samples: a total hides a stream
that learns nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from soundstage.model.transformer import BlockStack, ModalityInputs, Shortcut, Transformer
from soundstage.sampling.streams import Pair, Stream
from soundstage.training.batches import Batch
from soundstage.training.noising import noised_modality, velocity_loss
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.samples import MODALITIES
from soundstage.types import Modality

BUCKETS = 4  # of noise levels, by which losses are told
Inputs = dict[Modality, ModalityInputs]


def recomputed(stack: BlockStack, xv: Tensor | None, xa: Tensor | None) -> Pair:
    """Run the blocks, keeping only what lies between them; the rest is computed again for the gradients."""
    for index in range(len(stack)):
        xv, xa = checkpoint(
            stack.run, xv, xa, index, index + 1, use_reentrant=False, preserve_rng_state=False
        )
    return xv, xa


class VelocityObjective:
    """The loss of a batch as `SampleOrder` makes them.

    run_blocks: runs the blocks in place of the loop over them. precision: returns the context that forwards
    run in.
    """

    def __init__(
        self,
        transformer: Transformer,
        config: TrainConfig,
        *,
        run_blocks: Shortcut | None = None,
        precision: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.transformer, self.config = transformer, config
        self.run_blocks, self.precision = run_blocks, precision

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        streams = streams_of(batch)
        with self.precision():
            made = self.velocities(self.inputs(batch, streams))
        losses: dict[str, Tensor] = {}
        total = []
        for name, velocity in zip(MODALITIES, made, strict=True):
            noise = batch.tensors.get(f"{name}.noise")
            if velocity is None or noise is None:
                continue
            errors = velocity_loss(velocity, streams[name], noise)
            losses |= told(name, errors, batch[f"{name}.sigma"])
            weight = self.config.video.weight if name == "video" else self.config.audio.weight
            total.append(weight * errors.mean())
        return {"loss": torch.stack(total).sum() / self.config.accumulate, **losses}

    def inputs(self, batch: Batch, streams: dict[Modality, Stream]) -> Inputs:
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

    def velocities(self, inputs: Inputs) -> Pair:
        """Return the velocities of both streams, with gradients of what is trained."""
        video, audio = self.transformer(inputs.get("video"), inputs.get("audio"), shortcut=self.run_blocks)
        return video, audio


def streams_of(batch: Batch) -> dict[Modality, Stream]:
    """Return the streams of a batch; one without noise is frozen."""
    return {
        name: Stream(
            clean=batch[f"{name}.clean"],
            mask=batch[f"{name}.mask"],
            positions=batch[f"{name}.positions"],
            frozen=f"{name}.noise" not in batch.tensors,
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
