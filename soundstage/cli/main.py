"""Run the `soundstage` command. Almost nothing is loaded before Ctrl-C is handled.

The program itself, with all its commands, is in program.py.
"""

from __future__ import annotations

from soundstage.cli.signals import DEBUG, Interrupts

TYPE_CHECKING = False  # type checkers take it for typing's
if TYPE_CHECKING:
    from typing import Any


def run() -> None:
    """Run the command line and end the process with its exit code."""
    interrupts = Interrupts()
    interrupts.install()

    import os
    import sys
    import threading
    import warnings

    from soundstage.cli import process

    process.open_missing_streams()
    process.make_streams_safe()
    # OpenMP's threads spin while they wait. With one of two cores busy elsewhere, the first vocoder call of a
    # 2 s clip took 22.7 s spinning and 0.5 s sleeping. Read once, when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.formatwarning = lambda message, *_, **__: f"soundstage: note: {message}\n"
    if not os.environ.get(DEBUG):  # what waits for a thread tells its failure
        threading.excepthook = lambda _: None

    from soundstage.cli import program

    code = program.call(sys.argv[1:], interrupts)
    interrupts.end()
    sys.exit(code)


def __getattr__(name: str) -> Any:
    """Return the program for `from soundstage.cli.main import app`, loaded when it is asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from soundstage.cli.program import app

    return app
