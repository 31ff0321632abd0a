"""Place a pipeline's model in diffusers' words: each makes the engine anew, which reads weights late."""

from __future__ import annotations

from typing import Any

from soundstage.compat.diffusers.telling import Notices
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.memory.machine import kind_of, pick_device


class PipelinePlacement:
    """The engine of a pipeline, and where it has its weights."""

    def __init__(self, engine: Engine, notices: Notices) -> None:
        self.engine = engine
        self.notices = notices
        self.source: Any = None  # what from_pretrained was given

    def place(self, **options: Any) -> None:
        """Change options of the engine; one that has loaded its weights loads them again where it must.

        Raises RequestError for a device or dtype that is not there.
        """
        changed = {**self.engine.options, **options}
        if changed != self.engine.options:
            self.engine = Engine(self.engine.model, **changed)

    def to(self, *values: Any, device: Any = None, dtype: Any = None, **ignored: Any) -> Any:
        """Place the model on a device, in a dtype; return the pipeline. values: either, in any order."""
        for value in values:
            if "float" in str(value):
                dtype = value
            else:
                device = value
        given = {"device": None if device is None else _name(device), "dtype": dtype}
        self.place(**{key: value for key, value in given.items() if value is not None})
        return self

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """Have one part at a time on the device."""
        self._offload("offload", gpu_id, device)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """Stream the transformer's blocks from host memory."""
        self._offload("stream", gpu_id, device)

    def enable_group_offload(
        self, onload_device: Any = None, offload_device: Any = "cpu", *values: Any, **words: Any
    ) -> None:
        """Stream the transformer's blocks from host memory, or from disk with offload_to_disk_path."""
        self._offload("disk" if words.get("offload_to_disk_path") else "stream", None, onload_device)

    def remove_all_hooks(self) -> None:
        """Leave it to the engine again where weights are."""
        self.place(residency="auto")

    reset_device_map = remove_all_hooks

    def maybe_free_model_hooks(self) -> None:
        """Do nothing: memory is given back by itself."""

    @property
    def device(self) -> Any:
        """Return the device, as PyTorch has it."""
        import torch

        return torch.device(pick_device(self.engine.options["device"]))

    @property
    def dtype(self) -> Any:
        """Return the dtype, as PyTorch has it."""
        import torch

        return getattr(torch, self.engine.number_format.name)

    def _offload(self, residency: str, gpu_id: int | None, device: Any) -> None:
        given = _name(device) if device is not None else None if gpu_id is None else f"cuda:{gpu_id}"
        options = {} if given is None else {"device": given}
        name = pick_device(options.get("device", self.engine.options["device"]))
        if kind_of(name) == "cpu":
            self.notices.tell("offloading has no effect: the model runs on the CPU, where its weights are")
            residency = "auto"
        self.place(**options, residency=residency)


def _name(device: Any) -> str:
    """Return a device as the engine takes it; a number is a CUDA device."""
    if isinstance(device, bool):
        raise RequestError(f"device is {device}; give a name such as 'cuda'", field="device")
    return f"cuda:{device}" if isinstance(device, int) else str(device)
