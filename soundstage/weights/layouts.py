"""Names of weights in published files <-> names in our modules. Names are translated nowhere else.

Our attribute names are the official key names, so for official and split files a part's keys are found
by stripping one prefix. diffusers has renamed modules; tables here go both ways. Loads no torch.

    part              official file                     split file
    transformer       model.diffusion_model.            the same, diffusion_model., or bare
    *_connector       ...*_embeddings_connector.        the same, in the transformer's or the text file
    text_projection   text_embedding_projection.        the same
    video_vae         vae.                              the same or bare
    audio_vae         audio_vae.                        the same
    vocoder           vocoder.                          the same, in the audio VAE's file

The text encoder is no part of these files; `find_gemma` knows the spellings of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from soundstage.errors import WeightsError
from soundstage.weights.header import TensorEntry, WeightsFile

Part = Literal[
    "transformer",
    "video_connector",
    "audio_connector",
    "text_projection",
    "video_vae",
    "audio_vae",
    "vocoder",
]

MODEL_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
PART_PREFIXES: dict[str, Part] = {
    "video_embeddings_connector.": "video_connector",
    "audio_embeddings_connector.": "audio_connector",
    "text_embedding_projection.": "text_projection",
    "vae.": "video_vae",
    "audio_vae.": "audio_vae",
    "vocoder.": "vocoder",
}
TRANSFORMER_ROOTS = frozenset(
    {
        "transformer_blocks",
        "patchify_proj",
        "adaln_single",
        "prompt_adaln_single",
        "scale_shift_table",
        "proj_out",
        "audio_patchify_proj",
        "audio_adaln_single",
        "audio_prompt_adaln_single",
        "audio_scale_shift_table",
        "audio_proj_out",
        "av_ca_video_scale_shift_adaln_single",
        "av_ca_audio_scale_shift_adaln_single",
        "av_ca_a2v_gate_adaln_single",
        "av_ca_v2a_gate_adaln_single",
    }
)
VIDEO_VAE_ROOTS = frozenset({"encoder", "decoder", "per_channel_statistics"})

# Statistics of the latents that older files store and nothing reads.
UNUSED = re.compile(r"per_channel_statistics\.(channel|mean-of-stds|mean-of-stds_over_std-of-means)$")

# Tensors that belong to a quantized weight: its scale by any of its names, and markers.
SCALE_NAMES = {"weight_scale": "weight", "scale_weight": "weight"}
SIDECARS = frozenset({*SCALE_NAMES, "input_scale", "scale_input", "comfy_quant", "scaled_fp8"})

NAMES_SHOWN = 8


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor of a part is. scale: name of the scalar in the same file that multiplies it."""

    path: Path
    name: str
    entry: TensorEntry
    scale: str | None = None


PartTensors = Mapping[str, StoredTensor]  # our state-dict key -> where its value is


def locate(name: str) -> tuple[Part, str] | None:
    """The part a stored name belongs to and its key there; None for a name that LTX-2.3 does not have.

    A prefix is stripped once: `vocoder.vocoder.conv_pre.weight` is `vocoder.conv_pre.weight` of the vocoder.
    """
    bare = name
    for prefix in MODEL_PREFIXES:
        if name.startswith(prefix):
            bare = name.removeprefix(prefix)
            break
    for prefix, part in PART_PREFIXES.items():
        if bare.startswith(prefix):
            return part, bare.removeprefix(prefix)
    root = bare.split(".", 1)[0]
    if root in TRANSFORMER_ROOTS or bare != name:
        return "transformer", bare
    return ("video_vae", bare) if root in VIDEO_VAE_ROOTS else None


def find_parts(files: Sequence[WeightsFile]) -> dict[Part, dict[str, StoredTensor]]:
    """All tensors of some files by part and key; a part that no file has is absent.

    Raises WeightsError for a file of another model version or kind, a tensor that belongs to no part, and
    a key that two files have.
    """
    parts: dict[Part, dict[str, StoredTensor]] = {}
    for file in files:
        check_kind(file)
        strays = []
        for name, entry in file.tensors.items():
            place = locate(name)
            if name.rsplit(".", 1)[-1] in SIDECARS or UNUSED.search(name):
                continue
            if place is None:
                strays.append(name)
                continue
            part, key = place
            tensors = parts.setdefault(part, {})
            if key in tensors:
                raise WeightsError(
                    f"{file.path}: '{name}' is also in {tensors[key].path}; pass one file with the {part}"
                )
            tensors[key] = StoredTensor(file.path, name, entry)
        if strays:
            raise WeightsError(
                f"{file.path} holds tensors that LTX-2.3 does not have: {listing(strays)}; "
                "pass an LTX-2.3 checkpoint, whole or split"
            )
        _attach_scales(file, parts)
    return parts


