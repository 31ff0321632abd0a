"""Findings of the rules in a prompt, and the rules as records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from soundstage.prompts.reading import Reading

Severity = Literal["warning", "info"]


@dataclass(frozen=True)
class Finding:
    """Something in a prompt that a rule is against, or would like to see.

    start, end: where it stands, in letters of the prompt; alike for what is missing, which belongs there.
    rewrite: what could stand in its place, "" to take it out; None where nothing mechanical helps.
    negative: words that belong in the negative prompt instead. then: a sentence that belongs behind the one
    in which it stands.
    """

    rule: str
    severity: Severity
    start: int
    end: int
    span: str
    why: str
    rewrite: str | None = None
    negative: str = ""
    then: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return asdict(self)


@dataclass(frozen=True)
class LintRule:
    """A rule of prompts."""

    name: str
    """Its name."""

    severity: Severity
    """warning: the model is known to go wrong. info: it may do better."""

    about: str
    """What it wants."""

    example: str
    """What it is against, or would like to see, and what is better."""

    words: bool = True
    """It reads English words, and is left out for other languages."""

    small: bool = False
    """It holds for small models too."""


Check = Callable[[Reading], Iterable[Finding]]


@dataclass(frozen=True)
class CheckedRule:
    """A rule and the function that looks for what is against it."""

    rule: LintRule
    check: Check

    def found(self, reading: Reading) -> Iterator[Finding]:
        """Yield what the rule finds, where it holds for the prompt's language and model."""
        if (self.rule.words and not reading.is_english) or (reading.small and not self.rule.small):
            return
        yield from self.check(reading)


def rule(
    name: str, severity: Severity, about: str, example: str, *, words: bool = True, small: bool = False
) -> Callable[[Check], CheckedRule]:
    """Make a function that looks for findings a rule."""
    told = LintRule(name, severity, about, example, words, small)
    return lambda check: CheckedRule(told, check)


def found(
    reading: Reading,
    name: str,
    severity: Severity,
    start: int,
    end: int,
    why: str,
    rewrite: str | None = None,
    negative: str = "",
    then: str = "",
) -> Finding:
    """Return a finding with its span, without white space at its ends."""
    text = reading.prompt[start:end]
    start, end = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
    if not text.strip():
        start = end = min(start, len(reading.prompt))
    return Finding(name, severity, start, end, reading.prompt[start:end], why, rewrite, negative, then)


def missing(reading: Reading, name: str, severity: Severity, why: str) -> Finding:
    """Return a finding of what a prompt does not say, at its end."""
    end = len(reading.prompt.rstrip())
    return Finding(name, severity, end, end, "", why)


def matches(reading: Reading, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Yield where a pattern stands in the prose of a prompt."""
    return pattern.finditer(reading.prose)
