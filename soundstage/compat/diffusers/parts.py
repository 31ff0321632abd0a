"""Stand-ins for a pipeline's parts: they pass on what is set on them, and say what has no effect.

The true parts are within the engine, which builds and places them by itself. A stand-in belongs to a pipeline
(`pipe.vae`), or is made by its own `from_pretrained` and handed to one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from soundstage.compat.diffusers.quantizing import weights_of
from soundstage.compat.diffusers.telling import Notices, Word, check_words, unknown
from soundstage.compat.diffusers.words import LOADING, PART_METHODS
from soundstage.errors import RequestError, listed, shown
from soundstage.types import OUTPUT_RATE_HZ, SPACE_SCALE, TIME_SCALE

if TYPE_CHECKING:
    from soundstage.compat.diffusers.placing import PipelinePlacement

KINDS = ("transformer", "vae", "audio_vae", "vocoder", "text_encoder", "connectors", "latent_upsampler")
# What snippets ask of a part's config.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "vocoder": {"output_sampling_rate": OUTPUT_RATE_HZ},
    "vae": {
        "spatial_compression_ratio": SPACE_SCALE,
        "temporal_compression_ratio": TIME_SCALE,
        "latent_channels": 128,
        "timestep_conditioning": False,
    },
    "audio_vae": {"sample_rate": 16_000, "latent_channels": 8},
    "transformer": {"in_channels": 128, "out_channels": 128},
}


class FrozenConfig(dict[str, Any]):
    """A dict whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"the config has no '{name}'; it has {listed(name, self) or 'nothing'}"
            ) from None


class PipelinePart:
    """A part of a pipeline's model. kind: one of KINDS. pipeline: the one it belongs to, None before."""

    KIND: ClassVar[str] = "transformer"

    def __init__(
        self, kind: str | None = None, *, source: Any = None, pipeline: PipelinePlacement | None = None
    ) -> None:
        self.kind = kind or self.KIND
        self.source = source
        self.pipeline = pipeline
        self.changes: dict[str, Any] = {}  # of the engine's options
        self._offload: tuple[tuple[Any, ...], dict[str, Any]] | None = None  # asked before it had a pipeline
        self._notices = Notices() if pipeline is None else pipeline.notices

    @classmethod
    def from_pretrained(cls, model: Any, *, subfolder: str | None = None, **words: Any) -> PipelinePart:
        """Name a part of a model, for a pipeline's from_pretrained. Nothing is read here.

        quantization_config: how the transformer's weights are held. Raises RequestError for a subfolder that
        is no part.
        """
        kind = cls.KIND if cls is not AutoModel else (subfolder or "")
        if kind not in KINDS:
            raise RequestError(
                f"subfolder is '{subfolder}'; a part of a model is one of {listed(kind, KINDS)}",
                field="subfolder",
            )
        part = cls(kind, source=model)
        check_words(words, LOADING, part._notices, f"from_pretrained of the {kind}")
        if words.get("quantization_config") is not None:
            part._change(weights=weights_of(words["quantization_config"], part._notices))
        return part

    @classmethod
    def from_single_file(cls, file: Any, **words: Any) -> PipelinePart:
        """Name the part in a file; see `from_pretrained`."""
        return cls.from_pretrained(file, **{"subfolder": "transformer", **words})

    @property
    def config(self) -> FrozenConfig:
        return FrozenConfig(CONFIGS.get(self.kind, {}))

    @property
    def dtype(self) -> Any:
        return None if self.pipeline is None else self.pipeline.dtype

    @property
    def device(self) -> Any:
        return None if self.pipeline is None else self.pipeline.device

    def to(self, *values: Any, memory_format: Any = None, **words: Any) -> PipelinePart:
        """Place the pipeline's model; its parts are placed together."""
        if memory_format is not None:
            self._notices.tell("memory_format has no effect: Soundstage has its own fast paths")
        if self.pipeline is not None and (values or words):
            self.pipeline.to(*values, **words)
        return self

    def enable_layerwise_casting(self, storage_dtype: Any = None, **words: Any) -> None:
        """Hold the transformer's weights in 8-bit floats."""
        if self.kind != "transformer":
            self._notices.tell(
                f"enable_layerwise_casting has no effect on the {self.kind}: only the transformer is cast"
            )
            return
        if storage_dtype is not None and "float8_e4m3" not in str(storage_dtype):
            raise RequestError(
                f"storage_dtype is {storage_dtype}; give torch.float8_e4m3fn", field="storage_dtype"
            )
        self._change(weights="fp8-cast")

    def enable_group_offload(self, *values: Any, **words: Any) -> None:
        """Stream the transformer's blocks from host memory; the other parts follow."""
        if self.pipeline is None:
            self._offload = (values, words)
        else:
            self.pipeline.enable_group_offload(*values, **words)

    def adopted(self, pipeline: PipelinePlacement) -> None:
        """Become a part of a pipeline, with what was set before."""
        self.pipeline, self._notices = pipeline, pipeline.notices
        self._change(**self.changes)
        if self._offload is not None:
            pipeline.enable_group_offload(*self._offload[0], **self._offload[1])

    def __repr__(self) -> str:
        place = "no pipeline yet" if self.pipeline is None else type(self.pipeline).__name__
        return f"<{self.kind} of {place}>"

    def _change(self, **options: Any) -> None:
        self.changes.update({key: value for key, value in options.items() if value is not None})
        if self.pipeline is not None:
            self.pipeline.place(**self.changes)

    def __call__(self, *values: Any, **words: Any) -> Any:
        """Refuse: a part does not work outside of the engine. `torch.compile` asks for something callable."""
        return self._told(PART_METHODS["forward"])

    def __getattr__(self, name: str) -> Callable[..., Any]:
        word = PART_METHODS.get(name)
        if word is None:
            raise AttributeError(unknown(name, PART_METHODS, f"the {self.__dict__.get('kind', 'part')}"))
        return partial(self._told, word)

    def _told(self, word: Word, *values: Any, **words: Any) -> PipelinePart:
        if word.fate == "refused":
            raise RequestError(f"{word.name} of the {self.kind} is not there: {word.becomes}")
        self._notices.tell(f"{word.name} of the {self.kind} has no effect: {word.becomes}")
        return self


