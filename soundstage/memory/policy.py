"""Policies for weights that are not in use: on the device, in host memory or in their files. Plain data.

memory/offload.py applies a `Residency`; planning/placement.py chooses one for a plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from soundstage.errors import RequestError, listed

Policy = Literal["resident", "offload", "stream", "disk"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True)
class Residency:
    """A policy and its numbers; memory/offload.py applies it.

    Under "disk" a part is read from its files for its turn, the text encoder layer by layer.
    resident_blocks: how many of the transformer's stay on the device under "stream" and "disk". num_slots:
    memory for the others, in blocks. feed_forward_tokens: chunk of the feed-forwards; None is whole.
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
    def streams_blocks(self) -> bool:
        return self.policy in ("stream", "disk")


def policy_named(name: str) -> Policy | None:
    """Return the policy of a name, None for "auto". Raises RequestError for an unknown name."""
    if name == "auto":
        return None
    policy: Policy | None = next((policy for policy in POLICIES if policy == name), None)
    if policy is None:
        raise RequestError(
            f"residency is '{name}'; give one of {listed(str(name), ('auto', *POLICIES))}", field="residency"
        )
    return policy


def spread_evenly(count: int, total: int) -> frozenset[int]:
    """Return `count` of the numbers 0 ... total - 1, as far apart as can be."""
    return frozenset((2 * i + 1) * total // (2 * count) for i in range(min(count, total)))
