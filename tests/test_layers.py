"""The house rules that a reader of ARCHITECTURE.md counts on, checked on the source itself."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "splatseg"
DEVICE_ROOMS = ("ops", "render", "doctor")  # below or at the place where devices are told apart; doctor reports them
# Segment Anything is a network of others that runs on whatever device the user names; it is no op with a CPU twin.
DEVICE_FILES = re.compile(r"splatseg/masks/sam\w*\.py")


@cache
def layers() -> list[str]:
    """Rooms in the order of ARCHITECTURE.md's list, bottom first."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = page.split("```", 2)[1]
    return [re.split(r"[\s/]", line, maxsplit=1)[0] for line in block.strip().splitlines() if line[:1].strip()]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imported(path: Path) -> frozenset[str]:
    """Dotted names of all modules that a file imports, at any depth, relative ones resolved."""
    package = ["splatseg", *path.relative_to(PACKAGE).parent.parts]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return frozenset(names)


SOURCES = sorted(PACKAGE.rglob("*.py"))


def identifier(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_list_names_every_room_that_exists() -> None:
    order = layers()
    assert order[0] == "errors" and order[-1] == "scripts" and len(set(order)) == len(order)
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert sorted(rooms - set(order)) == []


@pytest.mark.parametrize("path", SOURCES, ids=identifier)
def test_imports_point_down(path: Path) -> None:
    order = layers()
    room = room_of(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "splatseg" or len(parts) < 2 or room == "__init__":
            continue
        other = parts[1]
        if other in order and room in order:
            assert order.index(other) <= order.index(room), f"{room} imports {name}, which lies above it"


@pytest.mark.parametrize("path", SOURCES, ids=identifier)
def test_only_ops_imports_the_extension(path: Path) -> None:
    if room_of(path) != "ops":
        assert not [name for name in imported(path) if name.startswith("splatseg._C")]


def device_branches(source: str) -> list[int]:
    """Lines that ask a tensor for its device kind: ``.is_cuda``, or a comparison with a string such as "cuda"."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "is_cuda":
            lines.append(node.lineno)
        if isinstance(node, ast.Compare):
            for side in [node.left, *node.comparators]:
                if isinstance(side, ast.Constant) and isinstance(side.value, str) and side.value.startswith("cuda"):
                    lines.append(node.lineno)
    return lines


def test_the_device_check_itself_sees_branches() -> None:
    assert device_branches('if x.is_cuda:\n    pass\ny = d.type == "cuda"\nz = "cuda:0" != d\n') == [1, 3, 4]
    assert device_branches('x = t.to("cuda")\n') == []


@pytest.mark.parametrize("path", SOURCES, ids=identifier)
def test_no_device_branches_above_render_and_ops(path: Path) -> None:
    if room_of(path) not in DEVICE_ROOMS and not DEVICE_FILES.fullmatch(identifier(path)):
        assert device_branches(path.read_text(encoding="utf-8")) == []


def test_nothing_in_the_package_imports_scripts_or_tests() -> None:
    outside = {"scripts", "tests", "benchmarks"}
    assert [identifier(p) for p in SOURCES if any(name.split(".")[0] in outside for name in imported(p))] == []
