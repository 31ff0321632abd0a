"""Work out how long a clip will take: from the seconds of the last one that the same model made here.

    times = RunTimes()
    times.of(stage, plan, choice)
    times.expected()             # seconds, None where nothing alike was made
    times.made()                 # and the clip is written
    times.keep(done.seconds)     # for the next one

Kept in the user's cache folder, in run-times.json: for each model, device, number format and place of the
weights the seconds of each phase, and how much work they were.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from soundstage.errors import MediaError
from soundstage.files import whole_file

if TYPE_CHECKING:
    from soundstage.engine import Engine
    from soundstage.planning.placement import Choice
    from soundstage.planning.plan import Plan

START, WRITE = "start", "write"  # PyTorch is loaded; the clip is written to its file
LOADING = (START, "load")  # done once in a process
ONCE = (*LOADING, "encode")  # phases that take as long for any clip
MOST_LARGER = 10  # times the work of the clip that was measured; more is not guessed


class RunTimes:
    """The times of one model at one place, and a watch that measures the first clip of a command."""

    def __init__(self) -> None:
        self._first = "torch" not in sys.modules
        self._began = self._made = time.monotonic()
        self._key = ""
        self._work: dict[str, float] = {}
        self._known: dict[str, Any] = {}

    def of(self, stage: Engine, plan: Plan, choice: Choice) -> None:
        """Look up a plan's model at the place of its weights."""
        device = "cuda" if choice.price.device_bytes else "cpu"
        threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
        place = (device, threads, stage.number_format.name, choice.weights, choice.residency.policy)
        self._key = " ".join(map(str, (plan.model, stage.model.folder, *place)))
        self._work, self._known = _work(plan, choice), _read().get(self._key, {})

    def expected(self, *, more: bool = False) -> float | None:
        """Return the seconds that the clip will take; None where they are not known.

        more: it is not the first clip of its process, which has loaded the model.
        """
        if not self._known.keys() >= self._work.keys():
            return None
        total = 0.0
        for phase, work in self._work.items():
            seconds, before = self._known[phase]
            if phase not in ONCE and not 0 < work <= MOST_LARGER * before:
                return None
            skipped = phase in LOADING and (more or not self._first)
            total += 0.0 if skipped else seconds if phase in ONCE else seconds * work / before
        return total

    def made(self) -> None:
        """Note that the clip is made and will be written now."""
        self._made = time.monotonic()

    def keep(self, phases: Mapping[str, float]) -> None:
        """Keep what a clip took, if it was the first of its process. phases: seconds of each, not of writing.

        A cache that cannot be written keeps nothing.
        """
        if not self._first:
            return
        self._first = False
        now = time.monotonic()
        start = max(0.0, self._made - self._began - sum(phases.values()))
        seconds = {**phases, START: start, WRITE: now - self._made}
        found = {phase: [round(seconds.get(phase, 0.0), 3), work] for phase, work in self._work.items()}
        found["encode"] = max(found["encode"], self._known.get("encode", [0.0, 1.0]))  # or the cache had it
        with suppress(OSError, MediaError):
            path = _file()
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part:
                part.write_text(json.dumps({**_read(), self._key: {**self._known, **found}}, indent=1))


def _work(plan: Plan, choice: Choice) -> dict[str, float]:
    """Return how much work each phase of a plan is."""
    priced: dict[str, float] = dict.fromkeys(ONCE, 1.0)
    for phase in choice.price.phases:
        name = "denoise" if phase.name.startswith("denoise") else phase.name
        if name not in ONCE:
            priced[name] = priced.get(name, 0.0) + phase.seconds
    if "audio" in plan.modalities:
        priced["decode audio"] = plan.duration_s  # it has no price
    priced[WRITE] = plan.num_frames * plan.width * plan.height if "video" in plan.modalities else 1.0
    return priced


def _file() -> Path:
    return Path(platformdirs.user_cache_dir("soundstage")) / "run-times.json"


def _read() -> dict[str, Any]:
    """Return what is kept; nothing where there is none, or it is damaged."""
    with suppress(OSError, ValueError, RecursionError):
        known = json.loads(_file().read_text())
        if isinstance(known, dict):
            return {key: times for key, times in known.items() if _is_times(times)}
    return {}


def _is_times(times: Any) -> bool:
    pairs = times.values() if isinstance(times, dict) else ()
    return all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(n, int | float) and math.isfinite(n) for n in pair)
        for pair in pairs
    ) and bool(pairs)
