"""A review tells speech, music, tones, and sounds that come late; a clip that fails is made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import soundstage as ss
from benchmarks.review_sounds import MUSIC, NOISE, SPEECH, TONE, Maker, Sound
from soundstage.cli.program import app
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.planning.seeds import RETRY_STEP
from soundstage.review.contents import KINDS, THERE, Ear
from soundstage.review.policy import SoundPolicy
from soundstage.review.record import Asked
from soundstage.review.retry import best_of
from soundstage.review.reviewing import review_clip
from soundstage.review.sync import OnsetMeter, synced
from tests.tiny_model import TinyParts

RATE = 48_000
MAKERS = {**SPEECH, **MUSIC, **TONE, **NOISE}


def stereo(sound: Sound) -> Any:
    return np.stack([sound, sound]).astype(np.float32)


def heard(maker: Maker, seconds: float = 4.0, seed: int = 3) -> set[str]:
    ear = Ear(RATE)
    sound = stereo(maker(np.random.default_rng(seed), seconds))
    for first in range(0, sound.shape[1], 30_000):
        ear.add(sound[:, first : first + 30_000])
    facts = ear.result()
    return {kind for kind in KINDS if facts.best(kind) >= THERE}


@pytest.mark.parametrize("name", MAKERS)
def test_what_a_sound_holds_is_told(name: str) -> None:
    wanted = (
        {"speech"} if name in SPEECH else {"music"} if name in MUSIC else {"tone"} if name in TONE else set()
    )
    assert heard(MAKERS[name]) == wanted


def test_what_is_heard_is_judged_by_what_was_asked() -> None:
    voice = ss.Clip(None, stereo(SPEECH["speech"](np.random.default_rng(0), 3.0)), 24.0)
    assert [f.check for f in review_clip(voice, Asked(speech=False)).faults] == ["speech"]
    assert [f.check for f in review_clip(voice, Asked(speech=True, music=True)).faults] == ["no-music"]
    assert review_clip(voice, SoundPolicy(speech="only").asked()).faults == ()
    short = ss.Clip(None, voice.waveform[:, : RATE // 2], 24.0)  # type: ignore[index]
    assert "not judged" in review_clip(short, Asked(speech=False)).notices[0]


def test_windows_follow_each_other_through_a_long_sound() -> None:
    sound = np.concatenate(
        [maker(np.random.default_rng(1), 6.0) for maker in (NOISE["noise"], SPEECH["speech"])]
    )
    found = review_clip(ss.Clip(None, stereo(sound), 24.0), Asked(speech=False))
    assert [fault.check for fault in found.faults] == ["speech"]
    assert 2 <= found.faults[0].start_s <= 6
    assert found.faults[0].end_s == pytest.approx(12, abs=0.1)


def test_onsets_are_found_whatever_the_pieces() -> None:
    sound = np.zeros((2, 3 * RATE), np.float32)
    for at in (0.5, 1.2, 2.4):
        sound[:, round(at * RATE) : round((at + 0.1) * RATE)] = 0.5 * np.sin(np.arange(RATE // 10) * 0.2)
    for size in (500, 7777, 3 * RATE):
        meter = OnsetMeter(RATE)
        for first in range(0, sound.shape[1], size):
            meter.add(sound[:, first : first + size])
        assert meter.onsets() == pytest.approx([0.5, 1.2, 2.4], abs=0.04)


def test_an_offset_is_told_only_where_several_events_meet() -> None:
    seen = [0.5, 1.1, 2.0]
    assert synced(seen, [t + 0.3 for t in seen]).offset_s == pytest.approx(0.3, abs=0.02)
    assert synced(seen, [t - 0.2 for t in seen]).offset_s == pytest.approx(-0.2, abs=0.02)
    assert abs(synced(seen, seen).offset_s or 0.0) < 0.02
    assert synced(seen, [0.7]).offset_s is None
    assert synced(seen, list(np.arange(0.1, 3, 0.16))).offset_s in (None, 0.0)


# --- more takes ---------------------------------------------------------------------------------------


def take(seed: int) -> ss.Clip:
    """A sound: silent for seeds below 100, else a tone, the louder the larger the seed."""
    level = 0.0 if seed < 100 else 0.05
    wave = level * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    return ss.Clip(None, stereo(wave), 24.0, {"request": {"prompt": "A tone.", "seed": seed}})


def test_a_clip_is_made_again_until_no_check_fails() -> None:
    told: list[int] = []
    best = best_of(take, 7, retries=3, taken=lambda one: told.append(one.seed))
    assert told == [7, 7 + RETRY_STEP]
    assert best.kept.seed == 7 + RETRY_STEP
    review = best.clip.provenance["review"]
    assert [one["faults"] for one in review["takes"]] == [["silence"], []]
    assert "in which no check failed" in review["why"]
    assert [one.clip is None for one in best.takes] == [True, False]


def test_the_best_take_is_kept_where_all_fail() -> None:
    best = best_of(take, 7, Asked(silence=True, tone=False), retries=2)
    assert (best.kept.seed, len(best.takes)) == (7, 1)
    failing = best_of(take, 100, Asked(speech=True), retries=2)
    assert (failing.kept.seed, len(failing.takes)) == (100, 3)
    assert "though no-speech failed" in failing.why


def test_loudness_causes_no_retry_and_wrong_numbers_are_refused() -> None:
    assert len(best_of(take, 100, Asked(loudness_lufs=(-20, -10)), retries=3).takes) == 1
    for wrong in (-1, 21, 1.5, True):
        with pytest.raises(RequestError, match="retries"):
            best_of(take, 1, retries=wrong)  # type: ignore[arg-type]


WORDS = ("--steps", "1", "--guidance", "1", "--frames", "17", "--seed", "5", "-o", "a.mp4")


@pytest.fixture
def tiny(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", TinyParts)
    monkeypatch.chdir(tmp_path)
    return tiny_folder


def test_generate_reviews_and_keeps_all_takes_on_request(tiny: Path) -> None:
    words = ["generate", "Fog.", "--model", str(tiny), *WORDS, "--retries", "1", "--keep-takes", "--json"]
    result = CliRunner().invoke(
        app, [*words, "--asked", "silence=yes", "--sound", "music=none,ambience=rain"]
    )
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["request"]["prompt"] == "Fog. Rain is heard in the background."
    assert told["sound_policy"] == {"music": "none", "ambience": "rain"}
    assert [one["seed"] for one in told["review"]["takes"]] == [5, 5 + RETRY_STEP]
    assert "the sound policy adds to the prompt" in result.stderr
    assert "made again with seed" in result.stderr
    assert len(list(Path().glob("*.mp4"))) == 2
    assert ss.Clip.open("a.mp4").provenance["review"]["why"] == told["review"]["why"]


def test_an_interrupted_retry_keeps_the_best_take(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Engine.run

    def interrupted(self: Engine, planned: Any, **words: Any) -> Any:
        if planned.request.seed != 5:
            raise KeyboardInterrupt
        return run(self, planned, **words)

    monkeypatch.setattr(Engine, "run", interrupted)
    words = ["generate", "Fog.", "--model", str(tiny), *WORDS, "--retries", "1", "--asked", "silence=yes"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 130
    assert "seed 5 is kept" in result.stderr
    assert ss.Clip.open("a.mp4").request.seed == 5


def test_an_engine_makes_a_clip_with_a_policy_and_retries(tiny: Path) -> None:
    stage = ss.load(tiny)
    fields: dict[str, Any] = {"steps": 1, "guidance": 1, "num_frames": 17, "seed": 3}
    with pytest.warns(UserWarning, match="sound policy"):
        clip = stage.generate(
            "Fog.", sound=ss.SoundPolicy(speech="none"), retries=1, asked=Asked(silence=True), **fields
        )
    assert clip.request.audio_scales == {"nag": 11.0}
    assert len(clip.provenance["review"]["takes"]) == 2


def test_wrong_wishes_are_refused_before_anything_is_made(tiny: Path) -> None:
    for words in (("--sound", "music=no"), ("--asked", "motin=no"), ("--retries", "99")):
        result = CliRunner().invoke(app, ["generate", "Fog.", "--model", str(tiny), *WORDS, *words])
        assert (result.exit_code, list(Path().glob("*.mp4"))) == (2, [])
