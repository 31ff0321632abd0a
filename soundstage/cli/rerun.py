"""`soundstage rerun`: the request of a finished clip with a command's changes, and what may differ now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from soundstage.cli.batch import about
from soundstage.cli.made import Made, read_made
from soundstage.cli.options import TABLE, Values
from soundstage.cli.request_fields import request_fields
from soundstage.cli.rivals import SCALE_WORDS, replaced_by
from soundstage.errors import RequestError, listed

if TYPE_CHECKING:
    from soundstage.engine import Engine
    from soundstage.request.request import Request

LISTS = (
    "guides",
    "references",
    "controls",
    "speakers",
    "loras",
)  # a change replaces them; other records are changed part by part
# The options that give the files of a field.
FILE_OPTIONS = {
    "guides": ("image", "last_image"),
    "references": ("reference",),
    "controls": ("control",),
    "source": ("video", "mask"),
    "audio": ("audio",),
    "speakers": ("speaker",),
    "loras": ("lora",),
    "recipe": ("recipe",),
}


def rerun_options(command: Any) -> Any:
    """Give a command the options that `rerun` has besides those of all."""
    options = (
        click.option("--prompt", metavar="TEXT", help="Make another prompt with the same settings."),
        click.option(
            "--without",
            multiple=True,
            metavar="NAME",
            help="Leave out what the file has: a field or an option, such as image or lora. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Again:
    """A clip that is made again: the fields of its new request and the values of the command.

    made: how its file was made. own_model: the model is the file's, not one that the command names.
    """

    made: Made
    fields: Values
    values: Values
    own_model: bool

    def notes(self, stage: Engine) -> list[str]:
        """Return sentences on what makes the result differ though nobody asked for it."""
        facts, path = self.made.facts, self.made.path
        found = []
        if facts.get("changes"):
            found.append(f"notice: {path} was changed after it was made; the clip is made as it was before")
        if self.own_model:
            changed = [*_changed_files(facts, stage), *_changed_numbers(facts, stage)]
            if changed:
                found.append(f"notice: {path} was made with {', '.join(changed)}; the result may differ")
        return found


def read_again(file: Path, values: Values) -> Again:
    """Return the request of a file with a command's changes.

    Raises MediaError for a file that does not say how it was made, RequestError for changes that do not fit
    and for inputs that are gone or changed.
    """
    from soundstage.request.request import Request

    made = read_made(file)
    typed = {name: value for name, value in values.items() if _typed(name)}
    fields = _changed(made, typed)
    with about(str(file)):
        _check_inputs(made, Request(**fields), typed)
    several = {name: typed.get(name) for name in ("seeds", "takes")}
    own = {} if "model" in typed else _own_model(made, typed)
    if "prompt" not in typed:  # hints are about words that can still be chosen
        own["no_hints"] = True
    return Again(made, fields, {**values, **several, **own}, own_model="model" not in typed)


def _typed(name: str) -> bool:
    """Return whether an option was typed; the user's defaults change nothing of a clip that was made."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


# --- fields -----------------------------------------------------------------------------------------------


def _changed(made: Made, typed: Values) -> Values:
    """Return the fields of a file's request with a command's changes."""
    kept = _without(made.fields, typed.get("without", ()))
    changes = request_fields(typed, kept)
    if "prompt" in typed:
        changes["prompt"] = typed["prompt"]
    for name in changes:
        for other in replaced_by(name):
            kept.pop(other, None)
        records, word = SCALE_WORDS.get(name, ((), ""))
        for record in records:
            kept[record] = _without_word(kept.get(record) or {}, word)
    merged = kept | {name: _merged(name, kept.get(name), value) for name, value in changes.items()}
    same = merged == made.fields and not {"model", "seeds", "takes"} & typed.keys()
    return _with_folder(made, merged, typed, same=same)


def _merged(name: str, old: Any, new: Any) -> Any:
    both = isinstance(old, Mapping) and isinstance(new, Mapping) and name not in LISTS
    return {**old, **new} if both else new


def _without_word(scales: Mapping[str, Any], word: str) -> Values:
    """Return guidance without one word, under noise levels too."""
    found = {k: _without_word(v, word) if isinstance(v, Mapping) else v for k, v in scales.items()}
    return {key: value for key, value in found.items() if key != word and value != {}}


