"""Tokens, their places, masks and pixels: the published examples, and rules that must hold."""

from typing import Any

import numpy as np
import pytest
import torch

from soundstage.conditioning import pixels as conditioning_pixels
from soundstage.conditioning.masks import (
    attention_cells,
    blend_weights,
    blended,
    cells_touched,
    made_cells,
    seam_weights,
)
from soundstage.conditioning.pixels import fit, fit_mask, to_uint8
from soundstage.conditioning.positions import (
    audio_positions,
    guide_positions,
    identity_positions,
    reference_positions,
    video_positions,
)
from soundstage.conditioning.seams import Seam, frames_in, latent_samples, latent_video_frames, seams
from soundstage.conditioning.tokens import Added, Tokens
from soundstage.media.in_memory import InMemory
from soundstage.media.probe import Info
from soundstage.planning.grid import audio_edges, latents_in, sample_times, video_edges
from soundstage.sampling.streams import draw_noise
from soundstage.types import Crop
from tests.media_read import load_frames


def frames_of(positions: torch.Tensor, fps: float) -> list[list[float]]:
    return (positions[0, 0] * fps).tolist()


@pytest.mark.parametrize(
    ("count", "frame", "still", "expected"),
    [
        (1, 8, True, [[8, 9]]),
        (1, -1, True, [[-1, 0]]),
        (3, 9, False, [[9, 17], [17, 25], [25, 33]]),
        (2, 0, False, [[0, 1], [1, 9]]),
        (2, -16, False, [[-16, -8], [-8, 0]]),
    ],
)
def test_places_of_guides_are_the_published_ones(
    count: int, frame: int, still: bool, expected: list[list[float]]
) -> None:
    assert frames_of(guide_positions(count, 1, 1, 1.0, frame=frame, still=still), 1.0) == expected


def test_every_second_frame_of_a_reference() -> None:
    positions = reference_positions(3, 1, 1, 1.0, temporal=2)
    assert frames_of(positions, 1.0) == [[0, 1], [1, 17], [17, 33]]
    assert torch.equal(reference_positions(3, 2, 2, 24.0), video_positions(3, 2, 2, 24.0))
    assert reference_positions(1, 1, 2, 24.0, downscale=2)[0, 2].tolist() == [[0, 64], [64, 128]]


def test_a_voice_ends_just_before_the_clip() -> None:
    positions = identity_positions(125)
    assert positions[0, 0, -1, 1].item() == pytest.approx(-0.04, abs=1e-6)
    assert torch.allclose(positions.diff(dim=2), audio_positions(125).diff(dim=2), atol=1e-6)


def test_a_span_touches_the_published_latents() -> None:
    """17 frames at 24 fps, 0.2 to 0.5 s."""
    assert latents_in([(0.2, 0.5)], video_edges(3, 24)) == ((1, 3),)
    assert latents_in([(0.2, 0.5)], audio_edges(18)) == ((5, 14),)
    assert latents_in([(0, 0.01), (0.6, 0.7)], video_edges(3, 24)) == ((0, 1), (2, 3))
    edges = torch.tensor(video_edges(4, 24))
    assert torch.allclose(edges, video_positions(4, 1, 1, 24)[0, 0])
    assert torch.allclose(torch.tensor(audio_edges(4)), audio_positions(4)[0, 0])


# --- tokens ---------------------------------------------------------------------------------------------


def tokens(count: int = 2) -> Tokens:
    return Tokens.fresh(torch.zeros(1, 3, count, 2), 4, torch.float32)


def added(count: int = 1, **fields: Any) -> Added:
    return Added(torch.ones(1, count, 4), fields.pop("mask", 0.0), torch.zeros(1, 3, count, 2), **fields)


def test_attention_strengths_are_the_published_ones() -> None:
    """Two tokens of the clip, a reference at one half, a keyframe."""
    first = tokens()
    first.add(added(attention=0.5))
    first.add(added())
    assert first.stream().attention_mask[0].tolist() == [
        [1, 1, 0.5, 1],
        [1, 1, 0.5, 1],
        [0.5, 0.5, 1, 0],
        [1, 1, 0, 1],
    ]
    last = tokens()
    last.add(added())
    last.add(added(attention=0.5))
    assert last.stream().attention_mask[0].tolist() == [
        [1, 1, 1, 0.5],
        [1, 1, 1, 0.5],
        [1, 1, 1, 0],
        [0.5, 0.5, 0, 1],
    ]


