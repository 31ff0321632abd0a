"""The studio's page in a real browser, over a server of this process whose jobs a quick engine makes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, Page, expect, sync_playwright

from soundstage.cli import studio as command
from soundstage.studio.pages import STATIC, router, static_files
from tests.browser import browser as browser_path
from tests.serving import Server, serving

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PATIENCE_MS = 30_000  # for a machine with other work
PAGES = ("make", "queue", "gallery", "models", "system")

needs_browser = pytest.mark.skipif(browser_path() is None, reason="there is no Chromium to open the page")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("studio"), pages=router, work=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        opened = driver.chromium.launch(executable_path=browser_path(), args=options)
        yield opened
        opened.close()


class Visit:
    """A page that is open, and what went wrong on it."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self.url = url
        self.context = browser.new_context(**{"viewport": DESKTOP, **context})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.faults: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and "status of 422" not in message.text:
            self.faults.append(message.text)

    def go(self, page: str) -> Page:
        """Open one of the pages, as a new visitor would."""
        self.page.goto(f"{self.url}/studio/#/{page}")
        return self.page

    def make(self, prompt: str) -> Page:
        """Fill the prompt and press Make."""
        page = self.go("make")
        page.get_by_label("Prompt", exact=True).fill(prompt)
        page.get_by_role("button", name="Make", exact=False).last.click()
        return page


@pytest.fixture
def visit(server: Server, browser: Browser) -> Iterator[Visit]:
    """A visitor of the page, who met no fault, and whose browser asked nobody else for anything."""
    visitor = Visit(browser, server.url)
    yield visitor
    elsewhere = {url for url in visitor.asked if not url.startswith((server.url, "data:", "blob:"))}
    visitor.context.close()
    assert visitor.faults == []
    assert elsewhere == set()


def plays(page: Page, selector: str) -> None:
    """Wait until a player's time goes on."""
    page.wait_for_function(
        "selector => { const player = document.querySelector(selector);"
        " return player && !player.paused && player.currentTime > 0.05; }",
        arg=selector,
    )


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
def test_a_first_visitor_makes_a_clip_plays_it_reuses_it_and_retakes_it(visit: Visit) -> None:
    page = visit.go("make")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(re.compile("red ball"))
    expect(page.locator(".price-main")).to_contain_text("about")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".on-stage video")).to_be_visible(timeout=PATIENCE_MS)
    plays(page, ".on-stage video")
    page.get_by_label("Prompt", exact=True).fill("Something else.")
    page.get_by_role("button", name="Reuse settings").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(re.compile("red ball"))
    page.get_by_role("button", name="Retake").click()
    handle = page.get_by_role("slider", name="Start of part 1")
    before = float(handle.get_attribute("aria-valuenow") or 0)
    handle.press("ArrowRight")
    expect(handle).to_have_attribute("aria-valuenow", str(round(before + 0.1, 2)))
    expect(page.locator("#source summary").first).to_contain_text("1 part made again")


@needs_browser
def test_no_page_is_wider_than_a_phone_and_the_theme_follows_system_and_switch(
    server: Server, browser: Browser
) -> None:
    visitor = Visit(browser, server.url, viewport=PHONE, color_scheme="dark")
    for name in PAGES:
        page = visitor.go(name)
        expect(page.locator("main h1").first).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(ground) == "rgb(19, 18, 17)"
    page.get_by_role("button", name=re.compile("Theme")).click()
    assert page.evaluate(ground) == "rgb(246, 244, 241)"
    page.reload()
    assert page.evaluate(ground) == "rgb(246, 244, 241)"
    visitor.context.close()
    assert visitor.faults == []


@needs_browser
def test_what_is_wrong_is_told_at_its_field(server: Server, browser: Browser) -> None:
    visitor = Visit(browser, server.url)
    page = visitor.go("make")
    page.locator("#shape summary").click()
    page.get_by_label("Frame rate").fill("1000")
    expect(page.locator(".field.bad .problem")).to_contain_text("fps")
    expect(page.get_by_role("button", name="Make", exact=False).last).to_be_disabled()
    visitor.context.close()
