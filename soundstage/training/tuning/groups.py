"""Named groups of layers that a LoRA trains. No torch.

    video     attention of the picture to itself and to the prompt
    audio     attention of the sound to itself and to the prompt
    between   attention between picture and sound
    text      attention of both to the prompt alone
    ff        feed-forwards of both

Of these, the layers that change a stream which is learned: a LoRA for the picture has no layer of the sound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from soundstage.errors import RequestError
from soundstage.training.tuning.config import (
    AudioTraining,
    GroupRank,
    LoraTraining,
    TargetGroup,
    TrainConfig,
    VideoTraining,
)
from soundstage.types import Modality

# A module of a block -> its groups, the most particular first, and the stream that it changes.
MODULES: Mapping[str, tuple[tuple[TargetGroup, ...], Modality]] = {
    "attn1": (("video",), "video"),
    "attn2": (("text", "video"), "video"),
    "ff": (("ff",), "video"),
    "audio_attn1": (("audio",), "audio"),
    "audio_attn2": (("text", "audio"), "audio"),
    "audio_ff": (("ff",), "audio"),
    "audio_to_video_attn": (("between",), "video"),
    "video_to_audio_attn": (("between",), "audio"),
}


def made_streams(config: TrainConfig) -> tuple[Modality, ...]:
    """Return the streams that a config learns to make: those whose loss has a weight."""
    both: tuple[tuple[Modality, VideoTraining | AudioTraining], ...]
    both = (("video", config.video), ("audio", config.audio))
    return tuple(name for name, part in both if part.stream == "made" and part.weight)


def trained_group(name: str, config: TrainConfig) -> TargetGroup | None:
    """Return the group that a layer is trained with, None for one that is not."""
    module = re.sub(r"^.*transformer_blocks\.\d+\.", "", name).partition(".")[0]
    groups, stream = MODULES[module]
    together = "absent" not in (config.video.stream, config.audio.stream)
    if stream not in made_streams(config) or ("between" in groups and not together):
        return None
    asked = [group for group in groups if group in config.lora.targets]
    special = [group for group in groups if group in config.lora.groups and asked]
    return next(iter((*special, *asked)), None)


def rank_of(lora: LoraTraining, group: TargetGroup) -> GroupRank:
    """Return the rank and alpha of a group of layers."""
    return lora.groups.get(group, GroupRank(rank=lora.rank, alpha=lora.alpha))


def check_targets(config: TrainConfig) -> None:
    """Raise RequestError where no layer of the groups changes what is made."""
    if not any(trained_group(f"transformer_blocks.0.{module}", config) for module in MODULES):
        raise RequestError(
            f"lora.targets is {', '.join(config.lora.targets)}, and none of these layers changes what mode "
            f"'{config.mode}' makes ({' and '.join(made_streams(config))}); name another group",
            field="lora",
        )
