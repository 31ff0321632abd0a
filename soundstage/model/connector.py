"""From the text encoder's hidden states to the contexts that the transformer reads.

`FeatureExtractor` makes one vector per token and stream from all layers of the encoder. `Connector` makes a
context of full length from these vectors, with learned registers at the positions without a token. Neither
depends on the noise level, so a prompt's contexts are computed once.

Source: docs/model/text.md, "Features" and "Connectors"; numbers held by tests/parity/test_connector.py.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from soundstage.model.arithmetic import PLAIN, Arithmetic
from soundstage.model.attention import Attention, FeedForward
from soundstage.model.config import ConnectorConfig, TextProjectionConfig
from soundstage.model.rope import Rotation, rope_table

NORM_EPS = 1e-6


class FeatureExtractor(nn.Module):
    """Normalise every layer of every token, project all of them at once."""

    def __init__(self, config: TextProjectionConfig) -> None:
        super().__init__()
        self.config = config
        in_features = config.text_width * config.num_states
        self.video_aggregate_embed = nn.Linear(in_features, config.video_width)
        self.audio_aggregate_embed = nn.Linear(in_features, config.audio_width)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return video features (B, S, Dv) and audio features (B, S, Da).

        hidden_states: (B, S, text_width, num_states). mask: (B, S), non-zero for real tokens. Padding
        gets the projections' bias, without computing it: of 1024 positions a prompt fills about a hundred.
        """
        valid = mask.bool()
        tokens = hidden_states[valid]  # (n, text_width, num_states)
        variance = tokens.square().mean(dim=1, keepdim=True)
        tokens = (tokens * torch.rsqrt(variance + NORM_EPS)).flatten(1)  # the layer is the faster index
        return (
            self._project(tokens, valid, self.video_aggregate_embed),
            self._project(tokens, valid, self.audio_aggregate_embed),
        )

    def dense(self, hidden_states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, computed for padding too: no shape depends on the mask's values.

        A recorded step of training needs that.
        """
        valid = mask.bool().unsqueeze(-1)
        variance = hidden_states.square().mean(dim=2, keepdim=True)
        tokens = (hidden_states * torch.rsqrt(variance + NORM_EPS)).flatten(2)

        def projected(linear: nn.Linear) -> Tensor:
            made: Tensor = linear(tokens * self._scale(linear))
            return torch.where(valid, made, linear.bias.to(made.dtype))

        return projected(self.video_aggregate_embed), projected(self.audio_aggregate_embed)

    def _scale(self, linear: nn.Linear) -> float:
        return float((linear.out_features / self.config.text_width) ** 0.5)

    def _project(self, tokens: Tensor, valid: Tensor, linear: nn.Linear) -> Tensor:
        projected = linear(tokens * self._scale(linear))
        features = linear.bias.to(projected.dtype).expand(*valid.shape, -1)
        return features.masked_scatter(valid.unsqueeze(-1), projected)


class ConnectorBlock(nn.Module):
    arithmetic: Arithmetic = PLAIN

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.attn1 = Attention(
            config.width, config.width, num_heads=config.num_heads, head_dim=config.head_dim
        )
        self.ff = FeedForward(config.width)

    def forward(self, x: Tensor, rope: Rotation) -> Tensor:
        x = x + self.attn1(self.arithmetic.norm(x, NORM_EPS), rope=rope)
        return x + self.ff(self.arithmetic.norm(x, NORM_EPS))  # type: ignore[no-any-return]


class Connector(nn.Module):
    """Apply bidirectional blocks to a prompt's tokens and the registers that fill it up."""

    arithmetic: Arithmetic = PLAIN

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.learnable_registers = nn.Parameter(torch.randn(config.num_registers, config.width))
        self.transformer_1d_blocks = nn.ModuleList(ConnectorBlock(config) for _ in range(config.num_layers))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return a context (B, S, D), all of it valid, from features (B, S, D).

        mask: (B, S), non-zero for real tokens.

        Raises ValueError if S is not a multiple of the number of registers.
        """
        x = self._fill(features, mask.bool())
        rope = _rotation(self.config, x.shape[1], x.dtype, x.device)
        for block in self.transformer_1d_blocks:
            x = block(x, rope)
        return self.arithmetic.norm(x, NORM_EPS)

    def _fill(self, features: Tensor, valid: Tensor) -> Tensor:
        """Move the real tokens to the front, in order, and put register p mod R at each other position p."""
        length, num_registers = features.shape[1], self.config.num_registers
        if length % num_registers:
            raise ValueError(
                f"a prompt of {length} positions cannot be filled; pad to a multiple of {num_registers}"
            )
        order = torch.argsort(valid, dim=1, descending=True, stable=True)
        tokens = features.gather(1, order.unsqueeze(-1).expand_as(features))
        is_token = torch.arange(length, device=features.device) < valid.sum(dim=1, keepdim=True)
        registers = self.learnable_registers.to(features.dtype).repeat(length // num_registers, 1)
        return torch.where(is_token.unsqueeze(-1), tokens, registers)


@cache
def _rotation(config: ConnectorConfig, length: int, dtype: torch.dtype, device: torch.device) -> Rotation:
    """Return the rotation of a context's positions, made once: making it copies from the host."""
    with torch.inference_mode(False):
        positions = torch.arange(length, dtype=torch.float32, device=device)
        return rope_table(
            positions.view(1, 1, -1, 1).expand(-1, -1, -1, 2),
            width=config.width,
            num_heads=config.num_heads,
            max_positions=(config.max_position,),
            theta=config.rope_theta,
        ).rotation(dtype)
