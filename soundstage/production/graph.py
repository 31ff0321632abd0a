"""The graph of a film's steps: what needs what, in which order, and what a change makes again. Pure.

A step is known by its name, such as "take 3/7" (shot 3 with seed 7), and by a mark: the fingerprint of all
that decides its result. Files count by what they hold, so a step whose inputs were made again with the same
content is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from soundstage.errors import RequestError

# Raise a kind's number when the same inputs give another result than before.
VERSIONS = {"take": 1, "sound": 1, "upscale": 1, "review": 1, "film": 1, "pick": 1}


@dataclass(frozen=True)
class FilmStep:
    """One piece of work.

    name: unique in its graph. kind: a key of VERSIONS. shot: the shot's id; None for the whole film. needs:
    names of the steps whose results it takes.
    """

    name: str
    kind: str
    shot: str | None = None
    needs: tuple[str, ...] = ()


class StepGraph:
    """Steps in an order in which each comes after all that it needs.

    Raises RequestError for a step that needs itself through others, or one that is not there.
    """

    def __init__(self, steps: Iterable[FilmStep] = ()) -> None:
        self._steps: dict[str, FilmStep] = {}
        for step in steps:
            self._steps[step.name] = step
        self.ordered()

    def __iter__(self) -> Iterator[FilmStep]:
        return iter(list(self._steps.values()))

    def __getitem__(self, name: str) -> FilmStep:
        return self._steps[name]

    def __contains__(self, name: object) -> bool:
        return name in self._steps

    def put(self, step: FilmStep) -> None:
        """Add a step, or replace the one of its name."""
        before = dict(self._steps)
        self._steps[step.name] = step
        try:
            self.ordered()
        except RequestError:
            self._steps = before
            raise

    def ordered(self) -> list[FilmStep]:
        """Return the steps, each after those it needs, otherwise in the order they were given in."""
        made: dict[str, FilmStep] = {}
        for name in self._steps:
            self._follow(name, made, ())
        return list(made.values())

    def ready(self, done: Collection[str], begun: Collection[str]) -> list[FilmStep]:
        """Return the steps that may begin: not begun, with all that they need done."""
        return [
            step
            for step in self.ordered()
            if step.name not in done and step.name not in begun and all(need in done for need in step.needs)
        ]

    def needed(self, names: Iterable[str]) -> set[str]:
        """Return some steps with all that they need, directly or through others."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(self._steps[name].needs)
        return found

    def after(self, name: str) -> set[str]:
        """Return the steps that need a step, directly or through others."""
        return {step.name for step in self if step.name != name and name in self.needed([step.name])}

    def _follow(self, name: str, made: dict[str, FilmStep], path: tuple[str, ...]) -> None:
        if name in made:
            return
        if name in path:
            circle = " needs ".join((*path[path.index(name) :], name))
            raise RequestError(f"{circle}: a circle; let one of them stand alone")
        if name not in self._steps:
            raise RequestError(f"'{path[-1]}' needs '{name}', which is no step")
        for need in self._steps[name].needs:
            self._follow(need, made, (*path, name))
        made[name] = self._steps[name]


def mark_of(kind: str, what: Mapping[str, Any]) -> str:
    """Return the mark of a step. what: JSON-ready, all that decides its result, files by their content."""
    told = {"kind": kind, "version": VERSIONS[kind], "what": what}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def changes(before: Any, now: Any, place: str = "") -> list[str]:
    """Return the places where two JSON values differ, such as "request.prompt"."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for key in dict.fromkeys((*before, *now)):
            inner = f"{place}.{key}" if place else str(key)
            found += changes(before.get(key), now.get(key), inner)
        return found
    return [] if before == now else [place]
