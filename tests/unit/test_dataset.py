"""Datasets before they are encoded: config, sources, tables, buckets, scenes, zips, checks and sheets."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from soundstage.cli.program import app
from soundstage.clip import Clip
from soundstage.dataset.buckets import Bucket, choose_bucket, choose_length
from soundstage.dataset.checks import check
from soundstage.dataset.config import open_dataset
from soundstage.dataset.findings import DataFinding
from soundstage.dataset.items import DataItem
from soundstage.dataset.scanning import Scan, scan
from soundstage.dataset.starting import begin
from soundstage.errors import ConfigError, DatasetError
from soundstage.prompts.openings import without_boilerplate
from tests.dataset_clips import clip, picture, tone, zipped

CAPTION = "A red square moves to the right while a tone is heard."


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips, pictures and sounds that belong together by their names."""
    folder = tmp_path_factory.mktemp("clips")
    clip(folder / "a" / "ball.mp4", caption=CAPTION)
    clip(folder / "b" / "ball.mp4", shade=150, size=(96, 64), frames=11, tone_hz=None)
    clip(folder / "fast.mp4", shade=200, fps=30.0, frames=21, caption="This video shows a square at night.")
    clip(folder / "fast_ref.mp4", shade=10, fps=30.0, frames=21)
    picture(folder / "fast_mask.png")
    tone(folder / "fast_voice.wav")
    tone(folder / "a" / "alone.wav", seconds=2.5, channels=1)
    picture(folder / "still.png", (100, 60))
    (folder / "notes.md").write_text("mine")
    return folder


def _dataset(folder: Path, text: str, name: str = "dataset.yaml") -> Scan:
    (folder / name).write_text(text)
    return scan(open_dataset(folder / name))


def _kinds(findings: list[DataFinding]) -> set[str]:
    return {finding.kind for finding in findings}


def _run(*words: object) -> Any:
    return CliRunner().invoke(app, ["dataset", *map(str, words)])


# --- config -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sourcs: clips", r"line 1: 'sourcs' is not a field of DatasetConfig; the fields are sources,"),
        ("fps: 24\nmasks:\n  knd: boxes", r"line 3: masks.knd is not a field; .* are kind,"),
        ("fps: 24\nfps: 25", r"line 2: fps was given in line 1"),
        ("fps: 0", r"line 1: fps is 0; give a number of frames per second above 0 and up to 120"),
        ("buckets: 100x64x9", r"line 1: buckets has 100x64x9, which is off the grid.*nearest is 96x64x9"),
        ("buckets: 96x64x10", r"nearest is 96x64x9"),
        ("buckets: wide", r"'wide', which is no bucket"),
        ("references: {downscale: 2}\nbuckets: 96x64x9", r"multiples of 64"),
        ("split: {detector: contnt}", r"'content'"),
        ("audio_buckets: [0]", r"above 0"),
        ("references: {kind: cany}", r"line 1: references is cany: there is no control 'cany'; .* canny"),
        ("references: {kind: canny, options: {lo: 3}}", r"has no setting 'lo'; it takes low"),
        ("- 1", r"with fields such as"),
        ("a: [", r"not a YAML file"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        open_dataset(tmp_path)


def test_a_folder_without_a_config_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="soundstage dataset new"):
        open_dataset(tmp_path)


# --- buckets ------------------------------------------------------------------------------------------


def test_the_nearest_shape_wins_then_more_frames_then_more_pixels() -> None:
    buckets = [Bucket(*size) for size in ((96, 64, 9), (96, 64, 17), (192, 128, 17), (64, 96, 17))]
    assert choose_bucket(300, 200, 17, buckets) == Bucket(192, 128, 17)
    assert choose_bucket(300, 200, 16, buckets) == Bucket(96, 64, 9)
    assert choose_bucket(200, 300, 40, buckets) == Bucket(64, 96, 17)
    assert choose_bucket(300, 200, 8, buckets) is None
    assert choose_bucket(300, 200, 1, buckets) == Bucket(192, 128, 1)
    assert choose_bucket(300, 200, 17, reversed(buckets)) == Bucket(192, 128, 17)
    assert Bucket(768, 448, 89).num_tokens == 4032


