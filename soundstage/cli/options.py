"""The options of commands that make something: one table, shared by all of them, how words become a
Request's fields, and how a message about fields names the options.

A command takes the table by `with_options`; what it adds of its own stays in its signature. Flags of the
official LTX-2 programs are translated before parsing (`translated`), so that commands people have written
down go on working.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from soundstage.errors import RequestError, listed

Values = dict[str, Any]  # of the table's options, by name


@dataclass(frozen=True)
class Option:
    """One option. name: of the value.

    field: the request's field it fills as it is, "steps" or, of a record in it, "source.start_s"; None for
    one that `request_fields` reads. reads: further fields that its words fill, each with the word of the help
    that stands for it, if it is a part of several: "guides.strength STRENGTH".
    """

    name: str
    flags: tuple[str, ...]
    kind: Any
    help: str
    field: str | None = None
    default: Any = None
    reads: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """All it fills, without the words of the help."""
        return (*([self.field] if self.field else []), *(text.split()[0] for text in self.reads))


def _same(name: str, kind: Any, text: str, *flags: str, default: Any = None) -> Option:
    """An option that fills the request's field of its own name."""
    return Option(name, flags or (f"--{name.replace('_', '-')}",), kind, text, name, default)


def _own(
    name: str,
    kind: Any,
    text: str,
    *flags: str,
    default: Any = None,
    field: str | None = None,
    reads: Sequence[str] = (),
) -> Option:
    flags = flags or (f"--{name.replace('_', '-')}",)
    return Option(name, flags, kind, text, field, default, tuple(reads))


Words, Number, Count = str | None, float | None, int | None
Many = list[str] | None

