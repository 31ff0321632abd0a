"""The engine: a request becomes a plan, a plan a stream of events, the last event a clip.

    stage = ss.load("nano")
    for event in stage.run(stage.plan(request)):   # Phase, Step, ..., Done
        ...

An engine keeps its model and the prompts it has encoded, so a second request reads nothing from disk.
torch is loaded by the first run, not by planning.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage import __version__
from soundstage.clip import Clip
from soundstage.model_set import ModelSet, find_model
from soundstage.plan import PassPlan, Plan, make_plan
from soundstage.request import Request
from soundstage.types import LATENT_CHANNELS, VideoShape

if TYPE_CHECKING:
    from torch import Tensor

    from soundstage.parts import Parts
    from soundstage.sampling.guidance import Contexts
    from soundstage.sampling.streams import Stream

MAX_PROMPTS_KEPT = 64
# Passes of a step run as one batch up to this many tokens, one after the other beyond it.
MAX_BATCHED_TOKENS = 16_384


@dataclass(frozen=True)
class Phase:
    """A stage of the work begins: "load", "encode", "denoise", "decode video" or "decode audio"."""

    name: str


@dataclass(frozen=True)
class Step:
    """A denoising step is done. step counts from 1 to num_steps; sigma is the level it ended at."""

    name: str
    step: int
    num_steps: int
    sigma: float


@dataclass(frozen=True)
class Done:
    """The clip, and what it was decoded from.

    video_latents: (1, 128, T, h, w), audio_latents: (1, 8, T, 16); None for a modality not made. seconds:
    by phase.
    """

    clip: Clip
    video_latents: Tensor | None
    audio_latents: Tensor | None
    seconds: dict[str, float]


Event = Phase | Step | Done


def load(model: str | Path = "nano", *, device: str = "auto", dtype: str | None = None) -> Engine:
    """An engine for a shipped model's name or a model folder.

    device: "auto", "cpu", "cuda", "cuda:1". dtype: "bfloat16" or "float32"; None is the model's default.
    Reads headers only. Raises RequestError for an unknown model, WeightsError for missing or damaged files.
    """
    return Engine(find_model(model), device=device, dtype=dtype)


class Engine:
    """One model and all that is kept between requests. Not for use from two threads at once.

    parts: given by tests and by programs that build the model themselves; None loads them from `model`.
    """

    def __init__(
        self, model: ModelSet, *, device: str = "auto", dtype: str | None = None, parts: Parts | None = None
    ) -> None:
        self.model = model
        self._device = device
        self._dtype = dtype or model.defaults.dtype
        self._parts = parts
        self._contexts: dict[str, Contexts] = {}

    def plan(self, request: Request) -> Plan:
        """What `run` would do. Raises RequestError with all problems of the request."""
        return make_plan(request, self.model)

    def generate(self, prompt: str | Request, **fields: Any) -> Clip:
        """Make a clip from a prompt and other fields of a Request, or from a Request."""
        request = prompt if isinstance(prompt, Request) else Request(prompt=prompt, **fields)
        for event in self.run(request):
            if isinstance(event, Done):
                return event.clip
        raise AssertionError("a run ends with Done")

    def run(self, plan: Plan | Request) -> Iterator[Event]:
        """Do the work, handing over an event at each stage and step; closing the generator stops it."""
        plan = self.plan(plan) if isinstance(plan, Request) else plan
        clock = _Clock()
        yield clock.phase("load")
        parts = self._loaded(plan)
        yield clock.phase("encode")
        positive, negative = self._encode(parts, plan)
        yield clock.phase("denoise")
        video: Tensor | None = None
        audio: Tensor | None = None
        for step in plan.passes:
            for state in _denoise(parts, plan, step, positive, negative):
                yield Step(step.name, state.step, state.num_steps, state.sigma_next)
            video, audio = _to_latents(step, plan, state.video, state.audio)
        frames = waveform = None
        if video is not None:
            yield clock.phase("decode video")
            frames = _frames(parts, video)
        if audio is not None:
            yield clock.phase("decode audio")
            waveform = _waveform(parts, audio)
        clip = Clip(frames, waveform, plan.fps, self._provenance(plan, parts, video, audio))
        yield Done(clip, video, audio, clock.stop())

    def _loaded(self, plan: Plan) -> Parts:
        if self._parts is None:
            from soundstage.parts import LoadedParts, pick_device, pick_dtype

            self._parts = LoadedParts(self.model, pick_device(self._device), pick_dtype(self._dtype))
        self._parts.load(plan.modalities)
        return self._parts

    def _encode(self, parts: Parts, plan: Plan) -> tuple[Contexts, Contexts | None]:
        """Contexts of the prompt and, if a pass needs it, of the negative prompt; encoded once each."""
        prompts = [plan.request.prompt]
        if plan.negative_prompt is not None:
            prompts.append(plan.negative_prompt)
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._contexts]
        if new:
            if len(self._contexts) + len(new) > MAX_PROMPTS_KEPT:
                kept = {p: self._contexts[p] for p in prompts if p in self._contexts}
                self._contexts = kept
            self._contexts.update(zip(new, _encoded(parts, new), strict=True))
        negative = None if plan.negative_prompt is None else self._contexts[plan.negative_prompt]
        return self._contexts[plan.request.prompt], negative

    def _provenance(
        self, plan: Plan, parts: Parts, video: Tensor | None, audio: Tensor | None
    ) -> dict[str, Any]:
        """JSON-ready: what was asked, what was done, with which weights."""
        latents = {"video": video, "audio": audio}
        return {
            "soundstage": __version__,
            "request": plan.request.to_dict(),
            "model": plan.model,
            "files": self.model.hashes,
            "device": str(parts.device),
            "dtype": str(parts.dtype).removeprefix("torch."),
            "width": plan.width,
            "height": plan.height,
            "num_frames": plan.num_frames,
            "fps": plan.fps,
            "negative_prompt": plan.negative_prompt,
            "passes": [asdict(step) for step in plan.passes],
            "latents_sha256": {name: _sha256(x) for name, x in latents.items() if x is not None},
        }


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name: str | None = None
        self._since = 0.0

    def phase(self, name: str) -> Phase:
        self.stop()
        self._name, self._since = name, time.perf_counter()
        return Phase(name)

    def stop(self) -> dict[str, float]:
        if self._name is not None:
            self.seconds[self._name] = time.perf_counter() - self._since
            self._name = None
        return self.seconds


def _encoded(parts: Parts, prompts: Sequence[str]) -> list[Contexts]:
    import torch

    with torch.no_grad():
        return parts.encode(prompts)


def _denoise(
    parts: Parts, plan: Plan, step: PassPlan, positive: Contexts, negative: Contexts | None
) -> Iterator[Any]:
    """States of one pass."""
    import torch

    from soundstage.sampling.denoise import denoise
    from soundstage.sampling.guidance import Guider
    from soundstage.sampling.samplers import SAMPLERS

    streams = _streams(parts, plan, step)
    tokens = (step.video_tokens + step.audio_tokens) * len(step.kinds)
    guider = Guider(
        parts.transformer,
        streams,
        (step.video, step.audio),
        positive,
        negative,
        batched=tokens <= MAX_BATCHED_TOKENS,
    )
    generator = torch.Generator(parts.device).manual_seed(step.seed)
    return denoise(guider, *streams, step.sigmas, generator, sampler=SAMPLERS[step.sampler])


def _streams(parts: Parts, plan: Plan, step: PassPlan) -> tuple[Stream | None, Stream | None]:
    """Both modalities' tokens, all to be made."""
    from soundstage.conditioning.positions import audio_positions, video_positions
    from soundstage.sampling.streams import Stream

    video = audio = None
    if step.video is not None:
        grid = VideoShape(step.num_frames, step.height, step.width).latent
        positions = video_positions(*grid, plan.fps, device=parts.device)
        video = Stream.fresh(positions, width=LATENT_CHANNELS, dtype=parts.dtype)
    if step.audio is not None:
        positions = audio_positions(step.audio_tokens, device=parts.device)
        audio = Stream.fresh(positions, width=LATENT_CHANNELS, dtype=parts.dtype)
    return video, audio


def _to_latents(
    step: PassPlan, plan: Plan, video: Tensor | None, audio: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Tokens (1, N, 128) -> (1, 128, T, h, w) and (1, 8, T, 16)."""
    from soundstage.model.audio_vae import unpatchify_audio

    if video is not None:
        grid = VideoShape(step.num_frames, step.height, step.width).latent
        video = video.transpose(1, 2).reshape(1, LATENT_CHANNELS, *grid)
    return video, None if audio is None else unpatchify_audio(audio)


def _frames(parts: Parts, latents: Tensor) -> Any:
    """(F, H, W, 3) uint8 array."""
    import torch

    with torch.no_grad():
        pixels = parts.decode_video(latents)[0].float()
    scaled = pixels.add(1).mul(127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu().numpy()


def _waveform(parts: Parts, latents: Tensor) -> Any:
    """(2, n) float32 array."""
    import torch

    with torch.no_grad():
        return parts.decode_audio(latents)[0].float().cpu().numpy()


def _sha256(latents: Tensor) -> str:
    """Of the values as float32, little-endian, in row-major order."""
    return hashlib.sha256(latents.float().contiguous().cpu().numpy().astype("<f4").tobytes()).hexdigest()
