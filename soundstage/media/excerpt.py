"""An excerpt of a file of any kind: all of it or a part, at its own rate and size or others, in pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from soundstage.errors import MediaError, shown
from soundstage.media.arrays import Light, Pixels, Waveform
from soundstage.media.check import picture_notice, sound_notice
from soundstage.media.clip_pieces import ClipPieces
from soundstage.media.hdr import is_pixels
from soundstage.media.image import shown_frames
from soundstage.media.load import frames_shown, light_shown, load_sound
from soundstage.media.probe import Info, probe

PLAIN_FPS = 24.0  # of a still picture that becomes a clip
BLOCK_S = 20.0  # of sound are decoded at once
CHECKED_S = 60.0  # of sound are looked through for damage before the work
MAX_SIDE = 16384  # pixels
NUM_SPANS = 16_000  # of sound on a contact sheet, ten to a column of pixels
SIZES = "WIDTHxHEIGHT, WIDTHx, xHEIGHT, a height such as 480p, or a share such as 50%"


@dataclass(frozen=True)
class Excerpt:
    """A checked part of a file, from start_s on. It costs nothing until its pieces are taken.

    num_frames: at fps, 0 for sound alone. size: that of frames when they are read, 0 without. sound_s:
    length of the sound that is read, None without. told: what is changed when the file is read. has_light:
    its pictures can be read as light.
    """

    path: Path
    start_s: float
    duration_s: float
    num_frames: int
    fps: float
    size: tuple[int, int]
    sound_s: float | None
    told: tuple[str, ...] = ()
    has_light: bool = False

    @classmethod
    def of_file(cls, path: Path, start_s: float = 0.0, end_s: float | None = None) -> Excerpt:
        """Return one that begins and ends at frames of the file. Raises MediaError for one outside."""
        info = probe(str(path))
        fps = info.fps or PLAIN_FPS
        whole_s = info.num_frames / fps if info.num_frames else info.sound_s or 0.0
        first_s, last_s = _cut(path, info, start_s, whole_s if end_s is None else end_s, whole_s)
        count = round((last_s - first_s) * fps) if info.num_frames else 0
        found = cls(
            path,
            first_s,
            last_s - first_s,
            count,
            fps,
            (info.width, info.height),
            None,
            info.notices,
            info.light,
        )
        return found._with_sound(info, last_s - first_s)

    def _with_sound(self, info: Info, length_s: float | None) -> Excerpt:
        """Return the excerpt with the file's sound, as far as there is one. length_s: None is all of it."""
        left_s = 0.0 if info.sound_s is None else info.sound_s - self.start_s
        heard_s = left_s if length_s is None else min(left_s, length_s)
        return replace(self, sound_s=heard_s if heard_s > 0 else None)

    def at_rate(self, fps: float) -> Excerpt:
        """Return the excerpt with so many frames a second: each is the one that is shown then."""
        return replace(self, fps=fps, num_frames=max(1, round(self.duration_s * fps)))

    def still(self, at_s: float) -> Excerpt:
        """Return the one frame at a time. Raises MediaError for one that is not within."""
        if not 0 <= at_s <= self.duration_s:
            raise MediaError(
                f"at_s is {at_s:g}, and {self.path} lasts {self.duration_s:.4g} s; give a time within it"
            )
        last_s = (self.num_frames - 1) / self.fps
        return replace(self, start_s=min(at_s, last_s), duration_s=1 / self.fps, num_frames=1, sound_s=None)

    def picture_alone(self) -> Excerpt:
        return replace(self, sound_s=None)

    def sound_alone(self, info: Info, *, to_end: bool) -> Excerpt:
        """Return the sound without the picture. to_end: with what is heard after the picture."""
        heard = self._with_sound(info, None) if to_end else self
        return replace(heard, num_frames=0, size=(0, 0), duration_s=heard.sound_s or 0.0)

    def notices(self) -> list[str]:
        """Return what is changed or damaged but bridged. Raises MediaError for what cannot be read at all."""
        found: list[str | None] = [*self.told]
        if self.num_frames:
            times_s = self._times_s()
            found.append(picture_notice(str(self.path), times_s[0], times_s[-1]))
        if self.sound_s is not None and self.sound_s <= CHECKED_S:
            found.append(sound_notice(str(self.path), self.start_s, self.sound_s))
        return [notice for notice in found if notice is not None]

    def pieces(self, *, light: bool = False) -> ClipPieces:
        """Return the pieces, which are read while they are taken. light: as light where the file has it."""
        sound, rate = None, 48_000
        if self.sound_s is not None:
            rate = load_sound(str(self.path), self.start_s, 1 / BLOCK_S)[1]
            sound = self._sound()
        frames = self._frames(light) if self.num_frames else None
        return ClipPieces(frames, self.num_frames, self.size, self.fps, sound, rate, self.duration_s)

    def overview(self) -> list[tuple[float, Pixels]]:
        """Return the frames of a contact sheet with their times."""
        if not self.num_frames:
            return []
        times_s = [index / self.fps for index in shown_frames(self.num_frames)]
        frames = frames_shown(str(self.path), [self.start_s + time_s for time_s in times_s])
        return list(zip(times_s, frames, strict=True))

    def loudness(self) -> Waveform | None:
        """Return the lowest and highest samples of short spans, for a contact sheet; None without sound."""
        if self.sound_s is None:
            return None
        count = max(1, int(self.sound_s * self.pieces().sample_rate_hz / NUM_SPANS))
        return np.concatenate([_extremes(piece, count) for piece in self._sound()], 1)

    def _times_s(self) -> list[float]:
        return [self.start_s + i / self.fps for i in range(self.num_frames)]

    def _frames(self, light: bool) -> Iterator[Pixels | Light]:
        width, height = self.size
        before = scaled = None
        read = light_shown if light else frames_shown
        for frame in read(str(self.path), self._times_s(), at_least=self.size):
            if frame.shape[:2] == (height, width):
                yield frame
                continue
            if frame is not before:  # one that is held is scaled once
                scaled = _scaled(frame, self.size)
            before = frame
            assert scaled is not None
            yield scaled

    def _sound(self) -> Iterator[Waveform]:
        assert self.sound_s is not None
        done_s = 0.0
        while done_s < self.sound_s - 1e-6:
            length_s = min(BLOCK_S, self.sound_s - done_s)
            yield load_sound(str(self.path), self.start_s + done_s, length_s)[0]
            done_s += length_s


