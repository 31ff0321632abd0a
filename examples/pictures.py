"""The pictures of the docs, made by nano: python examples/pictures.py docs/images [NAME ...]

Nothing is given but words and, where a clip is needed, one drawn by nano's world. Each row of a picture shows
frames of one film from its start to its end. A dark bar stands above frames that were given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

import soundstage as ss
from soundstage.control.kinds import KINDS
from soundstage.nano.evaluation.capabilities import SECTIONS
from soundstage.nano.evaluation.report import held_out_scenes
from soundstage.nano.world.captions import caption
from soundstage.nano.world.render import render

Page = NDArray[np.uint8]

COLUMNS = 6
BAR, GAP = 4, 4
WAVE_HEIGHT = 32
STEPS = 20
INK, PAPER = (40, 40, 40), (255, 255, 255)

SIX = (
    "A red ball drops onto a wooden floor, bouncing three times. A thud sounds with each bounce.",
    "On the left a large blue cube stands still; on the right a large yellow star stands still. Rain falls.",
    "On the right a large green ring stands still in a sunny meadow. The wind is heard.",
    "A pink cube stands in thick fog. The camera slowly pushes in. A deep voice is speaking.",
    "On the left, a red pyramid stands still; on the right, a green ball stands still. "
    "A bright voice is speaking.",
    "A large blue star stands before a gradient background. The camera tilts up. Rain falls.",
)


def six(stage: ss.Engine) -> Page:
    """Six prompts, each with its frames over its sound."""
    return stack([titled(prompt, heard(stage.generate(prompt, seed=1))) for prompt in SIX])


def shaping(stage: ss.Engine) -> Page:
    """One shot of the world: whole, from its first frame, from both ends, retaken, and extended."""
    scene = held_out_scenes(4, seed=1)[0]
    given, prompt = render(scene), caption(scene)
    clip = ss.Clip(given, None, 24.0)
    silent: dict[str, Any] = {"prompt": prompt, "modalities": {"video"}, "steps": STEPS, "seed": 7}
    count = len(given)
    first = stage.generate(ss.Request(**silent, num_frames=count, guides=[ss.Guide(given[0])]))
    both = stage.generate(
        ss.Request(**silent, num_frames=count, guides=[ss.Guide(given[0]), ss.Guide(given[-1], "last")])
    )
    retake = stage.generate(ss.Request(**silent, source=ss.Source(clip, regenerate=(ss.Span(0.7, 1.3),))))
    longer = stage.generate(ss.Request(**silent, source=ss.Source(clip, extend_after_s=1, feather_s=0.2)))
    time = np.arange(count) / 24
    return stack(
        [
            row(given, np.ones(count, bool)),
            row(frames_of(first), np.arange(count) == 0),
            row(frames_of(both), (np.arange(count) == 0) | (np.arange(count) == count - 1)),
            row(frames_of(retake), (time < 0.7) | (time > 1.3)),
            row(frames_of(longer), np.arange(len(frames_of(longer))) < count - 5),
        ]
    )


def guidance(stage: ss.Engine) -> Page:
    """The same words and noise at guidance 1, 3 and 6."""
    return stack(
        [titled(f"guidance {g:g}", heard(stage.generate(SIX[1], seed=3, guidance=g))) for g in (1, 3, 6)]
    )


def recipes(stage: ss.Engine) -> Page:
    """The same words and noise by several recipes."""
    names = ("draft", "fast", "pro", "single")
    made = [(name, stage.generate(SIX[0], seed=1, recipe=name)) for name in names]
    return stack([titled(name, row(frames_of(clip))) for name, clip in made])


def timed(stage: ss.Engine) -> Page:
    """A colour for each second, and a chime asked for in the second one alone."""
    prompts = (
        "[0-1s] A red ball stands in the fog. [1-2s] A blue ball stands in the fog.",
        "[0-1s] A yellow star stands still at night. [1-2s] A yellow star blinks at night and chimes.",
    )
    return stack([titled(prompt, heard(stage.generate(prompt, seed=2, num_frames=49))) for prompt in prompts])


def long_take(stage: ss.Engine) -> Page:
    """Fifteen seconds in windows."""
    prompt = "A large orange ball stands on a wooden floor. The camera is static. Wind blows."
    clip = stage.generate(prompt, seed=4, duration_s=15)
    return titled(f"{prompt} 15 s", heard(clip, columns=2 * COLUMNS))


SHOWN_KINDS: dict[str, dict[str, Any]] = {  # kinds of references, with settings
    "clip": {},
    "canny": {},
    "depth-classical": {},
    "pose-classical": {},
    "tracks": {"points": "10 100 60 30 120 90 185 20|180 115 20 110"},
    "camera-motion": {},
    "inpaint": {"box": "60 40 64 56"},
    "masked-reference": {"box": "60 40 64 56"},
    "outpaint": {"left": 48, "right": 48, "fill": "canvas-green"},
    "cartoon": {},
    "grade": {},
    "defocus": {"radius": 0.03},
    "blur": {"length": 0.08},
    "compress": {},
    "light": {},
    "night": {},
    "colourless": {},
    "soften": {},
}


def control(stage: ss.Engine) -> Page:
    """Each kind of reference of one shot: three frames under the kind's name, in two columns."""
    frames = render(held_out_scenes(4, seed=1)[0])
    height, width = frames.shape[1:3]
    rows = []
    for name, settings in SHOWN_KINDS.items():
        made = list(KINDS[name].prepare(iter(frames), 24.0, settings, len(frames)))
        shown = [made[round(share * (len(made) - 1))] for share in (0, 0.5, 1)]
        fitted = [
            np.asarray(ImageOps.pad(Image.fromarray(one), (width, height), color=PAPER)) for one in shown
        ]
        rows.append(titled(name, row(np.stack(fitted), columns=3)))
    half = -(-len(rows) // 2)
    return np.concatenate([stack(rows[:half]), stack(rows[half:])], axis=1)


FOLLOWED = {  # sections of `nano evaluate`, and the LoRA of examples/ that follows
    "inpaint": "fill",
    "outpaint": "fill",
    "ungrade": "ungrade",
    "hdr": "hdr",
    "depth": "control",
    "edges": "control",
    "tracks": "control",
}


def followed(stage: ss.Engine) -> Page:
    """Each in-context LoRA: a reference, what is made beside it, and the same words and noise without."""
    rows = []
    for kind, name in FOLLOWED.items():
        lora = Path(__file__).parent / f"{name}-nano.safetensors"
        case = SECTIONS[kind].cases(1, 2)[0]
        pages = [case.facts["pair"].reference]
        for ask in case.asks[:2]:
            assert isinstance(ask, ss.Request)
            fields: dict[str, Any] = {field: getattr(ask, field) for field in ask.model_fields_set}
            pages.append(frames_of(stage.generate(**fields, loras=[lora])))
        cells = [row(page, np.full(len(page), page is pages[0]), columns=2) for page in pages]
        rows.append(titled(f"{kind}: {case.prompt}", np.concatenate(cells, axis=1)))
    return stack(rows)


PICTURES: dict[str, Callable[[ss.Engine], Page]] = {
    "six": six,
    "shaping": shaping,
    "control": control,
    "followed": followed,
    "guidance": guidance,
    "recipes": recipes,
    "timed-prompts": timed,
    "long-take": long_take,
}


def frames_of(clip: ss.Clip) -> Page:
    assert clip.frames is not None
    return clip.frames


def row(frames: Page, given: NDArray[np.bool_] | None = None, columns: int = COLUMNS) -> Page:
    """(BAR + H + GAP, columns * (W + GAP), 3) of frames (F, H, W, 3); given: (F,)."""
    cells = []
    for i in np.linspace(0, len(frames) - 1, columns).round().astype(int):
        cell = np.full((BAR + frames.shape[1] + GAP, frames.shape[2] + GAP, 3), PAPER, np.uint8)
        cell[:BAR, :-GAP] = INK if given is not None and given[i] else PAPER
        cell[BAR:-GAP, :-GAP] = frames[i]
        cells.append(cell)
    return np.concatenate(cells, axis=1)


def heard(clip: ss.Clip, columns: int = COLUMNS) -> Page:
    """A row of frames over the louder side's samples, on one scale of time."""
    shown = row(frames_of(clip), columns=columns)
    assert clip.waveform is not None
    width = shown.shape[1] - GAP
    spans = np.array_split(np.abs(clip.waveform).max(axis=0), width)
    reach = np.array([span.max() for span in spans]) * WAVE_HEIGHT / 2
    away = np.abs(np.arange(WAVE_HEIGHT) - WAVE_HEIGHT / 2 + 0.5)[:, None]
    wave = np.full((WAVE_HEIGHT + GAP, shown.shape[1], 3), PAPER, np.uint8)
    wave[:WAVE_HEIGHT, :width][away <= np.maximum(reach, 0.5)] = INK
    return np.concatenate([shown, wave])


def titled(title: str, page: Page) -> Page:
    """The page under a line of text."""
    font = ImageFont.load_default(14)
    line = Image.new("RGB", (page.shape[1], 22), PAPER)
    ImageDraw.Draw(line).text((2, 2), title, fill=INK, font=font)
    return np.concatenate([np.asarray(line), page])


def stack(pages: Sequence[Page]) -> Page:
    """Pages below each other, the narrower ones padded."""
    width = max(page.shape[1] for page in pages)
    padded = [
        np.pad(page, ((0, 0), (0, width - page.shape[1]), (0, 0)), constant_values=PAPER[0]) for page in pages
    ]
    return np.concatenate(padded)


def main(folder: Path, names: Sequence[str]) -> None:
    stage = ss.load("nano")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or PICTURES:
        page = PICTURES[name](stage)
        Image.fromarray(page).quantize(256).save(folder / f"{name}.png", optimize=True)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
