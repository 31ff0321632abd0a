"""Normalised attention guidance: the formula, and where it acts in a block and in the guider's batch."""

import dataclasses

import pytest
import torch
from torch import Tensor

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.model.config import TransformerConfig
from soundstage.model.nag import NegativeText, steered
from soundstage.model.published import transformer_header
from soundstage.model.transformer import ModalityInputs, Transformer
from soundstage.sampling.guidance import Contexts, Guider
from soundstage.sampling.scales import NEUTRAL, Scales
from soundstage.sampling.streams import Stream


def text(**changes: object) -> NegativeText:
    return dataclasses.replace(NegativeText(torch.zeros(1, 1, 1)), **changes)


def heads(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, len(values))


# --- the formula -----------------------------------------------------------------------------------


def test_a_result_that_grows_little_is_only_mixed() -> None:
    """scale 2: G = 2 (1, 1) - (0.5, 1) = (1.5, 1), 1.25 times as long; half of it is used."""
    out = steered(heads(1, 1), heads(0.5, 1), text(scale=2, alpha=0.5, tau=2.5))
    assert out.flatten().tolist() == pytest.approx([1.25, 1.0])


def test_a_result_that_grows_too_long_is_shortened_to_tau() -> None:
    """scale 11: G = 11 (1, 1) - 10 (-1, 0) = (21, 11), 16 times as long; shortened to 2.5 times."""
    out = steered(heads(1, 1), heads(-1, 0), text())
    shortened = [2.5 * 2 * 21 / 32, 2.5 * 2 * 11 / 32]
    assert out.flatten().tolist() == pytest.approx([0.25 * g + 0.75 for g in shortened], abs=1e-6)
    longest = steered(heads(1, 1), heads(-1, 0), text(alpha=1))
    assert longest.abs().sum().item() == pytest.approx(2.5 * 2, abs=1e-5)


def test_lengths_are_taken_over_all_heads_of_a_token() -> None:
    torch.manual_seed(0)
    z, other = torch.randn(2, 2, 5, 3, 4)
    together = steered(z, other, text())
    one_head = steered(z.reshape(2, 5, 1, 12), other.reshape(2, 5, 1, 12), text())
    assert torch.allclose(together.reshape(2, 5, 1, 12), one_head, atol=1e-6)
    by_head = torch.cat([steered(z[:, :, h : h + 1], other[:, :, h : h + 1], text()) for h in range(3)], 2)
    assert not torch.allclose(together, by_head, atol=1e-3)


def test_silence_and_equal_texts_stay_as_they_are() -> None:
    assert torch.equal(steered(heads(0, 0), heads(0, 0), text()), heads(0, 0))
    z = heads(0.5, -2)
    assert torch.allclose(steered(z, z, text()), z, atol=1e-6)
    half = steered(z.bfloat16(), -z.bfloat16(), text())
    assert half.dtype == torch.bfloat16


# --- in the transformer ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    torch.manual_seed(0)
    header = transformer_header(
        num_layers=2, num_heads=2, head_dim=32, audio_num_heads=2, audio_head_dim=16, channels=8
    )
    model = Transformer(TransformerConfig.from_header({"transformer": header})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False)


def inputs(seed: int = 1) -> tuple[ModalityInputs, ModalityInputs]:
    torch.manual_seed(seed)
    video = Stream.fresh(video_positions(2, 2, 3, 24.0), width=8, dtype=torch.float32)
    audio = Stream.fresh(audio_positions(5), width=8, dtype=torch.float32)
    sigma = torch.tensor(0.8)
    return (
        video.at(torch.randn(1, 12, 8), sigma, torch.randn(1, 4, 64)),
        audio.at(torch.randn(1, 5, 8), sigma, torch.randn(1, 4, 32)),
    )


def with_negative(modality: ModalityInputs, width: int, **options: object) -> ModalityInputs:
    context = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(9))
    return dataclasses.replace(modality, negative=NegativeText(context, **options))


def test_the_text_attention_of_every_block_is_steered(transformer: Transformer) -> None:
    """The slow, obvious version: the text attention replaced by one that reads both texts itself."""
    video, audio = inputs()
    steered_video = with_negative(video, 64)
    found = transformer(steered_video, audio)[0]

    def oracle(block):  # type: ignore[no-untyped-def]
        attention, original = block.attn2, block.attn2.forward

        def forward(x, context, *, bias=None):  # type: ignore[no-untyped-def]
            table = block.prompt_scale_shift_table
            rows = (
                table + transformer.prompt_adaln_single(1000 * video.sigma[:, None], torch.float32)[0][:, 0]
            )
            negative = steered_video.negative.context * (1 + rows[:, 1:2]) + rows[:, 0:1]
            z = [
                attention.kernel(
                    attention.queries_of(x), attention.keys_of(c), attention.values_of(c), bias
                ).transpose(1, 2)
                for c in (context, negative)
            ]
            heads = steered(*z, steered_video.negative)
            return attention.finish(x, heads.transpose(1, 2))

        attention.forward = forward
        return attention, original

    replaced = [oracle(block) for block in transformer.transformer_blocks]
    try:
        expected = transformer(video, audio)[0]
    finally:
        for attention, original in replaced:
            attention.forward = original
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, transformer(video, audio)[0], atol=1e-3)


