"""Result files of a command: names are taken before the work, and no finished clip is lost after it."""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage.cli.options import Values
from soundstage.cli.printing import json_text
from soundstage.errors import MediaError
from soundstage.files import NameTakenError, Reserved, check_writable, reserved_name
from soundstage.media.formats import Output, endings, output

if TYPE_CHECKING:
    from soundstage.clip import Clip
    from soundstage.planning.plan import Plan


@dataclass(frozen=True)
class Results:
    """Names of a run's results.

    path: the clip's file. reserved: that name, so that no other process gets it, the first one of numbered
    pictures; None where it is replaced. contact_sheet: one is made as well. force: it replaces one that is
    there. coding: `quality` and `codec` as `Clip.save` takes them.
    """

    path: Path
    reserved: Reserved | None
    contact_sheet: bool
    force: bool
    coding: dict[str, Any]

    def save(self, clip: Clip, metadata: dict[str, Any], *, as_json: bool) -> None:
        """Write the clip and its contact sheet; print their paths, plainly or as JSON with the metadata.

        Raises MediaError that says where a clip is kept that could not be written to its own name.
        """
        self._save_clip(clip)
        sheet = problem = None
        try:
            sheet = self._save_sheet(clip) if self.contact_sheet else None
        except MediaError as error:
            problem = error
        if as_json:
            paths = {"path": str(self.path), "contact_sheet": None if sheet is None else str(sheet)}
            print(json_text({**paths, **metadata}))
        else:
            print(self.path)
        if problem is not None:
            raise problem
        if sheet is not None and sheet != self.path.with_suffix(".png"):
            print(f"contact sheet {sheet}", file=sys.stderr)

    def _save_clip(self, clip: Clip) -> None:
        try:
            if self.reserved is not None and not self.reserved.held():
                raise MediaError(f"{self.reserved.path} was written by another program meanwhile")
            clip.save(self.path, **self.coding)
        except MediaError as error:
            raise MediaError(f"{error}; the clip is kept as {kept(clip, self.path, error)}") from error

    def _save_sheet(self, clip: Clip) -> Path:
        if self.force:
            return clip.contact_sheet(self.path.with_suffix(".png"))
        with reserved_name(self.path.parent, self.path.stem, ".png") as name:
            return clip.contact_sheet(name.path)


def kept(clip: Clip, path: Path, problem: MediaError) -> Path:
    """Save a clip under a free name instead of `path`: beside it, here, or in the temporary folder.

    Of numbered pictures it becomes one film. Raises the problem itself where none of them can be written
    either.
    """
    suffix = path.suffix if path.suffix.lower() in clip.suffixes else clip.suffixes[0]
    for folder in (path.parent, Path(), Path(tempfile.gettempdir())):
        try:
            with reserved_name(folder.absolute(), path.stem, suffix) as name:
                return clip.save(name.path)
        except (MediaError, OSError):
            continue
    raise problem


@contextmanager
def results(prompt: str, planned: Plan, values: Values) -> Iterator[Results]:
    """Reserve names for what a run will make; a name that is not used is free again after the block.

    Raises MediaError for a name that could not be written later, and for one that is there without --force.
    """
    given: Path | None = values["output"]
    force, sheet = bool(values["force"]), bool(values.get("contact_sheet"))
    coding = {name: values[name] for name in ("quality", "codec")}
    num_frames = _num_frames(planned)
    path = given or Path(f"{_stem(prompt, planned)}{endings(num_frames)[0]}")
    asked = output(path, num_frames, **coding)
    asked.check(num_frames)
    if given is not None and force:
        if sheet:
            check_writable(given.with_suffix(".png"), (".png",))
        yield Results(given, None, sheet, force, coding)
        return
    named = reserved_name(Path(), path.stem, path.suffix) if given is None else _unused(asked, num_frames)
    with named as reserved:
        yield Results(given or reserved.path, reserved, sheet, force, coding)


def _unused(asked: Output, num_frames: int) -> Reserved:
    first, *others = asked.names(num_frames)
    try:
        for name in others:
            if os.path.lexists(name):
                raise NameTakenError(f"output is {name}, which is there already; choose another name")
        return Reserved(first)
    except NameTakenError as error:
        raise MediaError(f"{error}, or add --force to replace it") from error


def _num_frames(planned: Plan) -> int:
    """Return the number of frames that a clip will have; 0 for sound alone."""
    return math.ceil(planned.num_shown / planned.thin) if "video" in planned.modalities else 0


def _stem(prompt: str, planned: Plan) -> str:
    """Return a name made from the prompt's first words and the seed."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-") or "clip"
    return f"{words}-{planned.request.seed}"
