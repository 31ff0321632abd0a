"""Time a denoising step and the video decoder: the published structure with random weights. Reads no files.

On a CUDA device a step is timed at full size with all blocks resident, then streamed under imposed memory
caps, then the video decoder. Without one the same code runs a cut of two blocks at a small size, and the
device's rows stay in the table as not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from soundstage.diagnostics.measuring import Meter, capped, median_seconds
from soundstage.diagnostics.random_weights import (
    FPS,
    TEXT_TOKENS,
    modalities,
    random_decoder,
    random_transformer,
)
from soundstage.errors import RequestError, listed
from soundstage.library.sizes import ModelSizes
from soundstage.memory.machine import kind_of, pick_device
from soundstage.memory.offload import StreamedBlocks
from soundstage.memory.policy import Residency
from soundstage.model.pieces import decode_pieces
from soundstage.model.transformer import Transformer
from soundstage.planning.cost import CUDA_CONTEXT_BYTES, FRAGMENTATION, Work, activation_bytes
from soundstage.planning.placement import CHUNK_TOKENS
from soundstage.types import VideoShape, audio_latent_length

MODELS = ("22b-random",)
WEIGHTS = ("bfloat16", "fp8", "fp8-cast", "int8", "int8-dynamic")
USUAL_WEIGHTS = ("bfloat16", "fp8")
FULL_SIZES = ((768, 512, 121), (1344, 768, 121))
CUT_SIZES = ((256, 256, 25),)
CUT_LAYERS, FULL_LAYERS = 2, 48
CUT_DECODE, FULL_DECODE = (256, 256, 9), (1344, 768, 121)
CAPS_GB = (24.0, 16.0, 12.0, 8.0)
GB = 1e9


@dataclass(frozen=True)
class Measurement:
    """One measurement."""

    what: str
    weights: str
    size: str
    cap_gb: float | None = None
    kept: int | None = None  # blocks that stay on the device
    seconds: float | None = None  # median; None if not measured, and `note` says why
    peak_bytes: int | None = None  # see measuring.Meter
    moved_bytes: int = 0  # to the device in each run
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """The settings of a benchmark."""

    device: torch.device
    weights: tuple[str, ...]
    sizes: tuple[tuple[int, int, int], ...]  # (width, height, frames) of a step
    layers: int  # blocks of the transformer
    caps_gb: tuple[float, ...]  # memory to stream under, on a CUDA device
    repeats: int  # timed runs of each
    decode: tuple[int, int, int]  # (width, height, frames) of a clip to decode

    @classmethod
    def of(
        cls,
        *,
        model: str = MODELS[0],
        device: str = "auto",
        weights: Sequence[str] = (),
        sizes: Sequence[str] = (),
        caps_gb: Sequence[float] = (),
        layers: int | None = None,
        repeats: int = 3,
    ) -> Benchmark:
        """Return a benchmark; what is not given is the full size on a CUDA device, else a small cut.

        sizes: WIDTHxHEIGHTxFRAMES. Raises RequestError for a value that does not exist.
        """
        if model not in MODELS:
            known = listed(model, MODELS)
            raise RequestError(f"model is '{model}'; the benchmark builds {known}", field="model")
        for name in weights:
            if name not in WEIGHTS:
                known = listed(name, WEIGHTS)
                raise RequestError(f"weights is '{name}'; give one of {known}", field="weights")
        chosen = pick_device(device)
        full = kind_of(chosen) == "cuda"
        return cls(
            device=torch.device(chosen),
            weights=tuple(weights) or (USUAL_WEIGHTS if full else USUAL_WEIGHTS[:1]),
            sizes=tuple(_size(text) for text in sizes) or (FULL_SIZES if full else CUT_SIZES),
            layers=layers or (FULL_LAYERS if full else CUT_LAYERS),
            caps_gb=(tuple(caps_gb) or CAPS_GB) if full else (),
            repeats=repeats,
            decode=FULL_DECODE if full else CUT_DECODE,
        )

    @property
    def on_device(self) -> bool:
        return self.device.type == "cuda"

    @property
    def title(self) -> str:
        """Return what was measured where, in one line."""
        name = torch.cuda.get_device_name(self.device) if self.on_device else "CPU"
        return (
            f"{MODELS[0]}, {self.layers} of {FULL_LAYERS} blocks, {name}, torch {torch.__version__}, "
            f"{torch.get_num_threads()} threads, median of {self.repeats}"
        )

    def timed(self, run: Callable[[], Any]) -> float:
        """Return the median seconds of a run."""
        return median_seconds(run, self.device, self.repeats)


def _size(text: str) -> tuple[int, int, int]:
    """Read WIDTHxHEIGHTxFRAMES."""
    try:
        width, height, num_frames = (int(part) for part in text.split("x"))
        VideoShape(num_frames, height, width)
    except ValueError as error:
        raise RequestError(
            f"size is '{text}'; give WIDTHxHEIGHTxFRAMES, sides in multiples of 32 and frames 8k+1, "
            "such as 768x512x121",
            field="size",
        ) from error
    return width, height, num_frames


def rows(settings: Benchmark) -> Iterator[Measurement]:
    """Measure, and yield each row when it is done."""
    for weights in settings.weights:
        yield from measured_steps(settings, weights, Residency(), None)
        if settings.on_device:
            for cap in settings.caps_gb:
                yield from _capped(settings, weights, cap)
        else:
            # Two blocks would find room in two slots and never be copied again.
            yield from measured_steps(settings, weights, Residency("stream", num_slots=1), None)
    yield from _decodes(settings)
    if not settings.on_device:
        yield from _not_measured()


def measured_steps(
    settings: Benchmark,
    weights: str,
    residency: Residency,
    cap_gb: float | None,
    sizes: Sequence[tuple[int, int, int]] | None = None,
) -> Iterator[Measurement]:
    """Yield a row per size. The model is built once and freed afterwards."""
    streams = residency.streams_blocks
    head = Measurement("streamed step" if streams else "resident step", weights, "", cap_gb)
    head = replace(head, kept=residency.resident_blocks if streams else settings.layers)
    meter = Meter(settings.device)
    try:
        model, placed = random_transformer(settings.layers, weights, settings.device, residency)
    except (torch.OutOfMemoryError, MemoryError):
        yield replace(head, size="all", note="the weights do not fit")
        return
    for size in sizes or settings.sizes:
        yield _timed_row(replace(head, size=size_name(size)), settings, model, placed, size, meter)
    if placed is not None:
        placed.streamer.close()


def _timed_row(
    row: Measurement,
    settings: Benchmark,
    model: Transformer,
    placed: StreamedBlocks | None,
    size: tuple[int, int, int],
    meter: Meter,
) -> Measurement:
    video, audio = modalities(size, settings.device, model)
    try:
        with torch.no_grad():
            tables = model.prepare(video, audio)
            seconds = settings.timed(lambda: model(video, audio, tables=tables))
    except torch.OutOfMemoryError:
        return replace(row, note="the work does not fit")
    moved = placed.streamer.bytes_per_pass if placed else 0
    return replace(row, seconds=seconds, peak_bytes=meter.peak(), moved_bytes=moved)


def _capped(settings: Benchmark, weights: str, cap_gb: float) -> Iterator[Measurement]:
    """Measure each size under a cap, with as many blocks resident as the budget finds room for."""
    for size in settings.sizes:
        residency = _residency_under(settings, weights, cap_gb, size)
        # CUDA's context is outside the allocator, so it comes off the cap.
        with capped(settings.device, cap_gb * GB - CUDA_CONTEXT_BYTES):
            yield from measured_steps(settings, weights, residency, cap_gb, [size])


def _residency_under(
    settings: Benchmark, weights: str, cap_gb: float, size: tuple[int, int, int]
) -> Residency:
    """Return the residency with the most blocks on the device that fits under a cap."""
    sizes = ModelSizes.published("bfloat16" if weights == "bfloat16" else "fp8")
    width, height, num_frames = size
    shape = VideoShape(num_frames, height, width)
    work = Work(shape.num_tokens, audio_latent_length(num_frames, FPS), TEXT_TOKENS, 1, 1)
    room = (cap_gb * GB - CUDA_CONTEXT_BYTES) / FRAGMENTATION
    fixed = sizes.parts["transformer"] - sum(sizes.blocks)
    for chunk in (None, CHUNK_TOKENS):
        found = Residency("stream", feed_forward_tokens=chunk)
        free = room - fixed - activation_bytes(work, sizes, found)
        kept = int(free // sizes.blocks[0]) - found.num_slots
        if kept >= 0:
            return replace(found, resident_blocks=min(kept, settings.layers))
    return found


def _decodes(settings: Benchmark) -> Iterator[Measurement]:
    width, height, num_frames = settings.decode
    vae = random_decoder(settings.device)
    channels = vae.config.latent_channels
    shape = VideoShape(num_frames, height, width).latent
    latents = torch.randn(1, channels, *shape, device=settings.device, dtype=torch.bfloat16)

    def in_pieces() -> None:
        for piece in decode_pieces(vae, latents):
            del piece

    for what, run in (("decode whole", lambda: vae.decode(latents)), ("decode in pieces", in_pieces)):
        row, meter = Measurement(what, "bfloat16", size_name(settings.decode)), Meter(settings.device)
        try:
            with torch.no_grad():
                yield replace(row, seconds=settings.timed(run), peak_bytes=meter.peak())
        except torch.OutOfMemoryError:
            yield replace(row, note="the work does not fit")


def _not_measured() -> Iterator[Measurement]:
    note = "not measured: no CUDA device"
    for weights in USUAL_WEIGHTS:
        for size in FULL_SIZES:
            yield Measurement("resident step", weights, size_name(size), note=note)
            for cap in CAPS_GB:
                yield Measurement("streamed step", weights, size_name(size), cap, note=note)
    yield Measurement("decode in pieces", "bfloat16", size_name(FULL_DECODE), note=note)


def size_name(size: tuple[int, int, int]) -> str:
    """Return WIDTHxHEIGHTxFRAMES."""
    return "x".join(map(str, size))
