"""The shipped recipes, with the numbers of the published pipelines, and finding one by name.

Users write recipes of their own in YAML, see `recipe.Recipe`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from soundstage.errors import ConfigError, RequestError, listed, shown
from soundstage.request.recipe import DISTILLED_LORA, Pass, Recipe
from soundstage.sampling import schedules
from soundstage.sampling.scales import NEUTRAL, Scales

HQ_VIDEO = Scales(cfg=3, modality=3, rescale=0.45)
HQ_AUDIO = Scales(cfg=7, modality=3, rescale=1.0)
# Of the multi-GPU refinement to 4K: three quarters of the picture is there already.
GENTLE_REFINE = (0.625, 0.4, 0.0)


def _distilled_pass(name: str, **changes: Any) -> Pass:
    """Eight fixed steps without guidance."""
    base = Pass(
        name, sigmas=schedules.DISTILLED, loras=((DISTILLED_LORA, 1.0),), video=NEUTRAL, audio=NEUTRAL
    )
    return replace(base, **changes)


def _refine_pass(name: str, **changes: Any) -> Pass:
    """Three steps from the upsampled latents of the pass before, without guidance and references."""
    base = _distilled_pass(
        name,
        sigmas=schedules.REFINE,
        start="previous",
        upsample=("space-x2",),
        references=False,
        identity="none",
    )
    return replace(base, **changes)


SOUND = frozenset({"audio"})

SHIPPED: tuple[Recipe, ...] = (
    Recipe(
        "single",
        "one pass at the final size, with the model's own steps and guidance",
        (Pass("denoise"),),
        "sound alone, short clips, restyling a clip (denoise), and models without extra files",
    ),
    Recipe(
        "fast",
        "8 distilled steps at half size, upscaled twice, 3 steps to refine",
        (_distilled_pass("draft", scale="1/2"), _refine_pass("refine")),
        "most work: a film in 11 model evaluations",
    ),
    Recipe(
        "pro",
        "guided steps at half size, upscaled twice, 3 distilled steps to refine",
        (Pass("guided", scale="1/2"), _refine_pass("refine")),
        "following the prompt closely, negative prompts",
        audio_from="guided",
    ),
    Recipe(
        "hq",
        "15 second-order steps at half size with a little of the distilled LoRA, then refined likewise",
        (
            Pass(
                "guided",
                scale="1/2",
                schedule="ltx2",
                steps=15,
                all_tokens=True,
                sampler="res2s",
                video=HQ_VIDEO,
                audio=HQ_AUDIO,
                loras=((DISTILLED_LORA, 0.25),),
            ),
            _refine_pass("refine", sampler="res2s", loras=((DISTILLED_LORA, 0.5),)),
        ),
        "the best picture, at several times the cost",
        audio_from="guided",
    ),
    Recipe(
        "three-stage",
        "a quarter, half and the whole size; the sound is made once and kept",
        (
            _distilled_pass("draft", scale="1/4"),
            _refine_pass("half", scale="1/2", freeze=SOUND),
            _refine_pass("whole", freeze=SOUND),
        ),
        "good motion at large sizes",
    ),
    Recipe(
        "uhd",
        "a quarter, half and the whole of 4K; the last refinement is gentle",
        (
            _distilled_pass("draft", scale="1/4"),
            _refine_pass("half", scale="1/2", freeze=SOUND),
            _refine_pass("whole", sigmas=GENTLE_REFINE, freeze=SOUND),
        ),
        "2160p",
        resolution="2160p",
    ),
    Recipe(
        "smooth",
        "half size and half the frames first, then both doubled and refined",
        (
            _distilled_pass("draft", scale="1/2", time_scale="1/2"),
            _refine_pass("refine", upsample=("space-x2", "time-x2")),
        ),
        "48 or 50 frames a second",
        fps=48.0,
    ),
    Recipe(
        "draft",
        "8 distilled steps at half size, and no more",
        (_distilled_pass("draft", scale="1/2"),),
        "trying prompts and seeds; the result has half the size asked for",
    ),
    Recipe(
        "dub",
        "8 distilled steps at half size with the source beside, then refined with the sound kept",
        (
            _distilled_pass("draft", scale="1/2", identity="soundtrack"),
            _refine_pass("refine", references=True, identity="previous", freeze=SOUND),
        ),
        "new speech for a speaker: a reference clip, its sound as identity, and a dubbing LoRA",
        audio_from="draft",
    ),
    Recipe(
        "upscale",
        "a given clip upscaled twice in latents and refined; its sound is kept",
        (_refine_pass("refine", start="source"),),
        "making a finished clip larger",
    ),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in SHIPPED}


def recipes_folder() -> Path:
    """Where a user's own recipes are: one .yaml file each."""
    import platformdirs

    return Path(platformdirs.user_config_dir("soundstage")) / "recipes"


def read_recipe(path: Path) -> Recipe:
    """A recipe from a YAML file. Raises ConfigError for one that cannot be read or does not fit."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not a YAML file that can be read ({error}); correct it") from error
    return Recipe.from_dict(data, str(path))


def recipe_named(name: str) -> Recipe:
    """A shipped recipe, one of the user's folder, or one at a path ending in .yaml or .yml.

    Raises RequestError listing the recipes there are, ConfigError for a file that does not fit.
    """
    if name in RECIPES:
        return RECIPES[name]
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
    known = listed(name, [*RECIPES, *(p.stem for p in _own_files())])
    raise RequestError(f"recipe is {shown(name)}; the recipes are {known}, or a .yaml file", field="recipe")


def _is_file(path: Path) -> bool:
    """Whether there is such a file; not, where the system takes no such name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def listing() -> tuple[Recipe, ...]:
    """Every recipe there is, the shipped ones first. Raises ConfigError for a user's that does not fit."""
    return (*SHIPPED, *(read_recipe(path) for path in _own_files() if path.stem not in RECIPES))


def _own_files() -> list[Path]:
    folder = recipes_folder()
    return sorted(folder.glob("*.yaml")) if folder.is_dir() else []
