"""Files of a hosted trainer's request, fetched where they have an address, for a training on this machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from soundstage.dataset.config import Dataset, open_dataset
from soundstage.errors import RequestError, SoundstageError
from soundstage.jobs.errors import TooLarge
from soundstage.training.tuning.hosted import HostedTraining, dataset_fields
from soundstage.training.tuning.zips import is_unpacked, unpacked

if TYPE_CHECKING:
    from soundstage.intake.rules import FetchRule

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
MOST_BYTES, MOST_S = 64 * 2**30, 6 * 3600.0  # of a zip that is fetched
MEDIA = ("image_url", "reference_video_url", "audio_url")  # of a validation clip


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

    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        fetched = fetch(place, folder.parent, rule=_rule(place), max_bytes=MOST_BYTES, timeout_s=MOST_S)
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


def with_media(asked: HostedTraining, folder: Path) -> HostedTraining:
    """Return a request whose validation clips have files for addresses, fetched into a folder and checked.

    A file that was fetched by an earlier start stays. Raises RequestError naming the field and the address.
    """
    clips = []
    for i, clip in enumerate(asked.validation):
        files = {}
        for name in MEDIA:
            place = getattr(clip, name)
            if place is not None and ADDRESS.match(place):
                files[name] = str(_brought(place, f"validation[{i}].{name}", folder))
        clips.append(replace(clip, **files))
    return replace(asked, validation=tuple(clips))


def _brought(place: str, where: str, folder: Path) -> Path:
    """Return the file of an address, under a name that follows from it."""
    from soundstage.intake.bring import Intake

    path = folder / hashlib.sha256(place.encode()).hexdigest()[:16]
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    intake = Intake(rule=_rule(place))
    try:
        return intake(place, where, folder).path.replace(path)
    except (SoundstageError, TooLarge) as error:
        raise RequestError(f"{error} ({place}); or give the path of a file", field="config") from error
    finally:
        intake.close()


def _rule(place: str) -> FetchRule:
    """Return the rule for one address: whoever starts a training may fetch from any network."""
    from soundstage.intake.rules import FetchRule

    host = re.sub(r"^(https?://[^/?#]*).*$", r"\1", place)
    return FetchRule.parse(f"private:{host}")
