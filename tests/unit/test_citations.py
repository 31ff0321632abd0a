"""What comments and pages cite is there for the reader: the page exists, and so does the heading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CODE = ("soundstage", "tests", "benchmarks", "examples")
SOURCES = sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

HEADINGS = r'((?:,? (?:and )?"[^"\n]+")*)'
IN_SOURCE = re.compile(rf"docs/([\w/-]+\.md){HEADINGS}")
IN_PAGE = re.compile(rf"\]\(([\w./-]+\.md)\){HEADINGS}")
# A document that readers do not have. Git LFS pointers carry the word in their address.
UNSEEN = re.compile(r"\bspecs?\b(?!/v1)", re.IGNORECASE)


def one_line(path: Path) -> str:
    """Return a file's text without line ends and comment marks, so that a citation is in one piece."""
    return re.sub(r"\s*\n[ \t]*(# )?", " ", path.read_text())


def headings(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE))


def citations() -> Iterator[tuple[Path, Path, list[str]]]:
    """Yield the file that cites, the page, and the headings."""
    for path in SOURCES:
        for page, cited in IN_SOURCE.findall(one_line(path)):
            yield path, DOCS / page, re.findall(r'"([^"]+)"', cited)
    for path in PAGES:
        for page, cited in IN_PAGE.findall(one_line(path)):
            yield path, path.parent / page, re.findall(r'"([^"]+)"', cited)


def test_every_page_and_heading_that_is_cited_exists() -> None:
    for path, page, cited in citations():
        assert page.is_file(), f"{path} cites {page}"
        missing = set(cited) - headings(page)
        assert not missing, f"{path} cites {sorted(missing)} of {page}"


def test_every_page_about_the_model_is_cited_with_headings() -> None:
    cited = {page for path, page, names in citations() if names and path.suffix == ".py"}
    assert {*(DOCS / "model").glob("*.md")} <= cited


def test_nothing_cites_a_document_that_readers_do_not_have() -> None:
    for path in (*SOURCES, *PAGES):
        if path != Path(__file__):
            found = UNSEEN.search(path.read_text())
            assert found is None, f"{path} cites a '{found[0]}'"
