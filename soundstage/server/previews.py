"""Small pictures of an asset and its waveform, made once and kept beside the files."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soundstage.errors import MediaError, SoundstageError
from soundstage.files import whole_file
from soundstage.intake.guard import Guard
from soundstage.jobs.views import Asset

if TYPE_CHECKING:
    from soundstage.media.arrays import Pixels
    from soundstage.media.excerpt import Excerpt

MAX_KEPT_BYTES = 512 * 1024 * 1024
QUALITY = 82  # of JPEG
BACKGROUND = (24, 24, 27)


class Previews:
    """Makes previews of files in processes of the guard, and keeps them in a folder, which may be emptied."""

    def __init__(self, folder: Path, guard: Guard, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self._folder, self._guard, self._max_bytes = folder, guard, max_bytes
        self._written = 0

    def thumbnail(self, asset: Asset, path: Path, width: int) -> bytes:
        """Return a JPEG of the first third's frame, or of the waveform of a sound."""
        return self._kept(asset, f"thumbnail-{width}.jpg", "thumbnail", path, width)

    def strip(self, asset: Asset, path: Path, count: int, height: int) -> bytes:
        """Return a JPEG of `count` frames side by side, at equal distances over the whole clip."""
        return self._kept(asset, f"strip-{count}-{height}.jpg", "strip", path, count, height)

    def waveform(self, asset: Asset, path: Path, count: int) -> bytes:
        """Return JSON of the lowest and highest sample of `count` equal parts of the sound, by channel."""
        return self._kept(asset, f"waveform-{count}.json", "waveform", path, count)

    def metadata(self, path: Path) -> bytes:
        """Return JSON of what a file of Soundstage's says of how it was made."""
        return as_bytes(self._guard.call(told, str(path)))

    def forget(self, id: str) -> None:
        """Remove what is kept of an asset."""
        for path in self._folder.glob(f"{id}-*"):
            path.unlink(missing_ok=True)

    def _kept(self, asset: Asset, name: str, maker: str, file: Path, *sizes: int) -> bytes:
        path = self._folder / f"{asset.id}-{asset.sha256[:12]}-{name}"
        try:
            data = path.read_bytes()
            os.utime(path)
            return data
        except FileNotFoundError:
            pass
        data = base64.b64decode(self._guard.call(made, maker, str(file), *sizes))
        self._folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_bytes(data)
        self._written += len(data)
        if self._written > self._max_bytes // 10:
            self._written = 0
            self._prune()
        return data

    def _prune(self) -> None:
        """Remove what was not asked for the longest, until the rest is small enough."""
        found = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in found:
            total += path.stat().st_size
            if total > self._max_bytes:
                path.unlink(missing_ok=True)


def made(maker: str, path: str, *sizes: int) -> str:
    """Return a preview's bytes in Base64. Runs in a process of the guard."""
    makers: dict[str, Callable[..., bytes]] = {
        "thumbnail": _thumbnail,
        "strip": _strip,
        "waveform": _waveform,
    }
    try:
        return base64.b64encode(makers[maker](_read(Path(path)), *sizes)).decode()
    except SoundstageError as error:
        error.args = (str(error).replace(path, "the file"), *error.args[1:])
        raise


def told(path: str) -> dict[str, Any]:
    """Return what a file says of how it was made; the request is None in one that is not Soundstage's.

    Runs in a process of the guard.
    """
    from soundstage.clip import known_provenance

    provenance = known_provenance(Path(path))
    request = provenance.get("request")
    return {
        "object": "metadata",
        "request": request if isinstance(request, dict) else None,
        "provenance": provenance,
    }


def _read(path: Path) -> Excerpt:
    from soundstage.media.excerpt import Excerpt

    return Excerpt.of_file(path)


def _thumbnail(clip: Excerpt, width: int) -> bytes:
    from PIL import Image

    if not clip.num_frames:
        from soundstage.media.image import sheet

        picture = sheet([], clip.loudness())
    else:
        [frame] = _frames(clip, [clip.start_s + clip.num_frames // 3 / clip.fps])
        picture = Image.fromarray(frame)
    picture.thumbnail((width, width), Image.Resampling.LANCZOS)
    return _jpeg(picture)


def _strip(clip: Excerpt, count: int, height: int) -> bytes:
    from PIL import Image

    if not clip.num_frames:
        raise MediaError("the file is sound alone; it has no frames, see its waveform")
    indices = [min(clip.num_frames - 1, int((i + 0.5) * clip.num_frames / count)) for i in range(count)]
    width = max(1, round(height * clip.size[0] / clip.size[1]))
    strip = Image.new("RGB", (width * count, height), BACKGROUND)
    for i, frame in enumerate(_frames(clip, [clip.start_s + index / clip.fps for index in indices])):
        strip.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR), (i * width, 0))
    return _jpeg(strip)


def _frames(clip: Excerpt, times_s: Sequence[float]) -> Sequence[Pixels]:
    import numpy as np

    from soundstage.media.load import frames_shown

    return [np.ascontiguousarray(frame) for frame in frames_shown(str(clip.path), times_s)]


def _waveform(clip: Excerpt, count: int) -> bytes:
    import numpy as np

    loudness = clip.loudness()
    if loudness is None:
        raise MediaError("the file has no sound; it has no waveform")
    spans = loudness.reshape(2, -1, 2)  # channel, span, (lowest, highest)
    edges = np.linspace(0, spans.shape[1], min(count, spans.shape[1]) + 1).astype(int)[:-1]
    low = np.minimum.reduceat(spans[..., 0], edges, axis=1)
    high = np.maximum.reduceat(spans[..., 1], edges, axis=1)
    channels = [
        [[round(float(a), 3), round(float(b), 3)] for a, b in zip(lows, highs, strict=True)]
        for lows, highs in zip(low, high, strict=True)
    ]
    return json.dumps({"object": "waveform", "duration_s": clip.sound_s, "channels": channels}).encode()


def _jpeg(picture: Any) -> bytes:
    held = io.BytesIO()
    picture.convert("RGB").save(held, "JPEG", quality=QUALITY)
    return held.getvalue()


def as_bytes(data: Any) -> bytes:
    """Return JSON. Bytes of a file name that are not UTF-8 become escapes; what is no number is null."""
    return json.dumps(_plain(data)).encode()


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
