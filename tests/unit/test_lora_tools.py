"""Adapters inspected, resized, merged, extracted, converted and stripped: the change is as it is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from soundstage.cli.main import app
from soundstage.errors import MediaError, RequestError, WeightsError
from soundstage.lora.adapters import Adapters
from soundstage.lora.asked import NAMES, FileNames, RankLimit
from soundstage.lora.combine import Ingredient, merge
from soundstage.lora.effect import measure
from soundstage.lora.extract import extract
from soundstage.lora.factoring import factored
from soundstage.lora.files import LoraFile, read_lora, write_lora
from soundstage.lora.layers import Layer, LowRank, group_of
from soundstage.lora.metadata import LoraReferences
from soundstage.lora.rewrite import convert, resize, strip
from soundstage.weights.header import read_header
from soundstage.weights.layouts import find_parts
from tests.live_bytes import LiveBytes
from tests.tiny_transformer import (
    assert_near,
    assert_same,
    linears,
    random_dora,
    random_lora,
    transformer,
    velocities,
)

F32 = torch.float32
KEY = "transformer_blocks.1.attn1.to_q"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """style and voice: adapters of the tiny transformer; base: its weights; tuned: with style merged in."""
    folder = tmp_path_factory.mktemp("adapters")
    model = transformer()
    style = random_lora(model)
    style = replace(style, metadata={"trigger_phrase": "ohwx", "model_version": "2.3.0", "note": "kept"})
    write_lora(folder / "style.safetensors", style, dtype=F32)
    write_lora(folder / "voice.safetensors", random_lora(model, seed=1, only="audio"), dtype=F32)
    weights = {f"model.diffusion_model.{key}": value for key, value in model.state_dict().items()}
    save_file(weights, folder / "base.safetensors")
    for layer, pair in style.layers.items():
        weights[f"model.diffusion_model.{layer.key}.weight"] = (
            linears(model)[layer.key].weight + 3 * pair.delta()
        )
    save_file(weights, folder / "tuned.safetensors")
    return folder


def deltas(path: Path) -> dict[Layer, torch.Tensor]:
    return {layer: pair.delta() for layer, pair in read_lora(path).layers.items()}


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


# --- resize -----------------------------------------------------------------------------------------


def test_at_its_full_rank_an_adapter_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    made = resize(folder / "style.safetensors", tmp_path / "same.safetensors", rank=5)
    assert made.error == 0
    ours, theirs = load_file(folder / "style.safetensors"), load_file(tmp_path / "same.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_smaller_rank_is_the_best_one_and_its_error_is_reported(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    made = resize(folder / "style.safetensors", path, rank=2)
    wanted, found = deltas(folder / "style.safetensors"), deltas(path)
    assert made.ranks == (2, 2)
    lost = 0.0
    for layer, delta in wanted.items():
        values = torch.linalg.svdvals(delta)
        error = float((found[layer] - delta).norm())
        assert error == pytest.approx(float(values[2:].norm()), rel=1e-3)
        lost += error**2
    total = sum(float(delta.norm()) ** 2 for delta in wanted.values())
    assert made.error == pytest.approx((lost / total) ** 0.5, rel=1e-3)
    assert made.worst.share >= made.error


def test_an_energy_keeps_its_share_of_every_layer_with_as_few_ranks(folder: Path, tmp_path: Path) -> None:
    made = resize(folder / "style.safetensors", tmp_path / "small.safetensors", energy=0.7)
    assert all(layer.share**2 <= 0.3 + 1e-5 for layer in made.layers)
    assert made.mean_rank < 4
    values = torch.tensor([3.0, 2.0, 1.0])
    assert [RankLimit(energy=e).of(values, 14.0) for e in (0.5, 0.65, 0.93, 0.99, 1.0)] == [1, 2, 3, 3, 3]


def test_what_cannot_be_resized_is_refused_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    for options, message in (
        ({}, "neither rank nor energy"),
        ({"rank": 0}, "rank is 0; give a whole number"),
        ({"energy": 1.5}, "energy is 1.5; give the share"),
    ):
        with pytest.raises(RequestError, match=message):
            resize(folder / "style.safetensors", target, **options)
    with pytest.raises(WeightsError, match="is not a LoRA"):
        resize(folder / "base.safetensors", target, rank=2)
    strange = tmp_path / "strange.safetensors"
    save_file(
        load_file(folder / "style.safetensors")
        | {
            "diffusion_model.trunk.1.lora_A.weight": torch.ones(2, 3),
            "diffusion_model.trunk.1.lora_B.weight": torch.ones(3, 2),
        },
        strange,
    )
    with pytest.raises(WeightsError, match=r"has 1 layers that LTX-2.3 does not have: .*trunk.1"):
        resize(strange, target, rank=2)
    broken = tmp_path / "broken.safetensors"
    save_file({k: v * float("nan") for k, v in load_file(folder / "style.safetensors").items()}, broken)
    with pytest.raises(WeightsError, match="not finite"):
        resize(broken, target, rank=2)
    assert not target.exists()
    assert not list(tmp_path.glob(".*part"))
    resize(strange, target, rank=2, drop_unknown=True)
    with pytest.raises(MediaError, match="is there already"):
        resize(strange, target, rank=2, drop_unknown=True)


class InMemory(LiveBytes):
    """Count what is in memory only, not shapes."""

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage.device.type != "meta":
            super()._add(storage)


def test_a_tool_holds_one_layer_at_a_time(tmp_path: Path) -> None:
    layers = {
        Layer("transformer", f"transformer_blocks.{block}.attn1.to_q"): LowRank(
            torch.randn(16, 256), torch.randn(256, 16)
        )
        for block in range(40)
    }
    write_lora(tmp_path / "large.safetensors", LoraFile(layers), dtype=F32)
    size = (tmp_path / "large.safetensors").stat().st_size
    for work in (
        lambda: resize(tmp_path / "large.safetensors", tmp_path / "a.safetensors", rank=8),
        lambda: convert(tmp_path / "large.safetensors", tmp_path / "b.safetensors", names="kijai"),
        lambda: merge([Ingredient(tmp_path / "large.safetensors")] * 2, tmp_path / "c.safetensors", rank=4),
    ):
        with InMemory() as live:
            work()
        assert live.peak < size / 3


# --- merge ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (torch.bfloat16, 0.03)])
def test_a_merged_adapter_is_both_at_their_strengths(
    folder: Path, tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    both = [
        Ingredient(folder / "style.safetensors", 0.8),
        Ingredient(folder / "voice.safetensors", -0.5, {"audio": 2.0, "v2a": 0.0}),
    ]
    made = merge(both, tmp_path / "both.safetensors", dtype=dtype)
    assert made.error < tolerance
    model = transformer(dtype)
    adapters = Adapters(model)
    for item in both:
        adapters.add(str(item.path), read_lora(item.path))
    adapters.set({str(item.path): item.strength for item in both})
    adapters.set_groups(str(both[1].path), both[1].groups)
    wanted = velocities(model)
    adapters.add("merged", read_lora(tmp_path / "both.safetensors"))
    adapters.set({"merged": 1.0})
    assert_near(velocities(model), wanted, tolerance)
    metadata = read_header(tmp_path / "both.safetensors").metadata
    assert metadata["trigger_phrase"] == "ohwx"
    assert [one["file"] for one in json.loads(metadata["merged_from"])] == [
        "style.safetensors",
        "voice.safetensors",
    ]


def test_a_merge_cut_to_a_rank_is_the_best_of_that_rank(folder: Path, tmp_path: Path) -> None:
    both = [Ingredient(folder / "style.safetensors"), Ingredient(folder / "voice.safetensors")]
    made = merge(both, tmp_path / "both.safetensors", rank=3)
    layer = Layer("transformer", "transformer_blocks.0.audio_attn1.to_q")
    wanted = sum(deltas(Path(item.path))[layer] for item in both)
    assert isinstance(wanted, torch.Tensor)
    error = off(deltas(tmp_path / "both.safetensors")[layer], wanted)
    best = float(torch.linalg.svdvals(wanted)[3:].norm() / wanted.norm())
    assert error == pytest.approx(best, rel=1e-2)
    assert made.ranks[1] == 3


def test_adapters_that_cannot_be_one_are_refused(folder: Path, tmp_path: Path) -> None:
    model, target = transformer(), tmp_path / "out.safetensors"
    style = folder / "style.safetensors"

    def other(name: str, lora: LoraFile) -> Ingredient:
        return Ingredient(write_lora(tmp_path / f"{name}.safetensors", lora, dtype=F32))

    lora = random_lora(model, only="attn1.to_q")
    wider = {layer: replace(pair, down=torch.randn(pair.rank, 7)) for layer, pair in lora.layers.items()}
    two, three = (
        other(str(f), replace(lora, references=LoraReferences(downscale=f, in_context=True))) for f in (2, 3)
    )
    cases: list[tuple[list[Ingredient], str]] = [
        ([Ingredient(style)], "one LoRA alone"),
        ([Ingredient(style, 0.0), Ingredient(style)], "strength of .* is 0"),
        ([Ingredient(style), other("dora", random_dora(model))], "is DoRA, whose change depends"),
        ([two, three], r"different reference downscale factors \(2, 3\)"),
        ([Ingredient(style), other("wide", replace(lora, layers=wider))], "made for another model"),
        (
            [Ingredient(style), other("slots", replace(lora, companions={"slot_emb": torch.ones(2)}))],
            r"slot embeddings .*slot_emb.*lora strip",
        ),
    ]
    for items, message in cases:
        with pytest.raises((RequestError, WeightsError), match=message):
            merge(items, target)
    assert not target.exists()
    merge([two, Ingredient(style)], target)
    assert read_lora(target).references.downscale == 2


# --- convert, strip ---------------------------------------------------------------------------------


@pytest.mark.parametrize("names", NAMES)
def test_other_names_are_the_same_change_and_lead_back(
    folder: Path, tmp_path: Path, names: FileNames
) -> None:
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    made = convert(folder / "style.safetensors", there, names=names)
    assert made.error < 1e-6
    wanted = deltas(folder / "style.safetensors")
    assert all(off(delta, wanted[layer]) < 1e-6 for layer, delta in deltas(there).items())
    assert deltas(there).keys() == wanted.keys()
    assert read_header(there).metadata["note"] == "kept"
    convert(there, back, names="comfyui")
    ours, theirs = load_file(folder / "style.safetensors"), load_file(back)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_scale_is_kept_apart_by_kijais_names_and_folded_in_by_others(tmp_path: Path) -> None:
    """And PEFT's settings, which hold the alpha too, are not written beside factors that have it."""
    tensors = {f"{KEY}.lora_A.weight": torch.ones(2, 5), f"{KEY}.lora_B.weight": torch.ones(6, 2)}
    settings = {"lora_adapter_metadata": json.dumps({"r": 2, "lora_alpha": 6})}
    save_file(tensors, tmp_path / "a.safetensors", settings)
    wanted = deltas(tmp_path / "a.safetensors")
    for names in NAMES:
        path = tmp_path / f"{names}.safetensors"
        convert(tmp_path / "a.safetensors", path, names=names)
        assert torch.equal(next(iter(deltas(path).values())), next(iter(wanted.values())))
        assert ("lora_adapter_metadata" in read_header(path).metadata) is False
        assert any(name.endswith(".alpha") for name in load_file(path)) == (names == "kijai")


