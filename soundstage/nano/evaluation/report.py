"""Report on many clips: rates with intervals and means with ranges, as a table, JSON or Markdown.

A report is one section: rows by name, what each of them counts, and its target. The section PROMPTS tells
how well clips follow their prompts.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from soundstage.media.arrays import Frames
from soundstage.nano.evaluation.backdrop import Floats
from soundstage.nano.evaluation.measure import ROWS, Outcome, measure_clip
from soundstage.nano.world.captions import caption
from soundstage.nano.world.motion import simulate
from soundstage.nano.world.render import render
from soundstage.nano.world.scene import BUCKETS, PAIR_ACTIONS, SOLO_ACTIONS, Scene, draw_scene
from soundstage.nano.world.sound import synthesize
from soundstage.types import VideoShape

NUM_FRAMES = 49
# Sizes in turn: mostly landscape.
TURNS = ("landscape", "landscape", "landscape", "portrait", "landscape", "square")
# Kinds of shot in turn, so that every row has enough samples; draws of other kinds are passed over.
KINDS = (
    *SOLO_ACTIONS,
    *(f"pair {action}" for action in PAIR_ACTIONS),
    "collide",
    "handover",
    "delayed",
    "voice",
)
Z_95 = 1.959964
GAP = 4  # pixels between strips of the overview
PROMPTS = "prompts"  # the section of clips that follow their captions
HEADS = ("row", "right", "95 % interval", "samples", "what counts")

Clips = Iterable[tuple[Frames, Floats | None]]
Generate = Callable[[list[Scene]], Clips]


@dataclass(frozen=True)
class Spread:
    """The values of a row that is measured, not counted."""

    values: tuple[float, ...]

    def __add__(self, other: Spread) -> Spread:
        return Spread(self.values + other.values)

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


@dataclass(frozen=True)
class Target:
    """The value that a row is to reach."""

    value: float  # a share, 0 to 1, or, with a unit, a mean
    unit: str = ""
    at_most: bool = False  # the row is not to exceed it

    def met(self, reached: float) -> bool:
        return reached <= self.value if self.at_most else reached >= self.value

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{sign} {self.value:g} {self.unit}" if self.unit else f"{sign} {100 * self.value:g} %"


Samples = Outcome | Spread


@dataclass
class Report:
    """The results of one section."""

    num_prompts: int
    seed: int
    rows: dict[str, Samples] = field(default_factory=dict)
    misses: list[dict[str, object]] = field(default_factory=list)  # clips with wrong rows
    seconds: float = 0.0  # spent on making and measuring
    section: str = PROMPTS
    # Row -> what one sample is and when it is right, in the order of the table.
    meanings: Mapping[str, str] = field(default_factory=lambda: ROWS)
    targets: Mapping[str, Target] = field(default_factory=dict)  # of the rows that have one
    not_measured: str | None = None  # why there are no rows

    def add(self, scene: Scene, samples: Mapping[str, Samples], prompt: str | None = None) -> None:
        """Count a clip's samples. prompt: the clip's, if not the scene's full caption."""
        for row, more in samples.items():
            self.rows[row] = _joined(self.rows.get(row), more)
        wrong = [row for row, more in samples.items() if not self._right(row, more)]
        if wrong:
            told = caption(scene, full=True) if prompt is None else prompt
            self.misses.append({"seed": scene.seed, "caption": told, "rows": wrong})

    def rate(self, row: str) -> float:
        return _reached(self.rows[row])

    def met(self, row: str) -> bool | None:
        """Return whether a row reaches its target; None without a target or samples."""
        return self.targets[row].met(self.rate(row)) if row in self.targets and row in self.rows else None

    @property
    def passed(self) -> bool | None:
        """Return whether every target is reached; None where a row was not measured."""
        if any(row not in self.rows for row in self.targets) or self.not_measured:
            return None
        return all(self.met(row) for row in self.targets)

    def table(self) -> Table:
        heads = [name.replace("right", "reached") if self.targets else name for name in HEADS]
        table = Table(*heads, title=None if self.section == PROMPTS else self.section)
        for line in self._lines():
            table.add_row(*line)
        if self.not_measured:
            table.caption = self.not_measured
        return table

    def to_markdown(self) -> str:
        lines = [] if self.section == PROMPTS else [f"## {self.section}", ""]
        if self.not_measured:
            return "\n".join([*lines, self.not_measured])
        heads = [name.replace("right", "reached") if self.targets else name for name in HEADS]
        lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        return "\n".join([*lines, *(f"| {' | '.join(line)} |" for line in self._lines())])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as data for JSON."""
        data: dict[str, Any] = {"num_prompts": self.num_prompts, "seed": self.seed}
        data["seconds"] = round(self.seconds, 1)
        if self.section != PROMPTS:
            data |= {"section": self.section, "passed": self.passed, "not_measured": self.not_measured}
        rows = {row: self._row_data(row, samples) for row, samples in self._ordered()}
        return {**data, "rows": rows, "misses": self.misses}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def _right(self, row: str, samples: Samples) -> bool:
        if isinstance(samples, Outcome):
            return samples.hits == samples.total
        return row not in self.targets or self.targets[row].met(samples.mean)

    def _ordered(self) -> list[tuple[str, Samples]]:
        return [(row, self.rows[row]) for row in self.meanings if row in self.rows]

    def _row_data(self, row: str, samples: Samples) -> dict[str, Any]:
        data: dict[str, Any]
        if isinstance(samples, Outcome):
            data = {"hits": samples.hits, "total": samples.total, "rate": _reached(samples)}
            data["interval_95"] = wilson(samples)
        else:
            low, high = min(samples.values), max(samples.values)
            data = {"mean": samples.mean, "range": (low, high), "total": len(samples.values)}
        if row in self.targets:
            data |= {"target": str(self.targets[row]), "met": self.met(row)}
        return data

    def _lines(self) -> list[tuple[str, ...]]:
        """Return the cells of each row, as HEADS names them; the last one tells the target too."""
        return [(row, *_cells(self.targets.get(row), s), self._meaning(row)) for row, s in self._ordered()]

    def _meaning(self, row: str) -> str:
        if row not in self.targets:
            return self.meanings[row]
        return f"{self.meanings[row]}; {self.targets[row]}: {'met' if self.met(row) else 'not met'}"


def _cells(target: Target | None, samples: Samples) -> tuple[str, str, str]:
    """Return the value reached, its interval or range, and the count of samples."""
    if isinstance(samples, Outcome):
        low, high = wilson(samples)
        share = f"{100 * samples.hits / samples.total:.1f} %"
        return share, f"{100 * low:.1f} to {100 * high:.1f}", str(samples.total)
    unit = f" {target.unit}" if target else ""
    low, high = min(samples.values), max(samples.values)
    return f"{samples.mean:.2f}{unit}", f"range {low:.2f} to {high:.2f}", str(len(samples.values))


def _reached(samples: Samples) -> float:
    return samples.hits / samples.total if isinstance(samples, Outcome) else samples.mean


def _joined(first: Samples | None, more: Samples) -> Samples:
    if first is None:
        return more
    if isinstance(first, Outcome) and isinstance(more, Outcome):
        return first + more
    assert isinstance(first, Spread), "a row is counted or measured, not both"
    assert isinstance(more, Spread), "a row is counted or measured, not both"
    return first + more


def wilson(outcome: Outcome) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion. Source: Wilson (1927)."""
    n, p = outcome.total, outcome.hits / outcome.total
    spread = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
    scale = 1 + Z_95**2 / n
    middle = p + Z_95**2 / (2 * n)
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def held_out_scenes(count: int, seed: int, num_frames: int = NUM_FRAMES) -> list[Scene]:
    """Return scenes that training never shows, one kind after the other; the same for the same arguments."""
    scenes, number = [], seed * 1_000_003
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        width, height = BUCKETS[TURNS[index % len(TURNS)]]
        shape = VideoShape(num_frames, height, width)
        while True:
            number += 1
            scene = draw_scene(number, shape, held_out=True)
            if _is_kind(scene, kind):
                scenes.append(scene)
                break
    return scenes


