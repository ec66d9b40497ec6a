"""The pages lead a stranger nowhere that is not there. (`make docs` checks the links between the pages of the site.)"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

import splatseg
from splatseg.cli.command import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CHANGELOG")),
]
MADE = {"reference/cli.md", "development/architecture.md", "development/changelog.md"}  # by docs/tools/site.py


def links(page: Path) -> list[str]:
    """Targets of the page's links and pictures, without those to the web."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|mailto:|#", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for target in links(page):
        path = (page.parent / target.partition("#")[0]).resolve()
        made = path.is_relative_to(ROOT / "docs") and path.relative_to(ROOT / "docs").as_posix() in MADE
        assert made or path.exists(), target
        assert path.is_relative_to(ROOT), f"{target}: outside the repository"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_page_leans_on_a_folder_beside_the_repository(page: Path) -> None:
    assert "../shared" not in page.read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation_once() -> None:
    found: list[str] = []

    def walk(entry: object) -> None:
        if isinstance(entry, str):
            found.append(entry)
        elif isinstance(entry, list | dict):
            for inner in entry.values() if isinstance(entry, dict) else entry:
                walk(inner)

    walk(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(found) == sorted(pages | MADE)


def test_commands_of_the_pages_are_commands() -> None:
    """``splatseg NAME ...`` in the code of a page names a command that there is."""
    named = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        code = [*re.findall(r"```bash\n(.*?)```", text, re.DOTALL), *re.findall(r"`(splatseg [^`\n]*)`", text)]
        named |= {name for part in code for name in re.findall(r"^splatseg ([a-z]+)", part, re.MULTILINE)}
    assert {"fit", "masks", "view", "export", "evaluate"} <= named <= set(COMMANDS)


def test_the_moving_picture_moves_and_is_small() -> None:
    path = ROOT / "docs" / "images" / "splatseg.webp"
    assert path.stat().st_size < 3_000_000
    with Image.open(path) as picture:
        assert getattr(picture, "n_frames", 1) > 20
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    shown = re.findall(r"^::: splatseg\.(\w+)$", (ROOT / "docs/reference/api.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(set(splatseg.__all__) - {"__version__"})
