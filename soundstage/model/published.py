"""Config sections of the published 2.3 structure, at any width, in the form that `config.py` reads.

For files that carry no config, for nano's own parts, and for random weights in tests and benchmarks.

Source: docs/model/checkpoints.md, "Config".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from soundstage.types import MEL_BINS, MEL_HOP, MEL_RATE_HZ, OUTPUT_RATE_HZ

# The 2.3 block lists: (name, layers or channel multiplier). A checkpoint names these, see `stored_blocks`.
ENCODER_BLOCKS_2_3: list[tuple[str, int]] = [
    ("res_x", 4),
    ("compress_space_res", 2),
    ("res_x", 6),
    ("compress_time_res", 2),
    ("res_x", 4),
    ("compress_all_res", 2),
    ("res_x", 2),
    ("compress_all_res", 1),
    ("res_x", 2),
]
DECODER_BLOCKS_2_3: list[tuple[str, int]] = [
    ("res_x", 4),
    ("compress_space", 2),
    ("res_x", 6),
    ("compress_time", 2),
    ("res_x", 4),
    ("compress_all", 1),
    ("res_x", 2),
    ("compress_all", 2),
    ("res_x", 2),
]
# What the sizes of a transformer do not change: its layers, and how streams, text and timesteps are wired.
LAYERS_2_3: dict[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "num_embeds_ada_norm": 1000,
    "norm_eps": 1e-6,
    "norm_elementwise_affine": False,
    "qk_norm": "rms_norm",
    "standardization_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "positional_embedding_theta": 10000,
}
WIRING_2_3: dict[str, Any] = {
    "rope_type": "split",
    "frequencies_precision": "float64",
    "use_middle_indices_grid": True,
    "causal_temporal_positioning": True,
    "timestep_scale_multiplier": 1000,
    "av_ca_timestep_scale_multiplier": 1000.0,
    "use_audio_video_cross_attention": True,
    "av_cross_ada_norm": True,
    "share_ff": False,
    "cross_attention_adaln": True,
    "apply_gated_attention": True,
    "text_encoder_norm_type": "per_token_rms",
    "caption_projection_first_linear": False,
    "caption_projection_second_linear": False,
    "caption_proj_input_norm": False,
    "caption_proj_before_connector": True,
    "use_embeddings_connector": True,
}


def stored_blocks(blocks: Sequence[tuple[str, int]]) -> list[list[Any]]:
    """Return a block list as official files store it. Other loaders take a bare number for layers only."""
    return [[name, {"num_layers" if name == "res_x" else "multiplier": value}] for name, value in blocks]


def video_vae_header(
    *, encoder_base_channels: int = 128, decoder_base_channels: int = 128, latent_channels: int = 128
) -> dict[str, Any]:
    """Return section "vae" of the 2.3 structure at any width; the defaults are the published model's."""
    return {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": latent_channels,
        "patch_size": 4,
        "norm_layer": "pixel_norm",
        "latent_log_var": "uniform",
        "causal_decoder": False,
        "timestep_conditioning": False,
        "spatial_padding_mode": "zeros",
        "encoder_base_channels": encoder_base_channels,
        "decoder_base_channels": decoder_base_channels,
        "encoder_blocks": stored_blocks(ENCODER_BLOCKS_2_3),
        "decoder_blocks": stored_blocks(DECODER_BLOCKS_2_3),
    }


def transformer_header(
    *,
    num_layers: int = 48,
    num_heads: int = 32,
    head_dim: int = 128,
    audio_num_heads: int = 32,
    audio_head_dim: int = 64,
    channels: int = 128,
    caption_channels: int = 3840,
    connector_num_layers: int = 8,
    connector_num_registers: int = 128,
    max_positions: tuple[int, int, int] = (20, 2048, 2048),
    connector_max_position: int = 4096,
) -> dict[str, Any]:
    """Return section "transformer" of the 2.3 structure at any width; the defaults are the 22B model's.

    caption_channels: hidden size of the text encoder. channels: latent channels of both streams. The
    connectors have the heads of their streams.
    """
    return {
        "_class_name": "AVTransformer3DModel",
        "num_layers": num_layers,
        "num_attention_heads": num_heads,
        "attention_head_dim": head_dim,
        "in_channels": channels,
        "out_channels": channels,
        "cross_attention_dim": num_heads * head_dim,
        "caption_channels": caption_channels,
        "audio_num_attention_heads": audio_num_heads,
        "audio_attention_head_dim": audio_head_dim,
        "audio_in_channels": channels,
        "audio_out_channels": channels,
        "audio_cross_attention_dim": audio_num_heads * audio_head_dim,
        **LAYERS_2_3,
        "positional_embedding_max_pos": list(max_positions),
        "audio_positional_embedding_max_pos": [max_positions[0]],
        **WIRING_2_3,
        "connector_num_attention_heads": num_heads,
        "connector_attention_head_dim": head_dim,
        "connector_num_layers": connector_num_layers,
        "connector_positional_embedding_max_pos": [connector_max_position],
        "connector_num_learnable_registers": connector_num_registers,
        "connector_norm_output": True,
        "connector_apply_gated_attention": True,
        "audio_connector_num_attention_heads": audio_num_heads,
        "audio_connector_attention_head_dim": audio_head_dim,
    }


