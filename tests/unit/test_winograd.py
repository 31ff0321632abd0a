"""Convolutions by tiles equal PyTorch's own, at every size, and stand back where they are not meant."""

import pytest
import torch
from torch import nn

from soundstage.speed import onednn, winograd
from soundstage.speed.winograd import WinogradConv3d


def twins(channels: int, out: int, mode: str = "zeros") -> tuple[nn.Conv3d, nn.Conv3d]:
    """A plain layer, and one of the same weights that computes by tiles."""
    torch.manual_seed(channels + out)
    plain = nn.Conv3d(channels, out, 3, padding=(0, 1, 1), padding_mode=mode)
    fast = nn.Conv3d(channels, out, 3, padding=(0, 1, 1), padding_mode=mode)
    fast.load_state_dict(plain.state_dict())
    onednn.put_on(fast, frozenset({"winograd"}))
    return plain, fast


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what is convolved by tiles from now on."""
    shapes: list[tuple[int, ...]] = []
    own = winograd.convolved

    def convolved(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        return own(x, *rest)

    monkeypatch.setattr(winograd, "convolved", convolved)
    return shapes


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [(4, 32, 32), (3, 40, 48), (9, 15, 18), (30, 8, 8), (5, 33, 50), (3, 129, 97)],
)
@torch.no_grad()
def test_tiles_give_what_pytorch_gives(
    mode: str, frames: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sizes are whole tiles and not, frames of many tiles and few, clips cut into rows, and
    output channels in parts."""
    monkeypatch.setattr(winograd, "MOST_BYTES", 2**20)
    monkeypatch.setattr(winograd, "MOST_WEIGHT_BYTES", 32 * 32 * 108 * 4)
    shapes = counted(monkeypatch)
    plain, fast = twins(32, 70, mode)
    x = torch.randn(2, 32, frames, height, width)
    made, wanted = fast(x), plain(x)
    assert len(shapes) == 2
    assert made.shape == wanted.shape
    assert float((made - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.parametrize(
    ("channels", "shape", "dtype"),
    [
        (32, (1, 32, 3, 16, 16), torch.float32),  # too little shares the weights
        (16, (1, 16, 5, 48, 48), torch.float32),  # too few channels
        (32, (1, 32, 100, 4, 48), torch.float32),  # rows that are mostly edge
        (32, (1, 32, 5, 48, 48), torch.bfloat16),
    ],
)
@torch.no_grad()
def test_what_is_no_less_work_is_left_to_pytorch(
    channels: int, shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = counted(monkeypatch)
    plain, fast = (layer.to(dtype) for layer in twins(channels, 32))
    x = torch.randn(shape).to(dtype)
    assert torch.equal(fast(x), plain(x))
    assert shapes == []


def test_training_goes_past_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = counted(monkeypatch)
    plain, fast = twins(32, 32)
    x = torch.randn(1, 32, 4, 32, 32)
    fast(x).square().sum().backward()
    plain(x).square().sum().backward()
    assert shapes == []
    assert fast.weight.grad is not None
    assert plain.weight.grad is not None
    assert torch.equal(fast.weight.grad, plain.weight.grad)


@torch.no_grad()
def test_the_number_of_threads_changes_no_bit() -> None:
    _, fast = twins(64, 64)
    x = torch.randn(1, 64, 6, 40, 56)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = fast(x)
        torch.set_num_threads(2)
        two = fast(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, two)


def test_only_its_kind_of_layer_is_exchanged() -> None:
    layers = nn.Sequential(
        nn.Conv3d(32, 32, 3, padding=(0, 1, 1)),
        nn.Conv3d(32, 32, 3, padding=1),
        nn.Conv3d(32, 32, 3, padding=(0, 1, 1), stride=(1, 2, 2)),
        nn.Conv3d(32, 32, 1),
        nn.Conv3d(32, 32, 3, padding=(0, 1, 1), groups=2),
    )
    names = list(layers.state_dict())
    onednn.put_on(layers, frozenset({"winograd"}))
    assert [type(layer) is WinogradConv3d for layer in layers] == [True, False, False, False, False]
    assert list(layers.state_dict()) == names
