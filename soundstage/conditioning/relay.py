"""Prompt Relay: every token attends to the words of its own time.

Each segment of a `PromptTimeline` is encoded on its own, and the contexts are put one after the other along
the text axis. A bias on the logits of text attention makes a token read mostly the segment of its own time,
the same for picture and sound. The negative prompt has no bias.

The penalty of a segment at distance d from its middle, in latent frames:

    C = strength * max(d - w, 0)^2 / (2 sigma^2),    w = max(L / 2 - 2, 0) * window_scale,
    sigma = 1 / ln(1 / epsilon),                     L the segment's length

Source: Prompt Relay (arXiv 2604.10030); docs/model/conditioning.md, "Timed prompts". Two choices differ from
the published nodes. Distances are taken from the middle of a token's time, not from its start, so that the
first frame of a segment does not lie between two. And only differences between segments count, as in a
softmax: the nearest segment has the bias 0, so that no token has all its words damped, and bfloat16 loses
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from soundstage.prompts.timeline import PromptTimeline, Relay, Segment
from soundstage.sampling.guidance import Contexts
from soundstage.sampling.streams import Stream
from soundstage.types import TIME_SCALE


def latent_time(seconds: Tensor, fps: float) -> Tensor:
    """Convert seconds to latent frames: 0 to 1 within the first frame, then one more every eight frames.

    Negative times (references before the clip) count as 0.
    """
    frames = seconds * fps
    return torch.where(frames <= 1, frames.clamp(min=0), 1 + (frames - 1) / TIME_SCALE)


def penalty(distance: Tensor, length: Tensor | float, relay: Relay) -> Tensor:
    """Return C >= 0 at a distance from a segment's middle; both in latent frames, broadcast together."""
    window = (torch.as_tensor(length) / 2 - 2).clamp(min=0) * relay.window_scale
    sigma = 1 / math.log(1 / relay.epsilon)
    return relay.strength * (distance.abs() - window).clamp(min=0) ** 2 / (2 * sigma**2)


def segment_bias(positions: Tensor, segments: Sequence[Segment], fps: float, relay: Relay) -> Tensor:
    """Return each token's bias against each segment: (N, num segments), 0 for the nearest, else below.

    positions: (1, A, N, 2), seconds on the first axis.
    """
    device = positions.device
    edges = torch.tensor([(s.start_s, s.end_s) for s in segments], device=device)
    start, end = latent_time(edges, fps).unbind(-1)
    middle = latent_time(positions[0, 0].float().mean(-1), fps)
    distance = middle[:, None] - (start + end) / 2
    cost = penalty(distance, end - start, relay)
    return cost.amin(dim=1, keepdim=True) - cost


def relay_bias(
    positions: Tensor, timeline: PromptTimeline, fps: float, text_tokens: int, *, audio: bool
) -> Tensor:
    """Return the bias of one stream's text attention, (1, N, num segments * text_tokens) float32."""
    relay = timeline.relay.of_audio() if audio else timeline.relay
    bias = segment_bias(positions, timeline.segments, fps, relay)
    return bias.repeat_interleave(text_tokens, dim=1).unsqueeze(0)


def join_contexts(contexts: Sequence[Tensor]) -> Tensor:
    """Join contexts (B, S, W) of the segments to (B, num segments * S, W)."""
    return torch.cat(list(contexts), dim=1)


def directed(
    segments: Sequence[Contexts], timeline: PromptTimeline, fps: float, streams: Sequence[Stream | None]
) -> Contexts:
    """Return one prompt for a pass: the contexts of a timeline's segments, and the biases of its streams.

    streams: video and audio, or None. fps: the pass's frame rate. A single segment is returned as it is,
    without a bias.
    """
    if len(segments) == 1:
        return segments[0]
    joined: list[Tensor | None] = [None, None]
    biases: list[Tensor | None] = [None, None]
    for i, stream in enumerate(streams):
        contexts = [context for context in (s.of(i)[0] for s in segments) if context is not None]
        if stream is None or not contexts:
            continue
        joined[i] = join_contexts(contexts)
        biases[i] = relay_bias(stream.positions, timeline, fps, contexts[0].shape[1], audio=i == 1)
    return Contexts(*joined, *biases)
