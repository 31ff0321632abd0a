"""Say in a folder what it holds, so that it is used again for the same only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import MediaError, RequestError
from soundstage.files import NameTakenError, whole_file
from soundstage.rendering.own_folders import fingerprint
from soundstage.rendering.provenance import differences
from soundstage.request.take import ASKED


@dataclass(frozen=True)
class Claim:
    """Describe what a folder holds, in a file of it, and compare it with a description that is there.

    what: the words for it, such as "the windows of another take". field: that of the request which names the
    folder. metadata: all that decides its numbers, JSON-ready. asked: what the description says besides.
    """

    manifest: str
    version: int
    kind: str
    what: str
    field: str
    metadata: Mapping[str, Any]
    asked: Mapping[str, Any] | None = None

    @property
    def mark(self) -> str:
        """Return the fingerprint of what decides the numbers."""
        return fingerprint(self.metadata)

    def make(self, folder: Path) -> None:
        """Write the description, or compare it with the one that is there; see `compare`."""
        path = folder / self.manifest
        if not path.exists():
            told = {"format": self.version, "fingerprint": self.mark, **self.metadata, ASKED: self.asked}
            with suppress(NameTakenError), whole_file(path, overwrite=False) as part:
                part.write_text(json.dumps(told, indent=2, ensure_ascii=False), encoding="utf-8")
        self.compare(folder)

    def compare(self, folder: Path) -> None:
        """Raise RequestError if a folder holds another's, saying what differs."""
        path = folder / self.manifest
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            mark, version = stored.pop("fingerprint"), stored.pop("format")
            stored.pop(ASKED, None)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RequestError(
                f"{path} is not the description of a {self.kind} ({error}); give another folder",
                field=self.field.partition(".")[0],
            ) from error
        if mark == self.mark and version == self.version:
            return
        found = "; ".join(differences(stored, json.loads(json.dumps(self.metadata))))
        raise RequestError(
            f"{folder} holds {self.what}: {found or 'it was kept by another version of soundstage'}; give "
            "another folder, or the same request, model and number format to go on",
            field=self.field.partition(".")[0],
        )


@contextmanager
def refused(folder: Path, field: str) -> Iterator[None]:
    """Turn what the operating system says of a folder into a RequestError of one sentence.

    field: what names the folder, such as "take.folder".
    """
    name = field.partition(".")[0]
    try:
        yield
    except RequestError:  # which is a ValueError too
        raise
    except MediaError as error:
        raise RequestError(
            f"{field} is {folder}, which cannot be written ({error}); give another folder", field=name
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise RequestError(
            f"{field} is {folder}, which is a file or lies in one; give a folder", field=name
        ) from error
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise RequestError(
            f"{field} is {folder}, which cannot be written ({told}); give another folder", field=name
        ) from error
