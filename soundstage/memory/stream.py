"""Block streaming: blocks outside the device are copied to it one after the other, ahead of their use.

A `BlockStreamer` is applied from outside to modules that run in a fixed order: a transformer's blocks, the
text encoder's layers. Each streamed block's matrices have a home outside the device (a `BlockSource`); on the
device they share an arena of a few slots, allocated once. While one block computes, the next ones are copied,
round the end of the list too: the first block of the next step travels while the last of this step computes.
What is not a matrix (biases, norms, scales) and the scale-and-shift tables stay on the device.

    copy lane     | fill slot 0: block 2 | fill slot 1: block 3 | ...
    compute lane  | block 1 (slot 1)     | block 2 (slot 0)     | ...

Two events per slot order the work: a block waits until its slot is filled, a slot is filled after the block
before it in that slot has computed. The host waits for neither on a CUDA device. On the CPU the same code
runs with a worker thread in place of the copy stream, which is how it is tested.

Source of the design: docs/model/memory.md, "Streaming".
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from soundstage.memory.lanes import CudaLane, HostLane, Lane, LaneEvent, ThreadLane

ALIGNMENT = 256  # bytes; of every matrix within a slot
# Below this a matrix is left on the device: it would save nothing.
MIN_ELEMENTS = 4096


# --- what of a block is streamed, and where it lies --------------------------------------------------


@dataclass(frozen=True)
class PackedTensor:
    """The place of one tensor in the bytes of a block."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    def view(self, memory: Tensor) -> Tensor:
        """Return this tensor in a flat uint8 memory."""
        return memory[self.offset : self.offset + self.num_bytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class BlockLayout:
    """One block's streamed tensors, one after the other. Blocks of one model may differ."""

    tensors: tuple[PackedTensor, ...]
    num_bytes: int

    @classmethod
    def of(cls, block: nn.Module, dtypes: Callable[[str, Tensor], torch.dtype] | None = None) -> BlockLayout:
        """Return the layout of a block. dtypes: the kept dtypes, for a meta block; None takes its own."""
        kept = block.state_dict(keep_vars=True).items()
        streamed = ((key, tensor) for key, tensor in kept if is_streamed(key, tensor))
        return cls.packed(
            (key, tensor.dtype if dtypes is None else dtypes(key, tensor), tuple(tensor.shape))
            for key, tensor in streamed
        )

    @classmethod
    def packed(cls, tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...]]]) -> BlockLayout:
        """Lay tensors one after the other, each at an aligned offset."""
        packed, end = [], 0
        for key, dtype, shape in tensors:
            num_bytes = math.prod(shape) * dtype.itemsize
            packed.append(PackedTensor(key, dtype, shape, end, num_bytes))
            end += -(-num_bytes // ALIGNMENT) * ALIGNMENT
        return cls(tuple(packed), end)


def is_streamed(key: str, tensor: Tensor) -> bool:
    """Return whether a tensor is streamed: a matrix. Tables, biases, norms and scales stay on the device."""
    is_matrix = tensor.ndim >= 2 and tensor.numel() >= MIN_ELEMENTS and tensor.shape[-1] > 1
    return is_matrix and "scale_shift_table" not in key


class BlockSource(Protocol):
    """The home of streamed blocks. layouts: by block number. pinned: whether a device can read it alone."""

    layouts: dict[int, BlockLayout]
    pinned: bool

    def read(self, block: int, memory: Tensor) -> None:
        """Copy a block's bytes into flat uint8 memory of at least its size; called on the copy lane."""
        ...

    def at_home(self, block: int) -> Tensor | None:
        """Return the block's bytes where they live, or None if they are in no memory."""
        ...


class HostMemory:
    """Host memory of exactly this size: `bytes` (num_bytes,) uint8. pinned: a device may copy from it alone.

    It is registered with the driver after it is allocated: PyTorch's own pinned allocator rounds sizes up to
    a power of two. Where the driver refuses, as it does beyond half of the memory on Windows, the memory is
    ordinary.
    """

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        with torch.inference_mode(False):
            self.bytes = torch.empty(num_bytes, dtype=torch.uint8)
        self.pinned = device.type == "cuda" and num_bytes > 0 and self._register()

    def _register(self) -> bool:
        cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(cudart.cudaHostRegister(self.bytes.data_ptr(), self.bytes.numel(), 0)) != 0:
            return False
        weakref.finalize(self, _unregister, self.bytes)
        return True


def _unregister(memory: Tensor) -> None:
    cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    cudart.cudaHostUnregister(memory.data_ptr())


class HostSource:
    """Blocks in host memory, one buffer of exactly its size for each."""

    def __init__(self, device: torch.device) -> None:
        self.layouts: dict[int, BlockLayout] = {}
        self.pinned = device.type == "cuda"
        self._device = device
        self._buffers: dict[int, HostMemory] = {}

    def reserve(self, block: int, layout: BlockLayout) -> Tensor:
        """Return the new buffer of a block, to be filled by the caller."""
        memory = HostMemory(layout.num_bytes, self._device)
        self.pinned = self.pinned and memory.pinned
        self.layouts[block], self._buffers[block] = layout, memory
        return memory.bytes

    def take(self, number: int, block: nn.Module) -> None:
        """Move a built block's tensors here; one block at a time exists twice."""
        layout = BlockLayout.of(block)
        memory = self.reserve(number, layout)
        owners = owners_of(block)
        for packed in layout.tensors:
            owner, name = owners[packed.key]
            view = packed.view(memory)
            view.copy_(owner[name].detach())
            owner[name] = like(owner[name], view)

    def read(self, block: int, memory: Tensor) -> None:
        buffer = self._buffers[block].bytes
        memory[: buffer.numel()].copy_(buffer, non_blocking=True)

    def at_home(self, block: int) -> Tensor:
        return self._buffers[block].bytes


TensorOwner = dict[str, Any]  # a module's own dictionary of parameters or of buffers


def owners_of(module: nn.Module) -> dict[str, tuple[TensorOwner, str]]:
    """Return for each state-dict key the dictionary that holds the tensor, and its name there.

    Exchanging a tensor there costs no more than a dictionary write and works between devices.
    """
    owners: dict[str, tuple[TensorOwner, str]] = {}
    for prefix, part in module.named_modules():
        for owner in (part._parameters, part._buffers):
            for name, tensor in owner.items():
                if tensor is not None:
                    owners[f"{prefix}.{name}" if prefix else name] = (owner, name)
    return owners


def like(old: Tensor, new: Tensor) -> Tensor:
    """Return `new` in the kind of `old`: a parameter without gradient, or a buffer."""
    return nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new


# --- the streamer ------------------------------------------------------------------------------------


@dataclass
class _Slot:
    """A piece of the arena. holds: the block whose bytes are there, or on the way there."""

    memory: Tensor
    ready: LaneEvent
    free: LaneEvent
    holds: int | None = None
    views: dict[int, list[tuple[TensorOwner, str, Tensor]]] = field(default_factory=dict)


class BlockStreamer:
    """Copy some of `blocks`, which run in order, over and over, to `device` ahead of their use.

    source: knows the blocks that are streamed, by number; all others stay as they are. num_slots: blocks'
    worth of device memory. All slots have the size of the largest block.

    num_copied, bytes_copied: blocks and bytes brought to the device so far.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        source: BlockSource,
        *,
        device: torch.device,
        num_slots: int = 2,
    ) -> None:
        if num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, not {num_slots}")
        self.source, self.device = source, device
        self.order = sorted(source.layouts)
        self.num_copied = self.bytes_copied = 0
        # While gradients are computed: blocks are used from the last to the first, each until it is freed.
        self.backwards = False
        self.slot_bytes = max((layout.num_bytes for layout in source.layouts.values()), default=0)
        self.num_slots = min(num_slots, len(self.order))
        self._slots: list[_Slot] = []
        self._owners = {number: owners_of(blocks[number]) for number in self.order}
        self._homes = {number: self._home_views(number) for number in self.order}
        self._staging: list[tuple[HostMemory, Any]] = []
        self._next_staging = 0
        self.compute, self.copies = self._lanes()
        self._hooks = [hook for number in self.order for hook in self._watch(number, blocks[number])]
        for number in self.order:
            self._send_home(number)

    def _lanes(self) -> tuple[HostLane | CudaLane, Lane]:
        if self.device.type != "cuda":
            return HostLane(), ThreadLane()
        cuda_stream: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return CudaLane(), CudaLane(cuda_stream) if self.source.pinned else ThreadLane(cuda_stream)

    def _watch(self, number: int, block: nn.Module) -> list[Any]:
        return [
            block.register_forward_pre_hook(lambda *_: self._enter(number)),
            block.register_forward_hook(lambda *_: self._leave(number), always_call=True),
        ]

    def forget(self) -> None:
        """Copy every block again before its next use, after its home was changed."""
        for slot in self._slots:
            slot.holds = None

    def release(self) -> None:
        """Give the arena back until the next use."""
        for slot in self._slots:  # what is still being copied must not lose its memory
            slot.ready.issued.wait()
            if slot.ready.mark is not None:
                slot.ready.mark.synchronize()
        self._slots, self._staging = [], []

    def close(self) -> None:
        """Stop copying blocks; they keep the tensors of their homes."""
        for hook in self._hooks:
            hook.remove()
        self.release()
        self.copies.close()

    def managed(self) -> list[tuple[TensorOwner, str]]:
        """Return the streamed tensors, as owners and names in modules; the caller moves all others."""
        return [(owner, name) for bound in self._homes.values() for owner, name, _ in bound]

    @property
    def bytes_per_pass(self) -> int:
        """Return bytes copied each time all blocks run once; none if the slots hold them all."""
        return (
            0 if len(self.order) <= self.num_slots else sum(x.num_bytes for x in self.source.layouts.values())
        )

    @property
    def arena_bytes(self) -> int:
        """Return the device memory of the slots."""
        return self.num_slots * self.slot_bytes

    def _enter(self, number: int) -> None:
        slot = self._slot_of(number)
        if slot is None:
            slot = self._fetch_from(number)
        try:
            self.compute.wait(slot.ready)
        except Exception:
            self.forget()  # whatever else was asked for may have failed as well
            raise
        for owner, name, tensor in self._views(slot, number):
            owner[name] = tensor

    def _leave(self, number: int) -> None:
        if not self.backwards:
            self.free(number)

    def free(self, number: int) -> None:
        """Give up a block's place on the device for the one that follows; nothing for one that stays."""
        slot = self._slot_of(number)
        if slot is None:  # the block was never entered: its slot could not be filled
            return
        slot.free = self.compute.record()
        self._send_home(number)
        following = self._after(number, self.num_slots)
        if self._slot_of(following) is None:
            self._fill(slot, following)

    def _after(self, number: int, count: int) -> int:
        away = -count if self.backwards else count
        return self.order[(self.order.index(number) + away) % len(self.order)]

    def _slot_of(self, number: int) -> _Slot | None:
        return next((slot for slot in self._slots if slot.holds == number), None)

    def _fetch_from(self, number: int) -> _Slot:
        """Fill the slots from this block on: the first use, or one out of order."""
        if not self._slots:
            self._slots = [self._new_slot() for _ in range(self.num_slots)]
        wanted = [self._after(number, count) for count in range(self.num_slots)]
        spare = [slot for slot in self._slots if slot.holds not in wanted]
        for block in wanted:
            if self._slot_of(block) is None:
                self._fill(spare.pop(), block)
        slot = self._slot_of(number)
        assert slot is not None
        return slot

    def _new_slot(self) -> _Slot:
        with torch.inference_mode(False):
            memory = torch.empty(self.slot_bytes, dtype=torch.uint8, device=self.device)
        # Its memory may have been in use by work that the compute lane has not finished.
        return _Slot(memory, ready=HostLane().record(), free=self.compute.record())

    def _fill(self, slot: _Slot, number: int) -> None:
        layout = self.source.layouts[number]
        self.copies.wait(slot.free)
        self.copies.run(lambda: self._copy(number, layout, slot.memory))
        slot.ready, slot.holds = self.copies.record(), number
        self.num_copied += 1
        self.bytes_copied += layout.num_bytes

    def _copy(self, number: int, layout: BlockLayout, memory: Tensor) -> None:
        """Copy a block; runs on the copy lane."""
        if self.device.type == "cuda" and not self.source.pinned:
            self._copy_staged(number, layout, memory)
        else:
            self.source.read(number, memory)

    def _copy_staged(self, number: int, layout: BlockLayout, memory: Tensor) -> None:
        """Copy through one of two pinned buffers: one is read into while the other is copied from."""
        if not self._staging:
            self._staging = [(HostMemory(self.slot_bytes, self.device), None) for _ in range(2)]
        turn = self._next_staging
        self._next_staging = 1 - turn
        staging, copied = self._staging[turn]
        if copied is not None:
            copied.synchronize()  # the worker thread waits, not the host
        self.source.read(number, staging.bytes)
        memory[: layout.num_bytes].copy_(staging.bytes[: layout.num_bytes], non_blocking=True)
        self._staging[turn] = (staging, torch.cuda.current_stream().record_event())

    def _views(self, slot: _Slot, number: int) -> list[tuple[TensorOwner, str, Tensor]]:
        """Return what to put into the block's modules while it is in this slot; made once."""
        if number not in slot.views:
            slot.views[number] = self._bound(number, lambda packed: packed.view(slot.memory))
        return slot.views[number]

    def _home_views(self, number: int) -> list[tuple[TensorOwner, str, Tensor]]:
        """Return a block's tensors while it does not run: those of its home, or shapes without values."""
        memory = self.source.at_home(number)
        if memory is None:
            return self._bound(number, lambda p: torch.empty(p.shape, dtype=p.dtype, device="meta"))
        return self._bound(number, lambda packed: packed.view(memory))

    def _bound(
        self, number: int, tensor: Callable[[PackedTensor], Tensor]
    ) -> list[tuple[TensorOwner, str, Tensor]]:
        bound = []
        for packed in self.source.layouts[number].tensors:
            owner, name = self._owners[number][packed.key]
            bound.append((owner, name, like(owner[name], tensor(packed))))
        return bound

    def _send_home(self, number: int) -> None:
        for owner, name, tensor in self._homes[number]:
            owner[name] = tensor
