"""What is written beside a film: timelines that editing programs read, stems, a storyboard, a page."""

import dataclasses
import sys
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import opentimelineio as otio
import pytest
from PIL import Image

from soundstage.clip import Clip
from soundstage.editing import Caption, Cut, Music, Timeline, Title, Transition, VoiceOver, export
from soundstage.editing.exporting import planned_export
from soundstage.editing.grid import grid_of
from soundstage.editing.mix import STEMS, Mixer, sum_of
from soundstage.errors import MediaError, MissingExtraError
from soundstage.media.load import load_sound
from tests.editing_clips import RATE, film, noise, tone

RATES = (24.0, 24000 / 1001)


@pytest.fixture
def line(tmp_path: Path) -> Timeline:
    """A film with a trim, an L cut, a dissolve, black, a fade, music and a voice."""
    a = film(tmp_path / "a b.mkv", 0, 48, sound=noise(2 * RATE, 1))
    b = film(tmp_path / "b.mkv", 100, 48, sound=noise(2 * RATE, 2))
    for name, seconds in (("music", 1), ("voice", 0.5)):
        Clip(None, tone(seconds, 300), 24).save(tmp_path / f"{name}.wav")
    return Timeline(
        cuts=(
            Cut(source=a, start_s=0.25, end_s=1.5, sound_lag_s=0.25),
            Cut(source=b, start_s=0.5),
            Cut(source=a, transition=Transition("dissolve", 0.25), gain_db=-3),
            Cut(source="black", end_s=1),
            Cut(source=b, end_s=1, transition=Transition("fade", 0.5)),
        ),
        music=(Music(path=tmp_path / "music.wav", loop=True, start_s=1, end_s=3),),
        voice_over=(VoiceOver(path=tmp_path / "voice.wav", start_s=2),),
        titles=(Title(text="One", start_s=0, seconds=1),),
        captions=(Caption(1, 2, "Hello & welcome.", "Ann"),),
        fps=24,
    )


def at_rate(line: Timeline, fps: float) -> Timeline:
    """The timeline at another rate, without what is then no whole number of frames."""
    return dataclasses.replace(line, fps=fps)


def clips(track: Any) -> list[tuple[str, int, int, int]]:
    """Return (name, first frame of the source, first frame of the film, frames) of the clips of a track."""
    found = []
    for item in track:
        if isinstance(item, otio.schema.Clip):
            where = item.range_in_parent()
            source = item.source_range.start_time
            found.append((item.name, *(round(t.value) for t in (source, where.start_time, where.duration))))
    return found


# Shots from cut to cut: the dissolve's six frames lie half before, half after its cut.
PICTURE = [("a b", 6, 0, 30), ("b", 12, 30, 33), ("a b", 3, 63, 45), ("b", 0, 132, 24)]
SOUND = [("a b", 6, 0, 36), ("b", 18, 36, 27), ("a b", 3, 63, 45), ("b", 0, 132, 24)]


@pytest.mark.parametrize("fps", RATES)
def test_otio_has_every_cut_to_the_frame(line: Timeline, tmp_path: Path, fps: float) -> None:
    export(at_rate(line, fps), tmp_path / "film.otio")
    read = otio.adapters.read_from_file(str(tmp_path / "film.otio"))
    picture, sound, voice, music = read.tracks
    assert (clips(picture), clips(sound)) == (PICTURE, SOUND)
    assert clips(voice) == [("voice", 0, 48, 12)] if fps == 24 else len(clips(voice)) == 1
    assert clips(music)[0][:3] == ("music", 0, 24)
    moves = [
        (c.transition_type, c.in_offset.value, c.out_offset.value) for c in picture if hasattr(c, "in_offset")
    ]
    assert moves == [("SMPTE_Dissolve", 3, 3), ("Custom_Transition", 6, 6)]
    assert [m.name for m in read.tracks.markers] == ["One", "Hello & welcome."]
    sources = {unquote(c.media_reference.target_url) for c in picture.find_clips()}
    assert sources == {(tmp_path / name).as_uri().replace("%20", " ") for name in ("a b.mkv", "b.mkv")}
    assert round(picture.duration().value) == grid_of(at_rate(line, fps)).num_frames


