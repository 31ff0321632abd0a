"""Reviews find the faults of spoilt clips and none in sound ones; a sound policy says what it adds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import soundstage as ss
from soundstage.cli.program import app
from soundstage.errors import MediaError, RequestError
from soundstage.media.loudness import Loudness
from soundstage.review.asking import asked_of
from soundstage.review.flow import PixelGrid, Similarity, box_mean, motion
from soundstage.review.policy import SoundPolicy
from soundstage.review.record import Asked, Fault, Review
from soundstage.review.reviewing import review_clip

FPS, SIZE = 24.0, (64, 96)
RATE = 48_000
Frames = NDArray[np.uint8]


def textured(seed: int = 0) -> NDArray[np.float32]:
    """A grey picture of soft spots."""
    noise = np.random.default_rng(seed).uniform(0, 255, SIZE).astype(np.float32)
    return np.clip((box_mean(noise, 3) - 127) * 6 + 127, 0, 255)


def coloured(grey: NDArray[np.float32]) -> Frames:
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)


def moving(num_frames: int = 30, speed: float = 1.0) -> Frames:
    """A bright square that crosses a textured picture and comes back."""
    frames = []
    for index in range(num_frames):
        grey = textured()
        at = int(abs((speed * index) % 140 - 70))
        grey[20:36, at : at + 16] = 250
        frames.append(coloured(grey))
    return np.stack(frames)


def zooming(num_frames: int = 30) -> Frames:
    """A photograph that the camera moves toward."""
    grid = PixelGrid(*SIZE)
    shown = [
        grid.warped(textured(), Similarity(a=-0.003 * i).flow(*grid.from_centre))[0]
        for i in range(num_frames)
    ]
    return np.stack([coloured(grey) for grey in shown])


def hum(seconds: float = 2.0, level: float = 0.1) -> NDArray[np.float32]:
    wave = level * np.sin(2 * np.pi * 300 * np.arange(round(seconds * RATE)) / RATE)
    return np.stack([wave, wave]).astype(np.float32)


def clip_of(frames: Frames | None, sound: NDArray[np.float32] | None = None) -> ss.Clip:
    return ss.Clip(frames, sound, FPS)


def checks(clip: ss.Clip, asked: Asked | None = None) -> set[str]:
    return {fault.check for fault in review_clip(clip, asked).faults}


def test_flow_finds_the_motion_of_the_whole_picture() -> None:
    grid, grey = PixelGrid(*SIZE), textured()
    for wanted in (Similarity(shift_x=2.5, shift_y=-1.0), Similarity(a=0.03), Similarity(b=0.02)):
        back = tuple(-part for part in wanted.flow(*grid.from_centre))
        found = motion(grey, grid.warped(grey, (back[0], back[1]))[0]).whole
        assert found is not None
        assert (found.a, found.b) == pytest.approx((wanted.a, wanted.b), abs=6e-3)
        assert (found.shift_x, found.shift_y) == pytest.approx((wanted.shift_x, wanted.shift_y), abs=0.25)


def test_a_clip_in_which_something_moves_and_sounds_has_no_fault() -> None:
    found = review_clip(clip_of(moving(), hum()))
    assert (found.faults, found.score) == ((), 1.0)


def spoilt(kind: str) -> ss.Clip:
    frames = moving()
    if kind == "still":
        frames = np.repeat(frames[:1], 24, axis=0)
    elif kind == "zoom-only":
        frames = zooming()
    elif kind == "frozen-start":
        frames[:18] = frames[18]
    elif kind == "slowdown":
        frames = np.concatenate([moving(40, speed=3), moving(40, speed=0.5)])
    elif kind == "duplicates":
        frames = moving(speed=2)
        frames[1::2] = frames[::2]
    elif kind == "black":
        frames[20:23] = 0
    elif kind == "burnt":
        frames[20:28] = 255
    elif kind == "jump":
        frames[15:] = frames[15:, ::-1, ::-1]
    elif kind == "colour-drift":
        gains = 1 - np.linspace(0, 0.5, 30)[:, None, None, None] * np.array([0, 1, 1])
        frames = (frames * gains).astype(np.uint8)
    return clip_of(frames, hum(len(frames) / FPS))


KINDS = (
    *(
        "still",
        "zoom-only",
        "frozen-start",
        "slowdown",
        "duplicates",
        "black",
        "burnt",
        "jump",
        "colour-drift",
    ),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_picture_has_its_fault(kind: str) -> None:
    found = review_clip(spoilt(kind))
    assert kind in {fault.check for fault in found.faults}
    assert found.score < 1
    assert all(0 < fault.severity <= 1 and fault.why for fault in found.faults)


def test_a_seam_is_judged_more_strictly_than_other_times() -> None:
    frames = moving()
    frames[15:] = np.clip(frames[15:].astype(int) + 4, 0, 255)
    assert "jump" not in checks(clip_of(frames))
    assert "jump" in checks(clip_of(frames), Asked(seams_s=(15 / FPS,)))


def test_what_was_not_asked_is_no_fault() -> None:
    still, jump = spoilt("still"), spoilt("jump")
    assert checks(still, Asked(motion=False)) == set()
    assert checks(jump, Asked(cuts=True)) == set()
    silent = clip_of(moving(), np.zeros((2, 96_000), np.float32))
    assert (checks(silent), checks(silent, Asked(silence=True))) == ({"silence"}, set())
    assert checks(clip_of(moving(), hum()), Asked(silence=True)) == {"sound"}


def test_levels_of_the_sound_are_judged() -> None:
    assert checks(clip_of(None, np.clip(hum(level=3.0), -1, 1))) == {"clipping"}
    assert checks(clip_of(None, np.clip(hum(level=1.5), -0.8, 0.8))) == {"clipping"}
    gap = hum(6.0)
    gap[:, RATE : 4 * RATE] = 0
    assert checks(clip_of(None, gap)) == set()
    assert checks(clip_of(None, gap), Asked(silence=False)) == {"silence"}
    loud = review_clip(clip_of(None, hum(level=0.5)), Asked(loudness_lufs=(-18, -14)))
    assert [fault.check for fault in loud.faults] == ["loudness"]
    assert "a gain of -" in loud.faults[0].why


def test_loudness_is_that_of_the_standard() -> None:
    """EBU Tech 3341: a stereo sine of 997 Hz at -23 dBFS has -23 LUFS, whatever the size of the pieces."""
    wave = 10 ** (-23 / 20) * np.sin(2 * np.pi * 997 * np.arange(RATE * 3) / RATE)
    sound = np.stack([wave, wave]).astype(np.float32)
    for count in (1, 7):
        found = Loudness.of(np.array_split(sound, count, axis=1), RATE)
        assert found.integrated_lufs == pytest.approx(-23, abs=0.1)
        assert found.true_peak_dbtp == pytest.approx(-23, abs=0.3)
    assert Loudness.of([np.zeros((2, RATE), np.float32)], RATE).integrated_lufs is None
    assert Loudness.of([], RATE).integrated_lufs is None


def test_the_score_falls_with_each_fault_and_its_severity() -> None:
    def score(*severities: float) -> float:
        return Review(tuple(Fault("still", s, 0, 1, 0, 0, "-") for s in severities)).score

    assert 1 == score() > score(0.1) > score(0.5) > score(1) > score(1, 0.1) > score(1, 1, 1) > 0


def test_a_file_is_reviewed_as_the_clip_in_memory(tmp_path: Path) -> None:
    clip = spoilt("zoom-only")
    path = clip.save(tmp_path / "zoom.mp4")
    assert [f.check for f in review_clip(path).faults] == [f.check for f in review_clip(clip).faults]


def test_clips_without_enough_to_judge_are_reviewed() -> None:
    assert checks(clip_of(moving(1))) == set()
    assert checks(clip_of(moving(3))) == set()
    assert checks(clip_of(np.full((4, 1, 1, 3), 90, np.uint8))) == set()
    assert checks(clip_of(None, hum(0.01))) == set()
    with pytest.raises(MediaError, match="nothing to review"):
        review_clip(clip_of(None))


# --- what was asked -----------------------------------------------------------------------------------


def test_what_was_asked_is_read_from_words() -> None:
    found = Asked.from_text("motion=no, seams=4.1+8.2,loudness=-16, music=no,speech=any")
    assert (found.motion, found.seams_s, found.loudness_lufs) == (False, (4.1, 8.2), (-18.0, -14.0))
    assert (found.music, found.speech) == (False, None)
    for words in ("motion=maybe", "motin=no", "motion", "loudness=loud", "seams=-1"):
        with pytest.raises(RequestError):
            Asked.from_text(words)


def test_what_was_asked_is_read_from_the_file() -> None:
    made = {"request": {"prompt": "A cube lies motionless. Silence."}, "sound_policy": {"music": "none"}}
    found = asked_of(made)
    assert (found.motion, found.silence, found.music) == (False, True, False)
    windows = [{"start": 0, "overlap": 0, "fps": 24.0}, {"start": 5, "overlap": 2, "fps": 24.0}]
    assert asked_of({"windows": windows}).seams_s == (49 / 24,)
    assert asked_of({"windows": [1, 2], "request": 3, "sound_policy": {"x": 1}}) == Asked()


# --- the policy ---------------------------------------------------------------------------------------

PROMPTS = {
    "A ball bounces.": "A ball bounces. Rain is heard in the background.",
    "a | b": "Rain is heard in the background. || a | b",
    "[0-1s] a [1s-] b": "Rain is heard in the background. [0-1s] a [1s-] b",
    "Scene 1: a\nScene 2: b": "Rain is heard in the background.\nScene 1: a\nScene 2: b",
    "[VISUAL]: a [SOUNDS]: wind.": "[VISUAL]: a [SOUNDS]: Rain is heard in the background. wind.",
    "[VISUAL]: a [SPEECH]: b": "[VISUAL]: a [SPEECH]: b [SOUNDS]: Rain is heard in the background.",
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_policy_says_what_it_adds_and_adds_it_once(prompt: str) -> None:
    policy = SoundPolicy(music="none", ambience="rain")
    request = ss.Request(prompt=prompt)
    made = policy.applied(request)
    assert made.prompt == PROMPTS[prompt]
    assert made.audio_negative_prompt == "music, soundtrack, song, melody"
    assert made.audio_scales == {"nag": 11.0}
    assert len(policy.notices(request)) == 3
    assert (policy.applied(made), policy.notices(made)) == (made, ())


def test_a_policy_keeps_what_the_request_says() -> None:
    request = ss.Request(prompt="A dog.", audio_negative_prompt="hiss, music", audio_scales={"nag": 4})
    made = SoundPolicy(music="none").applied(request)
    assert made.audio_negative_prompt == "hiss, music, soundtrack, song, melody"
    assert made.audio_scales == {"nag": 4}
    assert SoundPolicy(loudness=-16).applied(request) is request
    silent = ss.Request(prompt="A dog.", modalities={"video"})
    assert SoundPolicy(music="none").applied(silent) is silent
    assert "only measured" in SoundPolicy(music="none").notices(silent)[0]


def test_a_policy_is_measured() -> None:
    asked = SoundPolicy(speech="only", loudness=-16).asked()
    assert (asked.speech, asked.music, asked.loudness_lufs) == (True, False, (-18.0, -14.0))
    assert SoundPolicy().asked(Asked(motion=False)) == Asked(motion=False)
    policy = SoundPolicy.from_text("music=none, speech=only,ambience=distant traffic,loudness=-20")
    assert SoundPolicy(**policy.to_dict()) == policy


@pytest.mark.parametrize(
    "words", ["music=no", "x=1", "music", "loudness=loud", "music=only,speech=only", "music=none,music=any"]
)
def test_a_policy_that_makes_no_sense_is_refused(words: str) -> None:
    with pytest.raises(RequestError):
        SoundPolicy.from_text(words)


# --- the command --------------------------------------------------------------------------------------


def test_the_command_tells_faults_and_its_code(tmp_path: Path) -> None:
    good = clip_of(moving(), hum()).save(tmp_path / "good.mp4")
    bad = spoilt("still").save(tmp_path / "still.mp4")
    run = CliRunner().invoke
    assert run(app, ["review", str(good)]).exit_code == 0
    result = run(app, ["review", str(good), str(bad)])
    assert result.exit_code == 1
    assert "the picture stands still" in result.stdout
    assert run(app, ["review", str(bad), "--asked", "motion=no"]).exit_code == 0
    told = json.loads(run(app, ["review", str(bad), "--json"]).stdout)
    assert [fault["check"] for fault in told["faults"]] == ["still"]
    assert run(app, ["review", str(tmp_path / "none.mp4")]).exit_code == 2
    assert run(app, ["review", str(good), "--sound", "music=no"]).exit_code == 2
