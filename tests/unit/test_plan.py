"""Plans: snapping, token counts, passes, and all problems at once; without torch or weights."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import soundstage as ss
from soundstage.conditioning.pixels import strided
from soundstage.errors import ConfigError, RequestError, WeightsError
from soundstage.library.model_files import EXTRAS, SHIPPED_MODELS, ModelSet, find_model
from soundstage.planning.grid import snap_frames, snap_side
from soundstage.planning.long_take import plan_request
from soundstage.planning.plan import LoraUse, Plan
from soundstage.planning.planner import make_plan
from soundstage.planning.resolve import ResolvedRequest
from soundstage.request.defaults import Defaults
from soundstage.request.request import Request
from soundstage.sampling import schedules
from soundstage.sampling.scales import NEUTRAL, Scales


def plan(defaults: Defaults | None = None, **fields: Any) -> Plan:
    model = ModelSet("test", Path("nowhere"), defaults or Defaults())
    return make_plan(Request(**{"prompt": "a", **fields}), model)


@pytest.mark.parametrize(
    ("asked", "used"), [(1, 32), (32, 32), (47, 32), (48, 64), (130, 128), (200, 192), (720, 736)]
)
def test_sides_snap_to_the_nearest_multiple_of_32(asked: int, used: int) -> None:
    assert snap_side(asked) == used


@pytest.mark.parametrize(("asked", "used"), [(1, 1), (4, 1), (5, 9), (9, 9), (48, 49), (49, 49), (120, 121)])
def test_frames_snap_to_the_nearest_8k_plus_1(asked: int, used: int) -> None:
    assert snap_frames(asked) == used


def test_snapping_is_announced_and_only_then() -> None:
    snapped = plan(size=(200, 130), duration_s=2.0)
    assert (snapped.width, snapped.height, snapped.num_frames) == (192, 128, 49)
    assert [str(snap) for snap in snapped.snaps] == [
        "size: 200x130 -> 192x128 (multiples of 32)",
        "duration: 2 s -> 2.042 s (49 frames at 24 fps, 8k+1)",
    ]
    assert plan(size=(192, 128), num_frames=49).snaps == ()
    assert [snap.field for snap in plan(num_frames=50).snaps] == ["frames"]


def test_token_counts_are_the_published_ones() -> None:
    assert plan(size=(768, 512), num_frames=121).passes[0].video_tokens == 6144
    assert plan(size=(384, 320), num_frames=129).passes[0].video_tokens == 2040
    assert plan(num_frames=121, fps=24).passes[0].audio_tokens == 126


def test_a_plan_is_short_in_a_terminal_and_whole_in_a_notebook() -> None:
    made = plan(size=(192, 128), num_frames=49, steps=20, recipe="single")
    assert repr(made) == "<Plan: test: 49 frames of 192x128 (2.04 s) with sound, 20 steps>"
    shown = re.sub(r"</?pre[^>]*>", "", made._repr_html_())
    assert html.unescape(shown) == str(made)


def test_the_dev_model_runs_thirty_steps_of_four_forwards() -> None:
    made = plan()
    assert made.passes[0].kinds == ("cond", "uncond", "perturbed", "isolated")
    assert made.num_forwards == 120
    assert made.passes[0].sigmas == schedules.ltx2(30)
    assert (made.passes[0].video.cfg, made.passes[0].audio.cfg) == (3, 7)
    assert made.negative_prompt == Defaults().negative_prompt


def test_one_guidance_sets_both_modalities_and_one_of_its_own_wins() -> None:
    p = plan(guidance=2, audio_guidance=5, stg=0, modality_guidance=1).passes[0]
    assert (p.video.cfg, p.audio.cfg) == (2, 5)
    assert p.kinds == ("cond", "uncond")


def test_without_guidance_there_is_no_negative_prompt() -> None:
    unguided = Defaults(video=NEUTRAL, audio=NEUTRAL, schedule="distilled", steps=8)
    made = plan(unguided)
    assert made.passes[0].kinds == ("cond",)
    assert made.passes[0].sigmas == schedules.DISTILLED
    assert made.negative_prompt is None
    assert plan(negative_prompt="x").negative_prompt == "x"
    with pytest.raises(RequestError, match="negative_prompt is given, but this runs without guidance"):
        plan(unguided, negative_prompt="x")


def test_one_modality_alone_has_no_isolated_pass() -> None:
    p = plan(modalities={"video"}).passes[0]
    assert p.audio is None
    assert p.audio_tokens == 0
    assert p.kinds == ("cond", "uncond", "perturbed")


def test_presets_are_the_models_own() -> None:
    nano = Defaults(size=(192, 128), presets={"landscape": (192, 128), "portrait": (128, 192)})
    assert (plan(nano, size="portrait").width, plan(nano, size="portrait").height) == (128, 192)
    with pytest.raises(RequestError, match="size is 'square'; the sizes of this model are landscape"):
        plan(nano, size="square")


def test_all_problems_come_together() -> None:
    nano = Defaults(presets={}, video=Scales(), audio=Scales())
    with pytest.raises(RequestError) as caught:
        plan(nano, size="square", duration_s=60, recipe="quick", stg=1)
    message = str(caught.value)
    assert "size is 'square'" in message
    assert "at most 20 s" in message
    assert "recipe is 'quick'; the recipes are single, fast, pro" in message
    nothing = {"sigmas": (0.5, 0.7), "stg": 0, "modality_guidance": 1}
    with pytest.raises(RequestError, match=r"last 60.04 s.*; sigmas must fall"):
        plan(nano, duration_s=60, **nothing)


def test_stg_needs_a_model_that_names_its_blocks() -> None:
    with pytest.raises(RequestError, match="names no blocks"):
        plan(Defaults(video=Scales(), audio=Scales()), stg=1)


def test_a_plan_prints_and_serialises() -> None:
    made = plan(size=(200, 130), duration_s=2.0)
    text = str(made)
    for word in ("192x128", "49 frames", "168 video, 51 audio", "snapped", "guidance 7", "missing"):
        assert word in text
    data = json.loads(made.to_json())
    assert data["passes"][0]["video_tokens"] == 168
    assert Request(**data["request"]) == made.request


def test_defaults_round_trip_and_reject_unknown_keys() -> None:
    defaults = Defaults(size=(192, 128), video=Scales(cfg=2, stg_blocks=(1,)), audio=NEUTRAL)
    data = json.loads(json.dumps(defaults.to_dict()))
    assert Defaults.from_dict(data, "bundle.json") == defaults
    with pytest.raises(ConfigError, match=r"bundle\.json: 'colour' is not a field of Defaults"):
        Defaults.from_dict({"colour": 1}, "bundle.json")
    with pytest.raises(ConfigError, match="size has 3 entries; give at most 2"):
        Defaults.from_dict({"size": [1, 2, 3]}, "bundle.json")
    with pytest.raises(ConfigError, match=r"size\[1\] is missing; give one"):
        Defaults.from_dict({"size": [1]}, "bundle.json")
    with pytest.raises(ConfigError, match=r"video\.power is not a field; the fields of video are cfg"):
        Defaults.from_dict({"video": {"power": 9000}}, "bundle.json")


def test_a_folder_without_weights_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lacks .*transformer\.safetensors.*tokenizer\.json"):
        find_model(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(WeightsError, match=r"bundle\.json is not JSON"):
        find_model(tmp_path)


# --- recipes of many passes -----------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> ModelSet:
    """The 22B's defaults, with every optional file."""
    for name, _ in EXTRAS.values():
        (tmp_path / name).symlink_to(SHIPPED_MODELS["nano"] / name)
    return ModelSet("test", tmp_path, Defaults())


