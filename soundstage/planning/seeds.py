"""Give a request that has no seed one: its folder's or one that is drawn; seeds of takes and retries."""

from __future__ import annotations

import secrets

from soundstage.request.request import Request
from soundstage.request.take import stored_take

DRAWN_BELOW = 2**31
NUM_SEEDS = 2**63
RETRY_STEP = 1_000_003  # takes of one command have seeds beside each other, and retries none of theirs


def seeded(request: Request) -> Request:
    """Return the request with a seed. One that has a seed is returned as it is."""
    if request.seed is not None:
        return request
    kept = folder_seed(request)
    return with_seed(request, draw_seed() if kept is None else kept)


def draw_seed() -> int:
    """Return a random seed."""
    return secrets.randbelow(DRAWN_BELOW)


def folder_seed(request: Request) -> int | None:
    """Return the seed of the take that was begun in the request's folder; None where there is none."""
    folder = None if request.take is None else request.take.folder
    asked = {} if folder is None else stored_take(folder).get("request")
    seed = asked.get("seed") if isinstance(asked, dict) else None
    return seed if isinstance(seed, int) else None


def seed_of(request: Request) -> int:
    """Return the seed of a request that was given one here."""
    assert request.seed is not None
    return request.seed


def take_seed(seed: int, number: int) -> int:
    """Return the seed of a take that was asked for: the seed itself at 0, then counted up."""
    return (seed + number) % NUM_SEEDS


def retry_seed(seed: int, attempt: int) -> int:
    """Return the seed of an attempt: the seed itself at 0, then RETRY_STEP further each."""
    return (seed + RETRY_STEP * attempt) % NUM_SEEDS


def seeds_above(seed: int, other: int) -> int:
    """Return how far another seed lies above a seed, which orders the takes of a shot."""
    return (other - seed) % NUM_SEEDS


def with_seed(request: Request, seed: int) -> Request:
    """Return the request with another seed."""
    values = {name: getattr(request, name) for name in Request.model_fields}
    return Request(**{**values, "seed": seed})
