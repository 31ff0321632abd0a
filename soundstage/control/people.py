"""People as models see them: the boxes of a detector, and the key points of each known form of model.

Coordinates are pixels of the picture that a model is given. A form is told by the shapes of a model's outputs
alone, so that a model of another kind is refused before it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundstage.control.onnx import Extents, PictureModel
from soundstage.errors import MediaError

ModelValues = NDArray[np.float32]
Joints = ModelValues  # (K, 3): x, y in pixels, confidence
Boxes = ModelValues  # (n, 5): left, top, right, bottom in pixels, confidence
Outputs = Sequence[tuple[str, ModelValues]]
Shapes = Sequence[tuple[str, Extents]]
BODY = 17  # key points of COCO: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles
WHOLE_BODY = 133  # with 6 of the feet, 68 of the face and 21 of each hand
COUNTS = (BODY, 26, WHOLE_BODY)  # 26: Halpe's, whose first are COCO's
BLAZE = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)  # COCO's points among MediaPipe's
BLAZE_VALUES = 5  # x, y, depth, visibility, presence
STRIDES = (8, 16, 32)  # of YOLOX's three grids
OVERLAP = 0.45  # boxes that share more are one person
COCO_CLASSES = 80
USUAL = (640, 640)  # width and height for a model that takes any
MOST_KEPT = 1000  # rows of a model that has chosen already


@dataclass(frozen=True)
class OutputForm:
    """One form of outputs.

    fits: whether outputs of these names and shapes are of it. read: returns persons (n, K, 3) or boxes (n, 5)
    for outputs, and the width and height of the picture. values: how it takes pictures, a name of
    onnx.VALUES. alone: sees one person that fills the picture.
    """

    told: str
    fits: Callable[[Shapes], bool]
    read: Callable[[Outputs, tuple[int, int]], ModelValues]
    values: str
    alone: bool = False


def form_of(field: str, shapes: Shapes) -> OutputForm | None:
    """Return the form of a model's outputs, None for one that is not known. field: model or detector."""
    return next((form for form in FORMS[field] if form.fits(shapes)), None)


def checked_form(model: PictureModel, field: str) -> OutputForm:
    """Return the form of a model. Raises MediaError for one whose outputs are not those of its place."""
    if model.window is not None:
        raise MediaError(f"{field} is {model.path}, which takes clips; control 'pose' gives single pictures")
    shapes: Shapes = model.outputs
    form = form_of(field, shapes)
    if form is None and any(side is None for _, shape in shapes for side in shape[1:]):
        blank = np.zeros((1, 3, *model.size(*USUAL)[::-1]), np.float32)  # says what its file leaves open
        shapes = [(name, one.shape) for name, one in model.run(blank)]
        form = form_of(field, shapes)
    if form is None:
        raise unknown_form(model, field, shapes)
    return form


def unknown_form(model: PictureModel, field: str, shapes: Shapes) -> MediaError:
    """Return the error for a model of another kind."""
    known = "; ".join(form.told for form in FORMS[field])
    other = next(name for name in FORMS if name != field)
    hint = f"; it would do as {other}" if form_of(other, shapes) else ""
    return MediaError(f"{field} {model.path} gives {model.described(shapes)}{hint}; known are {known}")


def kept(boxes: Boxes, least: float, most: int) -> NDArray[np.int64]:
    """Return the places of the most certain boxes of which none covers much of another, the surest first."""
    order = [int(i) for i in np.argsort(-boxes[:, 4], kind="stable") if boxes[i, 4] >= least]
    found: list[int] = []
    for i in order:
        if len(found) < most and all(_shared(boxes[i], boxes[j]) <= OVERLAP for j in found):
            found.append(i)
    return np.array(found, np.int64)


