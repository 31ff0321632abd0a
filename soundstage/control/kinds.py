"""The kinds of references, as one table: KINDS.

    KINDS["canny"].prepare(frames, fps, {"low": 60})    # yields frames

A request's controls, `soundstage control prepare` and the references of a training set all use it. Frames go
in and come out one by one, so that memory does not grow with the length of a clip; equal frames and settings
give equal frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from soundstage.control import degrade, edges
from soundstage.control.settings import Setting, completed, refused, whole_texts
from soundstage.errors import listed
from soundstage.media.arrays import Pixels

Prepare = Callable[[Iterator[Pixels], float, Mapping[str, Any]], Iterator[Pixels]]
FrameSize = tuple[int, int]  # width, height in pixels
FILES = ("mask", "image", "model")  # beside the clip


def _as_it_is(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    return frames


def _same_size(size: FrameSize, given: Mapping[str, Any]) -> FrameSize:
    return size


@dataclass(frozen=True)
class ControlKind:
    """One kind of reference.

    about: one sentence. run: takes frames, their rate, and all settings and files. needs, takes: files beside
    the clip that must and may be given, of FILES. downscale: how many times smaller than the result the
    adapters of this kind take it, where they do not say. size: the size of what comes out. made_by: the kind
    that makes the reference of a training pair from a finished clip; empty where it is this one.
    """

    about: str
    run: Prepare = _as_it_is
    settings: Mapping[str, Setting] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    downscale: int = 1
    size: Callable[[FrameSize, Mapping[str, Any]], FrameSize] = _same_size
    made_by: str = ""

    def prepare(
        self, frames: Iterator[Pixels], fps: float, options: Mapping[str, Any] | None = None
    ) -> Iterator[Pixels]:
        """Yield the reference's frames (H, W, 3). options: settings, and files by the names of FILES.

        Raises RequestError for options that do not fit, MissingExtraError for a package that is missing.
        """
        return self.run(iter(frames), fps, self.checked(options or {}))

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings and files of the kind. Raises RequestError for what does not fit."""
        name = kind_name(self)
        files = {key: options.get(key) for key in FILES}
        for key, file in files.items():
            if file is not None and key not in (*self.needs, *self.takes):
                raise refused(f"control '{name}' takes no {key}; leave it out")
        missing = [key for key in self.needs if files[key] is None]
        if missing:
            raise refused(f"control '{name}' needs {whole_texts(missing)}; give {missing[0]}=PATH")
        settings = {key: value for key, value in options.items() if key not in FILES}
        return completed(name, self.settings, settings) | files


KINDS: dict[str, ControlKind] = {
    "canny": ControlKind(
        "Edges, white on black, for union control.",
        edges.canny,
        edges.CANNY,
        downscale=2,
        size=edges.detection_size,
    ),
    "clip": ControlKind("The clip itself, for adapters that take it as it is."),
    "anime-to-real": ControlKind("The animation itself, to be made real.", made_by="cartoon"),
    "ungrade": ControlKind("The graded clip itself, to be made neutral.", made_by="grade"),
    "regrade": ControlKind("The clip itself, to be given another grade.", made_by="grade"),
    "refocus": ControlKind("The clip itself, out of focus, to be made sharp.", made_by="defocus"),
    "deblur": ControlKind("The smeared clip itself, to be made sharp.", made_by="blur"),
    "uncompress": ControlKind("The badly compressed clip itself, to be repaired.", made_by="compress"),
    "relight": ControlKind("The clip itself, to be lit in another way.", made_by="light"),
    "colourise": ControlKind("The grey clip itself, to be given colours.", made_by="colourless"),
    "day-to-night": ControlKind("The clip by day itself; `night` makes the result of a pair."),
    "detail": ControlKind("The clip itself, to be given fine detail.", made_by="soften"),
    "cartoon": ControlKind(
        "Flat areas with dark outlines, as drawn: pairs of anime-to-real.", degrade.cartoon, degrade.CARTOON
    ),
    "grade": ControlKind(
        "Drawn curves and saturation: pairs of ungrade and regrade.", degrade.grade, degrade.GRADE
    ),
    "defocus": ControlKind("Out of focus: pairs of refocus.", degrade.defocus, degrade.DEFOCUS),
    "blur": ControlKind("Smeared along a drawn direction: pairs of deblur.", degrade.blur, degrade.BLUR),
    "compress": ControlKind(
        "A real H.264 encode at low quality: pairs of uncompress.", degrade.compress, degrade.COMPRESS
    ),
    "light": ControlKind("Under a drawn light: pairs of relight.", degrade.light, degrade.LIGHT),
    "night": ControlKind("Dark and blue: results of day-to-night.", degrade.night, degrade.NIGHT),
    "colourless": ControlKind("In shades of grey: pairs of colourise.", degrade.colourless),
    "soften": ControlKind("Without fine detail: pairs of detail.", degrade.soften, degrade.SOFTEN),
}


def kind_named(name: str) -> ControlKind:
    """Return a kind. Raises RequestError with the nearest names for one that does not exist."""
    if name not in KINDS:
        raise refused(f"there is no control '{name}'; the kinds are {listed(name, KINDS)}")
    return KINDS[name]


def kind_name(kind: ControlKind) -> str:
    """Return the name of a kind in the table."""
    return next(name for name, known in KINDS.items() if known is kind)


def training_kind(name: str) -> ControlKind:
    """Return the kind that makes the reference of a training pair for a kind."""
    kind = kind_named(name)
    return KINDS[kind.made_by] if kind.made_by else kind
