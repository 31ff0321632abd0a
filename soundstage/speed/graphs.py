"""A step's forward recorded as a CUDA graph: one launch by the host instead of eight thousand.

    recorded = record_steps(transformer, device, state)

A forward of new shapes runs as it is, which also warms all kernels up; the second is recorded, later ones are
replayed. Inputs are copied into the recording's own tensors, tables only when they have changed. All else
that a forward depends on is its key: shapes and number formats, which streams are enabled, guidance passes,
and `state`, the adapters that are on. A forward with a shortcut (step caches), with gradients, or whose
recording fails runs as it is.

Recordings hold addresses of memory, so they are only for weights that stay where they are, not for streamed
or moved ones.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from soundstage.model.transformer import ModalityInputs, Perturbation, RunTables, Shortcut, Transformer
from soundstage.speed.trials import switched_off

T = TypeVar("T")
Velocities = tuple[Tensor | None, Tensor | None]
# Recordings that are kept; each holds the memory of a forward's activations.
MOST = 2
SEEN_MOST = 64

log = logging.getLogger("soundstage.speed")


def record_steps(
    transformer: Transformer, device: torch.device, state: Callable[[], Hashable | None]
) -> Recorded | None:
    """Put recording on a transformer on a CUDA device; return None, and do nothing, elsewhere.

    transformer: its weights must stay where they are. state: see `Recorded`.
    """
    if device.type != "cuda" or switched_off():
        return None
    recorded = Recorded(transformer, CudaRecorder(device), state)
    transformer.__dict__["forward"] = recorded  # hides the class's own; hooks on the module still run
    return recorded


class Recorder(Protocol):
    """Run a function once while recording it; return its results and a function that computes them again."""

    def record(self, run: Callable[[], T]) -> tuple[T, Callable[[], object]]: ...


class CudaRecorder:
    """Record CUDA graphs. shared: all in one pool of memory; of such functions one runs at a time."""

    def __init__(self, device: torch.device, *, shared: bool = False) -> None:
        self.device = device
        self._pool: Any = torch.cuda.graph_pool_handle() if shared else None  # type: ignore[no-untyped-call]

    def record(self, run: Callable[[], T]) -> tuple[T, Callable[[], object]]:
        with torch.cuda.device(self.device):
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize(self.device)
            # Other threads, such as one that writes a file, may use the device meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                made = run()
        return made, graph.replay


@dataclass
class _Recording:
    """Hold a recorded forward.

    inputs: the recording's own tensors. given: (tensor, version) last copied into each, for the tables."""

    inputs: list[Tensor]
    given: list[tuple[Tensor, int] | None]
    made: Velocities
    replay: Callable[[], object]


