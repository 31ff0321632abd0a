"""Why values of a run stopped being numbers, as far as the parts can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soundstage.rendering.parts import Parts

# A LoRA that changes the weights by more than their own size is not one that was trained.
LARGEST_CHANGE = 1.0


def likely_cause(parts: Parts) -> str:
    """Return what made values stop being numbers, as far as can be found out, and what to do."""
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
