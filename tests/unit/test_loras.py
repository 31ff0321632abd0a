"""The catalogue of adapters: what it knows, how a file is told, and files by their names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import soundstage as ss
from soundstage.cli.main import app
from soundstage.control.kinds import KINDS
from soundstage.errors import RequestError, WeightsError
from soundstage.library import adapters as catalogue
from soundstage.library.adapters import adapter_facts, adapter_named, adapters, lora_path, recognised
from soundstage.library.catalog import FILES, find
from soundstage.library.installed import Library
from soundstage.library.model_files import find_model
from soundstage.library.pull import sha256_of
from soundstage.planning.planner import make_plan
from soundstage.weights.header import read_header

KEY = "diffusion_model.transformer_blocks.0.attn1.to_v"


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with nothing: no settings, no downloads, no other programs."""
    for variable in ("HF_HUB_CACHE", "HF_HOME", "COMFYUI_PATH", "WANGP_PATH"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))


def write(path: Path, rank: int = 4, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{KEY}.lora_A.weight": torch.ones(rank, 256), f"{KEY}.lora_B.weight": torch.ones(256, rank)}
    save_file(tensors, path, metadata or None)
    return path


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["loras", *(str(word) for word in words)])


def test_every_published_lora_is_in_the_catalogue_once() -> None:
    files = [name for adapter in adapters().values() for name in adapter.all_files]
    assert sorted(files) == sorted(entry.name for entry in FILES if entry.kind == "lora")
    assert len(files) == len(set(files))
    for adapter in adapters().values():
        assert adapter.purpose
        assert set(adapter.reference) <= set(KINDS)
        assert "hash" in adapter.unknown  # none is published
        assert ("repository" in adapter.unknown) == (not adapter.file)


def test_union_control_is_known_by_its_names() -> None:
    adapter = adapter_named("union-control")
    assert adapter_named("LTX-2.3-22b-IC-LoRA-Union-Control.safetensors") is adapter
    assert (adapter.downscale, adapter.rank, adapter.reference) == (2, 64, ("canny", "depth", "pose"))
    assert adapter.files[0].num_bytes == 654_465_352
    with pytest.raises(RequestError, match="no published adapter is called so; near it are union-control"):
        adapter_named("union-controll")


def test_a_file_is_told_by_its_hash_then_size_then_name_and_else_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library.open()
    named = write(tmp_path / "ltx-2.3-22b-ic-lora-dubit-0.9.safetensors")
    other = write(tmp_path / "mine.safetensors")

    def known(path: Path) -> tuple[str, str] | None:
        found = recognised(read_header(path), library, sha256_of(path))
        return None if found is None else (found.adapter.name, found.by)

    assert known(other) is None
    pulled = write(tmp_path / "ltx-2.3-22b-ic-lora-union-control-ref0.5.safetensors", rank=64)
    assert known(pulled) is None  # its size is not the published one
    library.remember_hash(pulled, sha256_of(pulled), "hub")
    copy = tmp_path / "renamed.safetensors"
    copy.write_bytes(pulled.read_bytes())
    assert known(copy) == ("union-control", "hash")
    entry = replace(find("ltx-2.3-22b-ic-lora-hdr")[0], num_bytes=other.stat().st_size)
    monkeypatch.setattr(catalogue, "find", lambda name: [entry] if name == entry.name else find(name))
    assert known(other) is None  # of this size, but of another rank
    sized = write(tmp_path / "sized.safetensors", rank=32)
    entry = replace(entry, num_bytes=sized.stat().st_size)
    assert known(sized) == ("hdr", "size")
    assert known(named) == ("dub-it", "name")


def test_a_file_says_more_of_itself_than_the_catalogue(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.safetensors",
        8,
        reference_downscale_factor="3",
        trigger_phrase="ohwx",
        reference_kind="canny",
    )
    library = Library.open()
    library.hashes[str(tmp_path / "ltx-2.3-22b-ic-lora-union-control-ref0.5.safetensors")] = replace(
        _hash(path), source="hub"
    )
    facts = adapter_facts(path, library, sha256_of(path))
    assert facts["published"] == "union-control"
    assert (facts["downscale"], facts["rank"], facts["trigger"]) == (3, 8, "ohwx")
    assert facts["reference"] == ["canny"]
    silent = write(tmp_path / "silent.safetensors", 8)
    facts = adapter_facts(silent, library, sha256_of(path))
    assert (facts["downscale"], facts["trigger"]) == (2, None)


def _hash(path: Path) -> Any:
    library = Library.open()
    library.remember_hash(path, sha256_of(path), "first seen")
    known = library.known_hash(path)
    assert known is not None
    return known


