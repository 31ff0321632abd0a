"""Snippets written for diffusers, made to run here: nano in the hub's cache, other imports, small sizes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from soundstage.library.model_files import SHIPPED_MODELS

COMMIT = "0" * 40
# Repositories that snippets name, each with the LoRAs' files they name.
REPOSITORIES = {
    "Lightricks/LTX-2": "ltx-2-19b-distilled-lora-384.safetensors",
    "Lightricks/LTX-2.3": "ltx-2.3-22b-distilled-lora-384-1.1.safetensors",
    "Lightricks/LTX-2-19b-LoRA-Camera-Control-Dolly-In": "ltx-2-19b-lora-camera-control-dolly-in.safetensors",
    "Lightricks/LTX-Video": "",
    "Lightricks/LTX-Video-0.9.5": "",
    "Lightricks/LTX-Video-0.9.7-dev": "",
    "Lightricks/ltxv-spatial-upscaler-0.9.7": "",
    "Lightricks/LTX-2.5-Diffusers": "",
    "diffusers/LTX-2.3-Diffusers": "",
    "rootonchair/LTX-2-19b-distilled": "",
}


def put_nano_in_hub(cache: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a cache of the hub in which each repository is nano, and have it used."""
    nano = SHIPPED_MODELS["nano"]
    for name, lora in REPOSITORIES.items():
        place = cache / f"models--{name.replace('/', '--')}"
        folder = place / "snapshots" / COMMIT
        folder.mkdir(parents=True)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
        for file in nano.iterdir():
            (folder / file.name).symlink_to(file)
        if lora:
            (folder / lora).symlink_to(nano / "distilled_lora.safetensors")
    patch.setenv("HF_HUB_CACHE", str(cache))


def with_our_imports(text: str) -> str:
    """Return a snippet that imports from Soundstage what it imported from diffusers."""
    return re.sub(r"^(\s*from) diffusers\b", r"\1 soundstage.compat.diffusers", text, flags=re.M)


def made_small(text: str) -> str:
    """Return a snippet with nano's sizes, few frames and steps, and no GPU."""
    for pattern, small in (
        (r"\b(1536|1216|1152|1024|768|704|576|512|480)\b", "64"),
        (r"\b(121|161|361)\b", "9"),
        (r"num_inference_steps=\d+", "num_inference_steps=2"),
        (r"frame_index=80", "frame_index=1"),
        (r"index=8\b", "index=1"),
        (r"spatio_temporal_guidance_blocks=\[\d+\]", "spatio_temporal_guidance_blocks=[1]"),
        (r"cuda(:\d)?", "cpu"),
        (r"torch.bfloat16", "torch.float32"),  # slow without units for it
    ):
        text = re.sub(pattern, small, text)
    return text
