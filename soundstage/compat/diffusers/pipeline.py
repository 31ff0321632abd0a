"""diffusers' LTX pipelines over one engine: every call is one Request for each clip it makes.

    pipe = LTX2Pipeline.from_pretrained("Lightricks/LTX-2.3", torch_dtype=torch.bfloat16)
    pipe.load_lora_weights("style.safetensors", adapter_name="style")
    video, audio = pipe("A red ball bounces.", num_frames=49, return_dict=False)

What a word becomes is in words.py. The pipelines differ in the order of their arguments, and in what they
cannot do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from soundstage.compat.diffusers.adapters import PipelineAdapters
from soundstage.compat.diffusers.calls import clip_calls
from soundstage.compat.diffusers.loading import dtype_of, model_of
from soundstage.compat.diffusers.outputs import check_output_type, outputs
from soundstage.compat.diffusers.parts import PipelinePart, part_of
from soundstage.compat.diffusers.placing import device_name
from soundstage.compat.diffusers.quantizing import weights_of
from soundstage.compat.diffusers.schedule import FlowMatchEulerDiscreteScheduler, fields_of
from soundstage.compat.diffusers.shell import PipelineShell
from soundstage.compat.diffusers.telling import Notices, check_words, number, unknown
from soundstage.compat.diffusers.words import CALL, IDLE, LOADING
from soundstage.engine import Engine
from soundstage.errors import RequestError, shown
from soundstage.request.request import Request

PARTS = ("transformer", "vae", "audio_vae", "vocoder", "text_encoder", "connectors")
# Asked for by snippets, which load them from the hub where they are None.
UNUSED = ("tokenizer", "processor", "prompt_enhancer")
GUIDANCE = ("guidance_scale", "stg_scale", "modality_scale", "guidance_rescale")
# Attributes that show the words of the last call.
SHOWN = (*GUIDANCE, *(f"audio_{name}" for name in GUIDANCE), "attention_kwargs")
ENGINE_WORDS = ("device", "weights", "residency", "memory_gb")


class LTX2Pipeline(PipelineAdapters, PipelineShell):
    """Text to picture and sound; made by `from_pretrained`, of an Engine, or of another's `components`."""

    ORDER: ClassVar[tuple[str, ...]] = ("prompt", "negative_prompt", "height", "width", "num_frames")
    NEEDS: ClassVar[str | None] = None

    def __init__(
        self, engine: Engine | None = None, *, notices: Notices | None = None, **components: Any
    ) -> None:
        owner = _owner(components)
        engine = owner.engine if engine is None and owner is not None else engine
        if not isinstance(engine, Engine):
            raise RequestError(
                "a pipeline is made by from_pretrained, of an Engine or of another pipeline's components, "
                f"not of {shown(engine)}"
            )
        PipelineAdapters.__init__(self)
        PipelineShell.__init__(self, engine, notices or Notices())
        self._parts = {kind: PipelinePart(kind, pipeline=self) for kind in (*PARTS, *UNUSED)}
        self._scheduler: Any = FlowMatchEulerDiscreteScheduler()
        self._sampling: dict[str, Any] = {}
        self._last: Mapping[str, Any] = {}
        if owner is not None:
            self.take_adapters(owner)
            self.source = owner.source
            self._scheduler, self._sampling = owner._scheduler, dict(owner._sampling)
        self._take(components)

    @classmethod
    def from_pretrained(cls, model: Any = "nano", **words: Any) -> Self:
        """Make a pipeline for a model.

        model: as `soundstage.load` takes it, or a repository of the hub. words: those of LOADING. Raises
        RequestError for an unknown model, with the command that fetches it, WeightsError for missing or
        damaged files.
        """
        notices = Notices()
        model = words.pop("pretrained_model_name_or_path", model)
        check_words(words, LOADING, notices, "from_pretrained")
        options = {name: words[name] for name in ENGINE_WORDS if words.get(name) is not None}
        options["dtype"] = dtype_of(words)
        options.update(_mapped_devices(words.get("device_map"), notices))
        weights = None
        if words.get("quantization_config") is not None:
            weights = weights_of(words["quantization_config"], notices)
        if weights is not None:
            options.setdefault("weights", weights)
        found = model_of(model, words.get("revision"), words.get("cache_dir"))
        pipeline = cls(Engine(found, **options), notices=notices)
        pipeline.source = model
        pipeline._take({name: words[name] for name in (*PARTS, "scheduler") if name in words})
        return pipeline

    @classmethod
    def from_single_file(cls, file: Any = None, **words: Any) -> Self:
        """Make a pipeline of a checkpoint's file, with the text encoder that lies beside it."""
        words.pop("config", None)
        return cls.from_pretrained(words.pop("pretrained_model_link_or_path", file), **words)

    @classmethod
    def from_pipe(cls, pipeline: LTX2Pipeline, **words: Any) -> Self:
        """Make a pipeline of the same engine, with the same adapters.

        words: components that are other ones, and dtype. Raises RequestError for others.
        """
        if not isinstance(pipeline, LTX2Pipeline):
            raise RequestError(f"from_pipe takes a pipeline, not {shown(pipeline)}; use from_pretrained")
        dtype = words.pop("torch_dtype", words.pop("dtype", None))
        made = cls(**{**pipeline.components, **words})
        return made if dtype is None else made.to(dtype)

    def _take(self, components: Mapping[str, Any]) -> None:
        """Have components that are given: parts that belong to no pipeline yet, and a scheduler."""
        for name, value in components.items():
            if name not in (*PARTS, *UNUSED, "scheduler"):
                raise RequestError(unknown(name, (*PARTS, "scheduler"), type(self).__name__), field=name)
            belongs = isinstance(value, PipelinePart) and value.pipeline is not None
            if value not in (None, self._scheduler) and name not in UNUSED and not belongs:
                setattr(self, name, value)

    def __call__(self, *values: Any, **words: Any) -> Any:
        """Make the clips of a call: a PipelineOutput, or (frames, audio) with return_dict=False.

        values: the first arguments, in diffusers' order. words: those of CALL, seed, and every field of a
        Request. Raises RequestError naming what does not fit.
        """
        words = self._named(values, words)
        own = {k: v for k, v in words.items() if k in CALL}
        check_words(own, CALL, self.notices, "this call")
        self._check_rest(words)
        output_type = words.pop("output_type", "pil")
        check_output_type(output_type)
        as_dict = words.pop("return_dict", True)
        tensors = words.pop("callback_on_step_end_tensor_inputs", None)
        watch = self.new_watch()
        watch.watch(words.pop("callback_on_step_end", None), tensors)
        self._tell_idle(words)
        self._last = words
        scale = _lora_scale(words.get("attention_kwargs"))
        calls = clip_calls(words, self.engine.model.defaults, self.loras_in_use(scale), self._sampling)
        plans = [call.started(self.engine.plan(call.request)) for call in calls]
        made = [
            watch.run(
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
                known = (*CALL, "seed", *Request.model_fields)
                raise RequestError(unknown(name, known, "this pipeline"), field=name)

    def _tell_idle(self, words: Mapping[str, Any]) -> None:
        """Tell of words that go with another one, which is not given."""
        for name, (others, neutral) in IDLE.items():
            if words.get(name, neutral) != neutral and not words.keys() & set(others):
                self.notices.tell(f"{name} has no effect without {' or '.join(others)}")

    # --- what else a pipeline has ------------------------------------------------------------------------

    def kept_state(self) -> Any:
        """Return what is the same for all of a clip."""
        return (self.engine, self.loras_in_use(), self._scheduler)

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

    def __getattr__(self, name: str) -> Any:
        if name in SHOWN:
            return self.__dict__.get("_last", {}).get(name)
        if name in (*PARTS, *UNUSED) and "_parts" in self.__dict__:
            return self._parts[name]
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.removeprefix("_") in SHOWN:
            raise RequestError(f"{name} cannot be set; give {name.removeprefix('_')} in the call", field=name)
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


def _owner(components: Mapping[str, Any]) -> LTX2Pipeline | None:
    """Return the pipeline that given components belong to, None where they belong to none."""
    parts = [part for part in components.values() if isinstance(part, PipelinePart)]
    return next((part.pipeline for part in parts if isinstance(part.pipeline, LTX2Pipeline)), None)


def _mapped_devices(device_map: Any, notices: Notices) -> dict[str, Any]:
    """Return the device that a device_map names; a strategy is the engine's own affair."""
    if device_map is None:
        return {}
    if isinstance(device_map, str) and device_map in ("balanced", "auto", "sequential"):
        notices.tell(f"device_map='{device_map}' has no effect: Soundstage places weights by itself")
        return {}
    if isinstance(device_map, Mapping):
        raise RequestError("device_map is a dict; give one device, such as 'cuda'", field="device_map")
    return {"device": device_name(device_map)}


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
