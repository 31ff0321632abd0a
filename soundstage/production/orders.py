"""Carry out one order of a film with an engine: render a take, keep where it stands, write it, look at it.

An order and the messages about it are JSON-ready, so that they go to another process and back
(`crew_process.py`). The clip is written under its name when it is whole; its metadata has the order's
mark, so that a run that was killed before it could say so is believed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from soundstage.clip import Clip, read_provenance
from soundstage.errors import MediaError, RequestError
from soundstage.media.picture_files import save_picture
from soundstage.media.remux import with_picture_of
from soundstage.rendering.events import Done, Event, Notice, Phase, Preview, Step
from soundstage.rendering.progress import ProgressCount, preview_every
from soundstage.request.request import Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from soundstage.engine import Engine
    from soundstage.rendering.turns import Run

PRODUCTION = "production"  # key of a clip's metadata
# How long the checkpoint of a process that was just killed is waited for, and how often it is looked at.
PATIENCE_S, LOOK_S = 30.0, 0.2

Message = dict[str, Any]


@dataclass(frozen=True)
class TakeOrder:
    """A take to render.

    step, mark: those of the graph. request: a Request's fields. output: the clip's file. thumbnail: a PNG
    of the clip; "" makes none. previews: it is refreshed while the take is made. checkpoint: the folder that
    keeps where it stands. every_s: seconds between two states. picture: a clip whose picture the take keeps,
    bit for bit. told: what the clip's metadata says of the film.
    """

    step: str
    mark: str
    request: Mapping[str, Any]
    output: str
    thumbnail: str = ""
    previews: bool = True
    checkpoint: str = ""
    every_s: float = 30.0
    picture: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)


def carried_out(engine: Engine, order: TakeOrder) -> Iterator[Message]:
    """Render a take and write it, and yield messages; the last is "done" with facts of the clip.

    Closing the iterator keeps where the render stands.
    """
    plan = engine.plan(Request(**order.request))
    count, every = ProgressCount(plan), preview_every(plan) if order.previews else 0
    checkpoint = order.checkpoint or None
    if checkpoint is not None:
        Path(checkpoint).parent.mkdir(parents=True, exist_ok=True)
    run = partial(engine.run, plan, preview_every=every, checkpoint=checkpoint, every_s=order.every_s)
    with closing(_events(run)) as events:
        for event in events:
            progress = count.see(event)
            yield from _told(event, order)
            if isinstance(event, (Phase, Step)):
                yield {"kind": "progress", "fraction": progress.fraction, "phase": progress.phase}
            if isinstance(event, Done):
                break
    assert isinstance(event, Done)
    yield {"kind": "progress", "fraction": progress.fraction, "phase": "write"}
    _write(event.clip, order)
    yield {"kind": "done", "facts": facts_of(event.clip) | {"seconds": event.seconds}}


def _events(run: Callable[[], Run[Event]]) -> Generator[Event, None, None]:
    """Yield the events of a run, begun again while a dying process still keeps its checkpoint."""
    until = time.monotonic() + PATIENCE_S
    while True:
        with closing(run()) as events:
            try:
                yield from events
                return
            except RequestError as error:
                if not isinstance(error.__cause__, Timeout) or time.monotonic() > until:
                    raise
        time.sleep(LOOK_S)


def forget_checkpoint(folder: Path) -> None:
    """Delete the state of a render whose clip is in the journal."""
    from soundstage.rendering.checkpoints import clear

    if folder.is_dir():
        clear(folder)


def is_written(path: Path, mark: str) -> bool:
    """Return whether a clip of a mark is there, whole."""
    with suppress(MediaError):
        told = read_provenance(path).get(PRODUCTION)
        return isinstance(told, Mapping) and told.get("mark") == mark
    return False


def facts_of(clip: Clip) -> dict[str, Any]:
    """Return what a manifest says of a clip, JSON-ready."""
    made = clip.provenance
    keys = ("model", "files", "device", "dtype", "weights", "loras", "inputs", "latents_sha256", "request")
    return {
        **{key: made[key] for key in keys if key in made},
        "duration_s": clip.duration_s,
        "fps": clip.fps,
        "size": None if clip.frames is None else list(clip.frames.shape[2:0:-1]),
    }


def _told(event: Event, order: TakeOrder) -> Iterator[Message]:
    """Yield what an event says besides progress."""
    if isinstance(event, Notice):
        yield {"kind": "notice", "text": event.text}
    elif isinstance(event, Phase) and event.name == "resume":
        yield {"kind": "resumed", "part": event.detail.part}
    elif isinstance(event, Preview):
        yield from _pictured(event.frames, order)


def _pictured(frames: NDArray[np.uint8], order: TakeOrder) -> Iterator[Message]:
    """Write the middle frame as the thumbnail; one that cannot be written is left out."""
    from PIL import Image

    if order.thumbnail:
        with suppress(MediaError):
            save_picture(Path(order.thumbnail), Image.fromarray(frames[len(frames) // 2]))
            yield {"kind": "thumbnail", "path": order.thumbnail}


def _write(clip: Clip, order: TakeOrder) -> None:
    """Write a clip with the order's mark in its metadata, and wait until the disk has it."""
    told = {**clip.provenance, PRODUCTION: {**order.told, "step": order.step, "mark": order.mark}}
    path = Path(order.output)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{path.parent} cannot be made ({error.strerror or error})") from error
    replace(clip, provenance=told).save(path)
    if order.picture:
        with_picture_of(path, Path(order.picture))
    with path.open("rb") as file:
        os.fsync(file.fileno())
    if clip.frames is not None:
        for _ in _pictured(clip.frames, order):
            pass


def error_message(error: Exception) -> Message:
    """Return the message of an error, for the process that waits for it."""
    field = error.field if isinstance(error, RequestError) else None
    return {"kind": "failed", "error": type(error).__name__, "text": str(error), "field": field}
