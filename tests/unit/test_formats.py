"""A clip comes back from every format as it was written, with its provenance, or is refused first."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from soundstage.cli.program import app
from soundstage.clip import Clip, read_provenance
from soundstage.errors import MediaError
from soundstage.media import formats
from soundstage.media.load import frames_shown
from soundstage.media.picture import picture_info
from soundstage.request.request import Request
from tests.media_read import read_media

RATE, FPS, NUM_FRAMES = 48_000, 25.0, 25
PROVENANCE = {"request": Request(prompt="a café, “rain”", seed=3).to_dict(), "model": "test"}
FILMS = [
    (ending, codec)
    for ending, form in formats.FORMATS.items()
    if form.kind == "film"
    for codec in form.codecs
    if not formats.CODECS[codec].light  # test_hdr_files.py has those
]


def picture(num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Smooth colours that move."""
    y, x = np.mgrid[0:64, 0:96]
    frames = [np.stack([x + 2 * t, 2 * y + t, np.full_like(x, 60 + 4 * t)], -1) for t in range(num_frames)]
    return np.stack(frames).astype(np.uint8)


def tones(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * t), 0.3 * np.sin(2 * np.pi * 880 * t)]).astype(np.float32)


def clip(num_frames: int = NUM_FRAMES, **values: Any) -> Clip:
    return Clip(picture(num_frames), tones(num_frames / FPS), FPS, PROVENANCE, **values)


def sound(rate: int = RATE) -> Clip:
    return Clip(None, tones(1.0, rate), FPS, PROVENANCE, rate)


def error(shown: np.ndarray, meant: np.ndarray) -> float:
    return float(np.abs(shown.astype(int) - meant).mean())


# --- Films, sounds, pictures --------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "codec"), FILMS)
def test_a_film_comes_back(tmp_path: Path, ending: str, codec: str) -> None:
    path = clip().save(tmp_path / f"a{ending}", codec=codec)
    media = read_media(path)
    assert media.frames is not None
    assert media.waveform is not None
    assert media.frames.shape == (NUM_FRAMES, 64, 96, 3)
    assert media.fps == FPS
    assert error(media.frames, picture()) < (0.01 if codec == "ffv1" else 3)
    assert abs(media.waveform.shape[1] - RATE) <= 1024
    inner = slice(4800, RATE - 4800)
    assert np.abs(media.waveform[:, inner] - tones()[:, inner]).max() < 0.05
    assert read_provenance(path) == json.loads(json.dumps(PROVENANCE))


