"""References of in-context adapters: what each kind draws, the same each time, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import soundstage as ss
from soundstage.cli.program import app
from soundstage.clip import Clip, read_provenance
from soundstage.control import frames as frames_module
from soundstage.control.kinds import FILES, KINDS, training_kind
from soundstage.errors import MissingExtraError, RequestError

Frames = NDArray[np.uint8]
NUM_FRAMES = 5
DEGRADATIONS = sorted({kind.made_by for kind in KINDS.values() if kind.made_by} | {"night"})


def square(at: int = 40) -> Frames:
    """Return a frame of 128x96 with a red square of 30 pixels."""
    frame = np.zeros((96, 128, 3), np.uint8)
    frame[30:60, at : at + 30] = (200, 60, 40)
    return frame


OPTIONS: dict[str, dict[str, Any]] = {  # that a kind cannot do without
    "inpaint": {"box": "8 8 20 20"},
    "official-inpaint": {"key": "c83c28"},
    "masked-reference": {"box": "8 8 20 20"},
    "outpaint": {"left": 16},
    "border": {"left": 16, "bottom": 8},
    "face": {"box": "30 30 30 30"},
}
PLAIN = [name for name, kind in KINDS.items() if not kind.needs and kind.sound is None]
PLAIN = [name for name in PLAIN if name not in ("depth", "pose")]  # which need a model


@pytest.fixture(scope="module")
def clip() -> Frames:
    """Return a square that moves over a ramp of grey."""
    ramp = np.linspace(20, 120, 128).astype(np.uint8)[None, :, None].repeat(96, 0).repeat(3, 2)
    return np.stack([np.maximum(square(30 + 4 * i), ramp) for i in range(NUM_FRAMES)])


def made(kind: str, frames: Frames, **options: Any) -> Frames:
    return np.stack(list(KINDS[kind].prepare(iter(frames), 24.0, options)))


@pytest.mark.parametrize("kind", PLAIN)
def test_every_kind_gives_one_frame_for_each_and_the_same_twice(kind: str, clip: Frames) -> None:
    options = OPTIONS.get(kind, {})
    first, again = made(kind, clip, **options), made(kind, clip, **options)
    assert first.dtype == np.uint8
    width, height = KINDS[kind].size((128, 96), KINDS[kind].checked(options))
    assert first.shape == (NUM_FRAMES, height, width, 3)
    assert np.array_equal(first, again)


def test_edges_of_a_square_lie_on_its_border() -> None:
    edges = made("canny", square()[None])[0, ..., 0] > 0
    rows, columns = np.nonzero(edges)
    inner = np.zeros_like(edges)
    inner[33:57, 43:67] = True
    assert abs(int(rows.min()) - 30) <= 1
    assert abs(int(rows.max()) - 59) <= 1
    assert abs(int(columns.min()) - 40) <= 1
    assert abs(int(columns.max()) - 69) <= 1
    assert not (edges & inner).any()
    assert edges[30 - 1 : 32, 45:65].any(axis=0).all()


def test_edges_of_a_large_clip_are_looked_for_at_512() -> None:
    large = np.zeros((1080, 1920, 3), np.uint8)
    assert made("canny", large[None]).shape == (1, 512, 910, 3)


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_degradations_change_the_clip_and_keep_its_shape(kind: str, clip: Frames) -> None:
    changed = made(kind, clip, **OPTIONS.get(kind, {}))
    assert changed.shape == clip.shape
    assert np.abs(changed.astype(int) - clip).mean() > 0.3


@pytest.mark.parametrize("kind", [name for name in DEGRADATIONS if "seed" in KINDS[name].settings])
def test_another_seed_is_another_degradation(kind: str, clip: Frames) -> None:
    assert not np.array_equal(made(kind, clip, seed=1), made(kind, clip, seed=2))


@pytest.mark.parametrize("kind", [name for name in DEGRADATIONS if "amount" in KINDS[name].settings])
def test_an_amount_of_nothing_changes_nothing(kind: str, clip: Frames) -> None:
    assert np.array_equal(made(kind, clip, amount=0), clip)


def test_degradations_do_what_they_say(clip: Frames) -> None:
    colourless = made("colourless", clip)
    assert (colourless[..., 0] == colourless[..., 2]).all()
    assert made("night", clip).mean() < clip.mean() * 0.7
    crisp, soft = (np.abs(np.diff(x[0, 45, :, 0].astype(int))).max() for x in (clip, made("defocus", clip)))
    assert soft < crisp * 0.7
    assert len(np.unique(made("cartoon", clip, levels=2, lines=0)[..., 1])) < len(np.unique(clip[..., 1]))
    assert np.array_equal(made("soften", clip, factor=1), clip)


def test_compression_is_worse_with_a_higher_figure(clip: Frames) -> None:
    errors = [np.abs(made("compress", clip, crf=crf).astype(int) - clip).mean() for crf in (10, 50)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("kind", PLAIN)
def test_frames_are_taken_as_they_are_asked_for(kind: str) -> None:
    taken = 0

    def endless() -> Iterator[Frames]:
        nonlocal taken
        while True:
            taken += 1
            yield square(30 + taken % 20)

    out = KINDS[kind].prepare(endless(), 24.0, OPTIONS.get(kind, {}))
    for _ in range(10):
        next(out)
    assert taken < 120  # encoders look ahead


def test_every_training_pair_has_a_kind() -> None:
    assert training_kind("ungrade") is KINDS["grade"]
    assert training_kind("canny") is KINDS["canny"]
    for name, kind in KINDS.items():
        assert kind.about.endswith("."), name
        assert not kind.made_by or kind.made_by in KINDS
        assert set(kind.needs + kind.takes) <= set(FILES)
        for key, setting in kind.settings.items():
            assert setting.checked(key, setting.default) == setting.default


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("cany", {}, "there is no control 'cany'; the kinds are canny,"),
        ("canny", {"hgih": 1}, "control 'canny' has no setting 'hgih'; it takes high,"),
        ("canny", {"low": -1}, "low of control 'canny' is -1; give 0 to 1000"),
        ("canny", {"low": "much"}, "low of control 'canny' is 'much'; give a whole number"),
        ("canny", {"mask": "m.png"}, "control 'canny' takes no mask; leave it out"),
        ("clip", {"low": 1}, "control 'clip' has no setting 'low'; it has no settings"),
        ("grade", {"amount": float("nan")}, "amount of control 'grade' is nan; give a number"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, options: dict[str, Any], told: str, tmp_path: Path) -> None:
    Clip(square()[None].repeat(2, 0), None, 24.0).save(tmp_path / "a.mkv")
    with pytest.raises(RequestError) as error:
        ss.prepare_control(kind, tmp_path / "a.mkv", tmp_path / "b.mkv", **options)
    assert told in str(error.value)
    assert not (tmp_path / "b.mkv").exists()


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch, clip: Frames) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'soundstage\[control\]'"):
        frames_module.opencv()


# --- The command ------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Frames) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    Clip(clip, np.full((2, 10_000), 0.1, np.float32), 24.0).save("clip.mkv", codec="ffv1")
    return lambda *words: CliRunner().invoke(app, ["control", *words])


def test_the_command_writes_what_the_kind_makes_without_loss(
    call: Callable[..., Result], clip: Frames
) -> None:
    done = call("prepare", "canny", "clip.mkv", "-o", "edges.mkv", "--set", "low=50", "--quiet")
    assert (done.exit_code, done.stdout) == (0, "edges.mkv\n")
    read = Clip.open("edges.mkv")
    assert read.waveform is not None
    assert read.frames is not None
    assert np.array_equal(read.frames, made("canny", clip, low=50))
    told = read_provenance("edges.mkv")["prepared"]
    assert (told["control"], told["of"], told["options"]["low"]) == ("canny", "clip.mkv", "50")


def test_a_training_pair_is_made_from_a_finished_clip(call: Callable[..., Result], clip: Frames) -> None:
    done = call("prepare", "ungrade", "clip.mkv", "-o", "graded.mkv", "--for-training", "--set", "seed=3")
    assert done.exit_code == 0
    assert np.array_equal(Clip.open("graded.mkv").frames, made("grade", clip, seed=3))  # type: ignore[arg-type]


def test_the_command_refuses_before_it_writes(call: Callable[..., Result]) -> None:
    wrong = call("prepare", "cany", "clip.mkv", "-o", "edges.mkv")
    assert wrong.exit_code == 2
    assert "the kinds are canny" in wrong.stderr
    assert call("prepare", "canny", "gone.mp4", "-o", "edges.mkv").exit_code == 2
    assert call("prepare", "canny", "clip.mkv", "-o", "clip.mkv").exit_code == 2
    assert call("prepare", "canny", "clip.mkv", "-o", "e.mkv", "--set", "low").exit_code == 2
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["clip.mkv"]


def test_the_list_names_every_kind(call: Callable[..., Result]) -> None:
    listed = call("list").stdout
    assert all(f"{name}: {kind.about}" in listed for name, kind in KINDS.items())
    facts = json.loads(call("list", "--json").stdout)
    assert [fact["kind"] for fact in facts] == list(KINDS)
