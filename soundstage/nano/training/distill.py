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
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.conditioning.tokens import to_tokens
from soundstage.lora.adapters import Adapters
from soundstage.lora.files import write_lora
from soundstage.lora.layers import Layer
from soundstage.model.transformer import Transformer
from soundstage.nano.training.install import GUIDANCE
from soundstage.nano.training.latents import TEXT_TOKENS, WORDINGS, clip_supply
from soundstage.nano.training.runs import PartRun, TrainingScale
from soundstage.nano.world.captions import NEGATIVE
from soundstage.nano.world.scene import FPS
from soundstage.sampling.guidance import Contexts, Guider
from soundstage.sampling.samplers import euler
from soundstage.sampling.scales import NEUTRAL, Scales
from soundstage.sampling.schedules import DISTILLED
from soundstage.sampling.streams import Pair, Stream
from soundstage.text.encoder import PromptContext, PromptFeatures, TextEncoder
from soundstage.training.batches import Batch
from soundstage.training.factors import Factors, FactorShape
from soundstage.training.optimizers import Schedule
from soundstage.training.precision import training_precision, use_training_attention
from soundstage.weights.configs import stored_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from soundstage.weights.load import builder, load_part

RANK = 32
NAME = "distilled"
TEACHER = Scales(cfg=GUIDANCE["cfg"])
TEACHER_STEP = 0.075  # the longest step of the teacher in sigma, which takes about 20 over the list
OWN_SHARE = 0.5
BATCH: dict[TrainingScale, int] = {"tiny": 2, "cpu": 4, "cuda": 48}
# The parts of a clip that a run keeps -> how often.
TASKS = {"nothing": 0.6, "first frame": 0.2, "sound": 0.1, "picture": 0.1}
SCHEDULE = Schedule(minutes=33, rate=5e-4, warmup=50, weight_decay=0.0, average=0.99)


def build(weights: Path) -> Factors:
    """Return a fresh LoRA for the transformer exported to `weights`."""
    torch.manual_seed(0)
    files = [read_header(weights / "transformer.safetensors")]
    with torch.device("meta"):
        transformer = builder("transformer", find_parts(files), stored_config(files))()
    return Factors(adapted_layers(transformer))


def adapted_layers(transformer: nn.Module, rank: int = RANK) -> dict[Layer, FactorShape]:
    """Return every linear layer of the blocks but the gates, with the sizes of its factors."""
    found = {}
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and name.startswith("transformer_blocks.") and "gate" not in name:
            own = min(rank, module.in_features, module.out_features)
            shape = FactorShape(own, own, module.in_features, module.out_features)
            found[Layer("transformer", name)] = shape
    return found


def finish(student: Factors, folder: Path) -> None:
    """Store the LoRA in `folder`, under the published names."""
    write_lora(folder / "distilled.safetensors", student.lora())


def loss(student: Factors, weights: Path, device: torch.device) -> DistillLoss:
    """Return the loss against the transformer exported to `weights`."""
    files = [read_header(weights / "transformer.safetensors")]
    parts, config = find_parts(files), stored_config(files)
    build_it = builder("transformer", parts, config)
    transformer = load_part(build_it, parts, "transformer", dtype=torch.float32, device=device)
    assert isinstance(transformer, Transformer)
    return DistillLoss(student, transformer, device)


def load_text(weights: Path, device: torch.device) -> TextEncoder:
    """Return the text encoder with the connectors exported to `weights`."""
    files = [read_header(weights / "transformer.safetensors")]
    parts, config = find_parts(files), stored_config(files)
    return TextEncoder.load(
        weights / "text", parts, config, num_tokens=TEXT_TOKENS, dtype=torch.float32, device=device
    )


def batches(run: PartRun) -> Iterator[Batch]:
    """Yield clips with their contexts for every step; the kind says what is asked of them."""
    text, clips = load_text(run.weights, run.device), clip_supply(run)
    negative = read_prompts(text, *_padded([text.gemma.tokenize(NEGATIVE)], run.device))
    for rng, stock in clips.steps(23, run.first):
        count = BATCH[run.scale]
        rows = stock.draw(rng, stock.kind(rng), count)
        which = torch.arange(count), torch.from_numpy(rng.integers(WORDINGS, size=count))
        ids, lengths = (rows[name].cpu()[which].long().to(run.device) for name in ("ids", "lengths"))
        yield drawn_batch(rng, rows["video"], rows["audio"], read_prompts(text, ids, lengths), negative)


