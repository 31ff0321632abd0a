"""Where a command's results go: names are taken before the work, and no finished clip is lost after it."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage.cli.app import json_text
from soundstage.cli.options import Values
from soundstage.errors import MediaError

if TYPE_CHECKING:
    from soundstage.clip import Clip
    from soundstage.media.files import Reserved
    from soundstage.plan import Plan


@dataclass(frozen=True)
class Results:
    """path: of the clip. sheet: of its contact sheet, or None. reserved: the names that nobody else gets."""

    path: Path
    sheet: Path | None
    reserved: tuple[Reserved, ...]

    def save(self, clip: Clip, facts: dict[str, Any], *, as_json: bool) -> None:
        """Write the clip and its contact sheet and print where they are, as JSON with these facts or plainly.

        Raises MediaError that says where a clip is kept that could not be written to its own name.
        """
        self._save_clip(clip)
        sheet, problem = self.sheet, None
        if sheet is not None:
            try:
                clip.contact_sheet(sheet)
            except MediaError as error:
                sheet, problem = None, error
        if as_json:
            paths = {"path": str(self.path), "contact_sheet": None if sheet is None else str(sheet)}
            print(json_text({**paths, **facts}))
        else:
            print(self.path)
        if problem is not None:
            raise problem
        if sheet is not None and sheet != self.path.with_suffix(".png"):
            print(f"contact sheet {sheet}", file=sys.stderr)

    def _save_clip(self, clip: Clip) -> None:
        try:
            if any(name.path == self.path and not name.held() for name in self.reserved):
                raise MediaError(f"{self.path} was written by another program meanwhile")
            clip.save(self.path)
        except MediaError as error:
            raise MediaError(f"{error}; the clip is kept as {kept(clip, self.path, error)}") from error


def kept(clip: Clip, path: Path, problem: MediaError) -> Path:
    """Save a clip under a free name instead of `path`: beside it, here, or in the temporary folder.

    Raises the problem itself where none of them can be written either.
    """
    from soundstage.media.files import reserved_name

    for folder in (path.parent, Path.cwd(), Path(tempfile.gettempdir())):
        try:
            with reserved_name(folder, path.stem, path.suffix) as name:
                return clip.save(name.path)
        except MediaError:
            continue
    raise problem


@contextmanager
def results(prompt: str, planned: Plan, values: Values) -> Iterator[Results]:
    """Names for what a run will make; those that are not used are free again when the block ends.

    Raises MediaError for a name that could not be written later, and for one that is there without --force.
    """
    from soundstage.media.files import check_writable, reserved_name

    with ExitStack() as stack:
        reserved = []
        path: Path | None = values["output"]
        suffixes = _suffixes(planned)
        if path is None:
            reserved.append(stack.enter_context(reserved_name(Path(), _stem(prompt, planned), suffixes[0])))
            path = reserved[0].path
        check_writable(path, suffixes)
        if values["output"] is not None and not values["force"]:
            reserved.append(stack.enter_context(_unused(path)))
        sheet: Path | None = None
        if values.get("contact_sheet") and values["force"]:
            sheet = path.with_suffix(".png")
            check_writable(sheet, (".png",))
        elif values.get("contact_sheet"):
            reserved.append(stack.enter_context(reserved_name(path.parent, path.stem, ".png")))
            sheet = reserved[-1].path
        yield Results(path, sheet, tuple(reserved))


def _unused(path: Path) -> Reserved:
    from soundstage.media.files import NameTakenError, Reserved

    try:
        return Reserved(path)
    except NameTakenError as error:
        raise MediaError(f"{error}, or add --force to replace it") from error


def _suffixes(planned: Plan) -> tuple[str, ...]:
    from soundstage.clip import AUDIO_SUFFIXES, VIDEO_SUFFIXES

    return VIDEO_SUFFIXES if "video" in planned.modalities else AUDIO_SUFFIXES


def _stem(prompt: str, planned: Plan) -> str:
    """A name from the prompt's first words and the seed."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-") or "clip"
    return f"{words}-{planned.request.seed}"
