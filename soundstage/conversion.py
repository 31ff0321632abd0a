"""Convert a finished clip to another format: planned and checked, then streamed from file to file.

    ss.convert("ball.mp4", "ball.gif", size="320x", fps=12)

What the file says of how it was made goes into the new one, with what was changed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soundstage.clip import changed, known_provenance, write_clip
from soundstage.errors import MediaError
from soundstage.files import check_writable
from soundstage.media import formats
from soundstage.media.colour import TONE_MAPPED
from soundstage.media.excerpt import Excerpt, scaled_size
from soundstage.media.hdr import Hdr, ToneMap
from soundstage.media.probe import Info, probe

MIN_FPS, MAX_FPS = 1, 240
TOLD_CUT_S = 0.1  # of sound after the picture; codecs fill up less


@dataclass(frozen=True)
class Wanted:
    """The wishes of a conversion besides its names. The fields are those of `convert`."""

    quality: int | None = None
    codec: str | None = None
    size: str | None = None
    fps: float | None = None
    span: tuple[float, float | None] | None = None
    at_s: float | None = None
    exposure: float | None = None
    tone_map: ToneMap | None = None
    space: str | None = None
    ocio: str | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """Return the wishes about light that is shown in standard range."""
        return {k: v for k in ("exposure", "tone_map") if (v := getattr(self, k)) is not None}

    @property
    def hdr(self) -> Hdr:
        """Return how light is written and shown. Raises RequestError for what does not fit."""
        return Hdr(space=self.space, ocio=self.ocio, **self.shown)


@dataclass(frozen=True)
class Conversion:
    """A conversion that is checked and not yet made.

    provenance: what the new file says of how it was made. notices: what is left out, and what is changed
    when the file is read. light: frames of high dynamic range are read as light.
    """

    excerpt: Excerpt
    output: formats.Output
    provenance: dict[str, Any]
    notices: tuple[str, ...]
    light: bool = False

    def run(self, *, overwrite: bool = True, progress: Callable[[float], None] | None = None) -> Path:
        """Write the file and return its name. progress: called with the share that is done, from 0 to 1.

        Raises MediaError for what cannot be read or written; then nothing is left of it.
        """
        pieces = self.excerpt.pieces(light=self.light)
        if progress is not None:
            pieces = pieces.told(progress)
        write_clip(self.output, pieces, self.provenance, overwrite=overwrite)
        return self.output.path


def convert(
    source: str | Path,
    output: str | Path,
    *,
    quality: int | None = None,
    codec: str | None = None,
    size: str | None = None,
    fps: float | None = None,
    span: tuple[float, float | None] | None = None,
    at_s: float | None = None,
    exposure: float | None = None,
    tone_map: ToneMap | None = None,
    space: str | None = None,
    ocio: str | None = None,
    overwrite: bool = True,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Write a clip, sound or picture in the format of the output's ending, and return its name.

    size: the size to scale to without distortion, such as "320x", "320x240" (a box to fit into), "480p" or
    "50%". fps: frames a second; each is the one that is shown then. span: start and end in seconds; an end of
    None is the file's. at_s: only the frame that is shown then. exposure, tone_map: how light is shown in
    standard range; space, ocio: the colour space of EXR files; as `Hdr` has them. quality, codec, overwrite:
    as `Clip.save` has them. progress: called with the share that is done. Notices are warnings. Raises
    MediaError for what cannot be read or written; then nothing is left of it.
    """
    planned = planned_conversion(
        source, output, Wanted(quality, codec, size, fps, span, at_s, exposure, tone_map, space, ocio)
    )
    planned.output.check(planned.excerpt.num_frames, overwrite=overwrite)
    for notice in planned.notices:
        warnings.warn(f"{source}: {notice}", stacklevel=2)
    return planned.run(overwrite=overwrite, progress=progress)


def planned_conversion(source: str | Path, output: str | Path, wanted: Wanted) -> Conversion:
    """Return the conversion. Raises MediaError for what can be known to be wrong before the work."""
    source = Path(source)
    if str(output).endswith(("/", os.sep)):
        output = Path(output) / formats.FOLDER_NAMES
    info = probe(str(source))
    _check_used(source, output, info, wanted)
    excerpt = _wanted_excerpt(source, output, info, wanted)
    _check_one_picture(source, output, excerpt)
    found = formats.output(
        output, excerpt.num_frames, codec=wanted.codec, quality=wanted.quality, hdr=wanted.hdr
    )
    light = _reads_light(source, found, info, wanted)
    if wanted.size is not None:
        excerpt = replace(excerpt, size=found.size(*scaled_size(wanted.size, excerpt.size)))
    told = _left_out(found, excerpt, info, wanted)
    resized = found.resized(*excerpt.size)
    told += [] if resized is None else [f"it {resized}"]
    if not found.format.holds_sound:
        excerpt = excerpt.picture_alone()
    told += [text for text in excerpt.notices() if not (light and text.endswith(TONE_MAPPED))]
    provenance = known_provenance(source)
    if provenance:
        provenance = changed(provenance, _changes(excerpt, info, wanted))
    return Conversion(excerpt, found, provenance, tuple(told), light)


