"""Every kind of reference on the shipped nano: prepared, planned, followed, and as pairs to train on.

How well adapters follow them is measured elsewhere (docs/nano-adapters.md). Here their tokens reach the
model, and a control is the same as its prepared file given as a reference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import soundstage as ss
from soundstage.cli.program import app
from soundstage.engine import Engine
from soundstage.nano.world.character import ball_scene
from soundstage.nano.world.render import render
from soundstage.types import VideoShape
from tests.tiny_onnx import mean_model

Frames = NDArray[np.uint8]
SIDE, COUNT = 64, 9
QUICK: dict[str, Any] = {
    "size": (SIDE, SIDE), "num_frames": COUNT, "steps": 2, "guidance": 1, "stg": 0, "modality_guidance": 1,
    "modalities": "video", "seed": 1,
}  # fmt: skip
BOX = "box=8 8 30 30"
STEERED = {  # each row of what adapters follow -> the settings that its kind needs
    "canny": (), "depth": ("model=depth.onnx",), "depth-classical": (), "pose": ("model=pose.onnx",),
    "pose-classical": (), "tracks": ("points=5 5 60 50|40 10 20 60",), "inpaint": (BOX,),
    "official-inpaint": (BOX,), "masked-reference": (BOX, "image=thing.png"), "outpaint": ("left=16",),
    "edit": (), "cameraman": (), "camera-motion": (), "sheet": (), "face": (BOX,), "clip": (),
    "anime-to-real": (), "ungrade": (), "regrade": (), "refocus": (), "deblur": (), "uncompress": (),
    "relight": (), "colourise": (), "day-to-night": (), "detail": (),
}  # fmt: skip


@lru_cache(maxsize=1)
def nano() -> Engine:
    return ss.load("nano", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shot of nano's world, another one, a picture of a thing, and models of depth and pose."""
    where = tmp_path_factory.mktemp("steered")
    for name, seed in (("a", 4), ("b", 9)):
        frames = render(ball_scene(seed, VideoShape(COUNT, SIDE, SIDE)))
        ss.Clip(frames, None, 24.0).save(where / f"{name}.mkv", codec="ffv1")
    ss.Clip(np.full((1, 20, 20, 3), 200, np.uint8), None, 24.0).save(where / "thing.png")
    mean_model(where / "depth.onnx", ["batch", 3, "h", "w"])
    mean_model(where / "pose.onnx", [1, 3, 64, 48], copies=17)
    return where


def call(*words: str) -> None:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output


def frames_of(path: str | Path) -> Frames:
    frames = ss.Clip.open(path).frames
    assert frames is not None
    return frames


def made(**fields: Any) -> Frames:
    frames = nano().generate("A red ball bounces.", **{**QUICK, **fields}).frames
    assert frames is not None
    return frames


@lru_cache(maxsize=1)
def unsteered() -> bytes:
    return made().tobytes()


