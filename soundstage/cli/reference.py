"""Write the page of commands from their help: `python -m soundstage.cli.reference > docs/cli.md`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from soundstage.cli.options import GROUPS
from soundstage.cli.program import app

WIDTH = 96
REMOTE = "soundstage remote "
HEAD = """# Commands

Written by `make docs` from the commands' own help; a test holds the two together.
"""


def reference() -> str:
    """Return every command's help as Markdown, subcommands after their group."""
    return HEAD + "".join(_pages(app, "soundstage", None))


def _pages(command: Any, name: str, parent: Any) -> Iterator[str]:
    with command.make_context(
        name.split()[-1],
        [],
        parent=parent,
        resilient_parsing=True,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
    ) as context:
        text = command.get_help(context)
        lines = "\n".join(line.rstrip() for line in text.splitlines())
        if name.startswith(REMOTE):
            lines = _without_groups(lines, f"soundstage {name.removeprefix(REMOTE)}")
        yield f"\n## {name}\n\n```\n{lines}\n```\n"
        for child in command.list_commands(context) if hasattr(command, "list_commands") else ():
            yield from _pages(command.get_command(context, child), f"{name} {child}", context)


def _without_groups(text: str, local: str) -> str:
    """Return the help of a command of `remote` without the options that the local command has too."""
    found = re.search(rf"^({'|'.join(map(re.escape, GROUPS))}):$", text, re.M)
    if found is None:
        return text
    return f"{text[: found.start()]}And what the clip is, by the options of `{local}`."


if __name__ == "__main__":
    print(reference(), end="")
