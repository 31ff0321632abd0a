"""The contexts of a dataset's captions, made once before a training by the frozen connectors.

They depend on nothing that is trained. Kept on disk, they free the device from the connectors, 4 GB at full
size, and a training from the text encoder.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from soundstage.dataset.encoded import EncodedDataset
from soundstage.rendering.encoding_cache import content_key
from soundstage.rendering.parts import ModelParts
from soundstage.text.encoder import PromptContext, PromptFeatures
from soundstage.training.tuning.samples import BLANK

IN_MEMORY = 64  # contexts; one of the 22B model is 12.6 MB


class CaptionContexts:
    """ContextOf by sample id, in a folder of a run. A context is on the CPU, in the format of the run."""

    def __init__(self, folder: Path, parts: ModelParts) -> None:
        self.folder, self.parts = folder, parts
        self._paths: dict[str, Path] = {}
        self._recent: OrderedDict[str, PromptContext] = OrderedDict()

    def prepare(self, data: EncodedDataset, told: Callable[[float], None] = lambda share: None) -> None:
        """Make the contexts of a dataset that are not there yet. told: called with the share that is done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        reader = self.parts.identity("text")
        num_tokens = data.identity.text_tokens
        for number, info in enumerate(data.samples):
            told(number / len(data.samples))
            made_of = (info.caption, info.fingerprint, *reader)
            wanted = {info.id: content_key("caption", *made_of)}
            if BLANK not in self._paths:
                wanted[BLANK] = content_key("blank", *reader)
            paths = {name: self.folder / f"{key}.safetensors" for name, key in wanted.items()}
            self._paths |= paths
            missing = [name for name, path in paths.items() if not path.exists()]
            if missing:
                features = data.load(info).features(num_tokens)
                for name in missing:
                    self._write(paths[name], begin_token_of(features) if name == BLANK else features)

    def __call__(self, name: str) -> PromptContext:
        """Return the context of a sample, or of an empty prompt for "", a batch of one."""
        if name not in self._recent:
            tensors = load_file(self._paths[name])
            self._recent[name] = PromptContext(tensors["video"], tensors["audio"])
            while len(self._recent) > IN_MEMORY:
                self._recent.popitem(last=False)
        self._recent.move_to_end(name)
        return self._recent[name]

    def tokens(self) -> int:
        """Return the tokens of a context."""
        return self(BLANK).video.shape[1]

    @torch.no_grad()
    def _write(self, path: Path, features: PromptFeatures) -> None:
        device, dtype = self.parts.device, self.parts.dtype
        mask = features.mask.to(device)
        made = {
            name: self.parts.text.part(f"{name}_connector")(x.to(device, dtype), mask).cpu().contiguous()  # type: ignore[arg-type]
            for name, x in (("video", features.video), ("audio", features.audio))
        }
        part = path.with_suffix(".part")
        save_file(made, part)
        os.replace(part, path)


def begin_token_of(features: PromptFeatures) -> PromptFeatures:
    """Return the features of an empty prompt: the begin token alone.

    The text encoder is causal, so that this token's features are the same before any words.
    """
    first = torch.arange(features.mask.shape[1], device=features.mask.device)[None] == 0
    return PromptFeatures(features.video, features.audio, features.mask & first)


def fingerprint_of(data: EncodedDataset) -> str:
    """Return a hash of what a dataset holds."""
    lines: Sequence[tuple[str, str, str, int]] = sorted(
        (info.id, info.fingerprint, info.caption, info.repeats) for info in data.samples
    )
    return content_key("dataset", *lines)
