"""Workers of a production that are processes: orders go out at once; one that dies goes on with its order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from soundstage.production import crew as crews
from soundstage.production.crew import ProcessCrew
from soundstage.production.orders import TakeOrder

# A worker that makes nothing. It ends before an order "dies" is done, the first time or always.
STUB = """
import json, os, sys
asked = json.loads(sys.stdin.readline())
for line in sys.stdin:
    order = json.loads(line)
    print(json.dumps({"kind": "progress", "fraction": 0.5, "phase": asked["options"]["device"]}), flush=True)
    if order["step"] == "dies" and not os.path.exists(order["output"]):
        if order["mark"] == "once":
            open(order["output"], "w").close()
        os._exit(9)
    print("no message", flush=True)
    print(json.dumps({"kind": "done", "facts": {"step": order["step"]}}), flush=True)
"""


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessCrew]:
    monkeypatch.setattr(crews, "COMMAND", (sys.executable, "-S", "-c", STUB))
    made = ProcessCrew(["cpu", "cpu"], "nano", {"dtype": None})
    yield made
    made.close()


def order(step: str, mark: str = "m", output: str = "") -> TakeOrder:
    return TakeOrder(step, mark, {"prompt": "A ball."}, output)


def test_both_workers_have_work_and_are_free_when_it_is_done(crew: ProcessCrew) -> None:
    assert crew.free() == ["cpu #1", "cpu #2"]
    crew.begin("cpu #1", order("one"))
    crew.begin("cpu #2", order("two"))
    assert crew.free() == []
    found = [crew.message() for _ in range(6)]
    for worker, step in (("cpu #1", "one"), ("cpu #2", "two")):
        progress, noise, done = (message for name, message in found if name == worker)
        assert progress == {"kind": "progress", "fraction": 0.5, "phase": "cpu"}
        assert noise["text"].startswith(f"{worker} said 'no message")
        assert done == {"kind": "done", "facts": {"step": step}}
    assert crew.free() == ["cpu #1", "cpu #2"]


def test_a_process_that_dies_is_started_again_with_its_order(crew: ProcessCrew, tmp_path: Path) -> None:
    crew.begin("cpu #1", order("dies", "once", str(tmp_path / "died")))
    found = [crew.message()[1] for _ in range(5)]
    assert [message["kind"] for message in found] == ["progress", "notice", "progress", "notice", "done"]
    assert found[1]["text"] == "the process of cpu #1 ended with exit code 9; it is started again"


def test_an_order_that_kills_its_process_each_time_fails(crew: ProcessCrew, tmp_path: Path) -> None:
    crew.begin("cpu #1", order("dies", "always", str(tmp_path / "never")))
    found = [crew.message()[1] for _ in range(6)]
    assert [message["kind"] for message in found] == ["progress", "notice"] * 2 + ["progress", "failed"]
    assert found[-1]["text"] == "the process of cpu #1 ended 3 times with exit code 9 while it made dies"
    assert crew.free() == ["cpu #1", "cpu #2"]
