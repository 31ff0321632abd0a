"""The catalogue names each published file once, and every model's set is whole."""

import subprocess
import sys

import pytest

from soundstage.errors import RequestError
from soundstage.library.catalog import FILES, LICENCE_PAGES, MODELS, by_file_name, find, gigabytes
from tests.limits import LONG_S


def test_names_and_places_are_unique() -> None:
    assert len({file.name.lower() for file in FILES}) == len(FILES)
    assert len({(file.repository, file.path) for file in FILES}) == len(FILES)
    assert not {file.name.lower() for file in FILES} & set(MODELS)


def test_every_entry_is_complete() -> None:
    for file in FILES:
        assert file.repository.count("/") == 1
        assert file.licence in LICENCE_PAGES
        assert "" not in (file.holds, file.purpose, file.dtype)
        assert file.num_bytes > 0 or not file.exact


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_every_part_once_and_only_what_runs(name: str) -> None:
    files = find(name)
    assert all(file.runs for file in files)
    held = [part for file in files for part in file.holds.split(", ")]
    for part in ("transformer", "connectors", "text projection", "vocoder"):
        assert held.count(part) == 1
    assert sum("VAE" in part for part in held) == (1 if "VAEs" in held else 2)
    assert sum(file.kind == "text encoder" for file in files) == 1


def test_a_file_is_found_by_any_spelling_of_its_name() -> None:
    wanted = find("ltx-2.3-22b-dev")
    assert find("LTX-2.3-22B-dev.safetensors") == wanted
    assert by_file_name("ltx-2.3-22b-dev.safetensors") == wanted[0]
    assert by_file_name("ltx-2.3-22b-dev-fp8.safetensors") == find("ltx-2.3-22b-dev-fp8")[0]
    assert by_file_name("model.safetensors") is None
    assert by_file_name("lora_weights.safetensors") is None


def test_a_wrong_name_is_answered_with_near_ones() -> None:
    with pytest.raises(
        RequestError, match=r"'ltx-2\.3-distiled', which is not in the catalogue; it has ltx-2.3-distilled, "
    ):
        find("ltx-2.3-distiled")


def test_published_sizes_agree_with_their_ranks() -> None:
    """Bytes per rank of a LoRA: docs/model/checkpoints.md, "Published files"."""
    for name, rank in (("union-control", 64), ("motion-track-control", 32)):
        size = find(f"ltx-2.3-22b-ic-lora-{name}")[0].num_bytes
        assert 0 <= size - 10_223_616 * rank < 200_000


def test_sizes_read_as_people_say_them() -> None:
    assert [gigabytes(n) for n in (46_149_345_334, 261_944_000)] == ["46.1 GB", "262 MB"]


def test_the_catalogue_loads_no_torch() -> None:
    code = "import sys, soundstage.library.catalog; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LONG_S
    )
    assert done.stdout.strip() == "False"
