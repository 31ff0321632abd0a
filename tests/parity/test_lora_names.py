"""Adapters in other programs' names: diffusers and PEFT load every tensor of them, and compute the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from soundstage.lora.adapters import Adapters
from soundstage.lora.asked import FileNames
from soundstage.lora.files import read_lora, write_lora
from soundstage.lora.rewrite import convert
from tests.tiny_transformer import (
    assert_near,
    diffusers_twin,
    diffusers_velocities,
    random_lora,
    transformer,
    velocities,
)

# Layers whose names differ between the programs, and some that have one name.
LAYERS = ("attn1.to_q", "ff.net.2", "video_attn.to_out.0", "patchify_proj", "adaln_single.linear", "to_gate")


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank, and scales other than 1: readers that ignore an alpha must find them in the factors."""
    lora = random_lora(transformer())
    layers = {
        layer: replace(pair, down=pair.down[:3], up=pair.up[:, :3])
        for layer, pair in lora.layers.items()
        if any(name in layer.key for name in LAYERS)
    }
    path = tmp_path_factory.mktemp("names") / "style.safetensors"
    return write_lora(path, replace(lora, layers=layers), names="kijai", dtype=torch.float32)


@pytest.fixture(scope="module")
def wanted(style: Path) -> tuple[Tensor, Tensor]:
    model = transformer()
    adapters = Adapters(model)
    adapters.add("style", read_lora(style))
    adapters.set({"style": 1.0})
    return velocities(model)


@pytest.mark.parametrize("names", ["diffusers", "comfyui"])
def test_diffusers_loads_every_tensor(
    style: Path, wanted: tuple[Tensor, Tensor], tmp_path: Path, names: FileNames
) -> None:
    """As its pipeline's load_lora_weights does: read the file, then put it on the transformer."""
    from diffusers.loaders.lora_pipeline import LTX2LoraLoaderMixin

    path = tmp_path / "other.safetensors"
    convert(style, path, names=names)
    loader: Any = LTX2LoraLoaderMixin
    state, metadata = loader.lora_state_dict(str(path), return_lora_metadata=True)
    assert len(state) == len(load_file(path))
    theirs = diffusers_twin(transformer())
    assert {name.removeprefix("transformer.").rpartition(".lora_")[0] for name in state} <= set(
        dict(theirs.named_modules())
    )
    loader.load_lora_into_transformer(state, transformer=theirs, adapter_name="style", metadata=metadata)
    assert_near(diffusers_velocities(theirs), wanted, 1e-4)


def test_peft_loads_every_tensor(style: Path, wanted: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    path = tmp_path / "adapter_model.safetensors"
    convert(style, path, names="peft")
    state = load_file(path)
    layers = sorted({name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in state})
    theirs = get_peft_model(transformer(), LoraConfig(r=3, lora_alpha=3, target_modules=layers)).eval()
    result = set_peft_model_state_dict(theirs, state)
    assert result.unexpected_keys == []
    assert not [name for name in result.missing_keys if "lora_" in name]
    assert_near(velocities(theirs), wanted, 1e-5)  # type: ignore[arg-type]
