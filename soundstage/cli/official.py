"""Translate the flags of the official LTX-2 programs, so that commands written for them go on working."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

import click

from soundstage.errors import RequestError

FLAGS = {
    "--output-path": "--output",
    "--num-frames": "--frames",
    "--frame-rate": "--fps",
    "--num-inference-steps": "--steps",
    "--video-cfg-guidance-scale": "--video-guidance",
    "--audio-cfg-guidance-scale": "--audio-guidance",
    "--audio-path": "--audio",
    "--audio-start-time": "--audio-start",
    "--identity-guidance-scale": "--identity-guidance",
    "--conditioning-attention-strength": "--reference-attention",
    "--checkpoint-path": "--model",
    "--distilled-checkpoint-path": "--model",
    "--gemma-root": "--model",
    "--spatial-upsampler-path": "--model",
}
# Flags of one guidance value: the modality's option and the value's name.
SCALES = {
    "--video-stg-guidance-scale": ("--video-scale", "stg"),
    "--video-stg-blocks": ("--video-scale", "stg_blocks"),
    "--video-rescale-scale": ("--video-scale", "rescale"),
    "--video-skip-step": ("--video-scale", "skip_step"),
    "--a2v-guidance-scale": ("--video-scale", "modality"),
    "--audio-stg-guidance-scale": ("--audio-scale", "stg"),
    "--audio-stg-blocks": ("--audio-scale", "stg_blocks"),
    "--audio-rescale-scale": ("--audio-scale", "rescale"),
    "--audio-skip-step": ("--audio-scale", "skip_step"),
    "--v2a-guidance-scale": ("--audio-scale", "modality"),
}
CLIPS = {"--lora": "--lora", "--video-conditioning": "--reference"}  # followed by PATH STRENGTH
_NUMBER = re.compile(r"-?\d*\.?\d+$")


class OfficialFlags(click.Command):
    """A command that also takes the official programs' flags."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, translated(args))


def translated(words: Sequence[str]) -> list[str]:
    """Return arguments with official flags replaced by Soundstage's; others stay as they are.

    --image PATH FRAME STRENGTH [CRF], --lora PATH STRENGTH and --video-conditioning PATH STRENGTH become
    one word each; --width and --height become --size; the value of --prompt becomes the prompt argument.
    """
    out: list[str] = []
    sides: dict[str, str] = {}
    rest = [part for word in words for part in _parts(word)]
    while rest:
        word = rest.pop(0)
        if word == "--":
            out += [word, *rest]
            break
        if word in ("--width", "--height", "--prompt") and not rest:
            raise RequestError(f"{word} is given without a value; write it behind it")
        if word in ("--width", "--height"):
            sides[word] = rest.pop(0)
        elif word == "--prompt":
            out.append(rest.pop(0))
        else:
            out += _translation(word, rest)
    return [*_size(sides), *out]


def _translation(word: str, rest: list[str]) -> list[str]:
    """Return what replaces a word; the values that belong to it are taken from `rest`."""
    numbers = _numbers(rest, 1)
    if word == "--image" and numbers >= 2:
        path, frame, strength, *crf = (rest.pop(0) for _ in range(1 + min(3, numbers)))
        return [word, f"{path}@f{frame}:{strength}", *(["--crf", *crf] if crf else [])]
    if word in CLIPS and numbers:
        return [CLIPS[word], f"{rest.pop(0)}:{rest.pop(0)}"]
    if word in SCALES and rest:
        flag, name = SCALES[word]
        values = [rest.pop(0)]
        while name == "stg_blocks" and _numbers(rest, 0):
            values.append(rest.pop(0))
        return [flag, f"{name}={','.join(values)}"]
    return [FLAGS.get(word, word)]


def _parts(word: str) -> list[str]:
    """Split --flag=value of an official flag into two words."""
    flag, equals, value = word.partition("=")
    official = flag in FLAGS or flag in SCALES or flag in ("--width", "--height", "--prompt")
    return [flag, value] if equals and official else [word]


def _numbers(words: Sequence[str], start: int) -> int:
    """Return how many words in a row, from index `start` on, are numbers."""
    return sum(1 for _ in takewhile(_NUMBER.match, words[start:]))


def _size(sides: dict[str, str]) -> list[str]:
    """Return --size from --width and --height. Raises RequestError if only one of them is given."""
    if not sides:
        return []
    missing = {"--width", "--height"} - set(sides)
    if missing:
        raise RequestError(
            f"{next(iter(sides))} is given without {missing.pop()}; give both, or --size", field="size"
        )
    return ["--size", f"{sides['--width']}x{sides['--height']}"]