def around(joints: ModelValues, least: float) -> Boxes:
    """Return the box around the sure points of each person (n, K, 3)."""
    sure = joints[..., 2:] >= least
    places = joints[..., :2]
    first = np.where(sure, places, np.inf).min(axis=1)
    last = np.where(sure, places, -np.inf).max(axis=1)
    score = np.where(sure[..., 0], joints[..., 2], 0).sum(axis=1) / np.maximum(1, sure[..., 0].sum(axis=1))
    boxes = np.concatenate([first, last, score[:, None]], axis=1)
    return np.where(np.isfinite(boxes), boxes, 0).astype(np.float32)


def _shared(a: ModelValues, b: ModelValues) -> float:
    """Return the intersection of two boxes as a share of their union."""
    sides = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    inside = float(np.prod(np.maximum(0, sides)))
    areas = [float(np.prod(np.maximum(0, one[2:4] - one[:2]))) for one in (a, b)]
    return inside / max(1e-6, sum(areas) - inside)


# --- Key points -------------------------------------------------------------------------------------


def _lines_fit(shapes: Shapes) -> bool:
    rows = [shape[1] for _, shape in shapes[:2] if len(shape) == 3]
    known = any(row in COUNTS for row in rows) or all("simcc" in name for name, _ in shapes[:2])
    return len(rows) == 2 and known and (None in rows or rows[0] == rows[1])


def _lines(outputs: Outputs, size: tuple[int, int]) -> ModelValues:
    """Read one line for each axis, (1, K, W) and (1, K, H), each the side's pixels times some number."""
    across, down = (one[0] for _, one in outputs[:2])
    places = [
        line.argmax(axis=1) * side / line.shape[1] for line, side in ((across, size[0]), (down, size[1]))
    ]
    return np.stack([*places, np.minimum(across.max(axis=1), down.max(axis=1))], axis=1)[None]


def _maps_fit(shapes: Shapes) -> bool:
    shape = shapes[0][1]
    return len(shape) == 4 and shape[1] in COUNTS and shape[3] != 3


def _maps(outputs: Outputs, size: tuple[int, int]) -> ModelValues:
    """Read heat maps (1, K, h, w): the highest place, a quarter towards its higher neighbour."""
    maps = outputs[0][1][0]
    count, height, width = maps.shape
    flat = maps.reshape(count, -1)
    rows, columns = np.divmod(flat.argmax(axis=1), width)
    wide = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    each = np.arange(count)
    right, left = wide[each, rows + 1, columns + 2], wide[each, rows + 1, columns]
    below, above = wide[each, rows + 2, columns + 1], wide[each, rows, columns + 1]
    x = (columns + 0.5 + 0.25 * np.sign(right - left)) * size[0] / width
    y = (rows + 0.5 + 0.25 * np.sign(below - above)) * size[1] / height
    return np.stack([x, y, flat.max(axis=1)], axis=1)[None].astype(np.float32)


def _listed_fit(shapes: Shapes) -> bool:
    found = [shape for name, shape in shapes if "keypoint" in name.lower() and len(shape) == 4]
    boxes = [shape for _, shape in shapes if len(shape) == 3 and shape[2] in (5, None)]
    return bool(found and boxes) and found[0][2] in (*COUNTS, None) and found[0][3] in (3, None)


def _listed(outputs: Outputs, size: tuple[int, int]) -> ModelValues:
    """Read boxes (1, n, 5) and key points (1, n, K, 3) of n persons."""
    boxes = next(one[0] for _, one in outputs if one.ndim == 3)
    joints = next(one[0] for name, one in outputs if "keypoint" in name.lower())
    return _as_sure_as(joints, boxes[:, 4])


def _columns_fit(shapes: Shapes) -> bool:
    shape = shapes[0][1]
    return len(shapes) == 1 and len(shape) == 3 and shape[1] in [5 + 3 * count for count in COUNTS]


def _columns(outputs: Outputs, size: tuple[int, int]) -> ModelValues:
    """Read a column for each candidate, (1, 5 + 3 K, n): box, its confidence, key points."""
    return _rows_of(outputs[0][1][0].T, 4, 5)


