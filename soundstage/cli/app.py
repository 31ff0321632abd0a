"""What all groups of commands have in common."""

import json
import re
from typing import Any

# Settings of a typer.Typer: errors in one sentence, help as it is written, and -h for it.
PLAIN: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


NARROWEST = 60  # columns of a table; a narrower window wraps its lines


def print_table(table: Any) -> None:
    """Print a table of rich's; a closed pipe is told as for any other output."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = Output()
    console.width = max(console.width, NARROWEST)
    console.print(table)


def json_text(data: Any, indent: int | None = None) -> str:
    """Return JSON; bytes of a name that is not UTF-8 are written as the escapes that Python has for them."""
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)
