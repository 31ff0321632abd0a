"""`soundstage`: parse, build the typed request, call the engine, print.

Results go to standard output, progress and announcements to standard error. An error is one sentence on
standard error and exit code 2, with --json an object on standard output. Ctrl-C is exit code 130. Nothing
heavy is imported here: --help answers in under half a second.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from soundstage import __version__
from soundstage.cli import completion, log, making, process, telling
from soundstage.cli.parameters import SETTINGS, Ordered
from soundstage.cli.signals import Interrupts

# Commands in files of their own, imported when they are named.
COMMAND_GROUPS = {
    "assemble": "soundstage.cli.assemble",
    "bench": "soundstage.cli.bench",
    "completion": "soundstage.cli.completion",
    "config": "soundstage.cli.config",
    "control": "soundstage.cli.control",
    "convert": "soundstage.cli.convert",
    "dataset": "soundstage.cli.dataset",
    "doctor": "soundstage.cli.doctor",
    "examples": "soundstage.cli.examples",
    "import-workflow": "soundstage.cli.workflow",
    "keys": "soundstage.cli.keys",
    "lora": "soundstage.cli.lora",
    "loras": "soundstage.cli.loras",
    "mcp": "soundstage.cli.mcp",
    "models": "soundstage.cli.models",
    "nano": "soundstage.cli.nano",
    "pick": "soundstage.cli.pick",
    "produce": "soundstage.cli.produce",
    "prompt": "soundstage.cli.prompt",
    "remote": "soundstage.cli.remote",
    "review": "soundstage.cli.review",
    "script": "soundstage.cli.script",
    "serve": "soundstage.cli.serve",
    "show": "soundstage.cli.show",
    "studio": "soundstage.cli.studio",
    "train": "soundstage.cli.train",
    "verify": "soundstage.cli.verify",
    "worker": "soundstage.cli.worker",
}


class Commands(Ordered):
    """Import a group of commands when it is named, and print every error in one sentence."""

    def list_commands(self, ctx: Any) -> list[str]:
        found = [name for name, module in COMMAND_GROUPS.items() if importlib.util.find_spec(module)]
        return [*super().list_commands(ctx), *found]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if (
            command is None
            and cmd_name in COMMAND_GROUPS
            and importlib.util.find_spec(COMMAND_GROUPS[cmd_name])
        ):
            command = importlib.import_module(COMMAND_GROUPS[cmd_name]).app
            command.context_settings = {**SETTINGS, **command.context_settings}  # also where it has no parent
        return None if command is None else log.with_log(command)

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
        sys.exit(self.run(words, prog_name or "soundstage", None, **extra))

    def run(self, words: Sequence[str], name: str, interrupts: Interrupts | None, **extra: Any) -> int:
        """Run a command line and return its exit code. Every error is printed; none escapes."""
        try:
            if interrupts is not None:
                interrupts.begin()
            asked = os.environ.get(completion.VARIABLE)
            code = completion.complete(self, asked) if asked else self._exit_code(words, name, **extra)
            sys.stdout.flush()
            return code
        except BaseException as error:
            signalled = None if interrupts is None else interrupts.code
            if signalled is not None or isinstance(error, (KeyboardInterrupt, click.Abort)):
                return telling.tell_interruption(error, self, words, signalled or process.INTERRUPTED)
            return telling.tell(error, self, words)

    def _exit_code(self, words: Sequence[str], name: str, **extra: Any) -> int:
        try:
            with self.make_context(name, list(words), **extra) as ctx:
                self.invoke(ctx)
        except click.exceptions.Exit as wanted:
            return wanted.exit_code
        return process.DONE


@click.group("soundstage", cls=Commands, no_args_is_help=True, context_settings=SETTINGS)
@click.version_option(__version__, message="%(version)s", help="Print the version and stop.")
def app() -> None:
    """Make film with synchronized sound from words, pictures, clips and sounds.

    Example: soundstage generate "A red ball bounces on a wooden floor." --seed 7 --output ball.mp4
    """


assert isinstance(app, Commands)
app.params.extend(log.options())
making.register(app)


def call(words: Sequence[str], interrupts: Interrupts) -> int:
    """Run the command line and return its exit code."""
    return app.run(words, "soundstage", interrupts)
