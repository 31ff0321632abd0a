"""A small server that speaks the Hugging Face hub's protocol, over files in memory.

    with Hub({"owner/name/file.safetensors": b"..."}) as hub:   # hub.url goes into HF_ENDPOINT

HEAD answers with X-Repo-Commit, ETag, X-Linked-ETag and X-Linked-Size and sends large files on to a second
address, as the hub does; GET serves ranges; the API lists a repository. `break_after` cuts each transfer
short; `corrupt` changes bytes on the way; `gated` wants a login.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """files: by owner/name/path. ranges: the first byte that each GET asked for, in order."""

    files: dict[str, bytes]
    break_after: int | None = None
    corrupt: bool = False
    gated: set[str] = field(default_factory=set)
    ranges: list[int] = field(default_factory=list)
    revisions: set[str] = field(default_factory=set)

    def __enter__(self) -> Hub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            self._listing()
        else:
            self._answer(body=True)

    def _answer(self, body: bool) -> None:
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        stored = re.fullmatch(r"/storage/(.+)", self.path)
        name = f"{resolve[1]}/{resolve[3]}" if resolve else stored[1] if stored else ""
        if resolve and resolve[1] in self.hub.gated:
            return self._refuse(401, "GatedRepo")
        if name not in self.hub.files:
            known = resolve and any(file.startswith(f"{resolve[1]}/") for file in self.hub.files)
            return self._refuse(404, "EntryNotFound" if known else "RepoNotFound")
        if resolve:
            self.hub.revisions.add(resolve[2])
        content = self.hub.files[name]
        if resolve and name.endswith(".safetensors"):  # large files live elsewhere
            return self._send_on(name, content)
        self._serve(content, body)

    def _send_on(self, name: str, content: bytes) -> None:
        self.send_response(302)
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # the client trusts one host's redirects
        self.send_header("Location", f"{elsewhere}/storage/{name}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, content: bytes, body: bool) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{blob}"')
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        self.hub.ranges.append(start)
        sent = content[start:]
        if self.hub.corrupt:
            sent = bytes([sent[0] ^ 1]) + sent[1:]
        if self.hub.break_after is not None and len(sent) > self.hub.break_after:
            sent, self.close_connection = sent[: self.hub.break_after], True
        self.wfile.write(sent)

    def _listing(self) -> None:
        repository = re.match(r"/api/models/([^/]+/[^/?]+)", self.path)
        name = repository[1] if repository else ""
        if name in self.hub.gated:
            return self._refuse(401, "GatedRepo")
        paths = [file.removeprefix(f"{name}/") for file in self.hub.files if file.startswith(f"{name}/")]
        if "/tree/" in self.path:
            sizes = [len(self.hub.files[f"{name}/{path}"]) for path in paths]
            answer: object = [
                {"type": "file", "path": path, "size": size, "oid": COMMIT}
                for path, size in zip(paths, sizes, strict=True)
            ]
        else:
            answer = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in paths]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...
