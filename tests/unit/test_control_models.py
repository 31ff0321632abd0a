"""ONNX models of depth, of key points and of people, each in its published form."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import soundstage as ss
from soundstage.clip import Clip
from soundstage.control.kinds import KINDS
from soundstage.control.onnx import picture_model
from soundstage.errors import MediaError, RequestError, SoundstageError
from tests.tiny_onnx import fixed_model, mean_model, rows, share_model

pytest.importorskip("onnxruntime")

Numbers = NDArray[np.float32]
FRAME = np.full((1, 96, 128, 3), 20, np.uint8)
PLACES = [  # of COCO's 17 points in the frame
    (64, 10), (68, 6), (60, 6), (74, 9), (54, 9), (80, 30), (48, 30), (90, 45), (38, 45), (98, 60), (30, 60),
    (74, 58), (54, 58), (78, 72), (50, 72), (82, 88), (46, 88),
]  # fmt: skip
JOINTS = np.array([(x, y, 0.9) for x, y in PLACES], np.float32)
ORDER = (0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # COCO's points by OpenPose's hues
HUES = (0, *range(2, 18))  # 1 is the neck's


def made(kind: str, frames: NDArray[np.uint8], **options: Any) -> NDArray[np.uint8]:
    return np.stack(list(KINDS[kind].prepare(iter(frames), 24.0, options, len(frames))))


def hue(index: int) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(index / 18, 1, 1))


def drawn_at(picture: NDArray[np.uint8], colour: tuple[int, ...]) -> Numbers:
    """The middle of all that has a colour, x and y."""
    ys, xs = np.nonzero((picture == colour).all(axis=2))
    assert len(xs), colour
    return np.array([xs.mean(), ys.mean()], np.float32)


# --- key points -----------------------------------------------------------------------------------------


def scaled(joints: Numbers, share: float, top: float = 0.0) -> Numbers:
    moved = joints.copy()
    moved[:, :2] = (moved[:, :2] - (0, top)) * share
    return moved


def columns(path: Path) -> Path:  # YOLOv8-pose: 640x640 from 128x96 is five times as large
    person = np.concatenate([[320, 240, 400, 420, 0.95], scaled(JOINTS, 5).ravel()])
    twice = person - np.eye(len(person))[4] * 0.2
    return fixed_model(
        path,
        [1, 3, 640, 640],
        {"output0": rows(8400, 56, np.stack([twice, person])).transpose(0, 2, 1).copy()},
    )


def chosen(path: Path) -> Path:  # YOLO26-pose
    row = np.concatenate([[120, 30, 520, 450, 0.95, 0], scaled(JOINTS, 5).ravel()])
    return fixed_model(path, [1, 3, 640, 640], {"output0": rows(300, 57, row[None])})


def listed(path: Path) -> Path:  # RTMO, of any number of persons
    outputs = {
        "dets": np.array([[[120, 30, 520, 450, 0.9], [0, 0, 9, 9, 0.1]]], np.float32),
        "keypoints": np.stack([scaled(JOINTS, 5), np.zeros((17, 3), np.float32)])[None],
    }
    shapes = {"dets": ["batch", "num_dets", 5], "keypoints": ["batch", "num_dets", 17, 3]}
    return fixed_model(path, ["batch", 3, 640, 640], outputs, name="input", shapes=shapes)


def lines(path: Path, count: int = 133) -> Path:  # DWPose: the frame on 288x384, lines of twice the sides
    at = scaled(JOINTS, 288 / 128, -38)
    across, down = np.zeros((1, count, 576), np.float32), np.zeros((1, count, 768), np.float32)
    for k, (x, y, sure) in enumerate(at):
        across[0, k, round(2 * float(x))] = down[0, k, round(2 * float(y))] = sure
    return fixed_model(
        path,
        ["batch", 3, 384, 288],
        {"simcc_x": across, "simcc_y": down},
        name="input",
        shapes={"simcc_x": ["batch", count, 576], "simcc_y": ["batch", count, 768]},
    )


def maps(path: Path) -> Path:  # ViTPose
    at = scaled(JOINTS, 48 / 128, -38)
    heat = np.zeros((1, 17, 64, 48), np.float32)
    for k, (x, y, sure) in enumerate(at):
        heat[0, k, int(y), int(x)] = sure
    return fixed_model(path, ["batch_size", 3, 256, 192], {"heatmaps": heat}, name="pixel_values")


def shares(path: Path) -> Path:  # MoveNet: whole numbers, channels last, y before x
    at = scaled(JOINTS, 1 / 128, -16)[:, [1, 0, 2]]
    return fixed_model(
        path, [1, 192, 192, 3], {"output_0": at[None, None].copy()}, name="input", kind="int32"
    )


def six(path: Path) -> Path:  # MoveNet for several people
    at = scaled(JOINTS, 5 / 640)[:, [1, 0, 2]]
    row = np.concatenate([at.ravel(), [0.05, 0.2, 0.7, 0.8, 0.9]])
    return fixed_model(
        path, [1, "h", "w", 3], {"output_0": rows(6, 56, row[None])}, name="input", kind="int32"
    )


def blaze(path: Path) -> Path:  # MediaPipe, 256x256
    from soundstage.control.people import BLAZE

    found = np.full((39, 5), -4, np.float32)
    found[list(BLAZE), :2] = scaled(JOINTS, 2, -16)[:, :2]
    found[list(BLAZE), 3] = 3
    outputs = {"Identity": found.reshape(1, 195), "Identity_1": np.ones((1, 1), np.float32)}
    return fixed_model(path, [1, 256, 256, 3], outputs, name="input_1")


@pytest.mark.parametrize("form", [columns, chosen, listed, lines, maps, shares, six, blaze])
def test_key_points_of_each_published_form_are_drawn_where_they_are(
    form: Callable[[Path], Path], tmp_path: Path
) -> None:
    picture = made("pose", FRAME, model=str(form(tmp_path / "p.onnx")))[0]
    away = [np.abs(drawn_at(picture, hue(i)) - PLACES[k]).max() for i, k in zip(HUES, ORDER, strict=True)]
    assert max(away) <= (2.7 if form is maps else 1.1)  # a cell of a heat map is 2.7 pixels of the frame


def test_hands_and_face_are_drawn_where_a_model_has_them(tmp_path: Path) -> None:
    across, down = np.zeros((1, 133, 576), np.float32), np.zeros((1, 133, 768), np.float32)
    across[0, 23:91, 100] = down[0, 23:91, 200] = across[0, 91:112, 400] = down[0, 91:112, 500] = 0.9
    model = fixed_model(tmp_path / "p.onnx", [1, 3, 384, 288], {"simcc_x": across, "simcc_y": down})
    picture = made("pose", FRAME, model=str(model))[0]
    assert np.abs(drawn_at(picture, (255, 255, 255)) - (100 / 4.5, 200 / 4.5 - 38)).max() < 1
    assert np.abs(drawn_at(picture, (0, 0, 255)) - (400 / 4.5, 500 / 4.5 - 38)).max() < 1


def two_persons() -> Numbers:
    left, right = JOINTS.copy(), JOINTS.copy()
    left[:, 0], right[:, 0] = left[:, 0] / 2, right[:, 0] / 2 + 64
    return np.stack([left, right])


def test_several_persons_are_drawn_once_each_and_no_more_than_asked(tmp_path: Path) -> None:
    people = [np.concatenate([[0, 0, 0, 0, 0.9], scaled(one, 5).ravel()]) for one in two_persons()]
    again = [one * np.float32(1.0) for one in people]
    for one in again:
        one[4] = 0.6  # the same person by another candidate
    grid = rows(8400, 56, np.stack([*again, *people])).transpose(0, 2, 1).copy()
    model = str(fixed_model(tmp_path / "p.onnx", [1, 3, 640, 640], {"output0": grid}))
    noses = (made("pose", FRAME, model=model)[0] == (255, 0, 0)).all(axis=2)
    assert noses[:, :64].sum() == noses[:, 64:].sum() == 5
    one = (made("pose", FRAME, model=model, people=1)[0] == (255, 0, 0)).all(axis=2)
    assert one.sum() == 5


def grid(path: Path) -> Path:
    """YOLOX of 416x416: two boxes as cells, logarithms of their sides, and how sure people and things are."""
    row = np.zeros((3549, 85), np.float32)
    for index, (x, y) in ((52 * 10 + 13, (13, 10)), (52 * 12 + 39, (39, 12))):
        row[index, :6] = (0.5, 0.25, np.log(10), np.log(20), 0.95, 0.9)
        assert index == 52 * y + x
    row[40, :8] = (0, 0, 1, 1, 0.9, 0.01, 0.9, 0)  # a thing
    return fixed_model(path, [1, 3, 416, 416], {"output": row[None]})


def labelled(path: Path) -> Path:
    boxes = np.array([[68, 2, 148, 162, 0.9], [276, 18, 356, 178, 0.9], [0, 0, 9, 9, 0.9]], np.float32)
    outputs = {"dets": boxes[None], "labels": np.array([[0, 0, 7]], np.int64)}
    return fixed_model(
        path, [1, 3, 416, 416], outputs, name="input", shapes={"dets": [1, "n", 5], "labels": [1, "n"]}
    )


def classes(path: Path) -> Path:
    row = np.zeros((2, 84), np.float32)
    row[:, :5] = ((108, 82, 80, 160, 0.9), (316, 98, 80, 160, 0.8))
    return fixed_model(path, [1, 3, 416, 416], {"output0": rows(3549, 84, row).transpose(0, 2, 1).copy()})


def boxes(path: Path) -> Path:
    row = np.array(
        [[68, 2, 148, 162, 0.9, 0], [276, 18, 356, 178, 0.9, 0], [0, 0, 50, 50, 0.9, 3]], np.float32
    )
    return fixed_model(path, [1, 3, 416, 416], {"output0": rows(300, 6, row)})


@pytest.mark.parametrize("form", [grid, labelled, classes, boxes])
def test_a_detector_says_where_a_model_of_one_person_looks(
    form: Callable[[Path], Path], tmp_path: Path
) -> None:
    lines_ = np.zeros((1, 17, 96), np.float32)
    lines_[..., 48] = 0.9  # every joint in the middle of what is looked at
    down = np.repeat(lines_, 2, axis=2)
    down[..., 97] = 0
    model = fixed_model(tmp_path / "p.onnx", [1, 3, 96, 48], {"simcc_x": lines_, "simcc_y": down})
    picture = made("pose", FRAME, model=str(model), detector=str(form(tmp_path / "d.onnx")))[0]
    xs = np.nonzero(picture.any(axis=2))[1]
    share = 128 / 416
    assert abs(xs[xs < 64].mean() - 108 * share) < 1.5
    assert abs(xs[xs >= 64].mean() - 316 * share) < 1.5


# --- depth ----------------------------------------------------------------------------------------------

RAMP = np.linspace(0, 250, 128).astype(np.uint8)[None, None, :, None].repeat(96, 1).repeat(3, 3)


@pytest.mark.parametrize(
    ("shape", "kind", "copies", "names"),
    [
        ([1, 3, 518, 518], "float32", 0, ("image", "depth")),  # Depth-Anything-V2
        (["batch", 3, "height", "width"], "float32", 0, ("pixel_values", "predicted_depth")),
        (["batch", 3, "height", "width"], "float16", 1, ("image", "depth")),
        ([1, 3, 256, 256], "float32", 1, ("0", "797")),  # MiDaS
    ],
)
def test_depth_models_of_published_forms_show_a_ramp(
    shape: list[int | str], kind: str, copies: int, names: tuple[str, str], tmp_path: Path
) -> None:
    model = str(mean_model(tmp_path / "d.onnx", shape, copies, kind=kind, names=names))
    own = {"resolution": 98} if "batch" in shape else {}
    across = made("depth", RAMP, model=model, **own)[0, 48, :, 0].astype(int)
    assert (np.diff(across) >= -1).all()
    assert across[2] < 8
    assert across[-3] > 247


def test_a_model_of_clips_has_one_scale_over_its_windows(tmp_path: Path) -> None:
    """A window's own values are shares of its highest; those of later windows are brought to the first's."""
    model = str(share_model(tmp_path / "v.onnx", [1, 8, 3, 28, 42]))
    clip = np.concatenate([(RAMP * (1 - i / 30)).astype(np.uint8) for i in range(20)])
    shown = made("depth", clip, model=model, values="unit")[:, 48, 100, 0].astype(int)
    expected = shown[0] * (1 - np.arange(20) / 30)
    assert np.abs(shown - expected).max() < 8
    assert len(shown) == 20


def test_distances_are_shown_as_nearness(tmp_path: Path) -> None:
    model = str(mean_model(tmp_path / "d.onnx", [1, 3, 48, 64]))
    near = made("depth", RAMP, model=model, values="bytes", far="metres")[0, 48, :, 0].astype(int)
    assert (np.diff(near) <= 0).all()
    assert near[40] < 40  # as one by the distance, not as its opposite
    flat = made("depth", RAMP, model=model, values="bytes", far="bright")[0, 48, :, 0]
    assert 160 < flat[40] < 190


def test_a_film_that_begins_black_gets_its_scale_from_the_first_frame_with_depth(tmp_path: Path) -> None:
    model = str(mean_model(tmp_path / "d.onnx", [1, 3, 48, 64]))
    shown = made("depth", np.concatenate([RAMP * 0, RAMP]), model=model)
    assert shown[1, 48, -3, 0] > 247
    assert shown[1, 48, 40, 0] < 100


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("imagenet", [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]),
        ("imagenet-bgr", [-0.406 / 0.225, -0.456 / 0.224, (1 - 0.485) / 0.229]),
        ("half", [1, -1, -1]),
        ("unit", [1, 0, 0]),
        ("bytes", [255, 0, 0]),
        ("bytes-bgr", [0, 0, 255]),
    ],
)
def test_numbers_are_given_as_asked(values: str, expected: list[float], tmp_path: Path) -> None:
    model = picture_model(str(mean_model(tmp_path / "d.onnx", [1, 3, 8, 8])))
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 255
    assert model.picture(red, 8, 8, values)[:, 3, 3] == pytest.approx(expected, abs=1e-5)


# --- what cannot be used --------------------------------------------------------------------------------


def not_there(path: Path) -> Path:
    fixed_model(path, [1, 3, 8, 8], {"y": np.zeros((1, 8, 8), np.float32)}, apart="weights.data")
    (path.parent / "weights.data").unlink()
    return path


def pointer(path: Path) -> Path:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def newer(path: Path) -> Path:
    return fixed_model(path, [1, 3, 8, 8], {"y": np.zeros((1, 8, 8), np.float32)}, opset=99)


def classifier(path: Path) -> Path:
    return fixed_model(path, [1, 3, 224, 224], {"logits": np.zeros((1, 1000), np.float32)})


@pytest.mark.parametrize(
    ("kind", "field", "model", "told"),
    [
        ("depth", "model", grid, "gives output (1, 3549, 85); control 'depth' needs one map of each"),
        ("depth", "model", maps, "gives heatmaps (1, 17, 64, 48); control 'depth' needs one map"),
        ("depth", "model", lines, "control 'depth' needs one map of each"),
        ("depth", "model", classifier, "control 'depth' needs one map of each"),
        ("pose", "model", grid, "gives output (1, 3549, 85); it would do as detector; known are dets"),
        ("pose", "model", classifier, "gives logits (1, 1000); known are dets (1, n, 5) with keypoints"),
        (
            "pose",
            "detector",
            lines,
            "gives simcc_x (1, 133, 576), simcc_y (1, 133, 768); it would do as model",
        ),
        ("depth", "model", not_there, "whose weights lie in a file of their own that is not there"),
        ("depth", "model", pointer, "which only names a file of Git LFS"),
        ("depth", "model", folder, "which is a folder; give the .onnx file in it"),
        ("pose", "model", newer, "which is newer than onnxruntime"),
    ],
)
def test_a_model_of_another_kind_is_named_before_the_work(
    kind: str, field: str, model: Callable[[Path], Path], told: str, tmp_path: Path
) -> None:
    Clip(FRAME.repeat(2, 0), None, 24.0).save(tmp_path / "a.mkv")
    given = {"model": str(lines(tmp_path / "right.onnx"))} | {field: str(model(tmp_path / "m.onnx"))}
    with pytest.raises(SoundstageError) as error:
        ss.prepare_control(kind, tmp_path / "a.mkv", tmp_path / "b.mkv", **given)
    assert told in str(error.value)
    assert not (tmp_path / "b.mkv").exists()


def test_weights_in_a_file_of_their_own_are_read(tmp_path: Path) -> None:
    level = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    fixed_model(tmp_path / "d.onnx", [1, 3, 8, 8], {"y": level}, apart="d.onnx_data")
    assert made("depth", FRAME, model=str(tmp_path / "d.onnx"))[0, -4, -4, 0] > 240


def test_a_detector_beside_a_model_that_needs_none_and_beside_a_box_is_refused(tmp_path: Path) -> None:
    one_stage, detector = str(columns(tmp_path / "p.onnx")), str(grid(tmp_path / "d.onnx"))
    with pytest.raises(MediaError, match="finds people by itself; leave it out"):
        KINDS["pose"].check_ready({"model": one_stage, "detector": detector})
    with pytest.raises(RequestError, match="both box and detector say where people are; keep one"):
        KINDS["pose"].check_ready({"model": one_stage, "detector": detector, "box": "1 2 3 4"})


def test_other_numbers_than_a_model_of_bytes_takes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="takes bytes, and unit is asked for; give values=bytes"):
        made("pose", FRAME, model=str(shares(tmp_path / "p.onnx")), values="unit")
