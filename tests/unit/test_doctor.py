"""The doctor says what is here, prices every recipe, and advises; it reads no weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import soundstage
from soundstage.cli.main import app
from soundstage.diagnostics import needs as pricing
from soundstage.diagnostics import report
from soundstage.errors import SoundstageError
from soundstage.library.installed import Library
from soundstage.memory.machine import Machine
from soundstage.request.recipes import SHIPPED as RECIPES
from tests.tiny_model import write_tiny_model

runner = CliRunner()


@pytest.fixture(scope="module")
def here() -> report.MachineReport:
    return report.examine("cpu")


def on_card(gigabytes: float, host: float = 64) -> list[pricing.Need]:
    machine = Machine("a card", "cuda", host * 1e9, gigabytes * 1e9, flops_per_s=1e14)
    return list(pricing.needs_of(machine, tuple(pricing.published("bfloat16", "cuda"))))


def test_it_names_the_device_the_versions_and_the_codecs(here: report.MachineReport) -> None:
    assert here.kind == "cpu"
    assert here.host_bytes > 0
    assert set(here.system) == {"python", "torch", "cuda", "driver", "ffmpeg"}
    assert {s.name: s.works for s in here.dtypes} | {"fp8": 0, "int8": 0} == {
        "float32": True, "bfloat16": True, "fp8": 0, "int8": 0,
    }  # fmt: skip
    assert {s.name for s in here.codecs} == set(report.CODECS)
    assert all(s.works for s in here.codecs if s.name in report.NEEDED_CODECS)


def test_every_recipe_and_size_has_a_row_for_both_kinds_of_weights(here: report.MachineReport) -> None:
    needs = [need for need in here.needs if need.model == pricing.PUBLISHED]
    assert len(needs) == 2 * len(RECIPES) * len(pricing.SIZES)
    assert {need.recipe for need in needs} == set(RECIPES)
    assert {need.recipe for need in needs if need.needs_input} == {"dub", "upscale"}
    assert not any(need.refused for need in needs)


def test_nano_is_priced_at_its_own_sizes_where_its_plan_says_yes(here: report.MachineReport) -> None:
    needs = [need for need in here.needs if need.model == "nano"]
    assert {need.recipe for need in needs} == set(RECIPES)
    assert needs[0].size == "192x128x49"
    stage = soundstage.load("nano")
    for need in needs:
        width, height, frames = map(int, need.size.split("x"))
        words = {"prompt": pricing.PROMPT, "recipe": need.recipe, "size": (width, height)}
        try:
            stage.plan(soundstage.Request(**words, num_frames=frames))
            planned = True
        except SoundstageError:
            planned = False
        assert planned == (need.policy is not None), need


def test_added_models_are_priced_and_a_broken_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    library = Library.open()
    library.add([write_tiny_model(tmp_path / "tiny")], "mine")
    library.add([write_tiny_model(tmp_path / "other")], "gone")
    shutil.rmtree(tmp_path / "other")
    priced, problems = pricing.priced_models(None, "auto", "auto", "cpu")
    assert [one.title for one in priced][:2] == ["nano", "mine"]
    assert len(problems) == 1
    assert problems[0].startswith("model gone: model 'gone' was added with")


def test_what_a_models_files_lack_is_told(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            told = dict(file.metadata() or {})
        config = json.loads(told.get("config", "{}"))
        if config.get("transformer", {}).pop("norm_eps", None) is not None:
            save_file(load_file(path), path, told | {"config": json.dumps(config)})
    result = CliRunner().invoke(app, ["doctor", "--model", str(folder)])
    assert result.exit_code == 0, result.stderr
    assert "the stored transformer config lacks norm_eps" in " ".join(result.stdout.split())


def test_a_larger_card_streams_less() -> None:
    def policies(gigabytes: float) -> set[str | None]:
        return {n.policy for n in on_card(gigabytes) if n.recipe == "single" and n.weights.endswith("fp8")}

    assert policies(12) == {"stream"}
    assert policies(80) == {"resident"}


def test_what_does_not_fit_says_what_does() -> None:
    *_, smallest = pricing.published("bfloat16", "cuda")
    machine = Machine("a card", "cuda", 64e9, 2e9, flops_per_s=1e14)
    needs = [need for need in pricing.needs_of(machine, (smallest,)) if not need.needs_input]
    assert all(need.policy is None for need in needs)
    assert "cannot make on this machine: it needs at least" in needs[0].sentence


def test_it_advises_what_would_help(here: report.MachineReport) -> None:
    assert any("CUDA" in sentence for sentence in here.advice)
    machine = Machine("a card", "cuda", 64e9, 24e9)
    without_h264 = [replace(s, works=s.name != "h264") for s in here.codecs]
    found = list(report.advice_for(machine, here.dtypes, without_h264, here.needs[:0], 1e9, True))
    assert found[0].startswith("PyAV lacks encoder libx264")
    assert found[-1].startswith("1 GB of disk are free")


def test_the_command_prints_a_table_or_json(
    here: report.MachineReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "examine", lambda *_: here)
    text = runner.invoke(app, ["doctor"])
    assert text.exit_code == 0
    assert "device    the CPU" in text.stdout
    assert all(recipe in text.stdout for recipe in RECIPES)
    told = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert told == json.loads(json.dumps(asdict(here)))


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    result = runner.invoke(app, ["doctor", "--device", "cuda:7"])
    assert result.exit_code == 2
    assert "device is 'cuda:7', which this machine does not have" in result.output
