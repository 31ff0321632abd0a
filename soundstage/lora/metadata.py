"""Headers of LoRA files: pairs of tensors and their ranks, and the references of the training.

A plan refuses an unusable file here, before any weight is read. Loads no torch.

Source: docs/model/checkpoints.md, "LoRA files" and "LoRA metadata".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, get_args

from soundstage.errors import WeightsError
from soundstage.lora.form_names import FACTORS, PART, FormNames, form_of, listed_parts, matrix_sides
from soundstage.types import Exchange
from soundstage.weights.entry import WeightsFile
from soundstage.weights.foreign import is_first_ltx, other_model, quantizer_of
from soundstage.weights.header import read_header
from soundstage.weights.layouts import listing

PAIR = re.compile(r"^(?P<module>.+?)[._]lora[._](?P<side>A|B|down|up)(\.\w+?)?(\.weight)?$")
ALPHA = re.compile(r"^(?P<module>.+)\.alpha$")
MAGNITUDE = re.compile(r"^(?P<module>.+)\.(dora_scale|lora_magnitude_vector)(\.\w+?)?(\.weight)?$")
IS_DOWN = {"A": True, "down": True, "B": False, "up": False}

# Other ways to change a weight, by the names of their tensors.
OTHER_KINDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\.(lokr_t|hada_t)"), "LoKr or LoHa of convolutions"),
    (re.compile(r"\.oft_|\.oft_blocks|\.boft_"), "OFT"),
    (re.compile(r"\.ia3_l$|\.on_input$"), "IA3"),
    (re.compile(r"\.[ab][12]\.weight$"), "GLoRA"),
    (re.compile(r"\.vera_lambda_"), "VeRA"),
    (re.compile(r"\.[qp]_layer\.weight$|\.lambda_layer$"), "T-LoRA"),
    (re.compile(r"\.lora_B\.(\w+\.)?bias$|\.diff_b$"), "changes of biases"),
    (re.compile(r"\.set_weight$"), "whole weights instead of changes"),
)
WHOLE_WEIGHT = (".to_q.weight", ".q_proj.weight", ".qkv.weight")  # of models, as the attention's are named
# Tensors that some adapters have for their own conditioning: kept apart, applied by no layer.
COMPANIONS = re.compile(r"slot_?emb|(^|[._])emb(eddings?)?$", re.IGNORECASE)

DOWNSCALE_NAMES = ("reference_downscale_factor", "reference_spatial_scale_factor")
TEMPORAL_NAME = "reference_temporal_scale_factor"
PEFT_SETTINGS = "lora_adapter_metadata"
EXCHANGE_NAME = "reference_exchange"
TOKEN_ORDER_NAME = "reference_token_order"
TRIGGER_NAMES = ("trigger_phrase", "trigger_word", "trigger", "modelspec.trigger_phrase")
HALF_SIZE = "ref0.5"


# --- pairs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairNames:
    """Names of the two tensors that change a module; their shapes fit. rank: the inner dimension.

    magnitude: name of a DoRA's magnitudes, one for each row of the weight.
    """

    down: str
    up: str
    rank: int
    magnitude: str | None = None


@dataclass(frozen=True)
class LoraNames:
    """Names of a LoRA file's tensors. pairs, alphas: by module, as the file spells it.

    pairs: low-rank pairs, and changes of other forms.
    """

    pairs: Mapping[str, PairNames | FormNames]
    alphas: Mapping[str, str]
    companions: tuple[str, ...]

    def shape(self, file: WeightsFile, module: str) -> tuple[int, int]:
        """Return the shape of the weight that a module's change is for, (out, in), by the file's header."""
        pair = self.pairs[module]
        sides = pair.sides if isinstance(pair, FormNames) else ((pair.up, pair.down),)
        outer = [(file.tensors[side[0]].shape[0], file.tensors[side[-1]].shape[1]) for side in sides]
        if isinstance(pair, FormNames) and pair.form == "LoKr":
            return outer[0][0] * outer[1][0], outer[0][1] * outer[1][1]
        return outer[0]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return what the changes are: LoRA, DoRA, LoKr, LoHa, difference."""
        found = {
            pair.form if isinstance(pair, FormNames) else "DoRA" if pair.magnitude else "LoRA"
            for pair in self.pairs.values()
        }
        return tuple(sorted(found))


