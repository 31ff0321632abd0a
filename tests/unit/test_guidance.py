"""Guidance: the published numbers, and batched passes equal to passes one at a time."""

import pytest
import torch

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.errors import RequestError
from soundstage.model.config import TransformerConfig
from soundstage.model.published import transformer_header
from soundstage.model.transformer import ModalityInputs, Perturbation, Transformer
from soundstage.sampling.combine import RunningPull
from soundstage.sampling.denoise import denoise
from soundstage.sampling.guidance import Contexts, Guider, combine
from soundstage.sampling.samplers import EulerCfgPlusPlus
from soundstage.sampling.scales import NEUTRAL, Scales, passes_needed, scales_at
from soundstage.sampling.schedules import REFINE
from soundstage.sampling.streams import Stream

COND = torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1)
UNCOND = torch.tensor([0.0, 1, 1, 2]).view(1, 4, 1)
FULL_VIDEO = Scales(cfg=3, stg=1, stg_blocks=(1,), modality=3, rescale=0.7)
FULL_AUDIO = Scales(cfg=7, stg=1, stg_blocks=(0,), modality=3, rescale=0.7)


def test_combination_gives_the_published_numbers() -> None:
    guided = combine(Scales(cfg=3, rescale=0.7), COND, uncond=UNCOND)
    assert guided.flatten().tolist() == pytest.approx([2.0389, 2.7185, 4.7574, 5.4370], abs=5e-5)


def test_every_difference_is_taken_from_the_positive_pass() -> None:
    torch.manual_seed(0)
    c, u, t, m = torch.randn(4, 2, 5, 3)
    got = combine(Scales(cfg=3, stg=0.5, modality=2), c, uncond=u, perturbed=t, isolated=m)
    assert torch.allclose(got, c + 2 * (c - u) + 0.5 * (c - t) + (c - m), atol=1e-6)


def test_full_rescale_restores_the_deviation_of_each_sample() -> None:
    torch.manual_seed(0)
    c, u = torch.randn(2, 3, 50, 8)
    got = combine(Scales(cfg=5, rescale=1), c, uncond=u)
    assert torch.allclose(got.flatten(1).std(dim=1), c.flatten(1).std(dim=1), atol=1e-5)


def test_zero_star_gives_the_published_numbers() -> None:
    """The negative prediction is scaled by 2.166667 before it is pulled from."""
    guided = combine(Scales(cfg=3, cfg_star=True), COND, uncond=UNCOND)
    assert guided.flatten().tolist() == pytest.approx([3, 1.6667, 4.6667, 3.3333], abs=5e-5)


def test_projected_guidance_gives_the_published_numbers() -> None:
    guided = combine(Scales(cfg=3, apg_eta=0.5), COND, uncond=UNCOND)
    assert guided.flatten().tolist() == pytest.approx([2.4333, 2.8667, 5.3, 5.7333], abs=5e-5)


def test_projected_guidance_limits_the_length_of_the_pull_in_each_sample() -> None:
    torch.manual_seed(0)
    c, u = torch.randn(2, 3, 50, 8)
    got = combine(Scales(cfg=2, apg_norm=1.5), c, uncond=u)
    assert (got - c).flatten(1).norm(dim=1).tolist() == pytest.approx([1.5] * 3, abs=1e-4)
    loose = combine(Scales(cfg=2, apg_norm=1e6), c, uncond=u)
    assert torch.allclose(loose, combine(Scales(cfg=2), c, uncond=u), atol=1e-5)


def test_momentum_carries_the_pull_on() -> None:
    running, scales = RunningPull(), Scales(cfg=2, apg_momentum=-0.9)
    first = combine(scales, COND, uncond=UNCOND, running=running)
    assert torch.equal(first, combine(Scales(cfg=2), COND, uncond=UNCOND))
    second = combine(scales, COND, uncond=UNCOND, running=running)
    assert torch.allclose(second, COND + 0.1 * (COND - UNCOND), atol=1e-6)
    with pytest.raises(ValueError, match="RunningPull"):
        combine(scales, COND, uncond=UNCOND)


def test_neutral_scales_change_nothing() -> None:
    assert torch.equal(combine(NEUTRAL, COND, uncond=UNCOND), COND)


def test_passes_are_made_only_where_they_count() -> None:
    assert passes_needed([NEUTRAL, NEUTRAL], exchange=True) == ("cond",)
    assert passes_needed([NEUTRAL, Scales(cfg=7)], exchange=True) == ("cond", "uncond")
    assert passes_needed([FULL_VIDEO], exchange=True) == ("cond", "uncond", "perturbed", "isolated")
    assert passes_needed([FULL_VIDEO], exchange=False) == ("cond", "uncond", "perturbed")


