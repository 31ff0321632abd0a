"""The training of nano's parts: their data, their losses, and the files they end in."""

import copy
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import soundstage as ss
from soundstage.cli.program import app
from soundstage.errors import RequestError, WeightsError
from soundstage.library.model_files import SHIPPED_MODELS
from soundstage.model.audio_vae import AudioVae
from soundstage.model.config import AudioVaeConfig
from soundstage.model.published import audio_vae_header
from soundstage.model.statistics import ChannelStatistics
from soundstage.nano.training import audio_vae, sounds, upsamplers, video_vae, vocoder
from soundstage.nano.training.convolutions import use_flat_convolutions
from soundstage.nano.training.export import export, load_audio_vae, load_exported
from soundstage.nano.training.install import FILES, OPTIONAL, install, unpack
from soundstage.nano.training.parts import NEEDED, PARTS, SHARES, minutes_of, weights_folder
from soundstage.nano.training.runs import PartRun
from soundstage.nano.training.statistics import fit_statistics
from soundstage.nano.training.train import Settings, begin_from_weights, train_part, training_of
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.scene import draw_scene
from soundstage.training.loop import Trainer
from soundstage.training.workers import Workers
from soundstage.types import VideoShape
from tests.limits import SLOW_S

CPU = torch.device("cpu")


def test_windows_follow_from_the_step_and_some_are_silent() -> None:
    first = sounds.batch(1, 7, 2, 4800)
    assert first.shape == (2, 2, 4800)
    assert torch.equal(first, sounds.batch(1, 7, 2, 4800))
    assert not torch.equal(first, sounds.batch(1, 8, 2, 4800))
    silent = sum(not w.any() for step in range(40) for w in sounds.batch(2, step, 4, 24_000))
    assert 0 < silent < 60


def test_statistics_make_latents_unit() -> None:
    generator = torch.Generator().manual_seed(0)
    true_mean, true_std = torch.linspace(-3, 3, 8), torch.linspace(0.1, 5, 8)
    scale, shift = true_std.view(1, -1, 1, 1), true_mean.view(1, -1, 1, 1)
    means = [torch.randn(2, 8, 5, n, generator=generator) * scale + shift for n in (3, 40, 11)]
    statistics = ChannelStatistics(8)
    fit_statistics(statistics, means)
    every = torch.cat([statistics.normalize(m).transpose(0, 1).flatten(1) for m in means], dim=1)
    assert torch.allclose(every.mean(dim=1), torch.zeros(8), atol=1e-5)
    assert torch.allclose(every.std(dim=1, correction=0), torch.ones(8), atol=1e-4)
    with pytest.raises(ValueError, match="no latents"):
        fit_statistics(statistics, [])


def test_finished_audio_vae_reads_back_with_unit_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_vae, "NUM_STATISTICS_SOUNDS", {"tiny": 12})
    vae = audio_vae.build()
    audio_vae.finish(vae, tmp_path, "tiny")
    assert [p.name for p in tmp_path.iterdir()] == ["audio-vae.safetensors"]
    loaded = load_audio_vae(tmp_path)
    mel = sounds.mel_of(sounds.draw_sound(0).samples[None])
    assert torch.allclose(loaded.encode(mel), vae.encode(mel), atol=0.1)
    with torch.no_grad():
        latents = [loaded.encode(sounds.mel_of(sounds.draw_sound(i).samples[None])) for i in range(12)]
    every = torch.cat([z.flatten() for z in latents])
    assert abs(float(every.mean())) < 0.05
    assert abs(float(every.std()) - 1) < 0.05


