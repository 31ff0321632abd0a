"""Dimensions of every model part, read from a checkpoint's header with no silent defaults.

A checkpoint's safetensors metadata holds one JSON document under "config" with a section per part.
Each dataclass here is one section; `from_header` raises ConfigError naming the first key that is
missing or that describes a model we do not build.

Source: docs/model/checkpoints.md, "Config".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from soundstage.errors import ConfigError
from soundstage.types import MEL_BINS, MEL_HOP, MEL_RATE_HZ

Header = Mapping[str, Any]


def take(section: Header, key: str, part: str) -> Any:
    """Return the value of a required key."""
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"the {part} config holds {section!r:.60} where '{key}' is looked for; it is damaged"
        )
    if key not in section:
        raise ConfigError(
            f"the {part} config has no '{key}'; pass the config of the checkpoint the weights came from"
        )
    return section[key]


def expect(section: Header, part: str, **fixed: Any) -> None:
    """Check keys whose value is fixed in LTX-2.3; raise for one that is absent or differs."""
    for key, wanted in fixed.items():
        found = take(section, key, part)
        if found != wanted:
            raise ConfigError(f"the {part} config has {key}={found!r}; LTX-2.3 has {wanted!r}")


MAX_WHOLE = 1 << 20  # no size, count or rate of a model is above


def whole(section: Header, key: str, part: str) -> int:
    """Return the value of a required key: a whole number from 1 up."""
    return _whole(take(section, key, part), key, part)


def _whole(value: Any, key: str, part: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_WHOLE:
        raise ConfigError(f"the {part} config has {key}={_shown(value)}; a whole number from 1 up is needed")
    return value


def number(section: Header, key: str, part: str) -> float:
    """Return the value of a required key: a number above 0."""
    return _number(take(section, key, part), key, part)


def _number(value: Any, key: str, part: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300:
        raise ConfigError(f"the {part} config has {key}={_shown(value)}; a number above 0 is needed")
    return float(value)


def numbers(section: Header, key: str, part: str) -> tuple[float, ...]:
    """Return the value of a required key: a list of numbers above 0."""
    return tuple(_number(value, key, part) for value in required_list(section, key, part))


def wholes(section: Header, key: str, part: str) -> tuple[int, ...]:
    """Return the value of a required key: a list of whole numbers from 1 up."""
    return tuple(_whole(value, key, part) for value in required_list(section, key, part))


def required_list(section: Header, key: str, part: str) -> list[Any]:
    """Return the value of a required key: a list that is not empty."""
    value = take(section, key, part)
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError(f"the {part} config has {key}={_shown(value)}; a list is needed")
    return list(value)


def one_of(section: Header, key: str, part: str, known: Sequence[Any]) -> Any:
    """Return the value of a required key: one of the values that are supported."""
    value = take(section, key, part)
    if not any(value == other and type(value) is type(other) for other in known):
        names = ", ".join(map(repr, known))
        raise ConfigError(f"the {part} config has {key}={_shown(value)}; known are {names}")
    return value


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


# --- video VAE -------------------------------------------------------------------------------------

BlockKind = Literal["res", "space", "time", "all"]
PADDINGS = ("zeros", "reflect", "replicate")
STRIDES: dict[BlockKind, tuple[int, int, int]] = {"space": (1, 2, 2), "time": (2, 1, 1), "all": (2, 2, 2)}


@dataclass(frozen=True)
class VaeBlock:
    """Hold one entry of the block lists: `count` residual blocks, or a change of scale.

    count: residual blocks of a "res" entry. multiplier: factor on the channel count going down, or
    its inverse going up.
    """

    kind: BlockKind
    count: int = 1
    multiplier: int = 1


@dataclass(frozen=True)
class VideoVaeConfig:
    """Hold the structure of the video VAE. Both block lists are in the order of computation."""

    latent_channels: int
    patch_size: int
    encoder_base_channels: int
    decoder_base_channels: int
    encoder_blocks: tuple[VaeBlock, ...]
    decoder_blocks: tuple[VaeBlock, ...]
    encoder_padding: str = "zeros"
    decoder_padding: str = "zeros"
    causal_decoder: bool = False

    @classmethod
    def from_header(cls, config: Header) -> VideoVaeConfig:
        """Read section "vae". The stored decoder list runs from pixels to latents; we reverse it."""
        part = "video VAE"
        section = take(config, "vae", "checkpoint")
        expect(
            section,
            part,
            dims=3,
            in_channels=3,
            out_channels=3,
            norm_layer="pixel_norm",
            latent_log_var="uniform",
            timestep_conditioning=False,
        )
        padding = one_of(section, "spatial_padding_mode", part, PADDINGS)
        encoder, decoder = (required_list(section, f"{half}_blocks", part) for half in ("encoder", "decoder"))
        return cls(
            latent_channels=whole(section, "latent_channels", part),
            patch_size=whole(section, "patch_size", part),
            encoder_base_channels=whole(section, "encoder_base_channels", part),
            decoder_base_channels=whole(section, "decoder_base_channels", part),
            encoder_blocks=tuple(_vae_block(block, "_res") for block in encoder),
            decoder_blocks=tuple(_vae_block(block, "") for block in reversed(decoder)),
            encoder_padding=padding,
            decoder_padding=padding,
            causal_decoder=one_of(section, "causal_decoder", part, (False, True)),
        )

    @property
    def decoder_width(self) -> int:
        """Return the number of channels at the decoder's bottleneck."""
        width = self.decoder_base_channels
        for block in self.decoder_blocks:
            width *= block.multiplier
        return width


