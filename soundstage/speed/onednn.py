"""Faster ways for a model on the CPU, put on it after it is loaded: `apply(module, dtype)`.

    products   linear layers through oneDNN, with a GELU fused to them. PyTorch sends float32 products to MKL,
               which does not use AVX-512 on AMD. The layers change their class, their weights stay: names,
               adapters, streaming and 8-bit storage work as before.
    sigmoid    the same, but for the GELU, which is x sigmoid(2u): without AVX-512 tanh is slow.
    attention  by head in groups of queries, where PyTorch's flash kernel does not use the processor's units.
    rows       norms, modulation and rotation in groups of rows that stay in the core's cache; see rows.py.
    winograd   3x3x3 convolutions in float32 with fewer products; see winograd.py.


Each is tried once on a machine, see trials.py, and left out if it is not faster there. Training is not
changed (for it see learning.py): the plain way is taken where gradients or autocast are on, or a tensor is
not on the CPU.
SOUNDSTAGE_FAST_PATHS=off leaves all of them out.

Measured on one core, PyTorch 2.13, 1536 tokens of width 1024, in milliseconds, plain and fast
(on a machine with other work, so only roughly; the trials decide):

                                 AVX2 (Zen 4 held to it), float32
    feed-forward, first layer    224 -> 178     linear and GELU
    all products of a block      794 -> 757
    attention, 8 heads           144 -> 168     left out
    norm and modulation          5.6 -> 1.1
    norm and rotation            7.6 -> 2.6
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundstage.memory.machine import ISA_VARIABLES
from soundstage.model.arithmetic import PLAIN, Arithmetic, ModulationRows, use
from soundstage.model.attention import Attention
from soundstage.model.modulation import Modulation
from soundstage.model.rope import Rotation
from soundstage.speed import winograd
from soundstage.speed.layers import LayerArithmetic
from soundstage.speed.rows import CPU_DTYPES, RowArithmetic, even_share, gelu_by_rows, is_plain
from soundstage.speed.trials import Probe, Trial, switched_off
from soundstage.speed.winograd import WinogradConv3d
from soundstage.weights.quantize import Product, QuantizedLinear
from soundstage.weights.quantize import product_gelu as plain_gelu

# Queries are taken in groups whose logits, 2 MiB in float32, stay near the core. Fewer than MIN_ROWS would
# starve the products; below MIN_SCORES logits a head, the calls cost more than they save.
MAX_SCORES = 1 << 19
MIN_ROWS = 128
MIN_SCORES = 1 << 16
# Multiply-adds of a float32 product that oneDNN is worth calling for. Smaller ones are as fast in MKL, which
# gives the same bits on any number of threads (`steady`); oneDNN may split its sums otherwise.
MIN_PRODUCT = 1 << 27


def steady() -> None:
    """Make MKL give the same bits on any number of threads, unless the variable is set; before its first use.

    Its branch for this processor stays.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO")


