"""Result files of a command: names are taken before the work, and no finished clip is lost after it."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from soundstage.cli.naming import PlannedClip, made_folder, places, slug
from soundstage.cli.options import Values
from soundstage.cli.printing import json_text
from soundstage.errors import MediaError
from soundstage.files import NameTakenError, Reserved, check_writable, reserved_name
from soundstage.media.formats import EXR_NAMES, NUMBER, Output, endings, output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from soundstage.clip import Clip

MAX_FOLDERS = 10_000
COMPARISON = "contact-sheet.png"  # of several clips


@dataclass(frozen=True)
class Saved:
    """The files of a clip. problem: what kept the contact sheet or the preview from being written.

    preview: in standard range, of a clip with light.
    """

    path: Path
    contact_sheet: Path | None
    problem: MediaError | None = None
    preview: Path | None = None

    def tell(self, metadata: dict[str, Any], *, as_json: bool, say: Callable[[str], None]) -> None:
        """Print the paths, plainly or as JSON with the metadata. say: prints a line for people."""
        sheet = self.contact_sheet
        if as_json:
            paths = {"path": str(self.path), "contact_sheet": None if sheet is None else str(sheet)}
            paths |= {} if self.preview is None else {"preview": str(self.preview)}
            print(json_text({**paths, **metadata}))
        else:
            print(self.path)
        if self.preview is not None:
            say(f"preview {self.preview}")
        if self.problem is not None:
            raise self.problem
        if sheet is not None and sheet != self.path.with_suffix(".png"):
            say(f"contact sheet {sheet}")


@dataclass(frozen=True)
class Results:
    """Names of a run's results.

    path: the clip's file, of numbered pictures the name with the number's place. reserved: that name, so that
    no other process gets it, the first one of numbered pictures; None where it is replaced. contact_sheet:
    one is made as well. force: it replaces one that is there. coding: `quality` and `codec` as `Clip.save`
    takes them.
    """

    path: Path
    reserved: Reserved | None
    contact_sheet: bool
    force: bool
    coding: dict[str, Any]

    def save(self, clip: Clip) -> Saved:
        """Write the clip and its contact sheet.

        Raises MediaError that says where a clip is kept that could not be written to its own name.
        """
        self._save_clip(clip)
        preview = None
        try:
            preview = self._save_preview(clip) if clip.linear is not None else None
            return Saved(self.path, self._save_sheet(clip) if self.contact_sheet else None, preview=preview)
        except MediaError as error:
            return Saved(self.path, None, error, preview)

    def _save_preview(self, clip: Clip) -> Path:
        """Write the clip in standard range beside its file, and return the name."""
        folder, stem = self.path.parent, f"{self.path.stem}-preview"
        if NUMBER.search(self.path.name):
            stem = "preview"
        still = clip.waveform is None and clip.frames is not None and len(clip.frames) == 1
        ending, codec = (".png", None) if still else (".mp4", "h264")
        if self.force:
            return clip.save(folder / f"{stem}{ending}", codec=codec)
        with reserved_name(folder, stem, ending) as name:
            return clip.save(name.path, codec=codec)

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
    suffix = suffix if clip.hdr is None else clip.hdr.ending
    for folder in (path.parent, Path(), Path(tempfile.gettempdir())):
        try:
            if clip.hdr is not None and suffix == ".exr":
                with _new_folder(folder.absolute(), f"{slug(path.stem)}-kept") as own:
                    return clip.save(own / EXR_NAMES)
            with reserved_name(folder.absolute(), path.stem, suffix) as name:
                return clip.save(name.path)
        except (MediaError, OSError):
            continue
    raise problem


class Comparison:
    """A picture of several clips, a row for each. folder: where it is written; None makes none."""

    def __init__(self, folder: Path | None, *, force: bool) -> None:
        self._folder, self._force = folder, force
        self._rows: list[NDArray[np.uint8]] = []
        if folder is not None:
            check_writable(folder / COMPARISON, (".png",))

    def add(self, path: Path, clip: Clip) -> None:
        """Add the row of a clip. path: its file."""
        from soundstage.media.image import comparison_row

        if self._folder is not None:
            request = clip.request
            label = f"{path.name}   seed {request.seed}   {' '.join(request.prompt.split())}"
            self._rows.append(comparison_row(label, clip.frames, clip.waveform, clip.fps))

    def save(self, say: Callable[[str], None]) -> str | None:
        """Write the picture, say where it is, and return its name; None where there is none."""
        from soundstage.media.image import page_of
        from soundstage.media.picture_files import save_picture

        if self._folder is None or not self._rows:
            return None
        path = self._folder / COMPARISON
        if self._force:
            save_picture(path, page_of(self._rows), overwrite=True)
        else:
            with reserved_name(self._folder, path.stem, path.suffix) as name:
                path = name.path
                save_picture(path, page_of(self._rows), overwrite=True)
        say(f"contact sheet {path}")
        return str(path)


@contextmanager
def all_results(
    plans: Sequence[PlannedClip], values: Values, made: Mapping[int, Path] = MappingProxyType({})
) -> Iterator[tuple[dict[int, Results], Comparison]]:
    """Reserve the names of the clips of a command, by index, and of the sheet that compares several.

    made: the files of those that are made already.
    """
    many, sheet, force = len(plans) > 1, bool(values.get("contact_sheet")), bool(values["force"])
    with ExitStack() as stack:
        named: dict[int, Results] = {}
        for index, (planned, place) in enumerate(zip(plans, places(values["output"], plans), strict=True)):
            if index in made:
                continue
            made_folder(place.folder)
            own = values | {"output": place.path, "contact_sheet": sheet and not many}
            named[index] = stack.enter_context(results(planned, own, place.folder))
        parents = [path.parent for path in (*made.values(), *(one.path for one in named.values()))]
        folder = Path(os.path.commonpath(parents) or ".")
        yield named, Comparison(folder if many and sheet else None, force=force)


def check_formats(plans: Sequence[PlannedClip], values: Values) -> None:
    """Raise MediaError for an ending, a codec or a quality that a clip cannot be written in."""
    for planned, place in zip(plans, places(values["output"], plans), strict=True):
        _asked(planned, values, place.path, place.folder)


def check_results(plans: Sequence[PlannedClip], values: Values) -> None:
    """Raise what `all_results` raises for names that are taken or cannot be written. Makes no folder."""
    for planned, place in zip(plans, places(values["output"], plans), strict=True):
        asked = _asked(planned, values, place.path, place.folder)
        later = not place.folder.is_dir() or (asked.numbered and not asked.path.parent.is_dir())
        with nullcontext() if later else results(planned, values | {"output": place.path}, place.folder):
            pass


@contextmanager
def results(planned: PlannedClip, values: Values, folder: Path) -> Iterator[Results]:
    """Reserve names for what a run will make; a name that is not used is free again after the block.

    folder: where a name is looked for if no output is given.
    Raises MediaError for a name that could not be written later, and for one that is there without --force.
    """
    given: Path | None = values["output"]
    if given is None and _is_exr(planned):
        with _new_folder(folder, _stem(planned)) as own:
            whole = {**values, "output": own / EXR_NAMES}
            with results(planned, whole, own) as found:
                yield found
        return
    force, sheet = bool(values["force"]), bool(values.get("contact_sheet"))
    num_frames = _num_frames(planned)
    asked = _asked(planned, values, given, folder)
    asked.check(num_frames)
    coding = _coding(values)
    if given is not None and force:
        if sheet:
            check_writable(given.with_suffix(".png"), (".png",))
        yield Results(given, None, sheet, force, coding)
        return
    name = asked.path
    named = reserved_name(folder, name.stem, name.suffix) if given is None else _unused(asked, num_frames)
    with named as reserved:
        yield Results(given or reserved.path, reserved, sheet, force, coding)


def _is_exr(planned: PlannedClip) -> bool:
    hdr = planned.request.output
    return hdr is not None and hdr.ending == ".exr"


@contextmanager
def _new_folder(folder: Path, stem: str) -> Iterator[Path]:
    """Make the first free folder of stem, stem-2, ...; remove it after the block if it is empty."""
    for count in range(1, MAX_FOLDERS):
        own = folder / (stem if count == 1 else f"{stem}-{count}")
        try:
            own.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise MediaError(
                f"output is {own}, which cannot be made ({error}); choose another folder"
            ) from error
        try:
            yield own
        finally:
            with suppress(OSError):
                own.rmdir()
        return
    raise MediaError(f"the folders {stem} to {stem}-{MAX_FOLDERS - 1} are all taken; clear some")


def _asked(planned: PlannedClip, values: Values, given: Path | None, folder: Path) -> Output:
    """Return how a clip is written: to the given name, or one in a folder. Raises MediaError."""
    num_frames, hdr = _num_frames(planned), planned.request.output
    if hdr is not None and given is not None and given.suffix and given.suffix.lower() not in hdr.endings:
        raise MediaError(
            f"output is {given}, and output.format {hdr.format} is written as {' or '.join(hdr.endings)}; "
            "give such a name, or a folder"
        )
    if given is not None and not given.suffix:
        ending = endings(num_frames)[0] if hdr is None else hdr.ending
        raise MediaError(
            f"output is {given}, which has no ending; give {given}{ending}, or {given}/ for a folder"
        )
    path = given or folder / f"{_stem(planned)}{endings(num_frames)[0] if hdr is None else hdr.ending}"
    if given is None and _is_exr(planned):
        path = folder / _stem(planned) / EXR_NAMES
    return output(path, num_frames, hdr=hdr, **_coding(values))


def _coding(values: Values) -> dict[str, Any]:
    return {name: values.get(name) for name in ("quality", "codec")}


def _unused(asked: Output, num_frames: int) -> Reserved:
    first, *others = asked.names(num_frames)
    try:
        for name in others:
            if os.path.lexists(name):
                raise NameTakenError(f"output is {name}, which is there already; choose another name")
        return Reserved(first)
    except NameTakenError as error:
        raise MediaError(f"{error}, or add --force to replace it") from error


def _num_frames(planned: PlannedClip) -> int:
    """Return the number of frames that a clip will have; 0 for sound alone."""
    return math.ceil(planned.num_shown / planned.thin) if "video" in planned.modalities else 0


def _stem(planned: PlannedClip) -> str:
    """Return a name made from the prompt's first words and the seed."""
    return f"{slug(planned.request.prompt)}-{planned.request.seed}"