class AutoModel(PipelinePart):
    """A part that its subfolder names."""


class LTX2VideoTransformer3DModel(PipelinePart):
    """The transformer."""


class AutoencoderKLLTX2Video(PipelinePart):
    """The video VAE."""

    KIND = "vae"


class AutoencoderKLLTX2Audio(PipelinePart):
    """The audio VAE."""

    KIND = "audio_vae"


class LTX2LatentUpsamplerModel(PipelinePart):
    """The spatial upsampler of latents."""

    KIND = "latent_upsampler"


def apply_group_offloading(
    module: PipelinePart, *values: Any, block_modules: Any = None, exclude_kwargs: Any = None, **words: Any
) -> None:
    """Stream the pipeline's blocks from host memory, as `enable_group_offload`; the engine knows its blocks.

    Raises RequestError for what is no part of a pipeline.
    """
    if not isinstance(module, PipelinePart):
        raise RequestError(f"the module is {shown(module)}; give a part of a pipeline, such as pipe.vae")
    module.enable_group_offload(*values, **words)


def part_of(value: Any, kind: str) -> PipelinePart:
    """Return the stand-in that was handed in, or that torch.compile has wrapped.

    Raises RequestError for anything else.
    """
    inner: Any = getattr(value, "_torchdynamo_orig_callable", value)
    inner = getattr(inner, "__wrapped__", inner) if not isinstance(inner, PipelinePart) else inner
    if not isinstance(inner, PipelinePart):
        raise RequestError(
            f"{kind} is a {type(value).__name__}; weights come from files: give them to from_pretrained, or "
            "a part made by Soundstage's own classes",
            field=kind,
        )
    part: PipelinePart = inner
    if part is not value:
        part.compile()
    return part
