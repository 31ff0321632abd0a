"""Clips of a command that a server makes: planned there first, queued together, and saved as each is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soundstage.cli.batch import Tally, about, asked_for, in_short
from soundstage.cli.opening import open_made
from soundstage.cli.options import Values
from soundstage.cli.printing import json_text, rounded_time
from soundstage.cli.remote import cancelled_elsewhere, client_of
from soundstage.cli.rerun import Again
from soundstage.cli.results import Results, Saved, all_results, check_results
from soundstage.cli.reviewing import with_policy
from soundstage.types import Modality

if TYPE_CHECKING:
    from soundstage.client.client import Client
    from soundstage.client.handles import RemoteHandle
    from soundstage.jobs.views import PlanView
    from soundstage.request.request import Request


@dataclass(frozen=True)
class RemotePlan:
    """The plan of a clip as a server made it, with the request."""

    request: Request
    view: PlanView
    thin: int = 1  # the server's number of frames is that of the file

    @property
    def num_shown(self) -> int:
        return self.view.num_frames

    @property
    def modalities(self) -> frozenset[Modality]:
        return self.request.modalities


class Remote:
    """A server that makes a command's clips. values: the command's options."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def num_frames(self, prompt: str, values: Values) -> int:
        """Return the number of frames that a clip would have."""
        with client_of(values) as client:
            return self._plans(client, [prompt], values, None)[0][0].num_shown

    def make(self, prompts: Sequence[str], values: Values, again: Again | None) -> None:
        """Plan all clips, then print the plans, or queue them and save each as it is done."""
        quiet = bool(values.get("quiet"))
        say = _silent if quiet else _say
        with client_of(values) as client:
            plans, notes = self._plans(client, prompts, values, again)
            if values["plan"]:
                if "output" in values:
                    check_results(plans, values)
                _print_plans(plans, as_json=values["as_json"])
                return
            told = (f"notice: {note}" for planned in plans for note in planned.view.notes)
            for note in dict.fromkeys([*notes, *told]):
                say(note)
            if values["detach"]:
                for planned in plans:
                    print(self._queued(client, planned, None).id)
                return
            self._carry_out(client, plans, values, say)

    def _plans(
        self, client: Client, prompts: Sequence[str], values: Values, again: Again | None
    ) -> tuple[list[RemotePlan], list[str]]:
        asked, told = with_policy(asked_for(prompts, values, None if again is None else again.fields), values)
        plans = []
        for wish in asked:
            with about(wish.where, wish.fields):
                plans.append(RemotePlan(wish.request, client.plan(wish.request, model=values.get("model"))))
        return plans, [note for note in dict.fromkeys(wish.note for wish in asked) if note] + told

    def _queued(self, client: Client, planned: RemotePlan, result: Results | None) -> RemoteHandle:
        numbered = result is None or "%" in result.path.name
        format = None if numbered or result is None else result.path.suffix.lower().lstrip(".")
        words = {"model": self._values.get("model"), "label": self._values.get("label"), "format": format}
        return client.submit(planned.request, **{k: v for k, v in words.items() if v is not None})

    def _carry_out(
        self, client: Client, plans: list[RemotePlan], values: Values, say: Callable[[str], None]
    ) -> None:
        made: list[Saved] = []
        with (
            all_results(plans, values) as (named, sheet),
            Tally(len(plans), say, as_json=values["as_json"]) as tally,
        ):
            pairs = list(zip(plans, named.values(), strict=True))
            handles: list[RemoteHandle] = []
            try:
                for planned, result in pairs:
                    handles.append(self._queued(client, planned, result))
                for planned, result, handle in zip(plans, named.values(), handles, strict=True):
                    with tally.clip(in_short(planned)):
                        clip, saved = _fetched(planned, result, handle, quiet=bool(values.get("quiet")))
                        made.append(saved)
                        facts = {"job": handle.id, **clip.provenance, **tally.facts}
                        saved.tell(facts, as_json=values["as_json"], say=say)
                        sheet.add(result.path, clip)
            except BaseException as error:
                _cancel(handles, error, say)
                raise
            comparison = sheet.save(say)
            if values["open"]:
                open_made(made, comparison, say)
            tally.end(comparison)


def _fetched(planned: RemotePlan, result: Results, handle: RemoteHandle, *, quiet: bool) -> tuple[Any, Saved]:
    """Wait for a clip, show its progress, and write it."""
    from soundstage.client.bars import RemoteBars
    from soundstage.rendering.screen import Screen

    with Screen(quiet=quiet) as screen:
        screen.say(f"{_told(planned.view)}; {handle.id}")
        with RemoteBars(handle.job, screen) as bars:
            for event in handle:
                bars.show(event)
        with cancelled_elsewhere():
            clip = handle.result()
        return clip, result.save(clip)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _silent(text: str) -> None:
    """Print nothing."""


def _cancel(handles: Sequence[RemoteHandle], error: BaseException, say: Callable[[str], None]) -> None:
    """Cancel the jobs that have not ended, as the command ends without them, and tell it with the error."""
    from soundstage.errors import SoundstageError

    cancelled = []
    for handle in handles:
        try:
            if not handle.done() and handle.cancel():
                cancelled.append(handle.id)
        except SoundstageError as problem:
            say(f"{handle.id} could not be cancelled, and may go on: {problem}")
    if not cancelled:
        return
    told = f"{' and '.join(cancelled)} {'is' if len(cancelled) == 1 else 'are'} cancelled"
    if isinstance(error, KeyboardInterrupt):
        error.add_note(f"{told}; with --detach a job goes on")
    else:
        say(told)


def _print_plans(plans: Sequence[RemotePlan], *, as_json: bool) -> None:
    for planned in plans:
        if as_json:
            print(json_text(planned.view.model_dump(mode="json"), indent=2 if len(plans) == 1 else None))
        else:
            print("\n".join([_told(planned.view), *planned.view.notes]))


def _told(view: PlanView) -> str:
    """Return what will be made, and the time where the server knows it."""
    seconds = "" if view.seconds is None else f"; about {rounded_time(view.seconds)}"
    memory = "" if view.memory_gb is None else f"; about {view.memory_gb:.1f} GB of memory"
    return f"{view.summary}{memory}{seconds}"
