"""diffusers' LTX pipelines over one engine: every call is one Request for each clip it makes.

    pipe = LTX2Pipeline.from_pretrained("Lightricks/LTX-2.3", torch_dtype=torch.bfloat16)
    pipe.load_lora_weights("style.safetensors", adapter_name="style")
    video, audio = pipe("A red ball bounces.", num_frames=49, return_dict=False)

What a word becomes is in words.py. The pipelines differ in the order of their arguments, and in what they
cannot do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

from soundstage.compat.diffusers.adapters import PipelineAdapters
from soundstage.compat.diffusers.calls import clip_calls
from soundstage.compat.diffusers.loading import model_of, weights_of
from soundstage.compat.diffusers.outputs import check_output_type, outputs
from soundstage.compat.diffusers.parts import FrozenConfig, PipelinePart, part_of
from soundstage.compat.diffusers.placing import PipelinePlacement
from soundstage.compat.diffusers.running import RunWatch
from soundstage.compat.diffusers.schedule import FlowMatchEulerDiscreteScheduler, fields_of
from soundstage.compat.diffusers.telling import Notices, Word, check_words, number
from soundstage.compat.diffusers.words import CALL, LOADING, METHODS
from soundstage.engine import Engine
from soundstage.errors import RequestError, listed, shown
from soundstage.request.request import Request
from soundstage.types import SPACE_SCALE, TIME_SCALE

PARTS = ("transformer", "vae", "audio_vae", "vocoder", "text_encoder", "connectors")
# Asked for by snippets, which load them from the hub where they are None.
UNUSED = ("tokenizer", "processor", "prompt_enhancer")
GUIDANCE = ("guidance_scale", "stg_scale", "modality_scale", "guidance_rescale")
# Attributes that show the words of the last call.
SHOWN = (*GUIDANCE, *(f"audio_{name}" for name in GUIDANCE), "attention_kwargs")
ENGINE_WORDS = ("device", "weights", "residency", "memory_gb")


class LTX2Pipeline(PipelineAdapters, PipelinePlacement):
    """Text to picture and sound; `from_pretrained` makes it, and so does an Engine."""

    ORDER: ClassVar[tuple[str, ...]] = ("prompt", "negative_prompt", "height", "width", "num_frames")
    NEEDS: ClassVar[str | None] = None

    def __init__(self, engine: Engine) -> None:
        if not isinstance(engine, Engine):
            raise RequestError(
                f"a pipeline is made by from_pretrained or of an Engine, not of {shown(engine)}"
            )
        PipelineAdapters.__init__(self)
        PipelinePlacement.__init__(self, engine, Notices())
        self._parts = {kind: PipelinePart(kind, pipeline=self) for kind in (*PARTS, *UNUSED)}
        self._scheduler: Any = FlowMatchEulerDiscreteScheduler()
        self._sampling: dict[str, Any] = {}
        self._watch = RunWatch(self.notices)
        self._last: Mapping[str, Any] = {}

    @classmethod
    def from_pretrained(cls, model: Any = "nano", **words: Any) -> Self:
        """Make a pipeline for a model.

        model: as `soundstage.load` takes it, or a repository of the hub. words: those of LOADING. Raises
        RequestError for an unknown model, with the command that fetches it, WeightsError for missing or
        damaged files.
        """
        notices = Notices()
        check_words(words, LOADING, notices, "from_pretrained")
        if words.get("dtype") is not None and words.get("torch_dtype") is not None:
            raise RequestError("both dtype and torch_dtype are given; keep one", field="dtype")
        options = {name: words[name] for name in ENGINE_WORDS if words.get(name) is not None}
        options["dtype"] = words.get("dtype") or words.get("torch_dtype")
        options.update(_mapped_devices(words.get("device_map"), notices))
        weights = None
        if words.get("quantization_config") is not None:
            weights = weights_of(words["quantization_config"], notices)
        if weights is not None:
            options.setdefault("weights", weights)
        pipeline = cls(Engine(model_of(model, words.get("revision"), words.get("cache_dir")), **options))
        pipeline.notices = pipeline._watch.notices = notices
        pipeline.source = model
        for kind in PARTS:
            if words.get(kind) is not None:
                setattr(pipeline, kind, words[kind])
        if words.get("scheduler") is not None:
            pipeline.scheduler = words["scheduler"]
        return pipeline

    @classmethod
    def from_single_file(cls, file: Any, **words: Any) -> Self:
        """Make a pipeline of a checkpoint's file, with the text encoder that lies beside it."""
        words.pop("config", None)
        return cls.from_pretrained(file, **words)

    @classmethod
    def from_pipe(cls, pipeline: LTX2Pipeline, **words: Any) -> Self:
        """Make a pipeline of the same engine, with the same adapters."""
        made = cls(pipeline.engine)
        made.take_adapters(pipeline)
        made.source = pipeline.source
        made._scheduler, made._sampling = pipeline._scheduler, dict(pipeline._sampling)
        for name, value in words.items():
            setattr(made, name, value)
        return made

    def __call__(self, *values: Any, **words: Any) -> Any:
        """Make the clips of a call: a PipelineOutput, or (frames, audio) with return_dict=False.

        values: the first arguments, in diffusers' order. words: those of CALL, seed, and every field of a
        Request. Raises RequestError naming what does not fit.
        """
        words = self._named(values, words)
        own = {k: v for k, v in words.items() if k in CALL}
        check_words(own, CALL, self.notices, "this call")
        self._check_rest(words)
        output_type = words.pop("output_type", None) or "pil"
        check_output_type(output_type)
        as_dict = words.pop("return_dict", True)
        tensors = words.pop("callback_on_step_end_tensor_inputs", None)
        self._watch.watch(words.pop("callback_on_step_end", None), tensors, self)
        self._last = words
        scale = _lora_scale(words.get("attention_kwargs"))
        calls = clip_calls(words, self.engine.model.defaults, self.loras_in_use(scale), self._sampling)
        plans = [call.started(self.engine.plan(call.request)) for call in calls]
        made = [
            self._watch.run(
                self.engine,
                plan,
                None if call.given is None else call.given.latents,
                decode=output_type != "latent",
            )
            for call, plan in zip(calls, plans, strict=True)
        ]
        found = outputs(made, output_type)
        return found if as_dict else found.to_tuple()

    def _named(self, values: tuple[Any, ...], words: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, those that are None left out."""
        if len(values) > len(self.ORDER):
            raise RequestError(f"{len(values)} arguments have no name; name those after {self.ORDER[-1]}")
        named = dict(zip(self.ORDER, values, strict=False))
        twice = sorted(named.keys() & words.keys())
        if twice:
            raise RequestError(f"{twice[0]} is given twice; keep one", field=twice[0])
        given = {name: value for name, value in {**named, **words}.items() if value is not None}
        if self.NEEDS is not None and not {self.NEEDS, "latents"} & given.keys():
            raise RequestError(
                f"{self.NEEDS} is not given, and {type(self).__name__} needs it", field=self.NEEDS
            )
        return given

    def _check_rest(self, words: Mapping[str, Any]) -> None:
        for name in words:
            if name not in CALL and name != "seed" and name not in Request.model_fields:
                raise RequestError(
                    f"'{name}' is not a word of this pipeline; it knows {listed(name, CALL)} and the "
                    "fields of a Request",
                    field=name,
                )

    # --- what else a pipeline has ------------------------------------------------------------------------

    def set_progress_bar_config(self, disable: bool | None = None, **words: Any) -> None:
        """Show bars, or show none; left out, they are shown on a terminal."""
        self._watch.progress = None if disable is None else not disable
        if words:
            self.notices.tell(
                f"{', '.join(words)} of set_progress_bar_config has no effect: bars look as they do"
            )

    @property
    def interrupt(self) -> bool:
        """Return whether the steps of the clip under way were ended."""
        return self._watch.interrupted

    @property
    def _interrupt(self) -> bool:
        return self._watch.interrupted

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        self._watch.interrupted = bool(value)

    @property
    def scheduler(self) -> Any:
        return self._scheduler

    @scheduler.setter
    def scheduler(self, value: Any) -> None:
        self._sampling = fields_of(value)
        self._scheduler = value

    @property
    def components(self) -> dict[str, Any]:
        return {**self._parts, "scheduler": self._scheduler}

    @property
    def config(self) -> FrozenConfig:
        return FrozenConfig(_class_name=type(self).__name__, _name_or_path=self.name_or_path)

    @property
    def name_or_path(self) -> str:
        return self.engine.model.name

    @property
    def num_timesteps(self) -> int | None:
        return self._watch.num_steps

    @property
    def current_timestep(self) -> Any:
        return self._watch.timestep

    @property
    def lora_scale(self) -> float:
        return _lora_scale(self._last.get("attention_kwargs"))

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._asks(("guidance_scale", "audio_guidance_scale"), 1)

    @property
    def do_spatio_temporal_guidance(self) -> bool:
        return self._asks(("stg_scale", "audio_stg_scale"), 0)

    @property
    def do_modality_isolation_guidance(self) -> bool:
        return self._asks(("modality_scale", "audio_modality_scale"), 1)

    def _asks(self, names: tuple[str, ...], off: float) -> bool:
        return any(self._last.get(name, off) > off for name in names)

    vae_spatial_compression_ratio = SPACE_SCALE
    vae_temporal_compression_ratio = TIME_SCALE

    def __getattr__(self, name: str) -> Any:
        if name in SHOWN:
            return self.__dict__.get("_last", {}).get(name)
        if name in (*PARTS, *UNUSED) and "_parts" in self.__dict__:
            return self._parts[name]
        word = METHODS.get(name)
        if word is None or word.fate == "mapped":
            raise AttributeError(f"{type(self).__name__} has no '{name}'; it has {listed(name, METHODS)}")
        return partial(self._told, word)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in PARTS:
            super().__setattr__(name, value)
            return
        part = part_of(value, name)
        if part.kind != name:
            raise RequestError(f"{name} is a {part.kind}; give the {name}", field=name)
        if part.source is not None and str(part.source) != str(self.source):
            raise RequestError(
                f"{name} is of {shown(part.source)}, the pipeline of {shown(self.source)}; give "
                "from_pretrained the files of one model, in a list if they lie apart",
                field=name,
            )
        part.adopted(self)
        self._parts[name] = part

    def _told(self, word: Word, *values: Any, **words: Any) -> None:
        if word.fate == "refused":
            raise RequestError(f"{word.name} is not there: {word.becomes}")
        self.notices.tell(f"{word.name} has no effect: {word.becomes}")


class LTXVideoPipeline(LTX2Pipeline):
    """Text to picture and sound, under Soundstage's first name for it."""


class LTXPipeline(LTX2Pipeline):
    """Text to picture and sound, under the name of LTX-Video's pipeline."""


class LTX2ImageToVideoPipeline(LTX2Pipeline):
    """A picture and text to picture and sound."""

    ORDER = ("image", "prompt", "negative_prompt", "height", "width", "num_frames")
    NEEDS = "image"


class LTXImageToVideoPipeline(LTX2ImageToVideoPipeline):
    """A picture and text to picture and sound, under the name of LTX-Video's pipeline."""


class LTX2ConditionPipeline(LTX2Pipeline):
    """Pictures and clips at given times, and text, to picture and sound."""

    ORDER = ("conditions", "prompt", "negative_prompt", "height", "width", "num_frames")


class LTXConditionPipeline(LTX2Pipeline):
    """Pictures and clips at given times, under the name of LTX-Video's pipeline."""

    ORDER = ("conditions", "image", "video", "frame_index", "strength", "denoise_strength", "prompt")


class LTX2InContextPipeline(LTX2Pipeline):
    """A clip to follow, and text, to picture and sound; with an in-context LoRA."""

    ORDER = ("prompt", "negative_prompt", "reference_conditions", "conditions")


def _mapped_devices(device_map: Any, notices: Notices) -> dict[str, Any]:
    """Return the device that a device_map names; a strategy is the engine's own affair."""
    if device_map is None:
        return {}
    if isinstance(device_map, str) and device_map in ("balanced", "auto", "sequential"):
        notices.tell(f"device_map='{device_map}' has no effect: Soundstage places weights by itself")
        return {}
    if isinstance(device_map, Mapping):
        raise RequestError("device_map is a dict; give one device, such as 'cuda'", field="device_map")
    return {"device": str(device_map)}


def _lora_scale(kwargs: Any) -> float:
    """Return the scale of attention_kwargs. Raises RequestError for others in it."""
    if kwargs is None:
        return 1.0
    others = [name for name in kwargs if name != "scale"] if isinstance(kwargs, Mapping) else [shown(kwargs)]
    if others:
        raise RequestError(
            f"attention_kwargs has {', '.join(map(str, others))}; only scale, for the LoRAs, is known",
            field="attention_kwargs",
        )
    return number(kwargs.get("scale", 1.0), "scale")
