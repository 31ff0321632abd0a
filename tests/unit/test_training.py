"""Training: no kill loses or repeats a step, and a batch is noised as sampling noises a clip."""

import csv
import os
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.conditioning.tokens import Added, Tokens
from soundstage.sampling.streams import Stream
from soundstage.training.attention import training_attention
from soundstage.training.loop import StepDone, Trainer
from soundstage.training.noising import noised_modality, velocity_loss
from soundstage.training.optimizers import Schedule
from soundstage.training.terminal import train_in_terminal

SCHEDULE = Schedule(steps=8, rate=1e-2, warmup=2, log_every=2, save_every_s=1e9)


class Killed(BaseException):
    """What stands for the end of the process."""


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
        self.conv = nn.Conv1d(2, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.conv(x)


def tiny_loss(model: nn.Module, kill_at: int | None = None):
    def loss_fn(step: int) -> dict[str, Tensor]:
        if step == kill_at:
            raise Killed
        x = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(step))
        return {"loss": (model(x) - x[:, :1, 1:-1]).square().mean()}

    return loss_fn


def run(folder: Path, schedule: Schedule, kill_at: int | None = None) -> Trainer:
    trainer = Trainer("tiny", model := Tiny(), schedule, folder)
    try:
        events = list(trainer.run(tiny_loss(model, kill_at)))
    except Killed:
        assert kill_at is not None
    else:
        assert events[-1].step == schedule.steps
        assert trainer.complete
    return trainer


def same(a: Trainer, b: Trainer) -> bool:
    pairs = zip(a.averaged_weights().values(), b.averaged_weights().values(), strict=True)
    live = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in (*pairs, *live))


@pytest.mark.parametrize("muon", [0.0, 1e-2])
def test_resumed_run_equals_uninterrupted_bit_for_bit(tmp_path: Path, muon: float) -> None:
    """Also when it is stopped between two saves."""
    schedule = replace(SCHEDULE, muon=muon)
    whole = run(tmp_path / "whole", schedule)

    trainer = Trainer("tiny", model := Tiny(), schedule, tmp_path / "parts")
    with closing(trainer.run(tiny_loss(model))) as events:
        assert next(event for event in events if event.step == 3).row is None
    assert trainer.step == 3
    assert not trainer.complete
    resumed = run(tmp_path / "parts", schedule)
    assert resumed.step == whole.step == schedule.steps
    assert same(resumed, whole)
    assert not same(trainer, whole)


def test_kill_between_saves_leaves_a_state_that_loads(tmp_path: Path) -> None:
    """A killed process repeats what it had not saved and ends with the same weights."""
    whole = run(tmp_path / "whole", SCHEDULE)
    every_step = replace(SCHEDULE, save_every_s=-1.0)
    killed = run(tmp_path / "killed", every_step, kill_at=5)
    assert killed.step == 5

    # the writing of a further state was cut short
    (tmp_path / "killed" / "state.part").write_bytes(b"PK half a state")
    again = Trainer("tiny", Tiny(), SCHEDULE, tmp_path / "killed")
    assert again.step == 5
    assert [event.step for event in again.run(tiny_loss(again.model))] == [6, 7, 8]
    assert same(again, whole)

    unsaved = run(tmp_path / "unsaved", SCHEDULE, kill_at=5)  # saves only at the end
    assert unsaved.step == 5
    assert Trainer("tiny", Tiny(), SCHEDULE, tmp_path / "unsaved").step == 0
    assert same(run(tmp_path / "unsaved", SCHEDULE), whole)


