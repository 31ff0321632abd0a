"""The studio: its files, its command, and its page in a real browser over a server of this process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, Response, expect

import soundstage as ss
from soundstage.cli import studio as command
from soundstage.jobs.views import AssetKind, JobProgress, MadeFile, MadeFiles, WorkerInfo, WorkReport
from soundstage.studio.pages import STATIC, router, static_files
from tests.dataset_clips import clip
from tests.serving import Server, serving
from tests.visit import DARK, LIGHT, PAGES, PHONE, Visit, chromium, needs_browser, plays, studio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with studio(tmp_path_factory.mktemp("studio"), step_s=0.02) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


# --- files --------------------------------------------------------------------------------------------


def test_files_have_a_policy_and_are_sent_once(server: Server) -> None:
    for path in ("", *static_files()):
        answer = server.client.get(f"/studio/{path}")
        assert answer.status_code == 200
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = server.client.get(f"/studio/{path}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert server.client.get("/").headers["location"] == "/studio/"
    for path in ("../index.html", "%2e%2e/index.html", "nothing.js", "js/"):
        assert server.client.get(f"/studio/{path}").status_code == 404


def test_every_file_is_of_a_kind_that_is_served() -> None:
    files = {path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file()}
    assert files == set(static_files())


def test_every_module_is_asked_for_at_once() -> None:
    named = re.findall(r'<link rel="modulepreload" href="([^"]*)"', (STATIC / "index.html").read_text())
    began = {"js/main.js", "js/theme.js"}  # by script elements of the page
    assert sorted([*named, *began]) == [path for path in static_files() if path.endswith(".js")]


def test_the_page_holds_no_address_of_elsewhere_and_no_script_of_its_own() -> None:
    html = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]* src=)", html) == []
    assert " style=" not in html
    own = [path for path in STATIC.rglob("*.[jc]s*") if "vendor" not in path.parts]
    for path in own:
        assert not re.search(
            r"(innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\()", path.read_text()
        ), path


def test_the_command_serves_this_machine_alone_and_opens_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    opened: list[str] = []

    def serve(values: dict[str, Any], ready: Any) -> None:
        told.update(values)
        ready("http://127.0.0.1:9", "")

    monkeypatch.setattr("soundstage.cli.serve.serve", serve)
    monkeypatch.setattr("soundstage.cli.opening.open_it", lambda what: opened.append(what))
    done = CliRunner().invoke(command.app, ["--model", "nano", "--port", "0"])
    assert done.exit_code == 0, done.output
    assert "http://127.0.0.1:9/studio/" in done.output
    assert opened == ["http://127.0.0.1:9/studio/"]
    assert told["host"] == "127.0.0.1"
    assert (told["models"], told["devices"], told["port"]) == (("nano",), ("auto",), 0)


# --- the page -----------------------------------------------------------------------------------------


@needs_browser
def test_a_first_visitor_makes_a_clip_plays_it_reuses_it_and_retakes_it(
    server: Server, browser: Browser
) -> None:
    visit = Visit(browser, server.url)
    page = visit.go("make")
    expect(visit.prompt).to_have_value(re.compile("red ball"))
    expect(page.locator(".price-main")).to_contain_text("about")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".screen .preview img")).to_be_visible()
    plays(page, ".on-stage video")
    page.get_by_role("button", name="Start over").click()
    expect(page.locator(".notices")).to_contain_text("The form is empty.")
    page.get_by_role("button", name="Reuse settings").click()
    expect(visit.prompt).to_have_value(re.compile("red ball"))
    expect(page.locator(".notices")).to_contain_text("The form has the settings of that clip.")
    expect(page.locator(".notices")).not_to_contain_text("empty")  # it no longer is, and Undo would lose this
    page.get_by_role("button", name="Retake").click()
    handle = page.get_by_role("slider", name="Start of part 1")
    before = float(handle.get_attribute("aria-valuenow") or 0)
    handle.press("ArrowRight")
    expect(handle).to_have_attribute("aria-valuenow", str(round(before + 0.1, 2)))
    expect(page.locator("#source summary").first).to_contain_text("1 part made again")
    visit.close()


@needs_browser
def test_no_page_is_wider_than_a_phone_and_the_theme_follows_system_and_switch(
    server: Server, browser: Browser
) -> None:
    visit = Visit(browser, server.url, viewport=PHONE, color_scheme="dark")
    for name in PAGES[:-1]:  # System prices clips of every model, which takes a while
        page = visit.go(name)
        expect(page.locator("main h1").first).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(ground) == DARK
    page.get_by_role("button", name=re.compile("Theme")).click()
    assert page.evaluate(ground) == LIGHT
    page.reload()
    assert page.evaluate(ground) == LIGHT
    visit.close()


@needs_browser
def test_what_is_wrong_is_told_at_its_field(server: Server, browser: Browser) -> None:
    visit = Visit(browser, server.url, as_told=("status of 422",))
    page = visit.go("make")
    page.locator("#shape summary").click()
    page.get_by_label("Frame rate").fill("1000")
    expect(page.locator(".field.bad .problem")).to_contain_text("fps")
    expect(visit.make).to_be_disabled()
    page.get_by_label("Frame rate").fill("")
    expect(visit.make).to_be_enabled()
    visit.close()


@needs_browser
def test_try_again_pressed_twice_is_one_job_until_that_has_ended(server: Server, browser: Browser) -> None:
    asked = {"request": {"prompt": "A red ball bounces.", "duration_s": 0.4}}
    job = server.client.post("/v1/jobs", json=asked).json()
    assert server.client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    visit = Visit(browser, server.url)
    answers: list[Response] = []

    def heard(answer: Response) -> None:
        if answer.url.endswith("/retry"):
            answers.append(answer)

    visit.page.on("response", heard)
    for _ in range(2):
        answers.clear()
        visit.go("queue").get_by_role("button", name="Try again").last.dblclick()
        while len(answers) < 2:
            visit.page.wait_for_timeout(20)
        one, other = (answer.json()["id"] for answer in answers)
        assert one == other
        assert one != job["id"]
        job = {"id": one}
        visit.go(f"clip/{one}")
        expect(visit.page.get_by_role("link", name="Download")).to_be_visible()
    visit.close()


@needs_browser
def test_a_training_is_shown_with_its_losses_and_its_files(tmp_path: Path, browser: Browser) -> None:
    for shade in (40, 90):
        clip(tmp_path / "in" / f"{shade}.mp4", shade=shade, frames=9, tone_hz=None)
    with serving(tmp_path / "data", pages=router) as server, ss.Client(server.url) as client:
        handle = client.train(
            tmp_path / "in", mode="silent", steps=3, dataset={"num_frames": 9}, label="zorb"
        )
        jobs = server.jobs
        lease = jobs.claim(WorkerInfo(id="w", name="here"))
        assert lease is not None
        now = JobProgress(
            fraction=0.4, phase="training", pass_="train", step=1, num_steps=3, losses={"loss": 0.83884}
        )
        jobs.renew(lease.id, WorkReport(state="running", progress=now))
        visit = Visit(browser, server.url)
        page = visit.go("queue")
        expect(page.get_by_role("link", name="Training of a LoRA: zorb")).to_be_visible()
        expect(page.get_by_text("Training · step 1 of 3 · loss 0.8388")).to_be_visible()
        expect(page.get_by_text("3 steps on 2 samples of 64x64x9 at most")).to_be_visible()
        files: dict[AssetKind, MadeFile] = {}
        for kind in ("lora", "config", "losses", "report"):
            (jobs.tmp / kind).write_text(kind)
            files[kind] = MadeFile(file=kind, media_type="text/plain", name=f"{kind}.txt")
        jobs.finish(lease.id, MadeFiles(files=files))
        expect(page.get_by_role("heading", name="Trained LoRAs")).to_be_visible()
        expect(page.get_by_text("Last losses: loss 0.8388")).to_be_visible()
        expect(page.locator("a[download]")).to_have_text(["LoRA", "Losses", "Report", "Config"])
        visit.go(f"clip/{handle.id}")
        expect(page.locator("a[download]").first).to_have_attribute("download", re.compile(r"\.safetensors$"))
        visit.go("gallery")
        expect(page.get_by_text("No clips yet.")).to_be_visible()
        visit.close()
