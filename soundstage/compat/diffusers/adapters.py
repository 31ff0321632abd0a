"""LoRAs of a pipeline by name, in diffusers' words; a call takes those in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from soundstage.compat.diffusers.loading import lora_file
from soundstage.compat.diffusers.telling import entries, number
from soundstage.errors import RequestError, listed, shown
from soundstage.request.inputs import Lora
from soundstage.types import Group

AdapterWeight = float | Mapping[Group, float]  # an adapter's strength, or multipliers of its groups


class PipelineAdapters:
    """The LoRAs that are loaded, in use, and fused."""

    def __init__(self) -> None:
        self._loras: dict[str, Lora] = {}
        self._active: dict[str, Lora] = {}
        self._fused: dict[str, Lora] = {}
        self._enabled = True

    def load_lora_weights(
        self,
        path: str | Path,
        *,
        weight_name: str | None = None,
        adapter_name: str | None = None,
        hotswap: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        **words: Any,
    ) -> None:
        """Add a LoRA at strength 1.

        path: a file, a folder, or a repository of the hub that is on this machine; weight_name is the file in
        it. adapter_name: how `set_adapters` calls it; None counts: default_0, default_1. hotswap: takes the
        place of one with this name. Raises RequestError for a name that is taken or a file that is not there.
        """
        name = f"default_{len(self._loras)}" if adapter_name is None else _names([adapter_name])[0]
        if name in self._loras and not hotswap:
            raise RequestError(f"adapter_name is '{name}', which is loaded already; choose another name")
        self._loras[name] = self._active[name] = Lora(str(lora_file(path, weight_name, revision, cache_dir)))

    def set_adapters(
        self,
        adapter_names: str | Sequence[str],
        adapter_weights: AdapterWeight | Sequence[AdapterWeight] | None = None,
    ) -> None:
        """Use these adapters, at these strengths (1 each if not given), and no others.

        adapter_weights: one for all, or one for each; a dict such as {"video": 1.0, "audio": 0.5} has
        multipliers of groups, see `Lora`. Raises RequestError for a name that is not loaded, another number
        of weights than of names, a strength outside -10 to 10, and a group that does not exist.
        """
        names = _names(adapter_names)
        weights = _weights(adapter_weights, len(names))
        self._check_loaded(names)
        self._enabled = True
        self._active = {
            name: replace(self._loras[name], **weight) for name, weight in zip(names, weights, strict=True)
        }

    def get_active_adapters(self) -> list[str]:
        return list(self._active) if self._enabled else []

    def get_list_adapters(self) -> dict[str, list[str]]:
        return {"transformer": list(self._loras)}

    def disable_lora(self) -> None:
        """Keep the adapters, and use none until `enable_lora` or `set_adapters`."""
        self._enabled = False

    def enable_lora(self) -> None:
        """Use again what was in use before `disable_lora`."""
        self._enabled = True

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        for name in _names(adapter_names):
            self._loras.pop(name, None)
            self._active.pop(name, None)

    def unload_lora_weights(self) -> None:
        """Forget all adapters but the fused ones."""
        self._loras, self._active = {}, {}

    def fuse_lora(
        self,
        components: Sequence[str] = ("transformer",),
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
    ) -> None:
        """Keep the adapters in use as they are now, whatever is set or unloaded later.

        lora_scale: multiplies their strengths. adapter_names: only these. safe_fusing: no matter, as values
        are watched in every run. Raises RequestError for a name that is not loaded.
        """
        names = list(self._active) if adapter_names is None else _names(adapter_names)
        self._check_loaded(names)
        for name in names:
            lora = self._active.get(name, self._loras[name])
            self._fused[name] = replace(lora, strength=lora.strength * number(lora_scale, "lora_scale"))

    def unfuse_lora(self, components: Sequence[str] = ("transformer",)) -> None:
        """Let go of what `fuse_lora` keeps."""
        self._fused = {}

    @property
    def fused_loras(self) -> set[str]:
        return set(self._fused)

    @property
    def num_fused_loras(self) -> int:
        return len(self._fused)

    def loras_in_use(self, scale: float = 1.0) -> list[Lora]:
        """Return the LoRAs of a call. scale: multiplies their strengths."""
        active = self._active if self._enabled else {}
        used = {**active, **self._fused}
        return [replace(lora, strength=lora.strength * scale) for lora in used.values()]

    def take_adapters(self, other: PipelineAdapters) -> None:
        """Have the adapters of another pipeline, without changing its own."""
        self._loras, self._active = dict(other._loras), dict(other._active)
        self._fused, self._enabled = dict(other._fused), other._enabled

    def _check_loaded(self, names: Sequence[str]) -> None:
        unknown = [name for name in names if name not in self._loras]
        if unknown:
            loaded = listed(unknown[0], self._loras) or "none"
            raise RequestError(f"adapter {', '.join(unknown)} is not loaded; loaded: {loaded}")


def _names(given: str | Sequence[str]) -> list[str]:
    names = [given] if isinstance(given, str) else entries(given, "adapter_names")
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise RequestError(f"an adapter's name is {shown(wrong[0])}; give text", field="adapter_names")
    return names


def _weights(given: AdapterWeight | Sequence[AdapterWeight] | None, count: int) -> list[dict[str, Any]]:
    """Return the fields of each adapter's `Lora`."""
    if given is None or isinstance(given, (int, float, Mapping)):
        given = [1.0 if given is None else given] * count
    if len(given) != count:
        raise RequestError(f"adapter_weights has {len(given)} values for {count} adapters; give one for each")
    return [{"groups": w} if isinstance(w, Mapping) else {"strength": w} for w in given]
