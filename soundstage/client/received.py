"""A clip that came as a file: saving it under the same ending copies the file, and codes nothing again."""

from __future__ import annotations

import shutil
import tempfile
import weakref
import zipfile
from dataclasses import replace
from pathlib import Path

from soundstage.clip import Clip
from soundstage.files import check_writable, whole_file
from soundstage.media.hdr import ARCHIVE, ARCHIVE_FRAMES, ARCHIVE_PREVIEW


class ReceivedClip(Clip):
    """A clip and the file that holds it, which is removed with the clip."""

    _file: Path | None = None  # no field: a clip that is made from this one by `replace` has none

    @classmethod
    def of_file(cls, path: Path, folder: Path) -> ReceivedClip:
        """Open a file and keep it. folder: a temporary one, which goes with the clip."""
        clip = cls.open(path) if path.suffix != f".{ARCHIVE}" else cls._of_archive(path, folder)
        assert isinstance(clip, ReceivedClip)
        object.__setattr__(clip, "_file", path)
        weakref.finalize(clip, shutil.rmtree, folder, ignore_errors=True)
        return clip

    @classmethod
    def _of_archive(cls, path: Path, folder: Path) -> Clip:
        """Open the EXR files of an archive, with the sound of their preview."""
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        clip, preview = cls.open(folder / ARCHIVE_FRAMES), Clip.open(folder / ARCHIVE_PREVIEW)
        return replace(
            clip,
            frames=preview.frames,
            waveform=preview.waveform,
            sample_rate_hz=preview.sample_rate_hz,
            hdr=clip.request.output,
        )

    def save(
        self,
        path: str | Path,
        *,
        quality: int | None = None,
        codec: str | None = None,
        overwrite: bool = True,
    ) -> Path:
        """Write the file that came, if the ending is its own; else what `Clip.save` writes."""
        target = Path(path)
        coded = quality is not None or codec is not None or str(path).endswith("/") or "%" in target.name
        if self._file is None or coded or target.suffix.lower() != self._file.suffix:
            return super().save(path, quality=quality, codec=codec, overwrite=overwrite)
        check_writable(target, (self._file.suffix,), overwrite=overwrite)
        with whole_file(target, overwrite=overwrite) as part:
            shutil.copyfile(self._file, part)
        return target


def new_folder() -> Path:
    """Make a temporary folder for a file that is received."""
    return Path(tempfile.mkdtemp(prefix="soundstage-"))
