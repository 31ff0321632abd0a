"""The log of the program's own work: only where it is asked for, by -v or the environment."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from soundstage.cli import log
from soundstage.cli.program import app
from tests.tiny_model import write_tiny_model

PROMPT = "a red ball"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv(log.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    monkeypatch.delenv(log.VARIABLE, raising=False)
    log.begin()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def planned(tiny: Path, *words: object) -> Result:
    return call(
        "plan",
        f"{PROMPT} The camera is static.",
        "--seed",
        1,
        "--model",
        tiny,
        "--size",
        "64x64",
        "--frames",
        9,
        *words,
    )


def test_a_clip_tells_its_memory_parts_fast_paths_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_CACHE", "encodings")
    result = call("generate", PROMPT, "--size", "64x64", "--frames", 9, "--steps", 1, "-vv")
    assert result.exit_code == 0, result.stderr
    for said in (
        r"memory: resident: all parts and the work take [\d.]+ of [\d.]+ GB; weights full",
        r"model nano on \w+, \w+",
        r"gemma is read in [\d.]+ s",
        r"encoding [0-9a-f]+ is kept",
        r"transformer is read in [\d.]+ s",
        r"fast paths of Transformer: \w+",
        r"denoise: [\d.]+ s",
        r"decode video: [\d.]+ s",
    ):
        assert re.search(rf"^ *\d+ ms  soundstage\.\w+: {said}", result.stderr, re.M), said


def test_details_are_for_those_who_ask_twice(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("soundstage.memory")
    for verbosity in (0, 1, 2):
        log.begin(verbosity)
        logger.info("said %d", verbosity)
        logger.debug("detail %d", verbosity)
    said = re.findall(r"(?:said|detail) \d", capsys.readouterr().err)
    assert said == ["said 1", "said 2", "detail 2"]


def test_nothing_is_written_by_default(tiny: Path) -> None:
    assert planned(tiny).stderr == ""


def test_it_can_be_asked_for_before_and_behind_the_command(tiny: Path) -> None:
    before = call("-v", "plan", PROMPT, "--seed", 1, "--model", tiny, "--size", "64x64", "--frames", 9)
    assert "memory: resident" in before.stderr
    assert "memory: resident" in planned(tiny, "--verbose").stderr
    assert planned(tiny).stderr == ""  # of one command, not of the next
    assert call("models", "list", "-v").exit_code == 0


def test_a_file_gets_all_details_at_its_end_and_the_terminal_what_it_asks_for(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for times in (1, 2):
        assert planned(tiny, "--log", "run.log").stderr == ""
        assert Path("run.log").read_text().count("memory: resident") == times
    both = call("--log", "before.log", "plan", PROMPT, "--seed", 1, "--model", tiny, "-v").stderr
    assert "memory: resident" in both
    assert "memory: resident" in Path("before.log").read_text()
    assert call("models", "list", "--log", "list.log").exit_code == 0
    monkeypatch.setenv(log.VARIABLE, "info:own.log")
    assert planned(tiny, "--log", "run.log").stderr == ""
    assert "memory: resident" in Path("own.log").read_text()
    assert Path("run.log").read_text().count("memory: resident") == 3


def test_a_file_of_the_option_gets_details_that_the_terminal_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("soundstage.memory")
    log.begin(1, "run.log")
    logger.info("said")
    logger.debug("detail")
    assert re.findall("said|detail", capsys.readouterr().err) == ["said"]
    assert re.findall("said|detail", Path("run.log").read_text()) == ["said", "detail"]


@pytest.mark.parametrize("name", ["no/folder/run.log", ""])
def test_a_file_that_cannot_be_written_is_told_by_its_option(name: str) -> None:
    result = call("recipes", "--log", name)
    assert result.exit_code == 2
    assert f"soundstage: --log is {name}, which cannot be written (" in result.stderr


def test_the_environment_asks_for_a_level_and_a_file(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(log.VARIABLE, "info")
    assert "memory: resident" in planned(tiny).stderr
    monkeypatch.setenv(log.VARIABLE, "info:run.log")
    for times in (1, 2):
        assert planned(tiny).stderr == ""
        assert Path("run.log").read_text().count("memory: resident") >= times
    monkeypatch.setenv(log.VARIABLE, "off")
    assert planned(tiny).stderr == ""


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("loud", r"SOUNDSTAGE_LOG is 'loud'; give .*debug.*, and :FILE after it to write there"),
        ("info:no/folder/run.log", "SOUNDSTAGE_LOG names no/folder/run.log, which cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, asked: str, message: str
) -> None:
    monkeypatch.setenv(log.VARIABLE, asked)
    result = call("recipes")
    assert result.exit_code == 2
    assert re.search(message, result.stderr)
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_log_and_not_the_work(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(log.VARIABLE, "info:/dev/full")
    result = planned(tiny)
    assert (result.exit_code, result.stderr) == (0, "")
