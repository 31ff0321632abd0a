"""Calls that no client would make: none is answered by a 500, leaves a file behind, or a job that never ends.

Made from the server's own description: every operation, with ids, queries, headers, JSON and files that are
right, damaged or hostile. Seeded: a failure names the call.
"""

from __future__ import annotations

import io
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from soundstage.jobs.states import FINAL
from soundstage.jobs.views import LOCAL
from soundstage.server.settings import ServerSettings, digest
from tests.serving import Server, serving

KEY = "a-key-of-the-fuzz-run"
WORDS = [
    "",
    "a",
    "nano",
    "..",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "a\0b",
    "\ud800",
    "\u202e",
    "0",
    "-1",
    "1e999",
    "NaN",
    "null",
    "true",
    "job_",
    "as_" + "a" * 26,
    "job_" + "a" * 26,
    "A" * 5000,
    "' OR 1=1 --",
    "<script>alert(1)</script>",
    "\r\nx-made: up",
    "file:///etc/passwd",
    "file:../secret",
    "https://127.0.0.1/",
    "https://169.254.169.254/latest",
    "https://[::ffff:10.0.0.1]/",
    "http://localhost:1/",
    "data:image/png;base64,AAAA",
    "data:,",
    "asset:as_x",
    "lora:../x",
    "\u00e9\u00e8",
    "$(id)",
    "{{7*7}}",
    "*",
]
NUMBERS = [0, 1, -1, 2**31, 2**63, 2**70, 10**400, 0.5, 1e308, -0.0]
FIELDS = [
    "prompt", "negative_prompt", "num_frames", "duration_s", "size", "fps", "steps", "seed", "guides",
    "source",
    "audio", "loras", "references", "recipe", "take", "sampler", "guidance_scale",
]  # fmt: skip
HEADERS = [
    "range", "if-none-match", "if-range", "idempotency-key", "last-event-id", "content-type", "origin",
    "host",
    "accept", "x-api-key", "authorization",
    "content-length", "x-forwarded-for", "expect", "transfer-encoding",
]  # fmt: skip
RANGES = [
    "bytes=0-",
    "bytes=-1",
    "bytes=5-2",
    "bytes=0-0,2-3",
    "bytes=99999999999-",
    "bytes=a-b",
    "lines=1-2",
]
DIALECTS = [
    ("post", "/v1/videos"),
    ("get", "/v1/videos/{id}"),
    ("get", "/v1/videos/{id}/content"),
    ("post", "/v1/videos/{id}/remix"),
    ("post", "/api/v1/videos"),
    ("get", "/api/v1/videos/{id}"),
    ("post", "/fal/fal-ai/ltx-2.3/text-to-video"),
    ("post", "/fal/fal-ai/ltx-2.3/image-to-video"),
    ("get", "/fal/fal-ai/ltx-2.3/requests/{id}/status"),
    ("put", "/fal/fal-ai/ltx-2.3/requests/{id}/cancel"),
    ("get", "/fal/fal-ai/ltx-2.3/requests/{id}"),
    ("post", "/ltx/v2/text-to-video"),
    ("post", "/ltx/v2/image-to-video"),
    ("get", "/ltx/v2/text-to-video/{id}"),
]
DIALECT_FIELDS = [
    "prompt", "model", "seconds", "size", "num_frames", "fps", "seed", "duration", "resolution", "image_url",
    "image_uri", "input_reference", "frame_images", "video_size", "loras", "callback_url", "generate_audio",
    "webhook_url",
]  # fmt: skip
SLOW = ("/v1/system",)  # looks at the whole machine, and takes no input
STREAMS = ("/events", "/claim", "/stream")  # answers that last, or that wait


def png() -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(held, "PNG")
    return held.getvalue()


