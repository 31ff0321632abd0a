"""Folders of PEFT: its own loader takes them, and they are read wherever a LoRA is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor, nn

import soundstage as ss
from soundstage.cli.program import app
from soundstage.errors import MediaError, SoundstageError, WeightsError
from soundstage.lora import rewrite
from soundstage.lora.files import read_lora
from soundstage.lora.folders import ADAPTER, SETTINGS

WIDTH = 256  # of nano's picture
QUERY, OUT = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn1.to_out.0"


def pair(module: str, rank: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"diffusion_model.{module}.lora_A.weight": torch.randn(rank, WIDTH, generator=generator) / 16,
        f"diffusion_model.{module}.lora_B.weight": torch.randn(WIDTH, rank, generator=generator) / 16,
        f"diffusion_model.{module}.alpha": torch.tensor(rank * 0.5),
    }


@pytest.fixture
def style(tmp_path: Path) -> Path:
    save_file(pair(QUERY, 4, 1) | pair(OUT, 2, 2), tmp_path / "style.safetensors", {"trigger_phrase": "ink"})
    return tmp_path / "style.safetensors"


class Base(nn.Module):
    """The two layers, where PEFT looks for them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        attention, block = nn.Module(), nn.Module()
        attention.to_q, attention.to_out = nn.Linear(WIDTH, WIDTH), nn.ModuleList([nn.Linear(WIDTH, WIDTH)])
        block.attn1 = attention
        self.transformer_blocks = nn.ModuleList([block])

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(OUT)(torch.relu(self.get_submodule(QUERY)(x)))


@pytest.mark.parametrize("dora", [False, True])
def test_pefts_own_loader_takes_the_folder_and_computes_the_same(
    style: Path, tmp_path: Path, dora: bool
) -> None:
    peft = pytest.importorskip("peft")
    base, x = Base(), torch.randn(3, WIDTH)
    if dora:
        tensors = pair(QUERY, 4, 1) | pair(OUT, 2, 2)
        for i, module in enumerate((QUERY, OUT)):
            magnitude = torch.linspace(0.5, 1.5 + i, WIDTH)[:, None]
            tensors[f"diffusion_model.{module}.dora_scale"] = magnitude
        save_file(tensors, style)
    weights = {
        layer: base.get_submodule(layer.key).weight.detach().clone() for layer in read_lora(style).layers
    }
    from soundstage.lora.merge import merged

    wanted = Base()
    for layer, change in read_lora(style).layers.items():
        with torch.no_grad():
            wanted.get_submodule(layer.key).weight.copy_(merged(weights[layer], [(change, 1.0)]))
    made = rewrite.convert(style, tmp_path / "peft", names="peft")
    assert made.path == tmp_path / "peft"
    assert sorted(path.name for path in made.path.iterdir()) == [SETTINGS, ADAPTER]
    loaded = peft.PeftModel.from_pretrained(base, made.path)
    torch.testing.assert_close(loaded(x), wanted(x), rtol=1e-4, atol=1e-5)


def test_a_folder_is_read_wherever_a_lora_is_given(style: Path, tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    words = ["lora", "convert", str(style), "--to", "peft", "-o", str(folder)]
    assert CliRunner().invoke(app, words).exit_code == 0
    for layer, change in read_lora(style).layers.items():
        torch.testing.assert_close(read_lora(folder).layers[layer].delta(), change.delta())
    plan = ss.load("nano").plan(ss.Request(prompt="a", loras=str(folder)))
    assert [use.path for use in plan.passes[0].loras] == [str(folder / ADAPTER)]
    shown = CliRunner().invoke(app, ["lora", "inspect", str(folder)])
    assert shown.exit_code == 0
    assert "trigger: ink" in shown.stdout
    back = ["lora", "convert", str(folder), "--to", "comfyui", "-o", str(tmp_path / "back.safetensors")]
    assert CliRunner().invoke(app, back).exit_code == 0
    again = CliRunner().invoke(app, words)
    assert (again.exit_code, "there already" in again.stderr) == (2, True)
    assert CliRunner().invoke(app, [*words, "--force"]).exit_code == 0


def test_the_settings_of_a_folder_count(style: Path, tmp_path: Path) -> None:
    """As PEFT wrote them: factors without a scale, alpha and rsLoRA beside them."""
    made = rewrite.convert(style, tmp_path / "peft", names="peft").path
    settings = json.loads((made / SETTINGS).read_text())
    settings.pop("alpha_pattern")
    (made / SETTINGS).write_text(json.dumps({**settings, "lora_alpha": 8, "use_rslora": True}))
    scales = {layer.key: change.scale for layer, change in read_lora(made).layers.items()}
    assert scales == {QUERY: 4.0, OUT: pytest.approx(8 / 2**0.5)}


def test_a_folder_without_a_lora_and_targets_that_cannot_be_are_one_sentence(
    style: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(WeightsError, match=r"empty is a folder without adapter_model\.safetensors"):
        read_lora(empty)
    (empty / "adapter_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(SoundstageError, match=r"holds adapter_model\.bin, a Python pickle"):
        ss.load("nano").plan(ss.Request(prompt="a", loras=str(empty)))
    (tmp_path / "taken").write_text("")
    with pytest.raises(MediaError, match="taken, which is a file; give the name of a folder"):
        rewrite.convert(style, tmp_path / "taken", names="peft")
    with pytest.raises(MediaError, match=r"give a name ending in \.safetensors"):
        rewrite.convert(style, tmp_path / "folder", names="comfyui")
    mixed = pair(QUERY, 4, 1) | pair(OUT, 2, 2) | {f"diffusion_model.{OUT}.dora_scale": torch.ones(WIDTH, 1)}
    save_file(mixed, style)
    with pytest.raises(WeightsError, match="some layers are DoRA and others are not"):
        rewrite.convert(style, tmp_path / "mixed", names="peft")
    assert not (tmp_path / "mixed").exists()
