"""Review a clip: take its pieces once, measure picture and sound, and let every check look at the figures.

    found = review_clip("ball.mp4", Asked(music=False))
    found.score, found.faults

Pieces are read while they are measured, so that memory does not grow with the clip's length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from soundstage.clip import Clip
from soundstage.errors import MediaError
from soundstage.media.arrays import Pixels
from soundstage.media.clip_pieces import ClipPieces
from soundstage.media.excerpt import Excerpt
from soundstage.review.checks_picture import picture_faults, picture_measures
from soundstage.review.contents import LEAST_S, Ear, content_faults, content_measures
from soundstage.review.levels import LevelMeter, level_faults, level_measures
from soundstage.review.picture import look
from soundstage.review.record import Asked, Fault, Review
from soundstage.review.sync import OnsetMeter, seen_events, sync_faults, synced

SHORT_S = 0.5  # below which motion is not judged


def review_clip(clip: Clip | str | Path, asked: Asked | None = None) -> Review:
    """Return the faults of a clip or file, what was measured, and the score.

    asked: what the clip was meant to be; None is `Asked()`, motion and some sound. Raises MediaError for a
    file that cannot be read.
    """
    asked = asked or Asked()
    pieces = _pieces(clip)
    if pieces.frames is None and pieces.sound is None:
        raise MediaError("the clip holds neither picture nor sound, so there is nothing to review")
    wishes = any(wish is not None for wish in (asked.speech, asked.music, asked.tone))
    faults: list[Fault] = []
    measures: dict[str, Any] = {"duration_s": round(pieces.duration_s, 3)}
    notices: list[str] = []
    seen: list[float] | None = None
    if pieces.frames is not None:
        facts = look(_shown(pieces.frames), pieces.fps)
        faults += picture_faults(facts, asked)
        measures["picture"] = picture_measures(facts)
        seen = seen_events(facts.pushes, pieces.fps)
        if asked.motion and facts.num_frames / facts.fps < SHORT_S:
            notices.append(f"motion is not judged in a clip shorter than {SHORT_S:g} s")
    if pieces.sound is not None:
        rate = pieces.sample_rate_hz
        meter, ear, onsets = LevelMeter(rate), Ear(rate), OnsetMeter(rate)
        for piece in pieces.checked_sound():
            for one in (meter, ear, onsets):
                one.add(piece)
        levels, contents = meter.result(), ear.result()
        faults += [*level_faults(levels, asked), *content_faults(contents, asked)]
        measures["sound"] = level_measures(levels) | content_measures(contents)
        if seen is not None:
            sync = synced(seen, onsets.onsets())
            faults += sync_faults(sync, pieces.duration_s, asked)
            measures["sync"] = asdict(sync)
        if not contents.windows and wishes:
            notices.append(f"speech, music and tones are not judged in a sound shorter than {LEAST_S:g} s")
    elif wishes or asked.loudness_lufs is not None:
        notices.append("the clip has no sound, so that what was asked of it is not judged")
    return Review(tuple(sorted(faults, key=lambda one: (one.start_s, one.check))), measures, tuple(notices))


def _pieces(clip: Clip | str | Path) -> ClipPieces:
    if isinstance(clip, Clip):
        return ClipPieces.of_arrays(clip.frames, clip.fps, clip.waveform, clip.sample_rate_hz)
    return Excerpt.of_file(Path(clip)).pieces()


def _shown(frames: Any) -> Iterator[Pixels]:
    """Yield frames in 8 bits; light as it is previewed."""
    from soundstage.media.hdr import Hdr, is_pixels, shown

    plain = Hdr()
    for frame in frames:
        yield frame if is_pixels(frame) else shown(frame.astype(np.float32), plain)
