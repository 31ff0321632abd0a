"""Every operation of `soundstage models` on every layout of files: the table of docs/files.md, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.random_files import lora_file, write_files
from soundstage.cli.models import add
from soundstage.errors import WeightsError
from soundstage.library.convert import convert
from soundstage.library.identify import identify
from soundstage.library.installed import Library
from soundstage.library.model_files import find_model
from soundstage.library.verify import verify
from soundstage.lora.files import read_lora
from soundstage.lora.merge import Merge
from soundstage.rendering.parts import ModelParts
from soundstage.weights.configs import stored_config
from soundstage.weights.header import read_header
from soundstage.weights.layouts import PARTS, find_parts
from tests.tiny_model import write_tiny_layouts

LAYOUTS = ("official", "bundle", "kijai", "bare", "diffusers")
BARE = ("model.diffusion_model.", "vae.")


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in every layout."""
    root = tmp_path_factory.mktemp("layouts")
    paths = write_tiny_layouts(root) | {"bare": root / "bare"}
    write_bare(paths["kijai"], paths["bare"])
    return paths


@pytest.fixture(scope="module")
def tiny(layouts: dict[str, Path]) -> Path:
    return layouts["bundle"]


def write_bare(kijai: Path, folder: Path) -> None:
    """An older split set: names without prefixes, connectors in the text file."""
    folder.mkdir()
    moved: dict[str, torch.Tensor] = {}
    for path in sorted(kijai.rglob("*_*.safetensors")):
        tensors, header = load_file(path), read_header(path)
        if "text_projection" in path.name:
            tensors |= moved
        elif "transformer_only" in path.name:
            moved = {name: tensors.pop(name) for name in list(tensors) if "embeddings_connector" in name}
        named = {without_prefix(name): tensor for name, tensor in tensors.items()}
        save_file(named, folder / path.name, header.metadata)


def without_prefix(name: str) -> str:
    if "embeddings_connector" in name:
        return name
    return next((name.removeprefix(prefix) for prefix in BARE if name.startswith(prefix)), name)


def contents(path: Path) -> dict[str, bytes]:
    """A checkpoint's tensors by name, as bytes."""
    return {name: value.view(torch.uint8).numpy().tobytes() for name, value in load_file(path).items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inspect_tells_all_parts_and_the_version(layouts: dict[str, Path], layout: str) -> None:
    found = identify(layouts[layout])
    assert set(PARTS) <= set(found.part_names)
    assert (found.kind, found.version, found.refusal) == ("model", "2.3", None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_added_under_a_name_is_the_model(
    layouts: dict[str, Path], tiny: Path, tmp_path: Path, layout: str
) -> None:
    Library(tmp_path / "models.json").add([layouts[layout]], "mine")
    paths = Library.open(tmp_path / "models.json").lookup("mine")
    assert paths == (layouts[layout],)
    parts = find_parts([read_header(path) for path in find_model(paths, text=tiny / "text").weights_files])
    wanted = find_parts([read_header(path) for path in find_model(tiny).weights_files])
    assert {part: set(keys) for part, keys in parts.items()} == {p: set(k) for p, k in wanted.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_verify_finds_one_changed_byte_and_a_missing_one(
    layouts: dict[str, Path], tmp_path: Path, layout: str
) -> None:
    source = layouts[layout]
    first = source if source.is_file() else next(iter(sorted(source.rglob("*.safetensors"))))
    copy = tmp_path / first.name
    data = bytearray(first.read_bytes())
    copy.write_bytes(data)
    library = Library(tmp_path / "models.json")

    def problem() -> str | None:
        (verdict,) = verify([copy], library)
        return verdict.problem

    assert [problem(), problem()] == [None, None]
    data[-1] ^= 1
    copy.write_bytes(data)
    changed = problem()
    copy.write_bytes(data[:-1])
    cut = problem()
    assert changed is not None
    assert "has the SHA-256" in changed
    assert cut is not None
    assert "incomplete or damaged" in cut
    assert all(v.problem is None for v in verify([source], Library(tmp_path / "other.json"), quick=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_converted_to_one_file_every_layout_has_the_same_bytes(
    layouts: dict[str, Path], tmp_path: Path, layout: str
) -> None:
    convert(layouts[layout], tmp_path / "again.safetensors", layout="official")
    assert contents(tmp_path / "again.safetensors") == contents(layouts["official"])
    wanted = stored_config([read_header(layouts["official"])])
    assert stored_config([read_header(tmp_path / "again.safetensors")]) == wanted


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    config = stored_config([read_header(path) for path in find_model(tiny).weights_files])
    return write_files(tmp_path_factory.mktemp("lora"), [lora_file(config, 2)])[0]


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, tiny: Path, lora: Path) -> dict[str, bytes]:
    """The bundle with the LoRA merged, in one file."""
    path = tmp_path_factory.mktemp("merged") / "merged.safetensors"
    convert(tiny, path, layout="official", edit=Merge([(read_lora(lora), 0.5)]))
    return contents(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_lora_merged_into_any_layout_gives_the_same_weights(
    layouts: dict[str, Path], lora: Path, merged: dict[str, bytes], tmp_path: Path, layout: str
) -> None:
    merge = Merge([(read_lora(lora), 0.5)])
    convert(layouts[layout], tmp_path / "m.safetensors", layout="official", edit=merge)
    ((count, unmet),) = merge.check()
    assert (count, unmet) == (28 + 2 * 34, ())
    assert contents(tmp_path / "m.safetensors") == merged
    assert merged != contents(layouts["official"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_lora_is_attached_to_any_layout(
    layouts: dict[str, Path], lora: Path, tiny: Path, layout: str
) -> None:
    from soundstage.lora.adapters import Adapters

    model = find_model([layouts[layout]], text=tiny / "text")
    parts = ModelParts(model, torch.device("cpu"), torch.float32)
    report = Adapters(parts.transformer).add("a", read_lora(lora))
    assert (report.matched, report.unmatched) == (28 + 2 * 34, ())


def test_a_file_of_another_version_is_not_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    name = "text_embedding_projection.aggregate_embed.weight"
    save_file({name: torch.zeros(2, 2)}, tmp_path / "old.safetensors")
    with pytest.raises(WeightsError, match=r"is LTX-2\.0 \(19B\); this engine runs LTX-2\.3"):
        add.main([str(tmp_path / "old.safetensors")], standalone_mode=False)
    assert not list((tmp_path).rglob("models.json"))
