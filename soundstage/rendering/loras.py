"""Put LoRAs on one model, run by run: read the files of a run, and set what of them is on.

A file that is written again is another LoRA. The next run reads it; a run that is under way keeps what it
read, which is given up when no run uses it any more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakValueDictionary

from torch import Tensor, nn

from soundstage.conditioning.spans import Strength, token_weights
from soundstage.errors import RequestError, WeightsError
from soundstage.library.file_identity import file_digest, file_identity
from soundstage.library.model_files import find_model
from soundstage.lora.adapters import Adapters
from soundstage.lora.files import LoraFile, read_lora
from soundstage.lora.report import AdapterReport
from soundstage.planning.plan import LoraUse
from soundstage.rendering.text_parts import TEXT_PARTS
from soundstage.types import Group
from soundstage.weights.configs import model_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import Part, PartTensors, find_parts
from soundstage.weights.load import builder, open_part


@dataclass(frozen=True, eq=False)
class Attached:
    """A LoRA that was read. digest, identity: those its file had then, see library/model_files.py."""

    report: AdapterReport
    path: str
    digest: str
    identity: str

    @property
    def name(self) -> str:
        """Return the LoRA's name among the adapters."""
        return _name(self.path, self.identity)


@dataclass(frozen=True, eq=False)
class Adaptation:
    """The LoRAs of a run, by path, and the arguments of its last `adapt`.

    contents: what the model's files held when the run began.
    """

    attached: Mapping[str, Attached] = field(default_factory=dict)
    loras: tuple[LoraUse, ...] = ()
    video: Tensor | None = None
    audio: Tensor | None = None
    contents: Mapping[Path, str] | None = None


