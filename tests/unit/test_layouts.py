"""Every layout that people have files in is told by headers alone, found as a model, and loads the same."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soundstage.errors import RequestError, WeightsError
from soundstage.library.identify import identify, scan
from soundstage.library.model_files import ModelSet, find_model
from soundstage.model.config import UpsamplerConfig
from soundstage.model.upsampler import LatentUpsampler
from soundstage.rendering.parts import ModelParts
from soundstage.weights.header import read_header
from soundstage.weights.layouts import PARTS, find_gemma, find_parts
from tests.tiny_model import write_tiny_layouts

GEMMA_12B = {"model.embed_tokens.weight": (8, 4), "model.layers.0.mlp.up_proj.weight": (6, 4)}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model in each layout; but for `bundle`, none has our defaults."""
    paths = write_tiny_layouts(tmp_path_factory.mktemp("layouts"))
    for layout in ("kijai", "diffusers"):
        (paths[layout] / "bundle.json").unlink()
    return paths


@pytest.fixture(scope="module")
def tiny(layouts: dict[str, Path]) -> Path:
    return layouts["bundle"]


def write(path: Path, shapes: dict[str, tuple[int, ...]], **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(tensors, path, metadata or None)
    return path


# --- identify ---------------------------------------------------------------------------------------


def test_a_whole_file_is_described(layouts: dict[str, Path]) -> None:
    found = identify(layouts["official"])
    assert (found.kind, found.layout, found.version) == ("model", "official monolith", "2.3")
    assert set(found.part_names) == set(PARTS)
    assert found.num_bytes == layouts["official"].stat().st_size
    assert set(found.config) == {"transformer", "vae", "audio_vae", "vocoder"}
    assert not found.distilled
    assert found.refusal is None
    transformer = next(part for part in found.parts if part.part == "transformer")
    assert sum(transformer.dtypes.values()) == transformer.num_tensors
    assert json.loads(json.dumps(found.to_dict()))["num_params"] == found.num_params


def test_split_folders_are_described_file_by_file(layouts: dict[str, Path]) -> None:
    kinds = {d.files[0].relative_to(layouts["kijai"]).parts[0]: d for d in scan(layouts["kijai"])}
    assert kinds["diffusion_models"].part_names == ("transformer", "video_connector", "audio_connector")
    assert kinds["diffusion_models"].layout == "split"
    assert {d.layout for d in scan(layouts["diffusers"]) if d.kind == "model"} == {
        f"diffusers {name}" for name in ("transformer", "connectors", "vae", "audio_vae", "vocoder")
    }
    together = identify(layouts["diffusers"])
    assert together.layout == "folder, diffusers"
    assert set(PARTS) <= set(together.part_names)


def test_a_text_encoder_is_told_by_its_tensors(tmp_path: Path, tiny: Path) -> None:
    assert identify(tiny / "text").layout == "Gemma, Hugging Face"
    write(tmp_path / "comfy.safetensors", {**GEMMA_12B, "vision_model.post_layernorm.bias": (2,)})
    tensors: dict[str, Any] = load_file(tmp_path / "comfy.safetensors")
    tensors["spiece_model"] = torch.zeros(9, dtype=torch.uint8)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.ones(6, 4).to(torch.float8_e4m3fn)
    tensors["model.layers.0.mlp.up_proj.weight_scale"] = torch.tensor(0.5)
    tensors["model.layers.0.mlp.up_proj.comfy_quant"] = torch.zeros(2, dtype=torch.uint8)
    save_file(tensors, tmp_path / "comfy.safetensors")
    found = identify(tmp_path / "comfy.safetensors")
    assert (found.kind, found.layout) == ("text encoder", "Gemma, one file with its tokenizer")
    assert found.num_scales == 1
    assert set(found.part_names) == {"text_encoder", "vision_tower", "tokenizer"}
    keys = find_gemma([read_header(tmp_path / "comfy.safetensors")])
    assert set(keys) == {"embed_tokens.weight", "layers.0.mlp.up_proj.weight"}
    assert keys["layers.0.mlp.up_proj.weight"].scale == "model.layers.0.mlp.up_proj.weight_scale"


BLOCK = "model.diffusion_model.transformer_blocks.0."
QUERY = f"{BLOCK}attn1.to_q.weight"
OTHERS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, str], str, str]] = {
    "2.0 by its projection": (
        {"text_embedding_projection.aggregate_embed.weight": (2, 2)}, {}, "LTX-2.0", "2.0"),
    "2.0 by six rows": ({f"{BLOCK}scale_shift_table": (6, 4)}, {}, "LTX-2.0", "2.0"),
    "2.0 by metadata": ({QUERY: (4, 4)}, {"model_version": "2.0.1"}, "LTX-2.0", "2.0.1"),
    "2.5 by metadata": ({QUERY: (4, 4)}, {"model_version": "2.5.0"}, "LTX-2.5", "2.5.0"),
    "2.5 by keyframes": ({"model.diffusion_model.keyframes_abs_pos_embedding": (1, 4)}, {}, "LTX-2.5", "2.5"),
    "2.5 by a bias": (
        {f"{BLOCK}ff.net.2.weight": (4, 4), f"{BLOCK}audio_ff.net.2.bias": (4,)}, {}, "LTX-2.5", "2.5"),
    "2.5 by its decoder": ({"vae.decoder.conv_in_x_t.weight": (4, 4)}, {}, "LTX-2.5", "2.5"),
    "2.5 by its duration head": ({"duration_head.linear.weight": (4, 4)}, {}, "LTX-2.5", "2.5"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_other_versions_are_recognised_and_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    shapes, metadata, name, version = OTHERS[case]
    path = write(tmp_path / "model.safetensors", shapes, **metadata)
    found = identify(path)
    assert (found.kind, found.version) == ("other version", version)
    assert found.refusal is not None
    assert f"is {name}" in found.refusal
    with pytest.raises(WeightsError, match=f"is {name}.*; this engine runs LTX-2.3"):
        find_parts([read_header(path)])
    with pytest.raises(WeightsError, match=f"is {name}.*give the files of an LTX-2.3 model"):
        find_model(path)


def test_gemma_4_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "gemma4.safetensors", GEMMA_12B, gemma_config="{}")
    assert "Gemma 4, the text encoder of LTX-2.5" in str(identify(path).refusal)


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    found = identify(write(tmp_path / "x.safetensors", {"what.is.this": (2,)}))
    assert found.kind == "unknown"
    assert "'what.is.this'" in str(found.refusal)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"holds no \.safetensors or \.gguf file"):
        identify(tmp_path / "empty")


