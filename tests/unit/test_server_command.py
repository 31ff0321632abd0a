"""`soundstage serve` and `soundstage keys`, and the page of the docs about them."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from soundstage.cli import worker
from soundstage.cli.program import app
from soundstage.jobs.transport import ServerAway, patiently
from soundstage.jobs.worker import JobWorker
from soundstage.server.command import greeting, limits_of, worker_devices
from tests.dataset_clips import clips_of_pages
from tests.examples import ROOT, of_page
from tests.limits import LONG_S
from tests.serving import serving

PAGE = ROOT / "docs" / "server.md"
ADDRESS = "127.0.0.1:8765"


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done.output


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    data = ["--data", str(tmp_path)]
    secret = run("keys", "new", "studio", "--scope", "admin", *data).split()[-1]
    listed = run("keys", "list", *data)
    assert "studio" in listed
    assert secret not in listed
    id = run("keys", "list", "--json", *data).partition('"id": "')[2].partition('"')[0]
    run("keys", "revoke", id, *data)
    assert "studio" not in run("keys", "list", *data)
    assert "there is no key" in run("keys", "revoke", id, *data, code=2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--host", "0.0.0.0"), "there is no key"),
        (("--host", "203.0.113.1", "--key", "k" * 20), "cannot listen"),
        (("--key", "short"), "give one of 16 or more"),
        (("--key-file", "nothing.txt"), "cannot be read"),
        (("--database", "mysql://a/b"), "database"),
        (("--port", "99999"), "cannot listen"),
        (("--workers", "-1"), "workers is -1"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_sentence(
    tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    assert told in run("serve", "--data", str(tmp_path), *words, code=2)


def test_each_device_has_its_workers() -> None:
    asked = {"devices": ("cuda:0", "cuda:1"), "workers": 2}
    assert worker_devices(asked) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    assert worker_devices({"devices": (), "workers": None}) == ["auto"]
    assert worker_devices({"devices": (), "workers": 0}) == []


def test_limits_of_the_jobs_are_options() -> None:
    given = {"max_queued": 5, "max_duration": None, "quota": 60.0, "keep_days": 2.0, "keep_gb": None}
    given |= {"max_train_steps": 0}
    limits = limits_of(given)
    assert (limits.max_queued, limits.quota_s, limits.keep_results_s) == (5, 60.0, 2 * 86_400)
    assert limits.keep_bytes is None
    assert limits.max_train_steps == 0


def test_the_help_of_all_commands_loads_no_server() -> None:
    code = "import sys; from soundstage.cli import program, signals; " + (
        "program.call(['serve', '--help'], signals.Interrupts()); "
        "print([m for m in ('fastapi', 'sqlalchemy', 'pydantic', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=LONG_S
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_page_runs_against_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), (90, 0, 0)).save("ball.png")
    clips_of_pages(tmp_path)
    names: dict[str, Any] = {}
    with serving(tmp_path / "data", work=True) as server:
        here = server.url.removeprefix("http://")
        for example in of_page(PAGE):
            text = example.text.replace(ADDRESS, here).replace("localhost:8765", here)
            if example.kind == "python":
                exec(compile(text, f"{PAGE}:{example.line}", "exec"), names)
            elif text.startswith("curl"):
                done = subprocess.run(
                    ["bash", "-c", text], capture_output=True, text=True, check=True, timeout=LONG_S
                )
                assert '"state":"queued"' in done.stdout
    assert Path("ball.mp4").read_bytes()[4:8] == b"ftyp"


def test_the_greeting_has_what_the_first_clip_takes() -> None:
    text = greeting("http://127.0.0.1:1", ["nano"], Path("data"), keyed=False)
    assert "http://127.0.0.1:1/v1/jobs" in text
    assert "Bearer" not in text
    assert "curl -f http://127.0.0.1:1/v1/jobs/ID/content" in text  # writes no error as if it were the clip


def test_the_greeting_of_a_server_with_keys_sends_one() -> None:
    text = greeting("http://127.0.0.1:1", ["nano"], Path("data"), keyed=True)
    calls = [line for line in text.splitlines() if "curl" in line]
    assert len(calls) == 3
    assert all('-H "Authorization: Bearer $SOUNDSTAGE_KEY"' in call for call in calls)
    assert "set SOUNDSTAGE_KEY" in text


def test_a_worker_says_whose_jobs_it_takes_and_that_the_server_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = iter((ServerAway("the server does not answer"), None))

    def answer() -> None:
        if error := next(calls):
            raise error

    def run(self: JobWorker) -> bool:
        patiently(answer, lambda: False)
        return True

    monkeypatch.setattr(JobWorker, "run", run)
    for name in ("_drain_on_signals", "_leave_with_parent"):
        monkeypatch.setattr(worker, name, lambda what: None)
    monkeypatch.setattr("soundstage.jobs.transport.FIRST_PAUSE_S", 0.0)
    log = logging.getLogger("soundstage.worker")
    monkeypatch.setattr(log, "handlers", log.handlers)
    monkeypatch.setattr(log, "level", log.level)
    done = CliRunner().invoke(worker.app, ["--server", "http://127.0.0.1:9", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "takes the jobs of http://127.0.0.1:9; Ctrl-C ends it" in done.stderr
    assert "the server does not answer; trying again" in done.stderr
