"""Training: no kill loses or repeats a step, and a batch is noised as sampling noises a clip."""

import csv
import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.conditioning.tokens import Added, Tokens
from soundstage.model.attention import Attention
from soundstage.sampling.streams import Stream
from soundstage.training.attention import training_attention
from soundstage.training.batches import Batch
from soundstage.training.loop import StepDone, Trainer
from soundstage.training.muon import Muon, orthogonalise
from soundstage.training.noising import noised_modality, velocity_loss
from soundstage.training.optimizers import Schedule
from soundstage.training.precision import use_training_attention
from soundstage.training.steps import GradientSteps, LossFn
from soundstage.training.terminal import train_in_terminal
from soundstage.training.workers import Workers
from tests.limits import LONG_S

SCHEDULE = Schedule(minutes=1, steps=8, rate=1e-2, warmup=2, log_every=2, save_every_s=1e9)


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


def tiny_batch(step: int, progress: float = 0.0) -> Batch:
    x = torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(step))
    return Batch("tiny", {"x": x, "step": torch.tensor(step)}, samples=4)


def batches_from(trainer: Trainer) -> Iterator[Batch]:
    return (tiny_batch(step) for step in itertools.count(trainer.step))


def tiny_loss(model: nn.Module, kill_at: int | None = None) -> LossFn:
    def loss_fn(batch: Batch) -> dict[str, Tensor]:
        if int(batch["step"]) == kill_at:
            raise Killed
        noise = torch.randn_like(batch["x"])  # as the losses of nano's parts draw theirs
        x = batch["x"]
        return {"loss": (model(x + 0.01 * noise) - x[:, :1, 1:-1]).square().mean()}

    return loss_fn


def steps_of(trainer: Trainer, loss_fn: LossFn | None = None) -> GradientSteps:
    return GradientSteps(loss_fn or tiny_loss(trainer.model), trainer.params)


def events_of(trainer: Trainer, loss_fn: LossFn | None = None) -> Iterator[StepDone]:
    return trainer.run(batches_from(trainer), steps_of(trainer, loss_fn))


def run(folder: Path, schedule: Schedule, kill_at: int | None = None) -> Trainer:
    trainer = Trainer("tiny", model := Tiny(), schedule, folder)
    try:
        events = list(events_of(trainer, tiny_loss(model, kill_at)))
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

    trainer = Trainer("tiny", Tiny(), schedule, tmp_path / "parts")
    with closing(events_of(trainer)) as events:  # type: ignore[type-var]
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
    assert [event.step for event in events_of(again)] == [6, 7, 8]
    assert same(again, whole)

    unsaved = run(tmp_path / "unsaved", SCHEDULE, kill_at=5)  # saves only at the end
    assert unsaved.step == 5
    assert Trainer("tiny", Tiny(), SCHEDULE, tmp_path / "unsaved").step == 0
    assert same(run(tmp_path / "unsaved", SCHEDULE), whole)


