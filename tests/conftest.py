"""What holds for every test."""

import os
import shutil
from collections.abc import Iterator

import pytest

if shutil.which("nvidia-smi") is None:  # Triton asks at its import whether its kernels are interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True, scope="session")
def no_encodings_on_disk() -> Iterator[None]:
    """Tests neither read nor fill the user's caches; one that is about the disk names a folder itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOUNDSTAGE_CACHE", "off")
        patch.setenv("SOUNDSTAGE_TAKES", "off")
        yield
