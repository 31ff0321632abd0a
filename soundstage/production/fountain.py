"""Read a Fountain screenplay as the fields of a script. Parsed by screenplay-tools, of the extra `film`.

    INT. KITCHEN - NIGHT          the heading of the shots below
    Ada rolls to the right.       a paragraph of action is a shot
    ADA (O.S.)                    a speaker, a manner, and the line of the shot before them
    (softly)
    Hello.
    DISSOLVE TO:                  how the next shot comes
    [[seconds: 3]]                a note that is YAML of a shot's fields, for the shot it stands in or after;
                                  one of format, look, cast, places or mix is for the film

Other notes, sections, synopses, centred text and page breaks are for people and change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from soundstage.errors import MissingExtraError, nearest
from soundstage.fields.yaml_record import read_text
from soundstage.production.faults import ScriptFault
from soundstage.production.script import Shot, manner

EXTRA = "film"
# Keys of the title page that are fields of the script, and where they are.
TITLE_KEYS = {
    "title": ("title",),
    "seed": ("seed",),
    "style": ("look", "style"),
    "grade": ("look", "grade"),
    "model": ("format", "model"),
    "size": ("format", "size"),
    "fps": ("format", "fps"),
    "recipe": ("format", "recipe"),
}
FILM_FIELDS = ("format", "look", "cast", "places", "mix")  # of notes, wherever they stand
EITHER_FIELDS = ("sound", "seed", "title")  # of the film before the first shot
SHOT_FIELDS = frozenset(Shot.__dataclass_fields__)  # type: ignore[attr-defined]
KNOWN = SHOT_FIELDS | {*FILM_FIELDS, *EITHER_FIELDS}
NEAR = 0.8  # of difflib's ratio, from which on a name is taken for a misspelt field; Cost is not cast
_TAG = re.compile(r"\[\[(\d+)\]\]")
_CUT_OUT = re.compile(r"/\*.*?\*/", re.DOTALL)
_TO_BLACK = re.compile(r"(FADE OUT|FADE TO BLACK)\s*[.:]?", re.IGNORECASE)


@dataclass(frozen=True)
class ScreenplayPiece:
    """An element of a screenplay. kind: as screenplay-tools calls it. text: without its notes."""

    kind: str
    text: str
    line: int
    notes: tuple[str, ...] = ()
    extension: str = ""


@dataclass(frozen=True)
class ScreenplayFields:
    """The fields of a script, the line of each place, and what is wrong with notes, or told of them."""

    data: dict[str, Any]
    lines: dict[str, int]
    faults: tuple[ScriptFault, ...]
    notices: tuple[str, ...]


def read_screenplay(path: Path) -> ScreenplayFields:
    """Return the fields of a screenplay.

    Raises ConfigError for a file that cannot be read, MissingExtraError without screenplay-tools.
    """
    text = read_text(path, "a screenplay, a .fountain file")
    title, pieces = _parsed(text)
    film = _Film(path)
    for key, value in title:
        film.title_entry(key, value)
    for piece in pieces:
        film.add(piece)
    return film.done()


def _parsed(text: str) -> tuple[list[tuple[str, str]], list[ScreenplayPiece]]:
    """Return the entries of the title page, and the elements with their lines."""
    try:
        from screenplay_tools.fountain.parser import Parser
    except ImportError as error:
        raise MissingExtraError(EXTRA, "reading a Fountain screenplay") from error
    parser = Parser()
    parser.mergeActions = False
    found: list[tuple[Any, int]] = []
    # What is cut out leaves its lines: the parser takes what stands behind it for dialogue.
    text = _CUT_OUT.sub(lambda found: "\n" * found[0].count("\n"), text)
    lines = [*text.split("\n"), ""]
    for number, line in enumerate(lines, 1):
        parser.add_line(line)
        found += [(one, _line(one, lines, number)) for one in parser.script.elements[len(found) :]]
    parser.finalize()
    found += [(one, len(lines)) for one in parser.script.elements[len(found) :]]
    notes = [note.text_raw for note in parser.script.notes]
    title = [(entry.key, entry.text_raw) for entry in parser.script.titleEntries]
    return title, [_piece(one, line, notes) for one, line in found]


def _line(element: Any, lines: list[str], number: int) -> int:
    """Return an element's line: the one just read, or the one before, which it was pending on."""
    told = (getattr(element, "name", "") or element.text_raw).strip()
    waited = number > 1 and told and told in lines[number - 2] and told not in lines[number - 1]
    return number - 1 if waited else number


