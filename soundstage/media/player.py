"""Show a clip in a notebook: its file within a page of HTML, above its settings."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping

STYLE = "max-width:100%;border-radius:4px"


def player(data: bytes, mime: str, settings: Mapping[str, object]) -> str:
    """Return HTML that plays a file and lists settings. mime: video/mp4, audio/mp4, image/png or the like."""
    source = f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
    kind = mime.partition("/")[0]
    if kind == "image":
        shown = f'<img src="{source}" style="{STYLE}">'
    else:
        loop = " loop" if kind == "video" else ""
        shown = f'<{kind} controls{loop} src="{source}" style="{STYLE}"></{kind}>'
    rows = "".join(
        f'<tr><th style="text-align:left">{html.escape(str(name))}</th>'
        f'<td style="text-align:left">{html.escape(str(value))}</td></tr>'
        for name, value in settings.items()
    )
    table = f"<table><tbody>{rows}</tbody></table>" if rows else ""
    return f"<div>{shown}{table}</div>"
