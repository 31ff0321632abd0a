"""`generate` and the commands that stand for a use of it: each fills a Request's fields and calls `_make`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

import soundstage
from soundstage.cli.announcing import LOADING, announce
from soundstage.cli.batch import Tally, in_short, many_options, prompts_option
from soundstage.cli.command_plans import CommandPlans, as_typed, planned_clips, print_plans, without_misfits
from soundstage.cli.enhancing import rewording
from soundstage.cli.hints import UPSCALE_PROMPT, tell_hints
from soundstage.cli.official import OfficialFlags
from soundstage.cli.opening import open_made
from soundstage.cli.options import MakingCommand, Values, with_options
from soundstage.cli.parameters import FILE, as_json
from soundstage.cli.printing import json_text, print_rows
from soundstage.cli.rerun import Again, read_again, rerun_options
from soundstage.cli.results import Results, Saved, all_results, check_formats, check_results
from soundstage.cli.reviewing import Remaking, review_options, reviewed
from soundstage.cli.run_times import RunTimes
from soundstage.errors import RequestError
from soundstage.request.words import file_fields, guide_fields

if TYPE_CHECKING:
    from soundstage.engine import Engine
    from soundstage.planning.placement import Choice
    from soundstage.planning.plan import Plan
    from soundstage.rendering.screen import Screen

ELSEWHERE = "soundstage.elsewhere"  # key of a context's meta
# Options of what a clip shows and of a clip to change, which sound alone has not.
OF_PICTURES = (
    *("video", "video_start", "remake", "span", "mask", "denoise", "extend_before", "extend_after", "canvas"),
    *("thin", "image_mode", "crf", "crop", "video_guidance", "video_scale", "video_negative_prompt"),
)


class Elsewhere(Protocol):
    """Makes a command's clips, or prints their plans where values["plan"] is set."""

    def make(self, prompts: Sequence[str], values: Values, again: Again | None) -> None: ...

    def num_frames(self, prompt: str, values: Values) -> int: ...


prompt_argument = click.argument("prompt", help="What the clip shows and sounds like, in English.")
video_argument = click.argument("video", help="The clip to start from.")


@click.command(cls=OfficialFlags)
@click.argument(
    "prompt",
    nargs=-1,
    help="What a clip shows and sounds like, in English; several make several clips. - reads standard input.",
)
@prompts_option
@many_options
@review_options
@with_options()
def generate(prompt: tuple[str, ...], **values: Any) -> None:
    """Make a clip with sound, or several, and print their paths.

    Example: soundstage generate "A yellow star blinks twice at night. There is rain." --duration 2 --seed 7
    """
    if not prompt and values["prompts"] is None:
        context = click.get_current_context()
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    _make(prompt, values)


@click.command(cls=MakingCommand)
@click.argument(
    "file", type=FILE, help="A file that Soundstage wrote, a request in JSON, or the folder of a take."
)
@rerun_options
@many_options
@with_options()
def rerun(file: Path, **values: Any) -> None:
    """Make a clip again from its own file, with changes.

    All that is not changed is the file's, the model and the seed too. Without changes it is the same clip.

    Example: soundstage rerun ball.mp4 --seed 8 --steps 20
    """
    again = read_again(file, values)
    _make([again.fields["prompt"]], again.values, again)


@click.command(cls=OfficialFlags)
@prompt_argument
@with_options(outputs=False)
def plan(prompt: str, **values: Any) -> None:
    """Print what `generate` would make, without making it.

    Shows sizes, tokens, noise levels, files and memory. Loads no weights.

    Example: soundstage plan "A blue cube blinks twice at night." --size 200x130
    """
    elsewhere = _elsewhere()
    if elsewhere is not None:
        elsewhere.make([prompt], {**values, "plan": True}, None)
        return
    say = _sayer(quiet=False)
    work = planned_clips([prompt], values, say)
    tell_hints(work.stage, work.plans, values, say)
    print_plans(work, values, say)


