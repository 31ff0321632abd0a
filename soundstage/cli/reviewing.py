"""Options of `generate` on its result: sound policy, what is expected, more takes while a check fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli.batch import AskedClip
from soundstage.cli.options import Values
from soundstage.errors import MediaError

if TYPE_CHECKING:
    from soundstage.clip import Clip
    from soundstage.planning.plan import Plan
    from soundstage.rendering.events import Done
    from soundstage.review.retry import ResultWishes, ReviewedTake


def review_options(command: Any) -> Any:
    """Give a command the options on its result."""
    options = (
        click.option(
            "--sound",
            metavar="NAME=VALUE,...",
            help="Sound policy: music and speech as none, only or any, ambience in words, loudness in LUFS, "
            "such as music=none,ambience=rain,loudness=-16. It is put into the prompt, the sound's negative "
            "prompt and NAG, and measured in the result.",
        ),
        click.option(
            "--retries",
            type=click.IntRange(min=0, max=20),
            default=0,
            metavar="COUNT",
            help="Make the clip again with another seed while a check of the result fails, at most this many "
            "times, and keep the best.",
        ),
        click.option(
            "--asked",
            metavar="NAME=VALUE,...",
            help="What the checks expect of the result, as `soundstage review` has it.",
        ),
        click.option(
            "--keep-takes", is_flag=True, help="Write the other takes of --retries too, beside the clip."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def with_policy(asked: Sequence[AskedClip], values: Values) -> tuple[list[AskedClip], list[str]]:
    """Return the requests with the policy of --sound, and what it adds to them, each thing once."""
    if not values.get("sound"):
        wishes_of(values)
        return list(asked), []
    policy = wishes_of(values).sound
    assert policy is not None
    told = [notice for wish in asked for notice in policy.notices(wish.request)]
    made = [replace(wish, request=policy.applied(wish.request)) for wish in asked]
    return made, [f"notice: {notice}" for notice in dict.fromkeys(told)]


def wishes_of(values: Values) -> ResultWishes:
    """Return what a command's options wish of its result. Raises RequestError for words that do not fit."""
    from soundstage.review.policy import SoundPolicy
    from soundstage.review.record import Asked
    from soundstage.review.retry import ResultWishes

    sound, asked = values.get("sound"), values.get("asked")
    return ResultWishes(
        SoundPolicy.from_text(sound) if sound else None,
        values.get("retries") or 0,
        Asked.from_text(asked) if asked else None,
    )


@dataclass(frozen=True)
class Remaking:
    """Ways to make a clip again and to keep one. say: prints a line for people."""

    make: Callable[[int], Done]
    save: Callable[[Clip], Any]
    path: Path
    say: Callable[[str], None]


def reviewed(done: Done, planned: Plan, again: Remaking, values: Values) -> Done:
    """Return the event with the best take of a clip, where the options ask for a review; else as it is.

    done: the first take's. If a later take fails or is interrupted, the best so far is written first.
    """
    wishes = wishes_of(values)
    if not (wishes.sound or wishes.asked or wishes.retries):
        return done
    from soundstage.planning.seeds import seed_of
    from soundstage.review.retry import best_of, best_take

    takes: list[ReviewedTake] = []
    seconds = [done.seconds]

    def make(seed: int) -> Clip:
        if not takes:
            clip = done.clip
        else:
            again.say(f"{_told(takes[-1])}; made again with seed {seed}")
            made = again.make(seed)
            seconds.append(made.seconds)
            clip = made.clip
        return replace(clip, provenance=wishes.with_policy(clip.provenance))

    def taken(take: ReviewedTake) -> None:
        takes.append(take)
        best = best_take(takes)
        for i, one in enumerate(takes):
            if one is not best and one.clip is not None:
                if values.get("keep_takes"):
                    again.say(f"take {_kept(one.clip, one.seed, again.path)}")
                takes[i] = replace(one, clip=None)

    try:
        best = best_of(make, seed_of(planned.request), wishes.expected, retries=wishes.retries, taken=taken)
    except BaseException as error:
        if takes:
            _rescue(takes, again, error)
        raise
    again.say(f"review: {best.why}")
    phases = dict.fromkeys(name for one in seconds for name in one)
    return replace(done, clip=best.clip, seconds={n: sum(one.get(n, 0) for one in seconds) for n in phases})


def _rescue(takes: Sequence[ReviewedTake], again: Remaking, error: BaseException) -> None:
    """Write the best take that is made, and note it on the error that ends the command."""
    from soundstage.review.retry import best_take

    best = best_take(takes)
    with suppress(MediaError):
        if best.clip is not None:
            again.save(best.clip)
            error.add_note(f"the take of seed {best.seed} is kept as {again.path}")


def _told(take: ReviewedTake) -> str:
    return f"seed {take.seed} has the score {take.review.score:.2f}: {', '.join(take.faults)}"


def _kept(clip: Clip, seed: int, path: Path) -> Path:
    """Write a take that is not the best beside the clip, under a free name."""
    from soundstage.cli.results import kept

    problem = MediaError(f"the take of seed {seed} cannot be written")
    return kept(clip, path.with_stem(f"{path.stem}-seed-{seed}"), problem)
