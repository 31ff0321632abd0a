"""Step caches: what they leave out, that both streams go together, the error on the shipped nano,
and how a request asks for one."""

import json
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

import soundstage as ss
from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.library.model_files import EXTRAS, SHIPPED_MODELS, ModelSet, find_model
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import Transformer
from soundstage.planning.plan import Plan
from soundstage.planning.planner import make_plan
from soundstage.request.defaults import Defaults
from soundstage.sampling import schedules
from soundstage.sampling.cache import StepCache, StepCaches, measure
from soundstage.sampling.denoise import denoise
from soundstage.sampling.guidance import Contexts, Guider
from soundstage.sampling.sampler_info import SAMPLER_INFO
from soundstage.sampling.samplers import Res2s
from soundstage.sampling.scales import NEUTRAL, Scales
from soundstage.sampling.streams import Stream
from tests.tiny_model import TinyParts, write_tiny_model

SIGMAS = schedules.ltx2(12, 1024)
KINDS = ("first-block", "teacache")
GUIDED = Scales(cfg=3, stg=1, stg_blocks=(1,))


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    torch.manual_seed(0)
    header = transformer_header(
        num_layers=4, num_heads=2, head_dim=32, audio_num_heads=2, audio_head_dim=16, channels=8
    )
    model = Transformer(TransformerConfig.from_header({"transformer": header})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False)


def run(transformer, caches, *, scales=(NEUTRAL, NEUTRAL), sigmas=SIGMAS, **options):  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    streams = (
        Stream.fresh(video_positions(2, 2, 3, 24.0), width=8, dtype=torch.float32),
        Stream.fresh(audio_positions(5), width=8, dtype=torch.float32),
    )
    positive, negative = (Contexts(torch.randn(1, 4, 64), torch.randn(1, 4, 32)) for _ in range(2))
    guider = Guider(lambda: transformer, streams, scales, positive, negative, cache=caches)
    generator = torch.Generator().manual_seed(0)
    *_, last = denoise(guider, *streams, sigmas, generator, **options)
    return last.video, last.audio


@pytest.mark.parametrize("kind", KINDS)
def test_threshold_zero_leaves_nothing_out_and_changes_no_bit(transformer: Transformer, kind: str) -> None:
    caches = StepCaches(StepCache(kind, threshold=0), SIGMAS)
    for a, b in zip(run(transformer, None), run(transformer, caches), strict=True):
        assert torch.equal(a, b)
    assert caches.share_left_out == 0
    assert caches.blocks_in_all == 12 * 4


@pytest.mark.parametrize("kind", KINDS)
def test_first_and_last_steps_are_always_made(transformer: Transformer, kind: str) -> None:
    """With a threshold nothing reaches: 2 of 12 steps at the start and the last are made in full."""
    caches = StepCaches(StepCache(kind, threshold=9.9, start=2 / 12), SIGMAS)
    run(transformer, caches)
    per_step = 3 if kind == "first-block" else 4
    assert caches.blocks_left_out == 9 * per_step
    whole = StepCaches(StepCache(kind, threshold=9.9, start=1), SIGMAS)
    run(transformer, whole)
    assert whole.blocks_left_out == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_with_a_cache_equals_itself_and_passes_keep_apart(transformer: Transformer, kind: str) -> None:
    """Two guided streams: three passes a step, each with a memory of its own."""
    caches = StepCaches(StepCache(kind, threshold=9.9, start=0), SIGMAS)
    run(transformer, caches, scales=(GUIDED, GUIDED))
    assert caches.blocks_in_all == 3 * 12 * 4
    assert sorted(caches._memories) == ["cond", "perturbed", "uncond"]
    added = [caches._memories[kind].added for kind in ("cond", "uncond")]
    assert not torch.allclose(added[0][0], added[1][0], atol=1e-4)