def test_export_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    sections = {"audio_vae": audio_vae_header(base_channels=8)}
    vae = AudioVae(AudioVaeConfig.from_header(sections))
    path = export(vae, "audio-vae", sections, tmp_path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        export(vae, "audio-vae", {"audio_vae": object()}, tmp_path)
    assert path.read_bytes() == before


def fresh_audio_vae(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of exported parts, where the vocoder's recipe finds the part it comes after."""
    monkeypatch.setenv("SOUNDSTAGE_TRAINING", str(folder))
    weights = weights_folder()
    export(audio_vae.build(), "audio-vae", audio_vae.sections(), weights)
    return weights


def settings(workers: Workers | None = None, **words: Any) -> Settings:
    return Settings(CPU, workers or Workers(0), tiny=True, **words)


def run_of(progress: float = 0.0) -> PartRun:
    return PartRun(CPU, "tiny", Workers(0), weights_folder(), 0, lambda: progress)


@pytest.mark.parametrize("part", ["video-vae", "audio-vae", "vocoder"])
def test_recipes_begin_finite_and_reach_every_weight(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_audio_vae(tmp_path, monkeypatch)
    chosen = training_of(part)
    model = chosen.build()
    losses = chosen.loss(model, CPU)(next(chosen.batches(run_of())))
    assert all(np.isfinite(float(v.detach())) for v in losses.values())
    losses["loss"].backward()
    trained = [(n, p.grad) for n, p in model.named_parameters() if p.requires_grad]
    missing = [n for n, grad in trained if grad is None or not grad.isfinite().all()]
    assert missing == []


def test_folded_vocoder_takes_log_mel_and_keeps_silence(tmp_path: Path) -> None:
    """What is exported makes the trained sound from the mel itself, and nothing from the mel of silence."""
    model = vocoder.build()
    height = sounds.mel_of(sounds.draw_sound(3).samples[None, :, :12_000]) - vocoder.FLOOR
    with torch.no_grad():
        trained = model.vocoder(height)
        vocoder.finish(model, tmp_path)
        loaded = load_exported(tmp_path, "vocoder")
        made = loaded.vocoder(height + vocoder.FLOOR)
        silent = loaded(torch.full((1, 2, 17, 64), vocoder.FLOOR))
    assert (made - trained).abs().max() < 0.02 * trained.abs().max()  # bfloat16 weights
    assert silent.abs().max() < 1e-4 * trained.abs().max()


def test_train_goes_from_nothing_to_the_exported_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called again on a finished part, it only exports once more."""
    weights = fresh_audio_vae(tmp_path, monkeypatch)
    monkeypatch.setattr(vocoder, "SCHEDULE", replace(vocoder.SCHEDULE, steps=1))
    monkeypatch.setattr(vocoder, "WINDOW_MELS", 16)
    path = weights / "vocoder.safetensors"
    assert train_part("vocoder", settings())
    first = path.read_bytes()
    assert sorted(p.name for p in weights.iterdir()) == ["audio-vae.safetensors", path.name]
    path.unlink()
    assert train_part("vocoder", settings())
    assert path.read_bytes() == first
    with pytest.raises(RequestError, match="has a state of step 1"):
        train_part("vocoder", settings(start_at=0.5))


def test_a_training_from_weights_goes_on_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = fresh_audio_vae(tmp_path, monkeypatch)
    monkeypatch.setattr(audio_vae, "SCHEDULE", replace(audio_vae.SCHEDULE, steps=1))
    before = (weights / "audio-vae.safetensors").read_bytes()
    assert train_part("audio-vae", settings(start_at=0.5))
    trained = (weights / "audio-vae.safetensors").read_bytes()
    assert trained != before
    assert train_part("audio-vae", settings(start_at=0.5))
    assert (weights / "audio-vae.safetensors").read_bytes() == trained


def test_audio_path_fits_its_share_of_nano() -> None:
    values = sum(
        t.numel() for model in (audio_vae.build(), vocoder.build()) for t in model.state_dict().values()
    )
    assert values * 2 < 7_000_000


def test_a_subject_weighs_more_than_what_is_behind_it() -> None:
    scene = draw_scene(3, VideoShape(49, 128, 192))
    motion = simulate(scene)
    near = video_vae.near_subjects(scene, motion, range(10, 12))
    x, y = motion.screen_positions(scene)[10, 0].round().astype(int).clip(0, 127)
    assert near.shape == (2, 128, 192)
    assert near[0, y, x]
    assert near.mean() < 0.5
    weights = video_vae.weights_of(torch.from_numpy(near))
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights.max() / weights.min()) == pytest.approx(video_vae.SUBJECT_WEIGHT)


def test_the_stages_of_the_video_vae_follow_the_progress() -> None:
    """Stills, crops, then whole frames for the decoder alone; a batch is a function of its number."""
    make = video_vae.FrameMaker(video_vae.stages_of("tiny"))
    first, last = make(5, 0.0), make(5, 0.99)
    assert first.kind == "both 1x3x1x32x32"
    assert last.kind == "decoder 1x3x9x32x32"
    assert torch.equal(first["frames"], make(5, 0.0)["frames"])
    assert not torch.equal(first["frames"], make(6, 0.0)["frames"])
    stages = video_vae.stages_of("cuda")
    assert [stage.batch for stage in stages] == [12 * stage.batch for stage in video_vae.STAGES]
    assert stages[-1].until == 1


def test_flat_convolutions_are_three_dimensional_ones() -> None:
    """With their gradients, in a VAE's encoder and decoder and in an upsampler, for one frame and more."""
    torch.manual_seed(0)
    vae = video_vae.build().double()
    upsampler = upsamplers.build("x2").double()
    for frames in (1, 9):
        pixels = torch.randn(2, 3, frames, 32, 32, dtype=torch.float64)
        made = []
        for flat in (False, True):
            modules = copy.deepcopy((vae, upsampler))
            if flat:
                for module in modules:
                    use_flat_convolutions(module)
            latents = modules[0].encoder.posterior(pixels)[:, :128]
            out = modules[0].decoder(latents), modules[1](latents)
            sum(x.square().mean() for x in out).backward()
            grads = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
            made.append([*out, *grads])
        for plain, ours in zip(*made, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("part", ["vocoder", "transformer", "spatial-x2"])
def test_training_goes_on_from_installed_weights(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken apart, put together again they are the same bytes; a module begun with them exports them."""
    monkeypatch.setenv("SOUNDSTAGE_TRAINING", str(tmp_path))
    shipped, again = SHIPPED_MODELS["nano"], tmp_path / "again"
    unpack(shipped, weights_folder())
    install(weights_folder(), again)
    assert all((again / name).read_bytes() == (shipped / name).read_bytes() for name in (*FILES, *OPTIONAL))

    chosen = training_of(part)
    model = chosen.build()
    trainer = Trainer(part, model, chosen.schedule, tmp_path / "state")
    begin_from_weights(part, trainer, 0.4)
    assert trainer.progress == 0.4
    trainer.step = 7
    trainer.save()
    model.load_state_dict(trainer.averaged_weights())
    chosen.finish(model, tmp_path, "tiny")
    made, wanted = (load_file(folder / f"{part}.safetensors") for folder in (tmp_path, weights_folder()))
    assert made.keys() == wanted.keys()
    # Folding rounds a few weights of the vocoder once more.
    unequal = [name for name in wanted if not torch.allclose(made[name], wanted[name], rtol=0.02, atol=2e-3)]
    assert unequal == []
    with pytest.raises(RequestError, match="has a state of step 7"):
        begin_from_weights(part, Trainer(part, chosen.build(), chosen.schedule, tmp_path / "state"), 0.4)
    (weights_folder() / f"{part}.safetensors").unlink()
    with pytest.raises(WeightsError, match="unpack"):
        begin_from_weights(part, Trainer(part, chosen.build(), chosen.schedule, tmp_path / "other"), 0.4)


def test_what_was_not_installed_is_not_taken_apart(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no transformer\.safetensors"):
        unpack(tmp_path, tmp_path / "weights")


def test_the_minutes_of_a_training_are_shared_by_what_is_left() -> None:
    """What a part has taken too long is taken from those behind it; nothing is left below zero."""
    assert set(SHARES) == set(NEEDED) == set(PARTS)
    assert sum(SHARES.values()) == pytest.approx(1)
    assert minutes_of("text", PARTS, 10) == pytest.approx(10 * SHARES["text"])
    assert minutes_of("distilled", PARTS, 2.5) == 2.5
    assert minutes_of("preview", ("preview", "distilled"), 4) == pytest.approx(4 * 0.03 / 0.12)
    assert minutes_of("preview", ("preview", "distilled"), -1) == 0
    order = list(PARTS)
    assert all(order.index(other) < order.index(part) for part in PARTS for other in NEEDED[part])


def test_a_part_says_what_it_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUNDSTAGE_TRAINING", str(tmp_path))
    with pytest.raises(WeightsError, match="transformer is trained on text and video-vae and audio-vae, not"):
        train_part("transformer", settings())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["all", "text"], "PART is all and another"),
        (["ball"], "PART is 'ball'; the parts are"),
        (["all", "--tiny", "--install"], "tiny parts are no model"),
        (["text", "--device", "cuda:7"], "device is 'cuda:7', which this machine does not have"),
        (["text", "--minutes", "0"], "minutes"),
        (["vocoder", "--start-at", "1"], "start-at"),
        (["all", "--start-at", "0.5"], "start-at is not for text"),
    ],
)
def test_a_training_that_cannot_be_is_refused_in_a_sentence(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUNDSTAGE_TRAINING", str(tmp_path))
    result = CliRunner().invoke(app, ["nano", "train", *words])
    assert result.exit_code == 2
    assert sentence in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_part_trains_in_a_minute_at_tiny_size(tmp_path: Path) -> None:
    """With worker processes, from nothing to a model folder that makes a clip."""
    environment = os.environ | {"SOUNDSTAGE_TRAINING": str(tmp_path / "training")}
    command = [sys.executable, "-m", "soundstage", "nano", "train", "all", "--tiny", "--device", "cpu"]
    command += ["--minutes", "1", "--workers", "2", "--output", str(tmp_path / "model")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SLOW_S)
    assert done.returncode == 0, done.stderr
    states = tmp_path / "training" / "nano-training"
    assert all(f"{states / part}: complete" in done.stdout for part in PARTS)
    paces = re.findall(r"^(\S+) \d+ 100% .* s/step, \d+% waiting for data, \d+ samples$", done.stderr, re.M)
    assert paces == list(PARTS)
    assert all((tmp_path / "model" / name).exists() for name in (*FILES, *OPTIONAL))
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SLOW_S)
    assert again.returncode == 0, again.stderr
    assert " 0% " not in again.stderr  # all are complete, so none is trained again
    stage = ss.load(str(tmp_path / "model"), device="cpu")
    clip = stage.generate("A red ball rolls.", steps=2, num_frames=9)
    assert clip.frames.shape == (9, 128, 192, 3)