@pytest.mark.parametrize("fps", RATES)
def test_an_edl_has_the_cuts_of_the_picture_to_the_frame(line: Timeline, tmp_path: Path, fps: float) -> None:
    export(at_rate(line, fps), tmp_path / "film.edl")
    read = otio.adapters.read_from_file(str(tmp_path / "film.edl"), rate=fps)
    # An EDL begins a dissolve where it is seen first.
    assert clips(read.tracks[0]) == [
        ("a b", 6, 0, 30),
        ("b", 12, 30, 30),
        ("a b", 0, 60, 48),
        ("004", 0, 108, 24),
        ("b", 0, 132, 24),
    ]
    assert [c.media_reference.generator_kind for c in read.tracks[0].find_clips() if c.name == "004"] == [
        "black"
    ]
    moves = [(c.in_offset.value, c.out_offset.value) for c in read.tracks[0] if hasattr(c, "in_offset")]
    assert moves == [(0, 6), (0, 6)]


def test_an_edl_has_fades_to_black_and_from_it(line: Timeline, tmp_path: Path) -> None:
    cuts = (
        dataclasses.replace(line.cuts[1], transition=Transition("fade", 0.25)),
        dataclasses.replace(line.cuts[4], transition=Transition("fade", 0.5)),
        Cut(source="black", end_s=1, transition=Transition("dissolve", 0.25)),
    )
    export(dataclasses.replace(line, cuts=cuts, fade_out_s=0.25), tmp_path / "film.edl")
    text = (tmp_path / "film.edl").read_text()
    events = [line.split()[:-4] + line.split()[-2:] for line in text.splitlines() if line[:3].isdigit()]
    assert [" ".join(event) for event in events] == [
        "001 BL V C 00:00:00:00 00:00:00:00",
        "001 S001 V D 006 00:00:00:00 00:00:01:06",
        "002 S001 V C 00:00:01:06 00:00:01:06",
        "002 BL V D 006 00:00:01:06 00:00:01:12",
        "003 BL V C 00:00:01:12 00:00:01:12",
        "003 S001 V D 006 00:00:01:12 00:00:02:06",
        "004 S001 V C 00:00:02:06 00:00:02:06",
        "004 BL V D 006 00:00:02:06 00:00:03:06",
    ]


def test_what_a_file_for_editing_programs_leaves_out_is_said(line: Timeline, tmp_path: Path) -> None:
    def told(name: str, **changes: object) -> list[str]:
        changed = dataclasses.replace(line, **changes)
        return planned_export(grid_of(changed), tmp_path / name).notices

    assert told("a.edl") == [
        "a.edl leaves out the sound of the shots, music, voice-over, titles and captions"
    ]
    assert told("a.otio", fade_out_s=0.5) == [
        "a.otio leaves out fades and ducking of music and the fade at the end"
    ]
    assert told("a.fcpxml", music=()) == ["a.fcpxml leaves out titles and captions"]
    assert told("a.otio", music=()) == []
    assert told("a.srt") == []


def test_an_edl_needs_a_rate_with_timecode(line: Timeline, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"fps is 12\.5, and an EDL counts in timecode"):
        export(at_rate(line, 12.5), tmp_path / "film.edl")


def test_fcpxml_is_read_back_with_every_cut_to_the_frame(line: Timeline, tmp_path: Path) -> None:
    export(line, tmp_path / "film.fcpxml")
    (read,) = otio.adapters.read_from_file(str(tmp_path / "film.fcpxml"))
    assert clips(read.video_tracks()[0]) == PICTURE
    assert sorted(clips(t)[0][:3] for t in read.audio_tracks())[-1] == ("voice", 0, 48)


