"""A LoRA that is wrong for a model or a request is refused, or told of, in one sentence, by headers alone."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

import soundstage as ss
from soundstage.cli.program import app
from soundstage.engine import Engine
from soundstage.errors import RequestError, SoundstageError, WeightsError
from soundstage.library.convert import convert_merged
from soundstage.library.file_identity import file_digest
from soundstage.library.model_files import find_model
from soundstage.lora.fit import MODEL_DIGEST, fit_of
from soundstage.lora.metadata import read_names
from soundstage.rendering.parts import ModelParts
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts

WIDTH, AUDIO = 256, 128  # of nano
KEY, HEARD = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.audio_attn1.to_q"
PREFIX = "diffusion_model."


def pair(key: str = KEY, rows: int = WIDTH, columns: int = WIDTH, prefix: str = PREFIX) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return {
        f"{prefix}{key}.lora_A.weight": torch.randn(4, columns, generator=generator),
        f"{prefix}{key}.lora_B.weight": torch.randn(rows, 4, generator=generator),
    }


def lycoris(key: str, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {f"{PREFIX}{key}.{name}": torch.ones(shape) for name, shape in shapes.items()}


def save(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata or None)
    return path


SHAPE = r"'transformer_blocks.0.attn1.to_q' is for a weight of shape \[{}\] where the model has \[256, 256\]"
# Tensors, and the one sentence they are refused with by the plan.
REFUSED: dict[str, tuple[dict[str, Tensor], str]] = {
    "ltx 2.3 of 22B": (pair(rows=4096, columns=4096), SHAPE.format("4096, 4096")),
    "ltx 2.0": (
        pair(rows=4096, columns=4096) | pair("caption_projection.linear_1", 4096, 3840),
        SHAPE.format("4096, 4096"),
    ),
    "ltx video 0.9": (pair(rows=2048, columns=2048), r"is a LoRA of LTX-Video 0\.9"),
    "wan": (pair("blocks.0.self_attn.q", 1536, 1536), "is a LoRA of Wan"),
    "flux": (pair("single_transformer_blocks.0.attn.to_q", 8, 8), "is a LoRA of Flux or HunyuanVideo"),
    "stable diffusion": (
        pair("down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", 8, 8, "lora_unet_"),
        "is a LoRA of Stable Diffusion 1.5 or XL",
    ),
    "no layer": (pair("trunk.7.mixer"), r"matches no layer of this model \(it is for diffusion"),
    "another block count": (pair("transformer_blocks.47.attn1.to_q"), "matches no layer of this model"),
    "one row more": (pair(rows=WIDTH + 1), SHAPE.format("257, 256")),
    "one layer of another shape": (
        pair() | pair(HEARD, AUDIO, AUDIO + 8), r"is for a weight of shape \[128, 136\]",
    ),
    "lokr of another shape": (lycoris(KEY, lokr_w1=(4, 4), lokr_w2=(64, 32)), SHAPE.format("256, 128")),
    "loha of another shape": (
        lycoris(KEY, hada_w1_a=(64, 2), hada_w1_b=(2, 256), hada_w2_a=(64, 2), hada_w2_b=(2, 256)),
        SHAPE.format("64, 256"),
    ),
    "a difference of another shape": (lycoris(KEY, diff=(256, 255)), SHAPE.format("256, 255")),
    "two spellings": (pair() | pair(prefix="transformer."), "changes transformer_blocks.0.attn1.to_q twice"),
    "no up": ({f"{PREFIX}{KEY}.lora_A.weight": torch.ones(4, WIDTH)}, "has lora_A but no lora_B"),
    "no down": ({f"{PREFIX}{KEY}.lora_B.weight": torch.ones(WIDTH, 4)}, "has lora_B but no lora_A"),
    "int8": ({name: t.to(torch.int8) for name, t in pair().items()}, "is stored as I8"),
    "no tensors": ({}, r"is not a LoRA: none of its 0 tensors changes a layer \(it has none\)"),
    "alpha that is not a number": (pair() | {f"{PREFIX}{KEY}.alpha": torch.ones(3)}, "alpha is one number"),
    "a model": ({f"{PREFIX}{KEY}.weight": torch.ones(4, 4)}, "is not a LoRA but a whole model; give it as"),
}  # fmt: skip
# Names that no other kind of file should have; by which a form is refused that is not known.
FORMS = {
    "oft_blocks": "OFT", "oft_diag": "OFT", "oft_R": "OFT", "boft_R": "OFT", "boft_s": "OFT", "ia3_l": "IA3",
    "vera_lambda_b": "VeRA", "lokr_t2": "LoKr or LoHa of convolutions", "set_weight": "whole weights",
}  # fmt: skip


@pytest.fixture(scope="module")
def stage() -> Engine:
    return ss.load("nano")


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here may build a part of the model."""

    def fail(*_: Any) -> None:
        raise AssertionError("a part of the model was built")

    monkeypatch.setattr(ModelParts, "load", fail)


