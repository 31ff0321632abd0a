"""The records of a review: what was asked of a clip, the faults that were found, and the score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import Field

from soundstage.errors import RequestError, listed, shown
from soundstage.fields.record import record, unit
from soundstage.request.inputs import Seconds

Lufs = Annotated[float, Field(ge=-70, le=0), unit("LUFS")]
YES, NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")


@record
class Asked:
    """Description of what a clip was meant to be, as far as a review needs it."""

    motion: bool = True
    """Something in the picture is meant to move or change by itself, not only the camera."""
    still_start_s: Seconds = 0.5
    """Longest stillness at the start, in seconds, that is no fault."""
    cuts: bool = False
    """The clip is meant to have cuts, so that jumps of the picture elsewhere than at seams are no fault."""
    seams_s: tuple[Seconds, ...] = ()
    """Times at which windows or clips were joined, where a small jump is looked for."""
    speech: bool | None = None
    """Speech is meant to be heard, or is not. Left out, it is measured only."""
    music: bool | None = None
    """Music is meant to be heard, or is not. Left out, it is measured only."""
    tone: bool | None = None
    """A steady tone, such as a hum or a beep, is meant to be heard, or is not. Left out, it is measured
    only."""
    silence: bool | None = None
    """The sound is meant to be silent, or is not for longer than two seconds. Left out, a sound that is
    silent throughout is a fault."""
    sync: bool = True
    """Sounds are meant to come with what is seen: an offset between them is a fault."""
    loudness_lufs: tuple[Lufs, Lufs] | None = None
    """Lowest and highest integrated loudness (EBU R128) that is no fault. Left out, it is measured only."""

    @classmethod
    def from_text(cls, text: str, base: Asked | None = None) -> Asked:
        """Read "motion=no,music=no,seams=4.1+8.2,loudness=-18:-14" over `base`. Raises RequestError."""
        made = _record_fields(base or cls())
        for part in filter(None, (word.strip() for word in text.split(","))):
            name, equals, value = part.partition("=")
            name = _FIELD_OF.get(name.strip(), name.strip())
            if name not in made or not equals:
                known = listed(name, [_WORD_OF.get(key, key) for key in made])
                raise RequestError(
                    f"asked has {shown(part)}; give NAME=VALUE with one of {known}", field="asked"
                )
            made[name] = _value(name, value.strip())
        try:
            return cls(**made)
        except RequestError as error:
            name, _, rest = error.sentences[0].partition(" is ")
            name, _, rest = error.sentences[0].partition(" is ")
            first = f"{_WORD_OF.get(name, name)} {rest}"
            raise RequestError(f"asked has {first}", field="asked") from None


LOUDNESS_SLACK_LU = 2.0  # around a wanted loudness; a mix is brought nearer
_WORD_OF = {"still_start_s": "still-start", "seams_s": "seams", "loudness_lufs": "loudness"}
_FIELD_OF = {word: name for name, word in _WORD_OF.items()}


@dataclass(frozen=True)
class Fault:
    """A fault that a check found.

    check: its name, a key of `CHECKS`. severity: 0 (at the limit) to 1 (as bad as it gets). start_s, end_s:
    where, in seconds. value, limit: what was measured, and the limit that it breaks. why: one sentence.
    """

    check: str
    severity: float
    start_s: float
    end_s: float
    value: float
    limit: float
    why: str


@dataclass(frozen=True)
class Review:
    """The result of a review. measures: all that was measured, by name, JSON-ready.

    faults: in the order of time. notices: checks that could not be made, and why.
    """

    faults: tuple[Fault, ...]
    measures: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """Return 1 / (1 + the sum of severities): 1 without a fault, lower with each and its severity."""
        return 1 / (1 + sum(fault.severity for fault in self.faults))

    def to_dict(self) -> dict[str, Any]:
        """Return the review as JSON-ready values."""
        return {
            "score": round(self.score, 4),
            "faults": [asdict(fault) for fault in self.faults],
            "measures": dict(self.measures),
            "notices": list(self.notices),
        }


def severity_above(value: float, limit: float, worst: float) -> float:
    """Return how far a value lies beyond a limit, from a little above 0 at it to 1 at `worst` and beyond."""
    share = (value - limit) / (worst - limit)
    return round(min(1.0, max(0.05, share)), 3)


def _record_fields(asked: Asked) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in Asked.__dataclass_fields__}  # type: ignore[attr-defined]


def _value(name: str, text: str) -> Any:
    """Read the word of a field; what does not fit is left to the record to refuse."""
    if text.lower() in ("any", "none", ""):
        return () if name == "seams_s" else None
    if name == "seams_s":
        return tuple(_number(part, name) for part in text.split("+"))
    if name == "loudness_lufs":
        low, colon, high = text.partition(":")
        lufs = _number(low, name)
        if not -70 <= lufs <= 0:
            raise RequestError(f"asked has loudness {shown(text)}; give LUFS from -70 to 0", field="asked")
        return (lufs, _number(high, name)) if colon else _around(lufs)
    if name == "still_start_s":
        return _number(text, name)
    if text.lower() in YES or text.lower() in NO:
        return text.lower() in YES
    raise RequestError(f"asked has {name} {shown(text)}; give yes, no or any", field="asked")


def _around(lufs: float) -> tuple[float, float]:
    return max(-70.0, lufs - LOUDNESS_SLACK_LU), min(0.0, lufs + LOUDNESS_SLACK_LU)


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        word = _WORD_OF.get(name, name)
        raise RequestError(f"asked has {word} {shown(text)}; give a number", field="asked") from None
