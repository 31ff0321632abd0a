"""The meters of the capabilities' sections: right on the world's own clips, wrong on others.

No model runs here but a stand-in for the engine's parts, once, through the whole of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from soundstage.cli.main import app
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.library.model_files import find_model
from soundstage.nano.evaluation.capabilities import SECTIONS
from soundstage.nano.evaluation.capabilities.case import (
    Case,
    CodedMaker,
    Recode,
    Section,
    Shown,
    StageMaker,
    TruthMaker,
    evaluate_section,
    request_of,
    shown_of,
)
from soundstage.nano.evaluation.capabilities.compare import between, bicubic, psnr, step_ratio
from soundstage.nano.evaluation.capabilities.followed import FOLLOWED
from soundstage.nano.evaluation.capabilities.given import recolored
from soundstage.nano.evaluation.capabilities.timing import take_cases
from soundstage.nano.evaluation.measure import Outcome
from soundstage.nano.evaluation.report import Report, Spread, Target
from soundstage.nano.world.scene import Scene
from soundstage.planning.long_take import plan_request
from soundstage.request.request import Request
from soundstage.request.take import Take
from tests.tiny_model import TinyParts, write_tiny_model

SHORT_TAKE_S, SEED = 6.0, 3
Wrong = Callable[[Case, Sequence[Shown]], Sequence[Shown]]


@functools.cache
def short(name: str) -> Section:
    """A section with one or two cases, drawn once, as drawing them takes longer than measuring."""
    section, count = SECTIONS[name], 1 if name in ("long-take", "fast") else 2
    drawn = take_cases(count, SEED, SHORT_TAKE_S) if name == "long-take" else section.cases(count, SEED)
    cases = [replace(case, truth=functools.cache(case.truth)) for case in drawn]
    return replace(section, cases=lambda count, seed: cases)


class WrongMaker:
    """Spoils what a perfect model would make."""

    def __init__(self, spoil: Wrong) -> None:
        self.spoil = spoil

    def missing(self, roles: Sequence[str]) -> list[str]:
        return []

    def make(self, case: Case) -> Sequence[Shown]:
        return self.spoil(case, case.truth())


@pytest.mark.parametrize("name", SECTIONS)
def test_perfect_clips_reach_every_target(name: str) -> None:
    report = evaluate_section(short(name), TruthMaker(), 2, SEED)
    assert set(report.rows) == {row.name for row in SECTIONS[name].rows}
    assert report.passed, (report.rows, report.misses)


# --- wrong clips ----------------------------------------------------------------------------------------


def on(scene: Callable[[Scene], Scene]) -> Wrong:
    """Every clip is of another scene."""
    return lambda case, shown: [replace(one, **_clip_of(scene(case.scene))) for one in shown]


def _clip_of(scene: Scene) -> dict[str, np.ndarray]:
    clip = shown_of(scene)
    return {"frames": clip.frames, "waveform": clip.waveform}


def with_subject(**changes: object) -> Callable[[Scene], Scene]:
    return lambda scene: replace(scene, subjects=tuple(replace(s, **changes) for s in scene.subjects))


def frames(change: Callable[[np.ndarray], np.ndarray]) -> Wrong:
    return lambda case, shown: [replace(one, frames=change(one.frames)) for one in shown]


def sound(change: Callable[[np.ndarray], np.ndarray]) -> Wrong:
    return lambda case, shown: [replace(one, waveform=change(one.waveform)) for one in shown]


def click_at(seconds: float, height: float = 0.3) -> Wrong:
    def click(waveform: np.ndarray) -> np.ndarray:
        waveform = waveform.copy()
        waveform[:, round(seconds * 48_000) :] += height
        return waveform

    return sound(click)


def louder_from(seconds: float) -> Wrong:
    def louder(waveform: np.ndarray) -> np.ndarray:
        gain = np.where(np.arange(waveform.shape[1]) < seconds * 48_000, 1, 4)
        return waveform * gain.astype(np.float32)

    return sound(louder)


def unchanged(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    """The retake that gave the clip back."""
    return [case.facts["clip"]]


def gray(picture: np.ndarray) -> np.ndarray:
    return np.full_like(picture, 128)


def not_followed(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    """Every clip is of the other scene, whatever the reference."""
    return [shown[1]] * len(shown)


def coded_only(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    """The picture at full strength is not the given one, at every strength alike."""
    return [shown[0], *(replace(one, frames=one.frames[::-1]) for one in [shown[-1]] * 4)]


def swapped(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    return list(shown)[::-1]


def ask_ignored(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    return [shown[0] for _ in shown]


def silenced(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    return [shown[0], replace(shown[1], waveform=np.zeros_like(shown[1].waveform))]


def jump_at_seams(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    """The subject stands elsewhere after each seam."""
    made = shown[0].frames.copy()
    for first, end in zip(shown[0].seams, [*shown[0].seams[1:], len(made)], strict=True):
        made[first:end] = np.roll(made[first:end], 12 * (1 + shown[0].seams.index(first)), axis=2)
    return [replace(shown[0], frames=made)]


def clicks_at_seams(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    made = shown[0].waveform.copy()
    for seam in shown[0].seams:
        made[:, round(seam / 24 * 48_000) :] *= -1
        made[:, round(seam / 24 * 48_000)] += 0.2
    return [replace(shown[0], waveform=made)]


def drifting(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    """From the second seam on the subject has another colour."""
    made, other = shown[0].frames.copy(), shown_of(recolored(case.scene)).frames
    made[shown[0].seams[1] :] = other[shown[0].seams[1] :]
    return [replace(shown[0], frames=made)]


def plainly_resized(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    height, width = case.facts["true"].shape[1:3]
    return [Shown(bicubic(shown[1].frames, width, height)), shown[1]]


def plainly_blended(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    low = shown[1].frames
    made = np.repeat(low, 2, axis=0)[:-1]
    made[1::2] = between(low)
    return [Shown(made), shown[1]]


def worse_and_slower(case: Case, shown: Sequence[Shown]) -> Sequence[Shown]:
    other = with_subject(action="rest", count=0)(recolored(case.scene))
    return [replace(shown[0], frames=shown_of(other).frames, seconds=2.0), shown[1]]


LATE = sound(lambda waveform: np.roll(waveform, round(0.11 * 48_000), axis=1))
WRONG: list[tuple[str, str, Wrong]] = [
    ("image", "first image", coded_only),
    ("image", "first image, coded", coded_only),
    ("image", "last image", coded_only),
    ("image", "last image, coded", coded_only),
    ("image", "less with less strength", coded_only),
    ("reference", "reference followed", frames(lambda f: f[::-1])),
    ("retake", "inside changes", unchanged),
    ("retake", "outside is kept", frames(lambda f: (f.astype(int) + 8).clip(0, 255).astype(np.uint8))),
    ("retake", "sound outside is kept", sound(lambda w: w + 0.01)),
    ("extend", "motion goes on", frames(lambda f: np.concatenate([f[:25], f[:24]]))),
    ("extend", "no click", click_at(25 / 24)),
    ("extend", "no step of loudness", louder_from(25 / 24)),
    ("audio-to-video", "beats seen", on(with_subject(delay_s=0.0))),
    ("audio-to-video", "beats seen", on(with_subject(action="rest", count=0))),
    ("video-to-audio", "events heard", LATE),
    ("video-to-audio", "events heard", sound(np.zeros_like)),
    ("sound-asked-against", "removed", ask_ignored),
    ("sound-asked-against", "others stay", silenced),
    ("timed-prompts", "colour in its part", frames(lambda f: f[::-1])),
    ("timed-prompts", "action in its part", on(with_subject(delay_s=0.0))),
    ("long-take", "colour kept", drifting),
    ("long-take", "seams unseen", jump_at_seams),
    ("long-take", "seams unheard", clicks_at_seams),
    ("fast", "behind pro", worse_and_slower),
    ("fast", "share of the time", worse_and_slower),
    ("upscale", "ahead of bicubic", plainly_resized),
    ("smooth", "ahead of blending", plainly_blended),
    ("character", "stripe by the name", swapped),
    ("character", "stripe without the name", swapped),
    ("identity", "pitch kept", swapped),
    ("dub", "on time", LATE),
    ("dub", "no more", LATE),
    ("dub", "voice kept", swapped),
    ("voice", "voice by its name", swapped),
    ("voice", "the same without the name", ask_ignored),
    ("voice", "other voices stay", swapped),
    *(
        (section.name, row.name, not_followed)
        for section in FOLLOWED
        for row in section.rows
        if row.target is not None
    ),
]


@pytest.mark.parametrize(("name", "row", "spoil"), WRONG, ids=[f"{n}: {r}" for n, r, _ in WRONG])
def test_wrong_clips_miss_the_target(name: str, row: str, spoil: Wrong) -> None:
    report = evaluate_section(short(name), WrongMaker(spoil), 2, SEED)
    assert report.met(row) is False, report.rows
    assert not report.passed
    assert report.misses


def test_every_target_has_a_wrong_clip_that_misses_it() -> None:
    targets = {(n, row.name) for n, s in SECTIONS.items() for row in s.rows if row.target is not None}
    assert {(n, r) for n, r, _ in WRONG} == targets


# --- cases and reports ----------------------------------------------------------------------------------


def test_cases_are_held_out_repeatable_and_ask_for_what_they_say() -> None:
    for name, section in SECTIONS.items():
        if section.needs or name == "long-take":
            continue
        first, again = section.cases(2, 5), section.cases(2, 5)
        assert [case.scene for case in first] == [case.scene for case in again]
        assert all(len(case.asks) == len(case.truth()) for case in first)


def test_every_request_can_be_planned_on_nano() -> None:
    nano = find_model("nano")
    for section in SECTIONS.values():
        if section.needs:
            continue
        for case in section.cases(2, 1):
            shape = case.scene.shape
            for ask in case.asks:
                if isinstance(ask, Request):
                    plan = plan_request(ask, nano)
                    assert (plan.num_frames, plan.height, plan.width) == (
                        shape.num_frames,
                        shape.height,
                        shape.width,
                    )


def test_a_retake_is_of_whole_latents() -> None:
    """What the section takes to be outside is what the engine keeps."""
    case = SECTIONS["retake"].cases(1, 0)[0]
    use = plan_request(case.asks[0], find_model("nano")).passes[0].source
    assert use.video_made == ((4, 6),)


def test_what_was_not_measured_is_said_and_never_passes(stand_in: StageMaker) -> None:
    report = evaluate_section(SECTIONS["fast"], stand_in)
    assert report.passed is None
    assert report.not_measured == (
        "fast: not measured; there is no spatial x2 upsampler (spatial_x2.safetensors) and no distilled LoRA "
        "(distilled_lora.safetensors)"
    )
    assert report.not_measured in report.to_markdown()
    assert json.loads(report.to_json())["passed"] is None


def test_what_follows_references_needs_a_lora(stand_in: StageMaker) -> None:
    report = evaluate_section(SECTIONS["edges"], stand_in)
    assert report.not_measured == "edges: not measured; there is no LoRA (--lora FILE)"
    with_one = StageMaker(stand_in.stage, stand_in.parts, {"loras": ("edges.safetensors",)})
    assert with_one.missing(SECTIONS["edges"].needs) == []


def test_a_case_of_a_reference_asks_with_it_without_it_and_with_anothers() -> None:
    (case,) = SECTIONS["depth"].cases(1, 4)
    right, none, wrong = (ask.references for ask in case.asks if isinstance(ask, Request))
    assert not none
    assert len({ask.prompt for ask in case.asks if isinstance(ask, Request)}) == 1
    assert np.array_equal(right[0].video.frames, case.facts["pair"].reference)
    assert not np.array_equal(wrong[0].video.frames, case.facts["pair"].reference)


def test_a_row_without_samples_is_no_pass() -> None:
    section = SECTIONS["sound-asked-against"]
    report = evaluate_section(section, WrongMaker(lambda case, shown: [shown[1], shown[1]]), 1, seed=3)
    assert "removed" not in report.rows
    assert report.passed is None


def test_reports_say_target_range_and_whether_it_is_met() -> None:
    report = Report(2, 0, section="image", meanings={"kept": "PSNR", "fell": "cases"})
    report.targets = {"kept": Target(28.0, "dB"), "fell": Target(0.9)}
    report.rows = {"kept": Spread((20.0, 30.0)), "fell": Outcome(2, 2)}
    assert not report.passed
    rows = json.loads(report.to_json())["rows"]
    assert rows["kept"] | {"range": None} == {
        "mean": 25.0,
        "range": None,
        "total": 2,
        "target": ">= 28 dB",
        "met": False,
    }
    assert rows["kept"]["range"] == [20.0, 30.0]
    assert rows["fell"]["met"] is True
    line = "| kept | 25.00 dB | range 20.00 to 30.00 | 2 | PSNR; >= 28 dB: not met |"
    assert line in report.to_markdown()


def test_comparisons_are_what_they_are_called() -> None:
    black, level = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 10, np.uint8)
    assert psnr(black, level) == pytest.approx(20 * np.log10(25.5))
    assert between(np.stack([black[0], level[0]]))[0].max() == 5
    ramp = np.tile(np.linspace(0, 1, 48_001, dtype=np.float32), (2, 1))
    ramp[:, 24_000:] += 0.5
    assert step_ratio(ramp, (0.4, 0.6), (0.0, 0.2)) == pytest.approx(50, rel=0.01)


# --- through the engine ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StageMaker:
    """An engine over a tiny model of random weights."""
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    parts = TinyParts(model, torch.device("cpu"), torch.float32)
    return StageMaker(Engine(model, parts=parts), parts, {"steps": 1})


def smaller(section: Section) -> Section:
    """One case of the section at 64 x 64 pixels; its requests go to the engine as they are otherwise."""

    def cases(count: int, seed: int) -> list[Case]:
        scene = next(iter(section.cases(count, seed))).scene
        shape = replace(scene.shape, height=64, width=64, num_frames=9)
        tiny = replace(scene, shape=shape)
        return [Case(tiny, (request_of(tiny),), lambda: (shown_of(tiny),))]

    return replace(section, cases=cases)


def test_a_section_runs_through_the_engine_and_random_weights_miss(stand_in: StageMaker) -> None:
    section, seen = smaller(SECTIONS["reference"]), []
    report = evaluate_section(section, stand_in, 1, on_case=lambda case, shown: seen.append(shown))
    assert seen[0][0].frames.shape == (9, 64, 64, 3)
    assert seen[0][0].waveform is not None
    assert seen[0][0].seconds > 0
    assert report.rows == {"reference followed": Outcome(0, 1)}
    assert report.passed is False


def test_seams_of_a_take_are_where_its_windows_begin_anew(stand_in: StageMaker) -> None:
    scene = SECTIONS["long-take"].cases(1, 0)[0].scene
    tiny = replace(scene, shape=replace(scene.shape, height=64, width=64, num_frames=57))
    made = stand_in.clip(request_of(tiny, take=Take(window_frames=33, overlap_frames=16)))
    assert made.frames.shape[0] == 57
    assert made.seams == (33,)


def test_overrides_leave_recipes_of_fixed_steps_alone(stand_in: StageMaker) -> None:
    scene = SECTIONS["long-take"].cases(1, 0)[0].scene
    with pytest.raises(RequestError, match="recipe 'draft' needs the distilled LoRA") as caught:
        stand_in.clip(request_of(scene, num_frames=9, recipe="draft"))
    assert "steps is 1" not in str(caught.value)


def test_pictures_go_through_the_vae(stand_in: StageMaker) -> None:
    (shown,) = stand_in.make(
        Case(SECTIONS["image"].cases(1, 0)[0].scene, (Recode(np.zeros((9, 64, 64, 3), np.uint8)),), tuple)
    )
    assert shown.frames.shape == (9, 64, 64, 3)
    assert shown.frames.dtype == np.uint8


def test_perfect_clips_can_be_seen_through_the_codecs(stand_in: StageMaker) -> None:
    (case,) = smaller(SECTIONS["reference"]).cases(1, 0)
    (true,), (coded,) = case.truth(), CodedMaker(stand_in).make(case)
    assert coded.frames.shape == true.frames.shape
    assert psnr(coded.frames, true.frames) < 20  # random weights
    assert abs(coded.waveform.shape[1] - true.waveform.shape[1]) < 0.05 * 48_000


# --- on the command line --------------------------------------------------------------------------------


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["nano", "evaluate", *(str(word) for word in words)])


def test_sections_are_measured_by_name_and_kept(tmp_path: Path) -> None:
    asked = ("--section", "upscale", "--section", "retake", "--prompts", 1, "--ground-truth")
    result = call(*asked, "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    reports = json.loads(result.stdout)
    assert list(reports) == ["retake", "upscale"]
    assert all(report["passed"] for report in reports.values())
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {"report.json", "report.md", "retake-01-0.mp4", "upscale-01-0.mp4", "upscale-01-1.mp4"}
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == reports


def test_one_section_is_one_report(tmp_path: Path) -> None:
    result = call("--section", "retake", "--prompts", 1, "--ground-truth")
    assert result.exit_code == 0, result.stderr
    assert "outside is kept" in result.stdout
    assert "retake: measured 1 of 1" in result.stderr


def test_an_unknown_section_is_refused_with_those_there_are() -> None:
    result = call("--section", "retakes")
    assert result.exit_code == 2
    assert (
        "--section is 'retakes'; the sections are retake, tracks, prompts, image, reference," in result.stderr
    )
