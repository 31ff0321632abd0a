"""The distilled LoRA's recipe, on a tiny transformer: what the student is taught, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from soundstage.lora.adapters import Adapters
from soundstage.lora.files import read_lora
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import Transformer
from soundstage.nano.training import distill
from soundstage.nano.training.distill import (
    DISTILLED,
    NAME,
    DistillLoss,
    adapted_layers,
    task_streams,
)
from soundstage.sampling.scales import NEUTRAL
from soundstage.text.encoder import PromptContext
from soundstage.training.batches import Batch
from soundstage.training.factors import Factors
from soundstage.types import VideoShape

SHAPE = VideoShape(9, 32, 64)


def words(count: int, seed: int) -> PromptContext:
    rows = torch.rand(count, 6, 1, generator=torch.Generator().manual_seed(seed))
    return PromptContext(rows.expand(-1, -1, 64), rows.expand(-1, -1, 32))


def tiny_transformer() -> Transformer:
    torch.manual_seed(0)
    header = transformer_header(
        num_layers=2, num_heads=2, head_dim=32, audio_num_heads=2, audio_head_dim=16, caption_channels=16
    )
    transformer = Transformer(TransformerConfig.from_header({"transformer": header}))
    for parameter in transformer.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 * parameter.shape[1] ** -0.5)
    return transformer.eval().requires_grad_(False)


def drawn(step: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(4, 128, *SHAPE.latent, generator=generator)
    audio = torch.randn(4, 9, 128, generator=generator)
    return distill.drawn_batch(np.random.default_rng([23, step]), video, audio, words(4, step), words(1, 99))


@pytest.fixture
def loss() -> DistillLoss:
    transformer = tiny_transformer()
    student = Factors(adapted_layers(transformer, rank=4))
    made = DistillLoss(student, transformer, torch.device("cpu"))
    made.student = student  # type: ignore[attr-defined]
    return made


def test_every_linear_layer_of_the_blocks_but_the_gates_is_adapted() -> None:
    layers = [layer.key for layer in adapted_layers(tiny_transformer())]
    assert len(layers) == 2 * 28
    assert "transformer_blocks.1.audio_to_video_attn.to_out.0" in layers
    assert not any("gate" in key or "adaln" in key for key in layers)


def test_a_fresh_student_is_the_model_without_guidance(loss: DistillLoss) -> None:
    run = distill.DistillCase.of(drawn(0))
    state = loss._data_state(run)
    with torch.no_grad():
        made = loss._stepped(run, state)
        loss.adapters.set({})
        plain = distill._euler(
            run.guider(loss.transformer, NEUTRAL),
            run.streams,
            state,
            *DISTILLED[run.interval : run.interval + 2],
            0,
        )
    for a, b in zip(made, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_where_the_teacher_takes_one_unguided_step_there_is_nothing_to_learn(
    loss: DistillLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same step, so the loss of a fresh student is zero; guided or in smaller steps it is not."""
    monkeypatch.setattr(distill, "TEACHER", NEUTRAL)
    monkeypatch.setattr(distill, "TEACHER_STEP", 1.0)
    assert max(float(loss(drawn(step))["loss"].detach()) for step in range(6)) < 1e-8
    monkeypatch.setattr(distill, "TEACHER_STEP", 0.05)
    assert max(float(loss(drawn(step))["loss"].detach()) for step in range(6)) > 1e-6


def test_a_few_steps_lower_the_loss(loss: DistillLoss) -> None:
    """Of one batch seen again and again; only the factors have gradients."""
    student: Factors = loss.student  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2, weight_decay=0.0)
    batch = next(batch for batch in map(drawn, range(100)) if distill.DistillCase.of(batch).interval >= 6)
    history = []
    for _ in range(8):
        torch.manual_seed(0)
        losses = loss(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(float(losses["loss"].detach()))
    assert history[-1] < 0.8 * history[0]
    assert all(p.grad is None for p in loss.transformer.parameters())


def test_what_a_run_keeps_stays_and_is_not_learned(loss: DistillLoss) -> None:
    video, audio = torch.randn(2, 128, 3, 1, 2), torch.randn(2, 9, 128)
    for task, kept_video, kept_audio in (
        ("nothing", 0, 0),
        ("first frame", 2, 0),
        ("sound", 0, 9),
        ("picture", 6, 0),
    ):
        streams = task_streams(task, video, audio, 24.0)
        kept = [int((stream.mask[0] == 0).sum()) for stream in streams]
        assert kept == [kept_video, kept_audio]
        assert [stream.frozen for stream in streams] == [task == "picture", task == "sound"]
    picture, _ = task_streams("picture", video, audio, 24.0)
    changed = picture.clean + 1
    assert float(distill._velocity_error(changed, picture.clean, picture, 0.1)) == 0


def test_the_file_is_a_lora_that_makes_the_student(loss: DistillLoss, tmp_path: Path) -> None:
    """Published names; on the model it gives what the student gave, within bfloat16."""
    student: Factors = loss.student  # type: ignore[attr-defined]
    with torch.no_grad():
        for up in student.ups:
            up.normal_(std=0.05, generator=torch.Generator().manual_seed(2))
    run = distill.DistillCase.of(drawn(1))
    state = loss._data_state(run)
    with torch.no_grad():
        wanted = loss._stepped(run, state)
        loss.adapters.set({})
        bare = _stepped(loss.transformer, run, state)
        distill.finish(student, tmp_path)
        lora = read_lora(tmp_path / "distilled.safetensors")
        adapters = Adapters(loss.transformer)
        report = adapters.add(NAME, lora)
        adapters.set({NAME: 1.0})
        made = _stepped(loss.transformer, run, state)
    assert report.matched == len(student.layers)
    assert report.unmatched == ()
    for a, b, c in zip(made, wanted, bare, strict=True):
        assert (a - b).norm() < 0.1 * (b - c).norm()


def _stepped(transformer: Transformer, run: distill.DistillCase, state: distill.Pair) -> list[Tensor]:
    upper, lower = DISTILLED[run.interval : run.interval + 2]
    made = distill._euler(run.guider(transformer, NEUTRAL), run.streams, state, upper, lower, 0)
    return [x for x in made if x is not None]
