"""The LoRAs of examples/ for voices, dubs and a character do what docs/identity.md says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from safetensors import safe_open

import soundstage as ss
from soundstage.cli.main import app
from soundstage.dataset.encoding import encoder_parts
from soundstage.lora.metadata import read_references
from soundstage.nano.evaluation.backdrop import Floats
from soundstage.nano.evaluation.capabilities import SECTIONS
from soundstage.nano.evaluation.capabilities.case import Case, Shown, StageMaker, evaluate_section
from soundstage.nano.evaluation.voices import syllable_starts, voice_heard
from soundstage.request.request import Request
from soundstage.types import OUTPUT_RATE_HZ
from tests.media_read import read_media

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("identity", "dub", "voice", "character")
ON_TIME_S = 2 / 24 + 1e-3


def maker(name: str) -> StageMaker:
    stage = ss.load("nano")
    loras = [ss.Lora(str(EXAMPLES / f"{name}-nano.safetensors"))]
    return StageMaker(stage, encoder_parts(stage), {"steps": 6, "loras": loras})


def shown(name: str, number: int, way: int = 0) -> tuple[Case, Shown]:
    """Return a case of a section, and the clip of one of its ways."""
    case = SECTIONS[name].cases(number + 1, 0)[number]
    ask = case.asks[way]
    assert isinstance(ask, Request)
    return case, maker(name).clip(ask)


def test_new_speech_begins_with_the_syllables_of_the_given_clip_in_its_voice() -> None:
    case, clip = shown("dub", 2)
    assert clip.waveform is not None
    check_dub(case, clip.waveform)


def test_the_command_dub_does_so_in_the_two_passes_of_its_recipe(tmp_path: Path) -> None:
    """The first pass has half of the size that the LoRA has learned at."""
    case = SECTIONS["dub"].cases(3, 0)[2]
    ask = case.asks[0]
    assert isinstance(ask, Request)
    given: Any = ask.references[0].video
    take = ss.Clip(given.frames, given.waveform, case.scene.fps).save(tmp_path / "take.mp4")
    lora, out = EXAMPLES / "dub-nano.safetensors", tmp_path / "dub.mp4"
    command = ["dub", take, ask.prompt, "--size", "128x128", "--num-frames", 49, "--seed", ask.seed]
    result = CliRunner().invoke(app, [str(word) for word in [*command, "--lora", lora, "-o", out]])
    assert result.exit_code == 0, result.output
    media = read_media(out)
    assert media.waveform is not None
    assert media.sample_rate_hz == OUTPUT_RATE_HZ
    check_dub(case, media.waveform)


def check_dub(case: Case, waveform: Floats) -> None:
    """Check that syllables begin when those of the given clip do, in its voice."""
    starts = syllable_starts(waveform)
    assert len(starts) == len(case.facts["starts"])
    assert all(abs(at - given) <= ON_TIME_S for at, given in zip(starts, case.facts["starts"], strict=True))
    heard = voice_heard(waveform)
    assert heard is not None
    assert heard.pitch_hz == case.facts["voice"].pitch_hz


@pytest.mark.slow
def test_a_sample_decides_the_pitch_of_the_voice() -> None:
    case, clip = shown("identity", 2)
    assert clip.waveform is not None
    heard = voice_heard(clip.waveform)
    assert heard is not None
    assert heard.pitch_hz == case.facts["voice"].pitch_hz == 300


# Least, or most, of a row's rate over four cases.
HELD_OUT: dict[str, dict[str, tuple[float, float]]] = {
    "identity": {"pitch kept": (1.0, 1.0)},
    "dub": {"on time": (0.8, 1.0)},
    "voice": {
        "voice by its name": (0.75, 1.0),
        "the same without the name": (0.0, 0.0),
        "other voices stay": (0.75, 1.0),
    },
    "character": {"stripe by the name": (0.75, 1.0), "stripe without the name": (0.0, 0.0)},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_cases_reach_most_of_what_the_page_says(name: str) -> None:
    report = evaluate_section(SECTIONS[name], maker(name), 4, 0)
    for row, (least, most) in HELD_OUT[name].items():
        assert least <= report.rate(row) <= most, row


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_small_and_hold_layers_of_one_stream_alone(name: str) -> None:
    path = EXAMPLES / f"{name}-nano.safetensors"
    assert path.stat().st_size < 1e6
    with safe_open(path, framework="np") as file:
        keys: Any = file.keys()
        layers = {key.partition("transformer_blocks.")[2].split(".")[1] for key in keys}
    of_sound = {layer for layer in layers if layer.startswith("audio_attn")}
    expected = {
        "identity": layers == of_sound,
        "voice": layers == of_sound,
        "character": not of_sound,
        "dub": layers - of_sound == {"audio_to_video_attn", "video_to_audio_attn"},
    }
    assert expected[name]


def test_a_dub_keeps_its_references_out_of_the_exchange_of_the_streams() -> None:
    references = read_references(EXAMPLES / "dub-nano.safetensors")
    assert (references.exchange, references.in_context) == ("clip", True)
