"""Put messages about a request's fields into the words of the command line.

    guides[0].strength is 1.5; it should be ...   ->   STRENGTH of --image is 1.5; it should be ...
    both duration_s (2) and num_frames (9) ...    ->   both --duration (2) and --frames (9) ...

The table of options.py has the option of each field. Which of them a command has, and which are arguments of
the command, is read from the command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from soundstage.cli.options import TABLE

# A verb that takes one file for several fields: options it lacks -> its argument that fills their fields.
SHARED = {"reference": "video", "audio": "video"}
# Records whose fields are given as NAME=VALUE, or that only a part of which has options.
_OPEN = ("relay", "take", "cache", "video_scales", "audio_scales")
_VERBS = "is|are|has|have|holds|hold|names|changes|asks|was|does|must|needs"
_ASKS = "leave out|leave|give|raise|lower|drop|keep"


class FieldOption(NamedTuple):
    """The option that gives a field. name: the parameter. typed: as typed. word: from its help."""

    name: str
    typed: str
    word: str


class Spoken:
    """The spelling of fields in one command.

    spelled: what is typed for each parameter. values: what was given. places: for options whose values are
    defaults of the user's, where those stand.
    """

    def __init__(
        self,
        spelled: Mapping[str, str],
        values: Mapping[str, Any],
        places: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._values, self._places = values, places
        self._options: dict[str, list[FieldOption]] = {}
        for option in TABLE:
            name = option.name if option.name in spelled else SHARED.get(option.name, "")
            if name in spelled:
                for text in (*([option.field] if option.field else []), *option.reads):
                    field, _, word = text.partition(" ")
                    self._options.setdefault(field, []).append(FieldOption(name, spelled[name], word))
        for name, typed in spelled.items():
            self._options.setdefault(name, [FieldOption(name, typed, "")])
        roots = {field.partition(".")[0] for field in self._options}
        self._roots = "|".join(sorted(map(re.escape, roots), key=len, reverse=True))

    def sentence(self, message: str) -> str:
        """Return a message with options in place of the fields it names; values stay as they are."""
        if not self._options:
            return message
        path = rf"(?P<root>{self._roots})(?P<rest>(?:\[\d+\]|\.[a-z]\w*)*)"
        edges = (r"(?<![\w/.'\"@=-])", r"(?![\w/'\"=-]|\.\w)")
        message = re.sub(edges[0] + path + edges[1], self._path, message)
        subject = rf"(?P<before>^|; |: |, but |\bboth |\) and )(?P<root>{self._roots})"
        message = re.sub(rf"{subject}(?= (?:{_VERBS}) | \()", self._word, message)
        message = re.sub(r"(?P<before>^|; )(?P<root>relay|take)(?= \w+ is )", self._word, message)
        message = re.sub(rf"(?P<before>\bboth )(?P<root>{self._roots})(?= and )", self._word, message)
        second = rf"(?P<before>\bboth \S+ and )(?P<root>{self._roots})(?= are\b)"
        message = re.sub(second, self._word, message)
        asked = rf"(?P<before>\b(?:{_ASKS}) )(?P<root>{self._roots})(?= out\b| above\b| below\b| or |[,;]|$)"
        return _once(re.sub(asked, self._word, message))

    def with_places(self, sentence: str) -> str:
        """Return a translated message with the places of defaults instead of options that nobody typed."""
        if not self._places:
            return sentence
        recipe = self._places.get("--recipe")
        if recipe is not None:
            sentence = re.sub(r"\brecipe '[^']*'", lambda match: f"{match[0]} ({recipe})", sentence, count=1)
        options = "|".join(sorted(map(re.escape, self._places), key=len, reverse=True))
        return re.sub(rf"(?<![\w-])(?:{options})(?![\w-])", lambda match: self._places[match[0]], sentence)

    def option(self, field: str | None, sentence: str) -> str | None:
        """Return the option that a translated message is about, by its own words or by the error's field."""
        if field is None:
            return None
        root = field.partition("[")[0].partition(".")[0]
        typed = [p.typed for path, options in self._options.items() for p in options if _root(path) == root]
        named = [(sentence.find(t), -len(t), t) for t in typed if t in sentence]
        if named:
            return min(named)[2]
        return self._options[root][0].typed if root in self._options else None

    def _path(self, match: re.Match[str]) -> str:
        """Replace a field with an index, a part or an underscore, which no sentence has by chance."""
        root, rest = match["root"], match["rest"]
        if not rest and "_" not in root and root not in ("guides", "loras", "sigmas"):
            return match[0]
        index = re.search(r"\[(\d+)\]", rest)
        field = re.sub(r"\[\d+\]", "", root + rest)
        number = None if index is None else int(index[1])
        if field in self._options:
            option = self._given(field, number)
            typed = self._typed(option, number)
            word = field.partition(".")[2] if "=" in option.word else option.word
            return f"{word} of {typed}" if word else typed
        if (index is not None or root in _OPEN) and root in self._options:
            option = self._given(root, number)
            return f"{field.partition('.')[2]} of {self._typed(option, number)}"
        return match[0]

    def _word(self, match: re.Match[str]) -> str:
        """Replace a field whose name is a plain word, where the grammar shows that the field is meant."""
        root = match["root"]
        return match[0] if root not in self._options else match["before"] + self._options[root][0].typed

    def _given(self, field: str, index: int | None) -> FieldOption:
        """Return the option that an item of a field came from: --image's items, then --last-image's."""
        options = self._options[field]
        left = index or 0
        for option in options:
            count = len(self._texts(option))
            if left < count:
                return option
            left -= count
        return options[0]

    def _texts(self, option: FieldOption) -> list[str]:
        """Return the values given to an option."""
        value = self._values.get(option.name)
        if value is None:
            return []
        return [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]

    def _typed(self, option: FieldOption, index: int | None) -> str:
        """Return the option, with its value where it was given more than once."""
        texts = self._texts(option)
        shown = index is not None and len(texts) > 1 and index < len(texts)
        return f"{option.typed} '{texts[index]}'" if shown and index is not None else option.typed


def _once(message: str) -> str:
    """Return a message without a second half equal to the first: two fields may be one argument."""
    parts = message.split("; ")
    half = len(parts) // 2
    return "; ".join(parts[:half]) if len(parts) % 2 == 0 and parts[:half] == parts[half:] else message


def _root(path: str) -> str:
    return path.partition(".")[0]
