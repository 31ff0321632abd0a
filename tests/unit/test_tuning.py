"""Training on a user's data: the config, what is drawn and given, the loss, kills, and the files."""

from __future__ import annotations

import errno
import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

import soundstage as ss
from soundstage.cli.program import app
from soundstage.dataset.encoded import EncodedDataset, open_encoded
from soundstage.errors import ConfigError, DatasetError, MediaError, RequestError
from soundstage.library.model_files import find_model
from soundstage.library.sizes import ModelSizes
from soundstage.lora.adapters import Adapters
from soundstage.lora.files import read_lora
from soundstage.memory.machine import Machine
from soundstage.memory.policy import Residency
from soundstage.rendering.parts import ModelParts
from soundstage.rendering.prepare import Latents, streams
from soundstage.sampling.streams import Stream
from soundstage.training import train
from soundstage.training.loop import StepDone
from soundstage.training.steps import GradientSteps
from soundstage.training.tuning.config import TrainConfig, read_config, recipe_names
from soundstage.training.tuning.contexts import CaptionContexts
from soundstage.training.tuning.divergence import DivergenceWatch
from soundstage.training.tuning.hosted import config_fields, read_hosted
from soundstage.training.tuning.kept import audio_stream, draw_given, made_of_video, video_stream
from soundstage.training.tuning.modes import MODE_NAMES
from soundstage.training.tuning.objective import streams_of
from soundstage.training.tuning.price import TuningWork, choose_place
from soundstage.training.tuning.regularisers import is_on
from soundstage.training.tuning.samples import SampleOrder
from soundstage.training.tuning.session import TrainedWeights, TuningRun
from soundstage.training.tuning.sigmas import drawn_sigmas, shift_of
from soundstage.training.tuning.targets import adapted
from tests.encoded_data import write_encoded
from tests.tiny_model import QuickSound

SMALL: dict[str, Any] = {"lora": {"rank": 2}, "steps": 4, "batch": 2, "save_every": 2}
# What the shapes of the tiny clips ask of some modes.
FITTED: dict[str, dict[str, Any]] = {
    "extend": {"video": {"prefix": {"latents": 1}}, "audio": {"prefix": {"latents": 3, "chance": 1}}},
    "suffix": {"video": {"suffix": {"latents": 1}}, "audio": {"suffix": {"latents": 3, "chance": 1}}},
    "outpaint": {"video": {"crop": {"box": [0, 0, 32, 64]}}},
}


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoded(tmp_path_factory.mktemp("encoded"), tiny_folder)


@pytest.fixture(scope="module")
def data(folder: Path) -> EncodedDataset:
    return open_encoded(folder)


