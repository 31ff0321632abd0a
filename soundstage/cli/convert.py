"""`soundstage convert`: finished clips, and any other that can be read, in another format."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli.announcing import at_work
from soundstage.cli.batch import MAX_CLIPS, Tally
from soundstage.cli.naming import filled, made_folder
from soundstage.cli.parameters import WHOLE_NUMBER, as_json
from soundstage.cli.printing import json_text
from soundstage.errors import RequestError, SoundstageError
from soundstage.files import NameTakenError, check_writable
from soundstage.media.formats import FORMATS
from soundstage.request.words import SPAN_EXAMPLES, span_times

if TYPE_CHECKING:
    from soundstage.conversion import Conversion

EXAMPLE = "out/{name}.gif"
GIVEN = ("quality", "codec", "size", "fps", "at_s", "exposure", "tone_map", "space", "ocio")


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE... OUTPUT",
    help="The clips, and as the last word the file to write, unless it is given by --output.",
)
@click.option(
    "--output",
    "-o",
    metavar="PATH",
    help="Write to this file instead of OUTPUT. Its ending is the format: .mp4, .mov, .mkv, .webm, "
    ".gif, .webp; .wav, .flac, .mp3 or .m4a for the sound; .png, .jpg or .exr for one frame; %04d.png, "
    "%05d.exr or a folder that ends in / for each frame. Several files go into a folder, with --format, or "
    "to a name with the word name or index in braces.",
)
@click.option(
    "--format",
    "ending",
    metavar="ENDING",
    help="Write this format, such as gif, under the name of each file: into the output if it is a folder, "
    "else beside the file.",
)
@click.option(
    "--span", metavar="START-END", help="Take this part, in seconds or as 1:05; END may be left out."
)
@click.option("--at", "at_s", type=float, metavar="SECONDS", help="Take the one frame that is shown then.")
@click.option(
    "--size",
    metavar="SIZE",
    help="Scale to this size without distortion: 320x, x240, 320x240 (a box to fit into), 480p or 50%.",
)
@click.option("--fps", type=float, metavar="RATE", help="Show so many frames per second, at the same speed.")
@click.option(
    "--quality",
    type=WHOLE_NUMBER,
    help="1 to 100: larger is better and takes more room. [default: the format's own]",
)
@click.option("--codec", metavar="NAME", help="Use this codec, as for generate. [default: the format's own]")
@click.option(
    "--exposure", type=float, metavar="STOPS", help="Show light so many stops brighter in standard range."
)
@click.option(
    "--tone-map",
    metavar="NAME",
    help="Bring light into standard range by reinhard, or clip it. [default: reinhard]",
)
@click.option(
    "--color-space",
    "space",
    metavar="NAME",
    help="Write EXR files in this colour space: acescg, or one of --ocio. [default: linear BT.709]",
)
@click.option(
    "--ocio",
    metavar="CONFIG",
    help="Take colour spaces of this OpenColorIO config: a file or a built-in name.",
)
@click.option("--contact-sheet", is_flag=True, help="Write a PNG of frames above the waveform instead.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option("--quiet", "-q", is_flag=True, help="Print no progress and no notices; errors are printed.")
@as_json
def app(files: tuple[str, ...], output: str | None, **values: Any) -> None:
    """Convert finished clips to another format, and print the paths of the new files.

    What a clip says of how it was made is kept, with what was changed.

    Example: soundstage convert ball.mp4 ball.gif --size 320x --fps 12
    """
    say = (lambda _: None) if values["quiet"] else (lambda text: print(text, file=sys.stderr))
    named = _named(list(files), output, values["ending"], sheet=values["contact_sheet"])
    with contextlib.nullcontext() if output is not None else _argument():
        plans = [_planned(source, target, values) for source, target in named]
    with Tally(len(plans), say, as_json=values["as_json"]) as tally:
        for (source, target), planned in zip(named, plans, strict=True):
            with tally.clip(f"{source} to {target}"):
                _convert(source, target, planned, values, tally, say)
        tally.end(None)


@contextlib.contextmanager
def _argument() -> Iterator[None]:
    """Let errors of the output name no option: its name was given as an argument."""
    try:
        yield
    except SoundstageError as error:
        told = str(error)
        if told.startswith("output is "):
            error.args = (f"the {told}", *error.args[1:])
        raise


def _planned(source: str, target: str, values: dict[str, Any]) -> Conversion | None:
    """Return what is checked of a conversion, None for a contact sheet."""
    from soundstage.conversion import Wanted, planned_conversion

    given = {name: values[name] for name in GIVEN}
    span = None if values["span"] is None else _span(values["span"])
    try:
        if values["contact_sheet"]:
            check_writable(Path(target), (".png",), overwrite=values["force"])
            return None
        planned = planned_conversion(source, target, Wanted(span=span, **given))
        planned.output.check(planned.excerpt.num_frames, overwrite=values["force"])
    except NameTakenError as error:
        raise NameTakenError(f"{error}, or add --force to replace it") from error
    return planned


def _convert(
    source: str,
    target: str,
    planned: Conversion | None,
    values: dict[str, Any],
    tally: Tally,
    say: Callable[[str], None],
) -> None:
    from soundstage.conversion import contact_sheet_of

    force = values["force"]
    if planned is None:
        told: dict[str, Any] = {"path": str(contact_sheet_of(source, target, overwrite=force))}
    else:
        for notice in planned.notices:
            say(f"notice: {notice}")
        with at_work(f"write {os.path.basename(target)}", quiet=values["quiet"]) as show:
            told = {"path": str(planned.run(overwrite=force, progress=show)), **_facts(planned)}
    print(json_text({**told, "source": source, **tally.facts}) if values["as_json"] else told["path"])


def _facts(planned: Conversion) -> dict[str, Any]:
    excerpt = planned.excerpt
    return {
        "size": list(planned.output.size(*excerpt.size)) if excerpt.num_frames else None,
        "num_frames": excerpt.num_frames,
        "fps": excerpt.fps if excerpt.num_frames else None,
        "duration_s": excerpt.duration_s,
        "sound": excerpt.sound_s is not None,
        "notices": list(planned.notices),
    }


# --- Names ------------------------------------------------------------------------------------------


def _named(files: list[str], output: str | None, ending: str | None, *, sheet: bool) -> list[tuple[str, str]]:
    """Return each file with the name of the new one. Raises RequestError for names that do not fit."""
    ending = "png" if sheet and ending is None and output is None and len(files) == 1 else ending
    if output is None and (ending is None or _is_folder(files[-1])):
        output = files.pop() if len(files) > 1 else None
    if ending is None and output is None:
        raise RequestError(f"convert needs an output; give its name after {files[0]}, or --format")
    if ending is not None:
        ending = _ending(ending)
    if len(files) > MAX_CLIPS:
        raise RequestError(f"more than {MAX_CLIPS} files are given; convert them by several commands")
    names = [_name(file, output, ending, index, len(files)) for index, file in enumerate(files, 1)]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise RequestError(f"two of the files would be {twice}; give --output with {{index}} in it")
    return list(zip(files, names, strict=True))


def _name(file: str, output: str | None, ending: str | None, index: int, count: int) -> str:
    path = Path(file)
    if output is None:
        return str(path.with_suffix(ending or ""))
    if "{" in output or "}" in output:
        name = filled(output, {"name": path.stem, "index": index}, EXAMPLE)
        made_folder(Path(name).parent)
        return name
    if ending is not None and _is_folder(output):
        return str(made_folder(Path(output)) / f"{path.stem}{ending}")
    if ending is not None and not output.lower().endswith(ending):
        raise RequestError(f"--output is {output} and --format {ending[1:]}; keep one, or give a folder")
    if count > 1:
        raise RequestError(
            f"the output is {output} for {count} files; give a folder and --format, or a name such as "
            f"{EXAMPLE}"
        )
    if os.path.isdir(output) and not output.endswith(("/", os.sep)):
        raise RequestError(
            f"the output is {output}, a folder; add --format, such as gif, or a / for a picture of each frame"
        )
    return output


def _is_folder(name: str) -> bool:
    return os.path.isdir(name) or name.endswith(("/", os.sep))


def _ending(text: str) -> str:
    ending = f".{text.lower().removeprefix('.')}"
    if ending not in FORMATS:
        raise RequestError(f"--format is '{text}'; give one of {', '.join(e[1:] for e in FORMATS)}")
    return ending


def _span(text: str) -> tuple[float, float | None]:
    start_s, end_s = span_times(text)
    if start_s is None and end_s is None:
        raise RequestError(f"--span is '{text}'; give START-END in seconds, such as {SPAN_EXAMPLES}, or 2-")
    return start_s or 0.0, end_s
