"""The work on a job of kind train: its zip is unpacked and encoded, a LoRA trained as by `soundstage train`.

The job's checkpoint folder holds both: `data`, the dataset, and `run`, the folder of the run with its state.
A worker that takes the job up again finds what is encoded and goes on from the state, with the same losses.
"""

from __future__ import annotations

import gc
import json
import logging
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from soundstage.engine import load
from soundstage.errors import RequestError
from soundstage.jobs.media_types import WEIGHTS_TYPE
from soundstage.jobs.training import (
    DATA_FOLDER,
    PASS,
    RUN_FOLDER,
    config_of,
    training_places,
    with_local_paths,
)
from soundstage.jobs.views import AssetKind, JobProgress, MadeFile, MadeFiles
from soundstage.jobs.work import BUSY_S, JobWork, Stopped, WorkPace
from soundstage.training.tuning.config import TrainConfig
from soundstage.training.tuning.zips import encoded, is_unpacked, unpacked

if TYPE_CHECKING:
    from soundstage.training.loop import StepDone
    from soundstage.training.tuning.session import FileWritten, TuningEvent

log = logging.getLogger("soundstage.worker")
STATE, LOCK = "state.pt", "lock"
TOLD_S = 2.0  # between two reports of steps: a training of hours has an event for each
ENCODED_SHARE = 0.1  # of a training's progress is its data's
MOST_CLIPS = 200  # on the way, that are part of a result; the last ones


