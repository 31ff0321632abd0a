"""Long visits to the studio: cancel, gallery, keys, keyboard, dropped files, a server that is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, expect

from soundstage.server.settings import ServerSettings, digest
from soundstage.studio.pages import router
from tests.limits import ended
from tests.serving import Server, serving
from tests.visit import PAGES, PATIENCE_MS, PHONE, Visit, chromium, needs_browser, plays, studio

pytestmark = [pytest.mark.slow, needs_browser]
ROOT = Path(__file__).parents[2]
PROMPT = "A blue cube blinks twice at night."
SHOWN = {  # what tells that a page has all it shows, by the page
    "make": ".price-main, .price .problem",
    "queue": "main .empty, .job-list",
    "gallery": ".clip",
    "models": ".model",
    "system": ".lead",
    "clip": ".settings",
    "compare": ".pair .screen",
}
DROP = """([name, type, base64]) => {
    const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, {type}));
    dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with studio(tmp_path_factory.mktemp("studio")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


def made(server: Server, prompt: str = PROMPT, **more: object) -> str:
    """Make a clip through the API; returns its job."""
    request = {"prompt": prompt, "num_frames": 25, "steps": 2, **more}
    job: str = server.client.post("/v1/jobs", json={"request": request}).json()["id"]
    while server.client.get(f"/v1/jobs/{job}").json()["state"] != "succeeded":
        time.sleep(0.05)
    return job


def drop(visit: Visit, path: Path, media_type: str) -> None:
    import base64

    visit.page.evaluate(DROP, [path.name, media_type, base64.b64encode(path.read_bytes()).decode()])


def test_a_clip_under_way_is_cancelled(server: Server, browser: Browser) -> None:
    visit = Visit(browser, server.url)
    page = visit.go("make")
    visit.prompt.fill("A SLOW ball.")
    visit.make.click()
    expect(page.locator(".progress-line")).to_contain_text("step")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".on-stage")).to_contain_text("Cancelled")
    visit.close()


def test_a_long_queue_is_shown_in_the_order_of_its_making_by_keyboard_and_by_scrolling(
    browser: Browser, tmp_path: Path
) -> None:
    with serving(tmp_path, pages=router) as idle:
        for number in range(60):
            asked = {"prompt": f"Ball number {number}.", "num_frames": 9, "size": [64, 64], "steps": 1}
            assert idle.client.post("/v1/jobs", json={"request": asked}).status_code == 202
        visit = Visit(browser, idle.url, viewport=PHONE)
        page = visit.go("queue")
        rows = page.locator(".job")
        expect(rows).to_have_count(24)
        expect(rows.first).to_contain_text("Ball number 0.")
        page.get_by_role("button", name="Show more").press("Enter")
        expect(rows).to_have_count(48)
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        expect(rows).to_have_count(60)
        expect(rows.last).to_contain_text("Ball number 59.")
        expect(page.get_by_role("button", name="Show more")).to_have_count(0)
        rows.first.get_by_role("button", name="Cancel").click()
        expect(rows.first).to_contain_text("Ball number 1.")
        visit.close()


