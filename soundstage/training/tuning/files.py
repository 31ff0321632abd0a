"""The files of a run: its claim on a folder, and the LoRA or model that it writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from soundstage import __version__
from soundstage.dataset.config import CONFIG
from soundstage.dataset.encoded import EncodedDataset
from soundstage.dataset.index import FOLDER
from soundstage.errors import RequestError
from soundstage.files import link_or_copy
from soundstage.library.convert import convert
from soundstage.library.model_files import AUDIO_VAE, EXTRAS, TRANSFORMER, VIDEO_VAE, ModelSet
from soundstage.lora.files import LoraFile, write_lora
from soundstage.lora.metadata import LoraReferences
from soundstage.prompts.vocabulary import FILE as VOCABULARY
from soundstage.rendering.claims import Claim, refused
from soundstage.text.source import tokenizer_file
from soundstage.training.factors import Factors
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.contexts import fingerprint_of
from soundstage.weights.header import shards
from soundstage.weights.layouts import Part

FORMAT = 1
MANIFEST, LOCK = "training.json", ".lock"
FINAL = "lora.safetensors"
CLIPS = "validation"
STORED = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# Fields that may change from one start of a run to the next: they change no step, or only those to come.
FREE = {
    "output", "steps", "save_every", "keep", "stop_above", "validation", "memory_gb", "residency",
    "checkpointing", "device", "wants", "trigger", "data", "logs",
}  # fmt: skip
BASE_VERSION = "2.3"


def claim_of(config: TrainConfig, data: EncodedDataset) -> Claim:
    """Return what a run's folder says of itself, by which a start that goes on is known."""
    fields: dict[str, Any] = asdict(config)  # type: ignore[call-overload]
    decides = {name: value for name, value in fields.items() if name not in FREE}
    decides = json.loads(json.dumps(decides | {"dataset": fingerprint_of(data)}))
    what = "another training"
    return Claim(MANIFEST, FORMAT, "training", what, "output", decides, json.loads(json.dumps(fields)))


def check_apart(output: Path, data: Path) -> None:
    """Raise RequestError for a run in the folder of its data, whose loss.png would be a sample of it."""
    data = data.parent if data.name == CONFIG else data
    if output.resolve() in (data.resolve(), (data / FOLDER).resolve()):
        raise RequestError(
            f"output is {output}, which is the folder of the data; give another folder", field="output"
        )


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Make a run's folder, and keep other runs out of it for the block.

    Raises RequestError where that cannot be, and where another run is at work there.
    """
    with refused(folder, "output"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise RequestError(
                f"output is {folder}, in which another training is at work now; wait for it, stop it, "
                "or give another folder",
                field="output",
            ) from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class LoraWriter:
    """Write a run's LoRA. summary: what is told of the training besides its config."""

    config: TrainConfig
    data: EncodedDataset
    factors: Factors
    base: str

    def write(self, path: Path, values: Mapping[str, Tensor], summary: Mapping[str, Any]) -> Path:
        """Write the factors, given by name, with the metadata that other programs read."""
        config = self.config
        pairs = self.factors.pairs({name: value.detach().float().cpu() for name, value in values.items()})
        lora = LoraFile(pairs, metadata=self.metadata(summary), references=self.references())
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_lora(path, lora, dtype=STORED[config.lora.store], names=config.lora.names)

    def references(self) -> LoraReferences:
        """Return what the LoRA needs of references at inference."""
        told: dict[str, Any] = {"hdr": self.config.curve, "exchange": self.config.exchange}
        if not self.config.video.reference:
            return LoraReferences(**told)
        info = next(info for info in self.data.samples if "reference" in info.has)
        return LoraReferences(info.reference_downscale, info.reference_temporal, in_context=True, **told)

    def metadata(self, summary: Mapping[str, Any]) -> dict[str, str]:
        """Return the metadata of a file, as strings."""
        config = self.config
        told: dict[str, Any] = {
            "program": f"soundstage {__version__}",
            "mode": config.mode,
            "model": self.base,
            "samples": len(self.data.samples),
            "dataset": fingerprint_of(self.data),
            "steps": config.steps,
            "batch": config.batch * config.accumulate,
            "rate": config.optimizer.rate,
            "optimizer": config.optimizer.name,
            "seed": config.seed,
            "over": [f"{Path(lora.path).name} at {lora.strength:g}" for lora in config.lora.over],
            "start": None if config.lora.start is None else Path(config.lora.start).name,
            **summary,
        }
        found = {
            "model_version": BASE_VERSION,
            "rank": str(config.lora.rank),
            "training_summary": json.dumps(told, ensure_ascii=False),
        }
        if config.trigger:
            found["trigger_phrase"] = config.trigger
        if config.audio.reference and config.audio.reference_place == "before":
            found["reference_kind"] = "identity"
        return found


def write_model(model: ModelSet, folder: Path, values: Mapping[str, Tensor]) -> Path:
    """Write a model folder with the transformer's weights replaced by these, all else as it was.

    What recipes need beside the weights (upsamplers, distilled LoRA, preview VAE) is linked, or copied to
    another disk, so that the folder makes what its base makes. It gets its name when it is whole; one that is
    there is replaced.
    """

    def edit(part: Part, key: str, tensor: Tensor) -> Tensor:
        trained = values.get(key) if part == "transformer" else None
        return tensor if trained is None else trained.detach().cpu().to(tensor.dtype)

    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    convert([*model.weights_files, model.text_path], unfinished, layout="bundle", edit=edit)
    _take_along(model, unfinished)
    bundle: dict[str, Any] = {"name": model.name, "defaults": model.defaults.to_dict()}
    if model.text_path.is_file():  # then no folder text/ was written
        bundle["files"] = [TRANSFORMER, VIDEO_VAE, AUDIO_VAE, model.text_path.name]
    (unfinished / "bundle.json").write_text(json.dumps(bundle, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)
    return folder


def _take_along(model: ModelSet, folder: Path) -> None:
    """Put the files beside a model's weights into a bundle, under the names that it has for them."""
    files = {name: model.extra(role) for role, (name, _) in EXTRAS.items()}
    found = {name: file.path for name, file in files.items() if file.num_bytes is not None}
    beside = [model.folder / VOCABULARY]
    if model.text_path.is_file():
        beside += [*shards(model.text_path), tokenizer_file(model.text_path.parent)]
    found |= {path.name: path for path in beside if path.is_file()}
    for name, path in found.items():
        (folder / name).unlink(missing_ok=True)
        link_or_copy(path, folder / name)