def test_a_step_of_no_number_changes_nothing(tmp_path: Path) -> None:
    """Kernels can fail; the weights, averaged ones too, then stay as they were."""
    trainer = Trainer("tiny", model := Tiny(), SCHEDULE, tmp_path)
    plain = tiny_loss(model)

    def fails_at_3(step: int) -> dict[str, Tensor]:
        losses = plain(step)
        if step == 3:
            before.append({k: v.clone() for k, v in trainer.averaged_weights().items()})
            before.append({k: v.clone() for k, v in model.state_dict().items()})
            return {"loss": losses["loss"] * float("nan")}
        if step == 4:
            after.extend([trainer.averaged_weights(), {k: v.clone() for k, v in model.state_dict().items()}])
        return losses

    before: list[dict[str, Tensor]] = []
    after: list[dict[str, Tensor]] = []
    assert len(list(trainer.run(fails_at_3))) == SCHEDULE.steps
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert all(value.isfinite().all() for value in trainer.averaged_weights().values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_in_hand(tmp_path: Path, number: signal.Signals) -> None:
    """The state is saved, the process lives on, and its own handlers are back."""
    before = signal.getsignal(number)
    trainer = Trainer("tiny", model := Tiny(), SCHEDULE, tmp_path)
    inner = tiny_loss(model)

    def interrupted(step: int) -> dict[str, Tensor]:
        if step == 2:
            os.kill(os.getpid(), number)
        return inner(step)

    assert not train_in_terminal(trainer, interrupted)
    assert trainer.step == 3
    assert signal.getsignal(number) is before
    again = Trainer("tiny", model := Tiny(), SCHEDULE, tmp_path)
    assert again.step == 3
    assert train_in_terminal(again, tiny_loss(model))
    assert same(again, run(tmp_path / "whole", SCHEDULE))


def test_rows_are_means_of_the_steps_between_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that comes up later gets a column; a line is printed for each row."""
    trainer = Trainer("tiny", model := Tiny(), SCHEDULE, tmp_path)
    inner = tiny_loss(model)

    def with_more(step: int) -> dict[str, Tensor]:
        return inner(step) | ({"late": torch.tensor(float(step))} if step >= 4 else {})

    events = list(trainer.run(with_more))
    rows = [event for event in events if event.row is not None]
    assert [event.step for event in rows] == [2, 4, 6, 8]
    for event in rows:
        pair: list[StepDone] = events[event.step - 2 : event.step]
        assert event.row is not None
        assert event.row["loss"] == sum(one.losses["loss"] for one in pair) / 2
    with (tmp_path / "loss.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["late"] for row in table] == ["", "", "4.500000", "6.500000"]
    assert (tmp_path / "loss.png").exists()

    assert train_in_terminal(Trainer("twin", model, SCHEDULE, tmp_path / "twin"), tiny_loss(model))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [["twin", f"{step}/8"] for step in (2, 4, 6, 8)]


def test_training_attention_is_attention_with_its_gradients() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 4, n, 16).bfloat16().float() for n in (6, 9, 9)]
    pairs = []
    for kernel in (training_attention, F.scaled_dot_product_attention):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = kernel(*leaves)
        weight = torch.linspace(-1, 1, out.numel()).view(out.shape)
        (out.float() * weight).sum().backward()
        pairs.append([out.detach().float(), *(leaf.grad for leaf in leaves)])
    for ours, exact in zip(*pairs, strict=True):
        assert (ours - exact).norm() / exact.norm() < 0.02  # bfloat16 weights and products


def clip_stream(mask: Tensor) -> Stream:
    """A stream of a batch, of 3 features and on one axis. mask: (B, N), 1 where a token is generated."""
    positions = torch.arange(2.0 * mask.shape[1]).view(1, 1, -1, 2)
    clean = torch.randn(*mask.shape, 3, generator=torch.Generator().manual_seed(1))
    return Stream(clean, mask[..., None], positions)


def test_a_batch_is_noised_as_sampling_noises_each_of_its_samples() -> None:
    """Tokens, noise levels and targets, bit for bit; also of tokens that are kept in part."""
    mask = torch.tensor([[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.25, 0.7, 0.0]])
    sigma = torch.tensor([0.9, 0.0, 0.37])
    batch = clip_stream(mask)
    noise = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(2))
    context = torch.zeros(3, 5, 2)
    made = noised_modality(batch, noise, sigma, context)
    for i in range(3):
        one = Stream(batch.clean[i : i + 1], batch.mask[i : i + 1], batch.positions)
        start = one.noised(noise[i : i + 1], float(sigma[i]))
        wanted = one.at(start, sigma[i], context[i : i + 1])
        assert torch.equal(made.latents[i], wanted.latents[0])
        assert torch.equal(made.timesteps[i], wanted.timesteps[0])
        assert torch.equal(made.sigma[i : i + 1], wanted.sigma)
        assert torch.equal(made.positions, wanted.positions)

    whole = clip_stream(torch.ones(3, 4))  # a generated token's target leads back from it to the clean one
    start = noised_modality(whole, noise, sigma, context).latents
    target = noise - whole.clean
    torch.testing.assert_close(start - sigma.view(3, 1, 1) * target, whole.clean)
    assert velocity_loss(target, whole, noise).tolist() == [0.0, 0.0, 0.0]


def test_given_tokens_have_no_noise_and_no_loss() -> None:
    mask = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    stream = Stream(torch.ones(1, 4, 2), mask[..., None], torch.zeros(1, 1, 4, 2))
    noise = torch.full((1, 4, 2), 5.0)
    made = noised_modality(stream, noise, torch.tensor([0.5]), torch.zeros(1, 1, 2))
    assert torch.equal(made.latents[0, :, 0], torch.tensor([1.0, 1.0, 3.0, 3.0]))
    assert torch.equal(made.timesteps, mask * 0.5)
    wrong = torch.cat([torch.full((1, 2, 2), 9.0), torch.full((1, 2, 2), 4.0)], dim=1)
    assert float(velocity_loss(wrong, stream, noise)) == 0


def test_tokens_beside_a_clip_are_clean_and_have_their_own_positions() -> None:
    clip = torch.ones(2, 4, 3)
    positions, where = torch.zeros(1, 3, 4, 2), torch.stack([torch.full((3, 2, 2), float(i)) for i in (7, 8)])
    tokens = Tokens(clip, clip, torch.ones(2, 4, 1), positions)
    tokens.add(Added(torch.full((2, 2, 3), 5.0), mask=0.0, positions=where))
    stream, noise = tokens.stream(), torch.zeros(2, 4, 3)
    made = noised_modality(stream, noise, torch.tensor([0.5, 0.25]), torch.zeros(2, 1, 3))
    assert torch.equal(made.latents[:, 4:], torch.full((2, 2, 3), 5.0))
    assert torch.equal(made.timesteps, torch.tensor([[0.5] * 4 + [0.0] * 2, [0.25] * 4 + [0.0] * 2]))
    assert made.positions.shape == (2, 3, 6, 2)
    assert torch.equal(made.positions[:, :, 4:], where)
    velocity = torch.cat([torch.full((2, 4, 3), 1.0), torch.full((2, 2, 3), 9.0)], dim=1)
    assert velocity_loss(velocity, stream, noise).tolist() == [4.0, 4.0]


def test_a_loss_counts_generated_tokens_by_their_weights() -> None:
    stream = Stream(torch.zeros(1, 2, 1), torch.ones(1, 2, 1), torch.zeros(1, 1, 2, 2))
    velocity, noise = torch.tensor([[[1.0], [3.0]]]), torch.zeros(1, 2, 1)
    assert velocity_loss(velocity, stream, noise).item() == 5
    assert velocity_loss(velocity, stream, noise, torch.tensor([[1.0, 3.0]])).item() == 7
