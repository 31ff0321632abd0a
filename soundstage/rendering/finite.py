"""Notice values that are not numbers before a film is made of them, and say where they came from.

Not-a-number and infinity spread: one such weight makes black frames and a sound that no encoder takes. Values
are looked at by their sum, which is finite only if all of them are: one number for each step and stream.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from soundstage.errors import NotFiniteError

SHOWN = {"video": "picture", "audio": "sound"}


def finite(values: Tensor) -> bool:
    """Return whether all values of a tensor are finite numbers. Waits for the device."""
    return bool(_flag(values))


def _flag(values: Tensor) -> Tensor:
    """(), True if all values are finite; on their device."""
    return torch.isfinite(values.detach().sum(dtype=torch.float32) if _sums(values) else values.float().sum())


def _sums(values: Tensor) -> bool:
    """Whether PyTorch adds up this format by itself; it does not for 8 bits."""
    return values.dtype.itemsize > 1


def _is_ready(values: Tensor) -> bool:
    """Whether the values are there without waiting."""
    return values.device.type == "cpu"


class Watch:
    """Watches the latents of one pass.

    Flags stay on the device until `check`, so that no step waits for the one before it. On a CPU there is
    nothing to wait for, and they are read at once. name: of the pass. cause: called when something is found,
    returns the likely cause and what to do.
    """

    def __init__(self, name: str, cause: Callable[[], str]) -> None:
        self._name, self._cause = name, cause
        self._steps: list[tuple[int, int]] = []
        self._flags: list[dict[str, Tensor]] = []

    def see(self, step: int, num_steps: int, *, video: Tensor | None, audio: Tensor | None) -> None:
        """Note the latents after a step, counted from 1; 0 is what the pass starts from."""
        seen = {name: x for name, x in (("video", video), ("audio", audio)) if x is not None}
        self._steps.append((step, num_steps))
        self._flags.append({name: _flag(x) for name, x in seen.items()})
        if all(_is_ready(x) for x in seen.values()):
            self.check()

    def check(self) -> None:
        """Raise NotFiniteError naming the first step whose latents were not finite."""
        noted = list(zip(self._steps, self._flags, strict=True))
        self._steps, self._flags = [], []
        for (step, num_steps), flags in noted:
            broken = [SHOWN[name] for name, is_finite in flags.items() if not is_finite]
            if broken:
                when = f"after step {step} of {num_steps}" if step else "before its first step"
                told = f"pass '{self._name}', {when}: the latents of {' and '.join(broken)} are not numbers"
                raise NotFiniteError(f"{told}; {self._cause()}", stage=self._name, step=step)


def checked(values: Tensor, what: str, cause: Callable[[], str]) -> Tensor:
    """Return the values. Raises NotFiniteError, "<what> is not a number", if some are not finite."""
    if not finite(values):
        raise NotFiniteError(f"{what} holds values that are not numbers; {cause()}", stage=what)
    return values