class RunLoras:
    """The LoRAs of all runs on one model. adaptation: that of the run that has its turn.

    modules: the parts they go on. stored: where the weights of the parts are on disk.
    """

    def __init__(self, modules: Mapping[Part, nn.Module], stored: Mapping[Part, PartTensors]) -> None:
        self.adaptation = Adaptation()
        self._adapters = Adapters(modules, stored=stored)
        self._newest: dict[str, Attached] = {}  # by path
        self._used: WeakValueDictionary[str, Attached] = WeakValueDictionary()  # by some run, by name
        self._numbers: dict[str, int] = {}  # of readings: one that was given up and read again has another
        self._unread: dict[str, tuple[LoraFile, str]] = {}  # read by `read`, not on the model yet
        self._count = itertools.count()

    def text_identity(self) -> list[str]:
        """Return what the reading of prompts depends on: the active LoRAs that have layers there."""
        loras = self._adapters.active("text")
        return sorted(f"{self._used[name].identity} at {strength!r}" for name, strength in loras.items())

    def state(self) -> Hashable | None:
        """Return what a recorded forward depends on: which factors are on and how strongly.

        None for strengths that differ by token, which cannot be recorded.
        """
        run = self.adaptation
        if any(use.span is not None for use in run.loras):
            return None
        return tuple(
            (self._numbers[run.attached[use.path].name], use.strength, tuple(sorted(use.groups.items())))
            for use in run.loras
        )

    def read(self, paths: Sequence[str]) -> None:
        """Read the LoRAs of a run that begins, unless they are known, before the model's weights are read.

        Raises WeightsError for a file that is no LoRA, holds numbers that are not finite, or changes nothing.
        """
        self._unread.clear()
        for path in dict.fromkeys(paths):
            file = Path(path)
            known = self._newest.get(path)
            if known is None or not file.is_file() or file_identity(file) != known.identity:
                content, identity = _read_whole(file)
                content.check_values(content.layers, training=False)
                self._unread[path] = content, identity

    def attach(self, paths: Sequence[str]) -> list[Attached]:
        """Make LoRAs known to a run that begins; return those whose content was not known before.

        Raises WeightsError for a file that is no LoRA of this model or changes nothing.
        """
        known = list(self._newest.values())
        found = {path: self._newest_of(path) for path in dict.fromkeys(paths)}
        self.adaptation = replace(self.adaptation, attached=found, loras=(), video=None, audio=None)
        self._forget_unused()
        return [lora for lora in found.values() if lora not in known]

    def adapt(self, loras: Sequence[LoraUse], video: Tensor | None, audio: Tensor | None) -> None:
        """Put these LoRAs on the model and take all others off; see `ModelParts.adapt`."""
        run = self.adaptation
        new = [use.path for use in loras if use.path not in run.attached]
        attached = {**run.attached, **{path: self._newest_of(path) for path in new}}
        self.adaptation = replace(run, attached=attached, loras=tuple(loras), video=video, audio=audio)
        self._put_on()

    def restore(self, adaptation: Adaptation) -> None:
        """Put on what a run had put on. Raises RequestError for a LoRA that cannot be had any more."""
        self.adaptation = adaptation
        for lora in adaptation.attached.values():
            if lora.name not in self._adapters.weights:
                self._attach_again(lora)
        self._put_on()

    def close(self) -> None:
        """Take all LoRAs off the model."""
        self._adapters.set({})

    def _newest_of(self, path: str) -> Attached:
        """Return the LoRA that a file holds now."""
        file = Path(path)
        identity = file_identity(file) if file.is_file() else ""  # reading it raises an error that says why
        known = self._newest.get(path)
        if known is None or known.identity != identity:
            known = self._newest[path] = self._read(file, path)
        return known

    def _read(self, file: Path, path: str) -> Attached:
        content, identity = self._unread.pop(path) if path in self._unread else _read_whole(file)
        name = _name(path, identity)
        known = self._used.get(name)  # by a run that began before the file was changed and changed back
        if known is None or name not in self._adapters.weights:
            self._forget_unused()
            report = self._add(name, content)
            known = self._used[name] = Attached(report, path, file_digest(file), identity)
        return known

    def _attach_again(self, lora: Attached) -> None:
        """Read a LoRA that a run uses, after all that was built was given up."""
        file = Path(lora.path)
        if not file.is_file() or file_identity(file) != lora.identity:
            raise RequestError(
                f"{lora.path} was written again while this clip was made, and what it held is no longer in "
                "memory; make the clip again",
                field="loras",
            )
        self._add(lora.name, read_lora(file))
        self._used[lora.name] = lora

    def _add(self, name: str, content: LoraFile) -> AdapterReport:
        self._numbers[name] = next(self._count)
        return self._adapters.add(name, content)

    def _forget_unused(self) -> None:
        """Give up LoRAs whose file was written again, once no run that is under way uses them."""
        for name in self._adapters.weights.keys() - set(self._used):
            self._adapters.remove(name)
            del self._numbers[name]

    def _put_on(self) -> None:
        """Set every adapter's strength, groups and tokens as the run's last `adapt` has them."""
        run = self.adaptation
        name_of = {path: lora.name for path, lora in run.attached.items()}
        timed = {name_of[use.path] for use in run.loras if use.span is not None}
        self._adapters.set({(n := name_of[u.path]): 1.0 if n in timed else u.strength for u in run.loras})
        groups = {name_of[use.path]: use.groups for use in run.loras}
        for name in self._adapters.weights:
            mute: Mapping[Group, float] = {"text": 0.0} if name in timed else {}
            self._adapters.set_groups(name, {**groups.get(name, {}), **mute})
            own = [(u.span or (0, math.inf), u.strength) for u in run.loras if name_of[u.path] == name]
            spans = [Strength(start, end, strength) for (start, end), strength in own]
            weights = [
                None if p is None or name not in timed else token_weights(p, spans)[None, :, None]
                for p in (run.video, run.audio)
            ]
            self._adapters.weigh(name, video=weights[0], audio=weights[1])


def _name(path: str, identity: str) -> str:
    """Return the name of a LoRA among the adapters; a file that is written again gets another one."""
    return f"{path} {identity}"


def _read_whole(file: Path) -> tuple[LoraFile, str]:
    """Return a LoRA and the identity of its file. Raises WeightsError if the file changes meanwhile."""
    before = file_identity(file) if file.is_file() else ""
    content = read_lora(file)
    if file_identity(file) != before:
        raise WeightsError(f"{file} was written while it was read; wait until it is complete")
    return content, before


def report_on(lora: Path, model: str | None = None) -> AdapterReport:
    """Return what a LoRA holds and, given a model's name or folder, what it would change of it.

    Reads the model's headers and the weights that are measured. Raises WeightsError for a file that is no
    LoRA of this model or changes nothing.
    """
    if model is None:
        return AdapterReport.of(read_lora(lora, values=False))
    files = [read_header(path) for path in find_model(model).weights_files]
    stored, config = find_parts(files), model_config(files)
    names: tuple[Part, ...] = ("transformer", *TEXT_PARTS)
    modules = {name: open_part(builder(name, stored, config), stored, name)[0] for name in names}
    return Adapters(modules, stored=stored).add(lora.name, read_lora(lora))
