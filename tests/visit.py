"""Visit the studio's page in a real browser, and hear what went wrong on it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from soundstage.jobs import worker as worker_module
from soundstage.jobs.views import WorkerInfo
from soundstage.jobs.worker import JobWorker
from soundstage.studio.pages import router
from tests.browser import browser as browser_path
from tests.in_process import InProcess
from tests.quick_engine import QuickEngine
from tests.serving import Server, serving

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PATIENCE_MS = 60_000  # for a machine with other work
PAGES = ("make", "queue", "gallery", "models", "system")
DARK, LIGHT = "rgb(19, 18, 17)", "rgb(246, 244, 241)"  # grounds of the page

needs_browser = pytest.mark.skipif(browser_path() is None, reason="there is no Chromium to open the page")


@contextmanager
def studio(data: Path, step_s: float = 0.05, **options: Any) -> Iterator[Server]:
    """Serve the page, with a worker in this process whose engine takes `step_s` for a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "load_engine", lambda *words, **more: QuickEngine(*words, step_s=step_s))
        with serving(data, pages=router, **options) as server:
            info = WorkerInfo(id="w", name="here", local=True)
            worker = JobWorker(InProcess(server.jobs), info, device="cpu", wait_s=0.1)
            thread = threading.Thread(target=worker.run, daemon=True)
            thread.start()
            yield server
            worker.drain()
            thread.join(30)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the system's Chromium without a window."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        opened = driver.chromium.launch(executable_path=browser_path(), args=options)
        yield opened
        opened.close()


class Visit:
    """A page that is open, and what went wrong on it. as_told: parts of faults that a test causes itself."""

    def __init__(self, browser: Browser, url: str, as_told: tuple[str, ...] = (), **context: Any) -> None:
        self.url, self._as_told = url, as_told
        self.context = browser.new_context(**{"viewport": DESKTOP, **context})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.faults: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in self._as_told):
            self.faults.append(f"{message.text} ({message.location})")

    def go(self, page: str) -> Page:
        """Open one of the pages."""
        self.page.goto(f"{self.url}/studio/#/{page}")
        return self.page

    @property
    def prompt(self) -> Locator:
        return self.page.get_by_label("Prompt", exact=True)

    @property
    def make(self) -> Locator:
        return self.page.get_by_role("button", name=re.compile("^Make"))

    def close(self) -> None:
        """Leave, and hold that nothing went wrong and nobody else was asked for anything."""
        self.context.close()
        elsewhere = {url for url in self.asked if not url.startswith((self.url, "data:", "blob:"))}
        assert self.faults == [], self.faults  # said again: pytest rewrites no assertion of this file
        assert elsewhere == set(), elsewhere


def plays(page: Page, selector: str) -> None:
    """Wait until a player's time goes on."""
    page.wait_for_function(
        "selector => { const player = document.querySelector(selector);"
        " return player && !player.paused && player.currentTime > 0.05; }",
        arg=selector,
    )