@pytest.mark.parametrize("names", NAMES)
def test_dora_keeps_its_magnitudes_in_any_names(tmp_path: Path, names: FileNames) -> None:
    lora = random_dora(transformer(), only="attn1.to_q")
    path = write_lora(tmp_path / "dora.safetensors", lora, dtype=F32, names=names)
    for layer, pair in read_lora(path).layers.items():
        wanted = lora.layers[layer].magnitude
        assert pair.magnitude is not None
        assert wanted is not None
        assert torch.equal(pair.magnitude, wanted)


def test_stripped_groups_are_as_if_at_zero(folder: Path, tmp_path: Path) -> None:
    made = strip(
        folder / "style.safetensors", tmp_path / "silent.safetensors", groups={"audio", "a2v", "v2a"}
    )
    assert {group_of(layer) for layer in read_lora(made.path).layers} == {"video"}
    model = transformer()
    adapters = Adapters(model)
    adapters.add("style", read_lora(folder / "style.safetensors"))
    adapters.set({"style": 1.0})
    adapters.set_groups("style", {"audio": 0.0, "a2v": 0.0, "v2a": 0.0})
    wanted = velocities(model)
    adapters.add("silent", read_lora(made.path))
    adapters.set({"silent": 1.0})
    assert_same(velocities(model), wanted)
    for groups, message in (
        ({"text"}, "has no layers of text"),
        ({"video"}, "nothing would be left"),
        ((), "nothing"),
    ):
        with pytest.raises(RequestError, match=message):
            strip(made.path, tmp_path / "none.safetensors", groups=groups)  # type: ignore[arg-type]


