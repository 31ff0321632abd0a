"""Parts come and go, feed-forwards are cut: nothing that is computed changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.library.model_files import find_model
from soundstage.memory.offload import (
    OffloadedModule,
    OffloadManager,
    StreamedBlocks,
    chunk_feed_forward,
    stream_blocks,
)
from soundstage.memory.policy import Residency, spread_evenly
from soundstage.model.attention import FeedForward
from soundstage.planning.placement import choose_placement
from soundstage.rendering.events import Done
from soundstage.request.request import Request
from tests.tiny_model import TinyParts, write_tiny_model

CPU = torch.device("cpu")


def part(width: int = 32) -> nn.Module:
    torch.manual_seed(width)
    module = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, 8))
    return module.requires_grad_(False).eval()


def pointers(module: nn.Module) -> list[int]:
    return [value.data_ptr() for value in module.state_dict().values()]


# --- offloaded ---------------------------------------------------------------------------------------------


def test_a_part_moves_to_the_device_and_back_to_the_very_same_memory() -> None:
    module, x = part(), torch.randn(3, 32)
    wanted, home = module(x), pointers(module)
    offloaded = OffloadedModule([module], CPU)
    for _ in range(2):
        offloaded.arrive()
        assert not set(pointers(module)) & set(home)
        assert torch.equal(module(x), wanted)
        offloaded.leave()
        assert pointers(module) == home
    assert offloaded.bytes_copied == 2 * offloaded.num_bytes


def test_a_part_built_on_the_device_gets_a_home_when_it_first_leaves() -> None:
    module, x = part(), torch.randn(3, 32)
    wanted, built = module(x), pointers(module)
    offloaded = OffloadedModule([module], CPU, here=True)
    offloaded.arrive()
    assert pointers(module) == built
    offloaded.leave()
    home = pointers(module)
    assert not set(home) & set(built)
    assert torch.equal(module(x), wanted)
    offloaded.arrive()
    assert torch.equal(module(x), wanted)
    offloaded.leave()
    assert pointers(module) == home


def test_parameters_stay_parameters_and_buffers_stay_buffers() -> None:
    module = part()
    names = [n for n, _ in module.named_parameters()], [n for n, _ in module.named_buffers()]
    offloaded = OffloadedModule([module], CPU)
    offloaded.arrive()
    assert ([n for n, _ in module.named_parameters()], [n for n, _ in module.named_buffers()]) == names
    assert not any(parameter.requires_grad for parameter in module.parameters())


# --- the manager -------------------------------------------------------------------------------------------


def test_a_part_that_is_used_arrives_and_the_one_before_leaves() -> None:
    manager = OffloadManager()
    offloaded = {name: OffloadedModule([part(width)], CPU) for name, width in (("text", 64), ("vae", 16))}
    for name, one in offloaded.items():
        manager.add(name, one)
    for name in ("text", "text", "vae", "vae", "text"):
        manager.bring(name)
        assert manager.present == name
    assert offloaded["text"].bytes_copied == 2 * offloaded["text"].num_bytes
    assert offloaded["vae"].bytes_copied == offloaded["vae"].num_bytes
    manager.bring("another")
    assert manager.present == "text"


def test_a_part_arrives_when_it_is_called() -> None:
    module, other = part(), part(16)
    manager = OffloadManager()
    manager.add("text", OffloadedModule([module], CPU), calls=module)
    manager.add("other", OffloadedModule([other], CPU), calls=other)
    x = torch.randn(3, 32)
    module(x)
    assert manager.present == "text"
    other(torch.randn(3, 16))
    assert manager.present == "other"
    manager.remove("text")
    module(x)
    assert manager.present == "other"


def test_a_streamed_part_gives_its_arena_back_when_it_leaves() -> None:
    blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(4)).requires_grad_(False)
    x = torch.randn(2, 64)
    wanted = nn.Sequential(*blocks)(x)
    placed = stream_blocks(blocks, list(blocks), Residency("stream", resident_blocks=1), CPU)
    manager = OffloadManager()
    manager.add("transformer", placed)
    manager.add("vae", OffloadedModule([part(16)], CPU))
    for _ in range(2):
        manager.bring("transformer")
        assert torch.equal(nn.Sequential(*blocks)(x), wanted)
        assert len(placed.streamer._slots) == 2
        manager.bring("vae")
        assert placed.streamer._slots == []
    assert isinstance(placed, StreamedBlocks)
    placed.streamer.close()


# --- which blocks stay -------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 5, 48])
def test_resident_blocks_are_spread_evenly(total: int) -> None:
    for count in range(total + 1):
        kept = sorted(spread_evenly(count, total))
        assert len(kept) == count
        gaps = [b - a for a, b in zip(kept, [*kept[1:], kept[0] + total], strict=True)] if kept else []
        assert not gaps or max(gaps) - min(gaps) <= 1  # round the end of the list too


# --- feed-forward in pieces ---------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 16, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_feed_forward_in_pieces_is_the_whole_to_rounding(chunk: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = nn.ModuleList([FeedForward(32), FeedForward(16)]).to(dtype).requires_grad_(False)
    x = torch.randn(2, 40, 32, dtype=dtype)
    whole = module[0](x)
    assert chunk_feed_forward(module, chunk) == 2
    cut = module[0](x)
    assert torch.allclose(cut, whole, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)
    chunk_feed_forward(module, None)
    assert torch.equal(module[0](x), whole)


def test_a_feed_forward_in_pieces_widens_no_more_than_a_piece() -> None:
    module = FeedForward(32).requires_grad_(False)
    chunk_feed_forward(module, 8)
    widest: list[int] = []
    module.net[2].register_forward_pre_hook(lambda _, inputs: widest.append(inputs[0].shape[1]))
    module(torch.randn(1, 20, 32))
    assert widest == [8, 8, 4]
    with pytest.raises(ValueError, match="num_tokens must be at least 1, not 0"):
        chunk_feed_forward(module, 0)


# --- a whole model --------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def made_by(folder: Path, residency: Residency) -> tuple[Done, TinyParts]:
    model = find_model(folder)
    parts = TinyParts(model, CPU, torch.float32, residency)
    engine = Engine(model, device="cpu", parts=parts)
    for _ in range(2):  # the second request finds everything where the first left it
        *_, last = engine.run(Request(prompt="a red ball", seed=3))
    assert isinstance(last, Done)
    return last, parts


@pytest.mark.parametrize("policy", ["offload", "stream", "disk"])
def test_a_seed_gives_the_same_clip_under_every_policy(tiny: Path, policy: str) -> None:
    wanted, _ = made_by(tiny, Residency())
    found, parts = made_by(tiny, Residency(policy, resident_blocks=1))  # type: ignore[arg-type]
    for name in ("video_latents", "audio_latents"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))
    assert (found.clip.frames == wanted.clip.frames).all()
    assert (found.clip.waveform == wanted.clip.waveform).all()
    assert (parts.manager.present is None) == (policy == "resident")
    parts.close()


def test_what_cannot_be_made_here_is_refused_before_anything_is_loaded(tiny: Path) -> None:
    model = find_model(tiny)
    plan = Engine(model, device="cpu").plan(Request(prompt="a red ball"))
    choice = choose_placement(plan, model, "cpu", 4)
    assert choice.residency.policy == "resident"
    huge = replace(plan, passes=(replace(plan.passes[0], video_tokens=10**10),))
    with pytest.raises(
        RequestError, match=r"size is 64x64 at 9 frames, which tiny cannot make on this machine"
    ):
        choose_placement(huge, model, "cpu", 4)