def read_names(file: WeightsFile) -> LoraNames:
    """Sort the tensors of a LoRA file into pairs, alphas and companions.

    Raises WeightsError, naming the file and the tensor, for a file that is no LoRA, is one of another kind
    (OFT, IA3, ...) or of another model, and for a pair that is incomplete, misshapen or no matrices of
    floating-point numbers.
    """
    refusal = lora_refusal(file)
    if refusal is not None:
        raise WeightsError(refusal)
    found = _sorted_out(file)
    pairs: dict[str, PairNames | FormNames] = {
        module: _pair(file, module, names, found.magnitudes.get(module))
        for module, names in found.sides.items()
    }
    pairs |= {module: form_of(file, module, parts) for module, parts in found.parts.items()}
    return LoraNames(pairs, found.alphas, tuple(found.companions))


def lora_refusal(file: WeightsFile) -> str | None:
    """Return why a file as a whole cannot be used as a LoRA; None for one that can."""
    for name in file.tensors:
        for pattern, kind in OTHER_KINDS:
            if pattern.search(name):
                return f"{file.path} holds {kind} ('{name}'), which is not applied here; get a plain LoRA"
    if (quantizer := quantizer_of(file)) is not None:
        return f"{file.path} is quantized with {quantizer[0]} ('{quantizer[1]}'); get the LoRA in BF16"
    if not any(PAIR.match(name) or PART.match(name) for name in file.tensors):
        if any(name.endswith(WHOLE_WEIGHT) for name in file.tensors):
            return (
                f"{file.path} is not a LoRA but a whole model; give it as the model, or make a LoRA of what "
                f"it changes by `soundstage lora extract BASE {file.path} --rank 64 -o FILE`"
            )
        shown = listing(sorted(file.tensors)[:3]) or "it has none"
        return (
            f"{file.path} is not a LoRA: none of its {len(file.tensors)} tensors changes a layer ({shown}); "
            "pass a LoRA file"
        )
    if file.metadata.get("model_version", "").startswith("2.5"):
        return f"{file.path} is a LoRA of LTX-2.5; this engine runs LTX-2.3"
    other = other_model(file.tensors)
    if is_first_ltx({name: entry.shape for name, entry in file.tensors.items()}):
        other = "LTX-Video 0.9"
    if other is not None:
        example = next(iter(sorted(file.tensors)))
        return f"{file.path} is a LoRA of {other} ('{example}'); this engine runs LTX-2.3, get a LoRA of it"
    return None


@dataclass(frozen=True)
class _Sorted:
    """Names of a file's tensors by module.

    sides: the two of each pair, True for down. parts: by `PART`'s names, of other forms.
    """

    sides: dict[str, dict[bool, str]] = field(default_factory=dict)
    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    alphas: dict[str, str] = field(default_factory=dict)
    magnitudes: dict[str, str] = field(default_factory=dict)
    companions: list[str] = field(default_factory=list)


def _sorted_out(file: WeightsFile) -> _Sorted:
    """Sort tensors by their names. Raises WeightsError for one that is there twice, or belongs to nothing."""
    found, strays = _Sorted(), list[str]()
    for name in file.tensors:
        if match := PAIR.match(name):
            _put(file, found.sides, match["module"], IS_DOWN[match["side"]], name)
        elif match := PART.match(name):
            _put(file, found.parts, match["module"], match["part"], name)
        elif match := ALPHA.match(name):
            found.alphas[match["module"]] = name
        elif match := MAGNITUDE.match(name):
            found.magnitudes[match["module"]] = name
        elif COMPANIONS.search(name):
            found.companions.append(name)
        else:
            strays.append(name)
    for module, parts in found.parts.items():
        told = f"{file.path} changes '{module}' by {listed_parts(parts)}"
        if module in found.sides:
            raise WeightsError(f"{told} and by a pair; get a file with one of them")
        if module in found.magnitudes:
            raise WeightsError(f"{told} with magnitudes (DoRA), which is not applied here; get one without")
    _check_rest(
        file, [*found.sides, *found.parts], {"an alpha": found.alphas, "magnitudes": found.magnitudes}, strays
    )
    return found


