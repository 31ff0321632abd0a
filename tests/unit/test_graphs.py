"""A recorded step gives the bits of the step, whatever changes from one to the next."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from soundstage.engine import Engine
from soundstage.library.model_files import find_model
from soundstage.lora.adapters import Adapters
from soundstage.memory.policy import Residency
from soundstage.model import block
from soundstage.model.block import Perturbation
from soundstage.model.config import TransformerConfig
from soundstage.model.nag import NegativeText
from soundstage.model.transformer import ModalityInputs, RunTables, Transformer
from soundstage.planning.plan import LoraUse
from soundstage.rendering.parts import ModelParts
from soundstage.request.request import Request
from soundstage.speed import graphs
from soundstage.speed.graphs import MOST, Recorded
from soundstage.weights.quantize import quantize
from tests.tape import TapeRecorder, Waits
from tests.tiny_model import HEADS, VIDEO_HEAD, write_text_encoder, write_tiny_model
from tests.tiny_transformer import HEADER, NUM_VIDEO, modalities, random_lora, transformer

STEPS = (0.9, 0.5, 0.31, 0.1)


class Adapted:
    """What adapters are on, as the parts of an engine say it."""

    now: Hashable | None = ()

    def __call__(self) -> Hashable | None:
        return self.now


def recorded(model: Transformer, state: Adapted | None = None) -> Recorded:
    return Recorded(model, TapeRecorder(), state or Adapted())


def at(sigma: float, batch: int = 2, **changes: Any) -> tuple[ModalityInputs, ModalityInputs]:
    """A step of its own noise level, latents and text."""
    made = []
    for i, m in enumerate(modalities(batch, **changes)):
        generator = torch.Generator().manual_seed(int(1000 * sigma) + i)
        latents = torch.randn(m.latents.shape, generator=generator)
        context = m.context + torch.randn(m.context.shape, generator=generator)
        kept = (m.timesteps > 0).float()
        level = torch.full((batch,), sigma)
        made.append(replace(m, latents=latents, context=context, sigma=level, timesteps=sigma * kept))
    return made[0], made[1]


def assert_same(found: Any, wanted: Any) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.equal(one, other)


def first_frame_kept() -> dict[str, Tensor]:
    timesteps = torch.full((2, NUM_VIDEO), 0.5)
    timesteps[:, :8] = 0
    return {"timesteps": timesteps}


def text_bias() -> dict[str, Tensor]:
    context = modalities()[0].context
    return {"context_mask": torch.randn(2, NUM_VIDEO, context.shape[1])}


def attention_mask() -> dict[str, Tensor]:
    mask = torch.ones(1, NUM_VIDEO, NUM_VIDEO)
    mask[:, :8, 8:] = 0.5
    return {"attention_mask": mask}


CASES: dict[str, tuple[Any, Any]] = {
    "plain": (dict, None),
    "a frame that is kept": (first_frame_kept, None),
    "a bias on the text": (text_bias, None),
    "an attention mask": (attention_mask, None),
    "one sample perturbed": (dict, [Perturbation(), Perturbation.stg([0])]),
    "one sample isolated": (dict, [Perturbation(), Perturbation.isolated()]),
    "a negative text": (lambda: {"negative": NegativeText(modalities()[0].context.flip(1))}, None),
    "a negative text for one": (
        lambda: {"negative": NegativeText(modalities()[0].context.flip(1), samples=(1,))},
        None,
    ),
    "a stream that rests": (lambda: {"enabled": False}, None),
}


@pytest.mark.parametrize("name", list(CASES))
@torch.no_grad()
def test_replayed_steps_are_the_steps_bit_for_bit(name: str) -> None:
    changes, perturbation = CASES[name]
    model = transformer()
    forward = recorded(model)
    for run in range(2):  # a second run brings tables of its own
        tables: RunTables = model.prepare(*at(1.0, **changes()))
        for sigma in STEPS:
            inputs = at(sigma, **changes())
            wanted = model(*inputs, perturbation=perturbation, tables=tables)
            assert_same(forward(*inputs, perturbation=perturbation, tables=tables), wanted)
        assert forward.num_replayed == len(STEPS) - 1 + run * len(STEPS)


@pytest.mark.parametrize("scheme", ["int8", "fp8-cast", "int8-dynamic"])
@torch.no_grad()
def test_8_bit_layers_are_recorded_too(scheme: Any) -> None:
    model = transformer()
    quantize(model, scheme)
    forward, tables = recorded(model), model.prepare(*at(1.0))
    for sigma in STEPS:
        assert_same(forward(*at(sigma), tables=tables), model(*at(sigma), tables=tables))
    assert forward.num_replayed == len(STEPS) - 1


@torch.no_grad()
def test_another_adapter_state_is_another_recording() -> None:
    model, state = transformer(), Adapted()
    adapters = Adapters(model)
    adapters.add("one", random_lora(model))
    forward, tables = recorded(model, state), model.prepare(*at(1.0))
    for strength in (0.0, 0.7, 0.0, 1.0):
        adapters.set({"one": strength})
        state.now = ("one", strength)
        for sigma in STEPS:
            assert_same(forward(*at(sigma), tables=tables), model(*at(sigma), tables=tables))
    assert forward.num_replayed >= 3 * (len(STEPS) - 1)
    state.now = None  # weights of tokens, say, whose memory changes
    before = forward.num_replayed
    assert_same(forward(*at(0.5), tables=tables), model(*at(0.5), tables=tables))
    assert forward.num_replayed == before


@torch.no_grad()
def test_few_recordings_are_kept_and_all_can_be_given_up() -> None:
    model = transformer()
    forward = recorded(model)
    for batch in (1, 2, 3, 4):
        for sigma in STEPS:
            assert_same(forward(*at(sigma, batch)), model(*at(sigma, batch)))
    assert len(forward._recordings) == MOST
    forward.forget()
    assert len(forward._recordings) == 0
    assert_same(forward(*at(0.5)), model(*at(0.5)))


def test_what_cannot_be_recorded_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model = transformer()
    real = model.forward

    def waits(*args: Any, **kwargs: Any) -> Any:
        video, audio = real(*args, **kwargs)
        assert video is not None
        return video * float(video.abs().max()), audio

    model.__dict__["forward"] = waits
    forward = recorded(model)
    with torch.no_grad(), caplog.at_level(logging.DEBUG, logger="soundstage.speed"):
        for sigma in STEPS:
            assert_same(forward(*at(sigma)), model(*at(sigma)))
    assert forward.num_replayed == 0
    assert caplog.text.count("a step is not recorded: Waits: aten._local_scalar_dense.default") == 1
    with pytest.raises(Waits):
        TapeRecorder().record(lambda: waits(*at(0.5)))


def test_gradients_and_shortcuts_are_not_recorded() -> None:
    model = transformer()
    forward, tables = recorded(model), model.prepare(*at(1.0))
    video, audio = at(0.5)
    video.latents.requires_grad_()
    for _ in range(3):
        found = forward(video, audio, tables=tables)
        assert found[0] is not None
        assert found[0].requires_grad
    with torch.no_grad():
        for _ in range(3):
            forward(*at(0.5), tables=tables, shortcut=lambda stack, xv, xa: stack.run(xv, xa, stop=1))
    assert forward.num_replayed == 0


# --- in an engine ----------------------------------------------------------------------------------------


def test_an_engine_records_the_steps_of_resident_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, with the recorder of these tests in place of CUDA's."""
    made: list[Recorded] = []

    def on_tape(model: Transformer, device: torch.device, state: Any) -> Recorded:
        made.append(Recorded(model, TapeRecorder(), state))
        model.__dict__["forward"] = made[-1]
        return made[-1]

    folder = write_tiny_model(tmp_path / "tiny")
    write_text_encoder(folder / "text")
    model = find_model(folder)
    request = Request(prompt="a red ball", size=(64, 64), num_frames=9, seed=1)
    wanted = Engine(model, device="cpu").generate(request)
    monkeypatch.setattr(graphs, "record_steps", on_tape)
    found = Engine(model, device="cpu").generate(request)
    assert np.array_equal(found.frames, wanted.frames)
    assert np.array_equal(found.waveform, wanted.waveform)
    (recorded,) = made
    assert recorded.num_replayed >= 2
    streamed = ModelParts(model, torch.device("cpu"), torch.float32, Residency("disk"))
    _ = streamed.transformer
    streamed.close()
    assert len(made) == 1


