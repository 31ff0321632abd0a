"""The memory of a training, worked out from headers before any weight is read, and what makes it fit.

Activations are counted in units, copies of all tokens at the model's width, as planning/cost.py counts those
of inference. What is held for the gradients was measured by counting the bytes of all tensors, with a LoRA on
every attention; tests/unit/test_tuning_memory.py holds the estimate to them. Weights and their places are
those of inference: memory/policy.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from soundstage.dataset.index import EncodedIndex, SampleInfo
from soundstage.errors import RequestError
from soundstage.library.sizes import TRANSFORMER, ModelSizes
from soundstage.memory.machine import Machine
from soundstage.memory.policy import POLICIES, Policy, Residency, spread_evenly
from soundstage.planning.cost import CUDA_CONTEXT_BYTES, FRAGMENTATION, Work, forward_flops
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.groups import rank_of, trained_group
from soundstage.types import VideoShape
from soundstage.weights.layouts import PartTensors
from soundstage.weights.storage import TARGET, bytes_of

GB = 1e9
UNITS_KEPT = 17.5  # by a block whose gradients are to come: see training/recompute.py
UNITS_BETWEEN = 1.0  # by a block that is computed again
UNITS_BACKWARD = 6.0  # while one block's gradients are computed
UNITS_ALL_TRAINED = 2.5  # times those kept and those of the way back, where all weights are trained
TEXT_UNITS = 3.0  # of a block, per token of the prompt
RANKS_KEPT = 10.0  # numbers of a block per rank of a LoRA and token
# Bytes of a trained number: its weight, gradient and average in float32, and what the optimizer keeps.
KEPT_BYTES = 12.0
OPTIMIZER_BYTES = {"adamw": 8.0, "adamw8bit": 2.0, "prodigy": 16.0, "muon": 4.0}
MATRICES = 3.0  # of a block's largest, in scratch
BACKWARD_FORWARDS = 2.0  # the way back, in forwards; a block that is computed again is one more


@dataclass(frozen=True)
class TuningWork:
    """The largest batch of a run: tokens of each kind, and samples. trained: numbers that are trained."""

    video: int
    audio: int
    text: int
    batch: int
    trained: int

    @classmethod
    def of(cls, data: EncodedIndex, config: TrainConfig, trained: int) -> TuningWork:
        """Return the work of the largest samples of a dataset."""
        video = max(_video_tokens(info, config) for info in data.samples)
        audio = max(_audio_tokens(info, config) for info in data.samples)
        return cls(video, audio, data.identity.text_tokens, config.batch, trained)


@dataclass(frozen=True)
class TuningPlace:
    """A place for the weights of a training, and its memory. again: blocks are computed again."""

    sizes: ModelSizes
    residency: Residency
    again: bool
    num_bytes: float

    def __str__(self) -> str:
        blocks = len(self.sizes.blocks) - self.residency.resident_blocks
        where = {
            "resident": "all weights stay there",
            "stream": f"{blocks} of {len(self.sizes.blocks)} blocks come from host memory",
            "disk": f"{blocks} of {len(self.sizes.blocks)} blocks come from their files",
            "offload": "all weights stay there",
        }[self.residency.policy]
        again = "blocks are computed again" if self.again else "activations are kept"
        return f"about {self.num_bytes / GB:.1f} GB: weights {self.sizes.storage}, {where}, {again}"


def trained_numbers(transformer: PartTensors, config: TrainConfig) -> int:
    """Return how many numbers the LoRA of a config has, by the headers of a transformer."""
    found = 0
    for key, stored in transformer.items():
        name, _, kind = key.rpartition(".")
        group = trained_group(name, config) if kind == "weight" and TARGET.match(name) else None
        if group is not None:
            rows, columns = stored.entry.shape
            found += min(rank_of(config.lora, group).rank, rows, columns) * (rows + columns)
    return found


def training_seconds(work: TuningWork, place: TuningPlace, machine: Machine, config: TrainConfig) -> float:
    """Return the seconds that the products of all steps take at a machine's rate."""
    one = Work(work.video, work.audio, work.text, 1, 1)
    forwards = 1 + BACKWARD_FORWARDS + (1 if place.again else 0)
    samples = config.steps * config.batch * config.accumulate
    return samples * forwards * forward_flops(one, place.sizes) / machine.flops_per_s


