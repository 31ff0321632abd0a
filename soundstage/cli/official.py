"""Translate the flags of the official LTX-2 programs, so that commands written for them go on working."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import click

from soundstage.cli.official_flags import FLAGS, OfficialFlag
from soundstage.cli.options import MakingCommand
from soundstage.errors import RequestError, listed

_NUMBER = re.compile(r"-?\d*\.?\d+$")
_FLAG = re.compile(r"--?[A-Za-z]")
# The arguments of commands, in their order; of others the prompt.
PLACES = {
    "retake": ("video", "span", "prompt"),
    "extend": ("video", "prompt"),
    "v2a": ("video", "prompt"),
    "upscale": ("video", "prompt"),
    "dub": ("spoken", "prompt"),
    "a2v": ("audio", "prompt"),
    "keyframe": ("prompt", "images"),
}
# The options of arguments that a command does not have.
OPTIONS = {"video": "--video", "span": "--span", "audio": "--audio"}
HQ_STRENGTHS = {"--distilled-lora-strength-stage-1": "0.25", "--distilled-lora-strength-stage-2": "0.5"}


class OfficialFlags(MakingCommand):
    """A command that also takes the official programs' flags."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        quiet = bool({"-q", "--quiet"} & set(args))
        return super().parse_args(ctx, self.own_words(args, (lambda _: None) if quiet else _say))

    def own_words(self, words: Sequence[str], say: Callable[[str], None] = lambda _: None) -> list[str]:
        """Return a command line in Soundstage's own flags. say: prints notices."""
        return translated(words, self.name or "", say=say)


def translated(
    words: Sequence[str], command: str = "generate", say: Callable[[str], None] = lambda _: None
) -> list[str]:
    """Return arguments with official flags replaced by Soundstage's; others stay as they are.

    command: the one whose arguments take the values of --prompt, --video-path and the like. say: prints a
    notice about a flag that changes nothing. Raises RequestError for a flag that has no equal, and says what
    to give.
    """
    return _Translation(command, say).of(words)


def _say(notice: str) -> None:
    print(f"notice: {notice}", file=sys.stderr)


@dataclass
class _Translation:
    """One command line on its way. out: our words so far. place: where in them the arguments go."""

    command: str
    say: Callable[[str], None]
    out: list[str] = field(default_factory=list)
    place: int | None = None
    given: dict[str, str] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    crf: str | None = None
    lists: dict[str, list[str]] = field(default_factory=dict)

    def of(self, words: Sequence[str]) -> list[str]:
        """Return the translation of words."""
        rest = [part for word in words for part in _parts(word)]
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.out += [word, *rest]
                break
            flag = FLAGS.get(_dashed(word))
            if flag is None or self._is_ours(word, flag, rest):
                self.out.append(word)
            else:
                self._read(_dashed(word), flag, rest)
        return self._finished()

    def _is_ours(self, word: str, flag: OfficialFlag, rest: Sequence[str]) -> bool:
        """Return whether a flag that both have is written as ours: its value has no number behind it."""
        if _dashed(word) == "--image":
            return _numbers(rest, 1) < 2
        if flag.way == "option" and flag.to == word:
            return True
        return flag.way == "clip" and flag.to == word and not _numbers(rest, 1)

    def _read(self, name: str, flag: OfficialFlag, rest: list[str]) -> None:
        values = _taken(name, flag, rest)
        if flag.way == "option":
            self.out += [flag.to, *values]
        elif flag.way == "scale":
            self.out += [flag.to, f"{flag.words}={','.join(values)}"]
        elif flag.way == "clip":
            self.out += [flag.to, ":".join(values)]
        elif flag.way == "choice":
            self.out += _chosen(name, flag, values)
        elif flag.way == "place":
            self._at_place(flag.to, values[0])
        elif flag.way == "refused":
            raise RequestError(f"{name}: {flag.words}")
        elif flag.way == "idle":
            self.say(f"{name} changes nothing: {flag.words}")
        else:
            self._own(name, values)

    def _own(self, name: str, values: list[str]) -> None:
        """Read a flag that has rules of its own."""
        if name in ("--width", "--height"):
            self.given[name] = values[0]
        elif name == "--image":
            self._image(*values)
        elif name == "--input-image-path":
            self._image(values[0], "0")
        elif name.startswith("--conditioning-") and name != "--conditioning-attention-mask":
            self.lists[name] = values
        elif name == "--conditioning-attention-mask":
            self.out += ["--reference-mask", values[0], "--reference-attention", values[1]]
        elif name == "--stg-skip-layers":
            blocks = re.sub(r"[^\d,]", "", values[0])
            self.out += ["--video-scale", f"stg_blocks={blocks}", "--audio-scale", f"stg_blocks={blocks}"]
        elif name == "--distilled-lora":
            self.out += ["--model", values[0]]
            _check_strength(name, values[1:] or ["1"], "1", "the passes' own")
        else:
            _check_strength(name, values, HQ_STRENGTHS[name], "that of --recipe hq")

    def _image(
        self, path: str, frame: str, strength: str | None = None, crf: str | None = None, *more: str
    ) -> None:
        if more:
            raise RequestError(
                f"--image takes PATH FRAME STRENGTH [CRF], and has '{more[0]}' besides; leave it out"
            )
        number = float(frame) if _NUMBER.match(frame) else -2.0
        if number < -1 or not number.is_integer():
            raise RequestError(
                f"--image has frame {frame}; give one from 0 on, or -1 for just before the first"
            )
        if crf is not None and self.crf not in (None, crf):
            raise RequestError(f"--image has CRF {self.crf} and {crf}; give one for all pictures")
        self.crf = crf or self.crf
        time = "before" if number == -1 else f"f{int(number)}"
        word = f"{path}@{time}" + (f":{strength}" if strength is not None else "")
        if "images" in PLACES.get(self.command, ()):
            self.images.append(word)
            self.place = len(self.out) if self.place is None else self.place
        else:
            self.out += ["--image", word]
        if crf is not None and "--crf" not in self.out:
            self.out += ["--crf", crf]

    def _at_place(self, name: str, value: str) -> None:
        self.given[name] = value
        self.place = len(self.out) if self.place is None else self.place

    def _finished(self) -> list[str]:
        """Return our words, with the size before them and the arguments at their place."""
        self._listed_images()
        places = self._arguments()
        self.out[self.place or 0 : self.place or 0] = places
        return [*_size(self.given), *self.out]

    def _arguments(self) -> list[str]:
        """Return the command's arguments that official flags gave, and options for those it does not have."""
        given = self.given
        if ("start" in given) != ("end" in given):
            one, other = ("--start-time", "--end-time")[:: 1 if "start" in given else -1]
            raise RequestError(f"{one} is given without {other}; give both")
        if "start" in given:
            given["span"] = f"{given['start']}-{given['end']}"
        if "spoken" in given and "spoken strength" in given:
            given["spoken"] += f":{given['spoken strength']}"
        order = PLACES.get(self.command, ("prompt",))
        words = [given[name] for name in order if name in given]
        for name in (name for name in OPTIONS if name in given and name not in order):
            words += [OPTIONS[name], given[name]]
        if "spoken" in given and "spoken" not in order:
            raise RequestError(
                "--reference-video is the clip of `soundstage dub`; use that, or give --reference"
            )
        return [*words, *self.images]

    def _listed_images(self) -> None:
        """Read the lists of LTX-Video: paths, strengths and frames of pictures, in one order."""
        paths = self.lists.get("--conditioning-media-paths", [])
        strengths = self.lists.get("--conditioning-strengths", ["1"] * len(paths))
        frames = self.lists.get("--conditioning-start-frames", [])
        if not len(paths) == len(strengths) == len(frames):
            raise RequestError(
                f"there are {len(paths)} --conditioning-media-paths, {len(strengths)} "
                f"--conditioning-strengths and {len(frames)} --conditioning-start-frames; give as many"
            )
        for path, strength, frame in zip(paths, strengths, frames, strict=True):
            self._image(path, frame, strength)


