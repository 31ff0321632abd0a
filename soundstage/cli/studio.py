"""`soundstage studio`: the server on this machine alone, and its page in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from soundstage.cli import opening, serve
from soundstage.cli.data_folder import data_option
from soundstage.cli.parameters import SETTINGS, WHOLE_NUMBER


@click.command("studio", context_settings=SETTINGS)
@click.option(
    "--port", type=WHOLE_NUMBER, default=8765, show_default=True, help="Port; 0 is any that is free."
)
@data_option
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Model to offer; the first is the default. May be given several times. [default: nano]",
)
@click.option(
    "--device", default="auto", show_default=True, help="Where clips are made: auto, cpu, cuda or cuda:1."
)
@click.option("--no-browser", is_flag=True, help="Print the address and open no browser.")
def app(port: int, data: Path | None, models: tuple[str, ...], device: str, no_browser: bool) -> None:
    """Make clips on a page in the browser.

    It runs `soundstage serve` for this machine alone, with one worker, and opens its page. Ctrl-C ends it;
    clips and jobs are kept in the data folder, and unfinished ones go on next time.

    Example: soundstage studio --model nano
    """
    asked = {"port": port, "data": data, "models": models, "devices": (device,)}

    def ready(url: str, greeting: str) -> None:
        print(f"The studio is on {url}/studio/; Ctrl-C ends it, and nothing finished is lost", flush=True)
        if not no_browser:
            _show(f"{url}/studio/")

    serve.serve({**_defaults_of_serve(), **asked}, ready)


def _defaults_of_serve() -> dict[str, Any]:
    """Return the options of `soundstage serve` as they are without any."""
    ctx = serve.app.make_context("serve", [], resilient_parsing=True)
    return dict(ctx.params)


def _show(url: str) -> None:
    """Open the page, or say what kept it from being opened."""
    problem = opening.open_it(url)
    if problem is not None:
        print(f"no browser was opened ({problem}); open the address yourself", flush=True)
