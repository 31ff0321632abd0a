"""Encoded datasets of random numbers, for a model of any width: what training reads, without encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from soundstage.dataset.encoded import Sample, write_sample
from soundstage.dataset.identity import model_identity
from soundstage.dataset.index import SampleInfo, write_index
from soundstage.library.model_files import find_model

WIDTHS = (64, 32)  # of a tiny model's contexts
GRID = (2, 2, 3)
NUM_AUDIO = 9
NUM_WORDS = 4


def write_encoded(
    folder: Path, model: Path, *, count: int = 4, without: Sequence[str] = (), **fields: Any
) -> Path:
    """Write a dataset of samples with every tensor but those of `without`. fields: of every SampleInfo."""
    infos = []
    for number in range(count):
        sample = random_sample(number, without)
        info = SampleInfo(
            id=f"clip {number}",
            fps=24.0,
            has=tuple(sample.tensors()),
            size=None if "video" in without else (96, 64, 9),
            num_audio=None if "audio" in without else NUM_AUDIO,
            caption=f"A red ball number {number}.",
            fingerprint=f"print {number}",
            **fields,
        )
        write_sample(folder / "encoded", info, sample)
        infos.append(info)
    write_index(folder / "encoded", model_identity(find_model(model)), infos)
    return folder


def random_sample(number: int, without: Sequence[str] = ()) -> Sample:
    """Return a sample of random numbers; its masks keep the first row, and the first two latents."""
    generator = torch.Generator().manual_seed(number)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    mask = torch.zeros(GRID, dtype=torch.uint8)
    mask[:, 0] = 1
    tensors: dict[str, Tensor] = {
        "video": noise(128, *GRID),
        "audio": noise(8, NUM_AUDIO, 16),
        "reference": noise(128, GRID[0], 1, 1),
        "reference_audio": noise(8, 5, 16),
        "video_mask": mask,
        "audio_mask": (torch.arange(NUM_AUDIO) < 2).to(torch.uint8),
    }
    kept = {name: tensor for name, tensor in tensors.items() if name not in without}
    return Sample(video_text=noise(NUM_WORDS, WIDTHS[0]), audio_text=noise(NUM_WORDS, WIDTHS[1]), **kept)
