"""What a plan costs on a machine, worked out from headers and shapes: bytes, seconds, and the policy to use.

    sizes = ModelSizes.of(find_parts(files), text=gemma)      # or ModelSizes.published("bfloat16")
    choice = choose(plan, sizes, machine)                     # raises RequestError if nothing fits
    print(choice.reason, choice.price.device_bytes)

Loads no torch. Activations are counted in "units", copies of all tokens at the stream's width; the numbers
are those of model/block.py as it is written, and tests hold them: at full size against the bytes alive on the
meta device, and on the CPU against the memory of a process.

Source of the cost model: docs/model/memory.md, "Bytes", "Activations" and "Cost".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, Literal, Protocol, get_args

from soundstage.errors import RequestError, listed
from soundstage.types import SPACE_SCALE, TIME_SCALE, VideoShape
from soundstage.weights.layouts import PartTensors
from soundstage.weights.storage import Storage, eight_bit

Policy = Literal["resident", "offload", "stream", "disk"]
Weights = Literal["bfloat16", "float32", "fp8"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
GB = 1e9

# --- how the model is written: units of (tokens x width x bytes of a number) ------------------------------

UNITS_WHOLE = 12.0  # at the feed-forward: the stream, its normed copy, 4 + 4 of the inner layer
UNITS_CHUNKED = 9.6  # at the rotation of self-attention's keys
UNITS_CPU = 20.0  # measured: norms and logits are float32 there, and the heap keeps what is freed
UNITS_BESIDE_FF = 4.0
UNITS_BESIDE_TEXT, UNITS_OF_TEXT = 5.0, 4.0
UNITS_OF_TABLES = 3.05
# The CPU's products keep a reordered copy of a weight: measured, in copies of the largest matrix.
CPU_MATRICES = 3.0
FF_WIDENING = 8.0  # units per token of a chunk: the inner layer, before and after its activation

# Bytes alive in the video decoder, in copies of its last stage: of the whole clip, or of one frame.
DECODE_WHOLE = 3.02
DECODE_NORMED = 1 << 28  # model.video_vae.PIECE_BYTES, of what is normed at once
DECODE_FRAMES = 92
# And what the convolutions of a whole clip take for themselves, to turn a layout: measured on one H200.
DECODE_TURNED = 2.6
DECODE_PIECES, DECODE_PIECE_BYTES = 12, 64 * 2**20  # model.streaming.MAX_BYTES
# The clip as pixels on its way out: float32 and two copies while it is rounded.
PIXEL_BYTES = 3 * 12
# The vocoder in float32: 1920 samples of an audio latent at 48 kHz, 48 channels at the last stage, 6 copies.
AUDIO_DECODE_BYTES = 1920 * 48 * 4 * 6
# speed.winograd on a CPU in float32: transformed weights, and tiles of three frames before and after.
CPU_TILES_BYTES = 2**28
AUDIO_STRETCH = 600  # latents decoded at once: long_sound.STRETCH_LATENTS with what is read around them
UPSAMPLER_CHANNELS, UPSAMPLER_UNITS = 1024, 6
STATES_RESERVE = 1.2e9  # those of 1,024 tokens of Gemma 3 12B
STATE_UNITS = 3  # the text encoder's stacked states, and copies while they are normed

# --- what a device keeps for itself -----------------------------------------------------------------------

CUDA_CONTEXT_BYTES = 1.0e9
FRAGMENTATION = 1.05
CHUNK_TOKENS = 4096  # feed-forward chunk where memory is short
# A step's passes run as one batch up to this many tokens; engine.MAX_BATCHED_TOKENS.
MAX_BATCHED_TOKENS = 16_384


@dataclass(frozen=True)
class Residency:
    """Where weights are; residency.py applies it.

    Under "disk" a part is read from its files for its turn, the text encoder layer by layer.
    resident_blocks: of the transformer's, kept on the device under "stream" and "disk". num_slots: blocks'
    worth of memory for the others. feed_forward_tokens: chunk of the feed-forwards; None is whole.
    decode: the video decoder over the whole clip or in pieces of it. text: the text encoder arrives whole, or
    its layers are streamed from host memory.
    """

    policy: Policy = "resident"
    resident_blocks: int = 0
    num_slots: int = 2
    feed_forward_tokens: int | None = None
    decode: Literal["whole", "pieces"] = "pieces"
    text: Literal["whole", "stream"] = "whole"

    @property
    def streams(self) -> bool:
        return self.policy in ("stream", "disk")


def policy_named(name: str) -> Policy | None:
    """None for "auto", which leaves the choice to `choose`. Raises RequestError for an unknown name."""
    if name == "auto":
        return None
    policy: Policy | None = next((policy for policy in POLICIES if policy == name), None)
    if policy is None:
        raise RequestError(
            f"residency is '{name}'; give one of {listed(str(name), ('auto', *POLICIES))}", field="residency"
        )
    return policy


def spread_evenly(count: int, total: int) -> frozenset[int]:
    """`count` of the numbers 0 ... total - 1, as far apart as can be."""
    return frozenset((2 * i + 1) * total // (2 * count) for i in range(min(count, total)))


@dataclass(frozen=True)
class Machine:
    """Free memory and speeds. On a CPU device and host memory are one; device_bytes is then not read.

    process_bytes: held on the host before anything is loaded. Rates are what is reached, not the maker's.
    """

    name: str
    kind: Literal["cpu", "cuda"]
    host_bytes: float
    device_bytes: float = 0.0
    flops_per_s: float = 1e11
    copy_bytes_per_s: float = 2.5e10
    disk_bytes_per_s: float = 2e9
    process_bytes: float = 0.0

    def limited(self, num_bytes: float) -> Machine:
        """With at most this much of the memory that is the work's: the device's, or the host's on a CPU."""
        if self.kind == "cpu":
            return replace(self, host_bytes=min(self.host_bytes, num_bytes))
        return replace(self, device_bytes=min(self.device_bytes, num_bytes))