def _vae_block(entry: Any, suffix: str) -> VaeBlock:
    """Read an entry [name, {"num_layers" or "multiplier": number}], or [name, number] of older nano files."""
    part = "video VAE"
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[0], str):
        raise ConfigError(f"the {part} config lists {_shown(entry)} as a block; [name, settings] is needed")
    name, options = entry
    if type(options) is int:
        options = {"num_layers": options, "multiplier": options}
    if name == "res_x":
        return VaeBlock("res", count=whole(options, "num_layers", part))
    kind = name.removeprefix("compress_").removesuffix(suffix)
    if kind not in STRIDES or name != f"compress_{kind}{suffix}":
        raise ConfigError(f"the {part} config lists a block '{name}', which LTX-2.3 does not have")
    return VaeBlock(kind, multiplier=whole(options, "multiplier", part))


# --- diffusion transformer and text side ------------------------------------------------------------


def expect_if_present(section: Header, part: str, **fixed: Any) -> None:
    """Check keys that published 2.3 files may omit; an absent key has the value given here."""
    expect({**fixed, **section}, part, **fixed)


@dataclass(frozen=True)
class StreamConfig:
    """Hold the sizes of one of the transformer's two streams.

    max_positions: per axis, the coordinate mapped to the end of the rotary range; seconds for time,
    pixels for height and width. The text context has the stream's own width.
    """

    num_heads: int
    head_dim: int
    in_channels: int
    out_channels: int
    max_positions: tuple[float, ...]

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """Hold the structure of the diffusion transformer. A stream that is None has no modules.

    timestep_scale: factor on sigma before the sinusoid. cross_gate_scale: the same for the gates of
    the attention between the streams. cross_timestep: the source of the scale and shift of that
    attention, the stream's own per-token timesteps ("own", official code since 2026-05-28) or the other
    stream's sigma ("other", the first 2.3 release); no file records it.
    """

    num_layers: int
    video: StreamConfig | None
    audio: StreamConfig | None
    rope_theta: float = 10000.0
    timestep_scale: float = 1000.0
    cross_gate_scale: float = 1000.0
    norm_eps: float = 1e-6
    cross_timestep: Literal["own", "other"] = "own"

    def __post_init__(self) -> None:
        if self.video is None and self.audio is None:
            raise ConfigError("a transformer needs a video stream, an audio stream or both")

    @classmethod
    def from_header(cls, config: Header, *, video: bool = True, audio: bool = True) -> TransformerConfig:
        """Read section "transformer"; video=False or audio=False leaves that stream out.

        Raises ConfigError for a missing key and for a model that is not LTX-2.3.
        """
        part = "transformer"
        section = take(config, part, "checkpoint")
        _check_transformer_structure(section)
        return cls(
            num_layers=whole(section, "num_layers", part),
            video=_stream(section, "", axes=3) if video else None,
            audio=_stream(section, "audio_", axes=1) if audio else None,
            rope_theta=number(section, "positional_embedding_theta", part),
            timestep_scale=number(section, "timestep_scale_multiplier", part),
            cross_gate_scale=number(section, "av_ca_timestep_scale_multiplier", part),
            norm_eps=number(section, "norm_eps", part),
        )


