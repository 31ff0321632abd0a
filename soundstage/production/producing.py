"""Produce the film of a script: its shots made, picked, cut and mixed, and a manifest of all of it.

    made = ss.produce("film.yaml")
    made.film                       # film.produced/film.mp4

What is there already and was not changed is not made again, whatever ended the run before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage.errors import RequestError, num_of, shown
from soundstage.library.file_identity import file_digest, named_by_content
from soundstage.library.model_files import ModelSet, find_model
from soundstage.planning.long_take import plan_request
from soundstage.planning.seeds import seeds_above
from soundstage.production.board import telling
from soundstage.production.checking import checked_plans, mix_notices
from soundstage.production.film import enlarged, film_shots, named_shots, timeline_facts, timeline_of
from soundstage.production.finishing import Finishing
from soundstage.production.folder import FilmFolder, write_json
from soundstage.production.journal import Journal
from soundstage.production.manifest import keep_facts, manifest_of
from soundstage.production.reading import read_script, script_file
from soundstage.production.runner import EventReport, Picked, Production, Wishes
from soundstage.production.takes import FilmShot, Takes
from soundstage.review.retry import check_retries

if TYPE_CHECKING:
    from soundstage.engine import Engine
    from soundstage.planning.plan import Plan
    from soundstage.production.crew import Crew
    from soundstage.production.script import Script
    from soundstage.production.shots import ShotRequest

MAX_TAKES = 100
ENGINE_WORDS = ("dtype", "weights")  # those of `ss.load` that change numbers


@dataclass(frozen=True)
class Produced:
    """A produced film. film: None while shots are missing, which `missing` names. shots: picked clips."""

    folder: Path
    film: Path | None
    shots: Mapping[str, Path]
    missing: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    manifest: Path | None = None


@dataclass
class _Asked:
    """The wishes of one call of `produce`."""

    wishes: Wishes
    draft: bool
    final: bool
    every_s: float
    previews: bool
    burn_captions: bool
    review: bool


def produce(
    script: str | Path,
    *,
    only: Iterable[int | str] | None = None,
    takes: int = 1,
    draft: bool = False,
    final: bool = False,
    retries: int = 0,
    output: str | Path | None = None,
    engine: Engine | None = None,
    devices: str | Sequence[str] = "auto",
    model: str | Path | Sequence[str | Path] | None = None,
    review: bool = True,
    burn_captions: bool = False,
    checkpoint_every_s: float = 30.0,
    previews: bool = True,
    progress: bool | EventReport | None = None,
    **options: Any,
) -> Produced:
    """Make the film of a script, or what of it is missing or was changed, and return where it is.

    only: numbers or ids of the shots to make; the film is cut when the others are there. takes: how many
    of each shot, with seeds counted up from the shot's own. draft: by the script's draft recipe, to
    another film. final: make the picked takes twice as large. retries: other seeds to try while a take has
    faults. output: the folder; FILM.produced beside the script. engine: makes all takes; else devices:
    "auto" is every GPU, or the names of them, one worker each. model, options: those of `ss.load`; left
    out, the script's model. review: check every take. checkpoint_every_s: seconds between two states of a
    take. previews: refresh the thumbnail of a take while it is made. progress: True shows a table on
    stderr; a function gets each event, JSON-ready.

    Raises ConfigError and RequestError for a script or wish that does not fit, before any work, MediaError
    for files that cannot be written, SoundstageError for a shot that cannot be made, when all others are.
    """
    _check(takes, retries, draft=draft, final=final)
    path = Path(script)
    file = script_file(path)
    with file.telling() as read:
        words = model if model is not None else read.format.model
        found = engine.model if engine is not None else find_model(words)
        made, shots = film_shots(read, found, draft=draft)
        plan = partial(plan_request, model=found)
        plans = checked_plans(read, made, plan, burn_captions=burn_captions, standing_in=file.standing_in)
    chosen = None if only is None else named_shots(only, made)
    asked = _Asked(
        Wishes(chosen, takes, retries),
        draft,
        final,
        checkpoint_every_s,
        previews,
        burn_captions,
        review,
    )
    folder = FilmFolder.of_script(path.absolute(), None if output is None else Path(output).absolute())
    with folder.opened() as journal, telling(progress) as report:
        named = str(words) if isinstance(words, str | Path) else [str(word) for word in words]
        crew, asked_of_engine = _crew(engine, devices, named, options)
        report({"event": "film", **_film_facts(read, shots, folder, crew)})
        told = _notices(read, made, plans, burn_captions=burn_captions)
        for text in (*file.notices, *told):
            report({"event": "notice", "text": text})
        journal.add("run", facts={"takes": takes, "draft": draft, "final": final, "only": chosen})
        return _Film(read, path, made, shots, found, folder, journal, asked, asked_of_engine, report).made(
            crew
        )


class _Film:
    """One call of `produce`."""

    def __init__(
        self,
        script: Script,
        path: Path,
        made: Sequence[ShotRequest],
        shots: Sequence[FilmShot],
        model: ModelSet,
        folder: FilmFolder,
        journal: Journal,
        asked: _Asked,
        words: Mapping[str, Any],
        report: EventReport,
    ) -> None:
        self.script, self.path, self.shot_requests, self.shots, self.model = script, path, made, shots, model
        self.folder, self.journal, self.asked, self.words, self.report = folder, journal, asked, words, report

    def made(self, crew: Crew) -> Produced:
        asked = self.asked
        takes = self._takes("draft" if asked.draft else "")
        review = _reviewer() if asked.review else None
        try:
            picked = self._production(self.shots, takes, crew, asked.wishes, review).run()
            if asked.final:
                picked = self._enlarged(crew, picked)
        finally:
            crew.close()
        finishing = Finishing(self.folder, self.journal, self.report, draft=asked.draft)
        for one in picked.values():
            keep_facts(self.folder, one)
            finishing.takes_sheet(one)
        missing = tuple(shot.id for shot in self.shots if shot.id not in picked)
        clips = {name: self.folder.path(one.take.clip) for name, one in picked.items()}
        files, facts = ({}, {}) if missing else self._finished(finishing, clips)
        self._keep_manifest(picked, files, facts, missing)
        paths = tuple(self.folder.path(name) for name in files)
        film = paths[0] if paths else None
        return Produced(
            self.folder.root, film, clips, missing, paths, self.folder.manifest(draft=asked.draft)
        )

    def _production(
        self,
        shots: Sequence[FilmShot],
        takes: Takes,
        crew: Crew,
        wishes: Wishes,
        review: Any,
        given: Mapping[str, Picked] | None = None,
    ) -> Production:
        return Production(shots, takes, self.folder, self.journal, crew, wishes, self.report, review, given)

    def _takes(self, variant: str) -> Takes:
        return Takes(
            self.folder,
            self.journal,
            self.model,
            self.words,
            variant=variant,
            every_s=self.asked.every_s,
            previews=self.asked.previews,
            title=self.script.title,
        )

    def _enlarged(self, crew: Crew, picked: Mapping[str, Picked]) -> dict[str, Picked]:
        """Return the picked takes made twice as large; as they are where the model cannot, which is told."""
        larger = [enlarged(one.take) for one in picked.values()]
        clips = {name: self.folder.path(one.take.clip) for name, one in picked.items()}
        try:
            for shot in larger:
                plan_request(shot.fill(clips, self.folder.root), self.model)
        except RequestError as error:
            self.report({"event": "notice", "text": f"the takes are not made larger: {error}"})
            return dict(picked)
        made = self._production(larger, self._takes("final"), crew, Wishes(), None, picked).run()
        return {
            name: replace(
                one, review=picked[name].review, candidates=picked[name].candidates + one.candidates
            )
            for name, one in made.items()
        }

    def _finished(
        self, finishing: Finishing, clips: Mapping[str, Path]
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Cut and mix the film and write its exports; return their hashes by name and facts of the film."""
        timeline = timeline_of(self.script, self.shot_requests, clips, burn_captions=self.asked.burn_captions)
        policy = self.script.sound
        loudness = -16.0 if policy is None or policy.loudness is None else policy.loudness
        facts = named_by_content(timeline_facts(timeline), [str(path) for path in clips.values()])
        return finishing.finished(timeline, facts, loudness)

    def _keep_manifest(
        self,
        picked: Mapping[str, Picked],
        files: Mapping[str, str],
        facts: Mapping[str, Any],
        missing: Sequence[str],
    ) -> None:
        film = {
            "title": self.script.title,
            "script": {"name": self.path.name, "sha256": file_digest(self.path)},
            "model": {"name": self.model.name, "files": self.model.hashes, "asked": dict(self.words)},
            "film": dict(facts),
            "missing": list(missing),
        }
        write_json(self.folder.manifest(draft=self.asked.draft), manifest_of(film, picked, files))