@pytest.mark.parametrize("fps", RATES)
def test_fcpxml_has_whole_frames_and_split_edits(line: Timeline, tmp_path: Path, fps: float) -> None:
    export(at_rate(line, fps), tmp_path / "film.fcpxml")
    root = ElementTree.parse(tmp_path / "film.fcpxml").getroot()
    rate = grid_of(at_rate(line, fps)).fps

    def frames(text: str) -> int:
        count = Fraction(text.removesuffix("s")) * rate
        assert count.denominator == 1
        return int(count)

    spine = root.find("library/event/project/sequence/spine")
    assert spine is not None
    shots = spine.findall("asset-clip")
    found = [
        (s.get("name"), *(frames(s.get(key, "")) for key in ("start", "offset", "duration"))) for s in shots
    ]
    assert found == PICTURE
    splits = [
        (frames(s.get("audioStart", "")), frames(s.get("audioDuration", "")))
        for s in shots
        if s.get("audioStart")
    ]
    assert splits == [(6, 36), (18, 27)]
    moves = [
        (m.get("name"), frames(m.get("offset", "")), frames(m.get("duration", "")))
        for m in spine.findall("transition")
    ]
    assert moves == [("Cross Dissolve", 60, 6), ("Fade To Color", 126, 12)]


def test_stems_sum_to_the_mix_before_its_limiter(line: Timeline, tmp_path: Path) -> None:
    files = export(line, f"{tmp_path}/stems/", gain_db=-6)
    assert [file.stem for file in files] == list(STEMS)
    stems = [load_sound(str(file))[0] for file in files]
    mix = np.concatenate([sum_of(second) for second in Mixer(grid_of(line), None).stems()], axis=1)
    assert np.abs(np.sum(stems, axis=0) - mix * np.float32(10 ** (-6 / 20))).max() < 1e-6
    assert [bool(stem.any()) for stem in stems] == [True, True, True, False]


def test_the_storyboard_has_the_middle_of_every_shot(line: Timeline, tmp_path: Path) -> None:
    export(line, tmp_path / "board.png")
    board = np.asarray(Image.open(tmp_path / "board.png"))
    centres = [board[120, 12 + column * 372 + 180] for column in range(4)]
    assert [int(c[0]) for c in centres] == [21, 130, 24, 0]


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


def test_the_page_plays_every_shot_and_needs_nothing_but_the_clips(line: Timeline, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    export(line, tmp_path / "pages" / "film.html", film=tmp_path / "film.mp4")
    text = (tmp_path / "pages" / "film.html").read_text()
    page = Page(text)
    players = page.all("video")
    assert [p["src"] for p in players[:2]] == ["../film.mp4", "../a%20b.mkv#t=0.250,1.500"]
    assert len(players) == 5
    assert all(p["aria-label"] and "controls" in p for p in players)
    assert all(i["alt"] and (i["src"] or "").startswith("data:image/jpeg;base64,") for i in page.all("img"))
    assert page.all("html")[0]["lang"] == "en"
    assert not page.all("script")
    assert "http" not in text
    assert "Hello &amp; welcome." in text


@pytest.mark.parametrize(
    ("name", "told"),
    [("film.doc", "give a name ending in"), ("none/film.otio", "no folder"), ("no/ne/", "no folder")],
)
def test_exports_that_cannot_be_written_are_refused(
    line: Timeline, tmp_path: Path, name: str, told: str
) -> None:
    with pytest.raises(MediaError, match=told):
        export(line, f"{tmp_path}/{name}")


def test_a_missing_extra_is_one_sentence(
    line: Timeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    with pytest.raises(MissingExtraError, match=r"needs the 'film' extra: pip install 'soundstage\[film\]'"):
        export(line, tmp_path / "film.otio")


def test_subtitles_need_captions(line: Timeline, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="the timeline has no captions"):
        export(dataclasses.replace(line, captions=()), tmp_path / "film.srt")
    export(line, tmp_path / "film.srt")
    assert (
        (tmp_path / "film.srt").read_text().startswith("1\n00:00:01,000 --> 00:00:02,000\nHello & welcome.")
    )
