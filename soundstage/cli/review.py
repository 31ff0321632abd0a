"""`soundstage review`: the faults of finished clips, by checks that need no reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from soundstage.cli.parameters import FILE, SETTINGS, as_json
from soundstage.cli.printing import json_text
from soundstage.cli.process import FAULT
from soundstage.errors import MediaError

if TYPE_CHECKING:
    from soundstage.review.record import Review


@click.command(context_settings=SETTINGS)
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...", help="The clips to review.")
@click.option(
    "--asked",
    metavar="NAME=VALUE,...",
    help="What the clip was meant to be, over what its file says: motion, cuts, speech, music, tone, "
    "silence, sync as yes, no or any; still-start in seconds; seams as times such as 4.1+8.2; loudness in "
    "LUFS, such as -16 or -18:-14.",
)
@click.option(
    "--sound",
    metavar="NAME=VALUE,...",
    help="Sound policy that is measured, over the one in the file, such as "
    "music=none,speech=only,loudness=-16.",
)
@as_json
def app(files: tuple[Path, ...], asked: str | None, sound: str | None, as_json: bool) -> None:
    """Find faults of finished clips: stillness, jumps, drift, silence, clipping, unwanted music and more.

    The score is 1 without a fault, and falls with each one. Exit code 0: no fault, 1: faults, 2: a file that
    cannot be read. docs/review.md has the checks, their limits and how often they are right.

    Example: soundstage review ball.mp4 --asked music=no,speech=no
    """
    from soundstage.clip import known_provenance
    from soundstage.review.asking import asked_of
    from soundstage.review.policy import SoundPolicy
    from soundstage.review.record import Asked
    from soundstage.review.reviewing import review_clip

    policy = None if sound is None else SoundPolicy.from_text(sound)
    Asked.from_text(asked or "")
    faulty = False
    for path in files:
        wished = asked_of(known_provenance(path))
        wished = wished if policy is None else policy.asked(wished)
        try:
            found = review_clip(path, Asked.from_text(asked or "", wished))
        except MediaError as error:
            raise MediaError(f"{error}" if str(path) in str(error) else f"{path}: {error}") from error
        faulty |= bool(found.faults)
        if as_json:
            print(json_text({"path": str(path), **found.to_dict()}, indent=2 if len(files) == 1 else None))
        else:
            print(told(path.name, found))
    if faulty:
        raise click.exceptions.Exit(FAULT)


def told(name: str, review: Review) -> str:
    """Return a review in lines for people."""
    lines = [f"{name}: score {review.score:.2f}{'' if review.faults else ', no fault found'}"]
    for fault in review.faults:
        lines.append(f"  {fault.check:<13}{fault.start_s:6.2f}-{fault.end_s:.2f} s  {fault.why}")
    lines += [f"  note: {notice}" for notice in review.notices]
    return "\n".join(lines)
