"""Call the engine with the names that diffusers uses.

    pipe = ss.LTXVideoPipeline.from_pretrained("ltx-2.3-distilled", torch_dtype=torch.bfloat16)
    pipe.load_lora_weights("style.safetensors", adapter_name="style")
    pipe.set_adapters(["style"], adapter_weights=[0.8])
    video, audio = pipe("A red ball bounces.", num_frames=49, return_dict=False)

Every call is one Request to the Engine in `pipe.engine`. An argument that the engine does not have
(embeddings or latents passed in) is refused by name, not ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soundstage.engine import Engine, load
from soundstage.errors import RequestError, listed
from soundstage.rendering.events import Done, Step
from soundstage.request.inputs import Guide, Lora
from soundstage.request.request import Request
from soundstage.types import OUTPUT_RATE_HZ, Group

OUTPUT_TYPES = ("pil", "np", "latent")
Weight = float | Mapping[Group, float]  # an adapter's strength, or multipliers of its groups

# Words of a call that are a request's fields by another name.
FIELDS = {
    "negative_prompt": "negative_prompt",
    "num_frames": "num_frames",
    "frame_rate": "fps",
    "num_inference_steps": "steps",
    "sigmas": "sigmas",
    "guidance_scale": "video_guidance",
    "audio_guidance_scale": "audio_guidance",
}
# Words of a call that are guidance of one modality: which, and the name in sampling.scales.Scales.
SCALES = {
    "stg_scale": ("video_scales", "stg"),
    "modality_scale": ("video_scales", "modality"),
    "guidance_rescale": ("video_scales", "rescale"),
    "audio_stg_scale": ("audio_scales", "stg"),
    "audio_modality_scale": ("audio_scales", "modality"),
    "audio_guidance_rescale": ("audio_scales", "rescale"),
}


@dataclass(frozen=True)
class PipelineOutput:
    """The result of a call.

    frames: one list of PIL pictures per clip, an array (1, F, H, W, 3) in [0, 1], or latents.

    audio: samples (1, 2, n) float32 at sample_rate_hz, or latents; None for a silent clip.
    """

    frames: Any
    audio: Any
    sample_rate_hz: int = OUTPUT_RATE_HZ


class LTXVideoPipeline:
    """A pipeline around an Engine; `from_pretrained` makes both."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._loras: dict[str, Lora] = {}
        self._active: dict[str, Lora] = {}

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Sequence[str | Path] = "nano",
        *,
        torch_dtype: Any = None,
        device: str = "auto",
        weights: str = "auto",
    ) -> LTXVideoPipeline:
        """Make a pipeline for a model.

        model, weights: as `soundstage.load` takes them. torch_dtype: a torch dtype or its name.

        Raises RequestError for an unknown model, WeightsError for missing or damaged files.
        """
        return cls(load(model, device=device, dtype=torch_dtype, weights=weights))

    # --- adapters --------------------------------------------------------------------------------

    def load_lora_weights(
        self, path: str | Path, *, weight_name: str | None = None, adapter_name: str | None = None
    ) -> None:
        """Add a LoRA at strength 1. path: a file, or a folder in which weight_name is the file.

        adapter_name: how `set_adapters` calls it; None counts: default_0, default_1. Raises RequestError for
        a name that is taken or a file that is not there.
        """
        file = Path(path) / weight_name if weight_name else Path(path)
        name = adapter_name or f"default_{len(self._loras)}"
        if name in self._loras:
            raise RequestError(f"adapter_name is '{name}', which is loaded already; choose another name")
        if not file.is_file():
            raise RequestError(f"there is no file {file}; give a LoRA's .safetensors file")
        self._loras[name] = self._active[name] = Lora(str(file))

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: Weight | Sequence[Weight] | None = None
    ) -> None:
        """Use these adapters, at these strengths (1 each if not given), and no others.

        adapter_weights: one for all, or one for each; a dict such as {"video": 1.0, "audio": 0.5} has
        multipliers of groups, see `Lora`. Raises RequestError for a name that is not loaded, another number
        of weights than of names, a strength outside -10 to 10, and a group that does not exist.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = _weights(adapter_weights, len(names))
        unknown = [name for name in names if name not in self._loras]
        if unknown:
            loaded = listed(unknown[0], self._loras) or "none"
            raise RequestError(f"adapter {', '.join(unknown)} is not loaded; loaded: {loaded}")
        self._active = {
            name: replace(self._loras[name], **weight) for name, weight in zip(names, weights, strict=True)
        }

    def get_active_adapters(self) -> list[str]:
        return list(self._active)

    def get_list_adapters(self) -> dict[str, list[str]]:
        return {"transformer": list(self._loras)}

    def disable_lora(self) -> None:
        """Keep the adapters, and use none until `set_adapters`."""
        self._active = {}

    def enable_lora(self) -> None:
        """Use every adapter loaded, at strength 1."""
        self._active = dict(self._loras)

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            self._loras.pop(name, None)
            self._active.pop(name, None)

    def unload_lora_weights(self) -> None:
        self._loras, self._active = {}, {}

    # --- making ----------------------------------------------------------------------------------

    def __call__(
        self,
        prompt: str,
        *,
        image: Any = None,
        width: int | None = None,
        height: int | None = None,
        generator: Any = None,
        seed: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, float, Mapping[str, Any]], Any] | None = None,
        **words: Any,
    ) -> Any:
        """Make one clip: a PipelineOutput, or (frames, audio) if not return_dict.

        image: the first frame. generator: a torch.Generator, whose seed is used; or seed.

        callback_on_step_end(pipe, step, sigma, {}): after each denoising step; step counts from 0. Other
        words: those of FIELDS and SCALES, and every field of a Request. Raises RequestError naming what does
        not fit.
        """
        if output_type not in OUTPUT_TYPES:
            raise RequestError(
                f"output_type is '{output_type}'; give one of {listed(str(output_type), OUTPUT_TYPES)}"
            )
        fields = _fields(words)
        if (width is None) != (height is None):
            raise RequestError("width and height go together; give both or neither", field="size")
        if width is not None:
            fields["size"] = (width, height)
        if image is not None:
            fields["guides"] = [Guide(image), *fields.get("guides", ())]
        if generator is not None or seed is not None:
            fields["seed"] = seed if seed is not None else generator.initial_seed()
        fields.setdefault("loras", list(self._active.values()))
        done = self._run(Request(prompt=prompt, **fields), callback_on_step_end)
        frames, audio = _outputs(done, output_type)
        return PipelineOutput(frames, audio) if return_dict else (frames, audio)

    def _run(self, request: Request, callback: Callable[..., Any] | None) -> Done:
        for event in self.engine.run(request):
            if isinstance(event, Step) and callback is not None:
                callback(self, event.step - 1, event.sigma, {})
            if isinstance(event, Done):
                return event
        raise AssertionError("a run ends with Done")


def _weights(given: Weight | Sequence[Weight] | None, count: int) -> list[dict[str, Any]]:
    """Return the fields of each adapter's `Lora`."""
    if given is None or isinstance(given, (int, float, Mapping)):
        given = [1.0 if given is None else given] * count
    if len(given) != count:
        raise RequestError(f"adapter_weights has {len(given)} values for {count} adapters; give one for each")
    return [{"groups": w} if isinstance(w, Mapping) else {"strength": w} for w in given]


