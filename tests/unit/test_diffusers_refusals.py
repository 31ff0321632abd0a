"""Calls, latents and callbacks that do not fit: one clear RequestError each."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import soundstage as ss
from soundstage.compat.diffusers import LTX2VideoCondition
from soundstage.errors import RequestError
from tests.pipelines import PROMPT, SHORT

RED = Image.new("RGB", (64, 64), "red")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"prompt_embeds": 1}, "prompt_embeds is 1, and prompts are read within the engine"),
        ({"promt": "a"}, "'promt' is not a word of this pipeline; did you mean prompt\\?"),
        ({"output_type": "gif"}, "output_type is 'gif'; give one of pil, np, pt, latent"),
        ({"use_cross_timestep": False}, "use_cross_timestep is False, and only LTX-2.0 is run without it"),
        ({"generator": 3}, "generator is 3; give a torch.Generator, or seed"),
        ({"sigmas": [0.5], "timesteps": [500]}, "both sigmas and timesteps are given"),
        ({"sigmas": "many"}, "sigmas is 'many'; give a list of numbers"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt is 0; give a whole number"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt has 2 entries for 1 prompts"),
        ({"latents": torch.zeros(1, 3)}, r"latents are of shape \(1, 3\)"),
        (
            {"latents": torch.zeros(1, 128, 2, 2, 2), "width": 96, "height": 64},
            "width is 96, but the latents",
        ),
        (
            {"latents": torch.zeros(1, 128, 2, 2, 2), "noise_scale": 0.5},
            "noise_scale is 0.5, but the steps begin at 1,",
        ),
        (
            {"latents": torch.zeros(1, 128, 2, 2, 2), "audio_latents": torch.zeros(1, 8, 30, 16)},
            "audio_latents has 30 frames, but a clip of 9 frames at 24 a second has 9",
        ),
        ({"denoise_strength": 0.5}, "denoise_strength is given without latents"),
        (
            {"denoise_strength": "a", "latents": torch.zeros(1, 128, 2, 2, 2)},
            "denoise_strength is 'a'; give a",
        ),
        ({"noise_scale": "a", "latents": torch.zeros(1, 128, 2, 2, 2)}, "noise_scale is 'a'; give a number"),
        ({"seed": "a"}, "seed is 'a'; give a whole number"),
        ({"spatio_temporal_guidance_blocks": 5}, "spatio_temporal_guidance_blocks is 5; give a list"),
        ({"attention_kwargs": {"scale": "x"}}, "scale is 'x'; give a number"),
        ({"callback_on_step_end_tensor_inputs": 5}, "callback_on_step_end_tensor_inputs is 5; give a list"),
        ({"attention_kwargs": {"mask": 1}}, "attention_kwargs has mask; only scale"),
        ({"callback_on_step_end": 1}, "callback_on_step_end is 1; give a function"),
        (
            {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
            "callback_on_step_end_tensor_inputs has 'prompt_embeds'; a callback gets latents",
        ),
        ({"guidance_scale": "a"}, "guidance_scale is 'a'; give a number"),
        ({"guidance_scale": [1, 2]}, r"guidance_scale is \[1, 2\]; give a number"),
        ({"audio_stg_scale": "a"}, "audio_stg_scale is 'a'; give a number"),
        ({"sigmas": []}, "sigmas is empty"),
        ({"output_type": ["np"]}, r"output_type is \['np'\]; give one of"),
        ({"output_type": torch.zeros(2)}, r"output_type is tensor\(\[0., 0.\]\); give one of"),
        ({"width": 64.5, "height": 64}, "width is 64.5; give a whole number"),
        ({"image": [None]}, "image has an entry that is None"),
        ({"image": 3}, "image is 3; give pictures, an array or a file"),
        ({"conditions": LTX2VideoCondition(RED, "a")}, "index is 'a'; give a whole number"),  # type: ignore[arg-type]
        ({"conditions": LTX2VideoCondition(RED, 50)}, "index is 50, but the clip has 2 latent frames"),
        ({"conditions": LTX2VideoCondition(None)}, "conditions is None; give pictures"),
        ({"image": [RED, RED], "frame_index": [0]}, "image has 2 entries, and frame_index 1"),
        ({"latents": "a"}, "latents is 'a'; give a tensor, such as"),
        (
            {"latents": torch.zeros(1, 128, 0, 2, 2)},
            r"latents is of shape \(1, 128, 0, 2, 2\); give a tensor",
        ),
        ({"width": 64}, "width and height go together"),
        ({"num_inference_steps": 0}, "steps is 0"),
    ],
)
def test_what_does_not_fit_is_refused(pipe: ss.LTXVideoPipeline, words: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        pipe(PROMPT, **words)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ([1], r"callback_on_step_end returned \[1\]; return its dict of tensors, or nothing"),
        (torch.zeros(2), r"callback_on_step_end returned tensor\(\[0., 0.\]\); return its dict"),
        ({"latents": "a"}, "callback_on_step_end returned 'a' as latents of video; return a tensor"),
    ],
)
def test_what_a_callback_may_not_return_is_refused(
    pipe: ss.LTXVideoPipeline, returned: Any, says: str
) -> None:
    with pytest.raises(RequestError, match=says):
        pipe(PROMPT, callback_on_step_end=lambda *_: returned, **SHORT)


def test_the_error_of_a_callback_is_its_own(pipe: ss.LTXVideoPipeline) -> None:
    def fails(*_: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        pipe(PROMPT, callback_on_step_end=fails, **SHORT)
    assert pipe(PROMPT, **SHORT).frames.shape == (1, 9, 64, 64, 3)


def test_a_callback_may_not_change_the_pipeline(pipe: ss.LTXVideoPipeline, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()

    def loads(pipe: Any, *_: Any) -> None:
        pipe.load_lora_weights(tmp_path / "a.safetensors")

    def guides(pipe: Any, *_: Any) -> None:
        pipe._guidance_scale = 0.0

    with pytest.raises(RequestError, match="changed the LoRAs, the scheduler or the place"):
        pipe(PROMPT, callback_on_step_end=loads, **SHORT)
    pipe.unload_lora_weights()
    with pytest.raises(RequestError, match="_guidance_scale cannot be set; give guidance_scale in the call"):
        pipe(PROMPT, callback_on_step_end=guides, **SHORT)


def test_words_that_go_with_another_are_told_without_it(pipe: ss.LTXVideoPipeline) -> None:
    with pytest.warns(UserWarning, match="strength has no effect without image or video"):
        pipe(PROMPT, strength=0.5, **SHORT)
    with pytest.warns(UserWarning, match="noise_scale has no effect without latents or audio_latents"):
        pipe(PROMPT, noise_scale=0.5, **SHORT)
