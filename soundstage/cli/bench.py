"""`soundstage bench`: the published structure with random weights, timed part by part. Reads no weights.

On a CUDA device: one denoising step at full size with all blocks resident, then streamed under imposed
memory caps, and the video decoder. Without one the same code runs a cut of two blocks at a small size, and
the device's rows stay in the table as not measured.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from soundstage.cli.app import PLAIN, json_text
from soundstage.errors import RequestError, listed
from soundstage.types import VideoShape, audio_latent_length

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from soundstage.memory.offload import Streamed
    from soundstage.memory.policy import Residency
    from soundstage.model.transformer import Modality, Transformer
    from soundstage.model.video_vae import VideoVae
    from soundstage.weights.storage import Scheme

app = typer.Typer(**PLAIN)

MODELS = ("22b-random",)
WEIGHTS = ("bfloat16", "fp8", "fp8-cast", "int8", "int8-dynamic")
USUAL_WEIGHTS = ("bfloat16", "fp8")
FULL_SIZES = ((768, 512, 121), (1344, 768, 121))
CUT_SIZES = ((256, 256, 25),)
CUT_LAYERS, FULL_LAYERS = 2, 48
CUT_DECODE, FULL_DECODE = (256, 256, 9), (1344, 768, 121)
CAPS_GB = (24.0, 16.0, 12.0, 8.0)
FPS, TEXT_TOKENS, SIGMA = 24.0, 1024, 0.7
NOISE_ELEMENTS = 1 << 22
GB = 1e9


@dataclass(frozen=True)
class Row:
    """One measurement. seconds: the median; None if not measured, and `note` says why.

    peak_bytes: the device allocator's, or on a CPU what the process has grown by. kept: blocks on the device.
    moved_bytes: to the device in each run.
    """

    what: str
    weights: str
    size: str
    cap_gb: float | None = None
    kept: int | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    moved_bytes: int = 0
    note: str = ""


@dataclass(frozen=True)
class Bench:
    """What is measured. layers: blocks of the transformer. caps_gb: imposed on the device for streaming."""

    device: torch.device
    weights: tuple[str, ...]
    sizes: tuple[tuple[int, int, int], ...]
    layers: int
    caps_gb: tuple[float, ...]
    repeats: int
    decode: tuple[int, int, int]

    @property
    def on_device(self) -> bool:
        return self.device.type == "cuda"


@app.command()
def bench(
    model: Annotated[
        str, typer.Option(help="22b-random: the published structure, random weights.")
    ] = "22b-random",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    weights: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(WEIGHTS)}. [default: the first two on a GPU]"),
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="WIDTHxHEIGHTxFRAMES of a step; may be repeated.")
    ] = None,
    cap_gb: Annotated[
        list[float] | None, typer.Option(help="Memory to stream under. [default: 24, 16, 12 and 8 on a GPU]")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Blocks. [default: 48 on a GPU, else 2]")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs; the median counts.")] = 3,
    diffusers: Annotated[
        bool, typer.Option("--diffusers", help="Also its transformer, on the same weights (source checkout).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Time a denoising step and the video decoder at full size, resident and streamed, on random weights.

    Example: soundstage bench --model 22b-random --cap-gb 16
    """
    if model not in MODELS:
        raise RequestError(f"model is '{model}'; the benchmark builds {listed(model, MODELS)}", field="model")
    settings = _settings(device, weights, size, cap_gb, layers, repeats)
    peer = _peer() if diffusers else None
    rows = []
    for row in (*_rows(settings), *(peer(settings) if peer else ())):
        rows.append(row)
        if not as_json:
            print(_line(row) if len(rows) > 1 else f"{_title(settings)}\n{HEADER}\n{_line(row)}", flush=True)
    if as_json:
        print(json_text({"title": _title(settings), "rows": [asdict(row) for row in rows]}, indent=2))