@click.command(cls=OfficialFlags)
@video_argument
@click.argument("span", metavar="START-END", help="The part to regenerate, in seconds, such as 1.5-3.")
@prompt_argument
@with_options("video", "span", "denoise", "extend_before", "extend_after")
def retake(video: str, span: str, prompt: str, **values: Any) -> None:
    """Regenerate a part of a clip and keep the rest.

    With --remake video or --remake audio, only the picture or only the sound of that part changes.

    Example: soundstage retake ball.mp4 1-2 "A blue ball bounces on a wooden floor."
    """
    _make([prompt], values, video=video, span=[span])


@click.command(cls=OfficialFlags)
@video_argument
@prompt_argument
@with_options("video", "span", "denoise", "extend_before", "extend_after", "remake")
@click.option(
    "--after", "extend_after", type=float, metavar="SECONDS", help="Add this much time after the clip."
)
@click.option(
    "--before", "extend_before", type=float, metavar="SECONDS", help="Add this much time before it."
)
def extend(
    video: str, prompt: str, extend_after: float | None, extend_before: float | None, **values: Any
) -> None:
    """Continue a clip after its end or before its start.

    Example: soundstage extend ball.mp4 "A red ball bounces on a wooden floor." --after 1
    """
    if extend_after is None and extend_before is None:
        raise RequestError("extend needs a length; give --after or --before in seconds")
    _make([prompt], values, video=video, extend_after=extend_after, extend_before=extend_before)


@click.command(cls=OfficialFlags)
@prompt_argument
@click.argument(
    "image",
    nargs=-1,
    required=True,
    help="PATH[@TIME][:STRENGTH] of each picture. Without times they are spread evenly.",
)
@with_options("image")
def keyframe(prompt: str, image: tuple[str, ...], **values: Any) -> None:
    """Make a clip that goes from picture to picture.

    Example: soundstage keyframe "A red ball rolls from left to right." left.png right.png --duration 2
    """
    _make([prompt], values, image=_spaced(image, prompt, values))


@click.command(cls=OfficialFlags)
@click.argument("audio", help="The sound of the clip.")
@prompt_argument
@with_options("audio", "audio_mode")
def a2v(audio: str, prompt: str, **values: Any) -> None:
    """Make a picture for a sound. The clip keeps the sound's own samples.

    Example: soundstage a2v beat.wav "A red ball bounces." --image ball.png
    """
    _make([prompt], values, audio=audio, audio_mode="driving")


@click.command(cls=OfficialFlags)
@video_argument
@prompt_argument
@with_options("video", "remake", "only")
def v2a(video: str, prompt: str, **values: Any) -> None:
    """Make sound for a silent clip. Its picture stays as it is.

    Example: soundstage v2a silent.mp4 "A thud with each bounce."
    """
    _make([prompt], values, video=video, remake="audio")


@click.command(cls=OfficialFlags)
@prompt_argument
@with_options("image", "last_image", "only", "contact_sheet", "preview", *OF_PICTURES)
def t2a(prompt: str, **values: Any) -> None:
    """Make sound without a picture, as a .wav file.

    Example: soundstage t2a "Steady rain is heard." --duration 4
    """
    _make([prompt], values, only="audio")


@click.command(cls=OfficialFlags)
@video_argument
@click.argument(
    "prompt",
    default=UPSCALE_PROMPT,
    required=False,
    help="What the clip shows and sounds like; helps a little.",
)
@with_options("video", "recipe", "only", "remake", "denoise", "span", "mask", "canvas")
def upscale(video: str, prompt: str, **values: Any) -> None:
    """Make a finished clip twice as large.

    Its picture is refined; its sound is kept.

    Example: soundstage upscale ball.mp4 "A red ball bounces."
    """
    _make([prompt], values, video=video, recipe="upscale", remake="video")