@pytest.mark.parametrize("rate", [48_000, 44_100, 16_000])
@pytest.mark.parametrize(
    ("ending", "codec"),
    [(".wav", None), (".flac", None), (".mp3", None), (".m4a", "aac"), (".m4a", "alac")],
)
def test_a_sound_comes_back(tmp_path: Path, ending: str, codec: str | None, rate: int) -> None:
    path = sound(rate).save(tmp_path / f"a{ending}", codec=codec)
    media = read_media(path)
    assert media.frames is None
    assert media.waveform is not None
    assert media.sample_rate_hz == rate
    whole = ending in (".wav", ".flac") or codec == "alac"
    assert abs(media.waveform.shape[1] - rate) <= (0 if whole else 2304)
    inner = slice(rate // 10, rate - rate // 10)
    assert np.abs(media.waveform[:, inner] - tones(1.0, rate)[:, inner]).max() < (1e-4 if whole else 0.05)
    assert read_provenance(path) == json.loads(json.dumps(PROVENANCE))


def test_a_webm_takes_a_sound_of_any_rate(tmp_path: Path) -> None:
    media = read_media(Clip(picture(), tones(1.0, 44_100), FPS, PROVENANCE, 44_100).save(tmp_path / "a.webm"))
    assert media.waveform is not None
    assert media.sample_rate_hz == RATE
    inner = slice(4800, RATE - 4800)
    assert np.abs(media.waveform[:, inner] - tones()[:, inner]).max() < 0.05


@pytest.mark.parametrize(("ending", "most"), [(".gif", 6), (".webp", 5)])
def test_an_animation_comes_back(tmp_path: Path, ending: str, most: float) -> None:
    path = clip().save(tmp_path / f"a{ending}")
    info = picture_info(path)
    assert (info.width, info.height, info.num_frames, info.fps) == (96, 64, NUM_FRAMES, FPS)
    times_s = [(i + 0.5) / FPS for i in range(NUM_FRAMES)]
    assert error(np.stack(list(frames_shown(str(path), times_s, FPS))), picture()) < most
    assert read_provenance(path) == json.loads(json.dumps(PROVENANCE))


@pytest.mark.parametrize(("fps", "frames"), [(24.0, 24), (30.0, 30), (60.0, 30)])
def test_a_gif_lasts_as_long_as_its_clip(tmp_path: Path, fps: float, frames: int) -> None:
    """It counts in hundredths of a second, and one hundredth is shown for ten."""
    path = Clip(picture(round(fps)), None, fps).save(tmp_path / "a.gif")
    with Image.open(path) as shown:
        assert shown.n_frames == frames
        durations = []
        for index in range(frames):
            shown.seek(index)
            durations.append(shown.info["duration"])
    assert sum(durations) == 1000
    assert min(durations) >= 20


@pytest.mark.parametrize("name", ["shot-%04d.png", "shot%d.png", "100%_%03d.png"])
def test_each_frame_is_a_numbered_picture(tmp_path: Path, name: str) -> None:
    made = clip(3)
    assert made.save(tmp_path / name) == tmp_path / name
    written = sorted(tmp_path.iterdir())
    assert written == [tmp_path / formats.numbered(name, i) for i in range(3)]
    assert formats.numbered("shot-%04d.png", 0) == "shot-0001.png"
    for path, frame in zip(written, picture(3), strict=True):
        with Image.open(path) as shown:
            assert (np.asarray(shown) == frame).all()
        assert read_provenance(path)["model"] == "test"
    with pytest.raises(MediaError, match="there already"):
        made.save(tmp_path / name, overwrite=False)


def test_a_folder_takes_numbered_pictures(tmp_path: Path) -> None:
    clip(2).save(f"{tmp_path}/frames/")
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["0001.png", "0002.png"]


@pytest.mark.parametrize(
    ("ending", "most"), [(".png", 0), (".jpg", 3), (".jpeg", 3), (".webp", 5), (".gif", 6)]
)
def test_one_frame_is_a_still(tmp_path: Path, ending: str, most: float) -> None:
    path = clip(1).save(tmp_path / f"a{ending}")
    with Image.open(path) as shown:
        assert error(np.asarray(shown.convert("RGB")), picture(1)[0]) <= most
    assert read_provenance(path) == json.loads(json.dumps(PROVENANCE))


def test_a_jpeg_is_written_without_a_provenance_it_cannot_hold(tmp_path: Path) -> None:
    path = Clip(picture(1), None, FPS, {"long": "x" * 70_000}).save(tmp_path / "a.jpg")
    with pytest.raises(MediaError, match="does not say how it was made"):
        read_provenance(path)


# --- Quality and codec --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".mp4", ".webm", ".gif", ".webp"])
def test_a_higher_quality_is_larger(tmp_path: Path, ending: str) -> None:
    rough = np.random.default_rng(0).integers(0, 255, (5, 64, 96, 3), dtype=np.uint8)
    sizes = [
        Clip(rough, None, FPS).save(tmp_path / f"{quality}{ending}", quality=quality).stat().st_size
        for quality in (10, 60, 100)
    ]
    assert sizes == sorted(set(sizes))


def test_a_higher_quality_of_a_sound_is_larger(tmp_path: Path) -> None:
    for name in ("a.mp3", "a.m4a"):
        sizes = [sound().save(tmp_path / name, quality=quality).stat().st_size for quality in (20, 60, 100)]
        assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("a.avi", {}, r"ending in \.mp4, .* or %04d\.png for a picture of each frame"),
        ("a", {}, "give a name ending in"),
        ("a.png", {}, r"a\.png, one picture, and the clip has 25 frames"),
        ("a.wav", {}, "a sound, and the clip has pictures"),
        ("a.mp4", {"codec": "vp9"}, r"codec is 'vp9', and \.mp4 takes h264 or h265 or av1"),
        ("a.mp4", {"quality": 0}, "whole number from 1 to 100"),
        ("a.mp4", {"quality": 101}, "whole number from 1 to 100"),
        ("a%d.png", {"quality": 50}, r"\.png has one quality only"),
        ("a.mkv", {"codec": "ffv1", "quality": 50}, r"\.mkv with ffv1 has one quality only"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, values: Any, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        clip().save(tmp_path / name, **values)
    assert list(tmp_path.iterdir()) == []


def test_sound_alone_has_no_picture(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"the clip is sound alone; give a name ending in \.wav, \.flac"):
        sound().save(tmp_path / "a.mp4")


def test_an_encoder_that_is_missing_is_told_with_the_endings_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_has_encoder", lambda name: name not in ("libvpx-vp9", "libx265"))
    with pytest.raises(MediaError, match=r"no encoder libvpx-vp9 for vp9; give .* \.mkv, \.gif"):
        clip().save(tmp_path / "a.webm")
    with pytest.raises(MediaError, match="no encoder libx265 for h265"):
        clip().save(tmp_path / "a.mp4", codec="h265")
    assert ".webm" not in clip().suffixes


# --- The command line ---------------------------------------------------------------------------------

SHORT = ("A red ball bounces.", "--frames", "9", "--steps", "1")


def made(*words: str) -> Any:
    return CliRunner().invoke(app, ["generate", *SHORT, *words])


def test_a_command_writes_the_format_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "ball.webm"
    assert made("--output", str(path), "--quality", "40", "--codec", "vp9").exit_code == 0
    shown = CliRunner().invoke(app, ["show", str(path), "--json"])
    assert json.loads(shown.stdout)["request"]["prompt"] == SHORT[0]


def test_a_command_writes_numbered_pictures_once(tmp_path: Path) -> None:
    name = str(tmp_path / "ball-%02d.png")
    found = made("--output", name)
    assert found.exit_code == 0, found.stderr
    assert found.stdout.strip() == name
    assert len(list(tmp_path.iterdir())) == 9
    (tmp_path / "ball-01.png").unlink()
    again = made("--output", name)
    assert again.exit_code == 2
    assert "ball-02.png, which is there already; choose another name, or add --force" in again.stderr
    assert made("--output", name, "--force").exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--output", "a.avi"), "ending in .mp4"),
        (("--output", "a.png"), "the clip has 9 frames"),
        (("--codec", "prores"), "--codec is 'prores', and .mp4 takes"),
        (("--quality", "0"), "--quality is 0; give a whole number from 1 to 100"),
        (("--only", "audio", "--output", "a.mp4"), "give a name ending in .wav"),
    ],
)
def test_a_command_refuses_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = made(*words)
    assert found.exit_code == 2
    assert says in found.stderr
    assert list(tmp_path.iterdir()) == []


