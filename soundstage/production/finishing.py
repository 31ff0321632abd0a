"""Cut, mix and export a film whose shots are made, each file only where what it is made from changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from soundstage.editing.assembly import assemble
from soundstage.editing.exporting import export
from soundstage.editing.timeline import Timeline
from soundstage.errors import MissingExtraError
from soundstage.production.folder import FilmFolder, plain_name
from soundstage.production.graph import mark_of
from soundstage.production.journal import Entry, Journal
from soundstage.production.runner import EventReport, Picked

STEMS = {False: "film", True: "film-draft"}  # of the names of a film's files; a draft has its own
WORTH_TELLING = 0.05  # share of a work
CAPTIONS = (".srt", ".vtt")
EXPORTS = (*CAPTIONS, ".otio", ".fcpxml", ".edl", "-storyboard.png", "-contact.html")


class Finishing:
    """The files of a whole film in its folder. draft: those of its draft."""

    def __init__(self, folder: FilmFolder, journal: Journal, report: EventReport, *, draft: bool) -> None:
        self._folder, self._journal, self._report, self._stem = folder, journal, report, STEMS[draft]

    def finished(
        self, timeline: Timeline, facts: Mapping[str, Any], loudness_lufs: float
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Make what is not there yet; return the SHA-256 of each file by its name, the film first, and facts.

        facts: the timeline as JSON, with files by what they hold.
        """
        film = f"{self._stem}.mp4"

        def cut(path: Path) -> dict[str, Any]:
            show = self._working(f"cut and mix {film}")
            made = assemble(timeline, path, loudness_lufs=loudness_lufs, progress=show)
            return {"film": {**made.facts(), "path": film}}

        entry = self._step(film, {"timeline": facts, "loudness_lufs": loudness_lufs}, cut)
        found = {film: entry.files[film]["sha256"]}
        for ending in EXPORTS:
            if timeline.captions or ending not in CAPTIONS:
                found |= self._exported(timeline, facts, f"{self._stem}{ending}", film, found[film])
        return found, dict(entry.facts.get("film", {}))

    def takes_sheet(self, picked: Picked) -> None:
        """Write a picture that compares the takes of a shot, where it has several."""
        if len({take.seed for take, _, _ in picked.candidates}) < 2:
            return
        shot = picked.take.shot.id
        clips = [entry.files[take.clip]["sha256"] for take, entry, _ in picked.candidates]
        scores = [None if review is None else review["score"] for _, _, review in picked.candidates]
        what = {"clips": clips, "scores": scores, "picked": picked.take.seed}
        self._step(f"shots/{plain_name(shot)}/takes.png", what, lambda path: self._compared(picked, path))

    def _compared(self, picked: Picked, path: Path) -> dict[str, Any]:
        from soundstage.clip import Clip
        from soundstage.media.image import comparison_row, page_of
        from soundstage.media.picture_files import save_picture

        rows = []
        for number, (take, _, review) in enumerate(picked.candidates, 1):
            clip = Clip.open(self._folder.path(take.clip))
            score = "" if review is None else f"   score {review['score']:.2f}"
            chosen = "   picked" if take.seed == picked.take.seed else ""
            label = f"take {number}   seed {take.seed}{score}{chosen}"
            rows.append(comparison_row(label, clip.frames, clip.waveform, clip.fps))
        save_picture(path, page_of(rows))
        return {}

    def _exported(
        self, timeline: Timeline, facts: Mapping[str, Any], name: str, film: str, sha256: str
    ) -> dict[str, str]:
        """Write one export; one whose library is not installed is left out, which is told."""

        def write(path: Path) -> dict[str, Any]:
            export(timeline, path, film=self._folder.path(film))
            return {}

        try:
            entry = self._step(name, {"timeline": facts, "film": sha256}, write)
        except MissingExtraError as error:
            self._report({"event": "notice", "text": f"{name} is not written: {error}"})
            return {}
        return {name: entry.files[name]["sha256"]}

    def _step(self, name: str, what: Mapping[str, Any], make: Callable[[Path], dict[str, Any]]) -> Entry:
        """Return the journal's entry of a file, which is made if it is not there as it should be."""
        step, mark = f"file {name}", mark_of("film", {"name": name, **what})
        known = self._journal.finished(step, mark)
        if known is not None and self._folder.holds(name, known.files.get(name, {})):
            self._report({"event": "file", "path": str(self._folder.path(name)), "state": "kept"})
            return known
        facts = make(self._folder.path(name))
        files = {name: self._folder.measured(name)}
        entry = self._journal.add("done", step, mark, files=files, facts=facts)
        self._report({"event": "file", "path": str(self._folder.path(name)), "state": "made", **facts})
        return entry

    def _working(self, name: str) -> Callable[[float], None]:
        """Say that a work begins, and return what tells how far it is."""

        told = -1.0

        def show(share: float) -> None:
            nonlocal told
            if share - told >= WORTH_TELLING or share == 1.0:
                told = share
                self._report({"event": "work", "name": name, "fraction": round(share, 3)})

        show(0.0)
        return show
