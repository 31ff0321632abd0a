"""Damaged media end in an error of ours or in what could be read, never in an exception of a library.

400 files: small ones of 18 kinds, each changed by flipped bytes, cuts, copied and removed stretches, zeroed
stretches or huge numbers in its header. Seeded: a failure names the file, which is kept in the test's folder.
"""

from __future__ import annotations

import io
import random
import struct
import traceback
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from soundstage.errors import SoundstageError
from soundstage.media.load import load_sound
from soundstage.media.probe import probe
from tests.media_read import load_frames

NUM_FILES = 400
FRAMES, SIZE = 12, (64, 48)
VIDEOS = {
    "mp4": ("libx264", "aac"),
    "mov": ("mpeg4", "pcm_s16le"),
    "mkv": ("libx264", "flac"),
    "webm": ("libvpx", "libopus"),
    "avi": ("mpeg4", "mp2"),
    "ts": ("mpeg2video", "mp2"),
}
SOUNDS = {
    "wav": "pcm_s16le",
    "flac": "flac",
    "mp3": "libmp3lame",
    "m4a": "aac",
    "ogg": "libopus",
    "aiff": "pcm_s16be",
}
PICTURES = ("png", "jpg", "gif", "webp", "tif", "bmp")


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    width, height = SIZE
    base = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    return [Image.fromarray(np.roll(base, 3 * i, axis=1)) for i in range(FRAMES)]


def write_container(path: Path, video: str | None, audio: str) -> None:
    with av.open(str(path), "w") as container:
        sound = container.add_stream(audio, rate=48_000)
        sound.layout = "stereo"
        shown = None
        if video is not None:
            shown = container.add_stream(video, rate=24)
            shown.width, shown.height = SIZE
            shown.pix_fmt = "yuv420p"
            for i, picture in enumerate(pictures()):
                frame = av.VideoFrame.from_image(picture).reformat(format="yuv420p")
                frame.pts, frame.time_base = i, Fraction(1, 24)
                container.mux(shown.encode(frame))
            container.mux(shown.encode(None))
        wave = (0.3 * np.sin(np.arange(24_000) / 20)).astype(np.float32)
        samples = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        samples.sample_rate, samples.pts, samples.time_base = 48_000, 0, Fraction(1, 48_000)
        resampler = av.AudioResampler(
            format=sound.codec_context.format,
            layout="stereo",
            rate=48_000,
            frame_size=sound.frame_size or None,
        )
        for piece in (*resampler.resample(samples), *resampler.resample(None)):
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))


def whole_files(folder: Path) -> dict[str, bytes]:
    """One whole small file of each kind, by its ending."""
    files = {}
    for suffix, (video, audio) in VIDEOS.items():
        write_container(folder / f"whole.{suffix}", video, audio)
        files[suffix] = (folder / f"whole.{suffix}").read_bytes()
    for suffix, audio in SOUNDS.items():
        write_container(folder / f"whole.{suffix}", None, audio)
        files[suffix] = (folder / f"whole.{suffix}").read_bytes()
    first, *rest = pictures()
    for suffix in PICTURES:
        stored = io.BytesIO()
        many = {"save_all": True, "append_images": rest[:3]} if suffix in ("gif", "webp") else {}
        first.save(stored, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **many)
        files[suffix] = stored.getvalue()
    return files


def flipped(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 4, 16, 64))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return data


def flipped_in_header(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 2, 6))):
        data[rng.randrange(min(256, len(data)))] = rng.randrange(256)
    return data


def cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def without_stretch(data: bytearray, rng: random.Random) -> bytearray:
    first = rng.randrange(len(data))
    del data[first : first + rng.randrange(1, 1 + len(data) // 4)]
    return data


def copied_stretch(data: bytearray, rng: random.Random) -> bytearray:
    first, to = rng.randrange(len(data)), rng.randrange(len(data))
    data[to:to] = data[first : first + rng.randrange(1, 2000)]
    return data


def zeroed(data: bytearray, rng: random.Random) -> bytearray:
    first = rng.randrange(len(data))
    length = min(rng.randrange(1, 1 + len(data) // 3), len(data) - first)
    data[first : first + length] = bytes(length)
    return data


def huge_number(data: bytearray, rng: random.Random) -> bytearray:
    """A count, size or time that cannot be, in either byte order, somewhere near the front."""
    at = rng.randrange(max(1, min(2048, len(data)) - 4))
    value = rng.choice((2**31 - 1, 2**32 - 1, 2**31, 2**24, 0))
    data[at : at + 4] = struct.pack(rng.choice(("<I", ">I")), value)
    return data


CHANGES: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    flipped,
    flipped_in_header,
    cut,
    without_stretch,
    copied_stretch,
    zeroed,
    huge_number,
)


def read_as_a_run_does(path: Path) -> None:
    """Probe a file, then read what a film of half a second would: some frames and some sound."""
    info = probe(str(path))
    if info.num_frames:
        times_s = [index / (info.fps or 24.0) for index in (0, 5, 11) if index < info.num_frames]
        frames = load_frames(str(path), times_s)
        assert frames.dtype == np.uint8
        assert frames.shape[0] == len(times_s)
        assert frames.shape[1:] == (info.height, info.width, 3)
    if info.sound_s is not None:
        waveform, rate_hz = load_sound(str(path), 0.1, 0.3)
        assert waveform.shape[0] == 2
        assert np.isfinite(waveform).all()
        assert rate_hz > 0


def outcome(path: Path) -> str | None:
    """None for a file that can be read, "" for one that is refused rightly, else what is wrong."""
    try:
        read_as_a_run_does(path)
    except SoundstageError as error:
        return "" if path.name in str(error) else f"the message does not name {path.name}: {error}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{path.name}: {type(error).__name__}: {error} at {where.filename}:{where.lineno}"
    return None


@pytest.mark.slow
def test_damaged_files_raise_nothing_but_our_own_errors(tmp_path: Path) -> None:
    rng = random.Random(20_261_128)
    whole = whole_files(tmp_path)
    for suffix in whole:
        (tmp_path / f"plain.{suffix}").write_bytes(whole[suffix])
        read_as_a_run_does(tmp_path / f"plain.{suffix}")
    failures: list[str] = []
    refused = 0
    for number in range(NUM_FILES):
        suffix = sorted(whole)[number % len(whole)]
        change = rng.choice(CHANGES)
        data = change(bytearray(whole[suffix]), rng)
        ending = rng.choice((suffix, suffix, suffix, "mp4", "png"))  # now and then a wrong one
        path = tmp_path / f"{number:03}-{change.__name__}.{ending}"
        path.write_bytes(data)
        problem = outcome(path)
        refused += problem == ""
        failures += [problem] if problem else []
    assert not failures, f"{len(failures)} of {NUM_FILES}:\n" + "\n".join(failures)
    assert 0 < refused < NUM_FILES
