"""Names of weights in a diffusers folder <-> our names, which are the official ones, part by part.

Source: docs/model/checkpoints.md, "diffusers folders".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soundstage.weights.layouts import Part

# Whole path segments: "adaln_single" is also the end of seven longer names.
DIFFUSERS_SEGMENTS: dict[str, str] = {
    "patchify_proj": "proj_in",
    "audio_patchify_proj": "audio_proj_in",
    "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed",
    "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
    "scale_shift_table_a2v_ca_video": "video_a2v_cross_attn_scale_shift_table",
    "scale_shift_table_a2v_ca_audio": "audio_a2v_cross_attn_scale_shift_table",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
    "transformer_1d_blocks": "transformer_blocks",
    "video_aggregate_embed": "video_text_proj_in",
    "audio_aggregate_embed": "audio_text_proj_in",
}
# The transformer's own "transformer_blocks" keeps its name, so the way back depends on the part.
_FROM_DIFFUSERS = {theirs: ours for ours, theirs in DIFFUSERS_SEGMENTS.items()}

_VAE_BLOCK = re.compile(r"^(encoder\.down_blocks|decoder\.up_blocks)\.(\d+)\.(.*)$")
_VAE_BLOCK_DIFFUSERS = re.compile(
    r"^(?:(encoder|decoder)\.mid_block|(encoder\.down_blocks|decoder\.up_blocks)\.(\d+))\.(.*)$"
)
_VAE_STATISTICS = {
    "per_channel_statistics.mean-of-means": "latents_mean",
    "per_channel_statistics.std-of-means": "latents_std",
}
_VOCODER_SEGMENTS = {
    "conv_pre": "conv_in",
    "conv_post": "conv_out",
    "ups": "upsamplers",
    "resblocks": "resnets",
    "act_post": "act_out",
}


def to_diffusers(part: Part, key: str) -> str:
    """Return diffusers' key for our key of a part, without the connectors' prefix."""
    if part == "video_vae":
        return _vae_to_diffusers(key)
    if part == "audio_vae":
        return _VAE_STATISTICS.get(key, key)
    if part == "vocoder":
        segments = (_VOCODER_SEGMENTS.get(segment, segment) for segment in key.split("."))
        return ".".join(segments).replace("downsample.lowpass.", "downsample.")
    return ".".join(DIFFUSERS_SEGMENTS.get(segment, segment) for segment in key.split("."))


def from_diffusers(part: Part, key: str) -> str:
    """Return our key for diffusers' key of a part: the inverse of `to_diffusers`."""
    if part == "video_vae":
        return _vae_from_diffusers(key)
    if part == "audio_vae":
        return {theirs: ours for ours, theirs in _VAE_STATISTICS.items()}.get(key, key)
    segments = key.split(".")
    if part == "vocoder":
        ours = {theirs: ours for ours, theirs in _VOCODER_SEGMENTS.items()}
        name = ".".join(ours.get(segment, segment) for segment in segments)
        return name.replace("downsample.", "downsample.lowpass.")
    if part == "transformer":
        return ".".join(s if s == "transformer_blocks" else _FROM_DIFFUSERS.get(s, s) for s in segments)
    return ".".join(_FROM_DIFFUSERS.get(segment, segment) for segment in segments)


def _vae_to_diffusers(key: str) -> str:
    """Return diffusers' key. Our list alternates res stages and changes of scale; diffusers pairs them."""
    match = _VAE_BLOCK.match(key)
    if match is None:
        return _VAE_STATISTICS.get(key, key)
    blocks, number, rest = match[1], int(match[2]), match[3].replace("res_blocks.", "resnets.")
    half = blocks.split(".")[0]
    if number == (8 if half == "encoder" else 0):
        return f"{half}.mid_block.{rest}"
    if number % 2:
        sampler = "downsamplers" if half == "encoder" else "upsamplers"
        return f"{blocks}.{number // 2}.{sampler}.0.{rest}"
    pair = number // 2 if half == "encoder" else number // 2 - 1
    return f"{blocks}.{pair}.{rest}"


def _vae_from_diffusers(key: str) -> str:
    match = _VAE_BLOCK_DIFFUSERS.match(key)
    if match is None:
        return {theirs: ours for ours, theirs in _VAE_STATISTICS.items()}.get(key, key)
    rest = match[4].replace("resnets.", "res_blocks.")
    if match[1] is not None:
        blocks = "encoder.down_blocks.8" if match[1] == "encoder" else "decoder.up_blocks.0"
        return f"{blocks}.{rest}"
    blocks, pair = match[2], int(match[3])
    rest, num_samplers = re.subn(r"^(down|up)samplers\.0\.", "", rest)
    if num_samplers:
        return f"{blocks}.{2 * pair + 1}.{rest}"
    return f"{blocks}.{2 * pair + (2 if blocks.startswith('decoder') else 0)}.{rest}"
