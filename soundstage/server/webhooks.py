"""Send webhooks: signed, tried again with growing pauses, each try written down.

They are signed as Standard Webhooks has it, so that its libraries check them:

    webhook-id: dl_...                 the same at every try
    webhook-timestamp: 1796000000      Unix seconds
    webhook-signature: v1,BASE64       HMAC-SHA256 of "id.timestamp.body" under the owner's secret
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from soundstage.errors import SoundstageError
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import Delivery
from soundstage.server.logs import told

log = logging.getLogger("soundstage.server")
PAUSES_S = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800)  # before the second try, the third, ...
TIMEOUT_S = 15.0
AT_ONCE = 4
BATCH = 20
Post = Callable[[str, bytes, Mapping[str, str], float], int]  # url, body, headers, seconds: the status


@dataclass(frozen=True)
class Letter:
    """A webhook as it is sent: a body, and the headers that sign it."""

    body: bytes
    headers: Mapping[str, str]


WriteLetter = Callable[[Jobs, Delivery, int], Letter]  # the last is the time, in Unix seconds


def secret_of(jobs: Jobs, owner_id: str) -> str:
    """Return an owner's secret: "whsec_" and Base64, made from the server's own."""
    return "whsec_" + base64.b64encode(_key(jobs, owner_id)).decode()


def _key(jobs: Jobs, owner_id: str) -> bytes:
    return hmac.digest(jobs.secret("webhooks"), owner_id.encode(), hashlib.sha256)


def letter(jobs: Jobs, delivery: Delivery, at: int, body: str) -> Letter:
    """Return a body with the headers that sign it. at: Unix seconds."""
    signed = f"{delivery.id}.{at}.{body}".encode()
    signature = base64.b64encode(hmac.digest(_key(jobs, delivery.owner), signed, hashlib.sha256)).decode()
    headers = {
        "webhook-id": delivery.id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{signature}",
    }
    return Letter(body.encode(), headers)


def native(jobs: Jobs, delivery: Delivery, at: int) -> Letter:
    """Return the letter of the native API: the job itself."""
    return letter(jobs, delivery, at, delivery.body)


class Sender:
    """Sends what is due. letters: those of other interfaces than the native one, by their names."""

    def __init__(self, jobs: Jobs, post: Post, letters: Mapping[str, WriteLetter] | None = None) -> None:
        self._jobs, self._post, self._letters = jobs, post, dict(letters or {})
        self._pool = ThreadPoolExecutor(AT_ONCE, "webhook")

    def send_due(self) -> None:
        """Try every delivery whose time has come."""
        list(self._pool.map(self.send, self._jobs.due_deliveries(BATCH)))

    def send(self, delivery: Delivery) -> None:
        """Try a delivery once, and write down how it went."""
        at = time.time()
        write = self._letters.get(delivery.via, native)
        status: int | None = None
        error: str | None = None
        try:
            sent = write(self._jobs, delivery, int(at))
            headers = {"content-type": "application/json", **sent.headers}
            status = self._post(delivery.url, sent.body, headers, TIMEOUT_S)
            if not 200 <= status < 300:
                error = f"the receiver answered {status}"
        except SoundstageError as refused:
            error = str(refused)
        self._jobs.delivered(
            delivery.id, status=status, error=error, retry_at=self._retry_at(delivery, at, error)
        )
        log.info("webhook", extra=told(id=delivery.id, job=delivery.job_id, status=status, error=error))

    def _retry_at(self, delivery: Delivery, at: float, error: str | None) -> float | None:
        """Return when to try again; None for what has arrived, and for what was tried often enough."""
        if error is None or delivery.attempt > len(PAUSES_S):
            return None
        return at + PAUSES_S[delivery.attempt - 1]
