"""What a step of a training holds, in bytes of tensors at full width, beside what is worked out before it.

On PyTorch's meta device, which has shapes and no values: a step at the width of LTX-2.3 takes no memory.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.training_memory import attention, step_bytes
from soundstage.library.sizes import ModelSizes
from soundstage.lora.adapters import Adapters
from soundstage.lora.files import LoraFile
from soundstage.model.attention import Attention
from soundstage.model.config import TransformerConfig
from soundstage.model.modulation import TokenGroups
from soundstage.model.published import transformer_header
from soundstage.model.transformer import Transformer
from soundstage.training.batches import Batch
from soundstage.training.factors import Factors
from soundstage.training.recompute import Recomputation
from soundstage.training.tuning import objective as objectives
from soundstage.training.tuning.blocks import BlockRun
from soundstage.training.tuning.config import TrainConfig, read_config
from soundstage.training.tuning.objective import VelocityObjective
from soundstage.training.tuning.price import TuningWork, activation_bytes
from soundstage.training.tuning.targets import adapted
from tests.unit.test_recorded_steps import NothingCopied

META = torch.device("meta")
LAYERS, AUDIO = 3, 51


@pytest.fixture(autouse=True)
def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what reads values: groups of noise levels, losses by level, whether factors are zero."""
    monkeypatch.setattr(Attention, "kernel", staticmethod(attention))
    one_group = classmethod(lambda cls, levels: cls(levels.new_zeros(1, dtype=torch.long), None))
    monkeypatch.setattr(TokenGroups, "of", one_group)
    monkeypatch.setattr(objectives, "told", lambda *given: {})
    monkeypatch.setattr(LoraFile, "check_values", lambda *given: None)


def objective_of(config: TrainConfig, dtype: torch.dtype, *, again: bool, kept: bool) -> VelocityObjective:
    """Return the objective of a cut of LTX-2.3 at full width. kept: keep cheap results too."""
    header = transformer_header(num_layers=LAYERS)
    with META:
        model = Transformer(TransformerConfig.from_header({"transformer": header})).requires_grad_(False)
        model = model.to(dtype)
        factors = Factors(adapted(model, config))
    adapters = Adapters(model)
    adapters.add("trained", factors.lora(), training=True)
    adapters.set({"trained": 1.0})
    cheap = Recomputation()
    if not kept:
        cheap.put_on(model)
    objective = VelocityObjective(model, config, blocks=BlockRun(again=again, cheap=cheap))
    objective.__dict__["factors"] = factors
    return objective


def batch_of(work: TuningWork) -> Batch:
    """Return a batch without values."""
    tensors: dict[str, Tensor] = {}
    for name, count, axes, width in (("video", work.video, 3, 4096), ("audio", work.audio, 1, 2048)):
        tensors |= {
            f"{name}.clean": torch.empty(work.batch, count, 128),
            f"{name}.noise": torch.empty(work.batch, count, 128),
            f"{name}.mask": torch.empty(work.batch, count, 1),
            f"{name}.sigma": torch.empty(work.batch),
            f"{name}.positions": torch.empty(1, axes, count, 2),
            f"{name}.context": torch.empty(work.batch, work.text, width),
        }
    return Batch("x", {name: x.to(META) for name, x in tensors.items()}, work.batch)


def peak_bytes(objective: VelocityObjective, batch: Batch) -> int:
    """Return the bytes of a step's tensors, at most, without the gradients that it leaves behind."""
    return step_bytes(objective.__dict__["factors"], lambda: objective(batch)["loss"])


def config_of(rank: int) -> TrainConfig:
    lora = {"rank": rank, "targets": ["video", "audio", "between"]}
    return read_config({"data": "a", "output": "b", "lora": lora})


@pytest.mark.parametrize(
    ("work", "rank", "dtype", "again"),
    [
        (TuningWork(video=1792, audio=AUDIO, text=1024, batch=1, trained=0), 32, torch.bfloat16, False),
        (TuningWork(video=1792, audio=AUDIO, text=1024, batch=1, trained=0), 32, torch.bfloat16, True),
        (TuningWork(video=576, audio=AUDIO, text=256, batch=4, trained=0), 128, torch.bfloat16, False),
        (TuningWork(video=4608, audio=128, text=1024, batch=2, trained=0), 16, torch.float32, True),
    ],
)
def test_what_a_step_holds_is_what_was_worked_out(
    work: TuningWork, rank: int, dtype: torch.dtype, again: bool
) -> None:
    config = config_of(rank)
    sizes = ModelSizes.published("bfloat16")
    sizes = replace(sizes, blocks=sizes.blocks[:LAYERS], item_bytes=dtype.itemsize)
    found = peak_bytes(objective_of(config, dtype, again=again, kept=False), batch_of(work))
    assert activation_bytes(work, sizes, config, again=again) == pytest.approx(found, rel=0.15)


def test_a_step_holds_little_more_than_half_of_what_autograd_would() -> None:
    work = TuningWork(video=1792, audio=AUDIO, text=256, batch=1, trained=0)
    least, most = (
        peak_bytes(objective_of(config_of(32), torch.bfloat16, again=False, kept=kept), batch_of(work))
        for kept in (False, True)
    )
    assert least < 0.55 * most


@pytest.mark.parametrize("again", [False, True])
def test_a_step_copies_nothing_between_host_and_device(again: bool) -> None:
    """Its tables of positions and its losses by level are made on the host, once for a batch."""
    work = TuningWork(video=96, audio=AUDIO, text=64, batch=1, trained=0)
    objective, batch = objective_of(config_of(8), torch.bfloat16, again=again, kept=False), batch_of(work)
    inputs = objective._inputs(batch, objectives.streams_of(batch))
    tables = objective.transformer.prepare(inputs["video"], inputs["audio"])
    objective.transformer.__dict__["prepare"] = lambda *given: tables
    with NothingCopied():
        objective(batch)["loss"].backward()
    factors: nn.Module = objective.__dict__["factors"]
    assert all(factor.grad is not None for factor in factors.parameters())
