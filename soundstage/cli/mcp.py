"""`soundstage mcp`: tools for assistants that speak the Model Context Protocol."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from soundstage.cli.parameters import WHOLE_NUMBER
from soundstage.errors import MissingExtraError


@click.command("mcp")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("soundstage-clips"),
    show_default=True,
    help="Write clips into this folder.",
)
@click.option("--model", metavar="NAME", help="Use this model. [default: nano, or the server's first]")
@click.option("--server", metavar="URL", help="Make clips on this server. [default: SOUNDSTAGE_SERVER]")
@click.option("--key", metavar="KEY", help="A key of the server's. [default: SOUNDSTAGE_KEY]")
@click.option(
    "--http",
    metavar="PORT",
    type=WHOLE_NUMBER,
    help="Listen on this port of 127.0.0.1, at /mcp; 0 is any that is free.",
)
def app(output: Path, model: str | None, server: str | None, key: str | None, http: int | None) -> None:
    """Give assistants tools to plan and make clips, over standard input and output.

    Clips are made by an engine in this process, or on a server where one is named.

    Example: soundstage mcp --output clips
    """
    try:
        from soundstage.assistants.tools import mcp_server
    except ImportError:
        raise MissingExtraError("mcp", "soundstage mcp") from None
    from soundstage.assistants.makers import AssistantMaker, LocalMaker, RemoteMaker

    remote = server or os.environ.get("SOUNDSTAGE_SERVER")
    maker: AssistantMaker = RemoteMaker(remote, key, model) if remote else LocalMaker(model or "nano")
    made = mcp_server(maker, output)
    if http is None:
        made.run("stdio")
    else:
        from soundstage.assistants.over_http import serve_http

        serve_http(made, http, lambda url: print(f"tools for assistants are on {url}", file=sys.stderr))
