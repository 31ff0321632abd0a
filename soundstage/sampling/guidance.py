"""Guided prediction of the clean latents, from up to five forward passes a step.

All passes read the same noisy latents. "cond" has the prompt, "uncond" the negative prompt, "perturbed"
replaces self-attention by its values in some blocks (STG), "isolated" cuts the attention between picture
and sound, "identity" lacks the tokens of a reference. `combine` makes one prediction of them.
Source: docs/model/sampling.md, "Guidance".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from soundstage.model.nag import NegativeText
from soundstage.model.transformer import ModalityInputs, Perturbation, RunTables, Shortcut
from soundstage.sampling.cache import StepCaches
from soundstage.sampling.combine import RunningPull, combine
from soundstage.sampling.scales import Guidance, Scales, every, passes_needed, scales_at
from soundstage.sampling.streams import Pair, Stream

__all__ = ["Contexts", "Guider", "Velocity", "combine"]

STREAMS = ("video", "audio")


class Velocity(Protocol):
    """Predict velocities, as `model.transformer.Transformer` does."""

    def prepare(self, video: ModalityInputs | None, audio: ModalityInputs | None) -> RunTables: ...

    def __call__(
        self,
        video: ModalityInputs | None,
        audio: ModalityInputs | None,
        *,
        perturbation: Sequence[Perturbation] | None = None,
        tables: RunTables | None = None,
        shortcut: Shortcut | None = None,
    ) -> Pair: ...


@dataclass(frozen=True)
class Contexts:
    """Hold a prompt's contexts for the two streams, (B or 1, S, W) each; None for an absent stream.

    The streams may have different prompts: take `video` of one and `audio` of another. video_bias,
    audio_bias: (B or 1, N, S) added to the logits of text attention, such as a prompt's spans in time;
    used in the passes that have this prompt, and not by NAG.
    """

    video: Tensor | None
    audio: Tensor | None
    video_bias: Tensor | None = None
    audio_bias: Tensor | None = None

    def of(self, stream: int) -> tuple[Tensor | None, Tensor | None]:
        """Return (context, bias) of stream 0, video, or 1, audio."""
        return ((self.video, self.video_bias), (self.audio, self.audio_bias))[stream]


class _View:
    """Hold the streams as a forward reads them: with all tokens, or without those of a reference.

    kept: per stream (N,) bool, False for tokens left out; None for all.
    """

    def __init__(self, streams: tuple[Stream | None, Stream | None], *, reference: bool = True) -> None:
        video, audio = (
            streams if reference else (None if s is None else s.without_reference() for s in streams)
        )
        self.streams = (video, audio)
        self.kept = [None if reference or s is None or s.reference is None else ~s.reference for s in streams]
        self.tables: RunTables | None = None

    def cut(self, i: int, x: Tensor | None) -> Tensor | None:
        """Return x (B, N, ...) of stream i without the tokens that this view leaves out."""
        kept = self.kept[i]
        return x if x is None or kept is None else x[:, kept]

    def restored(self, i: int, x: Tensor | None, like: Tensor | None) -> Tensor | None:
        """Return (B, N, D) with the tokens of x, and those that this view leaves out from `like`."""
        kept = self.kept[i]
        if x is None or like is None or kept is None:
            return x
        full = like.clone()
        full[:, kept] = x
        return full


class Guider:
    """Predict the clean latents of both streams at a noise level; made anew for every run.

    transformer: a function that returns the model; called before every forward, since a model may be loaded
    again between two steps. scales: None for a modality that is absent. negative: may be None where no scale
    asks for it. batched: run the passes of a step as one batch, or one after the other with less memory; the
    numbers are the same to rounding. nag: the text that `Scales.nag` steers away from; None takes `negative`.
    unconditional: make the negative pass at every step and keep its prediction, for CFG++ samplers.
    cache: skips blocks on steps that change little; the passes are then not batched.
    Raises ValueError for guidance whose text or reference is missing.
    """

    def __init__(
        self,
        transformer: Callable[[], Velocity],
        streams: tuple[Stream | None, Stream | None],
        scales: tuple[Guidance | None, Guidance | None],
        positive: Contexts,
        negative: Contexts | None = None,
        *,
        batched: bool = True,
        nag: Contexts | None = None,
        unconditional: bool = False,
        cache: StepCaches | None = None,
    ) -> None:
        self.transformer = transformer
        self.streams = streams
        self.scales = scales
        self.positive = positive
        self.negative = negative
        self.nag = nag or negative
        self.batched = batched and cache is None and _same_lengths(positive, negative)
        self.cache = cache
        self.unconditional: Pair = (None, None)
        self._shows_unconditional = unconditional
        self._last: Pair = (None, None)
        self._running = (RunningPull(), RunningPull())
        self._whole = _View(streams)
        self._bare = _View(streams, reference=False)
        self._check()

    def memory(self) -> dict[str, Any]:
        """Return what is kept from step to step, as names, tensors, numbers and lists."""
        return {
            "last": list(self._last),
            "unconditional": list(self.unconditional),
            "running": [pull.last for pull in self._running],
            "cache": None if self.cache is None else self.cache.memory(),
        }

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on with what another guider of the same run had kept."""
        self._last = (memory["last"][0], memory["last"][1])
        self.unconditional = (memory["unconditional"][0], memory["unconditional"][1])
        for pull, last in zip(self._running, memory["running"], strict=True):
            pull.last = last
        if self.cache is not None:
            self.cache.remember(memory["cache"])

    def _check(self) -> None:
        for i, name in enumerate(STREAMS):
            if any(s.nag for s in every(self.scales[i])) and (self.nag is None or self.nag.of(i)[0] is None):
                raise ValueError(f"nag is on for the {name} stream, but there is no text to steer away from")
        if any(s.identity for scales in self.scales for s in every(scales)) and not any(
            s is not None and s.reference is not None for s in self.streams
        ):
            raise ValueError("identity guidance is on, but no stream has reference tokens")
        if self._shows_unconditional and self.negative is None:
            raise ValueError("the negative prompt's own prediction is asked for, but there is no such prompt")

    def __call__(self, video: Tensor | None, audio: Tensor | None, sigma: Tensor, step: int) -> Pair:
        """Predict clean latents from latents (B, N, D) at a scalar float32 sigma; step counts from 0.

        A modality that skips this step repeats its last prediction; where all skip, nothing is computed.
        """
        scales = [None if s is None else scales_at(s, float(sigma)) for s in self.scales]
        active = [s is not None and not s.skips(step) for s in scales]
        if not any(active):
            return self._last
        made: dict[str, Pair] = {}
        for view, kinds in self._forwards(scales, active):
            latents = view.cut(0, video), view.cut(1, audio)
            view.tables = view.tables or self._prepare(view, latents)
            inputs = self._inputs(view, latents, sigma, kinds, scales, active)
            velocities = self.transformer()(
                *inputs,
                perturbation=[_perturbation(kind, scales) for kind in kinds for _ in range(_batch(latents))],
                tables=view.tables,
                shortcut=None if self.cache is None else self.cache.shortcut(kinds[0], float(sigma)),
            )
            made.update(_clean(view, inputs, velocities, kinds, like=made.get("cond")))
        self._last = self._guide(made, scales, active)
        if self._shows_unconditional:
            self.unconditional = _renewed(self.unconditional, made["uncond"])
        return self._last

    def _forwards(
        self, scales: Sequence[Scales | None], active: Sequence[bool]
    ) -> list[tuple[_View, list[str]]]:
        """Return the forwards of a step: the tokens that each reads, and the passes it makes as one batch."""
        computing = [s for s, on in zip(scales, active, strict=True) if s is not None and on]
        kinds = passes_needed(computing, exchange=None not in scales, unconditional=self._shows_unconditional)
        alike = [kind for kind in kinds if kind != "identity"]
        forwards = [(self._whole, group) for group in ([alike] if self.batched else [[k] for k in alike])]
        if "identity" in kinds:  # fewer tokens, so never in one batch with the others
            forwards.append((self._bare, ["identity"]))
        return forwards

    def _guide(self, made: dict[str, Pair], scales: Sequence[Scales | None], active: Sequence[bool]) -> Pair:
        guided = list(self._last)
        for i, s in enumerate(scales):
            own = {kind: pair[i] for kind, pair in made.items()}
            cond = own.pop("cond")
            if s is not None and cond is not None and active[i]:
                guided[i] = combine(s, cond, **own, running=self._running[i])
        return guided[0], guided[1]

    def _inputs(
        self,
        view: _View,
        latents: Pair,
        sigma: Tensor,
        kinds: Sequence[str],
        scales: Sequence[Scales | None],
        enabled: Sequence[bool],
    ) -> tuple[ModalityInputs | None, ModalityInputs | None]:
        """Return the transformer's inputs for the passes `kinds` as one batch, each with its own text."""
        video, audio = (
            self._modality(view, i, latents[i], sigma, kinds, scales[i], enabled[i]) for i in (0, 1)
        )
        return video, audio

    def _modality(
        self,
        view: _View,
        i: int,
        latents: Tensor | None,
        sigma: Tensor,
        kinds: Sequence[str],
        scales: Scales | None,
        enabled: bool,
    ) -> ModalityInputs | None:
        """Return stream i's part in the passes `kinds`."""
        stream = view.streams[i]
        if stream is None or latents is None:
            return None
        batch = latents.shape[0]
        texts = [self._text(i, kind) for kind in kinds]
        context = torch.cat([text.expand(batch, -1, -1) for text, _ in texts])
        one = _repeated(stream.at(latents, sigma, context, enabled=enabled), len(kinds))
        biases = [view.cut(i, bias) for _, bias in texts]
        return replace(
            one,
            context_mask=_stacked(biases, batch, latents.shape[1], context.shape[1]),
            negative=self._negative_text(i, kinds, scales, batch),
        )

    def _text(self, i: int, kind: str) -> tuple[Tensor, Tensor | None]:
        """Return a pass's context and bias; the positive ones where there is no negative one."""
        context, bias = self.positive.of(i)
        if kind == "uncond" and self.negative is not None and self.negative.of(i)[0] is not None:
            context, bias = self.negative.of(i)
        if context is None:
            raise ValueError(f"the prompt has no context for the {STREAMS[i]} stream")
        return context, bias

    def _negative_text(
        self, i: int, kinds: Sequence[str], scales: Scales | None, batch: int
    ) -> NegativeText | None:
        """Return the text that NAG steers stream i away from, in the passes that have the positive prompt."""
        if scales is None or scales.nag == 0 or self.nag is None:
            return None
        chosen = [n for n, kind in enumerate(kinds) if kind != "uncond"]
        context = self.nag.of(i)[0]
        if not chosen or context is None:
            return None
        samples = [n * batch + sample for n in chosen for sample in range(batch)]
        return NegativeText(
            context=context.expand(batch, -1, -1).repeat(len(kinds), 1, 1),
            scale=scales.nag,
            alpha=scales.nag_alpha,
            tau=scales.nag_tau,
            samples=None if len(chosen) == len(kinds) else tuple(samples),
        )

    def _prepare(self, view: _View, latents: Pair) -> RunTables:
        """Return tables for the whole run, made at sigma 1, where a token's timestep is its mask."""
        device = next(x.device for x in latents if x is not None)
        one = torch.ones((), device=device)
        return self.transformer().prepare(
            *self._inputs(view, latents, one, ["cond"], (None, None), (True, True))
        )


