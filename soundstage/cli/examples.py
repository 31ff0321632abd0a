"""`soundstage examples`: print commands that run as they stand, fitted to a model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from soundstage.cli.completion import models
from soundstage.cli.parameters import SETTINGS, as_json
from soundstage.cli.printing import json_text
from soundstage.errors import SoundstageError

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = "nano"  # the model that needs no --model


@dataclass(frozen=True)
class _Prompts:
    """The prompts of a model. rolls: it begins with the picture of `first`."""

    first: str
    second: str
    rolls: str
    parts: str
    changed: str
    sound: str


SMALL = _Prompts(
    first="A red ball bounces on a wooden floor.",
    second="A blue cube blinks twice at night.",
    rolls="A red ball rolls from left to right.",
    parts="A red ball bounces. | A red ball blinks.",
    changed="A blue ball bounces on a wooden floor.",
    sound="Steady rain is heard.",
)
LARGE = _Prompts(
    first="A static wide shot of a lighthouse on a cliff at dusk; waves break below and a gull calls.",
    second="The camera pushes in slowly while a baker pulls bread from a stone oven; embers crackle.",
    rolls="The camera rises slowly past the lighthouse while its lamp begins to turn.",
    parts="A wide shot of a lighthouse at dusk, its lamp dark. | The lamp lights up and sweeps over the sea.",
    changed="A wide shot of a lighthouse in thick fog; a horn sounds.",
    sound="Waves break on rocks, far away a bell rings.",
)


@click.command("examples", context_settings=SETTINGS)
@click.option(
    "--model",
    default=OWN,
    show_default=True,
    metavar="NAME|PATH",
    shell_complete=models,
    help="For this model.",
)
@as_json
def app(model: str, as_json: bool) -> None:
    """Print commands to try, which run as they stand, in their order.

    Example: soundstage examples --model ltx-2.3-distilled
    """
    found = list(_examples(model))
    if as_json:
        print(json_text([{"what": what, "command": command} for what, command in found], indent=2))
        return
    for what, command in found:
        print(f"# {what}\n{command}\n")


def _examples(model: str) -> Iterator[tuple[str, str]]:
    """Yield (what it is for, command line) of each example."""
    is_small, lora = _traits(model)
    prompts = SMALL if is_small else LARGE
    name = () if model == OWN else ("--model", model)
    long_s = "30" if is_small else "40"
    rows: list[tuple[str, tuple[str, ...]]] = [
        ("what it would do, without doing it", ("plan", prompts.first)),
        ("a clip with sound", ("generate", prompts.first, "--seed", "7", "-o", "first.mp4")),
        ("two prompts, twice each, compared on one picture",
         ("generate", prompts.first, prompts.second, "--takes", "2", "--contact-sheet", "-o", "clips/")),
        ("upright, and refined", ("generate", prompts.first, "--recipe", "fast", "--size", "portrait")),
        ("one picture", ("generate", prompts.first, "--frames", "1", "-o", "first.png")),
        ("a clip that begins with a picture",
         ("generate", prompts.rolls, "--image", "first.png", "-o", "rolls.mp4")),
        ("parts that follow each other", ("generate", prompts.parts, "--duration", "4")),
        ("a sound alone", ("t2a", prompts.sound, "--duration", "2", "-o", "sound.wav")),
        ("a clip for a sound", ("a2v", "sound.wav", prompts.first, "-o", "heard.mp4")),
        ("the second half of a clip anew", ("retake", "first.mp4", "1-2", prompts.changed)),
        ("a clip continued", ("extend", "first.mp4", prompts.first, "--after", "1")),
        ("a long take, made in windows", ("generate", prompts.first, "--duration", long_s, "-o", "long.mp4")),
    ]  # fmt: skip
    if lora is not None:
        rows.append(("with a LoRA", ("generate", prompts.first, "--lora", f"{lora}:0.5", "-o", "lora.mp4")))
    for what, words in rows:
        yield what, shlex.join(("soundstage", *words, *name))
    yield "a finished clip in another format", "soundstage convert first.mp4 first.gif"


def _traits(model: str) -> tuple[bool, str | None]:
    """Return (whether a model knows a small world's words alone, a LoRA that comes with it).

    A published model need not be on this machine.
    """
    import soundstage
    from soundstage.library.catalog import MODELS
    from soundstage.prompts.vocabulary import Vocabulary
    from soundstage.request.recipe import DISTILLED_LORA

    try:
        folder = soundstage.load(model).model.folder
    except SoundstageError:
        if model in MODELS:
            return False, None
        raise
    lora = folder / f"{DISTILLED_LORA}_lora.safetensors"
    return Vocabulary.of_folder(folder) is not None, str(lora) if lora.is_file() else None
