"""The command line as a process: signals at any time, closed and full streams, bare environments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from soundstage.cli.signals import Interrupts
from tests.limits import LONG_S, ended
from tests.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-c", "from soundstage.cli.main import run; run()"]
TINY = [
    sys.executable,
    "-c",
    "from soundstage.rendering import run; from tests.tiny_model import TinyParts;"
    "run.ModelParts = TinyParts;"
    "from soundstage.cli.main import run; run()",
]
SEVERAL = """
import sys
from soundstage.cli.main import run
for words in (["--help"], ["recipes"], ["models", "list"], ["generate", "--help"]):
    sys.argv[1:] = words
    try:
        run()
    except SystemExit as end:
        print("ended with", end.code or 0, flush=True)
"""
WATCHED = """
import sys
from soundstage.cli.main import run
from soundstage.cli.signals import Interrupts
install = Interrupts.install
def told(self):
    install(self)
    print("!", file=sys.stderr, flush=True)
Interrupts.install = told
run()
"""
BARE = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "SOUNDSTAGE_CONFIG": "off",
}


def shell(line: str, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which "$@" is the program with words."""
    return subprocess.run(
        ["bash", "-c", line, "-", *RUN, *words],
        cwd=ROOT,
        env=BARE | (env or {}),
        capture_output=True,
        text=True,
        timeout=LONG_S,
    )


@pytest.mark.parametrize(
    "words", [["recipes"], ["recipes", "--json"], ["models", "list"], ["generate", "--help"]], ids=" ".join
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_a_quiet_end(words: list[str], unbuffered: str) -> None:
    done = shell('"$@" | true; echo ${PIPESTATUS[0]}', *words, env={"PYTHONUNBUFFERED": unbuffered})
    assert done.stdout.strip() == "141"
    assert done.stderr.replace("your own: .yaml files in", "").count("\n") <= 1
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "words", [["--version"], ["recipes"], ["recipes", "--json"], ["--help"]], ids=" ".join
)
def test_a_full_disk_for_the_output_is_one_sentence(words: list[str]) -> None:
    done = shell('"$@" >/dev/full', *words)
    assert done.returncode == 2
    assert "soundstage: standard output: no space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_messages_that_cannot_be_written_change_nothing() -> None:
    for line in ('"$@" 2>&-', '"$@" <&- 2>&-', '"$@" 2>/dev/full' if Path("/dev/full").exists() else '"$@"'):
        done = shell(line, "recipes", "--json")
        assert done.returncode == 0
        assert json.loads(done.stdout)
        assert shell(line, "recepies").returncode == 2
    assert shell('"$@" >&- 2>&- <&-', "recipes").returncode == 0


def test_files_never_get_the_numbers_of_closed_streams(tmp_path: Path) -> None:
    """With standard error closed, the next file opened would be number 2, and take every message."""
    code = (
        "import os; from soundstage.cli import process; process.open_missing_streams();"
        f"number = os.open({str(tmp_path / 'film')!r}, os.O_CREAT | os.O_WRONLY);"
        f"print(number, file=open({str(tmp_path / 'number')!r}, 'w'))"
    )
    subprocess.run(
        ["bash", "-c", '"$@" >&- 2>&- <&-', "-", sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        timeout=LONG_S,
    )
    assert int((tmp_path / "number").read_text()) > 2


@pytest.mark.parametrize(
    "env",
    [
        {"COLUMNS": "1", "HOME": "/dev/null"},
        {"COLUMNS": "0", "TERM": "dumb"},
        {"COLUMNS": "many", "XDG_CONFIG_HOME": "/dev/null/a", "XDG_CACHE_HOME": "/dev/null/b"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    ],
    ids=str,
)
def test_odd_environments_are_enough(env: dict[str, str]) -> None:
    """Several commands in one process, as each would take as long to start."""
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL], cwd=ROOT, env=BARE | env, capture_output=True, timeout=LONG_S
    )
    *printed, rest = done.stdout.split(b"ended with 0\n")
    assert (done.returncode, rest) == (0, b""), done.stderr
    assert len(printed) == 4
    assert all(len(text) > 200 for text in printed)


