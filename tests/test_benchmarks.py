"""House rules of ``benchmarks/``: it stands above the product, and its files import each other one way."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
}


def imported(source: str) -> set[str]:
    """Files of ``benchmarks/`` that a source imports, at any depth of it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names & (FILES.keys() - {"benchmarks", "benchmarks.ablation"})


def test_files_import_each_other_one_way() -> None:
    graph = {name: imported(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("benchmarks.ablation.rows") < order.index("benchmarks.ablation.__main__")
    assert order.index("benchmarks.machine") < order.index("benchmarks.rasterize")
    graph["benchmarks.machine"] = {"benchmarks.ablation.report"}  # the check itself sees a circle
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", FILES)
def test_siblings_are_imported_by_their_whole_name(name: str) -> None:
    """``import rasterize`` works only where the file's own folder is first on the path, and hides types from mypy."""
    siblings = {path.stem for path in FILES.values()} - {"__init__", "__main__"}
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            assert node.level == 0
        assert not siblings & {module.split(".")[0] for module in modules}