def _chosen_fit(shapes: Shapes) -> bool:
    shape = shapes[0][1]
    return len(shapes) == 1 and len(shape) == 3 and shape[2] in [6 + 3 * count for count in COUNTS]


def _chosen(outputs: Outputs, size: tuple[int, int]) -> ModelValues:
    """Read a row for each person, (1, n, 6 + 3 K): corners, confidence, class, key points."""
    return _rows_of(outputs[0][1][0], 4, 6)


def _rows_of(rows: ModelValues, sure: int, first: int) -> ModelValues:
    """Return key points behind a column, of rows that are sure by another. Rows without a person are left."""
    rows = rows[rows[:, sure] > 0.05]
    return _as_sure_as(rows[:, first:].reshape(len(rows), -1, 3), rows[:, sure])


def _as_sure_as(joints: ModelValues, persons: ModelValues) -> ModelValues:
    """Return joints (n, K, 3), none surer than the person is there."""
    made = np.array(joints, np.float32)
    made[..., 2] = np.minimum(made[..., 2], persons[:, None])
    return made


def _shares_fit(shapes: Shapes) -> bool:
    shape = shapes[0][1]
    return len(shapes) == 1 and tuple(shape[1:]) == (1, BODY, 3)


def _shares(outputs: Outputs, size: tuple[int, int]) -> ModelValues:
    """Read y, x as shares of the sides and the confidence of one person, (1, 1, 17, 3)."""
    return _turned(outputs[0][1].reshape(-1, BODY, 3), size)


def _six_fit(shapes: Shapes) -> bool:
    shape = shapes[0][1]
    return len(shapes) == 1 and tuple(shape[1:]) == (6, 56)


def _six(outputs: Outputs, size: tuple[int, int]) -> ModelValues:
    """Read up to six persons, (1, 6, 56): y, x and confidence of 17 points, then a box and its confidence."""
    rows = outputs[0][1][0]
    return _as_sure_as(_turned(rows[:, : 3 * BODY].reshape(-1, BODY, 3), size), rows[:, -1])


def _turned(found: ModelValues, size: tuple[int, int]) -> ModelValues:
    return np.stack([found[..., 1] * size[0], found[..., 0] * size[1], found[..., 2]], axis=-1)


def _blaze_fit(shapes: Shapes) -> bool:
    return shapes[0][1][1:] in ((33 * BLAZE_VALUES,), (39 * BLAZE_VALUES,))


def _blaze(outputs: Outputs, size: tuple[int, int]) -> ModelValues:
    """Read landmarks (1, 195), of which COCO's are kept; how visible they are is a logit."""
    found = outputs[0][1].reshape(-1, BLAZE_VALUES)[list(BLAZE)]
    return np.concatenate([found[:, :2], 1 / (1 + np.exp(-found[:, 3:4]))], axis=1)[None]


POSES = (
    OutputForm(
        "dets (1, n, 5) with keypoints (1, n, K, 3), as RTMO has them", _listed_fit, _listed, "bytes-bgr"
    ),
    OutputForm(
        "simcc_x (1, K, W) with simcc_y (1, K, H), as RTMPose and DWPose have them",
        _lines_fit,
        _lines,
        "imagenet",
        alone=True,
    ),
    OutputForm("(1, 1, 17, 3), as MoveNet has it", _shares_fit, _shares, "bytes", alone=True),
    OutputForm("(1, 6, 56), as MoveNet for several people has it", _six_fit, _six, "bytes"),
    OutputForm("(1, 56, n), as YOLOv8-pose has it", _columns_fit, _columns, "unit"),
    OutputForm("(1, n, 57), as YOLO26-pose has it", _chosen_fit, _chosen, "unit"),
    OutputForm("heat maps (1, K, h, w), as ViTPose has them", _maps_fit, _maps, "imagenet", alone=True),
    OutputForm("landmarks (1, 195), as MediaPipe has them; K is 17, 26 or 133", _blaze_fit, _blaze, "unit",
         alone=True),
)  # fmt: skip


