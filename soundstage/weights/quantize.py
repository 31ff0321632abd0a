"""Linear layers with 8-bit weights, put into a built model from outside.

    quantize(transformer, "fp8")              # replaces the layers that may be 8-bit, in place
    quantize(transformer, "int8-dynamic", skip=("transformer_blocks.0.*",))

    scheme         weights          product
    fp8            e4m3             e4m3 x e4m3 where the device has it (`torch._scaled_mm`), else cast on use
    fp8-cast       e4m3             cast on use
    int8           int8             cast on use
    int8-dynamic   int8             int8 x int8 with int32 sums (`torch._int_mm`)

Cast on use gives W = values * scale rounded to the activations' dtype: bit for bit what loading the same
file without quantization gives. The 8-bit products also round the activations, each token with a scale of
its own. Keys of a quantized layer are those of published scaled files: `weight`, `weight_scale`, `bias`.

Only the layers listed in docs/model/checkpoints.md, "8-bit weights", are ever 8-bit: queries, keys,
values and outputs of all attention, and both feed-forward layers, inside `transformer_blocks`. Gates,
timestep networks, in and out projections, norms, tables and the connectors stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from soundstage.errors import RequestError, WeightsError, listed
from soundstage.weights.read import VALUES_AT_ONCE
from soundstage.weights.storage import TARGET, Format, Scheme

Per = Literal["tensor", "row"]

FP8 = torch.float8_e4m3fn
FORMAT_DTYPES: dict[Format, torch.dtype] = {"fp8": FP8, "int8": torch.int8}
LARGEST: dict[Format, float] = {"fp8": 448.0, "int8": 127.0}
# e4m3 has 3 bits after the point and no exponent below -6: smaller numbers lie on the grid of 2^-9.
FP8_FRACTION_BITS, FP8_LEAST_EXPONENT = 3, -6
SMALLEST_SCALE = 1e-12  # of a row of zeros, which must not be divided by zero
MIN_ROWS_ON_CUDA = 17  # torch._int_mm on CUDA takes no fewer


class Quantized(NamedTuple):
    """A weight W = values * scale. values: (out, in) e4m3 or int8; scale: float32 (1, 1) or (out, 1)."""

    values: Tensor
    scale: Tensor

    @property
    def format(self) -> Format:
        return "int8" if self.values.dtype == torch.int8 else "fp8"

    @property
    def per(self) -> Per:
        return "tensor" if self.scale.numel() == 1 else "row"

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weight (out, in); only the product with the scale is rounded.

        In place with a wider scale: PyTorch computes in float32 and rounds once, with no copy between.
        """
        return _widened(self.values, dtype).mul_(self.scale)


