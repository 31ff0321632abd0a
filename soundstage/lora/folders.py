"""A LoRA that is a folder: what PEFT and diffusers save, and what PEFT reads beside the tensors. No torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soundstage.errors import MediaError, WeightsError
from soundstage.files import check_writable
from soundstage.lora.metadata import LoraNames
from soundstage.weights.header import is_there

ADAPTER, SETTINGS = "adapter_model.safetensors", "adapter_config.json"  # PEFT's
DIFFUSERS = "pytorch_lora_weights.safetensors"
PICKLES = ("adapter_model.bin", "pytorch_lora_weights.bin")
WRAPPER = "base_model.model."  # what PEFT puts before the names of the model it wraps


def lora_file(path: str | Path) -> Path:
    """Return the file of a LoRA that is given as a file, or as a folder of PEFT's or diffusers'.

    Raises WeightsError for a folder that holds neither.
    """
    path = Path(path)
    if not is_there(path) or not path.is_dir():
        return path
    found = next((path / name for name in (ADAPTER, DIFFUSERS) if (path / name).is_file()), None)
    if found is not None:
        return found
    for name in PICKLES:
        if (path / name).is_file():
            raise WeightsError(
                f"{path} holds {name}, a Python pickle, which can run code when opened; "
                "save it as .safetensors"
            )
    raise WeightsError(
        f"{path} is a folder without {ADAPTER} (PEFT) or {DIFFUSERS} (diffusers); give a LoRA's .safetensors"
    )


def is_folder(target: Path, names: str) -> bool:
    """Return whether a LoRA is written as a folder: in PEFT's names, under a name that is no file's."""
    return names == "peft" and target.suffix.lower() != ".safetensors"


def check_folder(target: Path, *, overwrite: bool) -> None:
    """Raise MediaError now if a folder of PEFT's could not be written later."""
    if target.is_file():
        raise MediaError(
            f"output is {target}, which is a file; give the name of a folder, or one ending in .safetensors"
        )
    with new_folder(target):
        check_writable(target / ADAPTER, (".safetensors",), overwrite=overwrite)


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """Make a folder for the block, which is there or not; one that was made and stays empty is removed."""
    made = not path.exists()
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(f"output is {path}, which cannot be made ({error.strerror})") from error
    try:
        yield
    finally:
        if made and not any(path.iterdir()):
            path.rmdir()


def peft_settings(names: LoraNames) -> str:
    """Return the adapter_config.json of a file in PEFT's names, whose scales are in its factors.

    Raises WeightsError where some layers have magnitudes and others not, which PEFT cannot say.
    """
    ranks = {module.removeprefix(WRAPPER): pair.rank for module, pair in names.pairs.items()}
    magnitudes = {pair.magnitude is not None for pair in names.pairs.values()}
    if len(magnitudes) > 1:
        raise WeightsError(
            "some layers are DoRA and others are not, which PEFT's settings cannot say; write comfyui's names"
        )
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "use_dora": magnitudes == {True},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
    }
    return json.dumps(settings, indent=2) + "\n"