def _attach_scales(file: WeightsFile, parts: dict[Part, dict[str, StoredTensor]]) -> None:
    for name in file.tensors:
        module, _, last = name.rpartition(".")
        place = locate(f"{module}.{SCALE_NAMES[last]}") if last in SCALE_NAMES else None
        if place is None:
            continue
        part, key = place
        if key not in parts.get(part, {}):
            raise WeightsError(f"{file.path} has the scale '{name}' but not its weight; get a complete file")
        parts[part][key] = replace(parts[part][key], scale=name)


def check_kind(file: WeightsFile) -> None:
    """Refuse, by their telling names, files that are not parts of an LTX-2.3 model."""
    names = file.tensors
    version = file.metadata.get("model_version", "")

    def has(*endings: str) -> bool:
        return any(name.endswith(endings) for name in names)

    if names and all(("lora" in name or name.endswith(".alpha")) for name in names):
        raise WeightsError(f"{file.path} is a LoRA; pass it as one, next to a model")
    if "initial_conv.weight" in names and "final_conv.weight" in names:
        raise WeightsError(f"{file.path} is a latent upsampler; pass it as one, next to a model")
    if has("caption_projection.linear_1.weight", "text_embedding_projection.aggregate_embed.weight"):
        raise WeightsError(f"{file.path} is LTX-2.0 (19B); this engine runs LTX-2.3")
    if version.startswith("2.5") or has("keyframes_abs_pos_embedding", "decoder.conv_in_x_t.weight"):
        raise WeightsError(f"{file.path} is LTX-2.5; this engine runs LTX-2.3")


def listing(names: Iterable[str]) -> str:
    """The first few names in order, and how many more there are."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:NAMES_SHOWN])
    rest = len(ordered) - NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


# --- Gemma 3 ----------------------------------------------------------------------------------------

# In the order in which they are tried. Hugging Face files, transformers' modules, the text model alone.
GEMMA_PREFIXES = ("language_model.model.", "model.language_model.", "model.")
# The vision half, the tied output layer, and the tokenizer that some single files carry.
GEMMA_UNUSED = re.compile(
    r"(model\.)?(vision_tower|vision_model|multi_modal_projector)\.|(language_model\.)?lm_head\.|spiece_model$"
)


def find_gemma(files: Sequence[WeightsFile]) -> dict[str, StoredTensor]:
    """The language model's tensors in files of Gemma 3, by their names in transformers' Gemma3TextModel.

    Raises WeightsError for a tensor that Gemma 3 does not have, and for one that two files have.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, entry in file.tensors.items():
            if name.rsplit(".", 1)[-1] in SIDECARS or GEMMA_UNUSED.match(name):
                continue
            prefix = next((p for p in GEMMA_PREFIXES if name.startswith(p)), None)
            if prefix is None:
                raise WeightsError(f"{file.path} holds '{name}', which Gemma 3 does not have; get its files")
            key = name.removeprefix(prefix)
            if key in tensors:
                raise WeightsError(f"{file.path}: '{name}' is also in {tensors[key].path}; keep one of them")
            scale = f"{name}_scale" if f"{name}_scale" in file.tensors else None
            tensors[key] = StoredTensor(file.path, name, entry, scale)
    return tensors


# --- diffusers --------------------------------------------------------------------------------------

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
    """Our key of a part -> diffusers' key in the same part's folder, without the connectors' prefix."""
    if part == "video_vae":
        return _vae_to_diffusers(key)
    if part == "audio_vae":
        return _VAE_STATISTICS.get(key, key)
    if part == "vocoder":
        segments = (_VOCODER_SEGMENTS.get(segment, segment) for segment in key.split("."))
        return ".".join(segments).replace("downsample.lowpass.", "downsample.")
    return ".".join(DIFFUSERS_SEGMENTS.get(segment, segment) for segment in key.split("."))


def from_diffusers(part: Part, key: str) -> str:
    """Inverse of `to_diffusers`."""
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
    """Our list alternates res stages and changes of scale; diffusers pairs them, with one apart."""
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