class Caller:
    """Makes calls of an operation from a seeded source."""

    def __init__(self, server: Server, seed: int) -> None:
        self.random = random.Random(seed)
        self.server = server
        paths = server.client.get("/openapi.json").json()["paths"]
        self.operations = [
            (method, path) for path, methods in paths.items() for method in methods if path not in SLOW
        ]
        self.operations += DIALECTS
        self.ids = ["local"]

    def call(self) -> tuple[str, httpx.Response | None]:
        """Make one call. Returns it in words, and its answer; None where the client itself refuses it."""
        method, path = self.random.choice(self.operations)
        if self.random.random() < 0.15:
            method, path = "post", "/v1/jobs"
        while "{" in path:
            head, _, rest = path.partition("{")
            path = head + self.segment() + rest.partition("}")[2]
        query = {self.word(): self.word() for _ in range(self.random.choice([0, 0, 1, 3]))}
        query |= {"limit": self.word(), "ticket": self.word()} if self.random.random() < 0.2 else {}
        headers = {"authorization": f"Bearer {KEY}"} if self.random.random() < 0.9 else {}
        if self.random.random() < 0.3:
            headers[self.random.choice(HEADERS)] = self.random.choice([self.word(), *RANGES])
        body = self.body(method, path, headers)
        told = f"{method} {path[:200]!r} {query!r:.200} {headers!r:.200} {body!r:.300}"
        encoded = [(k.encode(), v.encode("utf-8", "surrogatepass")) for k, v in headers.items()]
        try:
            with self.server.client.stream(
                method, path, params=query, headers=encoded, content=body, timeout=3
            ) as answer:
                if not any(part in path for part in STREAMS):
                    answer.read()
                    self.keep(answer)
                return told, answer
        except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError, ValueError):
            return told, None
        except (httpx.RemoteProtocolError, httpx.WriteError, httpx.ReadError, httpx.ReadTimeout):
            return told, None  # headers of the framing that do not fit: the connection is closed

    def keep(self, answer: httpx.Response) -> None:
        if "json" in answer.headers.get("content-type", "") and answer.status_code < 300:
            found = answer.json()
            if isinstance(found, dict) and isinstance(found.get("id"), str):
                self.ids = [*self.ids[-200:], found["id"]]

    def word(self) -> str:
        return self.random.choice([*WORDS, *self.ids])

    def segment(self) -> str:
        if self.random.random() < 0.7:
            return self.random.choice(self.ids)
        return (
            httpx.URL("http://a/")
            .copy_with(params={"a": self.word().replace("\ud800", "")})
            .query.decode()[2:]
            or "x"
        )

    def value(self, depth: int = 0) -> Any:
        make: list[Callable[[], Any]] = [
            self.word, lambda: self.random.choice(NUMBERS), lambda: None, lambda: True,
            lambda: [self.value(depth + 1) for _ in range(self.random.randrange(3))],
            lambda: {self.word(): self.value(depth + 1) for _ in range(self.random.randrange(3))},
        ]  # fmt: skip
        return make[self.random.randrange(4 if depth > 3 else 6)]()

    def body(self, method: str, path: str, headers: dict[str, str]) -> bytes | None:
        if method in ("get", "head", "delete") and self.random.random() < 0.95:
            return None
        if "upload" in path or "/files/" in path or "checkpoint" in path:
            return self.file(headers)
        headers.setdefault("content-type", "application/json")
        kind = self.random.random()
        if kind < 0.1:
            return self.random.choice(
                [b"", b"{", b"[" * 50_000, b"\xff\xfe", b'{"a": NaN}', b'{"a": "\\ud800"}']
            )
        asked: Any = {"request": {"prompt": "A ball.", "num_frames": 9, "size": [64, 64], "steps": 1}}
        if (method, path) in DIALECTS or not path.startswith("/v1/jobs"):
            asked = {"prompt": "A ball.", self.random.choice(DIALECT_FIELDS): self.value()}
        elif kind < 0.6:
            asked["request"][self.random.choice(FIELDS)] = self.value()
        elif kind < 0.75:
            asked[
                self.random.choice(
                    ["model", "format", "label", "webhook_url", "priority", "kind", self.word()]
                )
            ] = self.value()
        elif kind < 0.9:
            asked = self.value()
        return json.dumps(asked).encode()

    def file(self, headers: dict[str, str]) -> bytes:
        data = bytearray(
            self.random.choice(
                [png(), b"GIF89a" + bytes(40), b"RIFF\0\0\0\0WAVEfmt ", b"<svg/>", b"PK\3\4", b""]
            )
        )
        for _ in range(self.random.randrange(4)):
            if data:
                data[self.random.randrange(len(data))] = self.random.randrange(256)
        if self.random.random() < 0.5:
            return bytes(data)
        headers["content-type"] = self.random.choice(
            ["multipart/form-data; boundary=b", "multipart/form-data", "multipart/mixed; boundary=b"]
        )
        name = self.word().encode("utf-8", "replace").replace(b"\r\n", b" ")
        part = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="'
            + name
            + b'"\r\n\r\n'
            + bytes(data)
        )
        return part + self.random.choice([b"\r\n--b--\r\n", b"", b"\r\n--b\r\n"])


def hung(server: Server) -> list[str]:
    """Wait until all jobs but paused ones have ended; return those of which none has for a minute."""
    left: list[str] = []
    since = time.monotonic()
    while True:
        resting = (*FINAL, "paused")
        jobs = [job for job in server.jobs.list(LOCAL, limit=1000).data if job.state not in resting]
        told = [f"{job.id} {job.state} {job.progress.phase} {job.request}" for job in jobs]
        if told != left:
            left, since = told, time.monotonic()
        if not left or time.monotonic() - since > 60:
            return left
        time.sleep(0.1)


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_call_is_answered_by_a_500_or_leaves_anything_behind(count: int, tmp_path: Path) -> None:
    settings = ServerSettings(keys=frozenset({digest(KEY)}))
    (tmp_path / "secret.txt").write_text("root:x:0:0")
    before = {path.name for path in tmp_path.iterdir()}
    with serving(tmp_path / "data", settings=settings, work=True) as server:
        server.client.headers["authorization"] = f"Bearer {KEY}"
        caller = Caller(server, 12)
        bad = []
        for _ in range(count):
            told, answer = caller.call()
            if answer is not None and (
                (answer.status_code >= 500 and answer.status_code != 503) or "x-made" in answer.headers
            ):
                bad.append(f"{answer.status_code}: {told}")
        assert bad == [], "\n".join(bad[:20])
        assert server.client.get("/healthz").status_code == 200
        assert hung(server) == []
        assert list(server.jobs.tmp.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} - {"data"} == before
