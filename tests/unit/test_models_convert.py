"""Conversion between layouts gives the same bytes back; what becomes of dtypes; what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from soundstage.errors import RequestError, WeightsError
from soundstage.library import convert_plan as conversion
from soundstage.library.convert import convert
from soundstage.library.convert_plan import ConvertSource, OutputFile, open_source, plan_conversion
from soundstage.library.identify import identify
from soundstage.library.model_files import SHIPPED_MODELS, find_model
from soundstage.rendering.parts import ModelParts
from soundstage.weights.configs import published_config, stored_config
from soundstage.weights.entry import TensorEntry
from soundstage.weights.header import read_header
from soundstage.weights.layouts import PARTS, StoredTensor, find_parts
from soundstage.weights.load import builder, load_part
from tests.limits import LONG_S
from tests.tiny_model import write_tiny_model

NANO = SHIPPED_MODELS["nano"]
OWN = ("transformer.safetensors", "video_vae.safetensors", "audio_vae.safetensors")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- there and back ---------------------------------------------------------------------------------


def test_nano_through_all_layouts_and_back_has_the_bytes_it_had(tmp_path: Path) -> None:
    """Header and all. The text encoder and the defaults travel along where there is a folder."""
    convert(NANO, tmp_path / "kijai", layout="kijai")
    convert(tmp_path / "kijai", tmp_path / "diffusers", layout="diffusers")
    convert(tmp_path / "diffusers", tmp_path / "bundle", layout="bundle")
    for name in (*OWN, *(f"text/{path.name}" for path in (NANO / "text").iterdir())):
        assert sha256(tmp_path / "bundle" / name) == sha256(NANO / name), name
    assert json.loads((tmp_path / "bundle/bundle.json").read_text()) == json.loads(
        (NANO / "bundle.json").read_text()
    )
    assert not list(tmp_path.rglob("*.part"))


def test_through_one_file_and_back_has_the_bytes_it_had(tmp_path: Path, tiny: Path) -> None:
    convert(tiny, tmp_path / "whole.safetensors", layout="official")
    convert(tmp_path / "whole.safetensors", tmp_path / "kijai", layout="kijai")
    convert(tmp_path / "kijai", tmp_path / "again.safetensors", layout="official")
    convert(tmp_path / "again.safetensors", tmp_path / "bundle", layout="bundle")
    assert sha256(tmp_path / "whole.safetensors") == sha256(tmp_path / "again.safetensors")
    assert set(identify(tmp_path / "whole.safetensors").part_names) == set(PARTS)
    for name in OWN:
        assert same_tensors(tmp_path / "bundle" / name, tiny / name)
        assert stored_config([read_header(tmp_path / "bundle" / name)]) == stored_config(
            [read_header(tiny / name)]
        )


def same_tensors(one: Path, other: Path) -> bool:
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def test_the_writer_is_safetensors_own_to_the_byte(tmp_path: Path, tiny: Path) -> None:
    """A file by the library, taken apart and put together again, has its bytes."""
    header = read_header(tiny / OWN[0])
    save_file(load_file(tiny / OWN[0]), tmp_path / "theirs.safetensors", header.metadata)
    convert(tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors", layout="official")
    assert sha256(tmp_path / "theirs.safetensors") == sha256(tmp_path / "ours.safetensors")


# --- at full size -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> ConvertSource:
    """The 22B model as a source: names, shapes and dtypes of the official file, and no bytes."""
    parts: dict[Any, dict[str, StoredTensor]] = {}
    for part in PARTS:
        with torch.device("meta"):
            state = builder(part, {}, published_config())().state_dict()
        parts[part] = {
            key: StoredTensor(
                Path("official.safetensors"),
                conversion.OFFICIAL_PREFIXES[part] + key,
                TensorEntry("F32" if "scale_shift_table" in key else "BF16", tuple(value.shape)),
            )
            for key, value in state.items()
        }
    return ConvertSource("ltx-2.3-22b-dev", parts, (), published_config(), {"model_version": "2.3.0"})


def write_sparse(folder: Path, outputs: Iterable[OutputFile]) -> list[Path]:
    """Files of full size whose tensors are holes: they take no room on disk."""
    paths = []
    for output in outputs:
        path = folder / output.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(output.header)
            file.truncate(file.tell() + output.num_bytes)
        paths.append(path)
    return paths


def inventory(source: ConvertSource) -> set[tuple[str, str, str, tuple[int, ...]]]:
    return {
        (part, key, stored.entry.dtype, stored.entry.shape)
        for part, tensors in source.parts.items()
        for key, stored in tensors.items()
    }


def test_the_official_file_would_have_the_published_tensors(published: ConvertSource) -> None:
    (output,) = plan_conversion(published, "official", None)
    assert len(output.entries) == 5_947
    assert Counter(entry.dtype for entry in output.entries.values()) == {"BF16": 5_657, "F32": 290}
    size = len(output.header) + output.num_bytes
    assert abs(size - 46_149_344_974) < 2_000_000  # the header's length depends on the config's spelling


@pytest.mark.parametrize("layout", ["official", "kijai", "diffusers"])
def test_at_full_size_every_layout_has_the_same_keys_and_shapes(
    tmp_path: Path, published: ConvertSource, layout: Any
) -> None:
    paths = write_sparse(tmp_path, plan_conversion(published, layout, None))
    again = open_source([tmp_path])
    assert inventory(again) == inventory(published)
    assert identify(tmp_path).num_bytes == sum(path.stat().st_size for path in paths)
    back = plan_conversion(again, "official", None)[0].entries
    wanted = plan_conversion(published, "official", None)[0].entries
    assert {n: (e.dtype, e.shape) for n, e in back.items()} == {
        n: (e.dtype, e.shape) for n, e in wanted.items()
    }


def test_shards_of_a_diffusers_folder_are_at_most_5_gb(published: ConvertSource) -> None:
    outputs = plan_conversion(published, "diffusers", None)
    shards = [output for output in outputs if output.path.parent.name == "transformer"]
    assert len(shards) == 8
    assert all(output.num_bytes <= 5e9 for output in outputs)
    assert shards[0].path.name == "diffusion_pytorch_model-00001-of-00008.safetensors"


def test_a_missing_shard_is_named(tmp_path: Path, published: ConvertSource) -> None:
    paths = write_sparse(tmp_path, plan_conversion(published, "diffusers", None))
    gone = next(path for path in paths if "00003-of-00008" in path.name)
    gone.unlink()
    with pytest.raises(WeightsError, match=r"00003-of-00008\.safetensors is missing"):
        open_source([tmp_path])


@pytest.mark.parametrize(("dtype", "gigabytes"), [("fp8", 28.0), ("int8", 28.0)])
def test_eight_bit_at_full_size(published: ConvertSource, dtype: Any, gigabytes: float) -> None:
    (output,) = plan_conversion(published, "official", dtype)
    stored = {"fp8": "F8_E4M3", "int8": "I8"}[dtype]
    quantized = [name for name, entry in output.entries.items() if entry.dtype == stored]
    assert len(quantized) == 48 * 28  # the 34 linears of a block without its 6 gates
    assert sum(name.endswith("weight_scale") for name in output.entries) == len(quantized)
    assert output.num_bytes == pytest.approx(gigabytes * 1e9, rel=0.02)


# --- dtypes -----------------------------------------------------------------------------------------


def transformer_of(path: Path, **options: Any) -> Any:
    files = [
        read_header(file) for file in ([path] if path.is_file() else sorted(path.rglob("*.safetensors")))
    ]
    parts = find_parts(files)
    build = builder("transformer", parts, stored_config(files))
    return load_part(build, parts, "transformer", dtype=torch.float32, **options)


@pytest.mark.parametrize(("dtype", "bound"), [("fp8", 2**-4), ("int8", 2**-6)])
def test_eight_bit_files_load_to_nearly_the_same_weights(
    tmp_path: Path, tiny: Path, dtype: Any, bound: float
) -> None:
    convert(tiny / OWN[0], tmp_path / "small.safetensors", layout="official", dtype=dtype)
    before, after = (transformer_of(p).state_dict() for p in (tiny / OWN[0], tmp_path / "small.safetensors"))
    changed = set()
    for key, value in before.items():
        if torch.equal(after[key], value):
            continue
        changed.add(key)
        assert (after[key] - value).abs().max() <= bound * value.abs().max(), key
    described = identify(tmp_path / "small.safetensors")
    targets = {key for key in before if conversion.is_target(key)}
    assert targets <= changed
    assert described.num_scales == len(targets)
    kept = transformer_of(tmp_path / "small.safetensors", storage="stored")
    names = {type(module).__name__ for module in kept.modules()}
    assert "QuantizedLinear" in names


def test_eight_bit_converted_again_stays_as_it_is(tmp_path: Path, tiny: Path) -> None:
    convert(tiny / OWN[0], tmp_path / "once.safetensors", layout="official", dtype="fp8")
    convert(tmp_path / "once.safetensors", tmp_path / "kijai", layout="kijai")
    convert(tmp_path / "kijai", tmp_path / "diffusers", layout="diffusers", dtype="fp8")
    convert(tmp_path / "diffusers", tmp_path / "again.safetensors", layout="official")
    assert same_tensors(tmp_path / "once.safetensors", tmp_path / "again.safetensors")


def test_eight_bit_becomes_bf16_again(tmp_path: Path, tiny: Path) -> None:
    convert(tiny / OWN[0], tmp_path / "fp8.safetensors", layout="official", dtype="fp8")
    convert(tmp_path / "fp8.safetensors", tmp_path / "wide.safetensors", layout="official", dtype="bf16")
    dtypes = {entry.dtype for entry in read_header(tmp_path / "wide.safetensors").tensors.values()}
    assert dtypes == {"BF16", "F32"}
    wide, narrow = (transformer_of(tmp_path / f"{name}.safetensors") for name in ("wide", "fp8"))
    for key, value in narrow.state_dict().items():
        torch.testing.assert_close(wide.state_dict()[key], value, rtol=2**-8, atol=0)


# --- edits ------------------------------------------------------------------------------------------

EDITED = "transformer_blocks.1.ff.net.2.weight"


def double(part: str, key: str, value: Tensor) -> Tensor:
    return value * 2 if (part, key) == ("transformer", EDITED) else value


@pytest.mark.parametrize("dtype", [None, "fp8", "int8"])
def test_an_edit_changes_its_weight_and_no_other_byte(tmp_path: Path, tiny: Path, dtype: Any) -> None:
    convert(tiny / OWN[0], tmp_path / "plain.safetensors", layout="official", dtype=dtype)
    convert(tmp_path / "plain.safetensors", tmp_path / "edited.safetensors", layout="official", edit=double)
    plain, edited = load_file(tmp_path / "plain.safetensors"), load_file(tmp_path / "edited.safetensors")
    name = f"model.diffusion_model.{EDITED}"
    different = {key for key in plain if not torch.equal(plain[key], edited[key])}
    assert different == ({name} if dtype is None else {name.replace("weight", "weight_scale")})
    before, after = (transformer_of(tmp_path / f"{n}.safetensors").state_dict() for n in ("plain", "edited"))
    torch.testing.assert_close(after[EDITED], 2 * before[EDITED])


def test_an_edit_of_eight_bit_weights_is_rounded_at_random_but_the_same_each_time(
    tmp_path: Path, tiny: Path
) -> None:
    """A change of a tenth of a step moves a tenth of the values."""

    def nudge(part: str, key: str, value: Tensor) -> Tensor:
        if key != EDITED:
            return value
        moved = value + 0.1 * value.abs().amax(dim=1, keepdim=True) / 127
        largest = value.abs() == value.abs().amax(dim=1, keepdim=True)
        return torch.where(largest, value, moved)  # so that the scale stays

    convert(tiny / OWN[0], tmp_path / "plain.safetensors", layout="official", dtype="int8")
    for name in ("first", "second"):
        convert(
            tmp_path / "plain.safetensors", tmp_path / f"{name}.safetensors", layout="official", edit=nudge
        )
    assert sha256(tmp_path / "first.safetensors") == sha256(tmp_path / "second.safetensors")
    name = f"model.diffusion_model.{EDITED}"
    plain, edited = (load_file(tmp_path / f"{n}.safetensors")[name] for n in ("plain", "first"))
    moved = (edited != plain).float().mean().item()
    assert 0.08 < moved < 0.12


# --- memory and interruption ------------------------------------------------------------------------

MEASURE = """
import resource, sys
from soundstage.library.convert import convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(sys.argv[1], sys.argv[2], layout=sys.argv[3], dtype=sys.argv[4] or None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """nano's 75 MB pass through: the process may grow by its largest tensor a few times over, no more."""
    arguments = [str(NANO), str(tmp_path / "nano.safetensors"), "official", "fp8"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG_S,
    )
    assert int(done.stdout) * 1024 < 40_000_000  # Linux counts in kibibytes
    with safe_open(tmp_path / "nano.safetensors", framework="pt") as file:
        assert len(list(file.keys())) >= 644 + 170 + 1329


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, tiny: Path) -> None:
    def fail(part: str, key: str, value: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tiny, tmp_path / "out" / "model.safetensors", layout="official", edit=fail)
    assert not list((tmp_path / "out").iterdir())


