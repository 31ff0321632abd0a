"""Read a ComfyUI workflow into a request, with a note for all that was carried and all that was not."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.compat.comfy.files import workflow_in
from soundstage.compat.comfy.forms import read_graph
from soundstage.compat.comfy.graph import ComfyNode, Graph
from soundstage.compat.comfy.latents import STRIDE
from soundstage.compat.comfy.nodes import NODES
from soundstage.compat.comfy.notes import Note, Notes
from soundstage.compat.comfy.output import Ends, OutputReader
from soundstage.compat.comfy.passes import NEUTRAL_SCALES, FoundPass, PassReader, joined
from soundstage.compat.comfy.recipe import (
    file_of,
    is_distilled_lora,
    levels_of,
    nearest_shipped,
    own_recipe,
    pass_names,
    reads_negative,
)
from soundstage.compat.comfy.values import NodeValues
from soundstage.errors import RequestError
from soundstage.files import check_writable, whole_file
from soundstage.request.recipe import Recipe
from soundstage.request.request import Request
from soundstage.types import enlargement

MAX_PASSES = 8
DEFAULT_FPS = 25.0  # of ComfyUI's model where no node says one
CLIPS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".webp", ".m4v"}


@dataclass(frozen=True)
class Workflow:
    """A request read from a ComfyUI workflow. models: names of the model files that it loads.

    recipe: the recipe of its passes where none of the shipped ones has their numbers; None where one has.
    """

    request: Request
    notes: tuple[Note, ...]
    recipe: Recipe | None = None
    models: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the request that the workflow sets, JSON-ready."""
        short = self.request.model_dump(mode="json", exclude_defaults=True)
        fields = self.request.model_dump(mode="json", exclude_unset=True)
        return {name: short.get(name, value) for name, value in fields.items()}

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
        """Write the request as JSON, and its recipe beside it as .yaml; return the request's path."""
        import yaml

        target, fields = Path(path), self.to_dict()
        beside = target.resolve().with_suffix(".yaml")
        check_writable(target, (".json",), overwrite=overwrite)
        if self.recipe is not None:
            check_writable(beside, (".yaml",), overwrite=overwrite)
            fields["recipe"] = str(beside)
        with whole_file(target, overwrite=overwrite) as part:
            part.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            if self.recipe is not None:
                with whole_file(beside, overwrite=overwrite) as recipe:
                    recipe.write_text(yaml.safe_dump(file_of(self.recipe), sort_keys=False), encoding="utf-8")
        return target


def import_workflow(
    path: str | os.PathLike[str],
    *,
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    node: str | None = None,
    prompt: str | None = None,
) -> Workflow:
    """Read a ComfyUI workflow from its JSON, or from a picture, clip or sound that ComfyUI saved.

    inputs: folders of the files that it loads, besides the workflow's own. node: the saving node to read,
    where there are several. prompt: the prompt, in place of the workflow's.
    Raises RequestError for a file without a workflow, or a workflow without LTX nodes.
    """
    file = Path(path)
    graph = read_graph(workflow_in(file), str(file))
    folders = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    return _Reading(graph, file, [Path(folder) for folder in folders]).workflow(node, prompt)