# --- Boxes ------------------------------------------------------------------------------------------


def _grid_fit(shapes: Shapes) -> bool:
    shape = shapes[0][1]
    return len(shapes) == 1 and len(shape) == 3 and shape[2] == 5 + COCO_CLASSES


def _grid(outputs: Outputs, size: tuple[int, int]) -> Boxes:
    """Read a row for each cell of three grids, (1, n, 85): middle and side from the cell, or in pixels."""
    rows = outputs[0][1][0]
    cells = [
        np.stack(np.meshgrid(np.arange(size[0] // s), np.arange(size[1] // s)), axis=-1).reshape(-1, 2)
        for s in STRIDES
    ]
    strides = np.concatenate([np.full((len(one), 1), s) for one, s in zip(cells, STRIDES, strict=True)])
    middle, sides = rows[:, :2], rows[:, 2:4]
    if len(strides) == len(rows) and sides.max() < 20:  # logarithms of shares of a stride, not yet pixels
        middle, sides = (middle + np.concatenate(cells)) * strides, np.exp(sides) * strides
    return _cornered(middle, sides, rows[:, 4] * rows[:, 5])


def _classes_fit(shapes: Shapes) -> bool:
    shape = shapes[0][1]
    return len(shapes) == 1 and len(shape) == 3 and shape[1] == 4 + COCO_CLASSES


def _classes(outputs: Outputs, size: tuple[int, int]) -> Boxes:
    """Read a column for each candidate, (1, 84, n): middle, sides, and how sure each class is."""
    rows = outputs[0][1][0].T
    return _cornered(rows[:, :2], rows[:, 2:4], rows[:, 4])


def _boxes_fit(shapes: Shapes) -> bool:
    shape = shapes[0][1]
    return len(shapes) == 1 and len(shape) == 3 and shape[2] == 6 and (shape[1] or 0) <= MOST_KEPT


def _boxes(outputs: Outputs, size: tuple[int, int]) -> Boxes:
    """Read a row for each thing, (1, n, 6): corners, confidence, class; the class of people is 0."""
    rows = outputs[0][1][0]
    return np.asarray(rows[rows[:, 5] == 0][:, :5], np.float32)


def _labelled_fit(shapes: Shapes) -> bool:
    ranks = sorted(len(shape) for _, shape in shapes)
    wide = [shape for _, shape in shapes if len(shape) == 3]
    return ranks == [2, 3] and wide[0][2] in (5, None)


def _labelled(outputs: Outputs, size: tuple[int, int]) -> Boxes:
    """Read dets (1, n, 5) with labels (1, n); the label of people is 0."""
    boxes = next(one[0] for _, one in outputs if one.ndim == 3)
    labels = next(one[0] for _, one in outputs if one.ndim == 2)
    return np.asarray(boxes[labels == 0], np.float32)


def _cornered(middle: ModelValues, sides: ModelValues, sure: ModelValues) -> Boxes:
    return np.concatenate([middle - sides / 2, middle + sides / 2, sure[:, None]], axis=1).astype(np.float32)


DETECTORS = (
    OutputForm("(1, n, 85), as YOLOX has it", _grid_fit, _grid, "bytes-bgr"),
    OutputForm("(1, 84, n), as YOLOv8 has it", _classes_fit, _classes, "unit"),
    OutputForm("(1, n, 6), as YOLO26 has it", _boxes_fit, _boxes, "unit"),
    OutputForm(
        "dets (1, n, 5) with labels (1, n), as YOLOX of mmdeploy", _labelled_fit, _labelled, "bytes-bgr"
    ),
)
FORMS: Mapping[str, tuple[OutputForm, ...]] = {"model": POSES, "detector": DETECTORS}