def test_slots_and_the_order_of_tokens_can_be_stripped(tmp_path: Path) -> None:
    lora = replace(
        random_lora(transformer(), only="attn1.to_q"),
        companions={"slot_embeddings": torch.ones(3, 4)},
        metadata={"reference_token_order": "image,video"},
    )
    path = write_lora(tmp_path / "slots.safetensors", lora)
    refusal = read_lora(path).references.refusal("slots.safetensors")
    assert refusal is not None
    assert "slot_embeddings" in refusal
    assert "image,video" in refusal
    strip(path, tmp_path / "plain.safetensors", slots=True)
    assert read_lora(tmp_path / "plain.safetensors").references.refusal("x") is None


# --- extract ----------------------------------------------------------------------------------------


def test_the_lora_between_two_models_is_found_again(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "found.safetensors"
    made = extract([folder / "base.safetensors"], [folder / "tuned.safetensors"], path, rank=8, dtype=F32)
    wanted, found = deltas(folder / "style.safetensors"), deltas(path)
    assert found.keys() == wanted.keys()
    assert all(off(found[layer], 3 * wanted[layer]) < 1e-3 for layer in wanted)
    assert made.error < 1e-3
    assert made.notices == ()
    cut = extract([folder / "base.safetensors"], [folder / "tuned.safetensors"], path, rank=2, overwrite=True)
    assert cut.ranks[1] == 2
    assert cut.error > 0.1


def test_a_large_matrix_is_factored_by_random_products_as_well_and_always_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(600, 4, generator=generator) @ torch.randn(4, 700, generator=generator)
    noisy = matrix + 1e-3 * torch.randn(600, 700, generator=generator)
    first, second = (factored(noisy, 4, RankLimit(4)) for _ in range(2))
    assert torch.equal(first.down, second.down)
    assert off(first.delta(), matrix) < 1e-3


def test_models_that_differ_in_more_or_in_nothing_are_told(folder: Path, tmp_path: Path) -> None:
    base, target = folder / "base.safetensors", tmp_path / "out.safetensors"
    with pytest.raises(WeightsError, match="there is nothing to extract"):
        extract([base], [base], target, rank=4)
    assert not target.exists()
    weights = load_file(folder / "tuned.safetensors")
    bias = f"model.diffusion_model.{KEY}.bias"
    save_file(weights | {bias: weights[bias] + 1}, tmp_path / "bias.safetensors")
    made = extract([base], [tmp_path / "bias.safetensors"], target, rank=4)
    assert (
        f"1 other tensors differ, which no LoRA holds, and are left out: transformer.{KEY}.bias"
        in made.notices
    )
    save_file(weights | {bias: weights[bias][:3].clone()}, tmp_path / "short.safetensors")
    with pytest.raises(WeightsError, match="is not of the same model"):
        extract([base], [tmp_path / "short.safetensors"], target, rank=4, overwrite=True)


# --- measure ----------------------------------------------------------------------------------------


def test_the_effect_is_measured_on_every_weight(folder: Path) -> None:
    lora = read_lora(folder / "style.safetensors")
    stored = find_parts([read_header(folder / "base.safetensors")])
    effect = measure(lora, stored)
    layers, total = linears(transformer()), 0.0
    for one in effect.layers:
        delta = lora.layers[one.layer].delta()
        total += float(delta.norm()) ** 2
        share = float(delta.norm() / layers[one.layer.key].weight.norm())
        assert one.share == pytest.approx(share, rel=1e-4)
        assert 1 <= one.holds <= one.rank
    groups = effect.groups
    assert sum(group.part for group in groups.values()) == pytest.approx(1)
    assert sum(group.change**2 for group in groups.values()) == pytest.approx(total, rel=1e-4)
    most = [one.share or 0 for one in effect.most(3)]
    assert most[0] == max(one.share or 0 for one in effect.layers)
    alone = measure(lora)
    assert all(group.share is None for group in alone.groups.values())


def test_an_adapter_of_another_size_is_refused_when_it_is_measured(folder: Path, tmp_path: Path) -> None:
    stored = find_parts([read_header(folder / "base.safetensors")])
    other = LoraFile({Layer("transformer", KEY): LowRank(torch.ones(2, 5), torch.ones(6, 2))})
    with pytest.raises(WeightsError, match="made for another model"):
        measure(other, stored)
    text = LoraFile({Layer("video_connector", "x"): LowRank(torch.ones(2, 5), torch.ones(6, 2))})
    with pytest.raises(WeightsError, match="matches no layer of this model"):
        measure(text, stored)


# --- the command ------------------------------------------------------------------------------------


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["lora", *(str(word) for word in words)])


