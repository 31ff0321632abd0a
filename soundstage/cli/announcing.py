"""Say what a clip will be and what it will cost, before anything slow is loaded.

    nano: 49 frames of 192x128 (2.04 s) with sound, 20 steps; about 0.7 GB of memory, about 9 s

The time is that of the last clip which the same model made here, scaled to this one; where none was made, no
time is given.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from soundstage.cli.run_times import RunTimes
from soundstage.memory.machine import has_gpu_driver

if TYPE_CHECKING:
    from soundstage.planning.placement import Choice
    from soundstage.planning.plan import Plan
    from soundstage.rendering.screen import Screen

GB = 1e9
LOADING = "load PyTorch"


@contextmanager
def at_work(name: str) -> Iterator[None]:
    """Show that something is done in this block, and for how long."""
    from soundstage.rendering.screen import Screen

    with Screen() as screen:
        screen.begin(name)
        yield


def loading_pytorch() -> AbstractContextManager[None]:
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
        screen.say(described(plan))
        screen.begin(LOADING)
        yield


def announce(plan: Plan, choice: Choice, times: RunTimes, screen: Screen) -> None:
    """Print what will be made and what it takes."""
    screen.say(f"{described(plan)}; {cost(choice, times.expected())}")
    if choice.residency.policy != "resident" or choice.weights not in ("full", "stored"):
        screen.say(f"memory {choice.reason}")


def described(plan: Plan) -> str:
    """Return what a plan makes, with which model and how many steps."""
    steps = " + ".join(str(pass_.num_steps) for pass_ in plan.passes)
    windows = f" in each of {len(plan.windows)} windows" if plan.windows else ""
    return f"{plan.model}: {_result(plan)}, {steps} steps{windows}"


def _result(plan: Plan) -> str:
    if "video" not in plan.modalities:
        return f"{plan.duration_s:.3g} s of sound"
    width, height = plan.shown_size or (plan.width, plan.height)
    frames = -(-plan.num_shown // plan.thin)
    sound = "with sound" if "audio" in plan.modalities else "without sound"
    return f"{frames} frames of {width}x{height} ({plan.duration_s:.3g} s) {sound}"


def cost(choice: Choice, seconds: float | None) -> str:
    """Return what a plan takes: memory, and time where it is known."""
    price = choice.price
    memory = f"{price.host_bytes / GB:.1f} GB of memory"
    if price.device_bytes:
        memory = f"{price.device_bytes / GB:.1f} GB of GPU memory"
    return f"about {memory}" + ("" if seconds is None else f", about {_spoken(seconds)}")


def _spoken(seconds: float) -> str:
    """Return "9 s", "4 min", "2.5 h"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
