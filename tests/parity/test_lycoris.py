"""Files that LyCORIS writes change a weight here as they do there, to 1e-4; its other forms are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from soundstage.errors import WeightsError
from soundstage.lora.files import read_lora
from soundstage.lora.layers import Layer
from soundstage.lora.merge import merged

KEY = "transformer_blocks.0.attn1.to_q"
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoCon of a linear layer": ("LoConModule", {}),
    "with rsLoRA": ("LoConModule", {"rs_lora": True}),
    "with a scalar": ("LoConModule", {"use_scalar": True}),
    "DoRA of rows": ("LoConModule", {"weight_decompose": True, "wd_on_out": True}),
    "LoHa": ("LohaModule", {}),
    "LoHa with a scalar": ("LohaModule", {"use_scalar": True}),
    "LoKr": ("LokrModule", {"factor": 4}),
    "LoKr of factors": ("LokrModule", {"factor": 16, "decompose_both": True}),
    "LoKr of whole matrices": ("LokrModule", {"factor": 8, "full_matrix": True}),
    "LoKr, sides exchanged": ("LokrModule", {"factor": 4, "unbalanced_factorization": True}),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "DoRA of columns": ("LoConModule", {"weight_decompose": True, "wd_on_out": False}, "each column"),
    "DoRA of LoHa": ("LohaModule", {"weight_decompose": True, "wd_on_out": True}, r"magnitudes \(DoRA\)"),
    "whole, with a bias": ("FullModule", {}, "changes of biases"),
    "OFT": ("DiagOFTModule", {}, "holds OFT"),
    "BOFT": ("ButterflyOFTModule", {}, "holds OFT"),
    "GLoRA": ("GLoRAModule", {}, "holds GLoRA"),
    "T-LoRA": ("TLoraModule", {}, "holds T-LoRA"),
    "IA3": ("IA3Module", {}, "holds IA3"),
}


def made(path: Path, kind: str, settings: dict[str, Any]) -> tuple[Any, nn.Linear]:
    """Write a file of LyCORIS with random values; return its module and the layer that it changes."""
    modules = pytest.importorskip("lycoris.modules", reason="lycoris-lora is not installed")
    torch.manual_seed(0)
    linear = nn.Linear(96, 128)
    module = getattr(modules, kind)("lycoris_x", linear, 1.0, lora_dim=4, alpha=3, **settings)
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, 1.0 if "dora_scale" in name else 0.0, 0.3)
    tensors = module.custom_state_dict() or module.state_dict()
    name = "lycoris_" + KEY.replace(".", "_")
    save_file({f"{name}.{key}": t.detach().clone().contiguous() for key, t in tensors.items()}, path)
    return module, linear


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_is_changed_as_lycoris_changes_it(form: str, tmp_path: Path) -> None:
    """Results of the layer count, as in training: LyCORIS 4.1 merges LoHa and LoKr at their scale squared."""
    path = tmp_path / "a.safetensors"
    module, linear = made(path, *FORMS[form])
    x, weight = torch.randn(7, 96), linear.weight.detach()
    with torch.no_grad():
        before = linear(x)
        module.apply_to()
        wanted = linear(x)
    ((layer, change),) = read_lora(path).layers.items()
    assert layer == Layer("transformer", KEY)
    found = nn.functional.linear(x, merged(weight, [(change, 1.0)]), linear.bias.detach())
    moved = (wanted - before).norm()
    assert moved > 0.1
    assert (found - wanted).norm() <= 1e-4 * moved


@pytest.mark.parametrize("form", REFUSED)
def test_a_form_of_lycoris_that_is_not_applied_is_refused_by_name(form: str, tmp_path: Path) -> None:
    kind, settings, message = REFUSED[form]
    made(tmp_path / "a.safetensors", kind, settings)
    with pytest.raises(WeightsError, match=message):
        read_lora(tmp_path / "a.safetensors")
