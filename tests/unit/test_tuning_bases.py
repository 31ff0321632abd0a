"""Trainings on small weights, with each optimizer, of a whole model, with logs, by a hosted request."""

from __future__ import annotations

import functools
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

import soundstage as ss
from soundstage.cli.program import app
from soundstage.dataset.index import open_index
from soundstage.errors import RequestError
from soundstage.intake.hosted import unpacked_data, with_media
from soundstage.library.model_files import EXTRAS, TRANSFORMER, find_model
from soundstage.library.sizes import ModelSizes, model_sizes
from soundstage.lora.files import read_lora
from soundstage.memory.machine import Machine
from soundstage.rendering.parts import ModelParts
from soundstage.training.loop import StepDone
from soundstage.training.tuning.config import BaseLora, TrainConfig, read_config
from soundstage.training.tuning.hosted import HostedTraining, read_hosted
from soundstage.training.tuning.price import TuningWork, choose_place
from soundstage.training.tuning.session import TuningRun
from soundstage.weights.four_bit import FourBitLinear
from soundstage.weights.quantize import QuantizedLinear, quantized_linear
from tests.dataset_clips import clip
from tests.encoded_data import write_encoded
from tests.limits import joined

SMALL_LORA = {"rank": 2, "targets": ["video"]}


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoded(tmp_path_factory.mktemp("encoded"), tiny_folder, count=2)