def test_scales_by_noise_level_split_after_two_steps() -> None:
    split = {1.0: Scales(cfg=2), 0.9875: Scales(cfg=1)}
    cfgs = [scales_at(split, sigma).cfg for sigma in (1.0, 0.99375, 0.9875, 0.98125, 0.421875)]
    assert cfgs == [2, 2, 1, 1, 1]
    assert scales_at({0.5: Scales(cfg=4)}, 0.9).cfg == 4


def test_scales_change_at_a_level_whose_float32_is_rounded_up() -> None:
    """The loop hands over float32 copies of the levels."""
    distilled = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
    split = {1.0: Scales(cfg=2), 0.9875: NEUTRAL}
    levels = [float(sigma) for sigma in torch.tensor(distilled[:-1])]
    assert levels[2] > distilled[2]
    assert [scales_at(split, sigma).cfg for sigma in levels] == [2, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("name", "value"), [("cfg", -1), ("rescale", 1.2), ("nag_tau", 0), ("identity", 21)])
def test_a_scale_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(RequestError, match=f"{name} is .* give a number from") as caught:
        Scales(**{name: value})
    assert caught.value.field == name


def test_skip_step_two_skips_the_published_steps() -> None:
    assert [i for i in range(6) if Scales(skip_step=2).skips(i)] == [1, 2, 4, 5]
    assert not any(NEUTRAL.skips(i) for i in range(10))


# --- with a transformer ----------------------------------------------------------------------------