def audio_vae_header(*, base_channels: int = 128, mel_bins: int = MEL_BINS) -> dict[str, Any]:
    """Return section "audio_vae" of the 2.3 structure at any width; the defaults are those published."""
    return {
        "model": {
            "params": {
                "ddconfig": {
                    "double_z": True,
                    "mel_bins": mel_bins,
                    "z_channels": 8,
                    "resolution": 256,
                    "downsample_time": False,
                    "in_channels": 2,
                    "out_ch": 2,
                    "ch": base_channels,
                    "ch_mult": [1, 2, 4],
                    "num_res_blocks": 2,
                    "attn_resolutions": [],
                    "dropout": 0.0,
                    "mid_block_add_attention": False,
                    "norm_type": "pixel",
                    "causality_axis": "height",
                },
                "sampling_rate": MEL_RATE_HZ,
            }
        },
        "preprocessing": {
            "audio": {
                "sampling_rate": MEL_RATE_HZ,
                "max_wav_value": 32768,
                "duration": 5.12,
                "stereo": True,
                "causal_padding": 3,
            },
            "stft": {"filter_length": 1024, "hop_length": MEL_HOP, "win_length": 1024, "causal": True},
            "mel": {"n_mel_channels": MEL_BINS, "mel_fmin": 0, "mel_fmax": 8000},
        },
    }


def vocoder_header(*, base_channels: int = 1536, bwe_channels: int = 512) -> dict[str, Any]:
    """Return section "vocoder" of the 2.3 structure at any width; the defaults are the published model's.

    The widths are the initial channels of the two generators, multiples of 64 and 32.
    """
    shared = {
        "resblock": "AMP1",
        "activation": "snakebeta",
        "resblock_kernel_sizes": [3, 7, 11],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "stereo": True,
        "use_tanh_at_final": False,
        "use_bias_at_final": False,
    }
    return {
        "vocoder": {
            "upsample_initial_channel": base_channels,
            "upsample_rates": [5, 2, 2, 2, 2, 2],
            "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
            **shared,
        },
        "bwe": {
            "upsample_initial_channel": bwe_channels,
            "upsample_rates": [6, 5, 2, 2, 2],
            "upsample_kernel_sizes": [12, 11, 4, 4, 4],
            **shared,
            "apply_final_activation": False,
            "input_sampling_rate": MEL_RATE_HZ,
            "output_sampling_rate": OUTPUT_RATE_HZ,
            "hop_length": 80,
            "n_fft": 512,
            "win_size": 512,
            "num_mels": MEL_BINS,
        },
    }


def upsampler_header(
    kind: Literal["x2", "x1.5", "time"],
    *,
    mid_channels: int | None = None,
    latent_channels: int = 128,
    blocks_per_stage: int = 4,
) -> dict[str, Any]:
    """Return the config of a 2.3 upsampler file for one kind of scaling. mid_channels None: as published."""
    return {
        "_class_name": "LatentUpsampler",
        "in_channels": latent_channels,
        "mid_channels": mid_channels or (512 if kind == "time" else 1024),
        "num_blocks_per_stage": blocks_per_stage,
        "dims": 3,
        "spatial_upsample": kind != "time",
        "temporal_upsample": kind == "time",
        "spatial_scale": {"x2": 2.0, "x1.5": 1.5, "time": 1.0}[kind],
        "rational_resampler": kind != "x2",
    }
