"""A module whose blocks are streamed from files, placed as a model's parts place it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from soundstage.memory.offload import OffloadedFile, StreamedBlocks, stream_from_files
from soundstage.memory.policy import Residency
from soundstage.weights.layouts import Part, PartTensors
from soundstage.weights.load import open_part

Module = TypeVar("Module", bound=nn.Module)


def load_streamed(
    build: Callable[[], Module],
    parts: Mapping[Part, PartTensors],
    part: Part,
    residency: Residency,
    *,
    blocks: str = "transformer_blocks",
    **place: Any,
) -> tuple[Module, StreamedBlocks]:
    """Return a module, ready to run, and what streams its blocks. place: of `stream_from_files`."""
    module, tensors = open_part(build, parts, part)
    placed = stream_from_files(module, tensors, blocks, residency, **place)
    if isinstance(placed.rest, OffloadedFile):
        placed.rest.arrive()
    return module, placed
