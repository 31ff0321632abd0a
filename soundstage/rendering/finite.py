"""Find values that are not numbers before they reach the clip, and name the likely cause.

Not-a-number and infinity spread: one such weight makes black frames and a sound that no encoder takes. Values
are looked at by their sum, which is finite only if all of them are: one number per step and modality.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from soundstage.errors import NotFiniteError

if TYPE_CHECKING:
    from soundstage.rendering.parts import ModelParts

SHOWN = {"video": "picture", "audio": "sound"}
# A LoRA that changes the weights by more than their own size is not one that was trained.
LARGEST_CHANGE = 1.0


def finite(values: Tensor) -> bool:
    """Return whether all values of a tensor are finite numbers. Waits for the device."""
    return bool(_flag(values))


def _flag(values: Tensor) -> Tensor:
    """Return (), True if all values are finite; it stays on their device."""
    return torch.isfinite(values.detach().sum(dtype=torch.float32) if _sums(values) else values.float().sum())


def _sums(values: Tensor) -> bool:
    """Return whether PyTorch adds up values in this format; it does not for 8 bits."""
    return values.dtype.itemsize > 1


def _is_ready(values: Tensor) -> bool:
    """Return whether the values can be read without waiting for a device."""
    return values.device.type == "cpu"


class Watch:
    """Checks the latents of one pass after each of its steps.

    Flags stay on the device until `check`, so that no step waits for the one before it. On a CPU there is
    nothing to wait for, and they are read at once.

    name: the pass's name. parts: asked for the likely cause when something is found.
    """

    def __init__(self, name: str, parts: ModelParts) -> None:
        self._name, self._parts = name, parts
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
                raise NotFiniteError(f"{told}; {likely_cause(self._parts)}", stage=self._name, step=step)


def checked(values: Tensor, what: str, parts: ModelParts) -> Tensor:
    """Return the values. Raises NotFiniteError, "<what> holds values that are not numbers", if some are not.

    parts: the parts that made them, asked for the likely cause.
    """
    if not finite(values):
        raise NotFiniteError(f"{what} holds values that are not numbers; {likely_cause(parts)}", stage=what)
    return values


def likely_cause(parts: ModelParts) -> str:
    """Return why values stopped being numbers, as far as can be found out, and what to do."""
    damaged = parts.damaged()
    if damaged is not None:
        return f"the weight {damaged} holds such values: its file is damaged, get a good copy"
    run = parts.adaptation
    used = {use.path: use.strength for use in run.loras if use.strength}
    for path, strength in used.items():
        change = max((abs(c or 0.0) for c in run.attached[path].report.change.values()), default=0.0)
        if change * abs(strength) > LARGEST_CHANGE:
            return (
                f"the LoRA {path} at strength {strength:g} changes the weights by "
                f"{change * abs(strength):.3g} times their size: give a lower strength, or another file"
            )
    if used:
        return f"it may be the LoRA {', '.join(used)}: give a lower strength, or leave it out"
    if parts.storage != "full":
        return f"it may be the weights held as {parts.storage}: try weights 'full'"
    return (
        "numbers grew beyond what the format holds: give less guidance, or try dtype 'float32' and weights "
        "'full'"
    )
