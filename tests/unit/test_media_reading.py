"""Video and sound are read as a player shows them: one test for each trait of real files."""

from __future__ import annotations

import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

import soundstage as ss
from soundstage.errors import MediaError, RequestError
from soundstage.media.check import picture_notice, sound_notice
from soundstage.media.container import Decoder, read_metadata, signed_duration
from soundstage.media.load import frames_shown, load_sound
from soundstage.media.probe import probe
from soundstage.media.tracks import tracks
from tests.limits import LONG_S
from tests.media_files import (
    RATE_HZ,
    SIZE,
    Pipe,
    click,
    click_time,
    copied,
    corners,
    gray_of,
    grays,
    tone,
    write_film,
)
from tests.media_read import load_frames

LOSSLESS = {"crf": "4", "g": "12"}
NAMES = {(220, 20, 20): "r", (20, 200, 20): "g", (20, 20, 220): "b", (230, 230, 230): "w"}


def own_frames(path: Path, first: int = 0) -> np.ndarray:
    """All frames at the file's constant rate."""
    info = probe(str(path))
    assert info.fps is not None
    return load_frames(str(path), [i / info.fps for i in range(first, info.num_frames)])


def seen(frame: np.ndarray) -> str:
    """The colours of the four corners, top left, top right, bottom left, bottom right."""
    height, width = frame.shape[:2]
    places = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    near = [
        min(NAMES, key=lambda c: sum(abs(int(p) - q) for p, q in zip(frame[at], c, strict=True)))
        for at in places
    ]
    return "".join(NAMES[colour] for colour in near)


# --- shape -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "hflip", "vflip", "shown"),
    [
        (0, False, False, "rgbw"),
        (90, False, False, "gwrb"),
        (180, False, False, "wbgr"),
        (-90, False, False, "brwg"),
        (0, True, False, "grwb"),
        (0, False, True, "bwrg"),
        (90, True, False, "wgbr"),
    ],
)
def test_a_display_matrix_turns_and_mirrors(
    tmp_path: Path, degrees: int, hflip: bool, vflip: bool, shown: str
) -> None:
    path = tmp_path / "a.mp4"
    write_film(path, np.repeat(corners(), 3, 0), options=LOSSLESS, rotation=(degrees, hflip, vflip))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation in (degrees, 180, -degrees, -180)
    info = probe(str(path))
    assert (info.width, info.height) == (SIZE if degrees in (0, 180) else SIZE[::-1])
    frame = own_frames(path)[0]
    assert frame.shape[:2] == (info.height, info.width)
    assert seen(frame) == shown