def test_loras_and_previews_are_told_from_models(tmp_path: Path) -> None:
    lora = write(
        tmp_path / "ltx-2.3-22b-distilled-lora-384.safetensors",
        {"diffusion_model.proj_out.lora_A.weight": (2, 2), "diffusion_model.proj_out.alpha": ()},
    )
    assert (identify(lora).kind, identify(lora).distilled) == ("LoRA", True)
    tiny_vae = write(tmp_path / "taeltx2_3.safetensors", {"decoder.1.weight": (2, 2), "decoder.3.bias": (2,)})
    assert identify(tiny_vae).kind == "preview VAE"


# --- upsamplers -------------------------------------------------------------------------------------

UPSAMPLERS: dict[str, dict[str, Any]] = {
    "space-x2": {"spatial_scale": 2.0, "rational_resampler": False, "temporal_upsample": False},
    "space-x1.5": {"spatial_scale": 1.5, "rational_resampler": True, "temporal_upsample": False},
    "time-x2": {"spatial_scale": 2.0, "rational_resampler": False, "temporal_upsample": True},
}


def write_upsampler(path: Path, role: str, *, config: bool = True) -> LatentUpsampler:
    header = {
        "_class_name": "LatentUpsampler", "in_channels": 128, "mid_channels": 32, "num_blocks_per_stage": 1,
        "dims": 3, "spatial_upsample": role != "time-x2", **UPSAMPLERS[role],
    }  # fmt: skip
    module = LatentUpsampler(UpsamplerConfig.from_header(header))
    metadata = {"config": json.dumps(header)} if config else None
    save_file({key: value.clone() for key, value in module.state_dict().items()}, path, metadata)
    return module


@pytest.mark.parametrize("role", UPSAMPLERS)
def test_upsamplers_are_told_with_and_without_a_config(tmp_path: Path, role: str) -> None:
    for config in (True, False):
        path = tmp_path / f"{config}.safetensors"
        write_upsampler(path, role, config=config)
        found = identify(path)
        assert (found.kind, found.role) == ("upsampler", role)


def test_upsamplers_of_a_model_are_found_and_loaded(tmp_path: Path, tiny: Path) -> None:
    """Beside a whole file by their headers; in a bundle by their names or headers."""
    shutil.copytree(tiny, tmp_path / "bundle")
    modules = {
        role: write_upsampler(tmp_path / "bundle" / name, role)
        for role, name in (
            ("space-x2", "spatial_x2.safetensors"),
            ("time-x2", "ltx-2.3-temporal-upscaler-x2-1.0.safetensors"),
        )
    }
    model = find_model(tmp_path / "bundle")
    parts = ModelParts(model, torch.device("cpu"), torch.float32)
    for role, module in modules.items():
        found = parts.upsampler(role)
        assert found is parts.upsampler(role)
        assert all(torch.equal(found.state_dict()[k], v) for k, v in module.state_dict().items())
    with pytest.raises(WeightsError, match=r"'tiny' has no spatial x1\.5 upsampler; put it at .*x1_5"):
        parts.upsampler("space-x1.5")


