"""Read the start of a pass: its size, pictures in place and beside, clips, sounds, masks, an earlier pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from soundstage.compat.comfy.given import GivenReader, Picture
from soundstage.compat.comfy.graph import ComfyNode, Graph, Link
from soundstage.compat.comfy.nodes import NODES
from soundstage.compat.comfy.notes import Notes
from soundstage.compat.comfy.values import NodeValues
from soundstage.types import UpsamplerRole

MAX_PICTURES = 100  # of one node
CELL, STRIDE = 32, 8  # pixels and frames of a latent


@dataclass
class LatentShape:
    """Describe a latent.

    guides, references: fields of each, those nearest to the empty latent first. before, sound_before: the
    sampling nodes that its picture and its sound come from. sound: what its sound starts as: noise, previous,
    file, or none where it has no sound. frozen_sound: the sound is kept as it is. voice_before: the sound of
    the pass before is heard as a voice. whole_voice: all of a sound is heard as one, not its first seconds.
    rate_of_file: a rate is set, but by a file that is not here.
    """

    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    guides: list[dict[str, Any]] = field(default_factory=list)
    references: list[dict[str, Any]] = field(default_factory=list)
    upsample: list[UpsamplerRole] = field(default_factory=list)
    before: ComfyNode | None = None
    sound_before: ComfyNode | None = None
    sound: str = "none"
    frozen_sound: bool = False
    voice_before: bool = False
    whole_voice: bool = False
    rate_of_file: bool = False
    audio: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    no_picture: bool = False

    @property
    def num_tokens(self) -> int | None:
        """Return the number of video tokens, with those of guides; None if the size is not known."""
        if self.width is None or self.height is None or self.num_frames is None:
            return None
        beside: int = sum(guide.get("mode") == "guide" for guide in self.guides)
        frames: int = (self.num_frames - 1) // STRIDE + 1 + beside
        return frames * (self.width // CELL) * (self.height // CELL)


class LatentReader:
    """Read what latents, pictures and sounds are made of, backwards along the links."""

    def __init__(self, graph: Graph, values: NodeValues, notes: Notes) -> None:
        self.graph, self.values, self.notes = graph, values, notes
        self.given = GivenReader(graph, values, notes)
        self._readers: Mapping[str, Callable[[ComfyNode, LatentShape, str], None]] = {
            "empty video": self._read_empty_video,
            "empty audio": self._read_empty_audio,
            "first picture": self._read_first_picture,
            "pictures in place": self._read_pictures_in_place,
            "guide": self._read_guide,
            "guides": self._read_guides,
            "reference": self._read_reference,
            "upsampler": self._read_upsampler,
            "source video": self._read_source_video,
            "source audio": self._read_source_audio,
            "mask": self._read_mask,
            "time mask": self._read_time_mask,
            "conditioning": self._read_conditioning,
        }

    def quiet_shape(self, link: Any) -> LatentShape:
        """Return the shape of a latent without notes."""
        return LatentReader(self.graph, self.values, Notes()).shape(link)

    def shape(self, link: Any) -> LatentShape:
        """Return what a pass's latent is made of."""
        shape = LatentShape()
        self._follow(link, shape, "both")
        return shape

    def _follow(self, link: Any, shape: LatentShape, side: str) -> None:
        """Go on backwards from a latent. side: video, audio, or both."""
        at = self.given.arrive(link)
        while at is not None:
            node, slot = at
            self.notes.read.add(node.id)
            kind = NODES.get(node.type)
            role = "" if kind is None else kind.role
            if role == "sampler":
                if side != "audio":
                    shape.before = node
                if side != "video":
                    shape.sound, shape.sound_before = "previous", node
                return
            if role == "join":
                self._follow(node.inputs.get("video_latent"), shape, "video")
                self._follow(node.inputs.get("audio_latent"), shape, "audio")
                return
            if role in self._readers:
                self._readers[role](node, shape, side)
            elif kind is None:
                self.notes.leave(node, "what it does to the latent is not known, and left out")
            if role in ("empty video", "empty audio", "source video", "source audio"):
                return
            if role == "latent" and node.type == "LTXVSeparateAVLatent":
                side = "video" if slot == 0 else "audio"
            at = self.given.arrive(node.inputs.get(self.given.way_back(node, slot)))

    # --- What a latent is made of ---

    def _read_empty_video(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        if node.type == "LTXVAudioOnlyEmptyVideoLatent":
            shape.no_picture = True
            return
        self._sides(node, shape)

    def _sides(self, node: ComfyNode, shape: LatentShape) -> None:
        width, height, length = (self.values.number(node, name) for name in ("width", "height", "length"))
        if width and height:
            shape.width, shape.height = (max(1, int(side) // CELL) * CELL for side in (width, height))
            self.notes.carry(node, "size", f"{shape.width}x{shape.height}")
        else:
            self.notes.leave(
                node, "its size hangs on files that are not here; give --inputs, or size in the request"
            )
        if length:
            shape.num_frames = max(0, int(length) - 1) // STRIDE * STRIDE + 1
            self.notes.carry(node, "num_frames", shape.num_frames)
        else:
            self.notes.leave(
                node, "its length hangs on files that are not here; give --inputs, or num_frames"
            )
        if (self.values.number(node, "batch_size", 1) or 1) > 1:
            self.notes.leave(node, "one clip is made, not a batch; generate --takes makes several")

    def _read_empty_audio(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        shape.sound = "noise"
        frames, rate = self.values.number(node, "frames_number"), self.values.number(node, "frame_rate")
        if shape.no_picture and frames:
            shape.num_frames, shape.fps = int(frames), rate
            self.notes.carry(node, "num_frames", int(frames))
        elif frames and shape.num_frames and abs(frames - shape.num_frames) >= STRIDE:
            self.notes.leave(
                node, f"its length of {frames:g} frames is not that of the picture, which is taken"
            )

    def _read_first_picture(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        if node.type == "LTXVImgToVideo":
            self._sides(node, shape)
        if self.values.of(node, "bypass", False):
            self._unused(node.inputs.get("image"))
            return
        self._guide(node, shape, {"frame": 0, "mode": "replace"})

    def _read_pictures_in_place(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        for one in _each(node, self.values.of(node, "num_images")):
            if isinstance(one.inputs.get("image"), Link) and "index" in one.inputs:
                index = int(self.values.number(one, "index", 0) or 0)
                frame = index if index < 0 else max(0, (index // STRIDE - 1) * STRIDE + 1)
                self._guide(one, shape, {"frame": frame, "mode": "replace"})

    def _read_guides(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        for one in _each(node, self.values.of(node, "num_guides")):
            if isinstance(one.inputs.get("image"), Link):
                self._read_guide(one, shape, side)

    def _read_guide(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        if isinstance(node.inputs.get("iclora_parameters"), Link):
            self._read_reference(node, shape, side)  # an in-context LoRA's clip, at the LoRA's own scale
            return
        frame = int(self.values.number(node, "frame_idx", 0) or 0)
        self._guide(node, shape, {"frame": frame, "mode": "guide"})

    def _guide(self, node: ComfyNode, shape: LatentShape, fields: dict[str, Any]) -> None:
        """Put a picture before those that were found nearer to the sampling node."""
        picture = self.given.picture(node.inputs.get("image"))
        if picture is None or picture.file is None:
            self.notes.leave(
                node, "its picture is made by other nodes; save it to a file and give it as a guide"
            )
            return
        strength = self.values.number(node, "strength", 1.0)
        guide = {"image": picture.file, **fields, "strength": strength, "crf": picture.crf or 0}
        if "crf" in node.inputs:
            guide["crf"] = int(self.values.number(node, "crf", 29) or 0)
        if picture.crop is not None:
            guide["crop"] = picture.crop
        if self.values.of(node, "crop") == "disabled":
            guide["crop"] = "stretch"
        if fields["mode"] == "guide":  # ComfyUI lets a weak guide be attended to less, too
            attention = self.values.number(node, "attention_strength", strength)
            guide |= {} if attention == 1 else {"attention": attention}
        if self.values.number(node, "blur_radius", 0):
            self.notes.leave(node, "its blur is not carried")
        if isinstance(node.inputs.get("attention_mask"), Link):
            self.notes.leave(node, "its attention mask is not carried")
        shape.guides.insert(0, guide)
        self.notes.carry(node, "guide", f"{guide['image']} at frame {guide['frame']}, strength {strength:g}")

    def _read_reference(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        picture = self.given.picture(node.inputs.get("image"))
        if picture is None or picture.file is None:
            self.notes.leave(
                node, "its clip is made by other nodes; save it to a file and give it as a reference"
            )
            return
        crop = "stretch" if self.values.of(node, "crop") == "disabled" else picture.crop or "center"
        strength = self.values.number(node, "strength", 1.0)
        reference = {"video": picture.file, "strength": strength, "crop": crop}
        if isinstance(node.inputs.get("latent_downscale_factor"), (int, float)):
            reference["downscale"] = max(
                1, round(self.values.number(node, "latent_downscale_factor", 1) or 1)
            )
        if "attention_strength" in node.inputs:
            reference["attention"] = self.values.number(node, "attention_strength", 1.0)
        if isinstance(node.inputs.get("attention_mask"), Link):
            self.notes.leave(node, "its attention mask is not carried; give it as references.mask")
        if self.values.number(node, "frame_idx", 0):
            self.notes.leave(node, "frame_idx is not carried; a reference begins with the clip")
        shape.references.insert(0, reference)
        self.notes.carry(node, "reference", f"{picture.file}, strength {strength:g}")

    def _read_upsampler(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        at = self.given.arrive(node.inputs.get("upscale_model"))
        name = str(self.values.of(at[0], "model_name", "")).lower() if at else ""
        larger: UpsamplerRole = "space-x1.5" if "x1.5" in name else "space-x2"
        role: UpsamplerRole = "time-x2" if "temporal" in name else larger
        shape.upsample.insert(0, role)
        self.notes.carry(node, "upsample", role)

    def _read_source_video(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        picture = self.given.picture(node.inputs.get("pixels"))
        if picture is not None and picture.file is not None:
            shape.source = {**(shape.source or {}), "video": picture.file}
            self.notes.carry(node, "source", picture.file)
            self._resized_source(node, picture, shape)
        elif picture is not None and picture.node is not None:
            shape.before = picture.node
            if picture.factor > 1:
                shape.upsample.insert(0, "space-x2")
            self.notes.leave(
                node, "between the passes latents are upsampled, not decoded, resized and encoded"
            )
        else:
            self.notes.leave(
                node, "its clip is made by other nodes; save it to a file and give it as the source"
            )

    def _resized_source(self, node: ComfyNode, picture: Picture, shape: LatentShape) -> None:
        """Take the size to which a source is brought, where that is not the size of its file."""
        if not picture.resized:
            return
        size = self.values.size(node.inputs.get("pixels"))
        if size is None:
            self.notes.leave(
                node, "its clip is resized by its own size; give --inputs, or size in the request"
            )
            return
        shape.width, shape.height = (max(1, side // CELL) * CELL for side in size)
        self.notes.carry(node, "size", f"{shape.width}x{shape.height}")

    def _read_source_audio(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        sound = self.given.sound(node.inputs.get("audio"))
        shape.sound = "file"
        if sound is None:
            self.notes.leave(node, "its sound is made by other nodes; save it to a file and give it as audio")
            return
        shape.audio = {**sound, "mode": "driving"}
        self.notes.carry(node, "audio", sound["file"])

    def _read_mask(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        at = self.given.arrive(node.inputs.get("mask"))
        value = self.values.number(at[0], "value") if at and at[0].type == "SolidMask" else None
        if side == "audio" and value == 0:
            shape.frozen_sound = True
        elif value != 1:
            self.notes.leave(node, "its mask is not carried; give it as source.mask")

    def _read_conditioning(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        if node.type == "LTXVSetAudioRefTokens":
            shape.frozen_sound = True

    def _read_time_mask(self, node: ComfyNode, shape: LatentShape, side: str) -> None:
        start, end = self.values.number(node, "start_time", 0.0), self.values.number(node, "end_time", 10.0)
        sides = {name for name in ("video", "audio") if self.values.of(node, f"mask_{name}", True)}
        shape.source = {
            **(shape.source or {}),
            "regenerate": [{"start_s": start, "end_s": end}],
            "modalities": sorted(sides),
        }
        if isinstance(node.inputs.get("spatial_mask"), Link):
            self.notes.leave(node, "its spatial mask is not carried; give it as source.mask")
        self.notes.carry(
            node, "source.regenerate", f"{start:g} to {end:g} s of {' and '.join(sorted(sides))}"
        )

    def identity(self, node: ComfyNode, shape: LatentShape, name: str) -> None:
        """Read a voice that is given beside."""
        sound = self.given.sound(node.inputs.get(name))
        if sound is None:
            self.notes.leave(node, "its sound is made by other nodes; save it to a file and give it as audio")
            return
        scale = self.values.number(node, "identity_guidance_scale", 0.0) or 0.0
        shape.audio = {**sound, "mode": "identity", "guidance": min(scale, 20.0)}
        self.notes.carry(node, "audio", f"{sound['file']} as a voice, guidance {scale:g}")
        if (self.values.of(node, "start_percent", 0), self.values.of(node, "end_percent", 1)) != (0, 1):
            self.notes.leave(node, "start_percent and end_percent are not carried; guidance is on throughout")

    def voice(self, node: ComfyNode, shape: LatentShape) -> None:
        """Read a voice whose tokens are put beside the sound: of a file, or of the pass before."""
        at = self.given.arrive(node.inputs.get("audio_latent"))
        while at is not None and NODES.get(at[0].type) is not None:
            if NODES[at[0].type].role == "source audio":
                sound = self.given.sound(at[0].inputs.get("audio"))
                if sound is not None and shape.audio is None:
                    shape.audio = {**sound, "mode": "identity", "guidance": 0.0}
                    shape.whole_voice = True
                    self.notes.carry(node, "audio", f"{sound['file']} as a voice")
                return
            if NODES[at[0].type].role == "sampler":
                shape.voice_before = True
                return
            at = self.given.arrive(at[0].inputs.get(self.given.way_back(*at)))

    def _unused(self, link: Any) -> None:
        """Mark what makes a picture that is switched off as read."""
        at = self.given.arrive(link)
        if at is not None:
            self.notes.read |= set(self.graph.upstream(at[0]))


def _each(node: ComfyNode, count: Any) -> list[ComfyNode]:
    """Return a node with several pictures as nodes with one each, the last first: image_2 becomes image."""
    found = []
    for i in range(min(int(count), MAX_PICTURES) if str(count).isdigit() else 0, 0, -1):
        ends = f"_{i}"
        own = {
            name.rpartition(".")[2].removesuffix(ends): value
            for name, value in node.inputs.items()
            if name.endswith(ends)
        }
        found.append(replace(node, inputs=own))
    return found
