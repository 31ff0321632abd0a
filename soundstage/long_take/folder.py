"""Finished windows on disk, so that a take that was stopped goes on where it was.

    take.json               what the take is, and the fingerprint of all that decides its numbers
    window-000.safetensors  latents of the first window, pass by pass

A file is there whole or not at all. Latents are stored in their own format, so a resumed take has the bits
of one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from soundstage.errors import RequestError, WeightsError
from soundstage.media.files import whole_file

MANIFEST = "take.json"
FORMAT = 1


def fingerprint(facts: Mapping[str, Any]) -> str:
    """SHA-256 of JSON-ready facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class WindowStore:
    """Latents of finished windows by name, in memory or in a folder.

    Without a folder nothing outlives the process. Raises RequestError for a folder that holds another take.
    """

    def __init__(self, folder: str | Path | None, facts: Mapping[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        self._kept: dict[int, dict[str, Tensor]] = {}
        if self.folder is not None:
            _open(self.folder, facts)

    def __contains__(self, index: int) -> bool:
        return index in self._kept if self.folder is None else self._path(index).is_file()

    def save(self, index: int, latents: Mapping[str, Tensor]) -> None:
        """Keep a window's latents; on disk under their name only when all is written."""
        if self.folder is None:
            self._kept[index] = dict(latents)
            return
        from safetensors.torch import save_file

        with whole_file(self._path(index)) as part:
            save_file({name: x.contiguous().cpu() for name, x in latents.items()}, part)

    def load(self, index: int) -> dict[str, Tensor]:
        """Raises WeightsError for a file that cannot be read."""
        if self.folder is None:
            return self._kept[index]
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._path(index)
        try:
            latents: dict[str, Tensor] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"{path} cannot be read ({error}); delete it, and its window is made again"
            ) from error
        return latents

    def _path(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"window-{index:03d}.safetensors"


def _open(folder: Path, facts: Mapping[str, Any]) -> None:
    """Make the folder this take's, or see that it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path, mark = folder / MANIFEST, fingerprint(facts)
    if not path.exists():
        if any(folder.glob("window-*.safetensors")):
            raise RequestError(
                f"{folder} holds windows but no {MANIFEST}; give an empty folder", field="take"
            )
        with whole_file(path) as part:
            part.write_text(json.dumps({"format": FORMAT, "fingerprint": mark, **facts}, indent=2))
        return
    try:
        stored = json.loads(path.read_text())
        same = stored["fingerprint"] == mark and stored["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{path} is not the description of a take ({error}); give another folder", field="take"
        ) from error
    if not same:
        raise RequestError(
            f"{folder} holds the windows of another take; give another folder, or the same request, "
            "model and number format to go on",
            field="take",
        )
