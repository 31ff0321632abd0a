"""A batch of training gives the loss and the gradients of PEFT's factors on diffusers' transformer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.lora.adapters import Adapters
from soundstage.training.batches import Batch
from soundstage.training.factors import Factors
from soundstage.training.recompute import Recomputation
from soundstage.training.tuning.blocks import BlockRun
from soundstage.training.tuning.config import read_config
from soundstage.training.tuning.objective import VelocityObjective
from soundstage.training.tuning.targets import adapted
from soundstage.weights.diffusers_names import to_diffusers
from tests.tiny_transformer import (
    GRID,
    NUM_AUDIO,
    NUM_TEXT,
    NUM_VIDEO,
    diffusers_twin,
    relative_error,
    transformer,
)

RANK = 4
FIRST_FRAME = GRID[1] * GRID[2]
FPS = 24.0


def drawn_batch() -> Batch:
    """Return two samples with sigmas of their own for picture and sound, and a first frame that is given."""
    generator = torch.Generator().manual_seed(5)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    mask = torch.ones(2, NUM_VIDEO, 1)
    mask[0, :FIRST_FRAME] = 0
    tensors = {
        "video.clean": noise(2, NUM_VIDEO, 16), "video.noise": noise(2, NUM_VIDEO, 16), "video.mask": mask,
        "video.sigma": torch.tensor([0.7, 0.3]), "video.positions": video_positions(*GRID, FPS),
        "video.context": noise(2, NUM_TEXT, 128),
        "audio.clean": noise(2, NUM_AUDIO, 16), "audio.noise": noise(2, NUM_AUDIO, 16),
        "audio.mask": torch.ones(2, NUM_AUDIO, 1), "audio.sigma": torch.tensor([0.5, 0.9]),
        "audio.positions": audio_positions(NUM_AUDIO), "audio.context": noise(2, NUM_TEXT, 64),
    }  # fmt: skip
    return Batch("parity", tensors, 2)


def plain_loss(batch: Batch, made: tuple[Tensor, Tensor]) -> Tensor:
    """Return mean(mask (v' - v)^2) / mean(mask) of both streams, written down once more."""
    total = torch.zeros(())
    for name, velocity in zip(("video", "audio"), made, strict=True):
        mask = batch[f"{name}.mask"].expand_as(velocity)
        error = (velocity - (batch[f"{name}.noise"] - batch[f"{name}.clean"])).square() * mask
        total = total + (error.mean(dim=(1, 2)) / mask.mean(dim=(1, 2)).clamp(min=1e-8)).mean()
    return total


def noised(batch: Batch, name: str) -> tuple[Tensor, Tensor]:
    """Return noised tokens (B, N, D), and the timestep of each (B, N)."""
    sigma, mask = batch[f"{name}.sigma"][:, None, None], batch[f"{name}.mask"]
    level = sigma * mask
    return (1 - level) * batch[f"{name}.clean"] + level * batch[f"{name}.noise"], level[..., 0]


def theirs(batch: Batch, factors: Factors, alpha: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss and the factors' gradients of PEFT on diffusers' transformer, by its names."""
    from peft import LoraConfig, inject_adapter_in_model

    model = diffusers_twin(transformer())
    names = [to_diffusers("transformer", layer.key) for layer in factors.layers]
    model = inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=alpha, target_modules=names), model)
    for name, down, up in zip(names, factors.downs, factors.ups, strict=True):
        layer: Any = model.get_submodule(name)
        layer.lora_A["default"].weight.data.copy_(down)
        layer.lora_B["default"].weight.data.copy_(up)
    (video, times), (audio, audio_times) = noised(batch, "video"), noised(batch, "audio")
    made = model(
        hidden_states=video,
        audio_hidden_states=audio,
        encoder_hidden_states=batch["video.context"],
        audio_encoder_hidden_states=batch["audio.context"],
        timestep=times * 1000,
        audio_timestep=audio_times * 1000,
        sigma=batch["video.sigma"] * 1000,
        audio_sigma=batch["audio.sigma"] * 1000,
        num_frames=GRID[0],
        height=GRID[1],
        width=GRID[2],
        fps=FPS,
        audio_num_frames=NUM_AUDIO,
        use_cross_timestep=True,
        return_dict=False,
    )
    loss = plain_loss(batch, made)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {
        f"{name} {side}": getattr(model.get_submodule(name), f"lora_{side}")["default"].weight.grad
        for name in names
        for side in "AB"
    }


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_loss_and_gradients_of_the_factors_are_those_of_peft(again: bool) -> None:
    targets = ["video", "audio", "between", "ff"]
    lora = {"rank": RANK, "alpha": 6, "targets": targets}
    config = read_config({"data": "a", "output": "b", "lora": lora})
    model, batch = transformer(), drawn_batch()
    model.config = replace(model.config, cross_timestep="other")  # as diffusers has it
    torch.manual_seed(2)
    factors = Factors(adapted(model, config))
    for up in factors.ups:
        nn.init.normal_(up, std=0.05)
    adapters = Adapters(model)
    adapters.add("trained", factors.lora(), training=True)
    adapters.set({"trained": 1.0})
    cheap = Recomputation()
    cheap.put_on(model)
    loss = VelocityObjective(model, config, blocks=BlockRun(again=again, cheap=cheap))(batch)["loss"]
    loss.backward()  # type: ignore[no-untyped-call]
    wanted, gradients = theirs(batch, factors, alpha=6)
    assert float(loss.detach()) == pytest.approx(float(wanted), rel=1e-5)
    assert len(gradients) == 2 * len(factors.layers) == 112
    for layer, down, up in zip(factors.layers, factors.downs, factors.ups, strict=True):
        name = to_diffusers("transformer", layer.key)
        for side, factor in (("A", down), ("B", up)):
            assert factor.grad is not None
            assert relative_error(factor.grad, gradients[f"{name} {side}"]) < 1e-4, (name, side)
