"""The command line over tiny models in processes of their own, for tests that kill them.

    python -m tests.producing produce film.yaml ...    # the command
    python -m tests.producing crew                     # a worker's process of it
    python -m tests.producing serve                    # commands by the line, see `Commands`

A model's folder without a text encoder is given a stand-in, and sound is made without the vocoder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.limits import ended

ROOT = Path(__file__).parents[1]


@dataclass
class Command:
    """A command that runs. lines: its standard output."""

    process: int
    lines: IO[str]
    _commands: Commands

    def end(self) -> tuple[int, str]:
        """Wait for its end, and return its exit code, below 0 for a signal, and what it printed since."""
        rest = self.lines.read()
        self.lines.close()
        return int(self._commands.answer()), rest


class Commands:
    """Starts commands in forks of one process that has PyTorch loaded, which saves its seconds for each.

    pipe: a name for what they print. parts: "tiny" for stand-ins, "nano" for true parts.
    """

    def __init__(self, pipe: Path, parts: str = "tiny") -> None:
        self._pipe = pipe
        os.mkfifo(pipe)
        told = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.producing", "serve", parts],
            cwd=ROOT, env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, words: Sequence[str]) -> Command:
        assert self._server.stdin is not None
        print(
            json.dumps({"words": list(words), "pipe": str(self._pipe)}), file=self._server.stdin, flush=True
        )
        process = int(self.answer())
        return Command(process, self._pipe.open(), self)

    def answer(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        ended(self._server)


def serve() -> None:
    """Run each command that comes on standard input in a fork; print its process, then its exit code."""
    import soundstage.cli.produce
    import soundstage.production.producing
    import soundstage.rendering.run  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        process = os.fork()
        if process == 0:
            run(asked["words"], asked["pipe"])
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(words: list[str], pipe: str) -> None:
    """Run a command, with its standard output in a pipe, and end the process."""
    from soundstage.cli.main import run as run_program

    # A shell's background job, which the tests may be, passes on that interrupts are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    printed = os.open(pipe, os.O_WRONLY)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.argv[1:] = words
    code: Any = 1
    with contextlib.suppress(BaseException):
        try:
            run_program()
        except SystemExit as end:
            code = end.code
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 0)


def main() -> None:
    from soundstage.production import crew, crew_process
    from soundstage.rendering import run as rendering
    from tests.tiny_model import QuickSound

    if sys.argv[-1] != "nano":
        rendering.ModelParts = QuickSound  # type: ignore[misc]
    crew.COMMAND = (sys.executable, "-m", "tests.producing", "crew")
    if sys.argv[1:] == ["crew"]:
        crew_process.main()
    elif sys.argv[1:2] == ["serve"]:
        serve()
    else:
        from soundstage.cli.main import run as run_program

        run_program()


if __name__ == "__main__":
    main()
