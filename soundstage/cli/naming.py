"""Names of a command's clips: a file, a folder, or a template such as {index:02}-{prompt}.mp4 or {seed}/."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, Protocol

from soundstage.errors import MediaError, RequestError, listed

if TYPE_CHECKING:
    from soundstage.request.request import Request

FIELDS = ("prompt", "seed", "index", "recipe")
EXAMPLE = "out/{index:02}-{prompt}-{seed}.mp4"
MAX_SLUG = 40  # letters


class PlannedClip(Protocol):
    """The part of a plan that a clip's name needs; the plan is this machine's or a server's.

    num_shown: frames, of which one in `thin` is kept.
    """

    @property
    def request(self) -> Request: ...

    @property
    def num_shown(self) -> int: ...

    @property
    def thin(self) -> int: ...

    @property
    def modalities(self) -> Collection[str]: ...


@dataclass(frozen=True)
class Place:
    """The place of a clip. path: None takes a free name in `folder`, from the prompt and the seed."""

    folder: Path
    path: Path | None


def places(output: str | None, plans: Sequence[PlannedClip]) -> list[Place]:
    """Return the place of each clip, by what --output names. Raises RequestError where it names none."""
    if output == "":
        raise RequestError("--output is empty; give a file, a folder or a template, or leave it out")
    if output is None:
        return [Place(Path(), None) for _ in plans]
    if os.path.isdir(output):
        return [Place(Path(output), None) for _ in plans]
    if output.endswith(("/", os.sep)):
        folders = [Path(_filled(output, planned, index)) for index, planned in enumerate(plans, 1)]
        return [Place(folder, None) for folder in folders]
    if "{" not in output and "}" not in output:
        if len(plans) > 1:
            raise RequestError(
                f"--output is {output} for {len(plans)} clips; give a folder, such as out/, or a template, "
                f"such as {EXAMPLE}"
            )
        return [Place(Path(), Path(output))]
    paths = [Path(_filled(output, planned, index)) for index, planned in enumerate(plans, 1)]
    twice = next((path for index, path in enumerate(paths) if path in paths[:index]), None)
    if twice is not None:
        raise RequestError(f"--output is {output}, which names two clips {twice}; add {{index}} or {{seed}}")
    return [Place(path.parent, path) for path in paths]


def slug(text: str) -> str:
    """Return the first words of a text, whole unless the first is long, as a part of a file's name."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(name) > MAX_SLUG:
        whole_words = name[: MAX_SLUG + 1].rpartition("-")[0]
        name = whole_words or name[:MAX_SLUG]
    return name or "clip"


def _filled(template: str, planned: PlannedClip, index: int) -> str:
    """Return a template with the values of a clip in place of its fields."""
    request = planned.request
    recipe = slug(Path(request.recipe).stem)
    values = dict(zip(FIELDS, (slug(request.prompt), request.seed, index, recipe), strict=True))
    return filled(template, values, EXAMPLE)


def filled(template: str, values: Mapping[str, Any], example: str) -> str:
    """Return a template with values in place of the fields of their names.

    Raises RequestError for what is no template. example: shown in its message.
    """
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        unknown = next((name for name in names if name not in values), None)
        if unknown is None:
            return template.format(**values)
    except (ValueError, LookupError, MemoryError, OverflowError) as error:
        reason = str(error) or "it makes a name that is too long"
        raise RequestError(
            f"--output is {template}, which is no template ({reason}); give {example}"
        ) from error
    raise RequestError(
        f"--output has the field {{{unknown}}}; the fields are {listed(unknown, values)}; write {{{{ for a "
        "brace"
    )


def made_folder(folder: Path) -> Path:
    """Make a folder if it is missing, and return it. Raises MediaError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"output is in {folder}, which cannot be made ({reason}); choose another") from error
    return folder
