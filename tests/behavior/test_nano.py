"""The shipped nano: it is small, it runs from its files, and its clips show and sound something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import soundstage as ss
from soundstage.library.model_files import SHIPPED_MODELS
from soundstage.nano.training.install import OPTIONAL
from soundstage.rendering.events import Done
from soundstage.rendering.parts import ModelParts

PROMPT = "A red ball rests on a wooden floor. The camera is static. There is no other sound."
SHORT = {"size": (128, 128), "num_frames": 25, "steps": 6}


@pytest.fixture(scope="module")
def stage() -> ss.Engine:
    return ss.load("nano")


@pytest.fixture(scope="module")
def done(stage: ss.Engine) -> Done:
    return _run(stage, PROMPT, seed=7)


def _run(stage: ss.Engine, prompt: str, seed: int) -> Done:
    *_, last = stage.run(ss.Request(prompt=prompt, seed=seed, **SHORT))
    assert isinstance(last, Done)
    return last


def test_weights_are_under_80_mb_and_under_100_mb_with_upscalers_and_lora() -> None:
    files = {p.name: p.stat().st_size for p in SHIPPED_MODELS["nano"].rglob("*") if p.is_file()}
    assert set(OPTIONAL) <= set(files)
    assert sum(size for name, size in files.items() if name not in OPTIONAL) < 80e6
    assert sum(files.values()) < 100e6


def test_a_clip_has_picture_and_sound_of_one_length(done: Done) -> None:
    clip = done.clip
    assert clip.frames is not None
    assert clip.waveform is not None
    assert clip.frames.shape == (25, 128, 128, 3)
    assert clip.waveform.shape[1] == round(25 / 24 * 48_000)
    assert np.isfinite(clip.waveform).all()
    assert np.abs(clip.waveform).max() <= 1.0


def test_silence_is_silent_from_its_first_sample_to_its_last(stage: ss.Engine) -> None:
    """Digital silence through the audio VAE and the vocoder: no click at either end, and no early end."""
    parts = ModelParts(stage.model, torch.device("cpu"), torch.float32)
    latents = parts.encode_audio(torch.zeros(1, 2, 50_000), 48_000)[:, :, :25]
    bare = parts.vocoder(parts.audio_vae.decode(latents))
    made = parts.decode_audio(latents, 48_000)
    assert made.shape == (1, 2, 48_000)
    assert (
        bare[:, :, :480].abs().max() > 0.05
    )  # the modules alone click: the mel beyond the ends reads as loud
    assert made.abs().max() < 0.001
    parts.close()


def test_the_picture_is_one_of_the_worlds(done: Done) -> None:
    """A wooden room: the wall above is lighter than the floor, which is redder than it is blue."""
    assert done.clip.frames is not None
    frame = done.clip.frames[-1].astype(float)
    wall, floor = frame[8:40].mean(axis=(0, 1)), frame[108:].mean(axis=(0, 1))
    assert wall.mean() > floor.mean() + 15
    assert floor[0] > floor[2] + 20


def test_another_background_in_the_prompt_is_another_picture(stage: ss.Engine, done: Done) -> None:
    night = _run(stage, "A red ball rests at night under the stars. The camera is static.", seed=7)
    assert night.clip.frames is not None
    assert done.clip.frames is not None
    assert night.clip.frames.mean() < 0.6 * done.clip.frames.mean()


def test_the_same_seed_gives_the_same_latents_and_another_seed_does_not(stage: ss.Engine, done: Done) -> None:
    again, other = _run(stage, PROMPT, seed=7), _run(stage, PROMPT, seed=8)
    for name in ("video_latents", "audio_latents"):
        first, second, third = (getattr(d, name) for d in (done, again, other))
        assert torch.equal(first, second)
        assert not torch.equal(first, third)


def test_a_clip_is_saved_with_its_request_and_its_contact_sheet(done: Done, tmp_path: Path) -> None:
    from soundstage.clip import read_provenance

    path = done.clip.save(tmp_path / "ball.mp4")
    assert PROMPT in str(read_provenance(path))
    sheet = done.clip.contact_sheet(tmp_path / "ball.png")
    assert sheet.stat().st_size > 2_000
