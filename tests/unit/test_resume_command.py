"""`--resume`: a command that was stopped goes on, and what it has made is not made again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from soundstage.cli.main import app
from soundstage.rendering.bars import ProgressBars
from soundstage.rendering.events import Event, Step
from soundstage.rendering.own_folders import OwnFolders
from tests.limits import LONG_S

CLIP = ("--frames", "9", "--size", "64x64", "--steps", "4", "--only", "video")


@pytest.fixture
def renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of unfinished runs, in a folder where commands are run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDSTAGE_RENDERS", str(tmp_path / "renders"))
    return tmp_path / "renders"


@pytest.fixture
def stopped_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what has a run be interrupted after so many steps."""
    show = ProgressBars.show

    def stop(count: int) -> None:
        seen = 0

        def counted(bars: ProgressBars, event: Event) -> None:
            nonlocal seen
            show(bars, event)
            seen += isinstance(event, Step)
            if seen == count:
                raise KeyboardInterrupt

        monkeypatch.setattr(ProgressBars, "show", counted)

    return stop


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["generate", "A red ball bounces.", *CLIP, *words])


def unfinished(renders: Path) -> list[Path]:
    return [path for path in renders.iterdir() if path.is_dir()] if renders.is_dir() else []


def test_a_stopped_command_goes_on_with_its_seed_and_the_same_bits(
    renders: Path, stopped_after: Callable[[int], None]
) -> None:
    stopped_after(2)
    first = run("-o", "a.mp4")
    assert first.exit_code == 130
    assert "the same command with --resume goes on from there" in first.stderr
    assert not Path("a.mp4").exists()
    (folder,) = unfinished(renders)
    seed = json.loads((folder / "command.json").read_text())["seed"]
    stopped_after(-1)
    again = run("-o", "a.mp4", "--resume", "--json")
    assert again.exit_code == 0
    assert "goes on after step 2 of 4 of denoise" in again.stderr
    assert f"goes on with seed {seed}, which the earlier run drew" in again.stderr
    assert "was drawn" not in again.stderr
    made = json.loads(again.stdout)
    assert made["request"]["seed"] == seed
    assert not unfinished(renders)
    whole = json.loads(run("-o", "b.mp4", "--seed", str(seed), "--json").stdout)
    assert made["latents_sha256"] == whole["latents_sha256"]


def test_another_number_format_is_refused_and_nothing_is_lost_without_resume(
    renders: Path, stopped_after: Callable[[int], None]
) -> None:
    stopped_after(1)
    run("-o", "a.mp4", "--dtype", "float32")
    stopped_after(-1)
    other = run("-o", "a.mp4", "--dtype", "bfloat16", "--resume")
    assert other.exit_code == 2
    assert "leave out --resume to begin anew" in other.stderr
    fresh = run("-o", "a.mp4", "--dtype", "float32")
    assert fresh.exit_code == 0
    assert "hint: an unfinished run of this command is kept" in fresh.stderr
    assert len(unfinished(renders)) == 1
    assert (
        "goes on after step 1 of 4" in run("-o", "a.mp4", "--dtype", "float32", "--force", "--resume").stderr
    )


def test_clips_of_several_that_are_made_are_not_made_again(
    renders: Path, stopped_after: Callable[[int], None]
) -> None:
    words = ("--seeds", "1-3", "-o", "{seed}.mp4")
    stopped_after(6)
    assert run(*words).exit_code == 130
    before = Path("1.mp4").read_bytes()
    stopped_after(-1)
    again = run(*words, "--resume")
    assert again.exit_code == 0
    assert again.stdout.splitlines()[1:] == ["2.mp4", "3.mp4"]
    assert "clip 1 of 3 is made already" in again.stderr
    assert "goes on after step 2 of 4" in again.stderr
    assert Path("1.mp4").read_bytes() == before
    assert not unfinished(renders)


TAKE = (
    "generate",
    "A red ball bounces.",
    *("--frames", "81", "--size", "64x64", "--steps", "4", "--checkpoint-every", "0"),
    *("--take", "window_frames=33", "--take", "overlap_frames=16"),
)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "soundstage", *words]


def killed_when(renders: Path, pattern: str, *words: str) -> None:
    """Run a command in a process of its own, and kill it as soon as it keeps a file of that name."""
    with subprocess.Popen(command(*words), stderr=subprocess.DEVNULL) as process:
        while not any(renders.rglob(pattern)):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()


def made(*words: str) -> tuple[dict[str, Any], str]:
    """Run a command, and return what it printed in JSON and what it told."""
    done = subprocess.run(command(*words, "--json"), capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_long_take_that_was_killed_goes_on_with_its_windows(renders: Path) -> None:
    killed_when(renders, "window-001.safetensors", *TAKE, "-o", "a.mp4")
    again, told = made(*TAKE, "-o", "a.mp4", "--resume")
    seed = again["request"]["seed"]
    assert f"goes on with seed {seed}" in told
    assert "window 1 of" not in told
    assert "window 2 of" not in told
    assert not unfinished(renders)
    whole, _ = made(*TAKE, "-o", "b.mp4", "--seed", str(seed))
    assert again["latents_sha256"] == whole["latents_sha256"]


@pytest.mark.slow
def test_a_clip_that_is_made_again_and_was_killed_goes_on(renders: Path) -> None:
    made("generate", "A red ball bounces.", *CLIP, "-o", "a.mp4", "--seed", "3")
    words = ("rerun", "a.mp4", "--steps", "30", "--checkpoint-every", "0")
    killed_when(renders, "state.safetensors", *words, "-o", "b.mp4")
    again, told = made(*words, "-o", "b.mp4", "--resume")
    assert re.search(r"goes on after step \d+ of 30 of denoise", told)
    whole, _ = made(*words, "-o", "c.mp4")
    assert again["latents_sha256"] == whole["latents_sha256"]


def test_the_oldest_own_folders_go_where_all_of_them_take_too_much_room(
    renders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundstage.rendering.own_folders.MOST_BYTES", 150)
    folders: Any = OwnFolders("renders", "SOUNDSTAGE_RENDERS")
    for mark in ("first", "second"):
        own = folders.new(mark)
        own.path.mkdir()
        (own.path / "a").write_bytes(bytes(100))
        own.close()
    folders.new("third").close()
    assert [path.name for path in unfinished(renders)] == ["second-1"]


def test_without_an_unfinished_run_it_says_so_and_begins(renders: Path) -> None:
    made = run("-o", "a.mp4", "--resume")
    assert made.exit_code == 0
    assert "no unfinished run of this command is there; it begins anew" in made.stderr
