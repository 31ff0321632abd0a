"""Files come back as they were written, whole or not at all."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import soundstage.media.write as write
from soundstage.clip import Clip, read_provenance
from soundstage.errors import MediaError, RequestError
from soundstage.media.clip_pieces import ClipPieces, frame_rate
from soundstage.media.container import read_metadata
from soundstage.media.formats import output
from soundstage.media.image import shown_frames
from soundstage.request.request import Request
from tests.media_read import read_media

RATE = 48_000


def gradient(num_frames: int = 25, height: int = 64, width: int = 96) -> np.ndarray:
    """Smooth colours that move."""
    y, x = np.mgrid[0:height, 0:width]
    frames = [np.stack([x + 2 * t, 2 * y + t, np.full_like(x, 60 + 4 * t)], -1) for t in range(num_frames)]
    return np.stack(frames).astype(np.uint8)


def tones(seconds: float) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * t), 0.3 * np.sin(2 * np.pi * 880 * t)]).astype(np.float32)


def clip(waveform: np.ndarray | None, fps: float = 25.0) -> Clip:
    request = Request(prompt="a café, “rain”", seed=3, size=(96, 64))
    return Clip(gradient(), waveform, fps, {"request": request.to_dict(), "model": "test"})


def test_picture_and_sound_come_back(tmp_path: Path) -> None:
    path = clip(tones(1.0)).save(tmp_path / "a.mp4")
    media = read_media(path)
    assert media.frames is not None
    assert media.waveform is not None
    assert media.frames.shape == (25, 64, 96, 3)
    error = np.abs(media.frames.astype(int) - gradient()).mean(axis=(0, 1, 2))
    assert error.max() < 3  # a wrong colour matrix or range gives 10 and more
    assert media.fps == 25
    assert media.sample_rate_hz == RATE
    assert np.abs(media.waveform[:, : RATE - 1024] - tones(1.0)[:, : RATE - 1024]).max() < 0.05


def test_the_request_comes_back_from_the_file(tmp_path: Path) -> None:
    made = clip(tones(1.0))
    path = made.save(tmp_path / "a.mp4")
    assert read_provenance(path) == json.loads(json.dumps(made.provenance))
    assert Request(**read_provenance(path)["request"]) == made.request
    assert read_metadata(path)["title"] == made.request.prompt


def test_the_index_comes_before_the_data(tmp_path: Path) -> None:
    data = clip(None).save(tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_codecs_and_colour_tags(tmp_path: Path) -> None:
    with av.open(str(clip(tones(1.0)).save(tmp_path / "a.mp4"))) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (audio.codec_context.name, audio.codec_context.layout.name) == ("aac", "stereo")
        context = video.codec_context
        assert {int(context.color_primaries), int(context.color_trc), int(context.colorspace)} == {1}


@pytest.mark.parametrize("seconds", [0.6, 1.0, 1.7])
def test_sound_is_fitted_to_the_picture(tmp_path: Path, seconds: float) -> None:
    media = read_media(clip(tones(seconds)).save(tmp_path / "a.mp4"))
    assert media.waveform is not None
    assert abs(media.waveform.shape[1] - RATE) <= 1024  # one AAC frame of padding at most
    if seconds < 1:
        assert np.abs(media.waveform[:, round((seconds + 0.1) * RATE) : RATE - 1024]).max() < 0.01


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (24, Fraction(24)),
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (12.5, Fraction(25, 2)),
    ],
)
def test_frame_rates_stay_exact(tmp_path: Path, fps: float, rate: Fraction) -> None:
    assert frame_rate(fps) == rate
    assert read_media(clip(None, fps).save(tmp_path / "a.mp4")).fps == rate


def test_silent_picture_and_sound_alone(tmp_path: Path) -> None:
    assert read_media(clip(None).save(tmp_path / "a.mp4")).waveform is None
    sound = Clip(None, tones(0.5), 24.0, {"request": Request(prompt="x").to_dict()})
    media = read_media(sound.save(tmp_path / "a.wav"))
    assert media.frames is None
    assert media.waveform is not None
    assert media.waveform.shape == (2, RATE // 2)
    assert np.abs(media.waveform - tones(0.5)).max() < 2 / 32767
    assert read_provenance(tmp_path / "a.wav")["request"]["prompt"] == "x"
    with pytest.raises(MediaError, match=r"ending in \.wav"):
        sound.save(tmp_path / "a.mp4")


def test_broken_samples_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    waveform = tones(1.0)
    waveform[0, 7] = np.nan
    with pytest.raises(MediaError, match="1 samples that are NaN"):
        clip(waveform).save(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_no_file_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clip(None).save(tmp_path / "a.mp4")
    before = path.read_bytes()
    picture = write._picture

    def interrupted(frame: np.ndarray, index: int, rate: Fraction, layout: str) -> av.VideoFrame:
        if index == 80:  # past the encoder's look-ahead
            assert len(list(tmp_path.iterdir())) == 2  # the part is there
            raise KeyboardInterrupt
        return picture(frame, index, rate, layout)

    monkeypatch.setattr(write, "_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Clip(gradient(90), None, 25.0).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "says"),
    [("missing/a.mp4", "no folder"), ("a.avi", "ending in"), ("folder.mp4", "which is a folder")],
)
def test_unwritable_names_are_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(MediaError, match=says):
        clip(None).save(tmp_path / name)


@pytest.mark.parametrize("content", [None, b"", b"not a film at all" * 100])
def test_files_that_are_no_media_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=r"a\.mp4"):
        read_media(path)


def test_a_foreign_film_does_not_say_how_it_was_made(tmp_path: Path) -> None:
    write.write_film(output(tmp_path / "a.mp4", 25), ClipPieces.of_arrays(gradient(), 24.0, None, RATE))
    with pytest.raises(MediaError, match="does not say how it was made"):
        read_provenance(tmp_path / "a.mp4")


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="pass stereo"):
        Clip(gradient(2), tones(1.0)[:1], 24.0).save(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="pass uint8"):
        Clip(gradient(2)[0], None, 24.0).save(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="fps is 0; give a number above 0"):
        Clip(gradient(2), None, 0).save(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="sample_rate_hz is -1; give"):
        Clip(None, tones(1.0), 24.0, sample_rate_hz=-1).save(tmp_path / "a.wav")
    assert list(tmp_path.iterdir()) == []


def test_the_contact_sheet_shows_frames_over_the_waveform(tmp_path: Path) -> None:
    path = clip(tones(1.0)).contact_sheet(tmp_path / "a.png")
    page = np.asarray(Image.open(path))
    assert shown_frames(25) == [0, 3, 7, 10, 14, 17, 21, 24]
    frame = page[20 + 64, 4 + 96]  # the middle of the first frame
    assert np.abs(frame.astype(int) - gradient()[0, 32, 48]).max() < 8
    assert (page == write_colour(0)).all(axis=-1).any()
    assert (page == write_colour(1)).all(axis=-1).any()


def write_colour(channel: int) -> np.ndarray:
    from soundstage.media.image import WAVES

    return np.array(WAVES[channel], np.uint8)


def test_a_short_clip_shows_every_frame_once() -> None:
    assert shown_frames(1) == [0]
    assert shown_frames(3) == [0, 1, 2]


@pytest.mark.parametrize("provenance", [{}, {"request": 3}, {"request": []}, {"request": None}])
def test_a_clip_that_no_request_made_says_so(provenance: dict[str, Any], tmp_path: Path) -> None:
    clip = Clip(np.zeros((9, 32, 32, 3), np.uint8), None, 24.0, provenance)
    with pytest.raises(RequestError, match="the clip does not say how it was made"):
        _ = clip.request
    assert "9 frames" in repr(clip)
    assert clip.save(tmp_path / "a.mp4").is_file()
    assert "<video" in clip._repr_html_()
