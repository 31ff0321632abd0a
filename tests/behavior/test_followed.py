"""The in-context LoRAs of examples/ follow their references on nano, and only theirs.

Each is held to what `soundstage nano evaluate --section KIND --lora FILE` measures, on few held-out scenes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import soundstage as ss
from soundstage.lora.files import read_lora
from soundstage.nano.evaluation.capabilities.compare import psnr
from soundstage.nano.evaluation.report import Report, Spread
from soundstage.nano.evaluation.session import Session
from soundstage.nano.world.pairs import PAIRS
from soundstage.nano.world.scene import Scene, Subject
from soundstage.types import VideoShape

EXAMPLES = Path(__file__).parents[2] / "examples"
LORAS = ("fill", "ungrade", "hdr", "control")
BALL = Scene(7, VideoShape(9, 128, 192), "day", "static", (Subject("ball", "blue", "large", "rest"),))


def lora(name: str) -> Path:
    return EXAMPLES / f"{name}-nano.safetensors"


def measured(kind: str, name: str, count: int, steps: int | None = None) -> Report:
    (report,) = Session("nano", steps=steps, loras=(str(lora(name)),)).measure([kind], count)
    return report


def mean(report: Report, row: str) -> float:
    values = report.rows[row]
    assert isinstance(values, Spread)
    return values.mean


@pytest.mark.parametrize("name", LORAS)
def test_a_file_is_small_says_that_it_has_references_and_has_no_layer_of_the_sound(name: str) -> None:
    assert lora(name).stat().st_size < 1e6
    with safe_open(lora(name), framework="np") as file:
        assert file.metadata()["reference_downscale_factor"] == "1"
        assert not [key for key in file.keys() if "audio" in key]  # noqa: SIM118
    assert read_lora(lora(name)).references.hdr == ("logc3" if name == "hdr" else None)


def test_a_painted_clip_is_filled_from_the_command_lines_own_words(tmp_path: Path) -> None:
    """The control makes the reference from the clip; what lies outside of the box stays."""
    frames = PAIRS["inpaint"](BALL).clip
    clip = tmp_path / "ball.mkv"
    ss.Clip(frames, None, BALL.fps).save(clip, codec="ffv1")
    stage = ss.load("nano")
    box = "56 44 80 76"
    made = stage.generate(
        "A large blue ball stands still in a sunny meadow. The camera is static. There is no sound.",
        controls=[f"inpaint:{clip}:1,box={box}"],
        loras=[lora("fill")],
        size=(192, 128),
        num_frames=9,
        steps=8,
        seed=1,
    )
    assert made.frames is not None
    left, top, width, height = map(int, box.split())
    inside = made.frames[:, top : top + height, left : left + width].astype(int)
    magenta = (inside[..., 0] > 150) & (inside[..., 1] < 90) & (inside[..., 2] > 150)
    assert magenta.mean() < 0.1
    outside = np.ones(made.frames.shape[1:3], bool)
    outside[top - 8 : top + height + 8, left - 8 : left + width + 8] = False
    assert psnr(made.frames[:, outside], frames[:, outside]) > 16


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["inpaint", "outpaint"])
def test_what_is_given_is_kept_and_the_rest_is_made_to_fit(kind: str) -> None:
    report = measured(kind, "fill", 4)
    assert mean(report, "given part") > mean(report, "given part, no reference") + 2
    assert mean(report, "given part") > mean(report, "given part, wrong reference") + 3
    assert mean(report, "new part") > mean(report, "new part, wrong reference")


@pytest.mark.slow
def test_a_grade_is_taken_off() -> None:
    report = measured("ungrade", "ungrade", 3, steps=10)
    assert mean(report, "colour") < 0.7 * mean(report, "colour, no reference")
    assert mean(report, "colour") < 0.5 * mean(report, "colour, wrong reference")


@pytest.mark.slow
def test_light_goes_beyond_white_where_the_world_has_it() -> None:
    report = measured("hdr", "hdr", 3, steps=10)
    assert mean(report, "beyond white") > mean(report, "beyond white, wrong reference")
    assert mean(report, "light") < mean(report, "light, no reference")
    assert mean(report, "light") < 0.5 * mean(report, "light, wrong reference")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "share"), [("depth", 0.06), ("edges", 0.03)])
def test_subjects_are_where_the_reference_has_them(kind: str, share: float) -> None:
    report = measured(kind, "control", 4, steps=10)
    assert mean(report, "overlap") > mean(report, "overlap, no reference") + share
    assert mean(report, "overlap") > mean(report, "overlap, wrong reference") + share


@pytest.mark.slow
def test_subjects_keep_to_their_tracks() -> None:
    report = measured("tracks", "control", 4, steps=10)
    for row in ("path", "end"):
        assert mean(report, row) < mean(report, f"{row}, no reference") - 2
        assert mean(report, row) < mean(report, f"{row}, wrong reference") - 4
