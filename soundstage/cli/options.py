"""The options of commands that make something: one table in groups, which all of them share.

A command takes the table by `with_options`. `request_fields.py` reads the values into a Request.
`spelling.py` uses the table to name options, instead of fields, in messages. The meaning of an
option is the description of the field that it fills, in `soundstage/request/`; help reads it from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli.parameters import SEED, WHOLE_NUMBER

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Values = dict[str, Any]  # of the table's options, by name
WAYS = ("auto", "gemma", "endpoint", "rules")  # in which prompts are enhanced


@dataclass(frozen=True)
class Option:
    """One option.

    help: {field} stands for that field's description, {field.*} for the names of its fields; "" is the
    description of the first field. reads: fields that `request_fields` fills from its words, each with the
    word of `form` that stands for it, if it is one of several: "guides.strength STRENGTH".
    """

    name: str  # key of its value
    flags: tuple[str, ...]
    kind: Any  # str, int, float, bool, or a type of click's
    help: str
    form: str | None = None  # what stands for the value in the help; None is click's own word
    many: bool = False  # may be given several times; its value is a tuple
    field: str | None = None  # of the request, filled with the value as it is: "steps", "source.start_s"
    default: Any = None
    reads: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Return all fields that the option fills, without the words of the form."""
        return (*([self.field] if self.field else []), *(text.split()[0] for text in self.reads))

    @property
    def text(self) -> str:
        """Return the help, with the descriptions of fields."""
        help = self.help or f"{{{self.fields[0]}}}"
        text = re.sub(r"\{([\w.]+?)(\.\*)?\}", _described, help)
        return f"{text} Repeatable." if self.many else text

    def parameter(self) -> click.Option:
        """Return the option as click has it."""
        return TableOption(self)


class TableOption(click.Option):
    """An option of the table. Its help is put together when it is asked for, which loads the request."""

    def __init__(self, option: Option) -> None:
        type_ = WHOLE_NUMBER if option.kind is int else option.kind
        kind = {"is_flag": True} if option.kind is bool else {"type": type_, "multiple": option.many}
        super().__init__(
            [*option.flags, option.name],
            metavar=option.form,
            default=option.default,
            show_default=option.default is not None,
            **kind,
        )
        self._option = option

    @property
    def roots(self) -> set[str]:
        """Return the fields of the request that it fills, or whose records have fields that it fills."""
        return {field.partition(".")[0] for field in self._option.fields}

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from soundstage.cli import completion

        return completion.items(self._option.name, self._option.form, incomplete)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        self.help = self._option.text
        return super().get_help_record(ctx)


def _described(match: re.Match[str]) -> str:
    """Return the description of the request's field, or the names of its fields."""
    from soundstage.fields import describe
    from soundstage.request.request import Request

    if match[2]:
        return ", ".join(describe.field_names(Request, match[1]))
    return describe.field_help(Request, match[1]).text


def _option(
    name: str,
    kind: Any,
    help: str = "",
    *flags: str,
    form: str | None = None,
    many: bool = False,
    field: str | None = None,
    default: Any = None,
    reads: tuple[str, ...] = (),
) -> Option:
    """Return an option whose flag, unless flags are given, is its name."""
    return Option(
        name, flags or (f"--{name.replace('_', '-')}",), kind, help, form, many, field, default, reads
    )


def _same(name: str, kind: Any, *flags: str, form: str | None = None) -> Option:
    """Return an option that fills the request's field of its own name."""
    return _option(name, kind, "", *flags, form=form, field=name)


PICTURE, CLIP, SETTING, SCALE = (
    "PATH[@TIME][:STRENGTH]",
    "PATH[:STRENGTH]",
    "NAME=VALUE",
    "NAME=VALUE[@LEVEL]",
)

