"""Limits of a server: its queue, quotas, leases and how long files are kept."""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86_400.0


@dataclass(frozen=True)
class Limits:
    """Numbers that a server's operator may change. Times are in seconds; None is no limit."""

    max_queued: int = 2000
    """Jobs that may wait in all."""
    max_queued_per_owner: int = 1000
    """Jobs of one owner that may wait."""
    quota_s: float | None = None
    """Seconds of a device that one owner may use within quota_window_s, waiting jobs included."""
    quota_window_s: float = DAY_S
    """The window of the quota, which moves with the time."""
    lease_s: float = 20.0
    """How long a worker may be silent before its job is taken from it."""
    renew_s: float = 2.0
    """How often a worker reports at least."""
    cancel_s: float = 20.0
    """How long a worker may take to stop a cancelled job; then it is cancelled without the worker."""
    silent_s: float = 30.0
    """How long a worker that the server has started may be silent before it is replaced."""
    lost_retries: int = 1
    """How often a job begins again after its worker died without a new checkpoint."""
    affinity_s: float = 120.0
    """How long a job may wait while others that share the warm model and adapters go before it."""
    fair_window_s: float = 3600.0
    """Seconds of device time that are looked back at for the fair share."""
    fair_grain_s: float = 10.0
    """Owners whose use differs by less are served by age."""
    keep_results_s: float | None = 30 * DAY_S
    """How long a finished job and its files are kept."""
    keep_inputs_s: float | None = 7 * DAY_S
    """How long an input is kept that no job refers to."""
    keep_bytes: int | None = None
    """Bytes of all files; beyond them the oldest finished jobs are deleted."""
    keep_traces_s: float = 7 * DAY_S
    """How long a deleted job is known as deleted, and a webhook's delivery is listed."""
    idempotency_s: float = DAY_S
    """How long an idempotency key is remembered."""
    max_duration_s: float | None = None
    """Longest clip that is taken."""
    max_train_steps: int | None = None
    """Most steps of a training; 0 takes no training."""