def test_one_decision_is_made_for_both_streams_by_the_one_that_changed_more() -> None:
    class Stack:
        enabled = (True, True)
        calls: list[tuple[int, int | None]] = []  # noqa: RUF012

        def __len__(self) -> int:
            return 3

        def run(self, xv: Tensor, xa: Tensor, start: int = 0, stop: int | None = None):  # type: ignore[no-untyped-def]
            self.calls.append((start, stop))
            return xv + 1, xa * 2

    stack = Stack()
    caches = StepCaches(StepCache("first-block", threshold=0.1, start=0), (1.0, 0.8, 0.6, 0.4, 0.2, 0.0))
    x = torch.ones(1, 2, 3)
    caches.shortcut("cond", 1.0)(stack, x, x)
    # the picture adds what it added before, the sound half as much again: nothing is left out
    caches.shortcut("cond", 0.8)(stack, x, 1.5 * x)
    assert stack.calls == [(0, 1), (1, None)] * 2
    made = caches.shortcut("cond", 0.6)(stack, x, 1.5 * x)
    assert stack.calls[4:] == [(0, 1)]
    assert torch.equal(made[0], x + 2)  # the first block's 1 and the remembered 1
    assert torch.equal(made[1], 3 * x + 3 * x)


def test_a_stream_that_rests_makes_the_memory_start_anew(transformer: Transformer) -> None:
    scales = (Scales(skip_step=1), NEUTRAL)
    caches = StepCaches(StepCache("first-block", threshold=9.9, start=0), SIGMAS)
    for x in run(transformer, caches, scales=scales):
        assert torch.isfinite(x).all()
    assert caches.blocks_left_out == 0  # the pattern changes at every step


def test_a_second_prediction_within_a_step_counts_by_its_level(transformer: Transformer) -> None:
    caches = StepCaches(StepCache("first-block", threshold=9.9, start=2 / 12), SIGMAS)
    run(transformer, caches, sampler=Res2s())
    # 25 predictions; full: levels 0, 0.5, 1, 1.5 of the start, and 11, 11.5 and 0.0011 at the end
    assert caches.blocks_in_all == 25 * 4
    assert caches.blocks_left_out == (25 - 7) * 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_threshold_leaves_out_more_and_errs_more(transformer: Transformer, kind: str) -> None:
    exact = run(transformer, None)
    reports = [
        measure(
            lambda c: exact if c is None else run(transformer, c),
            StepCaches(StepCache(kind, threshold=t, start=0.1), SIGMAS),
        )
        for t in (0.02, 0.2, 2.0)
    ]
    shares = [r.share_left_out for r in reports]
    assert shares == sorted(shares)
    assert shares[-1] > shares[0]
    assert reports[-1].video_error > reports[0].video_error
    assert all(0 <= r.audio_error < 1 for r in reports)


