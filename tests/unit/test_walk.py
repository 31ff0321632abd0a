"""The walks to the attention kernel and to a loaded transformer are short, and as the docs show them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor

import soundstage
from soundstage.cli.program import app
from soundstage.engine import Engine
from soundstage.model.attention import Attention
from soundstage.model.transformer import Transformer
from soundstage.rendering.parts import ModelParts
from soundstage.weights.read import TensorReader

ROOT = Path(__file__).parents[2]
PACKAGE = Path(soundstage.__file__).parent

MOST_TO_THE_KERNEL = 12
MOST_FROM_DENOISE = 6
MOST_TO_LOAD = 8

Walk = list[tuple[str, str]]  # (function, file)


def functions(frame: FrameType | None, first: str) -> Walk | None:
    """Return the package's functions on the stack, from the one called `first` down; None if it is not there.

    A comprehension is part of the function that it stands in.
    """
    found: Walk = []
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(str(PACKAGE)) and not code.co_name.endswith("comp>"):
            found.append((code.co_qualname, Path(code.co_filename).relative_to(PACKAGE).as_posix()))
            if code.co_name == first:
                return found[::-1]
        frame = frame.f_back
    return None


def told(name: str) -> Walk:
    """Return a table of docs/architecture.md, which stands between marks."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = page.partition(f"<!-- walk: {name} -->")[2].partition("<!-- end -->")[0].strip().splitlines()[2:]
    cells = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]
    return [(function, file) for function, file in cells]


def compare(walk: Walk, name: str) -> None:
    rows = "\n".join(f"| `{function}` | `{file}` |" for function, file in walk)
    assert walk == told(name), f"put this into docs/architecture.md:\n{rows}"


def test_the_walk_to_the_attention_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connectors attend too, before the transformer does: theirs is not the walk."""
    walks: list[Walk] = []

    def kernel(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        walk = None if walks else functions(sys._getframe(1), "generate")
        if walk is not None and "Transformer.forward" in dict(walk):
            walks.append(walk)
        return F.scaled_dot_product_attention(queries, keys, values, bias)

    monkeypatch.setattr(Attention, "kernel", staticmethod(kernel))
    words = ("A red ball bounces.", "--model", "nano", "--frames", "9", "--steps", "2")
    made = CliRunner().invoke(app, ["generate", *words, "--output", str(tmp_path / "ball.mp4")])
    assert made.exit_code == 0, made.stderr
    (walk,) = walks
    compare(walk, "generate")
    assert len(walk) <= MOST_TO_THE_KERNEL
    names = list(dict(walk))
    assert len(names[names.index("denoise") :]) <= MOST_FROM_DENOISE


def test_the_walk_from_a_folder_to_a_transformer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is built, then its first tensor is read; what both ways share counts once."""
    walks: dict[str, Walk] = {}

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        name, file = function.__qualname__, Path(inspect.getfile(function)).relative_to(PACKAGE).as_posix()

        def run(*args: Any, **options: Any) -> Any:
            walk = functions(sys._getframe(1), "transformer")
            assert walk is not None
            walks.setdefault(name, [*walk, (name, file)])
            return function(*args, **options)

        return run

    parts = unbuilt_parts(soundstage.load("nano", dtype="float32"))
    monkeypatch.setattr(Transformer, "__init__", watched(Transformer.__init__))
    monkeypatch.setattr(TensorReader, "value", watched(TensorReader.value))
    assert isinstance(parts.transformer, Transformer)
    walk = list(dict.fromkeys(function for found in walks.values() for function in found))
    compare(walk, "load")
    assert len(walk) <= MOST_TO_LOAD


def unbuilt_parts(stage: Engine) -> ModelParts:
    choice = stage.choose(stage.plan(soundstage.Request(prompt="A red ball.", num_frames=9)))
    return ModelParts(stage.model, torch.device("cpu"), torch.float32, choice.residency, choice.weights)
