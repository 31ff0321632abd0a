"""Who may call a server: keys, scopes, tickets, names and pages; what its log holds; webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import logging
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from PIL import Image

from soundstage.errors import RequestError
from soundstage.jobs.errors import TooMany
from soundstage.server import connections, logs, rates, safety, supervisor, webhooks
from soundstage.server.command import check_exposed
from soundstage.server.settings import ServerSettings, digest
from soundstage.server.supervisor import Supervisor
from tests.limits import LONG_S, until
from tests.serving import Server, serving

ASKED = {"request": {"prompt": "A red ball of secret words.", "num_frames": 9, "size": [64, 64], "steps": 2}}
GIVEN = "a-key-that-was-given-at-the-start"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = ServerSettings(keys=frozenset({digest(GIVEN)}), max_anonymous_bytes=1000)
    with serving(tmp_path_factory.mktemp("server"), settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def keys(server: Server) -> dict[str, str]:
    """A key of each kind, of owners of their own."""
    scopes = {
        "reader": ["read"],
        "maker": ["read", "submit"],
        "other": ["read", "submit"],
        "worker": ["worker"],
    }
    made = {
        name: server.client.post("/v1/keys", json={"name": name, "scopes": held}, headers=bearer(GIVEN))
        for name, held in scopes.items()
    }
    return {name: answer.json()["secret"] for name, answer in made.items()}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def png(shade: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (64, 64), (shade, 0, 0)).save(held, "PNG")
    return held.getvalue()


# --- keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {GIVEN}"},
        {"authorization": f"key {GIVEN}"},
        {"X-API-Key": GIVEN},
    ],
)
def test_a_key_is_read_from_every_header_that_clients_use(server: Server, headers: dict[str, str]) -> None:
    assert server.client.get("/v1/me", headers=headers).json()["id"] == "local"


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"Authorization": "Basic abc"}, {"X-API-Key": "é"}])
def test_no_key_or_a_wrong_one_is_refused(server: Server, headers: dict[str, str]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    answer = server.client.get("/v1/me", headers=encoded)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_health_needs_no_key_and_little_is_read_from_callers_without_one(server: Server) -> None:
    assert server.client.get("/healthz").status_code == 200
    assert server.client.post("/v1/jobs", json={"label": "a" * 2000}).status_code == 413


def test_a_scope_is_needed_for_each_call(server: Server, keys: dict[str, str]) -> None:
    def status(name: str, method: str, path: str, **options: object) -> int:
        return server.client.request(method, path, headers=bearer(keys[name]), **options).status_code  # type: ignore[arg-type]

    assert status("reader", "GET", "/v1/jobs") == 200
    assert status("reader", "POST", "/v1/jobs", json=ASKED) == 403
    assert status("maker", "GET", "/v1/keys") == 403
    assert status("maker", "POST", "/v1/workers/claim", json={"id": "w", "name": "w"}) == 403
    assert status("worker", "GET", "/v1/jobs") == 403
    assert status("worker", "POST", "/v1/workers/claim", json={"id": "w", "name": "w"}) == 204


def test_jobs_and_files_of_another_owner_are_not_to_be_seen(server: Server, keys: dict[str, str]) -> None:
    mine, other = bearer(keys["maker"]), bearer(keys["other"])
    job = server.client.post("/v1/jobs", json=ASKED, headers=mine).json()
    file = server.client.post("/v1/uploads?name=a.png", content=png(1), headers=mine).json()
    paths = [f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}/events", f"/v1/assets/{file['id']}", file["url"]]
    assert [server.client.get(path, headers=other).status_code for path in paths] == [404] * 4
    asked = {"request": {**ASKED["request"], "guides": [{"image": f"asset:{file['id']}"}]}}
    assert server.client.post("/v1/plan", json=asked, headers=other).status_code in (404, 422)
    assert server.client.get("/v1/jobs", headers=other).json()["data"] == []
    assert server.client.get(paths[0], headers=bearer(GIVEN)).json()["id"] == job["id"]  # an admin sees all


def test_a_revoked_key_is_refused_at_once(server: Server) -> None:
    made = server.client.post("/v1/keys", json={"name": "short"}, headers=bearer(GIVEN)).json()
    assert server.client.get("/v1/me", headers=bearer(made["secret"])).status_code == 200
    listed = server.client.get("/v1/keys", headers=bearer(GIVEN)).text
    assert made["id"] in listed
    assert made["secret"] not in listed
    server.client.delete(f"/v1/keys/{made['id']}", headers=bearer(GIVEN))
    assert server.client.get("/v1/me", headers=bearer(made["secret"])).status_code == 401


def test_other_machines_reach_a_server_only_if_it_has_a_key(server: Server, tmp_path: Path) -> None:
    with serving(tmp_path) as open_one:
        with pytest.raises(RequestError, match="there is no key"):
            check_exposed(ServerSettings(host="0.0.0.0"), open_one.jobs)
        check_exposed(ServerSettings(host="127.0.0.1"), open_one.jobs)
        open_one.jobs.create_key("me", ["read"], "mine")
        check_exposed(ServerSettings(host="0.0.0.0"), open_one.jobs)
        assert open_one.client.get("/v1/me").status_code == 401


def test_a_key_that_calls_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, settings=ServerSettings(calls_per_minute=5)) as server:
        answers = [server.client.get("/v1/jobs") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 12
        assert answers[-1].json()["error"]["code"] == "too_many"
        assert server.client.get("/healthz").status_code == 200
        assert server.client.post("/v1/workers/claim", json={"id": "w", "name": "w"}).status_code == 204


def test_calls_of_a_key_come_back_evenly() -> None:
    now = [0.0]
    counted = rates.CallRates(lambda: now[0])
    for _ in range(60):
        counted.count("a", 60)
    with pytest.raises(TooMany) as refused:
        counted.count("a", 60)
    assert refused.value.retry_after_s == 1
    counted.count("b", 60)
    now[0] += 1
    counted.count("a", 60)
    with pytest.raises(TooMany):
        counted.count("a", 60)


# --- tickets ------------------------------------------------------------------------------------------


def test_a_ticket_opens_one_file_for_a_while(
    server: Server, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = bearer(keys["maker"])
    first, second = (
        server.client.post("/v1/uploads?name=a.png", content=png(shade), headers=mine).json()
        for shade in (2, 3)
    )
    made = server.client.post(f"/v1/assets/{first['id']}/ticket", headers=mine).json()
    assert server.client.get(made["url"]).content == png(2)
    ticket = made["url"].partition("?")[2]
    assert server.client.get(f"/v1/assets/{first['id']}/thumbnail?{ticket}").status_code == 200
    assert server.client.get(f"{second['url']}?{ticket}").status_code == 403
    assert server.client.get(f"{first['url']}?ticket=1.0").status_code == 403
    again = server.client.post(f"/v1/assets/{first['id']}/ticket", headers=mine).json()
    assert again["url"] == made["url"]  # so that a player's address stays as it is
    later = time.time() + 3600
    monkeypatch.setattr(server.jobs, "clock", lambda: later)
    stale = server.client.get(made["url"])
    assert (stale.status_code, stale.json()["error"]["code"]) == (403, "stale_ticket")


# --- the log ------------------------------------------------------------------------------------------


def test_the_log_has_neither_prompts_nor_keys_nor_tickets(
    server: Server, keys: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "soundstage.server")
    mine = bearer(keys["maker"])
    server.client.post("/v1/jobs", json=ASKED, headers=mine)
    file = server.client.post("/v1/uploads?name=secret.png", content=png(4), headers=mine).json()
    ticket = server.client.post(f"/v1/assets/{file['id']}/ticket", headers=mine).json()
    server.client.get(ticket["url"])
    server.client.get("/v1/jobs?text=secret", headers=mine)
    lines = [logs.JsonLines().format(record) for record in caplog.records if record.name == logs.NAME]
    calls = [json.loads(line) for line in lines]
    assert {"/v1/jobs", "/v1/uploads", "/v1/assets/{id}/content"} <= {call["path"] for call in calls}
    assert "maker" in [call["owner"] for call in calls if call["path"] == "/v1/jobs"]
    assert not [line for line in lines if "secret" in line or keys["maker"] in line or "ticket=" in line]


# --- webhooks -----------------------------------------------------------------------------------------


def test_a_webhook_is_signed_and_tried_again_with_growing_pauses(tmp_path: Path) -> None:
    sent: list[tuple[bytes, Mapping[str, str]]] = []
    answers = iter([500, 204])

    def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> int:
        sent.append((body, headers))
        return next(answers)

    with serving(tmp_path) as server:
        job = server.client.post("/v1/jobs", json={**ASKED, "webhook_url": "https://example.com/hook"}).json()
        server.client.post(f"/v1/jobs/{job['id']}/cancel")
        sender = webhooks.Sender(server.jobs, post)
        [due] = server.jobs.due_deliveries()
        sender.send(due)
        [tried] = server.client.get("/v1/webhooks/deliveries").json()["data"]
        assert (tried["state"], tried["status"], tried["attempt"]) == ("pending", 500, 1)
        assert tried["next_at"] > time.time() + webhooks.PAUSES_S[0] - 2
        again = server.client.post(f"/v1/webhooks/deliveries/{tried['id']}/redeliver")
        assert again.status_code == 202
        [due] = server.jobs.due_deliveries()
        sender.send(due)
        [done] = server.client.get(f"/v1/webhooks/deliveries?job={job['id']}").json()["data"]
        assert done["state"] == "delivered"
        secret = server.client.get("/v1/webhooks/secret").json()["secret"]
    body, headers = sent[0]
    assert json.loads(body)["state"] == "cancelled"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.digest(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256)
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"


def test_pauses_of_webhooks_grow_and_end() -> None:
    assert list(webhooks.PAUSES_S) == sorted(webhooks.PAUSES_S)


# --- workers ------------------------------------------------------------------------------------------


def test_a_worker_that_ends_is_started_again_until_the_server_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.01)
    count = tmp_path / "count"
    code = f"open({str(count)!r}, 'a').write('x')"
    ended: list[str] = []
    watched = Supervisor(["cpu"], lambda device: [sys.executable, "-S", "-c", code], {}, ended.append)
    watched.start()
    notes: set[str | None] = set()
    end = time.monotonic() + LONG_S
    while not count.exists() or len(count.read_text()) < 3:
        assert time.monotonic() < end
        notes |= {worker.note for worker in watched.waiting()}
        time.sleep(0.001)
    watched.stop()
    assert any("on cpu has ended with code 0" in (note or "") for note in notes)
    before = count.read_text()
    time.sleep(0.1)
    assert count.read_text() == before
    assert len(set(ended)) == len(ended) == len(before)  # each process is told of by an id of its own


def test_a_worker_that_hangs_is_replaced_after_several_looks(tmp_path: Path) -> None:
    ended: list[str] = []
    command = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    watched = Supervisor(["cpu"], lambda device: command, {}, ended.append)
    watched.start()
    watch = watched._watches[0]
    until(lambda: watch._process is not None)
    for look in range(supervisor.SILENT_LOOKS):
        assert watch._process.poll() is None, look
        watched.replace_silent([watch._id])
    until(lambda: ended)
    watched.kill()


# --- what browsers are told, and slow clients ----------------------------------------------------------


def test_every_answer_tells_browsers_to_run_nothing_and_keep_nothing(server: Server) -> None:
    for path in ("/healthz", "/v1/jobs", "/nowhere"):
        headers = server.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_picture_of_another_sites_page_is_refused_and_a_link_followed(server: Server) -> None:
    asked = {**bearer(GIVEN), "sec-fetch-site": "cross-site"}
    assert server.client.get("/v1/me", headers={**asked, "sec-fetch-mode": "no-cors"}).status_code == 403
    assert server.client.get("/v1/me", headers={**asked, "sec-fetch-mode": "navigate"}).status_code == 200


def test_a_head_that_does_not_come_ends_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.2)
    address = server.url.removeprefix("http://").split(":")
    for sent in (b"", b"GET /healthz HTTP/1.1\r\nHost: 127"):
        with socket.create_connection((address[0], int(address[1])), timeout=20) as line:
            line.sendall(sent)
            assert line.recv(100) == b""


def test_a_body_that_does_not_come_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety, "BODY_PAUSE_S", 0.2)
    before = set(server.jobs.tmp.iterdir())

    def slow() -> Iterator[bytes]:
        yield b"\x89PNG"
        for _ in range(12):
            time.sleep(0.1)
            yield b""
        yield b"end"

    answer = server.client.post("/v1/uploads?name=a.png", content=slow(), headers=bearer(GIVEN))
    assert answer.status_code == 408
    assert set(server.jobs.tmp.iterdir()) == before


def test_a_head_that_is_too_large_is_refused(server: Server) -> None:
    answer = server.client.get("/healthz", headers={"x-long": "a" * 300_000})
    assert answer.status_code == 400
