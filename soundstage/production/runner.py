"""Carry out the graph of a film: takes go to the workers, the rest is done here, and all of it is journalled.

A step that the journal has with the same mark, and whose files are as they were, is done already. What was
made is told to `report`, event by event, JSON-ready.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from soundstage.errors import MediaError, SoundstageError, num_of
from soundstage.planning.seeds import seeds_above
from soundstage.production.crew import Crew
from soundstage.production.folder import FilmFolder
from soundstage.production.graph import FilmStep, StepGraph, mark_of
from soundstage.production.journal import Entry, Journal
from soundstage.production.orders import Message, forget_checkpoint
from soundstage.production.takes import FilmShot, ShotTake, Takes
from soundstage.review.retry import another_seed_cures_none

EventReport = Callable[[dict[str, Any]], object]
Reviewer = Callable[[Path, Any], dict[str, Any]]  # (clip, what was asked) -> the review as JSON
FULL = "disk is full"  # in the sentence of an error that ends all work


@dataclass(frozen=True)
class Picked:
    """The take that the film uses of a shot. candidates: all takes of the shot that are there."""

    take: ShotTake
    entry: Entry
    review: Mapping[str, Any] | None
    candidates: tuple[tuple[ShotTake, Entry, Mapping[str, Any] | None], ...]


@dataclass
class Wishes:
    """The part of a film that is made. only: ids of shots, None for all. takes: how many of each shot.
    retries: takes with other seeds, while there are faults."""

    only: Collection[str] | None = None
    takes: int = 1
    retries: int = 0


@dataclass
class _Working:
    """A take that a worker makes now."""

    take: ShotTake
    since: float
    fraction: float = 0.0
    first: float | None = None  # the fraction that it went on from


@dataclass
class _Results:
    """Results so far, by the name of the step; `picked` by the shot's id."""

    done: set[str] = field(default_factory=set)
    entries: dict[str, Entry] = field(default_factory=dict)
    takes: dict[str, ShotTake] = field(default_factory=dict)
    reviews: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    picked: dict[str, Picked] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


