"""Cuts, dissolves and fades: the exact frame at every index of the film."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soundstage.editing import Cut, Timeline, Transition
from soundstage.editing.grid import grid_of
from soundstage.errors import MediaError, RequestError
from tests.editing_clips import assembled, film, levels


def mixed(one: int, other: int, share: float) -> int:
    return int(one * (1 - share) + other * share + 0.5)


def test_a_cut_shows_each_frame_of_the_parts_and_no_other(tmp_path: Path) -> None:
    a, b = film(tmp_path / "a.mkv", 0), film(tmp_path / "b.mkv", 100)
    cuts = (Cut(source=a, start_s=0.25, end_s=0.75), Cut(source=b, start_s=0.5))
    clip, told = assembled(Timeline(cuts=cuts), tmp_path)
    assert levels(clip) == [*range(6, 18), *range(112, 124)]
    assert (told.num_frames, told.fps, told.level) == (24, 24, None)


def test_a_dissolve_mixes_the_end_of_one_shot_with_the_beginning_of_the_next(tmp_path: Path) -> None:
    a, b = film(tmp_path / "a.mkv", 0), film(tmp_path / "b.mkv", 100)
    cuts = (Cut(source=a), Cut(source=b, transition=Transition("dissolve", 0.25)))
    clip, _ = assembled(Timeline(cuts=cuts), tmp_path)
    across = [mixed(18 + i, 100 + i, (i + 1) / 7) for i in range(6)]
    assert levels(clip) == [*range(18), *across, *range(106, 124)]


def test_a_shot_may_dissolve_at_both_ends(tmp_path: Path) -> None:
    sources = [film(tmp_path / f"{i}.mkv", 80 * i, 12) for i in range(3)]
    dissolve = Transition("dissolve", 0.25)
    cuts = [Cut(source=s, transition=dissolve if i else Transition()) for i, s in enumerate(sources)]
    clip, _ = assembled(Timeline(cuts=tuple(cuts)), tmp_path)
    first = [mixed(6 + i, 80 + i, (i + 1) / 7) for i in range(6)]
    second = [mixed(86 + i, 160 + i, (i + 1) / 7) for i in range(6)]
    assert levels(clip) == [*range(6), *first, *second, *range(166, 172)]


def test_a_fade_goes_through_black_and_a_film_may_begin_and_end_in_it(tmp_path: Path) -> None:
    a, b = film(tmp_path / "a.mkv", 200, 12), film(tmp_path / "b.mkv", 100, 12)
    fade = Transition("fade", 4 / 12)
    cuts = (Cut(source=a, transition=fade), Cut(source=b, transition=fade))
    clip, _ = assembled(Timeline(cuts=cuts, fade_out_s=0.125), tmp_path)
    a_levels = np.array([*(i / 8 for i in range(8)), 3 / 4, 2 / 4, 1 / 4, 0]) * np.arange(200, 212)
    b_levels = np.array([0, 1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1, 2 / 3, 1 / 3, 0]) * np.arange(100, 112)
    assert np.abs(np.array(levels(clip)) - [*a_levels, *b_levels]).max() <= 0.501


@pytest.mark.parametrize(("own", "fps"), [(12.0, 24.0), (30.0, 24.0), (25.0, 30000 / 1001), (50.0, 25.0)])
def test_a_source_of_another_rate_gives_the_nearest_frame(tmp_path: Path, own: float, fps: float) -> None:
    a, b = film(tmp_path / "a.mkv", 0, 40, own), film(tmp_path / "b.mkv", 100, 40, own)
    clip, _ = assembled(Timeline(cuts=(Cut(source=a), Cut(source=b)), fps=fps), tmp_path)
    count = round(40 / own * fps)
    wanted = np.minimum(np.arange(count) / fps * own, 39)  # a Matroska file has whole milliseconds
    shown = np.array(levels(clip)).reshape(2, count)
    assert np.abs(shown[0] - wanted).max() <= 0.5 + 0.001 * own
    assert (shown[1] - 100 == shown[0]).all()


def test_black_and_pictures_last_as_long_as_they_are_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (77, 77, 77)).save(tmp_path / "still.png")
    cuts = (Cut(source="black", end_s=0.25), Cut(source=tmp_path / "still.png", end_s=0.5))
    clip, _ = assembled(Timeline(cuts=cuts, fps=12), tmp_path)
    assert levels(clip) == [0] * 3 + [77] * 6


@pytest.mark.parametrize(("fit", "middle", "edge"), [("pad", 50, 0), ("center", 50, 50), ("stretch", 50, 50)])
def test_a_source_of_another_shape_is_fitted(tmp_path: Path, fit: str, middle: int, edge: int) -> None:
    wide = film(tmp_path / "wide.mkv", 50, 2, 24, size=(96, 32))
    clip, _ = assembled(Timeline(cuts=(Cut(source=wide),), width=48, height=48, fit=fit), tmp_path)
    assert clip.frames is not None
    assert clip.frames.shape == (2, 48, 48, 3)
    assert (clip.frames[0, 24, 24, 0], clip.frames[0, 4, 24, 0]) == (middle, edge)


def test_a_side_that_is_left_out_follows_from_the_other(tmp_path: Path) -> None:
    wide = film(tmp_path / "wide.mkv", 50, 2, 24, size=(96, 32))
    assert grid_of(Timeline(cuts=(Cut(source=wide),), width=192)).height == 64


def refused(cuts: tuple[Cut, ...], **fields: object) -> str:
    with pytest.raises(MediaError) as error:
        grid_of(Timeline(cuts=cuts, **fields))  # type: ignore[arg-type]
    return str(error.value)


def test_what_does_not_fit_is_refused_before_the_work(tmp_path: Path) -> None:
    a = film(tmp_path / "a.mkv", 0, 12)
    long = Transition("dissolve", 0.6)
    assert "cuts[0].source" in refused((Cut(source=tmp_path / "none.mkv"),))
    assert "cuts[0].end_s is 0.9" in refused((Cut(source=a, end_s=0.9),))
    assert "cuts[0].start_s is 0.7" in refused((Cut(source=a, start_s=0.7),))
    assert "cuts[0].end_s is missing" in refused((Cut(source="black"),))
    assert "has 12 frames, and the transitions" in refused((Cut(source=a), Cut(source=a, transition=long)))
    assert "no shot is before it" in refused((Cut(source=a, transition=Transition("dissolve", 0.2)),))
    assert "shorter than a frame" in refused((Cut(source=a, end_s=0.01),))
    assert "has no sound" in refused((Cut(source=a), Cut(source=a, start_s=0.2, sound_lead_s=0.1)))
    with pytest.raises(RequestError, match="a cut has no length"):
        Transition("cut", 1.0)
    with pytest.raises(RequestError, match="cuts"):
        Timeline(cuts=())
