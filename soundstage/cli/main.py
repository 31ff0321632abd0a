"""`soundstage`: parse, build the typed request, call the engine, print.

Results go to stdout, progress and announcements to stderr. An error is one sentence on stderr and exit
code 2; Ctrl-C is exit code 130. Nothing heavy is imported here: --help answers in under half a second.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from soundstage import __version__
from soundstage.errors import RequestError, SoundstageError

if TYPE_CHECKING:
    from soundstage.clip import Clip
    from soundstage.engine import Engine
    from soundstage.plan import Plan
    from soundstage.request import Request

MISUSE, INTERRUPTED = 2, 130

# Groups of commands that live in their own file, mounted when first named.
GROUPS = {"nano": "soundstage.cli.nano"}

# Request fields as the command line spells them, for messages.
OPTIONS = {
    "size": "--size",
    "duration_s": "--duration",
    "num_frames": "--frames",
    "fps": "--fps",
    "seed": "--seed",
    "steps": "--steps",
    "guidance": "--guidance",
    "negative_prompt": "--negative",
    "prompt": "PROMPT",
}


class Commands(TyperGroup):
    """Turns our errors into one sentence, and finds groups only when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        found = [name for name, module in GROUPS.items() if importlib.util.find_spec(module)]
        return [*super().list_commands(ctx), *found]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None and cmd_name in GROUPS and importlib.util.find_spec(GROUPS[cmd_name]):
            command = typer.main.get_command(importlib.import_module(GROUPS[cmd_name]).app)
            command.name = cmd_name
        return command

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SoundstageError as error:
            print(f"soundstage: {_in_options(error)}", file=sys.stderr)
            raise typer.Exit(MISUSE) from None
        except KeyboardInterrupt:
            print("soundstage: interrupted; no partial file is left", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Film with synchronized sound, from words.\n\n"
    'Example: soundstage generate "A red ball bounces on a wooden floor." --seed 7 --output ball.mp4',
)


def run() -> None:
    """Entry point of the `soundstage` command."""
    # OpenMP's threads spin while they wait. With one of two cores busy elsewhere, the first vocoder call of a
    # 2 s clip took 22.7 s spinning and 0.5 s sleeping. Read once, when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.formatwarning = lambda message, *_, **__: f"soundstage: note: {message}\n"
    app(prog_name="soundstage")