@click.command(cls=OfficialFlags)
@video_argument
@prompt_argument
@with_options("video", "audio", "audio_mode", "reference", "recipe")
def dub(video: str, prompt: str, **values: Any) -> None:
    """Give the speaker of a clip new words in the same voice.

    Needs a dubbing LoRA, given by --lora.

    Example: soundstage dub talk.mp4 'She says: [SPEECH] "Good morning."' --lora dub.safetensors
    """
    _make([prompt], values, reference=[video], audio=video, audio_mode="identity", recipe="dub")


@click.command()
@as_json
def recipes(as_json: bool) -> None:
    """List the recipes and what each is for.

    Example: soundstage recipes
    """
    from soundstage.request.recipes import all_recipes, recipes_folder

    found = all_recipes()
    if as_json:
        print(json_text([recipe.to_dict() for recipe in found], indent=2))
        return
    print_rows(("recipe", "what it does", "best for"), ((r.name, r.summary, r.best_for) for r in found))
    print(f"your own: .yaml files in {recipes_folder()}", file=sys.stderr)


COMMANDS = (generate, rerun, plan, retake, extend, keyframe, a2v, v2a, t2a, upscale, dub, recipes)


def register(program: click.Group) -> None:
    """Add the commands to the program."""
    for command in COMMANDS:
        program.add_command(command)


def _make(prompts: Sequence[str], values: Values, again: Again | None = None, **fixed: Any) -> None:
    """Plan all clips, then print the plans, or run them one after the other and save each as it is done.

    again: the clip that is made again. fixed: values that the command itself gives.
    """
    from soundstage.cli.unfinished import unfinished

    elsewhere = _elsewhere()
    if elsewhere is not None:
        elsewhere.make(prompts, values | fixed | {"reword": rewording(values)}, again)
        return
    from soundstage.rendering.screen import Screen

    times = RunTimes()
    say = _sayer(quiet=values["quiet"])
    with unfinished(values, say) as kept:
        given = {"draw_seed": kept.draw_seed, "reword": rewording(values)}
        work, values = _planned_work(prompts, values | fixed | given, say, again)
        if values["plan"]:
            return
        stage, plans, choices, notes = work
        kept.begin(plans)
        with (
            all_results(plans, values, kept.made) as (named, sheet),
            Tally(len(plans), say, as_json=values["as_json"]) as tally,
        ):
            for note in notes:
                say(note)
            tell_hints(stage, plans, values, say)
            made: list[Saved] = []
            told: set[str] = set()
            for index, (planned, choice) in enumerate(zip(plans, choices, strict=True)):
                if index in kept.made:
                    made.append(tally.skip(kept.made[index]))
                    continue
                result = named[index]
                with tally.clip(in_short(planned)):
                    times.of(stage, planned, choice)
                    with Screen(quiet=values["quiet"]) as screen:
                        announce(planned, choice, times, screen)
                        _tell_changes(planned, screen, told)
                        folder = kept.checkpoint(index)
                        done = _rendered(stage, planned, choice, screen, values, result.path, folder)
                        done = reviewed(done, planned, _again(work, index, screen, values, result), values)
                        measured = not kept.resumed and not values.get("retries")
                        saved = _saved(done, result, times, screen, measured=measured)
                    kept.saved(index, saved.path)
                    facts = {"seconds": done.seconds, **done.clip.provenance, **tally.facts}
                    made.append(saved)
                    saved.tell(facts, as_json=values["as_json"], say=say)
                    sheet.add(result.path, done.clip)
            comparison = sheet.save(say)
            if values["open"]:
                open_made(made, comparison, say)
            tally.end(comparison)


def _planned_work(
    prompts: Sequence[str], values: Values, say: Callable[[str], None], again: Again | None
) -> tuple[CommandPlans, Values]:
    """Plan all clips, and print the plans where that is all that is asked.

    Return them with the values, without defaults that do not fit.
    """
    work = stage, plans, *_ = planned_clips(prompts, values, say, again)
    _, values = without_misfits(values, lambda values: check_formats(plans, values), say)
    if values["plan"]:
        check_results(plans, values)
        tell_hints(stage, plans, values, say)
        print_plans(work, values, say)
    return work, values