@pytest.mark.parametrize("kind", STEERED)
def test_a_control_reaches_the_model_as_its_prepared_file_does(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    settings = STEERED[kind]
    files = [word for word in settings if word.partition("=")[0] in ("model", "image")]
    options = [f"--{word}" for word in files]
    options += [word for one in settings if one not in files for word in ("--set", one)]
    call("control", "prepare", kind, "a.mkv", "--output", str(tmp_path / "ref.mkv"), "-q", *options)
    control = ",".join([f"{kind}:a.mkv:1", *settings])
    (condition,) = nano().plan(ss.Request(prompt="a", controls=control, **QUICK)).passes[0].conditions
    assert condition.tokens > 0
    shown = made(controls=control)
    prepared = ss.Reference(tmp_path / "ref.mkv", downscale=condition.downscale)
    assert np.array_equal(shown, made(references=prepared))
    assert shown.tobytes() != unsteered()
    if kind not in ("tracks",):  # whose points are the same for any clip
        assert not np.array_equal(shown, made(controls=control.replace("a.mkv", "b.mkv")))


def test_the_command_line_makes_the_same_film_as_python(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    words = (
        "--size 64x64 --frames 9 --steps 2 --guidance 1 --stg 0 --modality-guidance 1 --only video --seed 1 "
        "--codec ffv1 -q"
    )
    control = f"inpaint:a.mkv:0.9,{BOX},fill=white"
    call(
        "generate", "A red ball bounces.", "--control", control, *words.split(), "-o", str(tmp_path / "o.mkv")
    )
    assert np.array_equal(frames_of(tmp_path / "o.mkv"), made(controls=control))


# --- pairs to train on ----------------------------------------------------------------------------------


def edges(frames: Frames) -> float:
    """How steep a picture is from pixel to pixel, in squares, which blur makes less."""
    return float((np.diff(frames.astype(int), axis=2) ** 2).mean())


def likeness(a: Frames, b: Frames) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def shades(frames: Frames) -> int:
    return len(np.unique(frames @ np.array([0.299, 0.587, 0.114]) // 4))


Differs = Callable[[Frames, Frames], bool]
WORSE: dict[str, tuple[tuple[str, ...], Differs]] = {  # how the reference differs from the finished clip
    "anime-to-real": (("levels=3",), lambda bad, good: shades(bad) < 0.8 * shades(good)),
    "ungrade": (
        ("seed=3",),
        lambda bad, good: bool(abs(bad.mean((0, 1, 2)) - good.mean((0, 1, 2))).max() > 3),
    ),
    "regrade": (
        ("seed=5",),
        lambda bad, good: bool(abs(bad.mean((0, 1, 2)) - good.mean((0, 1, 2))).max() > 3),
    ),
    "refocus": (("radius=0.05",), lambda bad, good: edges(bad) < 0.8 * edges(good)),
    "deblur": (("length=0.1", "seed=1"), lambda bad, good: edges(bad) < 0.9 * edges(good)),
    "detail": ((), lambda bad, good: edges(bad) < 0.9 * edges(good)),
    "uncompress": (("crf=48",), lambda bad, good: 0.7 < likeness(bad, good) < 0.999),
    "relight": (("seed=2",), lambda bad, good: np.ptp([half(bad, good, i) for i in range(4)]) > 0.1),
    "colourise": ((), lambda bad, good: bool((bad[..., 0] == bad[..., 2]).all())),
    "outpaint": (("left=16", "bottom=8"), lambda bad, good: not (bad[:, :, :16].any() or bad[:, -8:].any())),
    "inpaint": ((BOX,), lambda bad, good: bool((bad[:, 8:38, 8:38] == (255, 0, 255)).all())),
    "canny": ((), lambda bad, good: set(np.unique(bad)) <= {0, 255}),
}


def half(bad: Frames, good: Frames, side: int) -> float:
    """How much brighter one half of the picture became: left, right, top, bottom."""
    parts = [np.s_[:, :, :32], np.s_[:, :, 32:], np.s_[:, :32], np.s_[:, 32:]]
    return float(bad[parts[side]].mean() / max(1.0, good[parts[side]].mean()))


@pytest.mark.parametrize("kind", WORSE)
def test_a_training_pair_differs_as_named_and_a_data_set_makes_the_same(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, differs = WORSE[kind]
    monkeypatch.chdir(tmp_path)
    good = frames_of(folder / "a.mkv")
    ss.Clip(good, None, 24.0).save("clip.mkv", codec="ffv1")
    words = [word for one in settings for word in ("--set", one)]
    call("control", "prepare", kind, "clip.mkv", "--for-training", "-o", "pair.mkv", "-q", *words)
    bad = frames_of("pair.mkv")
    assert bad.shape == good.shape
    assert differs(bad, good)
    options = "".join(f"\n    {name}: {value}" for name, _, value in (one.partition("=") for one in settings))
    Path("dataset.yaml").write_text(
        f"sources: clip.mkv\nbuckets: 64x64x9\nfps: 24\nreferences:\n  kind: {kind}\n  options:"
        + (options or " {}")
    )
    Path("clip.txt").write_text("A red ball.")
    call("dataset", "references", ".")
    (reference,) = Path("prepared/references").iterdir()
    assert np.array_equal(frames_of(reference), bad)


def test_the_result_of_a_pair_from_day_to_night_is_darker(folder: Path, tmp_path: Path) -> None:
    day = ss.prepare_control("day-to-night", folder / "a.mkv", tmp_path / "day.mkv", for_training=True)
    night = ss.prepare_control("night", folder / "a.mkv", tmp_path / "night.mkv")
    assert np.array_equal(frames_of(day), frames_of(folder / "a.mkv"))
    assert frames_of(night).mean() < 0.7 * frames_of(day).mean()
