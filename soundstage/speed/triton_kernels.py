"""Fused kernels for CUDA devices: one pass over memory where PyTorch's operators take three to seven.

Each function here has a plain twin, named in its docstring, which is its oracle. Numbers are read in their
own format, computed in float32 and rounded where the plain operators round, so that both agree to the last
bits of the format. Callers check shapes and formats (`speed.cuda` does); tensors are contiguous unless a
stride is named.

Without a device the kernels run in Triton's interpreter (TRITON_INTERPRET=1), which is how they are tested;
its casts to bfloat16 and e4m3 cut digits off, so e4m3 and int8 are rounded here, before the cast.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_E4M3: tl.constexpr = tl.constexpr(448.0)
LARGEST_INT8: tl.constexpr = tl.constexpr(127.0)
SMALLEST_SCALE: tl.constexpr = tl.constexpr(1e-12)
# Adding and taking away 1.5 * 2^23 rounds a float32 below 2^22 to the nearest whole number, ties to even.
TO_WHOLE: tl.constexpr = tl.constexpr(12582912.0)
# The same for multiples of 2^-9, the step of e4m3's smallest numbers, below 2^-6.
TO_LEAST_STEP: tl.constexpr = tl.constexpr(24576.0)
LEAST_NORMAL: tl.constexpr = tl.constexpr(0.015625)
MOST_COLUMNS = 1 << 15  # that one program takes


def _block(columns: int) -> int:
    return int(triton.next_power_of_2(columns))


def _launch(block: int) -> dict[str, Any]:
    """Return options of a launch whose programs take `block` columns, eight to sixteen a thread."""
    return {"BLOCK": block, "num_warps": max(1, min(16, block // 512)), "enable_fp_fusion": True}


# --- a row of a modulation, for a token -----------------------------------------------------------------


@triton.jit
def _row_of(rows, groups, batch, token, stride_b, stride_g, GROUPS: tl.constexpr):
    """Return the address of a token's rows: those of its group, or of all tokens."""
    group = tl.load(groups + token).to(tl.int64) if GROUPS else 0
    return rows + batch * stride_b + group * stride_g


@triton.jit
def _modulated(normed, at, scale, shift, stride_r, column, mask, out):
    kind = out.dtype.element_ty
    factor = (1.0 + tl.load(at + scale * stride_r + column, mask=mask, other=0.0).to(tl.float32)).to(kind)
    offset = tl.load(at + shift * stride_r + column, mask=mask, other=0.0).to(tl.float32)
    return (offset + normed * factor.to(tl.float32)).to(kind)