def test_the_state_of_adapters_is_their_factors_and_strengths_and_none_where_they_differ_by_token(
    tmp_path: Path,
) -> None:
    parts = ModelParts(find_model(write_tiny_model(tmp_path / "tiny")), torch.device("cpu"), torch.float32)
    path = tmp_path / "a.safetensors"
    width = HEADS * VIDEO_HEAD

    def write(value: float) -> None:
        key = "diffusion_model.transformer_blocks.0.attn1.to_q"
        factors = {"A": torch.full((4, width), value), "B": torch.ones(width, 4)}
        save_file({f"{key}.lora_{name}.weight": factor for name, factor in factors.items()}, path)

    def state(strength: float = 0.5, span: tuple[float, float] | None = None) -> object:
        parts.attach([str(path)])
        parts.adapt([LoraUse(str(path), strength, span)], torch.zeros(1, 3, 4, 2), None)
        return parts._loras.state()

    write(0.01)
    first = state()
    assert first == state()
    assert first != state(0.50000001)
    assert state(span=(0.0, 1.0)) is None
    write(0.02)
    second = state()
    write(0.01)  # the old numbers, read again to another place in memory
    assert len({first, second, state()}) == 3


# --- on a device that is not here ------------------------------------------------------------------------


class OnHost(TorchDispatchMode):
    """Operators that touch a tensor of the host, but for plain numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.num_operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        self.num_operators += 1
        if any(leaf.device.type == "cpu" for leaf in tensors):
            self.found.append(str(func))
        return out


@pytest.mark.parametrize("name", list(CASES))
def test_a_step_on_a_device_touches_nothing_of_the_host(name: str) -> None:
    """On the device of shapes alone: a copy to or from the host would end the recording of a CUDA graph."""
    changes, perturbation = CASES[name]
    inputs = at(0.5, **changes())
    tree = (*inputs, transformer().prepare(*inputs))
    with torch.device("meta"):
        model = Transformer(TransformerConfig.from_header(HEADER)).requires_grad_(False)
    video, audio, tables = graphs._rebuilt(tree, (x.to("meta") for x in graphs._tensors(tree)))
    with torch.no_grad():
        model(video, audio, perturbation=perturbation, tables=tables)  # what is kept is made here
        with OnHost() as host:
            made = model(video, audio, perturbation=perturbation, tables=tables)
    assert host.found == []
    assert host.num_operators > 150
    assert all(x is None or x.is_meta for x in made)
    block._sample_numbers.cache_clear()
    block._keep_mask.cache_clear()
