"""One job's work: from a lease to the files that are handed in. The engine is used through its events."""

from __future__ import annotations

import logging
import math
import time
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from filelock import Timeout

from soundstage.clip import Clip
from soundstage.conversion import Wanted, planned_conversion
from soundstage.errors import MediaError, RequestError
from soundstage.jobs import ids
from soundstage.jobs.admission import with_paths
from soundstage.jobs.checkpoint_files import newest_state
from soundstage.jobs.references import ASSET, places
from soundstage.jobs.reporting import Reporter
from soundstage.jobs.states import JobState
from soundstage.jobs.transport import ReportRefused, ServerAway, Transport, patiently
from soundstage.jobs.views import AssetKind, JobProgress, Lease, MadeFile, MadeFiles
from soundstage.library import pull as pulling
from soundstage.library.catalog import find
from soundstage.library.installed import Library, models_folder
from soundstage.media.hdr import ARCHIVE, ARCHIVE_FRAMES, ARCHIVE_PREVIEW
from soundstage.media.probe import probe
from soundstage.planning.given import latent_shapes, start_in
from soundstage.planning.plan import Plan
from soundstage.rendering.events import Done, Event, LoraAttached, Notice, Phase, Preview, Step
from soundstage.rendering.progress import ProgressCount
from soundstage.rendering.turns import Run
from soundstage.request.request import Request

if TYPE_CHECKING:
    from soundstage.media.arrays import Pixels
    from soundstage.rendering.prepare import Latents

log = logging.getLogger("soundstage.worker")
T = TypeVar("T")
PREVIEW_FRAMES, PREVIEW_QUALITY, POSTER_QUALITY = 24, 60, 85
CHECKPOINT_S = 30.0
PAUSE_SHARE = 9.0  # pauses between two sent checkpoints, over what sending one takes
BUSY_S = 1.0  # before a job is given back whose checkpoint another process still holds
MEDIA_TYPES = {
    "mp4": "video/mp4", "m4v": "video/mp4", "mov": "video/quicktime", "mkv": "video/x-matroska",
    "webm": "video/webm", "gif": "image/gif", "webp": "image/webp", "png": "image/png", "jpg": "image/jpeg",
    "jpeg": "image/jpeg", "wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "m4a": "audio/mp4",
    ARCHIVE: "application/zip",
}  # fmt: skip


class Renders(Protocol):
    """The part of an engine that a worker uses."""

    def plan(self, request: Request) -> Plan:
        """Plan a request."""

    def run(
        self,
        plan: Plan,
        *,
        preview_every: int = 0,
        given: Latents | None = None,
        checkpoint: Path | None = None,
        every_s: float = 30.0,
    ) -> Run[Event]:
        """Give the events of a run."""


class Stopped(Exception):
    """The work on a job stopped before its end: it was cancelled, taken away, or the worker drains."""


