"""fal's trainers of LTX-2.3 by the shape of their requests and answers, as jobs of kind train.

The fields are those of training/tuning/hosted.py, which `soundstage train --like fal` reads from a file; here
they come from a stranger, so that files are references.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi import Request

from soundstage.errors import RequestError
from soundstage.jobs.errors import Conflict, NotFound
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import Asset, Job
from soundstage.server.dialects import calls
from soundstage.server.dialects.draft import Draft, bad, list_of, record_of
from soundstage.training.tuning.config import with_changes
from soundstage.training.tuning.hosted import HostedClip, HostedTraining, config_fields, dataset_fields
from soundstage.training.tuning.modes import Mode

FAMILY, ADAPTERS = "ltx23-trainer-v2", "ic-lora/"
# Endpoints of the family, with the mode and what it sets besides.
ENDPOINTS: Mapping[str, tuple[Mode, Mapping[str, Any]]] = {
    "t2v": ("t2v", {}),
    "i2v": ("i2v", {}),
    "a2v": ("a2v", {"video": {"first_frame": 1.0}}),
    "v2a": ("v2a", {}),
    "t2a": ("t2a", {}),
    "a2a": ("a2a", {}),
    "v2v": ("reference", {}),
    "av2av": ("av2av", {}),
    "inpaint": ("inpaint", {}),
    "v2v-masked": ("reference", {"video": {"mask": 1.0}}),
    "av2av-masked": ("av2av", {"video": {"mask": 1.0}}),
    "extend-prefix": ("extend", {}),
    "extend-suffix": ("suffix", {}),
    "audio-extend-prefix": ("audio-extend", {}),
    "audio-extend-suffix": ("audio-suffix", {}),
    # The first frame and the last latent, which is eight frames.
    "interpolate": ("silent", {"video": {"first_frame": 1.0, "suffix": {"latents": 1}}}),
}
# The trainers of before, each an app of its own.
OLDER: Mapping[str, tuple[Mode, Mapping[str, Any]]] = {
    "ltx23-video-trainer": ("i2v", {}),
    "ltx23-v2v-trainer": ("reference", {"video": {"first_frame": 0.1}}),
}
LATENTS_PER_S = 25  # of sound
MAX_STEPS = 100_000
SCENES = "clips are used as they are, so cut them before"
SIZES = "clips are made at the sizes that fit them"


def is_trainer(app: str) -> bool:
    """Return whether an address is that of a trainer, known or not."""
    return "trainer" in app


def trainer_of(app: str) -> tuple[Mode, Mapping[str, Any]]:
    """Return the mode of an address such as "fal-ai/ltx23-trainer-v2/t2v", and what it sets besides.

    Raises NotFound for one that is no trainer of LTX-2.3, or is not done here.
    """
    parts = app.strip("/").split("/")
    name, rest = (parts[1] if len(parts) > 1 else ""), "/".join(parts[2:])
    found = OLDER.get(name) if not rest else None
    if name == FAMILY:
        found = ENDPOINTS.get(rest.removeprefix(ADAPTERS))
    if found is None:
        known = ", ".join([*OLDER, *(f"{FAMILY}/{word}" for word in ENDPOINTS)])
        raise NotFound(f"there is no trainer {app[:100]!r} here; give one of fal-ai/ and {known}")
    return found


def read(app: str, given: Mapping[str, Any], jobs: Jobs, request: Request | None) -> Draft:
    """Return the draft of a training."""
    mode, besides = trainer_of(app)
    draft = Draft(given)
    data = calls.media_in(jobs, draft, "training_data_url", "data", request)
    if data is None:
        raise RequestError(
            "training_data_url is missing; give the address of a zip of clips", field="training_data_url"
        )
    asked = HostedTraining(
        training_data_url=data, mode=mode, **_numbers(draft), **_clips(draft, jobs, request)
    )
    training = {**config_fields(asked)}
    for name, fields in besides.items():
        training[name] = {**fields, **training.get(name, {})}
    dataset = dataset_fields(asked)
    _sounds(draft, training, dataset)
    _idle(draft)
    draft.job |= {"kind": "train", "data": data, "training": training, "dataset": dataset}
    return draft


def _numbers(draft: Draft) -> dict[str, Any]:
    """Read the fields that are words and numbers, under their names here."""
    found: dict[str, Any] = {
        "rank": draft.whole("rank", about="training.lora", least=1, most=1024),
        "number_of_steps": draft.whole("number_of_steps", about="training.steps", least=1, most=MAX_STEPS),
        "learning_rate": draft.number("learning_rate", about="training.optimizer", least=1e-9, most=1),
        "number_of_frames": draft.whole("number_of_frames", about="dataset", least=1, most=1000),
        "frame_rate": draft.number("frame_rate", least=1, most=120),
        "first_frame_conditioning_p": draft.number(
            "first_frame_conditioning_p", about="training.video", most=1
        ),
    }
    steps = draft.whole("steps", about="training.steps", least=1, most=MAX_STEPS)
    found["number_of_steps"] = found["number_of_steps"] or steps
    trigger, word = draft.text("trigger_phrase", most=1000), draft.text("trigger_word", most=1000)
    found["trigger_phrase"] = trigger or word
    if found["number_of_frames"] is not None and found["number_of_frames"] % 8 != 1:
        raise bad("number_of_frames", found["number_of_frames"], "8k + 1 frames, such as 89")
    sound = draft.take("with_audio")
    if sound not in (None, "auto", True, False, "true", "false"):
        raise bad("with_audio", sound, "true, false or auto")
    found["with_audio"] = None if sound in (None, "auto") else str(sound).lower()
    return {name: value for name, value in found.items() if value is not None}


def _clips(draft: Draft, jobs: Jobs, request: Request | None) -> dict[str, Any]:
    """Read the clips that are made to show the result."""
    clips = []
    for number, item in enumerate(list_of("validation", draft.take("validation", "training.validation"))):
        fields = Draft(record_of(f"validation[{number}]", item))
        prompt = fields.text("prompt")
        if not prompt:
            raise RequestError(f"validation[{number}] has no prompt; give one", field="validation")
        names = ("image_url", "reference_video_url", "audio_url")
        files = {name: calls.media_in(jobs, fields, name, name, request) for name in names}
        clips.append(HostedClip(prompt=prompt, **files))
        for warning in fields.warnings:
            draft.warn(f"validation[{number}]: {warning}")
    silent = draft.flag("generate_audio_in_validation") is False
    found = {
        "validation": tuple(clips),
        "validation_negative_prompt": draft.text("validation_negative_prompt"),
        "validation_number_of_frames": draft.whole("validation_number_of_frames", least=1, most=1000),
        "validation_frame_rate": draft.number("validation_frame_rate", least=1, most=120),
        "generate_audio_in_validation": "false" if silent else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _sounds(draft: Draft, training: dict[str, Any], dataset: dict[str, Any]) -> None:
    """Read the fields of trainers of sound alone: the length of a sample, and what of it is given."""
    length_s = draft.number("audio_duration_seconds", about="dataset", least=0.1, most=600)
    given_s = draft.number("conditioning_seconds", about="training.audio", least=0.04, most=600)
    if length_s is not None:
        dataset["audio_buckets"] = [length_s]
    part = {"audio-extend": "prefix", "audio-suffix": "suffix"}.get(training["mode"])
    if given_s is None:
        return
    if part is None:
        draft.warn("conditioning_seconds has no effect in this mode")
        return
    if length_s is not None and given_s >= length_s:
        raise bad("conditioning_seconds", given_s, f"less than audio_duration_seconds, which is {length_s:g}")
    latents = max(1, round(given_s * LATENTS_PER_S))
    training["audio"] = with_changes(training.get("audio", {}), {part: {"latents": latents}})


def _idle(draft: Draft) -> None:
    """Read what has no effect here."""
    draft.idle("split_input_into_scenes", SCENES, quiet=(False,))
    draft.idle("split_input_duration_threshold", SCENES)
    draft.take("auto_scale_input")  # clips are always brought to a bucket
    for name in ("resolution", "aspect_ratio", "validation_resolution", "validation_aspect_ratio"):
        draft.idle(name, SIZES, quiet=("auto",))
    draft.idle("audio_normalize", "sounds are used as they are", quiet=(False,))
    draft.idle("audio_preserve_pitch", "sounds are used as they are", quiet=(True,))
    draft.idle("stg_scale", "clips are made with the model's own guidance")
    draft.idle("debug_dataset", "there is no archive of the prepared data", quiet=(False,))


def output_of(job: Job, jobs: Jobs, base: str) -> dict[str, Any]:
    """Return the output of a training that succeeded."""
    result = job.result
    if result is None or result.lora is None:
        raise Conflict(f"{job.id} is {job.state} and has no LoRA")

    def file(asset: Asset | None) -> dict[str, Any] | None:
        if asset is None:
            return None
        name = asset.name or asset.id
        url, size = calls.address(jobs, asset, base), asset.bytes
        return {"url": url, "content_type": asset.media_type, "file_name": name, "file_size": size}

    last = result.validation[-1].name if result.validation else None
    shown = [clip for clip in result.validation if _step(clip.name) == _step(last)]
    found = {
        "lora_file": file(result.lora), "config_file": file(result.config),
        "losses_file": file(result.losses), "report_file": file(result.report),
        "video": file(next(iter(shown), None)),
        "validation": [file(clip) for clip in shown], "debug_dataset": None,
    }  # fmt: skip
    return {**found, "warnings": job.warnings, "notes": [] if job.plan is None else job.plan.notes}


def _step(name: str | None) -> str:
    found = re.match(r"step-(\d+)-", name or "")
    return "" if found is None else found[1]
