"""Folders of takes: refused in one sentence, believed by content, shared, kept unasked after some work."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from soundstage.cli.spelling import Spoken
from soundstage.engine import Engine
from soundstage.errors import MediaError, RequestError, SoundstageError, WeightsError
from soundstage.library.model_files import find_model
from soundstage.media.clip_pieces import ClipPieces
from soundstage.media.formats import output
from soundstage.media.write import write_sound
from soundstage.rendering import window_store as folders
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Done, Notice, Phase, Step
from soundstage.rendering.own_folders import TAKES
from soundstage.rendering.provenance import differences
from soundstage.rendering.window_store import MANIFEST, WindowStore
from soundstage.request.inputs import Audio, Lora
from soundstage.request.request import Request
from soundstage.request.take import Take
from tests.limits import joined
from tests.tiny_model import HEADS, VIDEO_HEAD, QuickSound, write_tiny_model

FACTS = {"request": {"seed": 5, "prompt": "a"}, "device": "cpu"}
LATENTS = {"p.video": torch.arange(6.0).reshape(1, 6), "p.audio": torch.ones(2, 3, dtype=torch.bfloat16)}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program keeps folders of its own; windows go there at once."""
    monkeypatch.setenv("SOUNDSTAGE_TAKES", str(tmp_path / "own"))
    monkeypatch.setattr(folders, "KEEP_AFTER_S", 0.0)
    return tmp_path / "own"


# --- what will not do is refused ----------------------------------------------------------------------


def test_a_folder_that_is_a_file_or_lies_in_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "take"):
        with pytest.raises(RequestError, match=r"which is a file or lies in one; give a folder") as error:
            WindowStore(path, FACTS)
        assert error.value.field == "take"
        assert str(path) in str(error.value)


@pytest.mark.parametrize("where", ["mkdir", "write"])
def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    if where == "mkdir":
        monkeypatch.setattr(Path, "mkdir", refuse)
    else:
        WindowStore(tmp_path / "take", FACTS)
        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(RequestError, match=r"cannot be written \(Permission denied\); give another folder"):
        WindowStore(tmp_path / "take", FACTS)


def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(RequestError, match=r"take\.folder is"):
            WindowStore(tmp_path / name, FACTS)


def test_a_disk_without_room_for_the_windows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 3_000_000))
    WindowStore(tmp_path / "take", FACTS, num_bytes=2_000_000)
    with pytest.raises(RequestError, match="where 3 MB are free and the windows take 5 MB; make room"):
        WindowStore(tmp_path / "take", FACTS, num_bytes=5_000_000)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"request": {"seed": 6, "prompt": "a"}}, "seed is 6, there it is 5"),
        ({"request": {"seed": 5, "prompt": "b"}, "device": "cuda"}, "prompt is b, there it is a"),
        ({"device": "cuda"}, "device is cuda, there it is cpu"),
        (
            {"request": {"seed": 5, "prompt": "a", "guides": [{"at": 1.0}]}},
            r"guides\[0\]\.at is 1\.0, there it is not",
        ),
        ({"files": {"a.safetensors": "0"}}, "the model's file a.safetensors is another"),
    ],
)
def test_what_differs_from_the_take_that_is_there_is_told(tmp_path: Path, change: Any, told: str) -> None:
    WindowStore(tmp_path / "take", FACTS)
    with pytest.raises(RequestError, match=rf"take holds the windows of another take: {told}"):
        WindowStore(tmp_path / "take", {**FACTS, **change})


def test_no_more_differences_are_told_than_can_be_read() -> None:
    one, other = ({"request": {f"f{i}": f"{word}{i}" * 50 for i in range(9)}} for word in "ab")
    found = differences(one, other)
    assert len(found) == 4
    assert found[-1] == "6 more"
    assert all(len(sentence) < 200 for sentence in found)
    assert differences(one, one) == []


@pytest.mark.parametrize("text", ["{}", "[]", "", "null", '{"fingerprint": 1}', '"take"'])
def test_a_spoiled_description_is_refused(tmp_path: Path, text: str) -> None:
    WindowStore(tmp_path / "take", FACTS)
    (tmp_path / "take" / MANIFEST).write_text(text)
    with pytest.raises(RequestError, match=r"take\.json is not the description of a take"):
        WindowStore(tmp_path / "take", FACTS)


