"""Train nano's distilled LoRA: eight fixed steps without guidance instead of many with it.

Progressive distillation (Salimans and Ho, 2022) from a guided teacher (Meng et al., 2023), in one stage,
since the student's noise levels are fixed. A step of training takes one interval of the distilled list. From
a state at its upper level the teacher, nano with guidance and without the LoRA, takes small Euler steps to
the lower level. The student, nano with the LoRA and without guidance, is to arrive there in one step. The
loss compares the velocities of that step, so that all intervals count in one unit.

Half of the states are data noised to the level, as in training. The other half are those at which the
student itself arrives from noise: at inference it meets its own errors (Ross et al., 2011). Some runs keep a
first frame, the sound or the picture, so that conditioning still works.

Only the LoRA's factors are trained: rank 32 on every linear layer of the blocks but the gates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.conditioning.tokens import to_tokens
from soundstage.lora.adapters import Adapters
from soundstage.lora.files import LoraFile, write_lora
from soundstage.lora.layers import Layer, LowRank
from soundstage.model.transformer import Transformer
from soundstage.nano.training.install import GUIDANCE
from soundstage.nano.training.latents import LatentSet
from soundstage.nano.training.transformer import TEXT_TOKENS, load_clips
from soundstage.nano.world.captions import NEGATIVE, caption
from soundstage.sampling.guidance import Contexts, Guider
from soundstage.sampling.samplers import euler
from soundstage.sampling.scales import NEUTRAL, Scales
from soundstage.sampling.schedules import DISTILLED
from soundstage.sampling.streams import Pair, Stream, draw_noise
from soundstage.text.encoder import TextEncoder
from soundstage.training.attention import training_precision, use_training_attention
from soundstage.training.optimizers import Schedule
from soundstage.weights.configs import stored_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from soundstage.weights.load import builder, load_part

RANK = 32
NAME = "distilled"
TEACHER = Scales(cfg=GUIDANCE["cfg"])
TEACHER_STEP = 0.075  # the longest step of the teacher in sigma, which takes about 20 over the list
OWN_SHARE = 0.5
BATCH = 4
# The parts of a clip that a run keeps -> how often.
TASKS = {"nothing": 0.6, "first frame": 0.2, "sound": 0.1, "picture": 0.1}
SCHEDULE = Schedule(steps=700, rate=5e-4, warmup=50, weight_decay=0.0, average=0.99)


class Student(nn.Module):
    """The LoRA's factors. The layers that they adapt are not part of it, nor of a training state."""

    def __init__(self, layers: Sequence[tuple[Layer, int, int]], rank: int = RANK) -> None:
        """Build the factors. layers: each with its in and out features.

        `up` begins at zero, so a fresh student is the model itself.
        """
        super().__init__()
        self.layers = [layer for layer, _, _ in layers]
        ranks = [min(rank, n_in, n_out) for _, n_in, n_out in layers]
        self.downs = nn.ParameterList(
            nn.init.kaiming_uniform_(torch.empty(r, n_in), a=math.sqrt(5))
            for r, (_, n_in, _) in zip(ranks, layers, strict=True)
        )
        self.ups = nn.ParameterList(
            torch.zeros(n_out, r) for r, (_, _, n_out) in zip(ranks, layers, strict=True)
        )

    def lora(self) -> LoraFile:
        """Return the factors as a LoRA, which shares their memory."""
        pairs = zip(self.layers, self.downs, self.ups, strict=True)
        return LoraFile({layer: LowRank(down, up) for layer, down, up in pairs})


def build(weights: Path) -> Student:
    """Return a fresh LoRA for the transformer exported to `weights`."""
    torch.manual_seed(0)
    files = [read_header(weights / "transformer.safetensors")]
    with torch.device("meta"):
        transformer = builder("transformer", find_parts(files), stored_config(files))()
    return Student(adapted_layers(transformer))


def adapted_layers(transformer: nn.Module) -> list[tuple[Layer, int, int]]:
    """Return every linear layer of the blocks but the gates, with its in and out features."""
    return [
        (Layer("transformer", name), module.in_features, module.out_features)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("transformer_blocks.") and "gate" not in name
    ]


def finish(student: Student, folder: Path) -> None:
    """Store the LoRA in `folder`, under the published names."""
    write_lora(folder / "distilled.safetensors", student.lora())


def loss(student: Student, weights: Path, latents: Path) -> DistillLoss:
    """Return the loss over the encoded clips of `latents`, which are made first where they are missing."""
    files = [read_header(weights / "transformer.safetensors")]
    parts, config = find_parts(files), stored_config(files)
    transformer = load_part(builder("transformer", parts, config), parts, "transformer", dtype=torch.float32)
    assert isinstance(transformer, Transformer)
    text = TextEncoder.load(weights / "text", parts, config, num_tokens=TEXT_TOKENS, dtype=torch.float32)
    return DistillLoss(student, transformer, text, load_clips(latents, weights))


@dataclass(frozen=True)
class Batch:
    """A batch of clips at one interval of the distilled list."""

    interval: int  # from its number in the list to the next one
    streams: tuple[Stream, Stream]
    positive: Contexts
    negative: Contexts

    def guider(self, transformer: Transformer, scales: Scales) -> Guider:
        return Guider(lambda: transformer, self.streams, (scales, scales), self.positive, self.negative)


