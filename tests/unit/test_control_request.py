"""Controls of a request, from their words to the tokens of a pass, on a tiny model with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.torch import save_file

import soundstage as ss
from soundstage.cli import completion
from soundstage.cli.program import app
from soundstage.conditioning.pixels import fit
from soundstage.control.kinds import KINDS
from soundstage.engine import Engine
from soundstage.jobs.references import checked_fields, places
from soundstage.library.model_files import find_model
from soundstage.rendering.encoded_inputs import EncodedInputs
from soundstage.rendering.encoding_cache import EncodingCache
from soundstage.rendering.events import Done
from tests.quick_codecs import QuickCodecs
from tests.tiny_model import write_tiny_model

Frames = NDArray[np.uint8]
QUICK: dict[str, Any] = {"guidance": 1, "stg": 0, "modality_guidance": 1, "steps": 1, "size": (128, 128)}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    model = find_model(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    return Engine(model, parts=QuickCodecs(model, torch.device("cpu"), torch.float32))


@pytest.fixture(scope="module")
def film() -> Frames:
    """Return 17 frames of a square that goes right."""
    frames = np.full((17, 128, 128, 3), 30, np.uint8)
    for i, frame in enumerate(frames):
        frame[40:80, 10 + 4 * i : 50 + 4 * i] = (220, 90, 60)
    return frames


@pytest.fixture(scope="module")
def clip(film: Frames, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("clips") / "a.mkv"
    ss.Clip(film, None, 24.0).save(path, codec="ffv1")
    return str(path)


def asked(**fields: Any) -> ss.Request:
    return ss.Request(
        **{"prompt": "a", "num_frames": 17, "seed": 1, "modalities": "video", **QUICK, **fields}
    )


@torch.no_grad()
def seen(stage: Engine, request: ss.Request) -> torch.Tensor:
    """Return the latents of the one reference of a request."""
    plan = stage.plan(request)
    (condition,) = plan.passes[0].conditions
    return EncodedInputs(plan, stage._parts, EncodingCache()).condition(condition, plan.passes[0])


def test_words_are_a_control_with_its_settings_and_files() -> None:
    control = asked(controls="canny:a:b.mp4:0.8,low=60,downscale=1").controls[0]
    assert control == ss.Control("canny", "a:b.mp4", 0.8, downscale=1, settings={"low": "60"})
    painted = asked(controls=["inpaint:a.mp4,mask=m.png,fill=white"]).controls[0]
    assert (painted.mask, painted.settings, painted.strength) == ("m.png", {"fill": "white"}, 1.0)
    again = ss.Request.from_json(asked(controls=[control, painted]).to_json())
    assert again.controls == (control, painted)
    assert again.files["controls[1].mask"] == "m.png"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("cany:a.mp4", "there is no control 'cany'; the kinds are canny,"),
        ("a.mp4", "give KIND:PATH[:STRENGTH][,NAME=VALUE], such as canny:clip.mp4:0.8"),
        ("canny:a.mp4,hgih=3", "control 'canny' has no setting 'hgih'"),
        ("canny:a.mp4,low=3,low=4", "has low twice"),
        ("canny:a.mp4:2", "strength"),
        ("voice:a.wav", "control 'voice' makes a sound, not a reference"),
    ],
)
def test_wrong_words_are_refused_when_the_request_is_made(words: str, told: str) -> None:
    with pytest.raises(ss.RequestError) as error:
        asked(controls=words)
    assert told in str(error.value)


def test_the_prepared_frames_are_what_the_pass_sees(stage: Engine, clip: str, film: Frames) -> None:
    edges = np.stack(list(KINDS["canny"].prepare(iter(film), 24.0)))
    expected = stage._parts.encode_video(fit(iter(edges), 64, 64))
    assert torch.equal(seen(stage, asked(controls=f"canny:{clip}")), expected)
    inverted = seen(stage, asked(controls=f"canny:{clip},low=1000,high=1000"))
    assert not torch.equal(inverted, expected)


def test_frames_are_prepared_before_they_are_thinned(stage: Engine, clip: str, film: Frames) -> None:
    box = {"box": "6 36 48 48", "follow": "yes"}
    painted = np.stack(list(KINDS["inpaint"].prepare(iter(film), 24.0, box)))
    kept = painted[[0, *range(1, 17, 2)]]
    control = ss.Control("inpaint", clip, temporal=2, settings=box)
    assert torch.equal(seen(stage, asked(controls=control)), stage._parts.encode_video(fit(kept, 128, 128)))


def test_a_still_with_paths_lasts_as_long_as_the_film(stage: Engine, film: Frames, tmp_path: Path) -> None:
    ss.Clip(film[:1], None, 24.0).save(tmp_path / "a.png")
    control = ss.Control("tracks", str(tmp_path / "a.png"), settings={"points": "10 10 100 90"})
    assert seen(stage, asked(controls=control)).shape[2] == 3


def test_the_plan_has_the_tokens_and_the_metadata_the_control(stage: Engine, clip: str) -> None:
    request = asked(controls=[f"canny:{clip}:0.5", f"grade:{clip},seed=3"], references=clip)
    plan = stage.plan(request)
    reference, canny, grade = plan.passes[0].conditions
    assert (canny.width, canny.downscale, canny.strength) == (64, 2, 0.5)
    assert (grade.width, reference.width) == (128, 128)
    assert (reference.tokens, canny.tokens, grade.tokens) == (3 * 16, 3 * 4, 3 * 16)
    assert plan.passes[0].added_video == 3 * 36
    assert canny.name == f"canny of {clip}"


def test_a_clip_is_made_with_its_control_once_prepared(stage: Engine, clip: str) -> None:
    before = stage._parts.num_encoded
    request = asked(controls=f"grade:{clip},seed=3,downscale=2", num_frames=9)
    *_, done = stage.run(request)
    *_, again = stage.run(request.model_copy(update={"seed": 2}))
    assert stage._parts.num_encoded == before + 1
    assert isinstance(done, Done)
    assert isinstance(again, Done)
    made = done.clip.provenance
    assert made["request"]["controls"][0]["settings"] == {"seed": "3"}
    assert clip in made["inputs"]
    assert done.clip.frames is not None
    assert done.clip.frames.shape == (9, 128, 128, 3)
    assert not np.array_equal(done.clip.frames, again.clip.frames)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [1, 4])
def test_a_lora_decides_the_size_of_a_control(stage: Engine, clip: str, tmp_path: Path, factor: int) -> None:
    layer = "diffusion_model.transformer_blocks.0.attn1.to_q"
    tensors = {f"{layer}.lora_A.weight": torch.zeros(4, 64), f"{layer}.lora_B.weight": torch.zeros(64, 4)}
    save_file(tensors, tmp_path / "a.safetensors", {"reference_downscale_factor": str(factor)})
    plan = stage.plan(asked(controls=f"canny:{clip}", loras=str(tmp_path / "a.safetensors")))
    assert plan.passes[0].conditions[0].downscale == factor


@pytest.mark.parametrize(
    ("control", "told"),
    [
        (ss.Control("depth", "CLIP"), "control 'depth' needs a model; give model=PATH"),
        (ss.Control("depth", "CLIP", model="gone.onnx"), "controls[0].model is gone.onnx, and there is no"),
        (ss.Control("tracks", "CLIP", paths="gone.json"), "controls[0].paths is gone.json, which cannot be"),
        (ss.Control("inpaint", "CLIP", settings={"box": "900 9 9 9"}), "controls[0].box is '900 9 9 9', and"),
        (ss.Control("inpaint", "CLIP", mask="gone.png"), "controls[0].mask: "),
        (ss.Control("canny", "gone.mp4"), "controls[0].file: "),
    ],
)
def test_what_is_missing_is_said_by_the_plan(
    stage: Engine, clip: str, control: ss.Control, told: str
) -> None:
    from dataclasses import replace

    with pytest.raises(ss.RequestError) as error:
        stage.plan(asked(controls=replace(control, file=clip if control.file == "CLIP" else control.file)))
    assert told in str(error.value)
    assert error.value.field == "controls"


def test_the_command_line_says_which_model_is_meant(clip: str) -> None:
    told = CliRunner().invoke(app, ["plan", "a", "--control", f"pose:{clip},model=gone.onnx"]).stderr
    assert "model of --control is gone.onnx, and there is no such file" in told
    told = CliRunner().invoke(app, ["plan", "a", "--size", "192x96", "--control", f"canny:{clip}"]).stdout
    assert "give 'pad' for crop of --control to show all of it" in told


def test_a_reference_that_ends_before_the_film_is_told(stage: Engine, clip: str) -> None:
    notices = " ".join(stage.plan(asked(controls=f"canny:{clip}", num_frames=41)).notices)
    assert "controls[0].file lasts 0.708 s of the film's 1.71 s, and the rest follows nothing" in notices
    assert "follows nothing" not in " ".join(stage.plan(asked(controls=f"canny:{clip}")).notices)


def test_a_missing_extra_is_said_by_the_plan(
    stage: Engine, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ss.RequestError, match=r"pip install 'soundstage\[control\]'"):
        stage.plan(asked(controls=f"canny:{clip}"))
    assert stage.plan(asked(controls=f"ungrade:{clip}")).passes  # the clip itself needs no package


def test_every_making_command_takes_controls(clip: str) -> None:
    done = CliRunner().invoke(app, ["plan", "a", "--control", f"canny:{clip}:0.7", "--frames", "9"])
    assert done.exit_code == 0, done.stderr
    assert "canny of" in done.stdout
    wrong = CliRunner().invoke(app, ["plan", "a", "--control", f"cany:{clip}"])
    assert wrong.exit_code == 2
    assert "there is no control 'cany'" in wrong.stderr


def test_a_shell_completes_the_kinds_of_controls() -> None:
    words = [item.value for item in completion.items("control", "KIND:PATH", "out")]
    assert words == ["outpaint:"]
    assert completion.items("control", "KIND:PATH", "outpaint:a")[0].type == "file"


def test_a_server_takes_the_clips_of_a_control_and_no_models() -> None:
    fields = checked_fields({"prompt": "a", "controls": [{"kind": "canny", "file": "asset:1"}]})
    assert [place.where for place in places(fields)] == ["controls[0].file"]
    with pytest.raises(ss.RequestError, match=r"controls\[0\]\.model is a file of one's own machine"):
        checked_fields(
            {"prompt": "a", "controls": [{"kind": "depth", "file": "asset:1", "model": "/a.onnx"}]}
        )
