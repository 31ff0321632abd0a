"""`generate` and its faces: every verb fills a Request's fields and goes the same way from there."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundstage.cli.app import json_text, print_table
from soundstage.cli.options import Making, Values, request_fields, with_options
from soundstage.cli.results import results
from soundstage.errors import RequestError

if TYPE_CHECKING:
    from soundstage.engine import Engine
    from soundstage.planning.plan import Plan

commands = typer.Typer()

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What to show and let hear, in plain English.")]
MaybePrompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="What it shows and lets hear; helps a little.")
]
SourceVideo = Annotated[str, typer.Argument(metavar="VIDEO", help="The clip to start from.")]
UPSCALE_PROMPT = "A clear, detailed picture."


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.registered_commands += commands.registered_commands


@commands.command(cls=Making)
@with_options()
def generate(prompt: Prompt, values: Values) -> None:
    """Make a film with sound and print its path.

    Example: soundstage generate "A yellow star blinks twice at night. There is rain." --duration 2 --seed 7
    """
    _make(prompt, values)


@commands.command(cls=Making)
@with_options(outputs=False)
def plan(prompt: Prompt, values: Values) -> None:
    """Print what `generate` would do: sizes, tokens, noise levels, files, memory. Loads no weights.

    Example: soundstage plan "A blue cube blinks twice at night." --size 200x130
    """
    stage, planned = _planned(prompt, values)
    _tell_unknown_words(stage, prompt)
    _print_plan(stage, planned, values)


@commands.command(cls=Making)
@with_options("video", "span", "denoise", "extend_before", "extend_after")
def retake(
    video: SourceVideo,
    span: Annotated[str, typer.Argument(metavar="START-END", help="In seconds, such as 1.5-3.")],
    prompt: Prompt,
    values: Values,
) -> None:
    """Make a stretch of a clip anew, and keep the rest. --remake video or audio makes only that anew.

    Example: soundstage retake ball.mp4 1-2 "A blue ball bounces on a wooden floor."
    """
    _make(prompt, values, video=video, span=[span])


@commands.command(cls=Making)
@with_options("video", "span", "denoise", "extend_before", "extend_after", "remake")
def extend(
    video: SourceVideo,
    prompt: Prompt,
    values: Values,
    extend_after: Annotated[
        float | None, typer.Option("--after", help="Seconds of new time after it.")
    ] = None,
    extend_before: Annotated[
        float | None, typer.Option("--before", help="Seconds of new time before it.")
    ] = None,
) -> None:
    """Go on with a clip, after its end, before its beginning, or both.

    Example: soundstage extend ball.mp4 "A red ball bounces on a wooden floor." --after 1
    """
    if extend_after is None and extend_before is None:
        raise RequestError("extend needs a length; give --after or --before in seconds")
    _make(prompt, values, video=video, extend_after=extend_after, extend_before=extend_before)


@commands.command(cls=Making)
@with_options("image")
def keyframe(
    prompt: Prompt,
    image: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="PATH[@TIME][:STRENGTH]; evenly spaced without times."),
    ],
    values: Values,
) -> None:
    """Go from picture to picture.

    Example: soundstage keyframe "A red ball rolls from left to right." left.png right.png --duration 2
    """
    _make(prompt, values, image=_spaced(image, prompt, values))


@commands.command(cls=Making)
@with_options("audio", "audio_mode")
def a2v(
    audio: Annotated[str, typer.Argument(metavar="AUDIO", help="The sound of the film.")],
    prompt: Prompt,
    values: Values,
) -> None:
    """Make a picture to a sound. The film has the sound's own samples.

    Example: soundstage a2v beat.wav "A red ball bounces." --image ball.png
    """
    _make(prompt, values, audio=audio, audio_mode="driving")


@commands.command(cls=Making)
@with_options("video", "remake", "only")
def v2a(video: SourceVideo, prompt: Prompt, values: Values) -> None:
    """Make the sound of a silent clip. Its picture stays as it is.

    Example: soundstage v2a silent.mp4 "A thud with each bounce."
    """
    _make(prompt, values, video=video, remake="audio")


@commands.command(cls=Making)
@with_options("video", "image", "last_image", "only", "contact_sheet")
def t2a(prompt: Prompt, values: Values) -> None:
    """Make sound alone, as a .wav file.

    Example: soundstage t2a "Steady rain is heard." --duration 4
    """
    _make(prompt, values, only="audio")


@commands.command(cls=Making)
@with_options("video", "recipe", "only", "remake", "denoise", "span", "mask", "canvas")
def upscale(video: SourceVideo, values: Values, prompt: MaybePrompt = UPSCALE_PROMPT) -> None:
    """Make a finished clip twice as large and refine it; its sound is kept.

    Example: soundstage upscale ball.mp4 "A red ball bounces."
    """
    _make(prompt, values, video=video, recipe="upscale", remake="video")


@commands.command(cls=Making)
@with_options("video", "audio", "audio_mode", "reference", "recipe")
def dub(video: SourceVideo, prompt: Prompt, values: Values) -> None:
    """New speech for the speaker of a clip, in the same voice; needs a dubbing LoRA by --lora.

    Example: soundstage dub talk.mp4 'She says: [SPEECH] "Good morning."' --lora dub.safetensors
    """
    _make(prompt, values, reference=[video], audio=video, audio_mode="identity", recipe="dub")


@commands.command()
def recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """List the recipes there are, and what each is for.

    Example: soundstage recipes
    """
    from soundstage.request.recipes import listing, recipes_folder

    found = listing()
    if as_json:
        print(json_text([recipe.to_dict() for recipe in found], indent=2))
        return
    from rich.table import Table

    table = Table("recipe", "what it does", "best for")
    for recipe in found:
        table.add_row(recipe.name, recipe.summary, recipe.best_for)
    print_table(table)
    print(f"your own: .yaml files in {recipes_folder()}", file=sys.stderr)


@commands.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file saved by soundstage.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Print how a file was made: the request, the model and the hashes of its weights.

    Example: soundstage show ball.mp4
    """
    from soundstage.clip import read_provenance

    provenance = read_provenance(file)
    if as_json:
        print(json_text(provenance, indent=2))
        return
    for key, value in provenance.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
        print(f"{key}: {text}")


