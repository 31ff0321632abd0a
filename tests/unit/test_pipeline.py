"""The engine in diffusers' words: the same clip as its own request, adapters by name, clear refusals."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import soundstage as ss
from soundstage.compat.diffusers import PipelineOutput
from soundstage.errors import RequestError
from tests.tiny_model import TinyParts, write_tiny_model

PROMPT = "A red ball bounces."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def pipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ss.LTXVideoPipeline:
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", TinyParts)
    return ss.LTXVideoPipeline.from_pretrained(folder, torch_dtype=torch.float32)


def test_a_call_is_a_request(pipe: ss.LTXVideoPipeline) -> None:
    steps: list[int] = []

    def on_step(_: Any, step: int, sigma: float, tensors: Mapping[str, Any]) -> None:
        assert 0 <= sigma < 1
        assert not tensors
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
    assert np.array_equal(made.audio[0], same.waveform)


def test_pictures_come_out_as_pictures_and_latents_as_latents(pipe: ss.LTXVideoPipeline) -> None:
    frames, audio = pipe(PROMPT, num_frames=9, num_inference_steps=1, return_dict=False)
    assert [frame.size for frame in frames[0]] == [(64, 64)] * 9
    assert audio.shape[:2] == (1, 2)
    latents, _ = pipe(PROMPT, num_frames=9, num_inference_steps=1, output_type="latent", return_dict=False)
    assert latents.shape == (1, 128, 2, 2, 2)


@pytest.fixture
def asked(pipe: ss.LTXVideoPipeline, monkeypatch: pytest.MonkeyPatch) -> Callable[[], ss.Request]:
    """The request that a call would run."""
    seen: list[ss.Request] = []

    def stop(request: ss.Request, _: Any) -> None:
        seen.append(request)
        raise StopIteration

    def ask() -> ss.Request:
        with pytest.raises(StopIteration):
            pipe(PROMPT)
        return seen[-1]

    monkeypatch.setattr(pipe, "_run", stop)
    return ask


def test_adapters_are_called_by_name(
    pipe: ss.LTXVideoPipeline, tmp_path: Path, asked: Callable[[], ss.Request]
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").touch()
    pipe.load_lora_weights(tmp_path / "a.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="b.safetensors", adapter_name="style")
    assert pipe.get_list_adapters() == {"transformer": ["default_0", "style"]}
    pipe.set_adapters(["style", "default_0"], [0.5, 0.25])
    assert [(Path(lora.path).stem, lora.strength) for lora in asked().loras] == [("b", 0.5), ("a", 0.25)]
    pipe.disable_lora()
    assert pipe.get_active_adapters() == []
    pipe.enable_lora()
    pipe.delete_adapters("style")
    assert pipe.get_active_adapters() == ["default_0"]


def test_a_dict_of_weights_is_multipliers_of_groups(
    pipe: ss.LTXVideoPipeline, tmp_path: Path, asked: Callable[[], ss.Request]
) -> None:
    a, b = (str(tmp_path / f"{name}.safetensors") for name in "ab")
    for path in (a, b):
        Path(path).touch()
        pipe.load_lora_weights(path, adapter_name=Path(path).stem)
    groups = {"video": 1.0, "audio": 0.5}
    pipe.set_adapters(["a", "b"], [groups, 0.3])
    assert asked().loras == (ss.Lora(a, groups=groups), ss.Lora(b, 0.3))
    pipe.set_adapters(["a", "b"], {"audio": 0})
    assert asked().loras == (ss.Lora(a, groups={"audio": 0}), ss.Lora(b, groups={"audio": 0}))
    pipe.set_adapters("a")  # nothing stays of the weights before
    assert asked().loras == (ss.Lora(a),)
    for weights, says in (
        ({"sound": 1}, "groups has 'sound'; it should be 'video'"),
        (11.0, "strength is 11"),
    ):
        with pytest.raises(RequestError, match=says):
            pipe.set_adapters("a", weights)
    assert asked().loras == (ss.Lora(a),)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"prompt_embeds": 1}, "'prompt_embeds' is not a word of this pipeline"),
        ({"output_type": "gif"}, "output_type is 'gif'; give one of pil, np, latent"),
        ({"width": 64}, "width and height go together"),
        ({"num_inference_steps": 0}, "steps is 0"),
    ],
)
def test_what_does_not_fit_is_refused(pipe: ss.LTXVideoPipeline, words: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        pipe(PROMPT, **words)


def test_adapters_that_do_not_fit_are_refused(pipe: ss.LTXVideoPipeline, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no file"):
        pipe.load_lora_weights(tmp_path / "none.safetensors")
    (tmp_path / "a.safetensors").touch()
    pipe.load_lora_weights(tmp_path / "a.safetensors", adapter_name="a")
    with pytest.raises(RequestError, match="is loaded already"):
        pipe.load_lora_weights(tmp_path / "a.safetensors", adapter_name="a")
    with pytest.raises(RequestError, match="adapter b is not loaded; loaded: a"):
        pipe.set_adapters("b")
    with pytest.raises(RequestError, match="2 values for 1 adapters"):
        pipe.set_adapters(["a"], [1.0, 2.0])