def test_a_step_of_no_number_changes_nothing(tmp_path: Path) -> None:
    """Kernels can fail; the weights, averaged ones too, then stay as they were."""
    trainer = Trainer("tiny", model := Tiny(), SCHEDULE, tmp_path)
    plain = tiny_loss(model)

    def fails_at_3(batch: Batch) -> dict[str, Tensor]:
        losses, step = plain(batch), int(batch["step"])
        if step == 3:
            before.append({k: v.clone() for k, v in trainer.averaged_weights().items()})
            before.append({k: v.clone() for k, v in model.state_dict().items()})
            return {"loss": losses["loss"] * float("nan")}
        if step == 4:
            after.extend([trainer.averaged_weights(), {k: v.clone() for k, v in model.state_dict().items()}])
        return losses

    before: list[dict[str, Tensor]] = []
    after: list[dict[str, Tensor]] = []
    assert len(list(events_of(trainer, fails_at_3))) == SCHEDULE.steps
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert all(value.isfinite().all() for value in trainer.averaged_weights().values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_in_hand(tmp_path: Path, number: signal.Signals) -> None:
    """The state is saved, the process lives on, and its own handlers are back."""
    before = signal.getsignal(number)
    trainer = Trainer("tiny", model := Tiny(), SCHEDULE, tmp_path)
    inner = tiny_loss(model)

    def interrupted(batch: Batch) -> dict[str, Tensor]:
        if int(batch["step"]) == 2:
            os.kill(os.getpid(), number)
        return inner(batch)

    assert not train_in_terminal(trainer, batches_from(trainer), steps_of(trainer, interrupted))
    assert trainer.step == 3
    assert signal.getsignal(number) is before
    again = Trainer("tiny", Tiny(), SCHEDULE, tmp_path)
    assert again.step == 3
    assert train_in_terminal(again, batches_from(again), steps_of(again))
    assert same(again, run(tmp_path / "whole", SCHEDULE))


def test_rows_are_means_of_the_steps_between_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that comes up later gets a column; a row gets a line, with the pace. The last step has one."""
    trainer = Trainer("tiny", model := Tiny(), SCHEDULE, tmp_path)
    inner = tiny_loss(model)

    def with_more(batch: Batch) -> dict[str, Tensor]:
        step = batch["step"]
        return inner(batch) | ({"late": step.float()} if step >= 4 else {})

    events = list(events_of(trainer, with_more))
    rows = [event for event in events if event.row is not None]
    assert [event.step for event in rows] == [2, 4, 6, 8]
    for event in rows:
        pair: list[StepDone] = events[event.step - 2 : event.step]
        assert event.row is not None
        assert event.row["loss"] == sum(one.losses["loss"] for one in pair) / 2
    with (tmp_path / "loss.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["late"] for row in table] == ["", "", "4.500000", "6.500000"]
    assert [row["samples"] for row in table] == ["8", "16", "24", "32"]
    assert all(float(row["step_s"]) > 0 and 0 <= float(row["waiting"]) < 1 for row in table)
    assert (tmp_path / "loss.png").exists()

    short = Trainer("short", model, replace(SCHEDULE, steps=3), tmp_path / "short")
    rows = [event for event in events_of(short, inner) if event.row is not None]
    assert [(event.step, event.pace.samples) for event in rows] == [(2, 8), (3, 12)]

    twin = Trainer("twin", model, SCHEDULE, tmp_path / "twin")
    assert train_in_terminal(twin, batches_from(twin), steps_of(twin))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["twin", str(step), f"{step / 8:.0%}"] for step in (2, 4, 6, 8)
    ]
    assert all("s/step" in line and "% waiting for data" in line for line in lines)
    assert lines[-1].endswith("32 samples")


def test_a_schedule_ends_with_its_minutes_however_few_steps_that_is(tmp_path: Path) -> None:
    """Rates end at their floor; a finished part stays finished; a state says how long it has had."""
    slow = replace(SCHEDULE, steps=None, minutes=0.004, floor=0.1)  # 0.24 s
    trainer = Trainer("tiny", model := Tiny(), slow, tmp_path)
    inner = tiny_loss(model)
    rates: list[float] = []

    def slowly(batch: Batch) -> dict[str, Tensor]:
        time.sleep(0.05)
        return inner(batch)

    for _ in events_of(trainer, slowly):
        rates.append(trainer.optimizers[0].param_groups[0]["lr"] / slow.rate)
    assert trainer.complete
    assert 1 <= trainer.step <= 6
    assert rates[-1] < 0.5
    assert rates[-1] >= slow.floor
    again = Trainer("tiny", Tiny(), replace(slow, minutes=10), tmp_path)
    assert again.complete
    assert list(events_of(again)) == []
    assert again.seconds == trainer.seconds >= 0.2
    hurried = Trainer("tiny", Tiny(), replace(slow, minutes=0), tmp_path / "none")
    assert len(list(events_of(hurried))) == 1  # one step at least


def test_a_training_from_weights_begins_where_it_is_told(tmp_path: Path) -> None:
    trainer = Trainer("tiny", Tiny(), SCHEDULE, tmp_path)
    trainer.begin({name: value + 1 for name, value in trainer.model.state_dict().items()}, 0.5)
    assert (trainer.step, trainer.progress) == (0, 0.5)
    assert len(list(events_of(trainer))) == SCHEDULE.steps
    assert Trainer("tiny", Tiny(), SCHEDULE, tmp_path).start == 0.5


def test_every_save_but_the_last_is_followed_by_an_export(tmp_path: Path) -> None:
    every_step = replace(SCHEDULE, save_every_s=-1.0)
    trainer = Trainer("tiny", Tiny(), every_step, tmp_path)
    exported: list[int] = []
    list(trainer.run(batches_from(trainer), steps_of(trainer), lambda: exported.append(trainer.step)))
    assert exported == list(range(1, SCHEDULE.steps or 0))


def test_muon_moves_each_block_as_if_it_were_alone() -> None:
    """Matrices of one shape are orthogonalised together, a tall one in blocks of rows."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(*size)) for size in ((8, 12), (8, 12), (192, 128), (8, 3, 2, 2))]
    before = [param.detach().clone() for param in params]
    for param in params:
        param.grad = torch.randn_like(param)
    Muon(params, lr=0.1, momentum=0.0).step()
    for param, old in zip(params, before, strict=True):
        assert param.grad is not None
        matrix = param.grad.flatten(1)
        blocks = matrix.view(2, 96, -1) if len(matrix) == 192 else matrix[None]
        size = 0.2 * max(blocks.shape[1:]) ** 0.5
        for block, step in zip(blocks, (old - param).detach().view_as(blocks) / (0.1 * size), strict=True):
            torch.testing.assert_close(step, orthogonalise(block).float(), rtol=0.02, atol=0.02)


# --- data -----------------------------------------------------------------------------------------------


def slow_batch(number: int, progress: float) -> Batch:
    time.sleep(0.01)
    return Batch(f"{progress:.1f}", {"number": torch.full((2,), number, dtype=torch.bfloat16)}, number)


def broken_batch(number: int, progress: float) -> Batch:
    raise ValueError(f"no batch {number}")


@pytest.mark.parametrize("count", [0, 2])
def test_data_come_in_order_and_none_twice(count: int) -> None:
    """Made in this process or by others; what fails there is raised here."""
    with Workers(count) as workers:
        feed = workers.feed(slow_batch, first=3, progress=lambda: 0.5)
        made = list(itertools.islice(feed, 6))
        assert [batch.samples for batch in made] == [3, 4, 5, 6, 7, 8]
        assert made[0]["number"].tolist() == [3, 3]
        assert made[0]["number"].dtype == torch.bfloat16
        assert {batch.kind for batch in made} == {"0.5"}
        feed.close()
        broken = workers.feed(broken_batch, first=0, progress=lambda: 0.0)
        with pytest.raises(ValueError, match="no batch 0"):
            next(broken)
        broken.close()


def own_id(number: int, progress: float) -> int:
    return os.getpid()


KILLED = """
import os, signal
from soundstage.training.workers import Workers
from tests.unit.test_training import own_id
if __name__ == "__main__":
    with Workers(1) as workers:
        print(next(workers.feed(own_id, first=0, progress=lambda: 0.0)), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes are killed in another way here")
def test_workers_end_with_a_training_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "killed"
    script.write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True, timeout=LONG_S
    )
    assert done.returncode == -signal.SIGKILL
    worker = int(done.stdout)
    for _ in range(200):
        if not runs(worker):
            break
        time.sleep(0.1)
    assert not runs(worker)


def runs(process: int) -> bool:
    """Whether a process is there and more than an entry that nobody has collected."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_batch_travels_between_processes_as_plain_arrays() -> None:
    """Not through shared memory, of which a container may have 64 MB."""
    batch = Batch("x", {"a": torch.randn(3, 4).bfloat16(), "b": torch.tensor([[True], [False]])}, 3)
    again = pickle.loads(pickle.dumps(batch))
    assert (again.kind, again.samples) == ("x", 3)
    assert all(torch.equal(again[name], batch[name]) for name in batch.tensors)


# --- recorded steps -------------------------------------------------------------------------------------


class PlainRecorder:
    """Stands for CUDA's: runs the function once, and again at every replay, in the same memory."""

    def __init__(self, params: list[nn.Parameter], fails: bool = False) -> None:
        self.params, self.fails, self.replays = params, fails, 0

    def record(self, run):
        if self.fails:
            raise RuntimeError("the driver says no")
        grads = [param.grad for param in self.params]
        losses = run()

        def replay() -> None:
            self.replays += 1
            for param, grad in zip(self.params, grads, strict=True):
                param.grad = grad
            for name, value in run().items():
                losses[name].copy_(value)

        return losses, replay


class Branches(nn.Module):
    """One of two layers, by the kind of batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        x = batch["x"] + 0.1 * torch.randn_like(batch["x"])
        loss = (self.a if batch.kind == "a" else self.b)(x).square().mean()
        return {"loss": loss, "twice": 2 * loss}


def branch_batches() -> list[tuple[Batch, int]]:
    generator = torch.Generator().manual_seed(4)
    return [(Batch("ab"[i % 2], {"x": torch.randn(3, 4, generator=generator)}, 3), i) for i in range(8)]


def test_a_recorded_step_has_the_losses_and_gradients_of_a_plain_one() -> None:
    """Of every kind from its third batch on; what a kind does not reach has no gradient."""
    plain, recorded = Branches(), Branches()
    recorder = PlainRecorder(list(recorded.parameters()))
    ours = GradientSteps(recorded.loss, list(recorded.parameters()), recorder=recorder)  # type: ignore[arg-type]
    true = GradientSteps(plain.loss, list(plain.parameters()))
    for batch, seed in branch_batches():
        made, wanted = ours(batch, seed), true(batch, seed)
        assert {name: float(x) for name, x in made.items()} == {name: float(x) for name, x in wanted.items()}
        for a, b in zip(recorded.parameters(), plain.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None)
            assert a.grad is None or b.grad is None or torch.equal(a.grad, b.grad)
    assert recorder.replays == 2 * (1 + 3)  # of each kind a check, and three of its four batches


@pytest.mark.parametrize("fails", [False, True])
def test_a_kind_that_cannot_be_recorded_is_computed_plainly(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the reason is told once: the recorder failed, or what it recorded is something else."""
    model, told = Branches(), []
    recorder = PlainRecorder(list(model.parameters()), fails)
    steps = GradientSteps(model.loss, list(model.parameters()), recorder=recorder, told=told.append)  # type: ignore[arg-type]
    if not fails:
        monkeypatch.setattr("soundstage.training.steps._distance", lambda made, wanted: 0.5)
    twin = Branches()
    true = GradientSteps(twin.loss, list(twin.parameters()))
    for batch, seed in branch_batches():
        assert float(steps(batch, seed)["loss"]) == float(true(batch, seed)["loss"])
    assert [line.partition(":")[0] for line in told] == ["a", "b"]
    assert ("the driver says no" if fails else "off by 0.500") in told[0]


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


def test_the_kernel_of_training_is_put_in_where_the_cpu_has_units_for_it_and_taken_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("soundstage.training.precision.half_products", lambda device: True)
    layer = Attention(8, 8, num_heads=2, head_dim=4)
    use_training_attention(layer, torch.device("cpu"))
    assert layer.kernel is training_attention
    use_training_attention(layer, torch.device("cpu"), is_on=False)
    assert layer.kernel is F.scaled_dot_product_attention
    use_training_attention(layer, torch.device("cuda"))
    assert layer.kernel is F.scaled_dot_product_attention


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
