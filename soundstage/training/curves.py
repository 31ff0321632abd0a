"""Keep the losses of a training as a table, and draw it.

The picture is drawn with Pillow, so that training needs no plotting package.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = (900, 420)
MARGIN = 60
COLORS = ["#1f6fb4", "#d9622b", "#2f9e5d", "#8a4fb5", "#b48a1f", "#555555"]


# Columns that are no losses: the number of the step, the time, and how fast the training is.
PACE = ("step", "time", "step_s", "waiting", "samples")


def add_row(table: Path, step: int, losses: Mapping[str, float], pace: Mapping[str, float]) -> None:
    """Add the losses at a step to a CSV; one that comes up for the first time gets a column.

    pace: the values of the columns of PACE behind the first two.
    """
    row = {"step": str(step), "time": f"{time.time():.0f}"}
    row |= {name: f"{value:.6g}" for name, value in pace.items()}
    row |= {name: f"{value:.6f}" for name, value in losses.items()}
    rows: list[dict[str, str]] = []
    columns: list[str] = []
    if table.exists():
        with table.open(newline="") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    new = [name for name in row if name not in columns]
    with table.open("w" if new else "a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns + new, restval="")
        if new:
            writer.writeheader()
            writer.writerows(rows)
        writer.writerow(row)


def cut_rows(table: Path, step: int) -> None:
    """Remove the rows behind a step, which are made again: their run was killed after its last state."""
    if not table.exists():
        return
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or ())
    # A row that a kill has cut short has no step, or fewer columns; all such rows are behind the state.
    kept = [row for row in rows if (row.get("step") or "").isdecimal() and int(row["step"]) <= step]
    if len(kept) == len(rows):
        return
    part = table.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns, restval="")
        writer.writeheader()
        writer.writerows({name: row.get(name) for name in columns} for row in kept)
    os.replace(part, table)


def draw_curves(table: Path, picture: Path, *, title: str) -> None:
    """Draw every column of a CSV, but those of PACE, against step on a log axis.

    Nothing is drawn where there is no table or no positive loss in it.
    """
    if not table.exists():
        return
    with table.open() as file:
        rows = list(csv.DictReader(file))
    names = [n for n in (rows[0] if rows else {}) if n not in PACE]
    if not names:
        return
    series = {n: [(int(r["step"]), float(r[n])) for r in rows if r[n] and float(r[n]) > 0] for n in names}
    points = [p for line in series.values() for p in line]
    if not points:
        return
    last = max(x for x, _ in points)
    low, high = (math.log10(f(y for _, y in points)) for f in (min, max))
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    width, height = SIZE[0] - 2 * MARGIN, SIZE[1] - 2 * MARGIN

    def place(x: float, log_y: float) -> tuple[float, float]:
        rise = (log_y - low) / max(high - low, 1e-9)
        return MARGIN + width * x / max(last, 1), MARGIN + height * (1 - rise)

    draw.rectangle([MARGIN, MARGIN, MARGIN + width, MARGIN + height], outline="#999999")
    for decade in range(math.ceil(low), math.floor(high) + 1):
        x, y = place(0, decade)
        draw.line([x, y, x + width, y], fill="#dddddd")
        draw.text((8, y - 6), f"1e{decade}", fill="black")
    for (name, line), color in zip(series.items(), COLORS * 3, strict=False):
        draw.line([place(x, math.log10(y)) for x, y in line], fill=color, width=2)
        draw.text((MARGIN + 10 + 130 * names.index(name), MARGIN - 18), name, fill=color)
    draw.text((MARGIN, 12), f"{title}: {last} steps", fill="black")
    image.save(picture)
