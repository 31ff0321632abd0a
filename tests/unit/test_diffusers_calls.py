"""A call in diffusers' words: the same clip as its own request, its outputs, what its words become."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import soundstage as ss
from soundstage.compat import diffusers as compat
from soundstage.compat.diffusers import FlowMatchEulerDiscreteScheduler, PipelineOutput
from soundstage.errors import RequestError
from tests.pipelines import PROMPT, SHORT, asked_by


def test_a_call_is_a_request(pipe: ss.LTXVideoPipeline) -> None:
    steps: list[int] = []

    def on_step(_: Any, step: int, timestep: torch.Tensor, tensors: Mapping[str, Any]) -> None:
        assert 0 < timestep <= 1000
        assert tensors["latents"].shape == (1, 8, 128)
        steps.append(step)

    made = pipe(
        PROMPT,
        width=64,
        height=64,
        num_frames=9,
        frame_rate=12,
        num_inference_steps=2,
        guidance_scale=2.0,
        modality_scale=1.0,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
        callback_on_step_end=on_step,
    )
    same = pipe.engine.generate(
        PROMPT,
        size=(64, 64),
        num_frames=9,
        fps=12,
        steps=2,
        video_guidance=2.0,
        video_scales={"modality": 1.0},
        seed=7,
    )
    assert steps == [0, 1]
    assert isinstance(made, PipelineOutput)
    assert same.frames is not None
    assert np.array_equal(made.frames[0], same.frames.astype("float32") / 255)
    assert same.waveform is not None
    assert np.array_equal(made.audio[0].numpy(), same.waveform)
    assert made.clips[0].request == same.request


def test_pictures_come_out_as_pictures_and_latents_as_latents(pipe: ss.LTXVideoPipeline) -> None:
    words: dict[str, Any] = {"num_frames": 9, "num_inference_steps": 1, "return_dict": False, "seed": 1}
    frames, audio = pipe(PROMPT, **words)
    assert [frame.size for frame in frames[0]] == [(64, 64)] * 9
    assert audio.shape[:2] == (1, 2)
    assert audio.dtype == torch.float32
    tensor = pipe(PROMPT, output_type="pt", **words)[0]
    assert tensor.shape == (1, 9, 3, 64, 64)
    assert np.array_equal(
        (tensor[0, 4] * 255).round().byte().permute(1, 2, 0).numpy(), np.asarray(frames[0][4])
    )
    latents, sound = pipe(PROMPT, output_type="latent", **words)
    assert latents.shape == (1, 128, 2, 2, 2)
    assert sound.shape == (1, 8, 9, 16)


def test_prompts_and_takes_make_a_clip_each(pipe: ss.LTXVideoPipeline) -> None:
    generator = torch.Generator().manual_seed(7)
    made = pipe(["A ball.", "A cube."], num_videos_per_prompt=2, generator=generator, **SHORT)
    assert made.frames.shape == (4, 9, 64, 64, 3)
    assert [clip.request.prompt for clip in made.clips] == ["A ball.", "A ball.", "A cube.", "A cube."]
    seeds = [clip.request.seed for clip in made.clips]
    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    again = pipe(["A ball."], generator=torch.Generator().manual_seed(7), **SHORT)
    assert np.array_equal(again.frames[0], made.frames[0])


def test_a_generator_moves_on_from_call_to_call(pipe: ss.LTXVideoPipeline) -> None:
    generator = torch.Generator().manual_seed(3)
    first, second = (pipe(PROMPT, generator=generator, **SHORT).clips[0].request.seed for _ in range(2))
    assert first == 3
    assert second != 3
    many = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    made = pipe(["A ball.", "A cube."], generator=many, **SHORT)
    assert [clip.request.seed for clip in made.clips] == [5, 6]
    with pytest.raises(RequestError, match="generator has 2 entries for 1 clips"):
        pipe(PROMPT, generator=many, **SHORT)


def test_without_a_generator_pytorchs_own_numbers_give_the_seed(pipe: ss.LTXVideoPipeline) -> None:
    seeds = []
    for _ in range(2):
        torch.manual_seed(1)
        seeds += [pipe(PROMPT, **SHORT).clips[0].request.seed for _ in range(2)]
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ({"sigmas": [1.0, 0.5]}, {"sigmas": (1.0, 0.5, 0.0), "steps": None}),
        ({"timesteps": [1000, 500, 0], "num_inference_steps": 9}, {"sigmas": (1.0, 0.5, 0.0), "steps": None}),
        ({"sigmas": np.array([1.0, 0.5])}, {"sigmas": (1.0, 0.5, 0.0)}),
        ({"timesteps": torch.tensor([1000, 500])}, {"sigmas": (1.0, 0.5, 0.0)}),
        ({"width": np.int64(96), "height": torch.tensor(64)}, {"size": (96, 64)}),
        ({"seed": np.int64(3)}, {"seed": 3}),
        ({"guidance_scale": 1.0, "modalities": {"video"}}, {"guidance": 1.0, "audio_scales": {}}),
        ({"guidance_scale": 3.0}, {"video_guidance": 3.0, "guidance": None}),
        (
            {"guidance_scale": 1.0, "negative_prompt": "blurry"},
            {"guidance": 1.0, "video_scales": {"stg": 0, "modality": 1}, "negative_prompt": None},
        ),
        (
            {"guidance_scale": 1.0, "audio_guidance_scale": 2.0, "negative_prompt": "blurry"},
            {"video_guidance": 1.0, "audio_guidance": 2.0, "negative_prompt": "blurry"},
        ),
        (
            {"stg_scale": 0.5, "spatio_temporal_guidance_blocks": [1]},
            {"video_scales": {"stg": 0.5, "stg_blocks": (1,)}},
        ),
    ],
)
def test_words_become_fields(
    pipe: ss.LTXVideoPipeline, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], fields: dict[str, Any]
) -> None:
    request = asked_by(pipe, monkeypatch, PROMPT, **words)
    assert {name: getattr(request, name) for name in fields} == fields


def test_pictures_and_clips_become_guides_and_references(
    pipe: ss.LTXVideoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = Image.new("RGB", (64, 64), "red")
    of_image = asked_by(
        ss.LTX2ImageToVideoPipeline.from_pipe(pipe), monkeypatch, picture, PROMPT, image_crf=20
    )
    assert [(g.frame, g.crf, g.image.frames.shape) for g in of_image.guides] == [(0, 20, (1, 64, 64, 3))]
    condition = compat.LTX2VideoCondition
    found = asked_by(
        ss.LTX2ConditionPipeline.from_pipe(pipe),
        monkeypatch,
        [condition(picture), condition([picture] * 9, 2, 0.5), condition(picture, -1)],
        PROMPT,
        num_frames=33,
    )
    assert [(g.frame, g.strength, len(g.image.frames)) for g in found.guides] == [
        (0, 1, 1),
        (9, 0.5, 9),
        (25, 1, 1),
    ]
    old = compat.LTXVideoCondition(video=[picture] * 9, frame_index=8)
    assert (
        asked_by(ss.LTXConditionPipeline.from_pipe(pipe), monkeypatch, old, prompt=PROMPT).guides[0].frame
        == 8
    )
    several = asked_by(
        ss.LTXConditionPipeline.from_pipe(pipe),
        monkeypatch,
        image=[picture, picture],
        frame_index=[0, 8],
        strength=[1.0, 0.5],
        prompt=PROMPT,
    )
    assert [(guide.frame, guide.strength) for guide in several.guides] == [(0, 1.0), (8, 0.5)]
    context = asked_by(
        ss.LTX2InContextPipeline.from_pipe(pipe),
        monkeypatch,
        PROMPT,
        reference_conditions=compat.LTX2ReferenceCondition([picture] * 9, 0.7),
        reference_downscale_factor=2,
        conditioning_attention_strength=0.5,
        conditioning_attention_mask=torch.ones(1, 1, 9, 64, 64),
    )
    reference = context.references[0]
    assert (reference.strength, reference.downscale, reference.attention) == (0.7, 2, 0.5)
    assert reference.mask is not None
    assert reference.mask.frames.shape == (9, 64, 64, 3)
    with pytest.raises(RequestError, match="image is not given, and LTX2ImageToVideoPipeline needs it"):
        ss.LTX2ImageToVideoPipeline.from_pipe(pipe)(prompt=PROMPT)
    with pytest.raises(RequestError, match=r"conditions has 'door.png'; give LTX2VideoCondition"):
        ss.LTX2ConditionPipeline.from_pipe(pipe)("door.png", PROMPT)


def test_a_scheduler_becomes_a_schedule(pipe: ss.LTXVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_by(pipe, monkeypatch, PROMPT).schedule is None
    changes = {"use_dynamic_shifting": False, "shift_terminal": None}
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, **changes)
    assert asked_by(pipe, monkeypatch, PROMPT).schedule == "linear"
    assert asked_by(pipe, monkeypatch, PROMPT, sigmas=[0.9]).schedule is None
    pipe.scheduler = compat.LTXEulerAncestralRFScheduler()
    assert asked_by(pipe, monkeypatch, PROMPT).sampler == "euler-ancestral"
    for wrong, says in (
        (object(), "scheduler is a object, which Soundstage does not have"),
        (FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), "use_karras_sigmas"),
        (FlowMatchEulerDiscreteScheduler(shift_terminal=None), "shift_terminal"),
    ):
        with pytest.raises(RequestError, match=says):
            pipe.scheduler = wrong
