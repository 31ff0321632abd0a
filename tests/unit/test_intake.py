"""What comes in from outside: addresses by rule, data: URIs, files looked into, each within its limits."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from soundstage.errors import MediaError, RequestError, SoundstageError, WeightsError
from soundstage.intake.addresses import is_public
from soundstage.intake.bring import Intake, decoded
from soundstage.intake.fetch import fetch, post
from soundstage.intake.guard import Guard
from soundstage.intake.inspection import inspect
from soundstage.intake.limits import IntakeLimits
from soundstage.intake.rules import OFF, PUBLIC, FetchRule
from soundstage.jobs.errors import TooLarge
from tests.media_files import grays, tone, write_film

PRIVATE = [
    "127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "100.100.100.200", "192.0.0.192", "198.18.0.1", "203.0.113.5", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "168.63.129.16", "192.88.99.1", "::", "::1", "::ffff:127.0.0.1", "::127.0.0.1",
    "::ffff:0:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:7f00:1::", "2002:0a00:0001::1",
    "2001:0:53aa:64c::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "2001:db8::1", "3fff::1", "100::1", "localhost", "",
]  # fmt: skip
OPEN = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::1.1.1.1", "2002:0101:0101::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_of_the_open_network_are_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", OPEN)
def test_addresses_of_the_open_network_are_called(address: str) -> None:
    assert is_public(address)


# --- the rule ---------------------------------------------------------------------------------------

REFUSED = [
    "http://example.com/a.png", "ftp://example.com/a", "file:///etc/passwd", "//example.com/a", "a.png", "",
    "https://", "https:/a", "https://:443/", "https://localhost/", "https://127.0.0.1/", "https://127.1/",
    "https://0x7f000001/", "https://2130706433/", "https://0177.0.0.1/", "https://1.0x1/", "https://[::1]/",
    "https://[::ffff:127.0.0.1]/", "https://[fe80::1%25eth0]/", "https://user:word@example.com/",
    "https://user@example.com/", "https://example.com:22/", "https://example.com\\@localhost/",
    "https://exa mple.com/", "https://example.com/\r\nHost: b", "https://example.com/\0", "https://xn--/",
    "https://" + "a" * 300 + ".com/", "https://example.com/" + "a" * 3000, "https://metadata/",
    "gopher://example.com/", "https://example.com:99999999/", "javascript:alert(1)",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED, ids=range(len(REFUSED)))
def test_addresses_that_are_none_or_dangerous_are_refused_by_their_words(url: str) -> None:
    with pytest.raises(RequestError):
        PUBLIC.check(url)


@pytest.mark.parametrize("url", ["https://example.com/a.png", "https://a.example.com:8443/", "HTTPS://B.ORG"])
def test_https_addresses_with_a_name_are_allowed(url: str) -> None:
    PUBLIC.check(url)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["", "https://", "https://a.com/", "http://[", "https://[::"]))
def test_any_text_is_an_address_or_refused_in_a_sentence(text: str, start: str) -> None:
    with contextlib.suppress(RequestError):
        assert PUBLIC.check(start + text).scheme == "https"


def test_a_list_names_the_hosts_that_are_called() -> None:
    rule = FetchRule.parse("cdn.example.com, *.files.org, http://plain.net, private:http://10.0.0.5:9000")
    for url in (
        "https://cdn.example.com/a", "https://CDN.example.com:8443/a", "https://a.files.org/x",
        "https://a.b.files.org/x", "http://plain.net/", "https://plain.net/", "http://10.0.0.5:9000/b",
    ):  # fmt: skip
        rule.check(url)
    for url in (
        "https://example.com/", "https://cdn.example.com.evil.org/", "https://files.org/", "https://xfiles.org/",
        "http://cdn.example.com/", "http://10.0.0.5:9001/", "https://1.1.1.1/", "https://a.com/?cdn.example.com",
    ):  # fmt: skip
        with pytest.raises(RequestError, match="no address that this server calls"):
            rule.check(url)


def test_what_is_off_calls_nothing_and_says_what_to_do() -> None:
    assert FetchRule.parse("off") == FetchRule.parse("") == OFF
    with pytest.raises(RequestError, match="upload the file"):
        OFF.check("https://example.com/a.png")


@pytest.mark.parametrize("word", ["ftp://a.com", "a.com/path", "a b", "*", "https://a.com:0", "a.com:70000"])
def test_a_word_that_is_no_entry_is_refused(word: str) -> None:
    with pytest.raises(RequestError, match="no entry of a rule"):
        FetchRule.parse(word)


def test_a_message_does_not_repeat_secrets_of_an_address() -> None:
    for url in ("http://me:hunter2@example.com/a", "http://example.com/a?token=hunter2"):
        with pytest.raises(RequestError) as refused:
            PUBLIC.check(url)
        assert "hunter2" not in str(refused.value)


def test_a_name_that_leads_into_a_private_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["93.184.216.34", "10.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (one, 443)) for one in found])
    with pytest.raises(RequestError, match="private network"):
        PUBLIC.target("https://rebinding.example.com/")


# --- fetching ---------------------------------------------------------------------------------------


@dataclass
class Site:
    """A web server of a test on this machine. seen: headers and bodies of the calls it got."""

    url: str
    rule: FetchRule
    seen: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


class _Pages(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.site.seen.append(({k.lower(): v for k, v in self.headers.items()}, b""))
        getattr(self, f"page_{self.path.strip('/')}")()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.site.seen.append(({k.lower(): v for k, v in self.headers.items()}, body))
        self.answer(302, b"", location="https://example.com/")

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def page_picture(self) -> None:
        self.answer(200, png(), content_type="text/html")

    def page_page(self) -> None:
        self.answer(200, b"<html><script>alert(1)</script></html>", content_type="image/png")

    def page_moved(self) -> None:
        self.answer(302, b"", location="http://127.0.0.1:1/")

    def page_missing(self) -> None:
        self.answer(404, b"no")

    def page_packed(self) -> None:
        self.answer(200, b"x" * 10, content_encoding="gzip")

    def page_empty(self) -> None:
        self.answer(200, b"")

    def page_large(self) -> None:
        self.answer(200, b"x" * 5000)

    def page_unstated(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 5000)
        self.close_connection = True

    def page_short(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "100")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        self.close_connection = True

    def page_dripping(self) -> None:
        self.close_connection = True
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx-")
            for _ in range(400):
                self.wfile.write(b"a")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_address[1]}"
    _Pages.site = Site(address, FetchRule.parse(f"private:{address}"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield _Pages.site
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_under_a_name_of_the_servers(site: Site, tmp_path: Path) -> None:
    path = fetch(f"{site.url}/picture", tmp_path, rule=site.rule, max_bytes=10_000, timeout_s=10)
    assert path.read_bytes() == png()
    assert path.parent == tmp_path
    assert site.seen[-1][0]["host"] == site.url.removeprefix("http://")


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("moved", "not followed"),
        ("missing", "status 404"),
        ("packed", "packed"),
        ("empty", "empty"),
        ("large", "larger than"),
        ("unstated", "larger than"),
        ("short", "did not answer as it should"),
        ("dripping", "took too long"),
    ],
)
def test_what_is_no_file_within_the_limits_is_refused_and_nothing_is_left(
    page: str, words: str, site: Site, tmp_path: Path
) -> None:
    seconds = 0.5 if page == "dripping" else 10
    with pytest.raises(SoundstageError, match=words) as refused:
        fetch(f"{site.url}/{page}", tmp_path, rule=site.rule, max_bytes=1000, timeout_s=seconds)
    assert isinstance(refused.value, TooLarge) == ("larger" in words)
    assert list(tmp_path.iterdir()) == []


def test_nobody_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    rule = FetchRule.parse("private:http://127.0.0.1:9")
    with pytest.raises(RequestError, match="did not answer"):
        fetch("http://127.0.0.1:9/", tmp_path, rule=rule, max_bytes=10, timeout_s=5)


def test_the_connection_goes_to_the_address_that_was_checked(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = socket.getaddrinfo, []

    def once(host: str, *args: object, **more: object) -> object:
        if host == "files.example.test":
            asked.append(host)
            assert len(asked) == 1, "the name was looked up again"
            host = "127.0.0.1"
        return real(host, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", once)
    port = site.url.rpartition(":")[2]
    rule = FetchRule.parse(f"private:http://files.example.test:{port}")
    url = f"http://files.example.test:{port}/picture"
    fetch(url, tmp_path, rule=rule, max_bytes=10_000, timeout_s=10)
    assert site.seen[-1][0]["host"] == f"files.example.test:{port}"
    assert asked == ["files.example.test"]


def test_a_webhook_is_sent_and_a_redirect_of_it_is_only_a_status(site: Site) -> None:
    status = post(site.url, b'{"a": 1}', {"content-type": "application/json"}, 10, rule=site.rule)
    assert status == 302
    assert site.seen[-1][1] == b'{"a": 1}'


# --- data: URIs -------------------------------------------------------------------------------------


def test_data_uris_are_decoded() -> None:
    assert decoded("data:image/png;base64,aGVsbG8=", 100) == b"hello"
    assert decoded("data:;base64,-_-_", 100) == b"\xfb\xff\xbf"
    assert decoded("data:text/plain,a%20b", 100) == b"a b"


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("data:image/png;base64,!!!!", RequestError),
        ("data:image/png;base64,abc", RequestError),
        ("data:image/png;base64,", RequestError),
        ("data:image/png;base64", RequestError),
        ("data:", RequestError),
        ("data:;base64," + "A" * 200, TooLarge),
        ("data:," + "%41" * 400, TooLarge),
    ],
)
def test_damaged_and_large_data_uris_are_refused(uri: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        decoded(uri, 100)


# --- looking into files -----------------------------------------------------------------------------


def png(size: tuple[int, int] = (8, 6)) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", size).save(held, "PNG")
    return held.getvalue()


def bomb() -> bytes:
    """Return a PNG whose header says 60000x60000 and whose few bytes are no picture."""
    data = bytearray(png())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(data)


def safetensors(header: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def lora() -> bytes:
    module = "diffusion_model.transformer_blocks.0.attn1.to_q"
    entries = {
        f"{module}.lora_A.weight": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        f"{module}.lora_B.weight": {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]},
    }
    return safetensors(entries, bytes(16))


def test_the_content_says_what_a_file_is(tmp_path: Path) -> None:
    picture = tmp_path / "film.mp4"
    picture.write_bytes(png())
    found = inspect(picture, "input")
    assert (found.media_type, found.info["width"], found.info["height"]) == ("image/png", 8, 6)
    film = tmp_path / "picture.png"
    write_film(film.with_suffix(".mp4"), grays(range(10)), waves=[tone(0.4)], audio_codec="aac")
    film.with_suffix(".mp4").rename(film)
    found = inspect(film, "input")
    assert found.media_type == "video/mp4"
    assert found.info["has_sound"]
    assert found.info["num_frames"] == 10
    assert found.info["sample_rate"] == 48_000


OTHERS = {
    "playlist": b"#EXTM3U\n#EXTINF:1,\nhttp://169.254.169.254/latest\n",
    "concatenation": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "dash": b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    "session": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "page": b"<!doctype html><script>alert(1)</script>",
    "drawing": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "archive": b"PK\x03\x04" + bytes(60),
    "document": b"%PDF-1.7\n",
    "postscript": b"%!PS-Adobe-3.0\n",
    "script": b"#!/bin/sh\nrm -rf /\n",
    "zeros": bytes(5000),
    "bomb": bomb(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_lists_pages_archives_and_bombs_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "held"
    path.write_bytes(OTHERS[name])
    with pytest.raises(MediaError) as refused:
        inspect(path, "input")
    assert str(tmp_path) not in str(refused.value)


def test_a_file_beyond_a_limit_is_refused_by_its_header(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    write_film(film, grays(range(10)), waves=[tone(0.4)], audio_codec="aac")
    for limits, kind in (
        (IntakeLimits(frame_pixels=1000), MediaError),
        (IntakeLimits(num_frames=5), MediaError),
        (IntakeLimits(duration_s=0.1), MediaError),
        (IntakeLimits(streams=1), MediaError),
        (IntakeLimits(sample_rate_hz=8000), MediaError),
        (IntakeLimits(channels=1), MediaError),
        (IntakeLimits(clip_bytes=100), TooLarge),
    ):
        with pytest.raises(kind, match=r"taken|may have"):
            inspect(film, "input", limits)


def test_a_lora_is_a_safetensors_file_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "held"
    path.write_bytes(lora())
    assert inspect(path, "lora").media_type == "application/vnd.safetensors"
    for data, words in (
        (b"PK\x03\x04" + bytes(60), "weights_only=True"),
        (b"\x80\x02}q\x00." + bytes(60), "weights_only=True"),
        (b"GGUF" + bytes(60), "weights_only=True"),
        (b"x", "weights_only=True"),
        ((2**40).to_bytes(8, "little") + b"{}", "header"),
        (safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "not a LoRA"),
        (lora()[:-1], "the file"),
    ):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=words) as refused:
            inspect(path, "lora")
        assert str(tmp_path) not in str(refused.value)


# --- the child process ------------------------------------------------------------------------------


def waits(seconds: float) -> None:
    time.sleep(seconds)


def grows(num_bytes: int) -> int:
    return len(np.ones(num_bytes, np.uint8))


def dies() -> None:
    os.abort()


def writes(path: str) -> None:
    Path(path).write_bytes(b"x" * 100)


def secret() -> list[str]:
    return sorted(name for name in os.environ if "KEY" in name or name.startswith("SOUNDSTAGE"))


@pytest.fixture
def guard() -> Iterator[Guard]:
    made = Guard(seconds=20, memory_bytes=2**31)
    yield made
    made.close()


def test_what_fails_in_the_child_is_told_and_the_next_call_works(guard: Guard, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="too much time or memory"):
        guard.call(dies)
    with pytest.raises(MediaError, match="MemoryError"):
        guard.call(grows, 2**31)
    with pytest.raises(MediaError, match="OSError"):
        guard.call(writes, str(tmp_path / "out"))
    assert guard.call(grows, 1000) == 1000


def test_a_call_that_takes_too_long_is_ended() -> None:
    guard = Guard(seconds=1, memory_bytes=2**31)
    with pytest.raises(MediaError, match="too much time or memory"):
        guard.call(waits, 600)
    guard.close()


def test_the_child_gets_no_secrets(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_WORKER_KEY", "hunter2")
    monkeypatch.setenv("FAL_KEY", "hunter2")
    assert guard.call(secret) == []


def test_references_are_brought_in_and_checked(site: Site, tmp_path: Path) -> None:
    intake = Intake(site.rule, IntakeLimits(fetch_bytes=4000))
    found = intake(f"{site.url}/picture", "input", tmp_path)
    assert (found.name, found.media_type, found.info["width"]) == ("picture", "image/png", 8)
    uri = f"data:text/html;base64,{base64.b64encode(png()).decode()}"
    assert intake(uri, "input", tmp_path).media_type == "image/png"
    before = set(tmp_path.iterdir())
    for reference in (f"{site.url}/page", "data:image/png;base64,aGVsbG8=", f"{site.url}/large"):
        with pytest.raises(SoundstageError):
            intake(reference, "input", tmp_path)
    assert set(tmp_path.iterdir()) == before
    intake.guard.close()
