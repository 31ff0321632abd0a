"""Keep where a run stands in a folder, so that another run of the same plan goes on from there.

    checkpoint.json       what the run is, and the fingerprint of all that decides its numbers
    state.safetensors     latents of finished passes; latents, earlier steps and random numbers of the one
                          under way; the SHA-256 of them
    windows/              finished windows of a long take

The film has the bits of one that was never stopped. The state is written aside, flushed to the disk and
renamed, so there is always a whole one. It is believed only if it holds what was written.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from soundstage.errors import MediaError, RequestError
from soundstage.files import whole_file
from soundstage.rendering.claims import Claim, refused
from soundstage.rendering.sealed import packed, sealed, unpacked, unsealed
from soundstage.sampling.denoise import Standing
from soundstage.sampling.samplers import Past

FORMAT = 1  # raise it when a state that was written before would give other bits
MANIFEST, STATE, WINDOWS, LOCK = "checkpoint.json", "state.safetensors", "windows", "lock"
OWN_NAMES = frozenset({MANIFEST, STATE, WINDOWS, LOCK})
SHARE_AT_END = 0.1  # of every_s, after which the end of a pass is kept too
FACTS = "facts"  # the tensor that holds the rest of a state, as JSON


@dataclass(frozen=True)
class ClipStanding:
    """Hold where the passes of one clip stand.

    window: index in a take, 0 for a clip made at once. done: number of finished passes. latents: theirs, by
    name.
    numbers: seed and state of the pass's random numbers. step: where the pass under way stands. guider: what
    its guidance keeps from step to step. seconds: time spent in each phase.
    """

    window: int = 0
    done: int = 0
    latents: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: tuple[int, Tensor] | None = None
    step: Standing | None = None
    guider: Mapping[str, Any] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def generator(self, device: torch.device) -> torch.Generator | None:
        """Return the random numbers as they go on, None where none were drawn."""
        if self.numbers is None:
            return None
        seed, state = self.numbers
        made = torch.Generator(device).manual_seed(seed)
        made.set_state(state)
        return made


class Checkpoint:
    """Keep the state of one run in a folder, which is locked for the block; None keeps nothing.

    claim: what the run is. every_s: seconds between two states; 0 keeps every step. notices: sentences for
    the user, which the caller removes. Raises RequestError for a folder that holds another run, other files,
    cannot be written or is in use.
    """

    def __init__(self, folder: Path | None, claim: Claim, every_s: float) -> None:
        self.folder, self.notices = folder, list[str]()
        self._claim, self._every_s = claim, every_s
        self._latest: ClipStanding | None = None  # not kept yet
        self._kept_at = time.monotonic()
        self._found: ClipStanding | None = None
        self._lock: FileLock | None = None

    def __enter__(self) -> Checkpoint:
        if self.folder is not None:
            with refused(self.folder, "checkpoint"):
                _check_own(self.folder)
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = _locked(self.folder)
            try:
                self._found = self._read(self.folder)
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._latest is not None:
            self._keep()
        if self._lock is not None:
            self._lock.release()

    @property
    def keeps(self) -> bool:
        """Return whether there is a folder."""
        return self.folder is not None

    def found(self, window: int, device: torch.device) -> ClipStanding | None:
        """Return where an earlier run of a window had come to, on a device; None where there is nothing."""
        if self._found is None or self._found.window != window:
            return None
        return _placed(self._found, device)

    @property
    def windows(self) -> Path | None:
        """Return the folder for the windows of a take that has none of its own."""
        return None if self.folder is None else self.folder / WINDOWS

    # --- what the run does

    def note(self, standing: ClipStanding) -> None:
        """Note where the run stands. It is kept when the block ends early, or by `keep_if_due`."""
        self._latest = standing

    def keep_if_due(self, *, end: bool = False) -> Iterator[str]:
        """Write what was noted if it is time, and yield what the user should know.

        end: the end of a pass, which is kept sooner.
        """
        wait_s = self._every_s * (SHARE_AT_END if end else 1.0)
        if self._latest is not None and time.monotonic() - self._kept_at >= wait_s:
            self._keep()
        while self.notices:
            yield self.notices.pop(0)

    def _keep(self) -> None:
        """Write what was noted. Where that fails the run goes on, and a notice says so once."""
        latest, folder = self._latest, self.folder
        assert latest is not None
        assert folder is not None
        self._latest, self._kept_at = None, time.monotonic()
        if not _finite(latest):
            return  # the run will end with an error; what was kept before it is worth more
        try:
            self._claim.make(folder)
            with whole_file(folder / STATE) as part:
                _write_through(part, self._bytes(latest))
            _flush_folder(folder)
        except (MediaError, RequestError, OSError) as error:
            told = getattr(error, "strerror", None) or error
            self.notices.append(f"the checkpoint was not written ({told}); the run goes on without it")
            self._every_s = float("inf")

    # --- files

    def _bytes(self, standing: ClipStanding) -> bytes:
        tensors: dict[str, Tensor] = {}
        facts = packed(_plain(standing), tensors)
        text = json.dumps(facts).encode()
        tensors[FACTS] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return sealed(tensors, {"run": self._claim.mark})

    def _read(self, folder: Path) -> ClipStanding | None:
        """Return the state in a folder, None where there is none or it is damaged, which a notice says."""
        if (folder / MANIFEST).exists():
            self._claim.compare(folder)
        elif (folder / STATE).exists():
            raise RequestError(
                f"{folder} holds a state but no {MANIFEST}; give an empty folder", field="checkpoint"
            )
        try:
            tensors = unsealed((folder / STATE).read_bytes(), {"run": self._claim.mark})
            facts = json.loads(tensors.pop(FACTS).numpy().tobytes())
            return _standing(unpacked(facts, tensors))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            told = getattr(error, "strerror", None) or error
            self.notices.append(f"{folder / STATE} {told}; the clip begins anew")
            return None


def clear(folder: Path) -> None:
    """Delete what a checkpoint keeps, and its folder; other files stay, and the folder with them."""
    shutil.rmtree(folder / WINDOWS, ignore_errors=True)
    for name in (STATE, MANIFEST, LOCK):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def numbers_of(generator: torch.Generator) -> tuple[int, Tensor]:
    """Return the seed and the state of random numbers."""
    return generator.initial_seed(), generator.get_state()


def _check_own(folder: Path) -> None:
    """Raise RequestError for a folder that holds anything but a checkpoint."""
    others = sorted({path.name for path in folder.iterdir()} - OWN_NAMES) if folder.is_dir() else []
    others = [name for name in others if not name.startswith(".soundstage-")]
    if others:
        raise RequestError(
            f"checkpoint is {folder}, which holds other files, such as {others[0]}; give an empty folder",
            field="checkpoint",
        )


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise RequestError(
            f"checkpoint is {folder}, which another run uses now; wait for it or give another folder",
            field="checkpoint",
        ) from error
    return lock


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Have the disk keep a new name; where folders cannot be opened, the system does it in its own time."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- states as plain values


def _plain(standing: ClipStanding) -> dict[str, Any]:
    step = standing.step
    kept = None
    if step is not None:
        past = [[one.sigma, one.x, one.denoised] for one in step.past]
        kept = {"step": step.step, "latents": step.latents, "past": past, "noise": step.noise}
    return {**vars(standing), "step": kept}


def _standing(plain: dict[str, Any]) -> ClipStanding:
    step = plain["step"]
    if step is not None:
        past = tuple(Past(sigma, tuple(x), tuple(denoised)) for sigma, x, denoised in step["past"])
        step = Standing(step["step"], tuple(step["latents"]), past, step["noise"])
    numbers = plain["numbers"]
    return ClipStanding(**{**plain, "step": step, "numbers": None if numbers is None else tuple(numbers)})


def _placed(standing: ClipStanding, device: torch.device) -> ClipStanding:
    """Return a standing with its tensors on a device; states of generators stay in host memory."""
    plain = _plain(standing)
    placed = {key: _moved(value, device) for key, value in plain.items() if key != "numbers"}
    if placed["step"] is not None:
        placed["step"]["noise"] = plain["step"]["noise"]
    return _standing({**placed, "numbers": standing.numbers})


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    return [_moved(item, device) for item in value] if isinstance(value, list | tuple) else value


def _finite(standing: ClipStanding) -> bool:
    both = () if standing.step is None else standing.step.latents
    return all(x is None or bool(torch.isfinite(x).all()) for x in both)
