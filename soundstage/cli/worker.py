"""`soundstage worker`: make the jobs of a server on this machine's device."""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from soundstage.cli import parameters
from soundstage.cli.process import DONE, FAULT

if TYPE_CHECKING:
    from types import FrameType

    from soundstage.jobs.views import WorkerInfo
    from soundstage.jobs.worker import JobWorker

LOOK_S, GRACE_S = 0.5, 2.0  # for the server that started this process
# Set by a server for the workers that it starts: its own process, and what it calls the worker.
PARENT, IDENTIFIER = "SOUNDSTAGE_PARENT", "SOUNDSTAGE_WORKER_ID"


@click.command("worker", context_settings=parameters.SETTINGS)
@click.option("--server", required=True, metavar="URL", help="The server, such as http://127.0.0.1:8765.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="FOLDER",
    help="The server's data folder, if this machine sees it: files are then put into place, not sent.",
)
@click.option(
    "--key",
    envvar="SOUNDSTAGE_WORKER_KEY",
    metavar="KEY",
    help="A key with the scope 'worker'. [default: $SOUNDSTAGE_WORKER_KEY]",
)
@parameters.device
@click.option("--name", metavar="NAME", help="What the server calls this worker. [default: the machine's]")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Take jobs of this model only; may be given several times. [default: all]",
)
@click.option(
    "--checkpoint-every",
    "checkpoint_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Save the state of a job this often, so that it can go on from there.",
)
def app(
    server: str,
    data: Path | None,
    key: str | None,
    device: str,
    name: str | None,
    models: tuple[str, ...],
    checkpoint_s: float,
) -> None:
    """Make the jobs of a server.

    Takes one job after the other and keeps the model loaded. `soundstage serve` starts one for its own
    machine; start others where there are more devices. SIGTERM gives the job under work back, with its
    checkpoint, and ends the worker; a second one ends it at once.

    Example: soundstage worker --server http://studio.example:8765 --key ss_...
    """
    from soundstage.jobs.over_http import OverHttp
    from soundstage.jobs.worker import JobWorker, parent_check

    parent = os.environ.get(PARENT)
    if parent is None:  # a server has a log of its own for the workers that it starts
        _tell_on_terminal(server)
    alive = parent_check(int(parent) if parent and parent.isdigit() else None)
    with ExitStack() as stack:
        folder = data / "tmp" if data else _own_folder(stack, server)
        worker = JobWorker(
            OverHttp(server, key, data, folder),
            _info(device, name, models, data is not None),
            device=device,
            checkpoint_s=checkpoint_s,
            alive=alive,
        )
        _drain_on_signals(worker)
        threading.Thread(target=_leave_with_parent, args=(alive,), daemon=True).start()
        steady = worker.run()
    raise click.exceptions.Exit(DONE if steady else FAULT)


def _tell_on_terminal(server: str) -> None:
    """Say on standard error where jobs come from, which one is taken, and that the server is away."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("soundstage.worker")
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.info("takes the jobs of %s; Ctrl-C ends it", server)


def _own_folder(stack: ExitStack, server: str) -> Path:
    """Return a folder for inputs, checkpoints and results, which one that is killed leaves to the next."""
    from soundstage.rendering.own_folders import WORKERS, fingerprint

    own = WORKERS.new(fingerprint({"server": server}))
    if own is None:
        return Path(stack.enter_context(TemporaryDirectory(prefix="soundstage-worker-")))
    stack.callback(own.discard)
    own.path.mkdir(parents=True, exist_ok=True)
    return own.path


def _info(device: str, name: str | None, models: tuple[str, ...], local: bool) -> WorkerInfo:
    """Return what the server is told of this worker, with the machine as it is before a model is loaded."""
    from soundstage.jobs.admission import machine_fields
    from soundstage.jobs.ids import new_id
    from soundstage.jobs.views import WorkerInfo
    from soundstage.memory.machine import pick_device, this_machine

    place = pick_device(device)
    return WorkerInfo(
        id=os.environ.get(IDENTIFIER) or new_id("wk"),
        name=name or platform.node() or "worker",
        device=place,
        models=list(models),
        machine=machine_fields(this_machine(place)),
        local=local,
    )


def _drain_on_signals(worker: JobWorker) -> None:
    """Let the first signal drain the worker, and a second one end the process at once."""
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if came:
            os._exit(128 + number)
        came.append(number)
        worker.drain()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def _leave_with_parent(alive: Callable[[], bool]) -> None:
    """End the process once the server that started it is gone, even in the middle of a long step.

    The job is given to another worker then, and goes on from its checkpoint.
    """
    while alive():
        time.sleep(LOOK_S)
    time.sleep(GRACE_S)
    os._exit(DONE)
