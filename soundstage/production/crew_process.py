"""A worker's process: `python -m soundstage.production.crew_process`, started by crew.py.

The first line of standard input says which engine to load, each line after it is an order; messages go to
standard output, a line each. When standard input ends, because the production was stopped or killed, the take
under way is kept where it stands and the process ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from contextlib import closing
from queue import SimpleQueue
from typing import IO, Any

from soundstage.engine import Engine, load
from soundstage.errors import SoundstageError
from soundstage.production.orders import Message, TakeOrder, carried_out, error_message

END_S = 15.0  # after which a process that nobody listens to ends without keeping where it stands


def main() -> None:
    """Carry out orders until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no message
    orders: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    ending = threading.Event()
    asked = json.loads(sys.stdin.readline() or "null")
    threading.Thread(target=_listen, args=(orders, ending), daemon=True).start()
    engine: Engine | None = None
    while asked is not None and (data := orders.get()) is not None:
        try:
            engine = engine or load(asked["model"], **asked["options"])
            _carry_out(engine, TakeOrder(**data), told, ending)
        except Exception as error:
            if not isinstance(error, (SoundstageError, OSError, MemoryError)):
                traceback.print_exc()
            _say(told, error_message(error))


def _carry_out(engine: Engine, order: TakeOrder, told: IO[str], ending: threading.Event) -> None:
    with closing(carried_out(engine, order)) as messages:  # type: ignore[type-var]
        for message in messages:
            if ending.is_set():
                return
            _say(told, message)


def _say(told: IO[str], message: Message) -> None:
    try:
        print(json.dumps(message), file=told, flush=True)
    except BrokenPipeError:
        os._exit(0)


def _listen(orders: SimpleQueue[dict[str, Any] | None], ending: threading.Event) -> None:
    """Queue the orders as they come, and see to it that the process ends when nobody sends any more."""
    for line in sys.stdin:
        orders.put(json.loads(line))
    ending.set()
    orders.put(None)
    last = threading.Timer(END_S, os._exit, (0,))
    last.daemon = True
    last.start()


if __name__ == "__main__":
    main()
