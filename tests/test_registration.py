"""Every kernel is registered through its op's one function type, so that another type does not compile.

torch compares the C++ types of an op's kernels only when the extension is imported, and then aborts Python: one with
``Tensor`` on one device and ``Tensor&`` on another was built once, and could not be imported.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "cuda_ext"
REGISTRATION = re.compile(r'm\.impl\(\s*("(\w+)",\s*.*?)\);', re.DOTALL)


def registrations() -> list[tuple[str, str, str]]:
    """File, op and whole text of every ``m.impl(`` under cuda_ext, comments left out."""
    found = []
    for path in sorted(p for ending in ("cpp", "cu", "h", "cuh") for p in SOURCES.rglob(f"*.{ending}")):
        text = re.sub(r"//[^\n]*", "", path.read_text())
        calls = REGISTRATION.findall(text)
        assert len(calls) == len(re.findall(r"\bimpl\w*\(", text)), f"{path}: a registration that this test cannot read"
        found += [(path.name, op, whole) for whole, op in calls]
    return found


def test_every_registration_names_its_type() -> None:
    types: dict[str, set[str]] = {}
    for file, op, whole in registrations():
        named = re.fullmatch(r'"\w+",\s*splatseg::kernel<splatseg::(\w+Op)>\(splatseg::\w+\)', whole)
        assert named, f"{file}: {whole}: expected splatseg::kernel<splatseg::...Op>(...)"
        types.setdefault(op, set()).add(named[1])
    assert {"blend", "adam_", "trace", "rasterize", "rasterize_backward", "trace_tiles"} <= set(types)
    assert all(len(names) == 1 for names in types.values()), "one type per op"
    owners = Counter(name for names in types.values() for name in names)
    assert set(owners.values()) == {1}, "no type serves two ops"


def test_every_type_is_declared_once_beside_the_checks() -> None:
    used = {name for _, _, whole in registrations() for name in re.findall(r"kernel<splatseg::(\w+Op)>", whole)}
    declared = Counter(
        name for path in SOURCES.glob("*.h") for name in re.findall(r"^using (\w+Op) =", path.read_text(), re.MULTILINE)
    )
    assert {name: declared[name] for name in used} == dict.fromkeys(used, 1)


UNIT = """
#include "registration.h"
struct Tensor {};
using AnyOp = void(Tensor& param, const Tensor& grad);
void on_cpu(Tensor& param, const Tensor& grad) {}
void on_cuda(SECOND param, const Tensor& grad) {}
struct Library { template <class F> void impl(const char*, F*) {} };
void register_both(Library& m) {
  m.impl("any_", splatseg::kernel<AnyOp>(on_cpu));
  m.impl("any_", splatseg::kernel<AnyOp>(on_cuda));
}
"""


@pytest.mark.parametrize(
    ("second", "compiles"), [("Tensor&", True), ("Tensor", False), ("const Tensor&", False), ("Tensor*", False)]
)
def test_another_type_does_not_compile(tmp_path: Path, second: str, compiles: bool) -> None:
    """As Adam was once: ``Tensor`` beside ``Tensor&``. The twin of equal types shows that nothing else is wrong."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        pytest.skip("no C++ compiler (set CXX)")
    unit = tmp_path / "unit.cpp"
    unit.write_text(UNIT.replace("SECOND", second))
    run = subprocess.run(
        [compiler, "-std=c++20", "-fsyntax-only", f"-I{SOURCES}", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode == 0) == compiles, run.stderr
    if not compiles:
        assert "on_cuda" in run.stderr and "on_cpu)" not in run.stderr