def pick_take(
    film: str | Path, shot: int | str, take: int | None, *, output: str | Path | None = None
) -> int | None:
    """Remember which take of a shot the film uses; the next `produce` cuts it in. Return the take's seed.

    film: the script. take: counted from 1, in the order of seeds; None forgets the choice.
    Raises RequestError for a shot or take that is not there.
    """
    path = Path(film)
    read = read_script(path)
    made, shots = film_shots(read, find_model(read.format.model))
    (name,) = named_shots([shot], made, "shot")
    folder = FilmFolder.of_script(path.absolute(), None if output is None else Path(output).absolute())
    with folder.opened() as journal:
        shot_made = next(one for one in shots if one.id == name)
        seeds = known_seeds(journal, shot_made)
        if take is not None and not 1 <= take <= len(seeds):
            raise RequestError(
                f"take is {take}, and shot {shot_made.number} has {num_of(len(seeds), 'take')}; make more by "
                "`soundstage produce --takes`, or give one of them",
                field="take",
            )
        seed = None if take is None else seeds[take - 1]
        folder.pick(name, seed)
        journal.add("picked", f"pick {name}", facts={"seed": seed})
    return seed


def known_seeds(journal: Journal, shot: FilmShot) -> list[int]:
    """Return the seeds of a shot's takes and drafts, in their order."""
    begins = tuple(f"{kind} {shot.id}/" for kind in ("take", "draft"))
    found = {int(e.step.rpartition("/")[2]) for e in journal.entries if e.step.startswith(begins) and e.files}
    return sorted(found, key=partial(seeds_above, shot.seed))


