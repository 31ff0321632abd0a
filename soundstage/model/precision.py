"""Float32 products that are float32, whatever the process has set.

cuDNN rounds the inputs of float32 convolutions to TF32 by default, and the calling program may have allowed
the same, or bfloat16, for matrix products (`torch.set_float32_matmul_precision`). In pictures this does not
show; the sound parts have over a hundred layers in series and lose 4 % of the result's norm, for no time
gained (measured on one H200; docs/gpu.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

EXACT = "ieee"

_lock = threading.Lock()
_depth = 0
_before: list[str] = []


def _settings() -> tuple[Any, ...]:
    """Return PyTorch's settings of float32 products; both of cuDNN's, which its old setting compares."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    return cudnn.conv, cudnn.rnn, backends.cuda.matmul, mkldnn.conv, mkldnn.matmul


@contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 products in float32 within the context.

    The settings are the process's: they are set by the first to enter and restored by the last to leave, so
    that threads and nested uses do not restore each other's.
    """
    global _depth
    with _lock:
        if _depth == 0:
            _before[:] = [setting.fp32_precision for setting in _settings()]
            for setting in _settings():
                setting.fp32_precision = EXACT
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                for setting, value in zip(_settings(), _before, strict=True):
                    setting.fp32_precision = value


def with_exact_products(function: Callable[P, R]) -> Callable[P, R]:
    """Have every call of a function run within `exact_products`."""

    @wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> R:
        with exact_products():
            return function(*args, **kwargs)

    return exact