def test_a_sound_gets_the_longest_length_that_it_fills() -> None:
    assert choose_length(5.0, (2, 4, 8)) == 4
    assert choose_length(1.99, (2, 4, 8)) == 2  # the codec's last samples
    assert choose_length(1.5, (2, 4, 8)) is None


# --- sources ------------------------------------------------------------------------------------------


def test_files_of_a_folder_belong_together_by_their_names(clips: Path) -> None:
    found = _dataset(clips, "sources: .\nbuckets: 64x64x9; 96x64x9; 64x64x17\n")
    items = {item.id: item for item in found.items}
    assert set(items) == {"a/ball.mp4", "b/ball.mp4", "fast.mp4", "a/alone.wav", "still.png"}
    assert items["a/ball.mp4"].caption == CAPTION
    assert items["a/ball.mp4"].bucket == (64, 64, 17)
    assert items["a/ball.mp4"].audio_s == pytest.approx(17 / 24)
    assert (items["b/ball.mp4"].bucket, items["b/ball.mp4"].audio_s) == ((96, 64, 9), None)
    fast = items["fast.mp4"]
    assert fast.bucket == (64, 64, 17)  # 21 frames at 30 fps are 17 at 24
    assert fast.reference == "fast_ref.mp4"
    assert fast.video_mask == "fast_mask.png"
    assert fast.reference_audio == "fast_voice.wav"
    assert items["a/alone.wav"].audio_s == 2
    assert items["still.png"].bucket == (96, 64, 1)
    assert any("1 .md" in finding.message for finding in found.findings)


def test_a_table_names_clips_in_the_words_of_other_programs(clips: Path, tmp_path: Path) -> None:
    rows = [
        {"media_path": "../a/ball.mp4", "text": "One, with a comma.", "repeats": 3, "colour": "red"},
        {"video": "../a/ball.mp4", "prompt": "Again", "start_s": 0.1, "end_s": 0.6, "speaker": "Ann"},
        {"file_name": "../still.png"},
    ]
    tables = clips / "tables"
    tables.mkdir(exist_ok=True)
    (tables / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = _dataset(clips, "sources: tables/rows.jsonl\nbuckets: 64x64x9\n", "table.yaml")
    first, second, third = found.items
    assert (first.id, first.caption, first.repeats) == ("a/ball.mp4", "One, with a comma.", 3)
    assert (second.id, second.start_s, second.speaker) == ("a/ball.mp4@0.10-0.60", 0.1, "Ann")
    assert third.image == "still.png"
    assert "colour" in found.findings[0].message


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "video,caption\na.mp4,A,B\n", r"t\.csv, line 2: it has more cells"),
        ("t.csv", "vidio,caption\na.mp4,A\n", r"no column video.*did 'vidio' mean video"),
        ("t.jsonl", '{"video": "a.mp4"}\n{"video":', r"t\.jsonl, line 2: it is not JSON"),
        ("t.json", "[3]", r"t\.json, entry 1 is 3"),
        ("t.csv", "video,repeats\na.mp4,many\n", r"line 2: repeats is 'many'; give a number"),
        ("t.csv", "video,repeats\na.mp4,0\n", r"whole number from 1 on"),
        ("t.csv", "video\n", r"has no rows"),
        ("t.jsonl", '{"video": "a.mp4", "caption": 3}', r"line 1: caption is 3; give text"),
    ],
)
def test_a_bad_table_is_refused_by_file_and_row(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=words):
        _dataset(tmp_path, f"sources: {name}\nbuckets: 64x64x9\n")


