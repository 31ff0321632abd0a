"""Compute losses and gradients of batches; on a CUDA device as recordings, one for each kind of batch.

A step of training is up to ten thousand small kernels, and launching them one by one takes longer than
computing them. A CUDA graph launches all of them at once. The first batch of a kind is computed plainly,
which also warms its kernels up. The second is recorded, and the recording is compared with a plain step
before it is used. A kind that cannot be recorded is computed plainly, and `told` is called with the reason.

A loss that is to be recorded copies nothing between host and device and has no shapes that depend on values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from soundstage.speed.graphs import Recorder
from soundstage.training.batches import Batch

# A batch -> its losses by name. "loss" is descended, the others are logged.
LossFn = Callable[[Batch], dict[str, Tensor]]

# How far a recording's gradients may be from a plain step's, as a share of their norm: bfloat16, and sums in
# any order.
TOLERANCE = 0.02


@dataclass
class _Recording:
    """Hold a recorded step: tensors that a batch is copied into, and what a replay leaves behind."""

    inputs: Mapping[str, Tensor]
    losses: Mapping[str, Tensor]
    used: list[bool]  # the parameters that this kind of batch has gradients for
    replay: Callable[[], object]


class GradientSteps:
    """Set the gradients of parameters to those of a batch's loss, and return its losses.

    A parameter that a batch does not reach has no gradient.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        params: Sequence[nn.Parameter],
        *,
        recorder: Recorder | None = None,
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        """recorder: records steps; None computes all of them plainly."""
        self.loss_fn, self.params, self.recorder, self.told = loss_fn, params, recorder, told
        self._grads: list[Tensor] = []  # the memory that recordings write gradients into
        self._recordings: dict[str, _Recording | None] = {}  # None: cannot be recorded
        self._seen: set[str] = set()

    def __call__(self, batch: Batch, seed: int) -> Mapping[str, Tensor]:
        """Return the losses. seed: sets the noise that the loss draws."""
        if (
            self.recorder is not None
            and not batch.parts
            and batch.kind in self._seen
            and batch.kind not in self._recordings
        ):
            self._recordings[batch.kind] = self._recorded(self.recorder, batch, seed)
        self._seen.add(batch.kind)
        recording = self._recordings.get(batch.kind)
        return self._plain(batch, seed) if recording is None else self._replayed(recording, batch, seed)

    def _plain(self, batch: Batch, seed: int) -> Mapping[str, Tensor]:
        for param in self.params:
            param.grad = None
        torch.manual_seed(seed)
        found: dict[str, list[Tensor]] = {}
        for part in batch.parts or (batch,):
            losses = self.loss_fn(part)
            losses["loss"].backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                found.setdefault(name, []).append(value.detach())
        means = {
            name: values[0] if len(values) == 1 else torch.stack(values).mean()
            for name, values in found.items()
        }
        return means | {"loss": torch.stack(found["loss"]).sum()}

    def _replayed(self, recording: _Recording, batch: Batch, seed: int) -> Mapping[str, Tensor]:
        for name, own in recording.inputs.items():
            own.copy_(batch[name], non_blocking=True)
        torch.manual_seed(seed)
        recording.replay()
        for param, grad, used in zip(self.params, self._grads, recording.used, strict=True):
            param.grad = grad if used else None
        return recording.losses

    def _recorded(self, recorder: Recorder, batch: Batch, seed: int) -> _Recording | None:
        """Return a recording that computes what a plain step does, None where there is none."""
        self._plain(batch, seed)
        wanted = [None if param.grad is None else param.grad.clone() for param in self.params]
        try:
            recording = self._record(recorder, batch, [grad is not None for grad in wanted])
            self._replayed(recording, batch, seed)
            distance = _distance([param.grad for param in self.params], wanted)
        except Exception as error:  # of a kernel, a driver or memory: the plain way remains
            self.told(f"{batch.kind}: not recorded, {type(error).__name__}: {str(error)[:200]}")
            return None
        if not distance <= TOLERANCE:
            self.told(f"{batch.kind}: not recorded, its gradients are off by {distance:.3f} of their norm")
            return None
        return recording

    def _record(self, recorder: Recorder, batch: Batch, used: list[bool]) -> _Recording:
        if not self._grads:
            self._grads = [torch.zeros_like(param) for param in self.params]
        inputs = {name: x.clone() for name, x in batch.tensors.items()}
        own = Batch(batch.kind, inputs, batch.samples)
        reached = [grad for grad, is_used in zip(self._grads, used, strict=True) if is_used]

        def run() -> dict[str, Tensor]:
            torch._foreach_zero_(reached)
            losses = self.loss_fn(own)
            losses["loss"].backward()  # type: ignore[no-untyped-call]
            return {name: value.detach() for name, value in losses.items()}

        for param, grad, is_used in zip(self.params, self._grads, used, strict=True):
            param.grad = grad if is_used else None
        losses, replay = recorder.record(run)
        return _Recording(inputs, losses, used, replay)


def _distance(made: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> float:
    """Return the norm of the difference as a share of the norm of the wanted gradients."""
    gaps, sizes = [], []
    for a, b in zip(made, wanted, strict=True):
        if a is not None and b is not None:
            gaps.append((a - b).norm())
            sizes.append(b.norm())
    return float(torch.stack(gaps).norm() / torch.stack(sizes).norm().clamp(min=1e-12))
