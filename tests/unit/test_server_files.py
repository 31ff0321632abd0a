"""Files of a server over HTTP: uploads, ranges, tickets, previews."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from soundstage.clip import Clip
from soundstage.jobs.views import LOCAL
from soundstage.server.settings import ServerSettings
from tests.serving import Server, serving

MAX_BYTES = 2_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = ServerSettings(max_upload_bytes=MAX_BYTES)
    with serving(tmp_path_factory.mktemp("server"), settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def clip_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    frames = np.zeros((24, 64, 96, 3), np.uint8)
    frames[12:] = (200, 40, 40)
    wave = np.repeat(np.linspace(0, 0.5, 48_000, dtype=np.float32)[None], 2, axis=0)
    made = {"request": {"prompt": "A red ball."}}
    return Clip(frames, wave, 24.0, made).save(tmp_path_factory.mktemp("c") / "a.mp4").read_bytes()


@pytest.fixture(scope="module")
def asset(server: Server, clip_bytes: bytes) -> dict[str, Any]:
    answer = server.client.post("/v1/uploads", files={"file": ("../../b\u00e4ll.mp4", clip_bytes)})
    assert answer.status_code == 201, answer.text
    return answer.json()


def leftovers(server: Server) -> list[Path]:
    return list(server.jobs.tmp.iterdir())


def test_an_upload_is_probed_and_kept_under_a_name_of_the_servers(
    server: Server, asset: dict[str, Any], clip_bytes: bytes
) -> None:
    assert asset["media_type"] == "video/mp4"
    assert (asset["width"], asset["height"], asset["num_frames"]) == (96, 64, 24)
    assert asset["sha256"] == hashlib.sha256(clip_bytes).hexdigest()
    assert asset["name"] == "../../b\u00e4ll.mp4"  # text, and no part of a path
    path = server.jobs.asset_path(LOCAL, asset["id"])
    assert path.is_relative_to(server.jobs.data / "assets")
    answer = server.client.get(asset["url"])
    assert answer.content == clip_bytes
    assert ".." not in answer.headers["content-disposition"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert leftovers(server) == []


def test_the_bare_bytes_are_an_upload_too_and_the_same_file_is_kept_once(
    server: Server, asset: dict[str, Any], clip_bytes: bytes
) -> None:
    answer = server.client.post("/v1/uploads?name=again.mp4", content=clip_bytes)
    assert answer.json()["id"] == asset["id"]
    assert leftovers(server) == []


@pytest.mark.parametrize("stated", [True, False])
def test_an_upload_that_is_too_large_is_refused_while_it_comes(server: Server, stated: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(MAX_BYTES // 10_000 + 2):
            yield bytes(10_000)

    body = b"".join(pieces()) if stated else pieces()
    try:
        answer = server.client.post("/v1/uploads?name=a.png", content=body)
    except httpx.WriteError:  # the server answered and closed before all was sent
        pass
    else:
        assert answer.status_code == 413
    assert leftovers(server) == []


def test_a_form_that_breaks_off_leaves_nothing(server: Server) -> None:
    head = {"content-type": "multipart/form-data; boundary=x"}
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\nabc'
    assert server.client.post("/v1/uploads", content=form, headers=head).status_code == 400
    assert leftovers(server) == []


# --- ranges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status", "piece"),
    [
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-50", 206, slice(-50, None)),
        ("bytes=99999999-", 416, None),
        ("bytes=x", 200, slice(None)),
        ("words=0-1", 200, slice(None)),
        ("bytes=", 200, slice(None)),
    ],
)
def test_a_range_of_the_bytes_can_be_asked_for(
    server: Server, asset: dict[str, Any], clip_bytes: bytes, asked: str, status: int, piece: Any
) -> None:
    answer = server.client.get(asset["url"], headers={"Range": asked})
    assert answer.status_code == status
    if piece is not None:
        assert answer.content == clip_bytes[piece]


def test_head_and_conditions_send_no_bytes(server: Server, asset: dict[str, Any], clip_bytes: bytes) -> None:
    head = server.client.head(asset["url"])
    assert (head.content, head.headers["content-length"]) == (b"", str(len(clip_bytes)))
    tag = head.headers["etag"]
    assert server.client.get(asset["url"], headers={"If-None-Match": tag}).status_code == 304
    same = server.client.get(asset["url"], headers={"Range": "bytes=0-9", "If-Range": tag})
    other = server.client.get(asset["url"], headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)


# --- previews -----------------------------------------------------------------------------------------


def picture(answer: httpx.Response) -> Image.Image:
    assert answer.headers["content-type"] == "image/jpeg", answer.text
    return Image.open(io.BytesIO(answer.content))


def test_a_clip_has_a_thumbnail_a_strip_and_a_waveform(server: Server, asset: dict[str, Any]) -> None:
    at = f"/v1/assets/{asset['id']}"
    assert picture(server.client.get(f"{at}/thumbnail?width=48")).size == (48, 32)
    strip = picture(server.client.get(f"{at}/strip?frames=4&height=32"))
    assert strip.size == (4 * 48, 32)
    first, last = strip.getpixel((10, 16)), strip.getpixel((180, 16))
    assert first[0] < 40
    assert last[0] > 150
    peaks = server.client.get(f"{at}/waveform?peaks=10").json()["channels"]
    assert len(peaks) == 2
    assert len(peaks[0]) == 10
    assert peaks[0][0][1] < peaks[0][-1][1]
    again = server.client.get(f"{at}/thumbnail?width=48")
    assert picture(again).size == (48, 32)


def test_what_has_no_picture_or_sound_says_so(server: Server) -> None:
    held = io.BytesIO()
    Image.new("RGB", (40, 30), (0, 90, 0)).save(held, "PNG")
    image = server.client.post("/v1/uploads?name=a.png", content=held.getvalue()).json()
    at = f"/v1/assets/{image['id']}"
    assert picture(server.client.get(f"{at}/thumbnail")).size == (40, 30)
    refused = server.client.get(f"{at}/waveform")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unreadable_media")
    assert server.client.delete(at).json()["deleted"]
    assert server.client.get(f"{at}/thumbnail").status_code == 404


def test_a_file_tells_the_request_it_was_made_from(server: Server, asset: dict[str, Any]) -> None:
    told = server.client.get(f"/v1/assets/{asset['id']}/metadata").json()
    assert told["request"] == {"prompt": "A red ball."}
