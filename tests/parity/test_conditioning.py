"""Coordinates, packing, masks and attention strengths against diffusers' own conditioning code."""

from types import SimpleNamespace

import pytest
import torch
from diffusers.models.transformers.transformer_ltx2 import LTX2AudioVideoRotaryPosEmbed
from diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora import LTX2InContextPipeline

from soundstage.conditioning.masks import attention_cells
from soundstage.conditioning.positions import guide_positions, reference_positions, video_positions
from soundstage.conditioning.tokens import Added, Tokens, from_tokens, to_tokens

GRID = (3, 2, 4)
FACTORS = SimpleNamespace(
    transformer_spatial_patch_size=1,
    transformer_temporal_patch_size=1,
    vae_temporal_compression_ratio=8,
    vae_spatial_compression_ratio=32,
)


@pytest.mark.parametrize("fps", [24.0, 25.0, 23.976])
@pytest.mark.parametrize(("frame", "num_frames"), [(1, 1), (8, 1), (9, 17), (41, 25)])
def test_guides_stand_where_keyframes_do(fps: float, frame: int, num_frames: int) -> None:
    latents = 1 if num_frames == 1 else (num_frames - 1) // 8 + 1
    theirs = LTX2InContextPipeline._prepare_keyframe_coords(
        FACTORS,
        keyframe_latent_num_frames=latents,
        keyframe_latent_height=2,
        keyframe_latent_width=4,
        pixel_frame_idx=frame,
        num_pixel_frames=num_frames,
        fps=fps,
        device=torch.device("cpu"),
    )
    ours = guide_positions(latents, 2, 4, fps, frame=frame, still=num_frames == 1)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("downscale", [1, 2])
def test_references_lie_over_the_clip(downscale: int) -> None:
    rope = LTX2AudioVideoRotaryPosEmbed(dim=64, base_num_frames=20, base_height=2048, base_width=2048)
    theirs = rope.prepare_video_coords(1, *GRID, device=torch.device("cpu"), fps=24.0)
    assert torch.equal(video_positions(*GRID, 24.0), theirs)
    theirs[:, 1:] *= downscale
    assert torch.equal(reference_positions(*GRID, 24.0, downscale=downscale), theirs)


def test_latents_are_packed_alike() -> None:
    latents = torch.randn(1, 128, *GRID)
    tokens = to_tokens(latents)
    assert torch.equal(tokens, LTX2InContextPipeline._pack_latents(latents))
    assert torch.equal(from_tokens(tokens, GRID), latents)


def test_attention_masks_shrink_to_tokens_alike() -> None:
    pixels = torch.rand(17, 64, 128)
    theirs = LTX2InContextPipeline._downsample_mask_to_latent(pixels[None, None], *GRID)
    assert torch.equal(attention_cells(pixels, 2, 4), theirs[0])


def test_attention_strengths_fill_the_same_matrix() -> None:
    """Keyframes first, at full strength, then two references."""
    tokens = Tokens.fresh(torch.zeros(1, 3, 4, 2), 8, torch.float32)
    strengths = (1.0, 0.5, torch.tensor([0.2, 0.7, 0.0]))
    for count, strength in zip((2, 2, 3), strengths, strict=True):
        positions = torch.zeros(1, 3, count, 2)
        tokens.add(Added(torch.zeros(1, count, 8), 0.0, positions, strength))
    theirs = LTX2InContextPipeline._build_video_self_attention_mask(
        num_noisy_tokens=4,
        num_prefix_tokens=6,
        extras_cross_masks=[torch.full((1, 2), 0.5), torch.tensor([[0.2, 0.7, 0.0]])],
        device=torch.device("cpu"),
    )
    assert torch.equal(tokens.stream().attention_mask, theirs)
