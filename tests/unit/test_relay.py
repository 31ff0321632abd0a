"""Prompt Relay's bias against its formula, and what it does to attention."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from soundstage.conditioning.positions import audio_positions, video_positions
from soundstage.conditioning.relay import (
    join_contexts,
    latent_time,
    penalty,
    relay_bias,
    segment_bias,
)
from soundstage.conditioning.spans import Strength, token_weights
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.library.model_files import find_model
from soundstage.model.attention import Attention, context_bias
from soundstage.prompts.timeline import Relay, parse_timeline
from soundstage.rendering.events import Done
from soundstage.request.inputs import Lora, Span
from soundstage.request.request import Request
from tests.tiny_model import HEADS, VIDEO_HEAD, QuickSound, write_tiny_model

FPS = 24.0


@pytest.mark.parametrize(("epsilon", "weight"), [(1e-3, 4e-11), (0.1, 0.0706), (0.5, 0.786)])
def test_the_penalty_is_the_published_one(epsilon: float, weight: float) -> None:
    """A segment of 8 latent frames, one frame beyond its window of 2 about the middle."""
    cost = penalty(torch.tensor(3.0), 8, Relay(epsilon=epsilon))
    assert math.isclose(math.exp(-cost), weight, rel_tol=0.1 if weight < 1e-3 else 1e-3)
    assert penalty(torch.tensor([0.0, 2.0, -2.0]), 8, Relay(epsilon=epsilon)).tolist() == [0, 0, 0]


def test_strength_and_window_scale_act_as_named() -> None:
    three = torch.tensor(3.0)
    assert penalty(three, 8, Relay(strength=2)) == 2 * penalty(three, 8, Relay())
    assert penalty(three, 8, Relay(strength=0)) == 0
    assert penalty(three, 8, Relay(window_scale=1.5)) == 0


def test_time_becomes_latent_frames_on_the_causal_grid() -> None:
    grid = video_positions(4, 1, 1, FPS)[0, 0]
    assert torch.allclose(latent_time(grid[:, 0], FPS), torch.arange(4.0))
    assert torch.allclose(latent_time(grid[:, 1], FPS), torch.arange(1.0, 5.0))
    assert latent_time(torch.tensor(-0.3), FPS) == 0


def test_every_token_hears_the_segment_it_stands_in_on_both_streams() -> None:
    timeline = parse_timeline("a | b | c", num_frames=121, fps=FPS)
    for positions in (video_positions(16, 2, 1, FPS), audio_positions(126)):
        nearest = segment_bias(positions, timeline.segments, FPS, Relay()).argmax(dim=1)
        middle = positions[0, 0].mean(-1)
        for token in range(len(middle)):
            segment = timeline.segments[int(nearest[token])]
            assert segment.start_s - 0.05 <= middle[token] <= segment.end_s + 0.05


def test_the_nearest_segment_has_no_bias_and_the_other_the_difference_of_their_penalties() -> None:
    timeline = parse_timeline("a | b", num_frames=121, fps=FPS)
    relay = Relay(epsilon=0.1)
    bias = segment_bias(video_positions(16, 1, 1, FPS), timeline.segments, FPS, relay)
    assert torch.equal(bias.amax(dim=1), torch.zeros(16))
    middle = torch.arange(16) + 0.5  # two segments of 8 latent frames, their middles at 4 and 12
    costs = [penalty(middle - m, 8, relay) for m in (4, 12)]
    assert torch.allclose(bias[:, 1] - bias[:, 0], costs[0] - costs[1], atol=1e-4)


def test_a_sharp_relay_is_attention_to_ones_own_words_alone() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 16, num_heads=2, head_dim=8).eval()
    timeline = parse_timeline("a | b", num_frames=57, fps=FPS, relay=Relay(epsilon=1e-6, strength=10))
    positions = video_positions(8, 1, 1, FPS)
    x, first, second = torch.randn(1, 8, 16), torch.randn(1, 5, 16), torch.randn(1, 5, 16)
    bias = relay_bias(positions, timeline, FPS, 5, audio=False)
    assert bias.shape == (1, 8, 10)
    with torch.no_grad():
        mixed = attention(x, join_contexts([first, second]), bias=context_bias(bias, torch.float32))
        alone = torch.cat([attention(x[:, :4], first), attention(x[:, 4:], second)], dim=1)
    assert torch.allclose(mixed, alone, atol=1e-6)


def test_equal_segments_are_the_plain_prompt() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 16, num_heads=2, head_dim=8).eval()
    timeline = parse_timeline("a | a", num_frames=57, fps=FPS, relay=Relay(epsilon=0.5))
    x, words = torch.randn(1, 8, 16), torch.randn(1, 5, 16)
    bias = relay_bias(video_positions(8, 1, 1, FPS), timeline, FPS, 5, audio=False)
    with torch.no_grad():
        joined = attention(x, join_contexts([words, words]), bias=context_bias(bias, torch.float32))
        assert torch.allclose(joined, attention(x, words), atol=1e-6)


def test_weights_follow_the_spans_on_both_streams() -> None:
    spans = [Strength(0.0, 1.0, 0.8), Strength(1.0, 2.0, 0.5)]
    video = video_positions(7, 1, 2, FPS)  # 49 frames, 2.04 s
    weights = token_weights(video, spans)
    assert weights.view(7, 2)[:, 0].tolist() == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.5, 0.5, 0.5])
    audio = token_weights(audio_positions(51), spans)
    assert (audio[:25] == 0.8).all()
    assert audio[26:50].tolist() == [0.5] * 24
    assert token_weights(video - 10, spans).tolist() == [0.0] * 14
    with pytest.raises(RequestError, match="from 2 to 1 s is empty"):
        Strength(2.0, 1.0)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    return Engine(model, parts=QuickSound(model, torch.device("cpu"), torch.float32))


def made(stage: Engine, prompt: str, **fields: object) -> Done:
    plain = {"num_frames": 17, "steps": 2, "guidance": 3, "stg": 0, "modality_guidance": 1}
    *_, done = stage.run(Request(**{"prompt": prompt, "seed": 10, **plain, **fields}))
    assert isinstance(done, Done)
    return done


def test_a_film_of_one_prompt_twice_is_the_film_of_that_prompt(stage: Engine) -> None:
    plain, twice = made(stage, "a red ball"), made(stage, "a red ball | a red ball")
    assert torch.allclose(plain.video_latents, twice.video_latents, atol=1e-4)
    assert torch.allclose(plain.audio_latents, twice.audio_latents, atol=1e-4)


def test_another_second_segment_changes_what_comes_later_most(stage: Engine) -> None:
    plain = made(stage, "a red ball", steps=1, modalities={"video"}, num_frames=33)
    timed = made(
        stage, "[0-0.7s] a red ball [0.7s-] a blue cube", steps=1, modalities={"video"}, num_frames=33
    )
    change = (plain.video_latents - timed.video_latents).abs().mean(dim=(0, 1, 3, 4))
    assert change[:3].max() < 0.5 * change[3:].min()


def test_the_plan_tells_the_times_and_refuses_what_cannot_be_read(stage: Engine) -> None:
    plan = stage.plan(Request(prompt="a | b", num_frames=17, lengths=(2, 1)))
    assert "prompt    0 to 0.375 s: a" in str(plan)
    assert json.loads(plan.to_json())["timeline"]["segments"][1]["text"] == "b"
    with pytest.raises(RequestError, match="1 lengths are given for a prompt of 2 segments"):
        stage.plan(Request(prompt="a | b", num_frames=17, lengths=(2,)))
    with pytest.raises(RequestError, match=r"relay\.epsilon is 2; give a number from 1e-06 to 0\.99"):
        Request(prompt="a | b", relay={"epsilon": 2})


def test_the_clip_remembers_its_relay(stage: Engine) -> None:
    request = Request(prompt="a | b", num_frames=9, steps=1, relay=Relay(epsilon=0.3), lengths=(1, 1))
    assert Request.from_json(request.to_json()) == request


def test_a_lora_with_a_span_changes_the_tokens_of_its_time_alone(stage: Engine, tmp_path: Path) -> None:
    """The last layer mixes no tokens, so what an adapter of it does stays where its strength is."""
    torch.manual_seed(0)
    path = tmp_path / "last.safetensors"
    width = HEADS * VIDEO_HEAD
    save_file(
        {
            "diffusion_model.proj_out.lora_A.weight": torch.randn(2, width),
            "diffusion_model.proj_out.lora_B.weight": torch.randn(128, 2),
        },
        path,
    )
    plain = {"steps": 1, "guidance": 1, "modalities": {"video"}}
    without = made(stage, "a", **plain).video_latents
    always = made(stage, "a", loras=[Lora(str(path))], **plain).video_latents
    timed = made(stage, "a", loras=[Lora(str(path), 1.0, Span(0.0, 0.3))], **plain).video_latents
    # Latent frames cover [0, 1), [1, 9) and [9, 17) of 24 frames a second.
    assert torch.equal(timed[:, :, 2], without[:, :, 2])
    assert torch.allclose(timed[:, :, :2], always[:, :, :2], atol=1e-5)
    assert not torch.allclose(always[:, :, 2], without[:, :, 2], atol=1e-2)
