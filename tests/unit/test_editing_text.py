"""Subtitles that can be read, and text in the picture."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from soundstage.editing import Caption, Cut, Timeline, Title, fonts
from soundstage.editing.fonts import FontStack
from soundstage.editing.grid import grid_of
from soundstage.editing.lettering import wrapped
from soundstage.editing.overlays import letter_notices, overlay_of
from soundstage.editing.subtitles import GAP_S, MAX_LINE, MAX_S, cues, srt, vtt
from soundstage.errors import MediaError, RequestError
from tests.editing_clips import assembled, film

LONG = (
    "Where did it go? I cannot see it any more; perhaps it has fallen down the stairs behind the old house "
    "by the river, where nobody goes after dark."
)


def lines(*captions: Caption, duration_s: float = 60.0) -> list[str]:
    return [cue.text for cue in cues(captions, duration_s)]


def test_a_short_line_is_one_cue_and_a_longer_one_is_broken_where_it_can_be_read() -> None:
    assert lines(Caption(1, 2, "Look at that.")) == ["Look at that."]
    broken = "A red ball bounces on a wooden floor,\nand then it rolls away to the left."
    assert lines(Caption(1, 4, broken.replace("\n", " "))) == [broken]


def test_a_long_line_becomes_cues_that_fit_and_hold_every_word() -> None:
    found = cues([Caption(1, 9, LONG)], 60)
    assert " ".join(" ".join(cue.lines) for cue in found) == LONG
    assert all(len(line) <= MAX_LINE for cue in found for line in cue.lines)
    assert all(len(cue.lines) <= 2 for cue in found)
    assert found[0].start_s == 1
    assert 9 <= found[-1].end_s < 9.5  # a little longer, where the last part could not be read else


def test_cues_last_long_enough_and_never_overlap() -> None:
    captions = [
        Caption(0.0, 0.2, "Yes."),
        Caption(0.3, 0.5, "No."),
        Caption(0.5, 20, "This one goes on."),
        Caption(20.1, 20.2, "A line that nobody can read in a tenth of a second."),
    ]
    found = cues(captions, 30)
    assert len(found) == 4
    for one, other in itertools.pairwise(found):
        assert other.start_s - one.end_s >= GAP_S - 1e-9
    assert all(0.5 - 1e-9 <= cue.end_s - cue.start_s <= MAX_S for cue in found)
    assert found[-1].end_s - found[-1].start_s == pytest.approx(52 / 17, abs=0.1)


def test_nothing_is_shown_after_the_film() -> None:
    found = cues([Caption(1, 2, "Now."), Caption(5, 6, "Late.")], 1.5)
    assert [(cue.text, cue.end_s) for cue in found] == [("Now.", 1.5)]


def test_the_files_have_their_forms() -> None:
    found = cues([Caption(61.5, 63.25, "Tom & Ann <3", "Ann"), Caption(3700, 3702, "Later.")], 4000)
    assert srt(found) == (
        "1\n00:01:01,500 --> 00:01:03,250\nTom & Ann <3\n\n2\n01:01:40,000 --> 01:01:42,000\nLater.\n"
    )
    assert vtt(found) == (
        "WEBVTT\n\n00:01:01.500 --> 00:01:03.250\n<v Ann>Tom &amp; Ann &lt;3\n\n"
        "01:01:40.000 --> 01:01:42.000\nLater.\n"
    )


def test_a_line_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(RequestError, match="end_s is 1, and start_s is 2"):
        Caption(2, 1, "No.")


def test_lines_are_wrapped_to_the_width_and_a_long_word_is_broken() -> None:
    font = FontStack(None, 16)
    found = wrapped("one two three four five six Donaudampfschifffahrtsgesellschaft\nnew", font, 120)
    assert all(font.getlength(line) <= 120 for line in found)
    assert found[-1] == "new"
    assert re.sub(r"\s", "", "".join(found)) == "onetwothreefourfivesixDonaudampfschifffahrtsgesellschaftnew"


def test_a_title_is_there_in_its_frames_and_nowhere_else(tmp_path: Path) -> None:
    dark = film(tmp_path / "a.mkv", 10, 24, size=(160, 96))
    title = Title(text="TITLE", start_s=0.25, seconds=0.5, size=0.4, fade_s=0)
    clip, _ = assembled(Timeline(cuts=(Cut(source=dark),), titles=(title,)), tmp_path)
    plain, _ = assembled(Timeline(cuts=(Cut(source=dark),)), tmp_path)
    assert clip.frames is not None
    assert plain.frames is not None
    changed = [not np.array_equal(a, b) for a, b in zip(clip.frames, plain.frames, strict=True)]
    assert changed == [6 <= i < 18 for i in range(24)]
    bright = clip.frames[10, ..., 0] > 200
    rows, columns = np.nonzero(bright)
    assert abs(rows.mean() - 48) < 5
    assert abs(columns.mean() - 80) < 5


def test_a_title_fades_and_a_card_is_on_black(tmp_path: Path) -> None:
    title = Title(text="END", start_s=0, seconds=1, size=0.5, fade_s=0.25)
    line = Timeline(cuts=(Cut(source="black", end_s=1),), width=96, height=64, fps=12, titles=(title,))
    clip, _ = assembled(line, tmp_path)
    assert clip.frames is not None
    peaks = [int(frame.max()) for frame in clip.frames]
    assert peaks == [64, 128, 191, 255, 255, 255, 255, 255, 255, 191, 128, 64]


def test_captions_are_burnt_in_at_the_bottom_while_they_are_said(tmp_path: Path) -> None:
    dark = film(tmp_path / "a.mkv", 10, 48, size=(320, 180))
    line = Timeline(
        cuts=(Cut(source=dark),), captions=(Caption(0.5, 1.5, "A ball rolls."),), burn_captions=True
    )
    clip, _ = assembled(line, tmp_path)
    assert clip.frames is not None
    shown = [bool((frame > 200).any()) for frame in clip.frames]
    assert shown == [12 <= i < 36 for i in range(48)]
    rows = np.nonzero((clip.frames[20] > 200).any(axis=(1, 2)))[0]
    assert rows.min() > 0.8 * 180


def test_wrong_fonts_colours_and_times_are_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "no.ttf").write_text("no font")
    cases = [
        ({"font": tmp_path / "no.ttf"}, "titles[0].font is"),
        ({"color": "reddish"}, "titles[0].color is 'reddish'"),
        ({"start_s": 3}, "titles[0].start_s is 3"),
    ]
    for fields, told in cases:
        title = Title(**{"text": "T", "start_s": 0, "seconds": 1, **fields})  # type: ignore[arg-type]
        line = Timeline(cuts=(Cut(source="black", end_s=1),), titles=(title,))
        with pytest.raises(MediaError) as error:
            overlay_of(grid_of(line))
        assert told in str(error.value)


def test_letters_that_a_font_lacks_come_from_another_or_are_named_as_boxes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line = Timeline(
        cuts=(Cut(source=film(tmp_path / "a.mkv", 0, 24)),),
        titles=(Title(text="Kino \u041a\u0418", start_s=0, seconds=1),),
        captions=(Caption(0, 1, "\U0010fffe?"),),
        burn_captions=True,
    )
    monkeypatch.setattr(fonts, "_usual_font", lambda: fonts.OWN_FONT)  # which has no Cyrillic
    monkeypatch.setattr(fonts, "_fonts_here", lambda: ("none.ttf", "DejaVuSans.ttf"))
    fonts._other_font.cache_clear()
    try:
        other = FontStack(Path("DejaVuSans.ttf"), 16)
    except MediaError:
        pytest.skip("needs DejaVu Sans, which is not installed here")
    assert letter_notices(grid_of(line)) == [
        "titles[0].text: Aileron lacks \u041a \u0418; DejaVu Sans is used for them"
    ]
    mixed = FontStack(None, 16)
    own = fonts._opened(fonts.OWN_FONT, 16)
    assert mixed.getlength("ab\u041a") == own.getlength("ab") + other.getlength("\u041a")

    monkeypatch.setattr(fonts, "_fonts_here", lambda: ())
    fonts._other_font.cache_clear()
    (told,) = letter_notices(grid_of(line))
    assert told.startswith(
        "titles[0].text: Aileron lacks \u041a \u0418, as do all fonts that were found here"
    )
    fonts._other_font.cache_clear()