class TrainingWork(JobWork):
    """The work on one leased training."""

    _notice = ""
    _told_s = 0.0

    def trained(self, device: str) -> MadeFiles:
        """Train the LoRA of the job, and return its files, handed in. Raises Stopped."""
        fields = self._lease.request
        self._paths = {ref: self._input(ref) for ref in {place.text for place in training_places(fields)}}
        folder = self._insisted(lambda: self._transport.checkpoint(self._lease))
        local = with_local_paths(fields, self._paths)
        config = config_of(local, self._lease.job.model or "nano", folder=folder, device=device)
        self._paths |= {name: folder / name for name in (DATA_FOLDER, RUN_FOLDER)}
        seconds: dict[str, float] = {}
        with self._alone(folder):
            with _timed(seconds, "encode"):
                self._encoded(config, local)
            with _timed(seconds, "train"):
                last = self._lora(config, folder)
            self._reporter.tell(state="encoding")
            with self._kept_if_whole():
                made = self._collected(config, last)
                self._check_stop()
        made.seconds = {name: round(value, 4) for name, value in seconds.items()}
        return made

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """Hold the folder. Raises Stopped where the worker that lost this job still does, to try later."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / LOCK, timeout=0):
                yield
        except Timeout:
            time.sleep(BUSY_S)
            raise Stopped from None

    # --- data

    def _encoded(self, config: TrainConfig, local: dict[str, Any]) -> None:
        """Unpack and encode the data; what is there already stays."""
        self._tell_phase("preparing", 0.0, state="running")
        folder = Path(config.data)
        if not is_unpacked(folder):
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed in the midst of it
        data = unpacked(Path(local["data"]), folder, local["dataset"])
        engine = load(config.model, device=config.device)
        encoded(data, engine, lambda share: self._tell_phase("encoding", share * ENCODED_SHARE))
        del engine
        gc.collect()

    def _tell_phase(self, phase: str, fraction: float, state: Any = None) -> None:
        told = JobProgress(fraction=round(fraction, 4), phase=phase)
        self._reporter.tell(state=state, progress=told)
        self._check_stop()

    # --- the run

    def _lora(self, config: TrainConfig, folder: Path) -> Path:
        """Train to the end, and return the LoRA's file."""
        from soundstage.training.loop import StepDone
        from soundstage.training.tuning.session import FileWritten

        pace, last, step = WorkPace(), None, 0
        with closing(self._run_events(config)) as events:
            for event in events:
                if isinstance(event, StepDone):
                    step = event.step
                    self._tell_step(event, config, pace)
                elif isinstance(event, FileWritten):
                    last = event.path if event.path.parent == Path(config.output) else last
                    self._tell_file(event)
                else:
                    self._notice = self.by_reference(event.text)
                    self._reporter.tell(log=self._notice)
                self._look_at_checkpoint(folder)
                self._check_stop()
        assert last is not None, "a run ends with a file"
        if step and step < config.steps:
            self._reporter.tell(warning=self._notice)  # why it ended before its last step
        return last

    def _run_events(self, config: TrainConfig) -> Generator[TuningEvent, None, None]:
        """Give the events of a run from its state, or from the beginning where that does not fit."""
        from soundstage.training.tuning.session import TuningRun

        def told(share: float) -> None:
            self._tell_phase("preparing", ENCODED_SHARE)

        try:
            yield from TuningRun(config, told).events()
        except RequestError as error:
            if error.field != "output":
                raise
            self._reporter.tell(log=f"begun again: {self.by_reference(str(error))}")
            shutil.rmtree(config.output)
            yield from TuningRun(config, told).events()

    def _tell_step(self, event: StepDone, config: TrainConfig, pace: WorkPace) -> None:
        """Tell of a step, but not of each: the first, the last, and one every two seconds."""
        now, share = time.monotonic(), event.step / config.steps
        remaining_s = pace.remaining_s(share)
        if now - self._told_s < TOLD_S and event.step not in (1, config.steps):
            return
        self._told_s = now
        losses = {name: round(value, 6) for name, value in event.losses.items() if " " not in name}
        told = JobProgress(
            fraction=round(ENCODED_SHARE + (1 - ENCODED_SHARE) * share, 4), phase="training", pass_=PASS,
            step=event.step, num_steps=config.steps, remaining_s=remaining_s, losses=losses,
        )  # fmt: skip
        self._reporter.tell(progress=told)

    def _tell_file(self, event: FileWritten) -> None:
        """Tell of a file, and show a clip."""
        self._reporter.tell(log=f"step {event.step}: {event.path.name}")
        if event.path.suffix == ".mp4":
            from soundstage.clip import Clip

            clip = Clip.open(event.path)
            if clip.frames is not None:
                self._reporter.show(*self._moving(clip.frames, clip.duration_s))

    def _state_at(self, folder: Path) -> float | None:
        try:
            return (folder / RUN_FOLDER / STATE).stat().st_mtime
        except FileNotFoundError:
            return None

    # --- files

    def _collected(self, config: TrainConfig, lora: Path) -> MadeFiles:
        """Hand in the LoRA, its config, its losses, its page and its clips."""
        from soundstage.training.tuning.files import CLIPS
        from soundstage.training.tuning.report import write_report

        run = Path(config.output)
        page = write_report(run, self._new(".html"))
        page.write_text(self.by_reference(page.read_text(encoding="utf-8")), encoding="utf-8")
        files: dict[AssetKind, MadeFile] = {
            "lora": self._copied(lora, WEIGHTS_TYPE, "lora.safetensors"),
            "config": self._config_file(),
            "losses": self._copied(run / "loss.csv", "text/csv", "loss.csv"),
            "report": self._file(page, "text/html", name="report.html"),
        }
        clips = sorted((run / CLIPS).glob("step-*")) if (run / CLIPS).is_dir() else []
        made = []
        for path in clips[-MOST_CLIPS:]:
            copy = self._copy(path)
            made.append(self._checked(copy, path.suffix.removeprefix("."), name=path.name))
        return MadeFiles(files=files, validation=made)

    def _copy(self, path: Path) -> Path:
        target = self._new(path.suffix)
        shutil.copyfile(path, target)
        return target

    def _copied(self, path: Path, media_type: str, name: str) -> MadeFile:
        return self._file(self._copy(path), media_type, name=name)

    def _config_file(self) -> MadeFile:
        """Write what the training was asked for by, so that it can be asked for again."""
        path = self._new(".json")
        asked = {"kind": "train", "model": self._lease.job.model}
        fields = {name: self._lease.request[name] for name in ("data", "dataset", "training")}
        path.write_text(json.dumps({**asked, **fields}, indent=1, ensure_ascii=False) + "\n")
        return self._file(path, "application/json", name="config.json")


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[name] = time.monotonic() - began