def test_teacache_sums_changes_through_its_polynomial(transformer: Transformer) -> None:
    doubled = StepCache("teacache", threshold=0.2, start=0.1, coefficients=(2.0, 0.0))
    halved = StepCache("teacache", threshold=0.1, start=0.1)
    reports = [
        measure(lambda c: run(transformer, c), StepCaches(settings, SIGMAS)) for settings in (doubled, halved)
    ]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "magcache"}, "kind is 'magcache'; it should be 'teacache' or 'first-block'"),
        ({"threshold": -1}, "threshold is -1; give a number from 0 to below 10"),
        ({"start": 2}, "start is 2; give a number from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        StepCache(**fields)  # type: ignore[arg-type]


# --- on the shipped nano ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano() -> Transformer:
    from soundstage.library.model_files import find_model
    from soundstage.rendering.parts import ModelParts

    return ModelParts(find_model("nano"), torch.device("cpu"), torch.float32).transformer


@pytest.mark.parametrize(("kind", "threshold"), [("first-block", 0.2), ("teacache", 0.1)])
def test_nano_loses_little_to_a_cache_that_leaves_out_a_third(
    nano: Transformer, kind: str, threshold: float
) -> None:
    """Half a second of a small picture with sound, 20 steps; a random text, as encoding one takes seconds.
    Bounds, for any training of nano: an error of a tenth of the picture latents' length and a quarter of the
    sound's, and no less than 30 % of all blocks left out. Of three noises the middle one counts: with some a
    small change makes it another sound."""
    sigmas = schedules.ltx2(20)
    generator = torch.Generator().manual_seed(0)
    config = nano.config
    contexts = Contexts(
        torch.randn(1, 16, config.video.width, generator=generator),
        torch.randn(1, 16, config.audio.width, generator=generator),
    )

    def clip(caches: StepCaches | None, seed: int) -> tuple[Tensor, Tensor]:
        streams = (
            Stream.fresh(video_positions(2, 2, 3, 24.0), width=128, dtype=torch.float32),
            Stream.fresh(audio_positions(9), width=128, dtype=torch.float32),
        )
        guider = Guider(lambda: nano, streams, (NEUTRAL, NEUTRAL), contexts, cache=caches)
        *_, last = denoise(guider, *streams, sigmas, torch.Generator().manual_seed(seed))
        return last.video, last.audio

    cache = StepCache(kind, threshold)
    reports = [measure(partial(clip, seed=seed), StepCaches(cache, sigmas)) for seed in (10, 11, 12)]
    assert median(report.video_error for report in reports) < 0.1
    assert median(report.audio_error for report in reports) < 0.25
    assert median(report.share_left_out for report in reports) > 0.3


# --- asked for in a request -------------------------------------------------------------------------------


def planned(defaults: Defaults | None = None, **fields: Any) -> Plan:
    request = ss.Request(**{"prompt": "a", "cache": "first-block:0.1", **fields})
    return make_plan(request, ModelSet("test", Path("nowhere"), defaults or Defaults()))


def test_a_cache_is_for_the_first_pass_and_shown_in_the_plan(tmp_path: Path) -> None:
    for name, _ in EXTRAS.values():
        (tmp_path / name).symlink_to(SHIPPED_MODELS["nano"] / name)
    plan = make_plan(
        ss.Request(prompt="a", recipe="pro", cache="teacache:0.2"), ModelSet("test", tmp_path, Defaults())
    )
    assert [p.cache for p in plan.passes] == [StepCache("teacache", 0.2), None]
    assert "cache   teacache at 0.2" in str(plan)
    assert json.loads(plan.to_json())["passes"][0]["cache"]["threshold"] == 0.2


@pytest.mark.parametrize(
    ("defaults", "fields", "says"),
    [
        (Defaults(), {"recipe": "draft"}, "too much changes between the 8 distilled steps of pass 'draft'"),
        (Defaults(distilled=True, schedule="distilled", steps=8), {}, "the 8 distilled steps"),
        (Defaults(), {"steps": 2}, "cache is first-block at 0.1, but each of the 2 steps of pass 'denoise'"),
        (Defaults(), {"cache": StepCache(start=1.0)}, "each of the 30 steps"),
    ],
)
def test_a_cache_that_could_leave_nothing_out_is_refused(
    defaults: Defaults, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        planned(defaults, **fields)
    assert "cache" in str(caught.value)


def test_levels_of_a_users_own_lists_may_be_cached() -> None:
    sigmas = tuple(1 - i / 20 for i in range(21))
    assert planned(Defaults(schedule="distilled", steps=8), sigmas=sigmas).passes[0].cache is not None


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    return Engine(model, parts=TinyParts(model, torch.device("cpu"), torch.float32))


def made(stage: Engine, cache: str | None, **fields: Any) -> Tensor:
    asked = {"stg": 0, "modality_guidance": 1, "schedule": "linear", "steps": 6, "seed": 10, **fields}
    *_, done = stage.run(ss.Request(prompt="a red ball", modalities=["video"], cache=cache, **asked))
    return done.video_latents


def test_the_engine_uses_the_cache_of_its_pass(stage: Engine) -> None:
    plain = made(stage, None, guidance=1)
    assert torch.equal(made(stage, "first-block:0", guidance=1), plain)
    assert not torch.equal(made(stage, "first-block:9.9", guidance=1), plain)


@pytest.mark.parametrize("sampler", SAMPLER_INFO)
def test_every_sampler_can_be_used_with_a_cache(stage: Engine, sampler: str) -> None:
    plain, cached = (made(stage, cache, sampler=sampler, guidance=2) for cache in (None, "teacache:9.9"))
    assert torch.isfinite(cached).all()
    assert not torch.equal(cached, plain)
