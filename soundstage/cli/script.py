"""`soundstage script`: write a film's script, and check it before anything is made."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from soundstage.cli.parameters import FILE, SETTINGS, Ordered, as_json
from soundstage.cli.printing import json_text, rounded_time
from soundstage.cli.run_times import RunTimes
from soundstage.files import NameTakenError

if TYPE_CHECKING:
    from soundstage.engine import Engine
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
    from soundstage.production.reading import read_script

    script = read_script(file)
    stage = soundstage.load(script.format.model)
    found = check_film(script, stage, draft=draft)
    expected = _expected(stage, found)
    if as_json:
        print(json_text({**found.to_dict(), "expected_s": expected}, indent=2))
        return
    count = "1 shot" if len(found.shots) == 1 else f"{len(found.shots)} shots"
    print(f"{script.title}: {count}, made by {found.shots[0].plan.model}")
    for shot in found.shots:
        print("\n" + "\n".join(_told(shot)))
    print(f"\nin all: {_totals(found)}")
    if expected is not None:
        print(f"time: about {rounded_time(expected)} with loading and writing, as clips here took")


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


def _told(shot: CheckedShot) -> Iterator[str]:
    """Yield the lines about a shot."""
    price, made = shot.choice.price, shot.made
    memory = max(price.device_bytes, price.host_bytes) / GB
    facts = [
        f"{shot.seconds:.2f} s ({shot.frames} frames)",
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
    for finding in shot.findings:
        rewrite = "" if finding.rewrite is None else f"; write: {finding.rewrite}"
        yield from _wrapped("   ", f"{finding.severity}: {finding.rule}: {finding.why}{rewrite}")
    for notice in shot.notices:
        if made.lead_frames and notice.endswith(KEPT):  # that frames of the shot before are kept
            continue
        yield from _wrapped("   ", f"notice: {notice}")


def _totals(found: ScriptCheck) -> str:
    memory = max(found.host_bytes, found.device_bytes) / GB
    length = f"{found.seconds:.2f} s of film ({found.frames} frames)"
    return f"{length}, about {rounded_time(found.time_s)} of computing, at most {memory:.1f} GB"


def _wrapped(before: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=before, subsequent_indent=before, break_on_hyphens=False)
