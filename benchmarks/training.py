"""Time a training step of a LoRA, and its peak of memory, beside a plain loop of diffusers and PEFT.

    python -m benchmarks.training                                   # a small width, for a CPU
    python -m benchmarks.training --heads 32 --head-dim 128 --size 512x512x49 --device cuda

Both train the same LoRA (rank 32 on every attention) on the same cut of the model with the same random
weights, on the same batch, with AdamW. Each row is a process of its own. "computed again" is gradient
checkpointing. Seconds on a CPU are those of the processor, which other work on the machine hardly changes:
the least of all steps. Rows take turns, --rounds times.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.lora.adapters import Adapters
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import Transformer
from soundstage.speed import cuda, onednn
from soundstage.speed.learning import let_learn
from soundstage.training.batches import Batch
from soundstage.training.factors import Factors
from soundstage.training.recompute import Recomputation
from soundstage.training.tuning.blocks import BlockRun
from soundstage.training.tuning.config import read_config
from soundstage.training.tuning.objective import VelocityObjective
from soundstage.training.tuning.targets import adapted
from soundstage.types import VideoShape, audio_latent_length
from soundstage.weights.diffusers_names import to_diffusers
from soundstage.weights.quantize import quantize

ROWS = ("diffusers", "diffusers, computed again", "soundstage", "soundstage, computed again",
        "soundstage, computed again, int8")  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RANK, FPS, TEXT = 32, 24.0, 256
TARGETS = ["video", "audio", "between"]
Step = Callable[[], object]


def main() -> None:
    """Run every row in a process of its own, and print a table."""
    words = parsed()
    if words.row:
        print(json.dumps(measured(words)))
        return
    best: dict[str, dict[str, float]] = {}
    for _ in range(words.rounds):
        for row in ROWS:
            found = in_a_process(row)
            kept = best.setdefault(row, found)
            best[row] = {name: min(value, kept[name]) for name, value in found.items()}
    print(f"{'row':<36}{'seconds a step':>16}{'peak GB':>10}")
    for row, found in best.items():
        print(f"{row:<36}{found['seconds']:>16.3f}{found['peak_gb']:>10.2f}")


def in_a_process(row: str) -> dict[str, float]:
    """Measure a row in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], "--row", row]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        sys.exit(f"{row}: {made.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(made.stdout.strip().splitlines()[-1])
    return found


def parsed() -> argparse.Namespace:
    """Return the words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--size", default="256x256x25")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="[default: float32 on a CPU, else bfloat16]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(words: argparse.Namespace) -> dict[str, float]:
    """Return the least seconds of a step, and the most memory that was held."""
    device = torch.device(words.device)
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    step = made_step(words, device)
    step()
    times = []
    for _ in range(words.steps):
        began = clock()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(clock() - began)
    on_cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if on_gpu else on_cpu
    return {"seconds": min(times), "peak_gb": peak / 1e9}


def made_step(words: argparse.Namespace, device: torch.device) -> Step:
    """Return a function that makes one step of a row."""
    dtype = DTYPES[words.dtype or ("bfloat16" if device.type == "cuda" else "float32")]
    torch.manual_seed(0)
    heads, head_dim = words.heads, words.head_dim
    header = transformer_header(
        num_layers=words.layers, num_heads=heads, head_dim=head_dim,
        audio_num_heads=heads, audio_head_dim=head_dim // 2,
    )  # fmt: skip
    model = Transformer(TransformerConfig.from_header({"transformer": header})).requires_grad_(False)
    batch = drawn_batch(words.size, heads * head_dim, heads * head_dim // 2).to(device)
    again = "again" in words.row
    if words.row.startswith("diffusers"):
        return diffusers_step(model, words, batch, device, dtype, again)
    for name, parameter in model.named_parameters():
        if "scale_shift_table" not in name:
            parameter.data = parameter.data.to(dtype)
    if "int8" in words.row:
        quantize(model, "int8")
    return own_step(model.to(device), batch, again)


def drawn_batch(size: str, width: int, audio_width: int) -> Batch:
    """Return a random batch of one clip with sound."""
    columns, rows, frames = (int(side) for side in size.split("x"))
    shape = VideoShape(frames, rows, columns)
    video, audio = shape.num_tokens, audio_latent_length(frames, FPS)
    tensors = {
        "video.clean": torch.randn(1, video, 128), "video.noise": torch.randn(1, video, 128),
        "video.mask": torch.ones(1, video, 1), "video.sigma": torch.tensor([0.7]),
        "video.positions": video_positions(*shape.latent, FPS), "video.context": torch.randn(1, TEXT, width),
        "audio.clean": torch.randn(1, audio, 128), "audio.noise": torch.randn(1, audio, 128),
        "audio.mask": torch.ones(1, audio, 1), "audio.sigma": torch.tensor([0.4]),
        "audio.positions": audio_positions(audio), "audio.context": torch.randn(1, TEXT, audio_width),
    }  # fmt: skip
    return Batch(size, tensors, 1)


def own_step(model: Transformer, batch: Batch, again: bool) -> Step:
    """Return a step of Soundstage's own parts."""
    config = read_config({"data": "a", "output": "b", "lora": {"rank": RANK, "targets": TARGETS}})
    factors = Factors(adapted(model, config)).to(batch["video.clean"].device)
    adapters = Adapters(model)
    adapters.add("trained", factors.lora(), training=True)
    adapters.set({"trained": 1.0})
    place = batch["video.clean"].device
    if place.type == "cuda":
        cuda.speed_up(model, place, model.dtype)
    else:
        onednn.apply(model, model.dtype)
    cheap = Recomputation()
    cheap.put_on(model)
    let_learn(model)
    objective = VelocityObjective(model, config, blocks=BlockRun(again=again, cheap=cheap))
    return descending(factors, lambda: objective(batch)["loss"], fused=True)


def diffusers_step(
    model: Transformer,
    words: argparse.Namespace,
    batch: Batch,
    device: torch.device,
    dtype: torch.dtype,
    again: bool,
) -> Step:
    """Return a step of diffusers' transformer with PEFT's LoRA, the same weights in it."""
    import diffusers
    from peft import LoraConfig

    heads, head_dim = words.heads, words.head_dim
    make: Any = diffusers.LTX2VideoTransformer3DModel
    twin = make(
        num_layers=words.layers, num_attention_heads=heads, attention_head_dim=head_dim,
        cross_attention_dim=heads * head_dim, gated_attn=True, cross_attn_mod=True,
        audio_num_attention_heads=heads, audio_attention_head_dim=head_dim // 2,
        audio_cross_attention_dim=heads * head_dim // 2, audio_gated_attn=True, audio_cross_attn_mod=True,
        rope_type="split", use_prompt_embeddings=False, perturbed_attn=True,
    )  # fmt: skip
    state = {to_diffusers("transformer", key): value for key, value in model.state_dict().items()}
    twin.load_state_dict(state, strict=True)
    del model, state
    twin = twin.to(device, dtype).requires_grad_(False)
    twin.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    if again:
        twin.enable_gradient_checkpointing()
    columns, rows, frames = (int(side) for side in words.size.split("x"))
    latent = VideoShape(frames, rows, columns).latent
    inputs = {name: noised(batch, name).to(dtype) for name in ("video", "audio")}

    def loss() -> Tensor:
        made = twin(
            hidden_states=inputs["video"], audio_hidden_states=inputs["audio"],
            encoder_hidden_states=batch["video.context"].to(dtype),
            audio_encoder_hidden_states=batch["audio.context"].to(dtype),
            timestep=1000 * batch["video.sigma"][:, None].expand(-1, inputs["video"].shape[1]),
            audio_timestep=1000 * batch["audio.sigma"][:, None].expand(-1, inputs["audio"].shape[1]),
            sigma=1000 * batch["video.sigma"], audio_sigma=1000 * batch["audio.sigma"],
            num_frames=latent[0], height=latent[1], width=latent[2], fps=FPS,
            audio_num_frames=inputs["audio"].shape[1], return_dict=False,
        )  # fmt: skip
        wanted = (batch[f"{name}.noise"] - batch[f"{name}.clean"] for name in ("video", "audio"))
        pairs = zip(made, wanted, strict=True)
        return torch.stack([(found.float() - true).square().mean() for found, true in pairs]).sum()

    return descending(twin, loss, fused=False)


def noised(batch: Batch, name: str) -> Tensor:
    """Return a stream's tokens at its noise level."""
    sigma = batch[f"{name}.sigma"][:, None, None]
    return (1 - sigma) * batch[f"{name}.clean"] + sigma * batch[f"{name}.noise"]


def descending(module: nn.Module, loss: Callable[[], Tensor], *, fused: bool) -> Step:
    """Return a step of AdamW on what a module trains. fused: as the loop of training has it."""
    params = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=1e-4, fused=fused)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
