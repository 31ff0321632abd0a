"""Find the tensors of every part in published files, under their names in our modules. Loads no torch.

Our attribute names are the official key names, so for official and split files a part's keys are found
by stripping one prefix. diffusers' names are in diffusers_names.py, Gemma's in gemma_names.py; names are
translated nowhere else.

    part              official file                     split file                         diffusers folder
    transformer       model.diffusion_model.            the same, diffusion_model., bare   transformer
    *_connector       ...*_embeddings_connector.        the same, or in the text file      connectors
    text_projection   text_embedding_projection.        the same                           connectors
    video_vae         vae.                              the same or bare                   vae
    audio_vae         audio_vae.                        the same or bare                   audio_vae
    vocoder           vocoder.                          the same or bare                   vocoder

Which spelling a file has is seen in its names, never in its own name or folder. Shards of one checkpoint
are looked at together. The text encoder is no part of these files; `find_gemma` knows its spellings.

Source: docs/model/checkpoints.md, "Tensors" and "diffusers folders".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from soundstage.errors import WeightsError
from soundstage.weights.diffusers_names import from_diffusers
from soundstage.weights.entry import TensorEntry, WeightsFile
from soundstage.weights.foreign import other_model, quantizer_of
from soundstage.weights.gemma_names import GEMMA_UNUSED, gemma_key, is_gemma
from soundstage.weights.header import shard_groups
from soundstage.weights.sidecars import Sidecars, check_declared, is_sidecar, sidecars

Part = Literal[
    "transformer",
    "video_connector",
    "audio_connector",
    "text_projection",
    "video_vae",
    "audio_vae",
    "vocoder",
]
PARTS: tuple[Part, ...] = get_args(Part)

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

NAMES_SHOWN = 8


@dataclass(frozen=True)
class StoredTensor:
    """The place of one tensor of a part.

    scale: name of the tensor in the same file that multiplies it, one number or one per row. sidecars: all
    that is stored with a quantized weight, the scale too, by the names here: (name in the file, entry).
    shift: is added to every value (llama.cpp stores Gemma's norms one too high).
    """

    path: Path
    name: str
    entry: TensorEntry
    scale: str | None = None
    sidecars: Sidecars = field(default_factory=dict)
    shift: float = 0.0


PartTensors = Mapping[str, StoredTensor]  # our state-dict key -> where its value is
PartKey = tuple[Part, str]


def locate(name: str) -> PartKey | None:
    """Return the part of a name in official spelling and its key there; None for an unknown name.

    A prefix is stripped once: `vocoder.vocoder.conv_pre.weight` is `vocoder.conv_pre.weight` of the vocoder.
    """
    bare = _without_model_prefix(name)
    for prefix, part in PART_PREFIXES.items():
        if bare.startswith(prefix):
            return part, bare.removeprefix(prefix)
    root = bare.split(".", 1)[0]
    if root in TRANSFORMER_ROOTS or bare != name:
        return "transformer", bare
    return ("video_vae", bare) if root in VIDEO_VAE_ROOTS else None


def _without_model_prefix(name: str) -> str:
    prefix = next((prefix for prefix in MODEL_PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


# --- spellings --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spelling:
    """The spelling of the names in one checkpoint. name: for people."""

    name: str
    locate: Callable[[str], PartKey | None]


def spelling_of(tensors: Mapping[str, TensorEntry]) -> Spelling:
    """Return the spelling of a checkpoint, seen in the names and ranks of its tensors."""
    names = tensors.keys()
    component = diffusers_component(tensors)
    if component is not None:
        return Spelling(f"diffusers {component}", lambda name: _locate_diffusers(component, name))
    if any(name.startswith("bwe_generator.") for name in names):
        return Spelling("bare vocoder", lambda name: ("vocoder", name))
    if _is_audio_vae(tensors):
        return Spelling("bare audio VAE", lambda name: ("audio_vae", name))
    return Spelling("official", locate)


def _is_audio_vae(tensors: Mapping[str, TensorEntry]) -> bool:
    """Return whether weights are a sound VAE's: pictures of sound have two axes, their convolutions four."""
    convs = (tensors.get(f"{half}.conv_in.conv.weight") for half in ("encoder", "decoder"))
    return any(conv is not None and len(conv.shape) == 4 for conv in convs)


DiffusersComponent = Literal["transformer", "connectors", "vae", "audio_vae", "vocoder"]
DIFFUSERS_PARTS: dict[DiffusersComponent, tuple[Part, ...]] = {
    "transformer": ("transformer",),
    "connectors": ("video_connector", "audio_connector", "text_projection"),
    "vae": ("video_vae",),
    "audio_vae": ("audio_vae",),
    "vocoder": ("vocoder",),
}
_CONNECTOR_PREFIXES: dict[str, Part] = {
    "video_connector.": "video_connector",
    "audio_connector.": "audio_connector",
    "video_text_proj_in.": "text_projection",
    "audio_text_proj_in.": "text_projection",
}


def diffusers_component(tensors: Collection[str]) -> DiffusersComponent | None:
    """Return the folder of a diffusers model that a checkpoint is from; None for other spellings."""

    def has(*starts: str) -> bool:
        return any(_without_model_prefix(name).startswith(starts) for name in tensors)

    if has("time_embed.", "audio_time_embed.", "av_cross_attn_"):
        return "transformer"
    if has(*_CONNECTOR_PREFIXES):
        return "connectors"
    if has("encoder.mid_block.", "decoder.mid_block."):
        return "vae"
    if "latents_mean" in tensors:
        return "audio_vae"
    return "vocoder" if "vocoder.conv_in.weight" in tensors else None


def _locate_diffusers(component: DiffusersComponent, name: str) -> PartKey | None:
    name = _without_model_prefix(name)
    if component != "connectors":
        (part,) = DIFFUSERS_PARTS[component]
        return part, from_diffusers(part, name)
    for prefix, part in _CONNECTOR_PREFIXES.items():
        if name.startswith(prefix):
            kept = name if part == "text_projection" else name.removeprefix(prefix)
            return part, from_diffusers(part, kept)
    return None


# --- finding ----------------------------------------------------------------------------------------


def find_parts(files: Sequence[WeightsFile]) -> dict[Part, dict[str, StoredTensor]]:
    """Return all tensors of some files by part and key; a part that no file has is absent.

    Raises WeightsError for a file of another model version or kind, a tensor that belongs to no part, and
    a key that two files have.
    """
    parts: dict[Part, dict[str, StoredTensor]] = {}
    for group in shard_groups(files):
        tensors = merged_shards(group)
        _check_quantizers(group)
        check_kind(group[0].path, tensors, group[0].metadata)
        spelling = spelling_of(tensors)
        strays = []
        for file in group:
            for name, stored in _weights(file):
                place = None if UNUSED.search(name) else spelling.locate(name)
                if place is not None:
                    part, key = place
                    _add(parts.setdefault(part, {}), key, stored, part)
                elif not UNUSED.search(name):
                    strays.append(name)
        if strays:
            raise WeightsError(
                f"{group[0].path} holds tensors that LTX-2.3 does not have: {listing(strays)}; "
                "pass an LTX-2.3 checkpoint, whole or split"
            )
    return parts


def find_gemma(files: Sequence[WeightsFile]) -> dict[str, StoredTensor]:
    """Return the language model's tensors in files of Gemma 3, by their names in Gemma3TextModel.

    Raises WeightsError for a tensor that Gemma 3 does not have, and for one that two files have.
    """
    tensors: dict[str, StoredTensor] = {}
    _check_quantizers(files)
    for file in files:
        for name, stored in _weights(file):
            if GEMMA_UNUSED.match(name):
                continue
            key = gemma_key(name)
            if key is None:
                other = other_model(file.tensors)
                raise WeightsError(
                    f"{file.path} holds '{name}', which Gemma 3 does not have"
                    f"{f' (it is of {other})' if other else ''}; get the files of Gemma 3 12B"
                )
            if key in tensors:
                raise WeightsError(f"{file.path}: '{name}' is also in {tensors[key].path}; keep one of them")
            from_llama_cpp = name.startswith(("blk.", "output_norm."))
            tensors[key] = replace(stored, shift=-1.0) if from_llama_cpp and "norm" in key else stored
    return tensors


def merged_shards(group: Iterable[WeightsFile]) -> dict[str, TensorEntry]:
    """Return the tensors of a checkpoint's shards. A name that two shards have is found by `find_parts`."""
    return {name: entry for file in group for name, entry in file.tensors.items()}


def _add(tensors: dict[str, StoredTensor], key: str, stored: StoredTensor, part: str) -> None:
    if key in tensors:
        raise WeightsError(
            f"{stored.path}: '{stored.name}' is also in {tensors[key].path}; pass one file with the {part}"
        )
    tensors[key] = stored


def _weights(file: WeightsFile) -> Iterator[tuple[str, StoredTensor]]:
    """Yield a file's tensors by name, each with what is stored for its quantization.

    Raises WeightsError for a scale without its weight and for a quantization that is not read here.
    """
    check_declared(file)
    found = sidecars(file)
    for name, entry in file.tensors.items():
        if not is_sidecar(name):
            of_this = found.get(name, {})
            scale = of_this.get("weight_scale", (None,))[0]
            yield name, StoredTensor(file.path, name, entry, scale, of_this)


def _check_quantizers(files: Iterable[WeightsFile]) -> None:
    for file in files:
        if (refusal := quantizer_refusal(file)) is not None:
            raise WeightsError(refusal)


def quantizer_refusal(file: WeightsFile) -> str | None:
    """Return why a file of another quantizer is not read and what to use instead; None for others."""
    found = quantizer_of(file)
    if found is None:
        return None
    instead = "get the BF16, FP8 or GGUF file"
    if is_gemma(file.tensors):
        instead = (
            "use Gemma 3 12B in BF16 (the Hugging Face folder), in FP8 "
            "(gemma_3_12B_it_fp8_scaled.safetensors) or as GGUF"
        )
    quantizer, name = found
    return f"{file.path} is quantized with {quantizer} ('{name}'), which this engine does not read; {instead}"


def check_kind(path: Path, tensors: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> None:
    """Refuse, by the names of their tensors, checkpoints that are not parts of an LTX-2.3 model."""
    if is_lora(tensors):
        raise WeightsError(f"{path} is a LoRA; pass it as one, next to a model")
    if is_upsampler(tensors):
        raise WeightsError(f"{path} is a latent upsampler; pass it as one, next to a model")
    other = other_version(tensors, metadata)
    if other is not None:
        raise WeightsError(f"{path} is {other}; this engine runs LTX-2.3")


_LORA = re.compile(r"(lora_|\.lora\.|_lora\.|dora_scale|hada_w|lokr_|\.oft_|\.diff(_b)?$|\.set_weight$)")


def is_lora(names: Collection[str]) -> bool:
    """Return whether a checkpoint is an adapter of any kind, by the names that only adapters have."""
    return any(_LORA.search(name) for name in names)


def is_upsampler(names: Collection[str]) -> bool:
    return "initial_conv.weight" in names and "final_conv.weight" in names


def other_version(tensors: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> str | None:
    """ "LTX-2.0 (19B)" or "LTX-2.5" for a file of those; None for one of LTX-2.3 or of none."""
    version = metadata.get("model_version", "")
    if version.startswith("2.5"):
        return "LTX-2.5"
    if version.startswith("0.") or _is_first_ltx(tensors):
        return "LTX-Video 0.9"
    if version.startswith(("2.0", "2.1", "2.2")):
        return "LTX-2.0 (19B)"
    if any(name.endswith(_ONLY_IN_2_5) or name.startswith("duration_head.") for name in tensors):
        return "LTX-2.5"
    last_linear = {match[3] for name in tensors if (match := _VIDEO_FF.search(name))}
    if last_linear == {"weight"}:
        return "LTX-2.5"
    tables = (entry for name, entry in tensors.items() if _VIDEO_TABLE.search(name))
    rows = next((entry.shape[0] for entry in tables if entry.shape), None)
    if any(name.endswith(_ONLY_IN_2_0) for name in tensors) or rows == 6:
        return "LTX-2.0 (19B)"
    other = other_model(tensors)
    return None if other is None else f"a model of {other}" if other != "a language model" else other


def _is_first_ltx(tensors: Collection[str]) -> bool:
    """Return whether it is a transformer of pictures alone that projects its captions."""
    has_captions = any(name.endswith("caption_projection.linear_1.weight") for name in tensors)
    return has_captions and not any("audio" in name for name in tensors)


_ONLY_IN_2_5 = ("keyframes_abs_pos_embedding", "decoder.conv_in_x_t.weight")
_ONLY_IN_2_0 = ("caption_projection.linear_1.weight", "text_embedding_projection.aggregate_embed.weight")
_VIDEO_FF = re.compile(r"(^|\.)(transformer_blocks)\.\d+\.ff\.net\.2\.(weight|bias)$")
_VIDEO_TABLE = re.compile(r"(^|\.)transformer_blocks\.\d+\.scale_shift_table$")


def listing(names: Iterable[str]) -> str:
    """Return the first few names in order, and how many more there are."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:NAMES_SHOWN])
    rest = len(ordered) - NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
