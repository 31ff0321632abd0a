"""Move a part's weights to the device for its use and away after it: policies, applied from outside.

    resident   on the device, always
    offload    in host memory; whole parts move to the device for their turn and leave
    stream     the transformer's blocks in host memory, copied to the device ahead of their use
    disk       in the files; parts are read for their turn, the transformer's blocks at every step
    (planning/placement.py chooses one; a `Residency` says which)

A part that is not resident leaves the device without a copy back: its weights never changed, so the host's
are still there. What moves does not change a bit, so a seed gives the same clip under every policy.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from soundstage.memory.disk import CPU, DiskSource, is_kept_as_stored, rounded_values
from soundstage.memory.policy import Residency, spread_evenly
from soundstage.memory.stream import (
    BlockLayout,
    BlockSource,
    BlockStreamer,
    HostMemory,
    HostSource,
    TensorOwner,
    like,
    owners_of,
)
from soundstage.model.attention import FeedForward
from soundstage.weights.layouts import PartTensors, StoredTensor
from soundstage.weights.load import eight_bit_layers
from soundstage.weights.quantize import FORMAT_DTYPES, Quantized, QuantizedLinear, from_stored, put, scale_of
from soundstage.weights.read import TensorReader
from soundstage.weights.storage import EightBit, Storage

log = logging.getLogger("soundstage.memory")
TABLES = "scale_shift_table"  # kept in float32, as load.assign does


# --- whole parts -------------------------------------------------------------------------------------


class OffloadedModule:
    """Tensors that are on the device for their turn and in host memory between turns.

    modules: built on the CPU, where their tensors then have their home, or on the device, in which case a
    home is made when they first leave. skip: tensors that a `BlockStreamer` moves, by `identity`.
    pin: move a home on the CPU into pinned memory; without it a file that is mapped stays mapped and costs
    no memory, at a slower copy. bytes_copied: to the device, so far.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        device: torch.device,
        *,
        here: bool = False,
        pin: bool = True,
        skip: frozenset[tuple[int, str]] = frozenset(),
    ) -> None:
        self.device, self.bytes_copied = device, 0
        self._here = here
        self._slots = [
            (owner, name)
            for module in modules
            for owner, name in owners_of(module).values()
            if identity(owner, name) not in skip
        ]
        self.num_bytes = sum(owner[name].nbytes for owner, name in self._slots)
        self._memory: HostMemory | None = None
        self._home: list[Tensor] | None = None
        if not here:
            self._home = [owner[name] for owner, name in self._slots]
            if pin and device.type == "cuda":
                self._make_home()

    def arrive(self) -> None:
        """Copy the tensors to the device; nothing if they are there."""
        if self._here:
            return
        assert self._home is not None
        for (owner, name), tensor in zip(self._slots, self._home, strict=True):
            owner[name] = like(tensor, tensor.detach().to(self.device, non_blocking=True, copy=True))
        self.bytes_copied += self.num_bytes
        self._here = True

    def leave(self) -> None:
        """Take the tensors off the device. Only the first time copies them to the host."""
        if not self._here:
            return
        if self._home is None:
            self._make_home()
        assert self._home is not None
        for (owner, name), tensor in zip(self._slots, self._home, strict=True):
            owner[name] = tensor
        self._here = False

    def _make_home(self) -> None:
        """Copy all tensors, wherever they are, into one piece of host memory; one of them exists twice."""
        found = [(owner, name, owner[name].detach()) for owner, name in self._slots]
        layout = BlockLayout.packed((name, t.dtype, tuple(t.shape)) for _, name, t in found)
        self._memory = HostMemory(layout.num_bytes, self.device)
        self._home = []
        while found:
            owner, name, tensor = found.pop(0)
            view = layout.tensors[len(self._home)].view(self._memory.bytes)
            view.copy_(tensor)
            self._home.append(like(owner[name], view))
            if not self._here:
                owner[name] = self._home[-1]


