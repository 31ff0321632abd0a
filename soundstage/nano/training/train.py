"""Train a part of nano on its data, and export it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from soundstage.nano.training.export import PREFIXES, load_audio_vae
from soundstage.nano.training.parts import PARTS, state_folder, weights_folder
from soundstage.training.loop import LossFn, Trainer
from soundstage.training.optimizers import Schedule
from soundstage.training.terminal import train_in_terminal


@dataclass(frozen=True)
class PartTraining:
    """The training of one part."""

    build: Callable[[], Any]  # makes the fresh module
    loss: Callable[[Any], LossFn]  # takes the module; makes its data first where they are missing
    schedule: Schedule
    finish: Callable[[Any, Path], None]  # takes the module with averaged weights; writes the part's file


def training_of(part: str) -> PartTraining:
    """Return how a part of PARTS is trained."""
    weights = weights_folder()
    match part:
        case "text":
            return _text_training()
        case "video-vae":
            v = video_vae
            return PartTraining(v.build, v.VideoVaeLoss, v.SCHEDULE, v.finish)
        case "audio-vae":
            a = audio_vae
            return PartTraining(a.build, a.loss, a.SCHEDULE, a.finish)
        case "vocoder":
            return PartTraining(
                build=vocoder.build,
                loss=lambda model: vocoder.loss(model, load_audio_vae(weights)),
                schedule=vocoder.SCHEDULE,
                finish=vocoder.finish,
            )
        case "transformer":
            return PartTraining(
                build=lambda: transformer.build(weights),
                loss=lambda core: transformer.loss(core, weights, state_folder("latents")),
                schedule=transformer.SCHEDULE,
                finish=transformer.finish,
            )
        case "spatial-x2" | "spatial-x1.5" | "temporal-x2":
            return _upsampler_training(part)
        case "preview":
            return PartTraining(
                build=preview.build,
                loss=lambda decoder: preview.loss(decoder, weights, state_folder("preview-clips")),
                schedule=preview.SCHEDULE,
                finish=preview.finish,
            )
        case "distilled":
            return PartTraining(
                build=lambda: distill.build(weights),
                loss=lambda student: distill.loss(student, weights, state_folder("latents")),
                schedule=distill.SCHEDULE,
                finish=distill.finish,
            )
    raise ValueError(f"nano has no part '{part}'; its parts are {', '.join(PARTS)}")


def _text_training() -> PartTraining:
    tokenizer = text.stored_tokenizer(state_folder("text"))
    return PartTraining(
        build=lambda: text.build(tokenizer.get_vocab_size()),
        loss=lambda model: text.TextLoss(model, tokenizer),
        schedule=text.SCHEDULE,
        finish=lambda model, weights: text.export(model, tokenizer, weights / "text"),
    )


def _upsampler_training(part: str) -> PartTraining:
    kind, weights = upsamplers.PARTS[part], weights_folder()
    return PartTraining(
        build=lambda: upsamplers.build(kind),
        loss=lambda module: upsamplers.loss(kind, module, weights, state_folder(f"{part}-pairs")),
        schedule=upsamplers.SCHEDULE,
        finish=lambda module, folder: upsamplers.finish(kind, part, module, folder),
    )


def train_part(part: str, *, from_step: int | None = None) -> bool:
    """Train a part to the end of its schedule, resuming its state, and export it; return whether complete.

    from_step: begin with the exported weights instead of nothing, as if so many steps had been made. Raises
    RequestError where there is a state, which says better how to go on, and WeightsError without weights.
    """
    training, trainer = _resumed(part)
    if from_step is not None:
        begin_from_weights(part, trainer, from_step)
    if not train_in_terminal(trainer, training.loss(trainer.model)):
        return False
    _finish(training, trainer)
    return True


def export_part(part: str) -> int:
    """Export a part as its training stands, complete or not, and return the steps it has had."""
    training, trainer = _resumed(part)
    _finish(training, trainer)
    return trainer.step


def _resumed(part: str) -> tuple[PartTraining, Trainer]:
    training = training_of(part)
    return training, Trainer(part, training.build(), training.schedule, state_folder(part))


def _finish(training: PartTraining, trainer: Trainer) -> None:
    trainer.model.load_state_dict(trainer.averaged_weights())
    training.finish(trainer.model, weights_folder())


def begin_from_weights(part: str, trainer: Trainer, step: int) -> None:
    """Begin a part's training with its exported weights, as if `step` steps had been made."""
    path = weights_folder() / f"{part}.safetensors"
    if trainer.step:
        raise RequestError(
            f"{part} has a state of step {trainer.step} in {state_folder(part)}; move it away, or leave out "
            "from-step",
            field="from_step",
        )
    if part in ("text", "distilled") or not 0 <= step < trainer.schedule.steps:
        raise RequestError(
            f"{part} cannot begin at step {step}; text and distilled begin from nothing, others between 0 "
            f"and {trainer.schedule.steps - 1}",
            field="from_step",
        )
    if not path.exists():
        raise WeightsError(f"{path} is not there; run `soundstage nano unpack` first")
    trainer.begin(_exported(part, trainer.model, path), step)


def _exported(part: str, model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Return exported weights under the names of the module in training."""
    stored = load_file(path)
    names = {name: PREFIXES.get(part, "") + vocoder.stored_name(name) for name in model.state_dict()}
    if part == "transformer":
        names = {name: transformer.published_name(name) for name in names}
    return {name: stored[there] for name, there in names.items()}
