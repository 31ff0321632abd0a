"""The config of a model from its files' headers: stored, completed where that is safe, and checked by part.

A file that was saved again by another program may lack keys. One whose published value is the only one
known takes it, with a notice; one that only the file can know (sizes, layers, heads) is an error. Loads no
torch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from soundstage.errors import ConfigError, WeightsError
from soundstage.model.config import (
    AudioVaeConfig,
    ConnectorConfig,
    Header,
    TextProjectionConfig,
    TransformerConfig,
    UpsamplerConfig,
    VideoVaeConfig,
    VocoderConfig,
)
from soundstage.model.published import audio_vae_header, transformer_header, video_vae_header, vocoder_header
from soundstage.weights.diffusers_config import read_diffusers_config
from soundstage.weights.entry import WeightsFile
from soundstage.weights.layouts import Part, PartTensors, is_upsampler

PartConfig = (
    TransformerConfig
    | ConnectorConfig
    | TextProjectionConfig
    | VideoVaeConfig
    | AudioVaeConfig
    | VocoderConfig
)
TEXT_FEATURES = 3840 * 49  # Gemma 3 12B: hidden size times its 48 layers and the embedding

# Keys that take their published value where a stored section lacks them, by the path to them. All models
# known have this value; what a weight's shape tells too is then checked like any other key.
_GENERATOR = (
    "resblock", "activation", "stereo", "use_tanh_at_final", "use_bias_at_final", "upsample_rates",
    "upsample_kernel_sizes", "resblock_kernel_sizes", "resblock_dilation_sizes",
)  # fmt: skip
FILLED: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("transformer",): (
        "in_channels", "out_channels", "audio_out_channels", "norm_eps", "rope_type", "frequencies_precision",
        "positional_embedding_theta", "positional_embedding_max_pos", "audio_positional_embedding_max_pos",
        "timestep_scale_multiplier", "av_ca_timestep_scale_multiplier", "cross_attention_adaln",
        "apply_gated_attention", "caption_proj_before_connector", "caption_projection_first_linear",
        "caption_projection_second_linear", "caption_proj_input_norm", "connector_apply_gated_attention",
        "connector_positional_embedding_max_pos", "connector_num_learnable_registers",
    ),
    ("vae",): (
        "dims", "in_channels", "out_channels", "norm_layer", "latent_log_var", "timestep_conditioning",
        "spatial_padding_mode", "causal_decoder", "patch_size", "latent_channels",
    ),
    ("audio_vae", "model", "params"): ("sampling_rate",),
    ("audio_vae", "model", "params", "ddconfig"): (
        "double_z", "in_channels", "out_ch", "attn_resolutions", "mid_block_add_attention", "norm_type",
        "causality_axis", "mel_bins", "z_channels", "ch_mult", "num_res_blocks",
    ),
    ("audio_vae", "preprocessing", "stft"): ("filter_length", "hop_length", "win_length"),
    ("audio_vae", "preprocessing", "mel"): ("n_mel_channels", "mel_fmin", "mel_fmax"),
    ("vocoder", "vocoder"): _GENERATOR,
    ("vocoder", "bwe"): (
        *_GENERATOR, "apply_final_activation", "input_sampling_rate", "output_sampling_rate", "hop_length",
        "n_fft", "num_mels",
    ),
}  # fmt: skip
_OPTIONAL = ("preprocessing", "stft", "mel")  # sections that may be absent as a whole
MAX_TIMES_STORED = 10
_REGISTERS = "connector_num_learnable_registers"


def stored_config(files: Sequence[WeightsFile]) -> dict[str, Any]:
    """Return the sections of all files' configs, and of config.json next to files of a diffusers folder.

    Raises WeightsError if two files disagree on one.
    """
    sections: dict[str, Any] = {}
    for file in files:
        for name, section in (file.config or read_diffusers_config(file.path.parent)).items():
            found = sections.setdefault(name, section)
            if found is section:
                continue
            if any(found[key] != section[key] for key in found.keys() & section.keys()):
                others = ", ".join(str(other.path) for other in files if other is not file)
                raise WeightsError(
                    f"{file.path} and {others} hold different '{name}' configs; pass files of one model only"
                )
            sections[name] = {**found, **section}
    return sections


def model_config(files: Sequence[WeightsFile]) -> dict[str, Any]:
    """`stored_config`, with the published model's sections where no file stores one."""
    return {**published_config(), **stored_config(files)}


