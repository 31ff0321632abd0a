"""The choice of a policy for a plan on a machine: the fastest that fits, its reason, and else what would fit.

choice = choose_placement(plan, model, device="cuda", item_bytes=2)   # RequestError if nothing fits
print(choice.reason, choice.price.device_bytes)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from soundstage.errors import RequestError
from soundstage.library.model_files import ModelSet
from soundstage.library.sizes import ModelSizes, model_sizes
from soundstage.memory.machine import Machine, this_machine
from soundstage.memory.policy import Policy, Residency
from soundstage.planning.cost import CUDA_CONTEXT_BYTES, FRAGMENTATION, STATES_RESERVE, Price, price, resized
from soundstage.planning.plan import Plan
from soundstage.types import SPACE_SCALE, TIME_SCALE
from soundstage.weights.storage import Storage

log = logging.getLogger("soundstage.planning")
GB = 1e9
CHUNK_TOKENS = 4096  # feed-forward chunk where memory is short


@dataclass(frozen=True)
class Choice:
    """The policy that was chosen, its price, and the reason in a sentence.

    process_bytes: the part of the price's host_bytes that is no weights. weights: how the transformer is
    held.
    """

    price: Price
    reason: str
    process_bytes: float = 0.0
    weights: Storage = "full"

    @property
    def residency(self) -> Residency:
        return self.price.residency

    def to_dict(self) -> dict[str, Any]:
        """Return the choice and its price as JSON-ready values."""
        return {"reason": self.reason, "weights": self.weights, **asdict(self.price)}

    def __str__(self) -> str:
        phases = (
            f"  {phase.name}: {phase.device_bytes / GB:.1f} GB, about {phase.seconds:.0f} s"
            for phase in self.price.phases
        )
        total = f"  in all: about {self.price.seconds:.0f} s of computing and reading"
        return "\n".join([f"weights   {self.weights}", f"memory    {self.reason}", *phases, total])


def choose_placement(
    plan: Plan,
    model: ModelSet,
    device: str,
    item_bytes: int,
    policy: Policy | None = None,
    *,
    storage: Storage | None = None,
    limit_bytes: float = math.inf,
    process_bytes: float | None = None,
    kept: tuple[Storage, Residency] | None = None,
) -> Choice:
    """Choose where a model's weights are for a plan, from headers and free memory, before anything is loaded.

    item_bytes: bytes of one number in the run's format. policy: the one to use, None for the fastest that
    fits. storage: how the transformer is held, None for `storage.candidates`. limit_bytes: the most memory to
    use. process_bytes: memory held besides weights, if some weights are loaded already. kept: how these are
    held, which stays so if the plan fits.

    Raises RequestError, with the nearest sizes that fit, if the plan fits under no policy, and for "stored"
    with files that are not 8-bit.
    """
    machine = this_machine(device).limited(limit_bytes)
    if process_bytes is not None:
        machine = replace(machine, process_bytes=process_bytes)
    choice = choose_held(plan, model_sizes(model, item_bytes, storage), machine, policy, kept=kept)
    log.info("memory: %s; weights %s", choice.reason, choice.weights)
    return choice


def choose(
    plan: Plan,
    sizes: ModelSizes,
    machine: Machine,
    policy: Policy | None = None,
    *,
    kept: Residency | None = None,
) -> Choice:
    """Choose the fastest policy that fits the free memory, or the fastest form of the one asked for.

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
    """Return the residencies that leave weights where they are: as kept, with each way to decode."""
    pieces = replace(kept, decode="pieces")
    return [pieces] if machine.kind == "cpu" else [replace(kept, decode="whole"), pieces]


