"""Tables in the docs, written from the code: `python -m soundstage.fields.tables docs/*.md`.

A page says where a table belongs, and of which record; or of which records, by a function that returns them,
with the fields to show:

    <!-- table of soundstage.request.take.Take -->
    | field | meaning | takes | default |
    ...
    <!-- end of table -->

    <!-- table of soundstage.request.recipes.shipped: name, summary, best_for -->
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from soundstage.fields.describe import field_help, field_names

_TABLE = re.compile(
    r"(<!-- table of ([\w.]+)\.(\w+)(?:: ([\w, ]+))? -->)\n.*?<!-- end of table -->", re.DOTALL
)


def field_table(owner: type) -> str:
    """Return the Markdown table of a record's fields."""
    rows = [field_help(owner, name) for name in field_names(owner)]
    return _markdown(
        ("field", "meaning", "takes", "default"),
        [
            (row.path, row.meaning, row.takes, "must be given" if row.required else row.default_text)
            for row in rows
        ],
    )


def value_table(records: Iterable[Any], columns: Sequence[str]) -> str:
    """Return the Markdown table of some fields of several records. columns: names of the fields."""
    rows = [[str(getattr(record, name)) for name in columns] for record in records]
    return _markdown([name.replace("_", " ") for name in columns], rows)


def with_tables(page: str) -> str:
    """Return a page with each of its tables written anew."""

    def table(found: re.Match[str]) -> str:
        head, module, name, columns = found.groups()
        subject = getattr(importlib.import_module(module), name)
        made = value_table(subject(), columns.split(", ")) if columns else field_table(subject)
        return f"{head}\n{made}\n<!-- end of table -->"

    return _TABLE.sub(table, page)


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the first cell of a row is a name."""
    named = ([f"`{name}`", *cells] for name, *cells in rows)
    lines = [heads, ["---"] * len(heads), *named]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text()))