def _is_kind(scene: Scene, kind: str) -> bool:
    actions = [s.action for s in scene.subjects]
    if kind in ("collide", "handover"):
        return scene.interaction == kind
    if kind == "voice":
        return scene.voice is not None
    if kind == "delayed":
        return any(s.delay_s for s in scene.subjects)
    if scene.interaction:
        return False
    if kind.startswith("pair "):
        return len(actions) == 2 and kind.removeprefix("pair ") in actions
    return actions == [kind]


def evaluate(
    generate: Generate, num_prompts: int, seed: int = 0, *, on_clip: Callable[[Scene], None] | None = None
) -> Report:
    """Return a report on the clips of num_prompts held-out scenes.

    generate: makes (frames, waveform) for each scene in order, from caption(scene, full=True), size and frame
    rate; frames and waveform as measure_clip takes them. on_clip: called after each clip.
    """
    report, began = Report(num_prompts, seed), time.monotonic()
    scenes = held_out_scenes(num_prompts, seed)
    for scene, (frames, waveform) in zip(scenes, generate(scenes), strict=True):
        report.add(scene, measure_clip(frames, waveform, scene))
        if on_clip is not None:
            on_clip(scene)
    report.seconds = time.monotonic() - began
    return report


def ground_truth(scenes: Sequence[Scene]) -> Clips:
    """Yield the world's own clips: those of a perfect model."""
    for scene in scenes:
        motion = simulate(scene)
        yield render(scene, motion), synthesize(scene, motion)


def write_overview(clips: Sequence[Frames], path: Path, columns: int = 4) -> None:
    """Write a PNG with a strip of frames per clip, in order, `columns` strips to a row."""
    height = max(frames.shape[1] for frames in clips) // 2
    strips = [np.concatenate(list(frames[:, ::2, ::2]), axis=1) for frames in clips]
    width = max(strip.shape[1] for strip in strips)
    rows = -(-len(strips) // columns)
    page = np.full((rows * (height + GAP), columns * (width + GAP), 3), 24, dtype=np.uint8)
    for index, strip in enumerate(strips):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        page[top : top + strip.shape[0], left : left + strip.shape[1]] = strip
    Image.fromarray(page).save(path)
