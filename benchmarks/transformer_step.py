"""Compare one joint step of the diffusion transformer, video and audio, with diffusers.

    python -m benchmarks.transformer_step
    python -m benchmarks.transformer_step --layers 1 --frames 25 --height 128 --width 128    # a quick look

The structure is LTX-2.3's with 8 heads instead of 32 (widths 1024 and 512) and 4 blocks instead of 48. Both
run on the same random weights. Each lives in a process of its own, for its own peak memory, and they take
turns, so that whatever else the machine does slows both. Ours is given the tables of `prepare`, which a run
makes once; diffusers has no place to keep its own and makes them at every step.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import DTYPES, Measurement, arguments, isolated, measure, random_state, report
from benchmarks.peak import matmul_gflops_per_s
from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import ModalityInputs, Transformer
from soundstage.speed import onednn
from soundstage.types import LATENT_CHANNELS, VideoShape
from soundstage.weights.diffusers_names import to_diffusers

FPS = 24.0
AUDIO_LATENTS_PER_S = 25
HEADS, HEAD_DIM, AUDIO_HEAD_DIM = 8, 128, 64
SIGMA = 0.7


@dataclass(frozen=True)
class Case:
    """What one process measures."""

    name: str
    dtype: str
    layers: int
    shape: VideoShape
    text_tokens: int
    device: str
    threads: int
    heads: int = HEADS

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.shape.latent

    @property
    def audio_tokens(self) -> int:
        return round(self.shape.num_frames / FPS * AUDIO_LATENTS_PER_S)


def soundstage_transformer(case: Case) -> Transformer:
    header = transformer_header(
        num_layers=case.layers,
        num_heads=case.heads,
        head_dim=HEAD_DIM,
        audio_num_heads=case.heads,
        audio_head_dim=AUDIO_HEAD_DIM,
    )
    config = TransformerConfig.from_header({"transformer": header})
    return Transformer(replace(config, cross_timestep="other"))  # the routing that diffusers' default has


def diffusers_transformer(case: Case) -> nn.Module:
    from diffusers import LTX2VideoTransformer3DModel

    build: Any = LTX2VideoTransformer3DModel
    model: nn.Module = build(
        num_attention_heads=case.heads,
        attention_head_dim=HEAD_DIM,
        cross_attention_dim=case.heads * HEAD_DIM,
        gated_attn=True,
        cross_attn_mod=True,
        audio_num_attention_heads=case.heads,
        audio_attention_head_dim=AUDIO_HEAD_DIM,
        audio_cross_attention_dim=case.heads * AUDIO_HEAD_DIM,
        audio_gated_attn=True,
        audio_cross_attn_mod=True,
        num_layers=case.layers,
        rope_type="split",
        use_prompt_embeddings=False,
        perturbed_attn=True,
    )
    return model


BUILDERS: dict[str, Callable[[Case], nn.Module]] = {
    "soundstage": soundstage_transformer,
    "diffusers": diffusers_transformer,
}


def load_random(case: Case) -> nn.Module:
    """Return one of the transformers, on the weights that both share."""
    with torch.device("meta"):
        ours = soundstage_transformer(case)
    state = random_state(ours, DTYPES[case.dtype], case.device)
    if case.name == "diffusers":
        state = {to_diffusers("transformer", key): value for key, value in state.items()}
        model = diffusers_transformer(case)  # its rotary tables are made with it, so not on meta
    else:
        model = ours
    model.load_state_dict(state, strict=True, assign=True)
    if case.name == "soundstage" and case.device == "cpu":
        onednn.apply(model, DTYPES[case.dtype])
    return model.to(case.device).requires_grad_(False).eval()


def inputs(case: Case, dtype: torch.dtype, device: str) -> tuple[ModalityInputs, ModalityInputs]:
    """Return video and audio at one noise level, with the same values for both implementations."""
    generator = torch.Generator().manual_seed(1)

    def stream(positions: Tensor, context_width: int) -> ModalityInputs:
        num_tokens = positions.shape[2]
        sizes = (1, num_tokens, LATENT_CHANNELS), (1, case.text_tokens, context_width)
        latents, context = (torch.randn(s, generator=generator).to(device, dtype) for s in sizes)
        sigma = torch.full((1,), SIGMA, device=device)
        return ModalityInputs(
            latents, sigma, sigma[:, None].repeat(1, num_tokens), positions.to(device), context
        )

    return (
        stream(video_positions(*case.grid, FPS), case.heads * HEAD_DIM),
        stream(audio_positions(case.audio_tokens), case.heads * AUDIO_HEAD_DIM),
    )


def step_of(case: Case, model: Any) -> Callable[[], Tensor]:
    """Return a function that runs one step and returns the velocities of both streams in one row."""
    video, audio = inputs(case, next(model.parameters()).dtype, case.device)
    if case.name == "soundstage":
        tables = model.prepare(video, audio)
        return lambda: _row(model(video, audio, tables=tables))
    return diffusers_step(case, model, video, audio)


def diffusers_step(
    case: Case, model: Any, video: ModalityInputs, audio: ModalityInputs
) -> Callable[[], Tensor]:
    """Return a function that runs one step of diffusers' transformer on our inputs."""
    frames, height, width = case.grid
    options = {
        "hidden_states": video.latents,
        "audio_hidden_states": audio.latents,
        "encoder_hidden_states": video.context,
        "audio_encoder_hidden_states": audio.context,
        "timestep": video.sigma * 1000,  # one for all tokens, as its text-to-video pipeline passes it
        "sigma": video.sigma * 1000,
        "num_frames": frames,
        "height": height,
        "width": width,
        "fps": FPS,
        "audio_num_frames": case.audio_tokens,
        "use_cross_timestep": True,
        "return_dict": False,
    }
    return lambda: _row(model(**options))


