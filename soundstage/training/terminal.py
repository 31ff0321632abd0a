"""Run a trainer in a terminal: a line of losses now and then, and a signal to stop that loses no step."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from rich.console import Console

from soundstage.training.loop import LossFn, Trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def train_in_terminal(trainer: Trainer, loss_fn: LossFn) -> bool:
    """Train until the schedule is complete or a signal comes; return whether it is complete.

    A step in hand is finished and the state is saved before the return. Lines go to stderr.
    """
    console = Console(stderr=True)
    began, first, num_steps = time.monotonic(), trainer.step, trainer.schedule.steps
    with stop_signals() as stops, closing(trainer.run(loss_fn)) as events:
        for event in events:
            if event.row is not None:
                pace = (time.monotonic() - began) / (event.step - first)
                losses = " ".join(f"{name} {value:.4f}" for name, value in event.row.items())
                console.print(
                    f"{trainer.name} {event.step}/{num_steps} {losses} | {pace:.2f} s/step, "
                    f"{pace * (num_steps - event.step) / 60:.0f} min left"
                )
            if stops:
                break
    return trainer.complete


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the numbers of the signals that ask to stop, instead of being stopped by them."""
    stops: list[int] = []
    previous = {number: signal.signal(number, lambda n, _: stops.append(n)) for number in SIGNALS}
    try:
        yield stops
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
