"""Run one line of a shell of a page: `soundstage` in this process, pipes, settings, a target file.

    FOO=1 soundstage generate "..." --json | head -1 > made.txt

Programs that only show or pass on text are run by bash. Of `make`, `pip` and scripts it is checked that what
is named exists.
"""

from __future__ import annotations

import glob
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from soundstage.cli.program import app
from tests.limits import LONG_S

ROOT = Path(__file__).parents[1]
UNQUOTED = r"(?=(?:[^\"']|\"[^\"]*\"|'[^']*')*$)"
SETTING = re.compile(r"(?:export )?([A-Z_]+)=(\S*)\s*")
ACTIVATE = ". .venv/bin/activate"  # the tests have their own Python
TEXT_PROGRAMS = ("curl", "cat", "echo", "head", "jq", "ls", "mkdir", "printf", "tail")


def run_line(line: str, *, may_fail: bool = False) -> str:
    """Run a line in the working folder and return all that it prints. Asserts that it succeeds."""
    line, _, target = (part.strip() for part in (*re.split(rf"\s(>)\s{UNQUOTED}", line), "", "")[:3])
    printed = ""
    with pytest.MonkeyPatch.context() as patch:
        for stage in re.split(rf"\s\|\s{UNQUOTED}", line):
            while found := SETTING.match(stage):
                patch.setenv(found[1], found[2])
                stage = stage[found.end() :]
            printed = _run(stage, printed, may_fail=may_fail) if stage else printed
    if target:
        Path(target).write_text(printed)
    return printed


def words_of(line: str) -> list[str]:
    """Return the words of a soundstage command behind `soundstage`; none for another program."""
    words = shlex.split(re.split(rf"\s[|>]\s{UNQUOTED}", SETTING.sub("", line, count=1))[0])
    words = words[2:] if words[:3] == ["python", "-m", "soundstage"] else words
    return words[1:] if words[:1] == ["soundstage"] else []


def _run(stage: str, given: str, *, may_fail: bool) -> str:
    program = stage.split()[0]
    if words := words_of(stage):
        result = CliRunner().invoke(app, _matched(words, stage), input=given)
        assert may_fail or result.exit_code == 0, result.output
        return result.output
    if program in TEXT_PROGRAMS:
        done = subprocess.run(
            ["bash", "-c", stage], input=given, capture_output=True, text=True, timeout=LONG_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
    check_names(stage)
    return ""


def _matched(words: list[str], line: str) -> list[str]:
    """Put files in the place of patterns, as a shell does where no quotation marks hold it back."""
    found: list[str] = []
    for word in words:
        files = sorted(glob.glob(word)) if "*" in word and f" {word} " in f"{line} " else []
        found += files or [word]
    return found


def check_names(line: str) -> None:
    """Assert that what `make`, `pip` and `python` are given exists: targets, extras, files, options."""
    program, *words = shlex.split(line)
    if program in TEXT_PROGRAMS or line == ACTIVATE or SETTING.fullmatch(line):
        return
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
        assert set(words) <= set(targets), line
    elif program == "pip":
        extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
        named = re.findall(r"\[([a-z,]+)\]", line)
        assert {extra for group in named for extra in group.split(",")} <= extras, line
    else:
        assert program == "python", f"no test knows how to run {line!r}"
        path = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
        source = (ROOT / path).read_text() + (ROOT / "benchmarks/harness.py").read_text()
        assert all(f'"{word}"' in source for word in words if word.startswith("--")), line
