"""`soundstage show`: how clips were made, on one screen each or with all that their files keep."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from soundstage.cli.made import Made, read_made
from soundstage.cli.parameters import FILE, SETTINGS, as_json
from soundstage.cli.printing import json_text
from soundstage.errors import SoundstageError

NAME_WIDTH = 10  # of a row


@click.command(context_settings=SETTINGS)
@click.argument(
    "file",
    nargs=-1,
    required=True,
    type=FILE,
    help="A file that Soundstage wrote, the contact sheet of one clip, or the folder of a take. Several are "
    "shown in turn.",
)
@click.option(
    "--full",
    is_flag=True,
    help="Print all that the file keeps, every pass and the hashes of weights too.",
)
@as_json
def app(file: tuple[Path, ...], full: bool, as_json: bool) -> None:
    """Print how a clip was made, and how to make it again.

    Example: soundstage show ball.mp4
    """
    found = [read_made(path) for path in file]
    for number, made in enumerate(found):
        if as_json and len(found) == 1:
            print(json_text(made.facts, indent=2))
        elif as_json:
            print(json_text({"path": str(made.path), **made.facts}))
        else:
            print("\n" * (number > 0) + (_full(made) if full else _short(made)))


def _full(made: Made) -> str:
    lines = [str(made.path)]
    for key, value in made.facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
        lines.append(f"{key}: {text}")
    return "\n".join(lines)


def _short(made: Made) -> str:
    if "timeline" in made.facts and "request" not in made.facts:  # a film that was cut
        rows = [*_cut_rows(_mapping(made.facts, "timeline")), *_file_rows(made)]
        return "\n".join([str(made.path), *lines_of(rows)])
    rows = [*asked_rows(made.facts), *_made_rows(made.facts), *_file_rows(made)]
    return "\n".join(
        [str(made.path), *lines_of(rows), f"again: soundstage rerun {shlex.quote(str(made.path))}"]
    )


def lines_of(rows: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """Yield the lines of rows: names on the left, values wrapped beside them."""
    width = max(shutil.get_terminal_size().columns, 2 * NAME_WIDTH + 20)
    for name, value in rows:
        yield textwrap.fill(
            " ".join(str(value).split()),
            width,
            initial_indent=f"  {name:{NAME_WIDTH}}",
            subsequent_indent=" " * (NAME_WIDTH + 2),
            break_on_hyphens=False,
            break_long_words=False,
        )


def asked_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the rows on what was asked for."""
    asked = _mapping(facts, "request")
    yield "prompt", asked.get("prompt", "not said")
    if asked.get("negative_prompt"):
        yield "negative", asked["negative_prompt"]
    if "width" in facts:
        yield "made", _size(facts, asked)
    yield "seed", asked.get("seed", "not said")
    yield "recipe", ": ".join([str(facts.get("recipe") or asked.get("recipe", "single")), *_steps(facts)])
    loras = [_lora(lora) for lora in asked.get("loras") or () if isinstance(lora, Mapping)]
    if loras:
        yield "LoRAs", ", ".join(loras)
    inputs = _inputs(asked)
    if inputs:
        yield "inputs", ", ".join(inputs)


def _cut_rows(timeline: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the rows on what a film was cut from."""
    cuts = [cut for cut in timeline.get("cuts") or () if isinstance(cut, Mapping)]
    yield "cuts", f"{len(cuts)} of {', '.join(dict.fromkeys(str(cut.get('source')) for cut in cuts))}"
    for name, key in (("music", "music"), ("voices", "voice_over")):
        pieces = [str(one.get("path")) for one in timeline.get(key) or () if isinstance(one, Mapping)]
        if pieces:
            yield name, ", ".join(pieces)


def _made_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the rows on what made the clip."""
    if "model" in facts:
        how = [f"{facts['dtype']} on {facts['device']}"] if "dtype" in facts and "device" in facts else []
        how += [f"weights {facts['weights']}"] if facts.get("weights", "full") != "full" else []
        yield "model", ", ".join([str(facts["model"]), *how])
    if "soundstage" in facts:
        yield "version", f"soundstage {facts['soundstage']}"


def _file_rows(made: Made) -> Iterator[tuple[str, str]]:
    """Yield the rows on the file itself."""
    changes = [change for change in made.facts.get("changes") or () if isinstance(change, Mapping)]
    if changes:
        yield "changed", "; ".join(_change(*one) for change in changes for one in change.items())
    if made.take is not None:
        yield "windows", f"{made.num_windows} of {len(made.facts.get('windows') or ())} finished"
    if made.path.exists():
        written = datetime.fromtimestamp(made.path.stat().st_mtime)
        yield "written", written.isoformat(" ", "seconds")


def _size(facts: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return size, length and rate of the clip."""
    thin = facts.get("thin") or 1
    shown, fps = facts.get("shown_frames") or facts["num_frames"], facts["fps"]
    length = f"{shown / fps:.4g} s"
    modalities = asked.get("modalities") or ["video", "audio"]
    if "video" not in modalities:
        return f"{length}, sound alone"
    width, height = facts.get("shown_size") or (facts["width"], facts["height"])
    silent = "" if "audio" in modalities else ", silent"
    return f"{width}x{height}, {math.ceil(shown / thin)} frames at {fps / thin:g} fps, {length}{silent}"


def _change(name: str, value: Any) -> str:
    """Return in words what was done to a finished clip, as `conversion` and `Clip.trim` note it."""
    match name, value:
        case "size", [width, height]:
            return f"scaled to {width}x{height}"
        case "trimmed_s", [start, end]:
            return f"the part from {start:.4g} to {end:.4g} s"
        case "still_s", _:
            return f"the frame at {value:.4g} s"
        case "fps", _:
            return f"shown at {value:g} fps"
        case "left_out", _:
            return f"without {value}"
    return f"{name} {value}"


def _steps(facts: Mapping[str, Any]) -> list[str]:
    """Return the steps, sampler and guidance of each pass, as one text; nothing where none is told."""
    told = []
    for each in facts.get("passes") or ():
        guidance = [
            f"{word} {each[name]['cfg']:g}"
            for name, word in (("video", "guidance"), ("audio", "guidance of sound"))
            if isinstance(each.get(name), Mapping) and each[name].get("cfg", 1) != 1
        ]
        told.append(", ".join([f"{len(each['sigmas']) - 1} {each['sampler']} steps", *guidance]))
    return ["; then ".join(told)] if told else []


def _lora(lora: Mapping[str, Any]) -> str:
    return f"{lora.get('path')} at {lora.get('strength', 1):g}"


def _inputs(asked: Mapping[str, Any]) -> list[str]:
    """Return the pictures, clips and sounds that a request names, each with its field."""
    from soundstage.request.request import Request

    try:
        request = Request(**asked)
    except SoundstageError:  # one with arrays, or of another version
        return []
    return [f"{path} ({place})" for place, path in request.files.items() if not place.startswith("loras")]


def _mapping(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = facts.get(name)
    return value if isinstance(value, Mapping) else {}
