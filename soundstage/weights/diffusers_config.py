"""config.json of a diffusers folder <-> the config sections of an official file.

A diffusers model has one folder a component and stores fewer facts than an official header: what LTX-2.3
fixes anyway is filled in from the 2.3 structure, and what both store under two names is in the tables here.
Values that are not LTX-2.3's are carried over as they are, so that the check of the sections finds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from soundstage.errors import WeightsError
from soundstage.model.published import (
    DECODER_BLOCKS_2_3,
    ENCODER_BLOCKS_2_3,
    audio_vae_header,
    transformer_header,
    video_vae_header,
    vocoder_header,
)
from soundstage.weights.layouts import DiffusersComponent

Config = dict[str, Any]
Names = Mapping[str, str]  # ours -> theirs

CLASSES: dict[DiffusersComponent, str] = {
    "transformer": "LTX2VideoTransformer3DModel",
    "connectors": "LTX2TextConnectors",
    "vae": "AutoencoderKLLTX2Video",
    "audio_vae": "AutoencoderKLLTX2Audio",
    "vocoder": "LTX2VocoderWithBWE",
}
UPSAMPLER_CLASS = "LTX2LatentUpsamplerModel"

_TRANSFORMER: Names = {
    **{
        name: name
        for name in (
            "num_layers", "in_channels", "out_channels", "num_attention_heads", "attention_head_dim",
            "cross_attention_dim", "caption_channels", "audio_in_channels", "audio_out_channels",
            "audio_num_attention_heads", "audio_attention_head_dim", "audio_cross_attention_dim",
            "activation_fn", "attention_bias", "norm_eps", "norm_elementwise_affine", "rope_type",
            "timestep_scale_multiplier", "ff_bias", "audio_ff_bias", "use_prompt_adaln_single",
            "use_keyframes_abs_pos_embedding",
        )
    },
    "positional_embedding_theta": "rope_theta",
    "av_ca_timestep_scale_multiplier": "cross_attn_timestep_scale_multiplier",
    "apply_gated_attention": "gated_attn",
    "cross_attention_adaln": "cross_attn_mod",
}  # fmt: skip
_CONNECTORS: Names = {
    "caption_channels": "caption_channels",
    "rope_type": "rope_type",
    "positional_embedding_theta": "rope_theta",
    "connector_apply_gated_attention": "video_gated_attn",
    **{
        f"{ours}{name}": f"{theirs}{name}"
        for ours, theirs in (("", "video_"), ("audio_", "audio_"))
        for name in (
            "connector_num_attention_heads",
            "connector_attention_head_dim",
            "connector_num_layers",
            "connector_num_learnable_registers",
        )
    },
}
_AUDIO_VAE: Names = {
    "ch": "base_channels",
    "z_channels": "latent_channels",
    **{
        name: name
        for name in (
            "ch_mult", "num_res_blocks", "mel_bins", "resolution", "in_channels", "norm_type",
            "causality_axis", "dropout", "mid_block_add_attention", "double_z",
        )
    },
}  # fmt: skip
_GENERATOR: Names = {
    "upsample_initial_channel": "hidden_channels",
    "upsample_rates": "upsample_factors",
    "upsample_kernel_sizes": "upsample_kernel_sizes",
    "resblock_kernel_sizes": "resnet_kernel_sizes",
    "resblock_dilation_sizes": "resnet_dilations",
}
_BWE: Names = {
    "input_sampling_rate": "input_sampling_rate",
    "output_sampling_rate": "output_sampling_rate",
    "hop_length": "hop_length",
    "n_fft": "filter_length",
    "win_size": "window_length",
    "num_mels": "num_mel_channels",
}
_UPSAMPLER: Names = {
    **{
        name: name
        for name in (
            "in_channels", "mid_channels", "num_blocks_per_stage", "dims",
            "spatial_upsample", "temporal_upsample",
        )
    },
    "spatial_scale": "rational_spatial_scale",
    "rational_resampler": "use_rational_resampler",
}  # fmt: skip

_DOWN = {"space": "spatial", "time": "temporal", "all": "spatiotemporal"}


@lru_cache(maxsize=64)
def read_diffusers_config(folder: Path) -> Config:
    """Sections from the config.json in a folder; empty if there is none, or if it is of another kind.

    An upsampler's config is flat, as it is in an official file. Raises WeightsError for damaged JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        theirs = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON ({error}); download it again") from error
    kind = theirs.get("_class_name") if isinstance(theirs, dict) else None
    if kind == UPSAMPLER_CLASS:
        return {"_class_name": "LatentUpsampler", **_ours(theirs, _UPSAMPLER)}
    component = next((name for name, class_name in CLASSES.items() if class_name == kind), None)
    return {} if component is None else _sections(component, theirs)


