"""Layers of the procedural world, and the pairs that in-context LoRAs learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from soundstage.cli.main import app
from soundstage.clip import Clip
from soundstage.errors import RequestError
from soundstage.media.light import from_logc3, to_srgb
from soundstage.nano.world.layers import LAYERS, covers, depth, light, silhouettes
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.pairs import PAIRS
from soundstage.nano.world.render import render
from soundstage.nano.world.sample import sample
from soundstage.nano.world.scene import Scene, Subject
from soundstage.types import VideoShape

BALL = Subject("ball", "red", "large", "rest")
SCENE = Scene(7, VideoShape(9, 128, 192), "day", "static", (BALL,))


def test_silhouettes_are_where_a_subject_changes_the_picture() -> None:
    (x, y) = simulate(SCENE).screen_positions(SCENE)[0, 0].round().astype(int)
    white = silhouettes(SCENE)[0, ..., 0]
    assert white[y, x] == 255
    assert white[10, 10] == 0
    changed = np.abs(render(SCENE)[0].astype(int) - render(replace(SCENE, subjects=()))[0]).max(axis=-1)
    assert changed[white > 250].mean() > 30
    assert 0.8 < (white > 127).sum() / (np.pi * (0.215 * 128) ** 2) < 1.2


def test_depth_brings_subjects_before_the_ground_and_the_ground_before_the_sky() -> None:
    near = depth(SCENE)[0, ..., 0].astype(int)
    (x, y) = simulate(SCENE).screen_positions(SCENE)[0, 0].round().astype(int)
    assert near[y, x] > near[y, x + 26] > near[127, 5] > near[95, 5] > near[5, 5]


def test_light_is_that_of_the_picture_and_beyond_white_in_the_sun() -> None:
    bright = light(SCENE).astype(np.float32)
    away = np.abs(to_srgb(np.minimum(bright, 1)) * 255 - render(SCENE)).max(axis=-1)
    assert (away > 1).mean() < 0.05
    assert 8 < bright.max() < 16
    assert light(replace(SCENE, background="wood", subjects=())).max() <= 1


def test_light_is_hidden_behind_subjects() -> None:
    ball = replace(BALL, shape="cube", side="right", action="bounce", count=1)
    high = replace(SCENE, subjects=(ball,))
    behind = covers(high).max(axis=1) > 0.99
    assert light(high)[behind].max() < light(SCENE).max() / 4


@pytest.mark.parametrize("kind", PAIRS)
def test_a_pair_is_a_clip_and_a_reference_of_its_size_and_always_the_same(kind: str) -> None:
    pair, again = PAIRS[kind](SCENE), PAIRS[kind](SCENE)
    assert pair.clip.shape == pair.reference.shape == (9, 128, 192, 3)
    assert pair.clip.dtype == pair.reference.dtype == np.uint8
    assert np.array_equal(pair.reference, again.reference)
    assert not np.array_equal(pair.reference, pair.clip)
    if kind == "hdr":
        assert np.array_equal(pair.reference, render(SCENE))
        assert from_logc3(pair.clip / np.float32(255)).max() > 8
    else:
        assert np.array_equal(pair.clip, render(SCENE))


@pytest.mark.parametrize("kind", ["inpaint", "outpaint"])
def test_what_is_filled_is_painted_and_the_rest_is_the_clip(kind: str) -> None:
    pair = PAIRS[kind](SCENE)
    assert pair.made is not None
    assert pair.made.any()
    assert not pair.made.all()
    fill = (255, 0, 255) if kind == "inpaint" else (0, 0, 0)
    assert (pair.reference[pair.made] == fill).all()
    changed = (pair.reference != pair.clip).any(axis=-1)
    assert (changed & ~pair.made).mean() < 0.06  # cells of 8x8 are painted whole


def test_a_layer_is_written_in_place_of_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "depth.mkv"
    words = ["nano", "sample", "--seed", "3", "--frames", "9", "--layer", "depth", "--output", str(path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    clip = Clip.open(path)
    assert clip.waveform is None
    assert clip.frames is not None
    assert np.ptp(clip.frames.astype(int), axis=-1).max() < 8  # grey
    assert clip.frames.std() > 10
    assert sample(3, num_frames=9, layer="silhouettes").frames.max() == 255


def test_an_unknown_layer_is_refused_with_those_there_are() -> None:
    with pytest.raises(RequestError, match="layer is 'depths'; give one of depth, silhouettes"):
        sample(3, layer="depths")
    assert set(LAYERS) == {"depth", "silhouettes"}