class OffloadedFile:
    """A module whose home is its files: its weights are read when it arrives and forgotten when it leaves.

    module: on the meta device, known to fit. tensors: where its keys are stored. dtype: as for `load_part`.
    skip: tensors that a `BlockStreamer` moves, by `identity`. num_bytes_read: from files, so far.
    """

    def __init__(
        self,
        module: nn.Module,
        tensors: PartTensors,
        dtype: torch.dtype,
        device: torch.device,
        *,
        skip: frozenset[tuple[int, str]] = frozenset(),
    ) -> None:
        self.num_bytes_read = 0
        self._device, self._here = device, False
        self._slots = [
            (owner, name, tensors[key], _kept_dtype(key, owner[name], dtype))
            for key, (owner, name) in owners_of(module).items()
            if key in tensors and identity(owner, name) not in skip
        ]
        self.num_bytes = sum(
            math.prod(owner[name].shape) * kept.itemsize for owner, name, _, kept in self._slots
        )
        self._forget()

    def arrive(self) -> None:
        if self._here:
            return
        with TensorReader() as files:
            for owner, name, stored, kept in self._slots:
                owner[name] = like(owner[name], _read(files, stored, kept).to(self._device))
                self.num_bytes_read += stored.entry.num_bytes
        self._here = True

    def leave(self) -> None:
        if self._here:
            self._forget()
            self._here = False

    def _forget(self) -> None:
        """Drop the values; shapes and dtypes stay, for code that looks at them before the part arrives."""
        for owner, name, _, kept in self._slots:
            owner[name] = like(owner[name], torch.empty(owner[name].shape, dtype=kept, device="meta"))


def identity(owner: TensorOwner, name: str) -> tuple[int, str]:
    """Return a key for one tensor of one module, valid while the module lives."""
    return id(owner), name


class StreamedBlocks:
    """A module whose blocks are streamed; its other tensors move as those of an offloaded module do."""

    def __init__(
        self, streamer: BlockStreamer, rest: OffloadedModule | OffloadedFile, disk: DiskSource | None = None
    ) -> None:
        self.streamer, self.rest, self._disk = streamer, rest, disk

    @property
    def num_bytes_read(self) -> int:
        """Return bytes of weights read from files so far; 0 for a module that was built before."""
        sources = [self._disk, self.rest if isinstance(self.rest, OffloadedFile) else None]
        return sum(int(source.num_bytes_read) for source in sources if source is not None)

    @property
    def num_bytes(self) -> int:
        rest: int = self.rest.num_bytes
        return rest + self.streamer.arena_bytes

    def arrive(self) -> None:
        self.rest.arrive()

    def leave(self) -> None:
        self.streamer.release()
        self.rest.leave()


class OffloadManager:
    """Have one part on the device at a time: one that is used arrives, and the one before leaves.

    A recipe of two passes moves its transformer once. present: the name of the part that is there.
    """

    def __init__(self) -> None:
        self.present: str | None = None
        self._offloaded: dict[str, OffloadedModule | OffloadedFile | StreamedBlocks] = {}
        self._hooks: dict[str, Any] = {}

    def add(
        self,
        name: str,
        offloaded: OffloadedModule | OffloadedFile | StreamedBlocks,
        *,
        calls: nn.Module | None = None,
    ) -> None:
        """Add a part. calls: a module whose forward has the part arrive first; None leaves it to `bring`."""
        self.remove(name)
        self._offloaded[name] = offloaded
        if calls is not None:
            self._hooks[name] = calls.register_forward_pre_hook(lambda *_: self.bring(name))

    def remove(self, name: str) -> None:
        """Forget a part, home and all; nothing if it is not known."""
        self._offloaded.pop(name, None)
        hook = self._hooks.pop(name, None)
        if hook is not None:
            hook.remove()
        if self.present == name:
            self.present = None

    def streamer(self, name: str) -> BlockStreamer | None:
        """Return what streams a part's blocks; None for a part whose blocks stay where they are."""
        offloaded = self._offloaded.get(name)
        return offloaded.streamer if isinstance(offloaded, StreamedBlocks) else None

    def close(self, *, but: str | None = None) -> None:
        """Forget all parts, or all but one, and stop streaming those that are streamed."""
        for name, offloaded in list(self._offloaded.items()):
            if name == but:
                continue
            self.remove(name)
            if isinstance(offloaded, StreamedBlocks):
                offloaded.streamer.close()

    def bring(self, name: str) -> None:
        """Have a part arrive; nothing for one not added."""
        if name not in self._offloaded:
            return
        if self.present not in (None, name):
            self._offloaded[self.present].leave()
        if self.present != name:
            log.debug("%s arrives on the device", name)
        self._offloaded[name].arrive()
        self.present = name


