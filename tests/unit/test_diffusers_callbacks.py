"""Latents that a call starts from, and callbacks between its steps."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from PIL import Image

import soundstage as ss
from soundstage.errors import RequestError
from tests.pipelines import PROMPT, SHORT


def test_latents_given_are_what_the_steps_start_from(pipe: ss.LTXVideoPipeline) -> None:
    video, audio = pipe(PROMPT, **{**SHORT, "output_type": "latent"}, seed=1, return_dict=False)
    words: dict[str, Any] = {"sigmas": [0.01], "guidance_scale": 1.0, "output_type": "latent", "seed": 2}
    near, near_audio = pipe(PROMPT, latents=video, audio_latents=audio, noise_scale=0.01, **words).to_tuple()
    assert (near - video).abs().mean() < 0.1 * video.abs().mean()
    assert (near_audio - audio).abs().mean() < 0.1 * audio.abs().mean()
    packed = video.flatten(2).transpose(1, 2)
    shape = {"width": 64, "height": 64, "num_frames": 9}
    assert torch.equal(pipe(PROMPT, latents=packed, audio_latents=audio, **shape, **words).frames, near)
    clip = pipe(PROMPT, latents=video, audio_latents=audio, **{**words, "output_type": "np"}).clips[0]
    assert set(clip.provenance["given_latents_sha256"]) == {"video", "audio"}
    steps = []
    pipe(
        PROMPT,
        latents=video,
        denoise_strength=0.5,
        num_inference_steps=4,
        guidance_scale=1.0,
        output_type="latent",
        callback_on_step_end=lambda pipe, i, t, tensors: steps.append(i),
    )
    assert steps == [0, 1]


def test_a_callback_may_change_latents(pipe: ss.LTXVideoPipeline) -> None:
    def zeros(_: Any, step: int, t: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {name: torch.zeros_like(x) for name, x in tensors.items()} if step == 1 else {}

    words: dict[str, Any] = {**SHORT, "num_inference_steps": 2, "output_type": "latent", "seed": 1}
    names = ["latents", "audio_latents"]
    made = pipe(PROMPT, callback_on_step_end=zeros, callback_on_step_end_tensor_inputs=names, **words)
    assert not made.frames.any()
    assert not made.audio.any()
    with pytest.raises(RequestError, match=r"the video latents were changed to \(1, 2\)"):
        pipe(PROMPT, callback_on_step_end=lambda *_: {"latents": torch.zeros(1, 2)}, **words)


def test_kept_tokens_stay_whatever_a_callback_returns(pipe: ss.LTXVideoPipeline) -> None:
    image = Image.new("RGB", (64, 64), "red")
    words: dict[str, Any] = {**SHORT, "output_type": "latent", "seed": 1}
    image_pipe = ss.LTX2ImageToVideoPipeline.from_pipe(pipe)
    plain = image_pipe(image, PROMPT, **words).frames
    made = image_pipe(
        image, PROMPT, callback_on_step_end=lambda *_: {"latents": torch.zeros(1, 8, 128)}, **words
    ).frames
    assert torch.equal(made[:, :, 0], plain[:, :, 0])
    assert not made[:, :, 1].any()


def test_an_interrupted_clip_shows_what_is_there(pipe: ss.LTXVideoPipeline) -> None:
    seen: list[torch.Tensor] = []

    def stop(pipe: Any, step: int, t: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(tensors["latents"].clone())
        pipe._interrupt = step == 1
        return {}

    words: dict[str, Any] = {**SHORT, "num_inference_steps": 4, "seed": 1, "callback_on_step_end": stop}
    made = pipe(PROMPT, **{**words, "output_type": "latent"})
    assert len(seen) == 2
    assert pipe.interrupt
    assert torch.equal(made.frames.flatten(2).transpose(1, 2), seen[-1])
    assert pipe(PROMPT, **words).frames.shape == (1, 9, 64, 64, 3)
    assert pipe.num_timesteps == 0 or len(seen) == 4


def test_arrays_are_taken_for_latents(pipe: ss.LTXVideoPipeline) -> None:
    latents = torch.ones(1, 128, 2, 2, 2, requires_grad=True)
    words: dict[str, Any] = {"sigmas": [0.5], "guidance_scale": 1.0, "output_type": "latent", "seed": 1}
    made = pipe(PROMPT, latents=latents, **words).frames
    assert torch.equal(pipe(PROMPT, latents=latents.detach().numpy(), **words).frames, made)
    half = pipe(
        PROMPT,
        latents=latents,
        callback_on_step_end=lambda pipe, i, t, tensors: {"latents": tensors["latents"].numpy() / 2},
        **words,
    ).frames
    assert torch.equal(half, made / 2)


def test_a_call_in_a_callback_leaves_the_callback_in_place(pipe: ss.LTXVideoPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def inner(pipe: Any, step: int, t: torch.Tensor, tensors: Mapping[str, Any]) -> None:
        pipe(PROMPT, seed=1, **SHORT)
        seen.append((step, float(pipe.current_timestep)))

    pipe(PROMPT, callback_on_step_end=inner, seed=1, **{**SHORT, "num_inference_steps": 2})
    assert [step for step, _ in seen] == [0, 1]
    assert seen[0][1] > seen[1][1]


def test_threads_have_their_own_callbacks(pipe: ss.LTXVideoPipeline) -> None:
    def make(seed: int) -> tuple[Any, list[int]]:
        seen: list[int] = []
        words = {**SHORT, "num_inference_steps": 3, "output_type": "latent", "seed": seed}
        made = pipe(PROMPT, callback_on_step_end=lambda pipe, i, t, tensors: seen.append(i), **words)
        return made.frames, seen

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(make, (1, 2)))
    assert [seen for _, seen in both] == [[0, 1, 2]] * 2
    for (frames, _), seed in zip(both, (1, 2), strict=True):
        assert torch.equal(frames, make(seed)[0])
