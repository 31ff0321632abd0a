"""The loop: noise order, masked steps, states, and that closing it stops the work."""

import pytest
import torch

from soundstage.sampling.denoise import State, denoise
from soundstage.sampling.schedules import DISTILLED, REFINE
from soundstage.sampling.streams import Stream, draw_noise


def generator(seed: int = 42) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stream(
    num_tokens: int, *, width: int = 4, dtype: torch.dtype = torch.float32, **options: object
) -> Stream:
    fresh = Stream.fresh(torch.zeros(1, 1, num_tokens, 2), width=width, dtype=dtype)
    return Stream(**{**vars(fresh), **options})  # type: ignore[arg-type]


def shrink(video, audio, sigma, step):  # type: ignore[no-untyped-def]
    """A denoiser that halves what it sees."""
    return tuple(None if x is None else x / 2 for x in (video, audio))


def last(*args: object, **options: object) -> State:
    *_, state = denoise(*args, **options)  # type: ignore[arg-type]
    return state


def test_noise_starts_with_the_published_values() -> None:
    video, _ = draw_noise(stream(8, dtype=torch.bfloat16), None, generator())
    assert video is not None
    assert video.dtype == torch.bfloat16
    golden = [1.9296875, 1.484375, 0.90234375, -2.109375]
    assert video.flatten()[:4].tolist() == golden


def test_one_generator_gives_video_then_audio() -> None:
    both = draw_noise(stream(6), stream(3), generator())
    plain = generator()
    assert torch.equal(both[0], torch.randn(1, 6, 4, generator=plain))
    assert torch.equal(both[1], torch.randn(1, 3, 4, generator=plain))


def test_an_absent_stream_draws_nothing_and_a_frozen_one_does() -> None:
    alone = draw_noise(None, stream(3), generator())
    assert alone[0] is None
    assert torch.equal(alone[1], torch.randn(1, 3, 4, generator=generator()))
    frozen = draw_noise(stream(6, frozen=True), stream(3), generator())
    free = draw_noise(stream(6), stream(3), generator())
    assert torch.equal(frozen[1], free[1])


def test_a_start_mixes_initial_latents_clean_tokens_and_noise() -> None:
    """The published example: a quarter-kept token and an untouched one at the first refine sigma."""
    s = stream(
        2,
        width=1,
        clean=torch.tensor([[[2.0], [-1.0]]]),
        initial=torch.tensor([[[-1.0], [-1.0]]]),
        mask=torch.tensor([[[0.75], [1.0]]]),
    )
    start = s.noised(torch.tensor([[[-1.1258], [-0.8834]]]), REFINE[0])
    assert start.flatten().tolist() == pytest.approx([-0.3358, -0.8939], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_tokens_stay_bit_for_bit(dtype: torch.dtype) -> None:
    clean = torch.randn(1, 6, 4, generator=generator(1)).to(dtype)
    mask = torch.ones(1, 6, 1)
    mask[:, :2] = 0
    video = stream(6, dtype=dtype, clean=clean, mask=mask)
    for state in denoise(shrink, video, None, DISTILLED, generator()):
        assert state.video is not None
        assert torch.equal(state.video[:, :2], clean[:, :2])
    assert not torch.equal(state.video[:, 2:], clean[:, 2:])


def test_a_frozen_stream_is_told_it_is_clean_and_does_not_move() -> None:
    clean = torch.randn(1, 3, 4, generator=generator(2))
    audio = stream(3, clean=clean, frozen=True)
    own, tokens = audio.levels(torch.tensor(0.7))
    assert own.tolist() == [0.0]
    assert tokens.abs().max() == 0
    assert torch.equal(last(shrink, stream(6), audio, DISTILLED, generator()).audio, clean)


def test_partly_kept_tokens_get_their_share_of_sigma() -> None:
    video = stream(2, mask=torch.tensor([[[0.25], [1.0]]]))
    own, tokens = video.levels(torch.tensor(0.8))
    assert own.tolist() == pytest.approx([0.8])
    assert tokens.tolist()[0] == pytest.approx([0.2, 0.8])


def test_the_loop_ends_at_the_last_prediction_and_counts_its_steps() -> None:
    states = list(denoise(shrink, stream(6), stream(3), DISTILLED, generator()))
    assert [s.step for s in states] == list(range(1, 9))
    assert [s.sigma for s in states] == list(DISTILLED[:-1])
    assert states[-1].sigma_next == 0
    assert torch.allclose(states[-1].video, states[-1].clean_video, atol=1e-6)


def test_the_same_seed_gives_the_same_bits() -> None:
    a, b = (last(shrink, stream(6), stream(3), DISTILLED, generator(7)) for _ in range(2))
    other = last(shrink, stream(6), stream(3), DISTILLED, generator(8))
    assert torch.equal(a.video, b.video)
    assert torch.equal(a.audio, b.audio)
    assert not torch.equal(a.video, other.video)


def test_closing_the_generator_stops_the_work() -> None:
    calls = []

    def counting(video, audio, sigma, step):  # type: ignore[no-untyped-def]
        calls.append(step)
        return shrink(video, audio, sigma, step)

    states = denoise(counting, stream(6), None, DISTILLED, generator())
    next(states)
    next(states)
    states.close()
    assert calls == [0, 1]
    assert list(states) == []


def test_the_loop_leaves_gradients_on_outside_of_itself() -> None:
    states = denoise(shrink, stream(6), None, DISTILLED, generator())
    next(states)
    assert torch.is_grad_enabled()