@pytest.mark.parametrize("case", REFUSED)
def test_a_lora_that_does_not_fit_is_refused_by_every_door(case: str, stage: Engine, tmp_path: Path) -> None:
    tensors, message = REFUSED[case]
    path = save(tmp_path / "a.safetensors", tensors)
    with pytest.raises(RequestError, match=message) as error:
        stage.plan(ss.Request(prompt="a", loras=str(path)))
    assert error.value.field == "loras"
    assert len(str(error.value)) < 600
    told = CliRunner().invoke(app, ["generate", "a", "--lora", str(path), "-o", str(tmp_path / "a.mp4")])
    assert (told.exit_code, told.stderr.count("\n")) == (2, 1), told.stderr
    parts = find_parts([read_header(p) for p in stage.model.weights_files])
    with pytest.raises(WeightsError, match=message):  # as a training over it asks
        fit_of(read_header(path), parts)
    with pytest.raises(WeightsError, match=message):
        convert_merged(stage.model.folder, tmp_path / "merged.safetensors", [(path, 1.0)], layout="official")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors"]


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_is_not_known_is_refused_by_name(name: str, stage: Engine, tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {f"{PREFIX}{KEY}.{name}": torch.ones(4, 4)})
    with pytest.raises(RequestError, match=f"holds {FORMS[name]}"):
        stage.plan(ss.Request(prompt="a", loras=str(path)))
    for words in (["inspect"], ["resize", "--rank", "2", "-o", "b.safetensors"]):
        told = CliRunner().invoke(app, ["lora", words[0], str(path), *words[1:]])
        assert (told.exit_code, FORMS[name] in told.stderr) == (2, True), told.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.safetensors", b"", r"is empty \(0 bytes\)"),
        ("a.pt", b"PK\x03\x04" + bytes(40), "is a PyTorch pickle"),
        ("a.ckpt", b"PK\x03\x04" + bytes(40), "is a PyTorch pickle"),
        ("a.pkl", pickle.dumps({}), "is a Python pickle"),
        ("a.safetensors", b"<!doctype html>" + bytes(40), "is a web page"),
        ("b.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("c.safetensors", None, "the copy is incomplete or damaged"),
        ("d.safetensors", "gone", "there is no file"),
    ],
)
def test_a_file_that_is_none_is_refused(
    name: str, content: Any, message: str, stage: Engine, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is None:
        content = save(path, pair()).read_bytes()[:-100]
    if content != "gone":
        path.write_bytes(content)
    with pytest.raises(RequestError, match=message):
        stage.plan(ss.Request(prompt="a", loras=str(path)))
    for words in (["inspect"], ["convert", "--to", "peft", "-o", str(tmp_path / "x.safetensors")]):
        told = CliRunner().invoke(app, ["lora", words[0], str(path), *words[1:]])
        assert told.exit_code == 2, told.output
        assert told.stderr.count("\n") == 1, told.stderr


def test_what_only_values_tell_is_refused_before_the_weights_of_the_model(
    stage: Engine, tmp_path: Path
) -> None:
    """The fixture would tell if a part of the model was built for it."""
    zero = torch.tensor(0.0)
    for tensors, message in (
        ({name: t * torch.nan for name, t in pair().items()}, "not finite"),
        ({name: t * torch.inf for name, t in pair().items()}, "not finite"),
        ({name: t * 0 for name, t in pair().items()}, "changes nothing"),
        (pair() | {f"{PREFIX}{KEY}.alpha": zero}, "changes nothing"),
    ):
        path = save(tmp_path / "a.safetensors", tensors)
        with pytest.raises(SoundstageError, match=message):
            stage.generate("a", loras=str(path), num_frames=9, size=(64, 64), steps=1)


def notices(stage: Engine, path: Path, **fields: Any) -> str:
    return " ".join(stage.plan(ss.Request(prompt="a", loras=str(path), **fields)).notices)


def test_what_a_lora_does_not_do_is_told(stage: Engine, tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", pair() | pair("transformer_blocks.40.attn1.to_q"))
    assert "1 of the 2 layers that" in notices(stage, path)
    assert "are not in the model 'nano'" in notices(stage, path)
    save(path, pair(HEARD, AUDIO, AUDIO))
    assert "changes the sound alone and the clip is silent" in notices(stage, path, modalities=("video",))
    assert notices(stage, path) == ""
    save(path, pair())
    assert "changes the picture alone and only sound" in notices(stage, path, modalities=("audio",))
    save(path, pair(), reference_downscale_factor="2")
    assert "no clip to follow is" in notices(stage, path)


def test_a_lora_of_another_version_of_the_model_is_told(stage: Engine, tmp_path: Path) -> None:
    digest = file_digest(find_model("nano").weights_files[0])
    for model, known, told in (
        ("nano", digest, False), ("nano", "0" * 64, True), ("dev", "0" * 64, False), ("nano", None, False),
    ):  # fmt: skip
        summary = json.dumps({"model": model, MODEL_DIGEST: known})
        path = save(tmp_path / "a.safetensors", pair(), training_summary=summary)
        assert ("was trained on other weights of 'nano'" in notices(stage, path)) == told
    path = save(tmp_path / "a.safetensors", pair(), training_summary="[")
    assert notices(stage, path) == ""


@pytest.mark.parametrize("strength", ["1e6", "50", "nan", "inf", "-11"])
def test_a_strength_beyond_reason_is_refused(strength: str, stage: Engine, tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", pair())
    told = CliRunner().invoke(app, ["generate", "a", "--lora", f"{path}:{strength}"])
    assert told.exit_code == 2
    assert "give a number from -10 to 10" in told.stderr, told.stderr
    with pytest.raises(SoundstageError, match=r"from -10 to 10|give a finite number"):
        stage.plan(ss.Request(prompt="a", loras=ss.Lora(str(path), float(strength))))


def test_forms_of_a_fitting_shape_are_planned(stage: Engine, tmp_path: Path) -> None:
    for shapes in (
        {"lokr_w1": (4, 8), "lokr_w2_a": (64, 2), "lokr_w2_b": (2, 32)},
        {"hada_w1_a": (256, 2), "hada_w1_b": (2, 256), "hada_w2_a": (256, 2), "hada_w2_b": (2, 256)},
        {"diff": (256, 256)},
    ):
        path = save(tmp_path / "a.safetensors", lycoris(KEY, **shapes))
        (module,) = read_names(read_header(path)).pairs
        assert module == f"{PREFIX}{KEY}"
        assert notices(stage, path) == ""
