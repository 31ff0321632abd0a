"""Completion in a shell: what bash itself offers, the words of options, the scripts."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from soundstage.cli.completion import SHELLS, VARIABLE
from soundstage.cli.program import app
from tests.limits import LONG_S

ROOT = Path(__file__).parents[2]
ASK = """
source script
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_soundstage_completion soundstage
printf '%s\\n' "${COMPREPLY[@]}"
"""


def asking(*words: str) -> dict[str, str]:
    """Return the variables by which bash asks for the last word."""
    line = shlex.join(["soundstage", *words])
    return {VARIABLE: "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}


def offered(*words: str) -> list[str]:
    """Return what the program offers for the last word."""
    result = CliRunner().invoke(app, [], env=asking(*words))
    assert result.exit_code == 0, result.stderr
    return [line.partition(",")[2] for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("gen",), ["generate"]),
        (("models", "ver"), ["verify"]),
        (("generate", "--contact"), ["--contact-sheet"]),
        (("generate", "A ball.", "--recipe", "th"), ["three-stage"]),
        (("generate", "--model", "nan"), ["nano"]),
        (("generate", "--sampler", "res"), ["res2s"]),
        (("plan", "--schedule", "co"), ["cosine"]),
        (("generate", "--codec", "pro"), ["prores"]),
        (("generate", "--weights", "fp8"), ["fp8", "fp8-cast"]),
        (("generate", "--size", ""), ["portrait", "720p"]),
        (("generate", "--residency", ""), ["auto", "stream"]),
        (("generate", "--dtype", "b"), ["bfloat16"]),
        (("generate", "--cache", "t"), ["teacache"]),
        (("generate", "--only", ""), ["video", "audio"]),
        (("doctor", "--model", "nan"), ["nano"]),
        (("models", "pull", "ltx-2.3-dis"), ["ltx-2.3-distilled"]),
        (("completion", "--inst"), ["--install"]),
    ],
)
def test_a_word_is_completed(words: tuple[str, ...], expected: list[str]) -> None:
    assert set(expected) <= set(offered(*words))
    assert all(word.startswith(words[-1]) for word in offered(*words))


def test_paths_are_left_to_the_shell() -> None:
    assert CliRunner().invoke(app, [], env=asking("generate", "--image", "ba")).stdout == "file,ba\n"


def test_a_config_file_that_is_wrong_stops_no_completion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOUNDSTAGE_CONFIG")
    monkeypatch.chdir(tmp_path)
    Path("soundstage.toml").write_text("steps = \n")
    assert offered("generate", "--recipe", "fas") == ["fast"]
    assert CliRunner().invoke(app, ["completion", "bash"]).exit_code == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_itself_completes(tmp_path: Path) -> None:
    program = tmp_path / "soundstage"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m soundstage "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "script").write_text(CliRunner().invoke(app, ["completion", "bash"]).stdout)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for words, expected in (
        (["rec"], ["recipes"]),
        (["generate", "--recipe", "fas"], ["fast"]),
        (["generate", '"A ball."', "--dur"], ["--duration"]),
    ):
        done = subprocess.run(
            ["bash", "-c", ASK, "-", "soundstage", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=LONG_S,
        )
        assert done.stdout.split() == expected, done.stderr


def test_no_torch_is_loaded_for_a_word() -> None:
    code = (
        "import sys; from soundstage.cli.program import app\n"
        "try: app([])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    for words in (("generate", "--model", ""), ("generate", "--weights", ""), ("generate", "--size", "")):
        env = {**os.environ, "PYTHONPATH": str(ROOT), **asking(*words)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=LONG_S
        )
        assert done.stderr.strip() == "False"


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = CliRunner().invoke(app, ["completion", shell])
    assert printed.exit_code == 0
    assert f"{VARIABLE}={shell}_complete" in printed.stdout
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    installed = CliRunner().invoke(app, ["completion", "--install"])
    if shell == "zsh":
        assert installed.exit_code == 2
        assert 'eval "$(soundstage completion zsh)"' in installed.stderr
    else:
        (script,) = (path for path in tmp_path.rglob("soundstage*") if path.is_file())
        assert script.read_text() in printed.stdout


def test_another_shell_is_refused() -> None:
    result = CliRunner().invoke(app, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "SHELL is 'tcsh'; give " in result.stderr