def _widened(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values in a wide format, in memory of their own; e4m3 on a CPU two at once, from a table.

    So it takes less time than the cast, to the same bits, NaN of a damaged weight included.
    """
    flat = values.contiguous().flatten()
    if values.dtype != FP8 or values.device.type != "cpu" or flat.numel() % 2 or flat.storage_offset() % 2:
        return values.to(dtype)
    pairs = flat.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)
    return _wide_pairs().index_select(0, pairs).view(torch.bfloat16).view(values.shape).to(dtype)


@cache
def _wide_pairs() -> Tensor:
    """Return what every two neighbours in e4m3 are in bfloat16, (65536,) int32, by their 16 bits."""
    codes = torch.arange(1 << 16, dtype=torch.int32, device="cpu").to(torch.int16)
    return codes.view(torch.uint8).view(FP8).to(torch.bfloat16).view(torch.int32)


def quantize_weight(
    weight: Tensor, format: Format, per: Per = "row", *, generator: torch.Generator | None = None
) -> Quantized:
    """Symmetric: the largest absolute value of the tensor, or of each row, becomes the format's largest.

    weight: (out, in), any float dtype. generator: round up or down at random, so that changes smaller than
    half a step survive on average; None rounds to nearest.
    """
    wide = weight.detach().float()
    scale = scale_of(wide, format, per)
    return Quantized(rounded(wide / scale, format, generator), scale)


def quantize_rows(weight: Tensor, format: Format) -> Quantized:
    """`quantize_weight` with a scale per row, some rows at a time: little is taken besides the result."""
    rows = max(1, VALUES_AT_ONCE // max(1, weight.shape[1]))
    parts = [quantize_weight(weight[i : i + rows], format) for i in range(0, len(weight), rows)]
    return Quantized(torch.cat([p.values for p in parts]), torch.cat([p.scale for p in parts]))


def scale_of(wide: Tensor, format: Format, per: Per = "row") -> Tensor:
    """Return the scale that `quantize_weight` gives a float32 weight, the same bits on every device.

    CUDA divides by a number as by a product with its reciprocal, which is off by a bit in half of all scales
    of e4m3. A weight that is rounded on the host and one that is rounded on the device would then differ. It
    divides by a tensor as a CPU does.
    """
    largest = wide.abs().amax(dim=1, keepdim=True) if per == "row" else wide.abs().amax().view(1, 1)
    return (largest / largest.new_full((), LARGEST[format])).clamp_(min=SMALLEST_SCALE)


def rounded(x: Tensor, format: Format, generator: torch.Generator | None = None) -> Tensor:
    """x (float32, any shape) in the format, clamped to its range; at random if a generator is given.

    The expectation of a random rounding is x, and a value that the format holds stays as it is.
    """
    x = x.clamp(-LARGEST[format], LARGEST[format])
    if generator is not None:
        step = _fp8_step(x) if format == "fp8" else torch.ones((), device=x.device)
        noise = torch.rand(x.shape, generator=generator, device=generator.device).to(x.device)
        x = (x / step).add_(noise).floor_().mul_(step).clamp_(-LARGEST[format], LARGEST[format])
    elif format == "int8":
        x = x.round()
    return x.to(FORMAT_DTYPES[format])


def _fp8_step(x: Tensor) -> Tensor:
    """Distance of neighbours in e4m3 around each x, a power of two."""
    exponent = (torch.frexp(x).exponent - 1).clamp_(min=FP8_LEAST_EXPONENT)
    return torch.ldexp(torch.ones_like(x), exponent - FP8_FRACTION_BITS)


# --- what a layer computes beside its product ---------------------------------------------------------


class Rounding:
    """To 8 bits and back, in PyTorch's plain operators; `speed` puts faster ways on layers from outside."""

    def activations(self, x: Tensor, format: Format, scale: Tensor | None = None) -> Quantized:
        """Round x (n, in) with a scale per row, (n, 1), or the given (1, 1).

        Values beyond the range are clamped: in e4m3 unclamped ones become NaN.
        """
        scale = scale_of(x.float(), format) if scale is None else scale
        return Quantized(rounded(x / scale, format), scale)

    def weight(self, weight: Quantized, dtype: torch.dtype) -> Tensor:
        """Return values * scale, (out, in). What is returned may be overwritten by the next call."""
        return weight.dequantize(dtype)

    def rescaled(
        self, sums: Tensor, row_scale: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Return sums (n, out) int32 times both scales, (n, 1) and (out or 1, 1), plus bias (out,)."""
        product = (sums * row_scale).mul_(weight_scale.T).to(dtype)
        return product if bias is None else product.add_(bias)


PLAIN_ROUNDING = Rounding()


# --- the layer --------------------------------------------------------------------------------------


Product = Callable[..., Tensor]  # (x (..., in), weight (out, in), bias (out,) or None) -> (..., out)


def product_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU (tanh form) of a linear layer's result."""
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is 8-bit; the bias keeps its dtype.

    weight_scale: float32 (1, 1) or (out, 1). product, product_gelu: how a weight of full width is multiplied,
    which is exchanged from outside. input_scale: the file's scale of the activations for an fp8
    product, (1, 1), or None for one per token. native: multiply in 8 bits where the device can.
    """

    product: Product = staticmethod(F.linear)
    product_gelu: Product = staticmethod(product_gelu)
    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    input_scale: Tensor | None
    rounding: Rounding = PLAIN_ROUNDING

    def __init__(
        self,
        weight: Quantized,
        bias: Tensor | None,
        *,
        native: bool,
        input_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.values.shape
        self.native = native
        self.register_buffer("weight", weight.values)
        self.register_buffer("weight_scale", weight.scale)
        self.register_buffer("bias", bias)
        self.register_buffer("input_scale", input_scale)

    @property
    def quantized(self) -> Quantized:
        return Quantized(self.weight, self.weight_scale)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out), in x's dtype."""
        if torch.is_grad_enabled() and x.requires_grad:
            return _FrozenProduct.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]
        if not self._is_native(x):
            return self.product(x, self._weight(x), self.bias)
        rows = x.reshape(-1, self.in_features)
        is_int8 = self.weight.dtype == torch.int8
        return (self._int8_product(rows) if is_int8 else self._fp8_product(rows)).view(*x.shape[:-1], -1)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU (tanh form) of the layer's result, rounded where a layer of full weights rounds."""
        if not self._is_native(x) and not (torch.is_grad_enabled() and x.requires_grad):
            return self.product_gelu(x, self._weight(x), self.bias)
        return F.gelu(self(x), approximate="tanh")

    def _weight(self, x: Tensor) -> Tensor:
        """Return the weight in x's dtype, for use at once."""
        return self.rounding.weight(self.quantized, x.dtype)

    def _is_native(self, x: Tensor) -> bool:
        """Return whether this product is one of 8-bit numbers."""
        if not self.native or x.requires_grad:
            return False
        return self.weight.dtype == torch.int8 or (
            has_fp8_product(x.device) and _fits_fp8_product(self.weight)
        )

    def _fp8_product(self, x: Tensor) -> Tensor:
        """Return (n, in) -> (n, out). The bias is added within the product where the device can."""
        x8, x_scale = self.rounding.activations(x, "fp8", self.input_scale)
        within = self.bias is not None and self.bias.dtype == torch.bfloat16 == x.dtype
        within = within and has_fp8_product(x.device, bias=True)
        product = torch._scaled_mm(
            x8,
            self.weight.T,
            scale_a=x_scale.expand(len(x8), 1).contiguous(),
            scale_b=self.weight_scale.T.expand(1, self.out_features).contiguous(),
            bias=self.bias if within else None,
            out_dtype=torch.bfloat16,
        ).to(x.dtype)
        return product if within or self.bias is None else product.add_(self.bias)

    def _int8_product(self, x: Tensor) -> Tensor:
        """Return (n, in) -> (n, out), each token rounded with its own scale."""
        x8, x_scale = self.rounding.activations(x, "int8")
        missing = MIN_ROWS_ON_CUDA - len(x8)
        padded = F.pad(x8, (0, 0, 0, missing)) if missing > 0 else x8
        sums = torch._int_mm(padded, self.weight.T)[: len(x8)]
        return self.rounding.rescaled(sums, x_scale, self.weight_scale, self.bias, x.dtype)


class _FrozenProduct(torch.autograd.Function):
    """Multiply by a frozen weight, which is widened again for the gradient of x.

    PyTorch's own product would keep the wide weight until then, and so do all layers at once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x, layer._weight(x), layer.bias)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer._weight(grad), None


def _fits_fp8_product(weight: Tensor) -> bool:
    return all(size % 16 == 0 for size in weight.shape)


@cache
def has_fp8_product(device: torch.device, *, bias: bool = False) -> bool:
    """Return whether the device multiplies e4m3 with a scale per row: tried once, on a small product.

    bias: and adds one within. False on the CPU, where PyTorch's is slower than casting.
    """
    if device.type != "cuda":
        return False
    ones = torch.ones(32, 32, device=device).to(FP8)
    scale = torch.ones(32, 1, device=device)
    added = torch.ones(32, device=device, dtype=torch.bfloat16) if bias else None
    try:
        found = torch._scaled_mm(
            ones, ones.T, scale_a=scale, scale_b=scale.T, bias=added, out_dtype=torch.bfloat16
        )
    except RuntimeError:
        return False
    return bool((found == 32 + bias).all())


def from_stored(
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    *,
    input_scale: Tensor | None = None,
    native: bool = True,
    name: str = "weight",
) -> QuantizedLinear:
    """Return a layer around a weight as a file stores it, with no dequantizing.

    weight: (out, in) e4m3 or int8. scale: float32, one number or one per row; None is 1, which a plain
    cast has. input_scale: one number; exactly 1 is a placeholder, and activations are then scaled by what
    they are. name: for errors. Raises WeightsError for a dtype or scale of another kind.
    """
    if weight.dtype not in FORMAT_DTYPES.values() or weight.ndim != 2:
        raise WeightsError(
            f"'{name}' is {weight.dtype} {list(weight.shape)}; e4m3 or int8 with two axes is needed"
        )
    if scale is None and weight.dtype == torch.int8:
        raise WeightsError(f"'{name}' is int8 without a scale; get a file that has '{name}_scale'")
    scale = torch.ones(1, 1, device=weight.device) if scale is None else scale.detach().float()
    if scale.numel() not in (1, weight.shape[0]) or not (scale.isfinite() & (scale > 0)).all():
        raise WeightsError(
            f"the scale of '{name}' has the shape {list(scale.shape)}; "
            f"one positive number or {weight.shape[0]}, one per row, are needed"
        )
    if input_scale is not None:
        input_scale = None if float(input_scale) == 1 else input_scale.detach().float().reshape(1, 1)
    return QuantizedLinear(
        Quantized(weight.detach(), scale.reshape(-1, 1)), bias, native=native, input_scale=input_scale
    )


# --- models -----------------------------------------------------------------------------------------


def targets(module: nn.Module, skip: Sequence[str] = ()) -> dict[str, nn.Linear]:
    """Return the linear layers of a model that may be 8-bit, by name.

    skip: patterns of names to leave out, such as `transformer_blocks.0.*`.
    """
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear) and TARGET.match(name) and not _skipped(name, skip)
    }


def _skipped(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def quantize(module: nn.Module, scheme: Scheme, *, skip: Sequence[str] = (), per: Per = "row") -> list[str]:
    """Replace the linear layers that may be 8-bit, in place, and return their names.

    One layer at a time: at no time are there two copies of more than one weight. Works on the meta device,
    to build the structure of a quantized file. Do it before adapters are attached. Raises RequestError for
    an unknown scheme and for a pattern or model that leaves no layer to quantize.
    """
    _check_scheme(scheme)
    names = []
    for name, linear in targets(module, skip).items():
        put(module, name, quantized_linear(linear, scheme, per))
        names.append(name)
    if not names:
        raise RequestError(
            f"no layer of {type(module).__name__} is left to quantize (skip: {list(skip)}); "
            "pass a transformer, and skip fewer layers",
            field="quantize",
        )
    return names


def quantized_linear(linear: nn.Linear, scheme: Scheme, per: Per = "row") -> QuantizedLinear:
    """Return one layer, quantized; its bias is shared."""
    format: Format = "fp8" if scheme.startswith("fp8") else "int8"
    weight = quantize_weight(linear.weight, format, per)
    bias = None if linear.bias is None else linear.bias.detach()
    return QuantizedLinear(weight, bias, native=scheme in ("fp8", "int8-dynamic"))


def put(module: nn.Module, name: str, child: nn.Module) -> None:
    """Set the submodule of that name."""
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, child)


def _check_scheme(scheme: str) -> None:
    known = ("fp8", "fp8-cast", "int8", "int8-dynamic")
    if scheme not in known:
        raise RequestError(f"quantize is '{scheme}'; give one of {listed(scheme, known)}", field="quantize")
