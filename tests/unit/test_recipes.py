"""Recipes: the shipped ones hold the published numbers; users write their own in YAML."""

from dataclasses import fields
from pathlib import Path

import pytest

from soundstage.errors import ConfigError, RequestError
from soundstage.request import recipes
from soundstage.request.recipe import Pass, Recipe
from soundstage.request.recipes import FOLDER, SHIPPED, all_recipes, read_recipe, recipe_named
from soundstage.sampling.sampler_info import SAMPLER_INFO
from soundstage.sampling.scales import NEUTRAL, Scales
from soundstage.sampling.schedules import DISTILLED, REFINE

OWN = """
name: mine
summary: a test
passes:
  - name: draft
    scale: 1/2
    steps: 12
    schedule: linear
    sampler: res_2s
    video: {cfg: 2.5, stg: 1, stg_blocks: [3]}
    loras: {distilled: 0.3}
  - name: refine
    start: previous
    upsample: [space-x2]
    sigmas: [0.5, 0.2, 0]
    freeze: [audio]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recipes, "recipes_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_sound_and_round_trip(name: str) -> None:
    recipe = recipe_named(name)
    assert recipe.name == name
    assert Recipe.from_dict(recipe.to_dict(), "a.yaml") == recipe
    assert recipe.summary
    assert recipe.best_for
    for pass_ in recipe.passes:
        assert pass_.sampler in SAMPLER_INFO


def test_shipped_recipes_hold_the_published_numbers() -> None:
    assert SHIPPED[:8] == ("single", "fast", "pro", "hq", "three-stage", "uhd", "smooth", "draft")
    assert sorted(SHIPPED) == sorted(path.stem for path in FOLDER.iterdir())
    draft, refine = recipe_named("fast").passes
    assert (draft.sigmas, draft.scale, draft.loras) == (DISTILLED, "1/2", (("distilled", 1.0),))
    assert (refine.sigmas, refine.start, refine.upsample) == (REFINE, "previous", ("space-x2",))
    assert (refine.video, refine.audio) == (NEUTRAL, NEUTRAL)
    guided, refined = recipe_named("hq").passes
    assert (guided.steps, guided.sampler, guided.all_tokens) == (15, "res2s", True)
    assert guided.video == Scales(cfg=3, modality=3, rescale=0.45)
    assert guided.audio == Scales(cfg=7, modality=3, rescale=1.0)
    assert (guided.loras, refined.loras) == ((("distilled", 0.25),), (("distilled", 0.5),))
    assert recipe_named("pro").audio_from == "guided"
    stages = recipe_named("three-stage").passes
    assert [p.scale for p in stages] == ["1/4", "1/2", "1"]
    assert [p.freeze for p in stages] == [set(), {"audio"}, {"audio"}]


def test_a_users_recipe_is_read_and_listed(folder: Path) -> None:
    (folder / "mine.yaml").write_text(OWN)
    recipe = recipe_named("mine")
    assert recipe.passes[0].video == Scales(cfg=2.5, stg=1, stg_blocks=(3,))
    assert recipe.passes[0].loras == (("distilled", 0.3),)
    assert recipe.passes[1] == Pass(
        "refine",
        start="previous",
        upsample=("space-x2",),
        sigmas=(0.5, 0.2, 0.0),
        freeze=frozenset({"audio"}),
    )
    assert recipe_named(str(folder / "mine.yaml")) == recipe
    assert [r.name for r in all_recipes()] == [*SHIPPED, "mine"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("name: mine", "colour: red", "'colour' is not a field of Recipe; the fields are name, summary"),
        ("scale: 1/2", "scale: 1/3", "pass 1: scale is '1/3'; it should be '2/3', '1/4', '1/2' or '1'"),
        (
            "start: previous",
            "start: middle",
            "pass 2: start is 'middle'; it should be 'noise', 'previous' or 'source'",
        ),
        ("[space-x2]", "[space-x1.5]", "its upsamplers come out at 3/4 and 1"),
        ("[0.5, 0.2, 0]", "[0.2, 0.5, 0]", "sigmas must fall"),
        ("freeze: [audio]", "freeze: [smell]", "freeze is 'smell'; it should be 'video' or 'audio'"),
        ("[0.5, 0.2, 0]", "refined", "2: sigmas is 'refined'; give a list of noise levels, or distilled or"),
        ("name: refine", "name: draft", "pass names must differ"),
        ("cfg: 2.5", "power: 9000", "pass 1: video has no 'power'; it has"),
        ("passes:", "steps:", "'steps' is not a field of Recipe"),
    ],
)
def test_bad_recipes_are_refused(folder: Path, old: str, new: str, says: str) -> None:
    path = folder / "mine.yaml"
    path.write_text(OWN.replace(old, new))
    with pytest.raises(ConfigError, match=r"mine\.yaml.*" + says):
        read_recipe(path)


def test_unknown_recipes_and_broken_files_are_named(folder: Path) -> None:
    (folder / "broken.yaml").write_text("passes: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml is not a YAML file"):
        recipe_named("broken")
    with pytest.raises(RequestError, match="recipe is 'quick'; the recipes are single, fast"):
        recipe_named("quick")
    with pytest.raises(RequestError, match=r"recipe is 'no\.yaml', but there is no such file"):
        recipe_named("no.yaml")


def test_the_page_names_every_recipe_and_every_key_of_a_pass() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    for recipe in SHIPPED:
        assert f"| `{recipe}` |" in page
    for key in (f.name for f in fields(Pass)):
        assert f"`{key}`" in page


def test_the_recipe_on_the_page_is_sound(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    (folder / "page.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    assert read_recipe(folder / "page.yaml").passes[1].freeze == {"audio"}
