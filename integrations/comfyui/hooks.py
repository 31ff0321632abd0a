"""What ComfyUI offers a node while it runs: progress bar, previews, stop button, memory, folders."""

from __future__ import annotations

import importlib
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger("soundstage.comfyui")

BAR = 1000  # parts of the progress bar
PREVIEW_SIDE = 512  # pixels


class Progress:
    """Shows how far a node is, with previews, and ends it when the user presses stop."""

    def __init__(self) -> None:
        self._bar = importlib.import_module("comfy.utils").ProgressBar(BAR)
        self._memory = importlib.import_module("comfy.model_management")

    def show(self, fraction: float, picture: Any = None) -> None:
        """Move the bar, and show a PIL picture if there is one. Raises ComfyUI's own exception for a stop."""
        self.check()
        preview = None if picture is None else ("JPEG", picture, PREVIEW_SIDE)
        self._bar.update_absolute(round(fraction * BAR), BAR, preview)

    def check(self) -> None:
        """Raise ComfyUI's own exception where the user has pressed stop."""
        self._memory.throw_exception_if_processing_interrupted()


def free_memory() -> None:
    """Ask ComfyUI to give the device's memory back, which its own models hold."""
    memory = importlib.import_module("comfy.model_management")
    memory.unload_all_models()
    memory.soft_empty_cache()


def missing() -> Any:
    """Return the output of a modality that was not made: nodes behind it are left out."""
    return importlib.import_module("comfy_execution.graph_utils").ExecutionBlocker(None)


def lora_names() -> list[str]:
    """Return the names of ComfyUI's LoRA files."""
    names: list[str] = importlib.import_module("folder_paths").get_filename_list("loras")
    return names


def lora_path(name: str) -> str:
    """Return the file of one of ComfyUI's LoRAs, or the name itself where it is a path."""
    found = importlib.import_module("folder_paths").get_full_path("loras", name)
    return found or name


def input_path(name: str) -> str:
    """Return a file of ComfyUI's input folder, or the name itself where it is a full path."""
    if Path(name).is_absolute():
        return name
    return os.fspath(Path(importlib.import_module("folder_paths").get_input_directory()) / name)
