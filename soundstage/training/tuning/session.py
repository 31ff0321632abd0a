"""One run of a training: what is asked is checked, weights are loaded, steps are made, files are written.

    run = TuningRun(read_config("style.yaml"))     # headers only; refuses what cannot be made
    for event in run.events():                     # StepDone, FileWritten, ClipMade, RunNotice
        ...

A run that was killed goes on from its last state with the same losses: see samples.py and loop.py. Text
encoder and VAEs are in memory only while a validation clip is made.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soundstage.dataset.encoded import EncodedDataset, open_encoded
from soundstage.dataset.identity import model_identity
from soundstage.dataset.out_of_date import not_trained_on
from soundstage.engine import Engine
from soundstage.library.file_identity import file_digest
from soundstage.library.model_files import ModelSet
from soundstage.library.sizes import model_sizes
from soundstage.lora.adapters import Adapters
from soundstage.lora.files import LoraFile, read_lora
from soundstage.lora.fit import MODEL_DIGEST
from soundstage.lora.merge import Merge
from soundstage.memory.machine import asked_format, choose_format, kind_of, pick_device, this_machine
from soundstage.model.transformer import Transformer
from soundstage.rendering.parts import DTYPES, ModelParts
from soundstage.request.inputs import Lora
from soundstage.request.request import Request
from soundstage.speed.learning import let_learn
from soundstage.text.encoder import PromptContext
from soundstage.training.batches import Batch
from soundstage.training.factors import Factors
from soundstage.training.loop import StepDone, Trainer
from soundstage.training.optimizers import Schedule, optimizer_class
from soundstage.training.precision import training_precision, use_training_attention
from soundstage.training.recompute import Recomputation
from soundstage.training.steps import GradientSteps
from soundstage.training.tuning.agreement import check_agreement
from soundstage.training.tuning.beginning import begun_factors, checked_start
from soundstage.training.tuning.blocks import BlockRun
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.contexts import CaptionContexts
from soundstage.training.tuning.divergence import DivergenceWatch
from soundstage.training.tuning.files import (
    CLIPS,
    FINAL,
    LoraWriter,
    check_apart,
    claim_of,
    own_folder,
    write_model,
)
from soundstage.training.tuning.logs import check_tensorboard, curves_of
from soundstage.training.tuning.objective import VelocityObjective
from soundstage.training.tuning.price import TuningPlace, TuningWork, choose_place
from soundstage.training.tuning.regularisers import SteadyFrames
from soundstage.training.tuning.samples import BLANK, SampleOrder
from soundstage.training.tuning.targets import adapted
from soundstage.weights.configs import model_config
from soundstage.weights.four_bit import bitsandbytes_for
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from soundstage.weights.load import builder, open_part
from soundstage.weights.quantize import Quantized, QuantizedLinear
from soundstage.weights.storage import Storage

NAME = "trained"
CORE = "core"  # the LoRA's factors or the transformer, among what is trained


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
    told: Callable[[float], None] = lambda share: None  # called with the share of the captions that are read
    model: ModelSet = field(init=False)
    data: EncodedDataset = field(init=False)
    place: TuningPlace = field(init=False)

    def __post_init__(self) -> None:
        self.model = check_agreement(self.config)
        self.data = open_encoded(self.config.data)
        check_apart(self.folder, Path(self.config.data))
        if self.config.optimizer.name in ("adamw8bit", "prodigy"):
            optimizer_class(self.config.optimizer.name)  # type: ignore[arg-type]
        if self.config.weights == "nf4":
            bitsandbytes_for("weights: nf4")
        if self.config.logs == "tensorboard":
            check_tensorboard()
        self.device = torch.device(pick_device(self.config.device))
        self.place = self._chosen_place()

    @property
    def folder(self) -> Path:
        """Return the folder of the run."""
        return Path(self.config.output)

    def events(self) -> Generator[TuningEvent, None, None]:
        """Train to the end, and yield an event for each step and file. Closing it saves the state."""
        with own_folder(self.folder):
            claim_of(self.config, self.data).make(self.folder)
            yield from self._events()

    def _events(self) -> Generator[TuningEvent, None, None]:
        parts = self._parts()
        yield RunNotice(f"memory: {self.place}")
        if (told := not_trained_on(self.config.data)) is not None:
            yield RunNotice(told)
        yield RunNotice(f"reading {len(self.data.samples)} captions")
        order, blank = self._samples(parts)
        parts.keep_transformer()
        trained = TrainedWeights(self.config, self.data, self.model, parts, self.place.again, blank)
        with closing(trained.steps(order, self.device)) as events:
            yield from events

    def _samples(self, parts: ModelParts) -> tuple[SampleOrder, PromptContext]:
        """Return the samples of all steps, and the context of an empty prompt."""
        folder = self.folder / "contexts"
        contexts = CaptionContexts(folder, parts)
        contexts.prepare(self.data, self.told)
        prior = None
        named = self.config.regularisers.prior_data
        if named is not None:
            others = open_encoded(named, model_identity(self.model))
            beside = CaptionContexts(folder, parts)
            beside.prepare(others)
            prior = SampleOrder(others, self.config, beside)
        return SampleOrder(self.data, self.config, contexts, prior), contexts(BLANK)

    def _chosen_place(self) -> TuningPlace:
        """Return where weights will be, by the memory that is free. Reads headers only."""
        config, item = self.config, self._dtype().itemsize
        headers = [read_header(path) for path in self.model.weights_files]
        stored = find_parts(headers)
        module, _ = open_part(builder("transformer", stored, model_config(headers)), stored, "transformer")
        if config.kind == "full":
            trained = sum(parameter.numel() for parameter in module.parameters())
        else:
            shapes = adapted(module, config)
            if config.lora.start is not None:
                checked_start(config.lora.start, shapes)
            trained = sum(shape.rank * (shape.num_in + shape.num_out) for shape in shapes.values())
        storage: Storage | None = None if config.weights == "auto" else config.weights
        storage = "full" if config.kind == "full" else storage
        held = model_sizes(self.model, item, storage)
        limit = math.inf if config.memory_gb is None else config.memory_gb * 1e9
        machine = this_machine(str(self.device)).limited(limit)
        return choose_place(TuningWork.of(self.data, config, trained), held, machine, config)

    def _dtype(self) -> torch.dtype:
        asked = None if self.config.precision == "auto" else self.config.precision
        found = choose_format(asked_format(asked), self.model.defaults.dtype, kind_of(str(self.device)))
        return torch.float32 if self.config.kind == "full" else DTYPES[found.name]

    def _parts(self) -> ModelParts:
        place = self.place
        return ModelParts(self.model, self.device, self._dtype(), place.residency, place.sizes.storage)


class TrainedWeights:
    """The trained weights, on a loaded model, and their files."""

    def __init__(
        self,
        config: TrainConfig,
        data: EncodedDataset,
        model: ModelSet,
        parts: ModelParts,
        again: bool = True,
        blank: PromptContext | None = None,
    ) -> None:
        """again: blocks are computed again for the gradients. blank: the context of an empty prompt."""
        self.config, self.data, self.model, self.parts = config, data, model, parts
        self.again, self.blank = again, blank
        self.transformer = parts.transformer
        self.use_training_kernels(True)
        below = [(read_lora(lora.path), lora.strength) for lora in config.lora.over]
        if below and config.lora.over_as == "merged":
            merge_into(self.transformer, below)
            below = []
        self.adapters = Adapters(self.transformer, stored=parts.stored)
        torch.manual_seed(config.seed)
        self.factors: Factors | None = None
        if config.kind == "lora":
            self.factors = begun_factors(config, self.transformer, parts)
        else:
            self.transformer.requires_grad_(True)
        self.cheap = Recomputation()
        if self.factors is not None:
            self.cheap.put_on(self.transformer)
        let_learn(self.transformer)
        self.steady = _steadiness(config, self.transformer)
        core = self.transformer if self.factors is None else self.factors
        self.module = nn.ModuleDict(
            {CORE: core} if self.steady is None else {CORE: core, "steady": self.steady}
        )
        self.trainer = Trainer(
            config.mode, self.module, schedule_of(config), Path(config.output), device=parts.device
        )
        self.below = {f"below {number}": strength for number, (_, strength) in enumerate(below)}
        if self.factors is not None:
            self.adapters.add(NAME, self.factors.lora(), training=True)
            for name, (lora, _) in zip(self.below, below, strict=True):
                self.adapters.add(name, lora)
            self.put_on(True)

    def put_on(self, is_on: bool) -> None:
        """Put the LoRAs on the model: those below, then the one that is trained, or not this one."""
        self.adapters.set(self.below | ({NAME: 1.0} if is_on else {}))

    def use_training_kernels(self, is_on: bool) -> None:
        """Compute attention by the kernel of training where it is the faster one, or by that of inference."""
        if self.parts.device.type == "cpu" and self.transformer.dtype == torch.bfloat16:
            use_training_attention(self.transformer, self.parts.device, is_on)

    def steps(self, samples: SampleOrder, device: torch.device) -> Generator[TuningEvent, None, None]:
        """Make the steps that are left."""
        trainer, config = self.trainer, self.config
        if trainer.step:
            yield RunNotice(f"going on from step {trainer.step}")
        objective = self._objective()
        watch = DivergenceWatch(config.stop_above, trainer.notes)
        gradients = GradientSteps(objective, trainer.params)
        batches = _on_device(samples, trainer.step, device)
        if trainer.step == 0:
            yield from self.clips(0)
        with closing(trainer.run(batches, gradients)) as events, curves_of(config) as curves:
            for event in events:
                curves(event)
                yield event
                if event.step % config.save_every == 0 or trainer.complete or self._shows(event.step):
                    trainer.save()
                    yield self.write(event.step)
                    yield from self.clips(event.step)
                stopped = watch.see(event.losses["loss"])
                if stopped is not None:
                    yield RunNotice(stopped)
                    yield self.write(event.step)
                    return
        if trainer.complete:
            yield FileWritten(self.write_final(), trainer.step)

    def _objective(self) -> VelocityObjective:
        assert isinstance(self.transformer, Transformer)
        watched = () if self.steady is None else (self.steady.student, self.steady.teacher)
        streamer = self.parts.manager.streamer("transformer")
        objective = VelocityObjective(
            self.transformer,
            self.config,
            blocks=BlockRun(again=self.again, streamer=streamer, watched=watched, cheap=self.cheap),
            steady=self.steady,
            switch=self.put_on,
            blank=self.blank,
            notes=self.trainer.notes,
        )
        if self.factors is None:
            objective.precision = partial(training_precision, self.parts.device)
        return objective

    # --- clips

    def _shows(self, step: int) -> bool:
        every = self.config.validation.every
        return bool(every and self.config.validation.requests) and (
            step % every == 0 or self.trainer.complete
        )

    def clips(self, step: int) -> Iterator[TuningEvent]:
        """Make the validation clips of a step by the engine, with the file of that step."""
        if not self._shows(step):
            return
        self.adapters.set({})
        self.use_training_kernels(False)
        loras = [] if self.config.lora.over_as == "merged" else list(self.config.lora.over)
        used = [Lora(lora.path, lora.strength) for lora in loras]
        if step and self.factors is not None:
            used.append(Lora(str(self._path(step))))
        engine = Engine(self.model, parts=self.parts)
        folder = Path(self.config.output) / CLIPS
        folder.mkdir(parents=True, exist_ok=True)
        for number, fields in enumerate(self.config.validation.requests, 1):
            own = [*used, *fields.get("loras", ())]
            request = Request(**{**fields, "loras": own})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                clip = engine.generate(request)
            ending = ".wav" if clip.frames is None else ".mp4"
            yield FileWritten(clip.save(folder / f"step-{step:06}-{number}{ending}"), step)
        self.parts.keep_transformer()
        self.use_training_kernels(True)
        if self.factors is not None:
            self.put_on(True)

    # --- files

    def values(self) -> dict[str, Tensor]:
        """Return the trained values by name: averages where the config asks for them."""
        state = self.trainer.averaged_weights() if self.config.average else self.module.state_dict()
        start = f"{CORE}."
        return {
            name.removeprefix(start): value.detach()
            for name, value in state.items()
            if name.startswith(start)
        }

    def _path(self, step: int) -> Path:
        name = f"model-{step:06}" if self.factors is None else f"lora-{step:06}.safetensors"
        return Path(self.config.output) / name

    def write(self, step: int) -> FileWritten:
        """Write the file of a step, and remove those of long ago."""
        path = self._path(step)
        if self.factors is None:
            if not path.exists():
                write_model(self.model, path, self.values())
            return FileWritten(path, step)
        self._writer().write(path, self.values(), self.summary(step))
        for old in sorted(path.parent.glob("lora-[0-9]*.safetensors"))[: -self.config.keep]:
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
        return {
            "step": step,
            "samples_seen": self.trainer.samples,
            "seconds": round(self.trainer.seconds),
            MODEL_DIGEST: file_digest(self.model.weights_files[0]),
        }


def _steadiness(config: TrainConfig, transformer: Transformer) -> SteadyFrames | None:
    """Return the term that holds frames to their neighbours, where a config has it and makes a picture."""
    asked, stream = config.regularisers.crepa, transformer.config.video
    if asked is None or stream is None or config.video.stream != "made":
        return None
    return SteadyFrames(asked, stream.width, len(transformer.transformer_blocks))


def merge_into(transformer: nn.Module, loras: Sequence[tuple[LoraFile, float]]) -> None:
    """Merge LoRAs into the weights of a model in memory."""
    merge = Merge(loras)
    for name, module in transformer.named_modules():
        if isinstance(module, QuantizedLinear):
            found = merge.into("transformer", f"{name}.weight", module.quantized)
            if isinstance(found, Quantized):
                module.weight, module.weight_scale = found.values, found.scale
        elif isinstance(module, nn.Linear):
            module.weight.data = merge("transformer", f"{name}.weight", module.weight.data)
    merge.check()


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