def _settings(
    device: str,
    weights: Sequence[str] | None,
    sizes: Sequence[str] | None,
    caps_gb: Sequence[float] | None,
    layers: int | None,
    repeats: int,
) -> Bench:
    from soundstage.memory.machine import kind_of, pick_device

    chosen = pick_device(device)
    full = kind_of(chosen) == "cuda"
    for name in weights or ():
        if name not in WEIGHTS:
            raise RequestError(f"weights is '{name}'; give one of {listed(name, WEIGHTS)}", field="weights")
    return Bench(
        device=torch.device(chosen),
        weights=tuple(weights or (USUAL_WEIGHTS if full else USUAL_WEIGHTS[:1])),
        sizes=tuple(_size(text) for text in sizes) if sizes else FULL_SIZES if full else CUT_SIZES,
        layers=layers or (FULL_LAYERS if full else CUT_LAYERS),
        caps_gb=tuple(caps_gb or CAPS_GB) if full else (),
        repeats=repeats,
        decode=FULL_DECODE if full else CUT_DECODE,
    )


def _size(text: str) -> tuple[int, int, int]:
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


def _peer() -> Callable[[Bench], Iterator[Row]]:
    try:
        module = importlib.import_module("benchmarks.full_size")
    except ImportError as error:
        raise RequestError(
            "--diffusers needs a source checkout with the 'dev' extra: pip install -e '.[dev]', "
            "then python -m benchmarks.full_size",
            field="diffusers",
        ) from error
    return module.rows  # type: ignore[no-any-return]


# --- the rows --------------------------------------------------------------------------------------------


def _rows(settings: Bench) -> Iterator[Row]:
    from soundstage.memory.policy import Residency

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
    settings: Bench,
    weights: str,
    residency: Residency,
    cap_gb: float | None,
    sizes: Sequence[tuple[int, int, int]] | None = None,
) -> Iterator[Row]:
    """A row per size; the model is built once and gone afterwards."""
    import torch

    streams = residency.streams
    head = Row("streamed step" if streams else "resident step", weights, "", cap_gb)
    head = replace(head, kept=residency.resident_blocks if streams else settings.layers)
    meter = Meter(settings.device)
    try:
        model, placed = random_transformer(settings.layers, weights, settings.device, residency)
    except (torch.OutOfMemoryError, MemoryError):
        yield replace(head, size="all", note="the weights do not fit")
        return
    for size in sizes or settings.sizes:
        yield _timed_row(replace(head, size=_name(size)), settings, model, placed, size, meter)
    if placed is not None:
        placed.streamer.close()


def _timed_row(
    row: Row,
    settings: Bench,
    model: Transformer,
    placed: Streamed | None,
    size: tuple[int, int, int],
    meter: Meter,
) -> Row:
    import torch

    video, audio = modalities(size, settings.device, model)
    try:
        with torch.no_grad():
            tables = model.prepare(video, audio)
            seconds = timed(lambda: model(video, audio, tables=tables), settings)
    except torch.OutOfMemoryError:
        return replace(row, note="the work does not fit")
    moved = placed.streamer.bytes_per_pass if placed else 0
    return replace(row, seconds=seconds, peak_bytes=meter.peak(), moved_bytes=moved)


def _capped(settings: Bench, weights: str, cap_gb: float) -> Iterator[Row]:
    """Each size under a cap, with as many blocks resident as the budget says."""
    import torch

    from soundstage.planning.cost import CUDA_CONTEXT_BYTES

    total = torch.cuda.get_device_properties(settings.device).total_memory
    for size in settings.sizes:
        residency = _residency_under(settings, weights, cap_gb, size)
        torch.cuda.empty_cache()
        # The context is outside the allocator, so it comes off the cap.
        share = min(1.0, (cap_gb * GB - CUDA_CONTEXT_BYTES) / total)
        torch.cuda.set_per_process_memory_fraction(share, settings.device)
        try:
            yield from measured_steps(settings, weights, residency, cap_gb, [size])
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, settings.device)


def _residency_under(settings: Bench, weights: str, cap_gb: float, size: tuple[int, int, int]) -> Residency:
    """The most blocks that the budget finds room for, with nothing else on the device."""
    from soundstage.library.sizes import ModelSizes
    from soundstage.memory.policy import Residency
    from soundstage.planning.cost import CUDA_CONTEXT_BYTES, FRAGMENTATION, Work, activation_bytes
    from soundstage.planning.placement import CHUNK_TOKENS

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


