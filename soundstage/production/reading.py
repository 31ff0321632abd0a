"""Read a script from a file: YAML, or a Fountain screenplay. All that is wrong is told at once, by lines.

Keys may be written with spaces, as in `same place as: 1`. Files are found from the script's own folder.

    file = script_file("film.yaml")
    with file.telling():            # adds what is wrong in the file to what the block finds
        plan(file.script)           # in which stand-ins are where something does not fit
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from soundstage.errors import ConfigError, RequestError, shown
from soundstage.fields.yaml_record import line_of_place, read_fields
from soundstage.production.faults import ScriptFault, faults_of, spoken
from soundstage.production.reader import ScriptReader, plain_key
from soundstage.production.script import FilmMix, Look, Script, Shot

SCREENPLAYS = (".fountain", ".spmd")
LineNumbers = Mapping[str, int]  # the line of each place in a file, such as "shots[2].seconds"
_SHOT = re.compile(r"shot (\d+) \(\S*\):? (\w*)")


@dataclass(frozen=True)
class ScriptFile:
    """A script as its file has it. script: with stand-ins for what does not fit; None without a shot.

    faults: what does not fit. lines: where each place is, counted from 1. notices: what changes nothing and
    was perhaps meant to.
    """

    path: Path
    script: Script | None
    faults: tuple[ScriptFault, ...]
    lines: LineNumbers
    notices: tuple[str, ...] = ()

    @property
    def standing_in(self) -> frozenset[int]:
        """Return the numbers of shots that stand in, counted from 1."""
        places = [re.match(r"shots\[(\d+)\]", fault.place) for fault in self.faults]
        return frozenset(int(found[1]) + 1 for found in places if found)

    @property
    def plannable(self) -> Script:
        """Return the script whose other shots can be planned. Raises ConfigError where none can."""
        if self.script is None or any(fault.place.startswith("format") for fault in self.faults):
            raise self._refusal(self.faults)
        return self.script

    @contextmanager
    def telling(self) -> Iterator[Script]:
        """Give `plannable`; raise ConfigError with all faults of the file, and all that the block raises.

        Its `sentences` have a line each.
        """
        script = self.plannable
        try:
            yield script
        except (RequestError, ConfigError) as error:
            found = [_placed(sentence) for sentence in error.sentences or (str(error),)]
            raise self._refusal([*self.faults, *found]) from error
        if self.faults:
            raise self._refusal(self.faults)

    def whole(self) -> Script:
        """Return the script. Raises ConfigError with all faults."""
        with self.telling() as script:
            return script

    def _refusal(self, faults: Sequence[ScriptFault]) -> ConfigError:
        """Return one error with a sentence for each fault, in the order of their lines."""
        told = sorted((line_at(self.lines, fault), _sentence(fault)) for fault in faults)
        sentences = dict.fromkeys(
            f"{self.path}, line {line}: {why}" if line else f"{self.path}: {why}" for line, why in told
        )
        return ConfigError("; ".join(sentences), sentences=list(sentences))


def read_script(path: str | Path) -> Script:
    """Read a script from a .yaml or .fountain file, with its files as absolute paths.

    Raises ConfigError whose `sentences` are all faults, each with its line, field and value, and what is
    right; ConfigError for a file that cannot be read.
    """
    return script_file(path).whole()


def script_file(path: str | Path) -> ScriptFile:
    """Return the script of a .yaml or .fountain file with what is wrong in it.

    Raises ConfigError for a file that cannot be read.
    """
    file = Path(path)
    if not file.exists():
        raise ConfigError(f"there is no file {shown(str(file))}; `soundstage script new {file}` writes one")
    if file.suffix.lower() in SCREENPLAYS:
        from soundstage.production.fountain import read_screenplay

        read = read_screenplay(file)
        data, lines, found, notices = read.data, read.lines, read.faults, read.notices
    else:
        data, lines = read_fields(file, "a script, a .yaml or .fountain file")
        lines, found, notices = {plain_key(place): line for place, line in lines.items()}, (), ()
    reader = ScriptReader(file.absolute().parent)
    script = reader.script(data)
    references = [] if script is None else faults_of(script)
    faults = (*found, *reader.faults, *references)
    return ScriptFile(file, script and _mended(script, references), faults, lines, notices)


def line_at(lines: LineNumbers, fault: ScriptFault) -> int:
    """Return the line of a fault: of the field it begins with, else of its place or what that is in; or 0."""
    first = fault.why.split(" ")[0].strip("'\":,;")
    return line_of_place(f"{fault.place}.{first}".lstrip("."), lines)


def _sentence(fault: ScriptFault) -> str:
    return fault.why if _SHOT.match(fault.why) else f"{spoken(fault.place)}{fault.why}"


def _placed(sentence: str) -> ScriptFault:
    """Return a sentence about a shot, or about a field of the film, as a fault with its place."""
    found = _SHOT.match(sentence)
    if found is not None:
        return ScriptFault(f"shots[{int(found[1]) - 1}].{found[2]}", sentence)
    field = sentence.split(" ")[0]
    return ScriptFault("format" if field in ("model", "size", "fps", "recipe") else field, sentence)


def _mended(script: Script, faults: Sequence[ScriptFault]) -> Script:
    """Return a script without what does not fit together, so that the rest of it can be planned."""
    places = [fault.place for fault in faults]

    def is_faulty(place: str) -> bool:
        return any(other == place or other.startswith((f"{place}.", f"{place}[")) for other in places)

    shots = tuple(
        Shot(action=shot.action, seconds=shot.seconds, id=None if is_faulty(f"shots[{i}].id") else shot.id)
        if is_faulty(f"shots[{i}]")
        else shot
        for i, shot in enumerate(script.shots)
    )
    cast = {
        name: replace(one, face=None, voice_clip=None, loras=()) if is_faulty(f"cast.{name}") else one
        for name, one in script.cast.items()
    }
    there = {
        name: replace(one, image=None) if is_faulty(f"places.{name}") else one
        for name, one in script.places.items()
    }
    mended = replace(script, shots=shots, cast=cast, places=there)
    mended = replace(mended, mix=FilmMix()) if is_faulty("mix") else mended
    return replace(mended, look=Look(script.look.style, script.look.grade)) if is_faulty("look") else mended