class Recorded:
    """Replay the forward of a transformer where that is possible.

    state: returns the state of the adapters that a forward depends on; None if it cannot be recorded now.
    num_replayed: forwards that were replayed so far.
    """

    def __init__(
        self, transformer: Transformer, recorder: Recorder, state: Callable[[], Hashable | None]
    ) -> None:
        self._plain, self._prepare = transformer.forward, transformer.prepare
        self._recorder, self._state = recorder, state
        self._recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        self._seen: OrderedDict[Hashable, bool] = OrderedDict()  # and whether it can be recorded
        self.num_replayed = 0

    def __call__(
        self,
        video: ModalityInputs | None,
        audio: ModalityInputs | None,
        *,
        perturbation: Perturbation | Sequence[Perturbation] | None = None,
        tables: RunTables | None = None,
        shortcut: Shortcut | None = None,
    ) -> Velocities:
        """Return what Transformer.forward does."""
        tables = tables or self._prepare(video, audio)
        tree = (video, audio, tables)
        inputs, state = list(_tensors(tree)), self._state()
        if shortcut is not None or state is None or not _recordable(inputs):
            return self._plain(video, audio, perturbation=perturbation, tables=tables, shortcut=shortcut)
        key = (_form(tree), repr(perturbation), state)
        recording = self._recordings.get(key)
        if recording is None and not self._may_record(key):
            return self._plain(video, audio, perturbation=perturbation, tables=tables)
        if recording is None:
            recording = self._record(key, tree, perturbation)
            if recording is None:
                return self._plain(video, audio, perturbation=perturbation, tables=tables)
        self._recordings.move_to_end(key)
        return self._replayed(recording, inputs)

    def forget(self) -> None:
        """Drop all recordings and their memory."""
        self._recordings.clear()
        self._seen.clear()

    def _may_record(self, key: Hashable) -> bool:
        """Return whether a forward of this kind has run before, so that all its kernels are ready."""
        if key in self._seen:
            return self._seen[key]
        self._seen[key] = True
        while len(self._seen) > SEEN_MOST:
            self._seen.popitem(last=False)
        return False

    def _record(self, key: Hashable, tree: Any, perturbation: Any) -> _Recording | None:
        while len(self._recordings) >= MOST:
            self._recordings.popitem(last=False)
        try:
            inputs = [x.clone() for x in _tensors(tree)]
            video, audio, tables = _rebuilt(tree, iter(inputs))
            made, replay = self._recorder.record(
                lambda: self._plain(video, audio, perturbation=perturbation, tables=tables)
            )
        except Exception as error:  # of a kernel, a driver or memory: the plain way remains
            log.debug("a step is not recorded: %s: %s", type(error).__name__, error)
            self._seen[key] = False
            return None
        self._recordings[key] = _Recording(inputs, [None] * len(inputs), made, replay)
        return self._recordings[key]

    def _replayed(self, recording: _Recording, inputs: Sequence[Tensor]) -> Velocities:
        for i, (own, given) in enumerate(zip(recording.inputs, inputs, strict=True)):
            version = -1 if given.is_inference() else given._version
            last = recording.given[i]
            if last is None or version < 0 or last[0] is not given or last[1] != version:
                own.copy_(given)
                recording.given[i] = (given, version)
        recording.replay()
        self.num_replayed += 1
        video, audio = recording.made
        return None if video is None else video.clone(), None if audio is None else audio.clone()


def _recordable(inputs: Sequence[Tensor]) -> bool:
    """Return whether all inputs are on one device, without gradients and autocast."""
    devices = {x.device for x in inputs}
    watched = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    return len(devices) == 1 and not watched and not torch.is_autocast_enabled(next(iter(devices)).type)


# --- tensors within dataclasses and tuples ---------------------------------------------------------------


def _parts(tree: Any) -> list[Any] | None:
    """Return the parts of a node, None for a leaf."""
    if is_dataclass(tree) and not isinstance(tree, type):
        return [getattr(tree, field.name) for field in fields(tree)]
    return list(tree) if isinstance(tree, tuple | list) else None


def _tensors(tree: Any) -> Iterator[Tensor]:
    parts = _parts(tree)
    if isinstance(tree, Tensor):
        yield tree
    for part in parts or ():
        yield from _tensors(part)


def _form(tree: Any) -> str:
    """Return all of a tree but its tensors' values, as a string."""
    if isinstance(tree, Tensor):
        return f"{tuple(tree.shape)} {tree.dtype} {tree.device}"
    parts = _parts(tree)
    inner = repr(tree) if parts is None else ", ".join(_form(part) for part in parts)
    return f"{type(tree).__name__}({inner})"


def _rebuilt(tree: Any, tensors: Iterator[Tensor]) -> Any:
    """Return the tree with its tensors exchanged, in order."""
    if isinstance(tree, Tensor):
        return next(tensors)
    parts = _parts(tree)
    if parts is None:
        return tree
    made = [_rebuilt(part, tensors) for part in parts]
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{field.name: x for field, x in zip(fields(tree), made, strict=True)})
    return type(tree)(*made) if hasattr(tree, "_fields") else type(tree)(made)
