"""What each word of `weights=` gives, under every policy, and which it is when none is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

import soundstage as ss
from soundstage.cli.main import app
from soundstage.engine import Engine
from soundstage.errors import RequestError
from soundstage.library.convert import convert
from soundstage.library.model_files import SHIPPED_MODELS, find_model
from soundstage.library.sizes import ModelSizes, model_sizes
from soundstage.memory.machine import Machine
from soundstage.memory.policy import Residency
from soundstage.planning import placement
from soundstage.planning.placement import choose_held
from soundstage.rendering.events import Done
from soundstage.rendering.parts import ModelParts
from soundstage.request.request import Request
from soundstage.weights.quantize import QuantizedLinear, quantize
from soundstage.weights.storage import STORAGES, Storage, eight_bit, storage_named
from tests.quick_codecs import QuickCodecs

CPU = torch.device("cpu")
NANO = SHIPPED_MODELS["nano"]
FIELDS: dict[str, Any] = {"size": (64, 64), "num_frames": 9, "steps": 2, "seed": 3}
BLOCK = "transformer_blocks.0.attn1.to_q"


class Quick(ModelParts):
    """Nano's own text and transformer, between codecs that take no time."""

    decode_video = QuickCodecs.decode_video
    decode_pieces = QuickCodecs.decode_pieces
    decode_audio = QuickCodecs.decode_audio

    def load(self, modalities: Any, at: Any = None) -> None:
        _ = self.transformer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundstage.rendering.run.ModelParts", Quick)


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano") / "fp8"
    convert(NANO, folder, layout="bundle", dtype="fp8")
    return folder


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the machine's free memory."""

    def to(num_bytes: float) -> None:
        monkeypatch.setattr(placement, "this_machine", lambda _: Machine("a CPU", "cpu", num_bytes))

    return to


def made(
    model: Path, weights: str, residency: str = "resident", dtype: str | None = None, **fields: Any
) -> Done:
    stage = ss.load(model, device="cpu", weights=weights, residency=residency, dtype=dtype)
    *_, done = stage.run(Request(prompt="A red ball bounces.", **{**FIELDS, **fields}))
    assert isinstance(done, Done)
    assert stage._renderer is not None
    assert stage._renderer.built is not None
    stage._renderer.built.close()
    return done


@cache
def plain(model: Path, weights: str, residency: str = "resident") -> Done:
    """Without other fields, each made once."""
    return made(model, weights, residency)


def latents(done: Done) -> list[Tensor]:
    assert done.video_latents is not None
    assert done.audio_latents is not None
    return [done.video_latents, done.audio_latents]


def same(one: Done, other: Done) -> bool:
    return all(torch.equal(a, b) for a, b in zip(latents(one), latents(other), strict=True))


# --- numbers ------------------------------------------------------------------------------------------------


def test_an_fp8_file_held_as_it_is_gives_the_bits_of_its_full_weights(fp8: Path) -> None:
    assert same(plain(fp8, "stored"), plain(fp8, "full"))
    assert not same(plain(NANO, "int8"), plain(fp8, "full"))


# Measured: 0.0078, 0.0121 and 0.0267 of the picture's latents, less of the sound's.
BOUNDS = {"int8": 0.015, "int8-dynamic": 0.025, "fp8-cast": 0.05}


@pytest.mark.parametrize("weights", BOUNDS)
def test_rounding_at_load_changes_latents_little(weights: str) -> None:
    fields: dict[str, Any] = {"size": (192, 128), "num_frames": 25, "guidance": 1.0}
    found, full = (latents(made(NANO, word, dtype="float32", **fields)) for word in (weights, "full"))
    for a, b in zip(found, full, strict=True):
        assert 0 < (a - b).norm() / b.norm() < BOUNDS[weights]


@pytest.mark.parametrize("policy", ["stream", "disk"])
def test_a_policy_changes_no_bit_of_what_is_held_in_8_bits(fp8: Path, policy: str) -> None:
    assert same(plain(fp8, "stored", policy), plain(fp8, "stored"))
    assert same(plain(NANO, "int8", policy), plain(NANO, "int8"))


