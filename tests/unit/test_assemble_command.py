"""`soundstage assemble`: what it writes, prints and refuses, and what it leaves behind."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result

from soundstage.cli.main import app
from soundstage.clip import read_provenance
from soundstage.media.load import load_sound
from soundstage.media.loudness import Loudness
from soundstage.media.probe import probe
from tests.editing_clips import RATE, film, noise

LINE = """
cuts:
  - {source: clips/a.mkv, end_s: 0.75}
  - {source: clips/b.mkv, transition: {kind: dissolve, seconds: 0.25}}
captions:
  - {start_s: 0.2, end_s: 1.2, text: Here it comes., speaker: Ann}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    film(tmp_path / "clips" / "a.mkv", 0, 24, sound=noise(RATE, 1))
    film(tmp_path / "clips" / "b.mkv", 100, 24, sound=noise(RATE, 2))
    (tmp_path / "film.yaml").write_text(LINE)
    return tmp_path


def assemble(*words: str) -> Result:
    return CliRunner().invoke(app, ["assemble", *words])


def test_a_film_is_written_with_what_is_wanted_beside_it(folder: Path) -> None:
    beside = ["film.otio", "film.srt", "board.png", "page.html", "stems/"]
    options = [word for name in beside for word in ("--export", name)]
    result = assemble("film.yaml", "--output", "film.mp4", *options, "--report", "report.json", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["num_frames"], told["size"], told["fps"]) == (36, [32, 32], 24)
    assert told == json.loads((folder / "report.json").read_text())
    assert len(told["exports"]) == 8
    assert all(Path(path).is_file() for path in told["exports"])
    assert probe("film.mp4").num_frames == 36
    heard = Loudness.of([load_sound("film.mp4")[0]], RATE)
    assert heard.integrated_lufs == pytest.approx(-16, abs=0.5)
    assert heard.true_peak_dbtp is not None
    assert heard.true_peak_dbtp < 0
    assert read_provenance("film.mp4")["timeline"]["cuts"][0]["source"] == "clips/a.mkv"
    assert 'src="film.mp4"' in (folder / "page.html").read_text()


@pytest.mark.parametrize(
    ("name", "codec", "found", "sound"),
    [
        ("a.mp4", "h264", "h264", "aac"),
        ("b.mp4", "h265", "hevc", "aac"),
        ("c.mov", "prores", "prores", "pcm_s16le"),
    ],
)
def test_the_codecs_of_films(name: str, codec: str, found: str, sound: str) -> None:
    result = assemble("film.yaml", "-o", name, "--codec", codec, "--quiet")
    assert result.exit_code == 0, result.output
    assert (result.stdout, result.stderr) == (f"{name}\n", "")
    with av.open(name) as container:
        picture, heard = container.streams.video[0], container.streams.audio[0]
        assert (picture.codec_context.name, heard.codec_context.name) == (found, sound)
        levels = [int(frame.to_ndarray(format="gray")[16, 16]) for frame in container.decode(video=0)]
    wanted = np.array([*range(12), *[12 + 88 * (i + 1) / 7 for i in range(6)], *range(106, 124)])
    assert np.abs(np.array(levels) - wanted).max() < 5


def test_wrong_words_are_one_sentence_and_nothing_is_left(folder: Path) -> None:
    before = sorted(folder.iterdir())
    for words, told in (
        (["none.yaml", "-o", "film.mp4"], "there is no file 'none.yaml'"),
        (["film.yaml", "-o", "film.doc"], "output is film.doc"),
        (["film.yaml", "-o", "no/film.mp4"], "there is no folder no"),
        (["film.yaml", "-o", "film.mp4", "--codec", "prores"], "codec is 'prores'"),
        (["film.yaml", "-o", "film.mp4", "--loudness", "loud"], "--loudness is 'loud'"),
        (["film.yaml", "-o", "film.mp4", "--loudness", "3"], "--loudness is 3"),
        (["film.yaml", "-o", "film.mp4", "--export", "film.doc"], "--export is film.doc"),
        (["film.yaml", "-o", "clips/a.mkv", "--force"], "which the film is made of"),
        (["film.yaml", "-o", "film.mp4", "--report", "report.txt"], "--report is report.txt"),
    ):
        result = assemble(*words)
        assert result.exit_code == 2, result.output
        assert told in result.stderr
        assert "Traceback" not in result.stderr
    assert sorted(folder.iterdir()) == before


