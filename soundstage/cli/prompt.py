"""`soundstage prompt`: prompts checked by rules, composed of their parts, and enhanced."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli import process
from soundstage.cli.batch import prompts_option, wishes
from soundstage.cli.completion import models
from soundstage.cli.options import WAYS
from soundstage.cli.parameters import FILE, SETTINGS, Ordered, as_json, device
from soundstage.cli.printing import json_text
from soundstage.errors import num_of

if TYPE_CHECKING:
    from soundstage.prompts.findings import Finding
    from soundstage.prompts.vocabulary import Vocabulary

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


# --- lint ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt to check: where it was given, and what `lint` takes beside it."""

    text: str
    where: str
    judged: dict[str, Any]


_kind = click.option(
    "--kind",
    type=click.Choice(["text", "image"]),
    help="image: a picture shows the first frame, so only what changes is told. [default: text]",
)
_model = click.option(
    "--model",
    metavar="NAME|PATH",
    shell_complete=models,
    help="Judge by the rules for this model: a small one takes short sentences. [default: nano's rules for "
    "words that nano knows, else all rules]",
)


@app.command()
@click.argument("prompt", nargs=-1, help="A prompt; several are judged each. - reads standard input.")
@prompts_option
@_kind
@click.option("--duration", type=click.FloatRange(min=0), metavar="SECONDS", help="Length of the clip.")
@click.option("--silent", is_flag=True, help="The clip has no sound, so none is looked for.")
@_model
@click.option("--fix", is_flag=True, help="Print the prompts with what is mechanical corrected.")
@as_json
def lint(prompt: tuple[str, ...], fix: bool, as_json: bool, **values: Any) -> None:
    """Check prompts by rules of film, and say what would be better.

    The exit code is 0 where there are no warnings, 1 where there are, 2 for input that cannot be read. With
    --fix it is that of the corrected prompts. With --json each prompt is an object in a line.

    Example: soundstage prompt lint "The scene opens with a sad man who is walking, without an umbrella."
    """
    from soundstage.prompts.lint import corrected, language_of_prompt, warnings_of
    from soundstage.prompts.lint import lint as find

    asked = list(_asked_prompts(prompt, values))
    worst, counts = 0, {"warning": 0, "info": 0}
    for one in asked:
        fixed = corrected(one.text, **one.judged) if fix else None
        text = one.text if fixed is None else fixed.prompt
        findings = find(text, **one.judged)
        worst |= bool(warnings_of(findings))
        for finding in findings:
            counts[finding.severity] += 1
        negative = "" if fixed is None else fixed.negative_prompt
        if as_json:
            told = {"language": language_of_prompt(text), "findings": [f.to_dict() for f in findings]}
            more = {} if fixed is None else {"corrected": text, "negative_prompt": negative}
            print(json_text({"prompt": one.text, "where": one.where, **told, **more}))
        elif fix:
            print(text)
            _print_findings(one.where, findings, negative, sys.stderr)
        else:
            _print_findings(one.where, findings, negative, sys.stdout)
    if len(asked) > 1 and not as_json:
        summary = f"{num_of(counts['warning'], 'warning')}, {num_of(counts['info'], 'info')}"
        print(f"{len(asked)} prompts: {summary}", file=sys.stderr)
    if worst:
        raise click.exceptions.Exit(process.FAULT)


def _asked_prompts(prompts: Sequence[str], values: dict[str, Any]) -> Iterator[AskedPrompt]:
    """Yield the prompts of a command line, of its file and of standard input."""
    if not prompts and values["prompts"] is None:
        context = click.get_current_context()
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    for where, fields in wishes(prompts, values):
        text = str(fields.get("prompt", ""))
        seconds = values["duration"] if values["duration"] is not None else fields.get("duration_s")
        modalities = fields.get("modalities") or ("video", "audio")
        judged = {
            "kind": values["kind"] or ("image" if fields.get("guides") or fields.get("source") else "text"),
            "seconds": seconds if isinstance(seconds, int | float) else None,
            "sounds": not values["silent"] and "audio" in modalities,
            "vocabulary": vocabulary_for(values["model"], text),
        }
        yield AskedPrompt(text, where, judged)


def vocabulary_for(model: str | None, prompt: str) -> Vocabulary | None:
    """Return the words of a small model that a prompt is for, None where all rules hold.

    Without a model a prompt is nano's if nano knows all its words.
    """
    from soundstage.cli.enhancing import found_model
    from soundstage.library.model_files import SHIPPED_MODELS
    from soundstage.prompts.vocabulary import Vocabulary

    if model is not None:
        found = found_model(model)
        return None if found is None else Vocabulary.of_folder(found.folder)
    words = Vocabulary.of_folder(SHIPPED_MODELS["nano"])
    return words if words is not None and not words.unknown(prompt) else None


