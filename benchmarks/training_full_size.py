"""Train a LoRA on random weights of full width: start, kill, go on, save; with seconds a step and the peak.

    python -m benchmarks.training_full_size FOLDER                      # two blocks, on a CPU
    python -m benchmarks.training_full_size FOLDER --blocks 48 --device cuda --size 512x512x49

Seconds on a CPU are those of the processor, on a device those of a clock.

FOLDER gets the files (8.7 GB with two blocks, 28 GB with 48), which another call finds there, an encoded
dataset of random samples, and the runs. Each row of --weights is trained by processes of its own, by the
session of `soundstage train`: the first is killed with SIGKILL after step 3, of which the state of step 2 is
on the disk; the second goes on to the end. Its step 3 must have the same loss, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_files import GemmaSizes, RandomFile, model_files, write_files
from soundstage.dataset.encoded import Sample, write_sample
from soundstage.dataset.identity import model_identity
from soundstage.dataset.index import SampleInfo, write_index
from soundstage.library.model_files import find_model
from soundstage.model.published import transformer_header
from soundstage.training.loop import StepDone
from soundstage.training.tuning import session
from soundstage.training.tuning.config import read_config
from soundstage.training.tuning.files import FINAL
from soundstage.training.tuning.session import schedule_of
from soundstage.types import VideoShape, audio_latent_length
from soundstage.weights.configs import published_config
from soundstage.weights.header import read_header

FPS, WORDS, SAMPLES = 24.0, 32, 1
KILLED_AFTER, SAVED_EVERY = 3, 2


def main() -> None:
    """Write the files, train with each kind of weights, and print a table."""
    words = parsed()
    if words.row:
        train_row(words)
        return
    config = published_config()
    if words.blocks != 48:
        config["transformer"] = transformer_header(num_layers=words.blocks)
    write_model_and_data(words.folder, config, GemmaSizes(num_layers=2), words.size, cut=words.blocks != 48)
    titles = f"{'loss of step 3':>16}{'again':>12}{'LoRA MB':>9}"
    print(f"{'weights':<10}{'start s':>9}{'s a step':>10}{'peak GB':>9}{titles}", flush=True)
    for row in words.weights:
        found = killed_and_resumed(words, row)
        print(
            f"{row:<10}{found['start']:>9.0f}{found['step']:>10.2f}{found['peak']:>9.2f}"
            f"{found['before']:>16.7f}{found['after']:>12.7f}{found['file']:>9.1f}",
            flush=True,
        )
        if found["before"] != found["after"]:
            sys.exit("the run that went on had another loss")


def parsed() -> argparse.Namespace:
    """Return the words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--size", default="256x256x9", help="width, height and frames of the clips")
    parser.add_argument("--weights", nargs="+", default=["full", "fp8"], help="full (bfloat16), fp8, int8")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-gb", type=float, help="of the device; what is free if left out")
    parser.add_argument("--residency", default="auto", help="auto, resident, stream or disk")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args()


# --- files ------------------------------------------------------------------------------------------


def write_model_and_data(
    folder: Path, config: dict[str, Any], gemma: GemmaSizes, size: str, *, cut: bool
) -> None:
    """Write a model's files and an encoded dataset of random numbers; files that are there stay."""
    files: list[RandomFile] = model_files(config, gemma, says_config=cut)
    write_files(folder / "model", files)
    transformer = config["transformer"]
    widths = (
        transformer["num_attention_heads"] * transformer["attention_head_dim"],
        transformer["audio_num_attention_heads"] * transformer["audio_attention_head_dim"],
    )
    write_data(folder / "data", folder / "model", size, widths)


def write_data(folder: Path, model: Path, size: str, widths: tuple[int, int]) -> None:
    """Write an encoded dataset of random clips with sound. widths: those of the text's features."""
    width, height, frames = (int(side) for side in size.split("x"))
    latent = VideoShape(frames, height, width).latent
    generator = torch.Generator().manual_seed(0)
    infos = []
    for number in range(SAMPLES):
        shapes = {
            "video": (128, *latent),
            "audio": (8, audio_latent_length(frames, FPS), 16),
            "video_text": (WORDS, widths[0]),
            "audio_text": (WORDS, widths[1]),
        }
        sample = Sample(**{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})
        info = SampleInfo(
            id=f"clip {number}", fps=FPS, has=tuple(sample.tensors()), size=(width, height, frames),
            num_audio=shapes["audio"][1], caption="Noise.", fingerprint=f"{size} {number}",
        )  # fmt: skip
        write_sample(folder / "encoded", info, sample)
        infos.append(info)
    write_index(folder / "encoded", model_identity(find_model(model)), infos)


# --- training ---------------------------------------------------------------------------------------


def killed_and_resumed(words: argparse.Namespace, row: str) -> dict[str, float]:
    """Train in a process that is killed, and in one that goes on; return what was measured."""
    shutil.rmtree(words.folder / row, ignore_errors=True)
    first = _told(words, row, kill_after=KILLED_AFTER)
    second = _told(words, row, kill_after=None)
    steps = [line for line in first + second if "step" in line]
    losses = [line["loss"] for line in steps if line["step"] == KILLED_AFTER]
    lora = words.folder / row / FINAL
    assert all(entry.num_params for entry in read_header(lora).tensors.values())
    return {
        "start": first[0]["seconds"],
        "step": statistics.median(line["seconds"] for line in (*first[1:], *second[1:]) if "step" in line),
        "peak": max(line["peak_gb"] for line in steps),
        "before": losses[0],
        "after": losses[1],
        "file": lora.stat().st_size / 1e6,
    }


def _told(words: argparse.Namespace, row: str, kill_after: int | None) -> list[dict[str, float]]:
    """Run a row in a process, and return what it told of each step. kill_after: a step."""
    command = [sys.executable, "-m", "benchmarks.training_full_size", *sys.argv[1:], "--row", row]
    told = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            told.append(json.loads(line))
            if told[-1]["step"] == kill_after:
                process.kill()
                break
        else:
            if process.wait():
                sys.exit(f"{row}: training ended with {process.returncode}")
    return told


def train_row(words: argparse.Namespace) -> None:
    """Train, and print a line of JSON for each step. The first one's seconds are those since the start."""
    clock = time.perf_counter if words.device.startswith("cuda") else time.process_time
    began = 0.0 if clock is time.process_time else clock()
    # On a slow machine a state of step 3 would be saved by the clock, and that step would not be made again.
    session.schedule_of = lambda config: replace(schedule_of(config), save_every_s=math.inf)
    run = session.TuningRun(read_config(fields_of(words)))
    for event in run.events():
        if isinstance(event, session.RunNotice):
            print(event.text, file=sys.stderr)
        if isinstance(event, StepDone):
            now = clock()
            print(
                json.dumps(
                    {
                        "step": event.step,
                        "loss": event.losses["loss"],
                        "seconds": now - began,
                        "peak_gb": peak_bytes(words.device) / 1e9,
                    }
                ),
                flush=True,
            )
            began = now


def fields_of(words: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a row's config."""
    folder: Path = words.folder
    return {
        "model": str(folder / "model"), "data": str(folder / "data"), "output": str(folder / words.row),
        "lora": {"rank": words.rank}, "steps": words.steps, "save_every": SAVED_EVERY,
        "residency": words.residency,
        "weights": words.row, "precision": "bfloat16", "device": words.device, "memory_gb": words.memory_gb,
    }  # fmt: skip


def peak_bytes(device: str) -> int:
    """Return the most memory that the device has held for this process; of a CPU, the process itself."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
