"""Fast paths of CUDA devices, put on a built transformer from outside.

    speed_up(transformer, torch.device("cuda"), torch.bfloat16)    # once, after loading and quantizing

`Fused` computes the arithmetic between a block's matrix products, `FusedRounding` the rounding around 8-bit
products, by the kernels of `speed.triton_kernels`. Each method is tried once on the device (`speed.trials`)
and left to plain PyTorch where Triton is missing, a kernel fails, or it is not faster. So is a call whose
shapes or formats do not fit, or with gradients or autocast.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from soundstage.model.arithmetic import PLAIN, Arithmetic, ModulationRows, use
from soundstage.model.attention import Attention
from soundstage.model.modulation import Modulation
from soundstage.model.rope import RopeTable, Rotation
from soundstage.speed.layers import watched
from soundstage.speed.trials import Probe, Trial, switched_off
from soundstage.weights.quantize import (
    FORMAT_DTYPES,
    PLAIN_ROUNDING,
    Quantized,
    QuantizedLinear,
    Rounding,
    quantize_weight,
)
from soundstage.weights.storage import Format

CUDA_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Tokens of a trial's tensors: enough for a device to show its bandwidth.
TRIAL_TOKENS = 2048

log = logging.getLogger("soundstage.speed")


def _kernels() -> Any:
    """Return the module of Triton's kernels, None where Triton is not installed or not usable."""
    try:
        from soundstage.speed import triton_kernels
    except Exception as error:  # a Triton for another Python or driver may raise anything
        log.debug("Triton is not usable: %s: %s", type(error).__name__, error)
        return None
    return triton_kernels


class _Fits:
    """Decide which tensors a kernel may take: on its device, in one format, without gradients or autocast."""

    def __init__(self, device_type: str, most_columns: int) -> None:
        self.device_type, self.most_columns = device_type, most_columns

    def __call__(self, x: Tensor, *others: Tensor | None) -> bool:
        tensors = [x, *(t for t in others if t is not None)]
        return (
            x.dtype in CUDA_DTYPES
            and x.shape[-1] <= self.most_columns
            and x.numel() > 0
            and all(t.device.type == self.device_type and t.dtype == x.dtype for t in tensors)
            and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
            and not torch.is_autocast_enabled(self.device_type)
        )


