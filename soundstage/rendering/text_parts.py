"""Build the parts that read prompts: Gemma, the projection and the connectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import cast

import torch
from torch import nn

from soundstage.library.model_files import ModelSet
from soundstage.memory.offload import OffloadedModule, stream_blocks
from soundstage.memory.policy import Residency
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.rendering.building import PartBuilder, logged_time
from soundstage.sampling.guidance import Contexts
from soundstage.text.encoder import PromptFeatures, TextEncoder
from soundstage.text.gemma import Gemma
from soundstage.text.source import check_headers
from soundstage.weights.layouts import Part, PartTensors

TEXT_PARTS: dict[Part, type[nn.Module]] = {
    "text_projection": FeatureExtractor,
    "video_connector": Connector,
    "audio_connector": Connector,
}


class TextParts:
    """Builds the parts that read prompts on first use, and reads prompts with them."""

    def __init__(self, model: ModelSet, build: PartBuilder, residency: Residency) -> None:
        self.gemma_tensors: PartTensors = {}  # where Gemma's layers are, if they stay in their files
        self._model, self._build, self._residency = model, build, residency
        self._built: dict[Part, nn.Module] = {}

    def check(self) -> None:
        """Raise WeightsError or ConfigError if the files do not fit; reads headers only."""
        for part in TEXT_PARTS:
            module, _ = self._build.opened(part)
            if isinstance(module, FeatureExtractor):
                check_headers(self._model.text_path, module.config.text_width, module.config.num_states)

    def part(self, part: Part) -> nn.Module:
        """Return the projection or a connector, which is moved to the device when it is called."""
        if part not in self._built:
            module = self._built[part] = self._build.load(part, TEXT_PARTS[part])
            self._build.speed_up(module)
            self._build.manage(part, module, self._build.tensors[part], calls=module)
        return self._built[part]

    @cached_property
    def encoder(self) -> TextEncoder:
        """Return the text encoder, built for the first prompt that was not encoded before."""
        modules = [self.part(part) for part in TEXT_PARTS]
        return TextEncoder(self._gemma(), *modules)  # type: ignore[arg-type]

    def features(self, prompts: Sequence[str]) -> list[PromptFeatures]:
        """Return the features of each prompt, which its contexts are made of by the connectors."""
        encoder, features = self.encoder, []
        with torch.no_grad():
            for prompt in prompts:
                self._build.manager.bring("gemma")  # the projection may have taken its place
                features.append(encoder.encode_features([prompt]))
        return features

    def encode(self, prompts: Sequence[str]) -> list[Contexts]:
        """Return one pair of contexts per prompt."""
        features = self.features(prompts)
        with torch.no_grad():
            contexts = [self.encoder.connect(feature) for feature in features]
        return [Contexts(context.video, context.audio) for context in contexts]

    def identity(self) -> tuple[str, ...]:
        """Return what a prompt's features depend on besides the files of the model's own parts."""
        reader = (f"transformers {version('transformers')}", str(self._model.defaults.text_tokens))
        return (*reader, *self._model.text_identity)

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules that were built, by name."""
        yield from self._built.items()
        if "encoder" in vars(self):
            yield "text encoder", self.encoder.gemma.model

    def _gemma(self) -> Gemma:
        """Return Gemma, which is moved to the device on request, or has its layers read at each prompt."""
        build, path, num_tokens = self._build, self._model.text_path, self._model.defaults.text_tokens
        if build.in_files:
            gemma, tensors = Gemma.open(path, num_tokens=num_tokens)
            self.gemma_tensors = tensors
            build.manager.add("gemma", build.stream(gemma.model, tensors, "layers", Residency("disk")))
            return gemma
        with logged_time("gemma"):
            gemma = Gemma.load(path, num_tokens=num_tokens, dtype=build.dtype, device=build.home)
        model = gemma.model
        if build.moves and self._residency.text == "stream":
            layers = list(cast(nn.ModuleList, model.get_submodule("layers")))
            build.manager.add("gemma", stream_blocks(model, layers, Residency("stream"), build.device))
        elif build.moves:
            build.manager.add("gemma", OffloadedModule([model], build.device, pin=False))
        return gemma
