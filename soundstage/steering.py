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
from soundstage.media.excerpt import Excerpt

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
    def size(self) -> tuple[int, int]:
        """Return the width and height of the reference."""
        return self.kind.size(self.excerpt.size, self.options)

    def run(self, *, overwrite: bool = True, progress: Callable[[float], None] | None = None) -> Path:
        """Write the file and return its name. progress: called with the share that is done, from 0 to 1.

        Raises MediaError for what cannot be read or written; then nothing is left of it.
        """
        pieces = self.excerpt.pieces()
        frames: Iterator[Pixels] = iter(pieces.frames or ())
        made = self.kind.prepare(frames, pieces.fps, self.options)
        pieces = replace(pieces, frames=made, size=self.size)
        if progress is not None:
            pieces = pieces.told(progress)
        files = {key: None if value is None else str(value) for key, value in self.options.items()}
        told = {"control": kind_name(self.kind), "of": str(self.excerpt.path), "options": files}
        provenance = known_provenance(self.excerpt.path)
        provenance = changed(provenance, told) if provenance else {"prepared": told}
        write_clip(self.output, pieces, provenance, overwrite=overwrite)
        return self.output.path


def prepare_control(
    kind: str,
    file: str | Path,
    output: str | Path,
    *,
    for_training: bool = False,
    overwrite: bool = True,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Path:
    """Write the reference of a kind made from a clip, with the clip's sound, and return its name.

    kind: a name that `soundstage control list` prints. for_training: make the reference of a training pair
    from a finished clip. options: settings of the kind, and its files: mask, image, model. An .mkv or
    numbered pictures keep every pixel. Raises RequestError for a kind or options that do not fit, MediaError
    for a file that cannot be read or written; then nothing is left of it.
    """
    planned = planned_preparation(kind, file, output, options, for_training=for_training)
    planned.output.check(planned.excerpt.num_frames, overwrite=overwrite)
    return planned.run(overwrite=overwrite, progress=progress)


def planned_preparation(
    kind: str,
    file: str | Path,
    output: str | Path,
    options: Mapping[str, Any],
    *,
    for_training: bool = False,
    codec: str | None = None,
    quality: int | None = None,
) -> Preparation:
    """Return the preparation. Raises for what can be known to be wrong before the work."""
    found = training_kind(kind) if for_training else kind_named(kind)
    given = found.checked(options)
    excerpt = Excerpt.of_file(Path(file))
    if not excerpt.num_frames:
        raise MediaError(f"{file} holds no picture, which control '{kind}' is made from; give a clip")
    if codec is None and quality is None:
        codec = LOSSLESS.get(Path(output).suffix.lower())
    made = formats.output(output, excerpt.num_frames, codec=codec, quality=quality)
    if not made.format.holds_sound:
        excerpt = excerpt.picture_alone()
    notices = list(excerpt.notices())
    resized = made.resized(*found.size(excerpt.size, given))
    notices += [] if resized is None else [f"it {resized}"]
    return Preparation(found, given, excerpt, made, tuple(notices))
