"""Play pages of HTML in a real browser, Chromium without a window, and hear back what its players did.

CHROMIUM names the program where it is under another name. A page is served by this process and reports to it,
so no driver is needed.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.limits import ended

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
    "--disable-quic", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
PATIENCE_S = 120  # for a machine with other work; a page reports long before

# Play the first player of the page to its end, and report what it is, what came out, and the last picture.
SCRIPT = """
const player = document.querySelector('video, audio');
const told = {};
const send = () => fetch('/told', {method: 'POST', body: JSON.stringify(told)});
const finish = () => {
    told.seconds = player.currentTime;
    told.soundBytes = player.webkitAudioDecodedByteCount;
    if (player.videoWidth) {
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [player.videoWidth, player.videoHeight];
        canvas.getContext('2d').drawImage(player, 0, 0);
        const middle = canvas.getContext('2d').getImageData(canvas.width / 2, canvas.height / 2, 1, 1);
        told.color = Array.from(middle.data).slice(0, 3);
        told.frames = player.getVideoPlaybackQuality().totalVideoFrames;
    }
    send();
};
player.loop = false;
player.onended = finish;
player.onerror = () => { told.error = player.error.message; send(); };
player.onloadedmetadata = () => {
    told.size = [player.videoWidth || 0, player.videoHeight || 0];
    told.duration = player.duration;
    told.controls = player.controls;
};
player.play().catch(error => { told.error = String(error); send(); });
player.readyState >= 1 && player.onloadedmetadata();
"""


def browser() -> str | None:
    """Return the path of Chromium, or None."""
    return next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM", ""), *NAMES))), None)


def played(page: str, profile: Path) -> dict[str, Any]:
    """Open a page whose body is given, play its video or audio, and return what the browser reports.

    profile: an empty folder for the browser's own files.
    """
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    html = f"<!doctype html><meta charset=utf-8><body>{page}<script>{SCRIPT}</script>".encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(html if self.path == "/" else b"")

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(b"")

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = browser()
        assert program is not None
        address = f"http://127.0.0.1:{server.server_port}/"
        process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={profile}", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return told.get(timeout=PATIENCE_S)
        finally:
            process.terminate()
            ended(process)
            server.shutdown()
