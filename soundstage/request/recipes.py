"""The shipped recipes and a user's own: finding one by name, and reading it from its file.

The shipped ones hold the numbers of the published pipelines.
"""

from __future__ import annotations

import functools
from pathlib import Path

from soundstage.errors import ConfigError, RequestError, listed, shown
from soundstage.fields.tables import markdown_table
from soundstage.request.recipe import Recipe

SHIPPED = (
    "single", "fast", "pro", "hq", "three-stage", "uhd", "smooth", "draft", "dub", "upscale"
)  # fmt: skip
FOLDER = Path(__file__).with_name("recipes")


def recipes_folder() -> Path:
    """Where a user's own recipes are: one .yaml file each."""
    import platformdirs

    return Path(platformdirs.user_config_dir("soundstage")) / "recipes"


def read_recipe(path: Path) -> Recipe:
    """A recipe from a YAML file. Raises ConfigError for one that cannot be read or does not fit."""
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
    """A shipped recipe, one of the user's folder, or one at a path ending in .yaml or .yml.

    Raises RequestError listing the recipes there are, ConfigError for a file that does not fit.
    """
    if name in SHIPPED:
        return _shipped(name)
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
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


def _is_file(path: Path) -> bool:
    """Whether there is such a file; not, where the system takes no such name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def all_recipes() -> tuple[Recipe, ...]:
    """Every recipe there is, the shipped ones first. Raises ConfigError for a user's that does not fit."""
    own = (read_recipe(path) for path in _own_files() if path.stem not in SHIPPED)
    return (*map(_shipped, SHIPPED), *own)


def recipe_table() -> str:
    """Return the table of the shipped recipes, for docs/recipes.md."""
    rows = [(f"`{recipe.name}`", recipe.summary, recipe.best_for) for recipe in map(_shipped, SHIPPED)]
    return markdown_table(("recipe", "what it does", "best for"), rows)


def _own_files() -> list[Path]:
    folder = recipes_folder()
    return sorted(folder.glob("*.yaml")) if folder.is_dir() else []