class Counting:
    """A transformer that remembers what it was asked."""

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer
        self.batches: list[int] = []
        self.enabled: list[tuple[bool, bool]] = []

    def prepare(self, video: ModalityInputs | None, audio: ModalityInputs | None) -> object:
        return self.transformer.prepare(video, audio)

    def __call__(self, video: ModalityInputs, audio: ModalityInputs, **options: object) -> object:
        self.batches.append(video.latents.shape[0])
        self.enabled.append((video.enabled, audio.enabled))
        return self.transformer(video, audio, **options)


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    torch.manual_seed(0)
    header = transformer_header(
        num_layers=2, num_heads=2, head_dim=32, audio_num_heads=2, audio_head_dim=16, channels=8
    )
    model = Transformer(TransformerConfig.from_header({"transformer": header})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def run() -> dict[str, object]:
    torch.manual_seed(1)
    video = Stream.fresh(video_positions(2, 2, 3, 24.0), width=8, dtype=torch.float32)
    audio = Stream.fresh(audio_positions(5), width=8, dtype=torch.float32)
    contexts = [Contexts(torch.randn(1, 4, 64), torch.randn(1, 4, 32)) for _ in range(2)]
    return {
        "streams": (video, audio),
        "positive": contexts[0],
        "negative": contexts[1],
        "x": (torch.randn(1, 12, 8), torch.randn(1, 5, 8)),
    }


def guided(model, run, video, audio, *, steps=(0,), batched=True):  # type: ignore[no-untyped-def]
    guider = Guider(
        lambda: model, run["streams"], (video, audio), run["positive"], run["negative"], batched=batched
    )
    with torch.no_grad():
        return [guider(*run["x"], torch.tensor(0.8), step) for step in steps]


def test_batched_passes_equal_passes_one_at_a_time(transformer, run) -> None:  # type: ignore[no-untyped-def]
    together = guided(transformer, run, FULL_VIDEO, FULL_AUDIO)[0]
    apart = guided(transformer, run, FULL_VIDEO, FULL_AUDIO, batched=False)[0]
    for a, b in zip(together, apart, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def test_guidance_equals_the_formula_over_plain_forwards(transformer, run) -> None:  # type: ignore[no-untyped-def]
    """The slow, obvious version: four forwards by hand, each modality combined by hand."""
    sigma = torch.tensor(0.8)
    positive, negative, x = run["positive"], run["negative"], run["x"]

    def clean(contexts: Contexts, perturbation: Perturbation) -> list[torch.Tensor]:
        inputs = [
            stream.at(latents, sigma, context)
            for stream, latents, context in zip(
                run["streams"], x, (contexts.video, contexts.audio), strict=True
            )
        ]
        with torch.no_grad():
            velocities = transformer(*inputs, perturbation=perturbation)
        return [a - 0.8 * v for a, v in zip(x, velocities, strict=True)]

    cond, uncond = clean(positive, Perturbation()), clean(negative, Perturbation())
    perturbed = clean(positive, Perturbation(skip_video_self=frozenset({1}), skip_audio_self=frozenset({0})))
    isolated = clean(positive, Perturbation.isolated())
    got = guided(transformer, run, FULL_VIDEO, FULL_AUDIO)[0]
    for i, cfg in enumerate((3, 7)):
        c, u, t, m = cond[i], uncond[i], perturbed[i], isolated[i]
        assert all((c - other).abs().max() > 1e-3 for other in (u, t, m))
        p = c + (cfg - 1) * (c - u) + (c - t) + 2 * (c - m)
        p = p * (0.7 * c.std() / p.std() + 0.3)
        assert torch.allclose(got[i], p, atol=1e-3, rtol=1e-3)


def test_neutral_passes_are_not_made(transformer, run) -> None:  # type: ignore[no-untyped-def]
    for scales, batch in ((NEUTRAL, 1), (Scales(cfg=3), 2), (FULL_VIDEO, 4)):
        counting = Counting(transformer)
        guided(counting, run, scales, NEUTRAL)
        assert counting.batches == [batch]
    counting = Counting(transformer)
    guided(counting, run, FULL_VIDEO, NEUTRAL, batched=False)
    assert counting.batches == [1, 1, 1, 1]


def test_a_skipped_modality_repeats_its_prediction(transformer, run) -> None:  # type: ignore[no-untyped-def]
    counting = Counting(transformer)
    first, second, third = guided(counting, run, Scales(skip_step=1), NEUTRAL, steps=(0, 1, 2))
    assert counting.enabled == [(True, True), (False, True), (True, True)]
    assert second[0] is first[0]
    assert third[0] is not first[0]
    resting = Counting(transformer)
    guided(resting, run, Scales(skip_step=1), Scales(skip_step=1), steps=(0, 1))
    assert len(resting.batches) == 1


def test_without_a_negative_prompt_the_positive_serves(transformer, run) -> None:  # type: ignore[no-untyped-def]
    same = {**run, "negative": None}
    plain = guided(transformer, run, NEUTRAL, NEUTRAL)[0]
    pulled = guided(transformer, same, Scales(cfg=5), NEUTRAL)[0]
    assert torch.allclose(plain[0], pulled[0], atol=1e-4)


# --- texts per modality, texts with a bias, identity -------------------------------------------------


def clean_of(transformer, run, contexts, *, streams=None, x=None, biases=(None, None), perturbation=None):  # type: ignore[no-untyped-def]
    """One plain forward's clean predictions, by hand."""
    sigma = torch.tensor(0.8)
    streams, x = streams or run["streams"], x or run["x"]
    inputs = []
    for stream, latents, context, bias in zip(
        streams, x, (contexts.video, contexts.audio), biases, strict=True
    ):
        modality = stream.at(latents, sigma, context)
        modality.context_mask = bias
        inputs.append(modality)
    with torch.no_grad():
        velocities = transformer(*inputs, perturbation=perturbation)
    return [a - m.timesteps.unsqueeze(-1) * v for a, m, v in zip(x, inputs, velocities, strict=True)]


def test_each_modality_may_have_its_own_negative_prompt(transformer, run) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(5)
    other = Contexts(torch.randn(1, 4, 64), torch.randn(1, 4, 32))
    mixed = Contexts(run["negative"].video, other.audio)
    scales = Scales(cfg=4)
    got = guided(transformer, {**run, "negative": mixed}, scales, scales)[0]
    c, u = (clean_of(transformer, run, contexts) for contexts in (run["positive"], mixed))
    for i in (0, 1):
        assert torch.allclose(got[i], c[i] + 3 * (c[i] - u[i]), atol=1e-3, rtol=1e-3)
    audio_only = Contexts(None, other.audio)  # the picture's negative pass then has its own prompt
    got = guided(transformer, {**run, "negative": audio_only}, NEUTRAL, scales)[0]
    u = clean_of(transformer, run, Contexts(run["positive"].video, other.audio))
    assert torch.allclose(got[1], c[1] + 3 * (c[1] - u[1]), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("batched", [True, False])
def test_a_texts_bias_is_in_the_passes_that_have_the_text(transformer, run, batched: bool) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(6)
    biases = torch.randn(1, 12, 4) * 3, torch.randn(1, 5, 4) * 3
    positive = Contexts(run["positive"].video, run["positive"].audio, *biases)
    scales = Scales(cfg=3, stg=1, stg_blocks=(1,))
    got = guided(transformer, {**run, "positive": positive}, scales, scales, batched=batched)[0]
    c = clean_of(transformer, run, positive, biases=biases)
    t = clean_of(transformer, run, positive, biases=biases, perturbation=Perturbation.stg([1]))
    u = clean_of(transformer, run, run["negative"])
    for i in (0, 1):
        expected = c[i] + 2 * (c[i] - u[i]) + (c[i] - t[i])
        assert torch.allclose(got[i], expected, atol=1e-3, rtol=1e-3)


def test_prompts_of_different_lengths_are_read_one_after_the_other(transformer, run) -> None:  # type: ignore[no-untyped-def]
    longer = Contexts(torch.randn(1, 7, 64), torch.randn(1, 7, 32))
    counting = Counting(transformer)
    guided(counting, {**run, "negative": longer}, Scales(cfg=3), Scales(cfg=3))
    assert counting.batches == [1, 1]


@pytest.fixture(scope="module")
def speaking(run) -> dict[str, object]:  # type: ignore[no-untyped-def]
    """Two reference tokens before five of sound, as an identity voice has them, and two kept ones."""
    torch.manual_seed(2)
    target = audio_positions(5)
    before = audio_positions(2) - audio_positions(2).max() - 0.04
    audio = Stream(
        clean=torch.randn(1, 7, 8),
        mask=torch.tensor([0.0, 0, 1, 1, 1, 1, 1]).view(1, 7, 1),
        positions=torch.cat([before, target], dim=2),
        reference=torch.tensor([True, True, False, False, False, False, False]),
    )
    x = torch.randn(1, 7, 8)
    x[:, :2] = audio.clean[:, :2]
    return {**run, "streams": (run["streams"][0], audio), "x": (run["x"][0], x)}


@pytest.mark.parametrize("batched", [True, False])
def test_identity_pulls_the_made_sound_from_a_pass_without_the_reference(
    transformer,
    speaking,
    batched: bool,  # type: ignore[no-untyped-def]
) -> None:
    """The slow, obvious version: a stream built without the reference's tokens, and one forward of it."""
    video, audio = speaking["streams"]
    bare = Stream(audio.clean[:, 2:], audio.mask[:, 2:], audio.positions[:, :, 2:])
    c = clean_of(transformer, speaking, speaking["positive"])
    n = clean_of(
        transformer, speaking, speaking["positive"],
        streams=(video, bare), x=(speaking["x"][0], speaking["x"][1][:, 2:]),
    )  # fmt: skip
    u = clean_of(transformer, speaking, speaking["negative"])
    got = guided(transformer, speaking, NEUTRAL, Scales(cfg=2, identity=3), batched=batched)[0]
    assert torch.allclose(got[0], c[0], atol=1e-4)  # the picture is not pulled
    pulled = c[1] + (c[1] - u[1])
    assert torch.allclose(got[1][:, :2], pulled[:, :2], atol=1e-3)
    expected = pulled[:, 2:] + 3 * (c[1][:, 2:] - n[1])
    assert torch.allclose(got[1][:, 2:], expected, atol=1e-3, rtol=1e-3)
    assert (c[1][:, 2:] - n[1]).abs().max() > 1e-3


def test_identity_costs_one_forward_more_and_none_when_off(transformer, speaking) -> None:  # type: ignore[no-untyped-def]
    assert passes_needed([Scales(identity=3)], exchange=True) == ("cond", "identity")
    counting = Counting(transformer)
    guided(counting, speaking, NEUTRAL, Scales(cfg=2, identity=3), steps=(0, 1))
    assert counting.batches == [2, 1, 2, 1]
    off = Counting(transformer)
    guided(off, speaking, NEUTRAL, Scales(identity=0))
    assert off.batches == [1]


def test_identity_without_a_reference_is_refused(transformer, run) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="no stream has reference tokens"):
        guided(transformer, run, NEUTRAL, Scales(identity=3))


def test_the_negative_prediction_cannot_be_shown_without_a_negative_prompt(transformer, run) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="no such prompt"):
        Guider(lambda: transformer, run["streams"], (NEUTRAL, NEUTRAL), run["positive"], unconditional=True)


def test_a_guider_shows_its_negative_prediction_when_asked(transformer, run) -> None:  # type: ignore[no-untyped-def]
    guider = Guider(
        lambda: transformer,
        run["streams"],
        (NEUTRAL, NEUTRAL),
        run["positive"],
        run["negative"],
        unconditional=True,
    )
    with torch.no_grad():
        got = guider(*run["x"], torch.tensor(0.8), 0)
    c, u = (clean_of(transformer, run, run[name]) for name in ("positive", "negative"))
    for i in (0, 1):
        assert torch.allclose(got[i], c[i], atol=1e-4)
        assert torch.allclose(guider.unconditional[i], u[i], atol=1e-4)


def test_cfg_plus_plus_runs_on_a_guider_that_shows_its_negative_prediction(transformer, run) -> None:  # type: ignore[no-untyped-def]
    def last(unconditional: bool):  # type: ignore[no-untyped-def]
        guider = Guider(
            lambda: transformer,
            run["streams"],
            (NEUTRAL, NEUTRAL),
            run["positive"],
            run["negative"],
            unconditional=unconditional,
        )
        generator = torch.Generator().manual_seed(0)
        *_, state = denoise(guider, *run["streams"], REFINE, generator, sampler=EulerCfgPlusPlus())
        return state

    assert torch.isfinite(last(True).video).all()
    with pytest.raises(ValueError, match="unconditional=True"):
        last(False)
