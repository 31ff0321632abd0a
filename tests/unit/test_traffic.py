"""What a block's kernels read and write besides its products, counted at full size without memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.model.arithmetic import PLAIN, Arithmetic, use
from soundstage.model.attention import Attention
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import ModalityInputs, Transformer
from soundstage.speed import graphs
from soundstage.speed.cuda import Fused
from soundstage.types import VideoShape

PRODUCTS = ("mm", "addmm", "bmm", "_addmm_activation")
FREE = ("view", "_unsafe_view", "t", "transpose", "expand", "slice", "select", "unsqueeze", "squeeze")
FREE += ("split", "as_strided", "alias", "detach", "permute", "unbind", "empty", "empty_like")


def num_bytes(*tree: Any) -> int:
    return sum(x.numel() * x.element_size() for x in tree_leaves(tree) if isinstance(x, Tensor))


class Traffic(TorchDispatchMode):
    """Bytes of the tensors that operators between products read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in (*PRODUCTS, *FREE):
            self.bytes += num_bytes(args, kwargs, out)
        return out


class Shapes:
    """Stands for the kernels: results without values, and the bytes that each kernel reads and writes."""

    MOST_COLUMNS = 1 << 15

    def __init__(self) -> None:
        self.bytes = 0

    def _moved(self, *tensors: Tensor) -> None:
        self.bytes += num_bytes(*tensors)

    def modulated_norms(
        self, x: Tensor, rows: Any, groups: Any, eps: float, places: Any
    ) -> tuple[Tensor, ...]:
        made = tuple(torch.empty_like(x) for _ in places)
        self._moved(x, *made)
        return made

    def add_gated(self, x: Tensor, rows: Any, row: int, groups: Any, h: Tensor, keep: Any) -> Tensor:
        made = torch.empty_like(x)
        self._moved(x, h, made)
        return made

    def rotated_heads(self, x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        made = torch.empty(*x.shape[:2], *cos.shape[2:], dtype=x.dtype, device=x.device)
        self._moved(x, made, cos)  # half of each table
        return made

    def gate_heads(self, heads: Tensor, logits: Tensor) -> Tensor:
        made = torch.empty_like(heads).flatten(2)
        self._moved(heads, logits, made)
        return made


def step(shape: VideoShape) -> tuple[Transformer, Any]:
    """One published block and its inputs on the meta device."""
    with torch.device("meta"):
        model = Transformer(TransformerConfig.from_header({"transformer": transformer_header(num_layers=1)}))
    model = model.to(torch.bfloat16).requires_grad_(False)

    def stream(positions: Tensor, width: int) -> ModalityInputs:
        count, sigma = positions.shape[2], torch.ones(1)
        latents, context = (torch.empty(1, *s, dtype=torch.bfloat16) for s in ((count, 128), (1024, width)))
        return ModalityInputs(latents, sigma, torch.ones(1, count), positions, context)

    video = stream(video_positions(*shape.latent, 24.0), 4096)
    audio = stream(audio_positions(126), 2048)
    tree = (video, audio, model.prepare(video, audio))
    return model, graphs._rebuilt(tree, (x.to("meta") for x in graphs._tensors(tree)))


@pytest.mark.parametrize("size", [(768, 512), (1344, 768)])
def test_fused_kernels_move_half_the_bytes(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, (video, audio, tables) = step(VideoShape(121, size[1], size[0]))
    of_norms = 0

    def norm(x: Tensor, *_: Any, **__: Any) -> Tensor:
        nonlocal of_norms
        of_norms += 2 * num_bytes(x)
        return torch.empty_like(x)

    monkeypatch.setattr(F, "rms_norm", norm)  # one kernel on a device
    monkeypatch.setattr(Attention, "kernel", staticmethod(lambda q, *_, **__: torch.empty_like(q)))
    shapes = Shapes()
    fused = Fused(shapes)
    monkeypatch.setattr(fused, "_fits", AnyFits())
    ways: tuple[Arithmetic, ...] = (PLAIN, fused)
    moved = []
    for way in ways:
        use(model, way)
        of_norms = 0
        with torch.no_grad(), Traffic() as traffic:
            model(video, audio, tables=tables)
        moved.append(traffic.bytes + of_norms + shapes.bytes)
    print([f"{total / 1e9:.2f} GB" for total in moved])
    assert moved[1] < 0.52 * moved[0]


class AnyFits:
    most_columns = 1 << 15

    def __call__(self, *_: Tensor) -> bool:
        return True
