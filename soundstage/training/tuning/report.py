"""A run as one HTML page without other files: its losses, its clips over time, its data and its config."""

from __future__ import annotations

import base64
import csv
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from soundstage.errors import RequestError
from soundstage.files import whole_file
from soundstage.training.curves import COLORS, PACE
from soundstage.training.tuning.files import CLIPS, MANIFEST

WIDTH, HEIGHT, EDGE = 860, 300, 46
MOST_BYTES = 8_000_000  # of a clip that is put into the page
MOST_SAMPLES = 200
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: CanvasText; background: Canvas; color-scheme: light dark }
h1, h2 { line-height: 1.2 } table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; vertical-align: top }
video { max-width: 15rem; display: block } figure { display: inline-block; margin: 0 1rem 1rem 0 }
svg { width: 100%; height: auto } svg text { fill: CanvasText; font-size: 12px } pre { overflow-x: auto }
"""


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write the page of a run, and return its path. Raises RequestError for a folder that is no run."""
    try:
        told = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RequestError(
            f"{run} is not the folder of a training (it has no {MANIFEST}); give the output of one",
            field="run",
        ) from error
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{run} is not the folder of a training ({error}); give the output of one", field="run"
        ) from error
    config: Mapping[str, Any] = told.get("asked") or {}
    rows = _rows(run / "loss.csv")
    name = run.resolve().name
    parts = [
        f"<h1>{html.escape(name)}</h1>",
        _summary(config, rows),
        *_curves(rows),
        _clips(run / CLIPS),
        _samples(config),
        f"<h2>Config</h2><pre>{html.escape(json.dumps(config, indent=1, ensure_ascii=False))}</pre>",
    ]
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(name)}</title>'
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )
    path = output or run / "report.html"
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _summary(config: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> str:
    last = rows[-1] if rows else {}
    facts = {
        "mode": config.get("mode"),
        "model": config.get("model"),
        "steps": f"{last.get('step', 0)} of {config.get('steps')}",
        "samples seen": last.get("samples", "0"),
        "seconds a step": last.get("step_s", ""),
    }
    return _table(facts.items())


def _table(rows: Iterable[tuple[Any, Any]]) -> str:
    cells = (f"<tr><th>{html.escape(str(a))}</th><td>{html.escape(str(b))}</td></tr>" for a, b in rows)
    return f"<table>{''.join(cells)}</table>"


# --- losses -------------------------------------------------------------------------------------------


def _curves(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a picture of the losses by stream, and one for each stream by noise level."""
    names = [name for name in (rows[0] if rows else {}) if name not in PACE]
    streams = [name for name in names if " " not in name]
    found = [_picture("Losses", rows, streams)]
    for stream in streams:
        buckets = sorted(name for name in names if name.startswith(f"{stream} "))
        if buckets:
            found.append(_picture(f"Losses of the {stream} by noise level", rows, buckets))
    return found


def _picture(title: str, rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> str:
    lines = {
        name: _smoothed([(int(row["step"]), float(row[name])) for row in rows if row.get(name)])
        for name in names
    }
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    last = max(step for step, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)

    def place(step: float, value: float) -> str:
        x = EDGE + (WIDTH - 2 * EDGE) * step / max(last, 1)
        y = EDGE + (HEIGHT - 2 * EDGE) * (high - value) / max(high - low, 1e-9)
        return f"{x:.1f},{y:.1f}"

    drawn = [
        f'<text x="4" y="{EDGE}">{high:.3g}</text><text x="4" y="{HEIGHT - EDGE}">{low:.3g}</text>'
        f'<text x="{WIDTH - EDGE}" y="{HEIGHT - 20}">{last}</text>'
    ]
    for number, (name, line) in enumerate(lines.items()):
        color = COLORS[number % len(COLORS)]
        path = " ".join(place(*point) for point in line)
        drawn.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{path}"/>')
        drawn.append(
            f'<text x="{EDGE + 130 * number}" y="20" style="fill:{color}">{html.escape(name)}</text>'
        )
    return (
        f"<h2>{html.escape(title)}</h2><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        f"aria-label='{html.escape(title)}'>{''.join(drawn)}</svg>"
    )


def _smoothed(line: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the running mean of a line, over about a twentieth of it."""
    if not line:
        return []
    keep = 1 - 1 / max(1.0, len(line) / 20)
    mean, found = line[0][1], []
    for step, value in line:
        mean = keep * mean + (1 - keep) * value
        found.append((step, mean))
    return found


# --- clips and data -----------------------------------------------------------------------------------


def _clips(folder: Path) -> str:
    """Return the validation clips, a row for each request, in the order of the steps."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("step-*.mp4")) if folder.is_dir() else []:
        named = re.fullmatch(r"step-(\d+)-(\d+)\.mp4", path.name)
        if named is None:
            continue
        figure = f"<figcaption>step {int(named[1])}</figcaption>"
        if path.stat().st_size <= MOST_BYTES:
            data = base64.b64encode(path.read_bytes()).decode()
            figure = f'<video controls loop src="data:video/mp4;base64,{data}"></video>{figure}'
        else:
            figure = f"<p>{html.escape(path.name)} is too large for this page</p>{figure}"
        found.setdefault(named[2], []).append(f"<figure>{figure}</figure>")
    rows = "".join(f"<div>{''.join(figures)}</div>" for _, figures in sorted(found.items()))
    return f"<h2>Clips</h2>{rows}" if rows else ""


def _samples(config: Mapping[str, Any]) -> str:
    from soundstage.dataset.index import open_index
    from soundstage.errors import SoundstageError

    try:
        infos = open_index(str(config.get("data"))).samples
    except SoundstageError as error:
        return f"<h2>Data</h2><p>{html.escape(str(error))}</p>"
    told = [(f"{info.id}, {_size(info.size, info.num_audio)}", info.caption) for info in infos[:MOST_SAMPLES]]
    left = f"<p>and {len(infos) - MOST_SAMPLES} more</p>" if len(infos) > MOST_SAMPLES else ""
    return f"<h2>Data: {len(infos)} samples</h2>{_table(told)}{left}"


def _size(size: tuple[int, int, int] | None, num_audio: int | None) -> str:
    sound = "" if num_audio is None else f"{num_audio / 25:.2g} s of sound"
    picture = "" if size is None else f"{size[0]}x{size[1]}, {size[2]} frames"
    return ", ".join(filter(None, (picture, sound)))
