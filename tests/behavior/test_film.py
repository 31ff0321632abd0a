"""The film of examples/film is made; when one shot is changed, nothing else is made again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import soundstage as ss
from soundstage.media.probe import probe
from soundstage.production.reading import read_script
from soundstage.production.shots import shot_requests

SCRIPT = Path(__file__).parents[2] / "examples" / "film" / "two-friends.yaml"
DIALOGUE = ("Ada", "Bo")


def test_the_script_has_what_a_film_is_made_of() -> None:
    script = read_script(SCRIPT)
    made = shot_requests(script)
    assert len(made) >= 8
    assert sum((one.request.duration_s or 0) for one in made) >= 60
    assert {line.who for shot in script.shots for line in shot.lines} == set(DIALOGUE)
    assert len({member.voice for member in script.cast.values()}) == len(DIALOGUE)
    assert any(one.needed("continues") for one in made)
    assert any("hands a small yellow ball" in one.request.prompt for one in made)
    assert {"dissolve", "fade"} <= {shot.transition for shot in script.shots}
    assert script.sound is not None
    assert script.sound.music == "none"


def done(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "state" / "journal.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == "done"]


def takes(lines: Sequence[dict[str, Any]]) -> list[str]:
    return [line["step"] for line in lines if line["step"].startswith("take ")]


@pytest.mark.slow
def test_one_minute_of_film_and_one_shot_of_it_again(tmp_path: Path) -> None:
    script = tmp_path / "film.yaml"
    script.write_text(SCRIPT.read_text())
    made = ss.produce(script, output=tmp_path / "film")
    assert made.film is not None
    info = probe(made.film)
    assert info.fps is not None
    assert info.num_frames / info.fps >= 60
    num_shots = len(read_script(script).shots)
    first = done(made.folder)
    assert len(takes(first)) == num_shots
    facts = json.loads((made.folder / "manifest.json").read_text())["film"]
    assert facts["level"]["after"]["integrated_lufs"] == pytest.approx(-16, abs=0.5)
    captions = (made.folder / "film.srt").read_text()
    assert "Thank you, Bo." in captions

    text = script.read_text()
    script.write_text(text.replace("Bo slides to the left.", "Bo slides to the right."))
    again = ss.produce(script, output=tmp_path / "film")
    assert again.film == made.film
    assert [step.partition("/")[0] for step in takes(done(made.folder)[len(first) :])] == ["take rain"]
