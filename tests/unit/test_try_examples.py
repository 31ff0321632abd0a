"""What `soundstage examples` prints runs as it stands, in its order."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from soundstage.cli.program import app
from tests.examples import let_names_mean_nano, write_inputs

LARGE = ("ltx-2.3-distilled", "ltx-2.3-dev")


def printed(*words: str) -> list[list[str]]:
    """Return the words of each command that is printed."""
    shown = CliRunner().invoke(app, ["examples", *words]).stdout.splitlines()
    commands = [line for line in shown if line and not line.startswith("#")]
    told = json.loads(CliRunner().invoke(app, ["examples", *words, "--json"]).stdout)
    assert [example["command"] for example in told] == commands
    return [shlex.split(command)[1:] for command in commands]


@pytest.mark.slow
def test_those_of_nano_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOUNDSTAGE_STEPS", "1")  # as a default: what is printed stays as it is
    monkeypatch.setenv("SOUNDSTAGE_SIZE", "64x64")
    commands = printed()
    assert {"plan", "generate", "t2a", "a2v", "retake", "extend", "convert"} <= {
        words[0] for words in commands
    }
    assert any("--lora" in words for words in commands)
    for words in commands:
        is_long = "30" in words
        result = CliRunner().invoke(app, [*words, "--plan"] if is_long else words)
        assert result.exit_code == 0, f"{words}: {result.stderr}"
        assert "hint:" not in result.stderr
    assert {"first.mp4", "first.png", "rolls.mp4", "sound.wav", "first.gif"} <= {
        p.name for p in tmp_path.iterdir()
    }


@pytest.mark.parametrize("model", LARGE)
def test_those_of_a_published_model_can_be_planned(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = printed("--model", model)  # which is not here
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    for name, source in (("first.mp4", "ball.mp4"), ("first.png", "ball.png"), ("sound.wav", "beat.wav")):
        Path(name).symlink_to(source)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    let_names_mean_nano(tmp_path / "home")
    for words in commands:
        planned = words if words[0] in ("plan", "convert") else [*words, "--plan", "--force"]
        result = CliRunner().invoke(app, planned)
        assert result.exit_code == 0, f"{words}: {result.stderr}"
        assert words[0] == "convert" or model in words


def test_an_unknown_model_is_refused() -> None:
    result = CliRunner().invoke(app, ["examples", "--model", "nanno"])
    assert result.exit_code == 2
    assert "nano" in result.stderr
