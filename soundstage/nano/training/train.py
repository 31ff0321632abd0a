"""Train a part of nano on its data, and export it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from soundstage.errors import RequestError, WeightsError
from soundstage.nano.training import (
    audio_vae,
    distill,
    preview,
    text,
    transformer,
    upsamplers,
    video_vae,
    vocoder,
)
from soundstage.nano.training.export import PREFIXES
from soundstage.nano.training.parts import NEEDED, PARTS, state_folder, weights_folder
from soundstage.nano.training.runs import PartRun, TrainingScale, scale_of
from soundstage.speed.graphs import CudaRecorder
from soundstage.training.batches import Batch
from soundstage.training.loop import Trainer
from soundstage.training.optimizers import Schedule
from soundstage.training.steps import GradientSteps, LossFn
from soundstage.training.terminal import say, train_in_terminal
from soundstage.training.workers import Workers


@dataclass(frozen=True)
class PartTraining:
    """The training of one part."""

    build: Callable[[], Any]  # makes the fresh module
    loss: Callable[[Any, torch.device], LossFn]  # takes the module, on its device
    batches: Callable[[PartRun], Iterator[Batch]]
    schedule: Schedule
    # Takes a module with averaged weights and writes the part's file; the scale says how thoroughly.
    finish: Callable[[Any, Path, TrainingScale], None]
    # Compiles what it can of the module, for a CPU; it takes minutes.
    compiled: Callable[[Any], None] = lambda module: None
    recorded: bool = True  # whether its steps can be recorded as CUDA graphs


@dataclass(frozen=True)
class Settings:
    """Say how parts are trained. start_at: share of the schedule to begin at, with the exported weights."""

    device: torch.device
    workers: Workers
    tiny: bool = False
    start_at: float | None = None

    @property
    def scale(self) -> TrainingScale:
        return scale_of(self.device, self.tiny)


def training_of(part: str) -> PartTraining:
    """Return how a part of PARTS is trained."""
    weights = weights_folder()
    match part:
        case "text":
            return _text_training()
        case "video-vae":
            v = video_vae
            return PartTraining(v.build, v.VideoVaeLoss, v.batches, v.SCHEDULE, v.finish)
        case "audio-vae":
            a = audio_vae
            return PartTraining(a.build, a.AudioVaeLoss, a.batches, a.SCHEDULE, a.finish)
        case "vocoder":
            return PartTraining(
                build=vocoder.build,
                loss=lambda model, device: vocoder.VocoderLoss(model),
                batches=vocoder.batches,
                schedule=vocoder.SCHEDULE,
                finish=_plainly(vocoder.finish),
            )
        case "transformer":
            return PartTraining(
                build=lambda: transformer.build(weights),
                loss=transformer.TransformerLoss,
                compiled=lambda core: transformer.compile_blocks(core.transformer),
                batches=transformer.batches,
                schedule=transformer.SCHEDULE,
                finish=_plainly(transformer.finish),
            )
        case "spatial-x2" | "spatial-x1.5" | "temporal-x2":
            return _upsampler_training(part)
        case "preview":
            return PartTraining(
                build=preview.build,
                loss=lambda decoder, device: preview.PreviewLoss(decoder),
                batches=preview.batches,
                schedule=preview.SCHEDULE,
                finish=_plainly(preview.finish),
            )
        case "distilled":
            return PartTraining(
                build=lambda: distill.build(weights),
                loss=lambda student, device: distill.loss(student, weights, device),
                batches=distill.batches,
                schedule=distill.SCHEDULE,
                finish=_plainly(distill.finish),
                recorded=False,  # a step is a run of many forwards, and its adapters are switched on and off
            )
    raise ValueError(f"nano has no part '{part}'; its parts are {', '.join(PARTS)}")


def _plainly(finish: Callable[[Any, Path], None]) -> Callable[[Any, Path, TrainingScale], None]:
    """Return a `finish` that is the same at every scale."""
    return lambda module, folder, scale: finish(module, folder)


def _text_training() -> PartTraining:
    folder = state_folder("text")
    tokenizer = text.stored_tokenizer(folder)
    return PartTraining(
        build=lambda: text.build(tokenizer.get_vocab_size()),
        loss=text.TextLoss,
        batches=partial(text.batches, folder=folder),
        schedule=text.SCHEDULE,
        finish=lambda model, weights, scale: text.export(model, tokenizer, weights / "text"),
        recorded=False,  # transformers looks at masks on the host
    )


def _upsampler_training(part: str) -> PartTraining:
    kind, weights = upsamplers.PARTS[part], weights_folder()
    return PartTraining(
        build=lambda: upsamplers.build(kind),
        loss=lambda module, device: upsamplers.loss(module, weights, device),
        batches=partial(upsamplers.batches, kind=kind),
        schedule=upsamplers.SCHEDULE,
        finish=lambda module, folder, scale: upsamplers.finish(kind, part, module, folder),
    )


def train_part(part: str, settings: Settings, minutes: float | None = None) -> bool:
    """Train a part to the end of its schedule, resuming its state, and export it; return whether complete.

    minutes: length of the schedule, earlier runs included; the part's own where it is None. The averaged
    weights are exported every minute too. Raises WeightsError where a part that this one is trained on is not
    there, and RequestError or WeightsError where it cannot start at the settings' `start_at`.
    """
    check_needed(part)
    training = training_of(part)
    if minutes is not None:
        training = replace(training, schedule=replace(training.schedule, minutes=minutes))
    trainer = _trainer(part, training, settings.device)
    start = settings.start_at
    resumed = trainer.step > 0 and trainer.start == start
    if (
        start is not None and part != "distilled" and not resumed
    ):  # a LoRA begins at nothing: the model itself
        begin_from_weights(part, trainer, start)
    if not trainer.complete and not _run(training, trainer, settings):
        return False
    _finish(training, trainer, settings.scale)
    say(f"{part}: {trainer.step} steps, {trainer.samples} samples, {trainer.seconds:.0f} s")
    return True


def check_needed(part: str) -> None:
    """Raise WeightsError where a part that this one is trained on is not exported."""
    missing = [p for p in NEEDED[part] if not exported_path(p).exists()]
    if missing:
        raise WeightsError(
            f"{part} is trained on {' and '.join(missing)}, not yet in {weights_folder()}; train first, or "
            "take the shipped ones: `soundstage nano unpack`"
        )


def exported_path(part: str) -> Path:
    """Return the file that a part is exported to."""
    return weights_folder() / ("text/model.safetensors" if part == "text" else f"{part}.safetensors")


def _run(training: PartTraining, trainer: Trainer, settings: Settings) -> bool:
    """Train until the schedule is complete or a signal comes; return whether it is complete."""
    device, workers = settings.device, settings.workers
    say(f"{trainer.name}: {training.schedule.minutes:.3g} minutes on {device}, {workers.count} workers")
    run = PartRun(device, settings.scale, workers, weights_folder(), trainer.step, lambda: trainer.progress)
    recorder = CudaRecorder(device, shared=True) if device.type == "cuda" and training.recorded else None
    loss = training.loss(trainer.model, device)
    if settings.scale == "cpu":
        training.compiled(trainer.model)
    steps = GradientSteps(
        loss, trainer.params, recorder=recorder, told=lambda line: say(f"{trainer.name} {line}")
    )
    with closing(training.batches(run)) as batches:  # type: ignore[type-var]  # they are generators
        return train_in_terminal(trainer, batches, steps, lambda: _finish(training, trainer, "tiny"))


def export_part(part: str) -> int:
    """Export a part as its training stands, complete or not, and return the steps it has had."""
    training = training_of(part)
    trainer = _trainer(part, training, torch.device("cpu"))
    _finish(training, trainer, "cpu")
    return trainer.step


def _trainer(part: str, training: PartTraining, device: torch.device) -> Trainer:
    return Trainer(part, training.build(), training.schedule, state_folder(part), device=device)


def _finish(training: PartTraining, trainer: Trainer, scale: TrainingScale) -> None:
    """Export the averaged weights; the module in training stays as it is."""
    module = training.build()
    module.load_state_dict(trainer.averaged_weights())
    training.finish(module, weights_folder(), scale)


def begin_from_weights(part: str, trainer: Trainer, start: float) -> None:
    """Begin a part's training with its exported weights, at this share of its schedule."""
    path = exported_path(part)
    if trainer.step:
        raise RequestError(
            f"{part} has a state of step {trainer.step} in {state_folder(part)}; move it away, or leave out "
            "start-at",
            field="start_at",
        )
    if not path.exists():
        raise WeightsError(f"{path} is not there; run `soundstage nano unpack` first")
    trainer.begin(_exported(part, trainer.model, path), start)


def _exported(part: str, model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Return exported weights under the names of the module in training."""
    stored = load_file(path)
    names = {name: PREFIXES.get(part, "") + vocoder.stored_name(name) for name in model.state_dict()}
    if part == "transformer":
        names = {name: transformer.published_name(name) for name in names}
    return {name: stored[there] for name, there in names.items()}
