"""Many clips: rates with intervals, as a table, JSON or Markdown."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

from soundstage.nano.evaluation.backdrop import Array, Frames
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

Clips = Iterable[tuple[Frames, Array | None]]
Generate = Callable[[list[Scene]], Clips]


@dataclass
class Report:
    """rows: hits and totals. misses: what went wrong, per clip. seconds: spent on making and measuring."""

    num_prompts: int
    seed: int
    rows: dict[str, Outcome] = field(default_factory=dict)
    misses: list[dict[str, object]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, scene: Scene, outcomes: dict[str, Outcome]) -> None:
        for row, outcome in outcomes.items():
            self.rows[row] = self.rows.get(row, Outcome(0, 0)) + outcome
        wrong = [row for row, outcome in outcomes.items() if outcome.hits < outcome.total]
        if wrong:
            self.misses.append({"seed": scene.seed, "caption": caption(scene, full=True), "rows": wrong})

    def rate(self, row: str) -> float:
        return self.rows[row].hits / self.rows[row].total

    def table(self) -> Table:
        table = Table("row", "right", "95 % interval", "samples", "what counts")
        for row, share, interval, total in self._lines():
            table.add_row(row, share, interval, total, ROWS[row])
        return table

    def to_markdown(self) -> str:
        lines = ["| row | right | 95 % interval | samples | what counts |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join((*line, ROWS[line[0]]))} |" for line in self._lines()]
        return "\n".join(lines)

    def to_json(self) -> str:
        rows = {
            row: {
                "hits": outcome.hits,
                "total": outcome.total,
                "rate": outcome.hits / outcome.total,
                "interval_95": wilson(outcome),
            }
            for row, outcome in self._ordered()
        }
        data = {"num_prompts": self.num_prompts, "seed": self.seed, "seconds": round(self.seconds, 1)}
        return json.dumps({**data, "rows": rows, "misses": self.misses}, indent=2)

    def _ordered(self) -> list[tuple[str, Outcome]]:
        return [(row, self.rows[row]) for row in ROWS if row in self.rows]

    def _lines(self) -> list[tuple[str, str, str, str]]:
        lines = []
        for row, outcome in self._ordered():
            low, high = wilson(outcome)
            share = f"{100 * outcome.hits / outcome.total:.1f} %"
            lines.append((row, share, f"{100 * low:.1f} to {100 * high:.1f}", str(outcome.total)))
        return lines


def wilson(outcome: Outcome) -> tuple[float, float]:
    """95 % score interval of a proportion. Source: Wilson (1927)."""
    n, p = outcome.total, outcome.hits / outcome.total
    spread = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
    scale = 1 + Z_95**2 / n
    middle = p + Z_95**2 / (2 * n)
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def held_out_scenes(count: int, seed: int, num_frames: int = NUM_FRAMES) -> list[Scene]:
    """Scenes that training never shows, one kind after the other; the same for the same arguments."""
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
    """Make a clip of each of num_prompts held-out scenes and measure it.

    generate: scenes -> (frames, waveform) of each, in order, as measure_clip takes them; it sees the scene's
    caption(scene, full=True), size and frame rate. on_clip: called after each, for progress.
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
    """The world's own clips: what a perfect model would make."""
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
