"""ONNX models that the user points to: opened, their inputs and outputs checked, run on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.control.frames import opencv
from soundstage.control.settings import Setting, refused
from soundstage.errors import MediaError, MissingExtraError
from soundstage.files import known_file
from soundstage.media.arrays import Pixels

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which vision models expect
TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
}
VALUES = {  # how the numbers of a picture are given: colours turned round, divisor, mean, deviation
    "imagenet": (False, 255.0, MEAN, DEVIATION),
    "imagenet-bgr": (True, 255.0, MEAN[::-1], DEVIATION[::-1]),
    "half": (False, 255.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": (False, 255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bytes": (False, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bytes-bgr": (True, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
REASON = 150  # letters of a library's own words
Side = int | None  # None is any
Extents = tuple[Side, ...]


def values_setting(what: str) -> Setting:
    """Return the setting of how the numbers of a picture are given to a model."""
    return Setting(
        "auto",
        f"numbers that {what} takes: imagenet is normalised, half from -1 to 1, unit from 0 to 1, bytes "
        "from 0 to 255; auto by the form of its outputs",
        choices=("auto", *VALUES),
    )


class PictureModel:
    """A model whose one input is pictures: (N, 3, H, W), (N, H, W, 3) or clips (N, T, 3, H, W).

    shape: the input's, as (N, 3, H, W) or (N, T, 3, H, W). outputs: the name and shape of each output.
    """

    def __init__(self, path: str, session: Any) -> None:
        self.path, self._session = path, session
        inputs = session.get_inputs()
        shape = sides(inputs[0].shape)
        self.channels_last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
        self.shape: Extents = (shape[0], 3, *shape[1:3]) if self.channels_last else shape
        dims = len(self.shape)
        right = len(inputs) == 1 and dims in (4, 5) and self.shape[dims - 3] in (3, None)
        if not right or inputs[0].type not in TYPES:
            told = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise MediaError(
                f"model is {path}, whose inputs are {told}; give one that takes pictures alone, float or "
                "bytes, (N, 3, H, W) or (N, H, W, 3)"
            )
        self._name, self._dtype = inputs[0].name, TYPES[inputs[0].type]
        self.takes_bytes = self._dtype in (np.uint8, np.int32)
        self.outputs: list[tuple[str, Extents]] = [
            (one.name, sides(one.shape)) for one in session.get_outputs()
        ]

    @property
    def window(self) -> int | None:
        """Return how many pictures it takes at once, 0 for any number; None where it takes single ones."""
        return None if len(self.shape) == 4 else (self.shape[1] or 0)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height of its pictures: its own, else those given."""
        return self.shape[-1] or width, self.shape[-2] or height

    def values(self, asked: str, usual: str) -> str:
        """Return the name in VALUES that is asked for; for auto the usual one, as bytes where it takes those.

        Raises MediaError where whole numbers are taken and others asked for.
        """
        if not self.takes_bytes:
            return usual if asked == "auto" else asked
        if asked not in ("auto", "bytes", "bytes-bgr"):
            raise MediaError(f"model {self.path} takes bytes, and {asked} is asked for; give values=bytes")
        turned = usual if asked == "auto" else asked
        return "bytes-bgr" if turned.endswith("bgr") else "bytes"

    def picture(self, frame: Pixels, width: int, height: int, values: str) -> NDArray[np.float32]:
        """Return a frame, stretched, as (3, height, width). values: a name of VALUES."""
        turned, divisor, mean, deviation = VALUES[values]
        given = resized(frame, width, height)[..., :: -1 if turned else 1]
        numbers = (given.astype(np.float32) / divisor - mean) / deviation
        return np.ascontiguousarray(numbers.transpose(2, 0, 1), np.float32)

    def run(self, pictures: NDArray[np.float32]) -> list[tuple[str, NDArray[Any]]]:
        """Return each output's name and values for pictures (N, 3, H, W) or a clip (N, T, 3, H, W)."""
        given = pictures.transpose(0, 2, 3, 1) if self.channels_last else pictures
        batch = self.shape[0] or 1
        if len(given) < batch:  # a fixed number: the last fills it up
            given = np.concatenate([given, given[-1:].repeat(batch - len(given), axis=0)])
        try:
            made = self._session.run(None, {self._name: np.ascontiguousarray(given).astype(self._dtype)})
        except Exception as error:
            raise MediaError(
                f"model {self.path} fails on pictures of {given.shape} ({_reason(error)})"
            ) from error
        return [
            (name, np.asarray(one, np.float32)) for (name, _), one in zip(self.outputs, made, strict=True)
        ]

    def described(self, outputs: Sequence[tuple[str, Sequence[Any]]] | None = None) -> str:
        """Return the outputs for a sentence, "depth (1, 518, 518)"; N is any number."""
        shapes = outputs or self.outputs
        return ", ".join(f"{name} ({', '.join(str(s or 'N') for s in shape)})" for name, shape in shapes)


def resized(frame: Pixels, width: int, height: int) -> Pixels:
    """Return a frame, stretched, as models were trained to see it."""
    cv2 = opencv()
    smaller = width * height < frame.shape[0] * frame.shape[1]
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    made: Pixels = cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=way)
    return made


def sides(shape: Sequence[Any]) -> Extents:
    """Return a shape as ONNX says it with None for each side that is not fixed."""
    return tuple(side if isinstance(side, int) and side > 0 else None for side in shape)


def picture_model(path: str) -> PictureModel:
    """Open a model. Raises MediaError for a file that is missing or no such model."""
    file = Path(path)
    if file.is_dir():
        raise MediaError(f"model is {path}, which is a folder; give the .onnx file in it")
    if not file.is_file():
        raise MediaError(f"model is {path}, and there is no such file; give the .onnx file of a model")
    return _opened(path, *known_file(file))


@functools.lru_cache(maxsize=3)
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
        raise MediaError(_why_not(path, error, onnxruntime.__version__)) from error
    return PictureModel(path, session)


def _why_not(path: str, error: Exception, version: str) -> str:
    """Return the sentence for a file that onnxruntime does not open."""
    words = " ".join(str(error).split())
    first = Path(path).read_bytes()[:40]
    if first.startswith(b"version https://git-lfs"):
        return f"model is {path}, which only names a file of Git LFS; fetch the file itself"
    if "xternal" in words:
        return (
            f"model is {path}, whose weights lie in a file of their own that is not there or is cut "
            f"({_shortened(words)}); put it beside the .onnx under its own name"
        )
    if "opset" in words.lower() or "ir version" in words.lower():
        return (
            f"model is {path}, which is newer than onnxruntime {version} reads ({_shortened(words)}); "
            "update onnxruntime, or export the model with a lower opset"
        )
    return f"model is {path}, which is no ONNX model that can be run ({_shortened(words)})"


def _reason(error: Exception) -> str:
    return _shortened(" ".join(str(error).split()))


def _shortened(words: str) -> str:
    """Return a library's words, without its codes and names of source files in front."""
    return words.rpartition(" : ")[2][:REASON]


def check_given(kind: str, classical: str, path: str | None) -> None:
    """Raise where a kind's model is not given. classical: the kind that needs none."""
    if path is None:
        raise refused(
            f"control '{kind}' needs a model; give model=PATH of an .onnx file, or use '{classical}'"
        )