def _scaled(frame: Pixels | Light, size: tuple[int, int]) -> Pixels | Light:
    """Return a frame scaled to a width and height; light channel by channel."""
    from PIL import Image

    if is_pixels(frame):
        picture = Image.fromarray(np.ascontiguousarray(frame))
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    channels = [Image.fromarray(np.ascontiguousarray(frame[..., i])) for i in range(3)]
    scaled = [np.asarray(channel.resize(size, Image.Resampling.LANCZOS)) for channel in channels]
    light: Light = np.maximum(np.stack(scaled, axis=-1), 0)
    return light


def _extremes(piece: Waveform, count: int) -> Waveform:
    """Return the lowest and the highest of each `count` samples of a piece (2, n), one after the other."""
    whole = np.pad(piece, ((0, 0), (0, -piece.shape[1] % count)), mode="edge").reshape(2, -1, count)
    return np.stack([whole.min(axis=2), whole.max(axis=2)], axis=2).reshape(2, -1)


def _cut(path: Path, info: Info, start_s: float, end_s: float, whole_s: float) -> tuple[float, float]:
    """Return the start and the end at frames."""
    fps = info.fps or PLAIN_FPS
    if not 0 <= start_s < end_s <= whole_s + 0.5 / fps:
        raise MediaError(
            f"span is {start_s:g} to {end_s:g} s, and {path} lasts {whole_s:.4g} s; give a start and a later "
            "end within it"
        )
    if not info.num_frames:
        return start_s, min(end_s, whole_s)
    first, last = round(start_s * fps), round(end_s * fps)
    if first == last:
        raise MediaError(f"span is {start_s:g} to {end_s:g} s, where there is no frame; give a longer one")
    return first / fps, last / fps


def scaled_size(text: str, own: tuple[int, int]) -> tuple[int, int]:
    """Return the size that words ask for, in the shape of the own one, which is never distorted.

    Two sides are a box that it fits into. Raises MediaError for other words, and for too large sides.
    """
    width, height = own
    factor = None
    box = re.fullmatch(r"\s*(\d{0,6})\s*[xX*:]\s*(\d{0,6})\s*", text)
    if box is not None and (box[1] or box[2]):
        factors = [int(side) / o for side, o in zip(box.groups(), own, strict=True) if side]
        factor = min(factors)
    elif lines := re.fullmatch(r"(\d{1,6})p", text):
        factor = int(lines[1]) / min(own)
    elif share := re.fullmatch(r"(\d{1,4}(?:\.\d+)?)%", text):
        factor = float(share[1]) / 100
    if not factor:
        raise MediaError(f"size is {shown(text)}; give {SIZES}")
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if max(size) > MAX_SIDE:
        raise MediaError(
            f"size is {shown(text)}, which is {size[0]}x{size[1]}; give at most {MAX_SIDE} a side"
        )
    return size
