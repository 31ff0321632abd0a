"""A page of HTML with a player for each shot: it holds its pictures in itself and links clips beside it.

It has no scripts, and everything in it can be reached and read without seeing.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from soundstage.editing.grid import FilmGrid, PlacedShot
from soundstage.editing.picture import Change
from soundstage.editing.storyboard import caption_of, label_of, shot_picture
from soundstage.editing.timeline import BLACK
from soundstage.errors import num_of

POSTER_WIDTH = 480
JPEG_QUALITY = 80
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; padding: 1.5rem; max-width: 90rem; }
.shots { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1.5rem; padding: 0;
  list-style: none; }
figure { margin: 0; }
figcaption { margin-top: .4rem; }
.facts { opacity: .75; font-variant-numeric: tabular-nums; }
video, img, .black { width: 100%; height: auto; display: block; background: #000; border-radius: 4px; }
audio { width: 100%; }
.film { max-width: 60rem; }
dt { font-variant-numeric: tabular-nums; }
"""


def contact_page(
    grid: FilmGrid, changes: Mapping[int, Change], page: Path, title: str, film: Path | None
) -> str:
    """Return the page. page: its own name, from which links lead. film: the whole film, if it is there."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        f'<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>",
        f"<body><header><h1>{html.escape(title)}</h1><p>{_facts(grid)}</p></header><main>",
    ]
    if film is not None:
        parts.append(
            f'<section aria-label="Film"><video class="film" controls preload="metadata" '
            f'aria-label="{html.escape(title)}, the whole film" src="{_link(film, page)}"></video></section>'
        )
    parts.append('<section aria-labelledby="shots"><h2 id="shots">Shots</h2><ol class="shots">')
    parts += [_shot(grid, placed, changes.get(placed.number), page) for placed in grid.placed]
    parts.append("</ol></section>")
    parts += _spoken(grid)
    parts.append("</main></body></html>")
    return "\n".join(parts) + "\n"


def _facts(grid: FilmGrid) -> str:
    return (
        f"{num_of(len(grid.placed), 'shot')}, {grid.duration_s:.2f} s, {grid.width} by {grid.height} pixels, "
        f"{float(grid.fps):g} frames per second"
    )


def _shot(grid: FilmGrid, placed: PlacedShot, change: Change | None, page: Path) -> str:
    caption = html.escape(caption_of(grid, placed))
    facts = html.escape(label_of(grid, placed))
    return (
        f'<li id="shot-{placed.number}"><figure>{_player(grid, placed, change, page)}'
        f'<figcaption><span class="facts">{facts}</span><br>{caption}</figcaption></figure></li>'
    )


def _player(grid: FilmGrid, placed: PlacedShot, change: Change | None, page: Path) -> str:
    name = html.escape(f"Shot {placed.number}: {caption_of(grid, placed)}")
    poster = _poster(grid, placed, change)
    if placed.cut.source == BLACK or placed.info is None:
        return f'<img src="{poster}" alt="{name} (black)">'
    source = _link(placed.cut.source, page)
    if not placed.info.num_frames:
        return f'<audio controls preload="none" aria-label="{name}" src="{source}"></audio>'
    if placed.info.num_frames == 1:
        return f'<img src="{poster}" alt="{name}">'
    start_s = placed.cut.start_s
    part = f"#t={start_s:.3f},{start_s + float(placed.num_frames / grid.fps):.3f}"
    return (
        f'<video controls preload="none" poster="{poster}" aria-label="{name}" src="{source}{part}"></video>'
    )


def _poster(grid: FilmGrid, placed: PlacedShot, change: Change | None) -> str:
    from PIL import Image

    picture = Image.fromarray(shot_picture(grid, placed, change))
    picture.thumbnail((POSTER_WIDTH, POSTER_WIDTH))
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode('ascii')}"


def _link(file: Path, page: Path) -> str:
    """Return a link to a file from the page's folder."""
    try:
        relative = os.path.relpath(file.absolute(), page.absolute().parent)
    except ValueError:  # on another drive
        return file.absolute().as_uri()
    return html.escape(quote(Path(relative).as_posix()))


def _spoken(grid: FilmGrid) -> Iterator[str]:
    """Yield what is said in the film, to be read."""
    if not grid.timeline.captions:
        return
    yield '<section aria-labelledby="spoken"><h2 id="spoken">What is said</h2><dl>'
    for line in grid.timeline.captions:
        who = f" {html.escape(line.speaker)}" if line.speaker else ""
        yield f"<dt>{line.start_s:.2f} s{who}</dt><dd>{html.escape(line.text)}</dd>"
    yield "</dl></section>"
