"""A damaged or hostile header is one sentence of ours, quickly, and never a tensor outside the file."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from soundstage.errors import WeightsError
from soundstage.library.identify import identify
from soundstage.weights.header import MAX_HEADER_BYTES, read_header

MUTATIONS = 400
HOSTILE: list[Any] = [
    -1, 0, 1, 7, 2**31, 2**62, 2**63, 2**64, 10**40, 1.5, float("nan"), float("inf"), True, None, "", "F32",
    "I4", "\u0000", "\ud800", [], [0], [0, 0], [-1, 4], [4, 0], [2**63, 2**63], [[0], [4]], ["0", "4"], {},
    {"dtype": "F32"},
]  # fmt: skip


def safetensors_file(path: Path) -> Path:
    tensors = {name: np.arange(6, dtype=np.float32).reshape(2, 3) for name in ("a", "b.weight", "c")}
    save_file(tensors, path, {"config": "{}", "format": "pt"})
    return path


def gguf_file(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "ltxv")
    writer.add_tensor("transformer_blocks.0.attn1.to_q.weight", np.ones((4, 32), np.float32))
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def flipped(rng: random.Random, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 2, 8, 40))):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def grown(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + rng.randbytes(rng.choice((1, 8, 300))) + content[place:]


def hostile_value(rng: random.Random, content: bytes) -> bytes:
    """One value of the header becomes another that JSON can hold."""
    header, data = split(content)
    name = rng.choice(list(header))
    if rng.random() < 0.3:
        header[name] = rng.choice(HOSTILE)
    elif rng.random() < 0.3:
        header[rng.choice(["", "\ud800", "x" * 5000, "a\nb", "__metadata__"])] = header.pop(name)
    else:
        header[name][rng.choice(list(header[name]))] = rng.choice(HOSTILE)
    return joined(header, data)


def hostile_length(rng: random.Random, content: bytes) -> bytes:
    return (
        rng.choice((0, 1, 2, 2**31, 2**63, 2**64 - 1, MAX_HEADER_BYTES)).to_bytes(8, "little") + content[8:]
    )


def assert_sound(path: Path) -> None:
    """Either a sentence of ours, or a file all of whose tensors are within it."""
    size = path.stat().st_size
    try:
        file = read_header(path)
        identify(path)
    except WeightsError as error:
        sentence = str(error)
        assert sentence.startswith((str(path), "there is no file"))
        assert sentence.isprintable()
        sentence.encode()
        return
    for entry in file.tensors.values():
        assert 0 <= entry.offset <= entry.offset + entry.num_bytes <= size


@pytest.mark.parametrize("mutate", [flipped, cut, grown, hostile_value, hostile_length])
def test_mutated_safetensors_files(tmp_path: Path, mutate: Callable[[random.Random, bytes], bytes]) -> None:
    rng = random.Random(mutate.__name__)
    content = safetensors_file(tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "mutated.safetensors"
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(rng, content))
        assert_sound(path)


@pytest.mark.parametrize("mutate", [flipped, cut, grown])
def test_mutated_gguf_files(tmp_path: Path, mutate: Callable[[random.Random, bytes], bytes]) -> None:
    rng = random.Random(mutate.__name__)
    content = gguf_file(tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "mutated.gguf"
    for _ in range(MUTATIONS // 4):
        path.write_bytes(b"GGUF" + mutate(rng, content)[4:])
        assert_sound(path)


def test_bombs_are_refused_in_no_time(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    twice = ",".join(f'"{number}":{json.dumps(entry)}' for number in range(20_000))
    bombs = {
        "nested": b'{"a":' + b"[" * 100_000,
        "twice": f'{{{twice},"19999":{json.dumps(entry)}}}'.encode(),
        "2**63 of each": json.dumps({"a": entry | {"shape": [2**62, 2**62]}}).encode(),
        "long number": b'{"a":' + b"9" * 10_000 + b"}",
    }
    for text in bombs.values():
        path = tmp_path / "bomb.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
        start = time.monotonic()
        with pytest.raises(WeightsError):
            read_header(path)
        assert time.monotonic() - start < 5


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "link.safetensors").symlink_to("gone.safetensors")
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    sentences = {
        "folder.safetensors": "is a folder",
        "empty.safetensors": "is empty",
        "link.safetensors": r"is a link to gone\.safetensors, which is not there",
        "loop.safetensors": "cannot be read",
        "pipe.safetensors": "is no ordinary file",
        "x" * 5000: r"cannot be read .*name too long",
        "a\0b.safetensors": "cannot be read",
    }
    for name, sentence in sentences.items():
        with pytest.raises(WeightsError, match=f"(?i){sentence}"):
            read_header(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_rights_is_said(tmp_path: Path) -> None:
    path = safetensors_file(tmp_path / "a.safetensors")
    path.chmod(0)
    with pytest.raises(WeightsError, match=r"cannot be read .*check the file and its rights"):
        read_header(path)


def test_names_of_files_may_be_odd(tmp_path: Path) -> None:
    for name in ("with space", "ünïcode", "per%cent", "new\nline", os.fsdecode(b"latin-\xe9"), "-dash"):
        path = safetensors_file(tmp_path / "whole.safetensors").rename(tmp_path / f"{name}.safetensors")
        assert list(read_header(path).tensors) == ["a", "b.weight", "c"]
