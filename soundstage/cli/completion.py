"""`soundstage completion`: make a shell complete commands, options, names of recipes and models, files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from soundstage.cli.parameters import SETTINGS
from soundstage.errors import RequestError, listed
from soundstage.types import Modality

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM, VARIABLE = "soundstage", "_SOUNDSTAGE_COMPLETE"  # by which a shell asks for words
# Shells, and below which folder each looks for a script of a program by itself; zsh has no such folder.
SHELLS: dict[str, tuple[str, str, str] | None] = {
    "bash": ("XDG_DATA_HOME", ".local/share", "bash-completion/completions/soundstage"),
    "zsh": None,
    "fish": ("XDG_CONFIG_HOME", ".config", "fish/completions/soundstage.fish"),
}


@click.command("completion", context_settings=SETTINGS)
@click.argument("shell", required=False, help="bash, zsh or fish. [default: the one of $SHELL]")
@click.option("--install", is_flag=True, help="Write the script where bash or fish looks for it.")
def app(shell: str | None, install: bool) -> None:
    """Print the script that makes a shell complete Soundstage's commands.

    For zsh, and bash without its completion package: eval "$(soundstage completion zsh)" in the shell's own
    startup file.

    Example: soundstage completion bash
    """
    name = shell or os.path.basename(os.environ.get("SHELL", ""))
    if name not in SHELLS:
        raise RequestError(f"shell is '{name}'; give {listed(name, SHELLS)}")
    from click.shell_completion import get_completion_class

    kind = get_completion_class(name)
    assert kind is not None
    text = kind(click.Group(PROGRAM), {}, PROGRAM, VARIABLE).source()
    if not install:
        print(text)
        return
    path = _place(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"{path}; a new {name} completes soundstage", file=sys.stderr)


def _place(shell: str) -> Path:
    """Return the file of a shell's completions. Raises RequestError for one that has no folder of them."""
    found = SHELLS[shell]
    if found is None:
        raise RequestError(
            f"{shell} looks in no folder of its own; put this line into ~/.zshrc: "
            f'eval "$(soundstage completion {shell})"'
        )
    variable, home, name = found
    return Path(os.environ.get(variable) or Path.home() / home) / name


def complete(program: click.Command, instruction: str) -> int:
    """Print what a shell asks for, such as words for the last one of its line; return the exit code."""
    from click.shell_completion import shell_complete

    return shell_complete(program, {}, PROGRAM, VARIABLE, instruction)


# --- words of options -----------------------------------------------------------------------------------


def items(name: str, form: str | None, incomplete: str) -> list[CompletionItem]:
    """Return what may follow an option of the table. form: what stands for its value in the help."""
    from click.shell_completion import CompletionItem

    words = [word for word in _words(name) if word.startswith(incomplete)]
    files = [CompletionItem(incomplete, type="file")] if "PATH" in (form or "") and not words else []
    return [*map(CompletionItem, words), *files]


def models(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the models that a word may become, or files."""
    return items("model", "NAME|PATH", incomplete)


def _words(name: str) -> Iterable[str]:
    return _WORDS[name]() if name in _WORDS else ()


def _recipes() -> Iterable[str]:
    from soundstage.request.recipes import SHIPPED, recipes_folder

    return *SHIPPED, *(path.stem for path in sorted(recipes_folder().glob("*.yaml")))


def _models() -> Iterable[str]:
    from soundstage.library.catalog import MODELS
    from soundstage.library.installed import Library

    return "nano", *MODELS, *Library.open().models


def _samplers() -> Iterable[str]:
    from soundstage.sampling.sampler_info import SAMPLER_INFO

    return SAMPLER_INFO


def _schedules() -> Iterable[str]:
    from soundstage.sampling.schedules import NAMES

    return NAMES


def _codecs() -> Iterable[str]:
    from soundstage.media.formats import CODECS

    return CODECS


def _sizes() -> Iterable[str]:
    from soundstage.request.defaults import Defaults

    return *Defaults().presets, *Defaults().resolutions


def _residencies() -> Iterable[str]:
    from soundstage.memory.policy import POLICIES

    return "auto", *POLICIES


def _storages() -> Iterable[str]:
    from soundstage.weights.storage import STORAGES

    return "auto", *STORAGES


def _formats() -> Iterable[str]:
    from soundstage.memory.machine import ITEM_BYTES

    return "auto", *ITEM_BYTES


def _caches() -> Iterable[str]:
    from soundstage.sampling.cache import KINDS

    return KINDS


def _controls() -> Iterable[str]:
    from soundstage.control.kinds import KINDS

    return (f"{name}:" for name, kind in KINDS.items() if kind.sound is None)


def _modalities() -> Iterable[str]:
    return get_args(Modality)


# By the option's parameter. Nothing is loaded before it is asked for.
_WORDS: dict[str, Callable[[], Iterable[str]]] = {
    "recipe": _recipes,
    "model": _models,
    "sampler": _samplers,
    "schedule": _schedules,
    "codec": _codecs,
    "size": _sizes,
    "residency": _residencies,
    "weights": _storages,
    "dtype": _formats,
    "cache": _caches,
    "control": _controls,
    "only": _modalities,
    "remake": _modalities,
    "image_mode": lambda: ("replace", "guide"),
    "audio_mode": lambda: ("driving", "identity"),
    "seed": lambda: ("random",),
}
