"""A prompt's contexts: what the transformer's two streams read of it.

    prompt -> Gemma's hidden states -> features (projection) -> contexts (connectors)

Each arrow is a method, so that training can stop before the parts it trains. A context does not depend on
the noise level: it is computed once for a prompt and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from soundstage.errors import ConfigError
from soundstage.model.config import Header
from soundstage.model.connector import Connector, FeatureExtractor
from soundstage.text.gemma import Gemma
from soundstage.weights.layouts import Part, PartTensors
from soundstage.weights.load import builder, load_part


@dataclass(frozen=True)
class PromptFeatures:
    """Projected tokens before the connectors: video (B, S, Dv), audio (B, S, Da), mask (B, S) bool.

    Tokens come first; what stands where the mask is False means nothing.
    """

    video: Tensor
    audio: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PromptContext:
    """The text that the transformer attends to, all of it valid: video (B, S, Dv), audio (B, S, Da)."""

    video: Tensor
    audio: Tensor


class TextEncoder:
    """Gemma, the projection of its states, and a connector for each stream."""

    def __init__(
        self,
        gemma: Gemma,
        projection: FeatureExtractor,
        video_connector: Connector,
        audio_connector: Connector,
    ) -> None:
        """Raises ConfigError if the parts are not of one model."""
        _check(gemma, projection, video_connector, audio_connector)
        self.gemma, self.projection = gemma, projection
        self.video_connector, self.audio_connector = video_connector, audio_connector

    @classmethod
    def load(
        cls,
        gemma: Path,
        tensors: Mapping[Part, PartTensors],
        config: Header,
        *,
        num_tokens: int,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> TextEncoder:
        """Load Gemma, the text projection and the connectors.

        gemma: its folder or file. tensors, config: content of the connectors' files. num_tokens: S. Raises
        ConfigError or WeightsError for parts that are missing or do not fit.
        """

        def part(name: Part) -> nn.Module:
            return load_part(builder(name, tensors, config), tensors, name, dtype=dtype, device=device)

        projection, video, audio = (
            part(n) for n in ("text_projection", "video_connector", "audio_connector")
        )
        assert isinstance(projection, FeatureExtractor)
        assert isinstance(video, Connector)
        assert isinstance(audio, Connector)
        language_model = Gemma.load(gemma, num_tokens=num_tokens, dtype=dtype, device=device)
        return cls(language_model, projection, video, audio)

    def hidden_states(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, S, width, num_states) and mask (B, S); see Gemma.hidden_states."""
        return self.gemma.hidden_states(prompts)

    def encode_features(self, prompts: Sequence[str]) -> PromptFeatures:
        """Encode prompts up to the connectors. Only tokens that exist pass Gemma and the projection."""
        states, mask = self.gemma.hidden_states(prompts, pad=False)
        missing = self.gemma.num_tokens - mask.shape[1]
        video, audio = (nn.functional.pad(x, (0, 0, 0, missing)) for x in self.projection(states, mask))
        return PromptFeatures(video, audio, nn.functional.pad(mask, (0, missing)))

    def connect(self, features: PromptFeatures) -> PromptContext:
        """Contexts from features, with gradients where the connectors want them."""
        return PromptContext(
            self.video_connector(features.video, features.mask),
            self.audio_connector(features.audio, features.mask),
        )

    def encode(self, prompts: Sequence[str]) -> PromptContext:
        """Return the contexts of prompts, each computed alone: its bits do not depend on the others."""
        with torch.no_grad():  # one part after the other, since each may have to be brought for its turn
            features = [self.encode_features([prompt]) for prompt in prompts]
            contexts = [self.connect(feature) for feature in features]
        return PromptContext(torch.cat([c.video for c in contexts]), torch.cat([c.audio for c in contexts]))


def _check(gemma: Gemma, projection: FeatureExtractor, *connectors: Connector) -> None:
    wanted = (projection.config.text_width, projection.config.num_states)
    if (gemma.width, gemma.num_states) != wanted:
        raise ConfigError(
            f"the text encoder has {gemma.num_states} states of width {gemma.width}; this model's projection "
            f"reads {wanted[1]} of width {wanted[0]}. Use the Gemma 3 that the model was made with"
        )
    for connector in connectors:
        if gemma.num_tokens % connector.config.num_registers:
            raise ConfigError(
                f"a prompt context of {gemma.num_tokens} tokens is not a multiple of the connectors' "
                f"{connector.config.num_registers} registers; change text_tokens in bundle.json"
            )
