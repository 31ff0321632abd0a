"""What all groups of commands have in common."""

from typing import Any

# Settings of a typer.Typer: errors in one sentence, help as it is written, and -h for it.
PLAIN: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
