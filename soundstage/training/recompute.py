"""Keep what a block's cheap arithmetic was made from in place of its results, which are made again.

Norms, modulation, rotation, gates of heads and GELU take little time beside the products between them, but
autograd keeps what all of them give: of a block with a LoRA on every layer, 35 numbers for each one of a
token. With what is done here it keeps 17: what products and attention give.

    recomputation = Recomputation()
    recomputation.put_on(transformer)
    with recomputation:                   # only here is anything kept
        loss = ...
    loss.backward()

Results are computed without autograd, by the fast ways of inference. Where autograd is about to save one of
them, it gets a note of how to make it again. It is made once for all that need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.multiprocessing.reductions import StorageWeakRef

from soundstage.model.arithmetic import Arithmetic, ModulationRows
from soundstage.model.modulation import Modulation, spread
from soundstage.model.rope import Rotation, rotated_back

Compute = Callable[..., tuple[Tensor, ...]]
# Inputs and gradients of the results, None for those that count in no loss -> gradients of the inputs.
Backward = Callable[[Sequence[Tensor], Sequence[Tensor | None]], Sequence[Tensor | None]]


class Computation:
    """Hold a function and its inputs, tensors without a graph, which results are made from.

    backward: the gradients of the inputs from those of the results, by a formula; None lets autograd find
    them through the function.
    """

    def __init__(self, compute: Compute, inputs: Sequence[Tensor], backward: Backward | None) -> None:
        self.compute, self.backward = compute, backward
        self.inputs = [x.detach().requires_grad_(x.requires_grad) for x in inputs]
        self._made: tuple[Tensor, ...] | None = None

    def made(self) -> tuple[Tensor, ...]:
        """Return the results; without a formula, with the graph that leads to them from the inputs."""
        if self._made is None:
            with torch.set_grad_enabled(self.backward is None):
                self._made = self.compute(*self.inputs)
        return self._made

    def gradients(self, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the gradients of the inputs, and forget the results."""
        if self.backward is not None:
            self._made = None
            with torch.no_grad():
                return list(self.backward(self.inputs, grads))
        made, self._made = self.made(), None
        pairs = [(x, g) for x, g in zip(made, grads, strict=True) if g is not None and x.requires_grad]
        wanted = [x for x in self.inputs if x.requires_grad]
        outs, given = [x for x, _ in pairs], [g for _, g in pairs]
        found = iter(torch.autograd.grad(outs, wanted, given, allow_unused=True))
        return [next(found) if x.requires_grad else None for x in self.inputs]


