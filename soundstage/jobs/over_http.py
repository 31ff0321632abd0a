"""The way of a worker to its server over HTTP, with the server's data folder at hand or without it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soundstage.errors import MissingExtraError
from soundstage.jobs import checkpoint_files
from soundstage.jobs.errors import Forbidden, Gone, LeaseLost
from soundstage.jobs.transport import ReportRefused, ServerAway, file_below
from soundstage.jobs.views import JobFault, Lease, MadeFiles, Order, WorkerInfo, WorkReport

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("serve", "a worker") from error

TIMEOUT_S = 30.0
PIECE_BYTES = 2**20
ARCHIVE = "checkpoint.tar"
REFUSED, LOST, GONE = (401, 403), (404, 409), 410
AWAY = 429  # and 5xx


class OverHttp:
    """Calls of a server's /v1/workers.

    data: the server's data folder, where it is at hand; None sends files and checkpoints. folder: this
    worker's own, for what is under work.
    """

    def __init__(self, server: str, key: str | None, data: Path | None, folder: Path) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._client = httpx.Client(
            base_url=f"{server.rstrip('/')}/v1/workers",
            headers=headers,
            timeout=TIMEOUT_S,
            follow_redirects=False,
        )
        self._data, self._folder = data, folder
        for path in (self.files, self.checkpoints):
            path.mkdir(parents=True, exist_ok=True)

    @property
    def files(self) -> Path:
        """Return the folder of files to hand in."""
        return (self._data or self._folder) / "tmp"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of checkpoints."""
        return (self._data or self._folder) / "checkpoints"

    def claim(self, worker: WorkerInfo, wait_s: float) -> Lease | None:
        """Wait for a job at the server."""
        answer = self._call(
            "POST",
            "/claim",
            params={"wait_s": wait_s},
            json=worker.model_dump(mode="json"),
            timeout=TIMEOUT_S + wait_s,
        )
        return None if answer.status_code == 204 else Lease.model_validate_json(answer.content)

    def renew(self, lease: Lease, report: WorkReport) -> Order:
        """Send a report."""
        answer = self._call("POST", f"/leases/{lease.id}/renew", json=_body(report))
        return Order.model_validate_json(answer.content)

    def finish(self, lease: Lease, made: MadeFiles) -> None:
        """Tell which of the files handed in are the result."""
        self._call("POST", f"/leases/{lease.id}/finish", json=_body(made))

    def fail(self, lease: Lease, fault: JobFault, *, retry: bool) -> None:
        """Tell why there is no result."""
        self._call("POST", f"/leases/{lease.id}/fail", json={**_body(fault), "retry": retry})

    def release(self, lease: Lease) -> None:
        """Give the job back."""
        self._call("POST", f"/leases/{lease.id}/release")

    def input(self, lease: Lease, reference: str) -> Path:
        """Return a file of the data folder, or download it."""
        if self._data is not None:
            return file_below(self._data, lease, reference)
        asset = lease.assets[reference]
        path = self._own(lease) / f"{asset.id}{Path(lease.files[reference]).suffix}"
        if not path.is_file():
            part = path.with_name(f"{path.name}.part")
            self._download(f"/leases/{lease.id}/inputs/{asset.id}", part)
            part.replace(path)
        return path

    def new_file(self, name: str) -> Path:
        """Return a path in the folder of files to hand in."""
        return self.files / name

    def hand_in(self, lease: Lease, path: Path) -> str:
        """Send a file, unless the server sees it."""
        if self._data is not None:
            return path.name
        answer = self._call("PUT", f"/leases/{lease.id}/files/{path.name}", content=_pieces(path))
        path.unlink()
        return str(answer.json()["file"])

    def checkpoint(self, lease: Lease) -> Path:
        """Return the folder, and fill it with what the server has."""
        folder = self.checkpoints / lease.job.id
        if self._data is None and lease.has_checkpoint and not folder.is_dir():
            archive = self._own(lease) / ARCHIVE
            self._download(f"/leases/{lease.id}/checkpoint", archive)
            checkpoint_files.unpack(archive, folder)
            archive.unlink()
        return folder

    def keep_checkpoint(self, lease: Lease) -> None:
        """Send the folder as an archive, unless the server sees it."""
        folder = self.checkpoints / lease.job.id
        if self._data is not None or not folder.is_dir():
            return
        archive = self._own(lease) / ARCHIVE
        checkpoint_files.pack(folder, archive)
        self._call("PUT", f"/leases/{lease.id}/checkpoint", content=_pieces(archive))
        archive.unlink()

    def done(self, lease: Lease) -> None:
        """Remove the inputs, and the checkpoint if it is this worker's own."""
        shutil.rmtree(self._folder / lease.job.id, ignore_errors=True)
        if self._data is None:
            shutil.rmtree(self.checkpoints / lease.job.id, ignore_errors=True)

    def _own(self, lease: Lease) -> Path:
        folder = self._folder / lease.job.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _download(self, path: str, target: Path) -> None:
        with _away(), self._client.stream("GET", path) as answer:
            if not answer.is_success:
                answer.read()
            _check(answer)
            with target.open("wb") as file:
                for piece in answer.iter_bytes(PIECE_BYTES):
                    file.write(piece)

    def _call(self, method: str, path: str, **words: Any) -> httpx.Response:
        with _away():
            answer = self._client.request(method, path, **words)
        _check(answer)
        return answer


class _away:
    """Raise ServerAway for a connection that fails."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, httpx.TransportError):
            raise ServerAway(f"the server does not answer ({type(error).__name__})") from None


def _check(answer: httpx.Response) -> None:
    """Raise what an answer tells, if it is no success."""
    code = answer.status_code
    if answer.is_success:
        return
    if code in REFUSED:
        raise Forbidden(f"the server refuses this worker's key: {_message(answer)}")
    if code == GONE:
        raise Gone(_message(answer))
    if code in LOST:
        raise LeaseLost(_message(answer))
    if code == AWAY or code >= 500:
        raise ServerAway(f"the server answers {code} now")
    raise ReportRefused(f"the server refused a report ({code}): {_message(answer)}")


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


def _body(record: WorkReport | MadeFiles | JobFault) -> dict[str, Any]:
    found: dict[str, Any] = record.model_dump(mode="json", by_alias=True)
    return found


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(PIECE_BYTES), b"")
