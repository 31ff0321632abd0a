"""The code of README, docs and --help, found where it stands, and the files that it names.

A page has its code in fenced blocks whose language says what is done with them:

    python           run, the blocks of a page in order with common names
    bash             commands, one on each line, run
    console          "$ command" and what it prints: run, and compared line by line. Numbers may differ,
                     and "..." stands for anything
    json yaml toml   read; with a first line such as "# mine.yaml" it is the file of that name
    text             no code

Commands may also stand in indented lines and, named only, within backticks.
"""

from __future__ import annotations

import atexit
import functools
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from soundstage.clip import Clip
from soundstage.library.catalog import MODELS
from soundstage.library.convert import convert
from soundstage.library.installed import Library
from soundstage.library.model_files import AUDIO_VAE, SHIPPED_MODELS, TEXT, TRANSFORMER, VIDEO_VAE
from tests.comfy_graphs import two_passes
from tests.tiny_model import write_tiny_layouts

ROOT = Path(__file__).parents[1]
GENERATED = ("cli.md",)  # its examples are those of --help
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name not in GENERATED)]
PROGRAMS = ("soundstage", "python", "make", "pip", "export", "cat", "printf", "echo", ". ")
PART_FILES = {
    "transformer.safetensors": TRANSFORMER, "vae.safetensors": VIDEO_VAE, "audio.safetensors": AUDIO_VAE,
    "gemma": TEXT,
}  # fmt: skip
KINDS = ("python", "command", "json", "yaml", "toml", "text")


class Example(NamedTuple):
    """One block of Python or data, or one command with the lines that a page shows below it.

    page: its path below the root, or the command whose help it is. line: the first is 1.
    """

    page: str
    line: int
    kind: str
    text: str
    shown: str | None = None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


def examples() -> list[Example]:
    """Everything that may be run, of the pages in their order and then of the commands' help."""
    return [*(found for page in PAGES for found in of_page(page)), *of_help()]


def of_page(page: Path) -> Iterator[Example]:
    """Every block of a page; those of shell commands taken apart."""
    name = page.relative_to(ROOT).as_posix()
    block: list[str] = []
    language, begin = None, 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```") and language is None:
            language, begin, block = line[3:].strip() or "unmarked", number + 1, []
        elif line.startswith("```"):
            assert language is not None
            yield from _of_block(Example(name, begin, language, "\n".join(block) + "\n"))
            language = None
        elif language is not None:
            block.append(line)
        elif line.startswith("    ") and line[4:].startswith(PROGRAMS):
            yield Example(name, number, "command", without_remark(line[4:]))


def _of_block(block: Example) -> Iterator[Example]:
    """Take a block of commands apart; any other is one example."""
    if block.kind not in ("bash", "console"):
        yield block
        return
    at, command, shown = block.line, "", ""
    # A line that ends in a backslash goes on; the number of the last one is that of the command.
    lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
    for number, line in enumerate(lines, block.line):
        begins = line.startswith("$ ") if block.kind == "console" else bool(without_remark(line))
        if not begins:
            shown += line + "\n"
            continue
        if command:
            yield Example(block.page, at, "command", command, shown or None)
        at, command, shown = number, without_remark(line.removeprefix("$ ")), ""
    if command:
        yield Example(block.page, at, "command", command, shown or None)


def without_remark(line: str) -> str:
    """Cut off what follows a # that no quotation marks enclose."""
    return re.sub(r"""^((?:"[^"]*"|'[^']*'|[^"'#]|(?<=\S)#)*).*$""", r"\1", line).strip()


def blocks() -> list[Example]:
    """Every block of Python of the pages."""
    return [example for example in examples() if example.kind == "python"]


def of_help() -> Iterator[Example]:
    """The example of every command's help."""
    from soundstage.cli.program import app

    def walk(command: Any, name: str) -> Iterator[Example]:
        for text in re.findall(r"Example: (soundstage .*?)(?:\n\n|$)", command.help or "", re.S):
            yield Example(f"{name} --help", 1, "command", " ".join(text.split()))
        for child in command.list_commands(None) if hasattr(command, "list_commands") else ():
            yield from walk(command.get_command(None, child), f"{name} {child}")

    yield from walk(app, "soundstage")


