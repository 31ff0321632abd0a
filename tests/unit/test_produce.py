"""`soundstage produce` of a tiny model, killed: the same film, and no finished work is done again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from soundstage.cli.main import app
from soundstage.production.folder import FilmFolder
from soundstage.production.journal import Journal
from soundstage.production.manifest import read_manifest
from tests.producing import ROOT, Command, Commands
from tests.tiny_model import write_tiny_model

SCRIPT = """\
title: Three shots
format:
  {{model: "{model}", size: {size}, seconds: 0.375, request: {{steps: {steps}, guidance: 1, stg: 0,
    modality_guidance: 1}}}}
shots:
  - {{id: ball, action: A red ball bounces.}}
  - {{id: cube, action: A blue cube falls.}}
  - {{id: roll, action: A red ball rolls., continues: ball}}
"""
OPTIONS = ("--json", "--checkpoint-every", "0", "--no-review", "--no-previews")


class Film:
    """A film that is produced by processes. commands: starts them; None starts Python anew for each."""

    events: list[dict[str, Any]]

    def __init__(
        self,
        folder: Path,
        model: Path | str,
        commands: Commands | None,
        *,
        steps: int = 4,
        size: str = "64x64",  # x264 writes smaller pictures in one of two ways, now and then
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.script = folder / "film.yaml"
        self.script.write_text(SCRIPT.format(model=model, steps=steps, size=size))
        self.folder = FilmFolder(folder / "film.produced")
        self.commands = commands

    def start(self, *words: str) -> Command:
        assert self.commands is not None
        return self.commands.start(["produce", str(self.script), *OPTIONS, *words])

    def produce(self, *words: str) -> list[dict[str, Any]]:
        """Produce the film to its end, and return the events."""
        code, printed = self.start(*words).end()
        assert code == 0, printed[-2000:]
        self.events = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        return self.events

    def stop_after(self, seen: int, number: int, *, later_s: float = 0.0) -> tuple[int, str]:
        """Produce the film, and send the command a signal a moment after so many events; return its end."""
        command = self.start()
        for _ in range(seen):
            if not command.lines.readline():
                break
        threading.Event().wait(later_s)
        with contextlib.suppress(ProcessLookupError):  # it was done before
            os.kill(command.process, number)
        return command.end()

    def latents(self) -> dict[str, Any]:
        shots = read_manifest(self.folder.root)["shots"]
        return {shot["id"]: shot["takes"][0]["latents_sha256"] for shot in shots}

    def finished(self) -> Counter[tuple[str, str]]:
        """Return how often each step, by its mark, was entered as made or found."""
        entries = Journal(self.folder.state / "journal.jsonl").entries
        return Counter((e.step, e.mark) for e in entries if e.event in ("done", "found") and e.files)


def check_kills(film: Film, whole: Film, moments: Iterable[tuple[int, float]]) -> None:
    """Produce one film with kills, and see that it is the other and that nothing was done twice.

    moments: of each kill, the events before it and the seconds after them.
    """
    for seen, later_s in moments:
        film.stop_after(seen, signal.SIGKILL, later_s=later_s)
    film.produce()
    assert film.latents() == whole.latents()
    assert set(film.finished().values()) == {1}
    assert {step for step, _ in film.finished()} == {step for step, _ in whole.finished()}
    again = film.produce()
    states = {e["state"] for e in again if e["event"] in ("shot", "file") and "state" in e}
    assert states == {"kept", "done"}
    assert set(film.finished().values()) == {1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("produce") / "tiny")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    made = Commands(tmp_path_factory.mktemp("commands") / "pipe")
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, commands: Commands) -> Film:
    """A film that was never stopped."""
    film = Film(tmp_path_factory.mktemp("whole"), model, commands)
    film.produce()
    return film


def test_a_film_that_is_killed_and_goes_on_has_the_same_latents_and_nothing_is_made_twice(
    tmp_path: Path, model: Path, commands: Commands, whole: Film
) -> None:
    chance, num_events = random.Random(3), len(whole.events)
    moments = [(chance.randrange(2, num_events), 0.0) for _ in range(2)]
    check_kills(Film(tmp_path, model, commands), whole, moments)


def test_ctrl_c_says_how_to_go_on_and_a_second_command_is_refused(
    tmp_path: Path, model: Path, commands: Commands, whole: Film
) -> None:
    film = Film(tmp_path, model, commands)
    with film.folder.opened():
        code, printed = film.start().end()
    assert code == 2
    assert "is being produced by another command now" in json.loads(printed)["error"]["message"]
    code, printed = film.stop_after(8, signal.SIGINT)
    assert code == 130
    told = json.loads(printed.splitlines()[-1])["error"]["message"]
    assert told == "interrupted; what is done is kept; the same command goes on from there"
    before = dict(film.finished())
    film.produce()  # from inside a take, or behind one, wherever the signal came
    assert {step: film.finished()[step] for step in before} == before
    assert film.latents() == whole.latents()


def test_files_are_verified_and_a_shot_is_made_again_from_its_own_metadata(
    whole: Film, tmp_path: Path, commands: Commands
) -> None:
    root, run = whole.folder.root, CliRunner().invoke
    good = run(app, ["verify", str(root)])
    assert good.exit_code == 0, good.output
    assert "files are as they were written" in good.stdout
    clip = root / read_manifest(root)["shots"][2]["takes"][0]["clip"]
    assert run(app, ["verify", str(clip)]).exit_code == 0
    code, printed = commands.start(["rerun", str(clip), "-o", str(tmp_path / "again.mp4"), "--json"]).end()
    assert code == 0, printed
    (again,) = (json.loads(line) for line in printed.splitlines() if line.startswith("{"))
    assert again["latents_sha256"] == whole.latents()["roll"]
    copy = tmp_path / "moved"
    shutil.copytree(root, copy)
    (copy / "film.mp4").write_bytes(b"other")
    (copy / clip.relative_to(root)).unlink()
    bad = run(app, ["verify", str(copy)])
    assert bad.exit_code == 1
    assert "film.mp4 is not as it was written" in bad.stdout
    assert f"{clip.name} is not there" in bad.stdout
    nothing = run(app, ["verify", str(tmp_path)])
    assert nothing.exit_code == 2
    assert "has no manifest.json" in nothing.stderr


def test_a_take_is_picked_by_its_number(whole: Film, tmp_path: Path) -> None:
    shutil.copytree(whole.script.parent, tmp_path / "film")
    script, run = tmp_path / "film" / "film.yaml", CliRunner().invoke
    seed = read_manifest(whole.folder.root)["shots"][1]["picked"]
    picked = run(app, ["pick", str(script), "2", "1"])
    assert (picked.exit_code, FilmFolder.of_script(script).picks()) == (0, {"cube": seed})
    refused = run(app, ["pick", str(script), "2", "2"])
    assert refused.exit_code == 2
    assert "TAKE is 2, and shot 2 has 1 take;" in refused.stderr
    assert run(app, ["pick", str(script), "9", "1"]).exit_code == 2
    assert run(app, ["pick", str(script), "cube", "best"]).exit_code == 0
    assert FilmFolder.of_script(script).picks() == {}


@pytest.mark.slow
def test_two_workers_make_the_same_film(tmp_path: Path, model: Path, whole: Film) -> None:
    film = Film(tmp_path, model, None)
    words = ["produce", str(film.script), *OPTIONS, "--devices", "cpu,cpu"]
    told = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [sys.executable, "-m", "tests.producing", *words],
        cwd=ROOT, env=told, text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    events = [json.loads(line) for line in made.stdout.splitlines()]
    assert {event["worker"] for event in events if "worker" in event} == {"cpu #1", "cpu #2"}
    assert film.latents() == whole.latents()
    assert set(film.finished().values()) == {1}
