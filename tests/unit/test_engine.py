"""The engine over a whole tiny model: events, repeatability, what it keeps, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import soundstage as ss
from soundstage.clip import read_provenance
from soundstage.engine import Engine
from soundstage.errors import RequestError, WeightsError
from soundstage.library.model_files import TRANSFORMER, VIDEO_VAE, find_model
from soundstage.memory.machine import pick_device
from soundstage.rendering.events import Done, Phase, Step
from soundstage.rendering.parts import ModelParts, pick_dtype
from soundstage.weights.header import read_header
from tests.tiny_model import TinyParts, write_text_encoder, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def tiny_engine(folder: Path) -> Engine:
    parts = TinyParts(find_model(folder), torch.device("cpu"), torch.float32)
    return Engine(find_model(folder), parts=parts)


@pytest.fixture(scope="module")
def stage(folder: Path) -> Engine:
    return tiny_engine(folder)


def finished(stage: Engine, **fields: object) -> Done:
    *_, done = stage.run(ss.Request(**{"prompt": "a red ball", **fields}))
    assert isinstance(done, Done)
    return done


def test_events_come_in_order_and_end_with_the_clip(stage: Engine) -> None:
    events = list(stage.run(ss.Request(prompt="a red ball")))
    names = [event.name for event in events if isinstance(event, Phase)]
    assert names == ["load", "encode", "denoise", "decode video", "decode audio"]
    assert [event.step for event in events if isinstance(event, Step)] == [1, 2, 3]
    done = events[-1]
    assert isinstance(done, Done)
    assert done.clip.frames is not None
    assert done.clip.waveform is not None
    assert done.clip.frames.shape == (9, 64, 64, 3)
    assert done.clip.frames.dtype == np.uint8
    assert done.clip.waveform.shape[0] == 2
    assert set(done.seconds) == set(names)


def test_latents_of_a_step_are_changed_by_tensors_of_their_shape_alone(stage: Engine) -> None:
    asked = ss.Request(prompt="a red ball", seed=3, steps=2, num_frames=9, size=(64, 64))
    wrong: tuple[Any, ...] = (np.zeros(3), torch.zeros(1, 2))
    for tokens, says in zip(wrong, ("to ndarray; give a tensor", r"to \(1, 2\)"), strict=True):
        run = stage.run(asked)
        step = next(event for event in run if isinstance(event, Step))
        assert step.tokens is not None
        with pytest.raises(RequestError, match=says):
            step.tokens.put(video=tokens)
        run.close()
    (zeroed,) = [e for e in changed_to_zero(stage, asked) if isinstance(e, Done)]
    (plain,) = [e for e in stage.run(asked) if isinstance(e, Done)]
    assert not torch.equal(zeroed.video_latents, plain.video_latents)


def changed_to_zero(stage: Engine, asked: ss.Request) -> Any:
    for event in stage.run(asked):
        if isinstance(event, Step) and event.tokens is not None and event.tokens.video is not None:
            event.tokens.put(video=torch.zeros_like(event.tokens.video))
        yield event


def test_latents_have_the_shapes_the_decoders_take(stage: Engine) -> None:
    done = finished(stage, size=(96, 64), num_frames=17)
    assert done.video_latents is not None
    assert done.audio_latents is not None
    assert done.video_latents.shape == (1, 128, 3, 2, 3)
    assert done.audio_latents.shape == (1, 8, 18, 16)


def test_the_same_seed_gives_the_same_bytes_even_in_a_new_engine(folder: Path, stage: Engine) -> None:
    first, second = finished(stage, seed=7), finished(tiny_engine(folder), seed=7)
    other = finished(stage, seed=8)
    assert torch.equal(first.video_latents, second.video_latents)
    assert torch.equal(first.audio_latents, second.audio_latents)
    assert first.clip.provenance["latents_sha256"] == second.clip.provenance["latents_sha256"]
    assert first.clip.provenance["latents_sha256"] != other.clip.provenance["latents_sha256"]
    assert np.array_equal(first.clip.frames, second.clip.frames)


def test_a_prompt_is_encoded_once(folder: Path) -> None:
    stage = tiny_engine(folder)
    for prompt in ("one", "two", "one"):
        finished(stage, prompt=prompt)
    assert stage._parts.encoded == ["one", "blurry", "two"]


def test_without_guidance_no_negative_prompt_is_encoded(folder: Path) -> None:
    stage = tiny_engine(folder)
    finished(stage, guidance=1, stg=0, modality_guidance=1)
    assert stage._parts.encoded == ["a red ball"]


def test_prompt_and_guidance_change_the_result(stage: Engine) -> None:
    base = finished(stage)
    for change in ({"prompt": "a blue ball"}, {"guidance": 1}, {"stg": 0}, {"negative_prompt": "red"}):
        assert not torch.equal(finished(stage, **change).video_latents, base.video_latents)


def test_one_modality_alone(stage: Engine) -> None:
    silent = finished(stage, modalities={"video"})
    assert silent.clip.waveform is None
    assert silent.audio_latents is None
    sound = finished(stage, modalities={"audio"})
    assert sound.clip.frames is None
    assert sound.clip.waveform is not None


def test_a_run_in_bfloat16_is_finite_and_says_so(folder: Path, stage: Engine) -> None:
    parts = TinyParts(find_model(folder), torch.device("cpu"), torch.bfloat16)
    narrow = finished(Engine(find_model(folder), parts=parts), seed=7, guidance=1, stg=0, modality_guidance=1)
    assert narrow.video_latents is not None
    assert narrow.audio_latents is not None
    assert narrow.video_latents.dtype == torch.bfloat16
    assert narrow.clip.provenance["dtype"] == "bfloat16"
    assert torch.isfinite(narrow.audio_latents).all()
    assert narrow.clip.waveform is not None
    assert np.isfinite(narrow.clip.waveform).all()


def test_closing_the_run_stops_the_work(stage: Engine) -> None:
    events = stage.run(ss.Request(prompt="a red ball", steps=50))
    for event in events:
        if isinstance(event, Step):
            break
    events.close()
    assert list(events) == []
    assert torch.is_grad_enabled()


def test_generate_and_save_embed_the_request_and_the_hashes(stage: Engine, tmp_path: Path) -> None:
    clip = stage.generate("a red ball", seed=5)
    path = clip.save(tmp_path / "a.mp4")
    stored = read_provenance(path)
    again = ss.Request(**stored["request"])
    assert again == ss.Request(prompt="a red ball", seed=5)
    assert len(stored["files"][TRANSFORMER]) == 64
    assert stored["passes"][0]["video"]["cfg"] == 3
    assert stage.generate(again).provenance["latents_sha256"] == stored["latents_sha256"]


def test_unknown_models_and_devices_are_refused() -> None:
    with pytest.raises(RequestError, match="model is 'vga'"):
        ss.load("vga")
    with pytest.raises(RequestError, match="device is 'abacus'"):
        pick_device("abacus")
    with pytest.raises(RequestError, match="dtype is 'int3'"):
        pick_dtype("int3", "float32", torch.device("cpu"))


def test_missing_and_truncated_files_are_named(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    path = folder / VIDEO_VAE
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(WeightsError, match=r"video_vae\.safetensors has .* bytes where its header needs"):
        ss.load(folder)
    path.unlink()
    with pytest.raises(WeightsError, match=r"lacks .*video_vae\.safetensors"):
        ss.load(folder)


def test_a_file_of_another_model_is_refused_before_the_work(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    path = folder / VIDEO_VAE
    tensors = load_file(path)
    tensors["vae.decoder.conv_in.conv.weight"] = torch.zeros(3, 3)
    save_file(tensors, path, read_header(path).metadata)
    parts = ModelParts(find_model(folder), torch.device("cpu"), torch.float32)
    with pytest.raises(WeightsError, match=r"decoder\.conv_in\.conv\.weight \[3, 3\]"):
        _ = parts.video_vae


def test_the_whole_model_runs_from_its_files(tmp_path: Path) -> None:
    """Nothing stands in here: the text encoder is a tiny Gemma 3 read from its folder."""
    folder = write_tiny_model(tmp_path / "tiny")
    write_text_encoder(folder / "text")
    stage = ss.load(folder, device="cpu")
    red, again = stage.generate("a red ball", seed=5), stage.generate("a red ball", seed=5)
    blue = stage.generate("a blue ball", seed=5)
    assert red.frames is not None
    assert red.frames.shape == (9, 64, 64, 3)
    assert red.provenance["latents_sha256"] == again.provenance["latents_sha256"]
    assert red.provenance["latents_sha256"] != blue.provenance["latents_sha256"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"memory_gb": float("nan")}, "memory is nan GB; give more than 0"),
        ({"memory_gb": "8"}, "memory is '?8'?; give a number of GB"),
        ({"memory_gb": True}, "memory is True; give a number of GB"),
        ({"residency": None}, "residency is 'None'; give one of auto, "),
        ({"weights": 8}, "weights is '8'; give one of auto, "),
        ({"dtype": 32}, "dtype is '32'; give one of auto, "),
        ({"dtype": "fp16"}, "dtype is 'fp16'; give one of auto, bfloat16, float32"),
        ({"dtype": torch.float16}, "dtype is 'float16'; give one of auto, bfloat16, float32"),
        (
            {"device": "gpu"},
            "device is 'gpu', which this machine does not have; give 'auto', 'cpu'|'auto' or",
        ),
        ({"device": "cuda:99"}, "device is 'cuda:99', which this machine does not have; give 'auto'"),
        ({"device": torch.device("meta")}, "device is 'meta', which this machine does not have"),
        ({"model": None}, "model is None; give a name"),
        ({"model": [[]]}, r"model is \[\[\]\]; give a name"),
        ({"model": []}, r"model is \[\]; give a name"),
        ({"model": b"nano"}, "model is b'nano'; give a name"),
    ],
)
def test_options_of_another_kind_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        ss.load(**options)


@pytest.mark.parametrize("device", [None, 3.5, "meta", "cuda:99"])
def test_a_device_that_cannot_compute_is_refused(device: Any) -> None:
    with pytest.raises(RequestError, match=f"device is '{device}', which this machine does not have"):
        pick_device(device)


def test_pytorchs_own_names_of_devices_and_dtypes_are_understood(folder: Path) -> None:
    own, named = (
        ss.load(folder, device=torch.device("cpu"), dtype=torch.bfloat16),
        ss.load(folder, device="cpu", dtype="bfloat16"),
    )
    assert own.number_format == named.number_format


def test_a_refused_device_says_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [pick_device(name) for name in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]
    with pytest.raises(RequestError, match=r"give 'auto', 'cpu', 'cuda:0' or 'cuda:1'$"):
        pick_device("cuda:2")


def test_a_limit_beyond_all_memory_is_no_limit(folder: Path) -> None:
    ss.load(folder, memory_gb=10**400).plan(ss.Request(prompt="a"))


def test_what_is_no_request_is_refused(stage: Engine) -> None:
    for use in (stage.plan, lambda given: next(stage.run(given))):
        with pytest.raises(
            RequestError, match=r"a str was given where a Request is needed; give ss\.Request"
        ):
            use("a red ball")  # type: ignore[operator]
    for every in (-1, 1.5, "2", None):
        with pytest.raises(RequestError, match=f"preview_every is {every!r}; give a whole number"):
            stage.run(ss.Request(prompt="a"), preview_every=every)  # type: ignore[arg-type]
