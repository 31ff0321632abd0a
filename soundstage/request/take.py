"""How a long take is cut and joined: a field of a request. The windows themselves are made by planning."""

from __future__ import annotations

from dataclasses import dataclass

from soundstage.errors import RequestError


@dataclass(frozen=True)
class Take:
    """How a long take is cut and joined.

    window_frames: length of a window, 8k + 1; None is the length the model makes best. overlap_frames: how
    much of the window before is given, a multiple of 8 from 16; None is a quarter of a window. strength: 1
    keeps what is given, less lets it change and crossfades. reference: strength at which later windows see
    the take's first frame, as if it stood just before them; 0 is off. adain: 0 to 1, how far each window's
    latents are brought to the first one's mean and deviation. color: 0 to 1, the same for the colours of
    the finished frames. folder: keeps finished windows, so that a take that was stopped goes on from there.

    Raises RequestError naming a value out of range.
    """

    window_frames: int | None = None
    overlap_frames: int | None = None
    strength: float = 1.0
    reference: float = 1.0
    adain: float = 0.0
    color: float = 0.0
    folder: str | None = None

    def __post_init__(self) -> None:
        for name in ("strength", "reference", "adain", "color"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise RequestError(f"take {name} is {value:g}; give a number from 0 to 1", field="take")
        if self.window_frames is not None and (self.window_frames < 17 or (self.window_frames - 1) % 8):
            raise RequestError(
                f"take window_frames is {self.window_frames}; give 8k + 1 frames, 17 or more", field="take"
            )
        if self.overlap_frames is not None and (self.overlap_frames < 16 or self.overlap_frames % 8):
            raise RequestError(
                f"take overlap_frames is {self.overlap_frames}; give a multiple of 8, 16 or more",
                field="take",
            )
