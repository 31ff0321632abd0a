"""`soundstage`: parse, build the typed request, call the engine, print.

Results go to stdout, progress and announcements to stderr. An error is one sentence on stderr and exit
code 2, with --json an object on stdout; Ctrl-C is exit code 130. Nothing heavy is imported here: --help
answers in under half a second.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from soundstage import __version__
from soundstage.cli import log, making, process, telling
from soundstage.cli.app import PLAIN
from soundstage.cli.signals import Interrupts

# Groups of commands that live in their own file, mounted when first named.
GROUPS = {
    "bench": "soundstage.cli.bench",
    "doctor": "soundstage.cli.doctor",
    "models": "soundstage.cli.models",
    "nano": "soundstage.cli.nano",
}


class Commands(TyperGroup):
    """Turns whatever is raised into one sentence, and finds groups only when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        found = [name for name, module in GROUPS.items() if importlib.util.find_spec(module)]
        return [*super().list_commands(ctx), *found]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in GROUPS and importlib.util.find_spec(GROUPS[cmd_name]):
            command = typer.main.get_command(importlib.import_module(GROUPS[cmd_name]).app)
            command.name = cmd_name
        return None if command is None else log.with_verbose(command)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and exit with the code: what `app()` and test runners call."""
        words = sys.argv[1:] if args is None else list(args)
        sys.exit(self.carried_out(words, prog_name or "soundstage", None, **extra))

    def carried_out(
        self, words: Sequence[str], name: str, interrupts: Interrupts | None, **extra: Any
    ) -> int:
        """Carry out a command line and return its exit code; whatever is raised is told, nothing escapes."""
        try:
            if interrupts is not None:
                interrupts.begin()
            code = self._exit_code(words, name, **extra)
            sys.stdout.flush()
            return code
        except BaseException as error:
            signalled = None if interrupts is None else interrupts.code
            if signalled is not None or isinstance(error, (KeyboardInterrupt, typer.Abort)):
                return telling.tell_interruption(error, words, signalled or process.INTERRUPTED)
            return telling.tell(error, self, words)

    def _exit_code(self, words: Sequence[str], name: str, **extra: Any) -> int:
        try:
            with self.make_context(name, list(words), **extra) as ctx:
                self.invoke(ctx)
        except typer.Exit as wanted:
            return wanted.exit_code
        return process.DONE


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    **PLAIN,
    help="Film with synchronized sound, from words.\n\n"
    'Example: soundstage generate "A red ball bounces on a wooden floor." --seed 7 --output ball.mp4',
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    verbose: log.VERBOSE = 0,
) -> None:
    log.begin(verbose)
    if version:
        print(__version__)
        raise typer.Exit


making.register(app)


def call(words: Sequence[str], interrupts: Interrupts) -> int:
    """Carry out the command line and return its exit code."""
    commands = typer.main.get_command(app)
    assert isinstance(commands, Commands)
    return commands.carried_out(words, "soundstage", interrupts)
