"""Colours of one shot brought to those of another, within limits."""

from pathlib import Path

import numpy as np
import pytest

from soundstage.clip import Clip
from soundstage.editing import Cut, Timeline
from soundstage.editing.grid import grid_of
from soundstage.editing.matching import MAX_SHIFT, change, changes_of, colours_of, to_lab
from soundstage.errors import MediaError
from tests.editing_clips import assembled, film

SIZE = (48, 32)


def picture(seed: int) -> np.ndarray:
    """A picture of soft patches."""
    from PIL import Image

    small = np.random.default_rng(seed).integers(60, 190, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC))


def clip(path: Path, frame: np.ndarray) -> Path:
    return Clip(np.repeat(frame[None], 6, axis=0), None, 24).save(path, codec="ffv1")


def test_lab_is_that_of_the_standard() -> None:
    """Values of CIE Lab under D65, as colour science tables have them."""
    known = {
        (255, 255, 255): (100, 0, 0),
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 0, 255): (32.30, 79.19, -107.86),
    }
    for rgb, lab in known.items():
        assert to_lab(np.array([[rgb]], np.uint8))[0, 0] == pytest.approx(lab, abs=0.05)


def test_a_tinted_shot_comes_back_to_the_colours_of_the_other(tmp_path: Path) -> None:
    plain = picture(1)
    tinted = np.clip(plain * [1.08, 1.0, 0.9] + [4, 0, -4], 0, 255).astype(np.uint8)
    cuts = (
        Cut(source=clip(tmp_path / "a.mkv", plain)),
        Cut(source=clip(tmp_path / "b.mkv", tinted), match_to=1),
    )
    made, _ = assembled(Timeline(cuts=cuts), tmp_path)
    assert made.frames is not None
    before = np.abs(to_lab(tinted) - to_lab(plain)).mean()
    after = np.abs(to_lab(made.frames[8]) - to_lab(plain)).mean()
    assert after < before / 3
    assert np.array_equal(made.frames[2], plain)


def test_limits_keep_a_shot_of_another_place_from_being_tinted(tmp_path: Path) -> None:
    green = np.full((32, 48, 3), (20, 200, 30), np.uint8)
    cuts = (
        Cut(source=clip(tmp_path / "a.mkv", green)),
        Cut(source=clip(tmp_path / "b.mkv", picture(2)), match_to=1),
    )
    grid = grid_of(Timeline(cuts=cuts))
    changed = changes_of(grid)[2](picture(2))
    moved = to_lab(changed).mean(axis=(0, 1)) - to_lab(picture(2)).mean(axis=(0, 1))
    assert (np.abs(moved) < MAX_SHIFT + 1).all()


def test_half_the_strength_goes_half_the_way(tmp_path: Path) -> None:
    grid = grid_of(Timeline(cuts=(Cut(source=clip(tmp_path / "a.mkv", picture(1))),)))
    own = colours_of(grid, grid.placed[0])
    wanted = type(own)(own.mean + np.array([6, 0, 0]), own.spread)
    before = to_lab(picture(1))[..., 0].mean()
    half, whole = (to_lab(change(own, wanted, s)(picture(1)))[..., 0].mean() - before for s in (0.5, 1.0))
    assert (half, whole) == pytest.approx((3, 6), abs=0.3)


def test_only_another_cut_with_a_picture_can_be_matched_to(tmp_path: Path) -> None:
    a = film(tmp_path / "a.mkv", count=6)
    cases = [
        ((Cut(source=a, match_to=1),), "give the number of another cut"),
        ((Cut(source=a), Cut(source=a, match_to=3)), "give the number of another cut"),
        ((Cut(source=a), Cut(source=a, match_to=1), Cut(source=a, match_to=2)), "is matched itself"),
        ((Cut(source="black", end_s=1), Cut(source=a, match_to=1)), "has no picture"),
    ]
    for cuts, told in cases:
        with pytest.raises(MediaError, match=told):
            changes_of(grid_of(Timeline(cuts=cuts)))
