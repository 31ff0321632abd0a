"""Share what every benchmark needs: timing, operation counts, peak memory, isolation, a table.

A benchmark is a function that builds one implementation and calls `measure`; `isolated` runs it in a process
of its own, so that its peak memory is its own. `report` sets the measurements beside the machine's peak.
Operations are counted by PyTorch's own counter (convolutions and matrix products, two per multiply-add) on
meta tensors, so counting costs nothing and needs no weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from soundstage.diagnostics.measuring import wait_for

P = ParamSpec("P")
T = TypeVar("T")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAMPLED_VALUES = 4096


@dataclass(frozen=True)
class Measurement:
    """The measurement of one implementation in one number format."""

    name: str
    dtype: str
    seconds: float  # median of the timed runs
    flops: int  # operations of one run
    peak_bytes: int  # most memory the process, or the CUDA device, held, weights included
    weight_bytes: int
    sample: tuple[float, ...]  # values spread evenly over the output, to compare

    @property
    def gflops_per_s(self) -> float:
        return self.flops / self.seconds / 1e9


def measure(
    name: str, model: nn.Module, run: Callable[[], Tensor], *, flops: int, repeats: int, warmup: int
) -> Measurement:
    """Time `run` after `warmup` untimed calls, on the device and in the dtype of the first parameter."""
    first = next(model.parameters())
    with torch.inference_mode():
        for _ in range(warmup):
            run()
        timed = [_timed(run, first.device) for _ in range(repeats)]
    return Measurement(
        name=name,
        dtype=str(first.dtype).removeprefix("torch."),
        seconds=statistics.median(seconds for seconds, _ in timed),
        flops=flops,
        peak_bytes=_peak_bytes(first.device),
        weight_bytes=sum(t.numel() * t.element_size() for t in model.state_dict().values()),
        sample=_spread(timed[-1][1]),
    )


def _timed(run: Callable[[], Tensor], device: torch.device) -> tuple[float, Tensor]:
    wait_for(device)
    start = time.perf_counter()
    out = run()
    wait_for(device)
    return time.perf_counter() - start, out


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # Linux reports KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _spread(out: Tensor) -> tuple[float, ...]:
    flat = out.detach().flatten()
    step = max(1, flat.numel() // SAMPLED_VALUES)
    return tuple(flat[::step][:SAMPLED_VALUES].float().tolist())


def count_flops(build: Callable[[], nn.Module], *inputs: tuple[int, ...]) -> int:
    """Count the operations of one forward pass on inputs of these shapes, without computing it."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build()(*(torch.empty(shape) for shape in inputs))
    return int(counter.get_total_flops())


def random_state(module: nn.Module, dtype: torch.dtype, device: str, seed: int = 0) -> dict[str, Tensor]:
    """Return random values for every parameter of a module; the same names get the same values.

    They are scaled by fan-in, so that activations keep their size through depth. The module may be on meta.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        state[name] = (noise / fan_in**0.5).to(device, dtype)
    return state


def isolated(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a module-level function in a fresh process and return its result."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(function, *args, **kwargs).result()


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["float32", "bfloat16"])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="implementations to run (default: all)")
    parser.add_argument("--repeats", type=int, default=1, help="timed runs; the median counts")
    parser.add_argument("--warmup", type=int, default=0, help="untimed runs before them")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write the measurements here")
    return parser


def report(title: str, rows: Sequence[Measurement], peaks: Mapping[str, float], path: Path | None) -> None:
    """Print a table to standard output; the first row of each dtype is what the others are compared to.

    peaks: GFLOP/s of the machine's matrix product per dtype.
    """
    print(title)
    print(
        f"{'name':<14}{'dtype':<10}{'s':>9}{'x first':>9}{'GFLOP':>10}{'GFLOP/s':>10}{'of peak':>9}", end=""
    )
    print(f"{'peak GB':>9}{'weights':>9}{'difference':>12}")
    for row in rows:
        first = next(r for r in rows if r.dtype == row.dtype)
        print(
            f"{row.name:<14}{row.dtype:<10}{row.seconds:>9.3f}{row.seconds / first.seconds:>9.2f}"
            f"{row.flops / 1e9:>10.1f}{row.gflops_per_s:>10.1f}{row.gflops_per_s / peaks[row.dtype]:>9.1%}"
            f"{row.peak_bytes / 1e9:>9.2f}{row.weight_bytes / 1e9:>9.2f}{_difference(first, row):>12.1e}"
        )
    print("matrix-product peak: " + ", ".join(f"{d} {p:.0f} GFLOP/s" for d, p in peaks.items()))
    if path is not None:
        found = [asdict(r) | {"gflops_per_s": r.gflops_per_s, "sample": None} for r in rows]
        document = {"title": title, "torch": torch.__version__, "peaks": dict(peaks), "rows": found}
        path.write_text(json.dumps(document, indent=2) + "\n")


def _difference(first: Measurement, other: Measurement) -> float:
    """Return ||a - b|| / ||a|| over the sampled values."""
    a, b = torch.tensor(first.sample), torch.tensor(other.sample)
    return float((a - b).norm() / a.norm())