def _with_folder(made: Made, fields: Values, typed: Values, *, same: bool) -> Values:
    """Return the fields with the take's folder for the same take, and with none for another."""
    from soundstage.rendering.own_folders import TAKES

    take = fields.get("take")
    if any(text.startswith("folder=") for text in typed.get("take", ())):
        return fields
    if same and made.take is not None and made.take.absolute().parent != TAKES.place():
        return {**fields, "take": {**(take or {}), "folder": str(made.take)}}
    if not same and isinstance(take, Mapping) and take.get("folder"):
        return {**fields, "take": {**take, "folder": None}}
    return fields


def _without(fields: Values, names: Sequence[str]) -> Values:
    """Return fields without those that are named."""
    kept = dict(fields)
    for name in names:
        root, _, part = _place(name).partition(".")
        if not part:
            kept.pop(root, None)
        elif isinstance(kept.get(root), Mapping):
            kept[root] = {key: value for key, value in kept[root].items() if key != part}
    return kept


def _place(name: str) -> str:
    """Return the field that a name, an option's or a field's, stands for."""
    from soundstage.request.request import Request

    places = {field: field for field in Request.model_fields if field != "prompt"}
    for option in TABLE:
        field = min(option.fields, key=lambda field: field.count("."), default="")
        root, _, part = field.partition(".")
        if root in Request.model_fields and not (part and root in LISTS):
            places[option.flags[0].removeprefix("--").replace("-", "_")] = field
    word = name.removeprefix("--").replace("-", "_")
    if word not in places:
        known = listed(word, [known.replace("_", "-") for known in places])
        raise RequestError(f"--without is '{name}'; what can be left out is {known}")
    return places[word]


# --- what is not as it was --------------------------------------------------------------------------------


def _check_inputs(made: Made, request: Request, typed: Values) -> None:
    """Raise RequestError for files that the request takes over from the clip and that are gone or changed."""
    from soundstage.library.file_identity import file_digest
    from soundstage.request.recipes import names_file

    inputs = made.facts.get("inputs")
    known = inputs if isinstance(inputs, Mapping) else {}
    problems, fields = [], []
    recipe = {"recipe": request.recipe} if names_file(request.recipe) else {}
    for place, path in {**request.files, **recipe}.items():
        root = place.partition("[")[0].partition(".")[0]
        if typed.keys() & FILE_OPTIONS[root]:
            continue
        fields.append(root)
        if not Path(path).is_file():
            problems.append(
                f"{place} is '{path}', which is not there; give it where it is now, or run this in the "
                "folder where the clip was made"
            )
        elif path in known and file_digest(Path(path)) != known[path]:
            problems.append(f"{place} is '{path}', which has changed since; give it again to use it as it is")
    if problems:
        raise RequestError("; ".join(problems), field=fields[0] if len(problems) == 1 else None)


def _own_model(made: Made, typed: Values) -> Values:
    """Return the values of the file's model, held and computed as it was if this device is of its kind."""
    from soundstage.memory.machine import kind_of, pick_device

    facts = made.facts
    named = facts.get("asked_model") or ([facts["model"]] if isinstance(facts.get("model"), str) else [])
    found: Values = {"model": tuple(map(str, named))} if isinstance(named, list) and named else {}
    here = kind_of(pick_device("auto"))
    if str(facts.get("device", "")).partition(":")[0] == here:
        for name in ("dtype", "weights"):
            if isinstance(facts.get(name), str) and name not in typed:
                found[name] = facts[name]
    return found


def _changed_files(facts: Mapping[str, Any], stage: Engine) -> list[str]:
    """Return the model's files that are not those the clip was made with, in words."""
    old = facts.get("files")
    if not isinstance(old, Mapping):
        return []
    now = stage.model.hashes
    changed = [name for name, digest in old.items() if now.get(name) != digest]
    return [f"another {', '.join(changed)} of model '{stage.model.name}'"] if changed else []


def _changed_numbers(facts: Mapping[str, Any], stage: Engine) -> list[str]:
    """Return the device and the number format of the clip if they are others here."""
    from soundstage.memory.machine import kind_of, pick_device

    device, dtype = (str(facts.get(name, "")) for name in ("device", "dtype"))
    same = device.partition(":")[0] == kind_of(pick_device("auto")) and dtype == stage.number_format.name
    return [] if same or not device else [f"{dtype} on {device}"]
