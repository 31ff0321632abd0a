"""Step caches: leave most blocks out on steps that change little, at a measured loss. Off by default.

From step to step the blocks add much the same to the tokens. A cache keeps their sum and adds it again while
a measure, the sign, says that little has changed. One decision is made for both streams, from the one that
changed more. Every guidance pass has its own memory, and a new run starts with none.

first-block: the first block is always run; the sign is the change of what it adds since the last full
forward. teacache: no block is run; the sign is the sum, since the last full forward, of the changes of the
first block's input. Both are relative sums of magnitudes.
Source: TeaCache (Liu et al. 2024); docs/model/sampling.md, "Step caches".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field

from soundstage.errors import near_first, shown
from soundstage.fields.record import Share, record

if TYPE_CHECKING:
    from torch import Tensor

    from soundstage.model.transformer import BlockStack, Shortcut

    Pair = tuple[Tensor | None, Tensor | None]

CacheKind = Literal["first-block", "teacache"]
KINDS = get_args(CacheKind)
# Float32 copies of a level lie this close to it.
ROUNDING = 1e-6


@record
class StepCache:
    """Hold the settings of a step cache."""

    kind: CacheKind = "first-block"
    """How a small change is seen: first-block runs the first block and looks at what it adds; teacache runs
    no block and looks at the input of the first."""
    threshold: Annotated[float, Field(ge=0, lt=10)] = 0.05
    """The change below which blocks are left out: more is faster and further off, 0 leaves out none."""
    start: Share = 0.15
    """The share of steps, from the first, that are always made in full, at least one. The last step always
    is."""
    coefficients: tuple[float, ...] = (1.0, 0.0)
    """A polynomial, highest power first, that turns the change teacache sees into the change to expect of the
    result; the default takes it as it is."""

    @staticmethod
    def from_text(text: str) -> dict[str, str]:
        """Return the fields of "first-block" or "teacache", or of one with a threshold, "teacache:0.1".

        Raises ValueError for another name.
        """
        kind, _, threshold = text.strip().lower().replace("_", "-").partition(":")
        if kind not in KINDS:
            names = " or ".join(near_first(kind, KINDS))
            raise ValueError(
                f"cache is {shown(text)}; give {names}, or with a threshold, such as {KINDS[0]}:0.1"
            )
        return {"kind": kind, "threshold": threshold} if ":" in text else {"kind": kind}

    def levels(self, sigmas: Sequence[float]) -> tuple[float, float]:
        """Return (above, up to), the noise levels at which blocks may be left out; none if not rising."""
        steps = len(sigmas) - 1
        return sigmas[-2], sigmas[min(steps, max(1, round(self.start * steps)))]

    def __str__(self) -> str:
        return f"{self.kind} at {self.threshold:g}"


class StepCaches:
    """Hold the caches of one run, one for each guidance pass, and the number of blocks left out.

    sigmas: the list of the run. A second prediction within a step counts by its own level.
    """

    def __init__(self, settings: StepCache, sigmas: Sequence[float]) -> None:
        self.settings = settings
        self.blocks_left_out = 0
        self.blocks_in_all = 0
        self._lowest, self._highest = settings.levels(sigmas)
        self._memories: dict[str, _Memory] = {}

    @property
    def share_left_out(self) -> float:
        """Return the share of blocks left out, over all forwards, 0 to 1."""
        return self.blocks_left_out / max(1, self.blocks_in_all)

    def memory(self) -> dict[str, Any]:
        """Return what is kept from step to step, as names, tensors, numbers and lists."""
        memories = {kind: vars(memory) for kind, memory in self._memories.items()}
        counts = [self.blocks_left_out, self.blocks_in_all]
        return {"counts": counts, "memories": {kind: dict(fields) for kind, fields in memories.items()}}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on with what the caches of the same run had kept."""
        self.blocks_left_out, self.blocks_in_all = memory["counts"]
        for kind, fields in memory["memories"].items():
            self._memories[kind] = made = _Memory()
            made.enabled = (fields["enabled"][0], fields["enabled"][1])
            made.sign, made.added = (_pair(fields[name]) for name in ("sign", "added"))
            made.change = fields["change"]

    def shortcut(self, kind: str, sigma: float) -> Shortcut:
        """Return the shortcut for a forward of the pass `kind` at a noise level."""
        memory = self._memories.setdefault(kind, _Memory())
        may_skip = self._lowest + ROUNDING < sigma <= self._highest + ROUNDING
        run = _first_block if self.settings.kind == "first-block" else _teacache

        def shortcut(stack: BlockStack, xv: Tensor | None, xa: Tensor | None) -> Pair:
            if memory.enabled != stack.enabled:  # the blocks did not update the other stream
                memory.forget(stack.enabled)
            made, left_out = run(self.settings, memory, may_skip, stack, (xv, xa))
            self.blocks_in_all += len(stack)
            self.blocks_left_out += left_out
            return made

        return shortcut