# --- the model -----------------------------------------------------------------------------------------

TRANSFORMER = "transformer"
PARTS_OF = {
    "upsample": ("upsampler",),
    "decode video": ("video_vae",),
    "decode audio": ("audio_vae", "vocoder"),
}
TEXT_PARTS = ("text_encoder", "text_projection", "video_connector", "audio_connector")


@dataclass(frozen=True)
class ModelSizes:
    """Bytes of a model's parts as they are held, and the dimensions that work is counted from.

    parts: bytes by part. blocks: bytes of each block's matrices, which stream; the rest of the transformer
    stays on the device. width, audio_width: of a token. item_bytes: of an activation. text_features: numbers
    per token that the text encoder hands on, all its states together. text_layers: bytes of each of its
    layers; none if it is not streamed. vae_channels: of the decoder's last stage. storage: how the
    transformer is held.
    """

    name: str
    parts: Mapping[str, int]
    blocks: tuple[int, ...]
    width: int
    audio_width: int
    item_bytes: int = 2
    text_features: int = 0
    text_layers: tuple[int, ...] = ()
    vae_channels: int = 128
    storage: Storage = "full"

    @property
    def total_bytes(self) -> int:
        return sum(self.parts.values())

    @classmethod
    def of(
        cls,
        parts: Mapping[str, PartTensors],
        *,
        name: str = "model",
        item_bytes: int = 2,
        storage: Storage = "full",
        text: PartTensors | None = None,
    ) -> ModelSizes:
        """From headers. item_bytes: of the dtype weights are loaded in; tables and sound parts are float32.

        storage: how the transformer is held. text: tensors of the text encoder.
        """
        transformer = parts.get(TRANSFORMER, {})

        def held(part: str, key: str) -> int:
            entry = parts[part][key].entry
            if part == TRANSFORMER and eight_bit(storage, key, entry.dtype) is not None:
                return entry.num_params
            wide = part in ("audio_vae", "vocoder") or "scale_shift_table" in key
            return entry.num_params * (4 if wide else item_bytes)

        sizes = {part: sum(held(part, key) for key in tensors) for part, tensors in parts.items()}
        layers: dict[int, int] = {}
        for key, stored in (text or {}).items():
            if key.startswith("layers."):
                number = int(key.split(".")[1])
                layers[number] = layers.get(number, 0) + stored.entry.num_params * item_bytes
        if text:
            sizes["text_encoder"] = sum(stored.entry.num_params for stored in text.values()) * item_bytes
        blocks: dict[int, int] = {}
        for key, stored in transformer.items():
            names, shape = key.split("."), stored.entry.shape
            if names[0] == "transformer_blocks" and len(shape) == 2 and _streams(key, shape):
                blocks[int(names[1])] = blocks.get(int(names[1]), 0) + held(TRANSFORMER, key)
        return cls(
            name=name,
            parts=sizes,
            blocks=tuple(blocks[number] for number in sorted(blocks)),
            width=_rows(transformer, "patchify_proj.weight"),
            audio_width=_rows(transformer, "audio_patchify_proj.weight"),
            item_bytes=item_bytes,
            text_features=_columns(parts.get("text_projection", {}), "video_aggregate_embed.weight"),
            text_layers=tuple(layers[number] for number in sorted(layers)),
            vae_channels=_columns(parts.get("video_vae", {}), "decoder.conv_out.conv.weight") or 128,
            storage=storage,
        )

    @classmethod
    def published(cls, weights: Weights = "bfloat16", item_bytes: int = 2) -> ModelSizes:
        """LTX-2.3 22B and Gemma 3 12B. weights: of the transformer's blocks and of the text encoder.

        item_bytes: beside fp8, of an activation and of the other weights; the sound's are always float32.
        """
        large = {"float32": 4, "bfloat16": 2, "fp8": 1}[weights]
        item_bytes = item_bytes if weights == "fp8" else large
        gemma = PUBLISHED_PARAMS["text_encoder"]
        blocks = NUM_BLOCKS * (BLOCK_MATRICES * large + (BLOCK_PARAMS - BLOCK_MATRICES) * item_bytes)
        others = PUBLISHED_PARAMS[TRANSFORMER] - NUM_BLOCKS * BLOCK_PARAMS
        return cls(
            name=f"LTX-2.3 22B, {weights}",
            parts={
                TRANSFORMER: blocks + others * item_bytes,
                **{
                    part: count * (4 if part in ("audio_vae", "vocoder") else item_bytes)
                    for part, count in PUBLISHED_PARAMS.items()
                    if part not in (TRANSFORMER, "text_encoder")
                },
                "text_encoder": gemma * large + GEMMA_EMBEDDING * (item_bytes - large),
            },
            blocks=(BLOCK_MATRICES * large,) * NUM_BLOCKS,
            width=4096,
            audio_width=2048,
            item_bytes=item_bytes,
            text_features=3840 * 49,
            text_layers=((gemma - GEMMA_EMBEDDING) // 48 * large,) * 48,
            storage="fp8" if weights == "fp8" else "full",
        )


# Parameters of the published model; tests count them again on the meta device.
NUM_BLOCKS = 48
BLOCK_PARAMS = 386_695_360
BLOCK_MATRICES = 386_465_792
GEMMA_EMBEDDING = 262_208 * 3840
PUBLISHED_PARAMS: dict[str, int] = {
    TRANSFORMER: 18_988_838_144,
    "video_connector": 1_612_546_304,
    "audio_connector": 403_620_096,
    "text_projection": 1_156_061_184,
    "text_encoder": 11_766_034_176,
    "video_vae": 726_106_225,
    "audio_vae": 53_248_146,
    "vocoder": 129_085_075,
}


def _streams(key: str, shape: Sequence[int]) -> bool:
    """The rule of stream.is_streamed, on names and shapes."""
    return math.prod(shape) >= 4096 and shape[-1] > 1 and "scale_shift_table" not in key


def _rows(tensors: PartTensors, key: str) -> int:
    return tensors[key].entry.shape[0] if key in tensors else 0


def _columns(tensors: PartTensors, key: str) -> int:
    return tensors[key].entry.shape[1] if key in tensors else 0


# --- the work ------------------------------------------------------------------------------------------


class PassLike(Protocol):
    """What is read of one run of the loop; `plan.PassPlan` is one."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def video_tokens(self) -> int: ...
    @property
    def audio_tokens(self) -> int: ...
    @property
    def kinds(self) -> tuple[str, ...]: ...
    @property
    def num_steps(self) -> int: ...


class PlanLike(Protocol):
    """What is read of a plan; `plan.Plan` is one.

    A take in windows also has `clips`, the plan of each, and `num_frames`, those of all of them.
    """

    @property
    def passes(self) -> Sequence[PassLike]: ...
    @property
    def text_tokens(self) -> int: ...
    @property
    def modalities(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Work:
    """One forward pass of the transformer: tokens of each kind, samples in the batch, batches a step."""

    video: int
    audio: int
    text: int
    batch: int
    runs: int

    @classmethod
    def of(cls, pass_: PassLike, text_tokens: int) -> Work:
        video = pass_.video_tokens + getattr(pass_, "added_video", 0)
        audio = pass_.audio_tokens + getattr(pass_, "added_audio", 0)
        batched = (video + audio) * len(pass_.kinds) <= MAX_BATCHED_TOKENS
        num = max(1, len(pass_.kinds))
        return cls(video, audio, text_tokens, num if batched else 1, 1 if batched else num)


def forward_flops(work: Work, sizes: ModelSizes) -> float:
    """Operations of one forward for one sample: two per multiply-add, products only."""
    n, m, s, d, a = work.video, work.audio, work.text, sizes.width, sizes.audio_width
    linear = n * 14 * d * d + m * 14 * a * a + 2 * s * (d * d * bool(n) + a * a * bool(m))
    attention = 2 * d * (n * n + n * s) + 2 * a * (m * m + m * s)
    if n and m:
        linear += n * (2 * d * a + 2 * d * a) + m * (2 * a * a + 2 * a * a)
        attention += 4 * a * n * m
    return 2.0 * len(sizes.blocks) * (linear + attention)


def activation_bytes(work: Work, sizes: ModelSizes, residency: Residency, kind: str = "cuda") -> float:
    """The most a forward allocates besides weights, with the tables and contexts of its run."""
    item = sizes.item_bytes
    video, text = work.video * sizes.width * item, work.text * max(sizes.width, sizes.audio_width) * item
    audio = work.audio * sizes.audio_width * item
    peaks = [UNITS_BESIDE_TEXT * video + UNITS_OF_TEXT * text]
    if kind == "cpu":
        peaks.append(UNITS_CPU * video)
    elif residency.feed_forward_tokens is None:
        peaks.append(UNITS_WHOLE * video)
    else:
        chunk = min(residency.feed_forward_tokens, work.video) * sizes.width * item
        peaks += [UNITS_CHUNKED * video, UNITS_BESIDE_FF * video + FF_WIDENING * chunk]
    contexts = work.text * (sizes.width + sizes.audio_width) * item
    tables = UNITS_OF_TABLES * video + 4 * audio
    matrix = 4.0 * sizes.width**2 * item
    scratch = CPU_MATRICES * matrix if kind == "cpu" else 0.0
    scratch += matrix if sizes.storage != "full" else 0.0  # cast on use, one at a time
    return work.batch * (max(peaks) + 4 * audio + contexts) + tables + scratch


def decode_bytes(pass_: PassLike, sizes: ModelSizes, residency: Residency) -> float:
    """The most the video decoder allocates besides weights."""
    frame = sizes.vae_channels * pass_.width * pass_.height / 16 * sizes.item_bytes
    whole = DECODE_WHOLE * frame * pass_.num_frames + DECODE_NORMED
    pieces = DECODE_FRAMES * frame + DECODE_PIECES * DECODE_PIECE_BYTES
    alive = whole if residency.decode == "whole" else min(whole, pieces)
    pixels = pass_.width * pass_.height * pass_.num_frames
    return max(alive, pixels * PIXEL_BYTES) if residency.decode == "whole" else alive + pixels * 3


def turning_bytes(pass_: PassLike, sizes: ModelSizes, residency: Residency) -> float:
    """What the convolutions allocate besides, over a whole clip; over pieces it is little."""
    frame = sizes.vae_channels * pass_.width * pass_.height / 16 * sizes.item_bytes
    return DECODE_TURNED * frame * pass_.num_frames if residency.decode == "whole" else 0.0


def tiles_bytes(sizes: ModelSizes) -> float:
    """What convolutions by tiles allocate besides: 4 times the largest weight, up to a bound."""
    inputs, outputs = 8 * sizes.vae_channels, 32 * sizes.vae_channels
    return min(CPU_TILES_BYTES, 4 * 27 * inputs * outputs * sizes.item_bytes)


def decode_flops(pass_: PassLike, sizes: ModelSizes) -> float:
    """Operations of the video decoder, by its stages from latents to pixels."""
    t, h, w = VideoShape(pass_.num_frames, pass_.height, pass_.width).latent
    b = sizes.vae_channels
    # (latent multiple of t and of h, w; input channels; output channels; how many convolutions)
    stages = [
        (1, 1, 128, 8 * b, 1), (1, 1, 8 * b, 8 * b, 4), (1, 1, 8 * b, 32 * b, 1),
        (2, 2, 4 * b, 4 * b, 4), (2, 2, 4 * b, 32 * b, 1),
        (4, 4, 4 * b, 4 * b, 8), (4, 4, 4 * b, 4 * b, 1),
        (8, 4, 2 * b, 2 * b, 12), (8, 4, 2 * b, 4 * b, 1),
        (8, 8, b, b, 8), (8, 8, b, 48, 1),
    ]  # fmt: skip
    return sum(2.0 * 27 * ts * t * s * h * s * w * i * o * count for ts, s, i, o, count in stages)


# --- the price ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """One stage of the work. device_bytes: with all that is on the device; moved_bytes: to the device."""

    name: str
    device_bytes: float
    moved_bytes: float
    seconds: float


@dataclass(frozen=True)
class PassPrice:
    """One run of the loop. moved_bytes and seconds are of one step."""

    name: str
    num_steps: int
    device_bytes: float
    activation_bytes: float
    moved_bytes: float
    seconds: float


@dataclass(frozen=True)
class Price:
    """device_bytes, host_bytes: peaks. On a CPU all memory is the host's and device_bytes is 0."""

    residency: Residency
    device_bytes: float
    host_bytes: float
    seconds: float
    phases: tuple[Phase, ...]
    passes: tuple[PassPrice, ...]


def price(plan: PlanLike, sizes: ModelSizes, machine: Machine, residency: Residency) -> Price:
    """What a plan costs under a policy."""
    return _Pricing(plan, sizes, machine, residency).price()


@dataclass(frozen=True)
class _Pricing:
    plan: PlanLike
    sizes: ModelSizes
    machine: Machine
    residency: Residency
    held: dict[str, float] = field(default_factory=dict)

    def price(self) -> Price:
        passes = tuple(self._pass(pass_) for pass_ in self.plan.passes)
        windows = [replace(self, plan=clip) for clip in clips_of(self.plan)]
        phases = _added([phase for window in windows for phase in window._made()]) + self._decode()
        policy = self.residency.policy
        together = policy == "resident" or (self.machine.kind == "cpu" and policy != "disk")
        peak = max(phase.device_bytes for phase in phases)
        if together:  # all parts stay: the sum of them, and the hungriest phase's work
            peak = self._all_on_device() + max(p.device_bytes - self._own(p.name) for p in phases)
        on_cpu = self.machine.kind == "cpu"
        host = self.machine.process_bytes + (peak if on_cpu else self._host_weights())
        device = 0.0 if on_cpu else FRAGMENTATION * peak + CUDA_CONTEXT_BYTES
        return Price(self.residency, device, host, sum(p.seconds for p in phases), tuple(phases), passes)

    def _made(self) -> list[Phase]:
        """The phases of one clip, or of one window of a take, up to its latents."""
        passes = [self._pass(pass_) for pass_ in self.plan.passes]
        return [self._encode(), *(self._denoise(p) for p in passes), *self._upsample()]

    # Parts on the device.

    def _transformer(self) -> float:
        """Bytes of the transformer on the device while it is used."""
        whole = float(self.sizes.parts.get(TRANSFORMER, 0))
        if not self.residency.streams or not self.sizes.blocks:
            return whole
        streamed = self._streamed()
        slots = min(self.residency.num_slots, len(streamed)) * max(streamed, default=0)
        on_device = whole - sum(streamed) + slots
        # On the CPU the blocks' homes are in the same memory as the arena.
        return on_device + (sum(streamed) if self._homes_beside() else 0)

    def _homes_beside(self) -> bool:
        return self.machine.kind == "cpu" and self.residency.policy == "stream"

    def _streamed(self) -> list[int]:
        kept = spread_evenly(self.residency.resident_blocks, len(self.sizes.blocks))
        return [size for number, size in enumerate(self.sizes.blocks) if number not in kept]

    def _text(self) -> float:
        """The most of the text side that is on the device at once."""
        parts = [float(self.sizes.parts.get(part, 0)) for part in TEXT_PARTS]
        policy = self.residency.policy
        if policy == "resident" or (self.machine.kind == "cpu" and policy != "disk"):
            return sum(parts)
        if self.residency.text == "stream" or policy == "disk":
            parts[0] -= sum(self.sizes.text_layers[2:])
        return max(parts)  # they take turns

    def _own(self, phase: str) -> float:
        """Bytes of the weights that a phase's device_bytes include."""
        if phase == "encode":
            return self._text()
        if phase.startswith("denoise"):
            return self._transformer()
        return self._weights_of(phase)

    def _weights_of(self, phase: str) -> float:
        return float(sum(self.sizes.parts.get(part, 0) for part in PARTS_OF[phase]))

    def _all_on_device(self) -> float:
        return self._transformer() + sum(b for part, b in self.sizes.parts.items() if part != TRANSFORMER)

    def _host_weights(self) -> float:
        """Host memory of the homes, and of the one part that is read before it leaves for the device."""
        streamed = sum(self._streamed()) if self.residency.streams else 0
        slot = max(self.sizes.blocks, default=0)
        match self.residency.policy:
            case "resident":
                return float(max(self.sizes.blocks, default=0))
            case "disk":
                return float(2 * slot)  # nothing has a home there
            case "stream":
                return float(self._others() + streamed + slot)
            case "offload":
                return float(self.sizes.total_bytes)

    def _others(self) -> float:
        """Parts that move as a whole have a home on the host, and so has what stays of the transformer."""
        kept = self.sizes.parts.get(TRANSFORMER, 0) - sum(self._streamed())
        others = sum(size for part, size in self.sizes.parts.items() if part != TRANSFORMER)
        return kept + others

    # Phases.

    def _encode(self) -> Phase:
        sizes, tokens = self.sizes, self.plan.text_tokens
        states = STATE_UNITS * tokens * sizes.text_features * sizes.item_bytes
        weights = sum(sizes.parts.get(part, 0) for part in TEXT_PARTS)
        moved = self._arriving(weights)
        flops = 2.0 * weights / sizes.item_bytes * tokens
        return self._phase("encode", self._text() + states, moved, flops)

    def _pass(self, pass_: PassLike) -> PassPrice:
        work = Work.of(pass_, self.plan.text_tokens)
        activations = activation_bytes(work, self.sizes, self.residency, self.machine.kind)
        machine, from_disk = self.machine, self.residency.policy == "disk"
        rate = machine.disk_bytes_per_s if from_disk else machine.copy_bytes_per_s
        streamed = self._streamed() if self.residency.streams else []
        moved = float(sum(streamed)) if len(streamed) > self.residency.num_slots else 0.0
        compute = work.batch * forward_flops(work, self.sizes) / machine.flops_per_s
        return PassPrice(
            name=f"denoise {pass_.name}",
            num_steps=pass_.num_steps,
            device_bytes=self._transformer() + activations,
            activation_bytes=activations,
            moved_bytes=moved * work.runs,
            seconds=work.runs * max(compute, moved / rate),
        )

    def _denoise(self, p: PassPrice) -> Phase:
        whole = 0.0 if self.residency.streams else self._arriving(self.sizes.parts.get(TRANSFORMER, 0))
        seconds = p.num_steps * p.seconds + whole / self.machine.copy_bytes_per_s
        return Phase(p.name, p.device_bytes, whole + p.num_steps * p.moved_bytes, seconds)

    def _upsample(self) -> list[Phase]:
        """One phase for all upsamplers of the plan; the latents they work on are the last pass's."""
        if not any(getattr(pass_, "upsample", ()) for pass_ in self.plan.passes):
            return []
        pass_ = self.plan.passes[-1]
        cells = VideoShape(pass_.num_frames, pass_.height, pass_.width).num_tokens
        alive = UPSAMPLER_UNITS * UPSAMPLER_CHANNELS * cells * self.sizes.item_bytes
        weights = self._weights_of("upsample")
        flops = 2.0 * weights / self.sizes.item_bytes * cells
        return [self._phase("upsample", weights + alive, self._arriving(weights), flops)]

    def _decode(self) -> list[Phase]:
        pass_, phases = _whole(self.plan), []
        if "video" in self.plan.modalities:
            weights = self._weights_of("decode video")
            alive = decode_bytes(pass_, self.sizes, self.residency)
            alive += turning_bytes(pass_, self.sizes, self.residency)
            if self.machine.kind == "cpu" and self.sizes.item_bytes == 4:
                alive += tiles_bytes(self.sizes)
            flops = decode_flops(pass_, self.sizes)
            phases.append(self._phase("decode video", weights + alive, self._arriving(weights), flops))
        if "audio" in self.plan.modalities:
            weights = self._weights_of("decode audio")
            alive = min(pass_.audio_tokens, AUDIO_STRETCH) * AUDIO_DECODE_BYTES
            phases.append(self._phase("decode audio", weights + alive, self._arriving(weights), 0.0))
        return phases

    def _arriving(self, num_bytes: float) -> float:
        moves = self.machine.kind == "cuda" and self.residency.policy != "resident"
        return float(num_bytes) if moves else 0.0

    def _phase(self, name: str, device_bytes: float, moved: float, flops: float) -> Phase:
        seconds = flops / self.machine.flops_per_s + moved / self.machine.copy_bytes_per_s
        return Phase(name, device_bytes, moved, seconds)


def clips_of(plan: PlanLike) -> Sequence[PlanLike]:
    """Return the plans of a take's windows, or the plan itself."""
    return getattr(plan, "clips", ()) or (plan,)


def _added(phases: Sequence[Phase]) -> list[Phase]:
    """Phases of one name as one: the most memory of any, the time of all."""
    found: dict[str, Phase] = {}
    for phase in phases:
        before = found.get(phase.name, Phase(phase.name, 0.0, 0.0, 0.0))
        found[phase.name] = Phase(
            phase.name,
            max(before.device_bytes, phase.device_bytes),
            before.moved_bytes + phase.moved_bytes,
            before.seconds + phase.seconds,
        )
    return list(found.values())


def _whole(plan: PlanLike) -> PassLike:
    """The last pass as it is decoded: a take's windows are joined before."""
    last = plan.passes[-1]
    if len(clips_of(plan)) == 1:
        return last
    return _longer(last, total_frames(plan))


def total_frames(plan: PlanLike) -> int:
    """Return the frames of a clip, or of all windows of a take together."""
    last = plan.passes[-1].num_frames
    return int(getattr(plan, "num_frames", last)) if len(clips_of(plan)) > 1 else last


# --- the choice -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The policy that was chosen, what it costs, and why, in a sentence.

    process_bytes: of the price's host_bytes, those that are held without any weights. weights: how the
    transformer is held.
    """

    price: Price
    reason: str
    process_bytes: float = 0.0
    weights: Storage = "full"

    @property
    def residency(self) -> Residency:
        return self.price.residency

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"reason": self.reason, "weights": self.weights, **asdict(self.price)}

    def __str__(self) -> str:
        phases = (
            f"  {phase.name}: {phase.device_bytes / GB:.1f} GB, about {phase.seconds:.0f} s"
            for phase in self.price.phases
        )
        total = f"  in all: about {self.price.seconds:.0f} s"
        return "\n".join([f"weights   {self.weights}", f"memory    {self.reason}", *phases, total])


def choose(
    plan: PlanLike,
    sizes: ModelSizes,
    machine: Machine,
    policy: Policy | None = None,
    *,
    kept: Residency | None = None,
) -> Choice:
    """The fastest policy that fits the machine's free memory, or the fastest form of the one asked for.

    kept: how weights are now, which stays if the plan fits. A policy that was asked for is not refused: its
    thriftiest form is taken. Raises RequestError, with the nearest sizes and lengths that fit, if none does.
    """
    for residency in () if kept is None else _as_kept(kept, machine):
        now = price(plan, sizes, machine, residency)
        if fits(now, machine):
            return Choice(now, _reason(now, plan, sizes, machine), machine.process_bytes, sizes.storage)
    if policy is not None:
        return _chosen(plan, sizes, machine, policy)
    found = _fitting(plan, sizes, machine)
    if found is None:
        raise RequestError(_refusal(plan, sizes, machine), field="size")
    return Choice(found, _reason(found, plan, sizes, machine), machine.process_bytes, sizes.storage)


def _as_kept(kept: Residency, machine: Machine) -> list[Residency]:
    """The ways that leave weights where they are; how a clip is decoded is not one of them."""
    pieces = replace(kept, decode="pieces")
    return [pieces] if machine.kind == "cpu" else [replace(kept, decode="whole"), pieces]


def choose_held(
    plan: PlanLike,
    held: Sequence[ModelSizes],
    machine: Machine,
    policy: Policy | None = None,
    *,
    kept: tuple[Storage, Residency] | None = None,
) -> Choice:
    """`choose` for the first way of holding the transformer that fits; held: the one wanted most first.

    kept: how weights are now. Which of `held` it is depends on the plan and the machine only, never on what
    was made before: it may change the numbers of a clip. Raises RequestError as `choose` does for the last.
    """
    found: list[Choice] = []
    for sizes in held:
        now = None if kept is None or kept[0] != sizes.storage else kept[1]
        try:
            found.append(choose(plan, sizes, machine, policy, kept=now))
        except RequestError:
            if sizes is held[-1] and not found:
                raise
            continue
        if fits(found[-1].price, machine):
            return _said(found[-1], held[0].storage)
    return found[0]


def _said(choice: Choice, wanted: Storage) -> Choice:
    if choice.weights == wanted:
        return choice
    because = f"the transformer is rounded to {choice.weights}, since it does not fit as '{wanted}'"
    return replace(choice, reason=f"{choice.reason}; {because}")


def _chosen(plan: PlanLike, sizes: ModelSizes, machine: Machine, policy: Policy) -> Choice:
    forms = [form for form in _candidates(sizes, machine) if form.policy == policy]
    prices = [price(plan, sizes, machine, form) for form in forms or [Residency(policy)]]
    found = next((p for p in prices if fits(p, machine)), prices[-1])
    reason = f"{_reason(found, plan, sizes, machine)}; asked for"
    return Choice(found, reason, machine.process_bytes, sizes.storage)


def _fitting(plan: PlanLike, sizes: ModelSizes, machine: Machine) -> Price | None:
    for residency in _candidates(sizes, machine):
        found = price(plan, sizes, machine, residency)
        if fits(found, machine):
            return found
    return None


def fits(found: Price, machine: Machine) -> bool:
    room = machine.kind == "cpu" or found.device_bytes <= machine.device_bytes
    return room and found.host_bytes <= machine.host_bytes


def _candidates(sizes: ModelSizes, machine: Machine) -> list[Residency]:
    """From the fastest to the thriftiest. Pieces and chunks round otherwise, so they come late.

    A CPU decodes in pieces always: no slower there, and a clip has the same bits under every policy.
    """
    whole, pieces = Residency(decode="whole"), Residency()
    if machine.kind == "cpu":
        blocks = range(len(sizes.blocks) - 1, -1, -1)
        return [pieces, *(replace(pieces, policy="disk", resident_blocks=n) for n in blocks)]
    text: Literal["whole", "stream"] = "whole" if _text_fits(sizes, machine) else "stream"
    found = [whole, pieces]
    found += [replace(base, policy="offload", text=text) for base in (whole, pieces)]
    policies: tuple[Policy, Policy] = ("stream", "disk")
    for policy, decode, chunk in product(policies, (whole, pieces), (None, CHUNK_TOKENS)):
        base = replace(decode, policy=policy, text=text, feed_forward_tokens=chunk)
        found += [replace(base, resident_blocks=n) for n in range(len(sizes.blocks) - 1, -1, -1)]
    return found


def _text_fits(sizes: ModelSizes, machine: Machine) -> bool:
    room = machine.device_bytes / FRAGMENTATION - CUDA_CONTEXT_BYTES - STATES_RESERVE
    return not sizes.text_layers or sizes.parts.get("text_encoder", 0) <= room


def _reason(found: Price, plan: PlanLike, sizes: ModelSizes, machine: Machine) -> str:
    memory, free = (
        (found.host_bytes, machine.host_bytes)
        if machine.kind == "cpu"
        else (found.device_bytes, machine.device_bytes)
    )
    use = f"{memory / GB:.1f} of {free / GB:.1f} GB"
    residency = found.residency
    if residency.policy == "resident":
        return f"resident: all parts and the work take {use}"
    everything = price(plan, sizes, machine, Residency())
    wanted = everything.host_bytes if machine.kind == "cpu" else everything.device_bytes
    because = f"all parts together would take {wanted / GB:.1f} GB"
    if residency.policy == "offload":
        return f"offload: {because}; one part at a time takes {use}"
    streamed = len(sizes.blocks) - residency.resident_blocks
    where = "host memory" if residency.policy == "stream" else "disk"
    blocks = f"{streamed} of {len(sizes.blocks)} blocks from {where}"
    return f"{residency.policy}: {because}; with {blocks} it takes {use}"


# --- refusing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Resized:
    """A pass at another size; the rest as planned."""

    name: str
    width: int
    height: int
    num_frames: int
    video_tokens: int
    audio_tokens: int
    kinds: tuple[str, ...]
    num_steps: int
    upsample: tuple[str, ...]


@dataclass(frozen=True)
class _ResizedPlan:
    passes: tuple[_Resized, ...]
    text_tokens: int
    modalities: tuple[str, ...]
    num_frames: int = 0
    clips: tuple[_ResizedPlan, ...] = ()


def _resized(plan: PlanLike, space: float, num_frames: int) -> _ResizedPlan:
    """A plan at another size and length; of a take only the size changes."""
    last, steps = plan.passes[-1], []
    for pass_ in plan.passes:
        frames = _frames(pass_.num_frames * num_frames / last.num_frames)
        width, height = (_side(side * space) for side in (pass_.width, pass_.height))
        steps.append(_at(pass_, width, height, frames))
    windows = clips_of(plan) if len(clips_of(plan)) > 1 else ()
    clips = tuple(_resized(clip, space, clip.passes[-1].num_frames) for clip in windows)
    return _ResizedPlan(tuple(steps), plan.text_tokens, tuple(plan.modalities), total_frames(plan), clips)


def _longer(pass_: PassLike, num_frames: int) -> _Resized:
    return _at(pass_, pass_.width, pass_.height, num_frames)


def _at(pass_: PassLike, width: int, height: int, num_frames: int) -> _Resized:
    tokens = VideoShape(num_frames, height, width).num_tokens if pass_.video_tokens else 0
    audio = math.ceil(pass_.audio_tokens * num_frames / pass_.num_frames)
    upsample = tuple(getattr(pass_, "upsample", ()))
    return _Resized(
        pass_.name, width, height, num_frames, tokens, audio, pass_.kinds, pass_.num_steps, upsample
    )


def _side(pixels: float) -> int:
    return max(SPACE_SCALE, int(pixels) // SPACE_SCALE * SPACE_SCALE)


def _frames(count: float) -> int:
    return max(0, int(count) - 1) // TIME_SCALE * TIME_SCALE + 1


def nearest(plan: PlanLike, sizes: ModelSizes, machine: Machine) -> list[str]:
    """The largest smaller size at this length, and the longest shorter length at this size, that fit.

    The length of a take in windows is not made shorter: its windows decide the memory.
    """
    last, found = plan.passes[-1], []
    for percent in range(95, 5, -5):
        smaller = _resized(plan, percent / 100, last.num_frames)
        if _fits_at_all(smaller, sizes, machine):
            end = smaller.passes[-1]
            found.append(f"{end.width}x{end.height} at {total_frames(plan)} frames")
            break
    for frames in _shorter(last.num_frames) if len(clips_of(plan)) == 1 else ():
        if _fits_at_all(_resized(plan, 1.0, frames), sizes, machine):
            found.append(f"{last.width}x{last.height} at {frames} frames")
            break
    return found


def _shorter(num_frames: int) -> list[int]:
    """About twenty lengths below this one, all 8k + 1."""
    return sorted({_frames(num_frames * part / 20) for part in range(1, 20)} - {num_frames}, reverse=True)


def _fits_at_all(plan: PlanLike, sizes: ModelSizes, machine: Machine) -> bool:
    """Only the thriftiest policies need to be tried."""
    thrifty = [r for r in _candidates(sizes, machine) if r.resident_blocks == 0]
    return any(fits(price(plan, sizes, machine, r), machine) for r in thrifty)


def _refusal(plan: PlanLike, sizes: ModelSizes, machine: Machine) -> str:
    last = plan.passes[-1]
    prices = [price(plan, sizes, machine, r) for r in _candidates(sizes, machine) if r.resident_blocks == 0]
    found = nearest(plan, sizes, machine)
    instead = f"what fits: {', or '.join(found)}" if found else "no smaller size fits either"
    return (
        f"size is {last.width}x{last.height} at {total_frames(plan)} frames, which {sizes.name} cannot make "
        f"on this machine: {_shortage(prices, machine)}; {instead}"
    )


def _shortage(prices: Sequence[Price], machine: Machine) -> str:
    host, free = min(p.host_bytes for p in prices), f"of which {machine.host_bytes / GB:.2g} may be used"
    if machine.kind == "cpu":
        return f"it needs at least {host / GB:.1f} GB of memory, {free}"
    device = min(p.device_bytes for p in prices)
    if device > machine.device_bytes:
        return (
            f"it needs at least {device / GB:.1f} GB on {machine.name}, "
            f"of which {machine.device_bytes / GB:.2g} may be used"
        )
    enough = [p for p in prices if p.device_bytes <= machine.device_bytes]
    host = min(p.host_bytes for p in enough)
    return f"it needs at least {host / GB:.1f} GB of host memory, {free}"
