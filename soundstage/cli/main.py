"""`soundstage`: parse, build the typed request, call the engine, print.

Results go to stdout, progress and announcements to stderr. An error is one sentence on stderr and exit
code 2; Ctrl-C is exit code 130. Nothing heavy is imported here: --help answers in under half a second.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soundstage import __version__
from soundstage.cli import making
from soundstage.cli.app import PLAIN
from soundstage.cli.options import SPELLING
from soundstage.errors import RequestError, SoundstageError

MISUSE, INTERRUPTED = 2, 130

# Groups of commands that live in their own file, mounted when first named.
GROUPS = {
    "bench": "soundstage.cli.bench",
    "doctor": "soundstage.cli.doctor",
    "models": "soundstage.cli.models",
    "nano": "soundstage.cli.nano",
}


class Commands(TyperGroup):
    """Turns our errors into one sentence, and finds groups only when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        found = [name for name, module in GROUPS.items() if importlib.util.find_spec(module)]
        return [*super().list_commands(ctx), *found]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in GROUPS and importlib.util.find_spec(GROUPS[cmd_name]):
            command = typer.main.get_command(importlib.import_module(GROUPS[cmd_name]).app)
            command.name = cmd_name
        return command

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SoundstageError as error:
            print(f"soundstage: {_in_options(error)}", file=sys.stderr)
            raise typer.Exit(MISUSE) from None
        except KeyboardInterrupt:
            print("soundstage: interrupted; no partial file is left", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    **PLAIN,
    help="Film with synchronized sound, from words.\n\n"
    'Example: soundstage generate "A red ball bounces on a wooden floor." --seed 7 --output ball.mp4',
)


def run() -> None:
    """Entry point of the `soundstage` command."""
    # OpenMP's threads spin while they wait. With one of two cores busy elsewhere, the first vocoder call of a
    # 2 s clip took 22.7 s spinning and 0.5 s sleeping. Read once, when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.formatwarning = lambda message, *_, **__: f"soundstage: note: {message}\n"
    app(prog_name="soundstage")


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


making.register(app)


def _in_options(error: SoundstageError) -> str:
    """An error's sentence, with the option in place of the request's field at its start."""
    message = str(error)
    if isinstance(error, RequestError):
        for field, option in SPELLING.items():
            message = re.sub(rf"(^|; )({field}) is\b", rf"\1{option} is", message)
    return message
