"""The manifest of a film: each clip's request, seeds, hashes, model and findings; and whether files are as
they were.

Files of the film are named within its folder, so that it may be moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soundstage import __version__
from soundstage.clip import read_provenance
from soundstage.errors import MediaError
from soundstage.library.file_identity import file_digest
from soundstage.production.folder import (
    DRAFT_MANIFEST,
    JOURNAL,
    MANIFEST,
    SHOTS,
    FilmFolder,
    sha256_of,
    write_json,
)
from soundstage.production.journal import FINISHED, Entry, Journal
from soundstage.production.runner import Picked
from soundstage.production.takes import ShotTake

FORMAT = 1
NOT_THERE = "is not there"
PARENTS = 4  # of a file, in which its film's manifest is looked for


@dataclass(frozen=True)
class Checked:
    """A file that was checked. why: what is wrong with it; None where it is as it was.

    unused: it is a take that neither the film nor its draft has.
    """

    path: Path
    why: str | None = None
    unused: bool = False


def manifest_of(
    film: Mapping[str, Any], picked: Mapping[str, Picked], files: Mapping[str, str]
) -> dict[str, Any]:
    """Return the manifest. film: facts of the whole. files: SHA-256 of the film and its exports, by name."""
    return {
        "format": FORMAT,
        "soundstage": __version__,
        **film,
        "shots": [_shot(one) for one in sorted(picked.values(), key=lambda one: one.take.shot.number)],
        "files": dict(files),
    }


def _shot(picked: Picked) -> dict[str, Any]:
    shot = picked.take.shot
    return {
        "number": shot.number,
        "id": shot.id,
        "title": shot.title,
        "picked": picked.take.seed,
        "takes": [take_facts(*one) for one in picked.candidates],
    }


def take_facts(take: ShotTake, entry: Entry, review: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the manifest, and the JSON file beside a take, say of it."""
    facts = {key: value for key, value in entry.facts.items() if key not in ("seconds", "picture")}
    return {
        "clip": take.clip,
        "sha256": entry.files[take.clip]["sha256"],
        "seed": take.seed,
        "mark": take.mark,
        "recipe": take.request.recipe,
        **facts,
        "seconds": {name: round(spent, 3) for name, spent in entry.facts.get("seconds", {}).items()},
        "review": None if review is None else dict(review),
    }


def keep_facts(folder: FilmFolder, picked: Picked) -> None:
    """Write the JSON files beside a shot's takes, where they say something else by now."""
    for take, entry, review in picked.candidates:
        path = folder.path(take.clip).with_suffix(".json")
        facts = {"shot": take.shot.id, **take_facts(take, entry, review)}
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        if known != json.loads(json.dumps(facts)):
            write_json(path, facts)


# --- verify


def verify_film(path: str | Path) -> list[Checked]:
    """Check the files of a film's folder, or one file, against what was written; the faulty ones say why.

    A folder is checked by its manifest; a file by the manifest of the folder it lies in, and by its own
    metadata: the files that it was made from. Raises MediaError for what has neither.
    """
    given = Path(path)
    if not given.exists():
        raise MediaError(
            f"{given} is not there; give the folder of a produced film, or a file that Soundstage wrote"
        )
    if given.is_dir():
        return list(_of_folder(given))
    found = [*_of_film(given), *_inputs(given)]
    if not found:
        raise MediaError(
            f"{given} is in no produced film and does not say what it was made from; there is nothing to "
            "check"
        )
    return found


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, Any]:
    """Return the manifest of a film, or of its draft. Raises MediaError for none and for a damaged one."""
    path = folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(found["files"], dict)
        assert all(isinstance(take["clip"], str) for shot in found["shots"] for take in shot["takes"])
    except FileNotFoundError:
        raise MediaError(
            f"{folder} has no {name}; give the folder of a produced film, such as film.produced"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise MediaError(f"{path} is no manifest of a film ({error}); produce the film again") from error
    return dict(found)


def _hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each file of a film, by its name within the folder."""
    takes = [take for shot in manifest["shots"] for take in shot["takes"]]
    return {**{take["clip"]: take["sha256"] for take in takes}, **manifest["files"]}


def _of_folder(folder: Path) -> Iterator[Checked]:
    known = _all_hashes(folder)
    for name, digest in known.items():
        yield _checked(folder / name, digest, sha256_of)
    for name, digest in _of_other_takes(folder).items():
        if name not in known and (folder / name).is_file():
            yield replace(_checked(folder / name, digest, sha256_of), unused=True)


def _of_other_takes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all takes that were ever made, by the names that they have or had.

    Those of an earlier script, and those that others have replaced, are in no manifest.
    """
    film, found = FilmFolder(folder), dict[str, str]()
    for entry in Journal(film.state / JOURNAL).entries:
        for name, facts in entry.files.items():
            if entry.event in FINISHED and name.startswith(f"{SHOTS}/") and name.endswith(".mp4"):
                found |= {name: facts["sha256"], film.earlier(name, entry.mark): facts["sha256"]}
    return found


def _all_hashes(folder: Path) -> dict[str, str]:
    """Return the hashes in the manifests of a film and of its draft. Raises MediaError for none."""
    names = [name for name in (DRAFT_MANIFEST, MANIFEST) if (folder / name).exists()]
    found: dict[str, str] = {}
    for name in names or [MANIFEST]:
        found |= _hashes(read_manifest(folder, name))
    return found


def _of_film(path: Path) -> Iterator[Checked]:
    """Yield what the manifest of its film says of a file."""
    whole = path.absolute()
    for folder in list(whole.parents)[:PARENTS]:
        if (folder / MANIFEST).is_file() or (folder / DRAFT_MANIFEST).is_file():
            digest = _all_hashes(folder).get(whole.relative_to(folder).as_posix())
            if digest is not None:
                yield _checked(path, digest, sha256_of)
            return


def _inputs(path: Path) -> Iterator[Checked]:
    """Yield the file itself, if it says how it was made, and the files that it was made from."""
    try:
        made = read_provenance(path)
    except MediaError:
        return
    inputs = made.get("inputs")
    for name, digest in (inputs if isinstance(inputs, Mapping) else {}).items():
        yield _checked(Path(name), str(digest), file_digest, f", which {path.name} was made from")


def _checked(path: Path, digest: str, find: Callable[[Path], str], role: str = "") -> Checked:
    if not path.is_file():
        return Checked(path, f"{NOT_THERE}{role}")
    try:
        same = find(path) == digest
    except OSError as error:
        return Checked(path, f"cannot be read ({error.strerror or error})")
    return Checked(path, None if same else f"is not as it was written{role}")