def test_the_command_line_tells_takes_in_its_own_words() -> None:
    told = Spoken({"take": "--take"}, {}).sentence
    assert told("take.folder is x, which is a file") == "folder of --take is x, which is a file"
    assert told("take adain is 5; give less") == "--take adain is 5; give less"


# --- windows are believed by content ------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def foreign(path: Path) -> None:
    other = WindowStore(path.parent / "other", {"request": "other"})
    other.save(0, LATENTS)
    path.write_bytes((path.parent / "other" / path.name).read_bytes())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(p.read_bytes()[:-4]),
        lambda p: p.write_text("not a window at all, and longer than a header"),
        lambda p: save_file(load_file(p), p),
        flip,
        foreign,
    ],
    ids=["empty", "cut", "text", "resaved", "one bit", "another take's"],
)
def test_a_spoiled_window_is_told_and_made_again(tmp_path: Path, spoil: Any) -> None:
    store = WindowStore(tmp_path / "take", FACTS)
    store.save(0, LATENTS)
    assert 0 in store
    path = tmp_path / "take" / "window-000.safetensors"
    spoil(path)
    again = WindowStore(tmp_path / "take", FACTS)
    assert 0 not in again
    (told,) = again.notices
    assert "window-000.safetensors" in told
    assert told.endswith("window 1 is made again")
    with pytest.raises(
        WeightsError,
        match=r"window-000.safetensors (cannot be read|holds another content).*; make the clip again",
    ):
        again.load(0)
    again.save(0, LATENTS)
    assert 0 in again
    assert all(torch.equal(again.load(0)[name], x) for name, x in LATENTS.items())


def test_a_window_that_cannot_be_written_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = WindowStore(tmp_path / "take", FACTS)
    full = OSError(28, "No space left on device")

    def refuse(*_: Any) -> Any:
        raise full

    monkeypatch.setattr(Path, "write_bytes", refuse)
    store.save(0, LATENTS)
    monkeypatch.undo()
    assert 0 in store
    assert torch.equal(store.load(0)["p.video"], LATENTS["p.video"])
    (told,) = store.notices
    assert "No space left" in told
    assert "window 1 is in memory until the clip is made" in told
    assert [path.name for path in (tmp_path / "take").iterdir()] == [MANIFEST]


def test_two_runs_at_once_share_a_folder(tmp_path: Path) -> None:
    """Each finds what the other has finished, and a file is whole at every instant."""
    stores = [WindowStore(tmp_path / "take", FACTS) for _ in range(2)]
    stores[0].save(0, LATENTS)
    assert 0 in stores[1]
    wrong: list[BaseException] = []

    def work(store: WindowStore) -> None:
        try:
            for _ in range(40):
                store.save(1, LATENTS)
                assert 1 in store
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        joined(thread)
    assert not wrong
    assert not stores[0].notices + stores[1].notices


# --- folders of the program's own ---------------------------------------------------------------------


def test_without_a_folder_windows_are_kept_after_some_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUNDSTAGE_TAKES", str(tmp_path / "own"))
    store = WindowStore(None, FACTS)
    store.save(0, LATENTS)
    assert not (tmp_path / "own").exists()
    monkeypatch.setattr(folders, "KEEP_AFTER_S", 0.0)
    store.save(1, LATENTS)
    assert store.folder is not None
    assert store.folder.parent == tmp_path / "own"
    (told,) = store.notices
    assert str(store.folder) in told
    assert sorted(path.name for path in store.folder.glob("window*")) == [
        "window-000.safetensors",
        "window-001.safetensors",
    ]
    store.close()
    again = WindowStore(None, FACTS)
    assert again.folder == store.folder
    assert 0 in again
    assert 1 in again
    assert "goes on from the windows kept in" in again.notices[0]
    other = WindowStore(None, {"request": "other"})
    assert other.folder is None
    again.discard()
    assert not list((tmp_path / "own").iterdir())


def test_a_folder_in_use_is_left_to_its_run(own: Path) -> None:
    first, second = WindowStore(None, FACTS), WindowStore(None, FACTS)
    first.save(0, LATENTS)
    second.save(0, LATENTS)
    assert first.folder != second.folder
    first.discard()
    assert second.folder is not None
    assert 0 in second
    assert second.folder.is_dir()
    second.discard()


