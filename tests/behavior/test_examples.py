"""The examples of --help and README at full size show what they say, by the meter of nano's evaluation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from soundstage.cli.main import app
from soundstage.nano.evaluation.picture import look
from soundstage.nano.evaluation.sound import listen
from tests.examples import Example, examples
from tests.media_read import read_media
from tests.shell import words_of

# What a prompt says -> the background and the colour that the meter must see.
PLACES = {"wooden floor": "wood", "at night": "night", "fog": "fog"}
COLORS = ("red", "blue", "yellow", "green")
PLACES_OF_EXAMPLES = ("README.md", "soundstage --help", "soundstage generate --help")
GENERATE = [
    e for e in examples() if e.page in PLACES_OF_EXAMPLES and e.text.startswith("soundstage generate")
]


@pytest.mark.slow
@pytest.mark.parametrize("example", GENERATE, ids=lambda e: e.text)
def test_a_clip_shows_the_colour_and_the_place_of_its_prompt(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words_of(example.text))
    assert result.exit_code == 0, result.stderr
    media = read_media(tmp_path / result.stdout.strip())
    assert media.frames is not None
    assert media.fps is not None
    seen = look(media.frames, media.fps)
    asked = words_of(example.text)[1].lower()
    assert seen.background == next(place for words, place in PLACES.items() if words in asked)
    assert {s.color for s in seen.subjects} == {c for c in COLORS if re.search(rf"\b{c}\b", asked)}


@pytest.mark.slow
def test_sound_alone_is_the_sound_of_its_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = [e for e in examples() if e.page == "soundstage t2a --help"]
    result = CliRunner().invoke(app, [*words_of(example.text), "--seed", "10"])
    assert result.exit_code == 0, result.stderr
    waveform = read_media(tmp_path / result.stdout.strip()).waveform
    assert waveform is not None
    assert listen(waveform).classes == {"rain"}