@triton.jit
def _modulated_norm_kernel(
    x, rows, groups, first, second, tokens, columns, eps, stride_b, stride_g, stride_r,
    scale_1, shift_1, scale_2, shift_2,
    GROUPS: tl.constexpr, TWO: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < columns
    value = tl.load(x + row * columns + column, mask=mask, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(value * value, axis=0) / columns + eps)
    normed = (value * factor).to(x.dtype.element_ty).to(tl.float32)
    at = _row_of(rows, groups, row // tokens, row % tokens, stride_b, stride_g, GROUPS)
    made = _modulated(normed, at, scale_1, shift_1, stride_r, column, mask, first)
    tl.store(first + row * columns + column, made, mask=mask)
    if TWO:
        made = _modulated(normed, at, scale_2, shift_2, stride_r, column, mask, second)
        tl.store(second + row * columns + column, made, mask=mask)


def modulated_norms(
    x: Tensor, rows: Tensor, groups: Tensor | None, eps: float, places: tuple[tuple[int, int], ...]
) -> tuple[Tensor, ...]:
    """Return x (B, N, D) normed, scaled and shifted, for one or two (scale, shift) rows.

    rows: (B or 1, G, R, D), last axis contiguous. groups: (N,) or None. Twin: Arithmetic.modulated_norms.
    """
    batch, tokens, columns = x.shape
    made = [torch.empty_like(x) for _ in places]
    (scale_1, shift_1), (scale_2, shift_2) = places[0], places[-1]
    block = _block(columns)
    _modulated_norm_kernel[(batch * tokens,)](
        x, rows, rows if groups is None else groups, made[0], made[-1], tokens, columns, eps,
        _shared(rows, 0), rows.stride(1), rows.stride(2), scale_1, shift_1, scale_2, shift_2,
        GROUPS=groups is not None, TWO=len(places) == 2, **_launch(block),
    )  # fmt: skip
    return tuple(made)


def _shared(x: Tensor, axis: int) -> int:
    """Return the stride of an axis, 0 where one entry is shared by all."""
    return 0 if x.shape[axis] == 1 else x.stride(axis)


@triton.jit
def _add_gated_kernel(
    x, rows, groups, h, keep, out, tokens, columns, stride_b, stride_g, offset,
    GROUPS: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < columns
    at = _row_of(rows, groups, row // tokens, row % tokens, stride_b, stride_g, GROUPS) + offset
    gate = tl.load(at + column, mask=mask, other=0.0).to(tl.float32)
    if KEEP:
        gate *= tl.load(keep + row // tokens).to(tl.float32)
    value = tl.load(x + row * columns + column, mask=mask, other=0.0).to(tl.float32)
    added = tl.load(h + row * columns + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, (value + gate * added).to(out.dtype.element_ty), mask=mask)


def add_gated(
    x: Tensor, rows: Tensor, row: int, groups: Tensor | None, h: Tensor, keep: Tensor | None
) -> Tensor:
    """Return x + gate * h, (B, N, D). keep: bool, (B,) in all, or None. Twin: Arithmetic.add_gated."""
    batch, tokens, columns = x.shape
    out = torch.empty_like(x)
    block = _block(columns)
    _add_gated_kernel[(batch * tokens,)](
        x, rows, rows if groups is None else groups, h, x if keep is None else keep.view(torch.uint8), out,
        tokens, columns, _shared(rows, 0), rows.stride(1), row * rows.stride(2),
        GROUPS=groups is not None, KEEP=keep is not None, **_launch(block),
    )  # fmt: skip
    return out


# --- attention's rows -----------------------------------------------------------------------------------


@triton.jit
def _rotated_heads_kernel(
    x, weight, cos, sin, out, tokens, half, eps, stride_b, PAIRS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, BLOCK)
    mask = index < half
    one = (index // PAIRS) * (2 * PAIRS) + index % PAIRS  # the first of a pair; its partner is PAIRS further
    two = one + PAIRS
    kind = x.dtype.element_ty
    at = x + row * 2 * half
    a = tl.load(at + one, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(at + two, mask=mask, other=0.0).to(tl.float32)
    factor = tl.rsqrt((tl.sum(a * a, axis=0) + tl.sum(b * b, axis=0)) / (2 * half) + eps)
    a = (a * factor * tl.load(weight + one, mask=mask, other=0.0).to(tl.float32)).to(kind).to(tl.float32)
    b = (b * factor * tl.load(weight + two, mask=mask, other=0.0).to(tl.float32)).to(kind).to(tl.float32)
    turn = (row // tokens) * stride_b + (row % tokens) * 2 * half + two
    c = tl.load(cos + turn, mask=mask, other=0.0).to(tl.float32)
    s = tl.load(sin + turn, mask=mask, other=0.0).to(tl.float32)
    to = out + row * 2 * half
    tl.store(to + one, ((a * c).to(kind).to(tl.float32) - b * s).to(kind), mask=mask)
    tl.store(to + two, ((b * c).to(kind).to(tl.float32) + a * s).to(kind), mask=mask)


def rotated_heads(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """Norm x (B, N, inner) with a weight and rotate its heads: (B, N, H, d).

    cos, sin: a `Rotation`, (B or 1, N, H, d). Twin: Arithmetic.heads.
    """
    batch, tokens, inner = x.shape
    num_heads, head_dim = cos.shape[2:]
    out = torch.empty(batch, tokens, num_heads, head_dim, dtype=x.dtype, device=x.device)
    block = _block(inner // 2)
    _rotated_heads_kernel[(batch * tokens,)](
        x, weight, cos, sin, out, tokens, inner // 2, eps, _shared(cos, 0),
        PAIRS=head_dim // 2, **_launch(block),
    )  # fmt: skip
    return out


@triton.jit
def _gate_heads_kernel(
    heads, logits, out, tokens, columns, stride_b, stride_n, stride_h,
    HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < columns
    head = column // HEAD_DIM
    kind = out.dtype.element_ty
    logit = tl.load(logits + row * (columns // HEAD_DIM) + head, mask=mask, other=0.0).to(tl.float32)
    gate = 2.0 * tl.sigmoid(logit).to(kind).to(tl.float32)
    at = heads + (row // tokens) * stride_b + (row % tokens) * stride_n + head * stride_h + column % HEAD_DIM
    value = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, (value * gate).to(kind), mask=mask)


def gate_heads(heads: Tensor, logits: Tensor) -> Tensor:
    """Return heads (B, N, H, d) times 2 sigmoid(logits (B, N, H)), joined: (B, N, H * d).

    heads: last axis contiguous, the others at any stride. Twin: Arithmetic.gate_heads.
    """
    batch, tokens, num_heads, head_dim = heads.shape
    columns = num_heads * head_dim
    out = torch.empty(batch, tokens, columns, dtype=heads.dtype, device=heads.device)
    block = _block(columns)
    _gate_heads_kernel[(batch * tokens,)](
        heads, logits, out, tokens, columns, *heads.stride()[:3],
        HEAD_DIM=head_dim, **_launch(block),
    )  # fmt: skip
    return out


# --- eight bits -----------------------------------------------------------------------------------------


@triton.jit
def _to_e4m3(x):
    """Round float32 within +-448 to a number that e4m3 holds, ties to even; zeros keep their sign."""
    bits = x.to(tl.int32, bitcast=True)
    size = tl.abs(x)
    of_size = bits & 0x7FFFFFFF
    normal = (of_size + 0x7FFFF + ((of_size >> 20) & 1)) & -0x100000  # three digits after the point
    small = ((size + TO_LEAST_STEP) - TO_LEAST_STEP).to(tl.int32, bitcast=True)
    rounded = tl.where(size < LEAST_NORMAL, small, normal) | (bits & -0x80000000)
    return tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)


@triton.jit
def _quantize_rows_kernel(
    x, given, values, scales, columns, E4M3: tl.constexpr, GIVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < columns
    value = tl.load(x + row * columns + column, mask=mask, other=0.0).to(tl.float32)
    most = LARGEST_E4M3 if E4M3 else LARGEST_INT8
    if GIVEN:
        scale = tl.load(given)
    else:
        scale = tl.maximum(tl.div_rn(tl.max(tl.abs(value), axis=0), most), SMALLEST_SCALE)
    tl.store(scales + row, scale)
    value = tl.div_rn(value, scale)
    if E4M3:
        # Not-a-numbers must stay: `where` keeps them, a clamp would hide them.
        value = tl.where(value > most, most, tl.where(value < -most, -most, value))
        tl.store(values + row * columns + column, _to_e4m3(value).to(tl.float8e4nv), mask=mask)
    else:
        whole = (value + TO_WHOLE) - TO_WHOLE
        tl.store(values + row * columns + column, whole.to(tl.int8), mask=mask)


def quantize_rows(x: Tensor, dtype: torch.dtype, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return x (n, in) as e4m3 or int8 with a float32 scale per row, (n, 1).

    scale: (1, 1) to use for all rows. Twin: quantize.activations.
    """
    num_rows, columns = x.shape
    values = torch.empty(num_rows, columns, dtype=dtype, device=x.device)
    scales = torch.empty(num_rows, 1, dtype=torch.float32, device=x.device)
    block = _block(columns)
    _quantize_rows_kernel[(num_rows,)](
        x, scales if scale is None else scale, values, scales, columns,
        E4M3=dtype == torch.float8_e4m3fn, GIVEN=scale is not None, **_launch(block),
    )  # fmt: skip
    return values, scales


@triton.jit
def _dequantize_kernel(
    values, scales, out, columns, PER_ROW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < columns
    scale = tl.load(scales + (row if PER_ROW else 0))
    value = tl.load(values + row * columns + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, (value * scale).to(out.dtype.element_ty), mask=mask)


def dequantize(values: Tensor, scale: Tensor, out: Tensor) -> Tensor:
    """Write values (out, in), e4m3 or int8, times scale (out, 1) or (1, 1) into `out`, and return it.

    Twin: Quantized.dequantize.
    """
    num_rows, columns = values.shape
    block = min(4096, _block(columns))
    _dequantize_kernel[(num_rows, triton.cdiv(columns, block))](
        values, scale, out, columns, PER_ROW=scale.numel() > 1, **_launch(block)
    )
    return out


@triton.jit
def _rescale_kernel(
    sums, row_scales, column_scales, bias, out, columns,
    PER_COLUMN: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < columns
    kind = out.dtype.element_ty
    value = tl.load(sums + row * columns + column, mask=mask, other=0).to(tl.float32)
    value *= tl.load(row_scales + row)
    if PER_COLUMN:
        value *= tl.load(column_scales + column, mask=mask, other=0.0)
    else:
        value *= tl.load(column_scales)
    if BIAS:
        added = tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
        value = value.to(kind).to(tl.float32) + added
    tl.store(out + row * columns + column, value.to(kind), mask=mask)


def rescale(
    sums: Tensor, row_scales: Tensor, column_scales: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return sums (n, out) int32 times both scales, plus bias (out,), in a dtype.

    row_scales: (n, 1); column_scales: (out, 1) or (1, 1). Twin: quantize.rescaled.
    """
    num_rows, columns = sums.shape
    out = torch.empty(num_rows, columns, dtype=dtype, device=sums.device)
    block = min(4096, _block(columns))
    _rescale_kernel[(num_rows, triton.cdiv(columns, block))](
        sums, row_scales, column_scales, out if bias is None else bias, out, columns,
        PER_COLUMN=column_scales.numel() > 1, BIAS=bias is not None, **_launch(block),
    )  # fmt: skip
    return out
