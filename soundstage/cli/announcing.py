"""Say what a clip will be and what it will cost, before anything slow is loaded.

    nano: 49 frames of 192x128 (2.04 s) with sound, 20 steps; about 0.7 GB of memory, about 9 s

The time is that of the last clip which the same model made here, scaled to this one; where none was made, no
time is given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from soundstage.cli.printing import rounded_time
from soundstage.cli.run_times import RunTimes
from soundstage.memory.machine import has_gpu_driver

if TYPE_CHECKING:
    from soundstage.planning.placement import Choice
    from soundstage.planning.plan import Plan
    from soundstage.rendering.screen import Screen

GB = 1e9
LOADING = "load PyTorch"


@contextmanager
def at_work(name: str, *, quiet: bool = False) -> Iterator[Callable[[float], None]]:
    """Show that something is done in this block, and for how long.

    Yields a function that shows the share that is done, from 0 to 1. It need not be called.
    """
    from soundstage.rendering.events import Detail
    from soundstage.rendering.screen import Screen

    detail = Detail(in_percent=True)

    def show(share: float) -> None:
        detail.done, detail.total = round(100 * share), 100

    with Screen(quiet=quiet) as screen:
        screen.begin(name, detail)
        yield show


def loading_pytorch() -> AbstractContextManager[object]:
    """Show that PyTorch is loaded in a block, unless it is already."""
    return nullcontext() if "torch" in sys.modules else at_work(LOADING)


@contextmanager
def asking_gpu(plan: Plan, *, quiet: bool) -> Iterator[None]:
    """Show a plan, and that PyTorch is loaded, where it is asked for a GPU's memory in this block."""
    if not has_gpu_driver() or "torch" in sys.modules:
        yield
        return
    from soundstage.rendering.screen import Screen

    with Screen(quiet=quiet) as screen:
        screen.say(plan.summary)
        screen.begin(LOADING)
        yield


def announce(plan: Plan, choice: Choice, times: RunTimes, screen: Screen) -> None:
    """Print what will be made and what it takes."""
    screen.say(f"{plan.summary}; {cost(choice, times.expected())}")
    if choice.residency.policy != "resident" or choice.weights not in ("full", "stored"):
        screen.say(f"memory {choice.reason}")


def cost(choice: Choice, seconds: float | None) -> str:
    """Return what a plan takes: memory, and time where it is known."""
    price = choice.price
    memory = f"{price.host_bytes / GB:.1f} GB of memory"
    if price.device_bytes:
        memory = f"{price.device_bytes / GB:.1f} GB of GPU memory"
    return f"about {memory}" + ("" if seconds is None else f", about {rounded_time(seconds)}")
