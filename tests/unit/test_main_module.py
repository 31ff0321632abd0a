"""`python -m soundstage` is the command line."""

import subprocess
import sys

import soundstage
from tests.limits import LONG_S


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "soundstage", "--version"], capture_output=True, text=True, timeout=LONG_S
    )
    assert (done.returncode, done.stdout.strip()) == (0, soundstage.__version__)
    refused = subprocess.run(
        [sys.executable, "-m", "soundstage", "paint"], capture_output=True, text=True, timeout=LONG_S
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("soundstage: soundstage has no command 'paint'; the commands are ")