def test_without_strengths_there_is_no_matrix() -> None:
    some = tokens()
    some.add(added())
    assert some.stream().attention_mask is None


def test_the_start_of_published_tokens() -> None:
    """x_init = (1 - m) c + m ((1 - s0) y + s0 n): a picture in place, and a token that nothing touched."""
    some = tokens(2)
    some.begin(torch.full((1, 2, 4), -1.0))
    some.replace(torch.full((1, 1, 4), 2.0), 0, strength=0.25)
    noise = torch.tensor([-1.1258, -0.8834])[None, :, None].expand(1, 2, 4)
    start = some.stream().noised(noise, 0.909375)
    assert start[0, :, 0].tolist() == pytest.approx([-0.3358, -0.8939], abs=1e-4)


def test_added_tokens_start_from_nothing_and_draw_noise() -> None:
    some = tokens()
    some.add(added(3, mask=0.5, is_reference=True))
    stream = some.stream()
    assert stream.mask[0, :, 0].tolist() == [1, 1, 0.5, 0.5, 0.5]
    assert stream.initial is not None
    assert not stream.initial[:, 2:].any()
    assert stream.reference.tolist() == [False, False, True, True, True]
    noise, _ = draw_noise(stream, None, torch.Generator().manual_seed(0))
    assert noise.shape == (1, 5, 4)


def test_kept_tokens_take_their_clean_values_and_others_do_not() -> None:
    some = tokens(3)
    some.keep(torch.full((1, 3, 4), 7.0), torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1))
    assert some.clean[0, :, 0].tolist() == [7, 0, 7]
    assert some.mask[0, :, 0].tolist() == [0, 1, 0.5]


def test_a_picture_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="3 tokens from token 1 on do not fit 2"):
        tokens(2).replace(torch.ones(1, 3, 4), 1, 1.0)


# --- masks ----------------------------------------------------------------------------------------------


def test_a_masked_pixel_touches_its_cell_and_its_group_of_frames() -> None:
    pixels = torch.zeros(17, 64, 96)
    pixels[0, 0, 0] = pixels[9, 40, 70] = 1
    touched = cells_touched(pixels)
    assert touched.shape == (3, 2, 3)
    assert touched.nonzero().tolist() == [[0, 0, 0], [2, 1, 2]]
    assert attention_cells(pixels, 2, 3).view(3, 2, 3)[2, 1, 2].item() == pytest.approx(1 / 8 / 1024)


def test_made_cells_are_those_of_the_span_the_mask_and_the_margins() -> None:
    touched = torch.zeros(3, 2, 4)
    touched[:, 0, 2] = 1
    made = made_cells((3, 2, 4), ((1, 2),), margins=(32, 0, 0, 0), touched=touched)
    assert made[:, :, 0].all()
    assert made[1].nonzero().tolist() == [[0, 0], [0, 2], [1, 0]]
    assert made[0].nonzero().tolist() == [[0, 0], [1, 0]]


def test_seams_in_time_lie_in_what_latents_hold_beside_what_was_asked() -> None:
    """Frames 25 to 32 are made; what of them was not asked for is the fade, or three frames beside them."""
    made = torch.zeros(9, 1, 1)
    made[4] = 1
    narrow = blend_weights(made, seams([(29, 31)], [(25, 33)], 65, 3), 65)[:, 0, 0]
    assert narrow[24:34].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 0.75, 0.5, 0.25])
    assert not narrow[:25].any()
    assert not narrow[34:].any()
    whole = blend_weights(made, seams([(25, 33)], [(25, 33)], 65, 3), 65)[:, 0, 0]
    assert whole[25:33].tolist() == [1.0] * 8
    assert whole[21:25].tolist() == [0, 0.25, 0.5, 0.75]
    assert whole[33:37].tolist() == [0.75, 0.5, 0.25, 0]


def test_a_retake_changes_no_more_than_its_latents_need() -> None:
    """1 to 1.5 s at 24 fps are frames 24 to 35; their latents hold 17 to 40."""
    assert frames_in([(1.0, 1.5)], 24.0, 49) == ((24, 36),)
    assert seams([(24, 36)], [(17, 41)], 49, 3) == (Seam(17, 24, 36, 41),)
    assert seams([(0, 9)], [(0, 9)], 49, 3) == (Seam(0, 0, 9, 12),)
    assert seams([(40, 49)], [(33, 49)], 49, 3) == (Seam(33, 40, 49, 49),)
    assert latent_video_frames([(0, 1), (3, 6)]) == [(0, 1), (17, 41)]
    assert latent_samples([(0, 2), (25, 26)]) == [(0, 2400), (46560, 48480)]