@pytest.mark.parametrize("weights", ["fp8", "fp8-cast", "int8", "int8-dynamic"])
def test_rounding_at_load_is_quantizing_the_loaded_model(weights: Storage) -> None:
    model = find_model("nano")
    wanted = ModelParts(model, CPU, torch.float32).transformer
    quantize(wanted, weights)  # type: ignore[arg-type]
    found = ModelParts(model, CPU, torch.float32, storage=weights).transformer
    assert found.state_dict().keys() == wanted.state_dict().keys()
    for (key, value), expected in zip(found.state_dict().items(), wanted.state_dict().values(), strict=True):
        assert torch.equal(value.float(), expected.float()), key
    layer = found.get_submodule(BLOCK)
    assert isinstance(layer, QuantizedLinear)
    assert layer.native == (weights in ("fp8", "int8-dynamic"))


def test_what_a_file_has_in_the_format_asked_for_is_not_rounded_again(fp8: Path) -> None:
    model = find_model(fp8)
    layers = {
        word: ModelParts(model, CPU, torch.float32, storage=word).transformer.get_submodule(BLOCK)
        for word in ("stored", "fp8", "fp8-cast")  # type: ignore[misc]
    }
    assert [layer.native for layer in layers.values()] == [False, True, False]
    for layer in layers.values():
        assert isinstance(layer, QuantizedLinear)
        assert torch.equal(layer.weight.view(torch.uint8), layers["stored"].weight.view(torch.uint8))  # type: ignore[operator]


def test_a_lora_on_8_bit_weights_is_the_same_lora(fp8: Path, tmp_path: Path) -> None:
    """Beside the layer, whose own numbers stay: held as they are or in full, resident or streamed."""
    linear = ModelParts(find_model("nano"), CPU, torch.float32).transformer.get_submodule(BLOCK)
    rows, columns = linear.weight.shape  # type: ignore[union-attr, misc]
    generator = torch.Generator().manual_seed(1)
    factors = {"lora_A": (4, columns), "lora_B": (rows, 4)}
    save_file(
        {
            f"diffusion_model.{BLOCK}.{name}.weight": torch.randn(shape, generator=generator) * 0.2  # type: ignore[call-overload]
            for name, shape in factors.items()
        },
        tmp_path / "style.safetensors",
    )
    fields: dict[str, Any] = {"loras": [{"path": str(tmp_path / "style.safetensors"), "strength": 0.8}]}
    full = made(fp8, "full", **fields)
    assert not same(full, plain(fp8, "full"))
    for policy in ("resident", "stream", "disk"):
        assert same(made(fp8, "stored", policy, **fields), full)


# --- which it is --------------------------------------------------------------------------------------------


def test_the_choice_is_as_the_file_is(fp8: Path, free: Callable[[float], None]) -> None:
    free(10e9)
    stage, held = Engine(find_model("nano"), device="cpu"), Engine(find_model(fp8), device="cpu")
    plan = stage.plan(Request(prompt="A red ball bounces.", **FIELDS))
    assert stage.choose(plan).weights == "full"
    assert held.choose(plan).weights == "stored"
    with pytest.raises(RequestError, match="holds no layer"):
        Engine(find_model("nano"), device="cpu", weights="stored").choose(plan)


def test_full_weights_become_8_bit_where_a_policy_that_was_asked_for_needs_it(
    free: Callable[[float], None],
) -> None:
    free(10e9)
    whole, rounded, stage = (
        Engine(find_model("nano"), device="cpu", weights=word, residency="resident")
        for word in ("full", "int8", "auto")
    )
    plan = stage.plan(Request(prompt="A red ball bounces.", **FIELDS))
    bytes_of = [engine.choose(plan).price.host_bytes for engine in (whole, rounded)]
    free(sum(bytes_of) / 2)
    tight = stage.choose(plan)
    assert (tight.weights, tight.residency.policy) == ("int8", "resident")
    assert "the transformer is rounded to int8, since it does not fit as 'full'" in tight.reason
    assert whole.choose(plan).weights == "full"
    free(min(bytes_of) / 2)
    assert stage.choose(plan).weights == "full"  # neither fits: what was asked for is done


def test_full_weights_become_8_bit_only_where_they_fit_under_no_policy() -> None:
    plan = Engine(find_model("nano")).plan(Request(prompt="A red ball bounces.", **FIELDS))
    plan = replace(plan, passes=(replace(plan.passes[0], video_tokens=50_000),))
    full, fp8 = ModelSizes.published("bfloat16"), ModelSizes.published("fp8")
    parts = {**full.parts, "transformer": fp8.parts["transformer"]}
    held = full, replace(full, parts=parts, blocks=fp8.blocks, storage="int8")

    def choice(gigabytes: float) -> str:
        try:
            machine = Machine("a card", "cuda", 64e9, gigabytes * 1e9)
            return choose_held(plan, held, machine).weights
        except RequestError:
            return "refused"

    found = [choice(step / 4) for step in range(16, 80)]
    assert list(dict.fromkeys(found)) == ["refused", "int8", "full"]
    assert found == sorted(found, key=["refused", "int8", "full"].index)


