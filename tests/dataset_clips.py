"""Small clips, pictures and sounds for tests of datasets: each of its own colour, moving, with a tone."""

from __future__ import annotations

import wave
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from soundstage.clip import Clip


def clip(
    path: Path,
    *,
    shade: int = 90,
    frames: int = 17,
    size: tuple[int, int] = (64, 64),
    fps: float = 24.0,
    tone_hz: float | None = 220.0,
    caption: str | None = None,
) -> Path:
    """Write a clip of a square that moves to the right. tone_hz: None is no sound, 0 a silent one."""
    width, height = size
    pixels = np.full((frames, height, width, 3), shade, np.uint8)
    for index, frame in enumerate(pixels):
        left = (4 + 2 * index + shade) % (width - 16)
        frame[8:24, left : left + 16] = (220, 40 + shade % 100, 40)
        frame[shade % 32 + 28 :, : width // 2] //= 2
    sound = None
    if tone_hz is not None:
        time_s = np.arange(round(48_000 * frames / fps)) / 48_000
        sound = np.repeat((0.3 * np.sin(2 * np.pi * tone_hz * time_s)).astype(np.float32)[None], 2, axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Clip(pixels, sound, fps, {}).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def clips_of_pages(folder: Path) -> None:
    """Write what pages train on: a folder of clips, and a zip of them."""
    for shade in (40, 90):
        clip(folder / "clips" / f"{shade}.mp4", shade=shade, frames=25, caption=f"A square on {shade}.")
    with zipfile.ZipFile(folder / "clips.zip", "w") as archive:
        for file in sorted((folder / "clips").iterdir()):
            archive.write(file, file.name)


def picture(path: Path, size: tuple[int, int] = (64, 64), shade: int = 90) -> Path:
    """Write a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, 0)).save(path)
    return path


def tone(path: Path, *, seconds: float = 2.5, channels: int = 1, rate_hz: int = 44_100) -> Path:
    """Write a WAV file of 16 bits."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    samples = (9000 * np.sin(2 * np.pi * 330 * time_s)).astype("<i2")
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(np.repeat(samples[:, None], channels, axis=1).tobytes())
    return path


def zipped(path: Path, folder: Path, **more: str) -> Path:
    """Write a zip of a folder's files, and of more files by name, as hosted trainers take them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
        for name, content in more.items():
            archive.writestr(name, content)
    return path
