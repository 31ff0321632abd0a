"""Make a clip again with other seeds while a check fails, and keep the best take by its score.

    best = best_of(lambda seed: stage.generate("A dog.", seed=seed), 7, Asked(music=False), retries=3)
    best.clip, best.review, best.why

Every take and its seed stand in the provenance of the clip that is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soundstage.clip import Clip
from soundstage.errors import RequestError, shown
from soundstage.planning.seeds import retry_seed, seed_of
from soundstage.request.request import Request
from soundstage.review.asking import POLICY, asked_of
from soundstage.review.policy import SoundPolicy
from soundstage.review.record import Asked, Review
from soundstage.review.reviewing import review_clip

MAX_RETRIES = 20
REVIEW = "review"  # key of a clip's provenance
MIXED = frozenset({"loudness"})  # faults that another seed does not cure, and the mix does


@dataclass(frozen=True)
class ReviewedTake:
    """One take: its seed, the clip, and its review. clip: None where a better take is kept instead."""

    seed: int
    clip: Clip | None
    review: Review

    @property
    def faults(self) -> list[str]:
        """Return the checks that failed."""
        return [fault.check for fault in self.review.faults]

    @property
    def is_good(self) -> bool:
        """Return whether another seed would cure nothing."""
        return another_seed_cures_none(self.faults)

    def summary(self) -> dict[str, Any]:
        """Return its seed, score and faults, JSON-ready."""
        return {"seed": self.seed, "score": round(self.review.score, 4), "faults": self.faults}


@dataclass(frozen=True)
class BestTake:
    """The take that is kept, and all of them in the order in which they were made."""

    kept: ReviewedTake
    takes: tuple[ReviewedTake, ...]

    @property
    def why(self) -> str:
        """Return in one sentence which take is kept, and why."""
        if len(self.takes) == 1:
            told = "no check failed" if self.kept.is_good else f"{_listed(self.kept.faults)} failed"
            return f"seed {self.kept.seed} is kept: {told}"
        others = "; ".join(f"seed {t.seed}: {_listed(t.faults)}" for t in self.takes if t is not self.kept)
        score = f"score {self.kept.review.score:.2f}"
        if self.kept.is_good:
            return f"seed {self.kept.seed} is kept, in which no check failed ({score}); before: {others}"
        faults = _listed(self.kept.faults)
        return f"seed {self.kept.seed} is kept, the best by {score}, though {faults} failed; others: {others}"

    @property
    def review(self) -> Review:
        """Return the review of the take that is kept."""
        return self.kept.review

    @property
    def clip(self) -> Clip:
        """Return the clip that is kept; "review" of its provenance tells of all takes."""
        told = {
            **self.kept.review.to_dict(),
            "takes": [take.summary() for take in self.takes],
            "why": self.why,
        }
        clip = self.kept.clip
        assert clip is not None
        return replace(clip, provenance={**clip.provenance, REVIEW: told})


@dataclass(frozen=True)
class ResultWishes:
    """ResultWishes about a clip's result. asked: None is what the clip's own request says."""

    sound: SoundPolicy | None = None
    retries: int = 0
    asked: Asked | None = None

    def __post_init__(self) -> None:
        check_retries(self.retries)

    def request(self, request: Request) -> Request:
        """Return the request with the sound policy."""
        return request if self.sound is None else self.sound.applied(request)

    @property
    def expected(self) -> Asked | None:
        """Return what the checks expect; None for what a clip's own provenance says."""
        if self.asked is None or self.sound is None:
            return self.asked
        return self.sound.asked(self.asked)

    def with_policy(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """Return a clip's provenance with the policy that its sound was made by."""
        return {**provenance, **({} if self.sound is None else {POLICY: self.sound.to_dict()})}

    def best(self, make: Callable[[int], Clip], request: Request) -> Clip:
        """Return the best take of a request that has a seed. make: makes the clip of a seed."""

        def made(seed: int) -> Clip:
            clip = make(seed)
            return replace(clip, provenance=self.with_policy(clip.provenance))

        return best_of(made, seed_of(request), self.expected, retries=self.retries).clip


def best_of(
    make: Callable[[int], Clip],
    seed: int,
    asked: Asked | None = None,
    *,
    retries: int = 0,
    taken: Callable[[ReviewedTake], object] | None = None,
) -> BestTake:
    """Make a clip with a seed, and again with others while a check fails; keep the best by its score.

    make: makes the clip of a seed. asked: None is what each clip's provenance says. retries: how many more
    takes at most. taken: called with each take when it is reviewed, before the next is made. Of equal scores
    the first is kept. Loudness alone causes no retry,
    for the mix corrects it. Raises RequestError for retries that are no whole number from 0 to 20.
    """
    check_retries(retries)
    takes: list[ReviewedTake] = []
    for attempt in range(retries + 1):
        own = retry_seed(seed, attempt)
        clip = make(own)
        take = ReviewedTake(own, clip, review_clip(clip, asked or asked_of(clip.provenance)))
        if taken is not None:
            taken(take)
        takes.append(take)
        best = best_take(takes)
        takes = [one if one is best else replace(one, clip=None) for one in takes]  # memory for one clip
        if take.is_good:
            break
    return BestTake(best_take(takes), tuple(takes))


def another_seed_cures_none(checks: Collection[str]) -> bool:
    """Return whether a take is good: no check failed but those that the mix cures."""
    return not set(checks) - MIXED


def best_take(takes: Sequence[ReviewedTake]) -> ReviewedTake:
    """Return the take with the highest score; of equal ones the first, but one without a fault to cure."""
    return max(takes, key=lambda take: (take.is_good, take.review.score))


def check_retries(retries: object) -> None:
    """Raise RequestError for what is no whole number from 0 to MAX_RETRIES."""
    if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= MAX_RETRIES:
        raise RequestError(
            f"retries is {shown(retries)}; give a whole number from 0 to {MAX_RETRIES}", field="retries"
        )


def _listed(faults: list[str]) -> str:
    return " and ".join(dict.fromkeys(faults)) or "nothing"
