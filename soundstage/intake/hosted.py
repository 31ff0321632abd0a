"""The zip of a hosted trainer's request, fetched where it has an address, for a training on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soundstage.dataset.config import Dataset, open_dataset
from soundstage.errors import RequestError
from soundstage.jobs.errors import TooLarge
from soundstage.training.tuning.hosted import HostedTraining, dataset_fields
from soundstage.training.tuning.zips import is_unpacked, unpacked

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
MOST_BYTES, MOST_S = 64 * 2**30, 6 * 3600.0  # of a zip that is fetched


def unpacked_data(asked: HostedTraining, folder: Path) -> Dataset:
    """Unpack a request's data into a folder, unless that is done, and return the dataset."""
    if is_unpacked(folder):
        return open_dataset(folder)
    with _zip_of(asked.training_data_url, folder) as source:
        return unpacked(source, folder, dataset_fields(asked))


@contextmanager
def _zip_of(place: str, folder: Path) -> Iterator[Path]:
    """Yield the path of a zip; one with an address is fetched, and removed when it is unpacked."""
    if not ADDRESS.match(place):
        yield Path(place)
        return
    from soundstage.intake.fetch import fetch
    from soundstage.intake.rules import FetchRule

    folder.parent.mkdir(parents=True, exist_ok=True)
    host = re.sub(r"^(https?://[^/?#]*).*$", r"\1", place)
    rule = FetchRule.parse(f"private:{host}")  # whoever starts a training may fetch from any network
    try:
        fetched = fetch(place, folder.parent, rule=rule, max_bytes=MOST_BYTES, timeout_s=MOST_S)
    except (RequestError, TooLarge) as error:
        raise RequestError(
            f"training_data_url is {place}, and it cannot be fetched: {error}; or give the path of a zip",
            field="config",
        ) from error
    path = folder.parent / "fetched.zip"
    try:
        yield fetched.replace(path)
    finally:
        path.unlink(missing_ok=True)
