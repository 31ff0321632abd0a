"""Measure how well nano's text encoder reads captions of scenes that training did not use.

Three measures: the perplexity of captions, alone and after another wording of the same scene; the accuracy
of a linear map from its states, averaged over the prompt, to the colour, shape and action of each subject;
and how often two wordings of a scene lie nearer to each other than to other scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from soundstage.nano.world.captions import caption
from soundstage.nano.world.scene import COLORS, PAIR_ACTIONS, SHAPES, Scene, Subject, draw_scene
from soundstage.text.gemma import Gemma
from soundstage.types import VideoShape

SHAPE = VideoShape(49, 128, 192)
FIRST_SEED = 2**31  # training draws below
BATCH = 16
RIDGE = 10.0
NUM_SCENES = 600
TRAIN_SHARE = 5  # scenes the probes are fitted to, for each one they are tested on

FACTS: dict[str, tuple[tuple[str, ...], Callable[[Subject], str]]] = {
    "color": (tuple(COLORS), lambda s: s.color),
    "shape": (SHAPES, lambda s: s.shape),
    "action": (PAIR_ACTIONS, lambda s: s.action),
}


def measure_text(gemma: Gemma, num_scenes: int = NUM_SCENES) -> dict[str, float]:
    """Return perplexities, the probes' shares of right answers, and how often a wording finds its twin.

    num_scenes: how many scenes the probes are tested on; they are fitted to TRAIN_SHARE times as many. The
    other two questions take fewer.
    """
    surprise = _surprise(gemma, max(1, num_scenes // 3))
    answers = _probe(gemma, TRAIN_SHARE * num_scenes, num_scenes)
    return surprise | answers | _twins(gemma, max(2, num_scenes // 2))


def _scenes(count: int, *, held_out: bool = False, pairs: bool = False, skip: int = 0) -> list[Scene]:
    drawn = (draw_scene(FIRST_SEED + i, SHAPE, held_out=held_out) for i in range(skip, 10**6))
    wanted = (s for s in drawn if not pairs or (len(s.subjects) == 2 and s.interaction is None))
    return list(islice(wanted, count))


def _surprise(gemma: Gemma, count: int) -> dict[str, float]:
    found = {}
    for name, held_out in (("seen combinations", False), ("held-out combinations", True)):
        scenes = _scenes(count, held_out=held_out)
        texts = [(caption(s, 1, full=True), caption(s, 2, full=True)) for s in scenes]
        alone = torch.cat([_token_losses(gemma, second) for _, second in texts])
        after = torch.cat([_token_losses(gemma, second, before=first) for first, second in texts])
        found[f"perplexity, {name}"] = float(alone.mean().exp())
        found[f"perplexity after another wording, {name}"] = float(after.mean().exp())
    return found


@torch.no_grad()
def _token_losses(gemma: Gemma, text: str, before: str | None = None) -> Tensor:
    """Return the negative log-likelihood of each token of a caption. The output layer is the embedding's."""
    ids = gemma.tokenize(text)
    known = [] if before is None else gemma.tokenize(before) + _newline(gemma)
    row = torch.tensor([known + (ids[1:] if known else ids)])
    weight: Tensor = gemma.model.get_parameter("embed_tokens.weight")
    states = gemma.model(input_ids=row, use_cache=False).last_hidden_state[0, :-1]
    losses = cross_entropy((states @ weight.T).float(), row[0, 1:], reduction="none")
    return losses[len(known) - 1 :] if known else losses


def _newline(gemma: Gemma) -> list[int]:
    ids: list[int] = gemma.tokenizer.encode("\n", add_special_tokens=False).ids
    return ids[-1:]


def mean_states(gemma: Gemma, texts: Sequence[str]) -> Tensor:
    """Return (len(texts), num_states * width): normalised states, averaged over the prompt's tokens."""
    rows = []
    for start in range(0, len(texts), BATCH):
        states, mask = gemma.hidden_states(texts[start : start + BATCH], pad=False)
        states = states.float()
        states = states * torch.rsqrt(states.square().mean(dim=2, keepdim=True) + 1e-6)
        rows.append((states.sum(dim=1) / mask.sum(dim=1)[:, None, None]).transpose(1, 2).flatten(1))
    return torch.cat(rows)


def _probe(gemma: Gemma, num_train: int, num_test: int) -> dict[str, float]:
    """Return accuracies about the left and the right subject, by all states and by the embedding alone."""
    scenes = _scenes(num_train + num_test, pairs=True, skip=10_000)
    features = mean_states(gemma, [caption(s, 3, full=True) for s in scenes])
    found = {}
    for fact, (options, value) in FACTS.items():
        for side in ("left", "right"):
            answers = torch.tensor(
                [next(options.index(value(x)) for x in s.subjects if x.side == side) for s in scenes]
            )
            for kind, inputs in (("all states", features), ("embedding alone", features[:, : gemma.width])):
                score = linear_probe(inputs, answers, num_train)
                found[f"{side} {fact}, {kind}"] = score
    return found


def linear_probe(features: Tensor, answers: Tensor, num_train: int) -> float:
    """Return the accuracy on the rows after the first num_train of a ridge regression on those.

    features: (N, D). answers: (N,) class numbers.
    """
    train = features[:num_train]
    scaled = (features - train.mean(dim=0)) / (train.std(dim=0) + 1e-6)
    scaled = torch.cat([scaled, torch.ones(len(scaled), 1)], dim=1).double()
    x = scaled[:num_train]
    y = one_hot(answers[:num_train], int(answers.max()) + 1).double()
    weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    guesses = (scaled[num_train:] @ weights).argmax(dim=1)
    return float((guesses == answers[num_train:]).double().mean())


def _twins(gemma: Gemma, count: int) -> dict[str, float]:
    """Return how often the nearest of `count` second wordings is of the same scene, and mean cosines."""
    scenes = _scenes(count, held_out=True, skip=20_000)
    sides = [mean_states(gemma, [caption(s, wording, full=True) for s in scenes]) for wording in (4, 5)]
    first, second = (normalize(x - x.mean(dim=0), dim=1) for x in sides)
    cosines = first @ second.T
    own = cosines.diagonal()
    return {
        "nearest wording is the twin": float((cosines.argmax(dim=1) == torch.arange(count)).double().mean()),
        "cosine to the twin": float(own.mean()),
        "cosine to other scenes": float((cosines.sum() - own.sum()) / (count * (count - 1))),
    }
