"""States of a job, and which of them are the end, under work, or waiting."""

from __future__ import annotations

from typing import Literal, get_args

JobState = Literal[
    "queued",
    "paused",
    "loading",
    "running",
    "encoding",
    "checking",
    "succeeded",
    "failed",
    "interrupted",
    "cancelled",
]
STATES: tuple[JobState, ...] = get_args(JobState)
FINAL: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})
# A worker has the job.
WORKING: frozenset[JobState] = frozenset({"loading", "running", "encoding", "checking"})
WAITING: frozenset[JobState] = frozenset({"queued", "paused", "interrupted"})

Priority = Literal["low", "normal", "high"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)  # from the last served to the first