def _decodes(settings: Bench) -> Iterator[Row]:
    import torch

    width, height, num_frames = settings.decode
    vae = random_decoder(settings.device)
    channels = vae.config.latent_channels
    shape = VideoShape(num_frames, height, width).latent
    latents = torch.randn(1, channels, *shape, device=settings.device, dtype=torch.bfloat16)

    def in_pieces() -> None:
        for piece in vae.decode_stream(latents):
            del piece

    for what, run in (("decode whole", lambda: vae.decode(latents)), ("decode in pieces", in_pieces)):
        row, meter = Row(what, "bfloat16", _name(settings.decode)), Meter(settings.device)
        try:
            with torch.no_grad():
                yield replace(row, seconds=timed(run, settings), peak_bytes=meter.peak())
        except torch.OutOfMemoryError:
            yield replace(row, note="the work does not fit")


def _not_measured() -> Iterator[Row]:
    note = "not measured: no CUDA device"
    for weights in USUAL_WEIGHTS:
        for size in FULL_SIZES:
            yield Row("resident step", weights, _name(size), note=note)
            for cap in CAPS_GB:
                yield Row("streamed step", weights, _name(size), cap, note=note)
    yield Row("decode in pieces", "bfloat16", _name(FULL_DECODE), note=note)


# --- building ---------------------------------------------------------------------------------------------


def random_transformer(
    layers: int, weights: str, device: torch.device, residency: Residency
) -> tuple[Transformer, Streamed | None]:
    """The 22B transformer with this many blocks. The same key has the same values wherever it is."""
    import torch

    from soundstage.memory.offload import chunk_feed_forward, place_streamed
    from soundstage.memory.stream import HostSource, like, owners_of
    from soundstage.model.config import TransformerConfig, transformer_header
    from soundstage.model.transformer import Transformer
    from soundstage.speed import cuda, graphs
    from soundstage.weights.quantize import quantize

    config = TransformerConfig.from_header({"transformer": transformer_header(num_layers=layers)})
    with torch.device("meta"):
        model = Transformer(config).to(torch.bfloat16).requires_grad_(False).eval()
    if weights != "bfloat16":
        quantize(model, cast("Scheme", weights))
    noise = torch.randn(NOISE_ELEMENTS, generator=torch.Generator().manual_seed(0)).to(device)
    source = HostSource(device)
    streamed = reserve_blocks(model, residency, source) if residency.streams else {}
    for key, (owner, name) in owners_of(model).items():
        value = random_value(key, owner[name], noise)
        if key in streamed:
            streamed[key].copy_(value)
        else:
            owner[name] = like(owner[name], value)
    chunk_feed_forward(model, residency.feed_forward_tokens)
    cuda.speed_up(model, device, torch.bfloat16)
    if not residency.streams:
        graphs.record_steps(model, device, tuple)
        return model, None
    return model, place_streamed(model, list(model.transformer_blocks), source, residency, device)


def reserve_blocks(model: Any, residency: Residency, source: Any) -> dict[str, Tensor]:
    """Host memory for the blocks that will be streamed: a view for each of their keys."""
    from soundstage.memory.offload import streamed_numbers
    from soundstage.memory.stream import BlockLayout

    views: dict[str, Tensor] = {}
    for number in streamed_numbers(len(model.transformer_blocks), residency):
        layout = BlockLayout.of(model.transformer_blocks[number])
        memory = source.reserve(number, layout)
        views |= {f"transformer_blocks.{number}.{place.key}": place.view(memory) for place in layout.places}
    return views


