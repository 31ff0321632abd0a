"""One run of a training: what is asked is checked, weights are loaded, steps are made, files are written.

    run = TuningRun(read_config("style.yaml"))     # headers only; refuses what cannot be made
    for event in run.events():                     # StepDone, FileWritten, ClipMade, RunNotice
        ...

A run that was killed goes on from its last state with the same losses: see samples.py and loop.py. Text
encoder and VAEs are in memory only while a validation clip is made.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.dataset.encoded import EncodedDataset, open_encoded
from soundstage.dataset.identity import model_identity
from soundstage.errors import DatasetError, RequestError
from soundstage.library.model_files import ModelSet, find_model
from soundstage.lora.adapters import Adapters
from soundstage.lora.files import read_lora
from soundstage.memory.machine import asked_format, choose_format, kind_of, pick_device
from soundstage.model.transformer import Transformer
from soundstage.rendering.parts import DTYPES, ModelParts
from soundstage.training.batches import Batch
from soundstage.training.factors import Factors
from soundstage.training.loop import StepDone, Trainer
from soundstage.training.optimizers import Schedule, optimizer_class
from soundstage.training.precision import training_precision
from soundstage.training.steps import GradientSteps
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.contexts import CaptionContexts
from soundstage.training.tuning.divergence import DivergenceWatch
from soundstage.training.tuning.files import FINAL, LoraWriter, claim_of, write_model
from soundstage.training.tuning.logs import check_tensorboard, curves_of
from soundstage.training.tuning.objective import VelocityObjective, recomputed
from soundstage.training.tuning.samples import SampleOrder
from soundstage.training.tuning.targets import adapted, made_streams

NAME = "trained"


@dataclass(frozen=True)
class FileWritten:
    """A file of the run, or a folder, was written."""

    path: Path
    step: int


@dataclass(frozen=True)
class RunNotice:
    """A sentence for the user."""

    text: str


TuningEvent = StepDone | FileWritten | RunNotice


@dataclass
class TuningRun:
    """A training that was checked and can begin. Raises errors that say what is wrong before it does."""

    config: TrainConfig
    model: ModelSet = field(init=False)
    data: EncodedDataset = field(init=False)

    def __post_init__(self) -> None:
        self.model = find_model(self.config.model)
        self.model.check()
        self.data = open_encoded(self.config.data, model_identity(self.model))
        check_mode(self.config, self.data)
        _check_kind(self.config)
        for lora in self.config.lora.over:
            read_lora(lora.path, values=False)
        if self.config.optimizer.name in ("adamw8bit", "prodigy"):
            optimizer_class(self.config.optimizer.name)  # type: ignore[arg-type]
        if self.config.logs == "tensorboard":
            check_tensorboard()
        self.device = torch.device(pick_device(self.config.device))

    @property
    def folder(self) -> Path:
        """Return the folder of the run."""
        return Path(self.config.output)

    def events(self) -> Generator[TuningEvent, None, None]:
        """Train to the end, and yield an event for each step and file. Closing it saves the state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        claim_of(self.config, self.data).make(self.folder)
        parts = self._parts()
        contexts = CaptionContexts(self.folder / "contexts", parts)
        yield RunNotice(f"reading {len(self.data.samples)} captions")
        contexts.prepare(self.data)
        parts.keep_transformer()
        trained = _Trained(self.config, self.data, self.model, parts)
        samples = SampleOrder(self.data, self.config, contexts)
        with closing(trained.steps(samples, self.device)) as events:
            yield from events

    def _parts(self) -> ModelParts:
        asked = None if self.config.precision == "auto" else self.config.precision
        found = choose_format(asked_format(asked), self.model.defaults.dtype, kind_of(str(self.device)))
        dtype = torch.float32 if self.config.kind == "full" else DTYPES[found.name]
        return ModelParts(self.model, self.device, dtype)


def check_mode(config: TrainConfig, data: EncodedDataset) -> None:
    """Raise RequestError or DatasetError where a mode and a dataset do not go together."""
    if not made_streams(config):
        raise RequestError(
            "neither video.stream nor audio.stream is 'made', so nothing would be learned; make one",
            field="video",
        )
    wanted = {
        "video": config.video.stream != "absent",
        "audio": config.audio.stream == "given" or made_streams(config) == ("audio",),
        "reference": config.video.reference > 0,
        "reference_audio": config.audio.reference > 0,
        "video_mask": config.video.mask > 0,
        "audio_mask": config.audio.mask > 0,
    }
    for name in (name for name, is_wanted in wanted.items() if is_wanted):
        lacking = [info.id for info in data.samples if name not in info.has]
        if lacking:
            raise DatasetError(
                f"mode '{config.mode}' needs {NEEDED[name]} for every sample, and {len(lacking)} of "
                f"{len(data.samples)} in {data.folder} have none, such as '{lacking[0]}'; add them and run "
                "`soundstage dataset encode` again, or choose another mode"
            )
    _check_lengths(config, data)


NEEDED: Mapping[str, str] = {
    "video": "a picture",
    "audio": "sound",
    "reference": "a reference",
    "reference_audio": "a reference sound",
    "video_mask": "a mask",
    "audio_mask": "a mask of the sound",
}


def _check_lengths(config: TrainConfig, data: EncodedDataset) -> None:
    """Raise RequestError where what is kept leaves nothing of a sample to be made."""
    for name, part in (("prefix", config.video.prefix), ("suffix", config.video.suffix)):
        for info in data.samples:
            if part is not None and info.size is not None and part.latents > (info.size[2] - 1) // 8:
                raise RequestError(
                    f"video.{name}.latents is {part.latents}, and sample '{info.id}' has "
                    f"{(info.size[2] - 1) // 8 + 1} latent frames; give fewer than it has",
                    field="video",
                )
    crop = config.video.crop
    if crop is None:
        return
    top, left, bottom, right = crop.box
    for info in data.samples:
        if info.size is not None and not (top < bottom <= info.size[1] and left < right <= info.size[0]):
            raise RequestError(
                f"video.crop.box is {list(crop.box)} (top, left, bottom, right), and sample '{info.id}' is "
                f"{info.size[0]}x{info.size[1]}; give a box within it",
                field="video",
            )