def _video_tokens(info: SampleInfo, config: TrainConfig) -> int:
    if info.size is None or config.video.stream == "absent":
        return 0
    width, height, frames = info.size
    own = VideoShape(frames, height, width).num_tokens
    beside = own // (info.reference_downscale**2 * info.reference_temporal) if config.video.reference else 0
    return own + beside


def _audio_tokens(info: SampleInfo, config: TrainConfig) -> int:
    if info.num_audio is None or config.audio.stream == "absent":
        return 0
    return info.num_audio * (2 if config.audio.reference else 1)


def tuning_bytes(
    work: TuningWork, sizes: ModelSizes, residency: Residency, config: TrainConfig, *, again: bool, kind: str
) -> float:
    """Return the bytes that a training holds at its peak, on the device or in a CPU's memory."""
    item = sizes.item_bytes
    # About the numbers of the widest matrix of a block; one that is small is widened for its product.
    largest = max(sizes.blocks, default=0) / bytes_of(sizes.storage, item) / 28 * 4
    trained = work.trained * (KEPT_BYTES + OPTIMIZER_BYTES[config.optimizer.name])
    held = 0.0 if config.kind == "full" else _held(sizes, residency, kind)
    kept = activation_bytes(work, sizes, config, again=again)
    return held + trained + kept + MATRICES * largest * item


def activation_bytes(work: TuningWork, sizes: ModelSizes, config: TrainConfig, *, again: bool) -> float:
    """Return the bytes of activations, at most, while a batch's gradients are computed."""
    item, blocks = sizes.item_bytes, max(1, len(sizes.blocks))
    unit = work.batch * (work.video * sizes.width + work.audio * sizes.audio_width) * item
    text = work.batch * work.text * (sizes.width + sizes.audio_width) * item
    inside, back = UNITS_KEPT * unit + TEXT_UNITS * text, UNITS_BACKWARD * unit
    if config.kind == "full":
        inside, back = UNITS_ALL_TRAINED * inside, UNITS_ALL_TRAINED * back
    else:
        inside += RANKS_KEPT * config.lora.rank * work.batch * (work.video + work.audio) * item
    return back + (blocks * UNITS_BETWEEN * unit + inside if again else blocks * inside)


def _held(sizes: ModelSizes, residency: Residency, kind: str) -> float:
    """Return the bytes of the frozen transformer where it is computed."""
    whole = float(sizes.parts.get(TRANSFORMER, 0))
    if not residency.streams_blocks or not sizes.blocks:
        return whole
    streamed = _streamed(sizes, residency)
    slots = min(residency.num_slots, len(streamed)) * max(streamed, default=0)
    homes = sum(streamed) if kind == "cpu" and residency.policy == "stream" else 0
    return whole - sum(streamed) + slots + homes


def _streamed(sizes: ModelSizes, residency: Residency) -> list[int]:
    stay = spread_evenly(residency.resident_blocks, len(sizes.blocks))
    return [size for number, size in enumerate(sizes.blocks) if number not in stay]


def _at_home(sizes: ModelSizes, residency: Residency) -> int:
    """Return the bytes of host memory that streamed blocks take."""
    return sum(_streamed(sizes, residency))