class _Memory:
    """Keep for one pass the sign it compares with, the blocks' last sum, and the summed changes."""

    def __init__(self) -> None:
        self.forget((False, False))

    def forget(self, enabled: tuple[bool, bool]) -> None:
        self.enabled = enabled
        self.sign: Pair | None = None
        self.added: Pair | None = None
        self.change = 0.0


def _first_block(
    settings: StepCache, memory: _Memory, may_skip: bool, stack: BlockStack, x: Pair
) -> tuple[Pair, int]:
    """Return the streams after all blocks, and the number of blocks left out."""
    first = stack.run(*x, 0, 1)
    sign = _minus(first, x)
    if may_skip and memory.sign is not None and memory.added is not None:
        memory.change = _change(sign, memory.sign)
        if memory.change < settings.threshold:
            return _plus(first, memory.added), len(stack) - 1
    made = stack.run(*first, 1)
    memory.sign, memory.added = sign, _minus(made, first)
    return made, 0


def _teacache(
    settings: StepCache, memory: _Memory, may_skip: bool, stack: BlockStack, x: Pair
) -> tuple[Pair, int]:
    sign = stack.entry(*x)
    if memory.sign is not None:
        memory.change += _polynomial(settings.coefficients, _change(sign, memory.sign))
    memory.sign = sign
    if may_skip and memory.added is not None and memory.change < settings.threshold:
        return _plus(x, memory.added), len(stack)
    made = stack.run(*x)
    memory.added, memory.change = _minus(made, x), 0.0
    return made, 0


def _polynomial(coefficients: Sequence[float], x: float) -> float:
    total = 0.0
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


def _change(new: Pair, old: Pair) -> float:
    """Return the larger of the two streams' sums of |new - old| over sums of |old|."""
    changes = [0.0]
    for a, b in zip(new, old, strict=True):
        if a is not None and b is not None:
            changes.append(float((a.float() - b.float()).abs().sum() / (b.float().abs().sum() + 1e-12)))
    return max(changes)


def _pair(values: Sequence[Tensor | None] | None) -> Pair | None:
    return None if values is None else (values[0], values[1])


def _minus(a: Pair, b: Pair) -> Pair:
    video, audio = (None if x is None or y is None else x - y for x, y in zip(a, b, strict=True))
    return video, audio


def _plus(a: Pair, b: Pair) -> Pair:
    video, audio = (None if x is None or y is None else x + y for x, y in zip(a, b, strict=True))
    return video, audio


@dataclass(frozen=True)
class CacheReport:
    """Tell the error that a cache makes and the work it saves.

    video_error, audio_error: the norm of the difference over that of the exact latents, None for an absent
    stream. share_left_out: the share of all blocks, 0 to 1.
    """

    video_error: float | None
    audio_error: float | None
    share_left_out: float


def measure(run: Callable[[StepCaches | None], Pair], caches: StepCaches) -> CacheReport:
    """Make the same clip without and with a cache, and compare the latents.

    run: a whole run with one seed, given the caches to use, that returns both streams' final latents.
    """
    exact, cached = run(None), run(caches)
    video, audio = (
        None if a is None or b is None else float((b.float() - a.float()).norm() / a.float().norm())
        for a, b in zip(exact, cached, strict=True)
    )
    return CacheReport(video, audio, caches.share_left_out)
