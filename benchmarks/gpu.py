"""Measure what each fast path gains on a CUDA device: the table of docs/gpu.md.

    python -m benchmarks.gpu                  # the published structure, 6 of its blocks, random weights
    python -m benchmarks.gpu --layers 48      # all of them
    python -m benchmarks.gpu --dry            # tiny sizes on the CPU, to see that it runs

Every line is a way and the plain way beside it, in one process on one device; only their ratio means much.
`difference` is that of the results, by norm. Peak memory counts what PyTorch allocated, weights included.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.transformer_step import Case, inputs, load_random
from soundstage.diagnostics.measuring import wait_for
from soundstage.model.arithmetic import PLAIN, use
from soundstage.model.attention import strength_bias
from soundstage.model.bias import LEAST_ROWS, BiasParts, attend_in_parts, parts_of
from soundstage.model.config import VideoVaeConfig, VocoderConfig
from soundstage.model.pieces import decode_pieces
from soundstage.model.published import video_vae_header, vocoder_header
from soundstage.model.video_vae import VideoVae
from soundstage.model.vocoder import Vocoder
from soundstage.speed import cuda, graphs
from soundstage.types import VideoShape
from soundstage.weights.quantize import PLAIN_ROUNDING, QuantizedLinear, quantize

GB = 1e9
SCHEMES = ("fp8", "fp8-cast", "int8", "int8-dynamic")


@dataclass(frozen=True)
class Setting:
    """The device and the sizes that are measured."""

    device: torch.device
    dtype: torch.dtype
    layers: int
    heads: int
    sizes: tuple[VideoShape, ...]  # of a step
    decode: VideoShape  # of a clip to decode
    vae_channels: int
    vocoder: tuple[int, int]
    repeats: int

    @property
    def on_device(self) -> bool:
        return self.device.type == "cuda"

    def case(self, shape: VideoShape) -> Case:
        name = str(self.dtype).removeprefix("torch.")
        return Case("soundstage", name, self.layers, shape, 1024, str(self.device), 1, self.heads)


@dataclass(frozen=True)
class Line:
    """One way of computing beside the plain one, in seconds."""

    what: str
    plain_s: float
    way_s: float
    difference: float
    peak_gb: float | None  # of the way, not of the plain one

    def __str__(self) -> str:
        peak = "-" if self.peak_gb is None else f"{self.peak_gb:.2f}"
        times = f"{self.plain_s:>9.4f}{self.way_s:>9.4f}{self.plain_s / self.way_s:>7.2f}"
        return f"{self.what:<52}{times}{self.difference:>10.1e}{peak:>9}"


HEADER = f"{'':<52}{'plain s':>9}{'way s':>9}{'gain':>7}{'differs':>10}{'peak GB':>9}"
FULL = (VideoShape(121, 512, 768), VideoShape(121, 768, 1344))
DRY = (VideoShape(9, 64, 64),)


def settings(dry: bool, layers: int, repeats: int) -> Setting:
    if dry:
        cpu = torch.device("cpu")
        return Setting(cpu, torch.float32, 1, 2, DRY, DRY[0], 16, (64, 32), 1)
    device = torch.device("cuda")
    return Setting(device, torch.bfloat16, layers, 32, FULL, FULL[1], 128, (1536, 512), repeats)


# --- timing ----------------------------------------------------------------------------------------------


def timed(run: Callable[[], Tensor], at: Setting) -> tuple[float, Tensor, float | None]:
    """Return the median seconds of a run, its result and its peak memory, after two untimed runs."""
    if at.on_device:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(at.device)
    seconds = []
    with torch.no_grad():
        for _ in range(2 if at.on_device else 0):
            run()
        for _ in range(at.repeats):
            wait_for(at.device)
            begin = time.perf_counter()
            out = run()
            wait_for(at.device)
            seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated(at.device) / GB if at.on_device else None
    return statistics.median(seconds), out, peak


def line(what: str, plain: Callable[[], Tensor], way: Callable[[], Tensor], at: Setting) -> Line:
    plain_s, wanted, _ = timed(plain, at)
    way_s, found, peak = timed(way, at)
    apart = (found.float() - wanted.float()).norm() / wanted.float().norm()
    return Line(what, plain_s, way_s, float(apart), peak)


# --- the lines -------------------------------------------------------------------------------------------


def steps(at: Setting) -> Iterator[Line]:
    """Compare fused kernels, then a recorded step, with plain PyTorch."""
    for shape in at.sizes:
        case = at.case(shape)
        model: Any = load_random(case)
        use(model, PLAIN)
        video, audio = inputs(case, at.dtype, str(at.device))
        tables = model.prepare(video, audio)

        def run(model: Any = model, video: Any = video, audio: Any = audio, tables: Any = tables) -> Tensor:
            return _joined(model(video, audio, tables=tables))

        plain = timed(run, at)
        taken = ", ".join(cuda.speed_up(model, at.device, at.dtype)) or "none taken"
        yield _beside(f"step {_name(shape)}: fused ({taken})", plain, timed(run, at))
        if graphs.record_steps(model, at.device, tuple) is not None:
            yield _beside(f"step {_name(shape)}: fused and recorded", plain, timed(run, at))


def _beside(what: str, plain: tuple[float, Tensor, Any], way: tuple[float, Tensor, Any]) -> Line:
    apart = (way[1].float() - plain[1].float()).norm() / plain[1].float().norm()
    return Line(what, plain[0], way[0], float(apart), way[2])


def eight_bits(at: Setting) -> Iterator[Line]:
    """Compare each form of 8-bit weights, fused, with full weights, which are fused as well."""
    for shape in at.sizes:
        case = at.case(shape)
        video, audio = inputs(case, at.dtype, str(at.device))
        full: Any = load_random(case)
        tables = full.prepare(video, audio)
        cuda.speed_up(full, at.device, at.dtype)
        plain = timed(lambda m=full, v=video, a=audio, t=tables: _joined(m(v, a, tables=t)), at)  # type: ignore[misc]
        del full
        for scheme in SCHEMES:
            model: Any = load_random(case)
            quantize(model, scheme)  # type: ignore[arg-type]
            cuda.speed_up(model, at.device, at.dtype)

            def run(m: Any = model, v: Any = video, a: Any = audio, t: Any = tables) -> Tensor:
                return _joined(m(v, a, tables=t))

            yield _beside(f"step {_name(shape)}: {scheme} beside full weights", plain, timed(run, at))
            cuda.set_rounding((x for x in model.modules() if isinstance(x, QuantizedLinear)), PLAIN_ROUNDING)
            yield _beside(f"step {_name(shape)}: {scheme}, rounding unfused", plain, timed(run, at))


def masks(at: Setting) -> Iterator[Line]:
    """Compare attention in parts with a dense mask, for a clip and a reference that do not see each other."""
    tokens = max(at.sizes[0].num_tokens, LEAST_ROWS)  # fewer are not parted
    mask = torch.ones(1, 2 * tokens, 2 * tokens, device=at.device)
    mask[:, :tokens, tokens:] = mask[:, tokens:, :tokens] = 0
    dense = strength_bias(mask, at.dtype)
    parts = parts_of(dense)
    assert isinstance(parts, BiasParts)
    shape = (1, 2 * tokens, at.heads, 128)
    q, k, v = (torch.randn(shape, device=at.device, dtype=at.dtype).transpose(1, 2) for _ in range(3))
    yield line(
        f"attention of {2 * tokens} tokens with a mask, in parts",
        lambda: F.scaled_dot_product_attention(q, k, v, dense),
        lambda: attend_in_parts(F.scaled_dot_product_attention, q, k, v, parts),
        at,
    )


def decodes(at: Setting) -> Iterator[Line]:
    """Compare decoding a clip whole with decoding it in pieces."""
    base = {"encoder_base_channels": at.vae_channels, "decoder_base_channels": at.vae_channels}
    vae = VideoVae(VideoVaeConfig.from_header({"vae": video_vae_header(**base)}))
    _ready(vae, at)
    shape = at.decode.latent
    latents = torch.randn(1, vae.config.latent_channels, *shape, device=at.device, dtype=at.dtype)
    yield line(
        f"decode {_name(at.decode)}, whole beside pieces",
        lambda: torch.cat(list(decode_pieces(vae, latents)), dim=2),
        lambda: vae.decode(latents),
        at,
    )


def sound(at: Setting) -> Iterator[Line]:
    """Compare the vocoder, which computes without TF32, with one that uses it where PyTorch allows it."""
    base, bwe = at.vocoder
    header = {"vocoder": vocoder_header(base_channels=base, bwe_channels=bwe)}
    vocoder = Vocoder(VocoderConfig.from_header(header)).requires_grad_(False).to(at.device)
    mel = torch.randn(1, 2, 500 if at.on_device else 8, 64, device=at.device)
    rounded: Any = Vocoder.forward.__wrapped__  # type: ignore[attr-defined]
    yield line("vocoder without TF32 beside with", lambda: rounded(vocoder, mel), lambda: vocoder(mel), at)


def _ready(module: nn.Module, at: Setting) -> None:
    module.requires_grad_(False).to(at.device, at.dtype).eval()


def _joined(velocities: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat([v.flatten() for v in velocities])


def _name(shape: VideoShape) -> str:
    return f"{shape.width}x{shape.height}x{shape.num_frames}"


SECTIONS = (steps, eight_bits, masks, decodes, sound)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a CUDA device gains by each fast path.")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--layers", type=int, default=6, help="blocks of the transformer (default: 6 of 48)")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if not args.dry and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --dry runs tiny sizes on the CPU")
    at = settings(args.dry, args.layers, args.repeats)
    name = torch.cuda.get_device_name(at.device) if at.on_device else "the CPU, tiny sizes: no figures"
    print(f"{name}, torch {torch.__version__}, {at.layers} blocks\n{HEADER}")
    for section in SECTIONS:
        for found in section(at):
            print(found, flush=True)


if __name__ == "__main__":
    main()
