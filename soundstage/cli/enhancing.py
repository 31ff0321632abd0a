"""Prompts enhanced at the command line: what changed is shown, and may be refused."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli.announcing import at_work
from soundstage.cli.hints import begins_with_picture
from soundstage.errors import SoundstageError

if TYPE_CHECKING:
    from soundstage.enhancing.enhance import Enhanced, Enhancer
    from soundstage.library.model_files import ModelSet
    from soundstage.request.request import Request


def enhancer_of(
    by: str, url: str | None, writer: str | None, model: ModelSet | None, device: str
) -> Enhancer:
    """Return what enhances prompts for a model, by the options of a command."""
    from soundstage.enhancing.enhance import Enhancer, Enhancing

    way = Enhancing(by=by, url=url, writer=writer)  # type: ignore[arg-type]
    return Enhancer(way, None if model is None else model.text_path, device)


def found_model(*names: str) -> ModelSet | None:
    """Return the files of a model, None for a published one that is not on this machine."""
    from soundstage.library.catalog import MODELS
    from soundstage.library.model_files import find_model

    try:
        return find_model(names[0] if len(names) == 1 else list(names))
    except SoundstageError:
        if names[0] in MODELS:
            return None
        raise


def rewording(values: dict[str, Any]) -> Callable[[Request], str] | None:
    """Return what takes the place of a request's prompt by --enhance; None where that is not given.

    A prompt that several clips share is enhanced once.
    """
    if not values.get("enhance"):
        return None
    from soundstage.prompts.vocabulary import Vocabulary

    given = values.get("model")
    names = [given] if isinstance(given, str) else list(given or ())
    found = found_model(*names) if names else found_model("nano")
    words = None if found is None else Vocabulary.of_folder(found.folder)
    url, writer, device = values["enhance_url"], values["enhance_with"], values.get("device") or "auto"
    enhancer = enhancer_of(values["enhance"], url, writer, found, device)
    quiet = bool(values.get("quiet"))

    @functools.cache
    def reworded(prompt: str, kind: str, image: str | None, seconds: float | None, sounds: bool) -> str:
        judged = {"kind": kind, "seconds": seconds, "sounds": sounds, "vocabulary": words}
        result = run(enhancer, prompt, image, quiet=quiet, **judged)
        return accepted(result, ask=not values.get("as_json") and not quiet, quiet=quiet)

    def of_request(request: Request) -> str:
        if "video" not in request.modalities or request.embeddings is not None:
            return request.prompt
        first = next((guide.image for guide in request.guides if isinstance(guide.image, str)), None)
        image = first if begins_with_picture(request) else None
        kind = "image" if begins_with_picture(request) else "text"
        return reworded(request.prompt, kind, image, request.duration_s, "audio" in request.modalities)

    return of_request


def run(enhancer: Enhancer, prompt: str, image: str | None, *, quiet: bool, **judged: Any) -> Enhanced:
    """Return the enhanced prompt, and show that a model writes while it does."""
    if enhancer.by == "rules":
        return enhancer(prompt, image=image, **judged)
    with at_work(f"enhance by {enhancer.by}", quiet=quiet):
        return enhancer(prompt, image=image, **judged)


def accepted(result: Enhanced, *, ask: bool, quiet: bool) -> str:
    """Show what changed, ask whether it is wanted, and return the prompt to use.

    ask: at a terminal; elsewhere it is taken.
    """
    if not quiet:
        show_changes(result)
    if result.prompt == result.before or not ask or not sys.stdin.isatty() or not sys.stderr.isatty():
        return result.prompt
    taken = click.confirm("use it?", default=True, err=True)
    return result.prompt if taken else result.before


def show_changes(result: Enhanced) -> None:
    """Print on standard error what changed, in colours at a terminal, and what happened on the way."""
    from rich.console import Console
    from rich.text import Text

    from soundstage.prompts.lint import warnings_of

    styles = {"same": "", "removed": "red strike", "added": "green"}
    marks = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
    console = Console(stderr=True)
    colored = console.is_terminal and not console.no_color
    text = Text(f"enhanced by {result.by}: " if result.prompt != result.before else "nothing to enhance")
    if result.prompt != result.before:
        for change in result.changes:
            words = change.text if colored else marks[change.kind].format(change.text)
            text.append(words, style=styles[change.kind])
            text.append(" ")
    console.print(text, soft_wrap=True, highlight=False)
    for finding in warnings_of(result.findings):
        print(f"warning: {finding.rule}: {finding.why}", file=sys.stderr)
    for notice in result.notices:
        print(f"notice: {notice}", file=sys.stderr)
    if result.negative_prompt:
        print(f'moved out: --negative-prompt "{result.negative_prompt}"', file=sys.stderr)
