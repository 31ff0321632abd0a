"""The verbs of a server, as talks: what is called, what is tried again, what an answer means."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from soundstage.client.effects import (
    INTERRUPTIONS,
    ConnectionLost,
    EventHeard,
    NextBytes,
    OpenStream,
    ServerAnswer,
    ServerCall,
    SlowWork,
    Talk,
    Wait,
)
from soundstage.client.event_stream import EventReader
from soundstage.client.received import ReceivedClip, new_folder
from soundstage.client.refusals import AWAY, check_answer, check_job, unreachable
from soundstage.client.sending import (
    Upload,
    check_words,
    digest_of,
    latents_file,
    outgoing,
    split_words,
    written,
)
from soundstage.clip import Clip
from soundstage.errors import MediaError, RequestError, ServerError
from soundstage.files import whole_file
from soundstage.jobs.references import ASSET
from soundstage.jobs.states import FINAL
from soundstage.jobs.views import Asset, Job, Page, PlanView
from soundstage.media.in_memory import InMemory
from soundstage.request.request import Request

if TYPE_CHECKING:
    from soundstage.client.training import OutgoingTraining

V = TypeVar("V", bound=BaseModel)
FIRST_PAUSE_S, GROWTH, LONGEST_PAUSE_S = 0.25, 1.6, 10.0
SILENCE_S = 45.0  # of a stream; a server pings every 15 s
MOST_LISTED = 100
SENT_KINDS = ("input", "mask", "lora", "latents", "data")  # of files that a client has sent itself


class Pauses:
    """Growing pauses between tries. patience_s: how long they go on."""

    def __init__(self, patience_s: float, deadline: float | None = None) -> None:
        self._patience_s, self._deadline = patience_s, deadline
        self.reset()

    def reset(self) -> None:
        """Begin anew, as something was heard."""
        self._next_s, self._since = FIRST_PAUSE_S, time.monotonic()

    @property
    def waited_s(self) -> float:
        return time.monotonic() - self._since

    def next(self) -> float | None:
        """Return how long to wait; None where patience is at its end."""
        if self.waited_s >= self._patience_s:
            return None
        pause = self._next_s
        self._next_s = min(pause * GROWTH, LONGEST_PAUSE_S)
        return self.within(pause)

    def within(self, seconds: float) -> float:
        """Return seconds, or what is left until the deadline. Raises TimeoutError after it."""
        if self._deadline is None:
            return seconds
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the job has not ended in that time; it goes on")
        return min(seconds, left)


class ServerTalk:
    """The calls of one server. patience_s: how long it may be away once it has answered."""

    def __init__(self, url: str, patience_s: float) -> None:
        self.url, self._patience_s = url, patience_s
        self._met = False  # a wrong address is told at once
        self._sent: dict[str, str] = {}  # ids of files on the server, by their SHA-256
        self._looked = False

    # --- calls

    def answer(self, call: ServerCall) -> Talk[Any]:
        """Return the JSON of an answer; a call that gets none is made again."""
        pauses = Pauses(self._patience_s)
        while True:
            try:
                answer: ServerAnswer = yield call
            except ConnectionLost as lost:
                yield from self._pause(pauses, str(lost))
                continue
            self._met = True
            if answer.status in AWAY and (pause := pauses.next()) is not None:
                yield Wait(pause)
                continue
            check_answer(answer, self.url)
            return answer.json()

    def _pause(self, pauses: Pauses, reason: str) -> Talk[None]:
        pause = pauses.next()
        if pause is None or not self._met:
            raise unreachable(self.url, reason, pauses.waited_s)
        yield Wait(pause)

    def view(self, kind: type[V], call: ServerCall) -> Talk[V]:
        """Return an answer as a record; fields of a later version are left out."""
        data = yield from self.answer(call)
        try:
            return kind.model_validate(data, extra="ignore")
        except ValidationError:
            raise ServerError(f"{self.url}{call.path} answered what no Soundstage server does") from None

    # --- jobs

    def plan(self, prompt: str | Request, words: Mapping[str, Any]) -> Talk[PlanView]:
        """Return what a request would make. Its files are uploaded, as they decide on it."""
        asked = yield from self._asked(prompt, words)
        return (yield from self.view(PlanView, ServerCall("POST", "/v1/plan", data=asked)))

    def submit(self, prompt: str | Request, words: Mapping[str, Any]) -> Talk[Job]:
        """Queue a job: one, however often it has to be said."""
        asked = yield from self._asked(prompt, words)
        return (yield from self.create(asked))

    def train(self, asked: OutgoingTraining) -> Talk[Job]:
        """Queue a training, its clips and other files sent."""
        from soundstage.client.training_data import zip_of

        for upload in asked.uploads:
            assert isinstance(upload.given, Path)
            upload.place.put(ASSET + (yield from self.upload(upload.given, upload.purpose)).id)
        if asked.data is not None:
            data = asked.data
            with tempfile.TemporaryDirectory(prefix="soundstage-") as folder:
                path: Path = yield SlowWork(lambda: zip_of(data, Path(folder)))
                asked.asked["data"] = ASSET + (yield from self.upload(path, "data")).id
        return (yield from self.create(asked.asked))

    def create(self, asked: Mapping[str, Any]) -> Talk[Job]:
        """Queue a job from the JSON of one. Where the caller is interrupted meanwhile, it is cancelled."""
        key = {"Idempotency-Key": secrets.token_hex(16)}
        call = ServerCall("POST", "/v1/jobs", data=asked, headers=key)
        try:
            return (yield from self.view(Job, call))
        except INTERRUPTIONS:
            yield from self._take_back(call)
            raise

    def _take_back(self, call: ServerCall) -> Talk[None]:
        """Cancel the job that a call has queued, if it has: said again with its key, the call tells the job.

        Tried once: whoever interrupts waits for no server that is away.
        """
        try:
            answer: ServerAnswer = yield call
            if answer.status < 400 and isinstance(found := answer.json(), dict) and "id" in found:
                yield ServerCall("POST", f"/v1/jobs/{_id(found['id'])}/cancel")
        except ConnectionLost:
            pass

    def job(self, id: str) -> Talk[Job]:
        return (yield from self.view(Job, ServerCall("GET", f"/v1/jobs/{_id(id)}")))

    def jobs(self, words: Mapping[str, Any]) -> Talk[Page[Job]]:
        query = {key: value for key, value in words.items() if value is not None}
        return (yield from self.view(Page[Job], ServerCall("GET", "/v1/jobs", query)))

    def cancel(self, id: str) -> Talk[Job]:
        """Cancel a job; one that has ended stays as it is."""
        try:
            return (yield from self.view(Job, ServerCall("POST", f"/v1/jobs/{_id(id)}/cancel")))
        except ServerError as error:
            if error.status != 409:
                raise
        return (yield from self.job(id))

    def put(self, id: str, verb: str) -> Talk[Job]:
        """Pause or resume a job. verb: that word."""
        return (yield from self.view(Job, ServerCall("POST", f"/v1/jobs/{_id(id)}/{verb}")))

    def listed(self, what: str) -> Talk[list[dict[str, Any]]]:
        """Return what the server has of models, loras or recipes."""
        data = yield from self.answer(ServerCall("GET", f"/v1/{what}"))
        found = data.get("data") if isinstance(data, dict) else data
        return list(found or [])

    # --- events

    def follow(
        self, id: str | None, after: int | None = 0, timeout_s: float | None = None
    ) -> Talk[Job | None]:
        """Hand over the events of a job after one, until it has ended; return the job. None: of all jobs.

        A stream that breaks is opened again after the last event that came. Raises TimeoutError.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        path = "/v1/events" if id is None else f"/v1/jobs/{_id(id)}/events"
        pauses, seen = Pauses(self._patience_s, deadline), after
        while True:
            last = {} if seen is None else {"Last-Event-ID": str(seen)}
            call = ServerCall("GET", path, headers={"Accept": "text/event-stream", **last})
            try:
                answer: ServerAnswer = yield OpenStream(call, pauses.within(SILENCE_S))
                if answer.status not in (*AWAY, 429):
                    self._met = True
                    check_answer(answer, self.url)
                    reader = EventReader()
                    while data := (yield NextBytes()):
                        pauses.reset()
                        pauses.within(SILENCE_S)
                        for event in reader.feed(data):
                            seen = event.id
                            yield EventHeard(event)
                reason = f"it answered {answer.status}"
            except ConnectionLost as lost:
                reason = str(lost)
            else:
                job = None if id is None else (yield from self.job(id))
                if job is not None and job.state in FINAL:
                    return job
            yield from self._pause(pauses, reason)

    # --- files

    def clip(self, job: Job) -> Talk[Clip]:
        """Return the clip of a job that has ended. Raises the job's own error."""
        check_job(job)
        asset = _clip_of(job)
        folder = new_folder()
        try:
            path = folder / f"clip{suffix_of(job, asset)}"
            yield from self.download(asset.url, path, asset.sha256)
            clip: Clip = yield SlowWork(lambda: ReceivedClip.of_file(path, folder))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return clip

    def save(self, job: Job, path: Path, *, overwrite: bool = True) -> Talk[Path]:
        """Write the clip or LoRA of a job to a file. Raises MediaError for another ending than its own."""
        check_job(job)
        asset = _main_of(job)
        suffix = suffix_of(job, asset)
        if path.suffix.lower() != suffix:
            what = "LoRA" if job.kind == "train" else "clip"
            raise MediaError(
                f"output is {path}, and the {what} of {job.id} is a {suffix} file; end the name so"
            )
        return (yield from self.download(asset.url, path, asset.sha256, overwrite=overwrite))

    def save_all(self, job: Job, folder: Path, *, overwrite: bool = True) -> Talk[list[Path]]:
        """Write all files of a training into a folder, under their names, and return their paths."""
        check_job(job)
        _main_of(job)
        assert job.result is not None
        result = job.result
        files = [result.lora, result.config, result.losses, result.report, *result.validation]
        found = []
        for asset in files:
            if asset is not None:
                name = Path(asset.name or asset.id).name
                path = folder / ("validation" if asset.kind == "validation" else "") / name
                path.parent.mkdir(parents=True, exist_ok=True)
                found.append((yield from self.download(asset.url, path, asset.sha256, overwrite=overwrite)))
        return found

    def download(self, url: str, path: Path, sha256: str | None, *, overwrite: bool = True) -> Talk[Path]:
        """Write a file of the server's to a path, whole or not at all; go on where a connection broke."""
        with whole_file(path, overwrite=overwrite) as part:
            pauses, done = Pauses(self._patience_s), 0
            while True:
                resumed = {"Range": f"bytes={done}-"} if done else {}
                try:
                    answer: ServerAnswer = yield OpenStream(
                        ServerCall("GET", url, headers=resumed), SILENCE_S
                    )
                    if answer.status in AWAY:
                        raise ConnectionLost(f"it answered {answer.status}")
                    check_answer(answer, self.url)
                    self._met = True
                    done = done if answer.status == 206 else 0
                    with part.open("r+b" if done else "wb") as file:
                        file.seek(done)
                        while data := (yield NextBytes()):
                            pauses.reset()
                            done += file.write(data)
                except ConnectionLost as lost:
                    yield from self._pause(pauses, str(lost))
                    continue
                break
            if sha256 is not None and sha256 != (yield SlowWork(lambda: digest_of(part))):
                raise ServerError(f"{self.url}{url} came damaged: its bytes are not those of the server")
        return path

    def upload(self, path: Path, purpose: str = "input") -> Talk[Asset]:
        """Send a file, unless the server has it already."""
        digest: str = yield SlowWork(lambda: digest_of(path))
        known = yield from self._known(digest)
        if known is not None:
            return known
        headers = {"Content-Type": "application/octet-stream"}
        call = ServerCall(
            "POST", "/v1/uploads", {"name": path.name, "purpose": purpose}, file=path, headers=headers
        )
        asset = yield from self.view(Asset, call)
        self._sent[digest] = asset.id
        return asset

    def _known(self, digest: str) -> Talk[Asset | None]:
        """Return the file of a hash, if it was sent before and is still there."""
        if not self._looked:
            self._looked = True
            recent = yield from self.view(
                Page[Asset], ServerCall("GET", "/v1/assets", {"limit": MOST_LISTED})
            )
            self._sent.update({a.sha256: a.id for a in recent.data if a.kind in SENT_KINDS})
        if digest in self._sent:
            with suppress(ServerError):  # it was deleted, or its time was over
                return (yield from self.view(Asset, ServerCall("GET", f"/v1/assets/{self._sent[digest]}")))
            del self._sent[digest]
        return None

    def _asked(self, prompt: str | Request, words: Mapping[str, Any]) -> Talk[dict[str, Any]]:
        """Return the JSON of a job, with its files uploaded."""
        job, given = split_words(words)
        if "latents" in job and not str(job["latents"]).startswith(ASSET):
            job["latents"] = latents_file(job["latents"])
        fields, uploads = outgoing(prompt, given)
        asked = {**job, "request": fields}
        check_words({key: str(value) if isinstance(value, Path) else value for key, value in asked.items()})
        if isinstance(latents := job.get("latents"), Path):
            asked["latents"] = ASSET + (yield from self.upload(latents, "latents")).id
        with tempfile.TemporaryDirectory(prefix="soundstage-") as folder:
            for number, upload in enumerate(uploads):
                own = Path(folder) / str(number)
                own.mkdir()
                path = yield from self._file(upload, own, asked)
                asset = yield from self.upload(path, upload.purpose)
                upload.place.put(ASSET + asset.id)
        return asked

    def _file(self, upload: Upload, folder: Path, asked: Mapping[str, Any]) -> Talk[Path]:
        """Return the file of an upload; an array is written to one, at the clip's own rate of frames."""
        given = upload.given
        if not isinstance(given, InMemory):
            return given
        fps = given.fps
        if fps is None and given.frames is not None and len(given.frames) > 1:
            plain = {k: v for k, v in asked["request"].items() if k in ("prompt", "fps", "recipe")}
            planned = yield from self.view(
                PlanView, ServerCall("POST", "/v1/plan", data={"model": asked.get("model"), "request": plain})
            )
            fps = planned.fps
        path: Path = yield SlowWork(lambda: written(given, folder, fps or 1.0))
        return path


def _id(id: str) -> str:
    """Return an id that is safe in a path. Raises RequestError."""
    if not isinstance(id, str) or not id.replace("_", "").isalnum():
        raise RequestError(f"{id!r} is no id of a job; give one such as job_...", field="id")
    return id


def _clip_of(job: Job) -> Asset:
    if job.result is None or job.result.clip is None:
        raise ServerError(f"{job.id} has made no clip; it was a job of the kind {job.kind}")
    return job.result.clip


def _main_of(job: Job) -> Asset:
    if job.result is None or job.result.main is None:
        raise ServerError(f"{job.id} has made no file; it was a job of the kind {job.kind}")
    return job.result.main


def suffix_of(job: Job, asset: Asset | None = None) -> str:
    """Return the ending of a clip's or LoRA's file. asset: that file, where it is there."""
    if job.kind == "train":
        return ".safetensors"
    name = Path((asset and asset.name) or "").suffix.lower()
    return name or f".{job.format or 'mp4'}"
