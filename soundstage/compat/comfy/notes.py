"""Notes on a workflow: what was carried into a request, and what was not and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from soundstage.compat.comfy.graph import ComfyNode


@dataclass(frozen=True)
class Note:
    """One thing of a workflow. what: its field of the request, or why it was left out. node: its node."""

    carried: bool
    what: str
    node: str = ""

    def __str__(self) -> str:
        return (
            f"{self.what}, from {self.node}"
            if self.node and self.carried
            else (f"{self.node}: {self.what}" if self.node else self.what)
        )


@dataclass
class Notes:
    """Collect notes, and the nodes that were read."""

    found: list[Note] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def carry(self, node: ComfyNode, what: str, value: Any) -> None:
        """Note that a value became a field."""
        self.read.add(node.id)
        self.add(Note(True, f"{what} {_short(value)}", str(node)))

    def leave(self, node: ComfyNode, why: str) -> None:
        """Note that a node, or a part of it, was left out."""
        self.read.add(node.id)
        self.add(Note(False, why, str(node)))

    def tell(self, why: str) -> None:
        """Note a difference that is about no single node."""
        self.add(Note(False, why))

    def add(self, note: Note) -> None:
        if note not in self.found:
            self.found.append(note)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
