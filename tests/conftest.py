"""What holds for every test."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.postgres import Postgres, running

if TYPE_CHECKING:
    from soundstage import LTXVideoPipeline

if shutil.which("nvidia-smi") is None:  # Triton asks at its import whether its kernels are interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")


# Variables that tests may be run with; others, such as SOUNDSTAGE_STEPS, are defaults of a developer's own.
KEPT = ("SOUNDSTAGE_FAST_PATHS", "SOUNDSTAGE_DTYPE", "SOUNDSTAGE_TRAINING", "SOUNDSTAGE_DEBUG")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests an hour before they count as hung."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


def pytest_collection_finish() -> None:
    """Take modules and tests out of garbage collection, which would look through them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_defaults_of_the_developer() -> Iterator[None]:
    """Tests read no config files and no defaults from variables; one that is about them sets its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SOUNDSTAGE_") and name not in KEPT]:
            patch.delenv(name)
        patch.setenv("SOUNDSTAGE_CONFIG", "off")
        yield


@pytest.fixture(autouse=True, scope="session")
def no_encodings_on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither read nor fill the user's caches; one that is about the disk names a folder itself.

    What is faster on this processor is tried anew by each session.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SOUNDSTAGE_CACHE", "off")
        patch.setenv("SOUNDSTAGE_TAKES", "off")
        patch.setenv("SOUNDSTAGE_RENDERS", "off")
        patch.setenv("SOUNDSTAGE_WORKERS", "off")
        yield


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with tiny parts."""
    from tests.tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def pipe(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> "LTXVideoPipeline":
    """A pipeline in diffusers' words over tiny parts."""
    import torch

    import soundstage as ss
    from tests.tiny_model import TinyParts

    monkeypatch.setattr("soundstage.rendering.run.ModelParts", TinyParts)
    return ss.LTXVideoPipeline.from_pretrained(tiny_folder, torch_dtype=torch.float32)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str | None:
    """Return the URL of an empty database, None for a file of SQLite's."""
    if request.param == "sqlite":
        return None
    server: Postgres = request.getfixturevalue("postgres")
    return server.empty_database()
