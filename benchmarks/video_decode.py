"""Compare the full video decoder, 407 M parameters, with diffusers: 25 frames, 256x256, whole and in pieces.

    python -m benchmarks.video_decode
    python -m benchmarks.video_decode --frames 9 --height 64 --width 64     # a quick look
    python -m benchmarks.video_decode --frames 241 --width 768 --only soundstage streaming --max-mib 16

All run on the same random weights; "difference" says how far the outputs are apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.harness import (
    DTYPES,
    Measurement,
    arguments,
    count_flops,
    isolated,
    measure,
    random_state,
    report,
)
from benchmarks.peak import matmul_gflops_per_s
from soundstage.model.config import VideoVaeConfig
from soundstage.model.pieces import MAX_BYTES, stream_decoder
from soundstage.model.published import video_vae_header
from soundstage.model.video_vae import VideoDecoder
from soundstage.speed import onednn
from soundstage.types import LATENT_CHANNELS, VideoShape
from soundstage.weights.diffusers_names import to_diffusers


@dataclass(frozen=True)
class Case:
    """What one process measures."""

    name: str
    dtype: str
    shape: VideoShape
    device: str
    threads: int
    repeats: int
    warmup: int
    max_bytes: int = MAX_BYTES

    @property
    def latents(self) -> tuple[int, ...]:
        return (1, LATENT_CHANNELS, *self.shape.latent)


def soundstage_decoder() -> nn.Module:
    return VideoDecoder(VideoVaeConfig.from_header({"vae": video_vae_header()}))


class StreamingDecoder(VideoDecoder):
    """Decode a clip in pieces of up to `max_bytes` and join them, with the same decoder."""

    max_bytes = MAX_BYTES

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(list(stream_decoder(self, x, max_bytes=self.max_bytes)), dim=2)


def streaming_decoder() -> nn.Module:
    return StreamingDecoder(VideoVaeConfig.from_header({"vae": video_vae_header()}))


def diffusers_decoder() -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl_ltx2 import LTX2VideoDecoder3d

    decoder: nn.Module = LTX2VideoDecoder3d(
        block_out_channels=(256, 512, 512, 1024),
        spatio_temporal_scaling=(True, True, True, True),
        layers_per_block=(4, 6, 4, 2, 2),
        upsample_type=("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
        is_causal=False,
        inject_noise=(False,) * 5,
        timestep_conditioning=False,
        upsample_residual=(False,) * 4,
        upsample_factor=(2, 2, 1, 2),  # type: ignore[arg-type]  # annotated as flags, used as factors
        spatial_padding_mode="zeros",
    )
    return decoder


DECODERS = {
    "soundstage": soundstage_decoder,
    "streaming": streaming_decoder,
    "diffusers": diffusers_decoder,
}


def load_random(name: str, dtype: torch.dtype, device: str) -> nn.Module:
    """Return one of the decoders, on the weights that all of them share."""
    with torch.device("meta"):
        ours = soundstage_decoder()
        decoder = DECODERS[name]()
    state = random_state(ours, dtype, device)
    if name == "diffusers":
        prefix = "decoder."
        state = {to_diffusers("video_vae", prefix + k).removeprefix(prefix): v for k, v in state.items()}
    decoder.load_state_dict(state, strict=True, assign=True)
    if name != "diffusers" and device == "cpu":
        onednn.apply(decoder, dtype)
    return decoder.eval()


def run_case(case: Case) -> Measurement:
    torch.set_num_threads(case.threads)
    dtype = DTYPES[case.dtype]
    StreamingDecoder.max_bytes = case.max_bytes
    flops = count_flops(DECODERS[case.name], case.latents)
    decoder = load_random(case.name, dtype, case.device)
    latents = torch.randn(case.latents, generator=torch.Generator().manual_seed(1)).to(case.device, dtype)
    return measure(
        case.name, decoder, lambda: decoder(latents), flops=flops, repeats=case.repeats, warmup=case.warmup
    )


def main() -> None:
    parser = arguments("Video decode against diffusers.")
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--max-mib", type=int, default=MAX_BYTES // 2**20, help="of a streamed piece")
    args = parser.parse_args()
    shape = VideoShape(args.frames, args.height, args.width)
    rows = []
    for dtype in args.dtypes:
        for name in args.only or DECODERS:
            case = Case(
                name,
                dtype,
                shape,
                args.device,
                args.threads,
                args.repeats,
                args.warmup,
                args.max_mib * 2**20,
            )
            rows.append(isolated(run_case, case))
    peaks = {d: isolated(matmul_gflops_per_s, d, args.device, args.threads) for d in args.dtypes}
    title = (
        f"Decode of {args.frames} frames at {args.width}x{args.height}, {args.device}, {args.threads} threads"
    )
    report(title, rows, peaks, args.json)


if __name__ == "__main__":
    main()
