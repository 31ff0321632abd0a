"""Cut and mix finished shots to a film with titles, music and subtitles; hand over its timeline. No torch."""

from __future__ import annotations

from soundstage.editing.assembly import (
    Assembled,
    assemble,
    planned_assembly,
    planned_notices,
    planned_refusals,
)
from soundstage.editing.exporting import export
from soundstage.editing.timeline import (
    Caption,
    Cut,
    Music,
    RoomTone,
    Timeline,
    Title,
    Transition,
    VoiceOver,
    read_timeline,
)

__all__ = [
    "Assembled",
    "Caption",
    "Cut",
    "Music",
    "RoomTone",
    "Timeline",
    "Title",
    "Transition",
    "VoiceOver",
    "assemble",
    "export",
    "planned_assembly",
    "planned_notices",
    "planned_refusals",
    "read_timeline",
]
