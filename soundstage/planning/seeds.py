"""Give a request that has no seed one: that of its take's folder, else one that is drawn."""

from __future__ import annotations

import secrets

from soundstage.request.request import Request
from soundstage.request.take import stored_take

DRAWN_BELOW = 2**31


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


def with_seed(request: Request, seed: int) -> Request:
    """Return the request with another seed."""
    values = {name: getattr(request, name) for name in Request.model_fields}
    return Request(**{**values, "seed": seed})