def _print_findings(where: str, findings: Sequence[Finding], negative: str, stream: Any) -> None:
    """Print what was found in a prompt; a line for each, and one for what could stand there instead."""
    indent = "  " if where else ""
    if where:
        print(f"{where}: {'' if findings else 'nothing to say'}".rstrip(), file=stream)
    elif not findings:
        print("nothing to say", file=stream)
    for finding in findings:
        place = f" [{finding.start}-{finding.end}]" if finding.span else ""
        print(f"{indent}{finding.severity}: {finding.rule}{place}: {finding.why}", file=stream)
        if finding.rewrite:
            print(f"{indent}    better: {finding.rewrite}", file=stream)
        elif finding.rewrite == "":
            then = f", and: {finding.then}" if finding.then else ""
            print(f"{indent}    better without it{then}", file=stream)
    if negative:
        print(f'{indent}moved out: --negative-prompt "{negative}"', file=stream)


# --- enhance ------------------------------------------------------------------------------------------


@app.command()
@click.argument("prompt", nargs=-1, help="A prompt; several are enhanced each. - reads standard input.")
@prompts_option
@click.option(
    "--by",
    type=click.Choice(WAYS),
    default="auto",
    show_default=True,
    help="gemma: the model's own text encoder, or --with. endpoint: the model of --url. rules: no model. "
    "auto: the first of endpoint, gemma and rules that is there.",
)
@click.option("--url", metavar="URL", help="Ask this OpenAI-compatible server, such as http://host:8000/v1.")
@click.option(
    "--with",
    "writer",
    metavar="NAME|PATH",
    help="The server's model; without --url, a folder or file of Gemma 3 in place of the text encoder.",
)
@click.option(
    "--image", metavar="PATH", help="Picture of the first frame; only what changes after it is told."
)
@click.option("--duration", type=click.FloatRange(min=0), metavar="SECONDS", help="Length of the clip.")
@click.option("--silent", is_flag=True, help="The clip has no sound, so none is added.")
@_model
@device
@click.option("--yes", "-y", is_flag=True, help="Take the result without asking.")
@click.option("--quiet", "-q", is_flag=True, help="Do not show what changed; implies --yes.")
@as_json
def enhance(prompt: tuple[str, ...], yes: bool, quiet: bool, as_json: bool, **values: Any) -> None:
    """Print a better prompt, after showing what changed on standard error.

    It passes `lint`: an answer of a model that does not is asked for once more, then corrected by rules. At
    a terminal it can be refused, which prints the prompt as it was. With --json each prompt is an object in a
    line.

    Example: soundstage prompt enhance "The scene opens with a sad man." --by rules --model ltx-2.3-distilled
    """
    from soundstage.cli.enhancing import accepted, enhancer_of, found_model, run

    image = values["image"]
    asked = list(_asked_prompts(prompt, {**values, "kind": "image" if image else None}))
    model = found_model(values["model"] or "nano")
    enhancer = enhancer_of(values["by"], values["url"], values["writer"], model, values["device"])
    for one in asked:
        result = run(enhancer, one.text, image, quiet=quiet, **one.judged)
        if as_json:
            print(json_text({"prompt": one.text, "where": one.where, **result.to_dict()}))
            continue
        print(accepted(result, ask=not yes and not quiet, quiet=quiet))


# --- compose ------------------------------------------------------------------------------------------


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
@_model
@as_json
def compose(
    file: Path | None, template: str | None, tagged: bool, model: str | None, as_json: bool, **parts: Any
) -> None:
    """Print a prompt composed of its parts, one paragraph, and what `lint` warns of in it.

    Parts that are typed go before those of the file. The exit code is 1 if there are warnings, which are
    printed on standard error.

    Example: soundstage prompt compose --subject "A fox" --action "crosses the snow" --environment "A white \
field" --lighting "Pale morning light" --camera "The camera pans slowly"
    """
    from dataclasses import replace

    from soundstage.errors import ConfigError
    from soundstage.fields.yaml_record import read_record
    from soundstage.prompts.compose import Composition, checked_template
    from soundstage.prompts.lint import lint as find
    from soundstage.prompts.lint import warnings_of

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
    found = warnings_of(find(text, vocabulary=vocabulary_for(model, text)))
    if as_json:
        findings = [finding.to_dict() for finding in found]
        print(json_text({"prompt": text, "template": composition.template, "findings": findings}))
    else:
        print(text)
        if found:
            _print_findings("", found, "", sys.stderr)
    if found:
        raise click.exceptions.Exit(process.FAULT)