def test_an_angle_between_is_shown_by_quarter_turns_and_said(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_film(path, np.repeat(corners(), 3, 0), options=LOSSLESS, rotation=(80, False, False))
    assert any("quarter turns" in notice for notice in probe(str(path)).notices)
    assert seen(own_frames(path)[0]) == "gwrb"


def test_pixels_are_made_square(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_film(
        path, np.repeat(corners(), 3, 0), tags={"sample_aspect_ratio": Fraction(4, 3)}, options=LOSSLESS
    )
    info = probe(str(path))
    assert (info.width, info.height) == (128, 64)
    assert info.notices == ("pixels of 4:3 are made square",)
    assert own_frames(path).shape == (3, 64, 128, 3)


def test_frames_of_another_size_within_a_stream_are_scaled(tmp_path: Path) -> None:
    parts = []
    for size in (SIZE, (64, 32)):
        write_film(tmp_path / "part.h264", grays([50] * 6, size), options=LOSSLESS, form="h264")
        parts.append((tmp_path / "part.h264").read_bytes())
    (tmp_path / "a.h264").write_bytes(b"".join(parts))
    assert own_frames(tmp_path / "a.h264").shape == (12, SIZE[1], SIZE[0], 3)


def test_interlaced_fields_are_made_whole(tmp_path: Path) -> None:
    fields = np.zeros((8, 64, 96, 3), np.uint8)
    for i in range(8):  # a bar that moves by 4 pixels from field to field
        for field in (0, 1):
            fields[i, field::2, 8 * i + 4 * field : 8 * i + 4 * field + 24] = 230
    path = tmp_path / "a.mkv"
    write_film(path, fields, 25, options={"crf": "1", "x264-params": "tff=1"})
    assert "interlaced fields are made whole frames" in probe(str(path)).notices
    frames = own_frames(path)
    assert len(frames) == 8
    combed = np.abs(np.diff(frames[3, :, :, 1].astype(int), axis=0)).max(axis=1)
    assert np.median(combed) < 60


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"), [("mov", "qtrle", "argb"), ("mov", "prores_ks", "yuva444p10le")]
)
def test_transparent_parts_are_black(tmp_path: Path, suffix: str, codec: str, pix_fmt: str) -> None:
    frames = np.full((3, 64, 96, 4), 200, np.uint8)
    frames[:, :, :48, 3], frames[:, :, 48:, 3] = 0, 255
    path = tmp_path / f"a.{suffix}"
    write_film(path, frames, codec=codec, pix_fmt=pix_fmt, from_format="rgba")
    shown = own_frames(path)[1]
    assert shown[32, 20].max() <= 2
    assert abs(int(shown[32, 76, 0]) - 200) <= 3
    assert "transparent parts are shown on black" in probe(str(path)).notices


# --- colour ------------------------------------------------------------------------------------------


def write_flat(path: Path, luma: int, **colours: int) -> None:
    """Nine frames of 10-bit luma, limited range, without colour."""
    planes = np.full((9, 64 * 3 // 2, 96), 512, np.uint16)
    planes[:, :64] = luma

    def tagged(frame: Any) -> None:
        for name, value in colours.items():
            setattr(frame, name, value)

    write_film(
        path,
        planes,
        codec="ffv1",
        pix_fmt="yuv420p10le",
        from_format="yuv420p10le",
        tags=colours,
        size=SIZE,
        frame_flags=tagged,
    )


@pytest.mark.parametrize(("transfer", "signal", "name"), [(16, 0.58, "PQ"), (18, 0.75, "HLG")])
def test_high_range_is_tone_mapped_so_that_reference_white_is_near_white(
    tmp_path: Path, transfer: int, signal: float, name: str
) -> None:
    shown = []
    for code in (0.0, 0.3, signal, 1.0):
        path = tmp_path / f"{code}.mkv"
        write_flat(path, round(64 + 876 * code), color_trc=transfer, color_primaries=9, colorspace=9)
        assert probe(str(path)).notices == (f"high dynamic range ({name}) is tone-mapped to standard range",)
        pixel = own_frames(path)[4, 32, 48].astype(int)
        assert pixel.max() - pixel.min() <= 1
        shown.append(int(pixel[0]))
    assert shown[0] == 0
    assert 30 < shown[1] < 120
    assert 225 <= shown[2] <= 235
    assert shown[3] == 255


def test_frames_of_high_range_come_no_larger_than_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_flat(path, 500, color_trc=16, color_primaries=9, colorspace=9)
    whole = load_frames(str(path), [0.1])[0]
    small = next(frames_shown(str(path), [0.1], at_least=(40, 30)))
    assert (whole.shape, small.shape) == ((64, 96, 3), (32, 48, 3))
    assert np.abs(small.astype(int) - whole[::2, ::2]).max() <= 1


def test_wide_colours_are_brought_to_those_of_the_model(tmp_path: Path) -> None:
    from soundstage.media.colour import mapped

    full = np.array([[[0, 65535, 0], [32768, 32768, 32768]]], np.uint16)
    assert mapped(full, 1, 9).tolist() == [[[0, 255, 0], [128, 128, 128]]]
    # A BT.709 green of 0.5 in light is (0.165, 0.460, 0.044) in BT.2020 light.
    light = np.array([[[0.1646, 0.4598, 0.0440]]]) ** (1 / 2.4)
    back = mapped((light * 65535).astype(np.uint16), 1, 9)[0, 0].astype(int)
    assert np.abs(back - [0, round(255 * 0.5 ** (1 / 2.4)), 0]).max() <= 6


@pytest.mark.parametrize(
    ("colours", "named"),
    [
        ({"color_trc": 9}, "logarithmic"),
        ({"colorspace": 14}, "ICtCp"),
        ({"color_primaries": 10}, "number 10"),
    ],
)
def test_colours_that_are_not_known_are_refused_by_name(
    tmp_path: Path, colours: dict[str, int], named: str
) -> None:
    path = tmp_path / "a.mkv"
    write_flat(path, 500, **colours)
    with pytest.raises(MediaError, match=rf"a\.mkv has the .*{named}"):
        probe(str(path))


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("full", [False, True])
def test_range_and_matrix_are_those_the_stream_states(tmp_path: Path, matrix: int, full: bool) -> None:
    kr, kb = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    red, green, blue = 200 / 255, 60 / 255, 30 / 255
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    codes = [255 * luma, 128 + 255 * cb, 128 + 255 * cr]
    if not full:
        codes = [16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr]
    planes = np.repeat(np.round(codes).astype(np.uint8), 64 * 96).reshape(1, 3, 64, 96)

    def tagged(frame: Any) -> None:
        frame.colorspace, frame.color_range = matrix, 2 if full else 1

    path = tmp_path / "a.mkv"
    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    write_film(
        path,
        planes,
        codec="ffv1",
        pix_fmt="yuv444p",
        from_format="yuv444p",
        tags=tags,
        frame_flags=tagged,
        size=SIZE,
    )
    assert np.abs(own_frames(path)[0, 32, 48].astype(int) - [200, 60, 30]).max() <= 3


# --- time --------------------------------------------------------------------------------------------


def test_frames_at_any_time_are_sampled_by_their_times(tmp_path: Path) -> None:
    times = [i / 30 for i in range(15)] + [1.5 + i / 30 for i in range(16)]
    frames = grays(round(20 + 100 * time) for time in times)
    path = tmp_path / "a.mp4"
    write_film(path, frames, 30, times_s=times, options=LOSSLESS)
    info = probe(str(path))
    assert info.fps == 30
    assert info.num_frames == 61
    shown = (np.array(gray_of(own_frames(path))) - 20) / 100
    true = [max(t for t in times if t <= i / 30 + 1e-6) for i in range(61)]
    assert np.abs(shown - true).max() < 0.03


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mov", "flv"])
@pytest.mark.parametrize("fps", [24.0, 24000 / 1001, 30.0])
def test_a_steady_clip_gives_exactly_its_own_frames(tmp_path: Path, suffix: str, fps: float) -> None:
    path = tmp_path / f"a.{suffix}"
    frames = grays(range(20, 220, 5))
    write_film(
        path,
        frames,
        fps,
        codec="mpeg4" if suffix == "avi" else "libx264",
        options={"g": "12", "b": "2000000"},
    )
    info = probe(str(path))
    assert info.fps == pytest.approx(fps, rel=1e-4)
    assert info.num_frames == 40
    assert np.abs(np.array(gray_of(own_frames(path))) - range(20, 220, 5)).max() <= 2


@pytest.mark.parametrize("count", [2, 3, 4, 9])
@pytest.mark.parametrize("fps", [24.0, 30.0, 60000 / 1001])
def test_a_few_frames_in_milliseconds_have_their_own_rate(tmp_path: Path, count: int, fps: float) -> None:
    path = tmp_path / "a.mkv"
    write_film(path, grays(range(20, 20 + 20 * count, 20)), fps, options=LOSSLESS)
    info = probe(str(path))
    assert (info.fps, info.num_frames) == (pytest.approx(fps, rel=1e-9), count)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("fps", "count"), [(25.0, 130), (12.5, 40), (15.0, 60), (7.0, 20)])
def test_the_last_frame_is_shown_whatever_its_length(
    tmp_path: Path, suffix: str, fps: float, count: int
) -> None:
    """The file states 30 frames per second and, of its last one, a thirtieth."""
    path = tmp_path / f"a.{suffix}"
    levels = np.linspace(20, 220, count).round()
    write_film(path, grays(levels), 30, times_s=[i / fps for i in range(count)], options=LOSSLESS)
    info = probe(str(path))
    assert (info.fps, info.num_frames) == (pytest.approx(fps, rel=1e-3), count)
    assert np.abs(np.array(gray_of(own_frames(path))) - levels).max() <= 3


def test_an_index_that_ends_before_the_last_frame_is_not_believed(tmp_path: Path) -> None:
    """Slides that were stored out of order: the lengths in the index add up to less than what is shown."""
    path = tmp_path / "a.mp4"
    write_film(path, grays([20, 70, 120, 170, 220]), 30, times_s=[0, 0.5, 2.0, 2.1, 4.9], options={"bf": "3"})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration * stream.time_base < 4.9
    info = probe(str(path))
    assert 4.9 < info.num_frames / info.fps < 5.6
    assert gray_of(own_frames(path))[-1] == pytest.approx(220, abs=3)


@pytest.mark.parametrize("fps", [24.0, 24000 / 1001, 30.0, 30000 / 1001])
@pytest.mark.parametrize("lost", [(), (50,)])
def test_frames_stored_out_of_order_in_milliseconds_have_their_own_rate(
    tmp_path: Path, fps: float, lost: tuple[int, ...]
) -> None:
    """The first packets lack some that are shown before their last; and a lost frame is no other rate."""
    path = tmp_path / "a.mkv"
    times = [i / fps for i in range(150) if i not in lost]
    write_film(path, grays([90] * len(times)), fps, times_s=times, options={"bf": "3", "preset": "ultrafast"})
    info = probe(str(path))
    assert (info.fps, info.num_frames) == (pytest.approx(fps, rel=1e-9), 150)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="PyAV writes no Theora; FFmpeg's program does")
def test_frames_that_repeat_the_one_before_are_no_damage(tmp_path: Path) -> None:
    """Theora writes such a frame as a packet without bytes."""
    path = tmp_path / "a.ogv"
    parts = [f"color={name}:s=64x64:r=24:d=0.5" for name in ("white", "black", "white")]
    inputs = [word for part in parts for word in ("-f", "lavfi", "-i", part)]
    sound = ["-f", "lavfi", "-i", "sine=440:d=1.4583", "-filter_complex", "[0][1][2]concat=n=3"]
    subprocess.run(
        ["ffmpeg", "-v", "error", *inputs, *sound, "-c:v", "libtheora", "-c:a", "libvorbis", str(path)],
        check=True,
        timeout=LONG_S,
    )
    info = probe(str(path))
    assert info.sound_s == pytest.approx(1.4583, abs=0.05)
    levels = np.array(gray_of(own_frames(path)))
    assert ((levels > 128) == [i // 12 != 1 for i in range(len(levels))]).all()
    assert len(levels) > 24
    assert picture_notice(str(path), 0.0, 1.0) is None


def test_frames_of_an_avi_are_shown_in_order(tmp_path: Path) -> None:
    """AVI states no times of presentation; H.264 stores its frames in another order."""
    path = tmp_path / "a.avi"
    levels = range(20, 220, 5)
    write_film(
        path, grays(levels), options={**LOSSLESS, "bf": "3", "b-pyramid": "normal"}, waves=[click(1.0, 1.6)]
    )
    info = probe(str(path))
    assert (info.fps, info.num_frames) == (24, 40)
    assert np.abs(np.array(gray_of(own_frames(path))) - levels).max() <= 3
    assert np.abs(np.array(gray_of(load_frames(str(path), [30 / 24, 35 / 24]))) - [170, 195]).max() <= 3
    assert click_time(*load_sound(str(path))) == pytest.approx(1.0, abs=0.01)
    assert picture_notice(str(path), 0.0, 1.6) is None


def test_a_length_below_nothing_has_its_sign() -> None:
    """FFmpeg's Ogg reader gives the last packet such a length, and the sound would last for a day."""
    lengths = [None, 0, 1024, 2**32 - 112]
    assert [signed_duration(SimpleNamespace(duration=d)) for d in lengths] == [0, 0, 1024, -112]


def test_frames_hidden_by_a_cut_are_not_shown(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    write_film(
        whole, grays(range(20, 116)), options={"g": "48", "crf": "4", "bf": "0"}, waves=[click(1.5, 4)],
        audio_codec="aac",
    )  # fmt: skip
    copied(whole, cut, shift_s=-16 / 24)
    shown = gray_of(own_frames(cut))
    assert len(shown) == 96 - 16
    assert abs(shown[0] - 36) <= 2
    samples, rate = load_sound(str(cut))
    assert click_time(samples, rate) == pytest.approx(1.5 - 16 / 24, abs=0.03)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_a_sound_that_starts_later_is_heard_later(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    audio = {"mkv": "pcm_s16le", "mp4": "aac", "ts": "mp2"}[suffix]
    write_film(
        path, grays([90] * 49), waves=[click(0.5, 1.5)], audio_codec=audio, sound_start_s=0.5, start_s=0.0
    )
    samples, rate = load_sound(str(path))
    assert click_time(samples, rate) == pytest.approx(1.0, abs=0.03)
    assert click_time(load_sound(str(path), 0.9, 0.5)[0], rate) == pytest.approx(0.1, abs=0.03)


def test_a_picture_that_starts_later_is_held_until_its_time(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_film(path, grays(range(50, 98)), start_s=0.5, options=LOSSLESS, waves=[click(0.25, 2.5)])
    shown = gray_of(own_frames(path))
    assert len(shown) == 60
    assert abs(shown[12] - 50) <= 1
    assert abs(shown[59] - 97) <= 1
    assert click_time(*load_sound(str(path))) == pytest.approx(0.25, abs=0.03)


def test_times_of_a_broadcast_begin_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    write_film(
        path, grays(range(50, 98)), start_s=1000, options=LOSSLESS, waves=[click(1, 2)], audio_codec="mp2",
        sound_start_s=1000,
    )  # fmt: skip
    assert probe(str(path)).num_frames == 48
    assert abs(gray_of(own_frames(path, first=30))[0] - 80) <= 1
    assert click_time(*load_sound(str(path))) == pytest.approx(1, abs=0.04)


def test_recordings_that_were_joined_go_on_one_after_the_other(tmp_path: Path) -> None:
    parts = []
    for first, size in ((50, SIZE), (120, (64, 32))):
        part = tmp_path / f"{first}.ts"
        wave = click(0.5, 2)
        write_film(
            part, grays(range(first, first + 48), size), options=LOSSLESS, waves=[wave], audio_codec="mp2",
            start_s=1, sound_start_s=1,
        )  # fmt: skip
        parts.append(part.read_bytes())
    path = tmp_path / "a.ts"
    path.write_bytes(b"".join(parts))
    info = probe(str(path))
    assert info.num_frames == pytest.approx(96, abs=2)
    assert info.sound_s == pytest.approx(4, abs=0.15)
    times_s = [10 / 24, 70 / 24, 90 / 24]
    assert np.abs(np.array(gray_of(load_frames(str(path), times_s))) - [60, 142, 162]).max() <= 3
    assert np.abs(np.array(gray_of(load_frames(str(path), times_s[2:]))) - [162]).max() <= 3
    assert click_time(*load_sound(str(path), 2.2, 1.0)) == pytest.approx(0.3, abs=0.1)


def live_webm(frames: np.ndarray | None) -> bytes:
    pipe = Pipe()
    write_film(
        pipe, frames, codec="libvpx", options={"b": "2M", "g": "12"}, waves=[click(1.0, 2.0)],
        audio_codec="libopus", container={"live": "1"}, form="webm",
    )  # fmt: skip
    return bytes(pipe.data)


def test_a_browsers_recording_has_neither_length_nor_index(tmp_path: Path) -> None:
    path = tmp_path / "camera.webm"
    path.write_bytes(live_webm(grays(range(50, 98))))
    with av.open(str(path)) as container:
        assert container.duration is None
    info = probe(str(path))
    assert (info.num_frames, info.fps) == (48, 24)
    assert info.sound_s == pytest.approx(2.0, abs=0.05)
    assert np.abs(np.array(gray_of(own_frames(path, first=40))) - range(90, 98)).max() <= 3
    voice = tmp_path / "voice.webm"
    voice.write_bytes(live_webm(None))
    assert probe(str(voice)).sound_s == pytest.approx(2.0, abs=0.05)
    assert click_time(*load_sound(str(voice), 0.9, 0.5)) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("form", ["h264", "mpeg2video"])
def test_a_raw_stream_has_no_times_at_all(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    codec = "libx264" if form == "h264" else "mpeg2video"
    write_film(path, grays(range(20, 116)), 25, codec=codec, options={"g": "12", "b": "4000000"}, form=form)
    info = probe(str(path))
    assert (info.num_frames, info.fps) == (96, 25)
    assert np.abs(np.array(gray_of(own_frames(path, first=90))) - range(110, 116)).max() <= 3


# --- streams and tags --------------------------------------------------------------------------------


def test_the_cover_of_a_sound_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("libmp3lame", rate=RATE_HZ)
        cover = out.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(grays([80], (32, 32))[0], format="rgb24")
        out.mux(cover.encode(frame))
        out.mux(cover.encode(None))
        piece = av.AudioFrame.from_ndarray(tone(1.0), format="fltp", layout="stereo")
        piece.sample_rate = RATE_HZ
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=RATE_HZ, frame_size=1152)
        for part in (*resampler.resample(piece), *resampler.resample(None)):
            out.mux(sound.encode(part))
        out.mux(sound.encode(None))
    info = probe(str(path))
    assert (info.width, info.num_frames) == (0, 0)
    assert info.sound_s == pytest.approx(1.0, abs=0.05)


def test_tags_in_another_encoding_are_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_film(path, grays([90] * 3), waves=[tone(0.2)], metadata={"title": "FXr Elise"})
    path.write_bytes(path.read_bytes().replace(b"FXr", b"F\xfcr"))
    assert probe(str(path)).num_frames == 3
    assert read_metadata(path)["title"] == "F\ufffdr Elise"


# --- sound -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_samples_of_every_depth_are_at_their_level(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.wav"
    wave = tone(0.2)
    write_film(path, waves=[wave], audio_codec=codec)
    samples, rate = load_sound(str(path))
    assert rate == RATE_HZ
    assert samples.shape == wave.shape
    assert np.abs(samples - wave).max() < (0.01 if codec == "pcm_u8" else 1e-4)
    assert abs(samples.mean()) < 0.005


def test_mono_is_on_both_sides_at_its_own_level(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    wave = tone(0.2, channels=1)
    write_film(path, waves=[wave])
    samples, _ = load_sound(str(path))
    assert np.abs(samples - wave).max() < 1e-4


@pytest.mark.parametrize(("channels", "total"), [(6, 2.414), (8, 3.121)])
def test_surround_is_folded_down_by_the_models_rule(tmp_path: Path, channels: int, total: float) -> None:
    path = tmp_path / "a.wav"
    for loud in range(channels):
        wave = np.zeros((channels, RATE_HZ // 10), np.float32)
        wave[loud] = 0.5
        write_film(path, waves=[wave])
        left, right = load_sound(str(path))[0][:, 1000].tolist()
        gains = [(1, 0), (0, 1), (0.707, 0.707), (0, 0), (0.707, 0), (0, 0.707), (0.707, 0), (0, 0.707)]
        assert (left, right) == pytest.approx([0.5 * gain / total for gain in gains[loud]], abs=1e-4)
        os.utime(path, ns=(loud, loud))  # another content under the same name


def test_eight_channels_in_planes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    write_film(path, waves=[tone(0.5, channels=8, level=0.6)], audio_codec="aac")
    samples, rate = load_sound(str(path))
    assert samples.shape == (2, rate // 2)
    assert np.abs(samples[:, 5000:20000]).max() == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize(
    ("codec", "suffix"), [("aac", "m4a"), ("libopus", "webm"), ("libmp3lame", "mp3"), ("libopus", "ogg")]
)
def test_what_an_encoder_puts_in_front_is_cut(tmp_path: Path, codec: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write_film(path, waves=[click(0.5, 3.0)], audio_codec=codec)
    assert click_time(*load_sound(str(path))) == pytest.approx(0.5, abs=0.003)
    assert probe(str(path)).sound_s == pytest.approx(3.0, abs=0.03)


def test_a_stretch_of_sound_is_where_it_is_in_the_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = np.convolve(rng.normal(0, 0.2, RATE_HZ * 8), np.ones(20) / 5, "same").astype(np.float32)
    for suffix, codec in (
        ("m4a", "aac"),
        ("mkv", "libopus"),
        ("mp3", "libmp3lame"),
        ("flac", "flac"),
        ("ogg", "libopus"),
    ):
        path = tmp_path / f"a.{suffix}"
        write_film(path, waves=[np.stack([noise, noise])], audio_codec=codec)
        whole, rate = load_sound(str(path))
        piece, _ = load_sound(str(path), 5.0, 0.5)
        assert piece.shape == (2, rate // 2)
        lags = range(-48, 49)  # a container of milliseconds may be off by as much
        errors = [
            np.abs(whole[0, 5 * rate + lag : 5 * rate + lag + rate // 2] - piece[0]).max() for lag in lags
        ]
        assert min(errors) < 0.05, suffix  # decoders of AAC fill in noise of their own


def test_a_rate_that_changes_within_keeps_its_pitch(tmp_path: Path) -> None:
    parts = []
    for rate in (44_100, 48_000):
        write_film(
            tmp_path / "part.mp3", waves=[tone(1.0, rate)], audio_codec="libmp3lame", rate_hz=rate,
            container={"write_xing": "0", "id3v2_version": "0"},
        )  # fmt: skip
        parts.append((tmp_path / "part.mp3").read_bytes())
    path = tmp_path / "a.mp3"
    path.write_bytes(b"".join(parts))
    samples, rate = load_sound(str(path))
    second = samples[0, round(1.3 * rate) : round(1.8 * rate)]
    spectrum = np.abs(np.fft.rfft(second * np.hanning(len(second))))
    assert np.fft.rfftfreq(len(second), 1 / rate)[spectrum.argmax()] == pytest.approx(440, abs=3)


def test_channels_that_change_within_are_all_heard(tmp_path: Path) -> None:
    parts = []
    for channels in (2, 1):
        write_film(
            tmp_path / "part.mp3", waves=[tone(1.0, 44_100, channels)], audio_codec="libmp3lame",
            rate_hz=44_100, container={"write_xing": "0", "id3v2_version": "0"},
        )  # fmt: skip
        parts.append((tmp_path / "part.mp3").read_bytes())
    path = tmp_path / "a.mp3"
    path.write_bytes(b"".join(parts))
    samples, rate = load_sound(str(path))
    for first in (0.3, 1.4):
        assert np.abs(samples[:, round(first * rate) : round((first + 0.4) * rate)]).max() == pytest.approx(
            0.5, abs=0.05
        )


def test_a_gap_in_the_times_is_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE_HZ)
        stream.layout = "stereo"
        for at in (*range(10), *range(20, 30)):  # tenths of a second; the second one is missing
            packed = (tone(0.1).T.reshape(1, -1) * 32767).astype(np.int16)
            piece = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
            piece.sample_rate, piece.pts, piece.time_base = RATE_HZ, at * RATE_HZ // 10, Fraction(1, RATE_HZ)
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    samples, rate = load_sound(str(path))
    assert samples.shape[1] == pytest.approx(3 * rate, abs=100)
    level = [float(np.abs(samples[:, i * rate : (i + 1) * rate]).max()) for i in range(3)]
    assert level == pytest.approx([0.5, 0.0, 0.5], abs=0.01)


# --- damage ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "whole.mp4"
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (72, 64, 96, 3), dtype=np.uint8)
    write_film(
        path, frames, options={"crf": "18", "g": "12"}, waves=[tone(3.0)], audio_codec="aac",
        container={"movflags": "+faststart"},
    )  # fmt: skip
    return path


def test_a_film_that_was_cut_off_says_how_far_it_can_be_read(whole_film: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    data = whole_film.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    info = probe(str(path))
    assert info.listed_s == pytest.approx(3.0, abs=0.1)
    assert 20 < info.num_frames < 60
    assert len(load_frames(str(path), [0.1, 0.5])) == 2
    with pytest.raises(MediaError, match=r"cut.mp4 can be read up to .* s of its 3 s"):
        load_frames(str(path), [2.9])
    assert probe(str(whole_film)).listed_s is None


def test_damage_in_the_middle_is_bridged_and_told_or_refused(whole_film: Path, tmp_path: Path) -> None:
    with av.open(str(whole_film)) as container:
        stream = container.streams.video[0]
        spans = [(p.pos, p.size, float(p.pts * p.time_base)) for p in container.demux(stream) if p.size]
    data = bytearray(whole_film.read_bytes())
    for pos, size, time_s in spans:
        if 1.0 <= time_s < 1.1:
            data[pos : pos + size] = bytes(size)
    path = tmp_path / "few.mp4"
    path.write_bytes(data)
    assert picture_notice(str(path), 0.0, 0.5) is None
    notice = picture_notice(str(path), 0.0, 2.9)
    assert notice is not None
    assert "pictures from 1" in notice
    assert "are damaged" in notice
    for pos, size, time_s in spans:
        if time_s >= 1.0:
            data[pos : pos + size] = bytes(size)
    path = tmp_path / "many.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"many.mp4 is damaged at"):
        picture_notice(str(path), 0.0, 2.9)


def test_damaged_sound_is_told_or_refused(whole_film: Path, tmp_path: Path) -> None:
    with av.open(str(whole_film)) as container:
        stream = container.streams.audio[0]
        spans = [(p.pos, p.size, float(p.pts * p.time_base)) for p in container.demux(stream) if p.size]
    data = bytearray(whole_film.read_bytes())
    rng = np.random.default_rng(0)
    for pos, size, time_s in spans:
        if time_s >= 2.0:
            data[pos : pos + size] = rng.bytes(size)
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    assert sound_notice(str(path), 0.0, 1.5) is None
    assert "damaged and silent" in str(sound_notice(str(path), 0.0, 2.5))
    with pytest.raises(MediaError, match=r"a.mp4 is damaged from 2.1 s on"):
        load_sound(str(path), 2.1, 0.8)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 50, bytes(10_000)])
def test_what_is_no_film_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"a\.mp4 (is empty|cannot be read as a picture, video or sound)"):
        probe(str(path))


def test_folders_and_names_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("nowhere.mp4")
    with pytest.raises(MediaError, match="there is no file"):
        probe(str(tmp_path / "a.mp4"))
    with pytest.raises(MediaError, match="is a folder"):
        probe(str(tmp_path))
    with pytest.raises(MediaError, match="cannot be opened"):
        probe("x" * 5000)


# --- plans -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage() -> ss.Engine:
    return ss.load("nano")


def voiced(path: Path, **asked: Any) -> ss.Request:
    return ss.Request(prompt="a", source=ss.Source(str(path), modalities={"audio"}), size=(96, 64), **asked)


def test_a_plan_refuses_a_film_that_was_cut_off_unless_a_part_is_asked_for(
    stage: ss.Engine, whole_film: Path, tmp_path: Path
) -> None:
    path = tmp_path / "cut.mp4"
    data = whole_film.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(RequestError, match=r"cut.mp4 is incomplete: of its 3 s only .* s can be read"):
        stage.plan(voiced(path))
    assert stage.plan(voiced(path, duration_s=0.7)).num_frames == 17


def test_a_plan_tells_damage_that_is_bridged_and_refuses_what_cannot_be_read(
    stage: ss.Engine, whole_film: Path, tmp_path: Path
) -> None:
    with av.open(str(whole_film)) as container:
        spans = [
            (p.pos, p.size, float(p.pts * p.time_base))
            for p in container.demux(container.streams.video[0])
            if p.size
        ]
    for last, told in ((1.1, "notice"), (9.0, "error")):
        data = bytearray(whole_film.read_bytes())
        for pos, size, time_s in spans:
            if 1.0 <= time_s < last:
                data[pos : pos + size] = bytes(size)
        path = tmp_path / f"{told}.mp4"
        path.write_bytes(data)
        if told == "notice":
            assert any("are damaged" in notice for notice in stage.plan(voiced(path)).notices)
        else:
            with pytest.raises(RequestError, match=r"source.video: .*error.mp4 is damaged at"):
                stage.plan(voiced(path))


def test_a_plan_says_what_is_done_to_colours(stage: ss.Engine, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_flat(path, 500, color_trc=16, color_primaries=9, colorspace=9)
    notices = stage.plan(voiced(path)).notices
    assert any("high dynamic range (PQ) is tone-mapped to standard range" in notice for notice in notices)


# --- names -------------------------------------------------------------------------------------------


def test_a_name_is_a_file_whatever_protocol_it_looks_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(Path("white.mp4"), grays([230] * 3))
    write_film(Path("other.mp4"), grays([20] * 3))
    for name in ("concat:other.mp4", "cache:other.mp4", "2024-01-01T10:30:00.mp4", "-i", "a?b#c%20.mp4"):
        shutil.copy("white.mp4", name)
        assert gray_of(own_frames(Path(name)))[0] > 200


@pytest.mark.parametrize(
    "content",
    [
        "ffconcat version 1.0\nfile other.ts\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nother.ts\n#EXT-X-ENDLIST\n",
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "ffconcat"])
def test_a_list_of_other_files_is_not_followed(tmp_path: Path, content: str, suffix: str) -> None:
    write_film(tmp_path / "other.ts", grays([20] * 6))
    path = tmp_path / f"a.{suffix}"
    path.write_text(content)
    with pytest.raises(MediaError, match="cannot be read as a picture, video or sound"):
        probe(str(path))


# --- work --------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is decoded: the kind of stream of every packet."""
    kinds: list[str] = []
    decode = Decoder._decode

    def counted(self: Decoder, packet: Any, by: Any) -> list[Any]:
        kinds.append(self.kind)
        return decode(self, packet, by)

    monkeypatch.setattr(Decoder, "_decode", counted)
    return kinds


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "live"])
def test_only_the_stretch_that_is_asked_for_is_decoded(tmp_path: Path, decoded: list[str], kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    frames = grays((i // 4 for i in range(960)), (32, 32))
    options = {"g": "24", "crf": "4"}
    sound = {"waves": [tone(40)], "audio_codec": "libopus" if kind == "live" else "mp2"}
    if kind == "live":
        pipe = Pipe()
        write_film(
            pipe, frames, codec="libx264", options=options, form="matroska", container={"live": "1"}, **sound
        )
        path.write_bytes(bytes(pipe.data))
    else:
        write_film(path, frames, options=options, **sound)
    info = probe(str(path))
    assert info.num_frames == 960
    assert decoded.count("video") < 30
    assert decoded.count("audio") < 120
    decoded.clear()
    assert np.abs(np.array(gray_of(load_frames(str(path), [30.0, 30.5]))) - [180, 183]).max() <= 2
    assert decoded.count("video") < 100
    decoded.clear()
    load_sound(str(path), 30.0, 0.5)
    assert decoded.count("audio") < 150


def test_a_file_is_looked_into_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mkv"
    write_film(path, grays([20] * 6))
    opens: list[str] = []
    original = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opens.append(a[0]) or original(*a, **k))
    first = probe(str(path))
    count = len(opens)
    assert probe(str(path)) == first
    assert tracks(path).num_frames == 6
    assert len(opens) == count
    write_film(path, grays([20] * 12))
    assert probe(str(path)).num_frames == 12