# --- what is asked for


def _check(takes: int, retries: int, *, draft: bool, final: bool) -> None:
    if isinstance(takes, bool) or not isinstance(takes, int) or not 1 <= takes <= MAX_TAKES:
        raise RequestError(
            f"takes is {shown(takes)}; give a whole number from 1 to {MAX_TAKES}", field="takes"
        )
    check_retries(retries)
    if draft and final:
        raise RequestError("both draft and final are asked for; make the draft first, then the final film")


def _crew(
    engine: Engine | None, devices: str | Sequence[str], model: str | list[str], options: Mapping[str, Any]
) -> tuple[Crew, dict[str, Any]]:
    """Return the workers, and the engine's words that change numbers."""
    from soundstage.engine import load
    from soundstage.production.crew import OwnCrew, ProcessCrew

    if engine is not None:
        given = engine.options
        return OwnCrew({str(given["device"]): engine}), {
            name: _word(given.get(name)) for name in ENGINE_WORDS
        }
    words = {name: _word(options.get(name)) for name in ENGINE_WORDS}
    names = _devices(devices)
    first = load(model, device=names[0], **options)  # its refusals come before any work
    if len(names) == 1:
        return OwnCrew({names[0]: first}), words
    return ProcessCrew(names, model, options), words


def _word(value: Any) -> str | None:
    """Return a word of the engine's; None where it chooses itself."""
    return None if value in (None, "auto") else str(value).removeprefix("torch.")


def _devices(devices: str | Sequence[str]) -> list[str]:
    from soundstage.memory.machine import all_devices, checked_device

    if devices == "auto":
        return all_devices()
    names = devices.split(",") if isinstance(devices, str) else list(devices)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise RequestError(
            f"devices is {shown(devices)}; give auto, or names such as cuda:0,cuda:1", field="devices"
        )
    return [checked_device(name.strip()) for name in names]


def _film_facts(script: Script, shots: Sequence[FilmShot], folder: FilmFolder, crew: Crew) -> dict[str, Any]:
    told = [{"id": shot.id, "number": shot.number, "title": shot.title, "seed": shot.seed} for shot in shots]
    return {"title": script.title, "folder": str(folder.root), "workers": len(crew.names), "shots": told}


def _notices(
    script: Script, made: Sequence[ShotRequest], plans: Mapping[str, Plan], *, burn_captions: bool
) -> Iterable[str]:
    """Return what is told before any work, each once."""
    snaps = [f"snapped {snap}" for one in made for snap in plans[one.id].snaps]
    told = [text for one in made for text in one.notices]
    return dict.fromkeys([*snaps, *told, *mix_notices(script, made, plans, burn_captions=burn_captions)])


def _reviewer() -> Callable[[Path, Any], dict[str, Any]]:
    from soundstage.review.reviewing import review_clip

    return lambda path, asked: review_clip(path, asked).to_dict()