def test_the_gallery_plays_searches_compares_and_deletes(server: Server, browser: Browser) -> None:
    made(server, "A red ball.", seed=1)
    made(server, "A red ball.", seed=2)
    made(server, "Nothing alike.", seed=3)
    visit = Visit(browser, server.url)
    page = visit.go("gallery")
    page.get_by_label("Search prompts").fill("red ball")
    expect(page.locator(".clip")).to_have_count(2)
    page.locator(".clip-picture").first.hover()
    plays(page, ".clip video")
    for box in page.get_by_label("Compare").all():
        box.check()
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("button", name="Play both").click()
    plays(page, ".pair article:first-child video")
    plays(page, ".pair article:last-child video")
    both = "[...document.querySelectorAll('.pair video')].map(player => player.muted)"
    assert page.evaluate(both) == [False, True]
    page.get_by_role("button", name="Delete").first.click()
    page.locator("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".notice")).to_contain_text("Deleted")
    page = visit.go("gallery")
    page.get_by_label("Search prompts").fill("red ball")
    expect(page.locator(".clip")).to_have_count(1)
    visit.close()


def test_a_key_is_asked_for_and_media_come_by_tickets(browser: Browser, tmp_path: Path) -> None:
    key = "a-key-of-this-test-alone"
    with studio(tmp_path, settings=ServerSettings(keys=frozenset({digest(key)}))) as server:
        visit = Visit(browser, server.url, as_told=("status of 401",))
        page = visit.go("make")
        page.get_by_label("Key").fill("not the key of this server")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not known")
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        visit.prompt.fill(PROMPT)
        visit.make.click()
        plays(page, ".on-stage video")
        assert "ticket=" in str(page.locator(".on-stage video").get_attribute("src"))
        assert not any(key in url for url in visit.asked)
        page.reload()
        expect(page.locator(".on-stage, .empty-stage").first).to_be_visible()
        expect(page.get_by_label("Key")).to_have_count(0)
        visit.close()


def test_files_fill_the_form_or_are_used_as_what_they_are(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    job = made(server, "A green triangle spins.", seed=77, guidance=2.5)
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(server.client.get(f"/v1/jobs/{job}/content").content)
    picture = tmp_path / "door.png"
    Image.new("RGB", (96, 64), (200, 30, 30)).save(picture)
    visit = Visit(browser, server.url)
    page = visit.go("make")
    expect(page.locator(".price-main")).to_be_visible()
    drop(visit, clip, "video/mp4")
    expect(visit.prompt).to_have_value("A green triangle spins.")
    expect(page.locator("#shape summary")).to_contain_text("seed 77")
    expect(page.locator("#advanced summary").first).to_contain_text("guidance")
    drop(visit, picture, "image/png")
    expect(page.locator("#guides .file-chip")).to_contain_text("door.png")
    payload: FilePayload = {"name": "end.png", "mimeType": "image/png", "buffer": picture.read_bytes()}
    page.locator("#guides input[type=file]").set_input_files(payload)
    expect(page.locator("#guides summary").first).to_contain_text("start, last")
    visit.make.click()
    plays(page, ".on-stage video")
    page.get_by_role("button", name="Reuse settings").click()
    expect(page.locator("#guides summary").first).to_contain_text("start, last")
    visit.close()


def test_a_part_is_marked_and_a_mask_is_painted(server: Server, browser: Browser) -> None:
    job = made(server)
    visit = Visit(browser, server.url, as_told=("status of 422",))  # a clip to change with nothing marked
    page = visit.go(f"clip/{job}")
    page.get_by_role("button", name="Retake").click()
    expect(page.locator(".strip img")).to_be_visible()
    page.get_by_role("slider", name="End of part 1").press("Delete")
    expect(page.locator("#source summary").first).to_contain_text("nothing marked yet")
    expect(page.locator("#source .problem").first).to_contain_text("nothing of the source would be kept")
    expect(visit.make).to_be_disabled()
    box = page.locator(".strip").bounding_box()
    assert box is not None
    page.locator(".strip").scroll_into_view_if_needed()
    box = page.locator(".strip").bounding_box() or box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 30, steps=4)
    page.mouse.up()
    expect(page.locator("#source summary").first).to_contain_text("1 part made again")
    page.get_by_role("button", name="Paint where it changes").click()
    for press in (" ", "ArrowRight", "ArrowRight", " "):
        page.keyboard.press(press)
    page.get_by_role("button", name="Use this mask").click()
    expect(page.locator("#source summary").first).to_contain_text("in one place")
    visit.make.click()
    plays(page, ".on-stage video")
    visit.close()


def test_every_field_of_a_request_has_a_control(server: Server, browser: Browser) -> None:
    schema = server.client.get("/v1/schema").json()
    visit = Visit(browser, server.url)
    page = visit.go("make")
    page.locator("#advanced summary").first.click()
    placed = {"prompt", "negative_prompt", "recipe", "size", "duration_s", "num_frames", "fps", "seed"}
    placed |= {"guides", "references", "source", "audio", "loras", "modalities"}
    labels = " ".join(page.locator("#advanced").all_inner_texts()).lower()
    for name in set(schema["properties"]) - placed:
        assert name.replace("_", " ") in labels, name
    page.get_by_label("Stg").fill("1")
    page.get_by_label("Sampler").select_option("res2s")
    page.locator("#advanced .switch", has_text="Relay").click()
    page.get_by_label("Epsilon", exact=True).fill("0.5")
    with page.expect_request("**/v1/plan") as asked:
        page.get_by_label("Rescale").fill("0.5")
    sent = asked.value.post_data_json["request"]
    expected = {"stg": 1, "sampler": "res2s", "relay": {"epsilon": 0.5}, "rescale": 0.5}
    assert {name: sent[name] for name in expected} == expected
    visit.close()


def test_a_clip_is_made_with_the_keyboard_alone(server: Server, browser: Browser) -> None:
    visit = Visit(browser, server.url)
    page = visit.go("make")
    expect(page.locator(".price-main")).to_be_visible()

    def tab_to(words: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            told = page.evaluate("(document.activeElement.ariaLabel || document.activeElement.id || '') + ' '"
                                 " + document.activeElement.textContent")  # fmt: skip
            if re.search(words, told):
                return
        raise AssertionError(f"Tab does not reach {words}")

    tab_to("^prompt")
    page.keyboard.press("Control+A")
    page.keyboard.type(PROMPT)
    tab_to("Size and length")
    page.keyboard.press("Enter")
    tab_to("^Square|Square$")
    page.keyboard.press("Space")
    expect(page.locator("#shape summary")).to_contain_text("Square")
    tab_to("Make")
    page.keyboard.press("Enter")
    plays(page, ".on-stage video")
    visit.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_with_clips_is_wider_than_a_phone(server: Server, browser: Browser, scheme: str) -> None:
    job = made(server, "A very long prompt " + "of a ball that rolls on and on " * 20 + "x" * 300)
    visit = Visit(browser, server.url, viewport=PHONE, color_scheme=scheme, has_touch=True)
    for name in (*PAGES, f"clip/{job}", f"compare/{job}/{job}"):
        page = visit.go(name)
        expect(page.locator(SHOWN[name.split("/")[0]]).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
    page = visit.go("make")
    for section in page.locator(".section > summary").all():
        section.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    visit.close()


def test_the_page_recovers_when_the_server_is_killed_and_started_again(
    browser: Browser, tmp_path: Path
) -> None:
    from soundstage.server.serving import listen

    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    first = started(port, tmp_path)
    try:
        visit = Visit(
            browser, url, as_told=("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_NETWORK", "status of 503")
        )
        page = visit.go("make")
        visit.prompt.fill(PROMPT)
        visit.make.click()
        expect(page.locator(".progress-line")).to_contain_text("step")
        first.send_signal(signal.SIGKILL)
        ended(first)
        expect(page.locator(".banner")).to_be_visible(timeout=PATIENCE_MS)
        first = started(port, tmp_path)
        expect(page.locator(".banner")).to_have_count(0, timeout=PATIENCE_MS)
        expect(visit.prompt).to_have_value(PROMPT)
        expect(page.locator(".on-stage video")).to_be_visible(timeout=PATIENCE_MS)
        visit.close()
    finally:
        first.terminate()
        ended(first)


def started(port: int, data: Path) -> subprocess.Popen[bytes]:
    """Start a server with quick workers, and wait until it answers."""
    words = ["serve", "--port", str(port), "--data", str(data), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.quick_engine", *words],
        cwd=ROOT,
        env={**os.environ, "QUICK_STEP_S": "0.3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(600):
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
            return process
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def test_frames_of_light_are_shown_by_their_picture_and_handed_out(server: Server, browser: Browser) -> None:
    job = made(server, "A red ball.", num_frames=9, size=[64, 64], output={"format": "exr"})
    visit = Visit(browser, server.url)
    page = visit.go(f"clip/{job}")
    expect(page.get_by_text("OpenEXR frames and a preview, in one archive")).to_be_visible()
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    expect(page.locator("video")).to_have_count(0)
    expect(page.get_by_role("button", name="Retake")).to_have_count(0)
    visit.close()