CLIP_GROUP: tuple[Option, ...] = (
    _same("recipe", str, form="NAME|PATH"),
    _same("size", str),
    _same("duration_s", float, "--duration", form="SECONDS"),
    _same("num_frames", int, "--frames", form="COUNT"),
    _same("fps", float),
    _same("thin", int),
    _option(
        "seed",
        SEED,
        "{seed} random draws one too.",
        form="NUMBER|random",
        reads=("seed",),
    ),
    _option("only", str, form="MODALITY", reads=("modalities",)),
    _same("allow_unfit", bool),
)
INPUT_GROUP: tuple[Option, ...] = (
    _option(
        "image",
        str,
        "{guides} TIME: {guides.at} fN is frame number N. STRENGTH: {guides.strength}",
        form=PICTURE,
        many=True,
        reads=("guides", "guides.image", "guides.strength STRENGTH", "guides.at TIME", "guides.frame TIME"),
    ),
    _option(
        "last_image",
        str,
        "Picture that the result ends on. STRENGTH: {guides.strength}",
        form=CLIP,
        reads=("guides.image", "guides.strength STRENGTH"),
    ),
    _option("image_mode", str, form="MODE", field="guides.mode"),
    _option("crf", int, field="guides.crf"),
    _option("crop", str, form="MODE", reads=("guides.crop", "references.crop", "source.crop")),
    _option(
        "reference",
        str,
        "{references} STRENGTH: {references.strength}",
        form=CLIP,
        many=True,
        reads=("references", "references.video", "references.strength STRENGTH"),
    ),
    _option("reference_attention", float, field="references.attention"),
    _option("reference_mask", str, form="PATH", field="references.mask"),
    _option("reference_downscale", int, field="references.downscale"),
    _option(
        "control",
        str,
        "{controls} KIND: {controls.kind} STRENGTH: {controls.strength} NAME=VALUE: {controls.settings} "
        "mask, image, model, detector and paths name files.",
        form="KIND:PATH[:STRENGTH][,NAME=VALUE...]",
        many=True,
        reads=(
            "controls",
            "controls.kind KIND",
            "controls.file PATH",
            "controls.strength STRENGTH",
            "controls.attention NAME=VALUE",
            "controls.downscale NAME=VALUE",
            "controls.temporal NAME=VALUE",
            "controls.crop NAME=VALUE",
            "controls.mask NAME=VALUE",
            "controls.image NAME=VALUE",
            "controls.model NAME=VALUE",
            "controls.detector NAME=VALUE",
            "controls.paths NAME=VALUE",
            "controls.settings NAME=VALUE",
        ),
    ),
    _option("video", str, form="PATH", field="source.video", reads=("source",)),
    _option("video_start", float, form="SECONDS", field="source.start_s"),
    _option("remake", str, form="MODALITY", reads=("source.modalities",)),
    _option(
        "span",
        str,
        "{source.regenerate} START and END are in seconds.",
        form="START-END",
        many=True,
        reads=("source.regenerate", "source.regenerate.start_s START", "source.regenerate.end_s END"),
    ),
    _option("mask", str, form="PATH", field="source.mask"),
    _option("denoise", float, field="source.denoise"),
    _option("extend_before", float, form="SECONDS", field="source.extend_before_s"),
    _option("extend_after", float, form="SECONDS", field="source.extend_after_s"),
    _option(
        "canvas",
        str,
        "{source.canvas} Give the pixels to add on each side.",
        form="LEFT,TOP,RIGHT,BOTTOM",
        reads=(
            "source.canvas",
            "source.canvas.left LEFT",
            "source.canvas.top TOP",
            "source.canvas.right RIGHT",
            "source.canvas.bottom BOTTOM",
        ),
    ),
    _option("audio", str, form="PATH", field="audio.file", reads=("audio",)),
    _option("audio_mode", str, form="MODE", field="audio.mode"),
    _option("audio_start", float, form="SECONDS", field="audio.start_s"),
    _option("identity_guidance", float, field="audio.guidance"),
    _option("speaker", str, "{speakers}", form="PATH", many=True, reads=("speakers", "speakers.file")),
    _option(
        "lora",
        str,
        "{loras} STRENGTH: {loras.strength} START-END: {loras.span} GROUP=NUMBER: {loras.groups}",
        form="PATH[:STRENGTH][@START-END][,GROUP=NUMBER...]",
        many=True,
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
)
LIGHT_GROUP: tuple[Option, ...] = (
    _option("hdr", str, form="FORMAT", field="output.format"),
    _option("hdr_curve", str, form="NAME", field="output.curve"),
    _option("exposure", float, form="STOPS", field="output.exposure"),
    _option("tone_map", str, form="NAME", field="output.tone_map"),
    _option("color_space", str, form="NAME", field="output.space"),
    _option("ocio", str, form="CONFIG", field="output.ocio"),
    _same("embeddings", str, form="PATH"),
)
TIME_GROUP: tuple[Option, ...] = (
    _option("lengths", str, form="NUMBER,...", reads=("lengths",)),
    _option("relay", str, "{relay} NAME: {relay.*}.", form=SETTING, many=True, reads=("relay",)),
    _option("take", str, "{take} NAME: {take.*}.", form=SETTING, many=True, reads=("take",)),
)
SAMPLING_GROUP: tuple[Option, ...] = (
    _same("steps", int, form="COUNT"),
    _same("schedule", str, form="NAME"),
    _option("sigmas", str, form="NUMBER,...", reads=("sigmas",)),
    _same("sampler", str, form="NAME"),
    _same("guidance", float),
    _same("video_guidance", float),
    _same("audio_guidance", float),
    _same("stg", float),
    _same("modality_guidance", float),
    _same("rescale", float),
    _same("cache", str, form="NAME[:THRESHOLD]"),
    _option(
        "video_scale",
        str,
        "Set one guidance value of the picture, such as stg=1; it wins over all other options. With @LEVEL "
        "it holds from that noise level down, such as cfg=1@0.9875.",
        form=SCALE,
        many=True,
        reads=("video_scales",),
    ),
    _option(
        "audio_scale",
        str,
        "Set one guidance value of the sound, as --video-scale does for the picture.",
        form=SCALE,
        many=True,
        reads=("audio_scales",),
    ),
    _same("negative_prompt", str, "--negative-prompt", "--negative"),
    _same("video_negative_prompt", str),
    _same("audio_negative_prompt", str),
)
MACHINE_GROUP: tuple[Option, ...] = (
    _option(
        "model",
        str,
        "Use this model: its name, its folder, or a weights file.",
        form="NAME|PATH",
        many=True,
        default=("nano",),
        reads=("model",),
    ),
    _option(
        "residency",
        str,
        "Keep weights on the device (resident), move whole parts to it (offload), stream blocks from host "
        "memory (stream) or from disk (disk). auto takes the fastest that fits.",
        form="POLICY",
        default="auto",
        reads=("residency",),
    ),
    _option(
        "weights",
        str,
        "Hold the transformer's weights as full, stored (8-bit as in the file), fp8, fp8-cast, int8 or "
        "int8-dynamic. auto holds them as the file has them.",
        form="FORM",
        default="auto",
        reads=("weights",),
    ),
    _option(
        "dtype",
        str,
        "Compute in bfloat16 or float32. auto takes SOUNDSTAGE_DTYPE if it is set, else bfloat16 where the "
        "device is fast at it.",
        form="DTYPE",
        default="auto",
    ),
    _option(
        "memory",
        float,
        "Use at most this much memory, in GB: the GPU's if there is one, else the machine's. "
        "[default: what is free]",
        form="GB",
        reads=("memory_gb",),
    ),
    _option("as_json", bool, "Print JSON, for programs to read.", "--json", default=False),
)
TABLE = CLIP_GROUP + INPUT_GROUP + LIGHT_GROUP + TIME_GROUP + SAMPLING_GROUP + MACHINE_GROUP
OUTPUTS: tuple[Option, ...] = (
    _option(
        "output",
        str,
        "Write to this file. Its ending is the format: .mp4, .mov, .mkv, .webm, .gif, .webp, %04d.png for "
        "each frame; .png or .jpg for a single one; .wav, .flac, .mp3 or .m4a for sound alone. Or write into "
        "this folder, if it exists or ends in /. The words prompt, seed, index and recipe in braces are "
        "replaced by those of a clip. [default: a name made from the prompt and the seed]",
        "--output",
        "-o",
        form="PATH",
    ),
    _option(
        "quality",
        int,
        "Write the file with this quality, 1 to 100: larger is better and takes more room. "
        "[default: the format's own]",
    ),
    _option(
        "codec",
        str,
        "Write the file with this codec, as its ending allows: h264, h265, vp9, av1, prores, prores4444, "
        "ffv1, hlg; aac, alac. [default: the format's own]",
        form="NAME",
    ),
    _option("force", bool, "Replace the output file and its contact sheet if they exist.", default=False),
    _option(
        "contact_sheet",
        bool,
        "Also write a PNG that shows frames of the clip above its waveform.",
        default=False,
    ),
    _option(
        "preview",
        bool,
        "Show what the clip looks like while it is made: in a terminal with colours, else in a "
        "file beside the output, which is refreshed, and removed at the end.",
        default=False,
    ),
    _option(
        "open",
        bool,
        "Open the clip when it is done; of several the sheet that compares them, or their folder.",
        default=False,
    ),
    _option(
        "quiet",
        bool,
        "Print no progress, notices or hints; errors are printed.",
        "--quiet",
        "-q",
        default=False,
    ),
    _option(
        "enhance",
        click.Choice(WAYS),
        "Enhance prompts first, as `soundstage prompt enhance` does: by the text encoder (gemma), a server "
        "(endpoint), rules, or what is there (auto). What changed is shown; at a terminal it can be refused.",
        form="BY",
    ),
    _option("enhance_url", str, "Enhance by this OpenAI-compatible server.", form="URL"),
    _option(
        "enhance_with",
        str,
        "Enhance by this model of the server; without a server by this folder or file of Gemma 3.",
        form="NAME|PATH",
    ),
    _option("no_hints", bool, "Print no hints about the words of prompts.", default=False),
    _option("plan", bool, "Print what would be made, and stop.", default=False),
    _option(
        "resume",
        bool,
        "Go on with an earlier run of this command that was stopped, from its last checkpoint. Clips that it "
        "has made are not made again.",
        default=False,
    ),
    _option(
        "checkpoint_every",
        click.FloatRange(min=0),
        "Keep where a clip stands each time so many seconds have passed; 0 keeps every step.",
        form="SECONDS",
        default=30.0,
    ),
)

GROUPS = {
    "The clip": CLIP_GROUP,
    "Pictures, clips, sounds and LoRAs": INPUT_GROUP,
    "High dynamic range": LIGHT_GROUP,
    "Parts and windows": TIME_GROUP,
    "Sampling": SAMPLING_GROUP,
    "Model and machine": MACHINE_GROUP,
    "Output": OUTPUTS,
}
_GROUP_OF = {option.name: title for title, options in GROUPS.items() for option in options}


class MakingCommand(click.Command):
    """A command with the table's options. Its help has its own ones first, then the table's in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], **{title: [] for title in GROUPS}}
        for param in self.get_params(ctx):
            record = None if isinstance(param, click.Argument) else param.get_help_record(ctx)
            if record is not None:
                of_table = isinstance(param, TableOption)
                sections[_GROUP_OF[param.name or ""] if of_table else "Options"].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def with_options(*without: str, outputs: bool = True) -> Callable[[Any], Any]:
    """Return a decorator that gives a command the table's options, except those named in `without`."""
    shared = [option for option in (TABLE + OUTPUTS if outputs else TABLE) if option.name not in without]

    def decorate(function: Any) -> Any:
        # click reads this list from its end, for decorators are applied from the last to the first.
        given = getattr(function, "__click_params__", [])
        function.__click_params__ = [*given, *(option.parameter() for option in reversed(shared))]
        return function

    return decorate
