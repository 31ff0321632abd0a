"""`soundstage script`: write a film's script, and check it before anything is made."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from soundstage.cli.parameters import FILE, SETTINGS, Ordered, as_json
from soundstage.cli.printing import json_text, rounded_time
from soundstage.cli.run_times import RunTimes
from soundstage.errors import num_of
from soundstage.files import NameTakenError

if TYPE_CHECKING:
    from soundstage.engine import Engine
    from soundstage.planning.plan import Snap
    from soundstage.production.checking import CheckedShot, ScriptCheck

GB = 1e9
KEPT = "everything else stays as it is"  # ends the notice about an extension
WIDTH = 100


@click.group("script", cls=Ordered, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Write a film as a script of shots, and check it.

    Example: soundstage script new film.yaml
    """


@app.command()
@click.argument(
    "file", type=FILE, help="The script to write, a .yaml file, or a .fountain one for a screenplay."
)
@click.option("--from", "sentence", metavar="SENTENCE", help="Write a film of one shot that shows this.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def new(file: Path, sentence: str | None, force: bool) -> None:
    """Write a script to begin with, and print its path.

    Without a sentence it is an annotated example of four shots that runs on nano.

    Example: soundstage script new film.yaml
    """
    from soundstage.production.starting import new_script

    try:
        print(new_script(file, sentence, overwrite=force))
    except NameTakenError as error:
        raise NameTakenError(f"{error}, or add --force to replace it") from error


@app.command()
@click.argument("file", type=FILE, help="The script, a .yaml or .fountain file.")
@click.option("--draft", is_flag=True, help="Check it as a draft, with the script's draft_recipe.")
@as_json
def check(file: Path, draft: bool, as_json: bool) -> None:
    """Print each shot's prompt, length, seed, time and memory, and what could be better.

    Nothing is made. All that is wrong in the script is printed at once, each with its line.

    Example: soundstage script check film.yaml
    """
    import soundstage
    from soundstage.production.checking import check_film
    from soundstage.production.reading import script_file

    read = script_file(file)
    with read.telling() as script:
        stage = soundstage.load(script.format.model)
        found = check_film(script, stage, draft=draft, standing_in=read.standing_in)
    expected = _expected(stage, found)
    notices = [*read.notices, *found.notices]
    if as_json:
        print(json_text({**found.to_dict(), "notices": notices, "expected_s": expected}, indent=2))
        return
    print(f"{script.title}: {num_of(len(found.shots), 'shot')}, made by {found.shots[0].plan.model}")
    shots = found.shots
    everywhere = [snap for snap in shots[0].plan.snaps if all(snap in shot.plan.snaps for shot in shots)]
    for shot in shots:
        print("\n" + "\n".join(_told(shot, everywhere)))
    print(f"\nin all: {_totals(found)}")
    for text in (*(f"snapped {snap}" for snap in everywhere), *(f"notice: {one}" for one in notices)):
        print("\n".join(_wrapped("", text)))
    if expected is not None:
        print(f"time: about {rounded_time(expected)} with loading and writing, as clips here took")
    else:
        print("time: loading and writing come to that; how long is known after the first clip here")


def _expected(stage: Engine, found: ScriptCheck) -> float | None:
    """Return the seconds of all shots, as clips here took; None where they are not known."""
    total = 0.0
    times = RunTimes()
    for number, shot in enumerate(found.shots):
        times.of(stage, shot.plan, shot.choice)
        seconds = times.expected(more=number > 0)
        if seconds is None:
            return None
        total += seconds
    return total


def _told(shot: CheckedShot, told_elsewhere: Sequence[Snap]) -> Iterator[str]:
    """Yield the lines about a shot. told_elsewhere: what was snapped in all shots alike."""
    price, made = shot.choice.price, shot.made
    memory = max(price.device_bytes, price.host_bytes) / GB
    facts = [
        f"{shot.seconds:.2f} s ({num_of(shot.frames, 'frame')})",
        f"{shot.plan.width}x{shot.plan.height}",
        f"recipe {shot.plan.recipe}",
        f"seed {made.seed}",
        f"about {rounded_time(price.seconds)}, {memory:.1f} GB",
    ]
    facts += [f"{need.use.replace('_', ' ')} {need.id}" for need in made.needs]
    facts += [made.shot.transition] if made.shot.transition != "cut" else []
    yield f"{made.number}  {made.id}"
    yield from _wrapped("   ", ", ".join(facts))
    yield from _wrapped("   ", shot.plan.request.prompt)
    for snap in shot.plan.snaps:
        if snap not in told_elsewhere:
            yield from _wrapped("   ", f"snapped {snap}")
    for finding in shot.findings:
        rewrite = "" if finding.rewrite is None else f"; write: {finding.rewrite}"
        yield from _wrapped("   ", f"{finding.severity}: {finding.rule}: {finding.why}{rewrite}")
    for notice in shot.notices:
        if made.lead_frames and notice.endswith(KEPT):  # that frames of the shot before are kept
            continue
        yield from _wrapped("   ", f"notice: {notice}")


def _totals(found: ScriptCheck) -> str:
    memory = max(found.host_bytes, found.device_bytes) / GB
    length = f"{found.seconds:.2f} s of film ({num_of(found.frames, 'frame')})"
    return f"{length}, about {rounded_time(found.time_s)} of computing, at most {memory:.1f} GB"


def _wrapped(before: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=before, subsequent_indent=before, break_on_hyphens=False)
