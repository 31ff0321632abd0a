"""The recipe of nano's transformer: what it asks at a step, its loss, and the file it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from soundstage.conditioning.positions import audio_positions, guide_positions, video_positions
from soundstage.model.transformer import ModalityInputs, Transformer
from soundstage.nano.training import examples, tasks
from soundstage.nano.training import transformer as recipe
from soundstage.nano.training.examples import Examples
from soundstage.nano.training.latents import (
    MIX,
    PICTURES,
    TEXT_TOKENS,
    WORDINGS,
    draw_scenes,
    encoded_clips,
    shape_of,
    subject_cells,
)
from soundstage.nano.training.runs import PartRun
from soundstage.nano.training.stock import Shelf, Stock, Supply
from soundstage.nano.world.motion import Motion, simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import draw_scene
from soundstage.sampling.streams import Stream
from soundstage.training.batches import Batch
from soundstage.training.noising import velocity_loss
from soundstage.training.workers import Workers
from soundstage.types import VideoShape, audio_latent_length
from soundstage.weights.configs import stored_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from soundstage.weights.load import builder, load_part

CPU = torch.device("cpu")
WIDTH, STATES = 24, 3
SHAPE = VideoShape(9, 64, 64)
KIND = "64x64x9"
JOBS = ("clips", "pictured", "referred", "stills", "sounds")


class FixedStates:
    """Stands for Gemma: states that depend on the token ids."""

    width, num_states = WIDTH, STATES

    def tokenize(self, prompt: str) -> list[int]:
        return [2, *(ord(c) % 90 for c in prompt)]

    def states_of(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.arange(TEXT_TOKENS) < lengths[:, None]
        padded = torch.nn.functional.pad(ids, (0, TEXT_TOKENS - ids.shape[1])).float()
        states = torch.sin(padded)[:, :, None, None].expand(-1, -1, WIDTH, STATES)
        return states.masked_fill(~mask[:, :, None, None], 0), mask


@pytest.fixture
def core() -> recipe.NanoCore:
    core = recipe.NanoCore(recipe.header(WIDTH), STATES)
    recipe.initialise(core)
    return core


def rows(count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    frames, height, width = SHAPE.latent
    tensors = {
        "video": noise(count, 128, frames, height, width),
        "pictures": noise(count, PICTURES, 128, 1, height, width),
        "audio": noise(count, audio_latent_length(SHAPE.num_frames, 24.0), 128),
        "covered": torch.rand(count, SHAPE.num_tokens, generator=generator),
        "times": torch.randint(9, (count, PICTURES), generator=generator),
        "ids": torch.randint(90, (count, WORDINGS + 1, TEXT_TOKENS), generator=generator).short(),
        "lengths": torch.randint(3, 30, (count, WORDINGS + 1), generator=generator).short(),
    }
    return Batch(KIND, tensors, count)


def stock() -> Stock:
    made = Stock()
    made.add(rows())
    return made


def batch_of(core: recipe.NanoCore, job: str, monkeypatch: pytest.MonkeyPatch, step: int = 0) -> Batch:
    monkeypatch.setattr(examples, "drawn_job", lambda rng, progress: job)
    made = Examples(core.transformer, FixedStates(), "tiny", CPU)  # type: ignore[arg-type]
    return made.batch(np.random.default_rng(step), 0.0, stock())


@pytest.mark.parametrize("job", JOBS)
def test_a_fresh_core_predicts_nothing_so_its_loss_is_that_of_the_data(
    core: recipe.NanoCore, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs start at zero; noise and data have unit variance, so each stream's error is about 2."""
    torch.manual_seed(0)
    monkeypatch.setattr(examples, "BATCH_TOKENS", {"tiny": 1500})  # enough that some clips may be given whole
    with torch.no_grad():
        losses = recipe.TransformerLoss(core, CPU)(batch_of(core, job, monkeypatch))
    streams = {"stills": ["video"], "sounds": ["audio"]}.get(job, ["video", "audio"])
    assert list(losses) == ["loss", *(f"{job}_{name}" for name in streams)]
    assert all(1.2 < float(losses[f"{job}_{name}"]) < 2.3 for name in streams)


