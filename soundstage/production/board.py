"""Show a production on standard error: a live table of its shots, or lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.table import Table

from soundstage.errors import RequestError, num_of, shown
from soundstage.rendering.events import Detail
from soundstage.rendering.screen import Screen, clock

BAR = 16  # letters of a shot's bar
MAX_TITLE = 34
WORKING = ("rendering", "sound", "reviewing")
# What is said of a shot's state; "made" and "kept" become "done" when its take is picked.
WORDS = {"kept": "done already", "sound": "new sound", "blocked": "waits for a shot that failed"}


@dataclass
class BoardRow:
    """A shot on the board. seconds: what its takes of this run took."""

    number: int
    title: str
    state: str = "waiting"
    seed: int | None = None
    fraction: float = 0.0
    phase: str = ""
    left_s: float | None = None
    thumbnail: str = ""
    why: str = ""
    since: float = 0.0


class Board:
    """The shots of a film, kept up to date by the events of a production.

    shown: turns the path of a thumbnail into what is printed of it.
    """

    def __init__(
        self, *, quiet: bool = False, shown: Callable[[str], str] = str, screen: Screen | None = None
    ) -> None:
        self.rows: dict[str, BoardRow] = {}
        self.title = ""
        self._screen = screen or Screen(quiet=quiet)
        self._shown, self._workers = shown, 1
        self._took: list[float] = []
        self._told_done: set[str] = set()
        self._detail = Detail()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._screen)
        self._screen.picture = self.table
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen.is_live and self.rows:
            self._screen.picture = lambda: None
            self._screen.console.print(self.table())
        self._stack.close()

    # --- events

    def heed(self, event: Mapping[str, Any]) -> None:
        """Take in an event."""
        kind = event["event"]
        if kind == "film":
            self.title, self._workers = event["title"], event["workers"]
            self.rows = {shot["id"]: BoardRow(shot["number"], shot["title"]) for shot in event["shots"]}
            self._screen.say(f"{self.title}: {num_of(len(self.rows), 'shot')}, in {event['folder']}")
            self._screen.begin("look at what is there", row=False)
        elif kind == "shot":
            self._shot(event)
        elif kind == "retry":
            self._say_of(event["shot"], f"is made again with seed {event['seed']}: {'; '.join(event['why'])}")
        elif kind == "notice":
            where = f"shot {self.rows[event['shot']].number}: " if event.get("shot") in self.rows else ""
            self._screen.say(f"notice: {where}{event['text']}")
        elif kind == "work":
            if event["fraction"] == 0.0:
                self._detail = Detail(in_percent=True)
                self._screen.begin(event["name"], self._detail)
            self._detail.done, self._detail.total = round(100 * event["fraction"]), 100

    def _shot(self, event: Mapping[str, Any]) -> None:
        row = self.rows[event["shot"]]
        state = event.get("state")
        if "phase" in event:
            self._detail.part, self._detail.done, self._detail.total = (
                event["phase"],
                round(100 * event["fraction"]),
                100,
            )
        for name in ("seed", "fraction", "phase", "left_s", "thumbnail", "why"):
            if name in event:
                setattr(row, name, event[name])
        if "resumed" in event:
            self._say_of(event["shot"], f"goes on with {event['resumed']}")
        if event.get("changed"):
            self._say_of(event["shot"], f"was changed: {', '.join(event['changed'])}")
        if event.get("damaged"):
            again = " and is made again" if state == "queued" else ""
            self._say_of(event["shot"], f"has a take that is not as it was written{again}")
        if event.get("faults"):
            self._say_of(event["shot"], f"with seed {row.seed}: {'; '.join(event['faults'])}")
        if state is not None:
            self._enter(event["shot"], row, state)

    def _enter(self, shot: str, row: BoardRow, state: str) -> None:
        now = time.monotonic()
        if state == "made":
            self._took.append(now - row.since)
        if state in ("rendering", "sound"):
            row.since, row.fraction, row.left_s = now, 0.0, None
        before, row.state = row.state, state
        if self._screen.is_live:
            return
        if state in ("rendering", "sound"):
            self._detail = Detail(in_percent=True)
            name = f"shot {row.number} of {len(self.rows)}, {_word(state)}, seed {row.seed}"
            self._screen.begin(name, self._detail, row=False)
        elif state == "done" and before != "done":
            already = " already" if before == "kept" else ""
            self._screen.say(f"shot {row.number} is done{already}, seed {row.seed}{self._left_words()}")
        elif state == "failed":
            self._screen.say(f"shot {row.number} failed: {row.why}")

    def _say_of(self, shot: str, text: str) -> None:
        self._screen.say(f"shot {self.rows[shot].number} {text}")

    # --- what is shown

    def left_s(self) -> float | None:
        """Return how long the film still takes, by the takes of this run; None before the first."""
        rows = self.rows.values()
        waiting = sum(row.state in ("waiting", "queued") for row in rows)
        under_way = [row.left_s for row in rows if row.state in WORKING and row.left_s is not None]
        if not self._took and not (under_way and not waiting):
            return None
        mean = sum(self._took) / len(self._took) if self._took else 0.0
        return (sum(under_way) + waiting * mean) / self._workers

    def _left_words(self) -> str:
        left = self.left_s()
        return f"; {clock(left)} left" if left else ""

    def table(self) -> Table | None:
        """Return the table of the shots; None before they are known."""
        if not self.rows:
            return None
        done = sum(row.state == "done" for row in self.rows.values())
        table = Table(
            title=f"{self.title}: {done} of {num_of(len(self.rows), 'shot')}{self._left_words()}",
            title_justify="left",
        )
        for name in ("", "shot", "state", "progress", "left", "seed", "thumbnail"):
            table.add_column(name, overflow="fold" if name == "thumbnail" else "ellipsis")
        for row in self.rows.values():
            left = "" if row.left_s is None or row.state not in WORKING else clock(row.left_s)
            seed = "" if row.seed is None else str(row.seed)
            thumbnail = self._shown(row.thumbnail) if row.thumbnail else ""
            state = row.phase if row.state == "rendering" and row.phase else _word(row.state)
            title = row.title if len(row.title) <= MAX_TITLE else f"{row.title[: MAX_TITLE - 3]}..."
            table.add_row(str(row.number), title, state, _bar(row), left, seed, thumbnail)
        return table


@contextmanager
def telling(
    progress: bool | Callable[[dict[str, Any]], object] | None,
) -> Iterator[Callable[[dict[str, Any]], object]]:
    """Give a function that takes the events of a production: to a board, to another function, or nowhere."""
    if progress is True:
        with Board() as board:
            yield board.heed
    elif callable(progress):
        yield progress
    elif progress in (None, False):
        yield lambda event: None
    else:
        raise RequestError(
            f"progress is {shown(progress)}; give True for a table, or a function that takes an event",
            field="progress",
        )


def _word(state: str) -> str:
    return WORDS.get(state, state)


def _bar(row: BoardRow) -> str:
    if row.state in ("waiting", "queued", "blocked", "failed"):
        return ""
    share = 1.0 if row.state == "done" else row.fraction
    full = round(share * BAR)
    return f"{'#' * full}{'-' * (BAR - full)} {share:4.0%}"