def _check_transformer_structure(section: Header) -> None:
    """Refuse differences that the weights' shapes would not show, and the structures of LTX-2.0 and 2.5."""
    expect(
        section,
        "transformer",
        rope_type="split",
        frequencies_precision="float64",
        cross_attention_adaln=True,
        apply_gated_attention=True,
        caption_proj_before_connector=True,
        caption_projection_first_linear=False,
        caption_projection_second_linear=False,
        caption_proj_input_norm=False,
    )
    expect_if_present(
        section,
        "transformer",
        positional_embedding_type="rope",
        use_middle_indices_grid=True,
        causal_temporal_positioning=True,
        activation_fn="gelu-approximate",
        attention_bias=True,
        qk_norm="rms_norm",
        standardization_norm="rms_norm",
        norm_elementwise_affine=False,
        use_audio_video_cross_attention=True,
        av_cross_ada_norm=True,
        share_ff=False,
        use_prompt_adaln_single=True,
        ff_bias=True,
        audio_ff_bias=True,
        use_keyframes_abs_pos_embedding=False,
    )


def _stream(section: Header, prefix: str, *, axes: int) -> StreamConfig:
    part = "transformer"
    out_channels = whole(section, f"{prefix}out_channels", part)
    # Published files omit audio_in_channels; both sides have the same number of channels.
    fallback = {"audio_in_channels": out_channels} if prefix else {}
    stream = StreamConfig(
        num_heads=whole(section, f"{prefix}num_attention_heads", part),
        head_dim=whole(section, f"{prefix}attention_head_dim", part),
        in_channels=whole({**fallback, **section}, f"{prefix}in_channels", part),
        out_channels=out_channels,
        max_positions=numbers(section, f"{prefix}positional_embedding_max_pos", part),
    )
    expect(section, part, **{f"{prefix}cross_attention_dim": stream.width})
    if len(stream.max_positions) != axes:
        raise ConfigError(
            f"the transformer config has {prefix}positional_embedding_max_pos of "
            f"{len(stream.max_positions)} axes; LTX-2.3 has {axes}"
        )
    return stream


@dataclass(frozen=True)
class ConnectorConfig:
    """Hold the structure of a connector, from text features to a stream's context, both `width` wide.

    max_position: the token index mapped to the end of the rotary range.
    """

    num_layers: int
    num_heads: int
    head_dim: int
    num_registers: int
    max_position: float
    rope_theta: float = 10000.0

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim

    @classmethod
    def from_header(cls, config: Header, stream: Literal["video", "audio"]) -> ConnectorConfig:
        """Read the connector keys of section "transformer".

        An audio key that is absent has the value of its video twin. Raises ConfigError.
        """
        part = "transformer"
        section = take(config, part, "checkpoint")
        expect(section, part, rope_type="split", frequencies_precision="float64")
        expect_if_present(
            section,
            part,
            use_embeddings_connector=True,
            connector_norm_output=True,
            connector_ff_bias=True,
        )

        def key(name: str) -> str:
            audio_name = f"audio_connector_{name}"
            return audio_name if stream == "audio" and audio_name in section else f"connector_{name}"

        expect(section, part, **{key("apply_gated_attention"): True})
        return cls(
            num_layers=whole(section, key("num_layers"), part),
            num_heads=whole(section, key("num_attention_heads"), part),
            head_dim=whole(section, key("attention_head_dim"), part),
            num_registers=whole(section, key("num_learnable_registers"), part),
            max_position=numbers(section, key("positional_embedding_max_pos"), part)[0],
            rope_theta=number(section, "positional_embedding_theta", part),
        )


@dataclass(frozen=True)
class TextProjectionConfig:
    """Hold the sizes of the projections from the text encoder's hidden states to features of each stream.

    text_width: hidden size of the text encoder. num_states: its layers + 1 (the embedding counts).
    """

    text_width: int
    num_states: int
    video_width: int
    audio_width: int

    @classmethod
    def from_header(cls, config: Header, in_features: int) -> TextProjectionConfig:
        """Read section "transformer".

        in_features: columns of the projections, text_width * num_states. The number of text encoder layers
        is stored nowhere else.
        """
        part = "transformer"
        section = take(config, part, "checkpoint")
        expect_if_present(section, part, text_encoder_norm_type="per_token_rms")
        text_width = whole(section, "caption_channels", part)
        if in_features % text_width:
            raise ConfigError(
                f"the text projection has {in_features} input features, not a multiple of "
                f"caption_channels={text_width}; the config belongs to another model"
            )
        return cls(
            text_width=text_width,
            num_states=in_features // text_width,
            video_width=ConnectorConfig.from_header(config, "video").width,
            audio_width=ConnectorConfig.from_header(config, "audio").width,
        )