def _again(work: CommandPlans, index: int, screen: Screen, values: Values, result: Results) -> Remaking:
    """Return the ways to make a clip again with another seed."""
    from soundstage.planning.seeds import with_seed

    planned, choice = work.plans[index], work.choices[index]

    def make(seed: int) -> soundstage.Done:
        other = work.stage.plan(with_seed(planned.request, seed))
        return _rendered(work.stage, other, choice, screen, values, result.path, None)

    return Remaking(make, result.save, result.path, screen.say)


def _rendered(
    stage: Engine,
    planned: Plan,
    choice: Choice,
    screen: Screen,
    values: Values,
    path: Path,
    checkpoint: Path | None,
) -> soundstage.Done:
    """Run a plan, show its progress, and return its last event. path: the file of the clip."""
    from soundstage.cli.preview import previewing
    from soundstage.cli.unfinished import told_of, where
    from soundstage.rendering.bars import ProgressBars
    from soundstage.rendering.progress import preview_every

    if "torch" not in sys.modules:
        screen.begin(LOADING)
    preview = path if values.get("preview") else None
    every = 0 if preview is None else preview_every(planned)
    run = stage.run(
        planned,
        choice=choice,
        preview_every=every,
        checkpoint=checkpoint,
        every_s=values["checkpoint_every"],
    )
    with (
        told_of(),
        ProgressBars(planned, screen) as progress,
        previewing(planned, preview, screen) as show,
        closing(run),  # which keeps where it stands
    ):
        for event in run:
            if (found := where(planned, event)) is not None:
                screen.say(f"goes on {found}")
            progress.show(event)
            show(event)
    assert isinstance(event, soundstage.Done)
    return event


def _tell_changes(planned: Plan, screen: Screen, told: set[str]) -> None:
    """Print what of a request was snapped, and notices, but none twice in a command. told: those printed."""
    shown = as_typed(planned)
    lines = [*(f"snapped {snap}" for snap in shown.snaps), *(f"notice: {text}" for text in shown.notices)]
    for line in lines:
        if line not in told:
            screen.say(line)
    told.update(lines)


def _saved(
    done: soundstage.Done, result: Results, times: RunTimes, screen: Screen, *, measured: bool
) -> Saved:
    """Write a clip to its file, and keep how long it took. measured: all of it was made by this run."""
    times.made()
    screen.begin(f"write {result.path.name}")
    saved = result.save(done.clip)
    if measured:
        times.keep(done.seconds)
    return saved


def _elsewhere() -> Elsewhere | None:
    """Return what makes the command's clips in place of this machine, such as a server."""
    found: Elsewhere | None = click.get_current_context().meta.get(ELSEWHERE)
    return found


def _sayer(*, quiet: bool) -> Callable[[str], None]:
    """Return what prints a line for people on standard error, or nothing."""
    return (lambda _: None) if quiet else (lambda text: print(text, file=sys.stderr))


def _spaced(images: Iterable[str], prompt: str, values: Values) -> list[str]:
    """Spread pictures without times over the clip, the first at its start and the last at its end."""
    images = list(images)
    timed = [{"at", "frame"} & guide_fields(text, "IMAGE").keys() for text in images]
    if any(timed) or len(images) == 1:
        return images
    values, elsewhere = values | {"seed": 0}, _elsewhere()
    if elsewhere is None:
        last = planned_clips([prompt], values, lambda _: None).plans[0].num_frames - 1
    else:
        last = elsewhere.num_frames(prompt, values) - 1
    frames = [round(last * i / (len(images) - 1)) for i in range(len(images))]
    return [_at_frame(text, frame) for text, frame in zip(images, frames, strict=True)]


def _at_frame(text: str, frame: int) -> str:
    """Return the words of a picture with a frame in them."""
    path = file_fields("image", text)["image"]
    return f"{path}@f{frame}{text.removeprefix(path)}"
