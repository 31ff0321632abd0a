"""The order of the rooms, held by tests/unit/test_imports.py and printed in docs/architecture.md.

python -m tests.house    # writes the table of rooms into the page
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "soundstage"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->\n", "<!-- end -->"

# From the bottom up; a room may import those on the levels below and itself. Rooms of one level may not mix.
ORDER: list[set[str]] = [
    {"errors", "types"},
    {"fields"},
    {"files", "model", "prompts"},
    {"media", "sampling", "weights"},
    {"control"},
    {"conditioning", "lora", "memory", "request", "text"},
    {"library", "speed", "writing"},
    {"clip", "planning"},
    {"conversion", "editing", "enhancing", "rendering", "review", "steering"},
    {"engine"},
    {"dataset"},
    {"compat", "diagnostics", "training"},
    {"jobs"},
    {"intake"},
    {"continuous", "nano", "production"},
    {"client", "server", "studio"},
    {"assistants"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def room_of(path: Path) -> str:
    """Return the room of a file of the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_table() -> str:
    """Return the table of rooms, from the bottom up, with each room's own first sentence and its files."""
    rows = ["| level | room | what it holds | files |", "|---|---|---|---|"]
    for level, rooms in enumerate(ORDER):
        for room in sorted(rooms):
            folder = PACKAGE / room
            source = folder / "__init__.py" if folder.is_dir() else PACKAGE / f"{room}.py"
            name = f"`{room}/`" if folder.is_dir() else f"`{room}.py`"
            rows.append(f"| {level} | {name} | {_purpose(source)} | {_files(folder)} |")
    return "\n".join(rows) + "\n"


def _purpose(source: Path) -> str:
    told = ast.get_docstring(ast.parse(source.read_text())) or ""
    return " ".join(told.partition("\n\n")[0].split()).replace("|", "\\|")


def _files(folder: Path) -> str:
    names = [
        f"`{path.name}/`" if path.is_dir() else f"`{path.stem}`"
        for path in sorted(folder.iterdir() if folder.is_dir() else [])
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")
    ]
    return " ".join(names)


def with_rooms(page: str) -> str:
    """Return the page with the table of rooms as it is now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{rooms_table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_rooms(PAGE.read_text()))
