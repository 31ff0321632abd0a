"""Export what belongs to a film beside it: timelines, subtitles, stems, a storyboard, a page of players."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from soundstage.editing.by_line import told_by_line
from soundstage.editing.carried import left_out
from soundstage.editing.edl import edl_text
from soundstage.editing.fcpxml import fcpxml_text
from soundstage.editing.grid import FilmGrid, grid_of
from soundstage.editing.interchange import otio_text
from soundstage.editing.matching import changes_of
from soundstage.editing.mix import STEMS, Mixer
from soundstage.editing.room_tone import RoomToneSource
from soundstage.editing.subtitles import cues, srt, vtt
from soundstage.editing.timeline import Timeline, read_timeline
from soundstage.errors import MediaError
from soundstage.files import check_writable, whole_file
from soundstage.media import formats
from soundstage.media.arrays import Waveform

MakeText = Callable[[FilmGrid, str], str]  # (film, its name) -> the file's text
TEXTS: dict[str, MakeText] = {
    ".otio": otio_text,
    ".fcpxml": fcpxml_text,
    ".edl": edl_text,
    ".srt": lambda grid, _: srt(cues(grid.timeline.captions, grid.duration_s)),
    ".vtt": lambda grid, _: vtt(cues(grid.timeline.captions, grid.duration_s)),
}
PICTURES = (".png", ".html")
ENDINGS = (*TEXTS, *PICTURES)


@dataclass(frozen=True)
class Export:
    """A file, or a folder of stems, that is checked and not yet made.

    text: what a file of text will hold, made already, so that what does not fit is known before the work.
    """

    path: Path
    grid: FilmGrid
    text: str | None = None

    @property
    def is_stems(self) -> bool:
        return self.path.suffix.lower() not in ENDINGS

    @property
    def notices(self) -> list[str]:
        """Return what of the film it leaves out."""
        return left_out(self.grid, self.path)

    def run(self, *, film: Path | None = None, gain_db: float = 0.0, overwrite: bool = True) -> list[Path]:
        """Write it, and return the names of the files.

        film: the finished film, for the page of players. gain_db: that of the film's mix, for the stems.
        """
        if self.is_stems:
            return _write_stems(self.grid, self.path, gain_db, overwrite=overwrite)
        if self.path.suffix.lower() == ".png":
            from soundstage.editing.storyboard import storyboard
            from soundstage.media.picture_files import save_picture

            save_picture(self.path, storyboard(self.grid, changes_of(self.grid)), overwrite=overwrite)
            return [self.path]
        text = self.text
        if text is None:
            from soundstage.editing.contact_page import contact_page

            text = contact_page(self.grid, changes_of(self.grid), self.path, _name(self.path), film)
        with whole_file(self.path, overwrite=overwrite) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
        return [self.path]


def export(
    timeline: Timeline | str | Path,
    path: str | Path,
    *,
    film: str | Path | None = None,
    gain_db: float = 0.0,
    overwrite: bool = True,
) -> list[Path]:
    """Write what the name's ending asks for of a timeline, and return the names of the files.

    path: .otio, .fcpxml, .edl: the timeline for editing programs. .srt, .vtt: subtitles. .png: a storyboard.
    .html: a page with players. A folder that ends in / or is there: stems, WAV of 32-bit floating point,
    whose sum is the mix before its limiter. film: the finished film, which the page then plays too. gain_db:
    gain of the stems, such as `Assembled.level.gain_db`. Raises MediaError, ConfigError, MissingExtraError.
    """
    line = timeline if isinstance(timeline, Timeline) else read_timeline(timeline)
    with told_by_line(timeline):
        planned = planned_export(grid_of(line), path, overwrite=overwrite)
    return planned.run(film=None if film is None else Path(film), gain_db=gain_db, overwrite=overwrite)


def planned_export(grid: FilmGrid, path: str | Path, *, overwrite: bool = True) -> Export:
    """Return the export. Raises for what can be known to be wrong before the work."""
    if str(path).endswith(("/", os.sep)) or os.path.isdir(path):
        folder = Path(path)
        _check_folder(folder)
        for output in _stem_outputs(folder):
            if folder.is_dir():
                output.check(0, overwrite=overwrite)
        return Export(folder, grid)
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise MediaError(
            f"export is {path}; give a name ending in {', '.join(ENDINGS)}, or a folder that ends in / for "
            "stems"
        )
    check_writable(path, ENDINGS, overwrite=overwrite, field="export")
    if ending in (".srt", ".vtt") and not grid.timeline.captions:
        raise MediaError(f"export is {path}, and the timeline has no captions; give some, or leave it out")
    text = TEXTS[ending](grid, _name(path)) if ending in TEXTS else None
    return Export(path, grid, text)


def _name(path: Path) -> str:
    return path.stem


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise MediaError(f"export is {folder}, which is a file; give another folder for the stems")
    if not folder.exists() and not folder.absolute().parent.is_dir():
        raise MediaError(f"export is {folder}, but there is no folder {folder.parent}; make it first")


def _stem_outputs(folder: Path) -> list[formats.Output]:
    return [formats.output(folder / f"{name}.wav", 0, codec="float") for name in STEMS]


def _write_stems(grid: FilmGrid, folder: Path, gain_db: float, *, overwrite: bool) -> list[Path]:
    from soundstage.media.write import write_sounds

    folder.mkdir(exist_ok=True)
    level = np.float32(10 ** (gain_db / 20))
    tone = None if grid.timeline.room_tone is None else RoomToneSource(grid)

    def blocks() -> Iterator[list[Waveform]]:
        for stems in Mixer(grid, tone).stems():
            yield [stems[name] * level for name in STEMS]

    outputs = _stem_outputs(folder)
    write_sounds(outputs, blocks(), grid.rate, overwrite=overwrite)
    return [output.path for output in outputs]