class _OneThread:
    """Count the callers that compute on one thread now, and keep the number of threads before the first.

    PyTorch keeps the number for each thread that calls it, and gives a thread that is new the number that was
    set last by any, so that one which comes in between would go on with one for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers, self._before = 0, 1

    def __enter__(self) -> None:
        with self._lock:
            if self._callers == 0:
                self._before = torch.get_num_threads()
            self._callers += 1
            torch.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._callers -= 1
            torch.set_num_threads(self._before)


_ONE_THREAD = _OneThread()


def one_thread(device: torch.device) -> AbstractContextManager[None]:
    """Compute on one thread of the CPU, nothing on other devices; then on as many as before.

    oneDNN's convolutions of few channels sum in another order on another number of threads. The sound is a
    small part of a clip's work, so that it can be made on one, and has the same bits everywhere.
    """
    return _ONE_THREAD if device.type == "cpu" else nullcontext()


def apply(module: nn.Module, dtype: torch.dtype) -> frozenset[str]:
    """Put the ways that are faster on this CPU in a format on a built model; return their names.

    The module may be on the meta device, its weights streamed or read later: only what computes is changed.
    """
    if switched_off() or dtype not in CPU_DTYPES:
        return frozenset()
    found = _passing(dtype)
    put_on(module, found)
    return found


def put_on(module: nn.Module, names: frozenset[str]) -> None:
    """Put the named ways on a module, tried or not."""
    for name in KINDS.keys() & names:
        _exchange_products(module, KINDS[name])
        use(module, LAYERS)
    if "attention" in names:
        for part in module.modules():
            if isinstance(part, Attention) and part.kernel is F.scaled_dot_product_attention:
                part.kernel = attention
    if "rows" in names:
        use(module, ROWS)
    if "winograd" in names:
        for part in module.modules():
            if winograd.is_suited(part):
                part.__class__ = WinogradConv3d


def _exchange_products(module: nn.Module, kind: type[OneDnnLinear]) -> None:
    for part in module.modules():
        if isinstance(part, QuantizedLinear):
            part.product, part.product_gelu = kind.product, kind.product_gelu
        elif type(part) is nn.Linear:
            part.__class__ = kind


LAYERS, ROWS = LayerArithmetic(), RowArithmetic()

# --- products ------------------------------------------------------------------------------------------


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x (..., in) times weight (out, in), plus bias (out,): (..., out)."""
    if not _fits(x, weight, bias):
        return F.linear(x, weight, bias)
    return product(x.contiguous(), weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return GELU (tanh form) of `linear`."""
    if not _fits(x, weight, bias):
        return F.gelu(F.linear(x, weight, bias), approximate="tanh")
    return product(x.contiguous(), weight, bias, "gelu", "tanh")


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    large = x.dtype != torch.float32 or x.numel() * len(weight) >= MIN_PRODUCT
    return large and is_plain(x, weight, bias) and weight.is_contiguous()


def linear_sigmoid_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `linear_gelu`, with the GELU by `gelu_by_rows`."""
    product = linear(x, weight, bias)
    return gelu_by_rows(product) if is_plain(x, weight, bias) else F.gelu(product, approximate="tanh")


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, after: str = "none", form: str = ""
) -> Tensor:
    """Multiply by oneDNN. All contiguous: for others it takes a reference kernel, a hundred times slower."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], form)  # type: ignore[no-any-return]


class ProductLinear(nn.Linear):
    """Multiply as nn.Linear does, by a product that is exchanged from outside."""

    product: Product = staticmethod(F.linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight, self.bias)


class OneDnnLinear(ProductLinear):
    """Multiply by `linear`. gelu: GELU (tanh form) of the layer's result."""

    product = staticmethod(linear)
    product_gelu = staticmethod(linear_gelu)

    def gelu(self, x: Tensor) -> Tensor:
        return self.product_gelu(x, self.weight, self.bias)


class SigmoidLinear(OneDnnLinear):
    """Multiply as OneDnnLinear does, with the other GELU."""

    product_gelu = staticmethod(linear_sigmoid_gelu)


KINDS: dict[str, type[OneDnnLinear]] = {"products": OneDnnLinear, "sigmoid": SigmoidLinear}

