"""The parts of nano in the order in which they are trained, and where their state lives."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from soundstage.errors import RequestError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from soundstage.training.loop import LossFn, Schedule, Trainer

PARTS = (
    "text",
    "video-vae",
    "audio-vae",
    "vocoder",
    "transformer",
    "spatial-x2",
    "spatial-x1.5",
    "temporal-x2",
    "preview",
    "distilled",
)


@dataclass(frozen=True)
class Recipe:
    """How a part is made.

    build: the fresh module. loss: from a module to what the loop calls at each step. finish: takes the
    module with averaged weights and the folder of exported weights, and writes the part's file there.
    """

    build: Callable[[], Any]
    loss: Callable[[Any], LossFn]
    schedule: Schedule
    finish: Callable[[Any, Path], None]


def recipe(part: str) -> Recipe:
    """The recipe of a part of PARTS; imports only what that part needs."""
    match part:
        case "video-vae":
            from soundstage.nano.training import video_vae as v

            return Recipe(v.build, v.VideoVaeLoss, v.SCHEDULE, v.finish)
        case "audio-vae":
            from soundstage.nano.training import audio_vae as a

            return Recipe(a.build, a.loss, a.SCHEDULE, a.finish)
        case "vocoder":
            from soundstage.nano.training import vocoder as w
            from soundstage.nano.training.export import load_audio_vae

            weights = weights_folder()
            return Recipe(w.build, lambda model: w.loss(model, load_audio_vae(weights)), w.SCHEDULE, w.finish)
        case "text":
            from soundstage.nano.training import text as x

            tokenizer = x.stored_tokenizer(state_folder("text"))
            return Recipe(
                build=lambda: x.build(tokenizer.get_vocab_size()),
                loss=lambda model: x.TextLoss(model, tokenizer),
                schedule=x.SCHEDULE,
                finish=lambda model, weights: x.export(model, tokenizer, weights / "text"),
            )
        case "transformer":
            from soundstage.nano.training import transformer as t

            weights = weights_folder()
            return Recipe(
                build=lambda: t.build(weights),
                loss=lambda core: t.loss(core, weights, state_folder("latents")),
                schedule=t.SCHEDULE,
                finish=t.finish,
            )
        case "spatial-x2" | "spatial-x1.5" | "temporal-x2":
            from soundstage.nano.training import upsamplers as u

            kind, weights = u.PARTS[part], weights_folder()
            return Recipe(
                build=lambda: u.build(kind),
                loss=lambda upsampler: u.loss(kind, upsampler, weights, state_folder(f"{part}-pairs")),
                schedule=u.SCHEDULE,
                finish=lambda upsampler, folder: u.finish(kind, part, upsampler, folder),
            )
        case "preview":
            from soundstage.nano.training import preview as p

            weights = weights_folder()
            return Recipe(
                build=p.build,
                loss=lambda decoder: p.loss(decoder, weights, state_folder("preview-clips")),
                schedule=p.SCHEDULE,
                finish=p.finish,
            )
        case "distilled":
            from soundstage.nano.training import distill as d

            weights = weights_folder()
            return Recipe(
                build=lambda: d.build(weights),
                loss=lambda student: d.loss(student, weights, state_folder("latents")),
                schedule=d.SCHEDULE,
                finish=d.finish,
            )
    raise ValueError(f"nano has no part '{part}'; its parts are {', '.join(PARTS)}")


def state_folder(part: str) -> Path:
    """Where a part's training state lives: $SOUNDSTAGE_TRAINING, or the user's cache folder."""
    root = os.environ.get("SOUNDSTAGE_TRAINING") or platformdirs.user_cache_dir("soundstage")
    return Path(root) / "nano-training" / part


def weights_folder() -> Path:
    """Where finished parts are exported to, beside the states."""
    return state_folder("weights")


def train(part: str, *, from_step: int | None = None) -> bool:
    """Train one part to the end of its schedule, resuming its state, and export it. True when complete.

    from_step: begin with the exported weights instead of nothing, as if so many steps had been made. Raises
    RequestError where there is a state, which says better how to go on, and WeightsError without weights.
    """
    chosen, model, trainer = _resumed(part)
    if from_step is not None:
        _begin(part, trainer, from_step)
    if not trainer.fit(chosen.loss(model)):
        return False
    _finish(chosen, model, trainer)
    return True


def export(part: str) -> int:
    """Export a part as its training stands, complete or not, and return the steps it has had."""
    chosen, model, trainer = _resumed(part)
    _finish(chosen, model, trainer)
    return trainer.step


def _resumed(part: str) -> tuple[Recipe, Any, Trainer]:
    from soundstage.training.loop import Trainer

    chosen = recipe(part)
    model = chosen.build()
    return chosen, model, Trainer(part, model, chosen.schedule, state_folder(part))


def _begin(part: str, trainer: Trainer, step: int) -> None:
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
    """Exported weights under the names of the module in training."""
    from safetensors.torch import load_file

    from soundstage.nano.training.export import PREFIXES
    from soundstage.nano.training.transformer import published_name
    from soundstage.nano.training.vocoder import stored_name

    stored = load_file(path)
    names = {name: PREFIXES.get(part, "") + stored_name(name) for name in model.state_dict()}
    if part == "transformer":
        names = {name: published_name(name) for name in names}
    return {name: stored[there] for name, there in names.items()}


def _finish(chosen: Recipe, model: Any, trainer: Trainer) -> None:
    model.load_state_dict(trainer.averaged_weights())
    chosen.finish(model, weights_folder())
