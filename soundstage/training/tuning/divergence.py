"""Notice a training that diverges, from its losses alone."""

from __future__ import annotations

import math
from typing import Any

DECAY = 0.99
SETTLED = 100  # steps after which the running mean counts
MOST_BROKEN = 10  # steps in a row whose loss is no number


class DivergenceWatch:
    """The running mean of the loss, and the least that it was. notes: where they are kept over a kill."""

    def __init__(self, limit: float | None, notes: dict[str, Any]) -> None:
        """limit: by which share the mean may be above its least; None has no limit."""
        self.limit = limit
        self.notes = notes.setdefault("divergence", {"mean": 0.0, "steps": 0, "least": math.inf, "broken": 0})

    def see(self, loss: float) -> str | None:
        """Take the loss of a step; return why the training should stop, None if it should not."""
        notes = self.notes
        if not math.isfinite(loss):
            notes["broken"] += 1
            if notes["broken"] < MOST_BROKEN:
                return None
            return (
                f"stopped: the loss was no finite number for {MOST_BROKEN} steps; lower optimizer.rate, "
                "and check the dataset with `soundstage dataset check`"
            )
        notes["broken"] = 0
        notes["steps"] += 1
        notes["mean"] += (1 - DECAY) * (loss - notes["mean"])
        mean = notes["mean"] / (1 - DECAY ** notes["steps"])
        if notes["steps"] < SETTLED:
            return None
        notes["least"] = min(notes["least"], mean)
        if self.limit is None or mean <= (1 + self.limit) * notes["least"]:
            return None
        return (
            f"stopped: the mean loss rose to {mean:.4g}, {mean / notes['least'] - 1:.0%} above its least; "
            "take an earlier file, or lower optimizer.rate (stop_above: null never stops)"
        )
