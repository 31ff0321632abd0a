"""The docs say what the code does: the page of commands is current, and paths and commands named exist."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import soundstage as ss
from soundstage.cli.defaults import NOT
from soundstage.cli.official_flags import FLAGS
from soundstage.cli.program import app
from soundstage.cli.reference import reference
from soundstage.fields.tables import with_tables
from soundstage.library.catalog import find
from soundstage.sampling.schedules import DISTILLED, REFINE
from tests.examples import KINDS, examples

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "run `make docs`"


def test_the_tables_of_fields_are_what_the_fields_say() -> None:
    for page in PAGES:
        assert with_tables(page.read_text()) == page.read_text(), f"{page.name}: run `make docs`"
    told = " ".join(page.read_text() for page in PAGES)
    for name in (
        "request.Request",
        "take.Take",
        "recipe.Pass",
        "recipe.Recipe",
        "recipes.shipped",
        "inputs.Guide",
    ):
        assert f"<!-- table of soundstage.request.{name}" in told


def test_every_block_of_the_docs_says_what_it_is() -> None:
    unknown = {example.where: example.kind for example in examples() if example.kind not in KINDS}
    assert not unknown, f"{unknown}: give the block one of the languages that tests/examples.py describes"


def test_every_file_linked_in_the_docs_exists() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_test_named_in_the_docs_exists() -> None:
    for page, text in within_backticks():
        for file, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
            assert f"def {name}(" in (ROOT / file).read_text(), f"{page.name} names {file}::{name}"


def test_every_heading_linked_in_the_docs_exists() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            headings = re.findall(r"^#+ (.*)$", (page.parent / target if target else page).read_text(), re.M)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name} links to {target}#{anchor}"


def within_backticks() -> Iterator[tuple[Path, str]]:
    """Yield what a line of a page has between backticks."""
    for page in PAGES:
        for text in re.findall(r"`([^`\n]+)`", page.read_text()):
            yield page, text


def test_every_option_named_in_the_docs_exists() -> None:
    def options(command: Any) -> Iterator[str]:
        for param in command.params:
            yield from (*param.opts, *param.secondary_opts)
        for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
            yield from options(command.get_command(None, name))

    known = {"--help", *FLAGS, *options(app)}
    known |= {f"{NOT}{option[2:]}" for option in known if option.startswith("--")}
    for page, text in within_backticks():
        if not re.match(r"python|pip ", text):
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))
            assert named <= known, f"{page.name} names {named - known}"


def test_every_name_of_the_package_in_the_docs_exists() -> None:
    for page, text in within_backticks():
        for name in re.findall(r"(?<![\w./])(?:ss|soundstage)(?!\.toml\b)(?:\.[A-Za-z_]\w*)+", text):
            path = name.replace("ss.", "soundstage.", 1) if name.startswith("ss.") else name
            try:
                pkgutil.resolve_name(path)
            except (AttributeError, ImportError):
                pytest.fail(f"{page.name} names {name}, which does not exist")


def test_fields_in_the_tables_make_a_request() -> None:
    """`guides=[Guide("a.png")]` and the like: the fields exist and take such values."""
    values = {name: getattr(ss, name) for name in ss.__all__}
    made = 0
    for _, text in within_backticks():
        field = re.match(r"([a-z_]+)=", text)
        if field is not None and field[1] in ss.Request.model_fields and "..." not in text:
            ss.Request(**{"prompt": "A red ball.", **eval(f"dict({text})", values)})
            made += 1
    assert made > 25


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for page in PAGES:
        named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(), flags=re.M))
        assert named <= targets, f"{page.name} names {named - targets}"


def test_pages_about_the_model_have_the_figures_of_the_code() -> None:
    lists = [", ".join(f"{sigma:g}" for sigma in sigmas) for sigmas in (DISTILLED, REFINE)]
    names = ("22b-dev", "22b-distilled-1.1", "22b-distilled-lora-384-1.1", "temporal-upscaler-x2-1.0")
    sizes = [f"{find(f'ltx-2.3-{name}')[0].num_bytes:,}" for name in names]
    figures = {"sampling": lists, "checkpoints": sizes}
    for page, wanted in figures.items():
        text = (ROOT / "docs" / "model" / f"{page}.md").read_text()
        missing = [figure for figure in wanted if figure not in text]
        assert not missing, f"{page}.md has not {missing}"


def test_every_source_file_named_in_docs_and_comments_exists() -> None:
    """A file is named by its path below the package or the root, or by its last parts alone."""
    sources = [path for room in ("soundstage", "tests", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    known = {path.relative_to(ROOT).as_posix() for path in (*sources, *(ROOT / "examples").glob("*.py"))}
    for page in (*PAGES, ROOT / "CHANGELOG.md", *sources):
        for named in re.findall(r"(?<![\w/.{-])((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)\b", page.read_text()):
            assert any(f"/{path}".endswith(f"/{named}") for path in known), f"{page.name} names {named}"
