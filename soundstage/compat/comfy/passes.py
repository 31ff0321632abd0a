"""One sampling node as a pass: its noise levels, sampler, guidance, LoRAs, words and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from soundstage.compat.comfy.graph import ComfyNode, Graph, Link
from soundstage.compat.comfy.latents import LatentReader, LatentShape
from soundstage.compat.comfy.levels import LevelReader, Levels
from soundstage.compat.comfy.nodes import NODES
from soundstage.compat.comfy.notes import Notes
from soundstage.compat.comfy.values import NodeValues
from soundstage.errors import RequestError
from soundstage.sampling.sampler_info import SAMPLER_INFO, sampler_key

TYPES = {  # of ComfyUI's samplers by the node that is one
    "SamplerEulerAncestral": "euler_ancestral",
    "SamplerEulerAncestralCFGPP": "euler_ancestral_cfg_pp",
    "SamplerER_SDE": "er_sde",
}
SAMPLERS = {"res_2s_ode": "res_2s", "euler_a": "euler_ancestral"}
MAX_SEED = 2**63
NEUTRAL_SCALES = {"cfg": 1.0, "stg": 0.0, "modality": 1.0, "rescale": 0.0, "skip_step": 0}
PATCHES = {  # what is not carried of nodes that change a model
    "LTXQ8Patch": "8-bit weights are not carried; give --weights int8 or fp8",
    "LTX2AttentionTunerPatch": "its factors of attention are not carried; the model runs without them",
    "LTX2AudioLatentNormalizingSampling": "its factors are not carried; the model runs without them",
}
LAYERS = ("video", "video_to_audio", "audio", "audio_to_video", "other")  # of LTX2LoraLoaderAdvanced


@dataclass
class FoundPass:
    """Describe one pass.

    node: its sampling node. own_noise: it adds noise to what it starts from. shape: its latent. nag: the
    numbers of normalised attention guidance, by stream. nag_text: the text that it steers away from.
    guide_strength: the one of all its guides, where the passes before have another. no_guides: other passes
    have guides, and it has none.
    """

    node: ComfyNode
    levels: Levels = field(default_factory=Levels)
    sampler: str = "euler"
    video: dict[str, Any] = field(default_factory=lambda: {"cfg": 1.0})
    audio: dict[str, Any] = field(default_factory=lambda: {"cfg": 1.0})
    loras: list[tuple[str, float, ComfyNode]] = field(default_factory=list)
    prompt: str | None = None
    negative: str | None = None
    seed: int | None = None
    seed_from: ComfyNode | None = None
    own_noise: bool = True
    nag: dict[str, dict[str, Any]] = field(default_factory=dict)
    nag_text: str | None = None
    guide_strength: float | None = None
    no_guides: bool = False
    shape: LatentShape = field(default_factory=LatentShape)

    @property
    def guided(self) -> bool:
        """Return whether a prediction of the negative prompt is made."""
        whole = (self.video, self.audio)
        later = [part for scales in whole for part in scales.values() if isinstance(part, Mapping)]
        pulled = any(scales.get("cfg") not in (1, None) for scales in (*whole, *later))
        return pulled or SAMPLER_INFO[self.sampler].needs_negative


class PassReader:
    """Read the passes of a graph."""

    def __init__(self, graph: Graph, values: NodeValues, notes: Notes) -> None:
        self.graph, self.values, self.notes = graph, values, notes
        self.latents = LatentReader(graph, values, notes)
        self.given = self.latents.given
        self.levels = LevelReader(self.latents, values, notes)
        self.models: dict[str, ComfyNode] = {}  # files that loaders name

    def read(self, node: ComfyNode) -> FoundPass:
        """Return the pass of a sampling node."""
        found = FoundPass(node)
        self.notes.read.add(node.id)
        found.shape = self.latents.shape(node.inputs.get("latent_image", node.inputs.get("latents")))
        if node.type == "KSampler":
            self._simple(node, found)
        elif node.type == "SamplerCustom":
            self._guidance_of(node, found)
            found.levels = self.levels.read(node.inputs.get("sigmas"))
            found.sampler = self._sampler(node.inputs.get("sampler"))
            self._seed(node, "noise_seed", found)
            found.own_noise = bool(self.values.of(node, "add_noise", True))
        else:
            self._guider(self.given.arrive(node.inputs.get("guider")), found)
            found.levels = self.levels.read(node.inputs.get("sigmas"))
            found.sampler = self._sampler(node.inputs.get("sampler"))
            self._noise(self.given.arrive(node.inputs.get("noise")), found)
        self._with_nag(found)
        if node.type == "LTXVNormalizingSampler":
            self.notes.leave(node, "its factors after each step are not carried; the pass runs without them")
        if node.type == "LTXVLoopingSampler":
            self.notes.leave(
                node, "its tiles and overlaps are not carried; take splits a long clip into windows"
            )
        return found

    # --- Noise ---

    def _simple(self, node: ComfyNode, found: FoundPass) -> None:
        """Read KSampler, which has everything in itself."""
        self._guidance_of(node, found)
        self._seed(node, "seed", found)
        found.sampler = self._named_sampler(node, str(self.values.of(node, "sampler_name", "euler")))
        found.levels = self.levels.scheduled(node)

    def _noise(self, at: tuple[ComfyNode, int] | None, found: FoundPass) -> None:
        if at is None:
            return
        node = at[0]
        if node.type == "DisableNoise":
            self.notes.read.add(node.id)
            found.own_noise = False
        else:
            self._seed(node, "noise_seed", found)

    def _seed(self, node: ComfyNode, name: str, found: FoundPass) -> None:
        self.notes.read.add(node.id)
        seed = self.values.of(node, name)
        if not isinstance(seed, (int, float)) or not math.isfinite(seed):
            self.notes.leave(node, "its seed is no number; another is taken")
            return
        if seed < 0:
            self.notes.leave(node, "its seed is drawn for each run; so it is here")
            return
        if int(seed) >= MAX_SEED:
            self.notes.leave(
                node, f"seed {int(seed)} is outside 0 to 2^63 - 1; {int(seed) % MAX_SEED} is taken"
            )
        found.seed, found.seed_from = int(seed) % MAX_SEED, node

    # --- Sampler ---

    def _sampler(self, link: Any) -> str:
        at = self.given.arrive(link)
        if at is None:
            return "euler"
        node = at[0]
        name = TYPES.get(node.type) or str(self.values.of(node, "sampler_name", "")).rpartition("/")[2]
        if node.type == "SamplerEulerAncestral" and self.values.number(node, "eta", 1.0) == 0:
            name = "euler"  # without new noise they are one
        elif node.type != "KSamplerSelect":
            for part in ("eta", "s_noise"):
                if (value := self.values.number(node, part, 1.0)) != 1.0:
                    self.notes.leave(node, f"{part} {value:g} is not carried; the sampler's own is taken")
        return self._named_sampler(node, name)

    def _named_sampler(self, node: ComfyNode, name: str) -> str:
        try:
            key = sampler_key(SAMPLERS.get(name, name))
        except RequestError as error:
            self.notes.leave(node, f"{error}; euler is taken")
            return "euler"
        self.notes.carry(node, "sampler", key)
        return key

    # --- Guidance ---

    def _guider(self, at: tuple[ComfyNode, int] | None, found: FoundPass) -> None:
        if at is None:
            return
        node = at[0]
        self.notes.read.add(node.id)
        if node.type == "BasicGuider":
            self._model(node.inputs.get("model"), found)
            found.prompt = self._text(node.inputs.get("conditioning"), found)
            return
        self._guidance_of(node, found)

    def _guidance_of(self, node: ComfyNode, found: FoundPass) -> None:
        """Read the guidance, model and words of a guider, or of a sampling node that has them itself."""
        self._model(node.inputs.get("model"), found)
        found.prompt = self._text(node.inputs.get("positive"), found)
        found.negative = self._text(node.inputs.get("negative"), found)
        cfg = self.values.number(node, "cfg", 1.0)
        if node.type == "LTXVDualCFGGuider":
            found.video, found.audio = (
                {"cfg": self.values.number(node, f"{name}_cfg", 1.0)} for name in ("video", "audio")
            )
        elif node.type == "MultimodalGuider":
            self._multimodal(node, found)
        elif node.type == "STGGuider":
            stg, rescale = self.values.number(node, "stg", 1.0), self.values.number(node, "rescale", 0.7)
            found.video = {"cfg": cfg, "stg": stg, "rescale": rescale}
            found.audio = dict(found.video)
        elif node.type == "APGGuider":
            names = {"cfg": "cfg_scale", "apg_eta": "eta", "apg_norm": "norm_threshold"}
            found.video = {name: self.values.number(node, key, 1.0) for name, key in names.items()}
            found.audio = dict(found.video)
        elif node.type in ("CFGGuider", "KSampler", "SamplerCustom"):
            found.video, found.audio = {"cfg": cfg}, {"cfg": cfg}
        else:
            self.notes.leave(node, "this guider is not known; guidance 1 is taken")
            return
        self.notes.carry(node, "guidance", f"picture {_told(found.video)}; sound {_told(found.audio)}")

    def _multimodal(self, node: ComfyNode, found: FoundPass) -> None:
        text = str(self.values.of(node, "skip_blocks", ""))
        blocks = [int(word) for word in text.replace(",", " ").split() if word.isdigit()]
        at = self.given.arrive(node.inputs.get("parameters"))
        while at is not None and at[0].type == "GuiderParameters":
            one = at[0]
            self.notes.read.add(one.id)
            number = self.values.number
            scales: dict[str, Any] = {
                "cfg": number(one, "cfg", 1.0),
                "stg": number(one, "stg", 1.0) if self.values.of(one, "perturb_attn", True) else 0.0,
                "rescale": number(one, "rescale", 0.7),
                "modality": number(one, "modality_scale", 0.0)
                if self.values.of(one, "cross_attn", True)
                else 1.0,
                "skip_step": int(number(one, "skip_step", 0) or 0),
            }
            if scales["stg"]:
                scales["stg_blocks"] = blocks
            side = "audio" if str(self.values.of(one, "modality", "VIDEO")).upper() == "AUDIO" else "video"
            setattr(found, side, scales)
            at = self.given.arrive(one.inputs.get("parameters"))

    # --- Model and words ---

    def _model(self, link: Any, found: FoundPass) -> None:
        """Collect the LoRAs of a model, those nearest to its file first, and the file's name."""
        at = self.given.arrive(link)
        loras: list[tuple[str, float, ComfyNode]] = []
        while at is not None:
            node = at[0]
            self.notes.read.add(node.id)
            role = NODES[node.type].role if node.type in NODES else ""
            if role == "loader":
                self.loader(node)
                break
            loras += reversed(self._loras(node)) if role == "lora" else ()
            if node.type == "LTXVReferenceAudio":
                self.latents.identity(node, found.shape, "reference_audio")
            elif node.type == "LTX2_NAG":
                self._nag(node, found)
            elif node.type in PATCHES:
                self.notes.leave(node, PATCHES[node.type])
            elif not role:
                self.notes.leave(node, "this change of the model is not known, and left out")
            at = self.given.arrive(node.inputs.get("model"))
        found.loras = loras[::-1]

    def _nag(self, node: ComfyNode, found: FoundPass) -> None:
        """Read normalised attention guidance, whose text is the negative prompt here."""
        numbers = ("nag_scale", 11.0, "nag"), ("nag_alpha", 0.25, "nag_alpha"), ("nag_tau", 2.5, "nag_tau")
        scales = {field: self.values.number(node, name, usual) for name, usual, field in numbers}
        for side in ("video", "audio") if scales["nag"] else ():
            text = self._text(node.inputs.get(f"nag_cond_{side}"), found)
            if text is None:
                continue
            found.nag[side] = scales
            found.nag_text = text
            self.notes.carry(node, f"{side}_scales", _told(scales))

    def _with_nag(self, found: FoundPass) -> None:
        """Add normalised attention guidance to that of the guider; both have one negative prompt here."""
        if not found.nag:
            return
        found.video, found.audio = (
            found.video | found.nag.get("video", {}),
            found.audio | found.nag.get("audio", {}),
        )
        if found.guided and found.negative != found.nag_text:
            self.notes.tell("NAG has another text than the negative prompt of cfg, which is taken for both")
        else:
            found.negative = found.nag_text

    def _loras(self, node: ComfyNode) -> list[tuple[str, float, ComfyNode]]:
        if node.type == "Power Lora Loader (rgthree)":
            held = [
                v
                for v in node.inputs.values()
                if isinstance(v, Mapping) and v.get("on", True) and v.get("lora")
            ]
            return [(str(v["lora"]), float(v.get("strength") or 0), node) for v in held]
        if any(self.values.number(node, layer, 1.0) != 1.0 for layer in LAYERS):
            self.notes.leave(node, "its factors of single layers are not carried; strength is that of all")
        strength = self.values.number(node, "strength_model", 1.0)
        return [(str(self.values.of(node, "lora_name", "")), 1.0 if strength is None else strength, node)]

    def loader(self, node: ComfyNode) -> None:
        """Remember the file that a loader names."""
        self.notes.read.add(node.id)
        names = NODES[node.type].values
        for name in names:
            value = self.values.of(node, name)
            if isinstance(value, str) and PurePosixPath(value.replace("\\", "/")).suffix:
                self.models.setdefault(PurePosixPath(value.replace("\\", "/")).name, node)

    def _text(self, link: Any, found: FoundPass) -> str | None:
        """Return the words of a conditioning, and read the rate and the voice that lie on the way."""
        at = self.given.arrive(link)
        while at is not None:
            node, slot = at
            self.notes.read.add(node.id)
            self._beside(node, found.shape)
            kind = NODES.get(node.type)
            if kind is not None and kind.role == "text":
                return self._typed_text(node)
            if node.type == "ConditioningZeroOut":
                return None
            if kind is not None and kind.through:
                name = kind.through[min(slot, len(kind.through) - 1)]
            else:
                name = next(
                    (n for n in ("conditioning", "positive") if isinstance(node.inputs.get(n), Link)), ""
                )
                self.notes.leave(node, "what it does to the prompt is not known, and left out")
            at = self.given.arrive(node.inputs.get(name))
        return None

    def _beside(self, node: ComfyNode, shape: LatentShape) -> None:
        """Read what a conditioning holds besides words."""
        rate = self.values.number(node, "frame_rate") if node.type == "LTXVConditioning" else None
        if rate is None and node.type == "LTXVConditioning":
            shape.rate_of_file = True
            self.notes.leave(node, "its frame rate hangs on files that are not here; give --inputs, or fps")
        if rate and shape.fps != rate:
            shape.fps = rate
            self.notes.carry(node, "fps", f"{rate:g}")
        if node.type == "LTXVSetAudioRefTokens":
            self.latents.voice(node, shape)

    def _typed_text(self, node: ComfyNode) -> str | None:
        name = "text" if "text" in node.inputs else "prompt"
        text = self.values.of(node, name)
        for one in self.graph.upstream(node).values():
            if one.type in NODES and NODES[one.type].role == "enhancer" and one.id in self.values.read:
                self.notes.leave(
                    one, "the prompt is taken as typed, not as this language model would write it"
                )
        if text is None:
            self.notes.leave(node, "its text is made by nodes that are not known; give --prompt")
        return None if text is None else str(text)


