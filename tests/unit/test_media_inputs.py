"""Inputs read from files: sizes without decoding, upright pictures, parts of clips, sounds, compression."""

from pathlib import Path

import numpy as np
import pytest

from soundstage.clip import Clip
from soundstage.errors import MediaError
from soundstage.media.in_memory import InMemory
from soundstage.media.load import compress, load_sound
from soundstage.media.probe import probe
from soundstage.request.request import Request
from tests.media_read import load_frames

RATE = 48_000


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 3, y * 4, (x + y) * 2], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = np.stack([np.full((32, 64, 3), 20 * i, np.uint8) for i in range(10)])
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE * 10 // 25) / RATE)
    clip = Clip(
        frames, np.stack([tone, tone]).astype(np.float32), 25.0, {"request": Request(prompt="a").to_dict()}
    )
    return clip.save(tmp_path_factory.mktemp("media") / "film.mp4")


def test_a_clip_is_probed_without_decoding(film: Path) -> None:
    info = probe(str(film))
    assert (info.width, info.height, info.num_frames, info.fps) == (64, 32, 10, 25)
    assert info.sound_s == pytest.approx(0.4, abs=0.05)


def test_arrays_are_probed_too() -> None:
    info = probe(InMemory(None, np.zeros((2, RATE // 2), np.float32)))
    assert (info.num_frames, info.sound_s) == (0, 0.5)


def test_some_frames_of_a_clip(film: Path) -> None:
    frames = load_frames(str(film), [1 / 25, 1.4 / 25, 4 / 25])
    assert frames.shape == (3, 32, 64, 3)
    assert np.abs(frames[:, 16, 32, 0].astype(int) - [20, 20, 80]).max() <= 3
    with pytest.raises(MediaError, match=r"can be read up to 0.4 s, and the picture at 0.48 s was asked for"):
        load_frames(str(film), [9 / 25, 12 / 25])


def test_a_stretch_of_sound(film: Path) -> None:
    samples, rate = load_sound(str(film), 0.1, 0.2)
    assert rate == RATE
    assert samples.shape == (2, RATE // 5)
    with pytest.raises(MediaError, match="so nothing is left from 3 s on"):
        load_sound(str(film), 3.0)


@pytest.mark.parametrize("name", ["missing.png", "missing.mp4"])
def test_missing_files_are_named(name: str) -> None:
    with pytest.raises(MediaError, match=rf"there is no file {name}"):
        probe(name)


def test_files_that_are_no_media_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "a.mp4"):
        path = tmp_path / name
        path.write_text("not media")
        with pytest.raises(MediaError, match="cannot be read"):
            probe(str(path))


def test_compression_loses_more_the_higher_it_is() -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (49, 65, 3), dtype=np.uint8)
    assert compress(noisy, 0) is noisy
    small, large = compress(noisy, 10), compress(noisy, 45)
    assert small.shape == large.shape == (48, 64, 3)
    errors = [np.abs(c.astype(int) - noisy[:48, :64]).mean() for c in (small, large)]
    assert errors[0] < errors[1]
