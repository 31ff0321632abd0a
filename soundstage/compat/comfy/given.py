"""Follow links back to the pictures, clips and sounds that a workflow gives, and what is done to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soundstage.compat.comfy.graph import ComfyNode, Graph, Link
from soundstage.compat.comfy.nodes import NODES
from soundstage.compat.comfy.notes import Notes
from soundstage.compat.comfy.values import NodeValues, file_name

BLACK = {"black", "0, 0, 0", "0,0,0", "#000000"}
# What VHS_LoadVideo may change of a clip, and the value beside 0 that changes nothing.
CUTS = {"force_rate": 0, "skip_first_frames": 0, "select_every_nth": 1, "frame_load_cap": 0}
_LATENT_INPUTS = ("latent", "samples", "latents", "latent_image", "av_latent", "video_latent")


@dataclass
class Picture:
    """A picture or clip given. file: its name; None where it comes from the graph itself, from node."""

    file: str | None
    node: ComfyNode | None = None
    crf: int | None = None
    crop: str | None = None
    factor: float = 1.0
    resized: bool = False


class GivenReader:
    """Find the files that pictures, clips and sounds come from."""

    def __init__(self, graph: Graph, values: NodeValues, notes: Notes) -> None:
        self.graph, self.values, self.notes = graph, values, notes

    def arrive(self, link: Any) -> tuple[ComfyNode, int] | None:
        """Return the node and output that a link leads to, through switches."""
        while isinstance(link, Link):
            node = self.graph.nodes[link.node]
            if node.type not in NODES or NODES[node.type].role != "switch":
                return node, link.slot
            self.notes.read.add(node.id)
            link = self.values.switched(node)
        return None

    def way_back(self, node: ComfyNode, slot: int) -> str:
        """Return the input of a latent's node that one of its outputs leads back to."""
        kind = NODES.get(node.type)
        if kind is not None and kind.through:
            return kind.through[min(slot, len(kind.through) - 1)]
        for name in ("latent", *_LATENT_INPUTS):
            if isinstance(node.inputs.get(name), Link):
                return name
        return ""

    def picture(self, link: Any) -> Picture | None:
        """Return the file that a picture or clip comes from, or the sampling node that makes it."""
        found = Picture(None)
        at = self.arrive(link)
        while at is not None:
            node, slot = at
            self.notes.read.add(node.id)
            kind = NODES.get(node.type)
            if kind is None:
                self.notes.leave(
                    node, "what it does to the picture is not known; give a file that is made already"
                )
                return None
            if kind.role == "file":
                found.file = self.named(node)
                return found
            if kind.role in ("decode", "sampler", "latent"):
                return self._made(found, node, slot)
            if kind.role != "image":
                return None
            self._change(node, found)
            at = self.arrive(node.inputs.get(kind.through[min(slot, len(kind.through) - 1)]))
        return None

    def _change(self, node: ComfyNode, found: Picture) -> None:
        if node.type == "LTXVPreprocess":
            found.crf = min(51, int(self.values.number(node, "img_compression", 35) or 0))
        elif node.type in ("ImageScaleBy", "ResizeImageMaskNode"):
            factor = self.values.number(node, "scale_by") or self.values.number(
                node, "resize_type.multiplier"
            )
            found.factor *= factor or 1.0
        elif node.type == "ImageFromBatch" and self.values.number(node, "batch_index", 0):
            self.notes.leave(node, "batch_index is not carried; the clip begins with its first frame")
        found.crop = self._crop(node) or found.crop
        found.resized |= node.type != "LTXVPreprocess"

    def _crop(self, node: ComfyNode) -> str | None:
        """Return how a node fits a picture to a size, where that is not by cutting off what is beside it."""
        names = ("keep_proportion", "crop", "resize_type.crop")
        way = next((str(self.values.of(node, name)) for name in names if name in node.inputs), "")
        if node.type == "ResizeAndPadImage" or way.startswith("pad"):
            if str(self.values.of(node, "padding_color", self.values.of(node, "pad_color"))) not in BLACK:
                self.notes.leave(node, "its colour is not carried; pictures are padded with black")
            return "pad"
        sides = (self.values.number(node, name) for name in node.inputs if name.endswith(("width", "height")))
        return "stretch" if way in ("stretch", "disabled") and all(sides) else None

    def _made(self, found: Picture, node: ComfyNode, slot: int) -> Picture | None:
        """Return the sampling node that a decoded picture comes from."""
        at: tuple[ComfyNode, int] | None = (node, slot)
        while at is not None and NODES.get(at[0].type) is not None and NODES[at[0].type].role != "sampler":
            self.notes.read.add(at[0].id)
            at = self.arrive(at[0].inputs.get(self.way_back(*at)))
        found.node = at[0] if at is not None and at[0].type in NODES else None
        return found if found.node is not None else None

    def sound(self, link: Any) -> dict[str, Any] | None:
        """Return the fields of a sound: its file and where it starts."""
        at, start = self.arrive(link), 0.0
        while at is not None:
            node = at[0]
            self.notes.read.add(node.id)
            kind = NODES.get(node.type)
            if kind is not None and kind.role == "file":
                for name in ("start_time", "seek_seconds"):
                    start += self.values.number(node, name, 0.0) or 0.0
                return {"file": self.named(node), **({"start_s": start} if start else {})}
            start += (
                (self.values.number(node, "start_index", 0.0) or 0.0)
                if node.type == "TrimAudioDuration"
                else 0.0
            )
            if kind is None or kind.role not in ("audio", "image"):
                return None
            if node.type == "MelBandRoFormerSampler":
                self.notes.leave(node, "voice and music are not parted here; the whole sound is taken")
            at = self.arrive(node.inputs.get(kind.through[0]))
        return None

    def named(self, node: ComfyNode) -> str:
        """Return the file of a loading node: where it is, or its name if it is not found."""
        name = file_name(self.values, node)
        path = self.values.find(name)
        for cut in CUTS:
            if self.values.number(node, cut, 0) not in (0, CUTS[cut]):
                self.notes.leave(
                    node, f"{cut} is not carried; the file is read from its start, at its own rate"
                )
        if path is None:
            self.notes.leave(node, f"the file '{name}' is not here; give its folder by --inputs, or its path")
        return name if path is None else str(path.resolve())