def _make(prompt: str, values: Values, **fixed: Any) -> None:
    """Plan and carry out a request, with progress on stderr. fixed: values that the verb itself gives."""
    from soundstage.cli.progress import Progress
    from soundstage.rendering.events import Done

    stage, planned = _planned(prompt, values | fixed)
    _tell_unknown_words(stage, prompt)
    if values["plan"]:
        _print_plan(stage, planned, values)
        return
    with results(prompt, planned, values) as named:
        shown = _as_typed(planned, values["context"])
        for snap in shown.snaps:
            print(f"snapped {snap}", file=sys.stderr)
        for notice in shown.notices:
            print(f"notice: {notice}", file=sys.stderr)
        choice = stage.choose(planned)
        if choice.residency.policy != "resident" or choice.weights not in ("full", "stored"):
            print(f"memory {choice.reason}", file=sys.stderr)
        with Progress(planned) as progress:
            for event in stage.run(planned):
                progress.show(event)
        assert isinstance(event, Done)
        told = {"seconds": event.seconds, **event.clip.provenance}
        named.save(event.clip, told, as_json=values["as_json"])


def _tell_unknown_words(stage: Engine, prompt: str) -> None:
    """A hint on stderr about words that a small model was never trained with."""
    from soundstage.prompts.vocabulary import Vocabulary

    vocabulary = Vocabulary.of_folder(stage.model.folder)
    hint = (
        None if vocabulary is None or prompt == UPSCALE_PROMPT else vocabulary.hint(stage.model.name, prompt)
    )
    if hint is not None:
        print(f"hint: {hint}", file=sys.stderr)


def _print_plan(stage: Engine, planned: Plan, values: Values) -> None:
    """The plan, and where its weights will be on this machine."""
    choice, used = stage.choose(planned), stage.number_format
    if values["as_json"]:
        found = {**planned.to_dict(), "format": asdict(used), "memory": choice.to_dict()}
        print(json_text(found, indent=2))
    else:
        shown = _as_typed(planned, values["context"])
        print(f"{shown}\nformat    {used}\n{choice}")


def _as_typed(planned: Plan, context: typer.Context) -> Plan:
    """The plan with snaps and notices that name options as they are typed."""
    from soundstage.cli.telling import spoken_within

    spoken = spoken_within(context)
    snaps = tuple(replace(snap, rule=spoken.sentence(snap.rule)) for snap in planned.snaps)
    return replace(planned, snaps=snaps, notices=tuple(map(spoken.sentence, planned.notices)))


def _planned(prompt: str, values: Values) -> tuple[Engine, Plan]:
    """The engine and the plan of a command's options."""
    import soundstage

    request = soundstage.Request(prompt=prompt, **request_fields(values))
    names = values["model"]
    model = names[0] if len(names) == 1 else names
    stage = soundstage.load(
        model,
        dtype=values["dtype"],
        residency=values["residency"],
        memory_gb=values["memory"],
        weights=values["weights"],
    )
    return stage, stage.plan(request)


def _spaced(images: list[str], prompt: str, values: Values) -> list[str]:
    """Pictures without times spread over the clip, the first at its start and the last at its end."""
    timed = [re.search(r"@(last|before|f-?\d+|\d*\.?\d+s?)(:-?[\d.]+)?$", text) for text in images]
    if any(timed) or len(images) == 1:
        return images
    _, planned = _planned(prompt, values)
    last = planned.num_frames - 1
    frames = [round(last * i / (len(images) - 1)) for i in range(len(images))]
    return [_at_frame(text, frame) for text, frame in zip(images, frames, strict=True)]


def _at_frame(text: str, frame: int) -> str:
    path, strength = re.fullmatch(r"(.+?)(:-?\d*\.?\d+)?", text).groups()  # type: ignore[union-attr]
    return f"{path}@f{frame}{strength or ''}"