@pytest.fixture(scope="module")
def plain(tiny_folder: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a LoRA beside weights in float32."""
    output = tmp_path_factory.mktemp("plain") / "run"
    return losses_of(config_of(tiny_folder, folder, output, precision="float32"))


def config_of(tiny_folder: Path, folder: Path, output: Path, **fields: Any) -> TrainConfig:
    small = {"lora": SMALL_LORA, "steps": 2, "save_every": 100, "mode": "silent"}
    return read_config(
        {**small, "model": str(tiny_folder), "data": str(folder), "output": str(output), **fields}
    )


def losses_of(config: TrainConfig, copied: Path | None = None, after: int = 0) -> list[float]:
    """Train, and return the losses. copied: what is on the disk after a step is copied there."""
    losses: list[float] = []
    for event in TuningRun(config).events():
        if isinstance(event, StepDone):
            losses.append(event.losses["loss"])
            if copied is not None and event.step == after:
                shutil.copytree(config.output, copied)
    return losses


# --- weights that are frozen ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "near"),
    [
        ({"precision": "bfloat16"}, 0.02),
        ({"weights": "fp8"}, 0.05),
        ({"weights": "int8"}, 0.02),
        ({"weights": "nf4"}, 0.2),
    ],
    ids=["bfloat16", "fp8", "int8", "nf4"],
)
def test_a_lora_is_trained_beside_small_weights(
    fields: dict[str, Any], near: float, plain: list[float], tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_folder, folder, tmp_path / "small", **{"precision": "float32", **fields})
    found = losses_of(config)
    assert found == pytest.approx(plain, rel=near)
    assert found != plain
    up = {
        name: value
        for name, value in load_file(tmp_path / "small" / "lora.safetensors").items()
        if "lora_B" in name
    }
    assert all(value.any() for value in up.values())


@pytest.mark.parametrize("scheme", ["fp8", "int8", "nf4"])
def test_a_small_weight_gives_the_gradient_of_its_wide_form_and_keeps_no_wide_copy(scheme: Any) -> None:
    linear = nn.Linear(64, 128)
    small: QuantizedLinear = (
        FourBitLinear(linear.weight.detach(), linear.bias.detach())
        if scheme == "nf4"
        else quantized_linear(linear, scheme)
    )
    wide = small.quantized.dequantize()
    x, same = (
        torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab"
    )
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        made = small(x)
    made.square().sum().backward()
    wanted = nn.functional.linear(same, wide, linear.bias.detach())
    wanted.square().sum().backward()
    assert torch.equal(made, wanted)
    assert torch.allclose(x.grad, same.grad)  # type: ignore[arg-type]
    assert not [tensor for tensor in kept if tensor.shape == wide.shape]


def test_four_bits_take_little_and_are_priced_as_they_are(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    model = find_model(tiny_folder)
    sizes = model_sizes(model, 4, "nf4")[0]
    parts = ModelParts(model, torch.device("cpu"), torch.float32, storage="nf4")
    held = sum(t.numel() * t.element_size() for t in parts.transformer.state_dict().values())
    assert sum(isinstance(m, FourBitLinear) for m in parts.transformer.modules()) == 2 * 28
    assert held == pytest.approx(sizes.parts["transformer"], rel=0.01)
    parts.close()
    config = read_config("low-memory", {"data": "a", "output": "b", "checkpointing": "auto"})
    work = TuningWork(video=2268, audio=51, text=1024, batch=1, trained=120_000_000)
    gpu = Machine("a GPU", "cuda", host_bytes=64e9, device_bytes=24e9)
    place = choose_place(work, [ModelSizes.published("nf4")], gpu, config)
    assert (place.residency.policy, place.num_bytes < 18e9) == ("resident", True)
    with pytest.raises(RequestError, match=r"weights is 'nf4', whose blocks all stay"):
        TuningRun(config_of(tiny_folder, folder, tmp_path, weights="nf4", residency="disk"))
    named = read_config({"data": "a", "output": "b", "lora": {"over": ["a.safetensors"]}})
    assert named.lora.over == (BaseLora("a.safetensors"),)
    over = {"over": [{"path": "a.safetensors"}], "over_as": "merged"}
    with pytest.raises(RequestError, match="into which no LoRA is merged"):
        TuningRun(config_of(tiny_folder, folder, tmp_path, weights="nf4", lora=over))


# --- optimizers, whole models, logs -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["muon", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adamw8bit", "prodigy"))]
)
def test_a_stopped_run_goes_on_with_the_state_of_its_optimizer(
    name: str, tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    fields = {"optimizer": {"name": name, "rate": 1.0 if name == "prodigy" else 0.01}, "save_every": 2}
    lora = {"rank": 8, "targets": ["video"]}
    config = config_of(tiny_folder, folder, tmp_path / "whole", lora=lora, steps=4, **fields)
    whole = losses_of(config, copied=tmp_path / "killed", after=3)  # its last state is that of step 2
    assert losses_of(replace(config, output=str(tmp_path / "killed"))) == whole[2:]
    assert len(set(whole)) == 4


@pytest.mark.slow
def test_a_small_model_is_trained_as_a_whole_goes_on_and_is_a_model_again(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    fields = {"kind": "full", "optimizer": {"rate": 1e-3}, "save_every": 1}
    config = config_of(tiny_folder, folder, tmp_path / "whole", **fields)
    whole = losses_of(config, copied=tmp_path / "killed", after=2)
    (tmp_path / "killed" / "model.part").mkdir()  # the writing of a model was cut short too
    assert losses_of(replace(config, output=str(tmp_path / "killed"))) == whole[1:]
    made = find_model(tmp_path / "killed" / "model")
    made.check()
    assert made.defaults == find_model(tiny_folder).defaults
    before, after = (load_file(path / TRANSFORMER) for path in (tiny_folder, tmp_path / "killed" / "model"))
    assert before.keys() == after.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert "model.diffusion_model.transformer_blocks.0.attn1.to_q.weight" in changed
    assert not [name for name in changed if "connector" in name or "aggregate" in name]


@pytest.mark.parametrize("text", ["folder", "single file"])
def test_a_trained_model_has_the_files_that_recipes_of_its_base_need(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linked, or copied where no link can be; each is found again in its role."""
    from soundstage.training.tuning.files import write_model

    model = find_model("nano")
    if text == "single file":
        monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
        (tmp_path / "gemma").mkdir()
        for source, name in (("model.safetensors", "gemma_3.safetensors"), ("tokenizer.json",) * 2):
            shutil.copyfile(model.text_path / source, tmp_path / "gemma" / name)
        model = replace(model, text=tmp_path / "gemma" / "gemma_3.safetensors")
    write_model(model, tmp_path / "model", {})
    made = find_model(tmp_path / "model")
    assert made.defaults == model.defaults
    assert made.text_path.parent == tmp_path / "model"
    for role in EXTRAS:
        made.check_extra(role)
        base, copy = model.extra(role).path, made.extra(role).path
        assert copy.parent == made.folder
        assert copy.read_bytes() == base.read_bytes()
    assert (made.folder / "vocabulary.json").is_file()
    stage = ss.load(tmp_path / "model")
    for recipe in ("pro", "hq", "smooth", "three-stage"):
        stage.plan(ss.Request(prompt="A red ball bounces.", recipe=recipe))  # refused where a file lacks


def test_tensorboard_reads_the_losses(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = losses_of(config_of(tiny_folder, folder, tmp_path / "run", logs="tensorboard"))
    log = EventAccumulator(str(tmp_path / "run" / "log")).Reload()
    assert {"loss/loss", "loss/video", "pace/seconds a step"} <= set(log.Tags()["scalars"])
    found = log.Scalars("loss/loss")
    assert [event.step for event in found] == [1, 2]
    assert [event.value for event in found] == pytest.approx(losses)


# --- hosted trainers --------------------------------------------------------------------------------


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder at an address of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            joined(thread)


def test_media_of_validation_clips_are_fetched_once_and_looked_into(tmp_path: Path) -> None:
    clip(tmp_path / "web" / "ball.mp4", frames=9, caption="a red ball")
    (tmp_path / "web" / "page.html").write_text("<html>no clip</html>")
    asked = tmp_path / "request.json"

    def read(**media: str) -> HostedTraining:
        request = {"training_data_url": "a.zip", "validation": [{"prompt": "a"}, {"prompt": "b", **media}]}
        asked.write_text(json.dumps(request))
        return read_hosted(asked)

    given = tmp_path / "run" / "given"
    with served(tmp_path / "web") as address:
        url = f"{address}/ball.mp4?key=1"
        found = with_media(read(reference_video_url=url, image_url="door.png"), given)
        for name, told in (("gone.mp4", "404"), ("page.html", "page.html")):
            with pytest.raises(RequestError, match=rf"validation\[1\]\.audio_url: .*{told}"):
                with_media(read(audio_url=f"{address}/{name}"), given)
    (only,) = given.iterdir()
    assert found.validation[1].reference_video_url == str(only)
    assert only.read_bytes() == (tmp_path / "web" / "ball.mp4").read_bytes()
    assert found.validation[1].image_url == "door.png"
    assert (
        with_media(read(reference_video_url=url, image_url="door.png"), given) == found
    )  # nobody serves now


@pytest.mark.slow
def test_a_request_of_fals_trainer_is_trained_from_the_zip_at_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tiny_model import write_text_encoder, write_tiny_model

    model = write_tiny_model(tmp_path / "tiny")
    write_text_encoder(model / "text")
    clip(tmp_path / "ball.mp4", frames=9, caption="a red ball")
    (tmp_path / "web").mkdir()
    with zipfile.ZipFile(tmp_path / "web" / "clips.zip", "w") as packed:
        for name in ("ball.mp4", "ball.txt"):
            packed.write(tmp_path / name, name)
    request = {
        "rank": 8, "steps": 1, "learning_rate": 0.001, "trigger_phrase": "blue", "number_of_frames": 9,
        "with_audio": False,
    }  # fmt: skip
    asked = tmp_path / "request.json"
    words = ["train", str(asked), "--like", "fal", "--model", str(model), "-q", "-o", str(tmp_path / "run")]
    with served(tmp_path / "web") as address:
        asked.write_text(json.dumps({"input": {**request, "training_data_url": f"{address}/other.zip"}}))
        with pytest.raises(RequestError, match=r"other.zip, and it cannot be fetched: .*404"):
            unpacked_data(read_hosted(asked), tmp_path / "other")
        asked.write_text(json.dumps({"input": {**request, "training_data_url": f"{address}/clips.zip?a=1"}}))
        made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, (made.output, made.exception)
    assert made.stdout.strip() == str(tmp_path / "run" / "lora.safetensors")
    assert open_index(tmp_path / "run" / "data").samples[0].caption.startswith("blue")
    assert not list((tmp_path / "run").glob("fetch*"))


# --- going on from another training ---------------------------------------------------------------------


def test_a_training_goes_on_from_the_lora_of_another(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    """At a rate of almost nothing its file is the one that it began with, also where alpha is another."""
    first = config_of(tiny_folder, folder, tmp_path / "first", optimizer={"rate": 0.01}, steps=1)
    losses_of(first)
    begun = tmp_path / "first" / "lora.safetensors"
    lora = {**SMALL_LORA, "start": str(begun), "alpha": 4}
    still = config_of(tiny_folder, folder, tmp_path / "on", lora=lora, steps=1, optimizer={"rate": 1e-9})
    losses_of(still)
    before, after = (read_lora(path).layers for path in (begun, tmp_path / "on" / "lora.safetensors"))
    assert any(pair.norm() > 0 for pair in before.values())
    for layer, pair in before.items():
        torch.testing.assert_close(after[layer].delta(), pair.delta(), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 3}, r"has rank 2 of \(\d+, \d+\), and the training has rank 3"),
        ({"targets": ["video", "ff"]}, r"which has no 'transformer_blocks.*ff.*same lora.targets"),
        ({"targets": ["text"]}, r"which has also 'transformer_blocks"),
        ({"form": "dora"}, "lora.form is 'dora', and lora.start"),
    ],
)
def test_a_lora_to_go_on_from_that_does_not_fit_is_refused(
    fields: dict[str, Any], message: str, tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    losses_of(config_of(tiny_folder, folder, tmp_path / "first", steps=1))
    lora = {**SMALL_LORA, "start": str(tmp_path / "first" / "lora.safetensors"), **fields}
    with pytest.raises(RequestError, match=message):
        TuningRun(config_of(tiny_folder, folder, tmp_path / "on", lora=lora))
    assert not (tmp_path / "on").exists()