TABLE: tuple[Option, ...] = (
    _same("recipe", Words, "How it is made: a name from `soundstage recipes` or a .yaml file.", "--recipe"),
    _same(
        "size",
        Words,
        "WIDTHxHEIGHT, landscape, portrait, square, or a height such as 720p or 1080p-portrait; sides snap "
        "to multiples of 32. [default: the model's]",
    ),
    _same("duration_s", Number, "Length in seconds; or give --frames.", "--duration"),
    _same("num_frames", Count, "Length in frames; snaps to 8k+1.", "--frames"),
    _same("fps", Number, "Frames per second. [default: the model's]"),
    _same("thin", Count, "Make this many times the frames and keep every one so many-th, 1 to 4."),
    _same("seed", int, "The same seed gives the same film.", default=10),
    # Pictures, clips and sounds
    _own(
        "image",
        Many,
        "A picture to show: PATH[@TIME][:STRENGTH]; TIME: seconds, last, or fN. Repeatable.",
        reads=("guides", "guides.image", "guides.strength STRENGTH", "guides.at TIME", "guides.frame TIME"),
    ),
    _own(
        "last_image",
        Words,
        "The picture to end on: PATH[:STRENGTH].",
        reads=("guides.image", "guides.strength STRENGTH"),
    ),
    _own(
        "image_mode",
        Words,
        "replace puts pictures in place, guide lays them beside. [default: by time]",
        field="guides.mode",
    ),
    _own("crf", Count, "H.264 compression of pictures before they are encoded, 0 to 51.", field="guides.crf"),
    _own(
        "crop",
        Words,
        "How pictures and clips are brought to size: center, stretch or pad.",
        reads=("guides.crop", "references.crop", "source.crop"),
    ),
    _own(
        "reference",
        Many,
        "A clip to follow from beside: PATH[:STRENGTH]. Repeatable.",
        reads=("references", "references.video", "references.strength STRENGTH"),
    ),
    _own(
        "reference_attention",
        Number,
        "How much a clip and its reference look at each other, 0 to 1.",
        field="references.attention",
    ),
    _own(
        "reference_downscale",
        Count,
        "The reference is encoded at this fraction of the size.",
        field="references.downscale",
    ),
    _own(
        "video",
        Words,
        "A clip to start from; say what of it is made anew by the options below.",
        field="source.video",
        reads=("source",),
    ),
    _own("video_start", Number, "Where in the clip to begin, in seconds.", field="source.start_s"),
    _own(
        "remake",
        Words,
        "Which of the clip is made anew, the other kept whole: video or audio.",
        reads=("source.modalities",),
    ),
    _own(
        "span",
        Many,
        "A stretch of the clip to make anew: START-END in seconds. Repeatable.",
        reads=("source.regenerate", "source.regenerate.start_s START", "source.regenerate.end_s END"),
    ),
    _own("mask", Words, "A picture or clip whose white parts are made anew.", field="source.mask"),
    _own("denoise", Number, "How far the whole clip is changed, 0 to 1.", field="source.denoise"),
    _own("extend_before", Number, "Seconds of new time before the clip.", field="source.extend_before_s"),
    _own("extend_after", Number, "Seconds of new time after the clip.", field="source.extend_after_s"),
    _own(
        "canvas",
        Words,
        "New room around the clip: LEFT,TOP,RIGHT,BOTTOM in pixels.",
        reads=(
            "source.canvas",
            "source.canvas.left LEFT",
            "source.canvas.top TOP",
            "source.canvas.right RIGHT",
            "source.canvas.bottom BOTTOM",
        ),
    ),
    _own("audio", Words, "A sound that leads the result.", field="audio.file", reads=("audio",)),
    _own(
        "audio_mode",
        Words,
        "driving: the result has this very sound; identity: the voice to speak with.",
        field="audio.mode",
    ),
    _own("audio_start", Number, "Where in the sound to begin, in seconds.", field="audio.start_s"),
    _own("identity_guidance", Number, "Pull towards the voice, 0 = off.", field="audio.guidance"),
    _own(
        "lora",
        Many,
        "An adapter: PATH[:STRENGTH][@START-END][,GROUP=NUMBER...]; GROUP: video, audio, a2v, v2a or text. "
        "Repeatable.",
        reads=(
            "loras",
            "loras.path PATH",
            "loras.strength STRENGTH",
            "loras.span",
            "loras.span.start_s START",
            "loras.span.end_s END",
            "loras.groups GROUP",
        ),
    ),
    _same(
        "allow_unfit",
        bool,
        "Make what the model is known to fail at, such as frames far larger than it was trained on.",
        default=False,
    ),
    _own("only", Words, "Make one modality alone: video or audio.", reads=("modalities",)),
    # Time
    _own(
        "lengths",
        Words,
        "A weight for each part of a prompt with '|', with commas, such as 2,1.",
        reads=("lengths",),
    ),
    _own(
        "relay",
        Many,
        "How sharply parts of a prompt follow each other: NAME=VALUE, such as epsilon=0.5. Repeatable.",
        reads=("relay",),
    ),
    _own(
        "take",
        Many,
        "How a clip too long to be made at once is cut and joined: NAME=VALUE, such as adain=0.2 or "
        "folder=work, which keeps what is done. Repeatable.",
        reads=("take",),
    ),
    # Sampling
    _same("steps", Count, "Denoising steps of the first pass. [default: the recipe's or the model's]"),
    _same("schedule", Words, "How noise falls over the steps."),
    _own(
        "sigmas",
        Words,
        "Your own noise levels, falling to 0, with commas; instead of steps and schedule.",
        reads=("sigmas",),
    ),
    _same("sampler", Words, "How a step is taken."),
    _same("guidance", Number, "Pull towards the prompt, 1 = off. [default: the model's, per modality]"),
    _same("video_guidance", Number, "The same for the picture alone."),
    _same("audio_guidance", Number, "The same for the sound alone."),
    _same("stg", Number, "Pull away from a pass without self-attention, 0 = off."),
    _same("modality_guidance", Number, "Pull towards picture and sound that fit each other, 1 = off."),
    _same("rescale", Number, "Evens out the contrast that guidance adds, 0 to 1."),
    _same("cache", Words, "Leave blocks out on steps that change little: first-block[:0.05] or teacache."),
    _own(
        "video_scale",
        Many,
        "Any guidance value of the picture: NAME=VALUE[@LEVEL], such as stg=1, or cfg=1@0.9875 for the "
        "noise levels from 0.9875 down. Repeatable.",
        reads=("video_scales",),
    ),
    _own(
        "audio_scale",
        Many,
        "Any guidance value of the sound: NAME=VALUE[@LEVEL]. Repeatable.",
        reads=("audio_scales",),
    ),
    _same(
        "negative_prompt",
        Words,
        "What to steer away from, where guidance is on.",
        "--negative-prompt",
        "--negative",
    ),
    _same("video_negative_prompt", Words, "The same for the picture alone."),
    _same("audio_negative_prompt", Words, "The same for the sound alone."),
    # With what, and where to
    _own(
        "model",
        list[str],
        "A model's name, a folder, or a weights file. Repeatable.",
        default=["nano"],
        reads=("model",),
    ),
    _own(
        "residency",
        str,
        "Where weights are kept: auto, resident, offload, stream or disk. auto is the fastest that fits.",
        default="auto",
        reads=("residency",),
    ),
    _own(
        "weights",
        str,
        "How the transformer's weights are held: auto, full, stored (8-bit as the file has them), fp8, "
        "fp8-cast, int8 or int8-dynamic. auto is as the file has them.",
        default="auto",
        reads=("weights",),
    ),
    _own(
        "dtype",
        str,
        "Number format: auto, bfloat16 or float32. auto is SOUNDSTAGE_DTYPE, else bfloat16 where the device "
        "is fast at it.",
        default="auto",
    ),
    _own(
        "memory",
        Number,
        "GB of memory, the GPU's where there is one, to use at most. [default: what is free]",
        reads=("memory_gb",),
    ),
    _own("as_json", bool, "Print JSON for a program to read.", "--json", default=False),
)
OUTPUTS: tuple[Option, ...] = (
    _own(
        "output",
        Path | None,
        "The file to write. [default: from the prompt]",
        "--output",
        "-o",
    ),
    _own("force", bool, "Replace the output, and its contact sheet, if they are there.", default=False),
    _own("contact_sheet", bool, "Also write a PNG of frames over the waveform.", default=False),
    _own("plan", bool, "Print what would be done, and stop.", default=False),
)


