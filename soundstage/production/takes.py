"""Takes of shots: their seeds and marks, and whether one is there already or needs its sound alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soundstage.clip import Clip, read_provenance
from soundstage.errors import RequestError
from soundstage.library.file_identity import named_by_content
from soundstage.library.model_files import ModelSet
from soundstage.planning.long_take import plan_request
from soundstage.planning.seeds import retry_seed, take_seed, with_seed
from soundstage.production.folder import FilmFolder
from soundstage.production.graph import changes, mark_of
from soundstage.production.journal import Entry, Journal
from soundstage.production.orders import PRODUCTION, TakeOrder, facts_of, is_written
from soundstage.request.inputs import Source
from soundstage.request.recipes import names_file
from soundstage.request.request import Request

# Fields of a request that decide its sound alone.
SOUND_FIELDS = ("audio_negative_prompt", "audio_guidance", "audio_scales")
# Fields that give the sound, or tie picture and sound to inputs: such a take is made whole.
TIED = ("audio", "source", "references", "controls", "output", "embeddings", "take")


@dataclass(frozen=True)
class FilmShot:
    """A shot as the production makes it.

    id: names its files. number: counted from 1. title: a few words for people. seed: that of its first take.
    needs: ids of the shots whose picked takes its request takes as inputs. fill: returns its request from the
    clips of those, by id, and a folder for files made from them. picture_prompt: the prompt without what is
    only heard; None where the whole prompt counts. draft: a quick look, by the draft recipe.
    """

    id: str
    number: int
    title: str
    seed: int
    fill: Callable[[Mapping[str, Path], Path], Request]
    needs: tuple[str, ...] = ()
    picture_prompt: str | None = None
    asked: Any = None
    told: Mapping[str, Any] = field(default_factory=dict)

    def seeds(self, count: int) -> list[int]:
        """Return the seeds of its first takes: counted up from its own."""
        return [take_seed(self.seed, number) for number in range(count)]

    def retry_seeds(self, count: int) -> list[int]:
        """Return the seeds of takes that are made where others have faults."""
        return [retry_seed(self.seed, attempt) for attempt in range(1, count + 1)]


@dataclass(frozen=True)
class ShotTake:
    """A take with its inputs known.

    step: its name in the graph. mark: that of all that decides it. picture: that of what decides its
    picture; None where it cannot be told from its sound. clip: name of its file in the film's folder.
    """

    step: str
    shot: FilmShot
    seed: int
    request: Request
    mark: str
    picture: str | None
    clip: str


class Takes:
    """Tells which takes are there, and gives the orders for those that are not.

    asked: words of the engine that change numbers, such as a number format; None in them is its own choice.
    variant: "" or "draft".
    """

    def __init__(
        self,
        folder: FilmFolder,
        journal: Journal,
        model: ModelSet,
        asked: Mapping[str, Any],
        *,
        variant: str = "",
        every_s: float = 30.0,
        previews: bool = True,
        title: str = "",
    ) -> None:
        self._folder, self._journal, self._model = folder, journal, model
        self._weights = {"files": model.hashes, "asked": dict(asked)}
        self._variant, self._every_s, self._previews, self._title = variant, every_s, previews, title

    def take(self, shot: FilmShot, seed: int, request: Request) -> ShotTake:
        """Return a take of a shot from its request."""
        seeded = with_seed(request, seed)
        return ShotTake(
            self.step(shot, seed),
            shot,
            seed,
            seeded,
            mark_of("take", self._what(seeded)),
            self._picture(shot, seeded),
            self._folder.take(shot.id, seed, self._variant),
        )

    def step(self, shot: FilmShot, seed: int) -> str:
        """Return the name of a take's step."""
        return f"{self._variant or 'take'} {shot.id}/{seed}"

    def known_seeds(self, shot: FilmShot) -> list[int]:
        """Return the seeds of all takes of a shot that were ever made."""
        begin = f"{self._variant or 'take'} {shot.id}/"
        names = {e.step: None for e in self._journal.entries if e.step.startswith(begin) and e.files}
        return [int(name.removeprefix(begin)) for name in names]

    def found(self, take: ShotTake) -> Entry | None:
        """Return the journal's entry of a take that is there; None where it must be made.

        One that an earlier script had replaced is brought back. One that was written by a run that was killed
        before it could say so is entered.
        """
        entry = self._journal.finished(take.step, take.mark)
        if entry is not None:
            known = entry.files.get(take.clip, {})
            if self._folder.holds(take.clip, known) or self._brought_back(take, known):
                return entry
        if is_written(self._folder.path(take.clip), take.mark):
            return self.enter(take, "found", self.facts_of_file(take))
        return None

    def enter(self, take: ShotTake, event: str, facts: Mapping[str, Any]) -> Entry:
        """Enter a finished take into the journal."""
        files = {take.clip: self._folder.measured(take.clip)}
        more = {"seed": take.seed, "picture": take.picture, **facts}
        if "base" in more:
            more["asked"] = take.request.to_dict()
        return self._journal.add(event, take.step, take.mark, files=files, facts=more)

    def changed(self, take: ShotTake) -> list[str]:
        """Return what of a take's request differs from that of the take before, if there is one."""
        before = self._journal.latest(take.step)
        if before is None or before.mark == take.mark:
            return []
        asked = before.facts.get("asked") or before.facts.get("request", {})
        found = changes(asked, take.request.to_dict())
        found += ["model"] if before.facts.get("files") != self._weights["files"] else []
        return found or ["the content of a file"]

    def is_damaged(self, take: ShotTake) -> bool:
        """Return whether a take that is not found was made with this very request before."""
        before = self._journal.latest(take.step)
        return before is not None and before.mark == take.mark

    def base_of(self, take: ShotTake) -> str | None:
        """Return the name of the clip whose picture a finished take has; None for its own."""
        told = read_provenance(self._folder.path(take.clip)).get(PRODUCTION, {})
        base: str | None = told.get("base")
        return base

    def facts_of_file(self, take: ShotTake) -> dict[str, Any]:
        """Return what a clip's own metadata says of it."""
        base = self.base_of(take)
        return facts_of(Clip.open(self._folder.path(take.clip))) | ({} if base is None else {"base": base})

    def order(self, take: ShotTake) -> TakeOrder:
        """Return the order that makes a take; an older take in its place is put aside first.

        A take whose picture is there, and whose sound alone was changed, gets the older picture.
        """
        base = self._base(take)
        self._put_aside(take)
        told: dict[str, Any] = {"film": self._title, "shot": take.shot.id, **take.shot.told}
        request = take.request
        if base is not None:
            request, told = self._sound_request(take, base), told | {"base": base}
        path = self._folder.path
        return TakeOrder(
            take.step,
            take.mark,
            request.to_dict(),
            str(path(take.clip)),
            str(path(take.clip).with_suffix(".png")),
            self._previews,
            str(self._folder.checkpoint(take.mark)),
            self._every_s,
            "" if base is None else str(path(base)),
            told,
        )

    # --- marks

    def _what(self, request: Request) -> dict[str, Any]:
        """Return all that decides a take, with files by what they hold."""
        fields = request.to_dict()
        if fields["take"] is not None:
            fields["take"] = {**fields["take"], "folder": None}
        paths = list(request.files.values())
        paths += [request.recipe] if names_file(request.recipe) else []
        return {"request": named_by_content(fields, paths), **self._weights}

    def _picture(self, shot: FilmShot, request: Request) -> str | None:
        """Return the mark of a take's picture; None where it cannot be told from its sound."""
        if any(getattr(request, name) for name in TIED) or request.modalities != {"video", "audio"}:
            return None
        what = self._what(request)
        kept = {name: value for name, value in what["request"].items() if name not in SOUND_FIELDS}
        kept["prompt"] = shot.picture_prompt if shot.picture_prompt is not None else request.prompt
        return mark_of("sound", {**what, "request": kept})

    # --- sound alone

    def _base(self, take: ShotTake) -> str | None:
        """Return the name of an earlier clip whose picture the take may keep; None makes the take whole."""
        if take.picture is None:
            return None
        for entry in reversed(self._journal.entries):
            if entry.step != take.step or entry.facts.get("picture") != take.picture or not entry.files:
                continue
            name = entry.facts.get("base") or self._kept(take.clip, entry)
            if name is not None and self._folder.path(name).is_file() and self._plans(take, name):
                return str(name)
        return None

    def _kept(self, clip: str, entry: Entry) -> str | None:
        """Return the name under which the clip of an entry stays; None where it is gone or was changed."""
        known = entry.files.get(clip, {})
        if self._folder.holds(clip, known):
            return self._folder.put_aside(clip, entry.mark)
        earlier = self._folder.earlier(clip, entry.mark)
        return earlier if self._folder.holds(earlier, known) else None

    def _plans(self, take: ShotTake, base: str) -> bool:
        try:
            plan_request(self._sound_request(take, base), self._model)
        except RequestError:
            return False
        return True

    def _sound_request(self, take: ShotTake, base: str) -> Request:
        """Return the request for new sound to the picture of an earlier clip."""
        source = Source(video=str(self._folder.path(base)), modalities=frozenset({"audio"}))
        values = {name: getattr(take.request, name) for name in Request.model_fields}
        return Request(**{**values, "source": source, "guides": (), "recipe": "single"})

    # --- earlier takes

    def _put_aside(self, take: ShotTake) -> None:
        """Keep the clip that a take is about to replace, if the journal knows it."""
        entry = self._journal.latest(take.step)
        if entry is not None and entry.mark != take.mark:
            self._kept(take.clip, entry)

    def _brought_back(self, take: ShotTake, known: Mapping[str, Any]) -> bool:
        latest = self._journal.latest(take.step)
        if latest is not None and latest.mark != take.mark:
            self._kept(take.clip, latest)
        if not self._folder.bring_back(take.clip, take.mark, known):
            return False
        self._journal.add(
            "found", take.step, take.mark, files={take.clip: dict(known)}, facts=self._facts(take)
        )
        return True

    def _facts(self, take: ShotTake) -> dict[str, Any]:
        entry = self._journal.finished(take.step, take.mark)
        return {} if entry is None else dict(entry.facts)
