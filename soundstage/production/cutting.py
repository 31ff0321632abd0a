"""Lengths of shots in the cut: what J cuts, L cuts and transitions take of them, before a frame is made.

The rules are those of the editing's grid, which refuses the same when the shots are there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from soundstage.errors import num_of
from soundstage.production.shots import ShotRequest


@dataclass(frozen=True)
class ShotLength:
    """A shot's length. clip_frames: those of its clip without the lead. fps: their rate."""

    made: ShotRequest
    clip_frames: int
    fps: float

    @property
    def frames(self) -> int:
        """Return the frames that are in the film: a J or L cut hears the others and does not show them."""
        shot = self.made.shot
        return self.clip_frames - round((shot.sound_lead_s + shot.sound_lag_s) * self.fps)

    def overlap(self) -> int:
        """Return the frames that it shares with the shot before, in a dissolve."""
        shot = self.made.shot
        return round(shot.transition_s * self.fps) if shot.transition == "dissolve" else 0

    def rise(self) -> int:
        """Return the frames in which it comes up from black."""
        shot = self.made.shot
        fade = round(shot.transition_s * self.fps) if shot.transition == "fade" else 0
        return fade if self.made.number == 1 else fade - fade // 2

    def taken(self) -> int:
        """Return the frames that its transition takes of the shot before."""
        shot = self.made.shot
        return round(shot.transition_s * self.fps) // 2 if shot.transition == "fade" else self.overlap()


def film_frames(lengths: Sequence[ShotLength]) -> int:
    """Return the frames of the film."""
    return sum(one.frames - one.overlap() for one in lengths)


def cut_refusals(lengths: Sequence[ShotLength], standing_in: Collection[int] = ()) -> list[str]:
    """Return a sentence for each shot that is too short for its transitions, its J cut or its L cut.

    standing_in: numbers of shots that are left out.
    """
    told = []
    for i, one in enumerate(lengths):
        if one.made.number in standing_in:
            continue
        name = f"shot {one.made.number} ({one.made.id})"
        begin, end = one.overlap() + one.rise(), lengths[i + 1].taken() if i + 1 < len(lengths) else 0
        if one.frames < 1:
            told.append(
                f"{name}: sound_lead_s and sound_lag_s take all of its {num_of(one.clip_frames, 'frame')}; "
                "make them shorter, or the shot longer"
            )
        elif begin + end > one.frames:
            told.append(
                f"{name}: it has {num_of(one.frames, 'frame')} in the film, and the transitions at its "
                f"beginning and end take {begin} and {end} of them; make transition_s shorter, or the shot "
                "longer"
            )
    return told