def test_progress_ends_at_the_whole(tmp_path: Path, tiny: Path) -> None:
    seen: list[tuple[int, int]] = []
    convert(tiny, tmp_path / "m.safetensors", layout="official", on_progress=lambda *step: seen.append(step))
    assert (
        seen[-1][0]
        == seen[-1][1]
        == sum(e.num_bytes for e in read_header(tmp_path / "m.safetensors").tensors.values())
    )


# --- refusals ---------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_in_a_sentence(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(sentence: str, error: type[Exception] = RequestError, **changes: Any) -> None:
        options: dict[str, Any] = {"layout": "bundle", "target": tmp_path / "out", "source": tiny, **changes}
        with pytest.raises(error, match=sentence):
            convert(options.pop("source"), options.pop("target"), **options)

    refused("layout is 'zip'; give one of official, bundle", layout="zip")
    refused("dtype is 'int3'; give one of int8, bf16, fp8", dtype="int3")
    refused(r"one \.safetensors file", layout="official")
    refused("a file; the bundle layout is a folder", target=tiny / OWN[0])
    refused("exists already; give another target", target=tiny)
    (tmp_path / "empty").mkdir()
    refused("holds no part of LTX-2.3", WeightsError, source=tmp_path / "empty")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(r"would take .* GB and .* has 0\.0 GB free", WeightsError)
    assert not (tmp_path / "out").exists()


def test_a_converted_folder_is_a_model(tmp_path: Path, tiny: Path) -> None:
    for layout in ("kijai", "diffusers"):
        convert(tiny, tmp_path / layout, layout=layout)  # type: ignore[arg-type]
        model = find_model(tmp_path / layout, text=tiny / "text")
        assert model.defaults == find_model(tiny).defaults
        parts = ModelParts(model, torch.device("cpu"), torch.float32)
        wanted = ModelParts(find_model(tiny), torch.device("cpu"), torch.float32)
        for name in ("transformer", "video_vae"):
            found, right = (getattr(p, name).state_dict() for p in (parts, wanted))
            assert all(torch.equal(found[key], value) for key, value in right.items())
