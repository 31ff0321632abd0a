"""Write a LoRA's layers as other programs name them.

    names       module                                        pair              scale
    comfyui     diffusion_model. and the published name       lora_A, lora_B    folded into lora_B
    kijai       the same                                      lora_down, _up    an alpha beside each pair
    diffusers   transformer. or connectors. and its own name  lora_A, lora_B    folded into lora_B
    peft        base_model.model. and the published name      lora_A, lora_B    folded into lora_B

Readers exist that ignore an alpha, the official one among them, so it is folded in where nobody asks for it.
A DoRA's magnitudes are dora_scale (out, 1) for the first two and lora_magnitude_vector (out,) for the others.

Source: docs/model/checkpoints.md, "LoRA files".
"""

from __future__ import annotations

import torch
from torch import Tensor

from soundstage.lora.asked import FileNames
from soundstage.lora.layers import Layer, LowRank
from soundstage.lora.module_names import published_prefix
from soundstage.weights.diffusers_names import to_diffusers


def tensors_of(layer: Layer, pair: LowRank, names: FileNames, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return the tensors of one layer by the names they have in a file.

    dtype: the format of the factors, None for the one they have. Magnitudes and alphas are float32.
    """
    module = module_name(layer, names)
    dtype = dtype or pair.down.dtype
    down, up = pair.down.detach().to(dtype), pair.up.detach()
    if names == "kijai":
        tensors = {"lora_down.weight": down, "lora_up.weight": up.to(dtype)}
        tensors["alpha"] = torch.full((), pair.scale * pair.rank, device=down.device)
    else:
        folded = up.to(dtype) if pair.scale == 1 else (up.float() * pair.scale).to(dtype)
        tensors = {"lora_A.weight": down, "lora_B.weight": folded}
    if pair.magnitude is not None:
        magnitude = pair.magnitude.detach().float()
        if names in ("comfyui", "kijai"):
            tensors["dora_scale"] = magnitude[:, None]
        else:
            tensors["lora_magnitude_vector"] = magnitude
    return {f"{module}.{name}": tensor.contiguous() for name, tensor in tensors.items()}


def module_name(layer: Layer, names: FileNames) -> str:
    """Return what a file calls a layer."""
    part, key = layer
    if names == "diffusers":
        own = to_diffusers(part, key)
        if part == "transformer":
            return f"transformer.{own}"
        return f"connectors.{own}" if part == "text_projection" else f"connectors.{part}.{own}"
    published = f"{published_prefix(part)}{key}"
    if names == "peft":
        return f"base_model.model.{published}"
    return published if part == "text_projection" else f"diffusion_model.{published}"
