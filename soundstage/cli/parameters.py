"""Parameters and settings that many commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

SETTINGS = {"help_option_names": ["-h", "--help"]}  # of every command
FILE = click.Path(path_type=Path)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs to read.")
device = click.option(
    "--device", default="auto", show_default=True, help="Device to use: auto, cpu, cuda or cuda:1."
)


def output(help: str) -> Callable[[Any], Any]:
    """Return the option for the file or folder that a command writes."""
    return click.option("--output", "-o", type=FILE, help=help)


class WholeNumber(click.ParamType[int]):
    """A whole number, which may be typed with a decimal point, such as 49.0."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return int(value)
        except ValueError:
            pass
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not number.is_integer():
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return int(number)


WHOLE_NUMBER = WholeNumber()


class Seed(click.ParamType[int | str]):
    """A whole number, or the word random."""

    name = "seed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "random":
            return "random"
        try:
            return WHOLE_NUMBER.convert(value, param, ctx)
        except click.BadParameter:
            self.fail("it should be a whole number, or random", param, ctx)


SEED = Seed()


def wanted(error: click.BadParameter, kind: Any) -> str:
    """Return what a value should have been, from its type and the error that refused it."""
    kinds = {"integer": "a whole number", "float": "a number", "boolean": "true or false"}
    told = kinds.get(getattr(kind, "name", "").split()[0])
    if told is None:
        return lowered(error.message.rstrip("."))
    low = getattr(kind, "min", None)
    return f"it should be {told}" + ("" if low is None else f", {low} or more")


def lowered(text: str) -> str:
    """Return text with its first letter small, unless it begins with a name in capitals."""
    return text if text[1:2].isupper() else f"{text[:1].lower()}{text[1:]}"


class Ordered(click.Group):
    """A group that lists its commands in the order in which they were added, and gives them its settings.

    A command gets its defaults from the environment and config files before it is parsed.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, words = super().resolve_command(ctx, args)
        if name is not None and command is not None and not ctx.resilient_parsing:
            from soundstage.cli import defaults

            words = defaults.provide(ctx, name, command, words)
        return name, command, words

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.context_settings = {**SETTINGS, **cmd.context_settings}
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)
