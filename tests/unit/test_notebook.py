"""A clip as the last line of a notebook's cell is a player that plays: in Chromium, where it is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from soundstage.clip import Clip
from tests.browser import browser, played

needs_browser = pytest.mark.skipif(
    browser() is None, reason="no Chromium here; install one, or name it in CHROMIUM"
)
RED = (200, 40, 40)


def sound(seconds: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    times = np.arange(round(48_000 * seconds)) / 48_000
    return np.repeat(0.3 * np.sin(2 * np.pi * 440 * times).astype(np.float32)[None], 2, axis=0)


@needs_browser
def test_the_player_plays_picture_and_sound(tmp_path: Path) -> None:
    frames = np.full((25, 64, 96, 3), RED, np.uint8)
    told = played(Clip(frames, sound(25 / 24), 24.0)._repr_html_(), tmp_path)
    assert "error" not in told
    assert told["controls"]
    assert told["size"] == [96, 64]
    assert told["duration"] == pytest.approx(25 / 24, abs=0.1)
    assert told["seconds"] == pytest.approx(told["duration"], abs=0.1)
    assert told["frames"] >= 12  # a busy machine drops some
    assert told["soundBytes"] > 1000
    assert told["color"] == pytest.approx(RED, abs=12)


@needs_browser
def test_the_player_of_a_silent_clip_has_no_sound(tmp_path: Path) -> None:
    told = played(Clip(np.full((9, 64, 96, 3), RED, np.uint8), None, 24.0)._repr_html_(), tmp_path)
    assert "error" not in told
    assert told["soundBytes"] == 0
    assert told["color"] == pytest.approx(RED, abs=12)


@needs_browser
def test_sound_alone_has_a_player(tmp_path: Path) -> None:
    told = played(Clip(None, sound(0.5), 24.0)._repr_html_(), tmp_path)
    assert "error" not in told
    assert told["size"] == [0, 0]
    assert told["duration"] == pytest.approx(0.5, abs=0.1)
    assert told["soundBytes"] > 1000
