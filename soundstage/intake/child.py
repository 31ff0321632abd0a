"""The process of a `Guard`: calls functions by their names, as the lines of its input ask, under limits.

python -m soundstage.intake.child MEMORY_BYTES
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

from soundstage.errors import MediaError, SoundstageError
from soundstage.intake.guard import error_words

MAX_OPEN_FILES = 128


def limit(memory_bytes: int) -> None:
    """Limit the memory, the open files and the writes of this process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    wanted = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, most in wanted.items():
        hard = resource.getrlimit(name)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (most, most))


def answered(question: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a call: its value, or its error in words."""
    module, _, name = question["function"].partition(":")
    try:
        return {"value": getattr(importlib.import_module(module), name)(*question["args"])}
    except SoundstageError as error:
        return error_words(error)
    except Exception as error:  # a library's: the file is to blame, or the limits
        return error_words(MediaError(f"the file cannot be read ({type(error).__name__}); is it complete?"))


def main() -> None:
    """Answer each line of the input by one line of the output, until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    limit(int(sys.argv[1]))
    for line in sys.stdin.buffer:
        answers.write(json.dumps(answered(json.loads(line))).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
