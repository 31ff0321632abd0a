"""Look into an adapter's file: what it is, what it says of itself, and what it changes of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.library.adapters import Recognised, adapter_facts, recognised
from soundstage.library.catalog import gigabytes
from soundstage.library.file_identity import MAX_HASHED_BYTES, file_digest
from soundstage.library.installed import Library
from soundstage.library.model_files import weights_of
from soundstage.lora.asked import OnShare
from soundstage.lora.effect import LoraEffect, measure
from soundstage.lora.files import open_lora
from soundstage.lora.folders import lora_file
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts

LETTERS = 200  # of a metadata value that is shown


@dataclass(frozen=True)
class LoraInspection:
    """The content of an adapter's file. facts: those of its header, then the catalogue's, see adapters.py."""

    path: Path
    num_bytes: int
    dtypes: tuple[str, ...]
    facts: dict[str, Any]
    published: Recognised | None
    metadata: dict[str, str]
    refusal: str | None  # why a request cannot use it
    effect: LoraEffect

    @property
    def lines(self) -> list[str]:
        """Return all but the effect as lines."""
        facts = self.facts
        size = f"{self.num_bytes / 1e3:.0f} kB" if self.num_bytes < 1e6 else gigabytes(self.num_bytes)
        head = f"{self.path}: {facts['kind']} of {facts['layers']} layers, {', '.join(self.dtypes)}, {size}"
        published = "unknown: no published adapter" if self.published is None else self.published.told
        lines = [head, f"base model: {facts['base'] or 'not stated'}", f"catalogue: {published}"]
        named = ("purpose", "reference", "downscale", "strength", "trigger", "prompt", "hdr")
        for name in named:
            value = ", ".join(facts[name]) if isinstance(facts[name], list) else facts[name]
            if value is not None:
                lines.append(f"{name}: {value}")
        for key, value in self.metadata.items():
            cut = value if len(value) <= LETTERS else f"{value[:LETTERS]}... ({len(value):,} characters)"
            lines.append(f"  {key} = {cut}")
        if self.effect.unmatched:
            lines.append(f"not in this model: {len(self.effect.unmatched)} layers")
        return lines + ([f"refused in a request: {self.refusal}"] if self.refusal else [])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "path": str(self.path),
            "num_bytes": self.num_bytes,
            "dtypes": list(self.dtypes),
            **self.facts,
            "metadata": self.metadata,
            "refusal": self.refusal,
            "effect": self.effect.to_dict(),
        }


def inspect_lora(
    path: Path, model: str | None = None, *, on_progress: OnShare | None = None
) -> LoraInspection:
    """Look into a LoRA; model: a name or folder, against whose weights the change is measured.

    Raises WeightsError for a file that is no LoRA of LTX-2.3, or that does not fit the model.
    """
    path = lora_file(path)
    file, library = read_header(path), Library.open()
    stored = None if model is None else find_parts([read_header(p) for p in weights_of(model)])
    sha256 = file_digest(path) if path.stat().st_size <= MAX_HASHED_BYTES else None
    facts = adapter_facts(path, library, sha256)
    with open_lora(path) as lora:
        refusal = lora.references.refusal(str(path))
        effect = measure(lora, stored, on_progress=on_progress)
        facts["base"] = facts["base"] or lora.base_version
    return LoraInspection(
        path=path,
        num_bytes=path.stat().st_size,
        dtypes=tuple(sorted({entry.dtype for entry in file.tensors.values()})),
        facts=facts,
        published=recognised(file, library, sha256),
        metadata={key: value for key, value in file.metadata.items() if key != "format"},
        refusal=refusal,
        effect=effect,
    )