def _check_kind(config: TrainConfig) -> None:
    if config.kind == "full" and (config.weights not in ("auto", "full") or config.residency != "auto"):
        raise RequestError(
            "kind is 'full', which trains the weights themselves in float32; leave out weights and residency",
            field="kind",
        )


class _Trained:
    """The trained weights, on a loaded model, and their files."""

    def __init__(self, config: TrainConfig, data: EncodedDataset, model: ModelSet, parts: ModelParts) -> None:
        self.config, self.data, self.model, self.parts = config, data, model, parts
        self.transformer = parts.transformer
        self.adapters = Adapters(self.transformer, dtype=torch.float32)
        torch.manual_seed(config.seed)
        self.factors: Factors | None = None
        if config.kind == "lora":
            self.factors = Factors(adapted(self.transformer, config)).to(parts.device)
        else:
            self.transformer.requires_grad_(True)
        self.trainer = Trainer(
            config.mode,
            self.module,
            schedule_of(config),
            Path(config.output),
            device=parts.device,
        )
        if self.factors is not None:
            self.adapters.add(NAME, self.factors.lora(), training=True)
            for number, lora in enumerate(config.lora.over):
                self.adapters.add(f"below {number}", read_lora(lora.path))
            self.put_on()

    @property
    def module(self) -> nn.Module:
        """Return the module whose parameters are trained."""
        return self.transformer if self.factors is None else self.factors

    def put_on(self) -> None:
        """Put the LoRAs on the model: those below, then the one that is trained."""
        below = {f"below {n}": lora.strength for n, lora in enumerate(self.config.lora.over)}
        self.adapters.set({**below, NAME: 1.0})

    def steps(self, samples: SampleOrder, device: torch.device) -> Generator[TuningEvent, None, None]:
        """Make the steps that are left."""
        trainer, config = self.trainer, self.config
        if trainer.step:
            yield RunNotice(f"going on from step {trainer.step}")
        objective = self._objective()
        watch = DivergenceWatch(config.stop_above, trainer.notes)
        gradients = GradientSteps(objective, trainer.params)
        batches = _on_device(samples, trainer.step, device)
        with closing(trainer.run(batches, gradients)) as events, curves_of(config) as curves:
            for event in events:
                curves(event)
                yield event
                due = event.step % config.save_every == 0 or trainer.complete
                if due:
                    trainer.save()
                    yield self.write(event.step)
                stopped = watch.see(event.losses["loss"])
                if stopped is not None:
                    yield RunNotice(stopped)
                    yield self.write(event.step)
                    return
        if trainer.complete:
            yield FileWritten(self.write_final(), trainer.step)

    def _objective(self) -> VelocityObjective:
        assert isinstance(self.transformer, Transformer)
        precise = partial(training_precision, self.parts.device) if self.factors is None else None
        options = {} if precise is None else {"precision": precise}
        blocks = None if self.config.checkpointing == "none" else recomputed
        return VelocityObjective(self.transformer, self.config, run_blocks=blocks, **options)

    # --- files

    def values(self) -> dict[str, Tensor]:
        """Return the trained values by name: averages where the config asks for them."""
        if self.config.average:
            return self.trainer.averaged_weights()
        return {name: value.detach() for name, value in self.module.state_dict().items()}

    def write(self, step: int) -> FileWritten:
        """Write the file of a step, and remove those of long ago."""
        if self.factors is None:
            path = write_model(self.model, Path(self.config.output) / f"model-{step:06}", self.values())
            return FileWritten(path, step)
        folder = Path(self.config.output)
        path = self._writer().write(folder / f"lora-{step:06}.safetensors", self.values(), self.summary(step))
        for old in sorted(folder.glob("lora-[0-9]*.safetensors"))[: -self.config.keep]:
            old.unlink()
        return FileWritten(path, step)

    def write_final(self) -> Path:
        """Write the result of the run."""
        folder = Path(self.config.output)
        if self.factors is None:
            return write_model(self.model, folder / "model", self.values())
        return self._writer().write(folder / FINAL, self.values(), self.summary(self.trainer.step))

    def _writer(self) -> LoraWriter:
        assert self.factors is not None
        return LoraWriter(self.config, self.data, self.factors, self.model.name)

    def summary(self, step: int) -> dict[str, Any]:
        """Return what a file tells of the training so far."""
        return {"step": step, "samples_seen": self.trainer.samples, "seconds": round(self.trainer.seconds)}


def schedule_of(config: TrainConfig) -> Schedule:
    """Return the schedule of the loop."""
    optimizer = config.optimizer
    return Schedule(
        minutes=math.inf,
        steps=config.steps,
        rate=optimizer.rate,
        muon=optimizer.rate if optimizer.name == "muon" else 0.0,
        optimizer="adamw" if optimizer.name == "muon" else optimizer.name,
        warmup=config.schedule.warmup,
        floor=config.schedule.floor,
        decline=config.schedule.kind,
        weight_decay=optimizer.weight_decay,
        betas=(0.9, 0.999),
        clip=optimizer.clip,
        average=config.average,
        log_every=1 if config.steps <= 200 else 10,
    )


def _on_device(samples: SampleOrder, first: int, device: torch.device) -> Iterator[Batch]:
    for batch in samples.batches(first):
        yield batch.to(device)
