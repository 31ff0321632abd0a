"""A bias in parts gives the numbers of the dense one, and only what it must is computed with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from soundstage.conditioning.positions import video_positions
from soundstage.conditioning.tokens import Added, Tokens
from soundstage.model import bias as biases
from soundstage.model.attention import strength_bias
from soundstage.model.bias import BiasParts, attend_in_parts, parts_of
from soundstage.model.transformer import ModalityInputs, Transformer
from tests.tiny_transformer import NUM_VIDEO, modalities, transformer

OWN, ADDED = 100, 70  # tokens of a clip and of each group that is added to it


def noise(*sizes: int) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(sum(sizes)))


def mask_of(*attentions: float | Tensor) -> Tensor:
    """(1, N, N): a clip with groups that are seen as far as said."""
    tokens = Tokens.fresh(video_positions(1, 1, OWN, 24.0), 8, torch.float32)
    for attention in attentions:
        positions = video_positions(1, 1, ADDED, 24.0)
        tokens.add(Added(torch.zeros(1, ADDED, 8), 0.0, positions, attention, is_reference=True))
    mask = tokens.stream().attention_mask
    assert mask is not None
    return mask


# The clip's queries with a bias or without, then those of each group.
CASES: dict[str, tuple[Callable[[], Tensor], list[bool]]] = {
    "a group that is not seen": (lambda: mask_of(0.0), [False, False]),
    "a group half seen": (lambda: mask_of(0.5), [True, True]),
    "one unseen, one seen fully": (lambda: mask_of(0.0, 1.0), [False, False, False]),
    "one half seen, one not at all": (lambda: mask_of(0.5, 0.0), [True, True, False]),
    "single tokens": (lambda: mask_of(torch.linspace(0, 1, ADDED), 0.0), [True, True, False]),
}


@pytest.mark.parametrize("name", list(CASES))
def test_parts_give_the_numbers_of_the_dense_bias(name: str) -> None:
    make, with_bias = CASES[name]
    dense = strength_bias(make(), torch.float32)
    found = parts_of(dense)
    q, k, v = (noise(2, dense.shape[2], 3, 16 + i)[..., :16].transpose(1, 2) for i in range(3))
    asked: list[tuple[int, int, bool]] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        asked.append((q.shape[2], k.shape[2], bias is not None))
        return F.scaled_dot_product_attention(q, k, v, bias)

    if all(with_bias):
        assert found is dense
        return
    assert isinstance(found, BiasParts)
    wanted = F.scaled_dot_product_attention(q, k, v, dense)
    torch.testing.assert_close(attend_in_parts(kernel, q, k, v, found), wanted, rtol=1e-5, atol=1e-6)
    assert [bias for _, _, bias in asked] == with_bias
    for queries, keys, bias in asked:  # nobody reads what nobody sees
        assert keys <= (mask_keys := dense.shape[3]), (queries, mask_keys, bias)
    assert sum(queries * keys for queries, keys, _ in asked) < dense.shape[2] * dense.shape[3]


def test_a_bias_that_adds_nothing_is_none() -> None:
    assert parts_of(strength_bias(torch.ones(1, 8, 8), torch.float32)) is None


def test_too_many_kinds_of_tokens_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(biases, "LEAST_ROWS", 1)
    dense = strength_bias(torch.tril(torch.ones(1, 30, 30)), torch.float32)
    assert parts_of(dense) is dense
    pair = strength_bias(torch.rand(2, 8, 8), torch.float32)
    assert parts_of(pair) is pair


def velocity(model: Transformer, batch: int = 2, **changes: Any) -> Tensor:
    with torch.no_grad():
        found = model(*modalities(batch, **changes))[0]
    assert found is not None
    return found


def test_a_transformer_computes_an_attention_mask_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer()
    mask = torch.ones(1, NUM_VIDEO, NUM_VIDEO)
    mask[:, :16, 16:] = mask[:, 16:, :16] = 0
    wanted = velocity(model, attention_mask=mask)  # too small for parts
    monkeypatch.setattr(biases, "LEAST_ROWS", 4)
    tables = model.prepare(*modalities(2, attention_mask=mask))
    assert tables.video is not None
    assert isinstance(tables.video.bias, BiasParts)
    assert all(part.bias is None for part in tables.video.bias.parts)
    torch.testing.assert_close(velocity(model, attention_mask=mask), wanted, rtol=1e-5, atol=1e-5)
    whole = model.prepare(*modalities(2, attention_mask=torch.ones(1, NUM_VIDEO, NUM_VIDEO)))
    assert whole.video is not None
    assert whole.video.bias is None


def test_a_text_mask_without_padding_is_no_bias() -> None:
    model, seen = transformer(), []
    for block in model.transformer_blocks:
        real = block.attn2.kernel  # type: ignore[union-attr]

        def kernel(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, real: Any = real) -> Tensor:
            seen.append(bias)
            return real(q, k, v, bias)  # type: ignore[no-any-return]

        block.attn2.kernel = kernel  # type: ignore[union-attr]
    video: ModalityInputs = modalities()[0]
    mask = torch.ones(video.context.shape[:2], dtype=torch.long)
    plain = velocity(model)
    assert torch.equal(velocity(model, context_mask=mask), plain)
    assert all(bias is None for bias in seen)
    mask[:, -1] = 0  # the same tensor, changed: it is looked at again
    assert not torch.equal(velocity(model, context_mask=mask), plain)
    assert seen[-1] is not None
