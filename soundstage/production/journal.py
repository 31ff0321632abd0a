"""The journal of a film: a line for each thing that was done, added and flushed to the disk, never changed.

    {"event": "done", "step": "take 3/7", "mark": "...", "files": {"shots/3/take-7.mp4": {...}}, "at": ...}

Events: "run" (a command began), "begun", "done", "found" (done by a run that was killed before it said so),
"failed". A line that was cut by a kill or a full disk is left out when the journal is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from soundstage.errors import MediaError

FINISHED = ("done", "found")


@dataclass(frozen=True)
class Entry:
    """One line. files: by name within the film's folder. facts: what else is told of the step."""

    event: str
    step: str = ""
    mark: str = ""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    at: str = ""


class Journal:
    """The journal in a file. Raises MediaError where it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._finished: dict[tuple[str, str], Entry] = {}
        self._cut = False  # the last line has no end
        for entry in self._read():
            self._keep(entry)

    def finished(self, step: str, mark: str) -> Entry | None:
        """Return the latest entry that says that a step of this mark is done; None where there is none."""
        return self._finished.get((step, mark))

    def latest(self, step: str) -> Entry | None:
        """Return the latest entry of a step that was done, whatever its mark."""
        found = [entry for entry in self.entries if entry.step == step and entry.event in FINISHED]
        return found[-1] if found else None

    def add(
        self,
        event: str,
        step: str = "",
        mark: str = "",
        *,
        files: Mapping[str, Mapping[str, Any]] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Entry:
        """Add a line, and return when the disk has it."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = Entry(event, step, mark, files or {}, facts or {}, at)
        line = json.dumps(vars(entry), ensure_ascii=False) + "\n"
        try:
            with self.path.open("ab") as file:
                if self._cut:
                    file.write(b"\n")
                self._cut = True
                file.write(line.encode(errors="replace"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MediaError(
                f"the journal {self.path} cannot be written ({error.strerror or error}); make room or see "
                "that the folder may be written, then the same command goes on"
            ) from error
        self._cut = False
        self._keep(entry)
        return entry

    def _keep(self, entry: Entry) -> None:
        self.entries.append(entry)
        if entry.event in FINISHED:
            self._finished[entry.step, entry.mark] = entry

    def _read(self) -> Iterator[Entry]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise MediaError(f"the journal {self.path} cannot be read ({error.strerror or error})") from error
        self._cut = bool(data) and not data.endswith(b"\n")
        for line in data.splitlines():
            try:
                found = json.loads(line)
                entry = Entry(**found)
            except (ValueError, TypeError):
                continue
            if isinstance(entry.files, Mapping) and isinstance(entry.facts, Mapping):
                yield entry
