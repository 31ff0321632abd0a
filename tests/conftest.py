"""What holds for every test."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def no_encodings_on_disk() -> Iterator[None]:
    """Tests neither read nor fill the user's caches; one that is about the disk names a folder itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOUNDSTAGE_CACHE", "off")
        patch.setenv("SOUNDSTAGE_TAKES", "off")
        yield