def places(
    work: TuningWork, held: Sequence[ModelSizes], machine: Machine, config: TrainConfig
) -> Iterator[TuningPlace]:
    """Yield the places that a config allows, the fastest first."""
    agains = {"auto": (False, True), "blocks": (True,), "none": (False,)}[config.checkpointing]
    for sizes in held:
        for residency in _residencies(config, len(sizes.blocks)):
            if residency.streams_blocks and sizes.storage == "nf4":
                continue
            for again in agains:
                if residency.streams_blocks and not again:
                    continue  # a streamed block is always computed again
                if residency.policy == "stream" and _at_home(sizes, residency) > machine.host_bytes:
                    continue
                num_bytes = tuning_bytes(work, sizes, residency, config, again=again, kind=machine.kind)
                whole = num_bytes + (machine.process_bytes if machine.kind == "cpu" else 0.0)
                if machine.kind == "cuda":
                    whole = FRAGMENTATION * whole + CUDA_CONTEXT_BYTES
                yield TuningPlace(sizes, residency, again, whole)


def _residencies(config: TrainConfig, blocks: int) -> Iterator[Residency]:
    asked: tuple[Policy, ...] = ("resident", "stream", "disk")
    if config.residency != "auto":
        asked = tuple(policy for policy in POLICIES if policy == config.residency)
    for policy in asked:
        if policy == "resident":
            yield Residency()
        elif config.kind == "lora":
            steps = sorted({blocks * part // 8 for part in range(8)}, reverse=True)
            yield from (Residency(policy, resident_blocks=count) for count in steps)


def choose_place(
    work: TuningWork, held: Sequence[ModelSizes], machine: Machine, config: TrainConfig
) -> TuningPlace:
    """Return the fastest place that fits the machine.

    Raises RequestError where none does, with what would have to change.
    """
    room = machine.host_bytes if machine.kind == "cpu" else machine.device_bytes
    found = list(places(work, held, machine, config))
    fitting = next((place for place in found if place.num_bytes <= room), None)
    if fitting is not None:
        return fitting
    least = min(place.num_bytes for place in found)
    told = _changes(work, held, machine, config, room)
    raise RequestError(
        f"memory: this training needs at least {least / GB:.1f} GB on {machine.name}, of which "
        f"{room / GB:.2g} may be used; {told}",
        field="memory_gb",
    )


def _changes(
    work: TuningWork, held: Sequence[ModelSizes], machine: Machine, config: TrainConfig, room: float
) -> str:
    """Return what makes a training fit: the first changes of this order that do, added up."""
    steps: list[tuple[str, TrainConfig, TuningWork]] = []
    now, less = config, work

    def add(words: str, changed: TrainConfig, fewer: TuningWork) -> None:
        nonlocal now, less
        now, less = changed, fewer
        steps.append((words, changed, fewer))

    if config.checkpointing == "none":
        add("checkpointing: blocks", replace(now, checkpointing="blocks"), less)
    if config.batch > 1:
        add("batch: 1 with accumulate", replace(now, batch=1), replace(less, batch=1))
    if config.optimizer.name != "adamw8bit" and machine.kind == "cuda":
        smaller = replace(now.optimizer, name="adamw8bit")
        add("optimizer.name: adamw8bit", replace(now, optimizer=smaller), less)
    if config.residency == "resident":
        add("residency: auto", replace(now, residency="auto"), less)
    if config.kind == "lora" and config.lora.rank > 8:
        share = 8 / config.lora.rank
        add("lora.rank: 8", now, replace(less, trained=int(less.trained * share)))
    for percent in (75, 50, 25):
        add(f"clips of {percent} % of the tokens", now, replace(less, video=work.video * percent // 100))
    for number, (_, changed, fewer) in enumerate(steps):
        if any(place.num_bytes <= room for place in places(fewer, held, machine, changed)):
            words = [words for words, _, _ in steps[: number + 1] if "tokens" not in words]
            words += [steps[number][0]] if "tokens" in steps[number][0] else []
            return f"what fits: {', '.join(words)}"
    told = "no smaller clip or rank fits either"
    return f"{told}; weights in fp8 may come from host memory" if config.weights == "nf4" else told
