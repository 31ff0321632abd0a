"""Hints about a command's prompts: words that a small model does not know, and what the rules warn of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from soundstage.cli.options import Values
from soundstage.errors import num_of

if TYPE_CHECKING:
    from soundstage.engine import Engine
    from soundstage.planning.plan import Plan
    from soundstage.prompts.vocabulary import Vocabulary
    from soundstage.request.request import Request

UPSCALE_PROMPT = "A clear, detailed picture."  # of a command that needs none
MOST_TOLD = 4  # warnings of one prompt


def tell_hints(stage: Engine, plans: Sequence[Plan], values: Values, say: Callable[[str], None]) -> None:
    """Print the hints about all prompts of a command, each once, unless --no-hints is among its values."""
    if values.get("no_hints"):
        return
    from soundstage.prompts.vocabulary import Vocabulary

    vocabulary = Vocabulary.of_folder(stage.model.folder)
    hints: dict[str, None] = {}
    for planned in plans:
        hints.update(dict.fromkeys(_hints(planned, stage.model.name, vocabulary)))
    for hint in hints:
        say(f"hint: {hint}")


def _hints(planned: Plan, name: str, vocabulary: Vocabulary | None) -> Iterator[str]:
    from soundstage.prompts.lint import lint, warnings_of

    request = planned.request
    if not request.prompt.strip() or request.prompt == UPSCALE_PROMPT or request.embeddings is not None:
        return
    unknown = None if vocabulary is None else vocabulary.hint(name, request.prompt)
    if unknown is not None:
        yield unknown
    if "video" not in request.modalities:
        return
    found = warnings_of(
        lint(
            request.prompt,
            kind="image" if begins_with_picture(request) else "text",
            seconds=planned.num_frames / planned.fps,
            sounds="audio" in request.modalities,
            vocabulary=vocabulary,
        )
    )
    for finding in found[:MOST_TOLD]:
        yield f"{finding.rule}: {finding.why}"
    if len(found) > MOST_TOLD:
        yield f"and {num_of(len(found) - MOST_TOLD, 'more warning')}; `soundstage prompt lint` tells all"


def begins_with_picture(request: Request) -> bool:
    """Return whether a picture or clip shows the first frame."""
    return request.source is not None or any(
        guide.at in (None, 0) and guide.frame in (None, 0) for guide in request.guides
    )
