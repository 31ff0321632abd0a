"""Download published files from the Hugging Face hub: sizes first, then resumed and checked.

    found = plan_pull(entries, folder)          # asks the hub for sizes and hashes; downloads nothing
    check_space(found)                          # raises before the first byte if it cannot fit
    for download in found: fetch(download)

What is under way is in `<file>.<hash>.part`, which a later pull goes on with; a file gets its name only when
its size and hash are those the hub gave. Speaks to the hub through huggingface_hub, with its login and its
HF_ENDPOINT. Its own downloader starts over whenever a process ends, so only its transfer of a range is used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soundstage.errors import WeightsError
from soundstage.library.catalog import LICENCE_PAGES, CatalogFile, gigabytes

SHA256_LENGTH = 64
HASH_CHUNK = 1 << 24
# Left free on the disk, for the system and for what a run writes.
MARGIN_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Download:
    """One file to fetch. etag: SHA-256 of its content, or git's blob hash for small files."""

    entry: CatalogFile
    path: str
    target: Path
    num_bytes: int
    etag: str
    commit: str

    @property
    def part(self) -> Path:
        """Return where its bytes gather; another version of the file has another name."""
        return self.target.with_name(f"{self.target.name}.{self.etag[:16]}.part")

    @property
    def is_here(self) -> bool:
        """Return whether a file of this name and size is in place. Its content is not read."""
        return self.target.is_file() and self.target.stat().st_size == self.num_bytes

    @property
    def remaining_bytes(self) -> int:
        if self.is_here:
            return 0
        return self.num_bytes - (self.part.stat().st_size if self.part.is_file() else 0)


def plan_pull(entries: Sequence[CatalogFile], folder: Path) -> list[Download]:
    """Return every file of some entries, as it is on the hub now; goes to folder/<owner>/<repository>/<path>.

    Raises WeightsError if the hub does not have one, wants its licence accepted first, or does not answer.
    """
    downloads = []
    for entry in entries:
        with _hub_errors(entry):
            paths = _paths(entry)
            downloads += [_describe(entry, path, folder / entry.repository / path) for path in paths]
    return downloads


def check_space(downloads: Sequence[Download]) -> None:
    """Raise WeightsError if what is left to fetch does not fit on a disk it goes to."""
    needed: dict[int, tuple[Path, int]] = {}
    for download in downloads:
        home = _existing(download.target.parent)
        device = home.stat().st_dev
        needed[device] = (home, needed.get(device, (home, 0))[1] + download.remaining_bytes)
    for home, num_bytes in needed.values():
        free = shutil.disk_usage(home).free
        if num_bytes and num_bytes + MARGIN_BYTES > free:
            raise WeightsError(
                f"{gigabytes(num_bytes)} are to be fetched, and {home} has {gigabytes(free)} free "
                f"({gigabytes(MARGIN_BYTES)} of it are kept); free some space or choose another disk: --to"
            )


def fetch(
    download: Download, *, progress: type[Any] | None = None, checking: Callable[[], object] = lambda: None
) -> str:
    """Download one file, from where an earlier try stopped, and put it in place. Returns its SHA-256.

    progress: a tqdm class that shows the transfer. checking: called before the content is read through for
    its hash, which takes a while. Raises WeightsError if the transfer fails, leaving what
    came for the next try, or if the content is not what the hub announced, leaving nothing.
    """
    from huggingface_hub.utils import WeakFileLock

    if download.target.exists():
        raise WeightsError(
            f"{download.target} is there with {download.target.stat().st_size:,} bytes where the hub has "
            f"{download.num_bytes:,}; it may be another version: move it away or choose another folder: --to"
        )
    download.part.parent.mkdir(parents=True, exist_ok=True)
    lock = download.part.with_suffix(".lock")
    try:
        with WeakFileLock(lock):
            _transfer(download, progress)
            checking()
            sha256 = _checked(download)
            os.replace(download.part, download.target)
    finally:
        lock.unlink(missing_ok=True)
    return sha256


def sha256_of(path: Path) -> str:
    """Reads the whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _paths(entry: CatalogFile) -> list[str]:
    """Paths in the repository that belong to an entry; the hub is asked where the entry is a pattern."""
    if "*" not in entry.path:
        return [entry.path]
    from huggingface_hub import HfApi

    paths = [
        path for path in HfApi(endpoint=_endpoint()).list_repo_files(entry.repository) if entry.matches(path)
    ]
    if not paths:
        raise WeightsError(
            f"{_page(entry)} has no file like '{entry.path}'; look there for what it is called now"
        )
    return sorted(paths)


def _describe(entry: CatalogFile, path: str, target: Path) -> Download:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    found = get_hf_file_metadata(hf_hub_url(entry.repository, path, endpoint=_endpoint()))
    if not found.size or not found.etag or not found.commit_hash:
        raise WeightsError(
            f"{_endpoint()} gives no size, hash or version of {path}; HF_ENDPOINT should name a hub"
        )
    return Download(entry, path, target, found.size, found.etag, found.commit_hash)


def _transfer(download: Download, progress: type[Any] | None) -> None:
    """Append to the part file what it lacks."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(download.entry.repository, download.path, revision=download.commit, endpoint=_endpoint())
    if download.part.is_file() and download.part.stat().st_size > download.num_bytes:
        download.part.unlink()
    with _hub_errors(download.entry), download.part.open("ab") as file:
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=build_hf_headers(),
            expected_size=download.num_bytes,
            displayed_filename=download.target.name,
            tqdm_class=progress,
        )


def _checked(download: Download) -> str:
    """SHA-256 of a complete part file. A part that is not what was announced is removed."""
    size = download.part.stat().st_size
    sha256 = sha256_of(download.part)
    found = sha256 if len(download.etag) == SHA256_LENGTH else _blob_hash(download.part)
    if size == download.num_bytes and found == download.etag:
        return sha256
    download.part.unlink()
    raise WeightsError(
        f"{download.path} of {download.entry.repository} came with {size:,} bytes and the hash {found}, "
        f"where the hub announced {download.num_bytes:,} and {download.etag}; it was removed, pull it again"
    )


def _blob_hash(path: Path) -> str:
    """Git's name for a file's content, which the hub gives for files it keeps in git."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def _hub_errors(entry: CatalogFile) -> Iterator[None]:
    """Turns what the hub, the network and the disk answer into one sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError | ValueError) or type(error).__module__.startswith("httpx"):
            raise WeightsError(_sentence(entry, error)) from error
        raise


def _sentence(entry: CatalogFile, error: Exception) -> str:
    from huggingface_hub import errors

    page = _page(entry)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{page} is gated: accept its licence there ({entry.licence}, {LICENCE_PAGES[entry.licence]}), "
            "then log in with `hf auth login` and pull again"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"{page} has no file '{entry.path}'; look there for what it is called now"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{page} is not there, or only for those who log in (`hf auth login`)"
    if getattr(error, "errno", None) is not None:
        return f"{entry.name} cannot be written ({error}); check the folder, or choose another with --to"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{page} did not send {entry.name} ({reason}); pull again, it goes on where it stopped"


def _page(entry: CatalogFile) -> str:
    return f"{_endpoint()}/{entry.repository}"


def _endpoint() -> str:
    """Read at each call: huggingface_hub reads its variable once, when it is imported."""
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or str(constants.ENDPOINT)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
