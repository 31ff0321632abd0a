"""Guidance: the published numbers, and batched passes equal to passes one at a time."""

import pytest
import torch

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.model.config import TransformerConfig, transformer_header
from soundstage.model.transformer import Modality, Perturbation, Transformer
from soundstage.sampling.guidance import Contexts, Guider, combine
from soundstage.sampling.scales import NEUTRAL, Scales, passes_needed, scales_at
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

    def prepare(self, video: Modality | None, audio: Modality | None) -> object:
        return self.transformer.prepare(video, audio)

    def __call__(self, video: Modality, audio: Modality, **options: object) -> object:
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
    guider = Guider(model, run["streams"], (video, audio), run["positive"], run["negative"], batched=batched)
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