# --- The clip itself ----------------------------------------------------------------------------------


def test_a_clip_says_what_it_is_in_a_line() -> None:
    assert repr(clip()) == (
        "<Clip: 96x64, 25 frames at 25 fps, sound at 48 kHz, 1 s, 'a café, “rain”', seed 3>"
    )
    assert repr(Clip(None, tones(0.5), FPS)) == "<Clip: sound at 48 kHz, 0.5 s>"
    assert repr(Clip(picture(1), None, FPS)) == "<Clip: 96x64, 1 frame at 25 fps, silent, 0.04 s>"


@pytest.mark.parametrize(
    ("shown", "begins"),
    [
        (clip(), '<div><video controls loop src="data:video/mp4;base64,'),
        (Clip(picture()[:, 1:, 1:], None, FPS), '<div><video controls loop src="data:video/mp4;base64,'),
        (sound(), '<div><audio controls src="data:audio/mp4;base64,'),
        (Clip(picture(1), None, FPS), '<div><img src="data:image/png;base64,'),
    ],
)
def test_a_notebook_shows_a_player(shown: Clip, begins: str) -> None:
    page = shown._repr_html_()
    assert page.startswith(begins)
    assert "<th" in page


def test_a_notebook_shows_the_settings() -> None:
    asked = Request(prompt="<b>rain</b>", seed=7, steps=3).to_dict()
    page = Clip(picture(), None, FPS, {"request": asked, "model": "nano"})._repr_html_()
    text = page.partition("<table>")[2]
    for told in ("&lt;b&gt;rain&lt;/b&gt;", ">seed<", ">7<", ">steps<", ">3<", ">nano<", "96x64, 25 frames"):
        assert told in text
    assert "guidance" not in text


def test_a_part_of_a_clip_has_its_sound() -> None:
    part = clip().trim(0.2, 0.6)
    assert part.frames is not None
    assert part.waveform is not None
    assert (part.frames == picture()[5:15]).all()
    assert (part.waveform == tones()[:, 9600:28_800]).all()
    assert part.provenance["changes"] == [{"trimmed_s": [0.2, 0.6]}]
    assert clip().trim(0.5).duration_s == 0.52  # from the frame that begins at 0.48 s
    assert sound().trim(end_s=0.25).duration_s == 0.25


@pytest.mark.parametrize(("start_s", "end_s"), [(-1, 1), (0.5, 0.4), (0, 2), (2, None), (float("nan"), 1)])
def test_a_stretch_beyond_the_clip_is_refused(start_s: float, end_s: float | None) -> None:
    with pytest.raises(MediaError, match="the clip lasts 1 s"):
        clip().trim(start_s, end_s)


def test_an_empty_stretch_is_refused() -> None:
    with pytest.raises(MediaError, match="there is no frame"):
        clip().trim(0.5, 0.5)


def test_pictures_for_pillow() -> None:
    assert [np.asarray(one).shape for one in clip(2).to_pil()] == [(64, 96, 3)] * 2
    assert clip().contact_sheet().size[0] > 1000
    with pytest.raises(MediaError, match="sound alone"):
        sound().to_pil()


def test_the_sound_alone_is_a_clip(tmp_path: Path) -> None:
    assert clip().audio.save(tmp_path / "a.flac").stat().st_size > 100
    with pytest.raises(MediaError, match="silent"):
        _ = Clip(picture(), None, FPS).audio
