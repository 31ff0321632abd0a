"""Finished clips in other formats: what comes out, what is told, what is refused, and what is left behind."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import soundstage as ss
from soundstage.cli.main import app
from soundstage.clip import Clip, read_provenance
from soundstage.conversion import Wanted, planned_conversion
from soundstage.errors import MediaError
from soundstage.media.excerpt import scaled_size
from soundstage.media.probe import probe
from soundstage.request.request import Request

FPS, COUNT, RATE = 12, 12, 48_000
REQUEST = Request(prompt="A red ball.", seed=7).to_dict()


def frames(count: int = COUNT, height: int = 32, width: int = 48) -> np.ndarray:
    levels = np.linspace(20, 220, count)[:, None, None, None]
    return np.broadcast_to(levels, (count, height, width, 3)).astype(np.uint8)


def tone(seconds: float) -> np.ndarray:
    wave = 0.3 * np.sin(np.arange(round(seconds * RATE)) / RATE * 2 * np.pi * 440)
    return np.stack([wave, wave]).astype(np.float32)


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


@pytest.fixture
def ball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    clip = Clip(frames(), tone(COUNT / FPS), FPS, {"request": REQUEST, "model": "nano"})
    return clip.save(Path("ball.mkv"), codec="ffv1")


def convert(*words: str) -> Result:
    return CliRunner().invoke(app, ["convert", *words])


def test_a_film_becomes_any_other_film_and_keeps_its_request(ball: Path) -> None:
    for ending in (".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp"):
        result = convert(str(ball), f"new{ending}")
        assert result.exit_code == 0, result.output
        info = probe(f"new{ending}")
        assert (info.width, info.height, info.num_frames) == (48, 32, COUNT)
        assert read_provenance(f"new{ending}")["request"] == REQUEST
        assert (info.sound_s is None) == (ending in (".gif", ".webp"))


def test_an_unknown_ending_is_told_by_the_word_that_was_typed(ball: Path) -> None:
    assert "soundstage: the output is a.xyz; give a name ending in" in convert(str(ball), "a.xyz").stderr
    assert "soundstage: --output is a.xyz; give a name" in convert(str(ball), "-o", "a.xyz").stderr


def test_lossless_frames_and_samples_come_through_as_they_were(ball: Path) -> None:
    ss.convert(ball, "new.mkv", codec="ffv1")
    before, after = Clip.open(ball), Clip.open("new.mkv")
    assert same(before.frames, after.frames)
    assert same(before.waveform, after.waveform)


def test_pieces_of_a_long_sound_are_the_whole(ball: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clip(None, tone(3.0), 24).save("long.flac")
    monkeypatch.setattr("soundstage.media.excerpt.BLOCK_S", 0.7)
    ss.convert("long.flac", "new.wav")
    assert same(Clip.open("new.wav").waveform, Clip.open("long.flac").waveform)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".mp3", ".m4a"])
def test_the_sound_of_a_film_and_one_notice_of_what_is_left_out(ball: Path, ending: str) -> None:
    result = convert(str(ball), f"new{ending}")
    assert result.stdout == f"new{ending}\n"
    notice = f"notice: the picture is left out: {ending} holds sound alone\n"
    assert result.stderr == f"{notice}write new{ending} ...\n"
    told = read_provenance(f"new{ending}")
    assert told["changes"] == [{"left_out": "picture"}]
    assert probe(f"new{ending}").sound_s == pytest.approx(1, abs=0.06)


def test_a_gif_is_trimmed_scaled_and_slowed_and_says_so(ball: Path) -> None:
    result = convert(str(ball), "new.gif", "--span", "0.25-0.75", "--size", "24x", "--fps", "6", "--json")
    told = json.loads(result.stdout)
    assert (told["size"], told["num_frames"], told["fps"], told["source"]) == ([24, 16], 3, 6, str(ball))
    with Image.open("new.gif") as picture:
        assert (picture.size, getattr(picture, "n_frames", 0)) == ((24, 16), 3)
        shown = [np.asarray(picture.convert("RGB")).mean()]
        picture.seek(2)
        shown.append(np.asarray(picture.convert("RGB")).mean())
    assert shown == pytest.approx([frames()[3].mean(), frames()[7].mean()], abs=2)
    change = {"trimmed_s": [0.25, 0.75], "size": [24, 16], "fps": 6, "left_out": "sound"}
    assert read_provenance("new.gif")["changes"] == [change]


def test_a_gif_holds_the_frames_it_is_given(tmp_path: Path) -> None:
    moving = np.zeros((6, 20, 31, 3), np.uint8)
    for i in range(6):
        moving[i, 5:9, 4 * i : 4 * i + 5] = (250, 20, 20)
    moving[3] = moving[2]  # one that stays is shown for longer
    Clip(moving, None, 10).save(tmp_path / "a.gif")
    assert same(Clip.open(tmp_path / "a.gif").frames, moving)


def test_one_frame_is_a_still_and_many_are_numbered_pictures(ball: Path) -> None:
    assert convert(str(ball), "still.png", "--at", "0.5").exit_code == 0
    assert np.asarray(Image.open("still.png")).mean() == pytest.approx(frames()[6].mean(), abs=1)
    assert read_provenance("still.png")["changes"] == [{"still_s": 0.5, "left_out": "sound"}]
    assert convert(str(ball), "all/").exit_code == 0
    assert sorted(path.name for path in Path("all").iterdir())[-1] == "0012.png"
    assert convert(str(ball), "sheet.png", "--contact-sheet").exit_code == 0
    assert Image.open("sheet.png").width > 1000


def test_several_files_go_into_a_folder_a_template_or_beside_themselves(ball: Path) -> None:
    Clip(frames(), None, FPS).save("cube.mp4")
    assert convert("ball.mkv", "cube.mp4", "out/", "--format", "gif").stdout == "out/ball.gif\nout/cube.gif\n"
    assert convert("ball.mkv", "cube.mp4", "-o", "to/{index}-{name}.webp").exit_code == 0
    assert sorted(path.name for path in Path("to").iterdir()) == ["1-ball.webp", "2-cube.webp"]
    assert convert("ball.mkv", "cube.mp4", "--format", "webm").exit_code == 0
    assert Path("cube.webm").exists()


def test_a_file_that_fails_does_not_stop_the_others(ball: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clip(frames(), None, FPS).save("cube.mp4")

    def write(output: Any, *_: Any, **__: Any) -> None:
        if output.path.stem == "ball":
            raise MediaError("the disk is full")
        output.path.touch()

    monkeypatch.setattr("soundstage.conversion.write_clip", write)
    result = convert("ball.mkv", "cube.mp4", "out/", "--format", "gif")
    assert result.exit_code == 1
    assert "clip 1: the disk is full" in result.stderr
    assert result.stdout == "out/cube.gif\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["new.png"], "has 12 frames; give --at"),
        (["new.wav", "--size", "24x"], "--size is 24x, which is about the picture, and new.wav holds sound"),
        (["new.gif", "--size", "big"], "--size is 'big'; give WIDTHxHEIGHT"),
        (["new.gif", "--span", "0.5-9"], "--span is 0.5 to 9 s, and ball.mkv lasts 1 s"),
        (["new.gif", "--span", "x"], "--span is 'x'; give START-END"),
        (["new.gif", "--at", "3"], "--at is 3, and ball.mkv lasts 1 s"),
        (["new.gif", "--at", "0", "--span", "0-1"], "both --span and --at are given; keep one"),
        (["new.gif", "--fps", "0"], "--fps is 0; give 1 to 240"),
        (["new.mp4", "--codec", "vp9"], "--codec is 'vp9', and .mp4 takes"),
        (["new.mp4", "--quality", "101"], "--quality is 101; give a whole number"),
        (["ball.mkv"], "which is there already; choose another name, or add --force"),
        (["--format", "avi"], "--format is 'avi'; give one of mp4"),
        ([], "convert needs an output"),
        (["missing/new.mp4"], "there is no folder missing"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(ball: Path, words: list[str], says: str) -> None:
    result = convert("ball.mkv", *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert [path.name for path in Path().iterdir()] == ["ball.mkv"]


def test_an_interruption_leaves_nothing_half_written(ball: Path) -> None:
    def stop(share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    for name in ("new.mp4", "new.gif", "new.wav", "%04d.png"):
        with pytest.raises(KeyboardInterrupt):
            planned_conversion(ball, name, Wanted()).run(progress=stop)
        assert not list(Path().rglob("*.png"))
        assert not list(Path().glob("new.*"))


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    peaks, num_bytes = [], []
    for seconds in (4, 24):
        path = tmp_path / f"{seconds}.mp4"
        Clip(frames(seconds * FPS, 64, 96), tone(seconds), FPS).save(path)
        planned = planned_conversion(path, tmp_path / f"{seconds}.gif", Wanted(fps=6))
        tracemalloc.start()
        planned.run()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        num_bytes.append(planned.excerpt.num_frames * 64 * 96 * 3)
    assert peaks[1] - peaks[0] < 0.1 * (num_bytes[1] - num_bytes[0])


@pytest.mark.parametrize("words", ["48x", "x32", "48x100", "100x32", "100%", "32p"])
def test_a_size_keeps_the_shape(words: str) -> None:
    assert scaled_size(words, (96, 64)) == ((96, 64) if words == "100%" else (48, 32))


def test_odd_sides_are_made_even_only_where_the_codec_needs_it(tmp_path: Path) -> None:
    odd = Clip(frames(3, 31, 45), None, FPS)
    with pytest.warns(UserWarning, match=r"45x31 and .mp4 needs even sides, so it is written as 46x32"):
        odd.save(tmp_path / "a.mp4")
    assert (probe(str(tmp_path / "a.mp4")).width, probe(str(tmp_path / "a.mp4")).height) == (46, 32)
    for name in ("a.gif", "a.webm", "a.mkv"):
        odd.save(tmp_path / name, codec="ffv1" if name == "a.mkv" else None)
        assert (probe(str(tmp_path / name)).width, probe(str(tmp_path / name)).height) == (45, 31)
    result = convert(str(tmp_path / "a.gif"), str(tmp_path / "b.mp4"))
    assert "notice: it is 45x31 and .mp4 needs even sides, so it is written as 46x32" in result.stderr


def test_a_finished_file_is_opened_as_a_clip(ball: Path) -> None:
    clip = Clip.open(ball)
    assert same(clip.frames, frames())
    assert clip.waveform is not None
    assert clip.waveform.shape == (2, RATE)
    assert (clip.fps, clip.request.seed) == (FPS, 7)
    part = clip.trim(0.25, 0.75).trim(0, 0.25)
    assert part.provenance["changes"] == [{"trimmed_s": [0.25, 0.75]}, {"trimmed_s": [0, 0.25]}]
    assert Clip.open(part.save(Path("part.gif"))).provenance == part.provenance
    Image.new("RGB", (8, 8)).save("plain.png")
    with pytest.raises(ss.RequestError, match="does not say how it was made"):
        _ = Clip.open("plain.png").request
