"""The 22B transformer at full size: ours resident and streamed, beside diffusers' on the same weights.

    python -m benchmarks.full_size                       # a CUDA device; a cut of two blocks without one
    python -m benchmarks.full_size --cap-gb 16 --repeats 5

The rows of ours are `soundstage bench`'s; this adds diffusers' transformer in the same run, resident and, on
a device, with its group offloading by blocks on a stream of its own. Both read the same random values, key
by key. diffusers is a test-only dependency: pip install -e '.[dev]'.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks.transformer_step import Case, diffusers_step, diffusers_transformer
from soundstage.cli.bench import (
    NOISE_ELEMENTS,
    TEXT_TOKENS,
    Bench,
    Meter,
    Row,
    modalities,
    random_value,
    timed,
)
from soundstage.model.config import TransformerConfig, transformer_header
from soundstage.model.transformer import Transformer
from soundstage.types import VideoShape
from soundstage.weights.layouts import to_diffusers

HEADS = 32


def rows(settings: Bench) -> Iterator[Row]:
    """diffusers' rows, in bfloat16: it has no 8-bit products of its own to compare."""
    yield from _steps(settings, "diffusers resident", None)
    if settings.on_device:
        for cap in settings.caps_gb:
            yield from _steps(settings, "diffusers offload", cap)


def _steps(settings: Bench, what: str, cap_gb: float | None) -> Iterator[Row]:
    meter, head = Meter(settings.device), Row(what, "bfloat16", "", cap_gb)
    home = torch.device("cpu") if cap_gb is not None else settings.device
    try:
        with capped(settings, cap_gb):
            ours, model = _models(settings, home)
            if cap_gb is not None:
                _offload(model, settings.device)
            for size in settings.sizes:
                yield _timed(settings, replace(head, size="x".join(map(str, size))), ours, model, size, meter)
    except torch.OutOfMemoryError:
        yield replace(head, size="all", note="the weights do not fit")


class capped:
    """Within it the device gives this process no more than so many gigabytes."""

    def __init__(self, settings: Bench, cap_gb: float | None) -> None:
        self.device, self.cap_gb = settings.device, cap_gb

    def __enter__(self) -> None:
        if self.cap_gb is not None:
            total = torch.cuda.get_device_properties(self.device).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.cap_gb * 1e9 / total), self.device)

    def __exit__(self, *_: object) -> None:
        if self.cap_gb is not None:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)


def _models(settings: Bench, home: torch.device) -> tuple[Transformer, nn.Module]:
    """Ours on meta, for its config and dtype, and diffusers' with the values ours would have."""
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


def _case(settings: Bench, size: tuple[int, int, int]) -> Case:
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
    settings: Bench, row: Row, ours: Transformer, model: nn.Module, size: tuple[int, int, int], meter: Meter
) -> Row:
    video, audio = modalities(size, settings.device, ours)
    step = diffusers_step(_case(settings, size), model, video, audio)
    try:
        with torch.no_grad():
            return replace(row, seconds=timed(step, settings), peak_bytes=meter.peak())
    except torch.OutOfMemoryError:
        return replace(row, note="the work does not fit")


def main() -> None:
    """`soundstage bench --diffusers` with the same options."""
    from soundstage.cli.bench import app

    app(args=["--diffusers", *sys.argv[1:]], prog_name="python -m benchmarks.full_size")


if __name__ == "__main__":
    main()
