"""A job while it is read out of another service's words.

    draft = Draft({"prompt": "A red ball.", "seconds": "4", "user": "me"})
    draft.text("prompt"); draft.number("seconds", "duration_s")
    draft.asked()                          # a JobRequest
    draft.warnings                         # what was given and has no effect

Every reader takes a field out of the body and says where it goes in a request. What is left over has no
effect, and is a warning. What has a wrong value is refused, by the service's own name of the field.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from soundstage.errors import RequestError, shown
from soundstage.jobs.states import Priority
from soundstage.jobs.views import MAX_WEBHOOK, JobRequest

MAX_WARNINGS = 40
LARGEST = 2**63 - 1  # of a whole number that has no other limit
MAX_NAME = 60  # letters of a field's name in a warning
YES, NO = ("true", "1", "yes"), ("false", "0", "no")


class Draft:
    """The fields of a body that are not read yet, and the request so far."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._left = {name: value for name, value in given.items() if value is not None}
        self.request: dict[str, Any] = {}
        self.job: dict[str, Any] = {}
        self._warnings: list[str] = []
        self._origins: dict[str, str] = {}

    # --- readers ---------------------------------------------------------------------------------------

    def take(self, name: str, to: str | None = None) -> Any:
        """Return a field's value, None where it is not given. to: the request's field that it decides."""
        if to is not None and name in self._left:
            self._origins[to] = name
        return self._left.pop(name, None)

    def text(self, name: str, to: str | None = None, *, most: int = 100_000) -> str | None:
        """Read a text. to: the request's field that gets it; None for none."""
        value = self.take(name, to)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > most:
            raise bad(name, value, f"a text of at most {most} characters")
        if to is not None:
            self.request[to] = value
        return value

    def prompt(self) -> str:
        """Read the prompt, which must be there."""
        found = self.text("prompt", "prompt")
        if not found or not found.strip():
            raise RequestError("prompt is missing; say what the clip shows", field="prompt")
        return found

    def prompt_or(self, usual: str) -> None:
        """Read a prompt that need not be there. usual: the one that is used then."""
        if self.text("prompt", "prompt") in (None, ""):
            self.request["prompt"] = usual
            self.warn(f"prompt is missing; {usual!r} is used")

    def number(
        self,
        name: str,
        to: str | None = None,
        *,
        about: str | None = None,
        least: float = 0.0,
        most: float = 1e9,
    ) -> float | None:
        """Read a number, also one that is written as text. about: the field that it only has a part in."""
        value = self.take(name, to or about)
        if value is None:
            return None
        found = _number(value)
        if found is None or not least <= found <= most:
            raise bad(name, value, f"a number from {least:g} to {most:g}")
        if to is not None:
            self.request[to] = found
        return found

    def whole(
        self,
        name: str,
        to: str | None = None,
        *,
        about: str | None = None,
        least: int = 0,
        most: int = LARGEST,
    ) -> int | None:
        """Read a whole number, also one that is written as text. about: as for `number`."""
        value = self.take(name, to or about)
        if value is None:
            return None
        found = _whole(value)
        if found is None or not least <= found <= most:
            reach = f", {least} or more" if most == LARGEST else f" from {least} to {most}"
            raise bad(name, value, f"a whole number{reach}")
        if to is not None:
            self.request[to] = found
        return found

    def flag(self, name: str) -> bool | None:
        """Read true or false."""
        value = self.take(name)
        if value is None or isinstance(value, bool):
            return value
        word = str(value).lower()
        if word not in YES + NO:
            raise bad(name, value, "true or false")
        return word in YES

    def word(self, name: str, known: Sequence[str], to: str | None = None) -> str | None:
        """Read one of some words."""
        value = self.take(name, to)
        if value is None:
            return None
        if value not in known:
            raise bad(name, value, f"one of {', '.join(known)}")
        return cast(str, value)

    # --- what several services have --------------------------------------------------------------------

    def sound(self, *names: str) -> None:
        """Read the switch for sound, by any of its names."""
        given = [found for name in names if (found := self.flag(name)) is not None]
        if given and not given[-1]:
            self.request["modalities"] = ["video"]

    def guide(self, image: str, **fields: Any) -> None:
        """Add a picture that the clip shows."""
        self.request.setdefault("guides", []).append(
            {"image": image, **{key: value for key, value in fields.items() if value is not None}}
        )

    def lora(self, path: str, strength: float | None = None) -> None:
        """Add a LoRA."""
        record: dict[str, Any] = {"path": path}
        if strength is not None:
            record["strength"] = strength
        self.request.setdefault("loras", []).append(record)

    def only(self, name: str, right: Any, why: str) -> None:
        """Read a field of which one value alone is done here; any other is refused."""
        value = self.take(name)
        if value is not None and value != right:
            raise RequestError(
                f"{name} is {shown(value)}; {why}, so give {shown(right)} or leave it out", field=name
            )

    def idle(self, name: str, why: str, *, quiet: Sequence[Any] = ()) -> None:
        """Read a field that has no effect here; a warning says why. quiet: values that ask for nothing."""
        value = self.take(name)
        if value is not None and value not in quiet:
            self.warn(f"{name} has no effect: {why}")

    def warn(self, sentence: str) -> None:
        """Add a warning."""
        self._warnings.append(sentence)

    def decided(self, to: str, name: str) -> None:
        """Remember the service's name of what decides a field of the request, for messages."""
        self._origins[to] = name

    # --- the end ---------------------------------------------------------------------------------------

    @property
    def warnings(self) -> list[str]:
        """Return the warnings, with one for each field that was not read."""
        left = [f"{name[:MAX_NAME]} is not a field here, and has no effect" for name in self._left]
        return [*self._warnings, *left][:MAX_WARNINGS]

    def asked(self, *, webhook: Any = None, label: str | None = None, priority: Priority) -> JobRequest:
        """Return the job. webhook: as it was given; whether the address is allowed is for the jobs to say."""
        if webhook is not None and (not isinstance(webhook, str) or len(webhook) > MAX_WEBHOOK):
            raise bad("webhook_url", webhook, "an address that this server may call, such as https://...")
        fields = {"request": self.request, **self.job}
        return JobRequest(webhook_url=webhook, label=label, priority=priority, **fields)

    def told(self, error: RequestError) -> RequestError:
        """Return an error of the request under the service's name of the field, if it has one."""
        whole = error.field or ""
        name = whole if whole in self._origins else whole.partition("[")[0].partition(".")[0]
        if name in self._origins:
            error.field = self._origins[name]
        return error


def bad(name: str, value: Any, right: str) -> RequestError:
    """Return the error for a wrong value."""
    return RequestError(f"{name} is {shown(value)}; give {right}", field=name)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _whole(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 25:
        return int(value)
    found = _number(value)
    return int(found) if found is not None and found.is_integer() and abs(found) < 2**53 else None


def record_of(name: str, value: Any) -> Mapping[str, Any]:
    """Return an object that a field holds, also one that is written as JSON text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, Mapping):
        raise bad(name, value, "an object")
    return value


def list_of(name: str, value: Any) -> Sequence[Any]:
    """Return a list that a field holds; nothing for none."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise bad(name, value, "a list")
    return value
