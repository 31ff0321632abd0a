"""Keep encodings by what they were made from: contexts of a prompt, latents of a picture, clip or sound.

    cache = EncodingCache.open()                                 # in memory and in the user's cache folder
    key = content_key("picture", sha256, "768x512", vae_identity)
    latents = cache.kept(key, lambda: {"latents": vae.encode(pixels)}, device)["latents"]

A key is made of all that an encoding's bits depend on, so what comes back is what would be computed. Memory
and folder are bounded: what was used longest ago goes first. Several processes may share the folder. A file
that is damaged, or another's under its name, counts as absent, and a disk that cannot be written to costs a
warning, not the run. One context of the 22B model is 12.6 MB.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from soundstage.rendering.sealed import sealed, unsealed

FORMAT = 3  # part of every key: raise it when the computation of an encoding changes its bits
CACHE_VARIABLE = "SOUNDSTAGE_CACHE"
OFF = "off"
MAX_MEMORY_BYTES = 1 << 30
MAX_DISK_BYTES = 4 << 30
SUFFIX, PARTIAL = ".safetensors", ".part"
ABANDONED_S = 3600.0  # a partial file older than this was left by a process that was killed

log = logging.getLogger("soundstage.rendering")
CPU = torch.device("cpu")
Tensors = dict[str, Tensor]


def content_key(*contents: object) -> str:
    """Return the key of a result: a hash of all it depends on, in order.

    These are the input's own bytes, the settings and the model.
    Bytes and text count as they are, everything else by its repr.
    """
    digest = hashlib.sha256(str(FORMAT).encode())
    for content in contents:
        data = content if isinstance(content, bytes) else str(content).encode()
        digest.update(type(content).__name__.encode() + len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def encodings_folder() -> Path | None:
    """Return $SOUNDSTAGE_CACHE, or "encodings" in the user's cache folder; None if the variable is "off"."""
    named = os.environ.get(CACHE_VARIABLE, "")
    if named.lower() == OFF:
        return None
    return Path(named) if named else Path(platformdirs.user_cache_dir("soundstage")) / "encodings"


class EncodingCache:
    """A bounded cache in host memory and, given a folder, on disk.

    num_made: how many results had to be made. The folder is made by the first `put`. Tensors that come out
    must not be changed.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
        max_disk_bytes: int = MAX_DISK_BYTES,
    ) -> None:
        self.folder, self.num_made = folder, 0
        self.max_memory_bytes, self.max_disk_bytes = max_memory_bytes, max_disk_bytes
        self._memory: OrderedDict[str, Tensors] = OrderedDict()

    @classmethod
    def open(cls) -> EncodingCache:
        """Return the cache of this user."""
        return cls(encodings_folder())

    def kept(self, key: str, make: Callable[[], Tensors], device: torch.device = CPU) -> Tensors:
        """Return the tensors of a key; make and keep them if they are not there."""
        found = self.get(key, device)
        return self.put(key, make()) if found is None else found

    def get(self, key: str, device: torch.device = CPU) -> Tensors | None:
        """Return the tensors of a key on a device, or None. Counts as a use of them."""
        found = self._memory.get(key)
        if found is None:
            found = self._read(key)
        else:
            self._touch(key)
        if found is None:
            return None
        self._remember(key, found)
        log.debug("encoding %s is reused", key[:12])
        return {name: tensor.to(device) for name, tensor in found.items()}

    def put(self, key: str, tensors: Tensors) -> Tensors:
        """Keep tensors that were made, and return them. Those used longest ago are dropped for them.

        Tensors larger than a bound are not kept there.
        """
        self.num_made += 1
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self._remember(key, kept)
        self._write(key, kept)
        log.debug("encoding %s is kept", key[:12])
        return tensors

    @property
    def memory_bytes(self) -> int:
        return sum(_num_bytes(tensors) for tensors in self._memory.values())

    # --- in memory

    def _remember(self, key: str, tensors: Tensors) -> None:
        if _num_bytes(tensors) > self.max_memory_bytes:
            return
        self._memory[key] = tensors
        self._memory.move_to_end(key)
        while self.memory_bytes > self.max_memory_bytes:
            self._memory.popitem(last=False)

    # --- on disk

    def _read(self, key: str) -> Tensors | None:
        """Read a file as bytes, not mapped: another process may delete it at any time."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            tensors = unsealed(path.read_bytes(), {"encoding": key})
        except OSError:
            return None
        except ValueError:
            _delete(path)
            return None
        self._touch(key)
        return tensors

    def _touch(self, key: str) -> None:
        """Set the time of a file's last use, if it is there and may be changed."""
        if self.folder is not None:
            with suppress(OSError):
                os.utime(self._path(key))

    def _write(self, key: str, tensors: Tensors) -> None:
        if self.folder is None or _num_bytes(tensors) > self.max_disk_bytes:
            return
        data = sealed(tensors, {"encoding": key})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=PARTIAL)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.replace(temporary, self._path(key))
            finally:
                _delete(Path(temporary))
        except OSError as error:
            warnings.warn(
                f"encodings are not kept in {self.folder} ({error}); name another folder in "
                f"{CACHE_VARIABLE}, or '{OFF}'",
                stacklevel=2,
            )
            return
        self._make_room(self._path(key))

    def _make_room(self, newest: Path) -> None:
        """Delete what was used longest ago until the rest fits; the newest stays."""
        files = self._files(SUFFIX)
        total = sum(stat.st_size for stat in files.values())
        for path, stat in sorted(files.items(), key=lambda item: item[1].st_mtime_ns):
            if total <= self.max_disk_bytes:
                break
            if path != newest:
                _delete(path)
                total -= stat.st_size
        for path, stat in self._files(PARTIAL).items():
            if time.time() - stat.st_mtime > ABANDONED_S:
                _delete(path)

    def _files(self, suffix: str) -> dict[Path, os.stat_result]:
        found = {}
        for path in [] if self.folder is None else self.folder.glob(f"*{suffix}"):
            with suppress(OSError):  # another process made room
                found[path] = path.stat()
        return found

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}{SUFFIX}"


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _num_bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())
