"""Check the options of a LoRA file that is to be made, before anything is loaded. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from soundstage.errors import RequestError, listed, shown
from soundstage.files import check_writable
from soundstage.lora.folders import check_folder, is_folder, lora_file
from soundstage.lora.metadata import read_names
from soundstage.types import GROUPS
from soundstage.weights.header import read_header

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FileNames = Literal["comfyui", "kijai", "diffusers", "peft"]
NAMES: tuple[FileNames, ...] = get_args(FileNames)
FORMATS = ("bf16", "f16", "f32")
MAX_RANK = 8192
OnShare = Callable[[float], None]  # the share that is done, 0 to 1


class WriteOptions(TypedDict, total=False):
    """Options of every function that writes a LoRA; each may be left out."""

    names: FileNames  # of the tensors, see spellings.py; comfyui if left out
    dtype: torch.dtype | None  # the format of the factors, None for the one they have
    overwrite: bool  # a file that is there, which is left alone otherwise
    drop_unknown: bool  # leave out layers that LTX-2.3 does not have, which are refused otherwise
    on_progress: OnShare | None


@dataclass(frozen=True)
class RankLimit:
    """The part of a change that is kept. rank: at most. energy: the least share of the sum of its squares."""

    rank: int | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and not 1 <= self.rank <= MAX_RANK:
            raise RequestError(
                f"rank is {shown(self.rank)}; give a whole number from 1 to {MAX_RANK}", field="rank"
            )
        if self.energy is not None and not 0 < self.energy <= 1:
            raise RequestError(
                f"energy is {shown(self.energy)}; give the share of the change to keep, such as 0.95, "
                "up to 1",
                field="energy",
            )

    def of(self, values: Tensor, total: float) -> int:
        """Return how many singular values, falling, are kept, at least one. total: the sum of all squares."""
        kept = len(values)
        if self.energy is not None and self.energy < 1:
            sums = values.double().square().cumsum(0)
            kept = int((sums < self.energy * total).sum().item()) + 1
        return max(1, min(kept, len(values), self.rank or kept))

    def check_given(self) -> None:
        """Raise RequestError if there is no limit."""
        if self.rank is None and self.energy is None:
            raise RequestError("neither rank nor energy is given; give one, such as rank 16", field="rank")


def names_called(word: str) -> FileNames:
    """Return the names that a word means. Raises RequestError for an unknown word."""
    found = next((names for names in NAMES if names == word), None)
    if found is None:
        raise RequestError(f"names is '{word}'; give one of {listed(word, NAMES)}", field="names")
    return found


def check_format(word: str | None) -> None:
    """Raise RequestError for a number format that factors are not written in."""
    if word is not None and word not in FORMATS:
        raise RequestError(f"dtype is '{word}'; give one of {listed(word, FORMATS)}", field="dtype")


def check_groups(groups: Collection[str]) -> None:
    """Raise RequestError for a group that does not exist."""
    unknown = next((group for group in groups if group not in GROUPS), None)
    if unknown is not None:
        raise RequestError(
            f"groups has '{unknown}', which is no group; give {listed(unknown, GROUPS)}", field="groups"
        )


def check_strip(groups: Collection[str], slots: bool) -> None:
    """Raise RequestError where nothing, or something that does not exist, is to be left out."""
    check_groups(groups)
    if not groups and not slots:
        raise RequestError("nothing is to be left out; give groups, or slots", field="groups")


def check_target(target: Path, overwrite: bool, names: str = "comfyui") -> None:
    """Raise now what would keep a LoRA from being written later. Raises MediaError."""
    if is_folder(target, names):
        check_folder(target, overwrite=overwrite)
        return
    check_writable(target, (".safetensors",), overwrite=overwrite)


def check_sources(*paths: str | Path) -> None:
    """Raise WeightsError for a file that is no LoRA, by its header."""
    for path in paths:
        read_names(read_header(lora_file(path)))


def check_several(strengths: Collection[tuple[str | Path, float]]) -> None:
    """Raise RequestError for LoRAs, each with its strength, that cannot be merged into one."""
    if len(strengths) < 2:
        raise RequestError("one LoRA alone cannot be merged; give two or more", field="loras")
    for path, strength in strengths:
        if not math.isfinite(strength) or strength == 0:
            raise RequestError(
                f"the strength of {path} is {shown(strength)}; give a number other than 0", field="loras"
            )
