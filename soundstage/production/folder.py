"""The folder of a produced film: names of its files, its lock, the takes that were picked, and older takes.

    FILM.produced/
        film.mp4, film.srt, film.otio, storyboard.png, contact.html, manifest.json
        picks.json                      the takes that `soundstage pick` chose
        shots/3/take-7.mp4, .json, .png of shot 3 with seed 7: the clip, how it was made, its thumbnail
        shots/3/earlier/                takes that a changed script has replaced
        state/journal.jsonl, lock, checkpoints/

Files are named within the folder, so that it may be moved.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from soundstage.errors import MediaError, RequestError
from soundstage.files import check_writable, link_or_copy, whole_file
from soundstage.production.journal import Journal

ENDING = ".produced"
MANIFEST, PICKS, FILM = "manifest.json", "picks.json", "film.mp4"
DRAFT_MANIFEST = "manifest-draft.json"
STATE, SHOTS, EARLIER, CHECKPOINTS = "state", "shots", "earlier", "checkpoints"
JOURNAL, LOCK = "journal.jsonl", "lock"
MARK_LETTERS = 8  # of a mark, in the name of an earlier take
VARIANTS = {"": "take", "draft": "draft", "final": "final"}


class FilmFolder:
    """The folder of one film."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def of_script(cls, script: Path, output: Path | None = None) -> FilmFolder:
        """Return the folder of a script's film: the one given, else FILM.produced beside the script."""
        return cls(output if output is not None else script.with_name(f"{script.stem}{ENDING}"))

    @property
    def state(self) -> Path:
        return self.root / STATE

    @property
    def film(self) -> Path:
        return self.root / FILM

    def manifest(self, *, draft: bool = False) -> Path:
        """Return where the manifest of the film, or of its draft, is kept."""
        return self.root / (DRAFT_MANIFEST if draft else MANIFEST)

    @contextmanager
    def opened(self) -> Iterator[Journal]:
        """Make the folder, lock it for the block, and give its journal.

        Raises MediaError for a place that cannot be written or is full, RequestError for a film that another
        command produces now.
        """
        try:
            self.state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediaError(
                f"output is {self.root}, which cannot be made ({error.strerror or error}); "
                "choose another folder"
            ) from error
        lock = FileLock(self.state / LOCK, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise RequestError(
                f"{self.root} is being produced by another command now; wait for it, or stop it, or give "
                "another folder by --output"
            ) from error
        except OSError as error:
            raise MediaError(f"{self.root} cannot be locked ({error.strerror or error})") from error
        try:
            check_writable(self.film, (".mp4",))
            yield Journal(self.state / JOURNAL)
        finally:
            lock.release()

    # --- names

    def take(self, shot: str, seed: int, variant: str = "") -> str:
        """Return the name of a take's clip. variant: "", "draft" or "final"."""
        return f"{SHOTS}/{plain_name(shot)}/{VARIANTS[variant]}-{seed}.mp4"

    def checkpoint(self, mark: str) -> Path:
        """Return the folder where the render of a mark keeps where it stands."""
        return self.state / CHECKPOINTS / mark[:32]

    def path(self, name: str) -> Path:
        return self.root / name

    # --- files

    def measured(self, name: str) -> dict[str, Any]:
        """Return what a file is known by. Raises MediaError for one that cannot be read."""
        path = self.path(name)
        try:
            stat = path.stat()
            digest = sha256_of(path)
        except OSError as error:
            raise MediaError(f"{path} cannot be read ({error.strerror or error})") from error
        return {"sha256": digest, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}

    def holds(self, name: str, known: Mapping[str, Any]) -> bool:
        """Return whether a file is there as it was. One of the same size and time is not read again."""
        try:
            stat = self.path(name).stat()
        except OSError:
            return False
        if stat.st_size != known.get("bytes"):
            return False
        if stat.st_mtime_ns == known.get("mtime_ns"):
            return True
        with suppress(MediaError):
            return bool(self.measured(name)["sha256"] == known.get("sha256"))
        return False

    def earlier(self, name: str, mark: str) -> str:
        """Return the name that a take has once another has replaced it. mark: that of the take."""
        path = Path(name)
        return (path.parent / EARLIER / f"{path.stem}-{mark[:MARK_LETTERS]}{path.suffix}").as_posix()

    def put_aside(self, name: str, mark: str) -> str:
        """Keep a take that is about to be replaced under another name, and return that."""
        kept = self.earlier(name, mark)
        self._linked(name, kept)
        return kept

    def bring_back(self, name: str, mark: str, known: Mapping[str, Any]) -> bool:
        """Give an earlier take its name again, and return whether it is there, as it was."""
        kept = self.earlier(name, mark)
        if not self.holds(kept, known):
            return False
        self._linked(kept, name)
        return True

    def _linked(self, name: str, other: str) -> None:
        """Give a file another name besides its own; what had that name is replaced."""
        source, target = self.path(name), self.path(other)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediaError(f"{target.parent} cannot be made ({error.strerror or error})") from error
        with whole_file(target) as part:
            part.unlink()
            link_or_copy(source, part)

    # --- picks

    def picks(self) -> dict[str, int]:
        """Return the picked seed of shots that have one. Raises MediaError for a damaged file."""
        path = self.root / PICKS
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise MediaError(f"{path} cannot be read ({error}); correct or delete it") from error
        if not isinstance(found, dict) or not all(type(seed) is int for seed in found.values()):
            raise MediaError(f'{path} holds no picks, such as {{"3": 7}}; correct or delete it')
        return found

    def pick(self, shot: str, seed: int | None) -> None:
        """Remember the seed of the take to use of a shot; None forgets it."""
        picks = {**self.picks(), shot: seed}
        kept = {name: number for name, number in picks.items() if number is not None}
        write_json(self.root / PICKS, kept)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file of any size. Raises OSError for one that cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain_name(shot: str) -> str:
    """Return a shot's id as the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", shot).strip(".") or "shot"


def write_json(path: Path, data: Any) -> None:
    """Write JSON for people and programs, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
