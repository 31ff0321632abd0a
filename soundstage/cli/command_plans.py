"""The plans of a command: all its clips are worked out before the first one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click

import soundstage
from soundstage.cli.announcing import asking_gpu
from soundstage.cli.batch import about, asked_for
from soundstage.cli.defaults import without_unused
from soundstage.cli.options import Values
from soundstage.cli.printing import json_text, rounded_time
from soundstage.cli.rerun import Again
from soundstage.cli.reviewing import with_policy
from soundstage.cli.run_times import RunTimes
from soundstage.cli.telling import spoken_within
from soundstage.errors import RequestError
from soundstage.media.formats import UnusedCodingError

if TYPE_CHECKING:
    from soundstage.engine import Engine
    from soundstage.planning.placement import Choice
    from soundstage.planning.plan import Plan

Made = TypeVar("Made")


class CommandPlans(NamedTuple):
    """The clips of a command: their plans, where their weights will be, and notes on their seeds."""

    stage: Engine
    plans: list[Plan]
    choices: list[Choice]
    notes: list[str]


def planned_clips(
    prompts: Sequence[str], values: Values, say: Callable[[str], None], again: Again | None = None
) -> CommandPlans:
    """Plan all clips that a command's options ask for; each fits the machine.

    Defaults of the user's that nothing would read are left out, and that is said. again: the clip that is
    made again, which has no fields by default.
    """
    if again is not None:
        return _plans(prompts, values, again)
    return without_misfits(values, lambda values: _plans(prompts, values, None), say)[0]


def without_misfits(
    values: Values, work: Callable[[Values], Made], say: Callable[[str], None]
) -> tuple[Made, Values]:
    """Return what work returns, and values without the defaults of the user's that nothing would read."""
    while True:
        try:
            return work(values), values
        except (RequestError, UnusedCodingError) as error:
            context = click.get_current_context()
            told = spoken_within(context).sentence(str(error))
            values = without_unused(context, values, error, told, say)


def _plans(prompts: Sequence[str], values: Values, again: Again | None) -> CommandPlans:
    asked, told = with_policy(asked_for(prompts, values, None if again is None else again.fields), values)
    stage = _engine(values)
    notes = [note for note in dict.fromkeys(a.note for a in asked) if note] + told
    work = CommandPlans(stage, [], [], notes + ([] if again is None else again.notes(stage)))
    for wish in asked:
        with about(wish.where, wish.fields):
            work.plans.append(work.stage.plan(wish.request))
            with asking_gpu(work.plans[-1], quiet=values.get("quiet", False)):
                work.choices.append(work.stage.choose(work.plans[-1]))
    return work


def _engine(values: Values) -> Engine:
    names = list(values["model"])
    return soundstage.load(
        names[0] if len(names) == 1 else names,
        dtype=values["dtype"],
        residency=values["residency"],
        memory_gb=values["memory"],
        weights=values["weights"],
    )


def print_plans(work: CommandPlans, values: Values, say: Callable[[str], None]) -> None:
    """Print each plan, and where its weights will be on this machine."""
    stage, plans, choices, notes = work
    for note in notes:
        say(note)
    used = stage.number_format
    for planned, choice in zip(plans, choices, strict=True):
        if values["as_json"]:
            found = {**planned.to_dict(), "format": asdict(used), "memory": choice.to_dict()}
            print(json_text(found, indent=2 if len(plans) == 1 else None))
        else:
            times = RunTimes()
            times.of(stage, planned, choice)
            print(f"{as_typed(planned)}\nformat    {used}\n{choice}")
            if (seconds := times.expected()) is not None:
                print(f"time      about {rounded_time(seconds)} with loading and writing, as clips here took")


def as_typed(planned: Plan) -> Plan:
    """Return the plan with snaps and notices that name the command's options instead of fields."""
    spoken = spoken_within(click.get_current_context())

    def typed(sentence: str) -> str:
        return spoken.with_places(spoken.sentence(sentence))

    snaps = tuple(replace(snap, rule=typed(snap.rule)) for snap in planned.snaps)
    return replace(planned, snaps=snaps, notices=tuple(map(typed, planned.notices)))