def made_by(*words: object) -> dict[str, Any]:
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_the_commands_make_what_the_functions_make(folder: Path, tmp_path: Path) -> None:
    style, voice = folder / "style.safetensors", folder / "voice.safetensors"
    small, both, other, silent, found = (tmp_path / f"{n}.safetensors" for n in ("a", "b", "c", "d", "e"))
    assert made_by("resize", style, "--rank", 2, "-o", small)["rank"] == [2, 2]
    merged = made_by("merge", f"{style}:0.8", f"{voice}:0.5,audio=2", "-o", both, "--energy", 0.999)
    assert merged["error"] < 0.05
    made_by("convert", style, "--to", "diffusers", "-o", other, "--dtype", "bf16")
    with safe_open(other, "pt") as file:
        assert all(name.startswith("transformer.") for name in file.keys())  # noqa: SIM118
    assert (
        made_by("strip", style, "--audio", "-o", silent)["layers"]
        < made_by(
            "extract", folder / "base.safetensors", folder / "tuned.safetensors", "--rank", 8, "-o", found
        )["layers"]
    )
    seen = made_by("inspect", style, "--on", folder / "base.safetensors")
    assert seen["trigger"] == "ohwx"
    assert seen["published"] is None
    assert seen["effect"]["groups"]["video"]["share"] > 0
    shown = call("inspect", style, "--on", folder / "base.safetensors")
    assert "catalogue: unknown" in shown.stdout
    assert "trigger: ohwx" in shown.stdout
    assert "of the weight" in shown.stdout
    again = call("resize", style, "--rank", 2, "-o", small)
    assert "add --force" in again.stderr
    printed = call("resize", style, "--rank", 2, "-o", small, "--force")
    assert printed.stdout == f"{small}\n"
    assert "largest error" in printed.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resize", "STYLE", "--rank", 2, "-o", "STYLE"), "is there already"),
        (("resize", "STYLE", "--rank", 2, "-o", "out.bin"), "ending in .safetensors"),
        (
            ("convert", "STYLE", "--to", "cumfy", "-o", "x.safetensors"),
            "--to is 'cumfy'; give one of comfyui",
        ),
        (("convert", "STYLE", "--to", "peft", "--dtype", "f8", "-o", "x.safetensors"), "dtype is 'f8'"),
        (("merge", "STYLE@1-2", "STYLE", "-o", "x.safetensors"), "has a span of time"),
        (
            ("strip", "STYLE", "--group", "vdeo", "-o", "x.safetensors"),
            "'vdeo', which is no group; give video",
        ),
        (("extract", "STYLE", "STYLE", "--rank", 4, "-o", "x.safetensors"), "LoRA"),
        (("inspect", "gone.safetensors"), "gone.safetensors"),
    ],
)
def test_mistakes_are_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    style = str(folder / "style.safetensors")
    result = call(*(str(word).replace("STYLE", style) for word in words))
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())
