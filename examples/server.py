"""Make clips for other programs over HTTP, one after the other: python examples/server.py 8000

curl -d '{"prompt": "A red ball bounces.", "seed": 7}' localhost:8000/clips    # {"id": 0}
curl localhost:8000/clips/0                                                    # how far it is
curl localhost:8000/clips/0.mp4 -o ball.mp4                                    # waits until it is done
curl -X DELETE localhost:8000/clips/0                                          # cancels it
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from concurrent.futures import CancelledError
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import soundstage as ss

FIELDS = ("prompt", "negative_prompt", "seed", "size", "duration_s", "steps", "guidance")  # none names a file
MAX_BYTES = 100_000


class Clips(BaseHTTPRequestHandler):
    """Answer for the clips of one engine."""

    stage: ss.Engine
    handles: list[ss.Handle]

    def do_POST(self) -> None:
        try:
            length = min(int(self.headers.get("Content-Length") or 0), MAX_BYTES)
            asked = json.loads(self.rfile.read(length))
            fields = {name: value for name, value in asked.items() if name in FIELDS}
            self.handles.append(self.stage.submit(ss.Request(**fields)))
        except (ss.SoundstageError, ValueError, AttributeError) as error:
            self.send(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        else:
            self.send(HTTPStatus.ACCEPTED, {"id": len(self.handles) - 1})

    def do_GET(self) -> None:
        handle = self.asked()
        if handle is None:
            self.send(HTTPStatus.NOT_FOUND, {"error": "no such clip"})
        elif self.path.endswith(".mp4"):
            self.send_clip(handle)
        else:
            told = handle.progress
            self.send(HTTPStatus.OK, {"done": handle.done(), "fraction": told.fraction, "phase": told.phase})

    def do_DELETE(self) -> None:
        handle = self.asked()
        found = HTTPStatus.NOT_FOUND if handle is None else HTTPStatus.OK
        self.send(found, {"cancelled": handle is not None and handle.cancel()})

    def asked(self) -> ss.Handle | None:
        found = re.fullmatch(r"/clips/(\d{1,9})(\.mp4)?", self.path)
        number = int(found[1]) if found else len(self.handles)
        return self.handles[number] if number < len(self.handles) else None

    def send_clip(self, handle: ss.Handle) -> None:
        try:
            clip = handle.result()
        except (CancelledError, ss.SoundstageError) as error:
            self.send(HTTPStatus.GONE, {"error": str(error) or "cancelled"})
            return
        with tempfile.TemporaryDirectory() as folder:
            self.send(HTTPStatus.OK, clip.save(Path(folder) / "clip.mp4").read_bytes())

    def send(self, status: HTTPStatus, answer: dict[str, Any] | bytes) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "video/mp4" if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def server(stage: ss.Engine, port: int) -> ThreadingHTTPServer:
    """Return a server for this machine alone; port 0 is any that is free."""
    handler = type("Handler", (Clips,), {"stage": stage, "handles": []})
    return ThreadingHTTPServer(("127.0.0.1", port), handler)


if __name__ == "__main__":
    server(ss.load("nano"), int(sys.argv[1])).serve_forever()
