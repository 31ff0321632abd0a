"""`soundstage serve`: a server of clips, with its workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from soundstage.cli.data_folder import data_option, database_option
from soundstage.cli.parameters import FILE, SETTINGS, WHOLE_NUMBER
from soundstage.errors import MissingExtraError


@click.command("serve", context_settings=SETTINGS)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=WHOLE_NUMBER, default=8765, show_default=True, help="Port; 0 is any that is free."
)
@data_option
@database_option
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Model to serve; the first is the default. May be given several times. [default: nano]",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    help="Device of a worker: auto, cpu, cuda or cuda:1. May be given several times. [default: auto]",
)
@click.option(
    "--workers",
    type=WHOLE_NUMBER,
    metavar="N",
    help="Workers to start for each device; 0 for none, when they run elsewhere. [default: 1]",
)
@click.option("--key", "keys", multiple=True, metavar="SECRET", help="Ask every caller for this key.")
@click.option(
    "--key-file", type=FILE, metavar="FILE", help="Ask every caller for a key of this file, one a line."
)
@click.option(
    "--inputs", type=FILE, metavar="DIR", help="Let requests name files under this folder as file:NAME."
)
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="NAME", help="Name by which clients may call; * for any."
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="Site whose pages may call from a browser.",
)
@click.option(
    "--fetch",
    default="https",
    show_default=True,
    metavar="RULE",
    help="Addresses that files are fetched from: off, https (public ones), or names such as cdn.example.com, "
    "*.example.com, private:http://minio:9000, with commas between.",
)
@click.option(
    "--webhooks",
    default="https",
    show_default=True,
    metavar="RULE",
    help="Addresses that webhooks are sent to, in the same words.",
)
@click.option("--max-upload", type=WHOLE_NUMBER, metavar="MIB", help="Largest upload. [default: 2048]")
@click.option(
    "--max-calls",
    type=click.IntRange(0, 1_000_000),
    metavar="N",
    help="Let each key make so many calls a minute; 0 for any number. [default: 3000, or any without keys]",
)
@click.option(
    "--max-queued",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Let so many jobs wait; more are refused until some are made. [default: 2000]",
)
@click.option(
    "--max-duration",
    type=click.FloatRange(0, 86_400, min_open=True),
    metavar="SECONDS",
    help="Take no clip that is longer. [default: any length that the model makes]",
)
@click.option(
    "--max-train-steps",
    type=click.IntRange(0, 1_000_000),
    metavar="N",
    help="Take no training of more steps; 0 takes none at all. [default: any number]",
)
@click.option(
    "--quota",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Let each owner use so many seconds of a device within 24 hours. [default: no limit]",
)
@click.option(
    "--keep-days",
    type=click.FloatRange(0, 36_500, min_open=True),
    metavar="DAYS",
    help="Delete finished jobs with their files after so many days. [default: 30]",
)
@click.option(
    "--keep-gb",
    type=click.FloatRange(0, min_open=True),
    metavar="GB",
    help="Delete the oldest finished jobs when all files together are larger. [default: no limit]",
)
@click.option(
    "--logs",
    type=click.Choice(("json", "plain", "off")),
    help="Form of the log on standard error. [default: plain on a terminal, else json]",
)
def app(**values: Any) -> None:
    """Serve clips over HTTP, with a page in the browser.

    Jobs are queued, made by one worker for each device, and kept in the data folder. Without a key only
    programs on this machine reach it. Ctrl-C lets workers save what they have, and ends.

    Example: soundstage serve --port 9000 --model nano
    """
    place = f"port {values['port']}" if values["port"] else "a free port"
    print(f"starting a server on {values['host']}, {place} ...", file=sys.stderr)  # loading takes a second
    serve(values, lambda url, greeting: print(greeting, flush=True))


def serve(values: Mapping[str, Any], ready: Callable[[str, str], object]) -> None:
    """Serve until a signal comes. ready: gets the address and the greeting once the server listens."""
    try:
        from soundstage.server import command
        from soundstage.studio.pages import router
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MissingExtraError("serve", "the server") from error

    command.serve(values, ready, router)
