"""The sound of the procedural world: exact in length and time, silent where nothing sounds, told apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from soundstage.model.mel import log_mel, resample
from soundstage.nano.world.motion import Motion, SoundEvent, simulate
from soundstage.nano.world.scene import AMBIENCES, SIZES, VOICES, Scene, Subject, draw_scene
from soundstage.nano.world.sound import AMBIENCE_RMS, PEAK, RATE, num_samples, synthesize
from soundstage.types import VideoShape

SHAPE = VideoShape(49, 128, 192)
REST = Subject("cube", "red", "medium", "rest")


def scene(*subjects: Subject, **changes: object) -> Scene:
    return replace(Scene(3, SHAPE, "day", "static", subjects or (REST,)), **changes)


def sound(a_scene: Scene) -> np.ndarray:
    return synthesize(a_scene, simulate(a_scene))


def with_event(event: SoundEvent) -> np.ndarray:
    quiet = scene()
    still = simulate(quiet)
    return synthesize(quiet, Motion(still.times, still.tracks, still.camera, [event]))


@pytest.mark.parametrize("num_frames", [1, 9, 25, 49, 121])
def test_length_is_that_of_the_picture(num_frames: int) -> None:
    a_scene = draw_scene(11, VideoShape(num_frames, 128, 128))
    result = sound(a_scene)
    assert result.shape == (2, round(num_frames / 24 * 48_000)) == (2, num_samples(a_scene))
    assert result.dtype == np.float32


def test_same_scene_gives_the_same_samples_and_another_seed_other_rain() -> None:
    rain = scene(ambience="rain")
    assert np.array_equal(sound(rain), sound(rain))
    assert not np.array_equal(sound(rain), sound(replace(rain, seed=4)))


def test_never_clips() -> None:
    peaks = [np.abs(sound(draw_scene(seed, SHAPE))).max() for seed in range(150)]
    assert max(peaks) < PEAK  # the bound itself is only reached by clipping
    assert max(peaks) > 0.4


@pytest.mark.parametrize("kind", ["thud", "click", "chime"])
@pytest.mark.parametrize("size", [0.0, 0.45, 1.0])
@pytest.mark.parametrize("time_s", [0.31234, 1.0])
def test_onset_is_at_the_frame_nearest_to_the_event(kind: str, size: float, time_s: float) -> None:
    frame_s = round(time_s * 100) / 100
    loud = np.abs(with_event(SoundEvent(time_s, kind, 0, 0.0, size))).max(axis=0)
    first = np.flatnonzero(loud)[0] / RATE
    strong = np.flatnonzero(loud > 0.5 * loud.max())[0] / RATE
    assert 0 <= first - frame_s < 0.001
    assert 0 <= strong - frame_s + 1 / RATE < 0.005
    assert not loud[: round(frame_s * RATE)].any()


def test_bounces_and_blinks_of_a_scene_are_heard_when_they_happen() -> None:
    for action in ("bounce", "blink"):
        a_scene = scene(replace(REST, action=action, count=3, delay_s=0.0))
        motion = simulate(a_scene)
        level = np.abs(synthesize(a_scene, motion)).max(axis=0)
        assert len(motion.events) == 3
        for event in motion.events:
            at = round(event.time_s * 100) * RATE // 100
            before, after = level[at - 240 : at].max(), level[at : at + 240].max()
            assert after > 3 * before


def test_silence_is_exactly_silent() -> None:
    assert not sound(scene()).any()
    late = scene(replace(REST, shape="ball", action="roll", delay_s=1.0))
    assert not sound(late)[:, :RATE].any()
    assert sound(late)[:, RATE + 100 :].any()
    thud = with_event(SoundEvent(0.2, "thud", 0, 0.0, 1.0))
    assert not thud[:, round(0.8 * RATE) :].any()


@pytest.mark.parametrize("kind", ["thud", "click", "chime"])
def test_pan_follows_x_with_constant_power(kind: str) -> None:
    powers = []
    shares = []
    for x in (-1.0, -0.5, 0.0, 0.5, 1.0):
        left, right = (with_event(SoundEvent(0.2, kind, 0, x, 0.5)).astype(np.float64) ** 2).sum(axis=1)
        powers.append(left + right)
        shares.append(right / (left + right))
    assert np.allclose(powers, powers[0], rtol=1e-4)
    assert np.allclose(shares, [0, 0.5 - 0.125**0.5, 0.5, 0.5 + 0.125**0.5, 1], atol=1e-5)


@pytest.mark.parametrize("kind", AMBIENCES[1:])
def test_ambience_is_even_and_far_below_events(kind: str) -> None:
    result = sound(scene(ambience=kind))
    level = np.sqrt((result**2).mean())
    assert 0.7 * AMBIENCE_RMS < level < 1.3 * AMBIENCE_RMS
    assert np.array_equal(result[0], result[1])


@pytest.mark.parametrize("kind", ["thud", "click", "chime"])
def test_large_is_low(kind: str) -> None:
    centres = []
    for weight in (0.0, 0.45, 1.0):
        mono = with_event(SoundEvent(0.2, kind, 0, 0.0, weight))[0]
        power = np.abs(np.fft.rfft(mono)) ** 2
        hz = np.fft.rfftfreq(len(mono), 1 / RATE)
        centres.append((power * hz).sum() / power.sum())
    assert centres[0] > 1.15 * centres[1] > 1.15**2 * centres[2]


def mel_profile(result: np.ndarray) -> np.ndarray:
    """Mean of the log-mel over time and its spread, (128,)."""
    waveform = torch.from_numpy(result)[None]
    mel = log_mel(resample(waveform, RATE, 16_000))[0, 0].double().numpy()
    return np.concatenate([mel.mean(axis=0), mel.std(axis=0)])


def test_nearest_mean_on_log_mel_tells_every_class() -> None:
    """Classes drawn with other seeds, places and delays are nearest to their own class's mean."""
    classes: dict[str, Scene] = {a: scene(ambience=a) for a in AMBIENCES}
    classes |= {f"voice {v}": scene(voice=v) for v in VOICES}
    for size in SIZES:
        classes[f"thud {size}"] = scene(replace(REST, size=size, action="bounce", count=2))
        classes[f"chime {size}"] = scene(replace(REST, size=size, action="blink", count=2))
        classes[f"rumble {size}"] = scene(replace(REST, size=size, shape="ball", action="roll"))
    classes["click"] = scene(REST, REST, interaction="collide")

    means = {
        name: np.mean([mel_profile(sound(replace(s, seed=seed))) for seed in (5, 6, 7)], axis=0)
        for name, s in classes.items()
    }
    for name, a_scene in classes.items():
        other = replace(a_scene, seed=90, subjects=tuple(replace(s, side="left") for s in a_scene.subjects))
        profile = mel_profile(sound(other))
        nearest = min(means, key=lambda n: float(np.abs(means[n] - profile).sum()))
        assert nearest == name
