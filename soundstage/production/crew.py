"""The workers of a production: engines in this process, or one process for each device.

    crew.free(), crew.begin(worker, order), crew.message() -> (worker, message), crew.close()

An engine of this process works while a message is waited for, so one device needs neither threads nor another
process. Of several devices each has a process of its own: their Python code does not wait for each
other's, and one that dies costs its own take alone, which goes on from its checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from soundstage.errors import SoundstageError, shown
from soundstage.production.orders import Message, TakeOrder, carried_out, error_message

if TYPE_CHECKING:
    from soundstage.engine import Engine

COMMAND = (sys.executable, "-m", "soundstage.production.crew_process")
END_S = 20.0  # for a process to keep where it stands
MOST_DEATHS = 3  # of a worker's process in a row, without a take that was made


class Crew(Protocol):
    """Workers that carry out orders."""

    @property
    def names(self) -> Sequence[str]: ...

    def free(self) -> list[str]: ...

    def begin(self, worker: str, order: TakeOrder) -> None: ...

    def message(self) -> tuple[str, Message]: ...

    def close(self) -> None: ...


class OwnCrew:
    """Engines in this process, which take turns event by event. engines: by the worker's name."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.names = list(engines)
        self._engines = dict(engines)
        self._runs: dict[str, Iterator[Message]] = {}

    def free(self) -> list[str]:
        """Return the workers that have nothing to do."""
        return [name for name in self.names if name not in self._runs]

    def begin(self, worker: str, order: TakeOrder) -> None:
        """Give a free worker an order."""
        self._runs[worker] = carried_out(self._engines[worker], order)

    def message(self) -> tuple[str, Message]:
        """Work until there is a message. Of one that failed it is "failed", with the error's words."""
        worker = next(iter(self._runs))
        run = self._runs.pop(worker)
        self._runs[worker] = run  # behind the others
        try:
            message = next(run)
        except (SoundstageError, OSError, MemoryError) as error:
            message = error_message(error)
        except BaseException:
            self._end(worker)
            raise
        if message["kind"] in ("done", "failed"):
            self._end(worker)
        return worker, message

    def close(self) -> None:
        """Stop all work; takes under way are kept where they stand."""
        for worker in list(self._runs):
            self._end(worker)

    def _end(self, worker: str) -> None:
        run = self._runs.pop(worker)
        with closing(run):  # type: ignore[type-var]
            pass


class ProcessCrew:
    """A process for each device. options: those of `ss.load` besides the device, JSON-ready.

    A process that dies is started again, and its order with it.
    """

    def __init__(self, devices: Sequence[str], model: str | list[str], options: Mapping[str, Any]) -> None:
        self.names = [
            f"{device} #{n}" if devices.count(device) > 1 else device for n, device in enumerate(devices, 1)
        ]
        self._messages: SimpleQueue[tuple[str, int, Message | None]] = SimpleQueue()
        told = {name: {"model": model, "options": {**options, "device": device}}
                for name, device in zip(self.names, devices, strict=True)}  # fmt: skip
        self._workers = {name: _Worker(name, told[name], self._messages) for name in self.names}

    def free(self) -> list[str]:
        return [name for name, worker in self._workers.items() if worker.order is None]

    def begin(self, worker: str, order: TakeOrder) -> None:
        self._workers[worker].begin(order)

    def message(self) -> tuple[str, Message]:
        """Wait for a message of any worker. A process that ended without a word is told as a notice."""
        while True:
            name, number, message = self._messages.get()
            worker = self._workers[name]
            if number != worker.number or worker.order is None:
                continue  # of a process that was replaced
            if message is None:
                return name, worker.died()
            if message["kind"] in ("done", "failed"):
                worker.order, worker.deaths = None, 0
            return name, message

    def close(self) -> None:
        """Let all processes keep where they stand and end; one that takes too long is killed."""
        for worker in self._workers.values():
            worker.ask_to_end()
        for worker in self._workers.values():
            worker.wait()


class _Worker:
    """One process. number: how many there were of this worker. order: what it works on."""

    def __init__(self, name: str, told: Mapping[str, Any], messages: SimpleQueue[Any]) -> None:
        self.name, self.number, self.deaths = name, 0, 0
        self.order: TakeOrder | None = None
        self._told, self._messages = told, messages
        self._process: subprocess.Popen[str] | None = None

    def begin(self, order: TakeOrder) -> None:
        self.order = order
        if self._process is None or self._process.poll() is not None:
            self._start()
        with suppress(OSError):  # it has died, which its reader tells
            self._say(vars(order))

    def died(self) -> Message:
        """Start the process again with its order, and return what is told; too many deaths fail the order."""
        assert self.order is not None
        assert self._process is not None
        code, self.deaths = _ended(self._process), self.deaths + 1
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if self.deaths >= MOST_DEATHS:
            step, self.order, self.deaths = self.order.step, None, 0
            text = f"the process of {self.name} ended {MOST_DEATHS} times with {how} while it made {step}"
            return {"kind": "failed", "error": "RuntimeError", "text": text, "field": None}
        self.begin(self.order)
        return {"kind": "notice", "text": f"the process of {self.name} ended with {how}; it is started again"}

    def ask_to_end(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def wait(self) -> None:
        if self._process is not None:
            _ended(self._process)

    def _start(self) -> None:
        self.number += 1
        # Ctrl-C goes to this process alone, which lets the others end in order.
        apart: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {}
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",  # in the words of a library; a message has none to replace
            **apart,
        )
        self._say(self._told)
        reader = threading.Thread(
            target=_read, args=(self.name, self.number, self._process, self._messages), daemon=True
        )
        reader.start()

    def _say(self, data: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(data) + "\n")
        self._process.stdin.flush()


def _ended(process: subprocess.Popen[str]) -> int:
    """Return the exit code of a process that ends; one that takes too long is killed."""
    try:
        return process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _read(name: str, number: int, process: subprocess.Popen[str], messages: SimpleQueue[Any]) -> None:
    """Hand on the lines of a process, then None."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            message = json.loads(line)
        except ValueError:
            message = {"kind": "notice", "text": f"{name} said {shown(line)}"}
        messages.put((name, number, message))
    messages.put((name, number, None))
