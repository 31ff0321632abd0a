"""Build the parts of a model from its files, and put each where a residency has it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from soundstage.library.model_files import ModelSet
from soundstage.memory.offload import (
    OffloadedFile,
    OffloadedModule,
    OffloadManager,
    StreamedBlocks,
    stream_from_files,
)
from soundstage.memory.policy import Residency
from soundstage.speed import cuda, onednn
from soundstage.weights.configs import model_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import Part, PartTensors, find_parts
from soundstage.weights.load import builder, load_part, open_part
from soundstage.weights.storage import Storage, check_storage

log = logging.getLogger("soundstage.rendering")
Module = TypeVar("Module", bound=nn.Module)


class PartBuilder:
    """Builds parts, and has an offload manager move them if the residency says so.

    tensors: where each part's weights are in the files. config: the model's, from the headers. manager: has
    one part at a time on the device. Raises WeightsError or ConfigError for files that are not one LTX-2.3
    model, RequestError for storage "stored" with files that are not 8-bit.
    """

    def __init__(
        self,
        model: ModelSet,
        device: torch.device,
        dtype: torch.dtype,
        residency: Residency,
        storage: Storage,
    ) -> None:
        self.device, self.dtype = device, dtype
        self.manager = OffloadManager()
        files = [read_header(path) for path in model.weights_files]
        self.tensors = find_parts(files)
        check_storage(self.tensors.get("transformer", {}), storage)
        self.config = model_config(files)
        self.in_files = residency.policy == "disk"
        # On the CPU what is streamed is beside the rest, in the same memory: the rest has nowhere to go.
        self.moves = residency.policy == "offload" or (residency.policy == "stream" and device.type == "cuda")

    @property
    def home(self) -> torch.device:
        """Return the device that a part is built on."""
        return torch.device("cpu") if self.moves else self.device

    def opened(self, part: Part) -> tuple[nn.Module, PartTensors]:
        """Return a part without weights, and where its weights are.

        Raises WeightsError or ConfigError if the files do not fit it.
        """
        return open_part(builder(part, self.tensors, self.config), self.tensors, part)

    def load(
        self, part: Part, kind: type[Module], dtype: torch.dtype | None = None, storage: Storage = "full"
    ) -> Module:
        """Return a part with its weights; without them where they are read from files for each use."""
        build = builder(part, self.tensors, self.config)
        if self.in_files:
            module, _ = open_part(build, self.tensors, part)
        else:
            place: dict[str, Any] = {"dtype": dtype or self.dtype, "device": self.home}
            with logged_time(part):
                module = load_part(build, self.tensors, part, storage=storage, **place)
        assert isinstance(module, kind)
        return module

    def stream(
        self,
        module: nn.Module,
        tensors: PartTensors,
        blocks: str,
        residency: Residency,
        storage: Storage = "full",
    ) -> StreamedBlocks:
        """Return a module whose blocks are copied to the device ahead of their use, out of its files."""
        place: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        log.info("%s of a %s are streamed, policy %s", blocks, type(module).__name__, residency.policy)
        return stream_from_files(module, tensors, blocks, residency, storage=storage, **place)

    def manage(
        self,
        name: str,
        module: nn.Module,
        stored: PartTensors,
        *,
        calls: nn.Module | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Have the manager move a part, if parts move, or read it from its files for each use.

        calls: the module whose call brings the part to the device.
        """
        if self.in_files:
            offloaded = OffloadedFile(module, stored, dtype or self.dtype, self.device)
            self.manager.add(name, offloaded, calls=calls)
        elif self.moves:
            self.manager.add(name, OffloadedModule([module], self.device), calls=calls)

    def speed_up(self, module: nn.Module) -> None:
        """Put on a part what is faster on this device."""
        if self.device.type == "cpu":
            taken = sorted(onednn.apply(module, self.dtype))
        else:
            taken = [*cuda.speed_up(module, self.device, self.dtype)]
        log.info("fast paths of %s: %s", type(module).__name__, ", ".join(taken) or "none")


@contextmanager
def logged_time(part: str) -> Iterator[None]:
    """Log how long a part takes to be read."""
    began = time.perf_counter()
    yield
    log.info("%s is read in %.2f s", part, time.perf_counter() - began)
