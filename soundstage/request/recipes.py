"""Find a recipe by name, shipped or a user's own, and read it from its file.

The shipped ones hold the numbers of the published pipelines.
"""

from __future__ import annotations

import functools
from pathlib import Path

from soundstage.errors import ConfigError, RequestError, listed, shown
from soundstage.request.recipe import Recipe

SHIPPED = (
    "single", "fast", "pro", "hq", "three-stage", "uhd", "smooth", "draft", "dub", "upscale", "hdr"
)  # fmt: skip
FOLDER = Path(__file__).with_name("recipes")


def recipes_folder() -> Path:
    """Return the folder of a user's own recipes, one .yaml file each."""
    import platformdirs

    return Path(platformdirs.user_config_dir("soundstage")) / "recipes"


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file. Raises ConfigError for one that cannot be read or does not fit."""
    import yaml

    # The C loader is quick, and says so where a file is nested too deeply.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not a YAML file that can be read ({error}); correct it") from error
    return Recipe.from_dict(data, str(path))


@functools.cache
def _shipped(name: str) -> Recipe:
    return read_recipe(FOLDER / f"{name}.yaml")


def recipe_named(name: str) -> Recipe:
    """Return a shipped recipe, one of the user's folder, or one at a path ending in .yaml or .yml.

    Raises RequestError listing the recipes there are, ConfigError for a file that does not fit.
    """
    if name in SHIPPED:
        return _shipped(name)
    path = Path(name)
    if names_file(name):
        if not _is_file(path):
            raise RequestError(
                f"recipe is {shown(name)}, but there is no such file; check the path", field="recipe"
            )
        return read_recipe(path)
    own = recipes_folder() / f"{name}.yaml"
    if "/" not in name and _is_file(own):
        return read_recipe(own)
    known = listed(name, [*SHIPPED, *(p.stem for p in _own_files())])
    raise RequestError(f"recipe is {shown(name)}; the recipes are {known}, or a .yaml file", field="recipe")


def names_file(name: str) -> bool:
    """Return whether a request's recipe is the path of a file, and not a name."""
    return Path(name).suffix in (".yaml", ".yml")


def _is_file(path: Path) -> bool:
    """Return whether there is such a file; False where the system takes no such name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def shipped() -> tuple[Recipe, ...]:
    """Return the shipped recipes."""
    return tuple(map(_shipped, SHIPPED))


def all_recipes() -> tuple[Recipe, ...]:
    """Return all recipes, the shipped ones first.

    Raises ConfigError for one of the user's that does not fit.
    """
    own = (read_recipe(path) for path in _own_files() if path.stem not in SHIPPED)
    return (*shipped(), *own)


def _own_files() -> list[Path]:
    folder = recipes_folder()
    return sorted(folder.glob("*.yaml")) if folder.is_dir() else []