def planned(model: ModelSet, **fields: Any) -> Plan:
    return make_plan(Request(**{"prompt": "a", **fields}), model)


def test_evaluations_are_the_published_counts(model: ModelSet) -> None:
    counts = {name: planned(model, recipe=name).num_forwards for name in ("fast", "pro", "hq", "single")}
    assert counts == {"fast": 8 + 3, "pro": 30 * 4 + 3, "hq": (2 * 15 + 1) * 3 + (2 * 3 + 1), "single": 120}


def test_passes_have_their_own_sizes_and_one_seed(model: ModelSet) -> None:
    made = planned(model, recipe="three-stage", size="1080p", num_frames=121, seed=5)
    assert [(p.width, p.height) for p in made.passes] == [(480, 256), (960, 512), (1920, 1024)]
    assert [str(snap) for snap in made.snaps] == ["size: 1920x1080 -> 1920x1024 (multiples of 128)"]
    assert [p.frozen for p in made.passes] == [(), ("audio",), ("audio",)]
    assert [p.seed for p in made.passes] == [5, None, None]
    assert {p.audio_tokens for p in made.passes} == {126}


def test_names_of_sizes_at_every_height_and_turn(model: ModelSet) -> None:
    sizes = {name: planned(model, size=name) for name in ("720p", "720p-portrait", "720p-square", "4k")}
    assert [(p.width, p.height) for p in sizes.values()] == [
        (1280, 736),
        (736, 1280),
        (960, 960),
        (3840, 2176),
    ]
    with pytest.raises(RequestError, match=r"size is '999p'; the sizes of this model are .* 2160p"):
        planned(model, size="999p")


@pytest.mark.parametrize("fps", [24, 25, 48, 50])
@pytest.mark.parametrize("duration_s", [5, 20])
def test_lengths_and_rates_of_the_large_model(model: ModelSet, fps: float, duration_s: float) -> None:
    made = planned(model, fps=fps, duration_s=duration_s - 0.3)
    assert (made.num_frames - 1) % 8 == 0
    assert made.duration_s == pytest.approx(duration_s - 0.3, abs=0.17)
    assert made.passes[0].audio_tokens == round(made.duration_s * 25)


