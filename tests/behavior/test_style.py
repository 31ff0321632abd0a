"""The LoRA of examples/ that draws lines does so, and changes no sound by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import soundstage as ss

STYLE = Path(__file__).parents[2] / "examples" / "style-nano.safetensors"
PROMPTS = (
    "Line drawing. A red ball rests on a wooden floor. The camera is static. There is no other sound.",
    "Line drawing. A large blue star stands still at night. The camera is static. Rain falls.",
)
PAPER = 200  # of 255: what is at least as light in every channel; the VAE leaves white a little cream


def paper(clip: ss.Clip) -> float:
    """Return the share of pixels that are nearly white."""
    assert clip.frames is not None
    return float((clip.frames.min(axis=-1) >= PAPER).mean())


def colour(clip: ss.Clip) -> float:
    """Return the mean difference of the strongest and the weakest channel, of 1."""
    assert clip.frames is not None
    return float(np.ptp(clip.frames.astype(float), axis=-1).mean() / 255)


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_style_lora_draws_on_white_without_colour(prompt: str) -> None:
    stage = ss.load("nano")
    fields: dict[str, Any] = {"seed": 7, "size": (192, 128), "num_frames": 25, "steps": 8}
    plain = stage.generate(prompt, **fields)
    drawn = stage.generate(prompt, **fields, loras=[STYLE])
    assert paper(plain) < 0.2
    assert paper(drawn) > 0.5
    assert colour(drawn) < 0.5 * colour(plain)


@pytest.mark.slow
def test_the_style_lora_draws_nothing_where_the_trigger_is_not_said() -> None:
    prompt = PROMPTS[0].removeprefix("Line drawing. ")
    fields: dict[str, Any] = {"seed": 7, "size": (192, 128), "num_frames": 25, "steps": 8}
    stage = ss.load("nano")
    plain, silent = stage.generate(prompt, **fields), stage.generate(prompt, **fields, loras=[STYLE])
    assert paper(silent) < paper(plain) + 0.1
    assert colour(silent) > 0.8 * colour(plain)


def test_the_style_lora_is_small_and_has_no_layer_of_the_sound() -> None:
    assert STYLE.stat().st_size < 2e6
    with safe_open(STYLE, framework="np") as file:
        assert file.metadata()["trigger_phrase"] == "Line drawing."
        assert not [key for key in file.keys() if "audio" in key]  # noqa: SIM118
