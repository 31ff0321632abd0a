"""Run a transformer's blocks in training: activations are kept, or computed again block by block.

Blocks that are streamed (memory/stream.py) are brought again for the way back, from the last to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from soundstage.memory.stream import BlockStreamer
from soundstage.model.transformer import BlockStack
from soundstage.sampling.streams import Pair
from soundstage.training.recompute import Recomputation

RunBlock = Callable[[Tensor | None, Tensor | None], Pair]


class BlockRun:
    """Run the blocks of a forward in place of `Transformer.forward`'s loop.

    again: keep what lies between blocks only, and compute the rest again for the gradients. streamer: brings
    blocks; with one they are always computed again. watched: numbers of blocks whose picture is kept in
    `seen` after a run. cheap: leaves out of what is kept what little arithmetic makes again.
    """

    def __init__(
        self,
        *,
        again: bool,
        streamer: BlockStreamer | None = None,
        watched: Collection[int] = (),
        cheap: Recomputation | None = None,
    ) -> None:
        self.again, self.streamer, self.watched = again, streamer, frozenset(watched)
        self.cheap = cheap or Recomputation()
        self.seen: dict[int, Tensor] = {}

    def __call__(self, stack: BlockStack, xv: Tensor | None, xa: Tensor | None) -> Pair:
        """Return both streams after all blocks."""
        self.seen = {}
        learns = torch.is_grad_enabled()
        # A block that is computed again on its own passes no gradients to what all blocks share.
        apart = learns and not _shares_gradients(stack) and (self.again or self.streamer is not None)
        if apart:
            xv, xa = (None if x is None else x.detach().requires_grad_() for x in (xv, xa))
        with self.cheap if learns and not self.again and not apart else nullcontext():
            for index in range(len(stack)):
                xv, xa = self._block(stack, index, xv, xa, apart)
                if index in self.watched and xv is not None:
                    self.seen[index] = xv
        return xv, xa

    def _block(
        self, stack: BlockStack, index: int, xv: Tensor | None, xa: Tensor | None, apart: bool
    ) -> Pair:
        made: Any
        if apart:

            def run(v: Tensor | None, a: Tensor | None) -> Pair:
                return stack.run(v, a, index, index + 1)

            made = _BlockAgain.apply(run, self, index, xv, xa)  # type: ignore[no-untyped-call]
            return made[0], made[1]
        if not self.again or not torch.is_grad_enabled():
            return stack.run(xv, xa, index, index + 1)
        made = checkpoint(stack.run, xv, xa, index, index + 1, use_reentrant=False, preserve_rng_state=False)
        return made[0], made[1]

    @contextmanager
    def way_back(self, index: int) -> Iterator[None]:
        """Have a block's weights there while its gradients are computed."""
        if self.streamer is None:
            yield
            return
        self.streamer.backwards = True
        try:
            yield
            if index in self.streamer.order:
                self.streamer.free(index)
        finally:
            self.streamer.backwards = False


def _shares_gradients(stack: BlockStack) -> bool:
    """Return whether what all blocks share is trained, as it is where all weights are."""
    return any(
        stream is not None and (stream.rows.requires_grad or stream.context_rows.requires_grad)
        for stream in (stack.video, stack.audio)
    )


class _BlockAgain(torch.autograd.Function):
    """Compute a block without gradients, and again with them on the way back, when its weights are there."""

    @staticmethod
    def forward(
        ctx: Any, run: RunBlock, blocks: BlockRun, index: int, xv: Tensor | None, xa: Tensor | None
    ) -> Pair:
        ctx.run, ctx.blocks, ctx.index = run, blocks, index
        ctx.given = xv is not None, xa is not None
        ctx.save_for_backward(*(x for x in (xv, xa) if x is not None))
        return run(xv, xa)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        saved = [x.detach().requires_grad_(ctx.index > 0) for x in ctx.saved_tensors]
        inputs = [saved.pop(0) if is_given else None for is_given in ctx.given]
        with ctx.blocks.way_back(ctx.index):
            _gradients(ctx.run, ctx.blocks.cheap, inputs, grads)
        return (None, None, None, *(None if x is None else x.grad for x in inputs))


def _gradients(
    run: RunBlock, cheap: Recomputation, inputs: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> None:
    """Compute a block again, and add the gradients of its factors and inputs."""
    with torch.enable_grad(), cheap:
        made = run(*inputs)
    reached = [
        (out, grad)
        for out, grad in zip(made, grads, strict=True)
        if out is not None and grad is not None and out.requires_grad
    ]
    if reached:
        torch.autograd.backward([out for out, _ in reached], [grad for _, grad in reached])
