"""Put exported parts together as the model folder that ships in the package, and take it apart again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from soundstage.errors import WeightsError
from soundstage.library.model_files import SHIPPED_MODELS
from soundstage.nano.training.export import PREFIXES, write
from soundstage.nano.training.latents import TEXT_TOKENS
from soundstage.nano.world.captions import NEGATIVE
from soundstage.nano.world.scene import BUCKETS, FPS
from soundstage.nano.world.vocabulary import write_vocabulary

# Files of a model folder, and the parts that each is made of.
FILES = {
    "transformer.safetensors": ("transformer",),
    "video_vae.safetensors": ("video-vae",),
    "audio_vae.safetensors": ("audio-vae", "vocoder"),
}
# Optional files of a model folder, each made of one part.
OPTIONAL = {
    "spatial_x2.safetensors": "spatial-x2",
    "spatial_x1_5.safetensors": "spatial-x1.5",
    "temporal_x2.safetensors": "temporal-x2",
    "preview_vae.safetensors": "preview",
    "distilled_lora.safetensors": "distilled",
}
GUIDANCE = {"cfg": 4.0}
STEPS = 20
# The usual names, at the size of nano's world.
RESOLUTIONS = {
    "480p": (128, 96),
    "540p": (160, 96),
    "720p": (192, 128),
    "1080p": (288, 192),
    "1440p": (384, 256),
    "2160p": (640, 384),
}
# Of the largest frames that follow their prompts. Larger ones do not: at 384x256 nano shows several subjects
# for one, and at 640x384 a grey picture.
MAX_PIXELS = 256 * 256


PACKAGED = SHIPPED_MODELS["nano"]  # the model folder in the package


def install(weights: Path, target: Path) -> list[Path]:
    """Write a model folder from exported parts and return its files.

    A part of OPTIONAL that is not there is left out. Raises WeightsError naming other parts that are not
    trained yet.
    """
    wanted = {p: weights / f"{p}.safetensors" for parts in FILES.values() for p in parts}
    missing = [p for p, path in wanted.items() if not path.exists()]
    if not (weights / "text" / "model.safetensors").exists():
        missing.append("text")
    if missing:
        raise WeightsError(f"not trained yet: {', '.join(missing)}; run `soundstage nano train PART` first")
    target.mkdir(parents=True, exist_ok=True)
    for name, parts in FILES.items():
        _join([wanted[p] for p in parts], target / name)
    for name, part in OPTIONAL.items():
        if (weights / f"{part}.safetensors").exists():
            _copy(weights / f"{part}.safetensors", target / name)
    _copy_text(weights / "text", target / "text")
    (target / "bundle.json").write_text(json.dumps(bundle(), indent=2) + "\n")
    write_vocabulary(target)
    return sorted(p for p in target.rglob("*") if p.is_file())


def unpack(source: Path, weights: Path) -> list[Path]:
    """Take a model folder apart into exported parts, to continue their training; return the parts' files.

    Raises WeightsError for a folder without the files of a model.
    """
    missing = [name for name in (*FILES, "text") if not (source / name).exists()]
    if missing:
        raise WeightsError(f"{source} is no folder that was installed: it has no {', '.join(missing)}")
    made = []
    for name, parts in FILES.items():
        with safe_open(source / name, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            config = json.loads(file.metadata()["config"])
        for part in parts:
            prefix = PREFIXES[part] if len(parts) > 1 else ""
            own = {key: value for key, value in tensors.items() if key.startswith(prefix)}
            sections = {key: value for key, value in config.items() if not prefix or key == prefix[:-1]}
            made.append(write(own, sections, weights / f"{part}.safetensors"))
    for name, part in OPTIONAL.items():
        if (source / name).exists():
            made.append(weights / f"{part}.safetensors")
            _copy(source / name, made[-1])
    _copy_text(source / "text", weights / "text")
    return made


def bundle() -> dict[str, Any]:
    """Return nano's bundle.json: the defaults of its requests."""
    sizes = {name: list(size) for name, size in BUCKETS.items()}
    return {
        "name": "nano",
        "defaults": {
            "size": sizes["landscape"],
            "presets": sizes,
            "resolutions": RESOLUTIONS,
            "image_crf": 0,
            "num_frames": 49,
            "fps": FPS,
            "max_duration_s": 20.0,
            "text_tokens": TEXT_TOKENS,
            "schedule": "ltx2",
            "steps": STEPS,
            "video": GUIDANCE,
            "audio": GUIDANCE,
            "negative_prompt": NEGATIVE,
            "dtype": "bfloat16",
            "follows": ["references"],
            "trained_pixels": max(width * height for width, height in BUCKETS.values()),
            "max_pixels": MAX_PIXELS,
            "trained_fps": FPS,
        },
    }


def _join(sources: list[Path], target: Path) -> None:
    tensors: dict[str, Tensor] = {}
    sections: dict[str, Any] = {}
    for source in sources:
        with safe_open(source, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            sections |= json.loads(file.metadata()["config"])
    write(tensors, sections, target)


def _copy(source: Path, target: Path) -> None:
    part = target.with_suffix(".part")
    shutil.copyfile(source, part)
    os.replace(part, target)


def _copy_text(source: Path, target: Path) -> None:
    part = target.with_name("text.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
