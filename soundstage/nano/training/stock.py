"""Keep the latest data of a kind that costs much to make, and draw batches from it.

Encoding a clip takes longer than a step on it. So clips are seen several times, with other noise and other
words, until newer ones take their place: data never end, and no clip comes back once it has gone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from soundstage.nano.training.runs import STRIDE, PartRun
from soundstage.training.batches import Batch
from soundstage.training.workers import Make

MOST_ROWS = 4096  # of a kind
# Share of the time that may go into encoding what workers have drawn.
ENCODING_SHARE = 0.35


@dataclass
class Shelf:
    """Hold rows of one kind. New rows take the places of the oldest."""

    most: int
    columns: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0  # rows there
    place: int = 0  # of the next row

    def add(self, rows: dict[str, Tensor]) -> None:
        number = len(next(iter(rows.values())))
        for name, x in rows.items():
            if name not in self.columns:
                self.columns[name] = x.new_empty(self.most, *x.shape[1:])
        places = (torch.arange(number) + self.place) % self.most
        for name, x in rows.items():
            self.columns[name][places.to(x.device)] = x
        self.place = (self.place + number) % self.most
        self.count = min(self.most, self.count + number)

    def take(self, picks: np.ndarray[tuple[int], np.dtype[np.int64]]) -> dict[str, Tensor]:
        chosen = torch.from_numpy(picks)
        return {name: x.index_select(0, chosen.to(x.device)) for name, x in self.columns.items()}


class Stock:
    """Hold rows by kind. Each has as many chances to be drawn as rows have come of it."""

    def __init__(self, most: int = MOST_ROWS) -> None:
        self.most = most
        self.shelves: dict[str, Shelf] = {}
        self.num_added = 0

    def add(self, rows: Batch) -> None:
        """Put rows in. rows: tensors with one row per clip."""
        self.shelves.setdefault(rows.kind, Shelf(self.most)).add(rows.tensors)
        self.num_added += rows.samples

    def kind(self, rng: np.random.Generator, among: Sequence[str] | None = None) -> str:
        """Return a kind by its number of rows. among: only these, if there are any of them."""
        kinds = [kind for kind in self.shelves if among is None or kind in among] or list(self.shelves)
        counts = np.array([self.shelves[kind].count for kind in kinds], dtype=np.float64)
        return kinds[int(rng.choice(len(kinds), p=counts / counts.sum()))]

    def draw(self, rng: np.random.Generator, kind: str, count: int) -> dict[str, Tensor]:
        """Return `count` rows of a kind, drawn with replacement."""
        shelf = self.shelves[kind]
        return shelf.take(rng.integers(shelf.count, size=count))


class Supply:
    """Fill a stock while it is used."""

    def __init__(self, run: PartRun, make: Make[Batch], finish: Callable[[Batch], Batch]) -> None:
        """finish: brings what a worker has made onto the device and encodes it, where the worker has not."""
        self.stock, self._finish, self._device = Stock(), finish, run.device
        self._feed = run.workers.feed(make, first=STRIDE * run.first, progress=run.progress)
        self._began, self._spent = time.monotonic(), 0.0

    def refresh(self) -> Stock:
        """Return the stock, with what has been made since; wait only for the first rows."""
        now = time.monotonic()
        first = not self.stock.shelves
        if first or (self._feed.ready and self._spent <= ENCODING_SHARE * (now - self._began)):
            self.stock.add(self._finish(next(self._feed)))
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._spent += time.monotonic() - now
        if first:
            self._began, self._spent = time.monotonic(), 0.0
        return self.stock

    def steps(self, key: int, first: int) -> Iterator[tuple[np.random.Generator, Stock]]:
        """Yield random numbers and the stock for every step from number `first` on. key: a part's own."""
        try:
            for step in itertools.count(first):
                yield np.random.default_rng([key, step]), self.refresh()
        finally:
            self._feed.close()
