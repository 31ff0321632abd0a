"""LoRAs that PEFT and diffusers apply and save give the same numbers here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from soundstage.lora.adapters import Adapters
from soundstage.lora.files import read_lora
from soundstage.lora.report import AdapterReport
from tests.tiny_transformer import (
    assert_differ,
    assert_near,
    diffusers_twin,
    diffusers_velocities,
    modalities,
    transformer,
    velocities,
)

TARGETS = (
    r".*\.(to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2|to_gate_logits)|.*(proj_out|adaln_single\.linear)"
)


def randomize(model: nn.Module) -> None:
    """PEFT's new adapters change nothing."""
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.05)


def check_file(path: Path, theirs: nn.Module) -> AdapterReport:
    """Compare a file on our model with the adapter of PEFT on theirs; return the report on it."""
    ours = transformer()
    before = velocities(ours)
    adapters = Adapters(ours)
    report = adapters.add("a", read_lora(path))
    assert report.unmatched == ()
    adapters.set({"a": 1.0})
    assert_near(velocities(ours), velocities(theirs), 1e-5)  # type: ignore[arg-type]
    assert_differ(velocities(ours), before)
    return report


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_of_peft(tmp_path: Path, rslora: bool) -> None:
    """Ranks and alphas that differ by layer, saved by PEFT with its settings beside it."""
    from peft import LoraConfig, get_peft_model

    theirs = get_peft_model(
        transformer(),
        LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=TARGETS,
            rank_pattern={r"transformer_blocks\.0\.attn1\.to_q": 8},
            alpha_pattern={r"transformer_blocks\.1\.ff\.net\.2": 2},
            use_rslora=rslora,
        ),
    ).eval()
    randomize(theirs)
    theirs.save_pretrained(str(tmp_path))
    assert check_file(tmp_path / "adapter_model.safetensors", theirs).ranks == (4, 8)


@pytest.mark.parametrize("form", ["LoHa", "LoKr", "LoKr of whole matrices", "LoKr of factors"])
def test_other_forms_of_peft(tmp_path: Path, form: str) -> None:
    """Ranks and alphas that differ by layer; a LoKr's two sides whole, in factors, or one of each."""
    import peft

    pattern = {
        "r": 4,
        "alpha": 6,
        "target_modules": TARGETS,
        "rank_pattern": {r"transformer_blocks\.0\.attn1\.to_q": 2},
        "alpha_pattern": {r"transformer_blocks\.1\.ff\.net\.2": 2},
    }
    if form == "LoHa":
        config: peft.PeftConfig = peft.LoHaConfig(**pattern)
    elif form == "LoKr of whole matrices":
        config = peft.LoKrConfig(**{**pattern, "r": 64, "rank_pattern": {}}, decompose_factor=4)
    else:
        config = peft.LoKrConfig(**pattern, decompose_both=form == "LoKr of factors")
    theirs = peft.get_peft_model(transformer(), config).eval()
    torch.manual_seed(7)
    for name, parameter in theirs.named_parameters():
        if "hada_" in name or "lokr_" in name:
            nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(str(tmp_path))
    check_file(tmp_path / "adapter_model.safetensors", theirs)


def test_a_dora_of_peft_and_its_gradients(tmp_path: Path) -> None:
    """Magnitudes that are not the rows' norms; the norm takes no gradient, as in PEFT."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, use_dora=True)
    theirs = get_peft_model(transformer(), config).eval()
    randomize(theirs)
    for name, parameter in theirs.named_parameters():
        if "magnitude" in name:
            parameter.data *= torch.linspace(0.8, 1.3, len(parameter))
    theirs.save_pretrained(str(tmp_path))
    wanted = velocities(theirs)  # type: ignore[arg-type]

    ours = transformer()
    before = velocities(ours)
    lora = read_lora(tmp_path / "adapter_model.safetensors")
    adapters = Adapters(ours)
    adapters.add("a", lora)
    adapters.set({"a": 1.0})
    assert_near(velocities(ours), wanted, 1e-5)
    assert_differ(velocities(ours), before)
    adapters.remove("a")

    for pair in lora.layers.values():
        assert pair.magnitude is not None
        for factor in (pair.down, pair.up, pair.magnitude):
            factor.requires_grad_(True)
    adapters.add("new", lora, training=True)
    adapters.set({"new": 1.0})
    for model in (ours, theirs):
        video, audio = model(*modalities())
        (video.square().mean() + audio.square().mean()).backward()
    named = dict(theirs.named_parameters())
    for layer, pair in lora.layers.items():
        own = ((pair.down, "lora_A.default.weight"), (pair.up, "lora_B.default.weight"))
        for factor, name in (*own, (pair.magnitude, "lora_magnitude_vector.default.weight")):
            found = named[f"base_model.model.{layer.key}.{name}"].grad
            assert factor is not None
            assert factor.grad is not None
            assert found is not None
            assert (factor.grad - found).norm() <= 1e-4 * found.norm()


def test_an_adapter_of_diffusers(tmp_path: Path) -> None:
    """With diffusers' names of modules, applied at its own strength."""
    from peft import LoraConfig

    theirs = diffusers_twin(transformer())
    targets = ["to_q", "to_out.0", "net.0.proj", "time_embed.linear", "proj_in",
               "av_cross_attn_audio_v2a_gate.linear"]  # fmt: skip
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=targets), adapter_name="a")
    randomize(theirs)
    theirs.save_lora_adapter(tmp_path, adapter_name="a")
    theirs.set_adapters(["a"], [0.7])
    wanted = diffusers_velocities(theirs)

    ours = transformer()
    assert_near(velocities(ours), diffusers_velocities(diffusers_twin(transformer())), 1e-4)
    adapters = Adapters(ours)
    report = adapters.add("a", read_lora(tmp_path / "pytorch_lora_weights.safetensors"))
    assert report.unmatched == ()
    adapters.set({"a": 0.7})
    assert_near(velocities(ours), wanted, 1e-4)
    assert_differ(velocities(ours), diffusers_velocities(diffusers_twin(transformer())))
