"""Prompts composed of their parts: five templates, each to one paragraph.

    camera-subject-lighting    what the camera does, who does what, light and air
    layered                    subject, action, environment, lighting, camera
    scene                      heading, description, blocking, cues: for long shots of 15 to 20 s
    progressive                a base action, with atmosphere, with motion of the camera
    shot                       whole sentences of action, and what else is known, as a script has them

Every template also takes a style, subjects in their places, handoffs, lines of dialogue, cues and sounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator

from soundstage.errors import RequestError, listed, shown
from soundstage.fields.record import record
from soundstage.prompts.beats import (
    AnchorWords,
    HandoffWords,
    LineWords,
    dialogue,
    sentence,
    small,
)
from soundstage.prompts.channels import channels

Template = Literal["camera-subject-lighting", "layered", "scene", "progressive", "shot"]
# Parts that each template needs, in their order.
NEEDED: dict[str, tuple[str, ...]] = {
    "camera-subject-lighting": ("camera", "subject", "action", "lighting"),
    "layered": ("subject", "action", "environment", "lighting", "camera"),
    "scene": ("heading", "description", "blocking"),
    "progressive": ("base", "atmosphere", "motion"),
    "shot": ("action",),
}
# Parts that a template takes besides those it needs.
ALLOWED: dict[str, tuple[str, ...]] = {
    "camera-subject-lighting": ("environment", "cues"),
    "layered": ("cues",),
    "scene": ("cues", "lighting", "camera"),
    "progressive": ("cues",),
    "shot": ("cues", "heading", "environment", "lighting", "camera"),
}
PARTS = tuple(dict.fromkeys(part for parts in (*NEEDED.values(), *ALLOWED.values()) for part in parts))
_INSTEAD = {"subject": ("anchors",), "action": ("anchors", "handoffs", "dialogue")}
_HEADING = re.compile(r"(?P<side>INT\.?/EXT|I/E|INT|EXT|EST)\b\.?\s*(?P<place>.*)", re.IGNORECASE | re.DOTALL)
_SIDES = {"int": "interior", "i": "interior", "ext": "exterior", "e": "exterior", "est": "exterior"}
_ORDERED = re.compile(
    r"(as|then|while|when|after|before|once|finally|next|meanwhile|at the)\b", re.IGNORECASE
)
_SPEAKS = re.compile(r"\b(speak|talk|say|tell|whisper|shout|sing)", re.IGNORECASE)


def _many(value: Any) -> Any:
    """Return one piece as a list of one."""
    return [value] if isinstance(value, str) or hasattr(value, "keys") else value


Parts = Annotated[tuple[str, ...], BeforeValidator(_many)]


@record
class Composition:
    """A prompt by its parts."""

    template: Template = "layered"
    """How the parts are ordered: camera-subject-lighting, layered, scene, progressive, shot."""

    style: str = ""
    """Genre and look, such as "noir, film grain"."""

    camera: str = ""
    """What the camera does: shot, angle, movement, speed."""

    subject: str = ""
    """Who or what is seen, by what can be observed."""

    action: str = ""
    """What the subject does, as words that follow it: "walks along the pier"."""

    environment: str = ""
    """Where it is."""

    lighting: str = ""
    """Light, air and textures."""

    heading: str = ""
    """Place and time of a scene. A heading of a screenplay, such as "INT. PIER - NIGHT", is put in words."""

    description: str = ""
    """What the place is like."""

    blocking: Parts = ()
    """Actions and movements of the camera, in their order."""

    cues: Parts = ()
    """Notes on the performance and on what is heard."""

    base: str = ""
    """A whole sentence of what happens."""

    atmosphere: str = ""
    """What is added to the base: light, air, place."""

    motion: str = ""
    """What is added last: what the camera does."""

    anchors: Annotated[tuple[AnchorWords, ...], BeforeValidator(_many)] = ()
    """Subjects in their places: PLACE: SUBJECT, such as "left: a girl draws on a notepad"."""

    handoffs: Annotated[tuple[HandoffWords, ...], BeforeValidator(_many)] = ()
    """Things handed over: GIVER > THING > TAKER > THEN, such as "he > a cup > her"."""

    dialogue: Annotated[tuple[LineWords, ...], BeforeValidator(_many)] = ()
    """Lines that are spoken: WHO (HOW): WORDS, such as "Ann (calm): Hello."."""

    sounds: str = ""
    """What is heard besides speech."""

    tagged: bool = False
    """Put what is seen, said and heard behind the tags [VISUAL], [SPEECH] and [SOUNDS]."""

    def text(self) -> str:
        """Return the prompt, one paragraph. Raises RequestError that names the parts that are missing."""
        self._check()
        orders = {
            "camera-subject-lighting": self._camera_first,
            "layered": self._layered,
            "scene": self._scene,
            "progressive": self._progressive,
            "shot": self._shot,
        }
        seen = [_style(self.style), *orders[self.template]()]
        if self.tagged:
            return self._with_tags(_paragraph(seen))
        return _paragraph([*seen, dialogue(self.dialogue), *map(sentence, self.cues), sentence(self.sounds)])

    def _check(self) -> None:
        """Refuse missing parts, and parts that the template has no place for."""
        needed = NEEDED[self.template]
        missing = [
            part
            for part in needed
            if not _given(getattr(self, part))
            and not any(getattr(self, other) for other in _INSTEAD.get(part, ()))
        ]
        if missing:
            raise RequestError(
                f"the template {self.template} needs {_and(needed)}; {_and(missing)} {_is(missing)} missing",
                field=missing[0],
            )
        takes = (*needed, *ALLOWED[self.template])
        unused = [part for part in PARTS if part not in takes and _given(getattr(self, part))]
        if unused:
            raise RequestError(
                f"the template {self.template} has no place for {_and(unused)}; it takes {_and(takes)}",
                field=unused[0],
                unused=unused,
            )

    def _camera_first(self) -> list[str]:
        return [sentence(self.camera), *self._acts(), sentence(self.environment), sentence(self.lighting)]

    def _layered(self) -> list[str]:
        return [*self._acts(), sentence(self.environment), sentence(self.lighting), sentence(self.camera)]

    def _scene(self) -> list[str]:
        told = [sentence(heading_words(self.heading)), sentence(self.description), sentence(self.lighting)]
        return [*told, *self._placed(), *ordered(self.blocking), *self._handed(), sentence(self.camera)]

    def _progressive(self) -> list[str]:
        base = self.base.strip().rstrip(".")
        atmosphere = self.atmosphere.strip()
        if re.match(r"(in|on|at|under|by|amid|among|through|beneath|with|as|while)\b", atmosphere):
            told = [sentence(f"{base}, {atmosphere}")]
        else:
            told = [sentence(base), sentence(atmosphere)]
        return [*told, *self._placed(), *self._handed(), sentence(self.motion)]

    def _shot(self) -> list[str]:
        told = [heading_words(self.heading), self.environment]
        return [*map(sentence, told), *self._acts(), sentence(self.lighting), sentence(self.camera)]

    def _acts(self) -> list[str]:
        subject, action = self.subject.strip().rstrip("."), self.action.strip()
        whole = [sentence(f"{subject} {action}")] if subject else [sentence(action)]
        return [*whole, *self._placed(), *self._handed()]

    def _placed(self) -> list[str]:
        return [anchor.sentence() for anchor in self.anchors]

    def _handed(self) -> list[str]:
        return [handoff.sentence() for handoff in self.handoffs]

    def _with_tags(self, seen: str) -> str:
        """Return the prompt with its channels tagged; how a line is said is heard, and goes to the sounds."""
        speakers = list(dict.fromkeys(line.who.strip() for line in self.dialogue))
        if speakers and not _SPEAKS.search(seen):
            spoken = f"{' and '.join(map(small, speakers))} {'speak' if len(speakers) > 1 else 'speaks'}"
            seen = f"{seen} {sentence(spoken)}"
        voices = [sentence(line.told("speaks")) for line in self.dialogue if line.how or line.language]
        heard = _paragraph([*dict.fromkeys(voices), *map(sentence, self.cues), sentence(self.sounds)])
        said = " ".join(line.words.strip('"') for line in self.dialogue)
        return channels(seen, _unmarked(said), heard)


def compose(template: str = "layered", **parts: Any) -> str:
    """Return a prompt of its parts, one paragraph.

    template: camera-subject-lighting, layered, scene, progressive or shot. parts: the other fields.
    Raises RequestError for a template that is not known, and for parts that are missing or have no place.
    """
    return Composition(template=checked_template(template), **parts).text()


def checked_template(name: Any) -> Template:
    """Return the name of a template. Raises RequestError for another."""
    if name not in get_args(Template):
        raise RequestError(
            f"template is {shown(name)}; the templates are {listed(str(name), get_args(Template))}",
            field="template",
        )
    return name  # type: ignore[no-any-return]


def heading_words(heading: str) -> str:
    """Return the heading of a screenplay's scene in words, "Interior, kitchen, night"; others as they are."""
    match = _HEADING.fullmatch(" ".join(heading.split()))
    if match is None:
        return heading
    sides = [_SIDES.get(side.lower(), side) for side in re.split(r"[./]+", match["side"]) if side]
    place = [part.strip() for part in re.split(r"\s+[-\u2013\u2014]+\s+|,", match["place"]) if part.strip()]
    return ", ".join([" and ".join(sides), *(part.lower() if part.isupper() else part for part in place)])


def ordered(actions: Sequence[str]) -> list[str]:
    """Return actions as sentences, each after the first with a word that says in which order they come."""
    told = [sentence(action) for action in actions]
    return told[:1] + [one if _ORDERED.match(one) else f"Then {small(one)}" for one in told[1:]]


def _style(style: str) -> str:
    style = re.sub(r"^\s*style\s*:\s*", "", style, flags=re.IGNORECASE)
    return sentence(f"Style: {style}") if style.strip() else ""


def _paragraph(sentences: Iterable[str]) -> str:
    """Return sentences in one line. Bars and times in brackets are words there, not marks of parts."""
    return _unmarked(" ".join(filter(None, sentences)))


def _unmarked(text: str) -> str:
    """Return text whose bars and times in brackets are words."""
    return re.sub(r"(?<!\\)(\||\[(?=\s*\d))", r"\\\1", text)


def _given(value: Any) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