def _row(velocities: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat([v.flatten() for v in velocities])


def count_step_flops(case: Case) -> int:
    """Count the operations of one of our steps, on the meta device. diffusers' rate is in the same ones."""
    case = replace(case, name="soundstage", device="cpu")
    with torch.device("meta"):
        model = soundstage_transformer(case)
    video, audio = inputs(case, torch.float32, "cpu")
    tables = model.prepare(video, audio)

    def meta(modality: ModalityInputs) -> ModalityInputs:
        moved = copy(modality)
        for name, value in vars(modality).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to("meta"))
        return moved

    def stream_on_meta(stream: Any) -> Any:
        rope, cross = (type(t)(*(x.to("meta") for x in t)) for t in (stream.rope, stream.cross_rope))
        groups = stream.groups._replace(first=stream.groups.first.to("meta"))
        return replace(stream, rope=rope, cross_rope=cross, groups=groups)

    on_meta = replace(tables, video=stream_on_meta(tables.video), audio=stream_on_meta(tables.audio))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(meta(video), meta(audio), tables=on_meta)
    return int(counter.get_total_flops())


class Contender:
    """Run one implementation in a process of its own, which stays between its turns."""

    def __init__(self, case: Case) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_start, initargs=(case,))

    def turn(self, warmup: int) -> Measurement:
        """Time one step."""
        return self._pool.submit(_take_turn, warmup).result()

    def close(self) -> None:
        self._pool.shutdown()


_worker: dict[str, Any] = {}  # what a contender's process holds between its turns


def _start(case: Case) -> None:
    torch.set_num_threads(case.threads)
    flops = count_step_flops(case)
    model = load_random(case)
    _worker.update(case=case, model=model, step=step_of(case, model), flops=flops)


def _take_turn(warmup: int) -> Measurement:
    return measure(
        _worker["case"].name,
        _worker["model"],
        _worker["step"],
        flops=_worker["flops"],
        repeats=1,
        warmup=warmup,
    )


def alternate(cases: list[Case], *, repeats: int, warmup: int) -> list[Measurement]:
    """Time steps in turns; return for each contender its median seconds and its last peak memory."""
    contenders = [Contender(case) for case in cases]
    turns: list[list[Measurement]] = [[] for _ in contenders]
    for repeat in range(repeats):
        for taken, contender in zip(turns, contenders, strict=True):
            taken.append(contender.turn(warmup if repeat == 0 else 0))
    for contender in contenders:
        contender.close()
    return [replace(taken[-1], seconds=median(turn.seconds for turn in taken)) for taken in turns]


def main() -> None:
    parser = arguments("One transformer step against diffusers.")
    parser.set_defaults(repeats=5, warmup=1)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--frames", type=int, default=121)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--text-tokens", type=int, default=1024)
    args = parser.parse_args()
    shape = VideoShape(args.frames, args.height, args.width)
    names = args.only or list(BUILDERS)
    rows = []
    for dtype in args.dtypes:
        cases = [
            Case(name, dtype, args.layers, shape, args.text_tokens, args.device, args.threads)
            for name in names
        ]
        rows += alternate(cases, repeats=args.repeats, warmup=args.warmup)
    peaks = {d: isolated(matmul_gflops_per_s, d, args.device, args.threads) for d in args.dtypes}
    video_tokens = cases[0].grid[0] * cases[0].grid[1] * cases[0].grid[2]
    title = (
        f"One step of {args.layers} blocks, {video_tokens} video, {cases[0].audio_tokens} audio and "
        f"{args.text_tokens} text tokens, {args.device}, {args.threads} threads"
    )
    report(title, rows, peaks, args.json)


if __name__ == "__main__":
    main()
