"""cuda_ext/compile_check.py without nvcc: what it reads of ptxas, what it refuses, how it reports an abort."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SAID = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN8splatseg4cuda10loss_tilesIfLi16EEEvi' for 'sm_80'
ptxas info    : Function properties for _ZN8splatseg4cuda10loss_tilesIfLi16EEEvi
    16 bytes stack frame, 44 bytes spill stores, 44 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 400 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN8splatseg4cuda10loss_tilesIfLi16EEEvi' for 'sm_90'
ptxas info    : Function properties for _ZN8splatseg4cuda10loss_tilesIfLi16EEEvi
    {spill} bytes stack frame, {spill} bytes spill stores, {spill} bytes spill loads
ptxas info    : Used 74 registers, used 1 barriers, 256 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 12.000 ms
ptxas info    : Compiling entry function '_ZN8splatseg4cuda10loss_tilesIfLi64EEEvi' for 'sm_90'
ptxas info    : Function properties for _ZN8splatseg4cuda10loss_tilesIfLi64EEEvi
    8 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 400 bytes cmem[0]
"""


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "cuda_ext"))
    return importlib.import_module("compile_check")


@pytest.fixture
def kernel_table(check: Any) -> Any:
    return sys.modules["kernel_table"]


def test_reads_what_ptxas_says(kernel_table: Any) -> None:
    """The asked architecture alone; static shared memory where it is told; each kernel once."""
    kernels = kernel_table.read_kernels(SAID.format(spill=0) * 2, 90)
    assert [(k.name, k.registers, k.stack, k.spills, k.shared) for k in kernels] == [
        ("loss_tiles<float, 16>", 74, 0, 0, 256),
        ("loss_tiles<float, 64>", 128, 8, 12, 0),
    ]
    assert kernel_table.read_kernels("", 90) == []


@pytest.mark.parametrize(
    ("registers", "warps"), [(24, 64), (32, 64), (33, 48), (64, 32), (74, 24), (128, 16), (255, 8)]
)
def test_warps_that_registers_suffice_for(kernel_table: Any, registers: int, warps: int) -> None:
    """As NVIDIA's occupancy calculator has it for compute capability 9.0."""
    assert kernel_table.Kernel("any", registers, 0, 0, 0).warps == warps


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("loss_tiles<float, 16, ExactSum<float>>", True),
        ("loss_tiles<float, 4, FastSum<float>>", True),
        ("blend_rows<float, Half, 4, 2>", True),
        ("trace_rows<true>", True),
        ("loss_tiles<float, 64, FastSum<float>>", False),
        ("loss_tiles<float, 0, FastSum<float>>", False),
        ("loss_tiles<double, 16, FastSum<double>>", False),
    ],
)
def test_spills_that_a_fit_would_meet(check: Any, kernel_table: Any, name: str, refused: bool, capsys: Any) -> None:
    assert check.spilled([kernel_table.Kernel(name, 64, 16, 8, 0)]) == refused
    assert capsys.readouterr().err == (f"{name}: FAILED, 8 bytes of registers spilled on sm_90\n" if refused else "")
    assert not check.spilled([kernel_table.Kernel(name, 64, 16, 0, 0)])


def test_table_goes_between_the_marks(kernel_table: Any, tmp_path: Path) -> None:
    """Twice: the second takes the place of the first, and the text around stays. Without marks nothing is written."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{kernel_table.BEGIN}\n{kernel_table.END}\nafter\n")
    for spill in (0, 44):
        kernels = kernel_table.read_kernels(SAID.format(spill=spill), 90)
        kernel_table.write_table(page, kernels)
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and text.count("loss_tiles<float, 16>") == 1
        assert f"| `loss_tiles<float, 16>` | 74 | 24 | {2 * spill} | {spill} | 256 |" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match=r"page.md: expected one '<!-- kernels"):
        kernel_table.write_table(page, kernels)
    assert page.read_text() == "no marks"


def test_docs_hold_the_kernels_of_the_sources(kernel_table: Any) -> None:
    """Every __global__ function is in the table of docs/development/cuda.md, and no other."""
    page = (ROOT / "docs/development/cuda.md").read_text()
    rows = page.split(kernel_table.BEGIN)[1].split(kernel_table.END)[0]
    listed = {line.split("`")[1].partition("<")[0] for line in rows.splitlines() if line.startswith("| `")}
    sources = "".join(path.read_text() for path in (ROOT / "cuda_ext/cuda").glob("*.cuh"))
    bounds = r"(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s+)?"
    declared = set(re.findall(r"__global__\s+(?:inline\s+)?void\s+" + bounds + r"(\w+)\(", sources))
    assert listed == declared


BUILT = "def has_cuda():\n    return {cuda}\n"
MISMATCH = (
    "import os, sys\nprint('what(): Mismatch in kernel C++ signatures', file=sys.stderr, flush=True)\nos.abort()\n"
)


@pytest.mark.parametrize(
    ("module", "out", "err"),
    [
        (BUILT.format(cuda=True), "load: ok\n", ""),
        (BUILT.format(cuda=False), "load: FAILED (exit code 1)\n", "built without CUDA kernels"),
        (MISMATCH, "load: FAILED (signal 6)\n", "what(): Mismatch in kernel C++ signatures"),
        ("import nothing_such\n", "load: FAILED (exit code 1)\n", "No module named 'nothing_such'"),
    ],
)
def test_loading_is_reported(check: Any, tmp_path: Path, module: str, out: str, err: str, capsys: Any) -> None:
    """In a process of its own: an abort is a failure with its message, and ends nothing else."""
    (tmp_path / "splatseg").mkdir()
    (tmp_path / "splatseg/_C.py").write_text(module)
    assert check.load(tmp_path) == (out == "load: ok\n")
    said = capsys.readouterr()
    assert said.out == out and err in said.err


def test_toolkit_is_found_behind_a_wrapper(check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$CUDA_HOME only where headers lie in it; a wrapper of nvcc on the PATH is asked where it leads."""
    home = tmp_path / "toolkit"
    for name in ("include/cuda_runtime_api.h", "bin/nvcc"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert check.cuda_home() == home
    (home / "include/cuda_runtime_api.h").unlink()
    assert check.cuda_home() != home
    wrapper = tmp_path / "bin/nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "#\\$ _SPACE_= " >&2\necho "#\\$ TOP={home}/bin/.." >&2\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(check, "USUAL", [])
    monkeypatch.setenv("PATH", f"{wrapper.parent}:/usr/bin:/bin")
    assert check.cuda_home() == home
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check.cuda_home() is None