class _Cheap(torch.autograd.Function):
    """Compute by a computation, of which nothing but the inputs is kept."""

    @staticmethod
    def forward(ctx: Any, computation: Computation, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.computation = computation
        return computation.compute(*inputs)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        computation, ctx.computation = ctx.computation, None
        return None, *computation.gradients(grads)


class _Known(NamedTuple):
    """Hold a result that can be made again, while its memory lives and is not changed."""

    memory: StorageWeakRef
    version: int
    computation: Computation
    number: int


class _Note(NamedTuple):
    """Stand for a tensor that autograd would have saved: a view of one of a computation's results."""

    computation: Computation
    number: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def made(self) -> Tensor:
        whole = self.computation.made()[self.number].detach().contiguous()
        return whole.as_strided(self.size, self.stride, self.offset)


class Recomputation:
    """Keep results of cheap arithmetic out of what autograd saves. Not for several threads."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] | None = None  # by storage; None outside of the context
        self._hooks: Any = None

    def put_on(self, module: nn.Module) -> None:
        """Let all parts of a module compute their arithmetic so. It stays as it is outside of the context."""
        for part in module.modules():
            inner = getattr(part, "arithmetic", None)
            if isinstance(inner, Arithmetic):
                own = inner.inner if isinstance(inner, InputsKept) else inner
                part.__dict__["arithmetic"] = InputsKept(own, self)

    def __enter__(self) -> None:
        self._known = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        self._known = self._hooks = None

    def computed(
        self, compute: Compute, *inputs: Tensor, backward: Backward | None = None
    ) -> tuple[Tensor, ...]:
        """Return what `compute` makes of tensors; in the context, without keeping it.

        backward: see `Computation`.
        """
        if self._known is None or not torch.is_grad_enabled() or _is_cast(inputs[0].device):
            return compute(*inputs)
        computation = Computation(compute, inputs, backward)
        results: tuple[Tensor, ...] = _Cheap.apply(computation, *inputs)  # type: ignore[no-untyped-call]
        for index, result in enumerate(results):
            if result.is_contiguous():
                memory = StorageWeakRef(result.untyped_storage())  # type: ignore[no-untyped-call]
                self._known[memory.cdata] = _Known(memory, result._version, computation, index)
        return results

    def _pack(self, x: Tensor) -> Tensor | _Note:
        known = None if self._known is None else self._known.get(x.untyped_storage()._cdata)
        if known is None or _is_gone(known, x):
            return x
        return _Note(known.computation, known.number, x.size(), x.stride(), int(x.storage_offset()))

    @staticmethod
    def _unpack(kept: Tensor | _Note) -> Tensor:
        return kept.made() if isinstance(kept, _Note) else kept


def _is_gone(known: _Known, x: Tensor) -> bool:
    """Return whether a result's memory was freed, so that x has it now, or changed."""
    expired: bool = known.memory.expired()  # type: ignore[no-untyped-call]
    return expired or x._version != known.version


def _is_cast(device: torch.device) -> bool:
    """Return whether autocast is on: it would be off when results are made again."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


class InputsKept(Arithmetic):
    """Compute as another arithmetic does, and let a recomputation know the results."""

    def __init__(self, inner: Arithmetic, recomputation: Recomputation) -> None:
        self.inner, self.computed = inner, recomputation.computed

    def norm(self, x: Tensor, eps: float) -> Tensor:
        def backward(given: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Tensor | None]:
            return (None if grads[0] is None else _through_norm(given[0], eps, grads[0]),)

        return self.computed(lambda x: (self.inner.norm(x, eps),), x, backward=backward)[0]

    def modulated_norms(
        self, x: Tensor, eps: float, rows: Modulation, places: Sequence[ModulationRows]
    ) -> tuple[Tensor, ...]:
        def compute(x: Tensor, of_groups: Tensor) -> tuple[Tensor, ...]:
            return self.inner.modulated_norms(x, eps, Modulation(of_groups, rows.group_of), places)

        def backward(given: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Tensor, None]:
            pairs = zip(grads, places, strict=True)
            scaled = [
                g * spread(1 + rows.rows[:, :, at.scale], rows.group_of) for g, at in pairs if g is not None
            ]
            total = scaled[0] if len(scaled) == 1 else scaled[0].add_(scaled[1])
            return _through_norm(given[0], eps, total), None

        formula = None if rows.rows.requires_grad else backward
        return self.computed(compute, x, rows.rows, backward=formula)

    def add_gated(
        self, x: Tensor, rows: Modulation, row: int, h: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        if rows.group_of is None and keep is None:
            return self.inner.add_gated(x, rows, row, h)

        def gate_of(of_groups: Tensor) -> tuple[Tensor]:
            gate = Modulation(of_groups, rows.group_of).row(row)
            return (gate if keep is None else gate * keep,)

        return torch.addcmul(x, self.computed(gate_of, rows.rows)[0], h)

    def heads(self, x: Tensor, norm: nn.RMSNorm, num_heads: int, rotation: Rotation | None) -> Tensor:
        def compute(x: Tensor) -> tuple[Tensor]:
            return (self.inner.heads(x, norm, num_heads, rotation),)

        def backward(given: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Tensor | None]:
            (grad,) = grads
            if grad is None or norm.eps is None:
                return (None,)
            turned = grad if rotation is None else rotated_back(grad, rotation)
            return (_through_norm(given[0], norm.eps, turned.flatten(2) * norm.weight),)

        if norm.weight.requires_grad or norm.eps is None:  # the weight is no input of the computation
            return compute(x)[0]
        return self.computed(compute, x, backward=backward)[0]

    def gate_heads(self, heads: Tensor, logits: Tensor) -> Tensor:
        return self.computed(lambda *given: (self.inner.gate_heads(*given),), heads, logits)[0]

    def linear_gelu(self, linear: nn.Module, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return self.inner.linear_gelu(linear, x)

        def gelu(y: Tensor) -> tuple[Tensor]:
            return (F.gelu(y, approximate="tanh"),)

        def backward(given: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Tensor | None]:
            return (None if grads[0] is None else _through_gelu(grads[0], given[0]),)

        return self.computed(gelu, linear(x), backward=backward)[0]


def _through_norm(x: Tensor, eps: float, grad: Tensor) -> Tensor:
    """Return the gradients of x (..., D) from those of x / rms(x)."""
    wide, given = x.float(), grad.float()
    scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    scale = scale.div_(x.shape[-1]).add_(eps).rsqrt_()
    share = (wide * given).mean(dim=-1, keepdim=True).mul_(scale).mul_(scale)
    return torch.addcmul(given, wide, share, value=-1).mul_(scale).to(x.dtype)


def _through_gelu(grad: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(grad, x, approximate="tanh")  # type: ignore[no-any-return]
