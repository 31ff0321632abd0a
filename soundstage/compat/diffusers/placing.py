"""Place a pipeline's model in diffusers' words: each makes the engine anew, which reads weights late."""

from __future__ import annotations

from typing import Any

from soundstage.compat.diffusers.telling import Notices
from soundstage.engine import Engine
from soundstage.errors import RequestError, shown
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

    def to(
        self,
        *values: Any,
        device: Any = None,
        dtype: Any = None,
        non_blocking: bool = False,
        silence_dtype_warnings: bool = False,
    ) -> Any:
        """Place the model on a device, in a dtype; return the pipeline. values: either, in any order."""
        for value in values:
            if "torch." in str(value) or "float" in str(value):
                dtype = value
            else:
                device = value
        given = {"device": None if device is None else device_name(device), "dtype": dtype}
        self.place(**{key: value for key, value in given.items() if value is not None})
        return self

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """Have one part at a time on the device."""
        self._offload("offload", gpu_id, device)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """Stream the transformer's blocks from host memory."""
        self._offload("stream", gpu_id, device)

    def enable_group_offload(
        self,
        onload_device: Any = None,
        offload_device: Any = "cpu",
        offload_type: str = "block_level",
        num_blocks_per_group: int | None = None,
        non_blocking: bool = False,
        use_stream: bool = False,
        record_stream: bool = False,
        low_cpu_mem_usage: bool = False,
        offload_to_disk_path: Any = None,
        exclude_modules: Any = None,
    ) -> None:
        """Stream the transformer's blocks from host memory, or from disk with offload_to_disk_path.

        The engine chooses groups and streams by itself: the other words only have to be diffusers'.
        """
        if offload_type not in ("block_level", "leaf_level"):
            raise RequestError(
                f"offload_type is {shown(offload_type)}; give 'block_level' or 'leaf_level'",
                field="offload_type",
            )
        self._offload("stream" if offload_to_disk_path is None else "disk", None, onload_device)

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
        given = device_name(device) if device is not None else None if gpu_id is None else f"cuda:{gpu_id}"
        options = {} if given is None else {"device": given}
        name = pick_device(options.get("device", self.engine.options["device"]))
        if kind_of(name) == "cpu":
            self.notices.tell("offloading has no effect: the model runs on the CPU, where its weights are")
            residency = "auto"
        self.place(**options, residency=residency)


def device_name(device: Any) -> str:
    """Return a device as the engine takes it; a number is a CUDA device."""
    if isinstance(device, bool):
        raise RequestError(f"device is {device}; give a name such as 'cuda'", field="device")
    return f"cuda:{device}" if isinstance(device, int) else str(device)
