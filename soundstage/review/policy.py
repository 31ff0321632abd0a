"""The policy of a film's sound: asked for by words and audio NAG before, and measured after.

    policy = SoundPolicy(music="none", ambience="rain", loudness=-16)
    request = policy.applied(request)        # what `policy.notices` tells
    review = review_clip(clip, policy.asked())

What it adds stands in the request, so that the clip's file says all that made it. Words are positive: a text
that says "no music" names music. What is unwanted goes into the sound's negative prompt and into NAG.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from soundstage.errors import RequestError, listed, shown
from soundstage.fields.record import record, unit
from soundstage.prompts.timeline import with_shared
from soundstage.request.request import Request
from soundstage.review.record import LOUDNESS_SLACK_LU, Asked

NAG = 11.0  # the usual scale, see docs/sampling.md
MAX_AMBIENCE = 200  # letters
# What a sound is steered away from, in words that captions of films use.
MUSIC_WORDS = ("music", "soundtrack", "song", "melody")
SPEECH_WORDS = ("speech", "voice", "talking", "speaks", "narration", "dialogue")
NOISE_WORDS = ("noise", "sound effects")
CHANNEL = re.compile(r"\[SOUNDS?\]\s*:?", re.IGNORECASE)
ANY_CHANNEL = re.compile(r"\[(VISUAL|SPEECH|SOUNDS?)\]\s*:?", re.IGNORECASE)

MusicWish = Literal["none", "only", "any"]


@record
class SoundPolicy:
    """Policy of a film's sound: what it may hold, for the prompt before and a review after."""

    music: MusicWish = "any"
    """Whether music is heard: none, only (nothing else) or any."""
    speech: MusicWish = "any"
    """Whether speech is heard: none, only (besides the ambience nothing else) or any."""
    ambience: Annotated[str, Field(max_length=MAX_AMBIENCE, min_length=1)] | None = None
    """Sound of the place in a few words, such as rain, or distant traffic."""
    loudness: Annotated[float, Field(ge=-70, le=-5), unit("LUFS")] | None = None
    """Integrated loudness by EBU R128 that the clip should have, within 2 LU. It is measured and reported;
    the mix of a film sets it."""

    @model_validator(mode="after")
    def _one_alone(self) -> SoundPolicy:
        if self.music == "only" and self.speech == "only":
            raise ValueError("both music and speech are 'only'; give one of them, the other 'any' or 'none'")
        if self.music == "only" and self.ambience is not None:
            raise ValueError(f"music is 'only' and ambience {shown(self.ambience)}; keep one")
        return self

    @classmethod
    def from_text(cls, text: str) -> SoundPolicy:
        """Read "music=none,speech=only,ambience=rain,loudness=-16". Raises RequestError for other words."""
        fields: dict[str, Any] = {}
        for part in filter(None, (word.strip() for word in text.split(","))):
            name, equals, value = (word.strip() for word in part.partition("="))
            if not equals or not value or name in fields:
                known = listed(name, cls.__dataclass_fields__)  # type: ignore[attr-defined]
                raise RequestError(
                    f"sound has {shown(part)}; give NAME=VALUE once for each of {known}", field="sound"
                )
            fields[name] = value
        try:
            return cls(**fields)
        except RequestError as error:
            told = re.sub(r"\b(music|speech|ambience|loudness) is ", r"sound has \1 ", str(error))
            raise RequestError(told, field="sound") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that ask for something, JSON-ready; `SoundPolicy(**d)` gives it back."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "any")}  # type: ignore[call-overload]

    def applied(self, request: Request, *, negative_prompt: str = "") -> Request:
        """Return the request with the policy's words and NAG. A second time it changes nothing.

        negative_prompt: the model's own text, which the sound's negative prompt then begins with. A request
        whose sound is given, or that makes none, stays as it is.
        """
        if not _makes_sound(request):
            return request
        changes: dict[str, Any] = {}
        sentence = self._sentence
        if sentence and sentence.lower() not in request.prompt.lower():
            changes["prompt"] = _with_sentence(request.prompt, sentence)
        before = _first(request.audio_negative_prompt, request.negative_prompt, negative_prompt)
        missing = _missing(self._unwanted, before)
        if missing:
            changes["audio_negative_prompt"] = ", ".join(filter(None, (before, *missing)))
        if self._unwanted and "nag" not in request.audio_scales:
            changes["audio_scales"] = {**request.audio_scales, "nag": NAG}
        return Request(**{**_fields(request), **changes}) if changes else request

    def notices(self, request: Request, *, negative_prompt: str = "") -> tuple[str, ...]:
        """Return what `applied` adds to a request, and what it cannot do, in sentences."""
        if not _makes_sound(request):
            return ("the sound policy is only measured: this clip's sound is given, or none is made",)
        made, told = self.applied(request, negative_prompt=negative_prompt), []
        if made.prompt != request.prompt:
            told.append(f"the sound policy adds to the prompt: {self._sentence}")
        if made.audio_negative_prompt != request.audio_negative_prompt:
            told.append(f"the sound policy sets audio_negative_prompt: {made.audio_negative_prompt}")
        if made.audio_scales != request.audio_scales:
            told.append(f"the sound policy sets NAG of the sound to {NAG:g}")
        if self.speech == "none" and re.search(r'"[^"]+"|\[SPEECH\]', request.prompt):
            told.append("the sound policy has speech none, and the prompt has words to be spoken")
        return tuple(told)

    def asked(self, base: Asked | None = None) -> Asked:
        """Return what a review measures for the policy. base: the other wishes."""
        base = base or Asked()
        wishes: dict[str, Any] = {}
        for name in ("music", "speech"):
            wish = getattr(self, name)
            if wish != "any":
                wishes[name] = wish == "only"
        if self.music == "only":
            wishes.setdefault("speech", False)
        if self.speech == "only":
            wishes.setdefault("music", False)
        if self.loudness is not None:
            low, high = self.loudness - LOUDNESS_SLACK_LU, min(0.0, self.loudness + LOUDNESS_SLACK_LU)
            wishes["loudness_lufs"] = (max(-70.0, low), high)
        return replace(base, **wishes)  # type: ignore[type-var]

    @property
    def _sentence(self) -> str:
        if self.music == "only":
            return "Only music is heard."
        if self.speech == "only":
            if self.ambience:
                return f"Only the voice and {self.ambience} are heard."
            return "Only the voice is heard."
        return f"{_capital(self.ambience)} is heard in the background." if self.ambience else ""

    @property
    def _unwanted(self) -> tuple[str, ...]:
        words: tuple[str, ...] = ()
        if self.music == "none" or self.speech == "only":
            words += MUSIC_WORDS
        if self.speech == "none" or self.music == "only":
            words += SPEECH_WORDS
        return words + (NOISE_WORDS if self.music == "only" else ())