def test_smooth_makes_half_the_frames_first(model: ModelSet) -> None:
    made = planned(model, recipe="smooth", duration_s=2.0)
    assert made.fps == 48
    assert [(p.num_frames, p.fps) for p in made.passes] == [(49, 24), (97, 48)]
    assert made.passes[1].upsample == ("space-x2", "time-x2")
    thinned = planned(model, thin=2, fps=24, num_frames=49)
    assert (thinned.num_frames, thinned.fps) == (97, 48)


def test_a_request_changes_the_first_pass_only(model: ModelSet) -> None:
    made = planned(model, recipe="pro", steps=7, sampler="res_2s", video_scales={"cfg": 5, "skip_step": 1})
    first, second = made.passes
    assert (len(first.sigmas), first.sampler, first.video.cfg, first.video.skip_step) == (8, "res2s", 5, 1)
    assert (second.sigmas, second.sampler, second.video) == (schedules.REFINE, "euler", NEUTRAL)
    assert first.audio.cfg == 7


def test_negative_prompts_by_modality(model: ModelSet) -> None:
    made = planned(model, negative_prompt="rain", audio_negative_prompt="music")
    assert (made.video_negative, made.audio_negative) == ("rain", "music")
    nag = planned(model, recipe="fast", audio_scales={"nag": 11}, audio_negative_prompt="music")
    assert nag.passes[0].kinds == ("cond",)
    assert nag.audio_negative == "music"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"recipe": "fast", "steps": 20}, "steps is 20, but recipe 'fast' has a fixed list"),
        (
            {"recipe": "fast", "schedule": "linear"},
            "schedule is 'linear', but recipe 'fast' has a fixed list",
        ),
        ({"recipe": "fast", "negative_prompt": "x"}, "runs without guidance, so nothing would read it"),
        ({"recipe": "fast", "modalities": {"audio"}}, "refines the picture, but only sound is made"),
        ({"modalities": {"audio"}, "size": "720p"}, "size is '720p', but only sound is made"),
        ({"modalities": {"audio"}, "video_guidance": 2}, "video_guidance is 2.0, but only sound is made"),
        ({"modalities": {"video"}, "audio_guidance": 2}, "audio_guidance is 2.0, but only a picture is made"),
        ({"modalities": {"video"}, "modality_guidance": 2}, "needs picture and sound together"),
        ({"modalities": {"video"}, "audio_negative_prompt": "x"}, "but only a picture is made"),
        ({"sampler": "magic"}, "sampler is 'magic'; the samplers are euler"),
        ({"schedule": "magic"}, "schedule is 'magic'; the schedules are"),
        ({"video_scales": {"power": 1}}, "video_scales has no 'power'; it has apg_eta"),
        ({"recipe": "upscale"}, "recipe 'upscale' starts from a clip; give source.video"),
        ({"guides": [{"image": "no.png"}]}, r"guides\[0\].image: there is no file no\.png"),
        ({"audio": {"file": "no.wav"}}, r"audio.file: there is no file no\.wav"),
        ({"audio": {"file": np.zeros((2, 48_000)), "start_s": 2}}, "start_s is 2, but .* lasts 1 s"),
        ({"loras": [{"path": "no.safetensors"}]}, r"loras\[0\]: there is no file no\.safetensors"),
    ],
)
def test_what_would_be_ignored_or_is_missing_is_refused(
    model: ModelSet, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(RequestError, match=says):
        planned(model, **fields)


def test_missing_weights_of_a_recipe_are_problems() -> None:
    with pytest.raises(RequestError) as caught:
        plan(recipe="smooth", guidance=3)
    for what in ("spatial x2 upsampler", "temporal x2 upsampler", "distilled LoRA"):
        assert f"recipe 'smooth' needs the {what}, and there is no nowhere/" in str(caught.value)


def test_a_distilled_model_needs_no_distilled_lora(model: ModelSet) -> None:
    distilled = ModelSet("test", model.folder, Defaults(distilled=True))
    assert planned(distilled, recipe="fast").passes[0].loras == ()
    path = str(model.folder / "distilled_lora.safetensors")
    assert [u.path for u in planned(model, recipe="fast").passes[1].loras] == [path]


# --- inputs ---------------------------------------------------------------------------------------------


def still() -> np.ndarray:
    return np.zeros((64, 96, 3), np.uint8)


def film(
    num_frames: int, fps: float = 24.0, *, silent: bool = False, size: tuple[int, int] = (96, 64)
) -> ss.Clip:
    sound = None if silent else np.zeros((2, round(num_frames / fps * 48_000)), np.float32)
    return ss.Clip(np.zeros((num_frames, size[1], size[0], 3), np.uint8), sound, fps)


def conditions(**fields: Any) -> list[tuple[Any, ...]]:
    made = plan(**{"num_frames": 49, "size": (96, 64), **fields}).passes[0].conditions
    return [(c.kind, c.frame, c.num_frames, c.num_latents, c.tokens) for c in made]


def test_guides_go_in_place_at_the_start_and_beside_elsewhere() -> None:
    guides = [
        ss.Guide(still()),
        ss.Guide(still(), 1.0),
        ss.Guide(still(), "last"),
        ss.Guide(still(), frame=-1),
    ]
    assert conditions(guides=guides) == [
        ("replace", 0, 1, 1, 0),
        ("guide", 24, 1, 1, 6),
        ("guide", 48, 1, 1, 6),
        ("guide", 48, 1, 1, 6),
    ]


def test_clips_as_guides_are_whole_latents() -> None:
    guides = [
        ss.Guide(film(20)),
        ss.Guide(film(20), frame=20),
        ss.Guide(film(20), "before"),
        ss.Guide(film(90), frame=1, mode="replace"),
        ss.Guide(film(20, fps=12.0), frame=1),
    ]
    assert conditions(guides=guides) == [
        ("replace", 0, 17, 3, 0),
        ("guide", 17, 16, 2, 12),
        ("guide", -16, 16, 2, 12),
        ("replace", 1, 48, 6, 0),
        ("guide", 1, 32, 4, 24),
    ]


def test_guides_in_a_pass_of_half_the_frames(model: ModelSet) -> None:
    guides = [ss.Guide(still(), 1.0), ss.Guide(still(), "last"), ss.Guide(still(), frame=-3)]
    made = planned(model, recipe="smooth", guides=guides, num_frames=97, fps=48)
    assert [[c.frame for c in p.conditions] for p in made.passes] == [[24, 48, 47], [48, 96, 94]]


@pytest.mark.parametrize(
    ("guide", "says"),
    [
        (ss.Guide(still(), 9.0), "at is 9 s, but the last frame is at 2 s; give an earlier time or 'last'"),
        (ss.Guide(still(), frame=49), "frame is 49, but the last frame"),
        (ss.Guide(film(5), frame=20), r"5 frame\(s\) that fit; a clip inside the film needs at least 8"),
    ],
)
def test_guides_that_do_not_fit_are_refused(guide: ss.Guide, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        conditions(guides=[guide])


def test_references_are_smaller_and_sparser() -> None:
    references = [ss.Reference(film(49)), ss.Reference(film(30), downscale=2, temporal=2)]
    assert conditions(references=references, size=(192, 128)) == [
        ("reference", 0, 49, 7, 7 * 24),
        ("reference", 0, 9, 2, 2 * 6),
    ]
    snapped = plan(references=references, size=(200, 100))
    assert (snapped.width, snapped.height) == (192, 128)


def write_lora(path: Path, **metadata: str) -> str:
    factor = np.ones((1, 1), np.float32)
    names = (f"diffusion_model.patchify_proj.lora_{side}.weight" for side in "AB")
    save_file(dict.fromkeys(names, factor), path, metadata)
    return str(path)


def test_an_in_context_lora_says_how_small_its_reference_is(model: ModelSet, tmp_path: Path) -> None:
    """It works where references are seen: not in a refining pass."""
    lora = write_lora(tmp_path / "union.safetensors", reference_downscale_factor="2")
    style = write_lora(tmp_path / "style.safetensors")
    made = planned(
        model,
        recipe="fast",
        size=(768, 512),
        references=[ss.Reference(film(49))],
        loras=[ss.Lora(lora), ss.Lora(style, 0.5), ss.Lora(style, 0.7, passes=["refine"])],
    )
    assert [c.downscale for c in made.passes[0].conditions] == [2]
    assert made.passes[1].conditions == ()
    used = [[(Path(u.path).stem, u.strength) for u in p.loras][1:] for p in made.passes]
    assert used == [[("union", 1), ("style", 0.5)], [("style", 0.5), ("style", 0.7)]]
    other = write_lora(tmp_path / "other.safetensors", reference_downscale_factor="3")
    with pytest.raises(RequestError, match=r"different reference factors \(downscale: 2, 3\)"):
        planned(model, loras=[ss.Lora(lora), ss.Lora(other)])
    with pytest.raises(RequestError, match=r"passes names 'third'; recipe 'fast' has draft, refine"):
        planned(model, recipe="fast", loras=[ss.Lora(lora, passes=["third"])])


def test_groups_of_a_lora_are_in_the_plan(model: ModelSet, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "style.safetensors")
    made = planned(model, loras=[ss.Lora(path, 0.8, groups={"audio": 0.5, "v2a": 0})])
    (use,) = made.passes[0].loras
    assert use == LoraUse(path, 0.8, None, {"audio": 0.5, "v2a": 0})
    assert f"lora    {path} at 0.8, audio 0.5, v2a 0\n" in f"{made}\n"
    assert json.loads(made.to_json())["passes"][0]["loras"][0]["groups"] == {"audio": 0.5, "v2a": 0}


def test_groups_are_the_same_in_all_spans_of_a_pass(model: ModelSet, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "style.safetensors")
    early = ss.Lora(path, 0.8, ss.Span(0, 1), groups={"audio": 0.5})
    late = ss.Lora(path, 0.4, ss.Span(1, 2), groups={"audio": 0})
    with pytest.raises(
        RequestError, match=r"^loras has .*style\.safetensors with different groups in spans"
    ) as e:
        planned(model, loras=[early, late])
    assert e.value.field == "loras"
    same = planned(model, loras=[early, ss.Lora(path, 0.4, ss.Span(1, 2), groups={"audio": 0.5})])
    assert [use.groups for use in same.passes[0].loras] == [{"audio": 0.5}] * 2
    apart = [
        ss.Lora(path, 1, ss.Span(0, 1), (name,), {"audio": x}) for name, x in (("draft", 0), ("refine", 2))
    ]
    made = planned(model, recipe="fast", loras=apart)
    assert [p.loras[-1].groups for p in made.passes] == [{"audio": 0}, {"audio": 2}]


def test_a_source_gives_the_size_the_rate_and_the_length() -> None:
    made = plan(source=ss.Source(film(50, 25.0), regenerate=[ss.Span(1, 1.5)]))
    assert (made.width, made.height, made.num_frames, made.fps) == (96, 64, 57, 25)
    assert (made.num_shown, made.duration_s, made.snaps) == (50, 2.0, ())
    assert "50 frames at 25 fps, 2 s, video and audio, cut back from 57 frames that are made" in str(made)
    use = made.passes[0].source
    assert (use.video, use.audio, use.video_made, use.audio_made) == ("part", "part", ((4, 6),), ((25, 39),))
    with pytest.raises(RequestError, match="fps is 24, but the source has 25"):
        plan(source=ss.Source(film(50, 25.0), regenerate=[ss.Span(1, 1.5)]), fps=24)
    with pytest.raises(RequestError, match=r"regenerate begins at 3 s, but the clip ends at 2 s"):
        plan(source=ss.Source(film(50, 25.0), regenerate=[ss.Span(3, 4)]))


def test_extensions_are_whole_latents_and_feathered() -> None:
    after = plan(source=ss.Source(film(49), extend_after_s=0.9))
    assert after.num_frames == 49 + 24
    assert after.passes[0].source.video_made == ((5, 10),)
    before = plan(source=ss.Source(film(49), extend_before_s=1.0, feather_s=0))
    assert (before.passes[0].source.before, before.passes[0].source.video_made) == (24, ((0, 4),))


def test_what_changes_is_told_up_to_the_films_end() -> None:
    made = plan(source=ss.Source(film(24), regenerate=[ss.Span(0.8, 9.0)]))
    assert any("to 1.00 s) and 0.77 to 1.00 s of the sound" in notice for notice in made.notices)


def test_stretches_that_overlap_are_one() -> None:
    spans = [ss.Span(0.5, 1.2), ss.Span(0, 1), ss.Span(0.2, 0.4)]
    parts = plan(source=ss.Source(film(72), regenerate=spans))
    whole = plan(source=ss.Source(film(72), regenerate=[ss.Span(0, 1.2)]))
    assert (parts.passes[0].source, parts.notices) == (whole.passes[0].source, whole.notices)


def test_a_film_that_is_too_long_has_no_other_fault() -> None:
    with pytest.raises(RequestError, match=r"makes at most 20 s at once, [^;]*$"):
        plan(source=ss.Source(film(24 * 21), regenerate=[ss.Span(10, 11)]))


@pytest.mark.parametrize("count", [1, 2, 7, 16, 24, 33])
def test_an_extension_keeps_half_of_a_short_source(count: int) -> None:
    for ends in ({"extend_after_s": 0.5}, {"extend_before_s": 0.5}):
        made = plan(source=ss.Source(film(count), **ends))
        use = made.passes[0].source
        kept = [i for i in range(use.before, use.before + count) if not is_made(i, use.video_made)]
        assert len(kept) >= (count - 8) / 2
        assert 0 in kept or use.before > 0  # its first latent is one frame
    both = plan(source=ss.Source(film(49), extend_after_s=0.5, extend_before_s=0.5)).passes[0].source
    assert sum(not is_made(i, both.video_made) for i in range(both.before, both.before + 49)) >= 16


def is_made(frame: int, latents: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= -(-frame // 8) < end for first, end in latents)


def test_what_is_given_whole_is_not_made() -> None:
    silent = plan(source=ss.Source(film(49, silent=True), modalities={"audio"}))
    assert (silent.passes[0].frozen, silent.passes[0].video) == (("video",), NEUTRAL)
    driven = plan(audio=ss.Audio(np.zeros((2, 96_000), np.float32)), num_frames=49)
    assert (driven.driven, driven.passes[0].frozen, driven.passes[0].audio) == (True, ("audio",), NEUTRAL)
    with pytest.raises(RequestError, match=r"the sound is given .* and not made"):
        plan(audio=ss.Audio(np.zeros((2, 96_000), np.float32)), audio_guidance=3)
    with pytest.raises(RequestError, match="guides is given, but the picture is kept"):
        plan(source=ss.Source(film(49, silent=True), modalities={"audio"}), guides=[ss.Guide(still())])
    with pytest.raises(RequestError, match="thin is 2, but a source keeps its own frames"):
        plan(source=ss.Source(film(49, silent=True), modalities={"audio"}), thin=2)
    with pytest.raises(RequestError, match="everything is given and nothing would be made"):
        plan(
            source=ss.Source(film(49, silent=True), modalities={"audio"}),
            audio=ss.Audio(np.zeros((2, 96_000), np.float32)),
        )


def test_denoising_starts_late_in_the_list() -> None:
    made = plan(source=ss.Source(film(49), denoise=0.5), schedule="linear", steps=10)
    assert made.passes[0].start == "source"
    assert made.passes[0].sigmas == pytest.approx([0.5 - 0.05 * i for i in range(11)])
    fixed = plan(source=ss.Source(film(49), denoise=0.8), sigmas=schedules.DISTILLED)
    assert fixed.passes[0].sigmas == (0.8, 0.725, 0.421875, 0.0)


def test_a_canvas_snaps_to_whole_cells_of_every_pass(model: ModelSet) -> None:
    source = ss.Source(film(49), canvas=ss.Canvas(right=100))
    made = planned(model, recipe="fast", source=source)
    assert (made.width, made.height) == (192, 64)
    assert [p.source.margins for p in made.passes] == [(0, 0, 64, 0), (0, 0, 128, 0)]
    assert made.passes[0].source.audio == "all"
    with pytest.raises(RequestError, match=r"source\.canvas of 0, 0, 200, 0 pixels does not fit 128x64"):
        planned(model, source=ss.Source(film(49), canvas=ss.Canvas(right=200)), size=(128, 64))


def test_a_plan_with_everything_prints_and_serialises(model: ModelSet) -> None:
    made = planned(
        model,
        recipe="fast",
        guides=[ss.Guide(still()), ss.Guide(still(), "last")],
        references=[ss.Reference(film(49))],
        source=ss.Source(film(49), regenerate=[ss.Span(0.5, 1)]),
        audio=ss.Audio(np.zeros((2, 48_000), np.float32), "identity"),
    )
    text = str(made)
    for words in (
        "from noise",
        "from previous then space-x2",
        "replace",
        "reference",
        "source  video: latents",
    ):
        assert words in text
    assert "beside them" in text
    data = json.loads(made.to_json())
    assert data["request"]["guides"][0]["image"]["array"] == "uint8 (1, 64, 96, 3)"
    assert data["passes"][0]["conditions"][0]["kind"] == "replace"


def test_the_schedule_is_shifted_for_the_length_the_model_says() -> None:
    fixed = Defaults.from_dict({}, "bundle.json")
    own = Defaults.from_dict({"schedule_tokens": None}, "bundle.json")
    assert Defaults.from_dict(own.to_dict(), "bundle.json") == own
    request = Request(prompt="A ball.", size=(192, 128), num_frames=49, steps=4)
    sigmas = [
        make_plan(request, ModelSet("test", Path("nowhere"), defaults)).passes[0].sigmas
        for defaults in (fixed, own)
    ]
    assert sigmas == [schedules.ltx2(4), schedules.ltx2(4, 7 * 6 * 4)]


def test_notices_are_in_the_plan_printed_and_told_once(tmp_path: Path) -> None:
    facts = ResolvedRequest(Request(prompt="a"), ModelSet("test", tmp_path, Defaults()))
    facts.notice("the picture is cut")
    facts.notice("the picture is cut")
    assert facts.notices == ["the picture is cut"]
    told = replace(plan(), notices=tuple(facts.notices))
    assert "notice    the picture is cut\n" in str(told)
    assert json.loads(told.to_json())["notices"] == ["the picture is cut"]


def test_beside_a_driving_sound_only_the_picture_has_a_negative_text() -> None:
    sound = ss.Audio(np.zeros((2, 96_000), np.float32))
    driven = plan(audio=sound, num_frames=49, negative_prompt="rain")
    assert (driven.video_negative, driven.audio_negative) == ("rain", None)
    retake = plan(source=ss.Source(film(49), regenerate=[ss.Span(1, 1.5)]), negative_prompt="rain")
    assert (retake.video_negative, retake.audio_negative) == ("rain", "rain")
    assert plan(negative_prompt="rain").audio_negative == "rain"


def test_a_dub_hears_the_whole_speaker_and_a_voice_ten_seconds(model: ModelSet) -> None:
    sound = np.zeros((2, 14 * 48_000), np.float32)
    speaker = {"references": [ss.Reference(film(49))], "audio": ss.Audio(sound, "identity")}
    dub = planned(model, recipe="dub", size=(128, 128), **speaker)
    assert dub.passes[0].added_audio == 14 * 25
    voice = planned(model, audio=ss.Audio(sound, "identity"))
    assert voice.passes[0].added_audio == 10 * 25
    assert "the voice lasts 14 s; only its first 10 s are heard" in voice.notices
    assert not any("heard" in notice for notice in dub.notices)


@pytest.mark.parametrize(("count", "temporal", "last"), [(16, 2, 15), (17, 2, 15), (16, 3, 13), (9, 1, 8)])
def test_a_reference_in_strides_keeps_its_tail(count: int, temporal: int, last: int) -> None:
    kept = strided(count, temporal)
    assert kept[:2] == [0, 1]
    assert kept[-1] == last
    latents = plan(num_frames=49, size=(96, 64), references=[ss.Reference(film(count), temporal=temporal)])
    condition = latents.passes[0].conditions[0]
    assert condition.num_frames == (len(kept) - 1) // 8 * 8 + 1


def test_adapters_and_what_they_follow_miss_each_other_aloud(model: ModelSet, tmp_path: Path) -> None:
    pose = write_lora(tmp_path / "pose.safetensors", reference_downscale_factor="1")
    style = write_lora(tmp_path / "style.safetensors")
    reference, voice = [ss.Reference(film(121))], ss.Audio(np.zeros((2, 48_000), np.float32), "identity")

    def told(model: ModelSet = model, **fields: Any) -> str:
        return "; ".join(planned(model, size=(192, 128), **fields).notices)

    assert "without an in-context LoRA" in told(references=reference)
    assert "without an in-context LoRA" in told(references=reference, loras=[ss.Lora(style)])
    assert told(references=reference, loras=[ss.Lora(pose)]) == ""
    assert "was trained to follow a reference clip, and no clip to follow is" in told(loras=[ss.Lora(pose)])
    assert "without an identity LoRA" in told(audio=voice)
    assert told(audio=voice, loras=[ss.Lora(style)]) == ""
    follower = ModelSet("test", model.folder, Defaults(follows=("references", "voices")))
    assert told(follower, references=reference, audio=voice) == ""
    assert "made for a dubbing LoRA" in told(recipe="dub", references=reference, audio=voice)
    for lacking in ({}, {"references": reference}, {"audio": voice}):
        with pytest.raises(RequestError, match="recipe 'dub' gives a speaker new words; give references"):
            told(recipe="dub", **lacking)


def test_sizes_that_a_model_fails_at_are_refused_and_larger_ones_told(model: ModelSet) -> None:
    limits = Defaults(size=(192, 128), fps=24, trained_pixels=192 * 128, max_pixels=65_536, trained_fps=24)
    small = ModelSet("small", model.folder, limits)
    assert planned(small).notices == ()
    (told,) = planned(small, size=(256, 192)).notices
    assert told == (
        "256x192 is larger than what small was trained on, and it may show things twice; it does best at "
        "160x128 or so"
    )
    refusal = r"the film would be 384x256, and above 65,536 pixels .* 1(92|28)x128 or so"
    for recipe in ("single", "fast", "three-stage"):
        with pytest.raises(RequestError, match=refusal) as caught:
            planned(small, size=(384, 256), recipe=recipe)
        assert caught.value.field == "size"
        assert planned(small, size=(384, 256), recipe=recipe, allow_unfit=True).width == 384
    clip = ss.Source(film(9, size=(192, 128)), modalities={"video"})
    with pytest.raises(RequestError, match=refusal):
        planned(small, recipe="upscale", source=clip)
    large = film(9, size=(384, 256))
    assert planned(small, source=ss.Source(large, modalities={"audio"})).notices == ()
    retake = planned(small, source=ss.Source(large, regenerate=[ss.Span(0.1, 0.2)]))
    assert any("384x256 is larger than what small was trained on" in notice for notice in retake.notices)


def test_the_nano_that_ships_refuses_what_it_fails_at() -> None:
    nano = find_model("nano")
    for fields in ({"size": "2160p"}, {"recipe": "uhd"}, {"recipe": "fast", "size": "1440p"}):
        with pytest.raises(RequestError, match="nano shows nothing of what was asked for"):
            planned(nano, **fields)
    for name in ("single", "fast", "pro", "smooth", "draft"):
        assert planned(nano, recipe=name).notices == ()


def test_another_rate_keeps_the_seconds_and_is_told(model: ModelSet) -> None:
    """The model's own length is a time, not a count."""
    assert [planned(model, fps=fps).num_frames for fps in (24, 25, 48)] == [121, 129, 241]
    assert planned(model, recipe="smooth").num_frames == 241
    nano = find_model("nano")
    made = planned(nano, fps=48)
    assert (made.num_frames, made.fps) == (97, 48)
    assert made.notices == ("nano was trained at 24 frames a second, and at 48 things may move wrongly",)
    smooth = planned(nano, recipe="smooth")
    assert (smooth.num_frames, smooth.fps, smooth.notices) == (97, 48, ())


# --- sizes that follow what is given ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((128, 192), (128, 192)),
        ((3024, 4032), (128, 160)),
        ((192, 128), (192, 128)),
        ((100, 100), (128, 128)),
    ],
)
def test_a_size_follows_the_first_picture_at_the_models_own_area(
    model: ModelSet, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    small = ModelSet("small", model.folder, Defaults(size=(192, 128)))
    picture = np.zeros((shape[1], shape[0], 3), np.uint8)
    for fields in ({"guides": [ss.Guide(picture)]}, {"references": [ss.Reference(picture)]}):
        made = planned(small, **fields)
        assert (made.width, made.height) == size
        assert made.width * made.height <= 192 * 128
        assert (made.snaps != ()) == (size != (192, 128))
    asked = planned(small, guides=[ss.Guide(picture)], size=(192, 128))
    assert (asked.width, asked.height) == (192, 128)


def test_what_is_cut_off_is_told(model: ModelSet) -> None:
    small = ModelSet("small", model.folder, Defaults(size=(192, 128)))
    portrait = np.zeros((192, 128, 3), np.uint8)
    (told,) = planned(small, guides=[ss.Guide(portrait)], size=(192, 128)).notices
    assert told == (
        "guides[0].image is 128x192 and the film 192x128: 56 % of its height is cut off; "
        "give 'pad' for guides.crop to show all of it"
    )
    for crop in ("pad", "stretch"):
        assert planned(small, guides=[ss.Guide(portrait, crop=crop)], size=(192, 128)).notices == ()
    (second,) = planned(small, guides=[ss.Guide(portrait), ss.Guide(still(), "last")]).notices
    assert second.startswith("guides[1].image is 96x64 and the film 128x192: 56 % of its width")
    source = ss.Source(film(9, size=(100, 70)), denoise=0.5)
    kept = planned(small, source=source)
    assert ((kept.width, kept.height), kept.shown_size, kept.notices) == ((128, 96), (100, 70), ())
    assert "output    100x70, 9 frames" in str(kept)
    assert "cut back from 128x96" in str(kept)
    (told,) = planned(small, source=source, size=(96, 96)).notices
    assert told.startswith("source.video is 100x70 and the film 96x96: 30 % of its width is cut off")
    odd = planned(small, source=ss.Source(film(9, size=(101, 64)), denoise=0.5))
    assert [str(snap) for snap in odd.snaps] == ["size: 101x64 -> 102x64 (even sides, as H.264 needs)"]


# --- lengths that follow what is given --------------------------------------------------------------------


def test_a_film_is_as_long_as_its_sound() -> None:
    def sound(seconds: float) -> ss.Audio:
        return ss.Audio(np.zeros((1, round(seconds * 48_000)), np.float32))

    for seconds, shown, made in ((5.0, 120, 121), (5.04, 121, 121), (0.2, 5, 9)):
        to_sound = plan(audio=sound(seconds))
        assert (to_sound.num_shown, to_sound.num_frames, to_sound.notices) == (shown, made, ())
        assert to_sound.whole_sound
    (told,) = plan(audio=sound(5.0), duration_s=2.0).notices
    assert told == "audio.file lasts 5 s, of which the first 2.042 s are heard"
    (told,) = plan(audio=sound(1.0), num_frames=49).notices
    assert told == "audio.file lasts 1 s, and the rest of the 2.042 s is silent"


def test_a_film_to_a_long_sound_is_a_take_of_its_length(model: ModelSet) -> None:
    song = ss.Audio(np.zeros((1, 30 * 48_000), np.float32), start_s=5.0)
    take = plan_request(Request(prompt="a", audio=song), model)
    assert len(take.windows) > 1
    assert (take.num_shown, take.num_frames, take.duration_s, take.notices) == (600, 601, 25.0, ())
    with pytest.raises(RequestError, match=r"would last 130 s; the longest take is 120 s"):
        plan_request(Request(prompt="a", audio=ss.Audio(np.zeros((1, 130 * 48_000), np.float32))), model)
    with pytest.raises(RequestError, match=r"made in windows, and audio.file lasts only 25 s"):
        plan_request(Request(prompt="a", audio=song, duration_s=40), model)


def test_bars_that_cut_a_prompt_are_told() -> None:
    (told,) = plan(prompt="cinematic | 35mm | a ball").notices
    assert told.startswith("the prompt is read as 3 parts that are shown one after the other; write \\| for")
    for words in ('It reads "A | B".', r"A \| B", "a [1] | b [2]", "In a meadow. || a | b"):
        assert plan(prompt=words).notices == ()
    assert plan(prompt="a | b", lengths=(1, 2)).notices == ()