@pytest.fixture(scope="module")
def parts(tiny_folder: Path) -> ModelParts:
    return ModelParts(find_model(tiny_folder), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def contexts(data: EncodedDataset, parts: ModelParts, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = CaptionContexts(tmp_path_factory.mktemp("contexts"), parts)
    made.prepare(data)
    return made


def config_of(tiny_folder: Path, folder: Path, output: Path | str = "run", **fields: Any) -> TrainConfig:
    given = {**SMALL, "model": str(tiny_folder), "data": str(folder), "output": str(output), **fields}
    return read_config(given)


# --- the config ---------------------------------------------------------------------------------------


def test_a_config_that_does_not_fit_is_refused_with_its_line_and_the_nearest_field(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: a\noutput: b\nvideo:\n  first_fram: 0.5\n")
    with pytest.raises(
        ConfigError, match=r"mine\.yaml, line 4: video.first_fram is not a field; .* first_frame,"
    ):
        read_config(path)
    path.write_text("data: a\noutput: b\nmode: t2v\n\nlora:\n  rank: 0\n")
    with pytest.raises(ConfigError, match=r"line 6: lora.rank is 0; give a whole number from 1 to 1024"):
        read_config(path)
    path.write_text("data: a\noutput: b\nmode: i2w\n")
    with pytest.raises(ConfigError, match="line 3: mode is 'i2w'; it should be 'i2v'"):
        read_config(path)
    for changes in ({"lora.rank": 0}, {"lora": {"rank": 0}}, {"stepz": 3}, {"lora.rnk": 3}):
        with pytest.raises(RequestError, match=f"^'?{next(iter(changes))}"):  # no line of the file says so
            read_config("style", {"data": "a", "output": "b", **changes})
    with pytest.raises(
        RequestError, match=r"there is no such file; give a .yaml file, or one of the recipes style"
    ):
        read_config("styl")


def test_a_mode_sets_what_a_config_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: a\noutput: b\nmode: identity\nvideo: {weight: 2}\noptimizer: {rate: 1e-5}\n")
    config = read_config(path, {"lora.rank": 8})
    assert (config.video.first_frame, config.video.weight, config.audio.reference) == (0.9, 2.0, 1.0)
    assert (config.lora.rank, config.optimizer.rate, config.steps) == (8, 1e-5, 3000)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_config_that_says_what_data_it_wants(name: str) -> None:
    config = read_config(name, {"data": "a", "output": "b"})
    assert len(config.wants.split()) > 5


# --- what is drawn ------------------------------------------------------------------------------------


def test_noise_levels_rise_with_the_number_of_tokens_and_lie_between_0_and_1() -> None:
    levels = read_config({"data": "a", "output": "b"}).sigma
    assert (shift_of(1024), shift_of(4096)) == (pytest.approx(0.95), pytest.approx(2.05))
    assert shift_of(125) == pytest.approx(0.628, abs=1e-3)
    drawn = {n: drawn_sigmas(np.random.default_rng(0), 20_000, n, levels) for n in (125, 1024, 4096)}
    means = [float(values.mean()) for values in drawn.values()]
    assert means == sorted(means)
    assert all((values.min() >= 0) & (values.max() <= 1) for values in drawn.values())
    without = drawn_sigmas(np.random.default_rng(0), 20_000, 4096, replace(levels, uniform_share=0))
    assert float((drawn[4096] != without).mean()) == pytest.approx(0.1, abs=0.01)
    uniform = drawn_sigmas(np.random.default_rng(0), 20_000, 4096, replace(levels, kind="uniform"))
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01)


def test_a_shift_of_the_configs_own_is_not_stretched() -> None:
    levels = replace(read_config({"data": "a", "output": "b"}).sigma, shift=2.3, uniform_share=0)
    drawn = drawn_sigmas(np.random.default_rng(0), 20_000, 96, levels)
    assert np.median(drawn) == pytest.approx(1 / (1 + math.exp(-2.3)), abs=0.005)
    assert 0 < drawn.min() < drawn.max() < 1


def test_batches_follow_from_their_number_and_an_epoch_has_every_sample(
    tiny_folder: Path, folder: Path, data: EncodedDataset, contexts: Any
) -> None:
    config = config_of(tiny_folder, folder, mode="i2v")
    samples, again = SampleOrder(data, config, contexts), SampleOrder(data, config, contexts)
    later = [again.batch(number) for number in (3, 1)]
    for batch, number in zip(later, (3, 1), strict=True):
        same = samples.batch(number)
        assert all(torch.equal(batch[name], same[name]) for name in batch.tensors)
    seen = sorted(info.id for number in (0, 1) for info in samples.infos(number))
    assert seen == sorted(info.id for info in data.samples)
    assert not torch.equal(samples.batch(0)["video.noise"], samples.batch(1)["video.noise"])


def test_sound_has_a_noise_level_of_its_own_unless_it_shares_the_pictures(
    tiny_folder: Path, folder: Path, data: EncodedDataset, contexts: Any
) -> None:
    own = SampleOrder(data, config_of(tiny_folder, folder), contexts).batch(0)
    shared = SampleOrder(data, config_of(tiny_folder, folder, sigma={"audio": "shared"}), contexts).batch(0)
    assert not torch.equal(own["video.sigma"], own["audio.sigma"])
    assert torch.equal(shared["video.sigma"], shared["audio.sigma"])


def test_a_dub_trains_with_references_out_of_the_exchange_between_picture_and_sound(
    tiny_folder: Path, folder: Path, data: EncodedDataset, contexts: Any
) -> None:
    batch = SampleOrder(data, config_of(tiny_folder, folder, mode="dub"), contexts).batch(0)
    for name, stream in streams_of(batch).items():
        own = batch[f"{name}.noise"].shape[1]
        assert stream.unread is not None
        assert stream.unreading is not None
        assert stream.unread.tolist() == [False] * own + [True] * (stream.clean.shape[1] - own)
        assert torch.equal(stream.unread, stream.unreading)


def test_an_empty_prompt_is_the_begin_token_alone(
    data: EncodedDataset, parts: ModelParts, contexts: Any
) -> None:
    features = data.load(data.samples[1]).features(data.identity.text_tokens)
    mask = features.mask.clone()
    mask[:, 1:] = False
    wanted = parts.text.part("video_connector")(features.video, mask)
    # The random features of these samples differ in the begin token; those of a text encoder do not.
    assert contexts("").video.shape == wanted.shape


# --- what is given ------------------------------------------------------------------------------------


def assert_same_stream(found: Stream | None, wanted: Stream | None, own: int) -> None:
    """Compare what the transformer sees of two streams: which tokens are kept, their values, their places."""
    assert found is not None
    assert wanted is not None
    assert torch.equal(found.mask, wanted.mask)
    assert torch.equal(found.positions, wanted.positions)
    kept = found.mask[0, :, 0] == 0
    assert torch.equal(found.clean[:, kept], wanted.clean[:, kept])
    assert int((~kept).sum()) <= own


def prepared(stage: ss.Engine, parts: ModelParts, inputs: Any, **fields: Any) -> tuple[Any, Any]:
    """Return the streams of a request's only pass, as rendering prepares them."""
    plan = stage.plan(ss.Request(prompt="A ball.", size=(96, 64), num_frames=9, fps=24, **fields))
    return streams(parts, plan.passes[0], inputs, Latents())


@pytest.mark.parametrize("case", ["first frame", "reference", "voice"])
def test_conditions_are_those_of_inference(
    case: str, tiny_folder: Path, data: EncodedDataset, parts: ModelParts, tmp_path: Path
) -> None:
    info, sample = data.samples[0], data.load(data.samples[0])
    assert sample.video is not None
    assert sample.reference is not None
    assert sample.reference_audio is not None
    still = np.zeros((64, 96, 3), np.uint8)
    sound = tmp_path / "voice.wav"
    ss.Clip(None, np.zeros((2, 48_000), np.float32), 24.0, {}).save(sound)
    cases: dict[str, tuple[Any, dict[str, Any], str]] = {
        "first frame": (sample.video[:, :1], {"guides": [ss.Guide(still)]}, "i2v"),
        "reference": (sample.reference, {"references": [ss.Reference(still)]}, "reference"),
        "voice": (None, {"audio": ss.Audio(str(sound), mode="identity")}, "identity"),
    }
    latents, fields, mode = cases[case]
    inputs = SimpleNamespace(
        condition=lambda *_: None if latents is None else latents[None],
        reference_attention=lambda *_: 1.0,
        sound=lambda *_: None,
        identity=lambda *_: sample.reference_audio[None],
        source_mask=lambda *_: None,
    )
    stage = ss.load(tiny_folder, dtype="float32")
    video, audio = prepared(stage, parts, inputs, **fields)
    config = read_config({"data": "a", "output": "b", "mode": mode})
    if case == "voice":
        assert_same_stream(audio_stream(sample, config.audio), audio, audio.clean.shape[1])
        return
    given = replace(config.video, first_frame=float(case == "first frame"))
    assert_same_stream(video_stream(sample, info, given), video, sample.video.shape[1:].numel())


def test_a_prefix_of_eight_latents_is_57_frames_and_a_suffix_is_the_last_ones() -> None:
    blocks = read_config({"data": "a", "output": "b", "mode": "extend"}).video
    made = made_of_video((11, 1, 1), blocks)
    assert made.flatten().tolist() == [0] * 8 + [1] * 3
    assert 8 * (8 - 1) + 1 == 57
    blocks = read_config({"data": "a", "output": "b", "mode": "suffix"}).video
    assert made_of_video((11, 1, 1), blocks).flatten().tolist() == [1] * 3 + [0] * 8


def test_a_crop_keeps_its_rectangle_and_a_mask_what_it_names(data: EncodedDataset) -> None:
    config = read_config(
        {"data": "a", "output": "b", "mode": "outpaint", "video": {"crop": {"box": [0, 32, 40, 96]}}}
    )
    made = made_of_video((2, 2, 3), config.video)
    assert made[0].tolist() == made[1].tolist() == [[1, 0, 0], [1, 1, 1]]
    sample = data.load(data.samples[0])
    masked = read_config({"data": "a", "output": "b", "mode": "inpaint"}).video
    assert torch.equal(made_of_video((2, 2, 3), masked, sample.video_mask), 1 - sample.video_mask.float())


def test_a_reference_before_the_clip_stands_one_frame_before_it(data: EncodedDataset) -> None:
    info, sample = data.samples[0], data.load(data.samples[0])
    config = read_config({"data": "a", "output": "b", "mode": "reference-before"})
    still = replace(sample, reference=None if sample.reference is None else sample.reference[:, :1])
    stream = video_stream(still, info, config.video)
    assert stream is not None
    assert stream.positions[0, 0, -1].tolist() == pytest.approx([-1 / 24, 0.0])


def test_a_reference_can_be_mixed_with_its_clip(
    data: EncodedDataset, tiny_folder: Path, tmp_path: Path
) -> None:
    info, sample = data.samples[0], data.load(data.samples[0])
    assert sample.video is not None
    black = replace(sample, reference=torch.zeros_like(sample.video))
    given = read_config({"data": "a", "output": "b", "mode": "reference"}).video
    stream = video_stream(black, info, replace(given, first_frame=0.0, reference_blend=0.25))
    assert stream is not None
    own = stream.clean.shape[1] // 2
    assert torch.allclose(stream.clean[:, own:], 0.25 * stream.clean[:, :own])
    config = read_config({"data": "a", "output": "b", "video": {"reference_blend": 0.5}})
    drawn = [draw_given(np.random.default_rng(i), config).video.reference_blend for i in range(200)]
    assert 0.35 < np.mean([share == 0 for share in drawn]) < 0.65
    assert max(drawn) > 0.9
    half = write_encoded(tmp_path / "half", tiny_folder, reference_downscale=2)
    fields = {"mode": "reference", "video": {"reference_blend": 0.5}}
    with pytest.raises(
        RequestError, match=r"video\.reference_blend is 0\.5, and 4 references, such as that of"
    ):
        TuningRun(config_of(tiny_folder, half, tmp_path / "run", **fields))


# --- the loss -----------------------------------------------------------------------------------------


@pytest.fixture
def trained(tiny_folder: Path, folder: Path, data: EncodedDataset, parts: ModelParts, tmp_path: Path) -> Any:
    """Return a function that puts a fresh LoRA of a config on the shared model."""
    made: list[TrainedWeights] = []

    def build(**fields: Any) -> TrainedWeights:
        config = config_of(tiny_folder, folder, tmp_path / str(len(made)), **fields)
        made.append(TrainedWeights(config, data, find_model(tiny_folder), parts))
        return made[-1]

    yield build
    for one in made:
        one.adapters.set({})


def batch_of(made: TrainedWeights, contexts: Any, number: int = 0) -> Any:
    return SampleOrder(made.data, made.config, contexts).batch(number)


def gradients(made: TrainedWeights, batch: Any, again: bool = False) -> dict[str, torch.Tensor]:
    made.again = again
    objective = made._objective()
    losses = GradientSteps(objective, made.trainer.params)(batch, 0)
    assert torch.isfinite(losses["loss"])
    named = made.module.named_parameters()
    return {"loss": losses["loss"]} | {n: p.grad.clone() for n, p in named if p.grad is not None}


@pytest.mark.parametrize("mode", MODE_NAMES)
def test_every_mode_learns_with_the_layers_that_change_what_it_makes(
    mode: str, trained: Any, contexts: Any
) -> None:
    made = trained(mode=mode, **FITTED.get(mode, {}))
    batch = batch_of(made, contexts)
    found = gradients(made, batch)
    assert all(f"core.ups.{i}" in found for i in range(len(made.factors.layers)))
    config = made.config
    for name, stream in streams_of(batch).items():
        state = config.video.stream if name == "video" else config.audio.stream
        assert stream.frozen == (state == "given")
        if stream.frozen:
            own, tokens = stream.levels(torch.zeros(2))
            assert not own.any()
            assert not tokens.any()
    keys = [layer.key for layer in made.factors.layers]
    of_sound = ["audio" in key and "audio_to_video" not in key for key in keys]
    changed = {"audio" if is_sound else "video" for is_sound in of_sound}
    states = {"video": config.video.stream, "audio": config.audio.stream}
    assert changed == {name for name, state in states.items() if state == "made"}


def test_sound_without_a_weight_is_heard_and_none_of_its_layers_is_trained(
    trained: Any, contexts: Any
) -> None:
    made = trained(mode="t2v", audio={"weight": 0}, lora={"rank": 2, "targets": ["video", "audio", "ff"]})
    batch = batch_of(made, contexts)
    assert not [layer.key for layer in made.factors.layers if "audio" in layer.key]
    assert not streams_of(batch)["audio"].frozen
    losses = made._objective()(batch)
    assert torch.equal(losses["loss"], losses["video"])
    assert losses["audio"] > 0


def test_recomputing_blocks_and_adding_up_batches_change_no_gradient(trained: Any, contexts: Any) -> None:
    made = trained(mode="i2v")
    torch.nn.init.normal_(made.factors.ups[0], std=0.1)
    batch = batch_of(made, contexts)
    plain, again = gradients(made, batch), gradients(made, batch, again=True)
    # The way there has no gradients, so it is computed by the fast paths of inference.
    assert all(torch.allclose(value, again[name], rtol=1e-3, atol=1e-6) for name, value in plain.items())
    made.config = replace(made.config, accumulate=2)
    two = next(SampleOrder(made.data, made.config, contexts).batches(0))
    first, second = (gradients(made, part) for part in two.parts)
    both = gradients(made, two)
    for name, value in both.items():
        assert torch.allclose(value, first[name] + second[name], atol=1e-6)


def test_a_batch_whose_tokens_are_all_given_has_a_loss_of_zero(trained: Any, contexts: Any) -> None:
    made = trained(mode="silent")
    batch = batch_of(made, contexts)
    batch.tensors["video.mask"] = torch.zeros_like(batch["video.mask"])
    assert gradients(made, batch)["loss"] == 0


def test_references_count_in_no_loss_and_teach_what_looks_at_them(trained: Any, contexts: Any) -> None:
    made = trained(mode="reference", video={"first_frame": 0.0})
    batch = batch_of(made, contexts)
    own = batch["video.noise"].shape[1]
    assert batch["video.clean"].shape[1] > own
    torch.nn.init.normal_(made.factors.ups[2], std=0.1)  # of the values
    before = gradients(made, batch)
    other = batch["video.clean"].clone()
    other[:, own:] += 1
    batch.tensors["video.clean"] = other
    after = gradients(made, batch)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert before["loss"] != after["loss"]  # by attention alone


# --- a run --------------------------------------------------------------------------------------------


def losses_of(config: TrainConfig, copied: Path | None = None) -> list[float]:
    """Train, and return the losses. copied: what is on the disk after step 3 is copied there."""
    losses: list[float] = []

    def see(event: Any) -> None:
        if isinstance(event, StepDone):
            losses.append(event.losses["loss"])
            if copied is not None and event.step == 3:
                shutil.copytree(config.output, copied)

    train(config, on_event=see)
    return losses


def test_a_run_that_was_killed_goes_on_with_the_same_losses_to_the_same_file(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_folder, folder, tmp_path / "whole", mode="i2v", average=0.5)
    whole = losses_of(config, copied=tmp_path / "killed")  # its last state is that of step 2
    assert losses_of(replace(config, output=str(tmp_path / "killed"))) == whole[2:]
    one, two = (load_file(tmp_path / name / "lora.safetensors") for name in ("whole", "killed"))
    assert set(one) == set(two)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    tables = [(tmp_path / name / "loss.csv").read_text().splitlines() for name in ("whole", "killed")]
    assert [line.split(",")[0] for line in tables[1]] == ["step", *"1234"]
    assert [line.split(",")[5:] for line in tables[0]] == [line.split(",")[5:] for line in tables[1]]


def test_a_state_that_is_damaged_or_anothers_is_refused_and_stays(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_folder, folder, tmp_path / "run", steps=1)
    train(config)
    path = tmp_path / "run" / "state.pt"
    whole = path.read_bytes()
    other = io.BytesIO()
    torch.save({**torch.load(path, weights_only=True), "model": {}}, other)
    for data in (whole[: len(whole) // 2], whole[:5000], b"", b"no state", other.getvalue()):
        path.write_bytes(data)
        with pytest.raises(RequestError, match=r"state\.pt is damaged, or of another version .* remove it"):
            train(config, steps=2)
        assert path.read_bytes() == data
    path.unlink()
    assert train(config, steps=2).name == "lora.safetensors"


def test_a_disk_that_is_full_leaves_the_state_that_was_there(
    tiny_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tiny_folder, folder, tmp_path / "run", steps=1)
    train(config)
    before = (tmp_path / "run" / "state.pt").read_bytes()

    class FullDisk(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    save = torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: save(state, FullDisk()))
    with pytest.raises(MediaError, match=r"cannot write .*state\.pt"):
        train(config, steps=2)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob("*part*"))


def test_a_folder_in_which_another_training_is_at_work_is_refused(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_folder, folder, tmp_path / "run", steps=1)
    events = TuningRun(config).events()
    next(events)
    with pytest.raises(RequestError, match=r"in which another training is at work now"):
        train(config)
    events.close()
    assert train(config).name == "lora.safetensors"
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"output is .*, which is the folder of the data"):
        TuningRun(config_of(tiny_folder, folder, folder))
    assert TuningRun(config_of(tiny_folder, folder / "dataset.yaml", tmp_path / "other")).data.samples
    with pytest.raises(RequestError, match=r"output is .*file.*, which is a file or lies in one"):
        train(replace(config, output=str(tmp_path / "file" / "run")))


def test_a_folder_of_another_training_is_refused_and_says_what_differs(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_folder, folder, tmp_path / "run", steps=1)
    train(config)
    with pytest.raises(RequestError, match=r"another training.*seed"):
        train(config, seed=1)
    longer = train(config, steps=2)
    assert longer.name == "lora.safetensors"
    with safe_open(longer, "pt") as file:
        assert json.loads(file.metadata()["training_summary"])["step"] == 2


def test_a_lora_says_what_it_is_and_holds_no_layer_of_what_was_not_made(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    config = config_of(
        tiny_folder, folder, tmp_path / "run", mode="reference", trigger="zorb", curve="logc3", steps=2
    )
    path = train(config)
    with safe_open(path, "pt") as file:
        names, metadata = list(file.keys()), file.metadata()
    assert all(name.startswith("diffusion_model.transformer_blocks.") for name in names)
    assert {name.rsplit(".", 2)[1] for name in names} == {"lora_A", "lora_B"}
    assert not [name for name in names if "audio" in name]
    assert (metadata["trigger_phrase"], metadata["rank"], metadata["model_version"]) == ("zorb", "2", "2.3")
    assert metadata["reference_downscale_factor"] == "1"
    assert json.loads(metadata["training_summary"])["step"] == 2
    assert read_lora(path).references.in_context
    assert read_lora(path).references.hdr == "logc3"


def test_data_that_a_mode_cannot_use_is_refused_before_anything_is_loaded(
    tiny_folder: Path, tmp_path: Path
) -> None:
    silent = write_encoded(tmp_path / "silent", tiny_folder, without=("audio", "reference"))
    for mode, says in {
        "v2a": "needs sound for every sample",
        "reference": "needs a reference for every",
    }.items():
        with pytest.raises(DatasetError, match=f"mode '{mode}' {says}"):
            TuningRun(config_of(tiny_folder, silent, tmp_path / "run", mode=mode))
    with pytest.raises(
        RequestError, match=r"video\.prefix.latents is 8, and sample 'clip 0' has 2 latent frames"
    ):
        TuningRun(config_of(tiny_folder, silent, tmp_path / "run", mode="extend"))
    with pytest.raises(RequestError, match=r"lora.targets is audio, and none of these layers changes"):
        train(config_of(tiny_folder, silent, tmp_path / "run", mode="silent", lora={"targets": ["audio"]}))


def test_a_group_has_a_rank_of_its_own(tiny_folder: Path, folder: Path, parts: ModelParts) -> None:
    lora = {"rank": 4, "alpha": 8, "targets": ["video", "text", "audio"], "groups": {"text": {"rank": 2}}}
    shapes = adapted(parts.transformer, config_of(tiny_folder, folder, lora=lora))
    found = {(layer.key.split(".")[2], shape.rank, shape.alpha) for layer, shape in shapes.items()}
    assert found == {("attn1", 4, 8), ("attn2", 2, 2), ("audio_attn1", 4, 8), ("audio_attn2", 2, 2)}


def test_the_command_trains_reports_and_refuses(tiny_folder: Path, folder: Path, tmp_path: Path) -> None:
    words = ["train", "style", "--data", str(folder), "--model", str(tiny_folder), "--set", "lora.rank=2"]
    made = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "run"), "--steps", "1"])
    assert made.exit_code == 0, made.output
    assert made.stdout.strip() == str(tmp_path / "run" / "lora.safetensors")
    told = CliRunner().invoke(app, ["train", "report", str(tmp_path / "run")])
    page = Path(told.stdout.strip()).read_text()
    assert "<polyline" in page
    assert "A red ball number 3." in page
    nothing = CliRunner().invoke(app, ["train", "report", str(tmp_path / "nothing")])
    assert "nothing is not the folder of a training (it has no training.json)" in nothing.stderr
    refused = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "other"), "--set", "stepps=1"])
    assert refused.exit_code == 2
    assert "'stepps' is not a field of TrainConfig; the fields are steps," in refused.stderr
    assert not (tmp_path / "other").exists()