def _makes_sound(request: Request) -> bool:
    given = request.audio is not None and request.audio.mode == "driving"
    kept = request.source is not None and "audio" not in request.source.modalities
    return "audio" in request.modalities and not given and not kept


def _with_sentence(prompt: str, sentence: str) -> str:
    """Return a prompt with a sentence on its sound, which holds throughout or is in the sound channel."""
    shared = with_shared(prompt, sentence)
    if shared is not None:
        return shared
    sounds = CHANNEL.search(prompt)
    if sounds:
        return f"{prompt[: sounds.end()]} {sentence} {prompt[sounds.end() :].lstrip()}".strip()
    if ANY_CHANNEL.search(prompt):
        return f"{prompt.rstrip()} [SOUNDS]: {sentence}"
    return f"{prompt.rstrip()} {sentence}"


def _missing(words: tuple[str, ...], text: str) -> list[str]:
    return [word for word in words if not re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)]


def _first(*texts: str | None) -> str:
    return next((text for text in texts if text is not None), "")


def _capital(text: str | None) -> str:
    return text[:1].upper() + text[1:] if text else ""


def _fields(request: Request) -> Mapping[str, Any]:
    """Return the fields of a request as they are held, arrays too."""
    return {name: getattr(request, name) for name in request.model_fields_set}
