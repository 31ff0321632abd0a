"""Measure the machine's matrix-product peak, of which a benchmark's GFLOP/s is a share.

python -m benchmarks.peak
"""

from __future__ import annotations

import time

import torch

from benchmarks.harness import DTYPES, arguments

SIDE = {"cpu": 2048, "cuda": 8192}
RUNS = 5


def matmul_gflops_per_s(dtype: str, device: str = "cpu", threads: int | None = None) -> float:
    """Return the best rate of a few square products, in 1e9 operations a second."""
    if threads is not None:
        torch.set_num_threads(threads)
    side = SIDE[torch.device(device).type]
    a, b = (torch.randn(side, side, device=device).to(DTYPES[dtype]) for _ in range(2))
    best = float("inf")
    for _ in range(RUNS + 1):  # the first one warms up; being slowest, it never counts
        start = time.perf_counter()
        product = a @ b
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    for dtype in args.dtypes:
        print(f"{dtype:<10}{matmul_gflops_per_s(dtype, args.device, args.threads):>10.1f} GFLOP/s")


if __name__ == "__main__":
    main()
