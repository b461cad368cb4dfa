"""The documentation: links that resolve, a short README, and an architecture page that names every file."""

import re
from pathlib import Path

import pytest
from places import PACKAGE, REPOSITORY

PAGES = sorted(
    page for page in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), REPOSITORY / "wheels" / "README.md"]
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
MAX_README_LINES = 160


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_relative_links_resolve(page):
    for target in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors_of(file), target


def test_the_readme_is_short():
    text = (REPOSITORY / "README.md").read_text()
    written = re.sub(r"<!-- gpu-table:.*<!-- end of gpu-table -->", "", text, flags=re.DOTALL)  # made of results
    assert len(written.splitlines()) <= MAX_README_LINES


def test_the_architecture_page_names_every_file_of_the_package():
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    rooms = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    inits = {f"{room}/__init__.py" for room in rooms}
    assert {file for file in files - inits if f"`{file}`" not in text} == set()
    assert {room for room in rooms if f"**{room}**" not in text} == set()


def test_the_architecture_page_names_no_file_twice_and_none_that_is_not_there():
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| `([\w/]+\.py)` \|", text, flags=re.MULTILINE)
    assert [name for name in table if not (PACKAGE / name).exists()] == []
    assert sorted(table) == sorted(set(table))
