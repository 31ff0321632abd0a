"""A finished clip: pictures, sound, and how they were made."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError
from soundstage.files import check_writable
from soundstage.request.request import Request
from soundstage.types import OUTPUT_RATE_HZ

TAG = "soundstage"  # key of our JSON in a file's "comment" tag
VIDEO_SUFFIXES, AUDIO_SUFFIXES = (".mp4", ".m4v", ".mov"), (".wav",)


@dataclass(frozen=True)
class Clip:
    """A finished clip.

    frames: (F, H, W, 3) uint8 RGB, or None for sound alone. waveform: (2, n) float32 in [-1, 1] at
    48 kHz, or None for a silent picture. provenance: JSON-ready; "request" gives the clip again.
    """

    frames: NDArray[np.uint8] | None
    waveform: NDArray[np.float32] | None
    fps: float
    provenance: dict[str, Any] = field(default_factory=dict)
    sample_rate_hz: int = OUTPUT_RATE_HZ

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return the file endings that `save` accepts for this clip."""
        return AUDIO_SUFFIXES if self.frames is None else VIDEO_SUFFIXES

    def save(self, path: str | Path, *, overwrite: bool = True) -> Path:
        """Write MP4, or WAV for sound alone, with the provenance as metadata; return the path.

        overwrite: an existing file is replaced, once the new one is complete; False refuses it. Raises
        MediaError for a name or folder that cannot be written; the clip can then be saved elsewhere.
        """
        from soundstage.media.write import write_mp4, write_wav

        path = Path(path)
        check_writable(path, self.suffixes, overwrite=overwrite)
        metadata = {"comment": _json({TAG: self.provenance})}
        if "request" in self.provenance:
            metadata["title"] = self.provenance["request"]["prompt"]
        if self.frames is not None:
            write_mp4(
                path,
                self.frames,
                self.fps,
                waveform=self.waveform,
                sample_rate_hz=self.sample_rate_hz,
                metadata=metadata,
                overwrite=overwrite,
            )
        elif self.waveform is not None:
            write_wav(
                path,
                self.waveform,
                sample_rate_hz=self.sample_rate_hz,
                metadata=metadata,
                overwrite=overwrite,
            )
        return path

    def contact_sheet(self, path: str | Path, *, overwrite: bool = True) -> Path:
        """Write a PNG of frames over the waveform. overwrite: see `save`. Returns the path."""
        from soundstage.media.image import contact_sheet

        path = Path(path)
        check_writable(path, (".png",), overwrite=overwrite)
        contact_sheet(
            path,
            self.frames,
            self.waveform,
            self.fps,
            sample_rate_hz=self.sample_rate_hz,
            overwrite=overwrite,
        )
        return path

    @property
    def request(self) -> Request:
        """Return the request that made this clip."""
        return Request(**self.provenance["request"])


def _json(data: Any) -> str:
    """Return JSON in plain letters, or escaped if UTF-8 cannot hold them, as in some file names."""
    text = json.dumps(data, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(data)
    return text


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Return the provenance in a file of `Clip.save`. Raises MediaError for a file that holds none."""
    from soundstage.media.container import read_metadata
    from soundstage.media.picture import is_picture

    if is_picture(Path(path)):
        raise MediaError(f"{path} is a picture, which does not say how it was made; give the film itself")
    comment = read_metadata(Path(path)).get("comment", "")
    try:
        data = json.loads(comment)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or TAG not in data:
        raise MediaError(f"{path} does not say how it was made; only files saved by soundstage do")
    return dict(data[TAG])