def _same_lengths(positive: Contexts, negative: Contexts | None) -> bool:
    """Return whether the texts of both prompts fit in one batch."""
    if negative is None:
        return True
    pairs = [(positive.of(i)[0], negative.of(i)[0]) for i in (0, 1)]
    return all(a is None or b is None or a.shape[1] == b.shape[1] for a, b in pairs)


def _renewed(old: Pair, new: Pair) -> Pair:
    """Return new, but old for a stream that was not computed."""
    return old[0] if new[0] is None else new[0], old[1] if new[1] is None else new[1]


def _stacked(biases: Sequence[Tensor | None], batch: int, num_tokens: int, num_texts: int) -> Tensor | None:
    """Join biases (B or 1, N, S) of several passes to a batch; 0 for a pass without, None if none has one."""
    some = next((bias for bias in biases if bias is not None), None)
    if some is None:
        return None
    nothing = some.new_zeros(1, num_tokens, num_texts)
    return torch.cat([(nothing if b is None else b).expand(batch, -1, -1) for b in biases])


def _repeated(modality: ModalityInputs, times: int) -> ModalityInputs:
    """Repeat the batch of a modality, but not the context, which has every pass already."""
    if times == 1:
        return modality
    mask = modality.attention_mask
    return replace(
        modality,
        latents=modality.latents.repeat(times, 1, 1),
        sigma=modality.sigma.repeat(times),
        timesteps=modality.timesteps.repeat(times, 1),
        positions=_repeat_unless_shared(modality.positions, times),
        attention_mask=None if mask is None else _repeat_unless_shared(mask, times),
    )