def test_a_name_means_a_published_file_or_an_added_one(tmp_path: Path) -> None:
    library = Library.open()
    style = write(tmp_path / "loras" / "my style.safetensors")
    library.add([style.parent])
    assert lora_path("my style", library) == style
    assert lora_path(str(style), library) == style
    deblur = write(tmp_path / "loras" / "ltx-2.3-22b-ic-lora-deblur-0.9.safetensors")
    assert lora_path("ltx-2.3-22b-ic-lora-deblur-0.9", library) == deblur
    for name, message in (
        ("union-control", "published in Lightricks/.* `soundstage loras pull union-control` fetches it"),
        ("cameraman", "known by name only: where it is published is not"),
        ("my styl", "no file, no published adapter .* my style"),
    ):
        with pytest.raises(RequestError, match=message):
            lora_path(name, library)


def test_a_request_takes_names_and_its_plan_the_files(tmp_path: Path) -> None:
    Library.open().add([write(tmp_path / "style.safetensors")])
    request = ss.Request(prompt="a", loras=["style:0.8"])
    model = find_model("nano")
    plan = make_plan(request, model)
    uses = plan.passes[0].loras
    assert [(use.path, use.strength) for use in uses] == [(str(tmp_path / "style.safetensors"), 0.8)]
    assert plan.request.loras[0].path == "style"
    with pytest.raises(RequestError, match=r"loras\[0\]: 'union-control' is published"):
        make_plan(ss.Request(prompt="a", loras=["union-control"]), model)


def test_a_published_adapter_whose_file_says_another_factor_is_used_as_its_file_says(tmp_path: Path) -> None:
    """The catalogue has 2 for it; the file's own word counts, and the plan tells the difference."""
    path = write(tmp_path / "ltx-2.3-22b-ic-lora-motion-track-control.safetensors", 32)
    Library.open().add([path])
    plan = make_plan(
        ss.Request(prompt="a", loras=["ltx-2.3-22b-ic-lora-motion-track-control"]), find_model("nano")
    )
    assert any("catalogue has the reference downscale factor 2" in notice for notice in plan.notices)
    write(path, 32, reference_downscale_factor="2")
    plan = make_plan(ss.Request(prompt="a", loras=[str(path)]), find_model("nano"))
    assert not any("catalogue has" in notice for notice in plan.notices)


def test_a_lora_with_slots_is_refused_by_the_plan_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "slots.safetensors"
    tensors = {f"{KEY}.lora_A.weight": torch.ones(4, 256), f"{KEY}.lora_B.weight": torch.ones(256, 4)}
    save_file(tensors, path, {"reference_token_order": "image,video"})
    with pytest.raises(
        RequestError, match=r"loras\[0\]: .* order of tokens .*image,video.* lora strip .* --slots"
    ):
        make_plan(ss.Request(prompt="a", loras=[str(path)]), find_model("nano"))


def test_adapters_of_different_factors_are_refused_before_weights_are_read(tmp_path: Path) -> None:
    two, three = (
        str(write(tmp_path / f"{factor}.safetensors", reference_downscale_factor=str(factor)))
        for factor in (2, 3)
    )
    one = str(write(tmp_path / "1.safetensors", reference_downscale_factor="1"))
    with pytest.raises(
        RequestError, match=r"different reference factors \(downscale: 2, 3\); use those of one"
    ):
        make_plan(ss.Request(prompt="a", loras=[two, three]), find_model("nano"))
    assert make_plan(ss.Request(prompt="a", loras=[two, one]), find_model("nano"))


def test_the_commands_show_what_is_known_and_say_what_is_not(tmp_path: Path) -> None:
    listed = call("list").stdout
    assert (
        "union-control: follows the edges, depth or poses of a clip; follows canny, depth, pose\n" in listed
    )
    assert call("list", "--here").stdout == ""
    shown = call("show", "union-control").stdout
    assert "reference downscale factor: 2" in shown
    assert "not known: hash" in shown
    assert "not known: repository, hash" in call("show", "cameraman").stdout
    path = write(tmp_path / "mine.safetensors", trigger_phrase="ohwx")
    assert call("identify", path).stdout.startswith(f"{path}: unknown\n")
    assert json.loads(call("identify", path, "--json").stdout)["trigger"] == "ohwx"
    told = call("pull", "cameraman")
    assert told.exit_code == 2
    assert "where 'cameraman' is published is not known" in told.stderr
    save_file({"a.weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    assert call("identify", tmp_path / "weights.safetensors").exit_code == 2


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match="is not a LoRA"):
        adapter_facts(tmp_path / "weights.safetensors")
