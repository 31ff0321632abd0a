"""Compare the 22B transformer at full size with diffusers', on the same weights.

    python -m benchmarks.full_size                       # a CUDA device; a cut of two blocks without one
    python -m benchmarks.full_size --cap-gb 16 --repeats 5

`soundstage bench` measures ours. This adds diffusers' transformer in the same run: resident and, on a device,
with its group offloading by blocks on a CUDA stream of its own. Both have the same random values, key by key.
diffusers is a test-only dependency: pip install -e '.[dev]'.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks.transformer_step import Case, diffusers_step, diffusers_transformer
from soundstage.diagnostics.benchmark import GB, Benchmark, Measurement, size_name
from soundstage.diagnostics.measuring import Meter, capped
from soundstage.diagnostics.random_weights import NOISE_ELEMENTS, TEXT_TOKENS, modalities, random_value
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import Transformer
from soundstage.types import VideoShape
from soundstage.weights.diffusers_names import to_diffusers

HEADS = 32


def rows(settings: Benchmark) -> Iterator[Measurement]:
    """Measure diffusers, in bfloat16: it has no 8-bit products of its own to compare."""
    yield from _steps(settings, "diffusers resident", None)
    if settings.on_device:
        for cap in settings.caps_gb:
            yield from _steps(settings, "diffusers offload", cap)


def _steps(settings: Benchmark, what: str, cap_gb: float | None) -> Iterator[Measurement]:
    meter, head = Meter(settings.device), Measurement(what, "bfloat16", "", cap_gb)
    home = torch.device("cpu") if cap_gb is not None else settings.device
    try:
        with capped(settings.device, None if cap_gb is None else cap_gb * GB):
            ours, model = _models(settings, home)
            if cap_gb is not None:
                _offload(model, settings.device)
            for size in settings.sizes:
                yield _timed(settings, replace(head, size=size_name(size)), ours, model, size, meter)
    except torch.OutOfMemoryError:
        yield replace(head, size="all", note="the weights do not fit")


def _models(settings: Benchmark, home: torch.device) -> tuple[Transformer, nn.Module]:
    """Return our model on meta, for its config and dtype, and diffusers' with the values ours would have."""
    header = transformer_header(num_layers=settings.layers)
    with torch.device("meta"):
        ours = Transformer(TransformerConfig.from_header({"transformer": header})).to(torch.bfloat16)
        model = diffusers_transformer(_case(settings, (32, 32, 1)))
    noise = torch.randn(NOISE_ELEMENTS, generator=torch.Generator().manual_seed(0)).to(home)
    state = {
        to_diffusers("transformer", key): random_value(key, value, noise)
        for key, value in ours.state_dict().items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    return ours, model.requires_grad_(False).eval()


def _case(settings: Benchmark, size: tuple[int, int, int]) -> Case:
    width, height, num_frames = size
    shape = VideoShape(num_frames, height, width)
    device, threads = str(settings.device), torch.get_num_threads()
    return Case("diffusers", "bfloat16", settings.layers, shape, TEXT_TOKENS, device, threads, HEADS)


def _offload(model: Any, device: torch.device) -> None:
    model.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=True,
    )


def _timed(
    settings: Benchmark,
    row: Measurement,
    ours: Transformer,
    model: nn.Module,
    size: tuple[int, int, int],
    meter: Meter,
) -> Measurement:
    video, audio = modalities(size, settings.device, ours)
    step = diffusers_step(_case(settings, size), model, video, audio)
    try:
        with torch.no_grad():
            return replace(row, seconds=settings.timed(step), peak_bytes=meter.peak())
    except torch.OutOfMemoryError:
        return replace(row, note="the work does not fit")


def main() -> None:
    """Run `soundstage bench --diffusers` with the same options."""
    command = [sys.executable, "-m", "soundstage", "bench", "--diffusers"]
    sys.exit(subprocess.call([*command, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