class JobWork:
    """The work on one leased job.

    stop: says between two events whether the worker itself should stop. checkpoint_s: how often at most.
    """

    def __init__(
        self,
        transport: Transport,
        lease: Lease,
        reporter: Reporter,
        stop: Callable[[], bool],
        checkpoint_s: float = CHECKPOINT_S,
    ) -> None:
        self._transport, self._lease, self._reporter = transport, lease, reporter
        self._stop, self._checkpoint_s = stop, checkpoint_s
        self._paths: dict[str, Path] = {}
        self._files: list[Path] = []  # that this work has begun, in their order
        self._given: Latents | None = None
        self._kept_s = time.monotonic()
        self._stamp = 0.0

    def made(self, engine: Renders) -> MadeFiles:
        """Make the clip of the job, and return its files, handed in. Raises Stopped."""
        self._paths = self._inputs()
        plan = engine.plan(Request(**with_paths(self._lease.request, self._paths)))
        plan = self._from_latents(plan)
        done = self._rendered(engine, plan)
        self._reporter.tell(state="encoding")
        with self._kept_if_whole():
            files = self._written(done, plan)
            self._check_stop()
        return MadeFiles(files=files, seconds={name: round(s, 4) for name, s in done.seconds.items()})

    def _from_latents(self, plan: Plan) -> Plan:
        """Return a plan that starts from the job's latents, if it has any."""
        if self._lease.asked.latents is None:
            return plan
        from safetensors.torch import load_file

        from soundstage.rendering.prepare import Latents

        path = self._input(self._lease.asked.latents)
        self._paths[self._lease.asked.latents] = path
        self._given = Latents(**load_file(path))
        return start_in(latent_shapes(path), self._lease.asked.denoise).applied(plan)

    def converted(self) -> MadeFiles:
        """Convert the clip of the job, and return the new file. Raises Stopped."""
        reference = f"{ASSET}{self._lease.asked.asset}"
        source = self._input(reference)
        self._paths = {reference: source}
        ending = self._lease.job.format or "mp4"
        began = time.monotonic()

        def tell(share: float) -> None:
            self._reporter.tell(progress=JobProgress(fraction=round(share, 4), phase="convert"))
            self._check_stop()

        with self._kept_if_whole():
            path = self._new(f".{ending}")
            planned = planned_conversion(source, path, Wanted())
            self._reporter.tell(state="encoding")
            planned.run(progress=tell)
            files: dict[AssetKind, MadeFile] = {"clip": self._checked(path, ending)}
        notices = list(map(self.by_reference, planned.notices))
        return MadeFiles(files=files, warnings=notices, seconds={"convert": time.monotonic() - began})

    def pulled(self) -> MadeFiles:
        """Download the model of the job; what came stays for the next try. Raises Stopped."""
        library = Library.open()
        here = library.find()
        lacking = [entry for entry in find(self._lease.job.model or "") if entry.name not in here]
        self._reporter.tell(state="running")
        downloads = pulling.plan_pull(lacking, models_folder())
        pulling.check_space(downloads)
        total = sum(download.num_bytes for download in downloads) or 1
        done = 0
        for download in downloads:
            self._check_stop()
            self._reporter.tell(log=f"pull {download.path}")
            if not download.is_here:
                pulling.fetch(download)
            done += download.num_bytes
            self._reporter.tell(progress=JobProgress(fraction=round(done / total, 4), phase="pull"))
        return MadeFiles()

    def by_reference(self, text: str) -> str:
        """Return a message with files named by their references."""
        for reference, path in self._paths.items():
            text = text.replace(str(path), reference)
        return text

    def _inputs(self) -> dict[str, Path]:
        wanted = dict.fromkeys(place.text for place in places(self._lease.request))
        return {reference: self._input(reference) for reference in wanted}

    def _input(self, reference: str) -> Path:
        return self._insisted(lambda: self._transport.input(self._lease, reference))

    def _insisted(self, call: Callable[[], T]) -> T:
        """Call until the server answers. Raises Stopped where the work should end before."""
        try:
            return patiently(call, self._should_stop)
        except ServerAway:
            raise Stopped from None

    # --- events ----------------------------------------------------------------------------------------

    def _rendered(self, engine: Renders, plan: Plan) -> Done:
        folder = self._insisted(lambda: self._transport.checkpoint(self._lease))
        count, pace = ProgressCount(plan), WorkPace()
        with closing(self._events(engine, plan, folder)) as events:
            for event in events:
                progress = count.see(event)
                if isinstance(event, Done):
                    return event
                self._tell(event, plan)
                told = JobProgress(
                    fraction=round(progress.fraction, 4), phase=progress.phase, step=progress.step,
                    num_steps=progress.num_steps, window=progress.window, num_windows=progress.num_windows,
                    remaining_s=pace.remaining_s(progress.fraction),
                    pass_=event.name if isinstance(event, Step) else None,
                )  # fmt: skip
                self._reporter.tell(progress=told)
                self._look_at_checkpoint(folder)
                self._check_stop()
        raise AssertionError("a run ends with Done")

    def _events(self, engine: Renders, plan: Plan, folder: Path) -> Generator[Event, None, None]:
        """Give the events of a run from its checkpoint, or from the beginning where that does not fit."""
        try:
            yield from self._run(engine, plan, folder)
        except RequestError as error:
            if error.field != "checkpoint":
                raise
            from soundstage.rendering.checkpoints import clear

            if isinstance(error.__cause__, Timeout):  # the worker that lost this job has not noticed it yet
                time.sleep(BUSY_S)
                raise Stopped from None
            self._reporter.tell(log=f"begun again: {str(error).replace(str(folder), 'the checkpoint')}")
            clear(folder)
            yield from self._run(engine, plan, folder)

    def _run(self, engine: Renders, plan: Plan, folder: Path) -> Generator[Event, None, None]:
        run = engine.run(
            plan,
            preview_every=self._lease.asked.preview_every,
            given=self._given,
            checkpoint=folder,
            every_s=self._checkpoint_s,
        )
        with closing(run):
            yield from run

    def _tell(self, event: Event, plan: Plan) -> None:
        if isinstance(event, Phase):
            self._reporter.tell(state=_state_of(event), log=_told(event))
        elif isinstance(event, Notice):
            self._reporter.tell(warning=self.by_reference(event.text))
        elif isinstance(event, LoraAttached):
            self._reporter.tell(log=self.by_reference(str(event.report)))
        elif isinstance(event, Preview):
            self._reporter.show(*self._preview(event, plan))

    def _should_stop(self) -> bool:
        return self._reporter.should_stop or self._stop()

    def _check_stop(self) -> None:
        if self._should_stop():
            raise Stopped

    def _look_at_checkpoint(self, folder: Path) -> None:
        """Tell of a new checkpoint, and send it to a server that cannot see it, not too often.

        One that the server does not take now goes with the next: the work does not wait for it. Sending takes
        a tenth of the time at most.
        """
        now = time.monotonic()
        if now - self._kept_s < min(self._checkpoint_s, 1.0) or not folder.is_dir():
            return
        self._kept_s = now
        stamp = self._state_at(folder)
        if stamp is not None and stamp > self._stamp:
            try:
                self._transport.keep_checkpoint(self._lease)
            except ServerAway as error:
                log.info("%s; the checkpoint is sent later", error)
                return
            except ReportRefused as error:
                self._stamp = stamp
                self._reporter.tell(log=f"this checkpoint is not kept: {error}")
                return
            self._kept_s = time.monotonic() + PAUSE_SHARE * (time.monotonic() - now)
            self._stamp = stamp
            self._reporter.tell(checkpointed=True)

    def _state_at(self, folder: Path) -> float | None:
        """Return when the state of the work was written last; None where there is none."""
        return newest_state(folder)

    # --- files -----------------------------------------------------------------------------------------

    def _written(self, done: Done, plan: Plan) -> dict[AssetKind, MadeFile]:
        clip = replace(done.clip, provenance=self._told_by_reference(done.clip.provenance))
        files: dict[AssetKind, MadeFile] = {"clip": self._clip_file(clip)}
        if clip.frames is not None and self._lease.job.format not in ("png", "jpg", "jpeg"):
            files["poster"] = self._poster(clip)
        if self._lease.asked.sheet:
            path = self._new(".png")
            clip.contact_sheet(path)
            files["sheet"] = self._file(path, "image/png")
        if self._lease.asked.keep_latents:
            files["latents"] = self._latents(done, plan)
        return files

    def _clip_file(self, clip: Clip) -> MadeFile:
        """Write the clip aside, and look whether it is what it should be."""
        ending = self._lease.job.format or "mp4"
        if ending == ARCHIVE:
            return self._archive(clip)
        path = self._new(f".{ending}")
        clip.save(path)
        return self._checked(path, ending, clip)

    def _archive(self, clip: Clip) -> MadeFile:
        """Write the EXR files of a clip, and its preview, as one archive."""
        path = self._new(f".{ARCHIVE}")
        with TemporaryDirectory(dir=path.parent) as name:
            folder = Path(name)
            clip.save(f"{folder / ARCHIVE_FRAMES}/")
            clip.save(folder / ARCHIVE_PREVIEW, codec="h264")
            with zipfile.ZipFile(path, "w") as archive:
                for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                    archive.write(file, file.relative_to(folder))
        self._reporter.tell(state="checking")
        assert clip.frames is not None
        count, height, width = clip.frames.shape[:3]
        told = {
            "width": width, "height": height, "num_frames": count, "fps": clip.fps,
            "duration_s": clip.duration_s, "has_sound": clip.waveform is not None,
            "sample_rate": None if clip.waveform is None else clip.sample_rate_hz,
        }  # fmt: skip
        return self._file(path, MEDIA_TYPES[ARCHIVE], told)

    def _checked(
        self, path: Path, ending: str, clip: Clip | None = None, name: str | None = None
    ) -> MadeFile:
        """Hand in a file that was written, once it is seen to hold what it should. clip: what was written."""
        self._reporter.tell(state="checking")
        info = probe(str(path))
        if clip is not None and clip.frames is not None and not info.width:
            raise MediaError("the clip that was written holds no picture; the disk may be full")
        duration_s = info.num_frames / info.fps if info.fps and info.num_frames else info.sound_s
        told = {
            "width": info.width or None, "height": info.height or None,
            "num_frames": info.num_frames or None, "fps": info.fps,
            "duration_s": duration_s if clip is None else clip.duration_s,
            "has_sound": info.sound_s is not None,
            "sample_rate": None if info.sound_s is None or clip is None else clip.sample_rate_hz,
        }  # fmt: skip
        return self._file(path, MEDIA_TYPES.get(ending, "application/octet-stream"), told, name)

    def _poster(self, clip: Clip) -> MadeFile:
        from PIL import Image

        assert clip.frames is not None
        frame = clip.frames[len(clip.frames) // 2]
        path = self._new(".jpg")
        Image.fromarray(frame).save(path, "JPEG", quality=POSTER_QUALITY)
        return self._file(path, "image/jpeg", {"width": frame.shape[1], "height": frame.shape[0]})

    def _preview(self, event: Preview, plan: Plan) -> tuple[Path, MadeFile]:
        """Write a preview of a plan's clip."""
        return self._moving(event.frames, plan.duration_s)

    def _moving(self, frames: Pixels, duration_s: float) -> tuple[Path, MadeFile]:
        """Write frames as a moving picture of a few of them."""
        from PIL import Image

        stride = max(1, math.ceil(len(frames) / PREVIEW_FRAMES))
        first, *others = [Image.fromarray(frame) for frame in frames[::stride]]
        pause_ms = round(1000 * duration_s / (1 + len(others)))
        path = self._new(".webp")
        first.save(
            path, "WEBP", quality=PREVIEW_QUALITY, save_all=True, append_images=others,
            duration=max(20, pause_ms), loop=0,
        )  # fmt: skip
        told = {"width": first.width, "height": first.height, "num_frames": 1 + len(others)}
        return path, MadeFile(file=path.name, media_type="image/webp", info=told)

    def _latents(self, done: Done, plan: Plan) -> MadeFile:
        from safetensors.torch import save_file

        path = self._new(".safetensors")
        held = {"video": done.video_latents, "audio": done.audio_latents}
        tensors = {name: value.contiguous().cpu() for name, value in held.items() if value is not None}
        save_file(tensors, path, metadata={"fps": f"{plan.fps:g}", "model": plan.model})
        return self._file(path, "application/octet-stream")

    def _new(self, ending: str) -> Path:
        self._files.append(self._transport.new_file(f"{ids.new_id('out')}{ending}"))
        return self._files[-1]

    @contextmanager
    def _kept_if_whole(self) -> Iterator[None]:
        """Remove the files of a block that ends with an error, as that of a job cancelled meanwhile."""
        first = len(self._files)
        try:
            yield
        except BaseException:
            for path in self._files[first:]:
                path.unlink(missing_ok=True)
            raise

    def _file(
        self, path: Path, media_type: str, info: Mapping[str, Any] | None = None, name: str | None = None
    ) -> MadeFile:
        """Hand in a file. name: the one that a client is told."""
        handed = self._insisted(lambda: self._transport.hand_in(self._lease, path))
        return MadeFile(file=handed, media_type=media_type, info=dict(info or {}), name=name)

    def _told_by_reference(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        names = {str(path): reference for reference, path in self._paths.items()}
        found: dict[str, Any] = _renamed(provenance, names)
        return found


class WorkPace:
    """Reckons the seconds that are left from the share of the work that is done."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None

    def remaining_s(self, fraction: float) -> float | None:
        """Return the seconds; None until two shares are known."""
        now = time.monotonic()
        if fraction <= 0:
            return None
        if self._start is None:
            self._start = (now, fraction)
            return None
        began, first = self._start
        if fraction <= first:
            return None
        return round((now - began) * (1 - fraction) / (fraction - first), 2)


def _state_of(phase: Phase) -> JobState:
    return "loading" if phase.name in ("load", "resume") else "running"


def _told(phase: Phase) -> str:
    """Return a phase in words."""
    return f"{phase.name}: {phase.detail.part}" if phase.detail.part else phase.name


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Return JSON-ready values with texts that are file names replaced, keys too."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {names.get(key, key): _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    return value
