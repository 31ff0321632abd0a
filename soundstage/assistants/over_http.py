"""Serve the tools over HTTP, on this machine alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer

from soundstage.server.serving import address_of, listen

HOST, PLACE = "127.0.0.1", "/mcp"
END_S = 2  # for answers under way, such as streams of clients, when it ends


def serve_http(server: MCPServer[Any], port: int, ready: Callable[[str], object]) -> None:
    """Serve until a signal comes. ready: gets the address once it listens.

    Raises RequestError where it cannot listen. Calls from pages of other sites are refused by the SDK.
    """
    listening = listen(HOST, port)
    app = server.streamable_http_app(streamable_http_path=PLACE, host=HOST)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=END_S)
    ready(f"{address_of(HOST, listening)}{PLACE}")
    uvicorn.Server(config).run(sockets=[listening])
