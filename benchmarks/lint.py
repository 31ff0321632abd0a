"""Measure how often the rules of prompts are right: `python -m benchmarks.lint`.

Two sets of prompts with the rules that should fire on them, in benchmarks/prompts/: the rules were tuned on
one and not changed for the other. A warning for a good prompt is a false alarm.
A label "RULE may" is neither expected nor wrong: people would disagree.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from soundstage.library.model_files import SHIPPED_MODELS
from soundstage.prompts.findings import Finding
from soundstage.prompts.lint import lint, rules
from soundstage.prompts.vocabulary import Vocabulary

FOLDER = Path(__file__).parent / "prompts"
SETS = ("tuned", "held_out")


@dataclass(frozen=True)
class Labelled:
    """A prompt and what should be found in it. optional: rules on which people would disagree."""

    text: str
    kind: Any
    seconds: float | None
    small: bool
    rules: frozenset[str]
    optional: frozenset[str]
    is_good: bool

    def findings(self, vocabulary: Vocabulary | None) -> list[Finding]:
        """Return what the linter finds."""
        words = vocabulary if self.small else None
        return lint(self.text, kind=self.kind, seconds=self.seconds, vocabulary=words)


@dataclass
class Counts:
    """How often a rule fired rightly and wrongly, and did not fire where it should."""

    right: int = 0
    wrong: int = 0
    missed: int = 0

    @property
    def precision(self) -> str:
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> str:
        return _share(self.right, self.right + self.missed)


def read_set(name: str) -> list[Labelled]:
    """Return the prompts of a set. Raises ValueError for a label that is no rule."""
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return [
        _labelled(entry, is_good) for is_good in (True, False) for entry in data["good" if is_good else "bad"]
    ]


def _labelled(entry: dict[str, Any], is_good: bool) -> Labelled:
    words = entry.get("rules", "").split()
    optional = frozenset(rule for rule, after in itertools.pairwise(words) if after == "may")
    expected = frozenset(words) - optional - {"may"}
    unknown = (expected | optional) - {rule.name for rule in rules()}
    if unknown:
        raise ValueError(f"no rule is named {', '.join(unknown)}: {entry['text'][:60]}")
    kind, seconds = entry.get("kind", "text"), entry.get("seconds")
    return Labelled(entry["text"], kind, seconds, entry.get("small", False), expected, optional, is_good)


def nano_words() -> Vocabulary | None:
    """Return the words that nano knows."""
    return Vocabulary.of_folder(SHIPPED_MODELS["nano"])


def counted(prompts: list[Labelled]) -> dict[str, Counts]:
    """Return the counts of every rule over a set."""
    counts = {rule.name: Counts() for rule in rules()}
    words = nano_words()
    for prompt in prompts:
        fired = {finding.rule for finding in prompt.findings(words)}
        for name, count in counts.items():
            if name in prompt.optional:
                continue
            count.right += name in fired and name in prompt.rules
            count.wrong += name in fired and name not in prompt.rules
            count.missed += name not in fired and name in prompt.rules
    return counts


def alarms(prompts: list[Labelled]) -> Iterator[tuple[Labelled, list[Finding]]]:
    """Yield the good prompts that get a warning, with their warnings."""
    words = nano_words()
    for prompt in prompts:
        found = [
            f for f in prompt.findings(words) if f.severity == "warning" and f.rule not in prompt.optional
        ]
        if prompt.is_good and found:
            yield prompt, found


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} % ({part} of {whole})" if whole else ""


def report() -> str:
    """Return the tables as Markdown."""
    sets = {name: read_set(name) for name in SETS}
    counts = {name: counted(prompts) for name, prompts in sets.items()}
    heads = [f"{name.replace('_', ' ')}: {what}" for name in SETS for what in ("precision", "recall")]
    lines = [f"| rule | severity | {' | '.join(heads)} |", f"|{'---|' * (len(heads) + 2)}"]
    for rule in rules():
        cells = [
            cell
            for name in SETS
            for cell in (counts[name][rule.name].precision, counts[name][rule.name].recall)
        ]
        lines.append(f"| `{rule.name}` | {rule.severity} | {' | '.join(cells)} |")
    for severity in ("warning", "info"):
        cells = []
        for name in SETS:
            total: Counter[str] = Counter()
            for rule in rules():
                if rule.severity == severity:
                    total.update(vars(counts[name][rule.name]))
            both = Counts(**total)
            cells += [both.precision, both.recall]
        lines.append(f"| all of a severity | {severity} | {' | '.join(cells)} |")
    alarm = []
    for name, prompts in sets.items():
        good, bad = sum(p.is_good for p in prompts), sum(not p.is_good for p in prompts)
        alarm.append(
            f"{name.replace('_', ' ')}: {good} good and {bad} bad prompts, "
            f"{_share(len(list(alarms(prompts))), good)} of the good ones with a warning"
        )
    return "\n".join([*lines, "", *alarm])


def differences(name: str) -> Iterator[str]:
    """Yield what the rules get wrong in a set."""
    words = nano_words()
    for prompt in read_set(name):
        findings = prompt.findings(words)
        fired = {finding.rule for finding in findings}
        for rule in sorted(fired - prompt.rules - prompt.optional):
            spans = [finding.span for finding in findings if finding.rule == rule]
            yield f"wrong {rule} {spans}: {prompt.text[:100]}"
        for rule in sorted(prompt.rules - fired):
            yield f"missed {rule}: {prompt.text[:100]}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print("\n".join(differences(sys.argv[1])))
    else:
        print(report())
