"""Run `soundstage serve`: listen, start workers and webhooks, serve, and end in order."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from socket import socket
from typing import Any

from fastapi import APIRouter, FastAPI

from soundstage.errors import RequestError
from soundstage.intake.fetch import post
from soundstage.intake.rules import FetchRule
from soundstage.jobs.limits import DAY_S, Limits
from soundstage.jobs.service import Jobs
from soundstage.jobs.views import LOCAL, JobRequest
from soundstage.server import logs
from soundstage.server.app import create_app
from soundstage.server.dialect import letters_of
from soundstage.server.dialects import DIALECTS
from soundstage.server.logs import told
from soundstage.server.periodic import Periodic
from soundstage.server.serving import Serving, address_of, listen
from soundstage.server.settings import MIB, ServerSettings, digest
from soundstage.server.supervisor import Supervisor
from soundstage.server.webhooks import TIMEOUT_S, Sender

log = logging.getLogger("soundstage.server")
DEFAULT_MODELS = ("nano",)
SWEEP_S, LOOK_S = 3.0, 1.0  # between two looks for what is over, and for webhooks that are due
SILENCE_S = 5.0  # between two looks for workers that hang
EXAMINE_S = 30.0  # after the start, the machine is looked at, for those who will ask
COLLECT = (
    20_000,
    20,
    20,
)  # of gc: lists of jobs are many small objects, which would start it again and again
PROGRAM = "soundstage"  # the module that a worker is run by
GB = 1e9
STOPPING = (
    "stopping: the workers save how far they are, which may take some seconds; Ctrl-C again ends at once"
)
MIN_KEY = 16  # letters of a key that is given
KEY_VARIABLE = "SOUNDSTAGE_WORKER_KEY"  # of a worker's environment


def data_folder(data: Path | None) -> Path:
    """Return the folder of a server's data."""
    import platformdirs

    return data or Path(platformdirs.user_data_dir("soundstage")) / "server"


def open_jobs(data: Path | None, database: str | None, **more: Any) -> Jobs:
    """Open the store of a server."""
    return Jobs.open(data_folder(data), database=database, **more)


def serve(
    values: Mapping[str, Any], ready: Callable[[str, str], object], pages: APIRouter | None = None
) -> None:
    """Serve until a signal comes.

    values: the options of the command. ready: gets the address and the greeting once the server listens.
    pages: the routes of the studio. Raises RequestError for options that do not go together.
    """
    worker_key = secrets.token_urlsafe(32)
    settings = settings_of(values, worker_key)
    models = values["models"] or DEFAULT_MODELS
    devices = worker_devices(values)
    limits = limits_of(values)
    jobs = open_jobs(
        values["data"], values["database"], models=models, inputs=values["inputs"], limits=limits
    )
    try:
        check_exposed(settings, jobs)
        listening = listen(settings.host, settings.port)
        url = address_of(settings.host, listening)
        ready(url, greeting(url, models, jobs.data, keyed=bool(settings.keys) or jobs.has_keys()))
        logs.begin(values["logs"] or ("plain" if sys.stderr.isatty() else "json"))
        supervisor = Supervisor(
            devices,
            partial(worker_command, url, jobs.data),
            {**os.environ, KEY_VARIABLE: worker_key},
            jobs.worker_died,
        )
        app = create_app(jobs, settings, DIALECTS, pages)
        _run(jobs, app, supervisor, listening)
    finally:
        jobs.close()


def _run(jobs: Jobs, app: FastAPI, supervisor: Supervisor, listening: socket) -> None:
    """Serve with all that runs beside the app, until a signal comes."""

    def drain() -> None:
        log.info("draining")
        with suppress(OSError):  # whoever read it may be gone
            print(STOPPING, flush=True)
        jobs.drain()
        supervisor.stop()
        app.state.ending.set()
        jobs.news.tell()

    serving = Serving(app, drain, supervisor.kill)
    send = partial(post, rule=app.state.settings.webhooks)
    sender = Sender(jobs, send, letters_of(DIALECTS))
    at_work = [
        Periodic("sweep", SWEEP_S, jobs.sweep),
        Periodic("webhooks", LOOK_S, sender.send_due),
        Periodic("silence", SILENCE_S, lambda: supervisor.replace_silent(jobs.silent_workers())),
    ]
    app.state.restarting = supervisor.waiting
    jobs.recover()
    threading.Thread(target=_warm, args=(jobs,), name="warm-up", daemon=True).start()
    supervisor.start()
    for work in at_work:
        work.start()
    examination = threading.Timer(EXAMINE_S, app.state.machine.of, ("auto",))
    examination.daemon = True
    examination.start()
    try:
        serving.serve_on(listening)
    finally:
        examination.cancel()
        supervisor.kill()
        for work in at_work:
            work.stop(TIMEOUT_S)
        app.state.intake.close()


