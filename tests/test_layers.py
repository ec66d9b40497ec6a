"""The house rules that a reader of ARCHITECTURE.md counts on, checked on the source itself."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "splatseg"
ROOMS = (
    "core",
    "io",
    "ops",
    "render",
    "masks",
    "segment",
    "draw",
    "fit",
    "evaluate",
    "synthetic",
    "session",
    "viewer",
)
FIRST = ("__init__", "_libz", "_processors")  # before torch, and so before every room
DOORS = ("cli",)  # above the rooms, beside ``splatseg/__init__.py``
DEVICE_ROOMS = ("ops", "render", "cli")  # below or at the place where devices are told apart; doctor reports them
# Segment Anything is a network of others that runs on whatever device the user names; it is no op with a CPU twin.
DEVICE_FOLDER = "splatseg/masks/sam/"


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


def test_there_are_twelve_rooms_each_says_what_it_owns_and_exports_something() -> None:
    assert {room_of(path) for path in SOURCES} - {"__init__", "_libz", "_processors", *DOORS} == set(ROOMS) and len(
        ROOMS
    ) == 12
    for room in (*ROOMS, *DOORS):
        tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
        said = ast.get_docstring(tree)
        assert said and said.endswith("."), room
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert room in DOORS or "__all__" in names, room


def test_the_page_lists_the_rooms_in_their_order() -> None:
    block = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("```", 2)[1]
    listed = [re.split(r"[\s/]", line, maxsplit=1)[0] for line in block.strip().splitlines() if line[:1].strip()]
    assert listed == [*ROOMS, *DOORS, "scripts"]


@pytest.mark.parametrize("path", SOURCES, ids=identifier)
def test_imports_point_down(path: Path) -> None:
    order = (*ROOMS, *DOORS)
    room = room_of(path)
    if room in FIRST:
        return
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "splatseg" and len(parts) > 1 and parts[1] in order:
            assert order.index(parts[1]) <= order.index(room), f"{room} imports {name}, which lies above it"


def file_of(module: str, root: Path) -> Path | None:
    """The file of a dotted name below ``root``, or None where it is no module of ours."""
    base = root.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def imported_files(path: Path, root: Path) -> set[Path]:
    """Files that ``path`` imports by name, inside functions and for type checks, too.

    ``from a.b import c`` is an import of ``a/b/c.py`` where that is a file, else of ``a/b``.
    """
    files: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [
                f"{node.module}.{alias.name}" if file_of(f"{node.module}.{alias.name}", root) else node.module
                for alias in node.names
            ]
        files |= {found for module in modules if (found := file_of(module, root))}
    return files - {path}


def circles(sources: list[Path], root: Path) -> list[set[Path]]:
    """Sets of files that reach each other by imports (strongly connected, more than one)."""
    graph = {path: imported_files(path, root) for path in sources}
    graph = {path: targets & set(sources) for path, targets in graph.items()}
    reach: dict[Path, set[Path]] = {}
    for path in sources:
        seen: set[Path] = set()
        waiting = [path]
        while waiting:
            for target in graph[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        reach[path] = seen
    found = [{a, *(b for b in reach[a] if a in reach[b])} for a in sources if a in reach[a]]
    return [circle for i, circle in enumerate(found) if circle not in found[:i]]


def test_no_two_files_import_each_other() -> None:
    assert [sorted(map(identifier, circle)) for circle in circles(SOURCES, ROOT)] == []
    benchmarks = sorted((ROOT / "benchmarks").rglob("*.py"))
    for root in (ROOT, ROOT / "benchmarks"):  # scripts there import their neighbors without the folder's name
        assert [sorted(map(identifier, circle)) for circle in circles(benchmarks, root)] == []


def test_the_search_for_circles_sees_them(tmp_path: Path) -> None:
    texts = {
        "a.py": "from p.b import x\n",
        "b.py": "def f():\n    import p.c\n",
        "c.py": "if TYPE_CHECKING:\n    from p import a\n",
        "d.py": "from p.a import y\n",
    }
    (tmp_path / "p").mkdir()
    paths = [tmp_path / "p" / name for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text)
    assert circles(paths, tmp_path) == [set(paths[:3])]


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
    if room_of(path) not in DEVICE_ROOMS and not identifier(path).startswith(DEVICE_FOLDER):
        assert device_branches(path.read_text(encoding="utf-8")) == []


def test_nothing_in_the_package_imports_scripts_or_tests() -> None:
    outside = {"scripts", "tests", "benchmarks"}
    assert [identifier(p) for p in SOURCES if any(name.split(".")[0] in outside for name in imported(p))] == []


OPENERS = re.compile(
    r"(?:np\.load|Image\.open|safe_open|torch\.load|PlyData\.read|ZipFile|np\.fromfile|np\.loadtxt)\("
    r"(?!regular\(|str\(regular\()"
    r"|\.read_text\(|\.read_bytes\(|(?<!regular\(path\))\.open\(\"?(?:newline|encoding|\"rb)|[^.\w]open\([^)]*\"rb?\""
)
# The kernel's; in memory; what is written; a checkpoint that was opened as a zip before.
OURS = ("/proc/", "BytesIO", "nameless", '"w"', "torch.load(path,")


@pytest.mark.parametrize("path", SOURCES, ids=identifier)
def test_files_come_in_through_one_door(path: Path) -> None:
    """A pipe or device in the place of a file is waited for without end by whoever opens it: core/reading.py looks."""
    # sources.py runs in setup.py, before there is a package; _processors.py before torch, on /proc and /sys alone.
    if path.name in ("reading.py", "atomic.py", "sources.py", "_processors.py"):
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [line.strip() for line in lines if OPENERS.search(line) and not any(word in line for word in OURS)]
    assert not found
