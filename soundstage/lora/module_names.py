"""Names of modules in LoRA files: what stands before them, and what all dialects of one name share.

Loads no torch. Source: docs/model/checkpoints.md, "LoRA files".
"""

from __future__ import annotations

from collections.abc import Iterator

from soundstage.weights.diffusers_names import to_diffusers
from soundstage.weights.layouts import PART_PREFIXES, Part

NAME_PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "connectors.",
    "lora_unet_",
    "lycoris_",
)


def bare_names(name: str) -> Iterator[str]:
    """Yield a module's name, then without one prefix after the other, with underscores for dots."""
    bare: str | None = name.replace("_orig_mod.", "")
    while bare is not None:
        yield underscored(bare)
        prefix = next((p for p in NAME_PREFIXES if bare.startswith(p)), None)
        bare = None if prefix is None else bare.removeprefix(prefix)


def spelled(part: Part, key: str) -> tuple[str, str]:
    """Return a module's published name and diffusers', each as `bare_names` yields it."""
    diffusers = f"{part}." if part.endswith("_connector") else ""
    return underscored(published_prefix(part) + key), underscored(diffusers + to_diffusers(part, key))


def underscored(name: str) -> str:
    """Return a name with underscores for dots, as some files have it."""
    return name.replace(".", "_")


def published_prefix(part: Part) -> str:
    """Return what stands before a part's own names in a published file; nothing for the transformer."""
    return next((prefix for prefix, owner in PART_PREFIXES.items() if owner == part), "")
