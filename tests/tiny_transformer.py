"""A transformer of the true structure at a small width, inputs for it, and random LoRAs on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.lora.files import LoraFile
from soundstage.lora.layers import Layer, LowRank
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import ModalityInputs, Transformer
from soundstage.weights.diffusers_names import to_diffusers

HEADER = {
    "transformer": transformer_header(
        num_layers=2, num_heads=4, head_dim=32, audio_num_heads=4, audio_head_dim=16, channels=16
    )
}
GRID = (3, 2, 4)
NUM_VIDEO, NUM_AUDIO, NUM_TEXT = 24, 9, 7

Velocities = tuple[Tensor, Tensor]


def transformer(dtype: torch.dtype = torch.float32) -> Transformer:
    """The same weights every time; tables stay float32."""
    torch.manual_seed(0)
    model = Transformer(TransformerConfig.from_header(HEADER)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if name.endswith("_norm.weight") else 0.0, std=0.1)
        if parameter.ndim == 1 or name.endswith(".weight"):
            parameter.data = parameter.data.to(dtype)
    return model


def modalities(batch: int = 2, **video_changes: Any) -> tuple[ModalityInputs, ModalityInputs]:
    """The same inputs every time. video_changes: fields of the picture's that are to be others."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    sigma = torch.linspace(0.7, 0.3, batch)
    video = ModalityInputs(
        latents=noise(batch, NUM_VIDEO, 16),
        sigma=sigma,
        timesteps=sigma[:, None].repeat(1, NUM_VIDEO),
        positions=video_positions(*GRID, 24.0),
        context=noise(batch, NUM_TEXT, 128),
    )
    audio = ModalityInputs(
        latents=noise(batch, NUM_AUDIO, 16),
        sigma=sigma,
        timesteps=sigma[:, None].repeat(1, NUM_AUDIO),
        positions=audio_positions(NUM_AUDIO),
        context=noise(batch, NUM_TEXT, 64),
    )
    return replace(video, **video_changes), audio


@torch.no_grad()
def velocities(model: Transformer, batch: int = 2) -> Velocities:
    video, audio = model(*modalities(batch))
    assert video is not None
    assert audio is not None
    return video, audio


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: child for name, child in model.named_modules() if isinstance(child, nn.Linear)}


def random_lora(
    model: nn.Module, *, seed: int = 0, rank: int = 3, only: str = "", size: float = 0.02
) -> LoraFile:
    """A change of every layer whose name holds `only`, with ranks that differ and scales that are not 1."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for number, (name, linear) in enumerate(linears(model).items()):
        if only not in name:
            continue
        r = rank + number % 3
        down = torch.randn(r, linear.in_features, generator=generator) * linear.in_features**-0.5
        up = torch.randn(linear.out_features, r, generator=generator) * size
        layers[Layer("transformer", name)] = LowRank(down, up, scale=0.5 + number % 2)
    return LoraFile(layers, source=f"lora {seed}")


def random_dora(model: nn.Module, *, seed: int = 0, only: str = "") -> LoraFile:
    """`random_lora` with magnitudes that are up to a third off the rows' own norms."""
    lora, layers, found = random_lora(model, seed=seed, only=only), linears(model), {}
    generator = torch.Generator().manual_seed(seed)
    for layer, pair in lora.layers.items():
        norms = layers[layer.key].weight.detach().float().norm(dim=1)
        found[layer] = replace(
            pair, magnitude=norms * (0.7 + 0.6 * torch.rand(len(norms), generator=generator))
        )
    return replace(lora, layers=found)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    error = (found.float() - wanted.float()).norm() / wanted.float().norm()
    return float(error.item())


def assert_near(found: Velocities, wanted: Velocities, tolerance: float) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert relative_error(ours, theirs) < tolerance


def assert_same(found: Velocities, wanted: Velocities) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)


def assert_differ(found: Velocities, wanted: Velocities) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert relative_error(ours, theirs) > 1e-3


def diffusers_twin(ours: Transformer) -> Any:
    """diffusers' transformer, of as many layers, with the weights of ours."""
    import diffusers

    twin: Any = diffusers.LTX2VideoTransformer3DModel
    theirs = twin(
        in_channels=16,
        out_channels=16,
        num_attention_heads=4,
        attention_head_dim=32,
        cross_attention_dim=128,
        gated_attn=True,
        cross_attn_mod=True,
        audio_in_channels=16,
        audio_out_channels=16,
        audio_num_attention_heads=4,
        audio_attention_head_dim=16,
        audio_cross_attention_dim=64,
        audio_gated_attn=True,
        audio_cross_attn_mod=True,
        num_layers=len(ours.transformer_blocks),
        rope_type="split",
        use_prompt_embeddings=False,
        perturbed_attn=True,
    ).eval()
    state = {to_diffusers("transformer", key): value for key, value in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=True)
    return theirs


def run_diffusers(
    theirs: Any, video: ModalityInputs, audio: ModalityInputs, **options: Any
) -> tuple[Tensor, Tensor]:
    """What diffusers' transformer makes of inputs."""
    with torch.no_grad():
        return theirs(  # type: ignore[no-any-return]
            hidden_states=video.latents,
            audio_hidden_states=audio.latents,
            encoder_hidden_states=video.context,
            audio_encoder_hidden_states=audio.context,
            timestep=video.timesteps * 1000,
            audio_timestep=audio.timesteps * 1000,
            sigma=video.sigma * 1000,
            audio_sigma=audio.sigma * 1000,
            num_frames=GRID[0],
            height=GRID[1],
            width=GRID[2],
            fps=24.0,
            audio_num_frames=NUM_AUDIO,
            video_self_attention_mask=video.attention_mask,
            **{"use_cross_timestep": True, "return_dict": False, **options},
        )


def diffusers_velocities(theirs: Any) -> Velocities:
    """What diffusers' transformer makes of the inputs of `velocities`."""
    return run_diffusers(theirs, *modalities(), use_cross_timestep=False)