def _piece(element: Any, line: int, notes: list[str]) -> ScreenplayPiece:
    raw = getattr(element, "name", "") or element.text_raw
    held = tuple(notes[int(tag)] for tag in _TAG.findall(raw) if int(tag) < len(notes))
    text = _TAG.sub("", raw).strip()
    kind = "CENTRED" if getattr(element, "centered", False) else element.type.name
    return ScreenplayPiece(kind, text, line, held, getattr(element, "extension", None) or "")


@dataclass
class _Film:
    """Gathers the fields of a script from the elements of a screenplay, in their order."""

    path: Path
    fields: dict[str, Any] = field(default_factory=dict)
    shots: list[dict[str, Any]] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)
    heading: str = ""
    coming: dict[str, tuple[Any, int]] = field(default_factory=dict)  # fields of the next shot, with lines
    speaker: ScreenplayPiece | None = None
    how: str = ""
    paragraph_at: int = 0  # the last line of the action that goes on; 0 for none
    is_open: bool = False  # whether notes are for the last shot, and not for the next
    faults: list[ScriptFault] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def title_entry(self, key: str, value: str) -> None:
        place = TITLE_KEYS.get(key.strip().lower())
        words = " ".join(value.split()).strip("*_ ")
        if place is None or not words:
            return
        at = self.fields
        for name in place[:-1]:
            at = at.setdefault(name, {})
        at[place[-1]] = _number(words) if place[-1] in ("seed", "fps") else words

    def add(self, piece: ScreenplayPiece) -> None:
        """Take an element in."""
        match piece.kind:
            case "HEADING":
                self._scene(piece)
            case "ACTION":
                self._action(piece)
            case "CHARACTER":
                self.speaker, self.how = piece, ""
            case "PARENTHETICAL":
                self.how = piece.text
            case "DIALOGUE" | "LYRIC":
                self._line(piece)
            case "TRANSITION":
                self._transition(piece)
        for note in piece.notes:
            self._note(note, piece.line)

    def done(self) -> ScreenplayFields:
        """Return the fields. A screenplay without a title is called as its file is."""
        data = {"title": self.path.stem, "cast": {}, **self.fields, "shots": self.shots}
        if isinstance(data["cast"], dict):
            data["cast"] = _with_speakers(dict(data["cast"]), self.shots)
        return ScreenplayFields(data, self.lines, tuple(self.faults), tuple(self.notices))

    def _scene(self, piece: ScreenplayPiece) -> None:
        if piece.text.upper().startswith("FADE IN"):
            self.coming["transition"] = ("fade", piece.line)
            return
        self.heading, self.paragraph_at, self.speaker, self.is_open = piece.text, 0, None, False

    def _action(self, piece: ScreenplayPiece) -> None:
        if _TO_BLACK.fullmatch(piece.text):
            self.coming["transition"] = ("fade", piece.line)
        elif piece.text:
            follows = self.paragraph_at and piece.line == self.paragraph_at + 1
            if follows:
                self.shots[-1]["action"] += f" {piece.text}"
            else:
                self._shot(piece.text, piece.line)
            self.paragraph_at = piece.line
        elif piece.notes and self.paragraph_at == piece.line - 1 and self.paragraph_at:
            self.paragraph_at = piece.line

    def _shot(self, action: str, line: int) -> None:
        at = f"shots[{len(self.shots)}]"
        fields: dict[str, Any] = {"action": action}
        if self.heading:
            fields["heading"] = self.heading
        self.lines |= {at: line, f"{at}.action": line}
        for name, (value, where) in self.coming.items():
            fields[name] = value
            self.lines[f"{at}.{name}"] = where
        self.coming, self.speaker, self.is_open = {}, None, True
        self.shots.append(fields)

    def _line(self, piece: ScreenplayPiece) -> None:
        who = "" if self.speaker is None else self.speaker.text
        if not self.shots or self.shots[-1].get("heading", "") != self.heading:
            self._shot(f"{who} speaks.", piece.line)
        extension = "" if self.speaker is None else self.speaker.extension
        sings = "singing" if piece.kind == "LYRIC" else ""
        said = manner(", ".join(filter(None, (extension, self.how, sings))))
        shot = self.shots[-1]
        shot.setdefault("lines", []).append({"who": who, "says": " ".join(piece.text.split()), **said})
        self.lines[f"shots[{len(self.shots) - 1}].lines[{len(shot['lines']) - 1}]"] = piece.line
        self.how, self.paragraph_at = "", 0

    def _transition(self, piece: ScreenplayPiece) -> None:
        words = piece.text.upper()
        kind = "dissolve" if "DISSOLVE" in words else "fade" if "FADE" in words else "cut"
        self.coming["transition"] = (kind, piece.line)
        self.paragraph_at = 0

    def _note(self, note: str, line: int) -> None:
        fields = _yaml(note)
        meant = _misspelt(fields)
        for name, field_name in meant.items():
            place = f"note in line {line}"
            self.lines[place] = line
            why = f"the note [[{name}: ...]] is no field; did you mean {field_name}?"
            self.faults.append(ScriptFault(place, f"{why} A note for people has no colon"))
        if not fields.keys() & KNOWN and not meant and any(not isinstance(v, str) for v in fields.values()):
            words = " ".join(note.split())
            self.notices.append(f"the note [[{words}]] in line {line} is no field of a script")
        for name, value in fields.items() if fields.keys() & KNOWN else ():
            if name in FILM_FIELDS or (name in EITHER_FIELDS and not self.shots):
                before = self.fields.get(name)
                both = isinstance(before, dict) and isinstance(value, dict)
                self.fields[name] = {**before, **value} if both else value  # type: ignore[dict-item]
                self.lines[name] = line
                self.lines |= {f"{name}.{key}": line for key in (value if isinstance(value, dict) else ())}
            elif self.is_open:
                self.shots[-1][name] = value
                self.lines[f"shots[{len(self.shots) - 1}].{name}"] = line
            else:
                self.coming[name] = (value, line)


