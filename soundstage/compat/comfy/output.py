"""Choose the node whose clip is read, and find the sampling nodes that make its picture and sound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.compat.comfy.graph import ComfyNode, Graph, Link
from soundstage.compat.comfy.latents import LatentReader
from soundstage.compat.comfy.nodes import NODES
from soundstage.compat.comfy.notes import Notes
from soundstage.compat.comfy.values import NodeValues
from soundstage.errors import RequestError


@dataclass
class Ends:
    """Describe what a node saves: the sampling nodes of picture and sound, or the sound's file; the rate."""

    picture: ComfyNode | None = None
    sound: ComfyNode | None = None
    sound_file: str | None = None
    rate: float | None = None


class OutputReader:
    """Read the saving nodes of a graph."""

    def __init__(
        self, graph: Graph, file: Path, latents: LatentReader, values: NodeValues, notes: Notes
    ) -> None:
        self.graph, self.file, self.values, self.notes = graph, file, values, notes
        self.latents, self.given = latents, latents.given

    def chosen(self, asked: str | None) -> ComfyNode:
        """Return the saving node to read: the one asked for, or that with the most passes behind it."""
        ends = [n for n in self.graph.nodes.values() if n.type in NODES and NODES[n.type].role == "output"]
        ranked = sorted(((self._samplers(n), n) for n in ends), key=lambda pair: -len(pair[0]))
        ranked = [(found, one) for found, one in ranked if found]
        if not any("LTX" in one.type for one in self.graph.nodes.values()):
            raise RequestError(f"{self.file} has no LTX nodes; give a ComfyUI workflow of LTX-2 or LTX-Video")
        if asked is not None:
            chosen = next((pair for pair in ranked if pair[1].id == asked), None)
            if chosen is None:
                listed = ", ".join(str(one) for _, one in ranked) or "none"
                raise RequestError(f"node {asked} saves nothing that is sampled; those that do are {listed}")
        elif not ranked:
            raise RequestError(self._unsaved(ends))
        else:
            chosen = ranked[0]
        told = {frozenset(chosen[0])}
        for found, one in ranked:
            if frozenset(found) not in told:
                told.add(frozenset(found))
                self.notes.tell(f"{one} is another clip; give --node {one.id} to read it")
        return chosen[1]

    def _unsaved(self, ends: Sequence[ComfyNode]) -> str:
        """Return why no clip of a graph with LTX nodes is found."""
        behind = (node for end in ends for node in self.needed(end).values())
        other = next((n for n in behind if n.type not in NODES and "sampl" in n.type.lower()), None)
        if other is None:
            return f"{self.file} has LTX nodes, but none that saves what they make; add a SaveVideo node"
        known = ", ".join(name for name, kind in NODES.items() if kind.role == "sampler")
        return f"{self.file} makes its clip by {other}, which is not known here; known are {known}"

    def _samplers(self, node: ComfyNode) -> set[str]:
        return {
            n.id for n in self.needed(node).values() if n.type in NODES and NODES[n.type].role == "sampler"
        }

    def needed(self, node: ComfyNode) -> dict[str, ComfyNode]:
        """Return the nodes that a node needs, by the ways that are switched on."""
        return self.graph.upstream(node, self._used)

    def _used(self, node: ComfyNode) -> Iterable[Any]:
        """Return the inputs of a node that are read."""
        role = NODES[node.type].role if node.type in NODES else ""
        if role == "switch":
            return (self.values.switched(node), node.inputs.get("switch"))
        return (node.inputs.get("prompt"),) if role == "enhancer" else node.inputs.values()

    def ends(self, output: ComfyNode) -> Ends:
        """Return what a saving node saves."""
        self.notes.read.add(output.id)
        ends = Ends()
        if "audio" in output.type.lower():
            ends.sound = self._sampled(output.inputs.get("audio"))
            return ends
        at: tuple[ComfyNode, int] | None = (output, 0)
        while at is not None:
            node, slot = at
            self.notes.read.add(node.id)
            role = NODES[node.type].role if node.type in NODES else ""
            ends.rate = ends.rate or next(
                (r for n in ("fps", "frame_rate") if (r := self.values.number(node, n))), None
            )
            if isinstance(node.inputs.get("audio"), Link):
                ends.sound = ends.sound or self._sampled(node.inputs["audio"])
                ends.sound_file = None if ends.sound else self._file_of(node.inputs["audio"])
            if role in ("decode", "sampler"):
                ends.picture = self._sampled(Link(node.id, slot))
                return ends
            if not role:
                self.notes.leave(node, "what it does to the finished clip is not known, and left out")
            at = self.given.arrive(node.inputs.get(self._picture_input(node)))
        return ends

    def _file_of(self, link: Any) -> str | None:
        """Return the file whose sound is saved, if it is one."""
        sound = self.given.sound(link)
        return None if sound is None else sound["file"]

    def _picture_input(self, node: ComfyNode) -> str:
        if node.type in NODES and NODES[node.type].through:
            return NODES[node.type].through[0]
        names = ("images", "image", "video", "image_a", "frames", "input", "source")
        return next((name for name in names if isinstance(node.inputs.get(name), Link)), "")

    def _sampled(self, link: Any) -> ComfyNode | None:
        """Return the sampling node that a decoded picture or sound comes from."""
        at = self.given.arrive(link)
        while at is not None:
            node, slot = at
            role = NODES[node.type].role if node.type in NODES else ""
            if role == "sampler":
                return node
            if role == "decode":
                self.notes.read.add(node.id)
                found = self.latents.quiet_shape(node.inputs.get(NODES[node.type].through[0]))
                return found.before or found.sound_before
            name = (
                NODES[node.type].through[min(slot, len(NODES[node.type].through) - 1)]
                if role in ("image", "audio")
                else ""
            )
            at = self.given.arrive(node.inputs.get(name))
        return None