def test_a_plan_that_changes_how_weights_are_held_builds_the_model_anew(
    free: Callable[[float], None],
) -> None:
    free(10e9)
    stage = Engine(find_model("nano"), device="cpu")
    plan = stage.plan(Request(prompt="A red ball bounces.", **FIELDS))
    first = stage._rendering().parts(stage.choose(plan))
    assert stage._rendering().parts(stage.choose(plan)) is first
    stage._storage = "int8"
    assert stage._rendering().parts(stage.choose(plan)).storage == "int8"


@pytest.mark.parametrize("weights", [word for word in STORAGES if word != "stored"])
def test_the_budget_counts_what_is_held(weights: Storage) -> None:
    (sizes,) = model_sizes(find_model("nano"), 2, weights)
    parts = ModelParts(find_model("nano"), CPU, torch.bfloat16, Residency(), weights)
    held = sum(tensor.nbytes for tensor in parts.transformer.state_dict().values())
    assert sizes.parts["transformer"] == pytest.approx(held, rel=0.02)  # scales of rows are not counted
    assert sizes.storage == weights


def test_the_clip_and_the_plan_say_how_the_weights_were_held(fp8: Path) -> None:
    assert made(fp8, "auto").clip.provenance["weights"] == "stored"
    assert plain(NANO, "int8").clip.provenance["weights"] == "int8"
    words = ["plan", "A red ball.", "--model", str(fp8), "--size", "64x64", "--frames", "9"]
    assert "\nweights   stored\n" in CliRunner().invoke(app, words).stdout
    printed = CliRunner().invoke(app, [*words, "--weights", "fp8-cast", "--json"])
    assert json.loads(printed.stdout)["memory"]["weights"] == "fp8-cast"


def test_the_doctor_prices_a_model_as_it_would_be_held(fp8: Path) -> None:
    words = ["doctor", "--device", "cpu", "--model", str(fp8), "--json"]
    found = {
        word: json.loads(CliRunner().invoke(app, [*words, "--weights", word]).stdout)["needs"][0]
        for word in ("auto", "full", "int8")
    }
    assert [need["storage"] for need in found.values()] == ["stored", "full", "int8"]
    assert found["auto"]["host_bytes"] < found["full"]["host_bytes"]


# --- refusals -----------------------------------------------------------------------------------------------


def test_an_unknown_word_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        RequestError, match=r"weights is 'fp4'; give one of fp8, auto, full, stored, fp8-cast"
    ):
        ss.load("nano", weights="fp4")
    result = CliRunner().invoke(app, ["generate", "A red ball.", "--weights", "fp4"])
    assert result.exit_code == 2
    assert "--weights is 'fp4'; give one of fp8, auto" in result.stderr


def test_stored_needs_a_file_in_8_bits() -> None:
    message = (
        r"weights is 'stored', and .*transformer\.safetensors holds no layer in e4m3 or int8 \(it has BF16"
    )
    with pytest.raises(RequestError, match=message):
        ModelParts(find_model("nano"), CPU, torch.float32, storage="stored")
    for command in ("generate", "plan"):
        result = CliRunner().invoke(app, [command, "A red ball.", "--weights", "stored"])
        assert result.exit_code == 2
        assert "--weights is 'stored', and" in result.stderr
    result = CliRunner().invoke(app, ["doctor", "--device", "cpu", "--weights", "int8"])
    assert result.exit_code == 2
    assert "give --model" in result.stderr


def test_the_rule_of_one_layer() -> None:
    weight = f"{BLOCK}.weight"
    assert eight_bit("full", weight, "F8_E4M3") is None
    assert eight_bit("stored", weight, "BF16") is None
    assert eight_bit("stored", weight, "F8_E5M2") is None
    assert eight_bit("int8", f"{BLOCK}.bias", "BF16") is None
    assert eight_bit("int8", "patchify_proj.weight", "BF16") is None
    assert eight_bit("int8", weight, "F8_E4M3") == ("int8", False, False)
    assert eight_bit("int8-dynamic", weight, "I8") == ("int8", True, True)
    assert storage_named("auto") is None
