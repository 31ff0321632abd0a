"""Assemble a film from its timeline: checked first, then mixed, levelled and written, piece by piece."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from soundstage.clip import write_clip
from soundstage.editing.by_line import faults, gathered, told_by_line
from soundstage.editing.exporting import Export, planned_export
from soundstage.editing.grid import FilmGrid, grid_of, infos_of
from soundstage.editing.level import MixLevel, StoredMix, stored_mix
from soundstage.editing.matching import changes_of
from soundstage.editing.mix import Mixer, sound_checks
from soundstage.editing.overlays import letter_notices, overlay_of, title_checks
from soundstage.editing.picture import Change, Overlay, film_frames
from soundstage.editing.room_tone import RoomToneSource, room_tone_shots
from soundstage.editing.timeline import Timeline, as_json, read_timeline
from soundstage.errors import MediaError, num_of
from soundstage.files import check_writable, whole_file
from soundstage.media import formats
from soundstage.media.clip_pieces import ClipPieces
from soundstage.media.probe import Info

LOUDNESS_LUFS = -16.0  # of films on the web
PEAK_DBTP = -1.0
MIX_SHARE = 0.15  # of the work, for progress
OFF_LU = 0.5  # from which on a missed loudness is told

TellShare = Callable[[float], None]


@dataclass(frozen=True)
class Assembled:
    """A finished film. level: how loud it is, None for a silent one. notices: what was not as asked."""

    path: Path
    duration_s: float
    num_frames: int
    size: tuple[int, int]
    fps: float
    level: MixLevel | None
    notices: tuple[str, ...]
    exports: tuple[Path, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        facts = asdict(self)
        facts["path"] = str(self.path)
        facts["exports"] = [str(path) for path in self.exports]
        return facts

    def told(self) -> str:
        """Return it in one line, for people."""
        size = f"{self.size[0]}x{self.size[1]}"
        text = f"{num_of(self.num_frames, 'frame')} of {size} at {self.fps:g} fps ({self.duration_s:.2f} s)"
        if self.level is None:
            return f"{text}, silent"
        before, after = self.level.before.integrated_lufs, self.level.after
        if after.integrated_lufs is None or before is None:
            return f"{text}, sound without loudness"
        return (
            f"{text}; loudness {before:.1f} -> {after.integrated_lufs:.1f} LUFS "
            f"({self.level.gain_db:+.1f} dB), true peak {after.true_peak_dbtp:.1f} dBTP"
        )


@dataclass(frozen=True)
class Assembly:
    """A film that is checked and not yet made. beside: its exports. report: a file for what is measured."""

    grid: FilmGrid
    output: formats.Output
    loudness_lufs: float | None
    peak_dbtp: float
    tone: RoomToneSource | None
    changes: dict[int, Change]
    overlay: Overlay | None
    provenance: Mapping[str, Any]
    beside: tuple[Export, ...] = ()
    report: Path | None = None
    overwrite: bool = True

    @property
    def notices(self) -> list[str]:
        """Return what is told before the work: what is changed, left out, or drawn in another font."""
        grid = self.grid
        told = [*grid.notices, *_after_the_end(grid), *letter_notices(grid)]
        resized = self.output.resized(grid.width, grid.height)
        told += [] if resized is None else [f"the film {resized}"]
        if grid.has_sound and not self.output.format.holds_sound:
            told.append(f"the sound is left out: {self.output.path.suffix.lower()} holds none")
        return [*told, *(notice for one in self.beside for notice in one.notices)]

    def run(self, progress: TellShare | None = None) -> Assembled:
        """Write the film and what is wanted beside it. progress: called with the share that is done.

        Raises MediaError for what cannot be read or written; then nothing is left of it.
        """
        made = self._film(progress or (lambda _: None))
        gain_db = 0.0 if made.level is None else made.level.gain_db
        written = [one.run(film=made.path, gain_db=gain_db, overwrite=self.overwrite) for one in self.beside]
        made = replace(made, exports=tuple(path for paths in written for path in paths))
        if self.report is not None:
            with whole_file(self.report, overwrite=self.overwrite) as part:
                part.write_text(json.dumps(made.facts(), indent=2) + "\n")
        return made

    def _film(self, show: TellShare) -> Assembled:
        grid = self.grid
        with stored_mix(grid.rate) as mix:
            level = self._level(mix, show) if grid.has_sound and self.output.format.holds_sound else None
            sound = None if level is None else mix.levelled()
            frames = film_frames(grid, self.changes, self.overlay)
            size = (grid.width, grid.height)
            pieces = ClipPieces(
                frames, grid.num_frames, size, float(grid.fps), sound, grid.rate, grid.duration_s
            )
            pieces = pieces.told(lambda share: show(MIX_SHARE + (1 - MIX_SHARE) * share))
            write_clip(self.output, pieces, self.provenance, overwrite=self.overwrite)
        told = [*self.notices, *self._missed(level)]
        return Assembled(
            self.output.path, grid.duration_s, grid.num_frames, size, float(grid.fps), level, tuple(told)
        )

    def _level(self, mix: StoredMix, show: TellShare) -> MixLevel:
        def counted() -> Iterator[Any]:
            done = 0
            for block in Mixer(self.grid, self.tone).mixed():
                yield block
                done += block.shape[1]
                show(MIX_SHARE * done / self.grid.num_samples)

        return mix.level(mix.store(counted()), self.loudness_lufs, self.peak_dbtp)

    def _missed(self, level: MixLevel | None) -> list[str]:
        """Return what is told of a loudness that could not be reached."""
        if level is None or self.loudness_lufs is None:
            return []
        if level.after.integrated_lufs is None:
            return ["the film has sound tracks, and they are silent; its loudness was left as it is"]
        if abs(level.after.integrated_lufs - self.loudness_lufs) <= OFF_LU:
            return []
        return [
            f"the loudness is {level.after.integrated_lufs:.1f} LUFS, and {self.loudness_lufs:g} was asked "
            f"for: {level.gain_db:+.1f} dB and the limit of peaks allow no more"
        ]


def assemble(
    timeline: Timeline | str | Path,
    output: str | Path,
    *,
    loudness_lufs: float | None = LOUDNESS_LUFS,
    peak_dbtp: float = PEAK_DBTP,
    codec: str | None = None,
    quality: int | None = None,
    report: str | Path | None = None,
    exports: Sequence[str | Path] = (),
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = True,
    progress: TellShare | None = None,
) -> Assembled:
    """Cut and mix a timeline to a film, and return what it is.

    timeline: a record, or the name of its YAML file. output: its ending is the format. loudness_lufs:
    integrated loudness by EBU R128 that the sound is brought to; None leaves it. peak_dbtp: highest true
    peak. quality, codec, overwrite: as `Clip.save` has them. report: a JSON file for what was measured.
    exports: files to write beside it, as `export` takes them. provenance: what the film says of how it was
    made; None is its timeline. progress: called with the share that is done. Notices are warnings. Raises
    MediaError or ConfigError for what cannot be read, written or done; then nothing is left of it.
    """
    planned = planned_assembly(
        timeline,
        output,
        loudness_lufs=loudness_lufs,
        peak_dbtp=peak_dbtp,
        codec=codec,
        quality=quality,
        report=report,
        exports=exports,
        provenance=provenance,
        overwrite=overwrite,
    )
    known = planned.notices
    _warn(known)
    made = planned.run(progress)
    _warn([notice for notice in made.notices if notice not in known])
    return made


def _warn(notices: Sequence[str]) -> None:
    for notice in notices:
        warnings.warn(notice, stacklevel=3)


def planned_assembly(
    timeline: Timeline | str | Path,
    output: str | Path,
    *,
    loudness_lufs: float | None = LOUDNESS_LUFS,
    peak_dbtp: float = PEAK_DBTP,
    codec: str | None = None,
    quality: int | None = None,
    report: str | Path | None = None,
    exports: Sequence[str | Path] = (),
    provenance: Mapping[str, Any] | None = None,
    burn_captions: bool = False,
    overwrite: bool = True,
) -> Assembly:
    """Return the assembly. burn_captions: draw the captions into the picture, whatever the timeline says.

    The others are those of `assemble`. Raises for what can be known to be wrong before the work.
    Faults of a timeline that is a file are told by line, with its cuts counted from 1.
    """
    line = timeline if isinstance(timeline, Timeline) else read_timeline(timeline)
    line = replace(line, burn_captions=line.burn_captions or burn_captions)
    if loudness_lufs is not None and not -70 < loudness_lufs <= 0:
        raise MediaError(f"loudness_lufs is {loudness_lufs:g}; give -70 to 0, such as -16")
    if not -20 <= peak_dbtp <= 0:
        raise MediaError(f"peak_dbtp is {peak_dbtp:g}; give -20 to 0, such as -1")
    with told_by_line(timeline):
        infos = infos_of(line)
        if refused := planned_refusals(line, infos):
            raise faults(refused)
        grid = grid_of(line, infos)
    _check_no_source(line, Path(output))
    found = formats.output(output, grid.num_frames, codec=codec, quality=quality)
    found.check(grid.num_frames, overwrite=overwrite)
    kept = {"timeline": as_json(line)} if provenance is None else provenance
    tone = None if line.room_tone is None else RoomToneSource(grid)
    if report is not None:
        check_writable(Path(report), (".json",), overwrite=overwrite, field="report")
    with told_by_line(timeline):
        beside = tuple(planned_export(grid, path, overwrite=overwrite) for path in exports)
    return Assembly(
        grid,
        found,
        loudness_lufs,
        peak_dbtp,
        tone,
        changes_of(grid),
        overlay_of(grid),
        kept,
        beside,
        None if report is None else Path(report),
        overwrite,
    )


def planned_refusals(timeline: Timeline, infos: Sequence[Info | None]) -> list[str]:
    """Return what an assembly of sources that are not made yet would be refused for; nothing where it fits.

    infos: what the source of each cut will be. Cuts are told by the first that does not fit.
    """
    told = []
    try:
        grid = grid_of(timeline, infos)
    except MediaError as error:
        told.append(str(error))
        try:
            grid = grid_of(replace(timeline, fade_out_s=0), infos)
        except MediaError:
            return told
    return [*told, *_refusals(grid)]


def _refusals(grid: FilmGrid) -> list[str]:
    """Return a sentence for each sound and title that does not fit a film."""
    return gathered([partial(room_tone_shots, grid), *sound_checks(grid), *title_checks(grid)])


def planned_notices(timeline: Timeline, infos: Sequence[Info | None]) -> list[str]:
    """Return what is told of a film before its sources are made. infos: what they will be."""
    return letter_notices(grid_of(timeline, infos))


def _check_no_source(timeline: Timeline, output: Path) -> None:
    """Raise MediaError for a film that would replace what it is made of."""
    sources = [cut.source for cut in timeline.cuts]
    sources += [piece.path for piece in timeline.music] + [voice.path for voice in timeline.voice_over]
    if any(source.absolute() == output.absolute() for source in sources):
        raise MediaError(f"output is {output}, which the film is made of; choose another name")


def _after_the_end(grid: FilmGrid) -> list[str]:
    """Return what is told of lines that are said after the film."""
    late = [i for i, line in enumerate(grid.timeline.captions) if line.start_s >= grid.duration_s]
    return [f"captions[{i}] begins after the end of the film, at {grid.duration_s:.4g} s" for i in late]
