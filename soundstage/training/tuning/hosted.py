"""Requests of hosted trainers, read as a dataset and a training here: `soundstage train --like fal`.

The zip that a request names is fetched, if it has an address, by intake/hosted.py, and unpacked by zips.py. A
field that is not known is refused with the nearest one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from soundstage.errors import RequestError
from soundstage.fields.record import Share, from_file, record, unit
from soundstage.training.tuning.modes import Mode


@record
class HostedClip:
    """A clip that a hosted trainer makes to show the result."""

    prompt: str
    """What it shows."""
    image_url: str | None = None
    """A picture to start from."""
    reference_video_url: str | None = None
    """A clip to follow."""
    audio_url: str | None = None
    """A sound to go with."""


@record
class HostedTraining:
    """A request of fal's trainers of LTX-2.3."""

    training_data_url: str
    """The zip of clips and captions: a path here, or an address (http or https) from which it is fetched."""
    mode: Mode = "t2v"
    """What is trained, as the name of fal's endpoint ends: t2v, i2v, a2v, v2a, av2av, inpaint, ..."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 32
    """Rank of the LoRA."""
    number_of_steps: Annotated[int, Field(ge=1, le=100_000), unit("steps")] = 2000
    """Steps."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 2e-4
    """Learning rate."""
    number_of_frames: Annotated[int, Field(ge=1, le=1000), unit("frames")] = 89
    """Length of the clips, 8k + 1."""
    frame_rate: Annotated[float, Field(ge=1, le=120), unit("frames per second")] = 24.0
    """Rate of the clips."""
    trigger_phrase: str = ""
    """Words before every caption."""
    first_frame_conditioning_p: Share | None = None
    """How often the first frame is given. Left out, the mode's own."""
    with_audio: Any = None
    """Whether sound is trained. Left out, where every clip has it."""
    validation: tuple[HostedClip, ...] = field(default=())
    """Clips to make."""
    validation_negative_prompt: str = ""
    """What they do not show."""
    validation_frame_rate: Annotated[float, Field(ge=1, le=120), unit("frames per second")] | None = None
    """Their rate."""
    generate_audio_in_validation: Any = None
    """false: they are silent."""
    validation_number_of_frames: Annotated[int, Field(ge=1, le=1000), unit("frames")] | None = None
    """Their length."""
    split_input_into_scenes: Any = None
    """Not done here: `soundstage dataset split`."""
    auto_scale_input: Any = None
    """Clips are always brought to a bucket."""


def read_hosted(path: Path, mode: str | None = None) -> HostedTraining:
    """Read a request from a JSON file. mode: in place of the one in it.

    Raises RequestError or ConfigError for what does not fit.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} is no JSON file that can be read ({error}); correct it") from error
    found = data.get("input", data) if isinstance(data, Mapping) else data
    if isinstance(found, Mapping):
        found = {_plain(str(name)): _word(value) for name, value in found.items()}
        found |= {} if mode is None else {"mode": mode}
    return from_file(HostedTraining, found, str(path))


def _plain(name: str) -> str:
    return {"steps": "number_of_steps", "trigger_word": "trigger_phrase"}.get(name, name)


def _word(value: Any) -> Any:
    """Return true and false as words, which records of this package do not take as numbers."""
    return str(value).lower() if isinstance(value, bool) else value


def dataset_fields(asked: HostedTraining) -> dict[str, Any]:
    """Return the fields of the data that a request asks for, as `zips.unpacked` takes them."""
    return {
        "num_frames": asked.number_of_frames,
        "fps": asked.frame_rate,
        **({"trigger": asked.trigger_phrase} if asked.trigger_phrase else {}),
        "sound": {"false": "none", "true": "all"}.get(str(asked.with_audio), "auto"),
    }


def config_fields(asked: HostedTraining) -> dict[str, Any]:
    """Return the fields of a training config that a request asks for, without those of its data."""
    found: dict[str, Any] = {
        "mode": asked.mode,
        "steps": asked.number_of_steps,
        "lora": {"rank": asked.rank},
        "optimizer": {"rate": asked.learning_rate},
        "trigger": asked.trigger_phrase or None,
    }
    if asked.first_frame_conditioning_p is not None:
        found["video"] = {"first_frame": asked.first_frame_conditioning_p}
    if asked.with_audio == "false":
        found["audio"] = {"stream": "absent"}
    if asked.validation:
        found["validation"] = {
            "every": asked.number_of_steps,
            "requests": [_request(clip, asked) for clip in asked.validation],
        }
    return found


def _request(clip: HostedClip, asked: HostedTraining) -> dict[str, Any]:
    found: dict[str, Any] = {"prompt": f"{asked.trigger_phrase} {clip.prompt}".strip()}
    if asked.validation_number_of_frames is not None:
        found["num_frames"] = asked.validation_number_of_frames
    if asked.validation_frame_rate is not None:
        found["fps"] = asked.validation_frame_rate
    if asked.validation_negative_prompt:
        found["negative_prompt"] = asked.validation_negative_prompt
    if asked.generate_audio_in_validation == "false":
        found["modalities"] = ["video"]
    if clip.audio_url is not None:
        found["audio"] = {"file": clip.audio_url}
    if clip.image_url is not None:
        found["guides"] = [{"image": clip.image_url}]
    if clip.reference_video_url is not None:
        found["references"] = [{"video": clip.reference_video_url}]
    return found
