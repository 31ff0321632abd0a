"""Keep finished windows, so that a take that was stopped goes on where it was.

    take.json               what the take is, and the fingerprint of all that decides its numbers
    window-000.safetensors  latents of the first window, pass by pass, and the SHA-256 of them

A file is there whole or not at all, and is believed only if it holds what was written. Latents are stored in
their own format, so a resumed take has the bits of one that was never stopped. Several processes may share a
folder: as they make the same take, it does not matter whose window is kept.

A take without a folder of its own keeps its windows in memory, and after KEEP_AFTER_S of work in a folder of
this program's (`own_folders.py`), which is deleted when the clip was handed over.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from soundstage.errors import MediaError, RequestError, WeightsError
from soundstage.files import whole_file
from soundstage.rendering.claims import Claim, refused
from soundstage.rendering.own_folders import TAKES, OwnFolder
from soundstage.rendering.sealed import sealed, unsealed
from soundstage.request.take import MANIFEST, WINDOWS

FORMAT = 2
KEEP_AFTER_S = 120.0  # of work: what took longer to make is worth keeping, asked for or not


class LostWindowError(WeightsError):
    """A finished window that is not there any more, or holds something else. index: which."""

    def __init__(self, sentence: str, index: int) -> None:
        super().__init__(sentence)
        self.index = index


class WindowStore:
    """Latents of finished windows by name, in memory or in a folder.

    folder: None keeps them in memory at first. metadata: all that decides the take's numbers, JSON-ready.
    asked: what the folder's description says besides. num_bytes: needed for all windows together. notices:
    sentences for the user, which the caller removes.
    Raises RequestError for a folder that holds another take, is none, cannot be written or is too full.
    """

    def __init__(
        self,
        folder: str | Path | None,
        metadata: Mapping[str, Any],
        *,
        asked: Mapping[str, Any] | None = None,
        num_bytes: int = 0,
    ) -> None:
        self.notices: list[str] = []
        self._metadata: dict[str, Any] = json.loads(json.dumps(metadata))
        self._said = Claim(
            MANIFEST, FORMAT, "take", "the windows of another take", "take.folder", metadata, asked
        )
        self._mark = self._said.mark
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._lost: set[int] = set()
        self._num_bytes = num_bytes
        self._began = time.monotonic()
        self._own: OwnFolder | None = None
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            self._begin(self.folder)
        else:
            self._go_on()

    def __contains__(self, index: int) -> bool:
        """Return whether a window is there and whole; a damaged one leaves a notice."""
        if index in self._kept:
            return True
        if self.folder is None or index in self._lost or not self._path(index).is_file():
            return False
        try:
            self._checked(index)
        except ValueError as error:
            self.notices.append(f"{self._path(index)} {error}; window {index + 1} is made again")
            return False
        return True

    def save(self, index: int, latents: Mapping[str, Tensor]) -> None:
        """Keep a window's latents; on disk under their name only when all is written.

        Where that fails they stay in memory, so that the work goes on, and a notice says so.
        """
        if self.folder is None and time.monotonic() - self._began > KEEP_AFTER_S:
            self._move_in()
        if self.folder is None or index in self._lost:
            self._kept[index] = dict(latents)
        if self.folder is None:
            return
        try:
            self._write(index, latents)
        except MediaError as error:
            self._kept[index] = dict(latents)
            self.notices.append(f"{error}; window {index + 1} is in memory until the clip is made")

    def load(self, index: int) -> dict[str, Tensor]:
        """Return a window's latents. Raises LostWindowError for one that is not there any more or spoiled."""
        if index in self._kept:
            return self._kept[index]
        try:
            return self._checked(index)
        except ValueError as error:
            raise LostWindowError(f"{self._path(index)} {error}; make the clip again", index) from error

    def lose(self, lost: LostWindowError) -> None:
        """Note that a window which was there is gone: when it is made again it is kept in memory too."""
        if lost.index not in self._lost:
            self._lost.add(lost.index)
            self.notices.append(f"{str(lost).partition(';')[0]}; window {lost.index + 1} is made again")

    def _checked(self, index: int) -> dict[str, Tensor]:
        """Return a window's latents from its file. Raises ValueError saying what is wrong with it."""
        try:
            return unsealed(self._path(index).read_bytes(), self._metadata_of(index))
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from error

    def kept(self) -> str | None:
        """Return the sentence on finished windows that outlast this run, None where there are none."""
        if self.folder is None:
            return None
        count = sum(1 for _ in self.folder.glob(WINDOWS))
        windows = "1 finished window is" if count == 1 else f"{count} finished windows are"
        same = "the same request" if self._own is None else self._same()
        return f"{windows} kept in {self.folder}, and {same} goes on from there" if count else None

    def _same(self) -> str:
        """Return the words for the request that finds the program's own folder; the seed is part of it."""
        request = self._metadata.get("request")
        seed = request.get("seed") if isinstance(request, dict) else None
        return "the same request" if seed is None else f"the same request with seed {seed}"

    def discard(self) -> None:
        """Delete the folder if it is this program's own: the clip was handed over."""
        if self._own is not None:
            self._own.discard()

    def __enter__(self) -> None:
        """Use the store for one run."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and (told := self.kept()) is not None:
            error.add_note(told)
        self.close()

    def close(self) -> None:
        """Let other runs use the folder."""
        if self._own is not None:
            self._own.close()

    # --- folders

    def _begin(self, folder: Path) -> None:
        """Make the folder this take's, or see that it is, and that its windows can be written there."""
        with refused(folder, self._said.field):
            folder.mkdir(parents=True, exist_ok=True)
            self._claim(folder)
            with tempfile.TemporaryFile(dir=folder):
                pass
        missing = self._num_bytes - sum(path.stat().st_size for path in folder.glob(WINDOWS))
        free = shutil.disk_usage(folder).free
        if missing > free:
            raise RequestError(
                f"take.folder is {folder}, where {free / 1e6:.0f} MB are free and the windows take "
                f"{missing / 1e6:.0f} MB; make room or give another folder",
                field="take",
            )

    def _claim(self, folder: Path) -> None:
        """Write what the take is, or compare it with what is there."""
        if not (folder / MANIFEST).exists() and any(folder.glob(WINDOWS)):
            raise RequestError(
                f"{folder} holds windows but no {MANIFEST}; give an empty folder", field="take"
            )
        self._said.make(folder)

    # --- the program's own folder

    def _go_on(self) -> None:
        """Use the windows that an earlier run of the same take kept, if there are any."""
        own = TAKES.found(self._mark)
        if own is None:
            return
        try:
            self._begin(own.path)
        except RequestError:
            own.close()  # spoiled: this run keeps its windows elsewhere
            return
        self._own, self.folder = own, own.path
        self.notices.append(f"the take goes on from the windows kept in {own.path}")

    def _move_in(self) -> None:
        """Write what is in memory to a folder of this program's; if there is none, it stays where it is."""
        own = TAKES.new(self._mark)
        if own is None:
            return
        try:
            self._begin(own.path)
            for index, latents in self._kept.items():
                self._write(index, latents, own.path)
        except (MediaError, RequestError):
            own.discard()
            return
        self._own, self.folder = own, own.path
        self._kept.clear()
        self.notices.append(
            f"finished windows are kept in {own.path} until the clip is made; if it is stopped, "
            f"{self._same()} goes on from there"
        )

    # --- files

    def _write(self, index: int, latents: Mapping[str, Tensor], folder: Path | None = None) -> None:
        """Write a window's file. Raises MediaError if it cannot be written."""
        data = sealed(latents, self._metadata_of(index))
        with whole_file(self._path(index, folder)) as part:
            part.write_bytes(data)

    def _metadata_of(self, index: int) -> dict[str, str]:
        """Return the metadata that is stored in a window's file."""
        return {"take": self._mark, "window": str(index)}

    def _path(self, index: int, folder: Path | None = None) -> Path:
        folder = folder or self.folder
        assert folder is not None
        return folder / f"window-{index:03d}.safetensors"
