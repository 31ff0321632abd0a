"""A ComfyUI graph as plain nodes whose inputs are values or links."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from soundstage.errors import RequestError

MAX_NODES = 20_000


@dataclass(frozen=True)
class Link:
    """An output of a node. slot: which of its outputs, counted from 0."""

    node: str
    slot: int


@dataclass(frozen=True)
class ComfyNode:
    """A node that runs. id: its number, behind those of the subgraphs that it is in: "267:216"."""

    id: str
    type: str
    title: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        title = f" '{self.title}'" if self.title and self.title != self.type else ""
        return f"{self.type}{title} (node {self.id})"


@dataclass(frozen=True)
class Graph:
    """Nodes by number. A link leads to a node that is there."""

    nodes: Mapping[str, ComfyNode]

    def upstream(
        self, node: ComfyNode, used: Callable[[ComfyNode], Iterable[Any]] = lambda one: one.inputs.values()
    ) -> dict[str, ComfyNode]:
        """Return the nodes that a node needs, itself first. used: returns the inputs of a node that count."""
        found: dict[str, ComfyNode] = {}
        waiting = [node]
        while waiting:
            one = waiting.pop()
            if one.id not in found:
                found[one.id] = one
                waiting += [self.nodes[value.node] for value in used(one) if isinstance(value, Link)]
        return found


def check_count(count: int, where: str) -> None:
    """Raise RequestError for too many nodes."""
    if count > MAX_NODES:
        raise RequestError(f"{where} has more than {MAX_NODES} nodes; give the workflow of one clip")