class Fused(Arithmetic):
    """Compute `Arithmetic` by fused kernels. on: names of the methods that use them."""

    METHODS = ("modulated_norms", "add_gated", "heads", "gate_heads", "linear_gelu")

    def __init__(self, kernels: Any, *, on: Collection[str] = METHODS, device_type: str = "cuda") -> None:
        self.kernels, self.on = kernels, frozenset(on)
        self._fits = _Fits(device_type, kernels.MOST_COLUMNS)

    def modulated_norms(
        self, x: Tensor, eps: float, rows: Modulation, places: Sequence[ModulationRows]
    ) -> tuple[Tensor, ...]:
        fits = "modulated_norms" in self.on and self._fits(x, rows.rows) and self._rows_fit(x, rows)
        if not fits or not 1 <= len(places) <= 2:
            return super().modulated_norms(x, eps, rows, places)
        made: tuple[Tensor, ...] = self.kernels.modulated_norms(
            x, rows.rows, rows.group_of, eps, tuple(places)
        )
        return made

    def add_gated(
        self, x: Tensor, rows: Modulation, row: int, h: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        fits = "add_gated" in self.on and self._fits(x, rows.rows, h) and self._rows_fit(x, rows)
        if not fits or h.shape != x.shape or not h.is_contiguous() or not _per_sample(keep, x):
            return super().add_gated(x, rows, row, h, keep)
        made: Tensor = self.kernels.add_gated(x, rows.rows, row, rows.group_of, h, keep)
        return made

    def heads(self, x: Tensor, norm: nn.RMSNorm, num_heads: int, rotation: Rotation | None) -> Tensor:
        if rotation is None or "heads" not in self.on or watched(norm) or norm.eps is None:
            return super().heads(x, norm, num_heads, rotation)
        cos, sin = rotation
        shape = (x.shape[1], num_heads, x.shape[2] // num_heads)
        whole = all(t.is_contiguous() for t in (x, norm.weight, cos, sin))
        whole = whole and tuple(cos.shape[1:]) == shape and cos.shape[0] in (1, x.shape[0])
        if not (whole and self._fits(x, norm.weight, cos, sin)):
            return super().heads(x, norm, num_heads, rotation)
        made: Tensor = self.kernels.rotated_heads(x, norm.weight, norm.eps, cos, sin)
        return made

    def gate_heads(self, heads: Tensor, logits: Tensor) -> Tensor:
        fits = "gate_heads" in self.on and self._fits(heads, logits)
        fits = fits and heads.shape[2] * heads.shape[3] <= self._fits.most_columns
        if not fits or heads.stride(-1) != 1 or not logits.is_contiguous():
            return super().gate_heads(heads, logits)
        made: Tensor = self.kernels.gate_heads(heads, logits)
        return made

    def linear_gelu(self, linear: nn.Module, x: Tensor) -> Tensor:
        """Compute GELU within the product, by cuBLASLt, for a layer of full weights without hooks."""
        if "linear_gelu" not in self.on or not isinstance(linear, nn.Linear) or watched(linear):
            return super().linear_gelu(linear, x)
        if linear.bias is None or not self._fits(x[..., :1], linear.weight[:1, :1], linear.bias[:1]):
            return super().linear_gelu(linear, x)
        flat = x.reshape(-1, x.shape[-1])
        made: Tensor = torch._addmm_activation(linear.bias, flat, linear.weight.T, use_gelu=True)
        return made.view(*x.shape[:-1], -1)

    def _rows_fit(self, x: Tensor, rows: Modulation) -> bool:
        table, groups = rows
        return (
            x.ndim == 3
            and x.is_contiguous()
            and table.shape[0] in (1, x.shape[0])
            and table.shape[-1] == x.shape[-1]
            and table.stride(-1) == 1
            and (table.shape[1] == 1 if groups is None else groups.is_contiguous())
        )


def _per_sample(keep: Tensor | None, x: Tensor) -> bool:
    """Return whether `keep` has one entry for each sample, in the form that the kernel reads."""
    return keep is None or (keep.numel() == x.shape[0] and keep.is_contiguous() and keep.device == x.device)


class _Kept(NamedTuple):
    """Hold the activations that were rounded last. key: identifies the numbers they were rounded from."""

    key: tuple[object, ...]
    storage: weakref.ref[Any]
    rounded: Quantized


class FusedRounding(Rounding):
    """Compute `Rounding` by fused kernels. on: names of the methods that use them.

    Queries, keys and values read the same activations: these are rounded once, and the result is dropped with
    them. Weights that are cast on use share one buffer on each CUDA stream.
    """

    METHODS = ("activations fp8", "activations int8", "weight fp8", "weight int8", "rescaled")

    def __init__(self, kernels: Any, *, on: Collection[str] = METHODS, device_type: str = "cuda") -> None:
        self.kernels, self.on = kernels, frozenset(on)
        self._fits = _Fits(device_type, kernels.MOST_COLUMNS)
        self._kept: _Kept | None = None
        self._buffers: dict[tuple[object, ...], Tensor] = {}

    def activations(self, x: Tensor, format: Format, scale: Tensor | None = None) -> Quantized:
        if f"activations {format}" not in self.on or not self._fits(x) or not x.is_contiguous():
            return super().activations(x, format, scale)
        if scale is not None or x.is_inference():  # its changes are not counted
            return Quantized(*self.kernels.quantize_rows(x, FORMAT_DTYPES[format], scale))
        key = (x.data_ptr(), x._version, tuple(x.shape), x.dtype, format)
        kept = self._kept
        if kept is None or kept.key != key or kept.storage() is None:
            made = Quantized(*self.kernels.quantize_rows(x, FORMAT_DTYPES[format]))
            kept = self._kept = _Kept(key, weakref.ref(x.untyped_storage(), self._forget), made)
        return kept.rounded

    def _forget(self, storage: object) -> None:
        if self._kept is not None and self._kept.storage is storage:
            self._kept = None

    def weight(self, weight: Quantized, dtype: torch.dtype) -> Tensor:
        values, scale = weight
        whole = values.is_contiguous() and scale.is_contiguous() and values.numel() > 0
        if f"weight {weight.format}" not in self.on or not whole or dtype not in CUDA_DTYPES:
            return super().weight(weight, dtype)
        if values.device.type != self._fits.device_type:
            return super().weight(weight, dtype)
        made: Tensor = self.kernels.dequantize(values, scale, self._buffer(values, dtype))
        return made

    def _buffer(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a buffer in the shape of a weight, the same for all: work on one CUDA stream is in order."""
        stream = torch.cuda.current_stream(values.device).cuda_stream if values.is_cuda else 0
        key = (values.device, stream, dtype)
        if key not in self._buffers or self._buffers[key].numel() < values.numel():
            with torch.inference_mode(False):
                self._buffers[key] = torch.empty(values.numel(), dtype=dtype, device=values.device)
        return self._buffers[key][: values.numel()].view(values.shape)

    def rescaled(
        self, sums: Tensor, row_scale: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        fits = "rescaled" in self.on and dtype in CUDA_DTYPES and sums.device.type == self._fits.device_type
        fits = fits and sums.is_contiguous() and (bias is None or bias.dtype == dtype) and sums.numel() > 0
        if not fits:
            return super().rescaled(sums, row_scale, weight_scale, bias, dtype)
        made: Tensor = self.kernels.rescale(sums, row_scale, weight_scale, bias, dtype)
        return made


# --- what of it a device takes ---------------------------------------------------------------------------


def speed_up(model: nn.Module, device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """Put the paths that are faster on this device on a transformer; return their names, sorted.

    model: as it will be used, 8-bit layers in place. Trials take its own widths; on a device that was tried
    before they are not made again.
    """
    kernels = _kernels() if device.type == "cuda" and not switched_off() else None
    if kernels is None or dtype not in CUDA_DTYPES:
        return ()
    probe = Probe.open(_machine(device))
    noise = _Noise(device, dtype)
    taken: list[str] = []
    shape = _Shape.of(model)
    if shape is not None:
        names = {name: f"{name}, {shape}, {dtype}" for name in Fused.METHODS}
        on = _taken(probe, names, lambda fused: _trials(fused, shape, noise), Fused(kernels))
        use(model, Fused(kernels, on=on))
        taken += on
    layers = [layer for layer in model.modules() if isinstance(layer, QuantizedLinear)]
    if layers:
        width = max(layer.in_features for layer in layers)
        names = {name: f"{name}, {width}, {dtype}" for name in FusedRounding.METHODS}
        on = _taken(probe, names, lambda r: _rounding_trials(r, width, noise), FusedRounding(kernels))
        set_rounding(layers, FusedRounding(kernels, on=on))
        taken += on
    return tuple(sorted(taken))


def set_rounding(layers: Iterable[QuantizedLinear], rounding: Rounding) -> None:
    """Set the rounding of 8-bit layers."""
    for layer in layers:
        layer.__dict__["rounding"] = rounding  # hides the class's own


Paths = TypeVar("Paths", Fused, FusedRounding)


def _taken(
    probe: Probe, names: Mapping[str, str], make: Callable[[Paths], dict[str, Runs]], fused: Paths
) -> list[str]:
    """Return the methods that a device takes. names: the trials' names; they are run only if one is new."""
    runs = {} if all(name in probe.found for name in names.values()) else make(fused)
    trials = {method: Trial(name, *runs.get(method, _NO_RUNS)) for method, name in names.items()}
    return [method for method, trial in trials.items() if probe.takes(trial)]


class Runs(NamedTuple):
    """Hold a method by plain operators and by kernels, on the same numbers."""

    plain: Callable[[], Tensor]
    fast: Callable[[], Tensor]


def _nothing() -> Tensor:
    raise AssertionError("a trial whose result is known is not run")


_NO_RUNS = Runs(_nothing, _nothing)


def _machine(device: torch.device) -> str:
    import triton

    name = torch.cuda.get_device_name(device)
    return f"{name}, torch {torch.__version__}, triton {triton.__version__}"


class _Shape(NamedTuple):
    """Hold the sizes of a model's widest attention."""

    width: int
    num_heads: int
    head_dim: int

    @classmethod
    def of(cls, model: nn.Module) -> _Shape | None:
        found = [part for part in model.modules() if isinstance(part, Attention)]
        if not found:
            return None
        widest = max(found, key=lambda part: part.q_norm.weight.shape[0])
        inner = widest.q_norm.weight.shape[0]
        return cls(widest.to_q.in_features, widest.num_heads, inner // widest.num_heads)

    def __str__(self) -> str:
        return f"width {self.width}, {self.num_heads} heads of {self.head_dim}"


class _Noise:
    """Draw random numbers, the same every time."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    def __call__(self, *sizes: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(sum(sizes))
        return torch.randn(sizes, generator=generator, device=self.device).to(self.dtype)


def _trials(fused: Fused, shape: _Shape, noise: _Noise) -> dict[str, Runs]:
    """Return every method of `Fused` on tokens of a model's widths, to be tried."""
    width, num_heads, head_dim = shape
    x, h, q = (noise(1, TRIAL_TOKENS, n) for n in (width, width, num_heads * head_dim))
    rows = Modulation(noise(1, 1, 3, width))
    angles = noise(1, TRIAL_TOKENS, num_heads, head_dim // 2).float()
    rotation = RopeTable(angles.cos(), angles.sin()).rotation(noise.dtype)
    place: dict[str, Any] = {"device": noise.device, "dtype": noise.dtype}
    norm = nn.RMSNorm(num_heads * head_dim, eps=1e-6, **place).requires_grad_(False)
    values, logits = noise(1, TRIAL_TOKENS, num_heads, head_dim), noise(1, TRIAL_TOKENS, num_heads)
    wide = nn.Linear(width, 4 * width, **place).requires_grad_(False)
    runs: dict[str, Callable[[Arithmetic], Tensor]] = {
        "modulated_norms": lambda a: a.modulated_norms(x, 1e-6, rows, (ModulationRows(1, 0),))[0],
        "add_gated": lambda a: a.add_gated(x, rows, 2, h),
        "heads": lambda a: a.heads(q, norm, num_heads, rotation),
        "gate_heads": lambda a: a.gate_heads(values, logits),
        "linear_gelu": lambda a: a.linear_gelu(wide, x),
    }
    return {name: Runs(partial(run, PLAIN), partial(run, fused)) for name, run in runs.items()}


def _rounding_trials(fused: FusedRounding, width: int, noise: _Noise) -> dict[str, Runs]:
    """Return every method of `FusedRounding` on tokens and a weight of a width, to be tried."""
    x = noise(TRIAL_TOKENS, width)
    weights = {format: quantize_weight(noise(1024, width), format) for format in FORMAT_DTYPES}
    sums = (noise(TRIAL_TOKENS, 1024) * 1000).to(torch.int32)
    row_scale, bias = noise(TRIAL_TOKENS, 1).float().abs(), noise(1024)

    def activations(rounding: Rounding, format: Format) -> Tensor:
        return rounding.activations(x.detach(), format).dequantize()

    def weight(rounding: Rounding, format: Format) -> Tensor:
        return rounding.weight(weights[format], noise.dtype)

    def rescaled(rounding: Rounding) -> Tensor:
        return rounding.rescaled(sums, row_scale, weights["int8"].scale, bias, noise.dtype)

    runs: dict[str, Callable[[Rounding], Tensor]] = {"rescaled": rescaled}
    for format in FORMAT_DTYPES:
        runs[f"activations {format}"] = partial(activations, format=format)
        runs[f"weight {format}"] = partial(weight, format=format)
    return {name: Runs(partial(run, PLAIN_ROUNDING), partial(run, fused)) for name, run in runs.items()}
