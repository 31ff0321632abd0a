"""`soundstage mcp`, called by the SDK's own client: over stdio with nano, and over a server here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("mcp")
from mcp import Client, StdioServerParameters

from soundstage.assistants.makers import LocalMaker, RemoteMaker
from soundstage.assistants.tools import mcp_server
from soundstage.clip import Clip
from tests.examples import ROOT
from tests.limits import LONG_S, ended
from tests.serving import serving

PROMPT = "A red ball bounces."
SMALL = {"size": (64, 64), "num_frames": 9, "steps": 2}


def told(result: Any) -> dict[str, Any]:
    assert not result.is_error, result.content
    found: dict[str, Any] = json.loads(result.content[0].text)
    return found


async def made(client: Client) -> dict[str, Any]:
    """Make a clip, and return what was told of it."""
    shares: list[float] = []

    async def progress(share: float, total: float | None, message: str | None) -> None:
        shares.append(share)

    asked = {"prompt": PROMPT, "seed": 5, "fields": SMALL}
    result = await client.call_tool("generate", asked, progress_callback=progress)
    assert result.content[1].type == "image"
    assert shares == sorted(shares)
    assert shares
    return told(result)


@pytest.mark.slow
def test_an_assistant_makes_a_clip_over_stdio_with_nano(tmp_path: Path) -> None:
    async def work() -> None:
        words = ["-m", "soundstage", "mcp", "--output", str(tmp_path / "clips")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SOUNDSTAGE_SERVER": ""}
        started = StdioServerParameters(
            command=sys.executable, args=words, env=environment, cwd=str(tmp_path)
        )
        async with Client(started) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names == {"plan", "generate", "status", "result", "cancel", "models", "recipes"}
            hints = await client.read_resource("soundstage://prompting")
            assert "present tense" in str(hints.contents[0])
            planned = told(await client.call_tool("plan", {"prompt": PROMPT, "fields": SMALL}))
            assert "9 frames of 64x64" in planned["summary"]
            clip = await made(client)
            assert clip["state"] == "succeeded"
            assert Clip.open(clip["path"]).request.seed == 5
            wrong = await client.call_tool("generate", {"prompt": PROMPT, "fields": {"steps": 0}})
            assert wrong.is_error
            assert "steps" in wrong.content[0].text
            begun = told(await client.call_tool("generate", {"prompt": PROMPT, "wait": False}))
            gone = told(await client.call_tool("cancel", {"id": begun["id"]}))
            assert gone["id"] == begun["id"]

    asyncio.run(work())


def test_an_assistant_makes_a_clip_on_a_server(tmp_path: Path) -> None:
    async def work(url: str) -> None:
        server = mcp_server(RemoteMaker(url, None, None), tmp_path / "clips")
        async with Client(server) as client:
            clip = await made(client)
            assert clip["id"].startswith("job_")
            assert Path(clip["path"]).parent == tmp_path / "clips"
            begun = told(
                await client.call_tool("generate", {"prompt": PROMPT, "fields": SMALL, "wait": False})
            )
            again = told(await client.call_tool("result", {"id": begun["id"]}))
            assert again["state"] == "succeeded"
            assert told(await client.call_tool("status", {"id": begun["id"]}))["fraction"] == 1
            assert told(await client.call_tool("models", {}))["id"] == "nano"
            unknown = await client.call_tool("status", {"id": "job_" + "a" * 26})
            assert unknown.is_error

    with serving(tmp_path / "served", work=True) as running:
        asyncio.run(work(running.url))


@pytest.mark.slow
def test_an_assistant_makes_a_clip_over_http(tmp_path: Path) -> None:
    """The command in a process of its own, called by the SDK's client; its clips are made by a server."""

    async def work(url: str) -> None:
        async with Client(url) as client:
            clip = await made(client)
            assert clip["state"] == "succeeded"
            assert Path(clip["path"]).parent == tmp_path / "clips"

    words = [sys.executable, "-m", "soundstage", "mcp", "--http", "0", "--output", str(tmp_path / "clips")]
    with serving(tmp_path / "served", work=True) as running:
        command = [*words, "--server", running.url]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                url = process.stderr.readline().split()[-1]
                asyncio.run(work(url))
                stranger = {"origin": "https://example.com", "accept": "application/json, text/event-stream"}
                assert httpx.post(url, headers=stranger, json={}).status_code == 403
                port = url.split(":")[2].partition("/")[0]
                taken = subprocess.run([*words[:-3], port], stderr=subprocess.PIPE, text=True, timeout=LONG_S)
                assert taken.returncode == 2
                assert f"cannot listen on 127.0.0.1 port {port}" in taken.stderr
            finally:
                process.send_signal(signal.SIGINT)
            assert ended(process) in (0, 130)


def test_a_clip_takes_no_name_of_an_earlier_session(tmp_path: Path) -> None:
    """Each session counts its clips from 1."""
    (tmp_path / "clip-1.mp4").write_bytes(b"a film of before")

    async def work() -> None:
        async with Client(mcp_server(LocalMaker("nano"), tmp_path)) as client:
            clip = await made(client)
            assert Path(clip["path"]).name == "clip-1-2.mp4"
            again = told(await client.call_tool("result", {"id": clip["id"]}))
            assert again["path"] == clip["path"]

    asyncio.run(work())
    assert (tmp_path / "clip-1.mp4").read_bytes() == b"a film of before"
