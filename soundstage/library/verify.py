"""Verify that files on this machine are whole: their structure, and their content by hash.

    for verdict in verify([Path("models")], library): print(verdict)

A hash is compared with the one the hub gave when the file was pulled or asked for, else with the one of the
first look, which shows damage since then. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import RequestError, WeightsError
from soundstage.library.catalog import by_file_name
from soundstage.library.identify import SUFFIXES, identify
from soundstage.library.installed import Library
from soundstage.library.pull import SHA256_LENGTH, plan_pull, sha256_of
from soundstage.weights.entry import AGAIN
from soundstage.weights.header import checked_size, is_there, read_header

PICKLES = (".ckpt", ".pt", ".pth", ".bin")  # what weights are called that are not read here


@dataclass(frozen=True)
class Verdict:
    """One file. problem: a sentence, or None. vouched: who says that the hash is right, or None."""

    path: Path
    num_bytes: int
    problem: str | None
    sha256: str | None = None
    vouched: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "path": str(self.path)}


def verify(paths: Iterable[Path], library: Library, *, quick: bool = False) -> Iterator[Verdict]:
    """Check files, and all weights below folders. quick: structure only, without reading their content.

    Hashes seen for the first time are remembered. Raises RequestError for a path that is not there,
    WeightsError for a folder without weights.
    """
    for path in paths:
        if not (path.is_symlink() or is_there(path)):
            raise RequestError(f"there is no {path}; check the path", field="path")
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and not p.is_dir())
        files = files if path.is_dir() else [path]
        if not files:
            raise WeightsError(f"{path} holds no .safetensors or .gguf file; give a weights file")
        for file in files:
            yield _verdict(file, library, quick)


def ask_hub(paths: Iterable[Path], library: Library) -> Iterator[Path]:
    """Remember the hashes that the hub has for files; yield those without a published name."""
    for path in paths:
        entry = by_file_name(path.name)
        if entry is None:
            yield path
            continue
        for download in plan_pull([entry], path.parent):
            if len(download.etag) == SHA256_LENGTH and Path(download.path).name == path.name:
                library.remember_hash(path, download.etag, "hub")


def _verdict(path: Path, library: Library, quick: bool) -> Verdict:
    problem = _structure_problem(path)
    size = path.stat().st_size if is_there(path) else 0
    if quick or problem is not None:
        return Verdict(path, size, problem)
    sha256, known = sha256_of(path), library.known_hash(path)
    if known is None:
        library.remember_hash(path, sha256, "first seen")
        return Verdict(path, size, None, sha256)
    if known.sha256 != sha256:
        problem = f"{path} has the SHA-256 {sha256}, not {known.sha256} ({known.source}); {AGAIN}"
    return Verdict(path, size, problem, sha256, known.source)


def _structure_problem(path: Path) -> str | None:
    """Return what its header says is wrong with it."""
    try:
        checked_size(path)
        if path.suffix not in (*SUFFIXES, *PICKLES):
            return None
        read_header(path)
        return identify(path).refusal
    except WeightsError as error:
        return str(error)
