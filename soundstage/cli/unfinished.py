"""Keep where the clips of a command stand, in the user's cache until all of them are made, for `--resume`.

    renders/<fingerprint of the command>-1/
        command.json            the seed that was drawn, and the clips that are made
        clip-001-<request>/     the checkpoint of a clip, see rendering/checkpoints.py

They lie in $SOUNDSTAGE_RENDERS, or in "renders" of the user's cache folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli.options import Values
from soundstage.errors import MediaError, RequestError
from soundstage.files import whole_file
from soundstage.rendering.events import Event, Phase
from soundstage.rendering.own_folders import RENDERS, OwnFolder, fingerprint

if TYPE_CHECKING:
    from soundstage.planning.plan import Plan

FACTS = "command.json"
# Values that change how a clip is made or shown, not which one it is.
MADE = {"resume", "checkpoint_every", "residency", "memory", "dtype", "weights"}
SHOWN = {"quiet", "force", "as_json", "open", "preview", "plan", "contact_sheet", "no_hints"}


class Unfinished:
    """The clips of a command that are not made yet.

    folder: None keeps nothing. resumed: an earlier run is gone on with. made: the files of clips that are
    made, by index.
    """

    def __init__(self, folder: OwnFolder | None, *, resumed: bool) -> None:
        self.resumed = resumed
        self._folder = folder
        facts = _facts(folder.path) if folder is not None and resumed else {}
        self._seed: int | None = facts.get("seed")
        self._kept_seed = self._seed is not None
        self._saved: dict[str, list[Any]] = facts.get("made", {})
        self._names: list[str] = []
        self.made: dict[int, Path] = {}

    def draw_seed(self) -> tuple[int, str]:
        """Return the seed that was drawn, now or by the earlier run, and what to say of it."""
        from soundstage.planning.seeds import draw_seed

        if self._seed is None:
            self._seed = draw_seed()
        if self._kept_seed:
            return self._seed, f"goes on with seed {self._seed}, which the earlier run drew"
        return self._seed, f"seed {self._seed} was drawn"

    def begin(self, plans: Sequence[Plan]) -> None:
        """Note which clips are asked for, and keep the seed that was drawn."""
        self._names = [_name(index, planned) for index, planned in enumerate(plans)]
        self.made = {
            index: Path(self._saved[name][0])
            for index, name in enumerate(self._names)
            if name in self._saved and _identity(Path(self._saved[name][0])) == self._saved[name][1:]
        }
        self._write()

    def checkpoint(self, index: int) -> Path | None:
        """Return the folder for the checkpoint of a clip; None where none can be kept."""
        if self._folder is None:
            return None
        path = self._folder.path / self._names[index]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
        return path

    def saved(self, index: int, path: Path) -> None:
        """Note that a clip is written, and delete its checkpoint."""
        self.made[index] = path
        self._saved[self._names[index]] = [str(path), *_identity(path)]
        if self._folder is not None and self._missing:
            self._write()
            shutil.rmtree(self._folder.path / self._names[index], ignore_errors=True)

    @property
    def _missing(self) -> int:
        return len(self._names) - len(self.made)

    def close(self, error: BaseException | None) -> None:
        """Delete what is kept if all clips are made or nothing is kept; else a note on the error tells it."""
        if self._folder is None:
            return
        if (self._names and not self._missing) or not _holds(self._folder.path):
            self._folder.discard()
            return
        self._folder.close()
        if error is not None:
            error.add_note("what is done is kept; the same command with --resume goes on from there")

    def _write(self) -> None:
        """Write the facts. Where that fails a clip is made all the same, and cannot be gone on with."""
        if self._folder is not None:
            with suppress(OSError, MediaError):
                self._folder.path.mkdir(parents=True, exist_ok=True)
                with whole_file(self._folder.path / FACTS) as part:
                    part.write_text(json.dumps({"seed": self._seed, "made": self._saved}))


@contextmanager
def unfinished(values: Values, say: Callable[[str], None]) -> Iterator[Unfinished]:
    """Keep where a command's clips stand during the block, or go on with an earlier run of the command.

    values: the command's. say: prints a line for people.
    """
    if values["plan"]:
        yield Unfinished(None, resumed=False)
        return
    kept = _opened(resume=values["resume"], say=say)
    try:
        yield kept
    except BaseException as error:
        kept.close(error)
        raise
    kept.close(None)


@contextmanager
def told_of() -> Iterator[None]:
    """Say of an unfinished run that is another what may be done; the engine knows no command line."""
    try:
        yield
    except RequestError as error:
        if error.field != "checkpoint":
            raise
        told = str(error).rpartition("; give ")[0] or str(error)
        raise RequestError(f"{told}; leave out --resume to begin anew", field="resume") from error


def where(planned: Plan, event: Event) -> str | None:
    """Return where an earlier run had come to, in words, for the event that says so; None for others."""
    if not isinstance(event, Phase) or event.name != "resume":
        return None
    name, after, step = event.detail.part.partition(" after step ")
    total = next((one.num_steps for one in planned.passes if one.name == name), 0)
    return f"after step {step} of {total} of {name}" if after else f"with {name}"


def _opened(*, resume: bool, say: Callable[[str], None]) -> Unfinished:
    mark = _command_mark()
    found = RENDERS.found(mark, _holds)
    if found is not None and resume:
        return Unfinished(found, resumed=True)
    if found is not None:
        found.close()
        say("hint: an unfinished run of this command is kept; this one begins anew, --resume goes on with it")
    elif resume:
        off = "; SOUNDSTAGE_RENDERS is off" if RENDERS.place() is None else ""
        say(f"no unfinished run of this command is there{off}; it begins anew")
    return Unfinished(RENDERS.new(mark, _holds), resumed=False)


def _command_mark() -> str:
    """Return the fingerprint of what a command line asks for, where it stands."""
    context = click.get_current_context()
    asked = {name: value for name, value in context.params.items() if name not in MADE | SHOWN}
    words = json.loads(json.dumps(asked, default=str))
    return fingerprint({"command": context.command.name, "asked": words, "folder": str(Path.cwd())})


def _holds(folder: Path) -> bool:
    """Return whether a folder holds more than a run that was just begun."""
    return any(folder.rglob("*.safetensors")) or bool(_facts(folder).get("made"))


def _facts(folder: Path) -> dict[str, Any]:
    """Return the facts that are kept; nothing where there are none or they are damaged."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        seed, made = found["seed"], found["made"]
        if (seed is None or type(seed) is int) and all(isinstance(one, list) for one in made.values()):
            return {"seed": seed, "made": made}
    return {}


def _name(index: int, planned: Plan) -> str:
    return f"clip-{index:03d}-{fingerprint(planned.request.to_dict())[:16]}"


def _identity(path: Path) -> list[int]:
    """Return size and time of a file; nothing where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]
