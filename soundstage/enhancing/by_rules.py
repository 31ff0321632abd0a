"""A prompt enhanced without a model: plain faults corrected, and a neutral sentence for what is missing."""

from __future__ import annotations

from typing import Any

from soundstage.prompts.beats import sentence
from soundstage.prompts.lint import corrected, lint

STYLE = "Style: cinematic and realistic."
# What is added for a rule that finds something missing, for text and for prompts with a first picture.
ADDED = {
    "atmosphere": ("Soft natural light falls across the scene.", ""),
    "camera": ("The camera holds a steady medium shot at eye level.", "The camera stays fixed at eye level."),
    "sound": ("The sounds of the place are heard softly.", "The sounds of the place are heard softly."),
}


def enhanced_by_rules(prompt: str, judged: dict[str, Any]) -> tuple[str, str]:
    """Return a better prompt and the words that were moved to the negative prompt.

    judged: arguments of `lint`. To timed prompts and channels nothing is added, as it would be in one part.
    """
    fixed = corrected(prompt, **judged)
    found = lint(fixed.prompt, **judged)
    missing = {finding.rule for finding in found if not finding.span}
    if _has_parts(fixed.prompt) or not missing:
        return fixed.prompt, fixed.negative_prompt
    index = 1 if judged.get("kind") == "image" else 0
    added = [texts[index] for rule, texts in ADDED.items() if rule in missing and texts[index]]
    style = [STYLE] if "genre" in missing else []
    return " ".join([*style, sentence(fixed.prompt), *added]), fixed.negative_prompt


def _has_parts(prompt: str) -> bool:
    from soundstage.prompts.reading import Reading

    reading = Reading(prompt)
    return bool(reading.marks or reading.tags)