# --- attention -----------------------------------------------------------------------------------------


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute attention as PyTorch does, by head where there is enough to do; an `AttentionKernel`."""
    if queries.shape[2] * keys.shape[2] >= MIN_SCORES and is_plain(queries, keys, values, bias):
        return attention_by_head(queries, keys, values, bias)
    return F.scaled_dot_product_attention(queries, keys, values, bias)


def attention_by_head(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Compute attention head by head, in groups of queries.

    Logits are float32 in both formats; rounded to bfloat16 they would cost 1 % of the result's norm.
    """
    batch, num_heads, length, head_dim = queries.shape
    num_keys = keys.shape[2]
    rows = even_share(length, max(MIN_ROWS, MAX_SCORES // num_keys))  # a product reorders all the keys
    if bias is not None:
        bias = bias.expand(batch, num_heads, length, num_keys)
    out = torch.empty_like(queries)
    for sample in range(batch):
        columns = values[sample].transpose(1, 2).contiguous()  # (H, d, M)
        for head in range(num_heads):
            q = queries[sample, head].float().contiguous() * head_dim**-0.5
            k = keys[sample, head].float().contiguous()
            for start in range(0, length, rows):
                chosen = slice(start, start + rows)
                logits = product(q[chosen], k)
                if bias is not None:
                    logits += bias[sample, head, chosen]
                weights = torch.softmax(logits, dim=-1).to(values.dtype)
                out[sample, head, chosen] = product(weights, columns[head])
    return out


# --- trials --------------------------------------------------------------------------------------------

WIDTH, TOKENS, HEADS, HEAD_DIM = 768, 256, 4, 64
ROW_WIDTH, ATTENTION_TOKENS = 1024, 768
CHANNELS = 128
EPS = 1e-6
HELD_BACK = (*ISA_VARIABLES, "ATEN_CPU_CAPABILITY")
TrialPair = tuple[Callable[[], Tensor], Callable[[], Tensor]]  # the plain way and the fast one


def _passing(dtype: torch.dtype) -> frozenset[str]:
    """Return the ways that are faster here; of the two for products, the faster one."""
    probe = Probe.open(machine())

    def takes(name: str, make: Callable[[], TrialPair]) -> bool:
        pair = cache(make)  # tensors are made if the trial is, and once
        trial = Trial(f"{name}, {dtype}", lambda: pair()[0](), lambda: pair()[1](), alone=True)
        return probe.takes(trial)

    found = {
        name
        for name, make in (("attention", _attentions), ("rows", _norms))
        if takes(name, partial(make, dtype))
    }
    if dtype == torch.float32 and takes("winograd", _convolutions):
        found.add("winograd")
    usual = plain_gelu
    if dtype == torch.float32 and takes("sigmoid", lambda: _products(dtype, plain_gelu, linear_sigmoid_gelu)):
        usual = linear_sigmoid_gelu
    if takes(f"products after {usual.__name__}", lambda: _products(dtype, usual, linear_gelu)):
        found.add("products")
    elif usual is not plain_gelu:
        found.add("sigmoid")
    return frozenset(found)


def machine() -> str:
    """Return all that decides which kernels are used: processor, library and limiting variables."""
    held = [f"{name}={os.environ[name]}" for name in HELD_BACK if name in os.environ]
    capability = torch.backends.cpu.get_cpu_capability()
    return ", ".join((f"cpu {_processor()}", capability, f"torch {torch.__version__}", *held))


@cache
def _processor() -> str:
    """Return the processor's name and a digest of its features, where the system states them."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or platform.machine()
    first = path.read_text(errors="replace").split("\n\n")[0].splitlines()
    told = dict(line.replace("\t", "").split(":", 1) for line in first if ":" in line)
    features = told.get("flags", told.get("Features", ""))
    name = told.get("model name", platform.machine()).strip()
    return f"{name} {hashlib.sha256(features.encode()).hexdigest()[:8]}"


def noise(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def _products(dtype: torch.dtype, usual: Product, gelu: Product) -> TrialPair:
    """Return a feed-forward with the usual GELU and with another."""
    inner = 4 * WIDTH
    x, weight = noise(dtype, TOKENS, WIDTH), noise(dtype, inner, WIDTH) * WIDTH**-0.5
    back, bias = noise(dtype, WIDTH, inner), noise(dtype, inner)

    outer = F.linear if usual is plain_gelu else linear
    return lambda: outer(usual(x, weight, bias), back), lambda: linear(gelu(x, weight, bias), back)


def _attentions(dtype: torch.dtype) -> TrialPair:
    q, k, v = (noise(dtype, 1, ATTENTION_TOKENS, HEADS, HEAD_DIM + i)[..., :HEAD_DIM] for i in range(3))
    q, k, v = (t.contiguous().transpose(1, 2) for t in (q, k, v))
    return lambda: F.scaled_dot_product_attention(q, k, v), lambda: attention_by_head(q, k, v, None)


def _convolutions() -> TrialPair:
    """Return a convolution of the decoder's middle, plain and by Winograd."""
    x, weight = (
        noise(torch.float32, *shape) for shape in ((1, CHANNELS, 5, 32, 32), (CHANNELS, CHANNELS, 3, 3, 3))
    )
    padded = F.pad(x, (1, 1, 1, 1))[0]
    return (
        lambda: F.conv3d(x, weight, padding=winograd.PADDING)[0],
        lambda: winograd.convolved(padded, weight, None),
    )


def _norms(dtype: torch.dtype) -> TrialPair:
    """Return a modulated norm and rotated heads, plain and by rows."""
    shape = 1, ATTENTION_TOKENS, HEADS, ROW_WIDTH // HEADS
    x, rows = noise(dtype, *shape).flatten(2), Modulation(noise(dtype, 1, 1, 2, ROW_WIDTH))
    turns, norm = (
        Rotation(noise(dtype, *shape), -noise(dtype, *shape)),
        nn.RMSNorm(ROW_WIDTH, eps=EPS).to(dtype),
    )

    def run(arithmetic: Arithmetic) -> Tensor:
        (entry,) = arithmetic.modulated_norms(x, EPS, rows, [ModulationRows(0, 1)])
        return arithmetic.heads(entry, norm, HEADS, turns)

    return lambda: run(PLAIN), lambda: run(ROWS)


OTHERS: dict[str, Callable[[torch.dtype], TrialPair]] = {"attention": _attentions, "rows": _norms}