Prompt = Annotated[str, typer.Argument(help="What to show and let hear, in plain English.")]
Size = Annotated[
    str | None,
    typer.Option(
        help="WIDTHxHEIGHT, landscape, portrait or square; sides snap to multiples of 32. "
        "[default: the model's]"
    ),
]
Duration = Annotated[float | None, typer.Option(help="Length in seconds; or give --frames.")]
NumFrames = Annotated[int | None, typer.Option("--frames", help="Length in frames; snaps to 8k+1.")]
Fps = Annotated[float | None, typer.Option(help="Frames per second. [default: the model's]")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same film.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps. [default: the model's]")]
Guidance = Annotated[
    float | None, typer.Option(help="Pull towards the prompt, 1 = off. [default: the model's, per modality]")
]
Negative = Annotated[str | None, typer.Option(help="What to steer away from, where guidance is on.")]
Model = Annotated[str, typer.Option(help="A shipped model's name or a model folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def generate(
    prompt: Prompt,
    size: Size = None,
    duration: Duration = None,
    frames: NumFrames = None,
    fps: Fps = None,
    seed: Seed = 10,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Negative = None,
    model: Model = "nano",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="An .mp4 file, replaced if it is there. [default: from the prompt]"
        ),
    ] = None,
    contact_sheet: Annotated[
        bool, typer.Option("--contact-sheet", help="Also write a PNG of frames over the waveform.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a film with sound and print its path.

    Example: soundstage generate "Rain falls on a tin roof." --size landscape --duration 2 --seed 7
    """
    stage, planned = _planned(prompt, size, duration, frames, fps, seed, steps, guidance, negative, model)
    if plan:
        print(planned.to_json() if as_json else planned)
        return
    path = output or _free_name(prompt, seed)
    sheet = path.with_suffix(".png")
    _check_outputs(path, sheet if contact_sheet else None)
    _announce(planned)
    clip, seconds = _run(stage, planned)
    clip.save(path)
    if contact_sheet:
        clip.contact_sheet(sheet)
    if as_json:
        paths = {"path": str(path), "contact_sheet": str(sheet) if contact_sheet else None}
        print(json.dumps({**paths, "seconds": seconds, **clip.provenance}, ensure_ascii=False))
    else:
        print(path)


@app.command()
def plan(
    prompt: Prompt,
    size: Size = None,
    duration: Duration = None,
    frames: NumFrames = None,
    fps: Fps = None,
    seed: Seed = 10,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Negative = None,
    model: Model = "nano",
    as_json: AsJson = False,
) -> None:
    """Print what `generate` would do: sizes, tokens, noise levels, files. Loads no weights.

    Example: soundstage plan "Rain falls on a tin roof." --size 200x130
    """
    _, planned = _planned(prompt, size, duration, frames, fps, seed, steps, guidance, negative, model)
    print(planned.to_json() if as_json else planned)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A file saved by soundstage.")],
    as_json: AsJson = False,
) -> None:
    """Print how a file was made: the request, the model and the hashes of its weights.

    Example: soundstage show ball.mp4
    """
    from soundstage.clip import read_provenance

    provenance = read_provenance(file)
    if as_json:
        print(json.dumps(provenance, ensure_ascii=False, indent=2))
        return
    for key, value in provenance.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
        print(f"{key}: {text}")


def _planned(
    prompt: str,
    size: str | None,
    duration: float | None,
    frames: int | None,
    fps: float | None,
    seed: int,
    steps: int | None,
    guidance: float | None,
    negative: str | None,
    model: str,
) -> tuple[Engine, Plan]:
    """The engine and the plan of a command's options."""
    import soundstage

    request: Request = soundstage.Request(
        prompt=prompt,
        size=size,
        duration_s=duration,
        num_frames=frames,
        fps=fps,
        seed=seed,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative,
    )
    stage = soundstage.load(model)
    return stage, stage.plan(request)


def _run(stage: Engine, planned: Plan) -> tuple[Clip, dict[str, float]]:
    """Carry out a plan with progress on stderr."""
    from soundstage.cli.progress import Progress
    from soundstage.engine import Done

    with Progress(planned) as progress:
        for event in stage.run(planned):
            progress.show(event)
            if isinstance(event, Done):
                return event.clip, event.seconds
    raise AssertionError("a run ends with Done")


def _announce(planned: Plan) -> None:
    for snap in planned.snaps:
        print(f"snapped {snap}", file=sys.stderr)


def _check_outputs(path: Path, sheet: Path | None) -> None:
    """Find out before the work begins that its results could not be written."""
    from soundstage.clip import VIDEO_SUFFIXES
    from soundstage.media.write import check_writable

    check_writable(path, VIDEO_SUFFIXES)
    if sheet is not None:
        check_writable(sheet, (".png",))


def _free_name(prompt: str, seed: int) -> Path:
    """A name from the prompt's first words and the seed that no file has yet."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-") or "clip"
    path = Path(f"{words}-{seed}.mp4")
    count = 2
    while path.exists():
        path = Path(f"{words}-{seed}-{count}.mp4")
        count += 1
    return path


def _in_options(error: SoundstageError) -> str:
    """An error's sentence, with the option in place of the request's field at its start."""
    message = str(error)
    if isinstance(error, RequestError):
        for field, option in OPTIONS.items():
            message = re.sub(rf"(^|; )({field}) is\b", rf"\1{option} is", message)
    return message
