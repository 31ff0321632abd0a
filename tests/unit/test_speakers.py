"""A bank of voices: the prompt of a clip, or of each window of a take, names whose voice it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import soundstage as ss
from soundstage.cli.request_fields import request_fields
from soundstage.errors import RequestError
from soundstage.library.model_files import find_model
from soundstage.planning.long_take import plan_request
from soundstage.request.speakers import speakers_named
from soundstage.types import AUDIO_LATENTS_PER_S


@pytest.fixture
def bank(tmp_path: Path) -> list[str]:
    """Two samples, of one second and of two."""
    paths = []
    for number in (1, 2):
        path = tmp_path / f"{number}.wav"
        ss.Clip(None, np.full((2, number * 48_000), 0.1, np.float32), 24.0).save(path)
        paths.append(str(path))
    return paths


@pytest.mark.parametrize(
    ("prompt", "number"),
    [
        ("A ball. [SPEAKER 2] A voice speaks.", 2),
        ("A ball. [speaker 1]: A voice speaks.", 1),
        ("A ball. A voice speaks.", 1),
    ],
)
def test_the_prompt_names_whose_voice_a_clip_has(bank: list[str], prompt: str, number: int) -> None:
    made = plan_request(ss.Request(prompt=prompt, speakers=bank), find_model("nano"))
    (only,) = made.passes
    assert only.identity == "input"
    assert only.added_audio == number * AUDIO_LATENTS_PER_S
    assert "SPEAKER" not in made.request.prompt.upper()


def test_each_window_of_a_take_has_its_own_speaker(bank: list[str]) -> None:
    prompt = "[0-2s] [SPEAKER 2] A voice speaks. [2-4s] [SPEAKER 1] A voice speaks."
    request = ss.Request(
        prompt=prompt, duration_s=4, speakers=bank, take={"window_frames": 49, "overlap_frames": 16}
    )
    made = plan_request(request, find_model("nano"))
    voices = [window.passes[0].added_audio for window in made.clips]
    assert voices[0] == 2 * AUDIO_LATENTS_PER_S
    assert voices[-1] == 1 * AUDIO_LATENTS_PER_S


def test_a_number_that_the_bank_does_not_have_is_refused(bank: list[str]) -> None:
    with pytest.raises(
        RequestError, match=r"names \[SPEAKER 3\], and speakers has 2; give a number from 1 to 2"
    ):
        plan_request(ss.Request(prompt="[SPEAKER 3] A voice.", speakers=bank), find_model("nano"))


def test_two_speakers_in_one_clip_are_told(bank: list[str]) -> None:
    request = ss.Request(prompt="[SPEAKER 2] Hello. [SPEAKER 1] Hello.", speakers=bank)
    made = plan_request(request, find_model("nano"))
    assert any("has one voice, that of speaker 2" in notice for notice in made.notices)
    assert speakers_named(request.prompt) == (2, 1)


def test_a_bank_and_a_sound_are_not_given_together(bank: list[str]) -> None:
    with pytest.raises(RequestError, match="both speakers and audio are given; keep one"):
        ss.Request(prompt="A ball.", speakers=bank, audio=bank[0])


def test_the_command_line_gives_a_bank(bank: list[str]) -> None:
    fields = request_fields({"speaker": bank})
    assert ss.Request(prompt="A ball.", **fields).speakers == (ss.Speaker(bank[0]), ss.Speaker(bank[1]))


def test_a_prompt_without_a_bank_stays_as_it_is() -> None:
    made = plan_request(ss.Request(prompt="[SPEAKER 1] A voice speaks."), find_model("nano"))
    assert made.request.prompt == "[SPEAKER 1] A voice speaks."
