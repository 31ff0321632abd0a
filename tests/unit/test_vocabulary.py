"""Words that nano never saw are told once, on stderr, with what it knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from soundstage.cli.main import app
from soundstage.errors import ConfigError
from soundstage.library.model_files import SHIPPED_MODELS
from soundstage.nano.world.captions import caption
from soundstage.nano.world.scene import draw_scene
from soundstage.nano.world.vocabulary import vocabulary
from soundstage.prompts.vocabulary import FILE, Vocabulary
from soundstage.types import VideoShape
from tests.limits import LONG_S

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nano() -> Vocabulary:
    found = Vocabulary.of_folder(SHIPPED_MODELS["nano"])
    assert found is not None
    return found


def test_the_shipped_file_is_what_the_command_writes() -> None:
    assert json.loads((SHIPPED_MODELS["nano"] / FILE).read_text()) == vocabulary()


def test_captions_of_other_scenes_are_known(nano: Vocabulary) -> None:
    for seed in range(100_000, 100_300):
        words = caption(draw_scene(seed, VideoShape(49, 128, 128), held_out=True), full=True)
        assert nano.unknown(words) == []


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("A dog runs over a tin roof in the rain.", ["dog", "runs", "tin", "roof"]),
        ("A red ball is bouncing; the balls were blinking.", []),
        ("The CUBE's colour: Turquoise!", ["colour"]),
        ('A deep voice speaks: "Good evening, dear friends."', []),
        ("[0-2s] A red ball rolls. [2-5s] Two cubes blink 3 times.", []),
        ("a red ball | a dragon", ["dragon"]),
        ("Scene 1: a red ball\nScene 2: a blue ring", []),
        ("Une balle rouge", ["une", "balle", "rouge"]),
        ("7 10:30 0.5", []),
        ("dragon dragon Dragon", ["dragon"]),
    ],
)
def test_which_words_are_unknown(nano: Vocabulary, prompt: str, unknown: list[str]) -> None:
    assert nano.unknown(prompt) == unknown


def test_a_hint_names_the_words_and_what_there_is(nano: Vocabulary) -> None:
    hint = nano.hint("nano", "A tin roof.")
    assert hint is not None
    assert hint.startswith(
        "nano was never shown 'tin', 'roof', so do not expect to see or hear them; it knows"
    )
    assert "see or hear it;" in (nano.hint("nano", "A tin ball.") or "")
    for word in ("red", "pyramid", "bounces", "rain", "in thick fog"):
        assert word in hint
    assert nano.hint("nano", "A red ball bounces.") is None
    many = nano.hint("nano", " ".join(f"q{'abcdefghij'[i]}x" for i in range(10)))
    assert many is not None
    assert "and 2 more words" in many


def test_other_models_get_no_hints_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert Vocabulary.of_folder(tmp_path) is None
    for text in ("[]", "{", '{"words": 3, "examples": {}}', '{"words": []}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ConfigError, match=r"vocabulary\.json is no vocabulary"):
            Vocabulary.of_folder(tmp_path)


def test_the_command_line_hints_once_on_stderr() -> None:
    done = CliRunner().invoke(app, ["plan", "A dog on a tin roof.", "--frames", "9"])
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("hint: nano was never shown 'dog', 'tin', 'roof'") == 1
    assert "hint" not in done.stdout
    assert "hint" not in CliRunner().invoke(app, ["plan", "A red ball bounces.", "--frames", "9"]).stderr


def test_a_vocabulary_loads_no_torch() -> None:
    code = "import sys, soundstage.prompts.vocabulary; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=LONG_S
    )
    assert done.stdout == "False\n"