class _Reading:
    """One reading of a graph, from a node that saves back to the nodes that load."""

    def __init__(self, graph: Graph, file: Path, folders: Sequence[Path]) -> None:
        self.graph, self.file, self.notes = graph, file, Notes()
        self.folders = [*folders, file.parent, file.parent / "input"]
        self.values = NodeValues(graph, self.find)
        self.passes = PassReader(graph, self.values, self.notes)
        self.outputs = OutputReader(graph, file, self.passes.latents, self.values, self.notes)

    def find(self, name: str) -> Path | None:
        """Return where a file is that the workflow loads, or None."""
        for folder in self.folders if name else ():
            try:
                if (folder / name).is_file():
                    return folder / name
            except (OSError, ValueError):
                return None
        return None

    def workflow(self, node: str | None, prompt: str | None) -> Workflow:
        """Return the request of the chosen output."""
        output = self.outputs.chosen(node)
        ends = self.outputs.ends(output)
        passes = self._chain(ends.picture or ends.sound)
        fields = self._fields(passes, prompt)
        fields |= self._modalities(passes, ends, fields.get("source"))
        self._rate(fields, passes, ends.rate)
        recipe = self._recipe(fields, passes, ends.sound)
        self._unread(output)
        self._generation()
        self.notes.tell("ComfyUI draws its noise otherwise: the same seed makes another clip here")
        return Workflow(Request(**fields), tuple(self.notes.found), recipe, tuple(self.passes.models))

    def _chain(self, last: ComfyNode | None) -> list[FoundPass]:
        """Return the passes, first to last."""
        if last is None:
            raise RequestError(f"{self.file} saves nothing that an LTX sampling node makes")
        found: list[FoundPass] = []
        node: ComfyNode | None = last
        while node is not None:
            if len(found) == MAX_PASSES:
                raise RequestError(
                    f"{self.file} has more than {MAX_PASSES} passes; a recipe of that many is not made"
                )
            found.insert(0, self.passes.read(node))
            shape = found[0].shape
            node = shape.before or (shape.sound_before if shape.no_picture else None)
            if len(found) > 1 and (one := joined(found[0], found[1])) is not None:
                self.notes.carry(found[1].node, "steps", "that go on where those before stop, as one pass")
                found[:2] = [one]
        for one in found:
            one.levels = self.passes.levels.to_the_end(one.node, one.levels)
            if not one.own_noise:
                self.notes.leave(one.node, "a pass without noise of its own is not carried; it draws noise")
        return found

    # --- Fields ---

    def _fields(self, passes: Sequence[FoundPass], prompt: str | None) -> dict[str, Any]:
        """Return what a request of these passes says besides its recipe."""
        first = passes[0]
        text = prompt if prompt is not None else next((p.prompt for p in passes if p.prompt), None)
        if not text or not text.strip():
            raise RequestError(
                f"{self.file} has no prompt that can be read; give one by --prompt", field="prompt"
            )
        if prompt is None and any(p.prompt not in (None, text) for p in passes):
            self.notes.tell("the passes have different prompts; that of the first is taken for all")
        fields: dict[str, Any] = {"prompt": text}
        negative = next((p.negative for p in passes if p.negative), None)
        if not any(map(reads_negative, passes)):
            if negative:
                self.notes.tell("the negative prompt is left out, as nothing reads it at guidance 1")
        elif negative:
            fields["negative_prompt"] = negative
        else:
            self.notes.tell("guidance is on without a negative prompt; the model's own is taken")
        if first.seed is not None:
            fields["seed"] = first.seed
            self.notes.carry(first.seed_from or first.node, "seed", first.seed)
        fields |= self._shape(passes)
        fields |= self._conditions(passes, fields.get("num_frames"))
        fields["loras"] = self._loras(passes)
        return {name: value for name, value in fields.items() if value not in ([], None)}

    def _shape(self, passes: Sequence[FoundPass]) -> dict[str, Any]:
        first = passes[0].shape
        roles = [role for one in passes for role in one.shape.upsample]
        fields: dict[str, Any] = {}
        if first.width and first.height:
            space = enlargement(roles, "space")
            fields["size"] = (int(first.width * space), int(first.height * space))
        if first.num_frames:
            fields["num_frames"] = int((first.num_frames - 1) * enlargement(roles, "time")) + 1
        return fields

    def _rate(self, fields: dict[str, Any], passes: Sequence[FoundPass], made: float | None) -> None:
        """Set the rate that the passes count in, which is not always that of the file."""
        said = next((p.shape.fps for p in passes if p.shape.fps), None)
        if said is None and any(p.shape.rate_of_file for p in passes):
            return
        roles = [role for one in passes for role in one.shape.upsample]
        rate = (said or DEFAULT_FPS) * float(enlargement(roles, "time"))
        fields["fps"] = rate
        if said is None:
            self.notes.tell(
                f"no node says at what rate the model counts; ComfyUI's own {DEFAULT_FPS:g} is taken"
            )
        if made is not None and abs(made - rate) > 0.01:
            self.notes.tell(
                f"the file has {made:g} frames a second, but the passes count in {rate:g}, which is taken"
            )

    def _conditions(self, passes: Sequence[FoundPass], num_frames: int | None) -> dict[str, Any]:
        """Return pictures, references, sound and source, each once for all passes."""
        shapes = [one.shape for one in passes]
        fields: dict[str, Any] = {
            "guides": [
                _placed(guide, num_frames) for guide in self._once(passes, "guides", ("image", "frame"))
            ],
            "references": self._once(passes, "references", ("video",)),
        }
        source = next((dict(shape.source) for shape in shapes if shape.source), None)
        audio = next(
            (shape.audio for shape in shapes if shape.audio and shape.audio["mode"] == "identity"), None
        )
        kept = next((shape.audio for shape in shapes if shape.sound == "file" and shape.audio), None)
        frozen = any(shape.frozen_sound for shape in shapes)
        if source is not None and source.get("video") is None:  # a mask over a new picture keeps the sound
            frozen |= "audio" not in source.get("modalities", ["audio"])
            source = None
        if source is not None:
            source.setdefault("modalities", ["video"])
            if not frozen:
                self._kept_sound(source, kept)
            kept = None
        if audio is None and kept is not None and frozen:
            audio = kept
        elif kept is not None and audio is None:
            self.notes.tell(
                f"the sound of {kept['file']} is given without a mask of 0, and noise takes its place"
            )
        return {**fields, "source": source, "audio": audio}

    def _kept_sound(self, source: dict[str, Any], sound: dict[str, Any] | None) -> None:
        """Note that a sound which is made anew with its clip is kept here, and give it if it is another's."""
        if sound is None or "audio" in source["modalities"]:
            return
        self.notes.tell(f"the sound of {sound['file']} is kept as it is, and not made anew with the picture")
        if sound["file"] != source["video"]:
            source["audio"] = sound["file"]

    def _once(self, passes: Sequence[FoundPass], name: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return the pictures or clips of all passes, each as the first that has it gives it."""
        found: dict[Any, dict[str, Any]] = {}
        for i, one in enumerate(passes):
            strengths = set()
            for given in getattr(one.shape, name):
                key = tuple(given[part] for part in keys)
                before = found.setdefault(key, given)
                strengths |= {given["strength"]} if before["strength"] != given["strength"] else set()
            self._other_strengths(passes, i, name, strengths)
        if name == "guides":
            for one in passes:
                one.no_guides = bool(found) and not one.shape.guides
        return list(found.values())

    def _other_strengths(self, passes: Sequence[FoundPass], i: int, name: str, strengths: set[float]) -> None:
        """Keep the strength of a pass's guides where it is not that of the passes before, and note others."""
        where = pass_names(len(passes))[i]
        same = {given["strength"] for given in passes[i].shape.guides}
        if name == "guides" and strengths and len(same) == 1:
            passes[i].guide_strength = strengths.pop()
        elif strengths:
            told = ", ".join(f"{one:g}" for one in sorted(strengths))
            self.notes.tell(
                f"{name} have strength {told} in pass '{where}'; those of the passes before are taken"
            )

    def _loras(self, passes: Sequence[FoundPass]) -> list[dict[str, Any]]:
        """Return the LoRAs besides the distilled one, with the passes that use them."""
        names = pass_names(len(passes))
        used: dict[tuple[str, float], list[str]] = {}
        for name, one in zip(names, passes, strict=True):
            for file, strength, node in one.loras:
                if is_distilled_lora(file):
                    self.notes.carry(node, "the distilled LoRA", f"{strength:g} in pass '{name}'")
                elif strength:
                    used.setdefault((file, strength), []).append(name)
                    self.notes.carry(node, "LoRA", f"{file}, strength {strength:g}")
        found = []
        for (file, strength), where in used.items():
            path = self.find(file.replace("\\", "/"))
            if path is None:
                self.notes.tell(
                    f"the LoRA {file} is not here; give its folder by --inputs, or its path in the request, "
                    "or make the clip with --without lora"
                )
            lora: dict[str, Any] = {"path": str(path.resolve()) if path else file, "strength": strength}
            found.append(lora if len(where) == len(passes) else {**lora, "passes": where})
        return found

    def _modalities(
        self, passes: Sequence[FoundPass], ends: Ends, source: dict[str, Any] | None
    ) -> dict[str, Any]:
        if ends.picture is None:
            return {"modalities": ["audio"]}
        heard = {source.get("video")} if source else set()
        heard |= {one.shape.audio["file"] for one in passes if one.shape.audio}
        if ends.sound_file is not None and ends.sound_file not in heard:
            self.notes.tell(f"the sound of {ends.sound_file}, put beside the finished clip, is not carried")
        if all(one.shape.sound == "none" for one in passes):
            if ends.sound_file is None or ends.sound_file not in heard:
                return {"modalities": ["video"]}
            self.notes.tell("the passes hear the sound of the source, which they do not in the workflow")
        elif ends.sound is None and ends.sound_file is None and not heard:
            self.notes.tell("the workflow makes sound and does not save it; it is in the clip here")
        return {}

    # --- The recipe ---

    def _recipe(
        self, fields: dict[str, Any], passes: Sequence[FoundPass], sound: ComfyNode | None
    ) -> Recipe | None:
        """Set the fields of a single pass, or the recipe; return a recipe that is no shipped one."""
        only = passes[0]
        alone = len(passes) == 1 and not only.shape.upsample and only.shape.source is None
        if alone and not any(is_distilled_lora(file) for file, *_ in only.loras):
            fields |= {**levels_of(only), "sampler": only.sampler, "recipe": "single", **_guidance(only)}
            return None
        ids = [one.node.id for one in passes]
        own = own_recipe(
            passes, self.file.stem, ids.index(sound.id) if sound and sound.id in ids else len(ids) - 1
        )
        heard = any(one.shape.audio and one.shape.audio["mode"] == "identity" for one in passes)
        nearest = nearest_shipped(own, seen=any(one.shape.references for one in passes), heard=heard)
        if nearest is not None and not nearest[1]:
            fields["recipe"] = nearest[0].name
            self.notes.add(Note(True, f"recipe {nearest[0].name}, whose passes have the same numbers"))
            return None
        fields["recipe"] = f"{self.file.stem}.yaml"
        if nearest is not None:
            told = "; ".join(nearest[1])
            self.notes.add(Note(True, f"a recipe of its own, like {nearest[0].name} but for: {told}"))
        else:
            self.notes.add(Note(True, f"a recipe of its own, of {len(passes)} passes"))
        return own

    def _generation(self) -> None:
        """Note model files whose names say another generation than LTX-2.3."""
        for name, node in self.passes.models.items():
            found = re.search(r"ltx-?v?(?:ideo)?[-_]?(\d+(?:\.\d+)?)(?![\db])", name.lower())
            if found and found[1] != "2.3":
                self.notes.leave(node, f"{name} is of LTX {found[1]}; a request runs on LTX-2.3")

    def _unread(self, output: ComfyNode) -> None:
        """Note the files that loaders name, and the nodes that were not understood."""
        for node in self.outputs.needed(output).values():
            role = NODES[node.type].role if node.type in NODES else ""
            if role == "loader":
                self.passes.loader(node)
            elif node.id not in self.notes.read and node.id not in self.values.read and not role:
                self.notes.leave(node, "not known; what it gives is left out")


def _guidance(one: FoundPass) -> dict[str, Any]:
    """Return the fields of a single pass's guidance; what the model would add is off."""
    if one.video == one.audio and set(one.video) == {"cfg"}:
        return {"guidance": one.video["cfg"], "stg": 0.0, "modality_guidance": 1.0, "rescale": 0.0}
    return {"video_scales": {**NEUTRAL_SCALES, **one.video}, "audio_scales": {**NEUTRAL_SCALES, **one.audio}}


def _placed(guide: dict[str, Any], num_frames: int | None) -> dict[str, Any]:
    """Return a guide with the frame at which ComfyUI puts it: a clip within the film starts with a latent."""
    frame = guide["frame"]
    if guide["mode"] != "guide" or Path(str(guide["image"])).suffix.lower() not in CLIPS or frame == 0:
        return guide
    if frame < 0 and num_frames is None:
        return guide
    place = max(frame + (num_frames or 0), 0) if frame < 0 else frame
    return {**guide, "frame": (place - 1) // STRIDE * STRIDE + 1 if place else 0}