def _repeat_unless_shared(x: Tensor, times: int) -> Tensor:
    return x if x.shape[0] == 1 else x.repeat(times, *(1,) * (x.ndim - 1))


def _perturbation(kind: str, scales: Sequence[Scales | None]) -> Perturbation:
    if kind == "isolated":
        return Perturbation.isolated()
    if kind != "perturbed":
        return Perturbation()
    video, audio = (frozenset(s.stg_blocks) if s is not None and s.stg else frozenset() for s in scales)
    return Perturbation(skip_video_self=video, skip_audio_self=audio)


def _clean(
    view: _View,
    inputs: Sequence[ModalityInputs | None],
    velocities: Pair,
    kinds: Sequence[str],
    like: Pair | None,
) -> dict[str, Pair]:
    """Return the clean predictions of each pass of a forward, x - m sigma v per token, for all tokens.

    They are computed in float32 and rounded to the dtype of x. like: predictions that the tokens which the
    view leaves out are taken from.
    """
    found: list[list[Tensor | None]] = []
    for i, (modality, velocity) in enumerate(zip(inputs, velocities, strict=True)):
        if modality is None or velocity is None:
            found.append([None] * len(kinds))
            continue
        x = modality.latents
        clean = (x.float() - modality.timesteps.unsqueeze(-1) * velocity.float()).to(x.dtype)
        found.append(
            [view.restored(i, part, None if like is None else like[i]) for part in clean.chunk(len(kinds))]
        )
    return dict(zip(kinds, zip(*found, strict=True), strict=True))


def _batch(latents: Pair) -> int:
    return next(x.shape[0] for x in latents if x is not None)
