"""Tell what of a film a file for editing programs leaves out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from soundstage.editing.grid import FilmGrid

OTIO, FCPXML, EDL = ".otio", ".fcpxml", ".edl"
# What a film may have, whether it does, and the files that have it as well.
PARTS: tuple[tuple[str, Callable[[FilmGrid], bool], tuple[str, ...]], ...] = (
    ("the sound of the shots", lambda g: any(p.sound is not None for p in g.placed), (OTIO, FCPXML)),
    ("music", lambda g: bool(g.timeline.music), (OTIO, FCPXML)),
    ("fades and ducking of music", lambda g: bool(g.timeline.music), ()),
    ("voice-over", lambda g: bool(g.timeline.voice_over), (OTIO, FCPXML)),
    ("room tone", lambda g: g.timeline.room_tone is not None, ()),
    ("titles", lambda g: bool(g.timeline.titles), (OTIO,)),
    ("captions", lambda g: bool(g.timeline.captions), (OTIO,)),
    ("matched colours", lambda g: any(p.cut.match_to for p in g.placed), ()),
    ("the fade at the beginning", lambda g: bool(g.placed[0].rise), (EDL,)),
    ("the fade at the end", lambda g: bool(g.placed[-1].fall), (EDL,)),
)


def left_out(grid: FilmGrid, path: Path) -> list[str]:
    """Return a sentence on what a file for editing programs leaves out; nothing where it has all."""
    ending = path.suffix.lower()
    if ending not in (OTIO, FCPXML, EDL):
        return []
    found = [name for name, there, files in PARTS if ending not in files and there(grid)]
    if ending == EDL and "music" in found:
        found.remove("fades and ducking of music")
    return [f"{path.name} leaves out {_listed(found)}"] if found else []


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