def choose_held(
    plan: Plan,
    held: Sequence[ModelSizes],
    machine: Machine,
    policy: Policy | None = None,
    *,
    kept: tuple[Storage, Residency] | None = None,
) -> Choice:
    """Choose for the first way to hold the transformer that fits.

    held: sizes for each way, the one wanted most first. kept: how weights are now. Which way it is depends on
    the plan and the machine only, never on what was made before: it may change the numbers of a clip. Raises
    RequestError as `choose` does for the last.
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


def _chosen(plan: Plan, sizes: ModelSizes, machine: Machine, policy: Policy) -> Choice:
    forms = [form for form in _candidates(sizes, machine) if form.policy == policy]
    prices = [price(plan, sizes, machine, form) for form in forms or [Residency(policy)]]
    found = next((p for p in prices if fits(p, machine)), prices[-1])
    reason = f"{_reason(found, plan, sizes, machine)}; asked for"
    return Choice(found, reason, machine.process_bytes, sizes.storage)


def _fitting(plan: Plan, sizes: ModelSizes, machine: Machine) -> Price | None:
    for residency in _candidates(sizes, machine):
        found = price(plan, sizes, machine, residency)
        if fits(found, machine):
            return found
    return None


def fits(found: Price, machine: Machine) -> bool:
    room = machine.kind == "cpu" or found.device_bytes <= machine.device_bytes
    return room and found.host_bytes <= machine.host_bytes


def _candidates(sizes: ModelSizes, machine: Machine) -> list[Residency]:
    """Return all residencies, from the fastest to the thriftiest.

    Pieces and chunks round otherwise, so they come late. A CPU decodes in pieces always: it is no slower
    there, and a clip has the same bits under every policy.
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


def _reason(found: Price, plan: Plan, sizes: ModelSizes, machine: Machine) -> str:
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


# --- what would fit --------------------------------------------------------------------------------------


def _resized(plan: Plan, space: float, num_frames: int) -> Plan:
    """Return a plan at another size and length; only the size of a take changes."""
    length = plan.passes[-1].num_frames
    passes = tuple(
        resized(
            pass_, _side(pass_.width * space), _side(pass_.height * space),
            _frames(pass_.num_frames * num_frames / length),
        )
        for pass_ in plan.passes
    )  # fmt: skip
    clips = tuple(_resized(clip, space, clip.passes[-1].num_frames) for clip in plan.clips)
    whole = plan.num_frames if clips else passes[-1].num_frames
    return replace(plan, passes=passes, clips=clips, num_frames=whole)


def _side(pixels: float) -> int:
    return max(SPACE_SCALE, int(pixels) // SPACE_SCALE * SPACE_SCALE)


def _frames(count: float) -> int:
    return max(0, int(count) - 1) // TIME_SCALE * TIME_SCALE + 1


def nearest_fitting(plan: Plan, sizes: ModelSizes, machine: Machine) -> list[str]:
    """Return the largest smaller size at this length, and the longest shorter length at this size.

    Both fit the machine. The length of a take in windows is not made shorter: its windows decide the memory.
    """
    last, found = plan.passes[-1], []
    for percent in range(95, 5, -5):
        smaller = _resized(plan, percent / 100, last.num_frames)
        if _fits_at_all(smaller, sizes, machine):
            end = smaller.passes[-1]
            found.append(f"{end.width}x{end.height} at {plan.num_frames} frames")
            break
    for frames in _shorter(last.num_frames) if not plan.clips else ():
        if _fits_at_all(_resized(plan, 1.0, frames), sizes, machine):
            found.append(f"{last.width}x{last.height} at {frames} frames")
            break
    return found


def _shorter(num_frames: int) -> list[int]:
    """Return about twenty lengths below this one, all 8k + 1."""
    return sorted({_frames(num_frames * part / 20) for part in range(1, 20)} - {num_frames}, reverse=True)


def _fits_at_all(plan: Plan, sizes: ModelSizes, machine: Machine) -> bool:
    """Return whether some policy fits; only the thriftiest need to be tried."""
    thrifty = [r for r in _candidates(sizes, machine) if r.resident_blocks == 0]
    return any(fits(price(plan, sizes, machine, r), machine) for r in thrifty)


def _refusal(plan: Plan, sizes: ModelSizes, machine: Machine) -> str:
    last = plan.passes[-1]
    prices = [price(plan, sizes, machine, r) for r in _candidates(sizes, machine) if r.resident_blocks == 0]
    found = nearest_fitting(plan, sizes, machine)
    instead = f"what fits: {', or '.join(found)}" if found else "no smaller size fits either"
    return (
        f"size is {last.width}x{last.height} at {plan.num_frames} frames, which {sizes.name} cannot make "
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
