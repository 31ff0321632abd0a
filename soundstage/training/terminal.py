"""Run a trainer in a terminal: a line of losses now and then, and a signal to stop that loses no step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from rich.console import Console

from soundstage.training.batches import Batch
from soundstage.training.loop import StepDone, Trainer
from soundstage.training.steps import GradientSteps

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def train_in_terminal(
    trainer: Trainer, batches: Iterator[Batch], steps: GradientSteps, saved: Callable[[], None] = lambda: None
) -> bool:
    """Train until the schedule is complete or a signal comes; return whether it is complete.

    A step in hand is finished and the state is saved before the return. Lines go to stderr. saved: see
    `Trainer.run`.
    """
    with stop_signals() as stops, closing(trainer.run(batches, steps, saved)) as events:
        for event in events:
            if event.row is not None:
                say(_line(trainer, event))
            if stops:
                break
    return trainer.complete


def say(line: str) -> None:
    """Print a line to stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(line)


def _line(trainer: Trainer, event: StepDone) -> str:
    losses = " ".join(f"{name} {value:.4f}" for name, value in (event.row or {}).items())
    pace = event.pace
    return (
        f"{trainer.name} {event.step} {trainer.progress:.0%} {losses} | {pace.step_s:.3g} s/step, "
        f"{pace.waiting:.0%} waiting for data, {pace.samples} samples"
    )


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
