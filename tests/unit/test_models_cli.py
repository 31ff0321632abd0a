"""`soundstage models`: list, pull, add, forget, verify, inspect, convert; and running what was added."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from soundstage.cli.main import app
from soundstage.errors import ConfigError, RequestError
from soundstage.library import pull
from soundstage.library.catalog import FILES, MODELS, find
from soundstage.library.installed import Library
from soundstage.library.model_files import AUDIO_VAE, TEXT, TRANSFORMER, VIDEO_VAE, find_model
from tests.hub import Hub
from tests.tiny_model import write_tiny_model

UPSCALER = find("ltx-2.3-temporal-upscaler-x2-1.0")[0]
NAME = f"{UPSCALER.repository}/{UPSCALER.path}"


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["models", *(str(word) for word in words)])


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with nothing: no settings, no downloads, no other programs."""
    home = tmp_path / "home"
    home.mkdir()
    for variable in ("HF_HUB_CACHE", "HF_HOME", "COMFYUI_PATH", "WANGP_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    return home


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    save_file({"initial_conv.weight": torch.ones(2), "final_conv.weight": torch.ones(2)}, tmp_path / "up")
    with Hub({NAME: (tmp_path / "up").read_bytes()}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def touch(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def copies(name: str) -> list[tuple[str, str]]:
    """(path, program) of each copy of a catalogue entry, as `list --json` tells."""
    files = json.loads(call("list", "--json").stdout)["files"]
    return [(copy["path"], copy["in"]) for file in files if file["name"] == name for copy in file["here"]]


# --- list -------------------------------------------------------------------------------------------


def test_list_shows_every_file_with_size_and_licence() -> None:
    shown = call("list").stdout
    for entry in FILES:
        assert f"\n{entry.name}  " in shown
    assert all(f"\n{model}  " in shown for model in MODELS)
    assert "ltx-2.3-22b-dev  46.1 GB  BF16  LTX-2 Community licence\n" in shown
    assert "Gemma Terms licence, accepted on the hub first" in shown
    assert call("list", "--here").stdout == ""


def test_other_programs_files_are_found(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = "LTX23_video_vae_bf16"
    at_home = touch(user / "ComfyUI" / "models" / "vae" / f"{vae}.safetensors")
    extra = touch(user / "big disk" / "vae" / f"{vae}.safetensors")
    (user / "ComfyUI" / "extra_model_paths.yaml").write_text(
        f"comfyui:\n  base_path: {user}/big disk\n  vae: |\n    vae\n    not there\n"
    )
    wangp = touch(user / "elsewhere" / "ckpts" / f"{vae}.safetensors")
    monkeypatch.setenv("WANGP_PATH", str(user / "elsewhere"))
    cached = user / "cache" / "huggingface" / "hub" / "models--Kijai--LTX2.3_comfy" / "snapshots" / "1"
    in_cache = touch(cached / "vae" / f"{vae}.safetensors")
    assert sorted(copies(vae)) == sorted(
        [
            (str(at_home), "ComfyUI"),
            (str(extra), "ComfyUI"),
            (str(wangp), "WanGP"),
            (str(in_cache), "Hugging Face cache"),
        ]
    )
    shown = call("list", "--here").stdout
    assert f"here: {at_home} (ComfyUI)" in shown
    assert "ltx-2.3-22b-dev" not in shown


def test_a_copy_of_another_size_is_told(user: Path) -> None:
    touch(user / "ComfyUI" / "models" / UPSCALER.path)
    assert "(ComfyUI, 7 bytes where 261,944,000 are published)" in call("list", "--here").stdout


# --- pull -------------------------------------------------------------------------------------------


def test_pull_says_the_size_fetches_and_is_then_here(hub: Hub, user: Path) -> None:
    dry = call("pull", UPSCALER.name, "--dry-run")
    assert "to fetch into" in dry.stderr
    assert "free there" in dry.stderr
    assert dry.stdout == ""
    assert hub.ranges == []
    result = call("pull", UPSCALER.name)
    target = user / "data" / "soundstage" / "models" / NAME
    assert (result.exit_code, result.stdout) == (0, f"{target}\n"), result.stderr
    assert "LTX-2 Community licence" in result.stderr
    assert copies(UPSCALER.name) == [(str(target), "downloaded")]
    checked = call("verify", UPSCALER.name)
    assert "as the hub says" in checked.stdout


def test_pull_to_a_folder_makes_the_folder_known(hub: Hub, tmp_path: Path) -> None:
    assert call("pull", UPSCALER.name, "--to", tmp_path / "disk").exit_code == 0
    assert copies(UPSCALER.name) == [(str(tmp_path / "disk" / NAME), "added")]


def test_an_interrupted_pull_says_how_to_go_on(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(download: pull.Download, **_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(pull, "fetch", interrupted)
    result = call("pull", UPSCALER.name)
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr


def test_pull_refuses_what_is_not_published_or_does_not_fit(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = call("pull", "ltx-9")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (2, 1)
    assert "NAME is 'ltx-9', which is not in the catalogue; it has ltx-2.3-distilled" in unknown.stderr
    monkeypatch.setattr(pull, "MARGIN_BYTES", 10**18)
    full = call("pull", UPSCALER.name)
    assert full.exit_code == 2
    assert "are to be fetched, and" in full.stderr
    assert hub.ranges == []


def test_what_is_here_already_is_not_fetched(hub: Hub, user: Path) -> None:
    os.truncate(touch(user / "ComfyUI" / "models" / UPSCALER.path), UPSCALER.num_bytes)  # takes no room
    result = call("pull", UPSCALER.name)
    assert f"{UPSCALER.name} is here:" in result.stderr
    assert hub.ranges == []


# --- add --------------------------------------------------------------------------------------------


def test_files_added_under_a_name_are_a_model(tiny: Path, tmp_path: Path) -> None:
    files = [tiny / name for name in (TRANSFORMER, VIDEO_VAE, AUDIO_VAE)]
    result = call("add", *files, tiny / TEXT, "--name", "mine")
    assert result.exit_code == 0, result.stderr
    assert "transformer, video connector" in result.stdout
    model = find_model("mine")
    assert model.name == "mine"
    assert set(model.weights_files) == set(files)
    assert model.text_path == tiny / TEXT
    assert "mine:" in call("list").stdout.replace("added model mine", "mine")
    assert call("forget", "mine").exit_code == 0
    with pytest.raises(RequestError, match="neither a folder, a file nor a known model"):
        find_model("mine")
    assert "NAME is 'mine', which was not added" in call("forget", "mine").stderr


def test_a_folder_added_under_a_name_keeps_its_defaults(tiny: Path) -> None:
    assert call("add", tiny, "--name", "small").exit_code == 0
    assert find_model("small").defaults == find_model(tiny).defaults


def test_a_model_that_is_not_whole_is_not_added(tiny: Path) -> None:
    result = call("add", tiny / TRANSFORMER, "--name", "part")
    assert result.exit_code == 2
    assert "holds no video_vae" in result.stderr
    assert Library.open().models == {}


@pytest.mark.parametrize("name", ["ltx-2.3-dev", "LTX-2.3-22b-dev", "a/b", ""])
def test_a_name_that_means_something_else_is_refused(tiny: Path, name: str) -> None:
    result = call("add", tiny, "--name", name)
    assert result.exit_code == 2
    assert f"name is '{name}'" in result.stderr


def test_added_folders_are_looked_through(tmp_path: Path) -> None:
    vae = touch(tmp_path / "disk" / "deep" / "LTX23_audio_vae_bf16.safetensors")
    result = call("add", tmp_path / "disk")
    assert result.stdout == f"{vae}: LTX23_audio_vae_bf16\n"
    assert copies("LTX23_audio_vae_bf16") == [(str(vae), "added")]
    assert call("forget", tmp_path / "disk").exit_code == 0
    assert copies("LTX23_audio_vae_bf16") == []


def test_no_weights_are_refused_and_not_added(tmp_path: Path) -> None:
    assert "there is no" in call("add", tmp_path / "gone").stderr
    touch(tmp_path / "a.safetensors", b"PK\x03\x04" + bytes(60))
    result = call("add", tmp_path / "a.safetensors")
    assert result.exit_code == 2
    assert "is a PyTorch pickle" in result.stderr
    assert Library.open().paths == []


def test_a_published_model_is_found_by_its_name(user: Path) -> None:
    with pytest.raises(
        RequestError, match=r"lacks ltx-2\.3-22b-dev-fp8, gemma_3_12B_it_fp8_scaled; `soundst"
    ):
        find_model("ltx-2.3-dev-fp8")
    models = user / "ComfyUI" / "models"
    names = ("ltx-2.3-22b-dev-fp8", "gemma_3_12B_it", "ltx-2.3-22b-distilled-lora-384-1.1")
    whole, text, lora = (touch(models / "a" / f"{name}.safetensors") for name in names)
    os.truncate(lora, find(names[2])[0].num_bytes)
    assert Library.open().lookup("ltx-2.3-dev-fp8") == (whole, lora, text)  # any Gemma that runs will do
    assert Library.open().lookup("nothing") is None


def test_a_damaged_registry_is_named(user: Path) -> None:
    registry = touch(user / "config" / "soundstage" / "models.json", b'{"paths": 3}')
    with pytest.raises(ConfigError, match=r"models\.json is damaged .* delete it"):
        Library.open()
    assert str(registry) in call("list").stderr


# --- verify, inspect, convert -----------------------------------------------------------------------


def test_verify_remembers_what_it_saw(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    path.write_bytes((tiny / VIDEO_VAE).read_bytes())
    assert "seen first now" in call("verify", path).stdout
    assert "as when it was first seen" in call("verify", path).stdout
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert call("verify", path, "--quick").exit_code == 0
    damaged = call("verify", path, "--json")
    assert damaged.exit_code == 2
    assert "(first seen); download or copy it again" in json.loads(damaged.stdout)[0]["problem"]
    path.write_bytes(data[:-100])
    cut = call("verify", path, "--quick")
    assert cut.exit_code == 2
    assert "incomplete or damaged" in cut.stdout


def test_the_shipped_model_is_whole() -> None:
    result = call("verify", "nano", "--quick")
    assert result.exit_code == 0
    assert result.stdout.count("structure is whole") >= 4


def test_verify_asks_the_hub(hub: Hub, tmp_path: Path) -> None:
    path = touch(tmp_path / UPSCALER.path, hub.files[NAME])
    assert "as the hub says" in call("verify", path, "--online").stdout
    data = bytearray(hub.files[NAME])
    data[-1] ^= 1
    path.write_bytes(data)
    assert "(hub); download or copy it again" in call("verify", path, "--online").stdout


def test_inspect_tells_parts_dtypes_and_metadata(tiny: Path, tmp_path: Path) -> None:
    shown = call("inspect", tiny / AUDIO_VAE).stdout
    assert "model (split)" in shown
    assert "audio vae" in shown
    assert "F32 102" in shown
    data = json.loads(call("inspect", tiny, "--json").stdout)
    assert {"transformer", "video_vae", "vocoder", "text_encoder"} <= {part["part"] for part in data["parts"]}
    save_file(
        {"x": torch.zeros(2)}, tmp_path / "x.safetensors", {"model_version": "2.5.0", "note": "n" * 300}
    )
    other = call("inspect", tmp_path / "x.safetensors").stdout
    assert "is LTX-2.5" in other
    assert "... (300 characters)" in other


def test_inspect_says_what_a_lora_does(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    name, stray = ("diffusion_model.transformer_blocks.0." + end for end in ("attn1.to_v", "no_such.layer"))
    pair = {"lora_A.weight": torch.ones(4, 64), "lora_B.weight": torch.ones(64, 4)}
    save_file({f"{layer}.{side}": x.clone() for layer in (name, stray) for side, x in pair.items()}, path)
    alone = call("inspect", path).stdout
    assert f"{path}: 1 layers, rank 4, base model" in alone
    assert "changes the weights by" not in alone
    on_model = call("inspect", path, "--model", tiny).stdout
    weight = load_file(tiny / TRANSFORMER)[f"model.{name}.weight"]
    change = 4 * 64 / weight.norm().item()  # every number of the product of the two is 4
    assert f"changes the weights by: video {change:.2%}" in on_model
    assert f"1 not in this model: {stray}" in on_model
    data = json.loads(call("inspect", path, "--model", tiny, "--json").stdout)
    assert data["lora"]["change"]["video"] == pytest.approx(change, rel=1e-5)
    assert data["lora"]["ranks"] == [4, 4]
    save_file({f"{name}.lora_A.weight": torch.ones(4, 65), f"{name}.lora_B.weight": torch.ones(64, 4)}, path)
    assert "it was made for another model" in call("inspect", path, "--model", tiny).stderr
    assert "--model is for LoRAs" in call("inspect", tiny / VIDEO_VAE, "--model", tiny).stderr


def test_convert_writes_another_layout(tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "whole.safetensors"
    result = call("convert", tiny, target, "--layout", "official")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{target}\n"
    assert result.stderr.startswith("convert ...\n")
    assert "official monolith" in call("inspect", target).stdout
    unknown = call("convert", "gone", target, "--layout", "official")
    assert "'gone' is no file, no folder and no known model; the models are nano, ltx" in unknown.stderr
    lost = call("convert", tiny, "--layout", "official")
    assert "has no target" in lost.stderr
    wrong = call("convert", tiny, tmp_path / "b", "--layout", "pickle")
    assert (wrong.exit_code, "layout is 'pickle'" in wrong.stderr) == (2, True)


def test_convert_merges_adapters(tiny: Path, tmp_path: Path) -> None:
    key = "transformer_blocks.0.attn1.to_q"
    weight = load_file(tiny / TRANSFORMER)[f"model.diffusion_model.{key}.weight"]
    torch.manual_seed(0)
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    prefix = f"diffusion_model.{key}"
    save_file({f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}, tmp_path / "l.safetensors")
    target = tmp_path / "merged"
    lora = f"{tmp_path / 'l.safetensors'}:0.5"
    result = call("convert", tiny, target, "--layout", "bundle", "--lora", lora)
    assert result.exit_code == 0, result.stderr
    assert "merged into 1 layers" in result.stderr
    found = load_file(target / TRANSFORMER)[f"model.diffusion_model.{key}.weight"]
    torch.testing.assert_close(found, weight + 0.5 * up @ down)
    stray = {
        f"diffusion_model.transformer_blocks.9.attn1.to_q.lora_{x}.weight": y
        for x, y in (("A", down), ("B", up))
    }
    save_file(stray, tmp_path / "l.safetensors")
    refused = call("convert", tiny, tmp_path / "none", "--layout", "bundle", "--lora", lora)
    assert refused.exit_code == 2
    assert "matches no layer of this model" in refused.stderr
    assert not list((tmp_path / "none").rglob("*.safetensors"))
