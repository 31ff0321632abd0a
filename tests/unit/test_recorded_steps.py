"""A step that is recorded as a CUDA graph copies nothing between host and device and waits for no value.

Held without a GPU: on PyTorch's meta device, which has shapes and no values, where every operation, of the
gradients too, is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from soundstage.model import connector, mel
from soundstage.nano.training import audio_vae, examples, preview, upsamplers, video_vae, vocoder
from soundstage.nano.training import transformer as core_recipe
from soundstage.nano.training.convolutions import use_flat_convolutions
from soundstage.training import precision
from soundstage.training.batches import Batch
from soundstage.training.steps import LossFn
from tests.unit import test_nano_transformer as core_tests

META = torch.device("meta")
CACHES = (connector._rotation, mel._kernel_on, vocoder._filters)


class Copied(Exception):
    """An operation that a CUDA graph cannot hold."""


class NothingCopied(TorchDispatchMode):
    """Refuse operations on both devices at once, and those whose result is a number on the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, made)) if isinstance(x, Tensor)]
        kinds = {x.device.type for x in tensors if x.ndim or x.device == META}
        name = str(func)
        if len(kinds) > 1 or "_local_scalar_dense" in name or "nonzero" in name or "unique" in name:
            raise Copied(f"{name} on {sorted(kinds)}")
        return made


@pytest.fixture(autouse=True)
def fresh_caches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tables that are kept must not be without values afterwards, nor be there already."""
    monkeypatch.setattr(precision, "half_products", lambda device: False)  # autocast has no meta device
    for cache in CACHES:
        cache.cache_clear()
    yield
    for cache in CACHES:
        cache.cache_clear()


@dataclass
class Case:
    """A part's module and a real batch of its, on the CPU."""

    module: nn.Module
    batch: Batch
    loss: Callable[[Any], LossFn]


def core_case(job: str) -> Case:
    core = core_recipe.NanoCore(core_recipe.header(core_tests.WIDTH), core_tests.STATES)
    made = examples.Examples(core.transformer, core_tests.FixedStates(), "tiny", torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "drawn_job", lambda rng, progress: job)
        batch = made.batch(np.random.default_rng(0), 0.0, core_tests.stock())
    return Case(core, batch, lambda module: core_recipe.TransformerLoss(module, META))


def video_case(progress: float) -> Case:
    batch = video_vae.FrameMaker(video_vae.stages_of("tiny"))(0, progress)
    return Case(video_vae.build(), batch, lambda module: video_vae.VideoVaeLoss(module, META))


def audio_case() -> Case:
    batch = Batch("mels", {"mel": torch.zeros(1, 2, audio_vae.WINDOW_MELS, 64)}, 1)
    return Case(audio_vae.build(), batch, lambda module: audio_vae.AudioVaeLoss(module, META))


def vocoder_case() -> Case:
    tensors = {
        "wide": torch.zeros(1, 2, 32 * 480),
        "narrow": torch.zeros(1, 2, 32 * 160),
        "mel": torch.zeros(1, 2, 32, 64),
    }
    return Case(vocoder.build(), Batch("windows", tensors, 1), vocoder.VocoderLoss)


def upsampler_case(kind: upsamplers.UpsamplerName) -> Case:
    low = torch.zeros(1, 128, 3, 2, 2)
    high = upsamplers.build(kind)(low).detach()
    names = {axis: torch.arange(2) for axis in upsamplers.AXES}
    batch = Batch("x", {"low": low, "high": high, **names}, 1)
    pair = nn.ModuleList([upsamplers.build(kind), video_vae.build()])
    return Case(pair, batch, lambda module: upsamplers.UpsamplerLoss(module[0], module[1], META))


def preview_case() -> Case:
    tensors = {"latents": torch.zeros(1, 128, 3, 2, 2), "small": torch.zeros(1, 3, 17, 16, 16).byte()}
    return Case(preview.build(), Batch("x", tensors, 1), preview.PreviewLoss)


CASES: dict[str, Callable[[], Case]] = {
    **{job: (lambda job=job: core_case(job)) for job in core_tests.JOBS},  # type: ignore[misc]
    "video VAE": lambda: video_case(0.0),
    "video decoder": lambda: video_case(0.99),
    "audio VAE": audio_case,
    "vocoder": vocoder_case,
    "x2": lambda: upsampler_case("x2"),
    "x1.5": lambda: upsampler_case("x1.5"),
    "time": lambda: upsampler_case("time"),
    "preview": preview_case,
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_copies_nothing_between_host_and_device(name: str) -> None:
    """What it keeps between steps, it has from the step before, which is not recorded."""
    case = CASES[name]()
    module = case.module.to(META)
    use_flat_convolutions(module)
    loss = case.loss(module)
    batch = case.batch.to(META)
    loss(batch)
    with NothingCopied():
        made = loss(batch)
        made["loss"].backward()
    assert made["loss"].device == META
    assert any(param.grad is not None for param in module.parameters())


def test_a_copy_would_be_seen() -> None:
    on_device = torch.ones(3, device=META)
    with NothingCopied():
        with pytest.raises(Copied, match="_to_copy"):
            torch.ones(3).to(META)
        with pytest.raises(Exception, match="meta"):
            on_device[on_device > 0]
        with pytest.raises(Exception, match="meta"):
            bool(on_device.all())


def test_tables_made_within_a_step_would_be_seen() -> None:
    """As the resampler's kernel in the vocoder's, were it not kept."""
    case = vocoder_case()
    loss = case.loss(case.module.to(META))
    with NothingCopied(), pytest.raises(Copied, match="_to_copy"):
        loss(case.batch.to(META))
