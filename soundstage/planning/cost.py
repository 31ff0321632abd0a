"""The cost of a plan on a machine under a policy: bytes and seconds, worked out from headers and shapes.

    found = price(plan, ModelSizes.published("bfloat16"), machine, Residency("stream"))
    print(found.device_bytes, found.seconds)

Activations are counted in "units", copies of all tokens at the model's width; the numbers are those of
model/block.py as it is written, and tests hold them: at full size against the bytes alive on the meta device,
and on the CPU against the memory of a process. Source: docs/model/memory.md, "Bytes", "Activations", "Cost".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from soundstage.library.sizes import TRANSFORMER, ModelSizes
from soundstage.memory.machine import Machine
from soundstage.memory.policy import Residency, spread_evenly
from soundstage.planning.plan import MAX_BATCHED_TOKENS, PassPlan, Plan
from soundstage.types import VideoShape

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
DECODE_PIECES, DECODE_PIECE_BYTES = 12, 64 * 2**20  # model.pieces.MAX_BYTES
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

PARTS_OF = {
    "upsample": ("upsampler",),
    "decode video": ("video_vae",),
    "decode audio": ("audio_vae", "vocoder"),
}
TEXT_SIDE = ("text_encoder", "text_projection", "video_connector", "audio_connector")


# --- the work ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """One forward of the transformer: tokens of each kind, samples in its batch, and batches in a step."""

    video: int
    audio: int
    text: int
    batch: int
    runs: int

    @classmethod
    def of(cls, pass_: PassPlan, text_tokens: int) -> Work:
        """Return the work of one step of a pass."""
        video = pass_.video_tokens + pass_.added_video
        audio = pass_.audio_tokens + pass_.added_audio
        batched = (video + audio) * len(pass_.kinds) <= MAX_BATCHED_TOKENS
        num = max(1, len(pass_.kinds))
        return cls(video, audio, text_tokens, num if batched else 1, 1 if batched else num)


def forward_flops(work: Work, sizes: ModelSizes) -> float:
    """Return the operations of one forward for one sample: two per multiply-add, products only."""
    n, m, s, d, a = work.video, work.audio, work.text, sizes.width, sizes.audio_width
    linear = n * 14 * d * d + m * 14 * a * a + 2 * s * (d * d * bool(n) + a * a * bool(m))
    attention = 2 * d * (n * n + n * s) + 2 * a * (m * m + m * s)
    if n and m:
        linear += n * (2 * d * a + 2 * d * a) + m * (2 * a * a + 2 * a * a)
        attention += 4 * a * n * m
    return 2.0 * len(sizes.blocks) * (linear + attention)


def activation_bytes(work: Work, sizes: ModelSizes, residency: Residency, kind: str = "cuda") -> float:
    """Return the most bytes a forward allocates besides weights, with the tables and contexts of its run."""
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


def decode_bytes(pass_: PassPlan, sizes: ModelSizes, residency: Residency) -> float:
    """Return the most bytes the video decoder allocates besides weights."""
    frame = sizes.vae_channels * pass_.width * pass_.height / 16 * sizes.item_bytes
    whole = DECODE_WHOLE * frame * pass_.num_frames + DECODE_NORMED
    pieces = DECODE_FRAMES * frame + DECODE_PIECES * DECODE_PIECE_BYTES
    alive = whole if residency.decode == "whole" else min(whole, pieces)
    pixels = pass_.width * pass_.height * pass_.num_frames
    return max(alive, pixels * PIXEL_BYTES) if residency.decode == "whole" else alive + pixels * 3


def turning_bytes(pass_: PassPlan, sizes: ModelSizes, residency: Residency) -> float:
    """Return the bytes that convolutions over a whole clip allocate for layouts; over pieces they are few."""
    frame = sizes.vae_channels * pass_.width * pass_.height / 16 * sizes.item_bytes
    return DECODE_TURNED * frame * pass_.num_frames if residency.decode == "whole" else 0.0


def tiles_bytes(sizes: ModelSizes) -> float:
    """Return the bytes that convolutions by tiles allocate: 4 times the largest weight, up to a bound."""
    inputs, outputs = 8 * sizes.vae_channels, 32 * sizes.vae_channels
    return min(CPU_TILES_BYTES, 4 * 27 * inputs * outputs * sizes.item_bytes)


def decode_flops(pass_: PassPlan, sizes: ModelSizes) -> float:
    """Return the operations of the video decoder, summed over its stages from latents to pixels."""
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
class PhasePrice:
    """One stage of the work. device_bytes: all bytes on the device. moved_bytes: those copied to it."""

    name: str
    device_bytes: float
    moved_bytes: float
    seconds: float


@dataclass(frozen=True)
class PassPrice:
    """One run of the loop. moved_bytes, seconds: for one step."""

    name: str
    num_steps: int
    device_bytes: float
    activation_bytes: float
    moved_bytes: float
    seconds: float


@dataclass(frozen=True)
class Price:
    """Peaks of memory, and seconds. On a CPU all memory is the host's and device_bytes is 0."""

    residency: Residency
    device_bytes: float
    host_bytes: float
    seconds: float
    phases: tuple[PhasePrice, ...]
    passes: tuple[PassPrice, ...]


def price(plan: Plan, sizes: ModelSizes, machine: Machine, residency: Residency) -> Price:
    """Return what a plan costs under a policy."""
    return _Pricing(plan, sizes, machine, residency).price()