Key = TypeVar("Key")


def _put(file: WeightsFile, modules: dict[str, dict[Key, str]], module: str, key: Key, name: str) -> None:
    """Note a tensor of a module. Raises WeightsError where there is one already."""
    found = modules.setdefault(module, {})
    if key in found:
        raise WeightsError(f"{file.path} holds '{name}' under two names; get a file with one spelling")
    found[key] = name


def _check_rest(
    file: WeightsFile, sides: Iterable[str], beside: Mapping[str, Mapping[str, str]], strays: Iterable[str]
) -> None:
    """Refuse tensors that belong to no pair. beside: what stands beside pairs, by what it is and module."""
    if strays := list(strays):
        raise WeightsError(
            f"{file.path} holds tensors that are not low-rank pairs: {listing(strays)}; "
            "it needs more than a LoRA's changes, get a plain LoRA"
        )
    for what, names in beside.items():
        if orphans := sorted(set(names) - set(sides)):
            raise WeightsError(
                f"{file.path} has {what} but no pair for {listing(orphans)}; get a complete file"
            )
    for name in beside["an alpha"].values():
        entry = file.tensors[name]
        if entry.num_params != 1:
            raise WeightsError(
                f"{file.path}: '{name}' has the shape {list(entry.shape)}; alpha is one number, "
                "get a good copy"
            )


def _pair(file: WeightsFile, module: str, names: Mapping[bool, str], magnitude: str | None) -> PairNames:
    if len(names) == 1:
        there, absent = ("lora_A", "lora_B") if True in names else ("lora_B", "lora_A")
        raise WeightsError(f"{file.path}: '{module}' has {there} but no {absent}; get a complete file")
    down, up = (matrix_sides(file, module, file.tensors[names[is_down]]) for is_down in (True, False))
    if down[0] == up[1] and down[0] > 0:
        _check_magnitude(file, magnitude, up[0], down[1])
        return PairNames(names[True], names[False], down[0], magnitude)
    if down[1] == up[0]:
        raise WeightsError(
            f"{file.path}: the pair of '{module}' is stored transposed, {list(down)} and {list(up)} where "
            "[rank, in] and [out, rank] are needed; write it again with both factors transposed"
        )
    raise WeightsError(
        f"{file.path}: the pair of '{module}' does not fit: {list(down)} needs "
        f"[out, {down[0]}] where {list(up)} is stored; get a good copy"
    )


def _check_magnitude(file: WeightsFile, name: str | None, num_rows: int, num_columns: int) -> None:
    """Refuse magnitudes that are not one for each row of the weight."""
    if name is None:
        return
    shape, dtype = file.tensors[name].shape, file.tensors[name].dtype
    if shape in ((num_rows,), (num_rows, 1)) and dtype in FACTORS:
        return
    if shape == (1, num_columns):
        raise WeightsError(
            f"{file.path} holds DoRA with a magnitude for each column ('{name}', {list(shape)}), which is "
            "not applied here; get one with a magnitude for each row"
        )
    raise WeightsError(
        f"{file.path}: '{name}' is {dtype} {list(shape)} where the magnitudes of {num_rows} rows are needed; "
        "get a good copy"
    )


# --- what it was trained with ----------------------------------------------------------------------


