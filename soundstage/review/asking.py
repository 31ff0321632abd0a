"""Work out what a clip was meant to be from what its file keeps: its prompt, its seams, its sound policy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from soundstage.errors import RequestError
from soundstage.prompts.timeline import without_quotations
from soundstage.review.policy import SoundPolicy
from soundstage.review.record import Asked
from soundstage.types import TIME_SCALE

POLICY = "sound_policy"  # key of a clip's provenance
SILENCE = re.compile(r"\b(silence|silent|no sound|without sound)\b", re.IGNORECASE)
STILLNESS = re.compile(
    r"\b(still (photo(graph)?|picture|image|life)|freeze frame|motionless|does not move)\b", re.IGNORECASE
)


def asked_of(provenance: Mapping[str, Any]) -> Asked:
    """Return what a clip was meant to be, as far as its provenance says; `Asked()` where it says nothing.

    Silence and stillness are read from the prompt's words; times of seams from the windows of a long take.
    """
    asked = Asked()
    request = provenance.get("request")
    prompt = request.get("prompt") if isinstance(request, Mapping) else None
    if isinstance(prompt, str):
        words = without_quotations(prompt)
        asked = replace(  # type: ignore[type-var]
            asked, silence=True if SILENCE.search(words) else None, motion=not STILLNESS.search(words)
        )
    with suppress(KeyError, TypeError, ValueError, ZeroDivisionError):  # of another version, or damaged
        asked = replace(asked, seams_s=_seams_s(provenance.get("windows") or ()))  # type: ignore[type-var]
    policy = policy_of(provenance)
    return asked if policy is None else policy.asked(asked)


def policy_of(provenance: Mapping[str, Any]) -> SoundPolicy | None:
    """Return the sound policy that a clip was made with; None where its provenance has none."""
    fields = provenance.get(POLICY)
    if not isinstance(fields, Mapping):
        return None
    try:
        return SoundPolicy(**{str(name): value for name, value in fields.items()})
    except RequestError:
        return None


def _seams_s(windows: Any) -> tuple[float, ...]:
    """Return when the first frame is shown that each window but the first has made itself."""
    firsts = [(window["start"] + window["overlap"], window["fps"]) for window in windows[1:]]
    return tuple((TIME_SCALE * (latent - 1) + 1) / fps for latent, fps in firsts)
