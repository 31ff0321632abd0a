"""The fast paths that a machine takes: each is tried once beside its plain twin.

    probe = Probe.open("cpu AVX2, torch 2.13.0")
    if probe.takes(Trial("linear and gelu, float32", plain, fast)):
        ...                                      # put it on the model

A path is left out, with a debug line that says why, where it fails, gives other numbers or is not faster.
Findings are kept in the user's cache folder, by machine, library version and name, so that a later process
tries nothing. No variable moves it: a seed gives the same bits only by the same paths. If several processes
try at once, the first finding that is written holds for all. SOUNDSTAGE_FAST_PATHS=off leaves all out.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from soundstage.errors import RequestError

VARIABLE, AUTO, OFF = "SOUNDSTAGE_FAST_PATHS", "auto", "off"
LOCK_S = 10.0  # a record that is locked for longer is left alone
REPEATS = 5
MOST_TIME = 0.97  # of the plain way's: nearly equal ways would be chosen by chance
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}

log = logging.getLogger("soundstage.speed")


@dataclass(frozen=True)
class Trial:
    """Hold a fast path and its plain twin on the same small inputs; both return one tensor.

    name: includes the number format. tolerance: limit of the difference, by norm; None is the format's.
    alone: time it on one thread by the processor's own clock, so that other work and the number of threads
    do not decide.
    """

    name: str
    plain: Callable[[], Tensor]
    fast: Callable[[], Tensor]
    tolerance: float | None = None
    alone: bool = False


def switched_off() -> bool:
    """Return whether the environment asks for the plain ways alone. Raises RequestError for another word."""
    word = os.environ.get(VARIABLE, "").lower() or AUTO
    if word not in (AUTO, OFF):
        raise RequestError(f"{VARIABLE} is '{word}'; give {AUTO} or {OFF}")
    return word == OFF


@dataclass
class Probe:
    """Hold the findings on a machine. machine: its name and versions. path: None keeps them in memory."""

    machine: str
    path: Path | None = None
    found: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def open(cls, machine: str) -> Probe:
        """Read what earlier processes found; a file that is damaged or not there counts as empty."""
        path = _file()
        return cls(machine, path, _read(path).get(machine, {}))

    def takes(self, trial: Trial) -> bool:
        """Return whether a path works and is faster here; never raises for one that fails."""
        if switched_off():
            return False
        if trial.name not in self.found:  # another process may have found it meanwhile
            self.found = {**_read(self.path).get(self.machine, {}), **self.found}
        if trial.name not in self.found:
            try:
                reason = _reason_against(trial)
            except torch.OutOfMemoryError as error:  # not the path's fault: it is tried another time
                log.debug("%s cannot be tried now: %s", trial.name, error)
                return False
            if reason is not None:
                log.debug("%s is left out on %s: %s", trial.name, self.machine, reason)
            self.found[trial.name] = self._kept(trial.name, reason is None)
        return self.found[trial.name]

    def _kept(self, name: str, taken: bool) -> bool:
        """Write a finding and return the one that holds: another process's, if it wrote first."""
        if self.path is None:
            return taken
        with suppress(OSError, Timeout, NotImplementedError):  # costs another trial, not the run
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=LOCK_S):
                known = _read(self.path)
                here = known.setdefault(self.machine, {})
                taken = here.setdefault(name, taken)
                _write(self.path, known)
        return taken


def _file() -> Path:
    return Path(platformdirs.user_cache_dir("soundstage")) / "fast-paths.json"


def _read(path: Path | None) -> dict[str, dict[str, bool]]:
    with suppress(OSError, ValueError, RecursionError):
        known = json.loads(path.read_text()) if path is not None else {}
        if isinstance(known, dict) and all(map(_is_findings, known.values())):
            return known
    return {}


def _is_findings(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(taken, bool) for taken in found.values())


def _write(path: Path, known: dict[str, dict[str, bool]]) -> None:
    """Replace the record as a whole."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as out:
        json.dump(known, out)
    try:
        os.replace(out.name, path)
    finally:
        with suppress(OSError):
            os.unlink(out.name)


@torch.no_grad()
def _reason_against(trial: Trial) -> str | None:
    """Return why a path is not taken, or None. Any error counts: these are private functions of libraries."""
    try:
        wanted = trial.plain()
        made = trial.fast()
        difference = float((made.float() - wanted.float()).norm() / wanted.float().norm())
        most = TOLERANCE.get(wanted.dtype, 1e-2) if trial.tolerance is None else trial.tolerance
        if not difference <= most:
            return f"its numbers differ by {difference:.1e}"
        plain_s, fast_s = _seconds(trial, wanted.device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    taken = fast_s < MOST_TIME * plain_s
    return None if taken else f"it takes {fast_s:.2e} s, the plain way {plain_s:.2e}"


def _seconds(trial: Trial, device: torch.device) -> tuple[float, float]:
    """Return the shortest times of both ways, out of a few runs in alternation."""
    clock, threads = (time.thread_time if trial.alone else time.perf_counter), torch.get_num_threads()
    best = [float("inf"), float("inf")]
    try:
        if trial.alone:
            torch.set_num_threads(1)
        for _ in range(REPEATS):
            for i, run in enumerate((trial.plain, trial.fast)):
                _wait(device)
                begin = clock()
                run()
                _wait(device)
                best[i] = min(best[i], clock() - begin)
    finally:
        if trial.alone:
            torch.set_num_threads(threads)
    return best[0], best[1]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