def _warm(jobs: Jobs) -> None:
    """Make a plan, so that the first request does not wait for what planning loads."""
    try:
        jobs.plan(LOCAL, JobRequest(request={"prompt": "a"}))
    except Exception as error:
        log.warning("the default model cannot be planned", extra=told(error=str(error)))
    gc.collect()
    gc.freeze()  # what is loaded stays, and is looked through no more
    gc.set_threshold(*COLLECT)


def settings_of(values: Mapping[str, Any], worker_key: str) -> ServerSettings:
    """Return the settings that the options give. Raises RequestError for keys that cannot be used."""
    keys = [*values["keys"], *_keys_of(values["key_file"])]
    for key in keys:
        if len(key) < MIN_KEY:
            raise RequestError(f"key has {len(key)} letters; give one of {MIN_KEY} or more", field="key")
    more = {} if values["max_upload"] is None else {"max_upload_bytes": values["max_upload"] * MIB}
    return ServerSettings(
        host=values["host"],
        port=values["port"],
        hosts=tuple(values["hosts"]),
        origins=tuple(origin.rstrip("/") for origin in values["origins"]),
        keys=frozenset(map(digest, keys)),
        worker_keys=frozenset({digest(worker_key)}),
        fetch=FetchRule.parse(values["fetch"]),
        webhooks=FetchRule.parse(values["webhooks"]),
        calls_per_minute=values["max_calls"],
        **more,
    )


def limits_of(values: Mapping[str, Any]) -> Limits:
    """Return the limits of the jobs that the options give; the usual ones where they give none."""
    asked = {
        "max_queued": values["max_queued"],
        "max_queued_per_owner": values["max_queued"],
        "max_duration_s": values["max_duration"],
        "max_train_steps": values["max_train_steps"],
        "quota_s": values["quota"],
        "keep_results_s": None if values["keep_days"] is None else values["keep_days"] * DAY_S,
        "keep_bytes": None if values["keep_gb"] is None else int(values["keep_gb"] * GB),
    }
    return Limits(**{name: value for name, value in asked.items() if value is not None})


def _keys_of(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "it is no text"
        raise RequestError(f"key-file is {path}, which cannot be read ({told})", field="key_file") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise RequestError(f"key-file is {path}, which holds no key; write one on a line", field="key_file")
    return keys


def check_exposed(settings: ServerSettings, jobs: Jobs) -> None:
    """Raise RequestError where other machines would reach a server that asks for no key."""
    if not settings.is_loopback and not settings.keys and not jobs.has_keys():
        raise RequestError(
            f"host is {settings.host}, which other machines reach, and there is no key; make one with "
            "`soundstage keys new NAME`, or give --key-file",
            field="host",
        )


def worker_devices(values: Mapping[str, Any]) -> list[str]:
    """Return the device of each worker that the server starts. Raises RequestError for fewer than none."""
    devices: Sequence[str] = values["devices"] or ("auto",)
    count = 1 if values["workers"] is None else values["workers"]
    if count < 0:
        raise RequestError(f"workers is {count}; give 0 or more", field="workers")
    return [device for device in devices for _ in range(count)]


def worker_command(url: str, data: Path, device: str) -> list[str]:
    """Return the command of a worker."""
    return [sys.executable, "-m", PROGRAM, "worker", "--server", url, "--data", str(data), "--device", device]


def greeting(url: str, models: Sequence[str], data: Path, *, keyed: bool) -> str:
    """Return what is printed when the server listens. keyed: it asks for a key, which the examples send."""
    key = ' -H "Authorization: Bearer $SOUNDSTAGE_KEY"' if keyed else ""
    asks = "It asks for a key; set SOUNDSTAGE_KEY to one in that terminal first.\n" if keyed else ""
    return f"""\
Soundstage serves {", ".join(models)} on {url}
Open that in a browser, or call it from another terminal:
    curl {url}/v1/jobs{key} --json '{{"request": {{"prompt": "A red ball bounces."}}}}'
    curl {url}/v1/jobs{key}                           # how far it is
    curl -f {url}/v1/jobs/ID/content{key} -o ball.mp4    # the clip, when it is done
{asks}Jobs and files are in {data}. Ctrl-C ends the server, and nothing finished is lost."""
