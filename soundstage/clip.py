"""A finished clip: pictures, sound, and how they were made."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from soundstage.errors import MediaError, RequestError
from soundstage.files import check_writable
from soundstage.media import formats
from soundstage.media.arrays import LightFrames
from soundstage.media.clip_pieces import ClipPieces
from soundstage.media.hdr import Hdr
from soundstage.request.request import Request
from soundstage.types import OUTPUT_RATE_HZ

if TYPE_CHECKING:
    from PIL import Image

TAG = "soundstage"  # key of our JSON in a file's "comment" tag
SHORT_PROMPT = 60  # letters of a prompt in a repr
NOTEBOOK_QUALITY = 50  # a notebook keeps the whole file in itself
SHOWN_APART = (
    "prompt",
    "modalities",
)  # a request's fields that are shown in another way, or by the clip itself


@dataclass(frozen=True, repr=False)
class Clip:
    """A finished clip.

    frames: (F, H, W, 3) uint8 RGB, or None for sound alone. waveform: (2, n) float32 in [-1, 1] at
    48 kHz, or None for a silent picture. provenance: JSON-ready; "request" gives the clip again. linear: the
    frames in high dynamic range, (F, H, W, 3) float16 linear light of BT.709 in which 1 is diffuse white;
    `frames` are then their preview. hdr: how they are written and shown.
    """

    frames: NDArray[np.uint8] | None
    waveform: NDArray[np.float32] | None
    fps: float
    provenance: dict[str, Any] = field(default_factory=dict)
    sample_rate_hz: int = OUTPUT_RATE_HZ
    linear: LightFrames | None = None
    hdr: Hdr | None = None

    @classmethod
    def open(cls, path: str | Path) -> Clip:
        """Read a clip, sound or picture of any kind, with the provenance that Soundstage saved in it.

        Frames come at a constant rate, as players show them, in 8 bits and BT.709: see docs/media.md. What is
        changed on the way is a warning. Raises MediaError for a file that cannot be read, or that is too
        large for this machine's memory; `ss.convert` takes it.
        """
        from soundstage.media.excerpt import Excerpt

        excerpt = Excerpt.of_file(Path(path))
        for notice in excerpt.notices():
            warnings.warn(f"{path}: {notice}", stacklevel=2)
        frames, waveform, rate = excerpt.pieces().arrays()
        clip = cls(frames, waveform, excerpt.fps, known_provenance(path), rate)
        if not excerpt.has_light:
            return clip
        return replace(clip, linear=excerpt.picture_alone().pieces(light=True).arrays()[0], hdr=Hdr())

    @property
    def duration_s(self) -> float:
        """Return the length of the picture in seconds, or of sound alone."""
        if self.frames is not None:
            return len(self.frames) / self.fps
        return 0.0 if self.waveform is None else self.waveform.shape[1] / self.sample_rate_hz

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return the file endings that `save` accepts for this clip."""
        return formats.endings(self._num_frames)

    @property
    def audio(self) -> Clip:
        """Return the sound alone, as a clip of its own. Raises MediaError for a silent clip."""
        if self.waveform is None:
            raise MediaError("the clip is silent; it has no sound to give alone")
        return replace(self, frames=None, linear=None, hdr=None)

    def save(
        self,
        path: str | Path,
        *,
        quality: int | None = None,
        codec: str | None = None,
        overwrite: bool = True,
    ) -> Path:
        """Write the file that the name's ending asks for, with the provenance as metadata; return the path.

        A name with %04d, or a folder that ends in "/", takes each frame as a PNG picture, or EXR where `hdr`
        says so. quality: 1 to 100, larger is better and takes more room. codec: one of the ending's, see
        docs/media.md; left out, the usual one or that of `hdr`. overwrite: an existing file is replaced, once
        the new one is complete; False refuses it. Raises MediaError for a name or folder that cannot be
        written; the clip can then be saved elsewhere.
        """
        output = formats.output(path, self._num_frames, codec=codec, quality=quality, hdr=self.hdr)
        output.check(self._num_frames, overwrite=overwrite)
        frames = self.linear if output.codec.light and self.linear is not None else self.frames
        pieces = ClipPieces.of_arrays(frames, self.fps, self.waveform, self.sample_rate_hz)
        resized = output.resized(*pieces.size)
        if resized is not None:
            warnings.warn(f"the clip {resized}", stacklevel=2)
        write_clip(output, pieces, self.provenance, overwrite=overwrite)
        return output.path

    @overload
    def contact_sheet(self, path: None = None) -> Image.Image: ...

    @overload
    def contact_sheet(self, path: str | Path, *, overwrite: bool = True) -> Path: ...

    def contact_sheet(self, path: str | Path | None = None, *, overwrite: bool = True) -> Image.Image | Path:
        """Return a PIL picture of frames over the waveform, or write it as PNG and return the path.

        The PNG keeps the provenance as a file of the clip does.

        overwrite: see `save`.
        """
        from soundstage.media.image import contact_sheet

        if path is None:
            return contact_sheet(self.frames, self.waveform, self.fps)
        from soundstage.media.picture_files import save_picture

        path = Path(path)
        check_writable(path, (".png",), overwrite=overwrite)
        save_picture(path, self.contact_sheet(), comment=_comment(self.provenance), overwrite=overwrite)
        return path

    def to_pil(self) -> list[Image.Image]:
        """Return the frames as PIL pictures. Raises MediaError for sound alone."""
        from PIL import Image

        if self.frames is None:
            raise MediaError("the clip is sound alone; it has no frames to give as pictures")
        return [Image.fromarray(frame) for frame in self.frames]

    def trim(self, start_s: float = 0.0, end_s: float | None = None) -> Clip:
        """Return the stretch from start_s to end_s, with its sound.

        It begins and ends between frames: at the nearest ones. The samples stay as they are. The provenance
        is the whole clip's, and "changes" has the stretch. end_s: None is the clip's end. Raises MediaError
        for a stretch that is not within the clip or holds nothing.
        """
        end_s = self.duration_s if end_s is None else end_s
        rate = self.sample_rate_hz if self.frames is None else self.fps
        if not 0 <= start_s <= end_s <= self.duration_s + 0.5 / rate:
            raise MediaError(
                f"the stretch is {start_s:g} to {end_s:g} s, and the clip lasts {self.duration_s:.4g} s; "
                "give a start and a later end within it"
            )
        first, last = round(start_s * rate), round(end_s * rate)
        if first == last:
            raise MediaError(f"from {start_s:g} to {end_s:g} s there is no frame; give a longer stretch")
        start, end = first / rate, last / rate
        waveform = self.waveform
        if waveform is not None:
            waveform = waveform[:, round(start * self.sample_rate_hz) : round(end * self.sample_rate_hz)]
        frames = None if self.frames is None else self.frames[first:last]
        linear = None if self.linear is None else self.linear[first:last]
        told = changed(self.provenance, {"trimmed_s": [start, end]})
        return replace(self, frames=frames, linear=linear, waveform=waveform, provenance=told)

    @property
    def request(self) -> Request:
        """Return the request that made this clip. Raises RequestError for a clip that does not say."""
        if not self._asked:
            raise RequestError("the clip does not say how it was made; only those that Soundstage made do")
        return Request(**{str(name): value for name, value in self._asked.items()})

    @property
    def _asked(self) -> Mapping[str, Any]:
        """Return the fields of the request; none where the provenance has no such fields."""
        asked = self.provenance.get("request")
        return asked if isinstance(asked, Mapping) else {}

    @property
    def _num_frames(self) -> int:
        return 0 if self.frames is None else len(self.frames)

    def __repr__(self) -> str:
        asked = self._asked
        prompt = str(asked.get("prompt", ""))
        short = prompt if len(prompt) <= SHORT_PROMPT else f"{prompt[: SHORT_PROMPT - 3]}..."
        told = [*self._facts().values()]
        told += [f"{short!r}"] if short else []
        told += [f"seed {asked['seed']}"] if "seed" in asked else []
        return f"<Clip: {', '.join(told)}>"

    def _facts(self) -> dict[str, str]:
        """Return what the clip holds, in words."""
        facts = {}
        if self.frames is not None:
            count, height, width = self.frames.shape[:3]
            s = "" if count == 1 else "s"
            facts["picture"] = f"{width}x{height}, {count} frame{s} at {self.fps:g} fps"
        rate = f"sound at {self.sample_rate_hz / 1000:g} kHz"
        facts["sound"] = "silent" if self.waveform is None else rate
        facts["length"] = f"{self.duration_s:.4g} s"
        return facts

    def _repr_html_(self) -> str:
        """Return a player with the clip in itself, and the settings, for a notebook."""
        from soundstage.media.player import player

        shown, ending, mime = self, ".mp4", "video/mp4"
        if self.frames is None:
            ending, mime = ".m4a", "audio/mp4"
        elif len(self.frames) == 1 and self.waveform is None:
            ending, mime = ".png", "image/png"
        else:
            height, width = (side // 2 * 2 for side in self.frames.shape[1:3])
            shown = replace(self, frames=self.frames[:, :height, :width])
        quality = None if ending == ".png" else NOTEBOOK_QUALITY
        with tempfile.TemporaryDirectory() as folder:
            data = shown.save(Path(folder) / f"clip{ending}", quality=quality).read_bytes()
        return player(data, mime, self._settings())

    def _settings(self) -> dict[str, object]:
        """Return what the clip holds and what was asked for, without what was left out."""
        asked = self._asked
        told: dict[str, object] = {"prompt": asked["prompt"]} if "prompt" in asked else {}
        told.update(self._facts())
        if "model" in self.provenance:
            told["model"] = self.provenance["model"]
        plain = Request(prompt="-").to_dict()
        told.update({k: v for k, v in asked.items() if k not in SHOWN_APART and v != plain.get(k)})
        return told | {"seed": asked["seed"]} if "seed" in asked else told


def write_clip(
    output: formats.Output, pieces: ClipPieces, provenance: Mapping[str, Any], *, overwrite: bool = True
) -> None:
    """Write a clip with its provenance. Raises MediaError for a file that cannot be written."""
    if output.format.kind in ("animation", "picture"):
        from soundstage.media.picture_files import write_pictures

        write_pictures(output, pieces, comment=_comment(provenance), overwrite=overwrite)
        return
    from soundstage.media.write import write_film, write_sound

    metadata = {"comment": _json({TAG: provenance})} if provenance else {}
    asked = provenance.get("request")
    if isinstance(asked, Mapping) and isinstance(asked.get("prompt"), str):
        metadata["title"] = asked["prompt"]
    write = write_sound if pieces.frames is None else write_film
    write(output, pieces, metadata=metadata, overwrite=overwrite)


def changed(provenance: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of a clip that was made from a finished one, such as by {"trimmed_s": [0, 1]}."""
    before = provenance.get("changes", [])
    return {**provenance, **({"changes": [*before, dict(changes)]} if changes else {})}


def known_provenance(path: str | Path) -> dict[str, Any]:
    """Return the provenance in a file, empty where it holds none."""
    try:
        return read_provenance(path)
    except MediaError:
        return {}


def _comment(provenance: Mapping[str, Any]) -> str:
    """Return the provenance as pictures keep it, in ASCII; empty where there is none."""
    return json.dumps({TAG: provenance}) if provenance else ""


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
    from soundstage.media.exr_sequence import exr_clip, is_exr_clip
    from soundstage.media.picture import is_picture, picture_comment

    pictured = is_picture(Path(path))
    if is_exr_clip(Path(path)):
        comment = exr_clip(Path(path)).header.comment
    elif pictured:
        comment = picture_comment(Path(path))
    else:
        tags = {name.lower(): value for name, value in read_metadata(Path(path)).items()}
        comment = tags.get("comment", "")
    try:
        data = json.loads(comment)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not isinstance(data.get(TAG), dict):
        if pictured:
            raise MediaError(f"{path} is a picture, which does not say how it was made; give the film itself")
        raise MediaError(f"{path} does not say how it was made; only files saved by soundstage do")
    return dict(data[TAG])
