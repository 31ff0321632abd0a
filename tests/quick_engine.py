"""An engine that plans as the true one does and makes a small clip at once, for tests of servers.

    QuickEngine("nano", step_s=0.01)          # a checkpoint after every step, if a folder is given
    python -m tests.quick_engine worker ...   # the command line, with this engine in place of the true one

The clip depends on the plan alone: grey frames and a tone, both of the seed. Words in a prompt are for tests:
FAIL raises, OOM raises as a device without memory does, SLOW takes ten times as long, NOTICE gives a notice.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from soundstage.clip import Clip
from soundstage.engine import load
from soundstage.errors import RequestError
from soundstage.jobs.limits import Limits
from soundstage.jobs.media_types import WEIGHTS_TYPE
from soundstage.jobs.service import Jobs
from soundstage.jobs.training_work import TrainingWork
from soundstage.jobs.views import JobProgress, MadeFiles
from soundstage.library.model_files import SHIPPED_MODELS
from soundstage.media.hdr import light_of
from soundstage.planning.placement import Choice
from soundstage.planning.plan import Plan
from soundstage.rendering.events import Done, Event, Notice, Phase, Preview, Step
from soundstage.request.request import Request

STEP_VARIABLE = "QUICK_STEP_S"  # seconds of a step, for those who start a process
LEASE_VARIABLE = "QUICK_LEASE_S"  # how long a worker may be silent; deaths of workers then cost no try
FILE = "quick.json"


class QuickEngine:
    """Makes small clips without a model. step_s: seconds of a step."""

    def __init__(self, model: str = "nano", step_s: float | None = None, **_: Any) -> None:
        self._true = load(model, device="cpu")
        self.model = self._true.model
        self.step_s = float(os.environ.get(STEP_VARIABLE, "0")) if step_s is None else step_s

    def plan(self, request: Request) -> Plan:
        return self._true.plan(request)

    def choose(self, plan: Plan) -> Choice:
        return self._true.choose(plan)

    def run(
        self,
        plan: Plan,
        *,
        preview_every: int = 0,
        given: Any = None,
        checkpoint: Path | None = None,
        every_s: float = 30.0,
    ) -> Generator[Event, None, None]:
        prompt = plan.request.prompt
        pause = self.step_s * (10 if "SLOW" in prompt else 1)
        done = _resumed(plan, checkpoint)
        if done:
            yield Phase("resume")
        yield Phase("load")
        yield Phase("encode")
        if "NOTICE" in prompt:
            yield Notice("a notice of the quick engine")
        seen = 0
        for pass_ in plan.passes:
            yield Phase("denoise")
            for step in range(1, pass_.num_steps + 1):
                seen += 1
                if seen <= done:
                    continue
                time.sleep(pause)
                if "FAIL" in prompt and step == 2:
                    raise RequestError("the quick engine was told to fail", field="prompt")
                if "OOM" in prompt and step == 2:
                    raise MemoryError("out of memory")
                _keep(plan, checkpoint, seen)
                yield Step(pass_.name, step, pass_.num_steps, pass_.sigmas[step])
                if preview_every and step % preview_every == 0:
                    yield Preview(pass_.name, step, _frames(plan)[:9, ::4, ::4])
        yield Phase("decode video")
        yield Done(_clip(plan), None, None, {"load": 0.001, "denoise": pause * seen, "encode": 0.001})


def quick_trained(self: TrainingWork, device: str) -> MadeFiles:
    """Hand in nano's distilled LoRA as that of a training, in place of TrainingWork.trained."""
    losses = {"loss": 0.5}
    for step in (1, 2):
        self._reporter.tell(
            state="running",
            progress=JobProgress(
                fraction=step / 2, phase="training", pass_="train", step=step, num_steps=2, losses=losses
            ),
        )
    path = SHIPPED_MODELS["nano"] / "distilled_lora.safetensors"
    lora = self._copied(path, WEIGHTS_TYPE, "lora.safetensors")
    return MadeFiles(files={"lora": lora, "config": self._config_file()}, seconds={"train": 0.1})


def _clip(plan: Plan) -> Clip:
    frames = _frames(plan) if "video" in plan.modalities else None
    waveform = _sound(plan) if "audio" in plan.modalities else None
    provenance = {"request": plan.request.describe(), "model": plan.model}
    clip = Clip(frames, waveform, plan.fps, provenance)
    if plan.hdr is None or frames is None:
        return clip
    return replace(clip, linear=light_of(frames).astype(np.float16), hdr=plan.hdr)


def _frames(plan: Plan) -> Any:
    shades = np.random.default_rng(plan.request.seed).integers(0, 256, plan.num_shown, dtype=np.uint8)
    frames = np.empty((plan.num_shown, plan.height, plan.width, 3), np.uint8)
    frames[:] = shades[:, None, None, None]
    return frames


def _sound(plan: Plan) -> Any:
    times = np.arange(round(plan.duration_s * 48_000)) / 48_000
    tone = 0.3 * np.sin(2 * np.pi * (200 + (plan.request.seed or 0) % 800) * times)
    return np.stack([tone, tone]).astype(np.float32)


def _keep(plan: Plan, folder: Path | None, done: int) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{FILE}.part"
    part.write_text(json.dumps({"request": plan.request.describe(), "done": done}))
    part.replace(folder / FILE)


def _resumed(plan: Plan, folder: Path | None) -> int:
    """Return the number of steps that a checkpoint holds. Raises RequestError for one of another request."""
    if folder is None or not (folder / FILE).is_file():
        return 0
    kept = json.loads((folder / FILE).read_text())
    if kept["request"] != json.loads(json.dumps(plan.request.describe())):
        raise RequestError("the checkpoint is of another request; remove it", field="checkpoint")
    return int(kept["done"])


def main() -> None:
    """Run the command line with this engine in place of the true one in workers."""
    from soundstage.cli import main as command_line
    from soundstage.jobs import worker
    from soundstage.server import command

    if LEASE_VARIABLE in os.environ:
        lease_s = float(os.environ[LEASE_VARIABLE])
        limits = Limits(lease_s=lease_s, renew_s=lease_s / 6, lost_retries=10**6)
        Jobs.open.__func__.__kwdefaults__["limits"] = limits  # type: ignore[attr-defined]
    worker.load_engine = QuickEngine  # type: ignore[assignment]
    command.PROGRAM = "tests.quick_engine"
    command_line.run()


if __name__ == "__main__":
    sys.exit(main())
