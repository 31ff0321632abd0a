"""`soundstage remote`: the making commands and the jobs of a server."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli import log, making
from soundstage.cli.parameters import SETTINGS, Ordered, as_json
from soundstage.cli.printing import json_text, print_rows
from soundstage.cli.process import FAULT
from soundstage.cli.remote_words import (
    LORA_ROWS,
    MODEL_ROWS,
    RECIPE_ROWS,
    RowsOf,
    event_text,
    line_of,
    rows_of,
)
from soundstage.cli.show import lines_of
from soundstage.errors import ServerError
from soundstage.files import NameTakenError, check_writable

if TYPE_CHECKING:
    from soundstage.client.client import Client

# The server's own matters. It keeps checkpoints of its own.
LEFT_OUT = frozenset(
    [
        "model",
        "residency",
        "weights",
        "dtype",
        "memory",
        "preview",
        "quality",
        "codec",
        "resume",
        "checkpoint_every",
        "asked",
        "retries",
        "keep_takes",
    ]
)
id_argument = click.argument("id", help="The id of a job, such as job_...")


def server_options() -> list[click.Option]:
    """Return the options that say which server is meant."""
    return [
        click.Option(
            ["--server"],
            metavar="URL",
            help="Address of the server, such as http://127.0.0.1:8765. [default: SOUNDSTAGE_SERVER]",
        ),
        click.Option(["--key"], metavar="KEY", help="A key of the server's. [default: SOUNDSTAGE_KEY]"),
    ]


class RemoteCommand(click.Command):
    """A command about a server."""

    def __init__(self, *args: Any, **words: Any) -> None:
        super().__init__(*args, **words)
        self.params += server_options()


class RemoteGroup(Ordered):
    """The group; its commands are about a server."""

    command_class = RemoteCommand


@click.group("remote", cls=RemoteGroup, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Make clips and train LoRAs on a server, and see to its jobs.

    Example: soundstage remote generate "A red ball bounces." --server http://127.0.0.1:8765 -o ball.mp4
    """


def add_making(command: click.Command) -> None:
    """Add a making command whose clips a server makes."""
    logged = {param.name for param in log.options()}  # every command gets these when it is named
    own = [param for param in command.params if param.name not in {*LEFT_OUT, *logged}]
    own.append(click.Option(["--model"], metavar="NAME", help="Use this model of the server's."))
    if command.name != "plan":
        detach = "Queue the clip, print the job's id, and do not wait for it."
        own.append(click.Option(["--detach"], is_flag=True, default=False, help=detach))
        own.append(click.Option(["--label"], metavar="WORD", help="Give the job this label."))
    made_here = command.callback
    assert made_here is not None

    def callback(**values: Any) -> None:
        from soundstage.cli.remote_making import Remote

        click.get_current_context().meta[making.ELSEWHERE] = Remote(values)
        made_here(**values)

    text = (command.help or "").replace("Example: soundstage ", "Example: soundstage remote ")
    copy = type(command)(command.name, params=[*own, *server_options()], callback=callback, help=text)
    app.add_command(copy)


for making_command in making.COMMANDS:
    if making_command.name != "recipes":
        add_making(making_command)


def client_of(values: dict[str, Any]) -> Client:
    """Return a client of the server that a command names."""
    from soundstage.client.client import Client

    return Client(values.get("server"), values.get("key"))