def _padded(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids (B, longest) and their numbers (B,)."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return ids.to(device), torch.tensor([len(row) for row in rows], device=device)


@torch.no_grad()
def read_prompts(text: TextEncoder, ids: Tensor, lengths: Tensor) -> PromptContext:
    """Return the contexts of prompts as token ids (B, n), of which the first `lengths` (B,) count."""
    states, mask = text.gemma.states_of(ids, lengths)
    video, audio = text.projection(states, mask)
    return text.connect(PromptFeatures(video, audio, mask))


def drawn_batch(
    rng: np.random.Generator, video: Tensor, audio: Tensor, positive: PromptContext, negative: PromptContext
) -> Batch:
    """Return a batch at one interval of the distilled list.

    Its kind names the interval, where it starts ("own" or "data") and what is kept.
    """
    task = str(rng.choice(list(TASKS), p=list(TASKS.values())))
    lengths = -np.diff(DISTILLED)  # their sum is 1
    interval = int(rng.choice(len(lengths), p=0.5 / len(lengths) + 0.5 * lengths))
    start = "own" if rng.random() < OWN_SHARE else "data"
    tensors = {
        "video": video.float(),
        "audio": audio.float(),
        "video_context": positive.video,
        "audio_context": positive.audio,
        "video_negative": negative.video,
        "audio_negative": negative.audio,
    }
    return Batch(f"{interval}/{start}/{task}", tensors, len(video))


@dataclass(frozen=True)
class DistillCase:
    """A batch of clips at one interval of the distilled list."""

    interval: int  # from its number in the list to the next one
    own: bool  # start where the student arrives, not at data
    streams: tuple[Stream, Stream]
    positive: Contexts
    negative: Contexts

    @classmethod
    def of(cls, batch: Batch) -> DistillCase:
        """Return what a batch of `drawn_batch` asks."""
        interval, start, task = batch.kind.split("/")
        return cls(
            interval=int(interval),
            own=start == "own",
            streams=task_streams(task, batch["video"], batch["audio"], FPS),
            positive=Contexts(batch["video_context"], batch["audio_context"]),
            negative=Contexts(batch["video_negative"], batch["audio_negative"]),
        )

    def guider(self, transformer: Transformer, scales: Scales) -> Guider:
        return Guider(lambda: transformer, self.streams, (scales, scales), self.positive, self.negative)


class DistillLoss:
    """The loss of a batch: the student's velocity against the teacher's."""

    def __init__(self, student: Factors, transformer: Transformer, device: torch.device) -> None:
        self.transformer, self.device = transformer, device
        use_training_attention(transformer, device)
        self.adapters = Adapters(transformer)
        self.adapters.add(NAME, student.lora(), training=True)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        run = DistillCase.of(batch)
        with training_precision(self.device):
            with torch.no_grad():
                state = self._own_state(run) if run.own else self._data_state(run)
                arrived = self._teacher(run, state)
            guess = self._stepped(run, state)
        sigma, sigma_next = DISTILLED[run.interval : run.interval + 2]
        errors = [
            _velocity_error(made, true, stream, sigma - sigma_next)
            for made, true, stream in zip(guess, arrived, run.streams, strict=True)
        ]
        return {"loss": errors[0] + errors[1], "video": errors[0].detach(), "audio": errors[1].detach()}

    def _data_state(self, run: DistillCase) -> Pair:
        """Return the clips themselves, noised to the interval's upper level."""
        noise = _noises(run.streams)
        return _noised(run.streams, noise, DISTILLED[run.interval])

    def _own_state(self, run: DistillCase) -> Pair:
        """Return the state at which the student arrives from noise."""
        noise = _noises(run.streams)
        state = _noised(run.streams, noise, DISTILLED[0])
        self.adapters.set({NAME: 1.0})
        guider = run.guider(self.transformer, NEUTRAL)
        for i in range(run.interval):
            state = _euler(guider, run.streams, state, DISTILLED[i], DISTILLED[i + 1], i)
        return state

    def _teacher(self, run: DistillCase, state: Pair) -> Pair:
        """Return the state after small guided steps from the upper level to the lower."""
        self.adapters.set({})
        upper, lower = DISTILLED[run.interval : run.interval + 2]
        count = math.ceil((upper - lower) / TEACHER_STEP)
        levels = np.linspace(upper, lower, count + 1)
        guider = run.guider(self.transformer, TEACHER)
        for i in range(count):
            state = _euler(guider, run.streams, state, float(levels[i]), float(levels[i + 1]), i)
        return state

    def _stepped(self, run: DistillCase, state: Pair) -> Pair:
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
    device, ones = video.device, torch.ones_like(tokens[..., :1])
    picture = Stream(tokens, ones, video_positions(frames, height, width, fps, device=device))
    sound = Stream(audio, torch.ones_like(audio[..., :1]), audio_positions(audio.shape[1], device=device))
    if task == "first frame":
        mask = ones.clone()
        mask[:, : height * width] = 0
        picture = replace(picture, mask=mask)
    if task == "picture":
        picture = replace(picture, mask=0 * picture.mask, frozen=True)
    if task == "sound":
        sound = replace(sound, mask=0 * sound.mask, frozen=True)
    return picture, sound


def _noises(streams: tuple[Stream, Stream]) -> Pair:
    return torch.randn_like(streams[0].clean), torch.randn_like(streams[1].clean)


def _noised(streams: tuple[Stream, Stream], noise: Pair, sigma: float) -> Pair:
    video, audio = (s.noised(n, sigma) for s, n in zip(streams, noise, strict=True) if n is not None)
    return video, audio


def _euler(
    guider: Guider, streams: tuple[Stream, Stream], state: Pair, sigma: float, sigma_next: float, step: int
) -> Pair:
    """Return the states after one step of denoising."""
    device = streams[0].clean.device
    clean = guider(*state, torch.tensor(sigma, device=device), step)
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
