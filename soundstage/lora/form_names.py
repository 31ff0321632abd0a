"""Names and shapes of changes that are no low-rank pair, by a file's header; see forms.py. Loads no torch.

Source: docs/model/checkpoints.md, "LoRA files".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from soundstage.errors import WeightsError
from soundstage.weights.entry import TensorEntry, WeightsFile

Form = Literal["LoKr", "LoHa", "difference"]

PART = re.compile(
    r"^(?P<module>.+?)\.(?P<part>lokr_w[12](_[ab])?|hada_w[12]_[ab]|diff)(\.default)?(\.weight)?$"
)
FACTORS = ("F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64")  # dtypes a factor may be stored in


@dataclass(frozen=True)
class FormNames:
    """Names of the tensors that change a module, in the order of forms.py; their shapes fit.

    sides: the names of each matrix, one or the two factors that it is the product of. rank: the largest that
    the change can have. divisor: what an alpha is divided by; None where no factor tells it.
    """

    form: Form
    sides: tuple[tuple[str, ...], ...]
    rank: int
    divisor: int | None
    magnitude: None = None


def form_of(file: WeightsFile, module: str, parts: Mapping[str, str]) -> FormNames:
    """Return the form of a module's change. parts: names of tensors by `PART`'s part.

    Raises WeightsError, naming file and module, for one that is incomplete or misshapen.
    """
    forms: set[str] = {part.partition("_")[0] for part in parts}
    if len(forms) > 1:
        raise WeightsError(f"{file.path} changes '{module}' twice, as {listed_parts(parts)}; get a good copy")
    if forms == {"diff"}:
        sides = matrix_sides(file, module, file.tensors[parts["diff"]])
        return FormNames("difference", ((parts["diff"],),), min(sides), None)
    if forms == {"lokr"}:
        first, second = (_side(file, module, parts, f"lokr_w{n}", whole=True) for n in (1, 2))
        return FormNames(
            "LoKr", (first.names, second.names), first.rank * second.rank, second.inner or first.inner
        )
    first, second = (_side(file, module, parts, f"hada_w{n}", whole=False) for n in (1, 2))
    if first.outer != second.outer:
        raise WeightsError(
            f"{file.path}: the two matrices of '{module}' do not fit: {list(first.outer)} and "
            f"{list(second.outer)}; get a good copy"
        )
    rank = min(*first.outer, first.rank * second.rank)
    return FormNames("LoHa", (first.names, second.names), rank, first.inner)


def listed_parts(parts: Mapping[str, str]) -> str:
    """Return the kinds of a module's tensors as text."""
    return ", ".join(sorted(parts))


def matrix_sides(file: WeightsFile, module: str, entry: TensorEntry) -> tuple[int, int]:
    """Return the two sides of a factor, also where it is written as a convolution of one pixel."""
    if entry.dtype not in FACTORS:
        raise WeightsError(
            f"{file.path}: '{module}' is stored as {entry.dtype}, which holds no low-rank factors; "
            "get the BF16 or F32 file"
        )
    if len(entry.shape) >= 2 and all(side == 1 for side in entry.shape[2:]):
        return entry.shape[0], entry.shape[1]
    raise WeightsError(
        f"{file.path}: '{module}' is stored with the shape {list(entry.shape)}; all layers that a LoRA can "
        "change in LTX-2.3 are linear, with two axes"
    )


@dataclass(frozen=True)
class _Side:
    """One matrix of a change. inner: the rank of its two factors, None for one given as a whole."""

    names: tuple[str, ...]
    outer: tuple[int, int]
    inner: int | None

    @property
    def rank(self) -> int:
        return min(*self.outer, self.inner or self.outer[0])


def _side(file: WeightsFile, module: str, parts: Mapping[str, str], name: str, *, whole: bool) -> _Side:
    """Return one matrix; whole: it may be one tensor. Raises WeightsError where it is incomplete."""
    if whole and name in parts:
        if f"{name}_a" in parts or f"{name}_b" in parts:
            raise WeightsError(
                f"{file.path}: '{module}' has {listed_parts(parts)}, {name} twice; get a good copy"
            )
        sides = matrix_sides(file, module, file.tensors[parts[name]])
        return _Side((parts[name],), sides, None)
    absent = [key for key in (f"{name}_a", f"{name}_b") if key not in parts]
    if absent:
        wanted = name if whole and len(absent) == 2 else absent[0]
        raise WeightsError(
            f"{file.path}: '{module}' has {listed_parts(parts)} but no {wanted}; get a complete file"
        )
    names = parts[f"{name}_a"], parts[f"{name}_b"]
    up, down = (matrix_sides(file, module, file.tensors[part]) for part in names)
    if up[1] != down[0] or up[1] == 0:
        raise WeightsError(
            f"{file.path}: {name} of '{module}' does not fit: {list(up)} needs [{up[1]}, in] where "
            f"{list(down)} is stored; get a good copy"
        )
    return _Side(names, (up[0], down[1]), up[1])
