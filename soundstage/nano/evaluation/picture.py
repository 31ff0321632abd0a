"""Describe a clip's pictures as a scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from soundstage.media.arrays import Frames
from soundstage.nano.evaluation.actions import (
    Fit,
    Path,
    event_times,
    fit_collision,
    fit_handover,
    fit_solo,
)
from soundstage.nano.evaluation.backdrop import Backdrop, find_backdrop
from soundstage.nano.evaluation.shapes import Shape, find_shape, place
from soundstage.nano.evaluation.tracks import Blob, find_blobs
from soundstage.nano.world.motion import SoundEvent
from soundstage.nano.world.scene import Subject

MEETING_GAIN = 0.9  # an interaction must fit this much better than two subjects apart


@dataclass(frozen=True)
class Seen:
    """The contents of a clip, found without knowledge of the prompt. Fields are as in Scene."""

    background: str
    camera: str
    subjects: tuple[Subject, ...]  # in a handover the giver first
    interaction: str | None
    gift_color: str | None  # of the third thing, if there is one
    events: tuple[SoundEvent, ...]  # thuds, clicks and chimes, when the pictures show them


def look(frames: Frames, fps: float) -> Seen:
    """Return the contents of (F, H, W, 3) uint8 frames."""
    backdrop = find_backdrop(frames, fps)
    blobs = find_blobs(frames, backdrop)
    shapes = [find_shape(frames, backdrop, blob) for blob in blobs]
    paths = [path(blob, shape, backdrop) for blob, shape in zip(blobs, shapes, strict=True)]
    gift = _gift(paths)
    main = [i for i in range(len(blobs)) if i != gift]
    fits, meeting = _fits([paths[i] for i in main], paths[gift] if gift is not None else None, backdrop)
    subjects, events = [], []
    for fit, members in fits:
        for subject, index in zip(fit.subjects, members, strict=True):
            shape, color = shapes[main[index]].name, blobs[main[index]].color
            subjects.append(replace(subject, shape=shape, color=color))
        measured = [paths[main[i]] for i in members] + ([paths[gift]] if gift is not None else [])
        events += event_times(fit, measured, fps)
    return Seen(
        backdrop.stage.background,
        backdrop.stage.camera,
        tuple(subjects),
        meeting,
        blobs[gift].color if gift is not None else None,
        tuple(sorted(events, key=lambda e: e.time_s)),
    )


def path(blob: Blob, shape: Shape, backdrop: Backdrop) -> Path:
    """Return a blob's centre and radius in world units."""
    scale = backdrop.pixels_per_unit()
    where = place(blob, shape.name, backdrop.plate.shape[1:3], scale)
    right, down, factor = shape.nudge
    x = backdrop.to_world(where.x + right * where.radius, 0)
    y = backdrop.to_world(where.y + down * where.radius, 1)
    return Path(x, y, factor * where.radius / scale, blob.glow)


def _gift(paths: list[Path]) -> int | None:
    """Return which of three things is handed over: the smallest. None for fewer things."""
    if len(paths) < 3:
        return None
    return int(np.argmin([np.nanmedian(p.radius) for p in paths]))


def _fits(
    paths: list[Path], gift: Path | None, backdrop: Backdrop
) -> tuple[list[tuple[Fit, list[int]]], str | None]:
    """Return motions with the indices of the paths that follow them, and the interaction, if there is one."""
    stage = backdrop.stage
    if len(paths) == 2 and gift is not None:
        fit = fit_handover(paths[0], paths[1], gift, stage)
        order = [0, 1] if fit.subjects[0].side == "left" else [1, 0]
        return [(fit, order)], "handover"
    apart = [(fit_solo(p, stage), [i]) for i, p in enumerate(paths)]
    if len(paths) == 2:
        meeting = fit_collision(paths[0], paths[1], stage)
        if meeting.cost < MEETING_GAIN * np.mean([fit.cost for fit, _ in apart]):
            return [(meeting, [0, 1])], "collide"
    return apart, None