# --- streamed blocks ---------------------------------------------------------------------------------


def stream_blocks(
    module: nn.Module, blocks: Sequence[nn.Module], residency: Residency, device: torch.device
) -> StreamedBlocks:
    """Apply the policy "stream" to a module built on the CPU, of any dtype and quantization.

    Blocks move to their homes one at a time; the rest moves to the device at once.
    """
    source = HostSource(device)
    for number in streamed_numbers(len(blocks), residency):
        source.take(number, blocks[number])
    return place_blocks(module, blocks, source, residency, device)


def stream_from_files(
    module: nn.Module,
    tensors: PartTensors,
    blocks: str,
    residency: Residency,
    *,
    dtype: torch.dtype,
    device: torch.device,
    storage: Storage = "full",
) -> StreamedBlocks:
    """Have the blocks of a module that is on the meta device streamed, from host memory or from its files.

    Under the policy "disk" nothing is read yet; what is not streamed is when the module arrives.
    """
    with TensorReader() as files:
        # What has no place in a block's bytes must be where it is used, if nothing else brings it there.
        _quantize_structure(module, tensors, files, storage, device if residency.policy == "disk" else CPU)
        listed = list(cast(nn.ModuleList, module.get_submodule(blocks)))
        numbers = streamed_numbers(len(listed), residency)
        layouts = {n: BlockLayout.of(listed[n], lambda key, t: _kept_dtype(key, t, dtype)) for n in numbers}
        disk = DiskSource(layouts, {n: below(tensors, f"{blocks}.{n}.") for n in numbers})
        if residency.policy == "disk":
            streamer = BlockStreamer(listed, disk, device=device, num_slots=residency.num_slots)
            rest = OffloadedFile(module, tensors, dtype, device, skip=_managed(streamer))
            return StreamedBlocks(streamer, rest, disk)
        streamed = {f"{blocks}.{n}.{packed.key}" for n in numbers for packed in layouts[n].tensors}
        disk.num_bytes_read += _fill_rest(module, tensors, files, streamed, dtype)
    host = HostSource(device)
    for n in numbers:
        disk.read(n, host.reserve(n, layouts[n]))
    placed = place_blocks(module, listed, host, residency, device)
    return StreamedBlocks(placed.streamer, placed.rest, disk)


def _quantize_structure(
    module: nn.Module, tensors: PartTensors, files: TensorReader, storage: Storage, device: torch.device
) -> None:
    """Give layers that are held in 8 bits their module and, on a device, their scales; values come later.

    The scales of a weight that is rounded at load need a first reading of it.
    """
    for name, how in eight_bit_layers(module, tensors, storage).items():
        bias = module.get_submodule(name).bias
        put(module, name, _without_values(files, tensors[f"{name}.weight"], how, bias, device))


def _without_values(
    files: TensorReader, stored: StoredTensor, how: EightBit, bias: Any, device: torch.device
) -> QuantizedLinear:
    values = torch.empty(stored.entry.shape, dtype=FORMAT_DTYPES[how.format], device="meta")
    if not how.kept:
        scale = scale_of(files.value(stored, torch.float32, CPU), how.format).to(device)
        return QuantizedLinear(Quantized(values, scale), bias, native=how.native)
    found, of_input = files.scale(stored), stored.sidecars.get("input_scale")
    scale = (torch.ones(1, 1) if found is None else found).to(device)  # a plain cast has none
    input_scale = (
        None if of_input is None else files.raw(stored.path, *of_input).float().reshape(()).to(device)
    )
    return from_stored(values, scale, bias, input_scale=input_scale, native=how.native, name=stored.name)