def _sections(component: DiffusersComponent, theirs: Config) -> Config:
    match component:
        case "transformer":
            return {"transformer": _transformer_section(theirs)}
        case "connectors":
            return {"transformer": _connector_keys(theirs)}
        case "vae":
            return {"vae": _vae_section(theirs)}
        case "audio_vae":
            section = audio_vae_header()
            section["model"]["params"]["ddconfig"] |= _ours(theirs, _AUDIO_VAE)
            return {"audio_vae": section}
        case "vocoder":
            section = vocoder_header()
            section["vocoder"] |= _ours(theirs, _GENERATOR)
            section["bwe"] |= _ours(theirs, _prefixed(_GENERATOR)) | _ours(theirs, _BWE)
            return {"vocoder": section}


def _transformer_section(theirs: Config) -> Config:
    fixed = {key: value for key, value in transformer_header().items() if "connector" not in key}
    section = {**fixed, **_ours(theirs, _TRANSFORMER)}
    if "rope_double_precision" in theirs:
        section["frequencies_precision"] = "float64" if theirs["rope_double_precision"] else "float32"
    sides = ("pos_embed_max_pos", "base_height", "base_width")
    section["positional_embedding_max_pos"] = [
        theirs.get(side, fallback)
        for side, fallback in zip(sides, fixed["positional_embedding_max_pos"], strict=True)
    ]
    section["audio_positional_embedding_max_pos"] = [
        theirs.get("audio_pos_embed_max_pos", fixed["audio_positional_embedding_max_pos"][0])
    ]
    return section


def _connector_keys(theirs: Config) -> Config:
    """Return what the connectors' folder knows of section "transformer"."""
    fixed = {key: value for key, value in transformer_header().items() if "connector" in key}
    section = {**fixed, **_ours(theirs, _CONNECTORS)}
    if "connector_rope_base_seq_len" in theirs:
        section["connector_positional_embedding_max_pos"] = [theirs["connector_rope_base_seq_len"]]
    return section


def _vae_section(theirs: Config) -> Config:
    """Return the video VAE's section: the block lists of 2.3, the widths of each half's first stage."""
    section = video_vae_header()
    for half, channels in (("encoder", "block_out_channels"), ("decoder", "decoder_block_out_channels")):
        if channels in theirs:
            section[f"{half}_base_channels"] = theirs[channels][0] // 2
    for ours, name in (("latent_channels",) * 2, ("patch_size",) * 2, ("causal_decoder", "decoder_causal")):
        if name in theirs:
            section[ours] = theirs[name]
    section["timestep_conditioning"] = theirs.get("timestep_conditioning", False)
    section["spatial_padding_mode"] = theirs.get("encoder_spatial_padding_mode", "zeros")
    return section


def write_diffusers_config(component: DiffusersComponent, config: Config, num_states: int) -> Config:
    """Return the config.json of a component, from an official file's sections.

    num_states: the text encoder's number, for the connectors: the official file has it in a shape only.
    """
    theirs: Config = {"_class_name": CLASSES[component]}
    match component:
        case "transformer":
            theirs |= _their_transformer(config["transformer"])
        case "connectors":
            theirs |= _their_connectors(config["transformer"], num_states)
        case "vae":
            theirs |= _their_vae(config["vae"])
        case "audio_vae":
            theirs |= _theirs(config["audio_vae"]["model"]["params"]["ddconfig"], _AUDIO_VAE)
        case "vocoder":
            section = config["vocoder"]
            theirs |= _theirs(section["vocoder"], _GENERATOR) | {"final_act_fn": "clamp"}
            theirs |= _theirs(section["bwe"], _prefixed(_GENERATOR)) | _theirs(section["bwe"], _BWE)
    return theirs