def _dashed(word: str) -> str:
    return word.replace("_", "-") if word.startswith("--") else word


def _parts(word: str) -> list[str]:
    """Split --flag=value of a flag that is read here into two words."""
    name, equals, value = word.partition("=")
    flag = FLAGS.get(_dashed(name))
    return [name, value] if equals and flag is not None and flag.to != name else [word]


def _taken(name: str, flag: OfficialFlag, rest: list[str]) -> list[str]:
    """Take the values of a flag from the words behind it. Raises RequestError for too few."""
    least, _, most = flag.count.replace("*", f"1-{len(rest)}").partition("-")
    count = min(int(most or least), len(list(takewhile(_is_value, rest))))
    if name == "--compile":  # a prompt may stand behind it
        least, count = "0", len(list(takewhile(lambda word: re.match(r"\w+=", word), rest)))
    elif flag.way == "scale":
        count = min(count, _numbers(rest, 0))
    elif name == "--image" or (flag.way in ("clip", "own") and most == "2"):
        count = min(count, 1 + _numbers(rest, 1))
    elif least == "0" and rest and rest[0].lower() not in ("true", "false"):
        count = 0
    if count < int(least):
        raise RequestError(f"{name} is given without a value; write it behind it")
    taken = rest[:count]
    del rest[:count]
    return taken


def _is_value(word: str) -> bool:
    """Return whether a word is the value of a flag: no flag itself."""
    return not _FLAG.match(word) or " " in word


def _chosen(name: str, flag: OfficialFlag, values: Sequence[str]) -> tuple[str, ...]:
    """Return our words for a value. Raises RequestError for one that has no equal."""
    value = values[0].lower() if values else ""
    if value not in flag.choices:
        known = listed(value, [key for key in flag.choices if key])
        raise RequestError(f"{name} is '{value}', which has no equal here; those that have are {known}")
    return flag.choices[value]


def _check_strength(name: str, values: Sequence[str], wanted: str, what: str) -> None:
    if not _NUMBER.match(values[0]) or float(values[0]) != float(wanted):
        raise RequestError(
            f"{name} is {values[0]}, and {what} is {wanted}; leave it out, or give a recipe of your own with "
            f"loras: {{distilled: {values[0]}}} (docs/recipes.md)"
        )


def _numbers(words: Sequence[str], start: int) -> int:
    """Return how many words in a row, from index `start` on, are numbers."""
    return sum(1 for _ in takewhile(_NUMBER.match, words[start:]))


def _size(given: dict[str, str]) -> list[str]:
    """Return --size from --width and --height. Raises RequestError if only one of them is given."""
    sides = [name for name in ("--width", "--height") if name in given]
    if len(sides) == 1:
        other = "--height" if sides[0] == "--width" else "--width"
        raise RequestError(f"{sides[0]} is given without {other}; give both, or --size", field="size")
    return ["--size", f"{given['--width']}x{given['--height']}"] if sides else []
