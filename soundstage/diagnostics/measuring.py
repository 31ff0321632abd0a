"""Time runs on a device, measure the memory that they take, and cap it."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def median_seconds(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Return the median seconds of `repeats` runs, after one untimed run."""
    run()
    found = []
    for _ in range(repeats):
        wait_for(device)
        start = time.perf_counter()
        run()
        wait_for(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def capped(device: torch.device, num_bytes: float | None) -> Iterator[None]:
    """Let PyTorch allocate at most this much of a CUDA device within the block; None sets no cap."""
    if num_bytes is None:
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


class Meter:
    """Measure the peak memory since it was made.

    On a CUDA device this is the allocator's peak; on a CPU, what the process has grown by (Linux only).
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._before = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
            self._before = _status_bytes("VmRSS:")

    def peak(self) -> int | None:
        """Return the peak in bytes; None where the system does not say."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _status_bytes("VmHWM:") - self._before if sys.platform == "linux" else None


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
