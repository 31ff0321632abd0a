"""Every example of --help, README and docs runs on nano, made small; nano knows the words of its prompts."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import soundstage as ss
from soundstage.cli.program import app
from soundstage.engine import Engine
from tests.examples import Example, blocks, commands, write_inputs

MAKING = ("generate", "plan", "retake", "extend", "keyframe", "a2v", "v2a", "t2a", "upscale")
SIZED = ("generate", "plan", "keyframe", "a2v")  # the others take over their input's size
QUICK = (["recipes"], ["show"], ["models", "list"], ["nano", "sample"])
COMMANDS = commands()
# Blocks that run as they stand, after those before them on their page; the others name weights, modules or
# loops that are the reader's own.
RUNNABLE = (
    "README.md[0]", "conditioning.md[0]", "python.md[0]", "python.md[1]", "python.md[2]", "python.md[3]",
    "python.md[4]", "python.md[5]", "recipes.md[0]", "sampling.md[0]", "sampling.md[1]", "sampling.md[2]",
    "timed-prompts.md[0]",
)  # fmt: skip


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples' files, made once."""
    folder = tmp_path_factory.mktemp("examples")
    write_inputs(folder)
    return folder


@pytest.fixture
def inputs(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples' files, in the working folder."""
    shutil.copytree(originals, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")


def smaller(words: list[str]) -> list[str]:
    """A command's words with the least work that shows that it runs."""
    verb, kept, rest = words[0], [], iter(words)
    for word in rest:
        if word in ("--size", "--duration", "--frames", "--steps"):
            next(rest)
        else:
            kept.append(word)
    size = ["--size", "64x64"] if verb in SIZED else []
    frames = "17" if any("|" in word for word in words) else "9"  # a latent frame for each part
    length = ["--frames", frames] if verb in (*SIZED, "t2a") else []
    return [*kept, "--steps", "1", *size, *length] if verb != "upscale" else kept


def runs_here(example: Example) -> bool:
    """Whether an example needs no weights but nano's, and no hours."""
    words = example.words
    if "..." in words or ("--model" in words and "nano" not in words):
        return False
    return words[0] in MAKING or any(words[: len(start)] == start for start in QUICK)


def name_of(example: Example) -> str:
    return f"{example.where}: {example.text[:60]}"


@pytest.mark.parametrize("example", [e for e in COMMANDS if runs_here(e)], ids=name_of)
@pytest.mark.usefixtures("inputs")
def test_a_command_runs(example: Example) -> None:
    words = example.words
    if words[0] in MAKING:
        words = smaller(words)
    for before, target in itertools.pairwise(words):
        if before == "--output" and words[0] != "show":
            Path(target).unlink(missing_ok=True)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    assert "hint:" not in result.stderr
    if words[0] in MAKING and words[0] != "plan":
        made = result.stdout.splitlines()
        assert made
        assert all(Path(path).is_file() for path in made)


@pytest.mark.parametrize("example", COMMANDS, ids=name_of)
def test_a_command_is_understood(example: Example) -> None:
    """Its options exist and take such values, whatever it would need to run."""
    command: Any = app
    words = example.words
    while hasattr(command, "get_command"):
        command, words = command.get_command(None, words[0]), words[1:]
        assert command is not None, example.text
    command.make_context(command.name, list(words))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every plan of the blocks small: few pixels, frames and, of a single pass, steps."""
    plan = Engine.plan

    def small(self: Engine, request: ss.Request) -> Any:
        seconds = min(request.duration_s or 0.375, 4.0)  # a prompt's times must lie within
        frames = round(seconds * 24) // 8 * 8 + 1 if "[" in request.prompt else 9
        change: dict[str, Any] = {"duration_s": None, "num_frames": frames, "size": (64, 64)}
        if request.recipe == "single" and request.cache is None:
            change["steps"] = 2
        return plan(self, request.model_copy(update=change))

    monkeypatch.setattr(Engine, "plan", small)


@pytest.mark.parametrize("page", sorted({name.partition("[")[0] for name in RUNNABLE}))
@pytest.mark.usefixtures("quick", "inputs")
def test_the_python_of_a_page_runs(page: str) -> None:
    names: dict[str, Any] = {"ss": ss, "stage": ss.load("nano")}
    for block in blocks():
        if block.where in RUNNABLE and block.where.startswith(page):
            exec(compile(block.text, block.where, "exec"), names)
    assert {"clip", "plan", "pipe"} & set(names)


def test_there_are_examples() -> None:
    assert len([e for e in COMMANDS if runs_here(e)]) > 14
    assert {block.where for block in blocks()} >= set(RUNNABLE)