@dataclass(frozen=True)
class LoraReferences:
    """The references that a LoRA was trained with. The defaults hold where its header says nothing."""

    downscale: int = 1  # the output's size over the reference's, on each side
    temporal: int = 1  # one of so many reference frames is kept
    in_context: bool = False  # it was trained with references
    hdr: str | None = None  # the transform of an HDR LoRA, "logc3"
    exchange: Exchange = "all"  # which references take part in the attention between picture and sound
    slots: tuple[str, ...] = ()  # names of embeddings that mark its references, which are not applied here
    token_order: str | None = None  # the order of its references' tokens, which is not followed here

    def refusal(self, source: str) -> str | None:
        """Return why a LoRA's references could not be told apart; None where they can."""
        marks = [*self.slots, *([f"{TOKEN_ORDER_NAME} {self.token_order}"] if self.token_order else [])]
        if not marks:
            return None
        return (
            f"{source} marks its references by slot embeddings or an order of tokens ({listing(marks)}), "
            "which are not applied here, so it would not do what it was trained for; use another adapter, or "
            f"`soundstage lora strip {source} --slots -o FILE` to do without the marks"
        )


def read_references(path: str | Path) -> LoraReferences:
    """Read what a LoRA's header says of references.

    Raises WeightsError for a file whose header shows that it is no plain LoRA of LTX-2.3, or damaged.
    """
    file = read_header(path)
    return lora_references(file, read_names(file))


def lora_references(file: WeightsFile, names: LoraNames) -> LoraReferences:
    """Return what a header says of references. Raises WeightsError for a factor not a whole number from 1."""
    downscale = _downscale(file)
    return LoraReferences(
        downscale=1 if downscale is None else downscale,
        temporal=_factor(file, TEMPORAL_NAME) if TEMPORAL_NAME in file.metadata else 1,
        in_context=downscale is not None or TEMPORAL_NAME in file.metadata,
        hdr=_hdr(file),
        exchange=_exchange(file),
        slots=names.companions,
        token_order=file.metadata.get(TOKEN_ORDER_NAME),
    )


def strictest(masks: Iterable[Exchange]) -> Exchange:
    """Return the mask of several LoRAs together: the one that leaves the fewest tokens in the exchange."""
    order: tuple[Exchange, ...] = get_args(Exchange)
    return max(masks, key=order.index, default="all")


def metadata_of(references: LoraReferences) -> dict[str, str]:
    """Return the metadata that `lora_references` reads, as trainers write it: factors only if not 1."""
    metadata = {}
    if references.in_context or references.downscale != 1:
        metadata[DOWNSCALE_NAMES[0]] = str(references.downscale)
    if references.temporal != 1:
        metadata[TEMPORAL_NAME] = str(references.temporal)
    if references.hdr:
        metadata["hdr_transform"] = references.hdr
    if references.exchange != "all":
        metadata[EXCHANGE_NAME] = references.exchange
    return metadata


def _downscale(file: WeightsFile) -> int | None:
    """Return the downscale; "ref0.5" instead of a number, or in the file's name, means half the size."""
    for name in DOWNSCALE_NAMES:
        if name in file.metadata:
            return 2 if file.metadata[name] == HALF_SIZE else _factor(file, name)
    return 2 if HALF_SIZE in file.path.name else None


def _factor(file: WeightsFile, name: str) -> int:
    stored = file.metadata[name]
    try:
        factor = float(stored)
    except ValueError:
        factor = math.nan
    if not (factor >= 1 and factor.is_integer()):
        raise WeightsError(f"{file.path}: {name} is '{stored}'; it must be a whole number from 1 up")
    return int(factor)


def _exchange(file: WeightsFile) -> Exchange:
    stored = file.metadata.get(EXCHANGE_NAME, "all")
    known: tuple[Exchange, ...] = get_args(Exchange)
    for name in known:
        if stored == name:
            return name
    raise WeightsError(f"{file.path}: {EXCHANGE_NAME} is '{stored}'; it must be one of {', '.join(known)}")


def _hdr(file: WeightsFile) -> str | None:
    stored = file.metadata.get("hdr_transform", file.metadata.get("use_hdr_transform", "")).lower()
    if stored in ("", "false", "none", "0"):
        return None
    return "logc3" if stored in ("true", "1") else stored