class Production:
    """The work on the shots of one film. shots: by id, in the order of the film."""

    def __init__(
        self,
        shots: Sequence[FilmShot],
        takes: Takes,
        folder: FilmFolder,
        journal: Journal,
        crew: Crew,
        wishes: Wishes,
        report: EventReport,
        review: Reviewer | None = None,
        given: Mapping[str, Picked] | None = None,
    ) -> None:
        self._given = given or {}
        self._shots = {shot.id: shot for shot in shots}
        self._takes, self._folder, self._journal, self._crew = takes, folder, journal, crew
        self._wishes, self._report, self._review = wishes, report, review
        self._picks = folder.picks()
        self._asked = set(self._shots if wishes.only is None else wishes.only)
        self._results = _Results()
        self._working: dict[str, _Working] = {}
        self._graph = StepGraph(step for shot in shots for step in self._steps(shot))
        self._wanted = {f"pick {name}" for name in self._asked}
        self._closing = False

    def run(self) -> dict[str, Picked]:
        """Do all that is wanted, and return the picked take of each shot that is there.

        A shot that fails does not keep others from being made; then the first error is raised.
        """
        while True:
            self._settle()
            self._give_out()
            if not self._working:
                break
            self._heed(*self._crew.message())
        if self._results.errors:
            self._raise()
        self._closing = True
        self._wanted = {f"pick {name}" for name in self._shots}  # those that are there already
        self._settle()
        return self._results.picked

    # --- the graph

    def _steps(self, shot: FilmShot) -> list[FilmStep]:
        count = self._num_takes(shot)
        picked = self._picks.get(shot.id)
        seeds = shot.seeds(count) if picked is None or count > 1 else []
        seeds += [] if picked is None or picked in seeds else [picked]
        steps = [step for seed in seeds for step in self._take_steps(shot, seed)]
        return [*steps, FilmStep(f"pick {shot.id}", "pick", shot.id, tuple(s.name for s in steps))]

    def _take_steps(self, shot: FilmShot, seed: int) -> list[FilmStep]:
        name = self._takes.step(shot, seed)
        needs = tuple(f"pick {other}" for other in shot.needs if other not in self._given)
        return [
            FilmStep(name, "take", shot.id, needs),
            FilmStep(f"review {shot.id}/{seed}", "review", shot.id, (name,)),
        ]

    def _ready(self) -> list[FilmStep]:
        """Return the steps that may begin among those that are wanted."""
        wanted = self._graph.needed(self._wanted)
        begun = {working.take.step for working in self._working.values()} | set(self._results.errors)
        return [step for step in self._graph.ready(self._results.done, begun) if step.name in wanted]

    def _settle(self) -> None:
        """Do all steps that may begin and need no worker: those that are done already, reviews, picks."""
        while any([self._settled(step) for step in self._ready()]):
            pass

    def _settled(self, step: FilmStep) -> bool:
        """Return whether a step could be done here, or has failed."""
        try:
            if step.kind == "take":
                return self._take_is_there(step)
            if step.kind == "review":
                self._look_at(step)
            else:
                self._choose(self._shots[step.shot or ""])
        except (SoundstageError, OSError) as error:
            self._fail(step, str(error))
            if FULL in str(error):
                raise
            return True
        self._results.done.add(step.name)
        return True

    # --- takes

    def _take_is_there(self, step: FilmStep) -> bool:
        if step.name in self._results.takes:  # it is known, and waits for a worker
            return False
        shot = self._shots[step.shot or ""]
        seed = _seed_of_step(step)
        take = self._takes.take(shot, seed, self._request(shot))
        self._results.takes[step.name] = take
        entry = self._takes.found(take)
        if entry is None:
            facts = {"damaged": True} if self._takes.is_damaged(take) else {}
            state = "left out" if self._closing else "queued"
            self._tell(take, state, changed=self._takes.changed(take), **facts)
            return False
        self._finished(take, entry)
        forget_checkpoint(self._folder.checkpoint(take.mark))
        self._tell(take, "kept", fraction=1.0)
        return True

    def _request(self, shot: FilmShot) -> Any:
        """Return the request of a shot, with clips of the shots it needs."""
        picked = self._given or self._results.picked
        clips = {name: self._folder.path(picked[name].take.clip) for name in shot.needs}
        return shot.fill(clips, self._folder.path(self._folder.take(shot.id, shot.seed)).parent)

    def _finished(self, take: ShotTake, entry: Entry) -> None:
        self._results.entries[take.step] = entry
        self._results.done.add(take.step)

    def _give_out(self) -> None:
        """Give takes that may begin to the workers that are free, shots that others wait for first."""
        waiting = [step for step in self._ready() if step.kind == "take"]
        waiting.sort(key=lambda step: -len(self._graph.after(f"pick {step.shot}")))
        if len(self._crew.names) == 1:
            waiting = [step for step in self._ready() if step.kind == "take"]
        for worker, step in zip(self._crew.free(), waiting, strict=False):
            take = self._results.takes[step.name]
            order = self._takes.order(take)
            sound = "base" in order.told
            self._journal.add("begun", take.step, take.mark, facts={"worker": worker, "sound_alone": sound})
            self._working[worker] = _Working(take, time.monotonic())
            self._tell(take, "sound" if sound else "rendering", worker=worker)
            self._crew.begin(worker, order)

    def _heed(self, worker: str, message: Message) -> None:
        """Take in a message of a worker."""
        working, kind = self._working[worker], message["kind"]
        take = working.take
        if kind == "done":
            del self._working[worker]
            facts = {**message["facts"], **self._told(take)}
            self._finished(take, self._takes.enter(take, "done", facts))
            forget_checkpoint(self._folder.checkpoint(take.mark))
            self._tell(take, "made", fraction=1.0)
        elif kind == "failed":
            del self._working[worker]
            self._fail(self._graph[take.step], message["text"])
            if FULL in message["text"]:
                raise MediaError(message["text"])
        elif kind == "progress":
            working.fraction = message["fraction"]
            if working.first is None and message["phase"] not in ("load", "resume", "encode"):
                working.first = working.fraction
            self._tell(take, phase=message["phase"], fraction=working.fraction, left_s=_left(working))
        elif kind == "thumbnail":
            self._tell(take, thumbnail=message["path"])
        elif kind == "resumed":
            self._tell(take, resumed=message["part"])
        else:
            self._report({"event": "notice", "shot": take.shot.id, "text": message["text"]})

    def _told(self, take: ShotTake) -> dict[str, Any]:
        """Return what the clip's metadata says of the picture that it kept."""
        base = self._takes.base_of(take)
        return {} if base is None else {"base": base}

    # --- reviews and picks

    def _look_at(self, step: FilmStep) -> None:
        """Review a take, unless the journal has the review; ask for another seed while it has faults."""
        take = self._results.takes[step.needs[0]]
        review = self._reviewed(take, self._results.entries[take.step])
        if review is None:
            return
        self._results.reviews[take.step] = review
        faults = [fault["why"] for fault in review["faults"]]
        self._tell(take, faults=faults, score=review["score"])
        self._retry(take.shot)

    def _reviewed(self, take: ShotTake, entry: Entry) -> Mapping[str, Any] | None:
        if self._review is None:
            return None
        asked = take.shot.asked
        what = {"clip": entry.files[take.clip]["sha256"], "asked": None if asked is None else asdict(asked)}
        name, mark = f"review {take.shot.id}/{take.seed}", mark_of("review", what)
        known = self._journal.finished(name, mark)
        if known is not None:
            return known.facts
        self._tell(take, "reviewing")
        found = self._review(self._folder.path(take.clip), asked)
        return self._journal.add("done", name, mark, facts=found).facts

    def _retry(self, shot: FilmShot) -> None:
        """Ask for one more take where all that were asked for have faults and there are retries left.

        Takes that are there already, such as those of an earlier run, are looked at before one is made.
        """
        tried = [_seed_of_step(step) for step in self._graph if (step.kind, step.shot) == ("review", shot.id)]
        reviews = self._reviews_of(shot)
        good = any(another_seed_cures_none(_checks(review)) for review in reviews)
        if self._closing or good or len(reviews) < len(tried) or shot.id in self._picks:
            return
        most = self._num_takes(shot) + self._wishes.retries
        there = [take.seed for take, _ in self._there(shot)]
        free = [seed for seed in (*there, *shot.retry_seeds(most)) if seed not in tried]
        if len(tried) >= most:
            return
        steps = self._take_steps(shot, free[0])
        for step in steps:
            self._graph.put(step)
        pick = self._graph[f"pick {shot.id}"]
        self._graph.put(FilmStep(pick.name, "pick", shot.id, (*pick.needs, *(step.name for step in steps))))
        if free[0] not in there:
            why = [fault["why"] for fault in reviews[-1]["faults"]]
            self._report({"event": "retry", "shot": shot.id, "seed": free[0], "why": why})

    def _num_takes(self, shot: FilmShot) -> int:
        return self._wishes.takes if shot.id in self._asked else 1

    def _there(self, shot: FilmShot) -> list[tuple[ShotTake, Entry]]:
        """Return all takes of a shot that were ever made, are there, and fit the script as it is now."""
        request = self._request(shot)
        takes = [self._takes.take(shot, seed, request) for seed in self._takes.known_seeds(shot)]
        found = [(take, self._takes.found(take)) for take in takes]
        return [(take, entry) for take, entry in found if entry is not None]

    def _reviews_of(self, shot: FilmShot) -> list[Mapping[str, Any]]:
        reviews = self._results.reviews
        return [review for name, review in reviews.items() if self._results.takes[name].shot is shot]

    def _choose(self, shot: FilmShot) -> None:
        """Pick a take: the one that the filmmaker picked, else the best review, of equals the first."""
        there = [name for name, take in self._results.takes.items() if take.shot is shot]
        for take, entry in self._there(shot):
            if take.step not in there:
                there.append(take.step)
                self._results.takes[take.step] = take
                self._finished(take, entry)
                review = self._reviewed(take, entry)
                if review is not None:
                    self._results.reviews[take.step] = review
        results = self._results
        found = [(results.takes[name], results.entries[name], results.reviews.get(name)) for name in there]
        found.sort(key=lambda one: seeds_above(shot.seed, one[0].seed))
        chosen = [one for one in found if one[0].seed == self._picks.get(shot.id)]
        best = chosen[0] if chosen else max(found, key=lambda one: one[2]["score"] if one[2] else 0.0)
        results.picked[shot.id] = Picked(*best, tuple(found))
        self._tell(best[0], "done", fraction=1.0, takes=len(found))

    # --- words

    def _fail(self, step: FilmStep, text: str) -> None:
        self._results.errors[step.name] = text
        self._journal.add("failed", step.name, facts={"why": text})
        self._report({"event": "shot", "shot": step.shot, "state": "failed", "why": text})
        for other in self._graph.after(step.name):
            shot = self._graph[other].shot
            if shot != step.shot and other.startswith("pick "):
                self._report({"event": "shot", "shot": shot, "state": "blocked"})

    def _raise(self) -> None:
        (name, text), *others = self._results.errors.items()
        shot = self._graph[name].shot or ""
        number = self._shots[shot].number
        more = f"; {num_of(len(others), 'more shot')} failed" if others else ""
        raise SoundstageError(
            f"shot {number} ({shot}) could not be made: {text}{more}; what is done is kept, and the same "
            "command goes on from there"
        )

    def _tell(self, take: ShotTake, state: str | None = None, **facts: Any) -> None:
        told = {"event": "shot", "shot": take.shot.id, "number": take.shot.number, "seed": take.seed}
        self._report({**told, **({"state": state} if state else {}), **facts})


def _seed_of_step(step: FilmStep) -> int:
    """Return the seed of a take's step, or of its review."""
    return int(step.name.rpartition("/")[2])


def _checks(review: Mapping[str, Any]) -> list[str]:
    """Return the checks that failed in a review as the journal has it."""
    return [fault["check"] for fault in review["faults"]]


def _left(working: _Working) -> float | None:
    """Return the seconds that a take still needs, by what it took so far; None where that says nothing."""
    made = working.fraction - (working.first or 0.0)
    if made < 0.02:
        return None
    return (time.monotonic() - working.since) / made * (1 - working.fraction)