def test_own_folders_can_be_switched_off_and_forgotten_ones_go(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = WindowStore(None, {"request": "old"})
    old.save(0, LATENTS)
    old.close()
    assert old.folder is not None
    long_ago = time.time() - 40 * 24 * 3600
    for path in (old.folder, *old.folder.iterdir()):
        os.utime(path, (long_ago, long_ago))
    new = WindowStore(None, FACTS)
    new.save(0, LATENTS)
    assert not old.folder.exists()
    new.discard()
    monkeypatch.setenv("SOUNDSTAGE_TAKES", "off")
    off = WindowStore(None, FACTS)
    off.save(0, LATENTS)
    assert off.folder is None
    assert TAKES.new("a") is None


def test_where_no_own_folder_can_be_made_windows_stay_in_memory(own: Path) -> None:
    own.parent.mkdir(exist_ok=True)
    own.write_text("a file")
    store = WindowStore(None, FACTS)
    store.save(0, LATENTS)
    assert store.folder is None
    assert 0 in store


# --- through the engine -------------------------------------------------------------------------------

SHORT: dict[str, Any] = {
    "prompt": "a", "size": (32, 32), "num_frames": 57, "fps": 50.0, "steps": 1, "guidance": 1, "stg": 0,
    "modality_guidance": 1, "seed": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    return Engine(model, parts=QuickSound(model, torch.device("cpu"), torch.float32), cache=EncodingCache())


def asked(folder: Path | None = None, **fields: Any) -> Request:
    take = Take(window_frames=25, overlap_frames=16, folder=None if folder is None else str(folder))
    return Request(**{**SHORT, "take": take, **fields})


def until(events: Iterator[Any], name: str) -> list[Any]:
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, Phase) and event.name == name:
            break
    return seen


def song(path: Path, hz: float) -> Path:
    tone = (0.1 * np.sin(np.arange(96_000) * hz / 48_000 * 2 * np.pi)).astype(np.float32)
    write_sound(output(path, 0), ClipPieces.of_arrays(None, 24, np.stack([tone, tone]), 48_000))
    return path


def test_a_song_exchanged_under_its_name_is_another_take_and_one_that_was_moved_is_not(
    stage: Engine, tmp_path: Path
) -> None:
    path = song(tmp_path / "song.wav", 300)
    take = tmp_path / "take"
    until(stage.run(asked(take, audio=Audio(str(path)))), "window 2 of 3")
    moved = path.rename(tmp_path / "moved.wav")
    begun = until(stage.run(asked(take, audio=Audio(str(moved)))), "window 2 of 3")
    assert not any(event == Phase("window 1 of 3") for event in begun)
    song(moved, 2000)
    with pytest.raises(RequestError, match=r"another take: audio\.file has another content"):
        list(stage.run(asked(take, audio=Audio(str(moved)))))


def test_a_lora_written_again_is_another_take(stage: Engine, tmp_path: Path) -> None:
    path, width = tmp_path / "style.safetensors", HEADS * VIDEO_HEAD

    def write(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        key = "diffusion_model.transformer_blocks.0.attn1.to_q"
        pair = {
            "A": torch.randn(4, width, generator=generator),
            "B": torch.randn(width, 4, generator=generator),
        }
        save_file({f"{key}.lora_{name}.weight": factor for name, factor in pair.items()}, path)

    write(1)
    request = asked(tmp_path / "take", loras=[Lora(str(path))])
    until(stage.run(request), "window 2 of 3")
    write(2)
    with pytest.raises(RequestError, match=r"another take: loras\[0\]\.path has another content"):
        list(stage.run(request))


def test_another_take_is_told_before_any_weight_is_read(tmp_path: Path) -> None:
    model = find_model(write_tiny_model(tmp_path / "tiny"))

    def fresh() -> Engine:
        return Engine(model, parts=QuickSound(model, torch.device("cpu"), torch.float32))

    until(fresh().run(asked(tmp_path / "take")), "window 1 of 3")
    engine = fresh()
    with pytest.raises(RequestError, match="another take: seed is 6, there it is 5"):
        list(engine.run(asked(tmp_path / "take", seed=6)))
    assert "transformer" not in vars(engine._parts)


def test_a_stopped_take_without_a_folder_goes_on_and_leaves_nothing_when_it_is_done(
    stage: Engine, own: Path
) -> None:
    whole = list(stage.run(asked()))[-1]
    assert isinstance(whole, Done)
    assert not list(own.iterdir())
    events = stage.run(asked())
    seen = until(events, "window 3 of 3")
    events.close()  # type: ignore[attr-defined]
    (told,) = [event.text for event in seen if isinstance(event, Notice)]
    assert "finished windows are kept in" in told
    (kept,) = [path for path in own.iterdir() if path.is_dir()]
    assert str(kept) in told
    assert json.loads((kept / MANIFEST).read_text())["request"]["seed"] == 5
    rest = list(stage.run(asked()))
    assert sum(isinstance(event, Step) for event in rest) == 1
    done = rest[-1]
    assert isinstance(done, Done)
    assert torch.equal(done.video_latents, whole.video_latents)  # type: ignore[arg-type]
    assert not list(own.iterdir())


def test_a_clip_that_was_handed_over_needs_its_windows_no_more_and_one_that_failed_does(
    stage: Engine, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise MediaError("no picture today")

    monkeypatch.setattr(QuickSound, "decode_pieces", refuse)
    with pytest.raises(SoundstageError, match="no picture today"):
        list(stage.run(asked()))
    assert [path for path in own.iterdir() if path.is_dir()]
    monkeypatch.undo()
    monkeypatch.setenv("SOUNDSTAGE_TAKES", str(own))
    for event in stage.run(asked()):
        if isinstance(event, Done):
            break
    del event
    assert not list(own.iterdir())


def test_generate_says_where_windows_are_kept(stage: Engine, own: Path) -> None:
    with pytest.warns(UserWarning, match="finished windows are kept in"):
        stage.generate(asked())


@pytest.fixture(scope="module")
def whole(stage: Engine) -> Done:
    *_, done = stage.run(asked())
    assert isinstance(done, Done)
    return done


def same(done: Any, wanted: Done) -> bool:
    pairs = [(done.video_latents, wanted.video_latents), (done.audio_latents, wanted.audio_latents)]
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_spoiled_window_is_made_again_with_the_same_bits(
    stage: Engine, whole: Done, tmp_path: Path
) -> None:
    list(stage.run(asked(tmp_path / "take")))
    flip(tmp_path / "take" / "window-001.safetensors")
    *events, done = stage.run(asked(tmp_path / "take"))
    (told,) = [event.text for event in events if isinstance(event, Notice)]
    assert told.endswith("holds another content than was written; window 2 is made again")
    assert [e.name for e in events if isinstance(e, Phase) and e.name.startswith("window")] == [
        "window 2 of 3"
    ]
    assert same(done, whole)


@pytest.mark.parametrize("how", ["folder deleted", "first deleted", "first spoiled", "all exchanged"])
def test_windows_that_are_lost_while_a_take_is_made_are_made_again(
    stage: Engine, whole: Done, tmp_path: Path, how: str
) -> None:
    folder = tmp_path / "take"
    files = [folder / f"window-{index:03d}.safetensors" for index in range(2)]
    told, done = [], None
    for event in stage.run(asked(folder)):
        if isinstance(event, Phase) and event.name == "window 3 of 3":
            if how == "folder deleted":
                shutil.rmtree(folder)
            elif how == "first deleted":
                files[0].unlink()
            elif how == "first spoiled":
                flip(files[0])
            else:
                first, second = (file.read_bytes() for file in files)
                files[0].write_bytes(second)
                files[1].write_bytes(first)
        told += [event.text] if isinstance(event, Notice) else []
        done = event
    assert same(done, whole)
    assert any("window 1 is made again" in text for text in told)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "null", "[1]", "{}"])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(RequestError, match=r"take\.json is not the description of a take"):
        WindowStore(tmp_path, FACTS)


def test_two_engines_at_once_in_one_folder_make_the_same_film(whole: Done, tmp_path: Path) -> None:
    """As two processes do."""
    model = find_model(write_tiny_model(tmp_path / "tiny"))
    made: dict[int, Any] = {}

    def work(number: int) -> None:
        engine = Engine(model, parts=QuickSound(model, torch.device("cpu"), torch.float32))
        *_, made[number] = engine.run(asked(tmp_path / "take"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        joined(thread)
    assert same(made[0], whole)
    assert same(made[1], whole)
    assert len(list((tmp_path / "take").iterdir())) == 4