def _reads_light(source: Path, output: formats.Output, info: Info, wanted: Wanted) -> bool:
    """Return whether frames of high dynamic range are read as light, and not tone-mapped as they are read.

    Raises MediaError for a wish about light that has no effect.
    """
    writes = output.codec.light
    if wanted.shown and (writes or not info.light):
        name, value = next(iter(wanted.shown.items()))
        why = f"{output.path} keeps its light" if writes else f"{source} has no high dynamic range"
        raise MediaError(f"{name} is {value}, and {why}; leave it out")
    if wanted.space is not None and writes != "linear":
        raise MediaError(
            f"space is {wanted.space!r}, which is for linear EXR files, and the output is {output.path}; "
            "leave it out"
        )
    return bool(writes or wanted.shown)


def contact_sheet_of(source: str | Path, path: str | Path, *, overwrite: bool = True) -> Path:
    """Write a picture of a file's frames over its waveform as PNG, and return its name."""
    from soundstage.media.image import sheet
    from soundstage.media.picture_files import save_picture

    path = Path(path)
    check_writable(path, (".png",), overwrite=overwrite)
    excerpt = Excerpt.of_file(Path(source))
    save_picture(path, sheet(excerpt.overview(), excerpt.loudness()), overwrite=overwrite)
    return path


def _kind(output: str | Path) -> str:
    """Return the kind of file that a name asks for, "" for one that is not known."""
    form = formats.FORMATS.get(Path(output).suffix.lower())
    return "" if form is None else form.kind


def _wanted_excerpt(source: Path, output: str | Path, info: Info, wanted: Wanted) -> Excerpt:
    excerpt = Excerpt.of_file(source, *(wanted.span or ()))
    if _kind(output) == "sound":
        return excerpt.sound_alone(info, to_end=wanted.span is None)
    if wanted.at_s is not None:
        return excerpt.still(wanted.at_s)
    if wanted.fps is not None:
        return excerpt.at_rate(wanted.fps)
    return excerpt


def _check_used(source: Path, output: str | Path, info: Info, wanted: Wanted) -> None:
    """Raise MediaError for what is asked of a picture that is not there, or in two ways."""
    if wanted.span is not None and wanted.at_s is not None:
        raise MediaError("both span and at_s are given; keep one")
    if wanted.fps is not None and not MIN_FPS <= wanted.fps <= MAX_FPS:
        raise MediaError(f"fps is {wanted.fps:g}; give {MIN_FPS} to {MAX_FPS} frames per second")
    without = f"{output} holds sound alone" if _kind(output) == "sound" else None
    if info.num_frames == 0:
        without = without or f"{source} holds sound alone"
    elif _kind(output) == "sound" and info.sound_s is None:
        raise MediaError(
            f"output is {output}, a sound, and {source} is silent; give a name of a film or picture"
        )
    for name in ("size", "fps", "at_s"):
        value = getattr(wanted, name)
        if value is not None and without is not None:
            raise MediaError(f"{name} is {value}, which is about the picture, and {without}; leave it out")


def _check_one_picture(source: Path, output: str | Path, excerpt: Excerpt) -> None:
    """Raise MediaError for a film that shall become one picture."""
    name = os.path.basename(output)
    if _kind(output) == "picture" and excerpt.num_frames > 1 and not formats.NUMBER.search(name):
        raise MediaError(
            f"output is {output}, one picture, and {source} has {excerpt.num_frames} frames; give at_s, the "
            f"second of one of them, or a name such as {_name_of_each(output)} for a picture of each"
        )


def _name_of_each(output: str | Path) -> str:
    return formats.EXR_NAMES if Path(output).suffix.lower() == ".exr" else formats.FOLDER_NAMES


def _left_out(output: formats.Output, excerpt: Excerpt, info: Info, wanted: Wanted) -> list[str]:
    """Return what the new file does not have of the old one, and did not have to be asked for."""
    ending = output.path.suffix.lower()
    told = []
    if output.format.kind == "sound":
        return [f"the picture is left out: {ending} holds sound alone"] if info.num_frames else []
    if wanted.at_s is None and info.sound_s is not None:
        cut_s = info.sound_s - excerpt.duration_s
        if not output.format.holds_sound:
            told.append(f"the sound is left out: {ending} holds none")
        elif wanted.span is None and cut_s > TOLD_CUT_S:
            told.append(f"the last {cut_s:.3g} s of the sound are cut off: the picture ends before them")
    return told


def _changes(excerpt: Excerpt, info: Info, wanted: Wanted) -> dict[str, Any]:
    """Return what a file's provenance says of how it differs from the clip that was made."""
    changes: dict[str, Any] = {}
    if wanted.span is not None:
        changes["trimmed_s"] = [excerpt.start_s, excerpt.start_s + excerpt.duration_s]
    if wanted.at_s is not None:
        changes["still_s"] = excerpt.start_s
    if excerpt.num_frames and excerpt.size != (info.width, info.height):
        changes["size"] = list(excerpt.size)
    if wanted.fps is not None:
        changes["fps"] = wanted.fps
    if excerpt.num_frames and info.sound_s is not None and excerpt.sound_s is None:
        changes["left_out"] = "sound"
    elif not excerpt.num_frames and info.num_frames:
        changes["left_out"] = "picture"
    return changes
