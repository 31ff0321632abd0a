"""`soundstage train`: train a LoRA or a small model on an encoded dataset."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli.announcing import at_work, loading_pytorch
from soundstage.cli.parameters import FILE, SETTINGS, Ordered, as_json
from soundstage.cli.printing import json_text, print_rows
from soundstage.cli.process import INTERRUPTED
from soundstage.errors import RequestError

if TYPE_CHECKING:
    from soundstage.training.tuning.config import TrainConfig

START = "start"


class Training(Ordered):
    """A group whose first word may be left out: a config alone starts a training."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {*self.list_commands(ctx), *ctx.help_option_names}
        if args and args[0] not in known:
            args = [START, *args]
        return super().parse_args(ctx, args)


@click.group("train", cls=Training, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Train LoRAs and small models.

    A config or the name of a recipe alone starts a training: soundstage train style is short for
    soundstage train start style.
    """


@app.command(START)
@click.argument("config", metavar="CONFIG", help="A .yaml file, or the name of a recipe.")
@click.option("--data", metavar="FOLDER", help="Train on this encoded dataset, whatever the config says.")
@click.option("--output", "-o", metavar="FOLDER", help="Keep the run in this folder.")
@click.option("--model", metavar="NAME", help="Train this model: a name, a folder or a file.")
@click.option("--steps", type=click.IntRange(min=1), metavar="COUNT", help="Train so many steps.")
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set another field, such as optimizer.rate=2e-4. Repeatable.",
)
@click.option(
    "--like",
    type=click.Choice(["fal"]),
    help="Read CONFIG as a request of this hosted trainer, a .json file whose zip is a path here.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print no progress.")
@as_json
def start(
    config: str, fields: Sequence[str], like: str | None, quiet: bool, as_json: bool, **given: Any
) -> None:
    """Train, and print the path of the result.

    The run goes on where it stood if its folder is there, after Ctrl-C or a kill too.

    Example: soundstage train start style --data my-data --output runs/style
    """
    changes = {name: value for name, value in given.items() if value is not None}
    changes |= fields_of_words(fields)
    asked = _asked(config, changes) if like is None else _hosted(Path(config), changes)
    from soundstage.training.tuning.agreement import check_agreement

    check_agreement(asked)
    with loading_pytorch():
        from soundstage.training.loop import StepDone
        from soundstage.training.terminal import stop_signals
        from soundstage.training.tuning.session import FileWritten, TuningRun
        from soundstage.training.tuning.watching import RunScreen
    run = TuningRun(asked)
    last, step = run.folder, 0
    with RunScreen(asked, quiet=quiet) as screen, stop_signals() as stops, closing(run.events()) as events:
        for event in events:
            screen.show(event)
            last = event.path if isinstance(event, FileWritten) else last
            step = event.step if isinstance(event, StepDone) else step
            if stops:
                break
    print(json_text({"path": str(last), "step": step, "complete": not stops}) if as_json else last)
    if stops:
        if not quiet:
            print("stopped; the same command goes on from here", file=sys.stderr)
        raise click.exceptions.Exit(INTERRUPTED)


@app.command()
def recipes() -> None:
    """List the recipes, and what data each wants.

    Example: soundstage train recipes
    """
    from soundstage.training.tuning.config import RECIPES, fields_of, recipe_names

    rows = []
    for name in recipe_names():
        fields = fields_of(RECIPES / f"{name}.yaml")
        rows.append((name, str(fields.get("mode", "t2v")), " ".join(str(fields.get("wants", "")).split())))
    print_rows(("recipe", "mode", "data it wants"), rows)


@app.command()
@click.argument("run", type=FILE, metavar="RUN", help="The folder of a run.")
@click.option("--output", "-o", type=FILE, help="Write to this file. [default: report.html in the run]")
def report(run: Path, output: Path | None) -> None:
    """Write a run's losses, clips and data as one page, and print its path.

    Example: soundstage train report runs/style
    """
    from soundstage.training.tuning.report import write_report

    print(write_report(run, output))


def _hosted(path: Path, changes: dict[str, Any]) -> TrainConfig:
    """Return the training that a hosted trainer's request asks for, its data encoded."""
    import soundstage
    from soundstage.intake.hosted import unpacked_data, with_media
    from soundstage.training.tuning.config import read_config, with_changes
    from soundstage.training.tuning.hosted import config_fields, read_hosted
    from soundstage.training.tuning.zips import encoded

    if "output" not in changes:
        raise RequestError("output is missing; give a folder for the run by --output", field="output")
    asked = read_hosted(path, changes.pop("mode", None))
    folder = Path(changes.get("data") or Path(str(changes["output"])) / "data")
    asked = with_media(asked, Path(str(changes["output"])) / "given")
    config = read_config(with_changes(config_fields(asked), {**changes, "data": str(folder)}))
    engine = soundstage.load(config.model)
    data = unpacked_data(asked, folder)
    with loading_pytorch():
        import soundstage.dataset.encoding
    with at_work("encode") as show:
        encoded(data, engine, show)
    return config


def _asked(config: str, changes: dict[str, Any]) -> TrainConfig:
    from soundstage.training.tuning.config import config_path, fields_of, read_config, with_changes

    fields = with_changes(fields_of(config_path(config)), changes)
    for name in ("data", "output"):
        if not fields.get(name):
            raise RequestError(f"{name} is missing in {config}; give it there or as --{name}", field=name)
    return read_config(config, changes)


def fields_of_words(words: Sequence[str]) -> dict[str, Any]:
    """Return fields from words such as "lora.rank=8". Raises RequestError for another form."""
    import yaml

    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise RequestError(
                f"--set is '{word}'; give a field and its value, such as lora.rank=8", field="set"
            )
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RequestError(
                f"--set {name} is '{value}', which is no value; quote it", field="set"
            ) from error
    return found