# --- beside the weights -------------------------------------------------------------------------------


def test_streamed_blocks_give_the_gradients_of_resident_ones(
    tiny_folder: Path, folder: Path, data: EncodedDataset, trained: Any, contexts: Any, tmp_path: Path
) -> None:
    made = trained(mode="a2v", lora={"rank": 2, "targets": ["video", "between", "ff"]})
    for up in made.factors.ups:
        torch.nn.init.normal_(up, std=0.1)
    wanted = gradients(made, batch_of(made, contexts))
    model = find_model(tiny_folder)
    for policy in ("stream", "disk"):
        parts = ModelParts(model, torch.device("cpu"), torch.float32, Residency(policy, num_slots=1))
        config = replace(made.config, output=str(tmp_path / policy))
        streamed = TrainedWeights(config, data, model, parts)
        parts.manager.bring("transformer")
        streamed.module.load_state_dict(made.module.state_dict())
        found = gradients(streamed, batch_of(made, contexts))
        # The way there has no gradients, so it is computed by the fast paths of inference.
        assert all(torch.allclose(value, found[name], rtol=1e-3, atol=1e-6) for name, value in wanted.items())
        parts.close()


def test_a_fresh_lora_changes_no_empty_prompt_and_a_trained_one_is_held_back(
    trained: Any, contexts: Any
) -> None:
    made = trained(mode="t2v", regularisers={"blank": 1.0, "crepa": {}, "audio_balance": "video"})
    made.blank = contexts("")
    batch = batch_of(made, contexts)
    objective = made._objective()
    first = objective(batch)
    assert first["blank"] < 1e-9
    assert -1 <= first["similarity"] <= 1
    balance = made.trainer.notes["balance"]
    wanted = first["video"] + 0.33 * balance["video"] / balance["audio"] * first["audio"]
    assert float(first["loss"].detach()) == pytest.approx(float(wanted - 0.1 * first["similarity"]), abs=1e-4)
    torch.nn.init.normal_(made.factors.ups[0], std=0.5)
    second = objective(batch)
    assert second["blank"] > 0
    second["loss"].backward()
    projector = made.steady.projector[0].weight
    assert projector.grad is not None
    assert not [name for name in made.values() if "projector" in name]


