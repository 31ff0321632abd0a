"""Streaming blocks changes where weights are, never a bit of what is computed with them."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.errors import WeightsError
from soundstage.memory.lanes import HostLane, ThreadLane
from soundstage.memory.offload import StreamedBlocks, stream_blocks
from soundstage.memory.policy import Residency
from soundstage.memory.stream import (
    MIN_ELEMENTS,
    BlockLayout,
    BlockStreamer,
    HostSource,
)
from soundstage.model.block import BlockKeeps, Perturbation
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import ModalityInputs, Transformer
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from soundstage.weights.load import load_part
from soundstage.weights.quantize import quantize, targets
from soundstage.weights.storage import TARGET
from tests.limits import joined
from tests.streamed import load_streamed

CPU = torch.device("cpu")
NUM_BLOCKS = 5
HEADER = transformer_header(
    num_layers=NUM_BLOCKS, num_heads=2, head_dim=32, audio_num_heads=2, audio_head_dim=16
)


def build() -> Transformer:
    return Transformer(TransformerConfig.from_header({"transformer": HEADER}))


def made(dtype: torch.dtype = torch.float32) -> Transformer:
    torch.manual_seed(0)
    model = build().requires_grad_(False).eval()
    for name, parameter in model.named_parameters():
        if "scale_shift_table" not in name:
            parameter.data = parameter.data.to(dtype)
    return model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "transformer.safetensors"
    save_file({key: value.contiguous() for key, value in made(torch.bfloat16).state_dict().items()}, path)
    return path


def inputs(seed: int = 0, num_text: int = 4) -> tuple[ModalityInputs, ModalityInputs]:
    generator = torch.Generator().manual_seed(seed)

    def stream(positions: Tensor, width: int) -> ModalityInputs:
        latents = torch.randn(1, positions.shape[2], 128, generator=generator)
        context = torch.randn(1, num_text, width, generator=generator)
        sigma = torch.tensor([0.6])
        return ModalityInputs(latents, sigma, sigma.expand(1, positions.shape[2]), positions, context)

    return stream(video_positions(2, 2, 3, 24.0), 64), stream(audio_positions(5), 32)


@torch.no_grad()
def velocities(model: Transformer, seed: int = 0) -> Tensor:
    video, audio = model(*inputs(seed))
    return torch.cat([video.flatten(), audio.flatten()])


def streamed(model: Transformer, resident: int, slots: int = 2) -> StreamedBlocks:
    residency = Residency("stream", resident_blocks=resident, num_slots=slots)
    return stream_blocks(model, list(model.transformer_blocks), residency, CPU)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    def left() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "soundstage-blocks"]

    yield
    if left():
        gc.collect()
    for thread in left():
        joined(thread)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_is_resident_bit_for_bit(dtype: torch.dtype, slots: int) -> None:
    wanted = [velocities(made(dtype), seed) for seed in range(2)]
    for resident in range(NUM_BLOCKS + 1):
        model = made(dtype)
        placed = streamed(model, resident, slots)
        assert len(placed.streamer.order) == NUM_BLOCKS - resident
        for seed in (0, 1):
            assert torch.equal(velocities(model, seed), wanted[seed])
        placed.streamer.close()


@pytest.mark.parametrize("policy", ["stream", "disk"])
@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_from_a_file_it_is_the_resident_model(
    file: Path, policy: str, slots: int, dtype: torch.dtype
) -> None:
    parts = find_parts([read_header(file)])
    wanted = velocities(load_part(build, parts, "transformer", dtype=dtype), 1)
    residency = Residency(policy, resident_blocks=1, num_slots=slots)  # type: ignore[arg-type]
    model, placed = load_streamed(build, parts, "transformer", residency, dtype=dtype, device=CPU)
    for _ in range(2):
        assert torch.equal(velocities(model, 1), wanted)
    placed.streamer.close()


def test_no_block_is_copied_twice_a_step_and_the_next_step_starts_with_full_slots() -> None:
    model = made()
    streamer = streamed(model, resident=0, slots=2).streamer
    copied = 0
    for steps in range(1, 4):
        velocities(model)
        assert steps == 1 or streamer.bytes_copied - copied == streamer.bytes_per_pass
        copied = streamer.bytes_copied
        # Two of the next step's blocks are already on their way, round the end of the list.
        assert streamer.num_copied == NUM_BLOCKS * steps + 2
        assert [slot.holds for slot in sorted(streamer._slots, key=lambda s: s.holds or 0)] == [0, 1]
    streamer.close()


def test_the_host_waits_for_nothing_but_the_slots() -> None:
    model = made()
    placed = streamed(model, resident=2, slots=2)
    before = placed.streamer.compute.num_waits
    velocities(model)
    assert placed.streamer.compute.num_waits - before == NUM_BLOCKS - 2
    placed.streamer.close()


def test_masks_of_mixed_passes_are_put_on_the_device_once() -> None:
    passes = (Perturbation(), Perturbation.stg([1]))
    masks = [BlockKeeps.of(passes, 1, CPU).video_self for _ in range(2)]
    assert isinstance(masks[0], Tensor)
    assert masks[0].flatten().tolist() == [True, False]
    assert masks[0] is masks[1]


def test_blocks_that_fit_their_slots_are_copied_once() -> None:
    model = made()
    streamer = streamed(model, resident=3, slots=3).streamer
    for _ in range(4):
        velocities(model)
    assert streamer.num_copied == 2
    streamer.close()


def test_a_copy_waits_until_the_block_before_it_in_the_slot_has_computed() -> None:
    """A slow computation on a lane of its own: no slot changes while its block is in use."""

    class Slow(HostLane):
        """Events are set only when the test lets the computation pass."""

        def __init__(self) -> None:
            super().__init__()
            self.pending: list = []

        def record(self):  # type: ignore[no-untyped-def]
            event = super().record()
            event.issued.clear()
            self.pending.append(event)
            return event

    blocks = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(3)).requires_grad_(False)
    source = HostSource(CPU)
    for number, block in enumerate(blocks):
        source.take(number, block)
    streamer = BlockStreamer(list(blocks), source, device=CPU, num_slots=1)
    streamer.compute = slow = Slow()
    first = streamer._fetch_from(0)
    slow.pending.pop().issued.set()  # the new slot is free
    streamer.compute.wait(first.ready)
    streamer._leave(0)
    assert not first.ready.issued.wait(0.05)  # block 1 is asked for, block 0 has not computed
    assert torch.equal(source.layouts[0].tensors[0].view(first.memory), blocks[0].weight)
    slow.pending.pop().issued.set()
    assert first.ready.issued.wait(5)
    assert torch.equal(source.layouts[1].tensors[0].view(first.memory), blocks[1].weight)
    streamer.close()


def test_a_pass_that_breaks_off_leaves_the_next_one_right() -> None:
    model = made()
    wanted = velocities(made())
    placed = streamed(model, resident=1)
    handle = model.transformer_blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        velocities(model)
    handle.remove()
    assert torch.equal(velocities(model), wanted)
    placed.streamer.close()


def test_blocks_may_run_out_of_order() -> None:
    blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(4)).requires_grad_(False)
    x = torch.randn(2, 64)
    order = [0, 3, 1, 1, 2, 0]
    wanted = [blocks[i](x) for i in order]
    source = HostSource(CPU)
    for number, block in enumerate(blocks):
        source.take(number, block)
    streamer = BlockStreamer(list(blocks), source, device=CPU)
    assert all(torch.equal(blocks[i](x), y) for i, y in zip(order, wanted, strict=True))
    streamer.close()


def test_blocks_of_different_dtypes_share_the_arena() -> None:
    """FP8 files leave some blocks in bfloat16."""
    blocks = [nn.Linear(64, 96).to(dtype).requires_grad_(False) for dtype in (torch.float32, torch.bfloat16)]
    blocks.append(nn.Linear(96, 64, bias=False).requires_grad_(False))
    wanted = [block.weight.clone() for block in blocks]
    source = HostSource(CPU)
    for number, block in enumerate(blocks):
        source.take(number, block)
    streamer = BlockStreamer(blocks, source, device=CPU, num_slots=1)
    assert streamer.arena_bytes == 64 * 96 * 4
    for _ in range(2):
        for number, block in enumerate(blocks):
            streamer._enter(number)
            assert torch.equal(block.weight, wanted[number])
            streamer._leave(number)
    streamer.close()


def test_between_passes_the_model_has_its_true_weights() -> None:
    model, wanted = made(), made().state_dict()
    placed = streamed(model, resident=1)
    velocities(model)
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())
    placed.streamer.close()
    assert torch.equal(velocities(model), velocities(made()))


def test_an_adapter_attached_to_a_streamed_block_stays_on_the_device() -> None:
    class Adapter(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base, self.branch = base, nn.Linear(64, 64, bias=False).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.branch(x)  # type: ignore[no-any-return]

    def attach(model: Transformer) -> None:
        torch.manual_seed(5)
        for block in model.transformer_blocks:
            block.attn1.to_q = Adapter(block.attn1.to_q)  # type: ignore[union-attr]

    resident, model = made(), made()
    attach(resident)
    placed = streamed(model, resident=2)
    attach(model)
    assert torch.equal(velocities(model), velocities(resident))
    placed.streamer.close()


def test_the_second_request_reads_nothing_from_disk(file: Path) -> None:
    parts = find_parts([read_header(file)])
    counts = {}
    for policy in ("stream", "disk"):
        residency = Residency(policy)  # type: ignore[arg-type]
        model, placed = load_streamed(
            build, parts, "transformer", residency, dtype=torch.bfloat16, device=CPU
        )
        velocities(model)
        placed.streamer.release()  # no copy is under way any more
        before = placed.num_bytes_read
        velocities(model)
        placed.streamer.release()
        counts[policy] = placed.num_bytes_read - before
        placed.streamer.close()
    block_bytes = sum(
        place.num_bytes for place in BlockLayout.of(made(torch.bfloat16).transformer_blocks[0]).tensors
    )
    assert counts["stream"] == 0
    assert counts["disk"] == (NUM_BLOCKS + 2) * block_bytes


def test_memory_does_not_grow_over_twenty_requests() -> None:
    model = made()
    placed = streamed(model, resident=1)

    def tensors() -> int:
        gc.collect()
        return sum(type(thing) in (Tensor, nn.Parameter) for thing in gc.get_objects())

    velocities(model), velocities(model), velocities(model)  # every block has been in every slot
    before = tensors()
    arena = [slot.memory.data_ptr() for slot in placed.streamer._slots]
    for seed in range(20):
        velocities(model, seed)
    assert tensors() == before
    assert [slot.memory.data_ptr() for slot in placed.streamer._slots] == arena
    placed.streamer.close()


def test_a_file_written_to_while_it_streams_is_named_until_it_is_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    state = {key: value.contiguous() for key, value in made(torch.bfloat16).state_dict().items()}
    save_file(state, path)
    parts = find_parts([read_header(path)])
    model, placed = load_streamed(
        build, parts, "transformer", Residency("disk"), dtype=torch.bfloat16, device=CPU
    )
    whole = path.read_bytes()
    try:
        with path.open("r+b") as opened:
            opened.truncate(len(whole) // 4)
        with pytest.raises(WeightsError, match=r"cut\.safetensors (has become shorter|was written to)"):
            velocities(model)
        path.write_bytes(whole)  # by its stamp these may be other weights
        with pytest.raises(WeightsError, match=r"cut\.safetensors was written to .*; load the model again"):
            velocities(model)
    finally:
        placed.streamer.close()
    model, placed = load_streamed(
        build, parts, "transformer", Residency("disk"), dtype=torch.bfloat16, device=CPU
    )
    try:
        assert torch.equal(velocities(model), velocities(made(torch.bfloat16)))
    finally:
        placed.streamer.close()


def test_an_error_of_the_worker_is_raised_once_where_its_event_is_waited_for() -> None:
    lane, host = ThreadLane(), HostLane()
    lane.run(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    failed, fine = lane.record(), lane.record()
    with pytest.raises(ZeroDivisionError):
        host.wait(failed)
    host.wait(fine)
    lane.close()


@pytest.mark.parametrize("policy", ["stream", "disk"])
@pytest.mark.parametrize("storage", ["full", "stored", "fp8-cast", "int8"])
def test_a_scaled_fp8_file_streams_as_it_loads(tmp_path: Path, policy: str, storage: str) -> None:
    """Blocks are of mixed dtypes there: one stays in bfloat16, as in published files."""
    from soundstage.weights.quantize import quantize

    model = made(torch.bfloat16)
    quantize(model, "fp8-cast", skip=("transformer_blocks.1.*",))
    path = tmp_path / "fp8.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    parts = find_parts([read_header(path)])
    options = {"dtype": torch.bfloat16, "storage": storage}
    wanted = velocities(load_part(build, parts, "transformer", **options))  # type: ignore[arg-type]
    residency = Residency(policy, resident_blocks=1)  # type: ignore[arg-type]
    loaded, placed = load_streamed(build, parts, "transformer", residency, device=CPU, **options)  # type: ignore[arg-type]
    for _ in range(2):
        assert torch.equal(velocities(loaded), wanted)
    placed.streamer.close()


@pytest.mark.parametrize("policy", ["stream", "disk"])
def test_an_fp8_file_without_scales_streams_as_it_loads(tmp_path: Path, policy: str) -> None:
    """Plain casts, as some published files hold."""
    state = made(torch.bfloat16).state_dict()
    cast = {
        key: value.to(torch.float8_e4m3fn) if TARGET.match(key.removesuffix(".weight")) else value
        for key, value in state.items()
    }
    path = tmp_path / "cast.safetensors"
    save_file({key: value.contiguous() for key, value in cast.items()}, path)
    parts = find_parts([read_header(path)])
    wanted = velocities(load_part(build, parts, "transformer", dtype=torch.bfloat16))
    place = {"dtype": torch.bfloat16, "device": CPU, "storage": "stored"}
    model, placed = load_streamed(build, parts, "transformer", Residency(policy), **place)  # type: ignore[arg-type]
    assert torch.equal(velocities(model), wanted)
    placed.streamer.close()


@pytest.mark.parametrize(("scheme", "bytes_each"), [(None, 4), ("int8", 1), ("fp8", 1), ("int8-dynamic", 1)])
def test_8_bit_weights_travel_as_8_bits(scheme: Any, bytes_each: int) -> None:
    model = made()
    names = list(quantize(model, scheme)) if scheme else list(targets(model))
    weights = [model.get_submodule(name).weight for name in names]
    large = [weight for weight in weights if weight.numel() >= MIN_ELEMENTS]  # type: ignore[operator, union-attr]
    assert len(large) > 50
    placed = stream_blocks(model, list(model.transformer_blocks), Residency("stream"), CPU)
    velocities(model)
    before = placed.streamer.bytes_copied
    velocities(model)
    copied = placed.streamer.bytes_copied - before
    placed.streamer.close()
    wanted = bytes_each * sum(weight.numel() for weight in large)  # type: ignore[misc, operator, union-attr]
    assert wanted <= copied <= wanted + 256 * len(large)  # what alignment takes
