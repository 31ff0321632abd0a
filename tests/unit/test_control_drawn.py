"""References that are drawn: paths, regions, canvases, depth and pose by models, faces and voices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import soundstage as ss
from soundstage.clip import Clip
from soundstage.control.kinds import KINDS
from soundstage.control.paths import ramp, spline, trails
from soundstage.control.regions import in_blocks
from soundstage.errors import MediaError, RequestError, SoundstageError
from tests.tiny_onnx import mean_model

Frames = NDArray[np.uint8]
MAGENTA, GREEN = (255, 0, 255), (0, 255, 0)


def made(kind: str, frames: Frames, count: int = 0, **options: Any) -> Frames:
    return np.stack(list(KINDS[kind].prepare(iter(frames), 24.0, options, count)))


def textured(height: int = 96, width: int = 128) -> Frames:
    """Return soft random colours, which points can be followed in."""
    small = np.random.default_rng(3).integers(30, 160, (height // 4, width // 4, 3)).astype(np.uint8)
    return small.repeat(4, axis=0).repeat(4, axis=1)


def moving(num_frames: int = 6, step: int = 5) -> Frames:
    """Return a bright checkered square that goes right over a still plain background."""
    frames = np.full((num_frames, 96, 128, 3), 40, np.uint8)
    square = np.indices((24, 24)).sum(axis=0) // 4 % 2 * 200 + 50
    for i, frame in enumerate(frames):
        frame[36:60, 20 + step * i : 44 + step * i] = square[..., None]
    return frames


# --- Paths ------------------------------------------------------------------------------------------


def test_a_spline_goes_through_its_points_and_two_are_a_line() -> None:
    points = [(0.0, 0.0), (40.0, 80.0), (90.0, 10.0), (120.0, 60.0)]
    curve = spline(points, 31)
    assert [curve[i] for i in (0, 10, 20, 30)] == points
    assert spline([(0.0, 0.0), (30.0, 60.0)], 4) == [(0, 0), (10, 20), (20, 40), (30, 60)]
    assert spline([(5.0, 6.0)], 3) == [(5, 6)] * 3
    # Halfway between the inner points, by the curve's own formula: (9 (b + c) - a - d) / 16.
    assert spline(points, 7)[3] == (round((9 * 130 - 120) / 16), round((9 * 90 - 60) / 16))


def test_the_ramp_goes_from_blue_over_green_and_yellow_to_red() -> None:
    shares = (0, 1 / 3, 2 / 3, 1)
    assert [ramp(share) for share in shares] == [(0, 0, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)]
    assert ramp(0.5) == (128, 255, 0)


def test_trails_stand_where_the_paths_are_with_blue_heads() -> None:
    ways = [spline([(200, 300), (1380, 300)], 60), spline([(900, 800)], 60)]
    past = list(zip(*ways, strict=True))
    last, first = trails(past[-51:], (1920, 1080)), trails(past[:1], (1920, 1080))
    assert tuple(last[300, 1380]) == (0, 0, 255)  # the newest is red, and red and blue are exchanged
    assert tuple(last[300, 1387]) == (0, 0, 255)
    assert not last[300, 1392].any()  # its radius is 8
    assert tuple(last[300, 1380 - 20 * 50]) == (255, 0, 0)  # 50 frames ago
    assert not last[300, 1380 - 20 * 52].any()
    assert tuple(last[800, 900]) == (0, 0, 255)
    assert first[300, 200, 2] == 255
    assert not first[300, 260].any()
    thick = trails(past[-51:], (1920, 1080), width=3)
    assert thick[300, 1380 + 22].any()  # three times the radius
    assert not thick[300, 1380 + 27].any()


def test_paths_are_scaled_to_the_clip_and_last_as_long_as_it(tmp_path: Path) -> None:
    tracks = {"size": [64, 48], "tracks": [[{"x": 10, "y": 10}, {"x": 50, "y": 40}]]}
    (tmp_path / "p.json").write_text(json.dumps(tracks))
    (tmp_path / "p.yaml").write_text("- [[20, 20], [100, 80]]")
    blank = np.zeros((5, 96, 128, 3), np.uint8)
    drawn = made("tracks", blank, 5, paths=str(tmp_path / "p.json"))
    assert drawn[-1, 80, 100, 2] > 100
    assert drawn[0, 20, 20, 2] > 100
    assert np.array_equal(drawn, made("tracks", blank, paths=str(tmp_path / "p.yaml"), length=5))
    assert np.array_equal(drawn, made("tracks", blank, points="20 20 100 80", length=5))


def test_points_are_tracked_through_a_clip() -> None:
    drawn = made("tracks", moving(), count=8)
    heads = [np.nonzero(frame[..., 2] > 90)[1].mean() for frame in drawn]
    assert heads[-1] - heads[0] > 8  # trails grow to the right, with the square
    assert drawn[-1, :, :18].max() == 0


# --- Regions ----------------------------------------------------------------------------------------


def test_a_region_fills_the_cells_of_8_that_it_touches_and_no_other(tmp_path: Path) -> None:
    frame = textured()[None]
    painted = made("inpaint", frame, box="17 25 30 6")[0]
    filled = (painted == MAGENTA).all(axis=2)
    expected = np.zeros((96, 128), bool)
    expected[24:32, 16:48] = True
    assert np.array_equal(filled, expected)
    assert np.array_equal(painted[~expected], frame[0][~expected])
    mask = np.zeros((96, 128, 3), np.uint8)
    mask[25:31, 17:47] = 255
    Clip(mask[None], None, 24.0).save(tmp_path / "m.png")
    assert np.array_equal(made("inpaint", frame, mask=str(tmp_path / "m.png"))[0], painted)


@pytest.mark.parametrize(("name", "colour"), [("white", (255, 255, 255)), ("#0102ff", (1, 2, 255))])
def test_the_fill_colour_is_a_choice(name: str, colour: tuple[int, int, int]) -> None:
    painted = made("inpaint", textured()[None], box="0 0 8 8", fill=name)[0]
    assert (painted[:8, :8] == colour).all()


def test_cells_at_the_edge_may_be_cut() -> None:
    region = np.zeros((10, 12), bool)
    region[9, 11] = True
    assert in_blocks(region, 8)[8:, 8:].all()
    assert in_blocks(region, 8).sum() == 2 * 4


def test_a_box_follows_what_is_in_it() -> None:
    clip = moving(6, 5)
    still, followed = (made("inpaint", clip, box="18 34 28 28", follow=f, blocks=1) for f in ("no", "yes"))
    lefts = [np.nonzero((frame == MAGENTA).all(axis=2))[1].min() for frame in followed]
    assert abs(int(lefts[-1]) - (18 + 25)) <= 2
    assert (still == MAGENTA).all(axis=3).any(axis=1)[:, 18].all()


def test_a_colour_is_a_region_and_grows() -> None:
    frame = np.zeros((1, 64, 64, 3), np.uint8)
    frame[0, 30:34, 30:34] = (250, 10, 10)
    areas = [
        int((made("inpaint", frame, key="ff0000", blocks=1, grow=g)[0] == MAGENTA).all(axis=2).sum())
        for g in (0, 3)
    ]
    assert areas[0] == 16
    assert 60 <= areas[1] <= 100


def test_a_masked_reference_has_its_object_on_green_beside_the_clip(tmp_path: Path) -> None:
    Clip(np.full((1, 20, 40, 3), 200, np.uint8), None, 24.0).save(tmp_path / "o.png")
    options = {"box": "0 0 8 8", "image": str(tmp_path / "o.png"), "panel": 0.5}
    shown = made("masked-reference", textured()[None], **options)[0]
    assert shown.shape == (96, 192, 3)
    assert (shown[0, :64] == GREEN).all()
    assert (shown[48, 32] == 200).all()
    assert (shown[:8, 64:72] == MAGENTA).all()
    empty = made("masked-reference", textured()[None], box="0 0 8 8", side="bottom")[0]
    assert empty.shape == (144, 128, 3)
    assert (empty[96:] == GREEN).all()


def test_outpainting_places_the_clip_and_its_gamma_can_be_undone() -> None:
    frame = textured()[None]
    placed = made("outpaint", frame, left=16, top=8, gamma=2)
    assert placed.shape == (1, 104, 144, 3)
    assert not placed[0, :8].any()
    assert not placed[0, :, :16].any()
    back = made("gamma", placed, gamma=2)[0, 8:, 16:]
    assert np.abs(back.astype(int) - frame[0]).max() <= 1


def test_a_blend_keeps_both_sides_far_from_the_seam(tmp_path: Path) -> None:
    inside, outside = np.full((1, 96, 128, 3), 220, np.uint8), textured()
    Clip(outside[None], None, 24.0).save(tmp_path / "s.png")
    options = {"box": "40 30 48 36", "image": str(tmp_path / "s.png"), "levels": 3}
    made_of_both = made("blend", inside, **options)[0]
    assert (made_of_both[48, 64] > 200).all()
    assert np.abs(made_of_both[:8, :8].astype(int) - outside[:8, :8]).max() <= 2
    hard = made("blend", inside, **{**options, "levels": 0})[0]
    assert (hard[30:66, 40:88] == 220).all()
    assert np.array_equal(hard[:30], outside[:30])


# --- Models, cameras, faces, voices -----------------------------------------------------------------


@pytest.mark.parametrize("shape", [[1, 3, 28, 42], ["n", 3, "h", "w"], [1, 4, 3, 28, 42]])
def test_depth_is_what_the_model_gives_on_one_scale(shape: list[int | str], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = str(mean_model(tmp_path / "d.onnx", shape))
    ramp_frame = np.linspace(0, 250, 128).astype(np.uint8)[None, :, None].repeat(96, 0).repeat(3, 2)
    clip = np.stack([ramp_frame, ramp_frame // 2, ramp_frame // 2])
    own = {} if 28 in shape else {"resolution": 56}
    found = made("depth", clip, model=model, **own)
    assert found.shape == clip.shape
    across = found[0, 48, 8:-8, 0].astype(int)
    assert (np.diff(across) >= 0).all()
    assert across[-1] > 220
    assert found[1, 48, -10, 0] < across[-1] - 60
    away = made("depth", clip[:1], model=model, far="bright", **own)[0, 48, :, 0]
    assert away[5] > away[-5]


def test_a_pose_is_drawn_where_the_model_sees_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = str(mean_model(tmp_path / "p.onnx", [1, 3, 64, 48], copies=17))
    frame = np.full((1, 96, 128, 3), 20, np.uint8)
    frame[0, 60:66, 90:96] = 255
    drawn = made("pose", frame, model=model)[0]
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert abs(rows.mean() - 63) < 5
    assert abs(columns.mean() - 93) < 5


def test_classical_stand_ins_are_named_so_and_see_what_they_say() -> None:
    silhouette = made("pose-classical", moving())[-1]
    assert silhouette[40:56, 50:65].any()
    assert not silhouette[:20].any()
    guess = made("depth-classical", textured()[None])[0]
    assert guess[-5:].mean() > guess[:5].mean()
    assert "guess" in KINDS["depth-classical"].about


def test_a_camera_motion_moves_as_the_clip_does_and_shows_nothing_of_it() -> None:
    wide = textured(120, 200)
    clip = np.stack([wide[:96, 4 * i : 4 * i + 128] for i in range(5)])
    shown = made("camera-motion", clip)
    ahead = shown[-1, 20:76, 20:92].astype(int)
    shifts = [np.abs(ahead - shown[0, 20:76, 20 + s : 92 + s]).mean() for s in range(0, 30)]
    assert abs(int(np.argmin(shifts)) - 16) <= 1
    assert np.array_equal(shown[0], made("camera-motion", clip[::-1])[0])


def test_a_face_is_the_square_around_its_box() -> None:
    frame = np.zeros((1, 96, 128, 3), np.uint8)
    frame[0, 20:60, 50:90] = 180
    crop = made("face", frame, box="50 20 40 40", margin=0, size=64)[0]
    assert crop.shape == (64, 64, 3)
    assert (crop == 180).all()


def test_a_voice_is_the_loudest_stretch(tmp_path: Path) -> None:
    sound = np.full((2, 8 * 8000), 0.01, np.float32)
    sound[:, 5 * 8000 : 6 * 8000] = 0.5
    Clip(None, sound, 24.0, sample_rate_hz=8000).save(tmp_path / "a.wav")
    ss.prepare_control("voice", tmp_path / "a.wav", tmp_path / "v.wav", seconds=1)
    sample = Clip.open(tmp_path / "v.wav")
    assert sample.waveform is not None
    assert sample.waveform.shape == (2, 8000)
    assert sample.waveform.min() > 0.4


def test_a_still_lasts_as_long_as_its_kind(tmp_path: Path) -> None:
    Clip(textured()[None], None, 24.0).save(tmp_path / "a.png")
    ss.prepare_control("sheet", tmp_path / "a.png", tmp_path / "a.mkv", num_frames=4)
    assert np.array_equal(Clip.open(tmp_path / "a.mkv").frames, textured()[None].repeat(4, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("inpaint", {}, "the control needs one region; give one of mask, box and key"),
        ("inpaint", {"box": "1 2 3 4", "key": "red0"}, "key of control 'inpaint' is 'red0'; give"),
        ("inpaint", {"box": "1 2 3 4", "key": "ff0000"}, "both box and key are given; keep one"),
        ("inpaint", {"box": "1 2 3"}, "box of control 'inpaint' has 3 numbers; give 4"),
        ("inpaint", {"box": "1 2 0 4"}, "its width and height should be above 0"),
        ("outpaint", {}, "control 'outpaint' adds nothing"),
        ("tracks", {"points": "1 2 3"}, "points has '1 2 3'; give x and y of each point"),
        ("tracks", {"paths": "gone.json"}, "paths is gone.json, which cannot be read"),
        (
            "depth",
            {},
            "control 'depth' needs a model; give model=PATH of an .onnx file, or use 'depth-classical'",
        ),
        ("depth", {"model": "gone.onnx"}, "model is gone.onnx, and there is no such file"),
        ("face", {}, "control 'face' needs either box, the face's place, or model"),
        ("blend", {"box": "1 2 3 4"}, "control 'blend' needs image; give image=PATH"),
        ("voice", {}, "holds no sound"),
        ("inpaint", {"box": "500 1 9 9"}, "box is '500 1 9 9', and the clip has 128x96 pixels; give x, y"),
        ("face", {"box": "-50 1 9 9"}, "box is '-50 1 9 9', and the clip has 128x96 pixels"),
        ("inpaint", {"key": "00ff00"}, "the key 00ff00 marks nothing in any frame of the clip"),
        ("inpaint", {"key": "00ff00", "follow": "yes"}, "follow is yes, and moves a box, and key is given"),
        (
            "inpaint",
            {"box": "1 2 3 4", "tolerance": 3},
            "tolerance is 3, and is of a key's colour, and box",
        ),
        ("tracks", {"points": "500 1 600 1"}, "no path touches the picture of 128x96"),
        ("tracks", {"points": "1 2 3 4", "count": 3}, "count is 3, and is of paths that are tracked"),
        ("tracks", {"length": 9}, "length is 9, and is of paths that are given"),
        ("canny", {"low": 300}, "low is 300, above high, 200; give low at most as large"),
        ("border", {"left": 100, "right": 30}, "the margins leave nothing of the clip of 128x96 pixels"),
    ],
)
def test_what_cannot_be_prepared_is_said_before(
    kind: str, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    Clip(textured()[None].repeat(2, 0), None, 24.0).save(tmp_path / "a.mkv")
    with pytest.raises((RequestError, MediaError)) as error:
        ss.prepare_control(kind, tmp_path / "a.mkv", tmp_path / "b.mkv", **options)
    assert told in str(error.value)
    assert not (tmp_path / "b.mkv").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "a: 1",
        "[]",
        "[[[1]]]",
        "[[{x: a, y: 1}]]",
        "{size: [1], tracks: [[[1, 2]]]}",
        "{sise: [64, 48], tracks: [[[1, 2]]]}",
        "[[{x: 1, y: 2, visible: false}]]",
    ],
)
def test_a_wrong_file_of_paths_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(MediaError, match=r"p\.yaml"):
        KINDS["tracks"].check_ready({"paths": str(tmp_path / "p.yaml")})


def test_a_file_that_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(SoundstageError, match="which is no ONNX model that can be run"):
        KINDS["depth"].check_ready({"model": str(tmp_path / "m.onnx")})
    grey = mean_model(tmp_path / "g.onnx", [1, 1, 8, 8])
    with pytest.raises(MediaError, match="give one that takes pictures alone"):
        KINDS["pose"].check_ready({"model": str(grey)})


def test_a_mask_at_another_rate_is_shown_by_its_times(tmp_path: Path) -> None:
    masks = np.zeros((2, 96, 128, 3), np.uint8)
    masks[0, :, :64] = masks[1, :, 64:] = 255
    Clip(masks, None, 8.0).save(tmp_path / "m.mkv", codec="ffv1")
    painted = made("inpaint", textured()[None].repeat(6, 0), mask=str(tmp_path / "m.mkv"))
    left = [(frame[:, :64] == MAGENTA).all() for frame in painted]
    right = [(frame[:, 64:] == MAGENTA).all() for frame in painted]
    assert left == [True, True, False, False, False, False]
    assert right == [not one for one in left]


def test_paths_with_a_mark_of_their_encoding_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("\ufeff[[[20, 20], [100, 80]]]", encoding="utf-8")
    blank = np.zeros((5, 96, 128, 3), np.uint8)
    drawn = made("tracks", blank, paths=str(tmp_path / "p.json"), length=5)
    assert np.array_equal(drawn, made("tracks", blank, points="20 20 100 80", length=5))


def test_a_pair_of_outpaint_is_the_clip_with_its_margins_painted_over() -> None:
    frame = textured()[None]
    painted = made("border", frame, left=16, bottom=8, fill="magenta")[0]
    assert painted.shape == frame[0].shape
    assert (painted[:, :16] == MAGENTA).all()
    assert (painted[-8:] == MAGENTA).all()
    assert np.array_equal(painted[:-8, 16:], frame[0, :-8, 16:])
