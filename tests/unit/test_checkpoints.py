"""Checkpoints: a run that was stopped goes on from where it was, with the bits of one that was not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import soundstage as ss
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.library.model_files import find_model
from soundstage.rendering import checkpoints
from soundstage.rendering.events import Done, Notice, Phase, Preview, Step
from soundstage.rendering.prepare import Latents
from soundstage.rendering.progress import ProgressCount
from soundstage.sampling.sampler_info import SAMPLER_INFO
from tests.tiny_model import QuickSound, write_tiny_model

PROMPT = "A red ball bounces."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("checkpoints") / "tiny"))
    return Engine(model, parts=QuickSound(model, torch.device("cpu"), torch.float32))


@pytest.fixture(scope="module")
def nano() -> Engine:
    return ss.load("nano")


def plan(stage: Engine, **fields: Any) -> Any:
    return stage.plan(
        ss.Request(**{"prompt": PROMPT, "seed": 5, "num_frames": 9, "size": (64, 64), **fields})
    )


def whole(stage: Engine, made: Any, **options: Any) -> Done:
    *_, done = stage.run(made, decode=False, **options)
    assert isinstance(done, Done)
    return done


def interrupted(stage: Engine, made: Any, folder: Path, steps: Sequence[int], **options: Any) -> Done:
    """Stop a run after so many steps, the next after so many, ..., and return the end of the last."""
    for count in steps:
        run, seen = stage.run(made, checkpoint=folder, decode=False, **options), 0
        for event in run:
            seen += isinstance(event, Step)
            if seen == count:
                break
        run.close()
    return whole(stage, made, checkpoint=folder, **options)


def assert_same(one: Done, other: Done) -> None:
    assert one.latents.keys() == other.latents.keys()
    for name, latents in one.latents.items():
        assert torch.equal(latents, other.latents[name]), name
    assert one.clip.provenance["latents_sha256"] == other.clip.provenance["latents_sha256"]


@pytest.mark.parametrize("sampler", SAMPLER_INFO)
@pytest.mark.parametrize("every_s", [0.0, 1e9])
def test_every_sampler_goes_on_with_the_same_bits(
    tiny: Engine, tmp_path: Path, sampler: str, every_s: float
) -> None:
    made = plan(tiny, steps=6, sampler=sampler)
    again = interrupted(tiny, made, tmp_path / "kept", (1, 2, 2), every_s=every_s)
    assert_same(whole(tiny, made), again)


GUIDED: dict[str, dict[str, Any]] = {
    "first-block": {"cache": "first-block:0.9", "steps": 8},
    "teacache": {"cache": "teacache:0.9", "steps": 8},
    "momentum": {"video_scales": {"apg_momentum": 0.5, "cfg": 3.0}, "steps": 6},
    "steps without guidance": {"video_scales": {"skip_step": 2, "cfg": 3.0}, "steps": 6},
    "silent": {"modalities": {"video"}, "steps": 6},
    "sound alone": {"modalities": {"audio"}, "steps": 6, "size": None},
    "cached and multistep": {"cache": "first-block:0.9", "sampler": "er-sde", "steps": 8},
}


@pytest.mark.parametrize("case", GUIDED)
def test_what_guidance_and_caches_keep_from_step_to_step_is_kept(
    tiny: Engine, tmp_path: Path, case: str
) -> None:
    made = plan(tiny, **GUIDED[case])
    assert_same(whole(tiny, made), interrupted(tiny, made, tmp_path / "kept", (3, 1), preview_every=2))


@pytest.mark.parametrize("recipe", [pytest.param("fast", marks=pytest.mark.slow), "smooth"])
def test_recipes_of_several_passes_go_on_in_each_of_them(nano: Engine, tmp_path: Path, recipe: str) -> None:
    made = plan(nano, recipe=recipe, size=(128, 128))
    total = sum(pass_.num_steps for pass_ in made.passes)
    stops = (3, total - 4, 2)
    assert_same(whole(nano, made), interrupted(nano, made, tmp_path / "kept", stops))


def test_given_latents_belong_to_the_run(nano: Engine, tmp_path: Path) -> None:
    made = plan(nano, steps=3)
    first = whole(nano, made)
    given = Latents(first.video_latents, first.audio_latents)
    assert_same(whole(nano, made, given=given), interrupted(nano, made, tmp_path / "kept", (2,), given=given))
    interrupted_plain = nano.run(made, checkpoint=tmp_path / "kept", decode=False)
    with pytest.raises(RequestError, match="given"):
        list(interrupted_plain)


def test_a_run_that_was_stopped_while_it_decoded_takes_no_step_again(tiny: Engine, tmp_path: Path) -> None:
    made = plan(tiny, steps=3)
    run = tiny.run(made, checkpoint=tmp_path / "kept")
    for event in run:
        if isinstance(event, Phase) and event.name == "decode video":
            break
    run.close()
    events = list(tiny.run(made, checkpoint=tmp_path / "kept"))
    assert not [event for event in events if isinstance(event, Step)]
    assert_same(whole(tiny, made), events[-1])  # type: ignore[arg-type]


def test_a_long_take_goes_on_within_its_window(tiny: Engine, tmp_path: Path) -> None:
    made = plan(tiny, num_frames=49, take={"window_frames": 25, "overlap_frames": 16}, steps=4)
    assert len(made.windows) > 2
    again = interrupted(tiny, made, tmp_path / "kept", (2, 3, 4))
    assert_same(whole(tiny, made), again)
    events = list(tiny.run(made, checkpoint=tmp_path / "kept", decode=False))
    assert not [event for event in events if isinstance(event, Step)]


def test_latents_that_a_caller_changed_are_kept_as_changed(tiny: Engine, tmp_path: Path) -> None:
    made = plan(tiny, steps=4)

    def run(stop: bool) -> Done:
        for event in (work := tiny.run(made, checkpoint=tmp_path / str(stop), decode=False)):
            if isinstance(event, Step) and event.step == 2:
                assert event.tokens is not None
                assert event.tokens.video is not None
                event.tokens.put(video=event.tokens.video * 0.5)
                if stop:
                    work.close()
                    return whole(tiny, made, checkpoint=tmp_path / str(stop))
        assert isinstance(event, Done)
        return event

    assert_same(run(False), run(True))


def test_the_first_event_of_a_run_that_goes_on_says_from_where(tiny: Engine, tmp_path: Path) -> None:
    made = plan(tiny, steps=4)
    interrupted_at = tiny.run(made, checkpoint=tmp_path / "kept")
    for event in interrupted_at:
        if isinstance(event, Step) and event.step == 3:
            break
    interrupted_at.close()
    count = ProgressCount(made)
    pairs = [(e, count.see(e)) for e in tiny.run(made, checkpoint=tmp_path / "kept", decode=False)]
    events, seen = zip(*pairs, strict=True)
    assert [e.name for e in events if isinstance(e, Phase)][:2] == ["load", "resume"]
    resumed = next(e for e in events if isinstance(e, Phase) and e.name == "resume")
    assert resumed.detail.part.endswith("after step 3")
    steps = [e.step for e in events if isinstance(e, Step)]
    assert steps == [4]
    before = next(p for p in seen if p.phase == "denoise")
    assert before.fraction == pytest.approx(0.9 * 3 / 4)


# --- what is refused, and what goes wrong


def kept(tiny: Engine, folder: Path, **fields: Any) -> Any:
    made = plan(tiny, steps=4, **fields)
    run = tiny.run(made, checkpoint=folder, decode=False)
    for event in run:
        if isinstance(event, Step) and event.step == 2:
            break
    run.close()
    return made


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 6}, "seed is 6, there it is 5"),
        ({"prompt": "A cube."}, "prompt is A cube"),
        ({"steps": 5}, "steps"),
    ],
)
def test_another_request_is_refused(tiny: Engine, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    kept(tiny, tmp_path / "kept")
    other = plan(tiny, **{"steps": 4, **change})
    with pytest.raises(RequestError, match=says) as raised:
        list(tiny.run(other, checkpoint=tmp_path / "kept"))
    assert raised.value.field == "checkpoint"


def test_another_version_of_the_code_is_refused(
    tiny: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = kept(tiny, tmp_path / "kept")
    monkeypatch.setattr("soundstage.rendering.run.FORMAT", checkpoints.FORMAT + 1)
    with pytest.raises(RequestError, match="another version of soundstage"):
        list(tiny.run(made, checkpoint=tmp_path / "kept"))


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flipped(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("spoil", [_cut, _flipped, lambda data: b""])
def test_a_damaged_state_is_told_and_the_clip_begins_anew(
    tiny: Engine, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    made = kept(tiny, tmp_path / "kept")
    state = tmp_path / "kept" / checkpoints.STATE
    state.write_bytes(spoil(state.read_bytes()))
    events = list(tiny.run(made, checkpoint=tmp_path / "kept", decode=False))
    assert [e.text for e in events if isinstance(e, Notice) and "begins anew" in e.text]
    assert [e.step for e in events if isinstance(e, Step)] == [1, 2, 3, 4]
    assert_same(whole(tiny, made), events[-1])  # type: ignore[arg-type]


def test_a_spoiled_description_is_refused_in_a_sentence(tiny: Engine, tmp_path: Path) -> None:
    made = kept(tiny, tmp_path / "kept")
    (tmp_path / "kept" / checkpoints.MANIFEST).write_text("{")
    with pytest.raises(RequestError, match="not the description of a run"):
        list(tiny.run(made, checkpoint=tmp_path / "kept"))


def test_a_folder_with_other_files_or_in_use_is_refused(tiny: Engine, tmp_path: Path) -> None:
    made = plan(tiny, steps=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(RequestError, match=r"letter\.txt"):
        list(tiny.run(made, checkpoint=tmp_path / "mine"))
    with pytest.raises(RequestError, match="is a file or lies in one"):
        list(tiny.run(made, checkpoint=tmp_path / "mine" / "letter.txt"))
    first = tiny.run(made, checkpoint=tmp_path / "kept", decode=False)
    next(event for event in first if isinstance(event, Step))
    with pytest.raises(RequestError, match="another run uses now"):
        list(tiny.run(made, checkpoint=tmp_path / "kept"))
    assert_same(whole(tiny, made), list(first)[-1])  # type: ignore[arg-type]


def test_a_disk_that_cannot_be_written_costs_a_notice_and_not_the_clip(
    tiny: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write_through", full)
    made = plan(tiny, steps=4)
    events = list(tiny.run(made, checkpoint=tmp_path / "kept", every_s=0, decode=False))
    told = [e.text for e in events if isinstance(e, Notice)]
    assert len(told) == 1
    assert "goes on without it" in told[0]
    assert {path.name for path in (tmp_path / "kept").iterdir()} <= {checkpoints.MANIFEST, checkpoints.LOCK}
    assert_same(whole(tiny, made), events[-1])  # type: ignore[arg-type]


def test_latents_that_are_not_numbers_are_not_kept(tiny: Engine, tmp_path: Path) -> None:
    made = plan(tiny, steps=4)
    run = tiny.run(made, checkpoint=tmp_path / "kept", decode=False)
    for event in run:
        if isinstance(event, Step) and event.step == 2:
            assert event.tokens is not None
            assert event.tokens.video is not None
            event.tokens.put(video=event.tokens.video * float("nan"))
            break
    run.close()
    assert not (tmp_path / "kept" / checkpoints.STATE).exists()


@pytest.mark.parametrize("every_s", [-1, "30", None, float("nan"), True])
def test_a_pause_that_is_none_is_refused(tiny: Engine, every_s: Any) -> None:
    with pytest.raises(RequestError, match="every_s"):
        tiny.run(plan(tiny), every_s=every_s)


def test_clear_removes_what_a_checkpoint_keeps_and_nothing_else(tiny: Engine, tmp_path: Path) -> None:
    kept(tiny, tmp_path / "kept")
    checkpoints.clear(tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    kept(tiny, tmp_path / "kept")
    (tmp_path / "kept" / "mine.txt").write_text("mine")
    checkpoints.clear(tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["mine.txt"]


def test_the_description_says_what_was_asked(tiny: Engine, tmp_path: Path) -> None:
    kept(tiny, tmp_path / "kept")
    told = json.loads((tmp_path / "kept" / checkpoints.MANIFEST).read_text())
    assert told["asked"]["request"]["prompt"] == PROMPT


def test_previews_change_nothing(tiny: Engine, tmp_path: Path) -> None:
    made = plan(tiny, steps=4)
    run = tiny.run(made, checkpoint=tmp_path / "kept", preview_every=1, decode=False)
    for event in run:
        if isinstance(event, Preview) and event.step == 2:
            break
    run.close()
    assert_same(whole(tiny, made), whole(tiny, made, checkpoint=tmp_path / "kept"))
