"""`soundstage prompt`: prompts checked by rules, composed of their parts, and enhanced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from soundstage.cli.parameters import FILE, SETTINGS, Ordered, as_json
from soundstage.cli.printing import json_text

# Options of `compose`, by the field of a Composition that each fills, with what stands for the value.
ONE_PART = (
    *("style", "camera", "subject", "action", "environment", "lighting", "heading", "description"),
    *("base", "atmosphere", "motion", "sounds"),
)
MANY_PARTS = {
    "blocking": ("--blocking", "TEXT"),
    "cues": ("--cue", "TEXT"),
    "anchors": ("--anchor", "PLACE: SUBJECT"),
    "handoffs": ("--handoff", "GIVER > THING > TAKER > THEN"),
    "dialogue": ("--line", "WHO (HOW): WORDS"),
}


@click.group("prompt", cls=Ordered, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Check, compose and enhance prompts.

    Example: soundstage prompt compose --subject "A fox" --action "crosses the snow" --environment "A white \
field" --lighting "Pale morning light" --camera "The camera pans slowly"
    """


class PartOption(click.Option):
    """An option for a part of a prompt. Its help is that of the record's field, read when it is asked for."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from soundstage.fields.describe import field_help
        from soundstage.prompts.compose import Composition

        assert self.name is not None
        self.help = field_help(Composition, self.name).text + (" Repeatable." if self.multiple else "")
        return super().get_help_record(ctx)


def _part_options(command: Any) -> Any:
    for name, (flag, form) in reversed(MANY_PARTS.items()):
        command = click.option(flag, name, cls=PartOption, multiple=True, metavar=form)(command)
    for name in reversed(ONE_PART):
        command = click.option(f"--{name}", cls=PartOption, metavar="TEXT")(command)
    return command


@app.command()
@click.argument("file", type=FILE, required=False, help="YAML or JSON file of a prompt's parts.")
@click.option(
    "--template",
    metavar="NAME",
    help="Order of the parts: camera-subject-lighting, layered, scene, progressive or "
    "shot. [default: the file's, else layered]",
)
@_part_options
@click.option(
    "--tagged", is_flag=True, help="Put what is seen, said and heard behind [VISUAL], [SPEECH] and [SOUNDS]."
)
@as_json
def compose(file: Path | None, template: str | None, tagged: bool, as_json: bool, **parts: Any) -> None:
    """Print a prompt composed of its parts, one paragraph.

    Parts that are typed go before those of the file.

    Example: soundstage prompt compose --subject "A fox" --action "crosses the snow" --environment "A white \
field" --lighting "Pale morning light" --camera "The camera pans slowly"
    """
    from dataclasses import replace

    from soundstage.errors import ConfigError
    from soundstage.fields.yaml_record import read_record
    from soundstage.prompts.compose import Composition, checked_template

    given = {name: value for name, value in parts.items() if value}
    if template is not None:
        given["template"] = checked_template(template)
    if tagged:
        given["tagged"] = True
    if file is None:
        composition = Composition(**given)
    else:
        if not file.is_file():
            raise ConfigError(f"there is no file {file}; give a YAML or JSON file of a prompt's parts")
        composition = replace(read_record(Composition, file), **given)
    text = composition.text()
    print(json_text({"prompt": text, "template": composition.template}) if as_json else text)
