"""Check prompts by rules of film, and correct what is mechanical.

    for finding in lint("The scene opens with a fox that is running."):
        print(finding.rule, finding.span, finding.why, finding.rewrite)

A rule reads letters and words only; what it wants and how often it is right is in docs/prompts.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from soundstage.errors import RequestError, shown
from soundstage.prompts import rules_form, rules_people, rules_picture, rules_sound
from soundstage.prompts.findings import Finding, LintRule
from soundstage.prompts.languages import STOPS
from soundstage.prompts.reading import Reading
from soundstage.prompts.vocabulary import Vocabulary

PromptKind = Literal["text", "image"]
MAX_ROUNDS = 6  # of corrections, each of which may show more
# Where a sentence ends: behind its stop, or before a mark of a part or channel, or a new line.
_SENTENCE_END = re.compile(rf"[{re.escape(STOPS)}]+[\"'\u201d]?(?=\s|$)|(?=\s*(?:\||\[|\n))")
_CHECKED = (*rules_form.RULES, *rules_picture.RULES, *rules_people.RULES, *rules_sound.RULES)


@dataclass(frozen=True)
class Corrected:
    """A prompt with what is mechanical corrected. negative_prompt: what was moved out of it.

    changes: the findings that were applied, with their places in the text of their round.
    """

    prompt: str
    negative_prompt: str
    changes: tuple[Finding, ...]


def lint(
    prompt: str,
    *,
    kind: PromptKind = "text",
    seconds: float | None = None,
    sounds: bool = True,
    vocabulary: Vocabulary | None = None,
) -> list[Finding]:
    """Return what the rules find in a prompt, in the order of its letters; what is missing comes last.

    kind: image where a picture shows the first frame. seconds: length of the clip, for rules about speech.
    sounds: the clip has sound. vocabulary: the words of a small model, which is judged by fewer rules.
    Raises RequestError for an empty prompt and a kind that is not known.
    """
    reading = _reading(prompt, kind, seconds, sounds, vocabulary)
    findings = [finding for checked in _CHECKED for finding in checked.found(reading)]
    return sorted(findings, key=lambda finding: (finding.start, finding.end))


def language_of_prompt(prompt: str) -> str:
    """Return the language that a prompt is judged as."""
    return Reading(prompt).language


def rules() -> list[LintRule]:
    """Return all rules."""
    return [checked.rule for checked in _CHECKED]


def warnings_of(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that are warnings."""
    return [finding for finding in findings if finding.severity == "warning"]


def corrected(
    prompt: str,
    *,
    kind: PromptKind = "text",
    seconds: float | None = None,
    sounds: bool = True,
    vocabulary: Vocabulary | None = None,
) -> Corrected:
    """Return a prompt in which every finding with a rewrite is carried out, and what was taken out of it.

    The arguments are those of `lint`. What has no rewrite stays.
    """
    reading = _reading(prompt, kind, seconds, sounds, vocabulary)
    negatives: list[str] = []
    changes: list[Finding] = []
    for _ in range(MAX_ROUNDS):
        found = [finding for checked in _CHECKED for finding in checked.found(reading)]
        chosen = _apart([finding for finding in found if finding.rewrite is not None])
        if not chosen:
            break
        text = reading.prompt
        for finding in sorted(chosen, key=lambda one: one.start, reverse=True):
            text = _replaced(text, finding)
        changes += chosen
        negatives += [finding.negative for finding in chosen if finding.negative]
        if not text.strip() or text == reading.prompt:
            break
        reading = replace(reading, prompt=text)
    return Corrected(reading.prompt, ", ".join(dict.fromkeys(negatives)), tuple(changes))


def _reading(
    prompt: str, kind: str, seconds: float | None, sounds: bool, vocabulary: Vocabulary | None
) -> Reading:
    if not isinstance(prompt, str) or not prompt.strip():
        raise RequestError(f"prompt is {shown(prompt)}; write what the clip shows", field="prompt")
    if kind not in ("text", "image"):
        raise RequestError(f"kind is {shown(kind)}; it is text, or image for a prompt with a first picture")
    return Reading(prompt, kind, seconds, sounds, vocabulary is not None)


def _with_article(before: str, after: str) -> str:
    """Return a text whose last word, a or an, fits the word that comes next now."""
    article = re.search(r"\b(an?)\s+$", before, re.IGNORECASE)
    if article is None or not after.strip():
        return before
    fitting = "an" if re.match(r"\s*[aeiou](?!ne\b|ni)", after, re.IGNORECASE) else "a"
    return f"{before[: article.start()]}{fitting.capitalize() if article[1][0] == 'A' else fitting} "


def _apart(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings that do not overlap; of those that do, the longest."""
    chosen: list[Finding] = []
    for finding in sorted(findings, key=lambda one: one.start - one.end):
        if all(finding.end <= other.start or finding.start >= other.end for other in chosen):
            chosen.append(finding)
    return chosen


def _replaced(text: str, finding: Finding) -> str:
    """Return a text with a finding's rewrite in place of its span; what is left reads on as a sentence."""
    before, after = text[: finding.start], text[finding.end :]
    if finding.then:
        end = _SENTENCE_END.search(after)
        at = len(after) if end is None else end.end()
        stop = "" if after[:at].rstrip().endswith(tuple(STOPS)) else "."
        after = f"{after[:at].rstrip()}{stop} {finding.then}{after[at:]}"
    rewrite = finding.rewrite or ""
    if rewrite:
        joint = f"{before}{rewrite}{after}"
        return re.sub(r"[^\S\n]{2,}", " ", joint)
    before = _with_article(before, after)
    after = after.lstrip(" ,;") if not before.strip() or before.rstrip()[-1] in ".!?|]" else after
    if not before.strip() or before.rstrip()[-1:] in tuple(".!?|]"):
        after = after[:1].upper() + after[1:]
    text = f"{before.rstrip(' ') if re.match(r'[.,;!?]', after) else before}{after}"
    text = re.sub(r"[^\S\n]{2,}", " ", text)
    return re.sub(r"[^\S\n]+([.,;!?])", r"\1", text).strip(" ")