def started(command: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """A command in a folder, which can be interrupted."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=BARE | {"SOUNDSTAGE_CACHE": "off", "SOUNDSTAGE_RENDERS": "off"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job, which the tests may be, passes on that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
def test_an_interrupt_after_the_entry_is_a_sentence(after_s: float, tmp_path: Path) -> None:
    """Counted from when the program takes signals; before it the interpreter itself has them."""
    words = ["generate", "A red ball bounces.", "--frames", "481"]
    process = started([sys.executable, "-c", WATCHED, *words], tmp_path)
    assert process.stderr is not None
    assert process.stderr.readline() == "!\n"
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    told = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert told.endswith("soundstage: interrupted; no partial file is left\n")
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_at_any_later_time_leaves_nothing(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    work = tmp_path / "work"
    work.mkdir()
    words = ["generate", "A red ball bounces.", "--model", str(model), "--steps", "1000", "-o", "a.mp4"]
    words += ["--seed", "1", "--no-hints"]
    for phase in ("load", "denoise"):
        process = started([*TINY, *words], work)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("tiny: 9 frames of 64x64")
        if phase == "load":
            time.sleep(0.2)
        else:
            assert any(line.startswith(phase) for line in process.stderr)
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
        assert process.wait(timeout=60) == 130, told
        assert told.endswith("soundstage: interrupted; no partial file is left\n")
        assert "Traceback" not in told
        assert list(work.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
@pytest.mark.parametrize("shown", ["load", "denoise"])
def test_control_c_in_a_terminal_leaves_it_as_it_was(shown: str, tmp_path: Path) -> None:
    """The bars go, the cursor is in sight again, and no preview is left."""
    import pty

    model, work = write_tiny_model(tmp_path / "tiny"), tmp_path / "work"
    work.mkdir()
    terminal, own = pty.openpty()
    words = [*TINY, "generate", "A red ball bounces.", "--model", str(model), "--steps", "200", "--preview"]
    env = BARE | {"SOUNDSTAGE_CACHE": "off", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        words, cwd=work, env=env, stdin=own, stdout=own, stderr=own, preexec_fn=_in_terminal
    )
    os.close(own)
    text = b""
    with suppress(OSError):  # the other end is closed
        while part := os.read(terminal, 65536):
            text += part
            if shown.encode() in text:
                shown = "\0"  # only once
                os.write(terminal, b"\x03")
    assert ended(process) == 130, text
    assert text.rstrip().endswith(b"soundstage: interrupted; no partial file is left")
    assert text.rfind(b"\x1b[?25h") > text.rfind(b"\x1b[?25l")
    assert list(work.iterdir()) == []


def _in_terminal() -> None:
    """Make standard input the terminal of a new session, whose Ctrl-C is a signal."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = (
        signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.getsignal(signal.SIGTERM),
        sys.unraisablehook,
    )
    try:
        Interrupts().install()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
        sys.unraisablehook = before[2]


def test_an_interrupt_that_a_destructor_swallows_comes_again() -> None:
    """An exception in __del__ goes no further; the work must end all the same."""
    code = """
import os, signal, time
from soundstage.cli.signals import Interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
interrupts = Interrupts(); interrupts.install(); interrupts.begin()
class Holder:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
try:
    Holder()
    time.sleep(5)
except KeyboardInterrupt:
    print("ended", interrupts.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LONG_S
    )
    assert done.stdout == "ended 130\n", done.stderr
    assert done.stderr == ""


def test_bytes_that_are_not_utf8_come_out_as_they_went_in(tmp_path: Path) -> None:
    name = os.fsdecode(b"f\xfcr.mp4")
    done = subprocess.run([*RUN, "show", name], cwd=tmp_path, env=BARE, capture_output=True, timeout=LONG_S)
    assert done.returncode == 2
    assert b"f\xfcr.mp4" in done.stderr
    told = json.loads(
        subprocess.run(
            [*RUN, "show", name, "--json"], cwd=tmp_path, env=BARE, capture_output=True, timeout=LONG_S
        ).stdout
    )
    assert name in told["error"]["message"]