class DistillLoss:
    """The loss of a step: the student's velocity against the teacher's."""

    def __init__(
        self, student: Student, transformer: Transformer, text: TextEncoder, sets: list[LatentSet]
    ) -> None:
        self.transformer, self.text, self.sets = transformer, text, sets
        use_training_attention(transformer)
        self.adapters = Adapters(transformer)
        self.adapters.add(NAME, student.lora(), training=True)
        counts = np.array([len(s.scenes) for s in sets], dtype=np.float64)
        self.shares = counts / counts.sum()
        lengths = -np.diff(DISTILLED)
        self.interval_shares = 0.5 / len(lengths) + 0.5 * lengths  # the list's length is 1

    def __call__(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([23, step])
        generator = torch.Generator().manual_seed(step)
        with training_precision():
            run = self._drawn(rng)
            own = rng.random() < OWN_SHARE
            with torch.no_grad():
                state = self._own_state(run, generator) if own else self._data_state(run, generator)
                arrived = self._teacher(run, state)
            guess = self._stepped(run, state)
        sigma, sigma_next = DISTILLED[run.interval : run.interval + 2]
        errors = [
            _velocity_error(made, true, stream, sigma - sigma_next)
            for made, true, stream in zip(guess, arrived, run.streams, strict=True)
        ]
        return {"loss": errors[0] + errors[1], "video": errors[0].detach(), "audio": errors[1].detach()}

    def _drawn(self, rng: np.random.Generator) -> Batch:
        clips = self.sets[int(rng.choice(len(self.sets), p=self.shares))]
        picks = rng.integers(len(clips.scenes), size=BATCH)
        scenes = [clips.scenes[int(i)] for i in picks]
        prompts = [caption(scene, int(rng.integers(2**31))) for scene in scenes]
        context = self.text.encode([*prompts, NEGATIVE])
        streams = task_streams(
            str(rng.choice(list(TASKS), p=list(TASKS.values()))),
            clips.video[picks].float(),
            clips.audio[picks].float(),
            scenes[0].fps,
        )
        return Batch(
            interval=int(rng.choice(len(self.interval_shares), p=self.interval_shares)),
            streams=streams,
            positive=Contexts(context.video[:-1], context.audio[:-1]),
            negative=Contexts(context.video[-1:], context.audio[-1:]),
        )

    def _data_state(self, run: Batch, generator: torch.Generator) -> Pair:
        """Return the clips themselves, noised to the interval's upper level."""
        noise = draw_noise(*run.streams, generator)
        return _noised(run.streams, noise, DISTILLED[run.interval])

    def _own_state(self, run: Batch, generator: torch.Generator) -> Pair:
        """Return the state at which the student arrives from noise."""
        noise = draw_noise(*run.streams, generator)
        state = _noised(run.streams, noise, DISTILLED[0])
        self.adapters.set({NAME: 1.0})
        guider = run.guider(self.transformer, NEUTRAL)
        for i in range(run.interval):
            state = _euler(guider, run.streams, state, DISTILLED[i], DISTILLED[i + 1], i)
        return state

    def _teacher(self, run: Batch, state: Pair) -> Pair:
        """Return the state after small guided steps from the upper level to the lower."""
        self.adapters.set({})
        upper, lower = DISTILLED[run.interval : run.interval + 2]
        count = math.ceil((upper - lower) / TEACHER_STEP)
        levels = np.linspace(upper, lower, count + 1)
        guider = run.guider(self.transformer, TEACHER)
        for i in range(count):
            state = _euler(guider, run.streams, state, float(levels[i]), float(levels[i + 1]), i)
        return state

    def _stepped(self, run: Batch, state: Pair) -> Pair:
        """Return the state after the student's one step, with gradients."""
        self.adapters.set({NAME: 1.0})
        upper, lower = DISTILLED[run.interval : run.interval + 2]
        return _euler(run.guider(self.transformer, NEUTRAL), run.streams, state, upper, lower, 0)


def task_streams(task: str, video: Tensor, audio: Tensor, fps: float) -> tuple[Stream, Stream]:
    """Return both streams of clips for a key of TASKS.

    video: latents (B, 128, T, h, w). audio: latents (B, L, 128).
    """
    frames, height, width = video.shape[2:]
    tokens = to_tokens(video)
    ones = torch.ones(*tokens.shape[:2], 1)
    picture = Stream(tokens, ones, video_positions(frames, height, width, fps))
    sound = Stream(audio, torch.ones(*audio.shape[:2], 1), audio_positions(audio.shape[1]))
    if task == "first frame":
        mask = ones.clone()
        mask[:, : height * width] = 0
        picture = replace(picture, mask=mask)
    if task == "picture":
        picture = replace(picture, mask=0 * picture.mask, frozen=True)
    if task == "sound":
        sound = replace(sound, mask=0 * sound.mask, frozen=True)
    return picture, sound


def _noised(streams: tuple[Stream, Stream], noise: Pair, sigma: float) -> Pair:
    video, audio = (s.noised(n, sigma) for s, n in zip(streams, noise, strict=True) if n is not None)
    return video, audio


def _euler(
    guider: Guider, streams: tuple[Stream, Stream], state: Pair, sigma: float, sigma_next: float, step: int
) -> Pair:
    """Return the states after one step of denoising."""
    clean = guider(*state, torch.tensor(sigma), step)
    video, audio = (
        euler(x, stream.blended(d), sigma, sigma_next)
        for stream, x, d in zip(streams, state, clean, strict=True)
        if x is not None and d is not None
    )
    return video, audio


def _velocity_error(made: Tensor | None, true: Tensor | None, stream: Stream, length: float) -> Tensor:
    """Return the mean squared difference of two steps' velocities over generated tokens; 0 without any."""
    assert made is not None
    assert true is not None
    error = ((made - true) / length).square().mean(dim=2, keepdim=True) * stream.mask
    return error.sum() / stream.mask.sum().clamp(min=1)