def _told(scales: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in scales.items() if isinstance(value, (int, float)))


def joined(first: FoundPass, then: FoundPass) -> FoundPass | None:
    """Return two passes as one, where the second goes on at the noise level at which the first stops.

    Guidance that differs is held by noise level. None where they are not one denoising.
    """
    before, after = first.levels.sigmas, then.levels.sigmas
    if then.own_noise or not before or not after or before[-1] != after[0] or then.shape.upsample:
        return None
    if (first.sampler, _named(first.loras)) != (then.sampler, _named(then.loras)):
        return None
    return replace(
        first,
        node=then.node,
        levels=Levels(before + after[1:]),
        video=_from(first.video, after[0], then.video),
        audio=_from(first.audio, after[0], then.audio),
        prompt=first.prompt or then.prompt,
        negative=first.negative or then.negative,
    )


def _named(loras: Sequence[tuple[str, float, ComfyNode]]) -> list[tuple[str, float]]:
    return [(name, strength) for name, strength, _ in loras]


def _from(scales: dict[str, Any], level: float, later: dict[str, Any]) -> dict[str, Any]:
    """Return guidance with what changes from a noise level on."""
    changes = {name: NEUTRAL_SCALES.get(name) for name in scales if name not in later} | later
    return scales if changes == scales else {**scales, repr(level): changes}
