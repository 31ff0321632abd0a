"""Tests and the package wait for nothing without a limit, but where a reason stands below."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.house import PACKAGE, ROOT

# Files of the package that wait until something else has ended: why that comes.
MEANT = {
    "intake/guard.py": "the process was killed",
    "jobs/news.py": "the context around it has the limit",
    "jobs/reporting.py": "its thread ends after the call in hand, which the transport limits",
    "memory/lanes.py": "a lane comes to all its events, whatever its work raises",
    "memory/stream.py": "the same",
    "production/crew.py": "the process was killed",
    "rendering/handle.py": "a clip may take hours; its thread tells the end, whatever the run raises",
    "rendering/screen.py": "its thread looks at the end several times a second",
    "rendering/turns.py": "the run before gives its turn back, whatever it raises",
    "server/supervisor.py": "a worker lives for weeks; the server ends it, or kills it where it hangs",
    "training/workers.py": "the process that trains may work for days; the others end with it",
}


def endless(source: str) -> list[int]:
    """Return the lines that wait for a thread, process or event without a limit."""
    found: list[int] = []
    if not re.search(r"\.(join|wait)\(\)|\.communicate\(|subprocess\.run\(", source):  # parsing takes longer
        return found
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        limited = any(word.arg in ("timeout", None) for word in node.keywords)
        plain = name in ("join", "wait") and not node.args
        process = name == "communicate" or (owner, name) == ("subprocess", "run")
        if (plain or process) and not limited:
            found.append(node.lineno)
    return found


def waits(folder: Path) -> dict[str, list[int]]:
    """Return such lines of a folder's files, by file; those without one are left out."""
    found = {path.relative_to(folder).as_posix(): endless(path.read_text()) for path in folder.rglob("*.py")}
    return {file: lines for file, lines in found.items() if lines}


def test_no_test_waits_without_a_limit() -> None:
    assert waits(ROOT / "tests") == {}


def test_the_package_waits_without_a_limit_only_where_a_reason_is_given() -> None:
    assert waits(PACKAGE).keys() == MEANT.keys()