def _fields(words: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as fields of a Request; None means not given."""
    fields: dict[str, Any] = {}
    scales: dict[str, dict[Any, Any]] = {"video_scales": {}, "audio_scales": {}}
    for name, value in words.items():
        if value is None:
            continue
        if name in SCALES:
            record, key = SCALES[name]
            scales[record][key] = value
        elif name == "spatio_temporal_guidance_blocks":
            for record in scales:
                scales[record]["stg_blocks"] = tuple(value)
        elif name in scales and isinstance(value, Mapping):
            scales[name].update(value)
        elif name in FIELDS or name in Request.model_fields:
            fields[FIELDS.get(name, name)] = value
        else:
            known = listed(name, [*FIELDS, *SCALES])
            raise RequestError(
                f"'{name}' is not a word of this pipeline; it knows {known} and a Request's fields"
            )
    return fields | {name: value for name, value in scales.items() if value}


def _outputs(done: Done, output_type: str) -> tuple[Any, Any]:
    clip = done.clip
    if output_type == "latent":
        return done.video_latents, done.audio_latents
    audio = None if clip.waveform is None else clip.waveform[None]
    if clip.frames is None or output_type == "np":
        return None if clip.frames is None else clip.frames[None].astype("float32") / 255, audio
    from PIL import Image

    return [[Image.fromarray(frame) for frame in clip.frames]], audio
