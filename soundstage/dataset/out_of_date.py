"""Find the samples whose encoding is missing or was made from something else than what is there now."""

from __future__ import annotations

from pathlib import Path

from soundstage.dataset.config import Dataset, open_dataset
from soundstage.dataset.encoding import WantedSamples
from soundstage.dataset.findings import DataFinding
from soundstage.dataset.index import FOLDER, INDEX, read_index
from soundstage.dataset.scanning import Scan, scan
from soundstage.errors import DatasetError


def stale(dataset: Dataset, found: Scan) -> list[DataFinding]:
    """Return findings about what was encoded: samples that are missing, or were made from other things."""
    folder = dataset.folder / FOLDER
    if not (folder / INDEX).is_file():
        return []
    identity, infos = read_index(folder)
    formats = {info.made_with.get("number format", "") for info in infos}
    wanted = WantedSamples(dataset, identity, next(iter(formats), ""))
    findings = []
    for item in found.items:
        info, changes = wanted.state(item)
        if info is None:
            findings.append(DataFinding("not encoded", f"{item.id} is not encoded yet", item.id))
        elif changes:
            told = f"{item.id} was encoded before its {' and '.join(changes)} changed"
            findings.append(DataFinding("out of date", told, item.id))
    return findings


def not_trained_on(folder: str | Path) -> str | None:
    """Return in a sentence what of a dataset is not as it was encoded; None where all is.

    None too for encoded samples whose clips are elsewhere.
    """
    try:
        dataset = open_dataset(folder)
        findings = stale(dataset, scan(dataset))
    except DatasetError:
        return None
    if not findings:
        return None
    first, others = findings[0].message, len(findings) - 1
    more = f", and {others} more like it" if others else ""
    return f"{first}{more}; `soundstage dataset encode {folder}` brings all up to date"
