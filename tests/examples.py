"""The examples of --help, README and docs, found where they stand, and the files that they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from soundstage.clip import Clip
from soundstage.library.model_files import SHIPPED_MODELS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").glob("*.md")) if p.name != "cli.md")]


class Example(NamedTuple):
    """A command line or a block of Python, and where it stands."""

    where: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)[1:]


def commands() -> list[Example]:
    """Every `soundstage ...` line of the commands' help and of the pages."""
    return [*_of_help(), *(found for page in PAGES for found in _of_page(page))]


def blocks() -> list[Example]:
    """Every block of Python of the pages."""
    found = []
    for page in PAGES:
        for number, text in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)):
            found.append(Example(f"{page.name}[{number}]", text))
    return found


def _of_help() -> Iterator[Example]:
    from soundstage.cli.program import app

    def walk(command: Any, name: str) -> Iterator[Example]:
        text = re.search(r"Example: (soundstage .*?)(?:\n\n|$)", command.help or "", re.S)
        if text is not None:
            yield Example(f"{name} --help", " ".join(text[1].split()))
        for child in command.list_commands(None) if hasattr(command, "list_commands") else ():
            yield from walk(command.get_command(None, child), f"{name} {child}")

    yield from walk(app, "soundstage")


def _of_page(page: Path) -> Iterator[Example]:
    fenced = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
        text = line if fenced else line[4:] if line.startswith("    ") else ""
        if re.match(r"soundstage [a-z]", text) and not re.search(r"PART|FOLDER|FILE\b|\|[a-z]", text):
            yield Example(page.name, text)


def write_inputs(folder: Path) -> None:
    """Write what examples name: pictures, clips with and without sound, a sound, a LoRA of nano's."""
    frames = np.full((49, 64, 64, 3), 90, np.uint8)
    frames[:, 20:40, 20:40] = (220, 40, 40)
    time_s = np.arange(98_000) / 48_000
    wave = np.repeat((0.2 * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)[None], 2, axis=0)
    for name in ("ball.png", "left.png", "right.png", "door.png", "end.png"):
        Image.fromarray(frames[0]).save(folder / name)
    (folder / "outputs").mkdir()
    for name in ("ball.mp4", "outputs/demo.mp4", "talk.mp4"):
        Clip(frames, wave, 24.0, {"request": {"prompt": "A red ball."}}).save(folder / name)
    Clip(frames, None, 24.0, {}).save(folder / "silent.mp4")
    Clip(None, wave, 24.0, {}).save(folder / "beat.wav")
    (folder / "style.safetensors").symlink_to(SHIPPED_MODELS["nano"] / "distilled_lora.safetensors")
