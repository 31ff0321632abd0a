"""Compare the full vocoder with bandwidth extension, mel to 48 kHz stereo, with diffusers.

    python -m benchmarks.vocoder                                   # 2 s of sound, published width
    python -m benchmarks.vocoder --base-channels 128 --bwe-channels 64

Both run on the same random weights in float32; "difference" says how far the outputs are apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.harness import Measurement, arguments, count_flops, isolated, measure, random_state, report
from benchmarks.peak import matmul_gflops_per_s
from soundstage.model.config import VocoderConfig
from soundstage.model.published import vocoder_header
from soundstage.model.vocoder import Vocoder
from soundstage.types import MEL_BINS, MEL_HOP, MEL_RATE_HZ
from soundstage.weights.diffusers_names import to_diffusers

MEL_FRAMES_PER_S = MEL_RATE_HZ // MEL_HOP


@dataclass(frozen=True)
class Case:
    """What one process measures."""

    name: str
    base_channels: int
    bwe_channels: int
    mel_frames: int
    device: str
    threads: int
    repeats: int
    warmup: int

    @property
    def mel(self) -> tuple[int, ...]:
        return (1, 2, self.mel_frames, MEL_BINS)

    def build(self) -> nn.Module:
        return soundstage_vocoder(self) if self.name == "soundstage" else diffusers_vocoder(self)


def soundstage_vocoder(case: Case) -> Vocoder:
    header = vocoder_header(base_channels=case.base_channels, bwe_channels=case.bwe_channels)
    return Vocoder(VocoderConfig.from_header({"vocoder": header}))


def diffusers_vocoder(case: Case) -> nn.Module:
    from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE

    vocoder: nn.Module = LTX2VocoderWithBWE(
        hidden_channels=case.base_channels, bwe_hidden_channels=case.bwe_channels, final_act_fn="clamp"
    )
    return vocoder


NAMES = ("soundstage", "diffusers")


def load_random(case: Case) -> nn.Module:
    """Return one of the vocoders, on the weights and stored filters that all of them share."""
    ours = soundstage_vocoder(case)
    ours.load_state_dict(random_state(ours, torch.float32, "cpu"), strict=False)  # filters stay as built
    if case.name == "soundstage":
        return ours.to(case.device).eval()
    theirs = case.build()
    state = {to_diffusers("vocoder", key): value for key, value in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=True)
    return theirs.to(case.device).eval()


def run_case(case: Case) -> Measurement:
    torch.set_num_threads(case.threads)
    flops = count_flops(case.build, case.mel)
    vocoder = load_random(case)
    mel = torch.randn(case.mel, generator=torch.Generator().manual_seed(1)).to(case.device)
    return measure(
        case.name, vocoder, lambda: vocoder(mel), flops=flops, repeats=case.repeats, warmup=case.warmup
    )


def main() -> None:
    parser = arguments("Vocoder against diffusers.")
    parser.set_defaults(dtypes=["float32"], warmup=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--base-channels", type=int, default=1536)
    parser.add_argument("--bwe-channels", type=int, default=512)
    args = parser.parse_args()
    if args.dtypes != ["float32"]:
        parser.error("the vocoder runs in float32 only")
    frames = round(args.seconds * MEL_FRAMES_PER_S)
    widths = args.base_channels, args.bwe_channels
    rows = []
    for name in args.only or NAMES:
        case = Case(name, *widths, frames, args.device, args.threads, args.repeats, args.warmup)
        rows.append(isolated(run_case, case))
    peaks = {"float32": isolated(matmul_gflops_per_s, "float32", args.device, args.threads)}
    title = f"{args.seconds} s of sound, widths {widths}, {args.device}, {args.threads} threads"
    report(title, rows, peaks, args.json)


if __name__ == "__main__":
    main()
