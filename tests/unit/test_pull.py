"""Downloads: resumed, checked, refused before they begin where they cannot fit; from a local hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from tqdm import tqdm

from soundstage.errors import WeightsError
from soundstage.library import pull
from soundstage.library.catalog import CatalogFile, find
from soundstage.library.pull import check_space, fetch, plan_pull
from tests.hub import COMMIT, Hub

UPSCALER = find("ltx-2.3-temporal-upscaler-x2-1.0")[0]
GEMMA = find("gemma-3-12b")[0]
CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
NAME = f"{UPSCALER.repository}/{UPSCALER.path}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    small = {f"{GEMMA.repository}/{name}": name.encode() for name in ("config.json", "README.md")}
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65536)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the hub's client waits before it tries again
    with Hub({NAME: CONTENT, f"{GEMMA.repository}/model-00001.safetensors": b"weights", **small}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


class Interrupting(tqdm):  # type: ignore[type-arg]
    """Stops the process, as far as the download can tell, once some bytes have come."""

    def update(self, n: float | None = 1) -> bool | None:
        super().update(n)
        if self.n > 150_000:
            raise KeyboardInterrupt
        return None


def planned(folder: Path, entry: CatalogFile = UPSCALER) -> pull.Download:
    (download,) = plan_pull([entry], folder)
    return download


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_sizes_and_hashes_are_known_before_a_byte_is_fetched(hub: Hub, tmp_path: Path) -> None:
    download = planned(tmp_path)
    assert (download.num_bytes, download.etag) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert download.target == tmp_path / UPSCALER.repository / UPSCALER.path
    assert hub.ranges == []
    assert left(tmp_path) == []


def test_a_file_comes_whole_and_nothing_else_is_left(hub: Hub, tmp_path: Path) -> None:
    download = planned(tmp_path)
    checked: list[bool] = []
    assert fetch(download, checking=lambda: checked.append(download.target.exists())) == download.etag
    assert checked == [False]  # it has its name only after that
    assert download.target.read_bytes() == CONTENT
    assert left(tmp_path) == [NAME]
    assert download.is_here
    assert download.remaining_bytes == 0
    assert COMMIT in hub.revisions  # what is fetched is the version that was described


def test_a_broken_transfer_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 200_000
    download = planned(tmp_path)
    fetch(download)
    assert download.target.read_bytes() == CONTENT
    assert len(hub.ranges) == 2
    assert hub.ranges[0] == 0
    assert 0 < hub.ranges[1] <= 200_000


def test_a_later_process_goes_on_with_what_came(hub: Hub, tmp_path: Path) -> None:
    download = planned(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fetch(download, progress=Interrupting)
    assert not download.target.exists()
    came = download.part.stat().st_size
    assert 0 < came < len(CONTENT)
    assert planned(tmp_path).remaining_bytes == len(CONTENT) - came
    fetch(planned(tmp_path))
    assert hub.ranges == [0, came]
    assert download.target.read_bytes() == CONTENT
    assert left(tmp_path) == [NAME]


def test_a_line_that_stays_dead_is_one_sentence_and_keeps_what_came(hub: Hub, tmp_path: Path) -> None:
    download = planned(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fetch(download, progress=Interrupting)
    came = download.part.stat().st_size
    hub.break_after = 0
    with pytest.raises(WeightsError, match=r"did not send .*; pull again, it goes on where it stopped"):
        fetch(download)
    assert download.part.stat().st_size == came
    assert not download.target.exists()


def test_parts_of_another_version_are_not_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetch(planned(tmp_path), progress=Interrupting)
    hub.files[NAME] = CONTENT[::-1]
    fetch(planned(tmp_path))
    assert (tmp_path / NAME).read_bytes() == CONTENT[::-1]
    assert hub.ranges == [0, 0]


def test_a_wrong_hash_is_refused_and_removed(hub: Hub, tmp_path: Path) -> None:
    hub.corrupt = True
    with pytest.raises(
        WeightsError, match=r"the hash [0-9a-f]{64}, where the hub announced .* it was removed"
    ):
        fetch(planned(tmp_path))
    assert left(tmp_path) == []
    hub.corrupt = False
    fetch(planned(tmp_path))
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_small_files_are_checked_by_gits_hash(hub: Hub, tmp_path: Path) -> None:
    downloads = plan_pull([GEMMA], tmp_path)
    assert [d.path for d in downloads] == ["config.json", "model-00001.safetensors"]  # the README stays there
    assert len(downloads[0].etag) == 40
    fetch(downloads[0])
    assert downloads[0].target.read_bytes() == b"config.json"
    hub.corrupt = True
    downloads[0].target.unlink()
    with pytest.raises(WeightsError, match=r"the hash [0-9a-f]{40}, where"):
        fetch(downloads[0])


def test_a_gated_licence_is_explained(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add(GEMMA.repository)
    with pytest.raises(
        WeightsError, match=r"is gated: accept its licence there \(Gemma Terms.*hf auth login"
    ):
        plan_pull([GEMMA], tmp_path)


def test_what_the_hub_does_not_have_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no file 'other\.safetensors'"):
        plan_pull([replace(UPSCALER, path="other.safetensors")], tmp_path)
    with pytest.raises(WeightsError, match=r"has no file like '\*\.gguf'"):
        plan_pull([replace(UPSCALER, path="*.gguf")], tmp_path)
    with pytest.raises(WeightsError, match="/no/where is not there"):
        plan_pull([replace(UPSCALER, repository="no/where")], tmp_path)


def test_no_answer_is_one_sentence(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        WeightsError, match=r"did not send .*; pull again, it goes on where it stopped"
    ) as caught:
        plan_pull([UPSCALER], tmp_path)
    assert "\n" not in str(caught.value)


def test_what_cannot_fit_is_refused_before_it_begins(hub: Hub, tmp_path: Path) -> None:
    download = planned(tmp_path)
    check_space([download])
    with pytest.raises(WeightsError, match=r"1000000\.0 GB are to be fetched, and .* GB free"):
        check_space([replace(download, num_bytes=10**15)])
    fetch(download)
    check_space([download])
    assert hub.ranges == [0]


def test_a_file_of_another_size_is_not_written_over(hub: Hub, tmp_path: Path) -> None:
    download = planned(tmp_path)
    download.target.parent.mkdir(parents=True)
    download.target.write_bytes(b"mine")
    with pytest.raises(WeightsError, match=r"is there with 4 bytes where the hub has 307,200"):
        fetch(download)
    assert download.target.read_bytes() == b"mine"
