"""Split films into scenes by PySceneDetect's detectors, fed with frames as all parts here read them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from soundstage.dataset.config import Dataset, Detector, SceneSplitting
from soundstage.dataset.findings import DataFinding, ShowShare
from soundstage.dataset.kept import Scenes, read_scenes, stamp_of, write_scenes
from soundstage.dataset.sources import gather
from soundstage.errors import MissingExtraError
from soundstage.media.load import frames_shown
from soundstage.media.probe import probe

SHORTEST_S = 0.3  # of what a detector may call a scene; flashes are shorter
LOOKED_AT = 240  # pixels of the shorter side that detectors see at most
# The class of each detector, the name of its threshold, and the usual figure.
DETECTORS: Mapping[Detector, tuple[str, str]] = {
    "content": ("ContentDetector", "threshold"),
    "adaptive": ("AdaptiveDetector", "adaptive_threshold"),
    "threshold": ("ThresholdDetector", "threshold"),
    "histogram": ("HistogramDetector", "threshold"),
    "hash": ("HashDetector", "threshold"),
}


def split(dataset: Dataset, report: ShowShare = lambda _: None) -> list[DataFinding]:
    """Find the scenes of every clip that was not split yet, keep them, and return what was left out.

    A clip with times of its own in a table is left alone. report: called with the share that is done. Raises
    MissingExtraError without PySceneDetect, MediaError for a clip that cannot be read.
    """
    detectors = _detectors()
    whole = {item.main for item in gather(dataset).items if not item.start_s and item.end_s is None}
    films = [name for name in sorted(whole) if probe(str(dataset.path(name))).num_frames > 1]
    known = read_scenes(dataset.folder)
    told = []
    for number, name in enumerate(films, 1):
        path, splitting = dataset.path(name), dataset.config.split
        settings = f"{splitting.detector} {splitting.threshold} {splitting.min_s:g}"
        kept = known.get(name)
        if kept is None or not kept.is_of(path) or kept.detector != settings:
            info = probe(str(path))
            cuts = _cuts(str(path), info.num_frames, info.fps or 24.0, splitting, detectors)
            parts, short = _scenes(cuts, info.num_frames / (info.fps or 24.0), splitting.min_s)
            known[name] = Scenes(name, settings, stamp_of(path), parts, short)
            write_scenes(dataset.folder, known.values())
        told += [_short(name, part, splitting.min_s) for part in known[name].short]
        report(number / len(films))
    return told


def _short(name: str, part: tuple[float, float], min_s: float) -> DataFinding:
    message = f"{name}: the scene from {part[0]:.2f} to {part[1]:.2f} s is shorter than {min_s:g} s; left out"
    return DataFinding("short scene", message, name, "notice")


def _detectors() -> Any:
    try:
        import scenedetect
        from scenedetect import detectors
    except ImportError as error:
        raise MissingExtraError("train", "splitting clips into scenes") from error
    return scenedetect, detectors


def _cuts(path: str, num_frames: int, fps: float, splitting: SceneSplitting, package: Any) -> list[float]:
    """Return the seconds at which scenes begin, besides the first."""
    scenedetect, detectors = package
    kind, threshold = DETECTORS[splitting.detector]
    settings: dict[str, Any] = {} if splitting.threshold is None else {threshold: splitting.threshold}
    shortest = max(1, round(SHORTEST_S * fps))
    detector = getattr(detectors, kind)(min_scene_len=shortest, **settings)
    found = []
    code = scenedetect.FrameTimecode(0, fps)
    for index, frame in enumerate(frames_shown(path, [i / fps for i in range(num_frames)])):
        code = scenedetect.FrameTimecode(index, fps)
        step = max(1, min(frame.shape[:2]) // LOOKED_AT)
        found += detector.process_frame(code, np.ascontiguousarray(frame[::step, ::step, ::-1]))
    found += detector.post_process(code)
    return sorted({cut.frame_num / fps for cut in found if cut.frame_num})


def _scenes(
    cuts: list[float], length_s: float, min_s: float
) -> tuple[tuple[tuple[float, float], ...], tuple[tuple[float, float], ...]]:
    """Return the scenes that are long enough, and those that are too short."""
    edges = [0.0, *cuts, length_s]
    parts = [(round(a, 4), round(b, 4)) for a, b in itertools.pairwise(edges)]
    long = tuple(part for part in parts if part[1] - part[0] >= min_s)
    return long, tuple(part for part in parts if part not in long)
