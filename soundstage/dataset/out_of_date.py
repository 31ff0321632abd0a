"""Find the samples whose encoding is missing or was made from something else than what is there now."""

from __future__ import annotations

from soundstage.dataset.config import Dataset
from soundstage.dataset.encoded import FOLDER, INDEX, read_index
from soundstage.dataset.encoding import Wanted
from soundstage.dataset.findings import Finding
from soundstage.dataset.scanning import Scan


def stale(dataset: Dataset, found: Scan) -> list[Finding]:
    """Return findings about what was encoded: samples that are missing, or were made from other things."""
    folder = dataset.folder / FOLDER
    if not (folder / INDEX).is_file():
        return []
    identity, infos = read_index(folder)
    formats = {info.made_with.get("number format", "") for info in infos}
    wanted = Wanted(dataset, identity, next(iter(formats), ""))
    findings = []
    for item in found.items:
        info, changes = wanted.state(item)
        if info is None:
            findings.append(Finding("not encoded", f"{item.id} is not encoded yet", item.id))
        elif changes:
            told = f"{item.id} was encoded before its {' and '.join(changes)} changed"
            findings.append(Finding("out of date", told, item.id))
    return findings
