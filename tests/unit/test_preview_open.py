"""`--preview` shows a clip while it is made, and `--open` opens it when it is done."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from rich.console import Console
from rich.segment import Segments

import soundstage as ss
from soundstage.cli.preview import HALF, MovingPicture, half_blocks, previewing
from soundstage.cli.program import app
from soundstage.clip import Clip, read_provenance
from soundstage.errors import MediaError
from soundstage.planning.plan import Plan
from soundstage.rendering.progress import preview_every
from soundstage.rendering.screen import Screen
from tests.limits import LONG_S
from tests.tiny_model import TinyParts, write_tiny_model

BALL = "A red ball bounces."
FAST = ("--steps", 2, "--guidance", 1, "--frames", 9, "--seed", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", TinyParts)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(folder: Path) -> Any:
    def call(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in (*words, "--model", folder, *FAST)])

    return call


@pytest.fixture
def plan(folder: Path) -> Plan:
    return ss.load(folder).plan(ss.Request(prompt=BALL, num_frames=9, steps=2, seed=1))


def pictures(count: int, width: int = 16, height: int = 8) -> Any:
    """Frames that are red above and blue below."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, : height // 2, :, 0] = 248
    frames[:, height // 2 :, :, 2] = 248
    return frames


# --- previews ------------------------------------------------------------------------------------------


def test_without_a_terminal_a_file_is_refreshed_and_removed(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    save = Clip.save

    def watched(self: Clip, path: Path, **options: Any) -> Path:
        written = save(self, path, **options)
        if written.suffix == ".webp":
            with Image.open(written) as picture:
                seen.append(getattr(picture, "n_frames", 1))
            assert written.resolve().parent == tmp_path
        return written

    monkeypatch.setattr(Clip, "save", watched)
    made = call("generate", BALL, "-o", "ball.mp4", "--preview")
    assert made.exit_code == 0, made.stderr
    assert len(seen) == 2  # one after each step
    assert min(seen) > 1
    assert made.stderr.count("preview ball.preview.webp") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ball.mp4"]


def test_a_preview_changes_no_bit_of_the_clip(call: Any) -> None:
    for name, words in (("a.mp4", ()), ("b.mp4", ("--preview",))):
        assert call("generate", BALL, "-o", name, *words).exit_code == 0
    hashes = [read_provenance(Path(name))["latents_sha256"] for name in ("a.mp4", "b.mp4")]
    assert hashes[0] == hashes[1]


def test_a_preview_that_cannot_be_written_is_told_and_left_out(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.StringIO()

    def full(self: Clip, path: Path) -> Path:
        raise MediaError("the disk is full")

    monkeypatch.setattr(Clip, "save", full)
    screen = Screen(console=Console(file=text))
    with previewing(plan, tmp_path / "a.mp4", screen) as show:
        for step in (1, 2):
            show(ss.Preview("denoise", step, pictures(2)))
    assert text.getvalue() == "notice: no preview: the disk is full\n"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_no_preview(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "a.preview.webp").write_bytes(b"mine")

    def interrupted() -> None:
        with previewing(plan, tmp_path / "a.mp4", Screen(quiet=True)) as show:
            show(ss.Preview("denoise", 1, pictures(2)))
            assert (tmp_path / "a.preview-2.webp").stat().st_size
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["a.preview.webp"]  # which was there


def test_a_terminal_shows_two_pixels_in_each_character() -> None:
    rows = half_blocks(pictures(1)[0], (4, 4)).segments
    text = "".join(segment.text for segment in rows)
    assert text == f"{HALF * 4}\n" * 2
    colours = [segment.style for segment in rows if segment.style is not None]
    assert [str(colours[i]) for i in (0, 4)] == ["#f80000 on #f80000", "#0000f8 on #0000f8"]


@pytest.mark.parametrize(
    ("terminal", "height", "is_picture"),
    [("truecolor", 40, True), ("256", 12, True), ("truecolor", 8, False)],
)
def test_a_picture_moves_above_the_bars_of_a_terminal(
    plan: Plan, tmp_path: Path, terminal: Any, height: int, is_picture: bool
) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, color_system=terminal, width=60, height=height)
    with Screen(console=console) as screen:
        screen.begin("denoise")
        with previewing(plan, tmp_path / "a.mp4", screen) as show:
            show(ss.Preview("denoise", 1, pictures(5)))
            end = time.monotonic() + LONG_S
            while (HALF in text.getvalue()) != is_picture and time.monotonic() < end:
                time.sleep(0.01)
            picture = screen.picture()
            assert (picture is not None) is is_picture
            assert bool(list(tmp_path.iterdir())) is not is_picture  # a file instead
        assert screen.picture() is None
    if isinstance(picture, Segments):
        rows = sum(segment.text == "\n" for segment in picture.segments)
        assert 0 < rows <= height - 6  # the bars stay in sight
    assert list(tmp_path.iterdir()) == []


def test_frames_follow_each_other_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 0.0, 0.4, 0.6, 1.1, 2.1))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    moving = MovingPicture(pictures(4), 2.0, (16, 4))
    drawn = [moving() for _ in range(5)]
    monkeypatch.undo()
    assert drawn[0] is drawn[1] is drawn[4]
    assert len({id(frame) for frame in drawn}) == 3


def test_previews_are_few(folder: Path) -> None:
    stage = ss.load(folder)
    steps = [2, 8, 20, 40]
    every = [preview_every(stage.plan(ss.Request(prompt=BALL, steps=count))) for count in steps]
    assert every == [1, 1, 2, 5]


# --- opening -------------------------------------------------------------------------------------------


@pytest.fixture
def opener(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A display, and a program xdg-open that notes what it is given; return the note."""
    folder = tmp_path_factory.mktemp("bin")
    program, note = folder / "xdg-open", folder / "note"
    program.write_text(f'#!/bin/sh\necho "noise"\nprintf %s "$1" > "{note}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("sys.platform", "linux")
    return note


def test_the_finished_clip_is_opened(call: Any, opener: Path, tmp_path: Path) -> None:
    made = call("generate", BALL, "-o", "-ball.mp4", "--open")
    assert made.exit_code == 0, made.stderr
    assert opener.read_text() == str(tmp_path / "-ball.mp4")
    assert made.stdout == "-ball.mp4\n"


@pytest.mark.parametrize(("words", "opened"), [((), "out"), (("--contact-sheet",), "out/contact-sheet.png")])
def test_of_several_clips_their_sheet_or_folder_is_opened(
    call: Any, opener: Path, tmp_path: Path, words: tuple[str, ...], opened: str
) -> None:
    made = call("generate", BALL, "Steady rain is heard.", "-o", "out/", "--open", *words)
    assert made.exit_code == 0, made.stderr
    assert opener.read_text() == str(tmp_path / opened)


def test_what_cannot_be_opened_is_one_notice(
    call: Any, opener: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*words: str) -> str:
        made = call("generate", BALL, "-o", "a.mp4", "--force", "--open", *words)
        assert made.exit_code == 0, made.stderr
        return next((line for line in made.stderr.splitlines() if "not opened" in line), "")

    (opener.parent / "xdg-open").write_text("#!/bin/sh\nexit 3\n")
    assert told().endswith("a.mp4 was not opened: no program opens it")
    assert told("-q") == ""
    monkeypatch.setenv("PATH", "/nowhere")
    assert told().endswith("a.mp4 was not opened: there is no xdg-open")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert told().endswith("a.mp4 was not opened: there is no display")