def test_a_field_that_does_not_fit_is_named_with_its_line(folder: Path) -> None:
    (folder / "film.yaml").write_text(LINE.replace("seconds: 0.25", "seconds: long"))
    assert (
        "film.yaml, line 4: cut 2: transition.seconds is 'long'"
        in assemble("film.yaml", "-o", "a.mp4").stderr
    )
    (folder / "film.yaml").write_text(LINE.replace("end_s: 0.75", "end: 0.75"))
    told = assemble("film.yaml", "-o", "a.mp4").stderr
    assert "film.yaml, line 3: cut 1: end is not a field" in told


def test_all_faults_are_told_by_line_with_cuts_counted_from_one_before_anything_is_written(
    folder: Path,
) -> None:
    faulty = LINE.replace("b.mkv, tr", "b.mkv, start_s: 5, tr")
    for text, told in (
        (LINE.replace("clips/b", "clips/none"), ["line 4: cut 2: source: there is no file clips/none.mkv"]),
        (
            LINE.replace("clips/", "no/"),
            ["line 3: cut 1: source: there is no", "line 4: cut 2: source: there is no"],
        ),
        (LINE.replace("0.75", "7"), ["line 3: cut 1: end_s is 7, and clips/a.mkv lasts 1 s"]),
        (faulty, ["line 4: cut 2: start_s is 5, and the part ends at 1 s"]),
        (
            LINE.replace("0.75", "-1").replace("start_s: 0.2", "start_s: -2"),
            ["line 3: cut 1: end_s", "line 6: caption 1: start_s"],
        ),
        (
            LINE
            + "titles: [{text: a, start_s: 9, seconds: 1}]\nmusic:\n  - {path: clips/a.mkv, start_s: 8}\n",
            ["line 7: title 1: start_s is 9", "line 9: music 1: start_s is 8"],
        ),
    ):
        (folder / "film.yaml").write_text(text)
        result = assemble("film.yaml", "-o", "a.mp4")
        lines = result.stderr.splitlines()
        assert result.exit_code == 2, result.output
        assert len(lines) == len(told)
        for line, part in zip(lines, told, strict=True):
            assert line.startswith(f"soundstage: film.yaml, {part}")
    assert not (folder / "a.mp4").exists()


def test_what_is_left_out_or_changed_is_said_before_the_work(folder: Path) -> None:
    result = assemble("film.yaml", "-o", "a.mp4", "--export", "a.edl")
    lines = result.stderr.splitlines()
    assert lines[0] == "notice: a.edl leaves out the sound of the shots and captions"
    assert lines[1].startswith("write a.mp4")


def test_a_film_that_is_there_is_replaced_only_by_force(folder: Path) -> None:
    (folder / "film.mp4").write_text("mine")
    assert "--force" in assemble("film.yaml", "-o", "film.mp4").stderr
    assert (folder / "film.mp4").read_text() == "mine"
    assert assemble("film.yaml", "-o", "film.mp4", "--force", "--loudness", "off").exit_code == 0
    assert probe("film.mp4").num_frames == 36


def test_show_says_what_a_film_was_cut_from() -> None:
    assert assemble("film.yaml", "-o", "film.mp4").exit_code == 0
    shown = CliRunner().invoke(app, ["show", "film.mp4"])
    assert shown.exit_code == 0, shown.output
    assert "cuts      2 of clips/a.mkv, clips/b.mkv" in shown.stdout
    assert "rerun" not in shown.stdout


def test_sound_that_the_format_does_not_hold_is_told() -> None:
    result = assemble("film.yaml", "-o", "film.gif")
    assert result.exit_code == 0, result.output
    assert "notice: the sound is left out: .gif holds none" in result.stderr


def test_captions_can_be_burnt_in(folder: Path) -> None:
    assert assemble("film.yaml", "-o", "plain.mkv", "--codec", "ffv1").exit_code == 0
    assert assemble("film.yaml", "-o", "burnt.mkv", "--codec", "ffv1", "--burn-captions").exit_code == 0
    assert (folder / "plain.mkv").read_bytes() != (folder / "burnt.mkv").read_bytes()
