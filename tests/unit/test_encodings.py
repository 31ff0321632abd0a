"""Encodings that are kept: the same bits back, bounded, the least used going first, damage as absence."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from soundstage.rendering.encoding_cache import EncodingCache, Tensors, content_key, encodings_folder
from tests.limits import joined


def encoding(seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {
        "video": torch.randn(1, 16, 64, generator=generator).bfloat16(),
        "audio": torch.randn(1, 16, 32, generator=generator),
    }


def equal(one: Tensors | None, other: Tensors) -> bool:
    return one is not None and one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


NUM_BYTES = sum(tensor.nbytes for tensor in encoding(0).values())


def used(folder: Path, key: str, second: int) -> None:
    """Say that an encoding was last used at that time, which the clock of files may be too coarse for."""
    os.utime(folder / f"{key}.safetensors", (second, second))


def on_disk(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()}


def test_an_encoding_is_made_once_and_found_by_another_process(tmp_path: Path) -> None:
    key = content_key(b"picture", "768x512", "model")
    first, again = EncodingCache(tmp_path / "kept"), EncodingCache(tmp_path / "kept")
    assert first.get(key) is None
    for cache in (first, first, again):
        assert equal(cache.kept(key, lambda: encoding(0)), encoding(0))
    assert (first.num_made, again.num_made) == (1, 0)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [f"{key}.safetensors"]


def test_what_is_in_memory_needs_no_folder() -> None:
    cache = EncodingCache()
    assert equal(cache.kept("a", lambda: encoding(0)), encoding(0))
    assert equal(cache.kept("a", lambda: encoding(1)), encoding(0))


def test_the_key_is_every_content_and_where_it_ends() -> None:
    contents: list[tuple[object, ...]] = [
        ("ab", "c"), ("a", "bc"), ("abc",), (b"abc",), ("abc", ""), ("ab", "c", ""), (("ab", "c"),),
        (1,), ("1",), (1.0,), (None,),
    ]  # fmt: skip
    assert len({content_key(*content) for content in contents}) == len(contents)
    assert content_key("a", 1) == content_key("a", 1)


def test_memory_is_bounded_and_forgets_what_was_not_used() -> None:
    cache = EncodingCache(max_memory_bytes=2 * NUM_BYTES)
    for seed, key in enumerate("ab"):
        cache.put(key, encoding(seed))
    assert cache.get("a") is not None  # now the latest used
    cache.put("c", encoding(2))
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]
    assert cache.memory_bytes == 2 * NUM_BYTES
    small = EncodingCache(max_memory_bytes=NUM_BYTES - 1)
    assert equal(small.put("a", encoding(0)), encoding(0))
    assert small.get("a") is None


def test_the_folder_is_bounded_and_the_least_used_goes_first(tmp_path: Path) -> None:
    bound = 3 * NUM_BYTES + 1000
    cache = EncodingCache(tmp_path, max_disk_bytes=bound)
    for second, key in enumerate("abc"):
        cache.put(key, encoding(second))
        used(tmp_path, key, second)
    assert EncodingCache(tmp_path).get("a") is not None  # now the latest used, by another process
    cache.put("d", encoding(3))
    assert on_disk(tmp_path) == {"a", "c", "d"}
    for number in range(30):
        cache.put(str(number), encoding(number))
        used(tmp_path, str(number), number)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= bound
    small = tmp_path / "small"
    EncodingCache(small, max_disk_bytes=NUM_BYTES - 1).put("a", encoding(0))
    assert not small.exists()


def test_what_is_used_from_memory_stays_on_disk(tmp_path: Path) -> None:
    cache = EncodingCache(tmp_path, max_disk_bytes=2 * NUM_BYTES + 700)
    for second, key in enumerate("ab"):
        cache.put(key, encoding(second))
        used(tmp_path, key, second)
    assert cache.get("a") is not None
    cache.put("c", encoding(2))
    assert on_disk(tmp_path) == {"a", "c"}


@pytest.mark.parametrize(
    "damage", [lambda data: data[:40], lambda data: b"no tensors", lambda data: data[:-7], lambda data: b""]
)
def test_a_damaged_file_counts_as_absent(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    EncodingCache(tmp_path).put("a", encoding(0))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert EncodingCache(tmp_path).get("a") is None
    assert not path.exists()
    cache = EncodingCache(tmp_path)
    assert equal(cache.kept("a", lambda: encoding(0)), encoding(0))
    assert cache.num_made == 1
    assert equal(EncodingCache(tmp_path).get("a"), encoding(0))


def test_a_changed_bit_and_anothers_file_count_as_absent(tmp_path: Path) -> None:
    """safetensors takes both: the film would be another one without a word."""
    EncodingCache(tmp_path).put("a", encoding(0))
    EncodingCache(tmp_path).put("b", encoding(1))
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    data = second.read_bytes()
    first.write_bytes(data)
    second.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for key in ("a", "b"):
        assert EncodingCache(tmp_path).get(key) is None
        assert equal(EncodingCache(tmp_path).kept(key, lambda: encoding(2)), encoding(2))
        assert equal(EncodingCache(tmp_path).get(key), encoding(2))


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = EncodingCache(tmp_path / "file")
    with pytest.warns(UserWarning, match=r"not kept in .*file .*; name another folder in SOUNDSTAGE_CACHE"):
        assert equal(cache.kept("a", lambda: encoding(0)), encoding(0))
    assert equal(cache.kept("a", lambda: encoding(1)), encoding(0))  # in memory all the same


def test_partial_files_of_killed_processes_go_and_those_being_written_stay(tmp_path: Path) -> None:
    for name, age in (("killed", 0), ("now", None)):
        (tmp_path / f"{name}.part").write_bytes(b"begun")
        if age is not None:
            os.utime(tmp_path / f"{name}.part", (age, age))
    EncodingCache(tmp_path).put("a", encoding(0))
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "now.part"}


def test_many_writers_and_readers_share_a_small_folder(tmp_path: Path) -> None:
    """Whatever is found is whole, and nobody trips over a file that another one deletes."""
    problems: list[str] = []

    def work(first: int) -> None:
        cache = EncodingCache(tmp_path, max_memory_bytes=0, max_disk_bytes=3 * NUM_BYTES)
        for number in range(first, first + 40):
            seed = number % 5
            if not equal(cache.kept(str(seed), partial(encoding, seed)), encoding(seed)):
                problems.append(f"{seed} came back changed")

    workers = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        joined(worker)
    assert problems == []
    assert not list(tmp_path.glob("*.part"))


def test_the_variable_names_the_folder_or_switches_the_disk_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert encodings_folder() is None  # as set for every test
    monkeypatch.setenv("SOUNDSTAGE_CACHE", "somewhere")
    assert encodings_folder() == Path("somewhere")
    assert EncodingCache.open().folder == Path("somewhere")
    monkeypatch.delenv("SOUNDSTAGE_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"/home/user/cache/{name}")
    assert encodings_folder() == Path("/home/user/cache/soundstage/encodings")