@pytest.mark.parametrize("edges", [(20, 22, 30, 33), (0, 0, 5, 8), (40, 43, 49, 49)])
def test_shares_of_a_seam_rise_and_fall_within_it(edges: tuple[int, int, int, int]) -> None:
    weights = seam_weights([Seam(*edges)], 49)
    start, first, end, stop = edges
    assert (np.flatnonzero(weights) == np.arange(start, stop)).all()
    assert (weights[first:end] == 1).all()
    assert (np.diff(weights[start:first]) > 0).all()
    assert (np.diff(weights[end:stop]) < 0).all()


def test_made_pixels_are_never_mixed_with_old_ones_inside_a_mask() -> None:
    made = torch.zeros(1, 3, 3)
    made[0, 1, 1] = 1
    weights = blend_weights(made, seams([(0, 1)], [(0, 1)], 1, 3), 1)
    ones, zeros = np.full((1, 96, 96, 3), 255, np.uint8), np.zeros((1, 96, 96, 3), np.uint8)
    shown = blended(ones, zeros, weights)
    assert (shown[0, 32:64, 32:64] == 255).all()
    kept = blended(ones, zeros, torch.zeros(1, 3, 3))
    assert not kept.any()


# --- pixels ---------------------------------------------------------------------------------------------


def test_pixels_come_back_as_they_were() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 64, 3), dtype=np.uint8)
    pixels = fit(frames, 64, 32)
    assert pixels.shape == (1, 3, 9, 32, 64)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert np.array_equal(to_uint8(pixels), frames)


def test_three_ways_to_fit_a_wide_picture() -> None:
    wide = np.zeros((1, 10, 40, 3), np.uint8)
    wide[:, :, :20] = 255
    center, stretch, pad = (
        to_uint8(fit(wide, 32, 32, crop))[0, :, :, 0] for crop in ("center", "stretch", "pad")
    )
    for image in (center, stretch):
        assert (image[:, :14] == 255).all()
        assert (image[:, 18:] == 0).all()
    assert (pad[:12] == 0).all()
    assert (pad[12:20, :14] == 255).all()
    assert (pad[20:] == 0).all()


@pytest.mark.parametrize("crop", ["center", "stretch", "pad"])
@pytest.mark.parametrize("size", [(40, 90), (90, 40), (32, 64), (1, 1), (3, 500)])
def test_large_pictures_are_fitted_to_the_same_numbers(
    size: tuple[int, int], crop: Crop, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    usual = fit(picture, 64, 32, crop)
    monkeypatch.setattr(conditioning_pixels, "LARGE_PIXELS", 0)
    torch.testing.assert_close(fit(picture, 64, 32, crop), usual, rtol=0, atol=3e-5)


def test_a_picture_like_a_thread_takes_no_memory_for_what_is_cut() -> None:
    """Scaled whole it would be 192 x 57,600,000 pixels."""
    thread = np.full((1, 600_000, 2, 3), 255, np.uint8)
    assert (fit(thread, 192, 128) == 1).all()


def test_a_mask_lasts_as_long_as_the_clip() -> None:
    mask = np.full((2, 8, 8, 3), 255, np.uint8)
    mask[0] = 0
    fitted = fit_mask(mask, 32, 64, 5, "stretch")
    assert fitted.shape == (5, 64, 32)
    assert fitted.mean(dim=(1, 2)).tolist() == [0, 1, 1, 1, 1]


def test_a_clip_at_another_rate_has_the_nearest_frames() -> None:
    def picked(count: int, fps: float | None, wanted_fps: float, limit: int, first: int = 0) -> list[int]:
        clip = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 3), np.uint8)
        info = Info(1, 1, count, fps, None)
        times = sample_times(info, wanted_fps, 24, limit, first)
        return load_frames(InMemory(clip, fps=fps), times, 24)[:, 0, 0, 0].tolist() if times else []

    assert picked(5, 24, 24, 3) == [0, 1, 2]
    assert picked(5, None, 24, 9) == [0, 1, 2, 3, 4]
    assert picked(8, 48, 24, 9) == [0, 2, 4, 6]
    assert picked(3, 12, 24, 9) == [0, 0, 1, 1, 2]  # of two equally near the first
    assert picked(9, 24000 / 1001, 24, 20) == [*range(9)]
    assert picked(9, 24, 24, 20, first=6) == [6, 7, 8]
