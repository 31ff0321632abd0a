"""ComfyUI's nodes without ComfyUI: its modules are stood in for, and nodes are called with its tensors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import soundstage as ss
from integrations import comfyui
from integrations.comfyui import media, stages
from integrations.comfyui.widgets import SOCKETS, plain_fields, read, widgets
from soundstage.engine import Engine
from soundstage.fields.describe import field_names
from soundstage.library.model_files import find_model
from soundstage.request.inputs import Audio, Guide, Lora, Reference, Source
from soundstage.request.request import Request
from soundstage.request.take import Take
from tests.serving import serving
from tests.tiny_model import TinyParts

EXAMPLES = Path(comfyui.__file__).parent / "examples"
SMALL = {"prompt": "A red ball.", "size": "64x64", "steps": 1, "seed": 3, "duration_s": 0.35}
NODES = comfyui.NODE_CLASS_MAPPINGS
CORE = {"SaveVideo", "ImageFromBatch"}  # ComfyUI's own nodes in the examples


class Stopped(Exception):
    """What ComfyUI raises when its stop button is pressed."""


class Blocker:
    """What ComfyUI takes for an output that is not there."""

    def __init__(self, message: str | None) -> None:
        self.message = message


class Comfy:
    """ComfyUI's side of a node: keeps the progress that nodes report, and can be told to stop."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.previews: list[Any] = []
        self.freed = 0
        self.stop_after: int | None = None

    def throw(self) -> None:
        if self.stop_after is not None and len(self.fractions) >= self.stop_after:
            raise Stopped

    def free(self) -> None:
        self.freed += 1

    def bar(self, total: int) -> Any:
        def update(value: int, total: int, preview: Any) -> None:
            self.fractions.append(value / total)
            self.previews += [] if preview is None else [preview]

        return SimpleNamespace(update_absolute=update)


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Comfy:
    """ComfyUI's modules, as far as nodes use them."""
    held = Comfy()
    modules = {
        "comfy.utils": SimpleNamespace(ProgressBar=held.bar),
        "comfy.model_management": SimpleNamespace(
            throw_exception_if_processing_interrupted=held.throw,
            unload_all_models=held.free,
            soft_empty_cache=lambda: None,
        ),
        "comfy_execution.graph_utils": SimpleNamespace(ExecutionBlocker=Blocker),
        "folder_paths": SimpleNamespace(
            get_filename_list=lambda kind: ["style.safetensors"],
            get_full_path=lambda kind, name: str(tmp_path / name) if name == "style.safetensors" else None,
            get_input_directory=lambda: str(tmp_path),
        ),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return held


@pytest.fixture(scope="module")
def stage(tiny_folder: Path) -> stages.LocalStage:
    model = find_model(tiny_folder)
    return stages.LocalStage(Engine(model, parts=TinyParts(model, torch.device("cpu"), torch.float32)))


def call(name: str, **given: Any) -> tuple[Any, ...]:
    """Call a node as ComfyUI does: with the defaults of its widgets, and what is given."""
    node = NODES[f"Soundstage{name}"]
    values = {
        key: widget[1]["default"]
        for part in node.INPUT_TYPES().values()
        for key, widget in part.items()
        if len(widget) > 1 and "default" in widget[1]
    }
    found: tuple[Any, ...] = getattr(node(), node.FUNCTION)(**{**values, **given})
    return found


def pictures(count: int = 1) -> torch.Tensor:
    return torch.linspace(0, 1, count * 64 * 64 * 3).reshape(count, 64, 64, 3)


def sound(seconds: float = 0.35) -> dict[str, Any]:
    return {"waveform": torch.zeros(1, 2, int(48_000 * seconds)), "sample_rate": 48_000}


# --- widgets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [Request, Guide, Reference, Source, Audio, Lora, Take])
def test_widgets_at_their_defaults_leave_a_record_as_it_is(owner: type) -> None:
    names = [name for name in plain_fields(owner) if name not in ("prompt", "path", "seed")]
    values = {name: widget[1]["default"] for name, widget in widgets(owner, names).items()}
    needed: dict[type, dict[str, Any]] = {
        Request: {"prompt": "a"},
        Guide: {"image": "a.png"},
        Reference: {"video": "a.mp4"},
        Source: {"video": "a.mp4", "denoise": 0.5},
        Audio: {"file": "a.wav"},
        Lora: {"path": "a.safetensors"},
        Take: {},
    }
    assert owner(**{**read(owner, values), **needed[owner]}) == owner(**needed[owner])


def test_every_field_of_a_request_has_a_node(comfy: Comfy) -> None:
    typed = {**NODES["SoundstageGenerate"].INPUT_TYPES()["required"]}
    typed |= NODES["SoundstageOptions"].INPUT_TYPES()["required"]
    assert set(field_names(Request)) - SOCKETS <= set(typed)
    links = NODES["SoundstageGenerate"].INPUT_TYPES()["optional"]
    assert {"sound" if name == "audio" else name for name in SOCKETS} <= set(links)


def test_texts_of_widgets_are_read_as_the_field_takes_them() -> None:
    given = {"sigmas": "1, 0.5, 0", "size": "64x96", "cache": "first-block:0.1", "video_scales": '{"cfg": 2}'}
    assert Request(prompt="a", **read(Request, given)) == Request(
        prompt="a", sigmas=(1, 0.5, 0), size=(64, 96), cache="first-block:0.1", video_scales={"cfg": 2}
    )
    assert read(Guide, {"at": "1.5"}) == {"at": 1.5}
    assert read(Guide, {"at": "last", "frame": ""}) == {"at": "last"}
    source = Source(video="a.mp4", **read(Source, {"regenerate": "0-1, 2-3", "modalities": "video"}))
    assert [span.end_s for span in source.regenerate] == [1, 3]
    assert source.modalities == {"video"}


def test_broken_json_in_a_widget_is_a_sentence() -> None:
    with pytest.raises(ss.RequestError, match=r"video_scales is .*, which is not JSON"):
        read(Request, {"video_scales": '{"cfg"'})


# --- nodes -------------------------------------------------------------------------------------------


def test_a_clip_comes_in_comfyuis_types_with_progress_and_previews(
    comfy: Comfy, stage: stages.LocalStage
) -> None:
    with torch.inference_mode():  # as ComfyUI calls nodes
        images, audio, _, latent, audio_latent, fps, info = call(
            "Generate", stage=stage, preview_every=1, **SMALL
        )
    assert images.shape == (9, 64, 64, 3)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert audio["waveform"].shape[:2] == (1, 2)
    assert audio["sample_rate"] == 48_000
    assert latent["samples"].shape == (1, 128, 2, 2, 2)
    assert audio_latent["samples"].shape[:2] == (1, 8)
    assert audio_latent["type"] == "audio"
    assert fps == 24
    assert json.loads(info)["request"]["seed"] == 3
    assert comfy.fractions == sorted(comfy.fractions)
    assert comfy.fractions[-1] == 1
    assert [preview[0] for preview in comfy.previews] == ["JPEG"]
    assert comfy.freed == 1


def test_latents_go_out_and_in_and_decode_to_the_same_clip(comfy: Comfy, stage: stages.LocalStage) -> None:
    made = call("Generate", stage=stage, **SMALL)
    again = call("Decode", stage=stage, latent=made[3], audio_latent=made[4], fps=24.0)
    assert torch.equal(made[0], again[0])
    assert torch.equal(made[1]["waveform"], again[1]["waveform"])
    both = SimpleNamespace(is_nested=True, unbind=lambda: [made[3]["samples"], made[4]["samples"]])
    changed = call("Generate", stage=stage, latent={"samples": both}, denoise=0.5, **{**SMALL, "steps": 2})
    assert changed[0].shape == made[0].shape
    assert not torch.equal(changed[0], made[0])


def test_latents_of_another_shape_are_refused_in_a_sentence(comfy: Comfy, stage: stages.LocalStage) -> None:
    wrong = {"samples": torch.zeros(1, 128, 3, 2, 2)}
    with pytest.raises(ss.RequestError, match=r"latent has \(3, 2, 2\), but a clip of 9 frames"):
        call("Generate", stage=stage, latent=wrong, **SMALL)
    with pytest.raises(ss.RequestError, match=r"latents are \(1, 4, 8, 8\); link those of one clip"):
        call("Generate", stage=stage, latent={"samples": torch.zeros(1, 4, 8, 8)}, **SMALL)
    masked = {"samples": torch.zeros(1, 128, 2, 2, 2), "noise_mask": torch.zeros(1)}
    with pytest.raises(ss.RequestError, match="latent has a noise mask"):
        call("Generate", stage=stage, latent=masked, **SMALL)


def test_what_was_not_made_blocks_the_nodes_behind_it(comfy: Comfy, stage: stages.LocalStage) -> None:
    images, audio, *_ = call("Generate", stage=stage, **{**SMALL, "size": ""}, modalities="audio")
    assert isinstance(images, Blocker)
    assert audio["waveform"].shape[-1] > 0


def test_stop_ends_the_run_with_comfyuis_own_exception(comfy: Comfy, stage: stages.LocalStage) -> None:
    comfy.stop_after = 2
    with pytest.raises(Stopped):
        call("Generate", stage=stage, **SMALL)
    assert len(comfy.fractions) == 2
    comfy.stop_after = None
    assert call("Generate", stage=stage, **SMALL)[0].shape[0] == 9


def test_pictures_sounds_loras_and_clips_become_fields_of_the_request(comfy: Comfy, tmp_path: Path) -> None:
    (first,) = call("Guide", image=pictures())
    (guides,) = call("Guide", image=pictures(9), guides=first, at="last", strength=0.5)
    assert [guide.image.frames.shape[0] for guide in guides] == [1, 9]
    assert (guides[1].at, guides[1].strength) == ("last", 0.5)
    (heard,) = call("Sound", audio=sound(), mode="identity")
    assert (heard.file.sample_rate_hz, heard.mode) == (48_000, "identity")
    (loras,) = call("Lora", lora="style.safetensors", strength=0.8)
    (loras,) = call("Lora", lora="(path below)", path="other.safetensors", loras=loras)
    assert [lora.path for lora in loras] == [str(tmp_path / "style.safetensors"), "other.safetensors"]
    (references,) = call("Reference", images=pictures(9), images_fps=12.0, mask=torch.ones(1, 64, 64))
    assert references[0].video.fps == 12
    assert references[0].mask.frames.min() == 255
    (source,) = call("Source", images=pictures(9), audio=sound(), regenerate="0.1-0.2")
    assert source.video.waveform.shape[0] == 2
    assert source.regenerate[0].end_s == 0.2
    (named,) = call("Source", file="door.mp4", denoise=0.5)
    assert named.video == str(tmp_path / "door.mp4")
    (take,) = call("Take", window_frames=25)
    assert take == Take(window_frames=25)


def test_a_retake_keeps_what_it_should(comfy: Comfy, stage: stages.LocalStage) -> None:
    given = pictures(17)
    (source,) = call("Source", images=given, audio=sound(17 / 24), images_fps=24.0, regenerate="0.4-0.7")
    images, *_ = call("Generate", stage=stage, source=source, prompt="A red ball.", steps=1, seed=1)
    before, after = media.pixels(given), media.pixels(images)
    assert np.array_equal(before[:4], after[:4])
    assert not np.array_equal(before[10:16], after[10:16])


@pytest.mark.slow  # nano, as the tiny model has no upsampler
def test_upscale_makes_twice_the_size_and_keeps_the_sound(comfy: Comfy) -> None:
    (stage,) = call("Model")
    heard = {"waveform": torch.rand(1, 2, 18_000) / 2, "sample_rate": 48_000}
    images, audio, *_ = call("Upscale", stage=stage, images=pictures(9), audio=heard, prompt="A ball.")
    assert images.shape == (9, 128, 128, 3)
    assert torch.equal(audio["waveform"], heard["waveform"])


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("Guide", {"image": torch.zeros(3, 64, 64)}, r"image is \(3, 64, 64\); link an IMAGE"),
        ("Guide", {"image": pictures(), "at": "soon"}, "at is 'soon'"),
        ("Sound", {"audio": {"waveform": torch.zeros(2, 2, 9), "sample_rate": 8}}, "audio holds 2 sounds"),
        ("Source", {"denoise": 0.5}, "there is no clip; link video, or images, or audio"),
        ("Upscale", {"stage": None, "audio": sound(), "prompt": "a"}, "there is no picture to make larger"),
        ("Model", {"model": "(path below)", "path": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(
    comfy: Comfy, name: str, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ss.SoundstageError, match=told):
        call(name, **given)


def test_pixels_survive_the_way_there_and_back() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    image = media.image_of(ss.Clip(frames, None, 24.0))
    assert np.array_equal(media.pixels(image), frames)


# --- example graphs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["film", "retake"])
def test_both_forms_of_an_example_graph_hold_the_same_values(comfy: Comfy, name: str) -> None:
    api = json.loads((EXAMPLES / f"{name}.api.json").read_text())
    drawn = json.loads((EXAMPLES / f"{name}.json").read_text())
    links = {link[0]: [str(link[1]), link[2]] for link in drawn["links"]}
    for node in drawn["nodes"]:
        given = api[str(node["id"])]
        assert given["class_type"] == node["type"]
        typed = [value for value in given["inputs"].values() if not isinstance(value, list)]
        assert [value for value in node["widgets_values"] if value != "fixed"] == typed
        linked = {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        assert linked == {key: v for key, v in given["inputs"].items() if isinstance(v, list)}
        if node["type"] not in CORE:
            inputs = NODES[node["type"]].INPUT_TYPES()
            known = [key for part in ("required", "optional") for key in inputs.get(part, {})]
            assert list(given["inputs"]) == [key for key in known if key in given["inputs"]]
            assert set(inputs["required"]) <= set(given["inputs"])


# --- a server ----------------------------------------------------------------------------------------


def test_a_server_makes_the_clip_and_stop_cancels_its_job(comfy: Comfy, tmp_path: Path) -> None:
    with serving(tmp_path, work=True) as server:
        (remote,) = call("Server", url=server.url)
        images, audio, *_ = call("Generate", stage=remote, **SMALL)
        assert images.shape == (9, 64, 64, 3)
        assert audio["waveform"].shape[:2] == (1, 2)
        assert comfy.fractions
        given = {"samples": torch.zeros(1, 128, 2, 2, 2)}
        images, *_ = call("Generate", stage=remote, latent=given, denoise=0.5, **SMALL)
        assert images.shape == (9, 64, 64, 3)
        wide = {"samples": torch.zeros(1, 128, 2, 2, 4)}
        with pytest.raises(ss.RequestError, match="give the size, length and fps it was made with"):
            call("Generate", stage=remote, latent=wide, **SMALL)
    with serving(tmp_path) as server:  # nobody works
        (remote,) = call("Server", url=server.url)
        comfy.stop_after = len(comfy.fractions)
        with pytest.raises(Stopped):
            call("Generate", stage=remote, **SMALL)
        assert server.client.get("/v1/jobs").json()["data"][0]["state"] == "cancelled"