@app.command("train")
@click.argument(
    "config",
    metavar="CONFIG",
    help="The name of a recipe, a .yaml file, the config.json of a training, or a hosted trainer's request.",
)
@click.option("--data", metavar="FOLDER", help="The clips and their captions: a folder, a zip, or asset:ID.")
@click.option("--model", metavar="NAME", help="Train this model of the server's.")
@click.option("--steps", type=click.IntRange(min=1), metavar="COUNT", help="Train so many steps.")
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set another field, such as optimizer.rate=2e-4 or dataset.num_frames=49. Repeatable.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Write the LoRA to this .safetensors file, or all files into this folder. [default: the job's id]",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--label", metavar="WORD", help="Give the job this label.")
@click.option(
    "--detach", is_flag=True, help="Queue the training, print the job's id, and do not wait for it."
)
def train(
    config: str,
    fields: tuple[str, ...],
    output: Path | None,
    force: bool,
    detach: bool,
    server: str | None,
    key: str | None,
    **given: Any,
) -> None:
    """Train a LoRA on a server, write it to a file, and print the path.

    The clips are sent as a zip, once. Ctrl-C cancels the job; with --detach it goes on.

    Example: soundstage remote train style --data my-data --set dataset.num_frames=49 -o style.safetensors
    """
    from soundstage.cli.remote_training import trained

    with client_of({"server": server, "key": key}) as client:
        for line in trained(client, config, fields, given, output, force=force, detach=detach):
            print(line)


@app.command("jobs")
@click.option("--state", metavar="STATE", help="Only those in this state, such as queued or succeeded.")
@click.option("--label", metavar="WORD", help="Only those with this label.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="At most so many.")
@as_json
def jobs(state: str | None, label: str | None, limit: int, as_json: bool, **where: Any) -> None:
    """List jobs, the newest first.

    Example: soundstage remote jobs --state queued
    """
    with client_of(where) as client:
        found = client.jobs(state=state, label=label, limit=limit).data
    if as_json:
        print(json_text([job.model_dump(mode="json") for job in found], indent=2))
        return
    for job in found:  # no table: an id that is cut or broken cannot be copied
        print(line_of(job))


@app.command("show")
@id_argument
@as_json
def show(id: str, as_json: bool, **where: Any) -> None:
    """Print what a server knows of a job.

    Example: soundstage remote show job_abcdefghijklmnopqrstuvwxyz
    """
    with client_of(where) as client:
        job = client.job(id).job
    if as_json:
        print(json_text(job.model_dump(mode="json"), indent=2))
        return
    print("\n".join([job.id, *lines_of(rows_of(job))]))
    if job.state == "succeeded":
        print(f"get it: soundstage remote get {job.id}")


@app.command("cancel")
@click.argument("id", nargs=-1, required=True, help="The ids of jobs.")
def cancel(id: tuple[str, ...], **where: Any) -> None:
    """Cancel jobs that wait or are made, and print the state of each.

    A job that has ended already stays as it is; the exit code is then 1.

    Example: soundstage remote cancel job_abcdefghijklmnopqrstuvwxyz
    """
    kept = False
    with client_of(where) as client:
        for one in id:
            handle = client.job(one)
            if handle.cancel():
                print(f"{one} {'cancelled' if handle.job.state == 'cancelled' else 'is being cancelled'}")
            else:
                print(f"{one} {handle.job.state} before; it stays as it is")
                kept = True
    if kept:
        raise click.exceptions.Exit(FAULT)


@app.command("pause")
@click.argument("id", nargs=-1, required=True, help="The ids of jobs.")
def pause(id: tuple[str, ...], **where: Any) -> None:
    """Let jobs wait until they are resumed, and print the state of each.

    One that is being made stops with a checkpoint first.

    Example: soundstage remote pause job_abcdefghijklmnopqrstuvwxyz
    """
    with client_of(where) as client:
        for one in id:
            print(f"{one} {client.job(one).pause().state}")


@app.command("resume")
@click.argument("id", nargs=-1, required=True, help="The ids of jobs.")
def resume(id: tuple[str, ...], **where: Any) -> None:
    """Put paused jobs back into the queue, and print the state of each.

    Example: soundstage remote resume job_abcdefghijklmnopqrstuvwxyz
    """
    with client_of(where) as client:
        for one in id:
            print(f"{one} {client.job(one).resume().state}")


@app.command("get")
@id_argument
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Write to this file. [default: the job's id]"
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def get(id: str, output: Path | None, force: bool, **where: Any) -> None:
    """Wait for the clip or LoRA of a job, write it to a file, and print the path.

    Ctrl-C stops the waiting; the job goes on.

    Example: soundstage remote get job_abcdefghijklmnopqrstuvwxyz -o ball.mp4
    """
    from soundstage.client.bars import RemoteBars

    with client_of(where) as client:
        handle = client.job(id)
        path = output or Path(f"{id}{handle.suffix}")
        check_new(path, force)
        try:
            if not handle.done():
                with RemoteBars(handle.job) as bars:
                    for event in handle:
                        bars.show(event)
            with cancelled_elsewhere():
                print(handle.save(path, overwrite=force))
        except KeyboardInterrupt as stop:
            stop.add_note(f"{id} goes on; the same command gets its clip")
            raise


@contextmanager
def cancelled_elsewhere() -> Iterator[None]:
    """Raise ServerError for a job that someone has cancelled, as that is no fault of the command."""
    try:
        yield
    except CancelledError as error:
        raise ServerError(f"{error}; nothing was made") from None


def check_new(path: Path, force: bool) -> None:
    """Refuse a name that is taken or cannot be written, before a job is waited for."""
    try:
        check_writable(path, (path.suffix.lower(),), overwrite=force)
    except NameTakenError as error:
        raise NameTakenError(f"{error}, or add --force to replace it") from error


@app.command("models")
@as_json
def models(as_json: bool, **where: Any) -> None:
    """List the models of a server.

    Example: soundstage remote models
    """
    with client_of(where) as client:
        _print_records(client.models(), MODEL_ROWS, as_json)


@app.command("loras")
@as_json
def loras(as_json: bool, **where: Any) -> None:
    """List the LoRAs that a server knows by name.

    Example: soundstage remote loras
    """
    with client_of(where) as client:
        _print_records(client.loras(), LORA_ROWS, as_json)


@app.command("recipes")
@as_json
def recipes(as_json: bool, **where: Any) -> None:
    """List the recipes of a server.

    Example: soundstage remote recipes
    """
    with client_of(where) as client:
        _print_records(client.recipes(), RECIPE_ROWS, as_json)


@app.command("watch")
@click.argument("id", required=False, help="The id of a job. [default: all jobs]")
@as_json
def watch(id: str | None, as_json: bool, **where: Any) -> None:
    """Print events as they happen: of a job until it has ended, or of all jobs until Ctrl-C.

    Example: soundstage remote watch
    """
    with client_of(where) as client:
        for event in client.events() if id is None else client.job(id):
            if as_json:
                print(event.model_dump_json(exclude_none=True), flush=True)
            else:
                clock = time.strftime("%H:%M:%S", time.localtime(event.at))
                print(f"{clock} {event.job_id} {event_text(event)}", flush=True)


def _print_records(found: list[dict[str, Any]], rows: RowsOf, as_json: bool) -> None:
    """Print records as JSON, or as a table. rows: the titles, each with what gives the text below it."""
    if as_json:
        print(json_text(found, indent=2))
    elif found:
        print_rows(list(rows), ([text(record) for text in rows.values()] for record in found))
    else:
        print("none", file=sys.stderr)
