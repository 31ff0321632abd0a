"""Print results: tables, and JSON for programs."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

NARROWEST = 60  # columns of a table; a narrower window wraps its lines


def print_table(table: Any) -> None:
    """Print a table of rich's. Raises BrokenPipeError if the reader has closed the pipe."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = Output()
    console.width = max(console.width, NARROWEST)
    console.print(table)


def print_rows(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as a table below their titles."""
    from rich.table import Table

    table = Table(*titles)
    for row in rows:
        table.add_row(*row)
    print_table(table)


def json_text(data: Any, indent: int | None = None) -> str:
    """Return data as JSON. Bytes of a file name that are not UTF-8 become Python's escapes."""
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def rounded_time(seconds: float) -> str:
    """Return "9 s", "4 min", "2.5 h"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
