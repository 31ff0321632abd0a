"""Modes of training: what is made, what is given and which layers learn, as one table of presets. No torch.

A preset is the fields of a config that a mode sets; what a config says itself wins. Conditions are drawn for
each sample by their chance, those that change the number of tokens for each batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

Mode = Literal[
    "t2v", "i2v", "a2v", "v2a", "t2a", "extend", "suffix", "inpaint", "outpaint", "reference",
    "reference-before", "audio-extend", "audio-suffix", "audio-inpaint", "a2a", "av2av",
    "identity", "dub", "silent",
]  # fmt: skip
MODE_NAMES: tuple[Mode, ...] = get_args(Mode)

_ABSENT: Mapping[str, Any] = {"stream": "absent"}
_GIVEN: Mapping[str, Any] = {"stream": "given"}
_BOTH = {"targets": ["video", "audio", "between"]}
_PICTURE = {"targets": ["video"]}
_PICTURE_FF = {"targets": ["video", "ff"]}
_SOUND = {"targets": ["audio", "ff"]}
_FASTER = {"optimizer": {"rate": 2e-4}, "steps": 3000}

MODES: Mapping[Mode, Mapping[str, Any]] = {
    "t2v": {"lora": _BOTH},
    "i2v": {"video": {"first_frame": 0.5}, "lora": _BOTH},
    "a2v": {"audio": _GIVEN, "lora": {"targets": ["video", "between"]}},
    "v2a": {"video": _GIVEN, "lora": {"targets": ["audio", "between", "ff"]}},
    "t2a": {"video": _ABSENT, "lora": _SOUND, **_FASTER},
    "silent": {"audio": _ABSENT, "lora": _PICTURE},
    "extend": {
        "video": {"prefix": {"latents": 8}},
        "audio": {"prefix": {"latents": 59, "chance": 0.5}},  # the sound of 57 frames at 24 a second
        "lora": _BOTH,
    },
    "suffix": {
        "video": {"suffix": {"latents": 8}},
        "audio": {"suffix": {"latents": 59, "chance": 0.5}},
        "lora": _BOTH,
    },
    "inpaint": {"video": {"mask": 1.0}, "audio": _ABSENT, "lora": _PICTURE},
    "outpaint": {"video": {"crop": {"box": [0, 0, 288, 576]}}, "audio": _ABSENT, "lora": _PICTURE},
    "reference": {
        "video": {"reference": 1.0, "first_frame": 0.2},
        "audio": _ABSENT,
        "lora": _PICTURE_FF,
        **_FASTER,
    },
    "reference-before": {
        "video": {"reference": 1.0, "reference_place": "before"},
        "audio": _ABSENT,
        "lora": _PICTURE_FF,
        **_FASTER,
    },
    "audio-extend": {"video": _ABSENT, "audio": {"prefix": {"latents": 8}}, "lora": _SOUND, **_FASTER},
    "audio-suffix": {"video": _ABSENT, "audio": {"suffix": {"latents": 8}}, "lora": _SOUND, **_FASTER},
    "audio-inpaint": {"video": _ABSENT, "audio": {"mask": 1.0}, "lora": _SOUND, **_FASTER},
    "a2a": {
        "video": _ABSENT,
        "audio": {"reference": 1.0, "reference_place": "over"},
        "lora": _SOUND,
        **_FASTER,
    },
    "av2av": {
        "video": {"reference": 1.0},
        "audio": {"reference": 1.0, "reference_place": "over"},
        "lora": _BOTH,
        **_FASTER,
    },
    "identity": {
        "video": {"first_frame": 0.9},
        "audio": {"reference": 1.0, "reference_place": "before"},
        "sigma": {"audio": "shared"},
        "lora": {"rank": 128, "targets": ["audio", "between", "ff"]},
        **_FASTER,
    },
    "dub": {
        "video": {"reference": 1.0, "first_frame": 0.1},
        "audio": {"reference": 1.0, "reference_place": "before"},
        "sigma": {"audio": "shared"},
        "exchange": "clip",
        "lora": {"rank": 128, "targets": ["video", "audio", "between", "ff"]},
        "optimizer": {"rate": 2e-4},
    },
}
