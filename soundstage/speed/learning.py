"""Products of a training on the CPU by oneDNN, there and back: `let_learn(module)`.

PyTorch sends float32 products to MKL, which does not use AVX-512 on AMD. They are tried once on a machine,
see trials.py, and left out if they are not faster there. In bfloat16 PyTorch calls oneDNN itself.

One core of a Zen 5, PyTorch 2.13, 256 tokens through a layer of 512 to 512, in milliseconds, plain and here:
the product 1.2 -> 0.55, the gradients of its input 1.2 -> 0.67.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from soundstage.speed.onednn import TOKENS, WIDTH, ProductLinear, machine, noise, product
from soundstage.speed.rows import is_plain
from soundstage.speed.trials import Probe, Trial, switched_off
from soundstage.weights.quantize import Product, QuantizedLinear

# Multiply-adds of a product that oneDNN is worth calling for. Its bits need be the same on one number of
# threads only.
MIN_LEARNING = 1 << 22


def let_learn(module: nn.Module) -> bool:
    """Put products with gradients on the layers of a built model, where they are faster; return whether."""
    takes = not switched_off() and Probe.open(machine()).takes(_learning_trial())
    if takes:
        learn(module)
    return takes


def learn(module: nn.Module) -> None:
    """Put products with gradients on a module, tried or not. Its inference stays as it is, to the bit."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = ProductLinear
        if isinstance(part, ProductLinear | QuantizedLinear):
            own = part.product
            part.product = own if isinstance(own, _Learning) else _Learning(own)


class _Learning:
    """Multiply by oneDNN while gradients are wanted and it is worth a call, else by a layer's own product."""

    def __init__(self, own: Product) -> None:
        self.own = own

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if _learns(x, weight, bias):
            return LearningProduct.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call]
        return self.own(x, weight, bias)


def _learns(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether a product of a training is worth calling oneDNN for: a float32 one of some size."""
    given = [t for t in (x, weight, bias) if t is not None]
    return (
        torch.is_grad_enabled()
        and x.dtype == torch.float32
        and x.numel() * len(weight) >= MIN_LEARNING
        and weight.is_contiguous()
        and is_plain(*(t.detach() for t in given))
    )


class LearningProduct(torch.autograd.Function):
    """Multiply by oneDNN there and back. It keeps x only where the weight is trained.

    Its weight has to lie in rows: turned for the way back, in a copy that lives as long as the product.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return product(x.contiguous(), weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            product(grad.contiguous(), weight.T.contiguous()) if of_x else None,
            product(rows.T.contiguous(), x.flatten(0, -2).T.contiguous()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _learning_trial() -> Trial:
    """Return the trial of a layer's product with the gradients of its input, as most of a LoRA's are."""
    x, weight, grad = (
        noise(torch.float32, *shape) for shape in ((TOKENS, WIDTH), (WIDTH, WIDTH), (TOKENS, WIDTH))
    )

    def there_and_back(multiply: Product) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            own = x.clone().requires_grad_()
            made = multiply(own, weight)
            (found,) = torch.autograd.grad(made, own, grad)
        return torch.cat([made.detach(), found])

    fast = _Learning(F.linear)
    name = f"products with gradients, {torch.float32}"
    return Trial(name, lambda: there_and_back(F.linear), lambda: there_and_back(fast), alone=True)
