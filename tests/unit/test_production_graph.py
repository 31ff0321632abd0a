"""The graph of a film's steps, its marks, and the journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from soundstage.errors import MediaError, RequestError
from soundstage.production.folder import FilmFolder, plain_name
from soundstage.production.graph import FilmStep, StepGraph, changes, mark_of
from soundstage.production.journal import Journal


def steps(**needs: str) -> StepGraph:
    return StepGraph(FilmStep(name, "take", None, tuple(words.split())) for name, words in needs.items())


def test_steps_come_after_what_they_need_and_begin_when_that_is_done() -> None:
    graph = steps(film="c b", c="a", b="", a="")
    assert [step.name for step in graph.ordered()] == ["a", "c", "b", "film"]
    assert [step.name for step in graph.ready(set(), set())] == ["a", "b"]
    assert [step.name for step in graph.ready({"a"}, {"b"})] == ["c"]
    assert graph.needed(["c"]) == {"a", "c"}
    assert graph.after("a") == {"c", "film"}


def test_circles_and_unknown_steps_are_refused_and_change_nothing() -> None:
    graph = steps(b="a", a="")
    with pytest.raises(RequestError, match="b needs a needs b: a circle"):
        graph.put(FilmStep("a", "take", None, ("b",)))
    with pytest.raises(RequestError, match="'c' needs 'd', which is no step"):
        graph.put(FilmStep("c", "take", None, ("d",)))
    assert [step.name for step in graph.ordered()] == ["a", "b"]
    graph.put(FilmStep("c", "take", None, ("b",)))
    assert graph.after("a") == {"b", "c"}


def test_a_mark_is_of_content_and_kind_and_not_of_the_order_of_fields() -> None:
    assert mark_of("take", {"a": 1, "b": [2]}) == mark_of("take", {"b": [2], "a": 1})
    assert mark_of("take", {"a": 1}) != mark_of("take", {"a": 2})
    assert mark_of("take", {"a": 1}) != mark_of("sound", {"a": 1})


def test_the_journal_keeps_what_was_done_and_leaves_out_a_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add("begun", "take 1/7", "m")
    journal.add("done", "take 1/7", "m", files={"a.mp4": {"sha256": "x"}}, facts={"seed": 7})
    path.write_bytes(path.read_bytes() + b'{"event": "done", "step": "take 2/8", "ma')
    again = Journal(path)
    assert [entry.event for entry in again.entries] == ["begun", "done"]
    assert again.finished("take 2/8", "m") is None
    again.add("done", "take 2/8", "n")
    last = Journal(path)
    assert last.finished("take 1/7", "m") is not None
    assert last.finished("take 1/7", "other") is None
    assert last.finished("take 2/8", "n") is not None
    assert last.latest("take 1/7").facts == {"seed": 7}  # type: ignore[union-attr]


def test_a_full_disk_is_named_and_the_journal_goes_on_with_a_whole_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add("done", "a", "m")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(MediaError, match=r"No space left on device.*the same command goes on"):
            journal.add("done", "b", "m")
    journal.add("done", "c", "m")
    assert Journal(journal.path).finished("c", "m") is not None


def test_a_film_is_produced_by_one_command_at_a_time(tmp_path: Path) -> None:
    folder = FilmFolder(tmp_path / "film.produced")
    with (
        folder.opened(),
        pytest.raises(RequestError, match="is being produced by another command now"),
        FilmFolder(folder.root).opened(),
    ):
        raise AssertionError
    with folder.opened() as journal:
        assert journal.entries == []


def test_files_are_known_by_content_and_replaced_takes_come_back(tmp_path: Path) -> None:
    folder = FilmFolder(tmp_path)
    name = folder.take("3", 7)
    assert name == "shots/3/take-7.mp4"
    path = folder.path(name)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    known = folder.measured(name)
    path.touch()
    assert folder.holds(name, known)
    assert folder.put_aside(name, "mark-of-the-first") == "shots/3/earlier/take-7-mark-of-.mp4"
    path.unlink()
    path.write_bytes(b"other")
    assert not folder.holds(name, known)
    assert folder.bring_back(name, "mark-of-the-first", known)
    assert path.read_bytes() == b"first"
    assert not folder.bring_back(name, "another", known)


def test_picks_are_kept_and_forgotten_and_a_damaged_file_is_told(tmp_path: Path) -> None:
    folder = FilmFolder(tmp_path)
    folder.pick("3", 7)
    folder.pick("4", 8)
    folder.pick("3", None)
    assert folder.picks() == {"4": 8}
    (tmp_path / "picks.json").write_text(json.dumps({"4": "eight"}))
    with pytest.raises(MediaError, match="holds no picks"):
        folder.picks()


def test_ids_are_names_of_folders() -> None:
    assert [plain_name(text) for text in ("3", "the door/window", "..", "3b")] == [
        "3",
        "the-door-window",
        "shot",
        "3b",
    ]


def test_changes_name_the_places_that_differ() -> None:
    assert changes({"request": {"prompt": "a", "seed": 1}}, {"request": {"prompt": "b", "seed": 1}}) == [
        "request.prompt"
    ]
    assert changes({"a": [1]}, {"a": [1], "b": 2}) == ["b"]
