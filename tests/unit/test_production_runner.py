"""Shots are made, and of a changed film only what was changed is made again: on a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import soundstage as ss
from soundstage.engine import Engine
from soundstage.errors import SoundstageError
from soundstage.library.model_files import find_model
from soundstage.planning.seeds import retry_seed
from soundstage.production.board import Board, BoardRow
from soundstage.production.crew import OwnCrew
from soundstage.production.folder import FilmFolder
from soundstage.production.journal import FINISHED, Journal
from soundstage.production.orders import carried_out
from soundstage.production.runner import Picked, Production, Wishes
from soundstage.production.takes import FilmShot, Takes
from soundstage.review.record import Asked
from tests.tiny_model import QuickSound, write_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("production") / "tiny"))
    return Engine(model, parts=QuickSound(model, torch.device("cpu"), torch.float32))


def shot(number: int, prompt: str, *, after: str | None = None, picture: str | None = None) -> FilmShot:
    """Return a shot whose seed is its number times 100; one after another goes on from its clip."""

    def fill(clips: Any, folder: Path) -> ss.Request:
        if after is None:
            return ss.Request(prompt=prompt, num_frames=9, steps=2, size=(32, 32))
        source = ss.Source(video=str(clips[after]), extend_after_s=0.3)
        return ss.Request(prompt=prompt, steps=2, source=source)

    needs = () if after is None else (after,)
    return FilmShot(f"s{number}", number, prompt, 100 * number, fill, needs, picture, Asked())


class Film:
    """A film in a folder, produced again and again. made: steps that were made by the last call."""

    def __init__(self, root: Path, engine: Engine) -> None:
        self.folder, self.engine = FilmFolder(root), engine
        self.events: list[dict[str, Any]] = []
        self.made: list[str] = []

    def produce(
        self,
        shots: Sequence[FilmShot],
        review: Callable[[Path, Any], dict[str, Any]] | None = None,
        **wishes: Any,
    ) -> dict[str, Picked]:
        self.events = []
        with self.folder.opened() as journal:
            before = len(journal.entries)
            takes = Takes(self.folder, journal, self.engine.model, {}, every_s=0.0, previews=False)
            crew = OwnCrew({"cpu": self.engine})
            try:
                return Production(
                    shots, takes, self.folder, journal, crew, Wishes(**wishes), self.events.append, review
                ).run()
            finally:
                crew.close()
                new = journal.entries[before:]
                self.made = [e.step for e in new if e.event == "done" and e.files]

    def states(self, shot: str) -> list[str]:
        return [e["state"] for e in self.events if e.get("shot") == shot and "state" in e]


@pytest.fixture
def film(tmp_path: Path, tiny: Engine) -> Film:
    return Film(tmp_path / "film.produced", tiny)


def latents(picked: dict[str, Picked]) -> dict[str, Any]:
    return {name: one.entry.facts["latents_sha256"] for name, one in picked.items()}


SHOTS = (
    shot(1, "A ball."),
    shot(2, "A cube. Rain is heard.", picture="A cube."),
    shot(3, "A ball rolls.", after="s1"),
)


def test_only_what_was_changed_is_made_again_down_to_sound_alone(film: Film) -> None:
    first = latents(film.produce(SHOTS))
    assert film.made == ["take s1/100", "take s2/200", "take s3/300"]
    assert latents(film.produce(SHOTS)) == first
    assert film.made == []

    sound = film.produce((SHOTS[0], shot(2, "A cube. Wind is heard.", picture="A cube."), SHOTS[2]))
    assert film.made == ["take s2/200"]
    assert film.states("s2") == ["queued", "sound", "made", "done"]
    assert [e["changed"] for e in film.events if "changed" in e] == [["prompt"]]
    made = ss.Clip.open(film.folder.path(sound["s2"].take.clip))
    kept = ss.Clip.open(film.folder.path(sound["s2"].entry.facts["base"]))
    assert made.frames is not None
    assert kept.frames is not None
    assert (made.frames == kept.frames).all()
    assert made.request.prompt == "A cube. Wind is heard."
    assert sound["s2"].entry.facts["latents_sha256"]["audio"] != first["s2"]["audio"]

    assert latents(film.produce(SHOTS)) == first  # the earlier take is there still
    assert film.made == []

    changed = latents(film.produce((shot(1, "A star."), *SHOTS[1:])))
    assert film.made == ["take s1/100", "take s3/300"]
    assert changed["s2"] == first["s2"]
    assert changed["s1"] != first["s1"]
    assert changed["s3"] != first["s3"]


def test_takes_are_counted_up_picked_and_remembered(film: Film) -> None:
    only = film.produce(SHOTS[::2], takes=2, only=["s1"])
    assert film.made == ["take s1/100", "take s1/101"]
    assert only["s1"].take.seed == 100
    assert set(only) == {"s1"}
    film.folder.pick("s1", 101)
    picked = film.produce(SHOTS[::2])
    assert film.made == ["take s3/300"]
    assert picked["s1"].take.seed == 101
    assert [one[0].seed for one in picked["s1"].candidates] == [100, 101]
    source = picked["s3"].take.request.source
    assert source is not None
    assert str(source.video).endswith("take-101.mp4")


def reviewer(scores: dict[str, float]) -> Callable[[Path, Any], dict[str, Any]]:
    """Return a reviewer that gives scores by the names of files, and finds nothing in others."""

    def review(path: Path, asked: Any) -> dict[str, Any]:
        score = scores.get(path.name, 1.0)
        faults = [] if score == 1.0 else [{"check": "still", "why": "nothing moves"}]
        return {"score": score, "faults": faults, "measures": {}, "notices": []}

    return review


def test_takes_with_faults_are_made_again_with_the_seeds_of_retries_and_the_best_is_used(film: Film) -> None:
    first, second = retry_seed(100, 1), retry_seed(100, 2)
    review = reviewer({"take-100.mp4": 0.4, f"take-{first}.mp4": 0.8, f"take-{second}.mp4": 0.6})
    picked = film.produce(SHOTS[:2], review, retries=2)
    assert film.made == ["take s1/100", f"take s1/{first}", f"take s1/{second}", "take s2/200"]
    assert picked["s1"].take.seed == first
    assert picked["s1"].review is not None
    assert picked["s1"].review["faults"][0]["why"] == "nothing moves"
    assert [e["seed"] for e in film.events if e["event"] == "retry"] == [first, second]
    assert film.produce(SHOTS[:2], review)["s1"].take.seed == first
    assert film.made == []


def test_no_take_is_made_for_a_fault_while_one_that_is_there_or_asked_for_has_none(film: Film) -> None:
    """Takes made before retries had seeds of their own lie beside the first, and are still looked at."""
    review = reviewer({"take-100.mp4": 0.4})
    picked = film.produce(SHOTS[:1], review, takes=2, retries=1)
    assert film.made == ["take s1/100", "take s1/101"]
    assert picked["s1"].take.seed == 101
    picked = film.produce(SHOTS[:1], review, retries=1)
    assert (picked["s1"].take.seed, film.made) == (101, [])
    assert not [e for e in film.events if e["event"] == "retry"]


def test_a_shot_that_was_not_asked_for_is_in_the_film_with_its_faults(film: Film) -> None:
    review = reviewer({"take-200.mp4": 0.4})
    film.produce(SHOTS[:2], review)
    picked = film.produce(SHOTS[:2], review, only=["s1"], retries=1)
    assert (set(picked), film.made) == ({"s1", "s2"}, [])


def test_a_shot_that_fails_keeps_none_from_being_made_but_those_that_need_it(film: Film) -> None:
    def fails(clips: Any, folder: Path) -> ss.Request:
        raise ss.RequestError("the prompt is wrong")

    shots = (replace(SHOTS[0], fill=fails), SHOTS[1], SHOTS[2])
    with pytest.raises(
        SoundstageError, match=r"shot 1 \(s1\) could not be made: the prompt is wrong; what is done"
    ):
        film.produce(shots)
    assert film.made == ["take s2/200"]
    assert film.states("s3") == ["blocked"]
    film.produce(SHOTS)
    assert film.made == ["take s1/100", "take s3/300"]


def test_a_clip_that_was_written_before_a_kill_is_believed_and_one_that_was_changed_is_not(
    film: Film, tiny: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with film.folder.opened() as journal:
        takes = Takes(film.folder, journal, tiny.model, {}, previews=False)
        take = takes.take(SHOTS[0], 100, SHOTS[0].fill({}, film.folder.root))
        assert [message["kind"] for message in carried_out(tiny, takes.order(take))][-1] == "done"
    picked = film.produce(SHOTS[:1])
    assert film.made == []
    assert picked["s1"].entry.event == "found"
    assert picked["s1"].entry.facts["latents_sha256"].keys() == {"video", "audio"}
    clip = film.folder.path(picked["s1"].take.clip)
    clip.write_bytes(clip.read_bytes()[:1000])
    film.produce(SHOTS[:1])
    assert film.made == ["take s1/100"]
    (queued,) = (e for e in film.events if e.get("state") == "queued")
    assert (queued["damaged"], queued["changed"]) == (True, [])
    said: list[str] = []
    board = Board(quiet=True)
    board.rows = {"s1": BoardRow(1, "a")}
    monkeypatch.setattr(board, "_say_of", lambda shot, text: said.append(f"{shot} {text}"))
    board.heed(queued)
    assert said == ["s1 has a take that is not as it was written and is made again"]


def test_a_full_disk_ends_the_work_with_its_own_sentence(film: Film, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise ss.MediaError("cannot write a.mp4: the disk is full (No space left on device); make room")

    with monkeypatch.context() as patch:
        patch.setattr(ss.Clip, "save", full)
        with pytest.raises(ss.MediaError, match="the disk is full"):
            film.produce(SHOTS[:2])
    assert film.made == []
    film.produce(SHOTS[:1])
    assert film.made == ["take s1/100"]
    assert [e["resumed"] for e in film.events if "resumed" in e] == ["decode"]


def test_a_shot_that_is_stopped_goes_on_from_its_step(film: Film, tiny: Engine) -> None:
    whole = latents(film.produce(SHOTS[:1]))
    other = Film(film.folder.root.with_name("other"), tiny)
    seen = 0

    class Stopped(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        nonlocal seen
        other.events.append(event)
        seen += event.get("phase") == "denoise"
        if seen == 2:
            raise Stopped

    with other.folder.opened() as journal:
        takes = Takes(other.folder, journal, tiny.model, {}, every_s=0.0, previews=False)
        crew = OwnCrew({"cpu": tiny})
        with pytest.raises(Stopped):
            Production(SHOTS[:1], takes, other.folder, journal, crew, Wishes(), stop).run()
        crew.close()
    assert latents(other.produce(SHOTS[:1])) == whole
    assert any("resumed" in event for event in other.events)
    with other.folder.opened() as journal:
        assert [entry.event for entry in journal.entries] == ["begun", "begun", "done"]
        assert [entry.event in FINISHED for entry in Journal(journal.path).entries] == [False, False, True]
    assert not any((other.folder.state / "checkpoints").iterdir())