@dataclass(frozen=True)
class _Pricing:
    plan: Plan
    sizes: ModelSizes
    machine: Machine
    residency: Residency
    held: dict[str, float] = field(default_factory=dict)

    def price(self) -> Price:
        passes = tuple(self._pass(pass_) for pass_ in self.plan.passes)
        windows = [replace(self, plan=clip) for clip in self.plan.made_clips]
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

    def _made(self) -> list[PhasePrice]:
        """Return the phases of one clip, or of one window of a take, up to its latents."""
        passes = [self._pass(pass_) for pass_ in self.plan.passes]
        return [self._encode(), *(self._denoise(p) for p in passes), *self._upsample()]

    # Parts on the device.

    def _transformer(self) -> float:
        """Return the bytes of the transformer on the device while it is used."""
        whole = float(self.sizes.parts.get(TRANSFORMER, 0))
        if not self.residency.streams_blocks or not self.sizes.blocks:
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
        """Return the most bytes of the text parts that are on the device at once."""
        parts = [float(self.sizes.parts.get(part, 0)) for part in TEXT_SIDE]
        policy = self.residency.policy
        if policy == "resident" or (self.machine.kind == "cpu" and policy != "disk"):
            return sum(parts)
        if self.residency.text == "stream" or policy == "disk":
            parts[0] -= sum(self.sizes.text_layers[2:])
        return max(parts)  # they take turns

    def _own(self, phase: str) -> float:
        """Return the bytes of weights within a phase's device_bytes."""
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
        """Return the host bytes of weights kept there, and of the part that is on its way to the device."""
        streamed = sum(self._streamed()) if self.residency.streams_blocks else 0
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
        """Return the host bytes of parts that move as a whole, and of the transformer's blocks that stay."""
        kept = self.sizes.parts.get(TRANSFORMER, 0) - sum(self._streamed())
        others = sum(size for part, size in self.sizes.parts.items() if part != TRANSFORMER)
        return kept + others

    # Phases.

    def _encode(self) -> PhasePrice:
        sizes, tokens = self.sizes, self.plan.text_tokens
        states = STATE_UNITS * tokens * sizes.text_features * sizes.item_bytes
        weights = sum(sizes.parts.get(part, 0) for part in TEXT_SIDE)
        moved = self._arriving(weights)
        flops = 2.0 * weights / sizes.item_bytes * tokens
        return self._phase("encode", self._text() + states, moved, flops)

    def _pass(self, pass_: PassPlan) -> PassPrice:
        work = Work.of(pass_, self.plan.text_tokens)
        activations = activation_bytes(work, self.sizes, self.residency, self.machine.kind)
        machine, from_disk = self.machine, self.residency.policy == "disk"
        rate = machine.disk_bytes_per_s if from_disk else machine.copy_bytes_per_s
        streamed = self._streamed() if self.residency.streams_blocks else []
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

    def _denoise(self, p: PassPrice) -> PhasePrice:
        whole = 0.0 if self.residency.streams_blocks else self._arriving(self.sizes.parts.get(TRANSFORMER, 0))
        seconds = p.num_steps * p.seconds + whole / self.machine.copy_bytes_per_s
        return PhasePrice(p.name, p.device_bytes, whole + p.num_steps * p.moved_bytes, seconds)

    def _upsample(self) -> list[PhasePrice]:
        """Return one phase for all upsamplers of the plan, which work on the last pass's latents."""
        if not any(pass_.upsample for pass_ in self.plan.passes):
            return []
        pass_ = self.plan.passes[-1]
        cells = VideoShape(pass_.num_frames, pass_.height, pass_.width).num_tokens
        alive = UPSAMPLER_UNITS * UPSAMPLER_CHANNELS * cells * self.sizes.item_bytes
        weights = self._weights_of("upsample")
        flops = 2.0 * weights / self.sizes.item_bytes * cells
        return [self._phase("upsample", weights + alive, self._arriving(weights), flops)]

    def _decode(self) -> list[PhasePrice]:
        pass_, phases = _decoded(self.plan), []
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

    def _phase(self, name: str, device_bytes: float, moved: float, flops: float) -> PhasePrice:
        seconds = flops / self.machine.flops_per_s + moved / self.machine.copy_bytes_per_s
        return PhasePrice(name, device_bytes, moved, seconds)


def _added(phases: Sequence[PhasePrice]) -> list[PhasePrice]:
    """Join phases of one name: the most memory of any, the time of all."""
    found: dict[str, PhasePrice] = {}
    for phase in phases:
        before = found.get(phase.name, PhasePrice(phase.name, 0.0, 0.0, 0.0))
        found[phase.name] = PhasePrice(
            phase.name,
            max(before.device_bytes, phase.device_bytes),
            before.moved_bytes + phase.moved_bytes,
            before.seconds + phase.seconds,
        )
    return list(found.values())


def _decoded(plan: Plan) -> PassPlan:
    """Return the last pass as it is decoded: a take's windows are joined before."""
    last = plan.passes[-1]
    return resized(last, last.width, last.height, plan.num_frames) if plan.clips else last


def resized(pass_: PassPlan, width: int, height: int, num_frames: int) -> PassPlan:
    """Return a pass at another size and length, with the tokens of its guides, references and voice.

    A voice is as long as it was. A guide or reference covers as many frames as before, if the pass has them.
    """
    shape = VideoShape(num_frames, height, width)
    before, now = (one.latent[1] * one.latent[2] for one in (pass_.shape, shape))
    most = shape.latent[0]
    added = sum(math.ceil(c.tokens * now / before * min(1.0, most / c.num_latents)) for c in pass_.conditions)
    return replace(
        pass_,
        width=width,
        height=height,
        num_frames=num_frames,
        video_tokens=shape.num_tokens if pass_.video_tokens else 0,
        audio_tokens=math.ceil(pass_.audio_tokens * num_frames / pass_.num_frames),
        added_video=added,
    )