def test_only_the_chosen_samples_are_steered(transformer: Transformer) -> None:
    """A batch of two with one steered equals the two alone."""
    (v1, a1), (v2, a2) = inputs(1), inputs(2)

    def both(a: ModalityInputs, b: ModalityInputs) -> ModalityInputs:
        names = ("latents", "sigma", "timesteps", "context")
        return dataclasses.replace(a, **{n: torch.cat([getattr(a, n), getattr(b, n)]) for n in names})

    audio = both(a1, a2)
    one = with_negative(a1, 32).negative
    audio.negative = dataclasses.replace(one, context=one.context.repeat(2, 1, 1), samples=(1,))
    together = transformer(both(v1, v2), audio)
    first, second = transformer(v1, a1), transformer(v2, with_negative(a2, 32))
    for i in (0, 1):
        assert torch.allclose(together[i], torch.cat([first[i], second[i]]), atol=1e-5)
    assert not torch.allclose(second[1], transformer(v2, a2)[1], atol=1e-3)


# --- through the guider ----------------------------------------------------------------------------


def guided(transformer: Transformer, video: Scales, audio: Scales, **options: object):  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    streams = (
        Stream.fresh(video_positions(2, 2, 3, 24.0), width=8, batch=2, dtype=torch.float32),
        Stream.fresh(audio_positions(5), width=8, batch=2, dtype=torch.float32),
    )
    positive, negative, unwanted = (Contexts(torch.randn(1, 4, 64), torch.randn(1, 4, 32)) for _ in range(3))
    x = torch.randn(2, 12, 8), torch.randn(2, 5, 8)
    options.setdefault("nag", unwanted)
    guider = Guider(lambda: transformer, streams, (video, audio), positive, negative, **options)
    return guider(*x, torch.tensor(0.8), 0)


def test_each_stream_has_its_own_nag(transformer: Transformer) -> None:
    plain = guided(transformer, NEUTRAL, NEUTRAL)
    audio_only = guided(transformer, NEUTRAL, Scales(nag=11))
    assert (plain[1] - audio_only[1]).abs().max() > 1e-3
    # the picture hears the steered sound, but its own text is read as before
    both = guided(transformer, Scales(nag=11), Scales(nag=11))
    assert (both[0] - audio_only[0]).abs().max() > 1e-3


@pytest.mark.parametrize("passes", [NEUTRAL, Scales(cfg=3, stg=1, stg_blocks=(1,), modality=2)])
def test_batched_and_single_passes_are_steered_alike(transformer: Transformer, passes: Scales) -> None:
    scales = dataclasses.replace(passes, nag=8, nag_alpha=0.5)
    together = guided(transformer, scales, scales)
    apart = guided(transformer, scales, scales, batched=False)
    for a, b in zip(together, apart, strict=True):
        assert torch.allclose(a, b, atol=2e-4, rtol=1e-4)


def test_the_negative_pass_is_not_steered(transformer: Transformer) -> None:
    """CFG with NAG = (positive with NAG) + (cfg - 1)(positive with NAG - plain negative)."""
    nag, cfg = Scales(nag=11), Scales(nag=11, cfg=3)
    c = guided(transformer, nag, nag)
    u = guided(transformer, NEUTRAL, NEUTRAL, unconditional=True)  # makes the batch the same
    plain_negative = _unconditional(transformer)
    got = guided(transformer, cfg, cfg)
    for i in (0, 1):
        expected = c[i] + 2 * (c[i] - plain_negative[i])
        assert torch.allclose(got[i], expected, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(u[i], plain_negative[i], atol=1e-3)


def _unconditional(transformer: Transformer):  # type: ignore[no-untyped-def]
    """The negative pass, by CFG 2 - CFG 1 of a guider without NAG: C + (C - U) - C = C - U."""
    one, two = (guided(transformer, s, s) for s in (NEUTRAL, Scales(cfg=2)))
    return [2 * a - b for a, b in zip(one, two, strict=True)]


def test_without_a_text_of_its_own_nag_takes_the_negative_prompt(transformer: Transformer) -> None:
    a = guided(transformer, Scales(nag=5), NEUTRAL, nag=None)
    b = guided(transformer, NEUTRAL, NEUTRAL)
    assert (a[0] - b[0]).abs().max() > 1e-3


def test_nag_without_any_text_is_refused(transformer: Transformer) -> None:
    streams = (None, Stream.fresh(audio_positions(5), width=8, dtype=torch.float32))
    positive = Contexts(None, torch.randn(1, 4, 32))
    with pytest.raises(ValueError, match="audio stream, but there is no text"):
        Guider(lambda: transformer, streams, (None, {1.0: NEUTRAL, 0.5: Scales(nag=11)}), positive)
