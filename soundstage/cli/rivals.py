"""Options that say one thing in two ways: which takes the place of which.

A default gives way to what is typed or set nearer (`defaults.py`). What a clip was made with gives way to
what `rerun` is told to change (`rerun.py`).
"""

from __future__ import annotations

# An option, and those that it gives way to: both at once would collide, or the one behind would hide what was
# asked for. Names of parameters, which are those of a request's fields where it has one.
GIVES_WAY: dict[str, tuple[str, ...]] = {
    "seed": ("seeds",),
    "seeds": ("seed", "takes"),
    "takes": ("seeds",),
    "prompts": ("prompt",),
    "duration_s": ("num_frames", "video"),
    "num_frames": ("duration_s", "video"),
    "steps": ("sigmas",),
    "schedule": ("sigmas",),
    "sigmas": ("steps", "schedule"),
    "video_guidance": ("guidance",),
    "audio_guidance": ("guidance",),
    "video_negative_prompt": ("negative_prompt",),
    "audio_negative_prompt": ("negative_prompt",),
    "size": ("video",),
    "fps": ("video",),
    "thin": ("video",),
}

# Options that set one word of guidance for all noise levels: in which scales of a request, and the word.
SCALE_WORDS: dict[str, tuple[tuple[str, ...], str]] = {
    "guidance": (("video_scales", "audio_scales"), "cfg"),
    "video_guidance": (("video_scales",), "cfg"),
    "audio_guidance": (("audio_scales",), "cfg"),
    "stg": (("video_scales", "audio_scales"), "stg"),
    "modality_guidance": (("video_scales", "audio_scales"), "modality"),
    "rescale": (("video_scales", "audio_scales"), "rescale"),
}


def replaced_by(name: str) -> tuple[str, ...]:
    """Return the options that give way to one."""
    return tuple(other for other, nearer in GIVES_WAY.items() if name in nearer)


def options_of_word(scales: str, word: str) -> tuple[str, ...]:
    """Return the options that set a word of guidance of "video_scales" or "audio_scales"."""
    return tuple(name for name, (records, own) in SCALE_WORDS.items() if word == own and scales in records)
