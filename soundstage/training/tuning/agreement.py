"""Check that the config of a training agrees with itself, with its data and with its model. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from soundstage.dataset.identity import model_identity
from soundstage.dataset.index import EncodedIndex, open_index
from soundstage.engine import Engine
from soundstage.errors import DatasetError, RequestError
from soundstage.library.model_files import ModelSet, find_model
from soundstage.lora.fit import fit_of
from soundstage.lora.folders import lora_file
from soundstage.memory.machine import checked_device
from soundstage.planning.plan import Plan
from soundstage.request.request import Request
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.groups import check_targets, made_streams
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts

CheckPlan = Callable[[Plan], None]
NEEDED: Mapping[str, str] = {
    "video": "a picture",
    "audio": "sound",
    "reference": "a reference",
    "reference_audio": "a reference sound",
    "video_mask": "a mask",
    "audio_mask": "a mask of the sound",
}


def check_agreement(config: TrainConfig) -> ModelSet:
    """Raise what is wrong with a config, its data or its model, by headers alone; return the model."""
    checked_device(config.device)
    check_kind(config)
    model = find_model(config.model)
    model.check()
    check_with(config, model, open_index(config.data, model_identity(model)))
    return model


def check_with(
    config: TrainConfig, model: ModelSet, data: EncodedIndex, check: CheckPlan = lambda plan: None
) -> None:
    """Raise what is wrong with a config beside its model and data, which need not be encoded yet.

    check: is called with the plan of each validation clip, to refuse it.
    """
    check_kind(config)
    check_mode(config, data)
    if config.regularisers.prior_data is not None:
        open_index(config.regularisers.prior_data, model_identity(model))
    if config.lora.over:
        parts = find_parts([read_header(path) for path in model.weights_files])
        for lora in config.lora.over:
            fit_of(read_header(lora_file(lora.path)), parts)
    check_requests(config, model, check)


def check_mode(config: TrainConfig, data: EncodedIndex) -> None:
    """Raise RequestError or DatasetError where a mode and a dataset do not go together."""
    if not made_streams(config):
        raise RequestError(
            "neither video.stream nor audio.stream is 'made' and has a weight, so nothing would be learned; "
            "make one",
            field="video",
        )
    if config.kind == "lora":
        check_targets(config)
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
    _check_blend(config, data)
    _check_lengths(config, data)


def _check_blend(config: TrainConfig, data: EncodedIndex) -> None:
    """Raise RequestError where references that are to be mixed with their clips have another size."""
    others = [i for i in data.samples if i.reference_downscale != 1 or i.reference_temporal != 1]
    if config.video.reference_blend and others:
        raise RequestError(
            f"video.reference_blend is {config.video.reference_blend:g}, and {len(others)} references, such "
            f"as that of '{others[0].id}', are smaller or shorter than their clips; leave it out, or make "
            "the references at downscale 1 and temporal 1",
            field="video",
        )


def _check_lengths(config: TrainConfig, data: EncodedIndex) -> None:
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


def check_kind(config: TrainConfig) -> None:
    """Raise RequestError for settings that do not go with the kind of a training."""
    if config.kind == "full" and (config.weights not in ("auto", "full") or config.residency != "auto"):
        raise RequestError(
            "kind is 'full', which trains the weights themselves in float32; leave out weights and residency",
            field="kind",
        )
    if config.weights == "nf4" and config.residency in ("stream", "disk"):
        raise RequestError(
            f"weights is 'nf4', whose blocks all stay where they are computed, and residency is "
            f"'{config.residency}'; leave it out, or give fp8 or int8",
            field="weights",
        )
    if config.weights == "nf4" and config.lora.over and config.lora.over_as == "merged":
        raise RequestError(
            "weights is 'nf4', into which no LoRA is merged; give lora.over_as: branch", field="weights"
        )
    wanted = config.regularisers
    if config.kind == "full" and (wanted.blank or wanted.prior or config.lora.over or config.lora.start):
        raise RequestError(
            "kind is 'full', and regularisers.blank, regularisers.prior, lora.over and lora.start need a "
            "LoRA; leave them out",
            field="kind",
        )
    if config.lora.form == "dora" and config.lora.start is not None:
        raise RequestError(
            "lora.form is 'dora', and lora.start begins with the factors of a LoRA alone; leave one out",
            field="lora",
        )
    if bool(wanted.prior) != (wanted.prior_data is not None):
        raise RequestError(
            "regularisers.prior and regularisers.prior_data belong together; give both", field="regularisers"
        )


def check_requests(config: TrainConfig, model: ModelSet, check: CheckPlan = lambda plan: None) -> None:
    """Raise RequestError for a validation clip that could not be made."""
    engine = Engine(model)
    for number, fields in enumerate(config.validation.requests):
        try:
            check(engine.plan(Request(**{str(name): value for name, value in fields.items()})))
        except RequestError as error:
            raise RequestError(f"validation.requests[{number}]: {error}", field="validation") from error
