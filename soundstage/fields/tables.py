"""Tables in the docs, written from the code: `python -m soundstage.fields.tables docs/*.md`.

A page says where a table belongs, and of which record, or which function returns it:

    <!-- table of soundstage.request.take.Take -->
    | field | meaning | takes | default |
    ...
    <!-- end of table -->
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from soundstage.fields.describe import field_help, field_names

_TABLE = re.compile(r"<!-- table of ([\w.]+)\.(\w+) -->\n.*?<!-- end of table -->", re.DOTALL)


def field_table(owner: type) -> str:
    """Return the Markdown table of a record's fields."""
    rows = [field_help(owner, name) for name in field_names(owner)]
    return markdown_table(
        ("field", "meaning", "takes", "default"),
        [
            (f"`{row.path}`", row.meaning, row.takes, "must be given" if row.required else row.default_text)
            for row in rows
        ],
    )


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. rows: one cell for each head."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def with_tables(page: str) -> str:
    """Return a page with each of its tables written anew."""

    def table(found: re.Match[str]) -> str:
        module, name = found.groups()
        subject = getattr(importlib.import_module(module), name)
        rows = field_table(subject) if isinstance(subject, type) else subject()
        return f"<!-- table of {module}.{name} -->\n{rows}\n<!-- end of table -->"

    return _TABLE.sub(table, page)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text()))
