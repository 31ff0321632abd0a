"""Tables of fields in the docs, written from the fields: `python -m soundstage.fields.tables docs/*.md`.

A page says where a table belongs, and of which record:

    <!-- fields of soundstage.request.take.Take -->
    | field | meaning | takes | default |
    ...
    <!-- end of fields -->
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from soundstage.fields.describe import field_help, field_names

_TABLE = re.compile(r"<!-- fields of ([\w.]+)\.(\w+) -->\n.*?<!-- end of fields -->", re.DOTALL)


def field_table(owner: type) -> str:
    """Return the Markdown table of a record's fields."""
    rows = ["| field | meaning | takes | default |", "|---|---|---|---|"]
    for name in field_names(owner):
        told = field_help(owner, name)
        default = "must be given" if told.required else told.default_text
        cells = [f"`{name}`", told.meaning, told.takes, default]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def with_tables(page: str) -> str:
    """Return a page with each of its tables written anew."""

    def table(found: re.Match[str]) -> str:
        module, name = found.groups()
        rows = field_table(getattr(importlib.import_module(module), name))
        return f"<!-- fields of {module}.{name} -->\n{rows}\n<!-- end of fields -->"

    return _TABLE.sub(table, page)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text()))