def _their_transformer(section: Config) -> Config:
    time, height, width = section["positional_embedding_max_pos"]
    return {
        **_theirs(section, _TRANSFORMER),
        "audio_gated_attn": section["apply_gated_attention"],
        "audio_cross_attn_mod": section["cross_attention_adaln"],
        "pos_embed_max_pos": time,
        "base_height": height,
        "base_width": width,
        "audio_pos_embed_max_pos": section["audio_positional_embedding_max_pos"][0],
        "qk_norm": "rms_norm_across_heads",
        "rope_double_precision": section["frequencies_precision"] == "float64",
        "use_prompt_embeddings": False,
        "perturbed_attn": True,
    }


def _their_connectors(section: Config, num_states: int) -> Config:
    keys = _theirs(section, _CONNECTORS)
    # An audio key that the official section leaves out has its video twin's value; theirs are all stored.
    for name, value in list(keys.items()):
        if name.startswith("video_connector_"):
            keys.setdefault(name.replace("video_", "audio_", 1), value)

    def width(stream: str) -> int:
        heads = f"{stream}_connector_num_attention_heads"
        return int(keys[heads] * keys[f"{stream}_connector_attention_head_dim"])

    return {
        **keys,
        "audio_gated_attn": section["connector_apply_gated_attention"],
        "text_proj_in_factor": num_states,
        "connector_rope_base_seq_len": section["connector_positional_embedding_max_pos"][0],
        "rope_double_precision": section["frequencies_precision"] == "float64",
        "per_modality_projections": True,
        "proj_bias": True,
        "video_hidden_dim": width("video"),
        "audio_hidden_dim": width("audio"),
    }


def _their_vae(section: Config) -> Config:
    down, up = (
        [(name, value) for name, value in blocks if name != "res_x"]
        for blocks in (ENCODER_BLOCKS_2_3, DECODER_BLOCKS_2_3)
    )
    layers = [value for name, value in ENCODER_BLOCKS_2_3 if name == "res_x"]
    decoder_layers = [value for name, value in DECODER_BLOCKS_2_3 if name == "res_x"]
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": section["latent_channels"],
        "patch_size": section["patch_size"],
        "block_out_channels": _widths(section["encoder_base_channels"], down),
        "down_block_types": ["LTX2VideoDownBlock3D"] * len(down),
        "decoder_block_out_channels": _widths(section["decoder_base_channels"], up),
        "layers_per_block": layers,
        "decoder_layers_per_block": decoder_layers,
        "spatio_temporal_scaling": [True] * len(down),
        "decoder_spatio_temporal_scaling": [True] * len(up),
        "decoder_inject_noise": [False] * len(decoder_layers),
        "downsample_type": [_change(name) for name, _ in down],
        "upsample_type": [_change(name) for name, _ in reversed(up)],
        "upsample_residual": [False] * len(up),
        "upsample_factor": [factor for _, factor in up],
        "timestep_conditioning": section["timestep_conditioning"],
        "encoder_causal": True,
        "decoder_causal": section["causal_decoder"],
        "encoder_spatial_padding_mode": section["spatial_padding_mode"],
        "decoder_spatial_padding_mode": section["spatial_padding_mode"],
    }


def _widths(base: int, changes: list[tuple[str, int]]) -> list[int]:
    """Channels after each change of scale."""
    widths = [base]
    for _, factor in changes:
        widths.append(widths[-1] * factor)
    return widths[1:]


def _change(block: str) -> str:
    """ "compress_space_res" -> "spatial"."""
    return _DOWN[block.split("_")[1]]


def _prefixed(names: Names) -> Names:
    return {ours: f"bwe_{theirs}" for ours, theirs in names.items()}


def _ours(theirs: Config, names: Names) -> Config:
    return {ours: theirs[name] for ours, name in names.items() if name in theirs}


def _theirs(section: Config, names: Names) -> Config:
    return {name: section[ours] for ours, name in names.items() if ours in section}
