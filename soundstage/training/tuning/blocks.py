"""Run a transformer's blocks in training: activations are kept, or computed again block by block.

Blocks that are streamed (memory/stream.py) are brought again for the way back, from the last to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from soundstage.memory.stream import BlockStreamer
from soundstage.model.transformer import BlockStack
from soundstage.sampling.streams import Pair

RunBlock = Callable[[Tensor | None, Tensor | None], Pair]


class BlockRun:
    """Run the blocks of a forward in place of `Transformer.forward`'s loop.

    again: keep what lies between blocks only, and compute the rest again for the gradients. streamer: brings
    blocks; with one they are always computed again. watched: numbers of blocks whose picture is kept in
    `seen` after a run.
    """

    def __init__(
        self, *, again: bool, streamer: BlockStreamer | None = None, watched: Collection[int] = ()
    ) -> None:
        self.again, self.streamer, self.watched = again, streamer, frozenset(watched)
        self.seen: dict[int, Tensor] = {}

    def __call__(self, stack: BlockStack, xv: Tensor | None, xa: Tensor | None) -> Pair:
        """Return both streams after all blocks."""
        self.seen = {}
        if self.streamer is not None and torch.is_grad_enabled():
            xv, xa = (None if x is None else x.detach().requires_grad_() for x in (xv, xa))
        for index in range(len(stack)):
            xv, xa = self._block(stack, index, xv, xa)
            if index in self.watched and xv is not None:
                self.seen[index] = xv
        return xv, xa

    def _block(self, stack: BlockStack, index: int, xv: Tensor | None, xa: Tensor | None) -> Pair:
        if not torch.is_grad_enabled():
            return stack.run(xv, xa, index, index + 1)
        if self.streamer is not None:

            def run(v: Tensor | None, a: Tensor | None) -> Pair:
                return stack.run(v, a, index, index + 1)

            made: Any = _StreamedBlock.apply(run, self.streamer, index, xv, xa)  # type: ignore[no-untyped-call]
            return made[0], made[1]
        if not self.again:
            return stack.run(xv, xa, index, index + 1)
        made = checkpoint(stack.run, xv, xa, index, index + 1, use_reentrant=False, preserve_rng_state=False)
        return made[0], made[1]


class _StreamedBlock(torch.autograd.Function):
    """Compute a block without gradients, and again with them when its weights are on the device again."""

    @staticmethod
    def forward(
        ctx: Any, run: RunBlock, streamer: BlockStreamer, index: int, xv: Tensor | None, xa: Tensor | None
    ) -> Pair:
        ctx.run, ctx.streamer, ctx.index = run, streamer, index
        ctx.given = xv is not None, xa is not None
        ctx.save_for_backward(*(x for x in (xv, xa) if x is not None))
        return run(xv, xa)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        inputs = [saved.pop(0) if is_given else None for is_given in ctx.given]
        ctx.streamer.backwards = True
        try:
            _gradients(ctx.run, inputs, grads)
            if ctx.index in ctx.streamer.order:
                ctx.streamer.free(ctx.index)
        finally:
            ctx.streamer.backwards = False
        return (None, None, None, *(None if x is None else x.grad for x in inputs))


def _gradients(run: RunBlock, inputs: Sequence[Tensor | None], grads: Sequence[Tensor | None]) -> None:
    """Compute a block again, and add the gradients of its factors and inputs."""
    with torch.enable_grad():
        made = run(*inputs)
    reached = [
        (out, grad) for out, grad in zip(made, grads, strict=True) if out is not None and grad is not None
    ]
    torch.autograd.backward([out for out, _ in reached], [grad for _, grad in reached])