def test_bad_files_are_findings_by_row_and_the_others_go_on(tmp_path: Path) -> None:
    clip(tmp_path / "good.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no film at all")
    rows = ["video,end_s,start_s", "good.mp4,,", "gone.mp4,,", "broken.mp4,,", "good.mp4,1,2"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    found = _dataset(tmp_path, "sources: t.csv\nbuckets: 64x64x9\n")
    assert [item.id for item in found.items] == ["good.mp4"]
    told = [finding.message for finding in found.errors]
    assert len(told) == 3
    assert all(any(f"line {number}" in message for message in told) for number in (3, 4, 5))


@pytest.mark.parametrize(("take", "starts"), [("first", [0]), ("middle", [0.1667]), ("every", [0, 0.375])])
def test_take_says_which_frames_of_a_longer_clip(clips: Path, take: str, starts: list[float]) -> None:
    found = _dataset(clips, f"sources: a/ball.mp4\nbuckets: 64x64x9\ntake: {take}\n", "take.yaml")
    expected = starts[:1] if take == "every" else starts  # 17 frames hold one whole bucket of 9
    assert [item.start_s for item in found.items] == pytest.approx(expected, abs=1e-3)


def test_every_takes_bucket_after_bucket(tmp_path: Path) -> None:
    clip(tmp_path / "long.mp4", frames=30)
    found = _dataset(tmp_path, "sources: .\nbuckets: 64x64x9\ntake: every\n")
    assert [item.start_s for item in found.items] == pytest.approx([0, 9 / 24, 18 / 24])
    assert len({item.id for item in found.items}) == 3


def test_sound_can_be_left_out_or_wanted_of_all(clips: Path) -> None:
    text = "sources: [a/ball.mp4, b/ball.mp4]\nbuckets: 64x64x9; 96x64x9\nsound: "
    assert [item.audio_s for item in _dataset(clips, text + "none", "s.yaml").items] == [None, None]
    found = _dataset(clips, text + "all", "s.yaml")
    assert [item.id for item in found.items] == ["a/ball.mp4"]
    assert "b/ball.mp4 has no sound" in found.errors[0].message


def test_a_voice_sample_is_another_clip_of_the_speaker(clips: Path) -> None:
    rows = ["audio,speaker", "a/alone.wav,Ann", "fast_voice.wav,Ann", "a/ball.mp4,Ben"]
    (clips / "voices.csv").write_text("\n".join(rows))
    text = "sources: voices.csv\nbuckets: 64x64x9\nvoices: speaker\n"
    found = _dataset(clips, text, "voices.yaml")
    voices = [item.reference_audio for item in found.items]
    assert voices == ["fast_voice.wav", "a/alone.wav", None]
    assert _kinds(found.findings) == {"no voice"}


# --- scenes -------------------------------------------------------------------------------------------


def test_a_film_is_split_at_its_cuts_and_short_scenes_are_told(tmp_path: Path) -> None:
    pixels = np.zeros((60, 64, 64, 3), np.uint8)
    pixels[:24], pixels[24:34], pixels[34:] = (240, 40, 40), (20, 80, 20), (60, 60, 250)
    Clip(pixels, None, 24.0, {}).save(tmp_path / "film.mp4")
    text = "sources: .\nbuckets: 64x64x9\nsplit: {min_s: 0.5, detector: content}\n"
    (tmp_path / "dataset.yaml").write_text(text)
    result = _run("split", tmp_path, "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0
    assert [finding["kind"] for finding in told["findings"]] == ["short scene"]
    items = scan(open_dataset(tmp_path)).items
    assert [item.id for item in items] == ["film.mp4@0.00-1.00", "film.mp4@1.42-2.50"]
    assert items[1].start_s == pytest.approx(34 / 24, abs=1e-3)
    clip(tmp_path / "film.mp4", frames=40)  # another film under its name
    assert _kinds(scan(open_dataset(tmp_path)).errors) == {"old scenes"}


# --- new, zips ----------------------------------------------------------------------------------------


def test_new_writes_a_config_that_fits_what_is_there(tmp_path: Path) -> None:
    for number in range(3):
        clip(tmp_path / f"{number}.mp4", fps=25.0, frames=30, size=(128, 96), caption=CAPTION)
    begun = begin(tmp_path, most_pixels=96 * 64)
    assert begun.dataset.config.fps == 25
    assert begun.dataset.config.buckets == ("96x64x25",)
    assert len(begun.found.items) == 3
    text = begun.path.read_text()
    assert "# trigger:" in text
    with pytest.raises(DatasetError, match="is there already"):
        begin(tmp_path)


def test_a_table_of_a_folder_is_its_source_and_links_that_lead_up_are_no_trap(tmp_path: Path) -> None:
    clip(tmp_path / "clips" / "0.mp4", frames=9)
    (tmp_path / "clips" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "clips/0.mp4", "text": "Of the table."}')
    begun = begin(tmp_path)
    assert begun.dataset.config.sources == ("metadata.jsonl",)
    assert [item.caption for item in begun.found.items] == ["Of the table."]
    found = _dataset(tmp_path, "sources: clips\nbuckets: 64x64x9\n", "folder.yaml")
    assert [item.id for item in found.items] == ["clips/0.mp4"]


def test_a_zip_of_a_hosted_trainer_is_read(tmp_path: Path) -> None:
    clip(tmp_path / "in" / "1.mp4", caption="One square that moves.")
    picture(tmp_path / "in" / "1_mask.png")
    clip(tmp_path / "in" / "2_end.mp4", shade=120)
    picture(tmp_path / "in" / "2_start.png")
    tone(tmp_path / "in" / "2_audio.wav")
    (tmp_path / "in" / "2.txt").write_text("Two, with its own sound.")
    clip(tmp_path / "in" / "3_end.mp4", shade=30)
    clip(tmp_path / "in" / "3_start.mp4", shade=60)
    (tmp_path / "in" / "readme.pdf").write_text("no")
    begun = begin(zipped(tmp_path / "data.zip", tmp_path / "in"), most_pixels=64 * 64)
    items = {item.id: item for item in begun.found.items}
    assert begun.dataset.config.mask_white == "made"
    assert begun.left_out == ("1 .pdf",)
    assert items["1.mp4"].video_mask == "1_mask.png"
    assert (items["2_end.mp4"].audio, items["2_end.mp4"].caption) == (
        "2_audio.wav",
        "Two, with its own sound.",
    )
    assert items["3_end.mp4"].reference == "3_start.mp4"
    assert items["3_end.mp4"].reference_audio == "3_start.mp4"  # which has sound
    assert any("2_start.png is left out" in finding.message for finding in begun.found.findings)


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "C:/out.txt", "a/../../out.txt"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    clip(tmp_path / "in" / "1.mp4", frames=9)
    path = zipped(tmp_path / "data.zip", tmp_path / "in", **{name: "text"})
    with pytest.raises(DatasetError, match="leads out of the folder"):
        begin(path)
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "out.txt").exists()


def test_a_zip_that_grows_without_measure_or_is_damaged_is_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.mp4", bytes(20 * 2**20))
    with pytest.raises(DatasetError, match="which no clip does"):
        begin(bomb)
    bad = tmp_path / "bad.zip"
    bad.write_bytes(bomb.read_bytes()[:-40])
    with pytest.raises(DatasetError, match="no zip file that can be read"):
        begin(bad)
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a.mp4", b"x")
        archive.writestr("A.mp4", b"x")
    with pytest.raises(DatasetError, match="are one name"):
        begin(tmp_path / "twice.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip", "bomb.zip", "twice.zip"]


# --- check, show --------------------------------------------------------------------------------------


def test_check_finds_what_would_hurt(tmp_path: Path) -> None:
    clip(tmp_path / "good.mp4", caption=CAPTION)
    clip(tmp_path / "twin.mp4", caption=CAPTION)
    clip(tmp_path / "mute.mp4", shade=140, tone_hz=None, caption="This video shows a square that moves.")
    clip(tmp_path / "quiet.mp4", shade=180, tone_hz=0.0, caption="Short")
    clip(tmp_path / "fast.mp4", shade=220, fps=30.0, frames=30)
    clip(tmp_path / "short.mp4", shade=40, frames=7, caption="A clip that is too short.")
    clip(tmp_path / "tall.mp4", shade=60, size=(64, 96), frames=20, caption="A tall TOK clip of a square.")
    clip(tmp_path / "tall_ref.mp4", shade=70, size=(64, 96), frames=12)
    text = "sources: .\nbuckets: 64x64x17; 128x192x17\ntrigger: TOK\n"
    found = _dataset(tmp_path, text)
    findings = check(open_dataset(tmp_path), found)
    assert _kinds(findings) == {
        "too short", "boilerplate", "short caption", "no caption", "same captions", "trigger twice",
        "other rate", "enlarged", "lonely bucket", "mixed sound", "silent", "short reference", "nearly alike",
    }  # fmt: skip
    alike = next(finding for finding in findings if finding.kind == "nearly alike")
    assert "good.mp4 and twin.mp4" in alike.message


def test_check_of_a_good_dataset_finds_nothing(tmp_path: Path) -> None:
    words = ("rolls", "hops", "spins", "slides", "falls")
    for number, word in enumerate(words):
        shade, caption = 20 + 37 * number, f"A red square {word} on a floor."
        clip(tmp_path / f"{number}.mp4", shade=shade, frames=9, caption=caption)
    _dataset(tmp_path, "sources: .\nbuckets: 64x64x9\n")
    result = _run("check", tmp_path, "--json")
    assert (result.exit_code, json.loads(result.stdout)["findings"]) == (0, [])


@pytest.mark.parametrize(
    ("caption", "left"),
    [
        ("The video shows a red ball that rolls.", "A red ball that rolls."),
        ("In this clip, we see a dog that barks loudly.", "A dog that barks loudly."),
        ("Here is a caption: A cat sleeps on a mat.", "A cat sleeps on a mat."),
        ("The scene is set in a meadow.", "The scene is set in a meadow."),
        ("This image shows a ball.", "This image shows a ball."),  # too little would be left
    ],
)
def test_openings_that_say_nothing_are_cut_off(caption: str, left: str) -> None:
    assert without_boilerplate(caption) == left


def test_show_draws_the_samples_and_is_no_sample_itself(clips: Path) -> None:
    (clips / "dataset.yaml").write_text("sources: .\nbuckets: 64x64x9\n")
    before = len(scan(open_dataset(clips)).items)
    result = _run("show", clips, "--count", "3")
    assert result.exit_code == 0, result.output
    with Image.open(clips / "dataset.png") as sheet:
        assert sheet.width > 1000
        assert np.asarray(sheet).std() > 20  # there is more than the ground
    assert len(scan(open_dataset(clips)).items) == before


def test_scan_lists_the_samples_on_the_command_line(clips: Path) -> None:
    (clips / "dataset.yaml").write_text("sources: a\nbuckets: 64x64x9\n")
    result = _run("scan", clips, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["buckets"] == {"2 s of sound": 1, "64x64x9": 1}
    lines = [json.loads(line) for line in (clips / "items.jsonl").read_text().splitlines()]
    assert DataItem(**lines[1]).bucket == (64, 64, 9)


def test_a_caption_that_is_no_text_leaves_the_other_clips_listed(tmp_path: Path) -> None:
    for name, words in (("a", b"A ball."), ("b", b"caf\xe9")):
        clip(tmp_path / f"{name}.mp4", frames=9, tone_hz=None)
        (tmp_path / f"{name}.txt").write_bytes(words)
    found = _dataset(tmp_path, "sources: .\nbuckets: 64x64x9\n")
    assert [item.id for item in found.items] == ["a.mp4"]
    (bad,) = found.errors
    assert bad.item == "b.mp4"
    assert bad.message.endswith("b.txt is no text in UTF-8, from byte 3 on; save it again as UTF-8")


def test_a_clip_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    clip(tmp_path / "one.mp4", frames=9, tone_hz=None)
    with pytest.raises(DatasetError, match=r"one\.mp4 is no folder, table .* or zip of clips; give one"):
        begin(tmp_path / "one.mp4")
    with pytest.raises(DatasetError, match=r"there is no folder, table .* or zip at .*two\.mp4"):
        begin(tmp_path / "two.mp4")
