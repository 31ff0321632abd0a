"""Show on standard error what is being done, and that it goes on: rows with clocks, or lines.

In a terminal there is a row for the work under way and bars for what can be counted. On a pipe there is a
line when a work begins; while it lasts a thread prints how far it is, seldom and more seldom, since a step
of a large model may take minutes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from soundstage.rendering.events import Detail

# Seconds without a line on a pipe: at first, the share of those that went by, and at most.
FIRST_S, SHARE, MOST_S = 1.5, 0.1, 30.0
LOOK_S = 0.25  # how often it is looked whether a line is due


class Screen:
    """Shows one thing after the other that is being done. quiet: shows nothing."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)
        self.is_live = not quiet and self.console.is_terminal and not self.console.is_dumb_terminal
        self.picture: Callable[[], RenderableType | None] = lambda: None  # is shown above the rows
        self._quiet = quiet
        self._name = ""
        self._detail: Detail | None = None
        self._began = self._since = self._said = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.rows = _Rows(self)
        self._row = self.rows.add_task("", total=None, start=False, visible=False)

    def __enter__(self) -> Screen:
        self._began = self._said = time.monotonic()
        self.rows.start()
        if not (self._quiet or self.is_live):
            self._thread = threading.Thread(target=self._remind, name="soundstage display", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self.rows.stop()

    def begin(self, name: str, detail: Detail | None = None, *, row: bool = True) -> None:
        """Show that a work begins. detail: how far it is, looked at while it lasts. row: it gets its own."""
        self._name, self._detail, self._since = name, detail, time.monotonic()
        if self.is_live:
            self.rows.reset(self._row, total=None, description=name, visible=row)
        else:
            self.say(f"{name} ...")

    def say(self, text: str) -> None:
        """Print a line; above the rows, where there are some."""
        self._said = time.monotonic()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def look(self) -> None:
        """Draw how far the work is into its row."""
        detail = self._detail
        if detail is not None:
            part = f": {detail.part}" if detail.part else ""
            self.rows.update(
                self._row,
                description=f"{self._name}{part}",
                total=detail.total or None,
                completed=detail.done,
                count=detail.count,
            )

    def _remind(self) -> None:
        while not self._ended.wait(LOOK_S):
            now = time.monotonic()
            if now - self._said >= pause_s(now - self._began):
                self.say(f"{self._told() or 'at work'}, {clock(now - self._since)}")

    def _told(self) -> str:
        """Return what is under way: "load: transformer", "denoise 7/20"."""
        detail = self._detail
        if detail is None:
            return self._name
        part = f": {detail.part}" if detail.part not in ("", self._name) else ""
        return f"{self._name}{part} {detail.count}".rstrip()


class _Rows(Progress):
    """Bars in columns, below a picture if there is one."""

    def __init__(self, display: Screen) -> None:
        self._display = display
        super().__init__(
            TextColumn("{task.description:14}", markup=False),
            BarColumn(),
            _Count(),
            TimeElapsedColumn(),
            _Left(elapsed_when_finished=False),
            console=display.console,
            transient=True,
            disable=not display.is_live,
            redirect_stdout=sys.stdout.isatty(),  # else a result that is printed to a pipe would land here
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        self._display.look()
        picture = self._display.picture()
        if picture is not None:
            yield picture
        yield from super().get_renderables()


class _Count(MofNCompleteColumn):
    """Shows "7/20", or a count in words of its own; nothing where nothing is counted."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text()
        count = task.fields.get("count")
        return super().render(task) if count is None else Text(count, style="progress.download")


class _Left(TimeRemainingColumn):
    """Shows the time that is left; nothing where nothing is counted."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


def pause_s(gone_s: float) -> float:
    """Return how long a pipe goes without a line when so many seconds have gone by."""
    return min(MOST_S, max(FIRST_S, SHARE * gone_s))


def clock(seconds: float) -> str:
    """Return minutes and seconds, 3:05, or with hours, 1:03:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
