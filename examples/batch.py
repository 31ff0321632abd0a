"""Make a clip for each row of a table: python examples/batch.py clips.csv out

The first row of the table names fields of a request: prompt, seed, duration_s, size, guides, ... Cells may be
empty. A row that cannot be made is reported, and the others are made.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import soundstage as ss


def make_all(stage: ss.Engine, table: Path, folder: Path) -> int:
    """Write folder/1.mp4, 2.mp4, ... and return how many rows failed."""
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    with table.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), 1):
            fields = {name: cell for name, cell in row.items() if cell}
            try:
                clip = stage.generate(ss.Request(**fields), progress=True)
                print(clip.save(folder / f"{number}.mp4"))
            except ss.SoundstageError as error:
                print(f"row {number}: {error}", file=sys.stderr)
                failed += 1
    return failed


if __name__ == "__main__":
    sys.exit(1 if make_all(ss.load("nano"), Path(sys.argv[1]), Path(sys.argv[2])) else 0)