def with_options(*without: str, outputs: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the table's options, but for those named, as one dict called `values`.

    The dict also has what called the command, typer's context, as "context".
    """
    shared = [option for option in (TABLE + OUTPUTS if outputs else TABLE) if option.name not in without]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [p for name, p in inspect.signature(function).parameters.items() if name != "values"]
        split = next((i for i, p in enumerate(own) if p.default is not p.empty), len(own))
        extra = [
            inspect.Parameter(o.name, inspect.Parameter.KEYWORD_ONLY, default=o.default, annotation=_typed(o))
            for o in shared
        ]
        kept = [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in own]

        @functools.wraps(function)
        def command(**given: Any) -> None:
            function(**{p.name: given.pop(p.name) for p in own}, values=given)

        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [context, *kept[:split], *extra, *kept[split:]]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _typed(option: Option) -> Any:
    shown = option.default not in (None, False)
    return Annotated[option.kind, typer.Option(*option.flags, help=option.help, show_default=shown)]


def request_fields(values: Values) -> Values:
    """Fields of a Request from the table's values; what was not given is left out.

    Raises RequestError for words that do not fit their option.
    """
    given = {name: value for name, value in values.items() if value is not None and value != []}
    fields = _filled("", given)
    crop = {"crop": given["crop"]} if "crop" in given else {}
    guides = _guides(given, crop)
    if guides:
        fields["guides"] = guides
    for key, make in (("references", _references), ("source", _source), ("audio", _audio)):
        made = make(given, crop)
        if made:
            fields[key] = made
    _check_used(given, fields)
    if "lora" in given:
        fields["loras"] = [_lora(text) for text in given["lora"]]
    if "only" in given:
        fields["modalities"] = {_choice("--only", given["only"], "video", "audio")}
    if "sigmas" in given:
        fields["sigmas"] = [_number("--sigmas", part) for part in given["sigmas"].split(",")]
    if "lengths" in given:
        fields["lengths"] = [_number("--lengths", part) for part in given["lengths"].split(",")]
    for key in ("relay", "take"):
        if key in given:
            fields[key] = dict(_setting(f"--{key}", text) for text in given[key])
    for key in ("video_scale", "audio_scale"):
        if key in given:
            fields[f"{key}s"] = _scales(f"--{key.replace('_', '-')}", given[key])
    return fields


# Options that are about an input, the request's fields that have one, and how to give one.
_ABOUT = {
    "image_mode": (("guides",), "a picture; give one by --image"),
    "crf": (("guides",), "a picture; give one by --image"),
    "crop": (("guides", "references", "source"), "a picture or a clip; give one by --image or --video"),
    "reference_attention": (("references",), "a clip beside; give one by --reference"),
    "reference_downscale": (("references",), "a clip beside; give one by --reference"),
}


def _check_used(given: Values, fields: Values) -> None:
    """Refuse options about an input where there is none, which nothing would read."""
    for name, (inputs, what) in _ABOUT.items():
        if name in given and not any(key in fields for key in inputs):
            raise RequestError(f"--{name.replace('_', '-')} is about {what}", field=inputs[0])


def _filled(record: str, given: Values) -> Values:
    """Fields of a record, "" for the request itself, that options fill as they are."""
    return {
        o.field.rpartition(".")[2]: given[o.name]
        for o in TABLE
        if o.field and _record(o.field) == record and o.name in given
    }


def _record(field: str) -> str:
    """The record that a field is in: "source.start_s" -> "source"."""
    return field.rpartition(".")[0]


# --- Words of one option ----------------------------------------------------------------------------

_STRENGTH = r"(?::(?P<strength>-?\d*\.?\d+))?$"
_PICTURE = re.compile(r"^(?P<path>.+?)(?:@(?P<time>last|before|f-?\d+|\d*\.?\d+s?))?" + _STRENGTH)
_CLIP = re.compile(r"^(?P<path>.+?)" + _STRENGTH)
# A file's name may hold ",rank=32" itself: what comes before its ending is no group.
_GROUPS = r"(?P<groups>(?:,\w+=(?!.*\.safetensors)[^,]*)*)$"
_ADAPTER = re.compile(
    r"^(?P<path>.+?)(?::(?P<strength>-?\d*\.?\d+))?(?:@(?P<span>[\d.]+s?-[\d.]+s?))?" + _GROUPS
)


def _guides(given: Values, crop: Values) -> list[Values]:
    shared = crop | _filled("guides", given)
    if "mode" in shared:
        _choice("--image-mode", shared["mode"], "replace", "guide")
    guides = [_picture(text) | shared for text in given.get("image", [])]
    if "last_image" in given:
        guides.append(_clip("image", given["last_image"]) | {"at": "last"} | shared)
    return guides


def _picture(text: str) -> Values:
    match = _PICTURE.match(text)
    if match is None:
        raise RequestError(
            f"guides.image is '{text}'; give PATH[@TIME][:STRENGTH], such as door.png@1.5:0.8", field="guides"
        )
    guide: Values = {"image": match["path"]} | _strength(match["strength"])
    time = match["time"]
    if time in ("last", "before"):
        guide["at"] = time
    elif time is not None and time[0] == "f":
        guide["frame"] = int(time[1:])
    elif time is not None:
        guide["at"] = float(time.rstrip("s"))
    return guide


def _clip(key: str, text: str) -> Values:
    match = _CLIP.match(text)
    return {key: text} if match is None else {key: match["path"]} | _strength(match["strength"])


def _strength(text: str | None) -> Values:
    return {} if text is None else {"strength": float(text)}


def _references(given: Values, crop: Values) -> list[Values]:
    shared = crop | _filled("references", given)
    return [_clip("video", text) | shared for text in given.get("reference", [])]


def _source(given: Values, crop: Values) -> Values:
    parts = _filled("source", given)
    if "remake" in given:
        parts["modalities"] = {_choice("--remake", given["remake"], "video", "audio")}
    if "span" in given:
        parts["regenerate"] = [_span("source.regenerate", text) for text in given["span"]]
    if "canvas" in given:
        parts["canvas"] = _canvas(given["canvas"])
    if parts and "video" not in parts:
        first = next(o for o in TABLE if o.name in given and any(_record(f) == "source" for f in o.fields))
        raise RequestError(
            f"{first.flags[0]} is about a clip to start from; give it by --video", field="source"
        )
    return parts | crop if parts else {}


def _audio(given: Values, _: Values) -> Values:
    parts = _filled("audio", given)
    if parts and "file" not in parts:
        raise RequestError("options of a sound are given, but no sound; give it by --audio", field="audio")
    return parts


def _lora(text: str) -> Values:
    match = _ADAPTER.match(text)
    if match is None:
        raise RequestError(
            f"--lora is '{text}'; give PATH[:STRENGTH][@START-END][,GROUP=NUMBER], such as "
            "style.safetensors:0.8",
            field="loras",
        )
    span = {} if match["span"] is None else {"span": _span("loras", match["span"])}
    groups = _groups(match["groups"].split(",")[1:])
    return {"path": match["path"]} | _strength(match["strength"]) | span | groups


def _groups(words: Sequence[str]) -> Values:
    """GROUP=NUMBER words -> a LoRA's groups; which names there are is the request's to say."""
    groups: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name in groups:
            raise RequestError(f"--lora has {name} twice, '{word}' too; give one", field="loras")
        groups[name] = _number("--lora", value)
    return {"groups": groups} if groups else {}


def _span(field: str, text: str) -> Values:
    """START-END -> a span. field: what a message is about, which the command spells in its own way."""
    match = re.fullmatch(r"\s*([\d.]+)s?\s*-\s*([\d.]+)s?\s*", text)
    if match is None:
        raise RequestError(
            f"{field} has the span '{text}'; give START-END in seconds, such as 1.5-3",
            field=field.partition(".")[0],
        )
    return {"start_s": _number(field, match[1]), "end_s": _number(field, match[2])}


def _canvas(text: str) -> Values:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise RequestError(
            f"--canvas is '{text}'; give LEFT,TOP,RIGHT,BOTTOM in pixels, such as 64,0,64,0", field="source"
        )
    return dict(zip(("left", "top", "right", "bottom"), map(int, parts), strict=True))


def _scales(flag: str, texts: Sequence[str]) -> Values:
    """NAME=VALUE[@LEVEL] words -> fields of guidance, those with a level under it."""
    scales: Values = {}
    for text in texts:
        word, at, level = text.partition("@")
        key, value = _assigned(flag, word)
        place = scales.setdefault(str(_number(flag, level)), {}) if at else scales
        place[key] = value
    return scales


def _assigned(flag: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        example = {"--relay": "epsilon=0.5", "--take": "adain=0.2"}.get(flag, "stg=1")
        raise RequestError(f"{flag} is '{text}'; give NAME=VALUE, such as {example}")
    key = name.strip().replace("-", "_")
    if key == "stg_blocks":
        return key, [int(_number(flag, part)) for part in value.split(",")]
    number = _number(flag, value)
    return key, int(number) if key == "skip_step" and number.is_integer() else number


def _setting(flag: str, text: str) -> tuple[str, Any]:
    """NAME=VALUE; what is not a number passes as a word, for the record to take or to refuse by name."""
    name, equals, value = text.partition("=")
    if name == "folder" and value:
        return name, value
    try:
        return _assigned(flag, text)
    except RequestError:
        if equals and value:
            return name.strip().replace("-", "_"), value
        raise


def _number(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"{flag} holds '{text}', which is not a number") from None


def _choice(flag: str, value: str, *options: str) -> str:
    if value not in options:
        raise RequestError(f"{flag} is '{value}'; give one of {listed(value, options)}")
    return value


# --- The official programs' spelling ----------------------------------------------------------------

OFFICIAL = {
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
OFFICIAL_SCALES = {
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
_NUMBER = re.compile(r"-?\d*\.?\d+$")


def translated(words: Sequence[str]) -> list[str]:
    """Arguments with the official programs' flags in our spelling; others pass as they are.

    --image PATH FRAME STRENGTH [CRF], --lora PATH STRENGTH and --video-conditioning PATH STRENGTH become
    one word each; --width and --height become --size; --prompt is the prompt itself.
    """
    out: list[str] = []
    sides: dict[str, str] = {}
    rest = [part for word in words for part in _parts(word)]
    while rest:
        word = rest.pop(0)
        if word == "--":
            out += [word, *rest]
            break
        if word in ("--width", "--height") and rest:
            sides[word] = rest.pop(0)
        elif word == "--prompt" and rest:
            out.append(rest.pop(0))
        elif word in ("--prompt", "--width", "--height"):
            raise RequestError(f"{word} is given without a value; write it behind it")
        elif word == "--image" and _numbers(rest, 1) >= 2:
            path, frame, strength, *more = (rest.pop(0) for _ in range(1 + min(3, _numbers(rest, 1))))
            out += [word, f"{path}@f{frame}:{strength}", *(["--crf", more[0]] if more else [])]
        elif word in ("--lora", "--video-conditioning") and _numbers(rest, 1):
            flag = "--lora" if word == "--lora" else "--reference"
            out += [flag, f"{rest.pop(0)}:{rest.pop(0)}"]
        elif word in OFFICIAL_SCALES and rest:
            flag, name = OFFICIAL_SCALES[word]
            values = [rest.pop(0)]
            while name == "stg_blocks" and _numbers(rest, 0):
                values.append(rest.pop(0))
            out += [flag, f"{name}={','.join(values)}"]
        else:
            out.append(OFFICIAL.get(word, word))
    return [*_size(sides), *out]


def _parts(word: str) -> list[str]:
    """--flag=value of an official flag -> two words."""
    flag, equals, value = word.partition("=")
    official = flag in OFFICIAL or flag in OFFICIAL_SCALES or flag in ("--width", "--height", "--prompt")
    return [flag, value] if equals and official else [word]


def _numbers(words: Sequence[str], start: int) -> int:
    """How many words in a row from `start` are numbers."""
    count = 0
    for word in words[start:]:
        if not _NUMBER.match(word):
            break
        count += 1
    return count


def _size(sides: dict[str, str]) -> list[str]:
    if not sides:
        return []
    missing = {"--width", "--height"} - set(sides)
    if missing:
        raise RequestError(
            f"{next(iter(sides))} is given without {missing.pop()}; give both, or --size", field="size"
        )
    return ["--size", f"{sides['--width']}x{sides['--height']}"]


class Making(TyperCommand):
    """A command that also takes the official programs' flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, translated(args))
