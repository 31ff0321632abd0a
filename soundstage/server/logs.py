"""The server's log: one JSON object a line, or plain lines for a terminal.

    {"at": "2026-11-28T15:04:05.123Z", "level": "info", "event": "call", "method": "POST", "path": "/v1/jobs",
     "status": 202, "ms": 8.1, "owner": "local", "id": "5f0c..."}

A line holds the pattern of an address, never the address itself: no tickets, keys or prompts.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

NAME = "soundstage.server"
FORMS = ("json", "plain", "off")
QUIET = ("/healthz", "/readyz", "/metrics", "/v1/workers/")  # called all the time by watchers and workers


def told(**values: Any) -> dict[str, Any]:
    """Return values for the `extra` of a logging call."""
    return {"told": values}


class JsonLines(logging.Formatter):
    """Format a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"at": _at(record.created), "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "told", {})
        if record.exc_info:
            line["trace"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, ensure_ascii=True, default=str)


class PlainLines(logging.Formatter):
    """Format a record as one short line."""

    def format(self, record: logging.LogRecord) -> str:
        values = " ".join(f"{name}={value}" for name, value in getattr(record, "told", {}).items())
        line = f"{_at(record.created)[11:19]} {record.getMessage()} {values}".rstrip()
        if record.exc_info:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return line


def begin(form: str) -> None:
    """Write the server's log to standard error from now on. form: one of FORMS."""
    logger = logging.getLogger(NAME)
    logger.propagate = False
    logger.handlers.clear()
    if form == "off":
        logger.addHandler(logging.NullHandler())
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else PlainLines())
    handler.addFilter(_is_told)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _is_told(record: logging.LogRecord) -> bool:
    """Return whether a line is written: calls of watchers and workers that went well are not."""
    values = getattr(record, "told", {})
    return not (str(values.get("path")).startswith(QUIET) and values.get("status", 0) < 400)


def _at(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
