"""The kinds of references, as one table: KINDS.

    KINDS["canny"].prepare(frames, fps, {"low": 60})    # yields frames

A request's controls, `soundstage control prepare` and the references of a training set all use it. Frames go
in and come out one by one, so that memory does not grow with the length of a clip; equal frames and settings
give equal frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

from soundstage.control import camera, degrade, depth, edges, likeness, painted, paths, pose, regions
from soundstage.control.frames import opencv
from soundstage.control.settings import Setting, completed, refused, whole_texts
from soundstage.errors import listed, shown
from soundstage.media.arrays import Pixels, Waveform
from soundstage.media.probe import Info

Prepare = Callable[[Iterator[Pixels], float, Mapping[str, Any]], Iterator[Pixels]]
FrameSize = tuple[int, int]  # width, height in pixels
UNENDING = 1_000_000  # frames of a still that is shown as long as a film lasts
FILES = ("mask", "image", "model", "detector", "paths")  # beside the clip


def _as_it_is(frames: Iterator[Pixels], fps: float, given: Mapping[str, Any]) -> Iterator[Pixels]:
    return frames


def _fits(given: Mapping[str, Any]) -> None:
    """Take any options."""


def _anywhere(size: FrameSize, given: Mapping[str, Any]) -> None:
    """Take a clip of any size."""


def _same_size(size: FrameSize, given: Mapping[str, Any]) -> FrameSize:
    return size


@dataclass(frozen=True)
class ControlKind:
    """One kind of reference.

    about: one sentence. run: takes frames, their rate, and all settings and files. needs, takes: files beside
    the clip that must and may be given, of FILES. downscale: how many times smaller than the result the
    adapters of this kind take it, where they do not say. size: the size of what comes out. made_by: the kind
    that makes the reference of a training pair from a finished clip; empty where it is this one. fits: raises
    for options that do not go together; placed for a place that is not in a clip of a size; is_ready for what
    is not there to do the work. lasts: whether a still
    picture is shown as long as the film lasts. sound: makes a sound of the clip's instead of frames.
    """

    about: str
    run: Prepare = _as_it_is
    settings: Mapping[str, Setting] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    downscale: int = 1
    size: Callable[[FrameSize, Mapping[str, Any]], FrameSize] = _same_size
    made_by: str = ""
    fits: Callable[[Mapping[str, Any]], None] = _fits
    placed: Callable[[FrameSize, Mapping[str, Any]], None] = _anywhere
    is_ready: Callable[[Mapping[str, Any]], None] = _fits
    lasts: bool = False
    sound: Callable[[Waveform, int, Mapping[str, Any]], Waveform] | None = None

    def prepare(
        self,
        frames: Iterator[Pixels],
        fps: float,
        options: Mapping[str, Any] | None = None,
        num_frames: int = 0,
    ) -> Iterator[Pixels]:
        """Yield the reference's frames (H, W, 3). options: settings, and files by the names of FILES.

        num_frames: how many are to come, 0 where that is not known. Raises RequestError for options that do
        not fit, MissingExtraError for a package that is missing.
        """
        given = self.checked(options or {})
        self.is_ready(given)
        return self.run(iter(frames), fps, given | {"num_frames": num_frames})

    def check_ready(self, options: Mapping[str, Any]) -> None:
        """Raise for a package, a model or a file of paths that is missing or cannot be used."""
        if self.run is not _as_it_is:
            opencv()
        self.is_ready(self.checked(options))

    def made_info(self, info: Info, options: Mapping[str, Any]) -> Info:
        """Return what the reference of a clip holds. Raises for a place that is not in the clip."""
        given = self.checked(options)
        self.placed((info.width, info.height), given)
        width, height = self.size((info.width, info.height), given)
        if self.lasts and info.num_frames == 1:
            info = replace(info, num_frames=UNENDING)
        return replace(info, width=width, height=height)

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
        found = completed(name, self.settings, settings) | files
        self.fits(found)
        return found


KINDS: dict[str, ControlKind] = {
    "canny": ControlKind(
        "Edges, white on black, for union control.",
        edges.canny,
        edges.CANNY,
        downscale=2,
        size=edges.detection_size,
        fits=edges.check_thresholds,
    ),
    "depth": ControlKind(
        "Depth in grey, near is white, by an ONNX model, for union control.",
        depth.depth,
        depth.DEPTH,
        takes=("model",),
        downscale=2,
        is_ready=depth.check_depth,
    ),
    "depth-classical": ControlKind(
        "A guess at depth from height, focus and motion, where there is no model.",
        depth.depth_classical,
        downscale=2,
    ),
    "pose": ControlKind(
        "Sticks of people by an ONNX model of key points, for union control.",
        pose.pose,
        pose.POSE,
        takes=("model", "detector"),
        downscale=2,
        fits=pose.check_options,
        placed=regions.check_place,
        is_ready=pose.check_pose,
    ),
    "pose-classical": ControlKind(
        "The silhouette of what moves and its middle, where there is no model.",
        pose.pose_classical,
        downscale=2,
    ),
    "tracks": ControlKind(
        "Trails of paths that are drawn through points, or of points tracked in the clip.",
        paths.tracks,
        paths.TRACKS,
        takes=("paths",),
        downscale=2,
        fits=paths.check_points,
        placed=paths.check_place,
        is_ready=paths.check_file,
        lasts=True,
    ),
    "inpaint": ControlKind(
        "The clip with a region painted over in whole cells, to be filled.",
        painted.inpaint,
        painted.INPAINT,
        takes=("mask",),
        fits=regions.check_region,
        placed=regions.check_place,
    ),
    "official-inpaint": ControlKind(
        "The clip with a region in the green of the official adapter, to be filled.",
        painted.inpaint,
        painted.GREEN_INPAINT,
        takes=("mask",),
        fits=regions.check_region,
        placed=regions.check_place,
    ),
    "masked-reference": ControlKind(
        "A painted clip beside a green panel with the object that is to fill it.",
        painted.masked_reference,
        painted.MASKED_REFERENCE,
        takes=("mask", "image"),
        size=painted.panel_size,
        fits=regions.check_region,
        placed=regions.check_place,
    ),
    "outpaint": ControlKind(
        "The clip on a larger canvas of one colour, to be filled.",
        painted.outpaint,
        painted.OUTPAINT,
        size=painted.canvas_size,
        made_by="border",
        fits=painted.check_canvas,
    ),
    "edit": ControlKind("The clip itself, to be edited by the prompt; the LoRA at 1.1 to 1.4."),
    "cameraman": ControlKind("The clip itself, whose camera move is to be made again."),
    "camera-motion": ControlKind(
        "A pattern that moves as the clip's camera does, and shows nothing else of it.",
        camera.camera_motion,
        camera.CAMERA,
    ),
    "sheet": ControlKind("A picture of characters and things, shown all the time.", lasts=True),
    "face": ControlKind(
        "The square around a face, of each frame or all the time.",
        likeness.face,
        likeness.FACE,
        takes=("model",),
        size=likeness.face_size,
        placed=regions.check_place,
        is_ready=likeness.check_face,
        lasts=True,
    ),
    "voice": ControlKind(
        "The loudest seconds of a sound, as a voice sample.", settings=likeness.VOICE, sound=likeness.voice
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
    "border": ControlKind(
        "The clip with its margins painted over, at its own size: pairs of outpaint.",
        painted.border,
        painted.OUTPAINT,
        fits=painted.check_canvas,
        placed=painted.check_border,
    ),
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
    "gamma": ControlKind(
        "Each value raised to a power: undoes outpaint's gamma.", painted.gamma, painted.GAMMA
    ),
    "blend": ControlKind(
        "The clip within a region and image, another clip, outside: a result put into its source.",
        painted.blend,
        painted.BLEND,
        needs=("image",),
        takes=("mask",),
        fits=regions.check_region,
        placed=regions.check_place,
    ),
}


def kind_named(name: str) -> ControlKind:
    """Return a kind. Raises RequestError with the nearest names for one that does not exist."""
    if name not in KINDS:
        raise refused(f"there is no control {shown(name)}; the kinds are {listed(name, KINDS)}")
    return KINDS[name]


def kind_name(kind: ControlKind) -> str:
    """Return the name of a kind in the table."""
    return next(name for name, known in KINDS.items() if known is kind)


def training_kind(name: str) -> ControlKind:
    """Return the kind that makes the reference of a training pair for a kind."""
    kind = kind_named(name)
    return KINDS[kind.made_by] if kind.made_by else kind


def prepared_by(name: str) -> str:
    """Return the packages that make a kind, with their versions: another may give other pixels."""
    if kind_named(name).run is _as_it_is:
        return ""
    model = ["onnxruntime"] if "model" in kind_named(name).takes else []
    return " ".join(f"{package} {_version(package)}" for package in ["opencv-python-headless", *model])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # OpenCV under another of its names
        return str(getattr(opencv(), "__version__", "")) if package.startswith("opencv") else ""