def test_frames_are_held_until_they_are_alike() -> None:
    notes: dict[str, Any] = {}
    crepa = read_config({"data": "a", "output": "b", "regularisers": {"crepa": {"until": 0.5}}})
    asked = crepa.regularisers.crepa
    assert asked is not None
    assert is_on(asked, 0.4, notes)
    assert not is_on(asked, 0.9, notes)
    assert not is_on(asked, 0.0, notes)


def test_what_keeps_a_class_as_it_is_adds_a_batch_of_it_to_each_step(
    tiny_folder: Path, folder: Path, data: EncodedDataset, trained: Any, contexts: Any
) -> None:
    made = trained(regularisers={"prior": 0.5, "prior_data": str(folder)})
    order = SampleOrder(data, made.config, contexts, SampleOrder(data, made.config, contexts))
    step = next(order.batches(0))
    assert len(step.parts) == 2
    losses = made._objective()(step.parts[1])
    assert losses["prior"] < 1e-9
    torch.nn.init.normal_(made.factors.ups[0], std=0.5)
    losses = made._objective()(step.parts[1])
    assert float(losses["loss"].detach()) == pytest.approx(0.5 * float(losses["prior"].detach()))
    assert losses["loss"] > 0


def test_a_loss_that_rises_or_breaks_ends_a_training() -> None:
    watch = DivergenceWatch(0.5, {})
    assert all(watch.see(1.0) is None for _ in range(150))
    told = [watch.see(3.0) for _ in range(100)]
    assert "above its least" in next(text for text in told if text)
    broken = [DivergenceWatch(None, {}).see(math.nan)]
    watch = DivergenceWatch(None, {})
    broken += [watch.see(math.nan) for _ in range(10)]
    assert [text is None for text in broken] == [True] * 10 + [False]


