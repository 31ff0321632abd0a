"""What nano's adapters do, as pictures: python examples/adapter_pictures.py docs/images [NAME ...]

character  balls by the name of the character; the same words with a yellow ball; and without the LoRA
voices     sounds by frequency and time: a sample, speech with its voice, and without the sample
dub        the given speech, new speech at its times, and speech without the clip
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pictures import GAP, PAPER, Page, frames_of, row, stack, titled
from PIL import Image, ImageOps

import soundstage as ss
from soundstage.nano.evaluation.backdrop import Floats
from soundstage.nano.evaluation.capabilities import SECTIONS
from soundstage.nano.evaluation.capabilities.case import Case
from soundstage.request.request import Request

EXAMPLES = Path(__file__).parent
STEPS = 10
WIDTH, HEIGHT, TOP_HZ = 480, 96, 3000
QUIET_DB, LOUD_DB = -70.0, -20.0


def made(stage: ss.Engine, ask: Any, name: str, strength: float = 1.0) -> ss.Clip:
    """Return the clip of a case's request with a LoRA of examples/."""
    assert isinstance(ask, Request)
    fields = {key: getattr(ask, key) for key in ask.model_fields_set}
    lora = ss.Lora(str(EXAMPLES / f"{name}-nano.safetensors"), strength=strength)
    return stage.generate(Request(**{**fields, "steps": STEPS, "loras": [lora]}))


def cases(name: str, numbers: Sequence[int]) -> list[Case]:
    found = SECTIONS[name].cases(max(numbers) + 1, 0)
    return [found[number] for number in numbers]


def spectrum(waveform: Floats) -> Page:
    """Return a sound (2, n) at 48 kHz as a picture: dark is loud, time runs to the right, frequency up."""
    mono, window = waveform.mean(axis=0), 2048
    starts = np.linspace(0, max(0, len(mono) - window), WIDTH).astype(int)
    windows = np.stack([mono[start : start + window] for start in starts]) * np.hanning(window)
    power = np.square(np.abs(np.fft.rfft(windows, axis=1)))[:, : TOP_HZ * window // 48_000] * (4 / window**2)
    share = (10 * np.log10(power.T[::-1] + 1e-12) - QUIET_DB) / (LOUD_DB - QUIET_DB)
    grey = (255 * (1 - np.clip(share, 0, 1))).astype(np.uint8)
    page = ImageOps.pad(Image.fromarray(grey).resize((WIDTH, HEIGHT)), (WIDTH, HEIGHT + GAP), color=PAPER[0])
    return np.repeat(np.asarray(page)[..., None], 3, axis=-1)


def sound(clip: ss.Clip) -> Page:
    assert clip.waveform is not None
    return spectrum(clip.waveform)


def character(stage: ss.Engine) -> Page:
    rows = []
    for case in cases("character", (0, 1, 6, 7)):
        clips = [
            made(stage, case.asks[0], "character", 0.0),
            made(stage, case.asks[0], "character"),
            made(stage, case.asks[1], "character"),
        ]
        rows.append(np.concatenate([row(frames_of(clip), columns=3) for clip in clips], axis=1))
    third = rows[0].shape[1] // 3
    heads = ("Bumble, without the LoRA", "Bumble, with it", "a yellow ball, with it")
    line = [titled(head, np.full((0, third, 3), PAPER[0], np.uint8)) for head in heads]
    return stack([np.concatenate(line, axis=1), *rows])


def voices(stage: ss.Engine) -> Page:
    columns = []
    for case in cases("identity", (0, 2)):
        given, none = case.asks[0], case.asks[2]
        pitch = case.facts["voice"].pitch_hz
        pages = [
            titled(f"a sample of {pitch:g} Hz", spectrum(case.facts["sample"])),
            titled("new speech with it", sound(made(stage, given, "identity"))),
            titled("the same without the sample", sound(made(stage, none, "identity"))),
        ]
        columns.append(stack(pages))
    return np.concatenate(columns, axis=1)


def dub(stage: ss.Engine) -> Page:
    columns = []
    for case in cases("dub", (0, 2)):
        pages = [
            titled("given", spectrum(case.facts["given"])),
            titled("new speech", sound(made(stage, case.asks[0], "dub"))),
            titled("the same without the clip", sound(made(stage, case.asks[1], "dub"))),
        ]
        columns.append(stack(pages))
    return np.concatenate(columns, axis=1)


PICTURES: dict[str, Callable[[ss.Engine], Page]] = {"character": character, "voices": voices, "dub": dub}


def main(folder: Path, names: Sequence[str]) -> None:
    stage = ss.load("nano")
    for name in names or PICTURES:
        page = PICTURES[name](stage)
        Image.fromarray(page).quantize(256, kmeans=1).save(folder / f"{name}.png", optimize=True)
        print(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
