"""Findings: what is wrong or doubtful about a dataset, in one form for scan, check and encode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

ShowShare = Callable[[float], None]  # is called with the share of a work that is done
FindingLevel = Literal["error", "warning", "notice"]
NUM_TOLD = 5


@dataclass(frozen=True)
class DataFinding:
    """One finding.

    kind: a short name for programs. item: the id or the place of what it is about, "" for all of them.
    level: an error keeps an item from being encoded; a warning may hurt training; a notice is to be known.
    """

    kind: str
    message: str
    item: str = ""
    level: FindingLevel = "warning"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def placed(place: str, error: Exception) -> str:
    """Return what an error says behind the place it is about, named once."""
    sentence = str(error)
    return sentence if sentence.startswith(place) else f"{place}: {sentence}"


def told(findings: Iterable[DataFinding]) -> str:
    """Return the first few findings in one sentence."""
    found = [finding.message for finding in findings]
    more = [f"and {len(found) - NUM_TOLD} more"] if len(found) > NUM_TOLD else []
    return "; ".join([*found[:NUM_TOLD], *more])