def named_commands() -> list[Example]:
    """`soundstage ...` within a line, between backticks: what is said of a command, not always whole."""
    found = []
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            for text in re.findall(r"`(soundstage [a-z][^`]*)`", line.replace("\\|", "|")):
                found.append(Example(page.relative_to(ROOT).as_posix(), number, "command", text))
    return found


def write_inputs(folder: Path) -> None:
    """Write what examples name: pictures, clips with and without sound, sounds, a timeline, LoRAs."""
    shutil.copytree(_inputs(), folder, symlinks=True, dirs_exist_ok=True)


@functools.cache
def _inputs() -> Path:
    """Make the files once for all tests of a process: encoding the clips takes most of a second."""
    folder = Path(tempfile.mkdtemp(prefix="soundstage-examples-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    frames = np.full((49, 64, 64, 3), 90, np.uint8)
    frames[:, 20:40, 20:40] = (220, 40, 40)
    time_s = np.arange(98_000) / 48_000
    wave = np.repeat((0.2 * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)[None], 2, axis=0)
    for name in ("ball.png", "left.png", "right.png", "door.png", "end.png"):
        Image.fromarray(frames[0]).save(folder / name)
    (folder / "outputs").mkdir()
    for name in ("ball.mp4", "outputs/demo.mp4", "talk.mp4", "take.mp4", "phone.mp4"):
        Clip(frames, wave, 24.0, {"request": {"prompt": "A red ball."}}).save(folder / name)
    for name in ("silent.mp4", "graded.mkv"):
        Clip(frames, None, 24.0, {}).save(folder / name)
    for name in ("beat.wav", "voice.wav", "anna.wav", "ben.wav"):
        Clip(None, wave, 24.0, {}).save(folder / name)
    (folder / "cuts.yaml").write_text("cuts: [{source: ball.mp4}, {source: talk.mp4, end_s: 1}]\n")
    for name in ("style.safetensors", "dub.safetensors"):
        (folder / name).symlink_to(SHIPPED_MODELS["nano"] / "distilled_lora.safetensors")
    (folder / "examples").mkdir()
    for path in (ROOT / "examples").glob("*.safetensors"):
        (folder / "examples" / path.name).symlink_to(path)
    return folder


def write_models(folder: Path) -> None:
    """Write a tiny model under the published files' names, and let published names mean nano."""
    layouts = write_tiny_layouts(folder / "models")
    convert(SHIPPED_MODELS["nano"], folder / "models" / "nano.safetensors", layout="official")
    config = {"prompts": [{"text": "A red ball bounces."}], "width": 192, "height": 128}
    (folder / "scope.json").write_text(json.dumps(config))
    for name in ("video_ltx2_3_t2v.json", "video_ltx2_t2v.json"):
        (folder / name).write_text(json.dumps(two_passes(0.5)))
    (folder / "ComfyUI" / "input").mkdir(parents=True)
    for name, part in PART_FILES.items():
        (folder / name).symlink_to(layouts["bundle"] / part)
    layouts["diffusers"].rename(folder / "models" / "ltx-2.3-diffusers")
    (folder / "ltx-2.3-22b-dev.safetensors").symlink_to(layouts["official"])
    (folder / "model.safetensors").symlink_to(folder / "models" / "nano.safetensors")
    for name in ("gemma-3-12b-it", "gemma-3-12b"):
        (folder / name).symlink_to(layouts["bundle"] / "text")


def let_names_mean_nano(folder: Path) -> None:
    """Write a user's list of models, in which published names, which `add` refuses, and `mine` are nano."""
    library = Library.open(folder / "soundstage" / "models.json")
    library.models = {name: [SHIPPED_MODELS["nano"]] for name in (*MODELS, "mine")}
    library.save()