def published_config() -> dict[str, Any]:
    """Return the 22B model's config, for split files of third parties, many of which store none.

    Weights of any other size then fail on their shapes.
    """
    return {
        "transformer": transformer_header(),
        "vae": video_vae_header(),
        "audio_vae": audio_vae_header(),
        "vocoder": vocoder_header(),
    }


def completed(config: Header, parts: Mapping[Part, PartTensors]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a config with its missing keys filled in, and a notice for each section that lacked some.

    parts: the tensors, from which the number of registers is read. Keys that only the file can know are
    left missing.
    """
    whole: dict[str, Any] = {name: copy.deepcopy(section) for name, section in config.items()}
    published, notices = published_config(), []
    registers = parts.get("video_connector", {}).get("learnable_registers")
    if registers is not None and registers.entry.shape:
        published["transformer"][_REGISTERS] = registers.entry.shape[0]
    for path, keys in FILLED.items():
        section, wanted = _section(whole, path), _section(published, path)
        if section is None or wanted is None:
            continue
        missing = [key for key in keys if key not in section]
        section |= {key: wanted[key] for key in missing}
        if missing:
            values = ", ".join(f"{key} ({wanted[key]!r})" for key in missing)
            notices.append(
                f"the stored {'.'.join(path)} config lacks {values}; the published values are used"
            )
    return whole, tuple(notices)


def _section(config: dict[str, Any], path: Sequence[str]) -> dict[str, Any] | None:
    """Return a section of a config; None where there is none to fill, or where it is damaged."""
    found: Any = config
    for name in path:
        if not isinstance(found, dict):
            return None
        if name in _OPTIONAL:
            found.setdefault(name, {})
        found = found.get(name)
    return found if isinstance(found, dict) else None


def part_config(part: Part, parts: Mapping[Part, PartTensors], config: Header) -> PartConfig:
    """Return a part's dimensions, by the config and by the shapes of tensors where it does not say.

    A transformer file may hold one stream only; the text projection's width gives the number of the text
    encoder's layers. Raises ConfigError for a config that is incomplete or not of LTX-2.3.
    """
    tensors, (whole, _) = parts.get(part, {}), completed(config, parts)
    match part:
        case "transformer":
            has_video, has_audio = "patchify_proj.weight" in tensors, "audio_patchify_proj.weight" in tensors
            transformer = TransformerConfig.from_header(
                whole, video=has_video or not has_audio, audio=has_audio or not has_video
            )
            _check_layers(transformer.num_layers, "num_layers", tensors, "transformer_blocks.")
            return transformer
        case "video_connector" | "audio_connector":
            connector = ConnectorConfig.from_header(whole, "video" if part == "video_connector" else "audio")
            _check_layers(connector.num_layers, "connector_num_layers", tensors, "transformer_1d_blocks.")
            return connector
        case "text_projection":
            stored = tensors.get("video_aggregate_embed.weight")
            columns = stored.entry.shape[-1] if stored and stored.entry.shape else TEXT_FEATURES
            return TextProjectionConfig.from_header(whole, columns)
        case "video_vae":
            return VideoVaeConfig.from_header(whole)
        case "audio_vae":
            return AudioVaeConfig.from_header(whole)
        case "vocoder":
            return VocoderConfig.from_header(whole)


def _check_layers(num_layers: int, key: str, tensors: PartTensors, prefix: str) -> None:
    """Refuse a number of blocks far from the files', before so many are built; others are named by key."""
    numbers = {name.split(".")[1] for name in tensors if name.startswith(prefix)}
    stored = {int(number) for number in numbers if number.isdecimal()}
    if stored and num_layers > MAX_TIMES_STORED * len(stored):
        path = next(iter(tensors.values())).path
        raise ConfigError(
            f"the transformer config has {key}={num_layers}, but {path} holds {len(stored)} blocks; "
            "get the complete file, or the config it was saved with"
        )


def upsampler_config(file: WeightsFile) -> UpsamplerConfig:
    """Return a latent upsampler's dimensions, by its config or, for missing keys, its layers' names.

    Raises WeightsError for a file that is no latent upsampler, ConfigError for one that does not say which.
    """
    if not is_upsampler(file.tensors):
        raise WeightsError(f"{file.path} is no latent upsampler; get one of LTX-2.3")
    seen = {"dims": 3, "rational_resampler": "upsampler.conv.weight" in file.tensors}
    stored = file.config or read_diffusers_config(file.path.parent)
    try:
        return UpsamplerConfig.from_header({**seen, **stored})
    except ConfigError as error:
        raise ConfigError(f"{file.path}: {error}") from error