def random_value(key: str, like: Tensor, noise: Tensor) -> Tensor:
    """Values for one tensor, cut from `noise` where the key says; scaled so that depth changes little."""
    import torch

    if key.endswith("norm.weight"):
        return torch.ones(like.shape, dtype=like.dtype, device=noise.device)
    fan_in = like.shape[-1] if like.ndim > 1 else 10_000
    if key.endswith("weight_scale"):
        return torch.full(like.shape, 0.01, dtype=like.dtype, device=noise.device)
    scale = 1.0 if like.dtype.itemsize == 1 else fan_in**-0.5
    shifted = noise.roll(zlib.crc32(key.encode()) % noise.numel()).mul_(scale)
    shifted = shifted.to(torch.bfloat16) if like.dtype.itemsize == 1 else shifted.to(like.dtype)
    copies = -(-like.numel() // shifted.numel())
    value = shifted.repeat(copies)[: like.numel()] if copies > 1 else shifted[: like.numel()].clone()
    return value.to(like.dtype).view(like.shape)


def random_decoder(device: torch.device) -> VideoVae:
    """The video VAE in bfloat16; its encoder stays without values."""
    import torch

    from soundstage.memory.stream import like, owners_of
    from soundstage.model.config import VideoVaeConfig, video_vae_header
    from soundstage.model.video_vae import VideoVae

    with torch.device("meta"):
        vae = VideoVae(VideoVaeConfig.from_header({"vae": video_vae_header()}))
        vae = vae.to(torch.bfloat16).requires_grad_(False).eval()
    noise = torch.randn(NOISE_ELEMENTS, generator=torch.Generator().manual_seed(0)).to(device)
    for part in (vae.decoder, vae.per_channel_statistics):
        for key, (owner, name) in owners_of(part).items():
            owner[name] = like(owner[name], random_value(key, owner[name], noise))
    return vae


def modalities(
    size: tuple[int, int, int], device: torch.device, model: Transformer
) -> tuple[Modality, Modality]:
    """Both streams at one noise level, the same values every time."""
    import torch

    from soundstage.conditioning.positions import audio_positions, video_positions
    from soundstage.model.transformer import Modality

    width, height, num_frames = size
    generator = torch.Generator().manual_seed(1)
    shape = VideoShape(num_frames, height, width)
    assert model.config.video is not None
    assert model.config.audio is not None

    def stream(positions: Tensor, width: int) -> Modality:
        num_tokens = positions.shape[2]
        latents, context = (
            torch.randn(1, *s, generator=generator).to(device, torch.bfloat16)
            for s in ((num_tokens, 128), (TEXT_TOKENS, width))
        )
        sigma = torch.full((1,), SIGMA, device=device)
        return Modality(latents, sigma, sigma.expand(1, num_tokens), positions.to(device), context)

    return (
        stream(video_positions(*shape.latent, FPS), model.config.video.width),
        stream(audio_positions(audio_latent_length(num_frames, FPS)), model.config.audio.width),
    )


# --- measuring ----------------------------------------------------------------------------------------------


def timed(run: Callable[[], Any], settings: Bench) -> float:
    """Median seconds of the runs after one that warms up."""
    run()
    found = []
    for _ in range(settings.repeats):
        _wait(settings.device)
        start = time.perf_counter()
        run()
        _wait(settings.device)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Meter:
    """Peak memory since it was made: of the device's allocator, or of the process beyond what it held."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device, self._before = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
            self._before = _status_bytes("VmRSS:")

    def peak(self) -> int | None:
        import torch

        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _status_bytes("VmHWM:") - self._before if sys.platform == "linux" else None


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


# --- printing ---------------------------------------------------------------------------------------------

HEADER = (
    f"{'what':<20}{'weights':<14}{'size':<14}{'cap GB':>7}{'kept':>6}"
    f"{'seconds':>9}{'peak GB':>9}{'moved GB':>10}  note"
)


def _title(settings: Bench) -> str:
    import torch

    name = torch.cuda.get_device_name(settings.device) if settings.on_device else "CPU"
    return (
        f"22b-random, {settings.layers} of {FULL_LAYERS} blocks, {name}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, median of {settings.repeats}"
    )


def _name(size: tuple[int, int, int]) -> str:
    return "x".join(map(str, size))


def _line(row: Row) -> str:
    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    peak = None if row.peak_bytes is None else row.peak_bytes / GB
    return (
        f"{row.what:<20}{row.weights:<14}{row.size:<14}{shown(row.cap_gb, '.0f'):>7}{shown(row.kept, 'd'):>6}"
        f"{shown(row.seconds, '.2f'):>9}{shown(peak, '.2f'):>9}{row.moved_bytes / GB:>10.2f}  {row.note}"
    ).rstrip()