def place_blocks(
    module: nn.Module,
    blocks: Sequence[nn.Module],
    source: BlockSource,
    residency: Residency,
    device: torch.device,
) -> StreamedBlocks:
    """Stream the blocks that a source knows. The rest, if it is not on the device, comes by `arrive`."""
    streamer = BlockStreamer(blocks, source, device=device, num_slots=residency.num_slots)
    skip = _managed(streamer)
    rest = [o[n] for o, n in owners_of(module).values() if identity(o, n) not in skip]
    here = all(tensor.device.type == device.type for tensor in rest)
    return StreamedBlocks(streamer, OffloadedModule([module], device, here=here, skip=skip))


def _managed(streamer: BlockStreamer) -> frozenset[tuple[int, str]]:
    return frozenset(identity(owner, name) for owner, name in streamer.managed())


def streamed_numbers(num_blocks: int, residency: Residency) -> list[int]:
    kept = spread_evenly(residency.resident_blocks, num_blocks)
    return [number for number in range(num_blocks) if number not in kept]


def _kept_dtype(key: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    if tensor.dtype.itemsize == 1:
        return tensor.dtype
    return torch.float32 if TABLES in key else dtype


def below(tensors: PartTensors, prefix: str) -> dict[str, StoredTensor]:
    """Return the tensors of a submodule, by the keys it has itself."""
    return {key.removeprefix(prefix): stored for key, stored in tensors.items() if key.startswith(prefix)}


def _fill_rest(
    module: nn.Module, tensors: PartTensors, files: TensorReader, streamed: set[str], dtype: torch.dtype
) -> int:
    """Read what is not streamed and not there; return the bytes read."""
    num_bytes = 0
    for key, (owner, name) in owners_of(module).items():
        if key in tensors and key not in streamed:
            stored = tensors[key]
            value = _read(files, stored, _kept_dtype(key, owner[name], dtype))
            owner[name] = like(owner[name], value)
            num_bytes += stored.entry.num_bytes
    return num_bytes


def _read(files: TensorReader, stored: StoredTensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor on the CPU; one that is held in 8 bits as stored, or rounded."""
    if is_kept_as_stored(stored, dtype):
        return files.raw(stored.path, stored.name, stored.entry)
    return rounded_values(files, stored, dtype) if dtype.itemsize == 1 else files.value(stored, dtype, CPU)


# --- feed-forward in pieces --------------------------------------------------------------------------


def chunk_feed_forward(module: nn.Module, num_tokens: int | None) -> int:
    """Have every feed-forward of a module take at most this many tokens at a time; None undoes it.

    The widened tokens, four times the width and twice that on the way, are the largest activation of a
    block. Each token is computed on its own, so the result is the whole one's up to the rounding of products
    of another shape. Returns the number of feed-forwards found.
    """
    if num_tokens is not None and num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1, not {num_tokens}")
    found = [part for part in module.modules() if isinstance(part, FeedForward)]
    for part in found:
        part.__dict__.pop("forward", None)
        if num_tokens is not None:
            part.__dict__["forward"] = _InPieces(part, num_tokens)
    return len(found)


class _InPieces:
    """Compute a feed-forward in pieces. rows: the tokens that are computed now, None for all."""

    def __init__(self, part: FeedForward, num_tokens: int) -> None:
        self.part, self.num_tokens = part, num_tokens
        self.rows: slice | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1] <= self.num_tokens:
            return self.part.net(x)  # type: ignore[no-any-return]
        out = torch.empty_like(x)
        try:
            for start in range(0, x.shape[1], self.num_tokens):
                self.rows = slice(start, start + self.num_tokens)
                out[:, self.rows] = self.part.net(x[:, self.rows])
        finally:
            self.rows = None
        return out