def test_a_step_is_a_function_of_its_number(core: recipe.NanoCore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, same, other = (batch_of(core, "clips", monkeypatch, step) for step in (3, 3, 4))
    assert first.kind == "clips 64x64x9"
    assert all(torch.equal(first[name], same[name]) for name in first.tensors)
    assert not torch.equal(first["video"], other["video"])


@pytest.mark.parametrize("job", JOBS)
def test_batches_of_one_kind_have_one_shape(
    core: recipe.NanoCore, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a step of it can be recorded."""
    made = [batch_of(core, job, monkeypatch, step) for step in range(4)]
    assert len({batch.kind for batch in made}) == 1
    assert len({tuple((n, x.shape, x.dtype) for n, x in batch.tensors.items()) for batch in made}) == 1


def plain_inputs(
    core: recipe.NanoCore, batch: Batch, name: str, noise: Tensor, positions: Tensor
) -> ModalityInputs:
    """The input written out token by token: x = (1 - l) c + l n at each token's level l."""
    clean, mask = batch[name], batch[f"{name}_mask"]
    beside = batch.tensors.get(f"{name}_beside")
    if beside is not None:
        clean, mask = torch.cat([clean, beside], 1), torch.cat([mask, torch.zeros_like(beside[..., :1])], 1)
        noise = torch.cat([noise, torch.zeros_like(beside)], 1)
    sigma = batch[f"{name}_sigma"]
    timesteps = mask[..., 0] * sigma[:, None]
    latents = (1 - timesteps[..., None]) * clean + timesteps[..., None] * noise
    features = core.text_embedding_projection(batch["states"], batch["prompt_mask"])
    which = ("video", "audio").index(name)
    connector = (core.video_embeddings_connector, core.audio_embeddings_connector)[which]
    context = connector(features[which], batch["prompt_mask"])
    context = context.repeat_interleave(len(clean) // len(context), 0)
    return ModalityInputs(latents, sigma, timesteps, positions, context)


def plain_loss(velocity: Tensor, batch: Batch, name: str, noise: Tensor) -> Tensor:
    count = noise.shape[1]
    error = (velocity[:, :count] - (noise - batch[name])).square().mean(dim=2)
    counted = batch[f"{name}_mask"][..., 0] * batch.tensors.get(f"{name}_weights", torch.ones(()))
    return ((error * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)).mean()


def positions_of(batch: Batch, job: str, frames_of: Tensor) -> Tensor:
    clip = video_positions(*SHAPE.latent, 24.0)
    if job == "stills":
        return video_positions(1, 2, 2, 24.0)
    if job == "referred":
        return torch.cat([clip, clip], dim=2)
    if job == "pictured":
        beside = [guide_positions(1, 2, 2, 24.0, frame=int(f), still=True) for f in frames_of]
        return torch.cat([clip.expand(len(beside), -1, -1, -1), torch.cat(beside)], dim=2)
    return clip


@pytest.mark.parametrize("job", JOBS)
def test_a_loss_and_its_gradients_are_those_of_the_formula(
    core: recipe.NanoCore, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    """In every kind of step, by the model as sampling uses it, which makes its own tables and groups."""
    for module in (core.transformer.proj_out, core.transformer.audio_proj_out):
        torch.nn.init.normal_(module.weight, std=0.1)
    monkeypatch.setattr("soundstage.training.precision.half_products", lambda device: False)
    frames: list[Tensor] = []
    with_pictures = examples.with_pictures
    monkeypatch.setattr(
        examples, "with_pictures", lambda p, s, f: (frames.append(f), with_pictures(p, s, f))[1]
    )
    batch = batch_of(core, job, monkeypatch, step=2)
    torch.manual_seed(5)
    ours = recipe.TransformerLoss(core, CPU)(batch)["loss"]
    params = [p for p in core.parameters() if p.requires_grad]
    made = torch.autograd.grad(ours, params, allow_unused=True)
    torch.manual_seed(5)
    streams = [name for name in ("video", "audio") if name in batch.tensors]
    noises = {name: torch.randn_like(batch[name]) for name in streams}
    places = {"video": positions_of(batch, job, frames[0] if frames else torch.empty(0))}
    places["audio"] = audio_positions(batch["audio"].shape[1]) if "audio" in streams else places["video"]
    inputs = {n: plain_inputs(core, batch, n, noises[n], places[n]) for n in streams}
    video, audio = core.transformer(inputs.get("video"), inputs.get("audio"))
    velocities = {"video": video, "audio": audio}
    true = sum(plain_loss(velocities[name], batch, name, noises[name]) for name in streams)
    torch.testing.assert_close(ours, true, rtol=1e-5, atol=1e-6)
    for a, b in zip(made, torch.autograd.grad(true, params, allow_unused=True), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert (a - b).norm() <= 1e-3 * b.norm() + 1e-6


def test_words_are_dropped_now_and_then_and_half_of_a_reference_only_names() -> None:
    made = Examples(Transformer(recipe_config()), FixedStates(), "tiny", CPU)  # type: ignore[arg-type]
    made.gemma.states_of = lambda ids, lengths: (ids, lengths)  # type: ignore[method-assign,assignment]
    few = stock().draw(np.random.default_rng(0), KIND, 400)
    few["lengths"] = 20 + torch.arange(WORDINGS + 1).expand(400, -1)
    _, lengths = made._prompts(np.random.default_rng(1), few, named=True).values()
    named, empty = float((lengths == 24).float().mean()), float((lengths == 1).float().mean())
    assert 0.38 < named < 0.52
    assert (
        0.02 < empty < 0.09
    )  # one prompt in twenty is empty, and as many are what guidance steers away from


def recipe_config():
    from soundstage.model.config import TransformerConfig

    return TransformerConfig.from_header(recipe.header(WIDTH))


# --- data -----------------------------------------------------------------------------------------------


def test_a_shelf_gives_the_places_of_the_oldest_rows_to_new_ones() -> None:
    shelf = Shelf(most=4)
    for first in (0, 3, 6):
        shelf.add({"x": torch.arange(first, first + 3), "y": torch.arange(first, first + 3).view(3, 1)})
    assert shelf.count == 4
    assert sorted(shelf.columns["x"].tolist()) == [5, 6, 7, 8]
    taken = shelf.take(np.array([0, 0, 3]))
    assert torch.equal(taken["x"], taken["y"][:, 0])
    assert taken["x"][0] == taken["x"][1]


def test_kinds_come_as_often_as_their_rows() -> None:
    made = Stock()
    made.add(Batch("a", {"x": torch.zeros(30, 1)}, 30))
    made.add(Batch("b", {"x": torch.zeros(10, 1)}, 10))
    rng = np.random.default_rng(0)
    drawn = [made.kind(rng) for _ in range(400)]
    assert 0.68 < drawn.count("a") / 400 < 0.82
    assert {made.kind(rng, ["b", "c"]) for _ in range(20)} == {"b"}
    assert {made.kind(rng, ["c"]) for _ in range(40)} == {"a", "b"}  # of kinds that are there


def numbered(number: int, progress: float) -> Batch:
    return Batch("a", {"x": torch.full((2, 1), float(number))}, 2)


def supply_from(first: int, finish: Callable[[Batch], Batch] = lambda rows: rows) -> Supply:
    run = PartRun(CPU, "tiny", Workers(0), Path("weights"), first, lambda: 0.0)
    return Supply(run, numbered, finish)


def test_a_stock_grows_while_it_is_used_and_a_resumed_one_repeats_nothing() -> None:
    """Every step has its own random numbers, the same for the same step."""
    steps = supply_from(first=5).steps(key=7, first=5)
    rng, made = next(steps)
    assert made.shelves["a"].columns["x"][:2].tolist() == [[20.0], [20.0]]  # STRIDE numbers for each step
    assert rng.random() == np.random.default_rng([7, 5]).random()
    rng, made = next(steps)
    assert made.num_added == 4
    assert rng.random() == np.random.default_rng([7, 6]).random()


def test_encoding_takes_its_share_of_the_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("soundstage.nano.training.stock.time.monotonic", lambda: now[0])

    def slow(rows: Batch) -> Batch:
        now[0] += 1.0
        return rows

    made = supply_from(0, slow)
    added = []
    for _ in range(100):  # each step takes 0.1 s besides
        added.append(made.refresh().num_added // 2)
        now[0] += 0.1
    assert added[0] == 1  # the first rows are waited for
    assert 0.3 < (added[-1] - 1) / now[0] < 0.4


class Picker:
    """Stands for the video VAE: a latent is its cell's first pixel."""

    def encode(self, pixels: Tensor) -> Tensor:
        return pixels[:, :1, ::8, ::32, ::32].expand(-1, 128, -1, -1, -1)


class Listener:
    """Stands for the audio VAE: 8 channels of 16 bins, a latent to four frames."""

    def encode(self, mel: Tensor) -> Tensor:
        return mel[:, :1, ::4, :16].expand(-1, 8, -1, -1)


def test_pictures_are_of_the_clips_and_the_times_that_they_are_stored_with() -> None:
    frames = torch.randint(256, (2, 9, 32, 32, 3), dtype=torch.uint8)
    times = torch.tensor([[8, 3, 0], [8, 5, 5]])
    clips = Batch("32x32x9", {"frames": frames, "times": times, "mel": torch.randn(2, 2, 50, 64)}, 2)
    made = encoded_clips(clips, Picker(), Listener())  # type: ignore[arg-type]
    wanted = torch.stack([frames[i, times[i], 0, 0, 0] for i in range(2)]) / 127.5 - 1
    torch.testing.assert_close(made["pictures"][:, :, 0, 0, 0, 0].float(), wanted, atol=0.01, rtol=0.01)
    assert made["video"].shape == (2, 128, 2, 1, 1)
    assert made["audio"].shape == (2, audio_latent_length(9, 24.0), 128)
    assert "frames" not in made.tensors


def test_shares_of_sizes_hold_for_any_run_of_numbers() -> None:
    assert sum(share for *_, share in MIX) == pytest.approx(1)
    for first in (0, 5000):
        landscape = [shape_of(n, MIX) == VideoShape(49, 128, 192) for n in range(first, first + 200)]
        assert 0.42 < np.mean(landscape) < 0.50


def test_no_scene_of_training_comes_twice() -> None:
    seeds = [s.seed for key in (31, 41) for n in range(40) for s in draw_scenes(key, n, SHAPE, 4)]
    assert len(set(seeds)) == len(seeds) == 320


def test_cells_of_subjects_are_where_they_are_seen() -> None:
    """All a subject covers is found, in the cells and latent frames it is in; a weight moves the mean."""
    for scene in (draw_scene(i, VideoShape(17, 64, 64)) for i in range(8)):
        motion = simulate(scene)
        cells = subject_cells(scene, motion)
        frames = render(scene, motion).astype(int)
        empty = render(replace(scene, subjects=()), Motion(motion.times, [], motion.camera))
        assert cells.shape == (3, 2, 2)
        assert 0 < cells.mean() < 0.8
        different = (np.abs(frames - empty) > 40).any(axis=3)[0]
        seen = different.reshape(2, 32, 2, 32).mean((1, 3))
        assert np.abs(seen - cells[0]).mean() < 0.12
    stream = Stream(torch.zeros(1, 2, 4), torch.ones(1, 2, 1), torch.zeros(1, 1, 2, 2))
    velocity, noise = torch.zeros(1, 2, 4), torch.tensor([[[1.0] * 4, [3.0] * 4]])
    weights = examples.subject_weights(torch.tensor([[0.0, 1.0]]), progress=0)
    assert weights.tolist() == [[1, examples.SUBJECT_WEIGHT]]
    assert velocity_loss(velocity, stream, noise, weights).item() == pytest.approx(
        (1 + 9 * examples.SUBJECT_WEIGHT) / (1 + examples.SUBJECT_WEIGHT)
    )
    assert examples.subject_weights(torch.ones(1), 1.0).item() == 1


def test_stills_come_first_and_every_job_is_done() -> None:
    rng = np.random.default_rng(0)
    early, late = ([examples.drawn_job(rng, progress) for _ in range(3000)] for progress in (0.1, 0.9))
    assert set(early) == set(late) == set(JOBS)
    assert abs(early.count("stills") / 3000 - examples.EARLY_STILLS) < 0.03
    assert abs(late.count("stills") / 3000 - examples.LATE_STILLS) < 0.03


# --- tasks ----------------------------------------------------------------------------------------------


def test_a_stretch_leaves_something_given() -> None:
    drawn = [tasks.draw_stretch(np.random.default_rng(i), 7) for i in range(200)]
    assert all(start < end and (start > 0 or end < 7) for start, end in drawn)
    kinds = {(start == 0, end == 7) for start, end in drawn}
    assert kinds == {(True, False), (False, True), (False, False)}


def test_noise_levels_are_mostly_where_words_decide() -> None:
    """Four in ten above 0.9, one in seven below 0.5, where detail is made."""
    sigma = tasks.draw_sigma(np.random.default_rng(0), 20_000)
    assert sigma.min() >= 0
    assert sigma.max() <= 1
    assert abs(float((sigma > 0.9).mean()) - 0.38) < 0.03
    assert 0.1 < float((sigma < 0.5).mean()) < 0.2


def test_every_task_is_drawn_and_gives_whole_latent_frames() -> None:
    """So that tokens of a latent frame share their noise level."""
    draw = tasks.draw_task(np.random.default_rng(1), 400, VideoShape(49, 128, 192), 51)
    video_mask, audio_mask = draw.video_mask[..., 0], draw.audio_mask[..., 0]
    assert (video_mask.view(400, 7, 24).amin(2) == video_mask.view(400, 7, 24).amax(2)).all()
    frozen_video = (video_mask.sum(dim=1) == 0) & (draw.video_sigma == 0)
    frozen_audio = (audio_mask.sum(dim=1) == 0) & (draw.audio_sigma == 0)
    first_frame = (video_mask[:, :24].sum(dim=1) == 0) & (video_mask[:, 24:].min(dim=1).values == 1)
    for share in (frozen_video, frozen_audio, first_frame):
        assert 0.02 < float(share.float().mean()) < 0.2
    assert not bool((frozen_video & frozen_audio).any())


def test_the_exported_file_loads_as_the_published_parts(core: recipe.NanoCore, tmp_path: Path) -> None:
    recipe.finish(core, tmp_path)
    files = [read_header(tmp_path / "transformer.safetensors")]
    parts = find_parts(files)
    assert set(parts) == {"transformer", "video_connector", "audio_connector", "text_projection"}
    loaded = load_part(
        builder("transformer", parts, stored_config(files)), parts, "transformer", dtype=torch.float32
    )
    for name, value in loaded.state_dict().items():
        expected = core.transformer.state_dict()[name]
        assert torch.allclose(value, expected, atol=1e-2, rtol=1e-2), name
