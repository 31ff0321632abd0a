"""Prepare a reference that adapters follow and write it to a file: checked first, then frame by frame.

ss.prepare_control("canny", "ball.mp4", "edges.mkv", low=60)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soundstage.clip import changed, known_provenance, write_clip
from soundstage.control.kinds import ControlKind, kind_name, kind_named, training_kind
from soundstage.errors import MediaError
from soundstage.media import formats
from soundstage.media.arrays import Pixels
from soundstage.media.clip_pieces import ClipPieces
from soundstage.media.excerpt import Excerpt
from soundstage.media.load import load_sound
from soundstage.media.probe import probe

HEARD_S = 600.0  # of a sound, from which a sample is taken
STILL_FRAMES = 121  # that a still picture is shown, where its kind lasts as long as a film
LOSSLESS = {".mkv": "ffv1"}  # ending -> codec that changes no pixel


@dataclass(frozen=True)
class Preparation:
    """A reference that is checked and not yet made. options: all settings and files of the kind."""

    kind: ControlKind
    options: Mapping[str, Any]
    excerpt: Excerpt
    output: formats.Output
    notices: tuple[str, ...]

    @property
    def num_frames(self) -> int:
        """Return how many frames the reference has; 0 for a sound."""
        return self.excerpt.num_frames if self.kind.sound is None else 0

    @property
    def size(self) -> tuple[int, int]:
        """Return the width and height of the reference."""
        return self.kind.size(self.excerpt.size, self.options)

    def run(self, *, overwrite: bool = True, progress: Callable[[float], None] | None = None) -> Path:
        """Write the file and return its name. progress: called with the share that is done, from 0 to 1.

        Raises MediaError for what cannot be read or written; then nothing is left of it.
        """
        pieces = self._picture() if self.kind.sound is None else self._sound()
        if progress is not None:
            pieces = pieces.told(progress)
        files = {key: None if value is None else str(value) for key, value in self.options.items()}
        told = {"control": kind_name(self.kind), "of": str(self.excerpt.path), "options": files}
        provenance = known_provenance(self.excerpt.path)
        provenance = changed(provenance, told) if provenance else {"prepared": told}
        write_clip(self.output, pieces, provenance, overwrite=overwrite)
        return self.output.path

    def _picture(self) -> ClipPieces:
        pieces = self.excerpt.pieces()
        frames: Iterator[Pixels] = iter(pieces.frames or ())
        made = self.kind.prepare(frames, pieces.fps, self.options, pieces.num_frames)
        return replace(pieces, frames=made, size=self.size)

    def _sound(self) -> ClipPieces:
        assert self.kind.sound is not None
        samples, rate = load_sound(str(self.excerpt.path), 0.0, HEARD_S)
        return ClipPieces.of_arrays(None, 1.0, self.kind.sound(samples, rate, self.options), rate)


def prepare_control(
    kind: str,
    file: str | Path,
    output: str | Path,
    *,
    for_training: bool = False,
    num_frames: int | None = None,
    overwrite: bool = True,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Path:
    """Write the reference of a kind made from a clip, with the clip's sound, and return its name.

    kind: a name that `soundstage control list` prints. for_training: make the reference of a training pair
    from a finished clip. num_frames: how long a still picture is shown. options: settings of the kind, and
    its files: mask, image, model, detector, paths. An .mkv or numbered pictures keep every pixel. Raises
    RequestError for a kind or options that do not fit, MediaError for a file that cannot be read or written;
    then nothing is left of it.
    """
    planned = planned_preparation(
        kind, file, output, options, for_training=for_training, num_frames=num_frames
    )
    planned.output.check(planned.num_frames, overwrite=overwrite)
    return planned.run(overwrite=overwrite, progress=progress)


def planned_preparation(
    kind: str,
    file: str | Path,
    output: str | Path,
    options: Mapping[str, Any],
    *,
    for_training: bool = False,
    num_frames: int | None = None,
    codec: str | None = None,
    quality: int | None = None,
) -> Preparation:
    """Return the preparation. Raises for what can be known to be wrong before the work."""
    found = training_kind(kind) if for_training else kind_named(kind)
    given = found.checked(options)
    found.check_ready(given)
    excerpt = _excerpt(found, kind, Path(file), output, num_frames)
    if found.sound is None:
        found.placed(excerpt.size, given)
    if found.sound is not None:
        made = formats.output(output, 0, codec=codec, quality=quality)
        return Preparation(found, given, excerpt, made, tuple(excerpt.notices()))
    if codec is None and quality is None:
        codec = LOSSLESS.get(Path(output).suffix.lower())
    made = formats.output(output, excerpt.num_frames, codec=codec, quality=quality)
    if not made.format.holds_sound:
        excerpt = excerpt.picture_alone()
    notices = list(excerpt.notices())
    resized = made.resized(*found.size(excerpt.size, given))
    notices += [] if resized is None else [f"it {resized}"]
    return Preparation(found, given, excerpt, made, tuple(notices))


def _excerpt(kind: ControlKind, name: str, path: Path, output: str | Path, num_frames: int | None) -> Excerpt:
    """Return what of a file is taken. num_frames: those of a still picture, None is usual."""
    info = probe(str(path))
    if kind.sound is not None:
        if info.sound_s is None:
            raise MediaError(
                f"{path} holds no sound, which control '{name}' is made from; give one that does"
            )
        return Excerpt.of_file(path).sound_alone(info, to_end=True)
    if not info.num_frames:
        raise MediaError(f"{path} holds no picture, which control '{name}' is made from; give a clip")
    if info.exr:
        raise MediaError(
            f"{path} is OpenEXR, and adapters follow clips in standard range; give one, such as "
            "`soundstage convert` makes of it"
        )
    excerpt = Excerpt.of_file(path)
    if num_frames is not None and (info.num_frames > 1 or num_frames < 1):
        raise MediaError(
            f"num_frames is {num_frames}, which is for a still picture, 1 or more, and {path} has "
            f"{info.num_frames} frames; leave it out"
        )
    form = formats.FORMATS.get(Path(output).suffix.lower())
    if info.num_frames == 1 and kind.lasts and form is not None and form.kind != "picture":
        num_frames = num_frames or STILL_FRAMES
    if num_frames is None:
        return excerpt
    return replace(excerpt, num_frames=num_frames, duration_s=num_frames / excerpt.fps)