# --- find_model -------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[dict[str, Path], Path], ModelSet]] = {
    "a whole file and Gemma's folder": lambda at, text: find_model(at["official"], text=text),
    "a list of both": lambda at, text: find_model([at["official"], text]),
    "a Kijai folder": lambda at, text: find_model(at["kijai"]),
    "single files of it": lambda at, text: find_model([*sorted(at["kijai"].rglob("*.safetensors")), text]),
    "a diffusers folder": lambda at, text: find_model(at["diffusers"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_layout_is_a_model_with_the_same_weights(
    layouts: dict[str, Path], tiny: Path, way: str
) -> None:
    model = WAYS[way](layouts, tiny / "text")
    assert model.defaults.steps == 30
    assert all(file.num_bytes for file in model.files())
    assert {file.part for file in model.files()} >= {"text encoder"}
    parts = ModelParts(model, torch.device("cpu"), torch.float32)
    wanted = ModelParts(find_model(tiny), torch.device("cpu"), torch.float32)
    for name in ("transformer", "vocoder"):
        found, right = (getattr(p, name).state_dict() for p in (parts, wanted))
        assert found.keys() == right.keys()
        assert all(torch.equal(found[key], value) for key, value in right.items())


def test_a_gguf_transformer_with_its_companions_is_a_model(
    tmp_path: Path, layouts: dict[str, Path], tiny: Path
) -> None:
    """As they are published: the transformer in GGUF, all else in safetensors."""
    import gguf

    shutil.copytree(layouts["kijai"], tmp_path / "set")
    (path,) = (tmp_path / "set" / "diffusion_models").iterdir()
    header, tensors = read_header(path), load_file(path)
    rest = {name: tensors.pop(name) for name in list(tensors) if "embeddings_connector" in name}
    save_file(rest, path.with_name("connectors.safetensors"), header.metadata)
    path.unlink()
    writer = gguf.GGUFWriter(path.with_suffix(".gguf"), "ltxv")
    for name, value in tensors.items():
        writer.add_tensor(name.removeprefix("model.diffusion_model."), value.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = find_model(tmp_path / "set")
    assert "transformer" in {file.part for file in model.files() if file.path.suffix == ".gguf"}
    found = ModelParts(model, torch.device("cpu"), torch.float32).transformer.state_dict()
    assert all(
        torch.equal(found[name.removeprefix("model.diffusion_model.")], v) for name, v in tensors.items()
    )


def test_a_prompt_is_encoded_alike_in_every_layout(layouts: dict[str, Path], tiny: Path) -> None:
    """The text encoder is found too: in a diffusers folder its tokenizer lies apart."""
    wanted = None
    for model in (find_model(tiny), *(WAYS[way](layouts, tiny / "text") for way in list(WAYS)[::2])):
        small = ModelSet(
            model.name, model.folder, find_model(tiny).defaults, model.weights, model.text, model.found
        )
        contexts = ModelParts(small, torch.device("cpu"), torch.float32).encode(["a red ball"])[0]
        wanted = wanted or contexts
        assert torch.equal(contexts.video, wanted.video)
        assert torch.equal(contexts.audio, wanted.audio)


def test_distilled_files_get_the_distilled_defaults(
    tmp_path: Path, layouts: dict[str, Path], tiny: Path
) -> None:
    path = tmp_path / "ltx-2.3-22b-distilled-1.1.safetensors"
    shutil.copy(layouts["official"], path)
    defaults = find_model(path, text=tiny / "text").defaults
    assert (defaults.distilled, defaults.schedule, defaults.steps, defaults.video.cfg) == (
        True, "distilled", 8, 1.0)  # fmt: skip
    shutil.copytree(layouts["diffusers"], tmp_path / "folder")
    scheduler = {"use_dynamic_shifting": False, "shift_terminal": None}
    (tmp_path / "folder/scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    assert find_model(tmp_path / "folder").defaults.distilled


def test_the_text_encoder_and_extras_are_found_next_to_a_file(
    tmp_path: Path, layouts: dict[str, Path], tiny: Path
) -> None:
    shutil.copy(layouts["official"], tmp_path / "dev.safetensors")
    with pytest.raises(WeightsError, match="there is no Gemma 3 in or next to"):
        find_model(tmp_path / "dev.safetensors")
    shutil.copytree(tiny / "text", tmp_path / "gemma-3-12b-it")
    write_upsampler(tmp_path / "upscaler.safetensors", "space-x1.5")
    write(tmp_path / "distilled-lora.safetensors", {"diffusion_model.proj_out.lora_A.weight": (2, 2)})
    (tmp_path / "broken.safetensors").write_bytes(b"not weights at all, but a neighbour")
    model = find_model(tmp_path / "dev.safetensors")
    assert model.text_path == tmp_path / "gemma-3-12b-it"
    assert model.extra("space-x1.5").path.name == "upscaler.safetensors"
    assert model.extra("distilled").path.name == "distilled-lora.safetensors"
    assert model.extra("space-x2").num_bytes is None


def test_a_bundle_may_name_files_that_lie_elsewhere(
    tmp_path: Path, layouts: dict[str, Path], tiny: Path
) -> None:
    bundle = {
        "name": "mine",
        "files": [str(layouts["official"]), str(tiny / "text")],
        "defaults": {"steps": 7},
    }
    (tmp_path / "bundle.json").write_text(json.dumps(bundle))
    model = find_model(tmp_path)
    assert (model.name, model.defaults.steps, model.folder) == ("mine", 7, tmp_path)
    assert set(model.hashes) >= {"ltx-2.3-22b-dev.safetensors"}


def test_a_large_file_is_known_by_its_size_and_header(
    layouts: dict[str, Path], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soundstage.library.file_identity.MAX_HASHED_BYTES", 1_000_000)
    monkeypatch.setattr("soundstage.library.file_identity._digests", {})
    hashes = find_model([layouts["official"], tiny / "text"]).hashes
    size = layouts["official"].stat().st_size
    assert hashes[layouts["official"].name].startswith(f"{size} bytes, header ")
    assert len(hashes["config.json"]) == 64


def test_an_open_choice_and_a_missing_part_are_named(
    tmp_path: Path, layouts: dict[str, Path], tiny: Path
) -> None:
    for name in ("dev", "distilled"):
        shutil.copy(layouts["official"], tmp_path / f"{name}.safetensors")
    with pytest.raises(RequestError, match=r"is in .*dev\.safetensors and in .*distilled\.safetensors; give"):
        find_model(tmp_path, text=tiny / "text")
    with pytest.raises(WeightsError, match="holds no video_vae and no audio_vae and no vocoder; add"):
        find_model(tiny / "transformer.safetensors", text=tiny / "text")
    with pytest.raises(RequestError, match="neither a folder, a file nor a known model"):
        find_model("ltx-9")


def test_connectors_may_be_in_the_text_file(tmp_path: Path, layouts: dict[str, Path], tiny: Path) -> None:
    """Older split sets have them there."""
    diffusion = next((layouts["kijai"] / "diffusion_models").iterdir())
    text = next((layouts["kijai"] / "text_encoders").glob("*.safetensors"))
    header, tensors = read_header(diffusion), load_file(diffusion)
    moved = {name: tensors.pop(name) for name in list(tensors) if "embeddings_connector" in name}
    save_file(tensors, tmp_path / "diffusion.safetensors", header.metadata)
    save_file({**load_file(text), **moved}, tmp_path / "text.safetensors", header.metadata)
    parts = find_parts([read_header(tmp_path / f"{name}.safetensors") for name in ("diffusion", "text")])
    wanted = find_parts([read_header(diffusion), read_header(text)])
    assert {part: set(keys) for part, keys in parts.items()} == {p: set(k) for p, k in wanted.items()}


def test_bare_names_of_every_part_are_found(layouts: dict[str, Path]) -> None:
    header = read_header(layouts["official"])
    for prefix, part in (("vae.", "video_vae"), ("audio_vae.", "audio_vae"), ("vocoder.", "vocoder")):
        path = layouts["official"].with_name(f"{part}.safetensors")
        tensors = load_file(layouts["official"])
        bare = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
        save_file(bare, path, header.metadata)
        found = find_parts([read_header(path)])
        path.unlink()
        assert set(found) == {part}
        assert len(found[part]) == len(bare)  # type: ignore[index]


def test_the_page_of_files_names_tests_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/files.md").read_text()
    path, named = root, 0
    for file, test in re.findall(r"`(tests/[\w/]+\.py)?(?:::)(test_\w+)`", page):
        path = root / file if file else path
        assert f"def {test}(" in path.read_text(), f"{path} has no {test}"
        named += 1
    assert named >= 20
