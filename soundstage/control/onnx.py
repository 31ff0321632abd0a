"""ONNX models that the user points to: opened, their inputs and outputs checked, run on the CPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.control.frames import opencv
from soundstage.control.settings import refused
from soundstage.errors import MediaError, MissingExtraError
from soundstage.files import known_file
from soundstage.media.arrays import Pixels

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which vision models expect
Side = int | None  # None is any


class PictureModel:
    """A model whose one input is pictures, (N, 3, H, W) or (N, T, 3, H, W)."""

    def __init__(self, path: str, session: Any) -> None:
        self.path, self._session = path, session
        inputs = session.get_inputs()
        self.shape: list[Side] = [
            side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape
        ]
        dims = len(self.shape)
        right = len(inputs) == 1 and dims in (4, 5) and self.shape[dims - 3] in (3, None)
        if not right or inputs[0].type not in ("tensor(float)", "tensor(float16)"):
            told = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise MediaError(
                f"model is {path}, whose inputs are {told}; give one that takes float pictures (N, 3, H, W)"
            )
        self._name = inputs[0].name
        self._dtype = np.float16 if inputs[0].type == "tensor(float16)" else np.float32
        self.num_outputs = len(session.get_outputs())

    @property
    def window(self) -> int | None:
        """Return how many pictures it takes at once, 0 for any number; None where it takes single ones."""
        return None if len(self.shape) == 4 else (self.shape[1] or 0)

    def run(self, pictures: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return the outputs for pictures of the input's own form."""
        try:
            made = self._session.run(None, {self._name: pictures.astype(self._dtype)})
        except Exception as error:
            reason = " ".join(str(error).split())[:150]
            raise MediaError(f"model {self.path} fails on pictures of {pictures.shape} ({reason})") from error
        return [np.asarray(one, np.float32) for one in made]


def picture_model(path: str) -> PictureModel:
    """Open a model. Raises MediaError for a file that is missing or no such model."""
    file = Path(path)
    if not file.is_file():
        raise MediaError(f"model is {path}, and there is no such file; give the .onnx file of a model")
    return _opened(path, *known_file(file))


@functools.lru_cache(maxsize=2)
def _opened(path: str, absolute: str, stamp: tuple[int, ...]) -> PictureModel:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("control", "running an ONNX model") from error
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = " ".join(str(error).split())[:150]
        raise MediaError(f"model is {path}, which is no ONNX model that can be run ({reason})") from error
    return PictureModel(path, session)


def as_input(frame: Pixels, width: int, height: int) -> NDArray[np.float32]:
    """Return a frame as (3, height, width), normalised as vision models expect."""
    cv2 = opencv()
    resized = cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=cv2.INTER_CUBIC)
    values = (resized.astype(np.float32) / 255 - MEAN) / DEVIATION
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


def check_model(kind: str, classical: str, path: str | None) -> None:
    """Raise where a kind's model is not given or cannot be run. classical: the kind that needs none."""
    if path is None:
        raise refused(
            f"control '{kind}' needs a model; give model=PATH of an .onnx file, or use '{classical}'"
        )
    picture_model(path)