# --- audio VAE -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AudioVaeConfig:
    """Hold the structure of the audio VAE. Latents have 1/4 of the frames and 1/4 of the mel bins.

    base_channels: width at full resolution. channel_multipliers: one per level, on base_channels.
    """

    base_channels: int
    channel_multipliers: tuple[int, ...]
    num_res_blocks: int
    latent_channels: int
    mel_bins: int

    @classmethod
    def from_header(cls, config: Header) -> AudioVaeConfig:
        """Read section "audio_vae"; also checks that the mel front end is the one we compute."""
        part = "audio VAE"
        section = take(config, "audio_vae", "checkpoint")
        params = take(take(section, "model", part), "params", part)
        _check_mel_front_end(params, take(section, "preprocessing", part))
        network = take(params, "ddconfig", part)
        expect(
            network,
            part,
            double_z=True,
            in_channels=2,
            out_ch=2,
            attn_resolutions=[],
            mid_block_add_attention=False,
            norm_type="pixel",
            causality_axis="height",
        )
        return cls(
            base_channels=whole(network, "ch", part),
            channel_multipliers=wholes(network, "ch_mult", part),
            num_res_blocks=whole(network, "num_res_blocks", part),
            latent_channels=whole(network, "z_channels", part),
            mel_bins=whole(network, "mel_bins", part),
        )

    @property
    def latent_bins(self) -> int:
        """Return the number of mel rows of a latent: every level but the last halves them."""
        return int(self.mel_bins // 2 ** (len(self.channel_multipliers) - 1))


def _check_mel_front_end(params: Header, preprocessing: Header) -> None:
    part = "audio VAE"
    expect(params, part, sampling_rate=MEL_RATE_HZ)
    expect(take(preprocessing, "stft", part), part, filter_length=1024, hop_length=MEL_HOP, win_length=1024)
    expect(take(preprocessing, "mel", part), part, n_mel_channels=MEL_BINS, mel_fmin=0, mel_fmax=8000)


# --- vocoder ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneratorConfig:
    """Hold the structure of a mel-to-waveform generator.

    Stage i multiplies the length by upsample_rates[i] and halves the channels.

    dilations: one list per entry of block_kernels. clamp_output: bound the waveform to [-1, 1].
    """

    initial_channels: int
    upsample_rates: tuple[int, ...]
    upsample_kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    block_dilations: tuple[tuple[int, ...], ...]
    clamp_output: bool

    @property
    def hop(self) -> int:
        """Return the number of samples made of one mel frame."""
        return prod(self.upsample_rates)


@dataclass(frozen=True)
class VocoderConfig:
    """Hold the base generator and the bandwidth extension, a second generator on the log-mel of its output.

    bwe_hop, bwe_window, bwe_bins: the mel between them, in samples, samples and bands.
    """

    base: GeneratorConfig
    bwe: GeneratorConfig
    input_rate_hz: int
    output_rate_hz: int
    bwe_hop: int
    bwe_window: int
    bwe_bins: int

    @classmethod
    def from_header(cls, config: Header) -> VocoderConfig:
        """Read section "vocoder". A flat section is LTX-2.0's 24 kHz vocoder, which we do not build."""
        section = take(config, "vocoder", "checkpoint")
        if isinstance(section, Mapping) and "bwe" not in section:
            raise ConfigError(
                "the vocoder config has no 'bwe' section: these are LTX-2.0 weights (24 kHz); "
                "use the vocoder of an LTX-2.3 checkpoint"
            )
        bwe, part = take(section, "bwe", "vocoder"), "bandwidth extension"
        expect(bwe, part, apply_final_activation=False)
        vocoder = cls(
            base=_generator(take(section, "vocoder", "vocoder"), "vocoder"),
            bwe=_generator(bwe, part),
            input_rate_hz=whole(bwe, "input_sampling_rate", part),
            output_rate_hz=whole(bwe, "output_sampling_rate", part),
            bwe_hop=whole(bwe, "hop_length", part),
            bwe_window=whole(bwe, "n_fft", part),
            bwe_bins=whole(bwe, "num_mels", part),
        )
        vocoder._check_rates()
        return vocoder

    @property
    def rate_ratio(self) -> int:
        return self.output_rate_hz // self.input_rate_hz

    def _check_rates(self) -> None:
        if self.rate_ratio * self.input_rate_hz != self.output_rate_hz:
            raise ConfigError(
                f"bandwidth extension goes from {self.input_rate_hz} to {self.output_rate_hz} Hz, "
                "which is not a whole factor"
            )
        if self.base.hop % self.bwe_hop or self.bwe.hop != self.bwe_hop * self.rate_ratio:
            raise ConfigError(
                f"the generators make {self.base.hop} and {self.bwe.hop} samples of a mel frame, which "
                f"does not fit a hop of {self.bwe_hop} between them at x{self.rate_ratio}"
            )


def _generator(section: Header, part: str) -> GeneratorConfig:
    expect(
        section,
        part,
        resblock="AMP1",
        activation="snakebeta",
        stereo=True,
        use_tanh_at_final=False,
        use_bias_at_final=False,
    )
    rates, kernels = (wholes(section, key, part) for key in ("upsample_rates", "upsample_kernel_sizes"))
    block_kernels = wholes(section, "resblock_kernel_sizes", part)
    lists = required_list(section, "resblock_dilation_sizes", part)
    if len(rates) != len(kernels) or len(block_kernels) != len(lists):
        raise ConfigError(
            f"the {part} config has {len(rates)} upsample_rates for {len(kernels)} upsample_kernel_sizes "
            f"and {len(block_kernels)} resblock_kernel_sizes for {len(lists)} resblock_dilation_sizes; "
            "pass the config of the checkpoint the weights came from"
        )
    # The base section of published checkpoints has no such key; the reference then clamps.
    clamps = {"apply_final_activation": section.get("apply_final_activation", True)}
    return GeneratorConfig(
        initial_channels=whole(section, "upsample_initial_channel", part),
        upsample_rates=rates,
        upsample_kernels=kernels,
        block_kernels=block_kernels,
        block_dilations=tuple(
            wholes({"resblock_dilation_sizes": d}, "resblock_dilation_sizes", part) for d in lists
        ),
        clamp_output=one_of(clamps, "apply_final_activation", part, (True, False)),
    )


# --- latent upsamplers -----------------------------------------------------------------------------

UpsamplerKind = Literal["space", "time"]
# Spatial scales as numerator / denominator: shuffle up by one, blur and stride down by the other.
SPATIAL_SCALES: dict[float, tuple[int, int]] = {0.75: (3, 4), 1.5: (3, 2), 2.0: (2, 1), 4.0: (4, 1)}


@dataclass(frozen=True)
class UpsamplerConfig:
    """Hold the structure of a latent upsampler, in space or in time.

    scale: numerator and denominator of the change of height and width ("space"), or (2, 1) ("time").
    rational: keys and blur of the rational resampler; such a file may still scale by a whole number.
    """

    latent_channels: int
    mid_channels: int
    blocks_per_stage: int
    kind: UpsamplerKind
    scale: tuple[int, int]
    rational: bool

    @classmethod
    def from_header(cls, config: Header) -> UpsamplerConfig:
        """Read an upsampler file's config, which is flat: the document is the section."""
        part = "latent upsampler"
        expect(config, part, dims=3)
        space, time = (
            one_of(config, key, part, (False, True)) for key in ("spatial_upsample", "temporal_upsample")
        )
        if space == time:
            raise ConfigError(
                f"the {part} config has spatial_upsample={space} and temporal_upsample={time}; "
                "LTX-2.3 has upsamplers of one of the two"
            )
        num_den = (2, 1) if time else _spatial_scale(number(config, "spatial_scale", part))
        rational = bool(space and take(config, "rational_resampler", part))
        if not rational and num_den != (2, 1):
            raise ConfigError(f"a plain {part} doubles; {num_den[0]}/{num_den[1]} needs rational_resampler")
        return cls(
            latent_channels=whole(config, "in_channels", part),
            mid_channels=whole(config, "mid_channels", part),
            blocks_per_stage=whole(config, "num_blocks_per_stage", part),
            kind="time" if time else "space",
            scale=num_den,
            rational=rational,
        )


def _spatial_scale(scale: float) -> tuple[int, int]:
    if scale not in SPATIAL_SCALES:
        known = ", ".join(str(s) for s in SPATIAL_SCALES)
        raise ConfigError(f"the latent upsampler config has spatial_scale={scale}; known scales are {known}")
    return SPATIAL_SCALES[scale]