def test_memory_that_is_too_small_is_refused_with_what_to_change(tiny_folder: Path, folder: Path) -> None:
    config = read_config({"data": "a", "output": "b", "checkpointing": "none", "batch": 4, "model": "nano"})
    work = TuningWork(video=4032, audio=93, text=1024, batch=4, trained=200_000_000)
    sizes = ModelSizes.published("bfloat16")
    gpu = Machine("a GPU", "cuda", host_bytes=128e9, device_bytes=24e9)
    with pytest.raises(
        RequestError, match=r"needs at least .* GB on a GPU, of which 24 may be used; what fits: ch"
    ):
        choose_place(work, [sizes], gpu, config)
    eased = replace(config, checkpointing="auto", batch=1)
    place = choose_place(replace(work, batch=1), [sizes], gpu, eased)
    assert place.residency.policy == "stream"
    assert place.again
    roomy = choose_place(replace(work, batch=1), [sizes], replace(gpu, device_bytes=200e9), eased)
    assert (roomy.residency.policy, roomy.again) == ("resident", False)


def test_a_validation_clip_is_the_clip_of_inference_with_the_saved_file(
    tiny_folder: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips: dict[str, ss.Clip] = {}

    def keep(clip: ss.Clip, path: Path, **_: Any) -> Path:
        clips[path.name] = clip
        return path

    monkeypatch.setattr(ss.Clip, "save", keep)
    monkeypatch.setattr("soundstage.training.tuning.session.ModelParts", QuickSound)
    request = {"prompt": "A red ball.", "steps": 1, "seed": 3}
    config = config_of(
        tiny_folder, folder, tmp_path / "run",
        optimizer={"rate": 0.05}, validation={"every": 4, "requests": [request]},
    )  # fmt: skip
    losses = losses_of(config)
    assert sorted(clips) == [f"step-{step:06}-1.mp4" for step in (0, 4)]
    stage = ss.Engine(
        find_model(tiny_folder), parts=QuickSound(find_model(tiny_folder), torch.device("cpu"), torch.float32)
    )
    for step in (0, 4):
        lora = [] if step == 0 else [str(tmp_path / "run" / f"lora-{step:06}.safetensors")]
        wanted = stage.generate(ss.Request(**request, loras=lora))
        found = clips[f"step-{step:06}-1.mp4"]
        assert np.array_equal(found.frames, wanted.frames)
        assert np.array_equal(found.waveform, wanted.waveform)
    assert not np.array_equal(clips["step-000000-1.mp4"].frames, clips["step-000004-1.mp4"].frames)
    plain = replace(config, output=str(tmp_path / "plain"), validation=TrainConfig("a", "b").validation)
    assert losses_of(plain) == losses


@pytest.mark.slow
def test_a_lora_is_trained_over_another_beside_it_or_merged(
    tiny_folder: Path, folder: Path, parts: ModelParts, tmp_path: Path
) -> None:
    below = train(config_of(tiny_folder, folder, tmp_path / "below", optimizer={"rate": 0.05}))
    found = {}
    for way in ("branch", "merged"):
        lora = {"rank": 2, "over": [{"path": str(below), "strength": 0.5}], "over_as": way}
        config = config_of(tiny_folder, folder, tmp_path / way, lora=lora, steps=2)
        found[way] = losses_of(config)
    alone = losses_of(config_of(tiny_folder, folder, tmp_path / "alone", steps=2))
    assert found["branch"] == pytest.approx(found["merged"], rel=1e-5)
    assert found["branch"] != pytest.approx(alone, rel=1e-5)


def test_a_request_of_a_hosted_trainer_is_a_training_here(tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    request = {
        "training_data_url": "clips.zip", "rank": 16, "steps": 300, "trigger_phrase": "zorb",
        "validation": [{"prompt": "a ball"}], "first_frame_conditioning_p": 0.2, "with_audio": False,
    }  # fmt: skip
    path.write_text(json.dumps({"input": request}))
    asked = read_hosted(path, "i2v")
    config = read_config({**config_fields(asked), "data": "a", "output": "b"})
    assert (config.mode, config.lora.rank, config.steps, config.trigger) == ("i2v", 16, 300, "zorb")
    assert (config.video.first_frame, config.audio.stream, config.optimizer.rate) == (0.2, "absent", 2e-4)
    assert config.validation.requests[0]["prompt"] == "zorb a ball"
    path.write_text(json.dumps({**request, "rnak": 4}))
    with pytest.raises(ConfigError, match="'rnak' is not a field of HostedTraining; the fields are rank,"):
        read_hosted(path)


@pytest.mark.parametrize("names", ["comfyui", "diffusers"])
def test_a_dora_trains_its_magnitudes_and_is_read_again_as_it_was_trained(
    names: str, tiny_folder: Path, folder: Path, tmp_path: Path, trained: Any, contexts: Any
) -> None:
    lora = {"rank": 2, "form": "dora", "names": names, "store": "float32", "targets": ["video"]}
    made = trained(mode="silent", lora=lora, optimizer={"rate": 0.05}, steps=2)
    batch = batch_of(made, contexts)
    before = gradients(made, batch)
    assert "core.magnitudes.0" in before
    plain = trained(mode="silent", lora={"rank": 2, "targets": ["video"]})
    made.adapters.set({})
    assert float(gradients(plain, batch)["loss"]) == pytest.approx(float(before["loss"]), rel=1e-5)
    plain.adapters.set({})
    made.put_on(True)
    for _ in range(2):
        made.trainer._step(GradientSteps(made._objective(), made.trainer.params), batch)
    path = made.write(2).path
    objective = made._objective()
    with torch.no_grad():
        wanted = objective(batch)["loss"]
        made.adapters.set({})
        beside = Adapters(made.transformer)
        beside.add("read", read_lora(path))
        beside.set({"read": 1.0})
        found = objective(batch)["loss"]
        beside.set({})
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    assert float(found) != pytest.approx(float(before["loss"]), rel=1e-4)