def _yaml(note: str) -> dict[str, Any]:
    """Return the fields of a note; none where it is words for people."""
    import yaml

    try:
        data = yaml.safe_load(note)
    except yaml.YAMLError:
        return {}
    if not isinstance(data, Mapping):
        return {}
    return {str(key).strip().replace(" ", "_"): value for key, value in data.items()}


def _misspelt(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields that were probably meant by the names of a note that has no field."""
    if fields.keys() & KNOWN:
        return {}  # the record tells what it does not know
    near = {name: nearest(name, KNOWN, 1) for name in fields}
    return {name: found[0] for name, found in near.items() if found and _alike(name.lower(), found[0])}


def _alike(name: str, other: str) -> bool:
    return SequenceMatcher(None, name, other).ratio() >= NEAR


def _number(words: str) -> Any:
    try:
        return float(words) if "." in words else int(words)
    except ValueError:
        return words


def _with_speakers(cast: dict[Any, Any], shots: list[dict[str, Any]]) -> dict[Any, Any]:
    """Return the cast with those who speak and are not described; lines then name them as the cast does."""
    spelled = {str(name).upper(): str(name) for name in cast}
    for shot in shots:
        for line in shot.get("lines", ()):
            name = spelled.setdefault(line["who"].upper(), line["who"].title())
            line["who"] = name
            if name not in cast and name:
                cast[name] = {"description": name}
    return cast
