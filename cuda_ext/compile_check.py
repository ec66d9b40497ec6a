"""Compile the CUDA side without a GPU: every .cuh on its own (no ATen), then every .cu against torch's headers.

Device code for sm_80 and sm_90, PTX for later ones. Exits with 1 if a file fails, with 0 and a message without nvcc.
Words on the command line choose the files whose names hold one of them: ``cuda_ext/compile_check.py trace blend``.
The CPU build of torch lacks a few CUDA headers that hold no code (the names of build options); empty ones stand in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parent
ARCHITECTURES = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
]
OPTIONS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "--extended-lambda", "-DSPLATSEG_WITH_CUDA", f"-I{ROOT}"]
STAND_IN = "c10/cuda/impl/cuda_cmake_macros.h"


def compile_one(source: Path, include: list[str], folder: Path) -> bool:
    """Compile one file to an object that is thrown away; print the outcome and, if it failed, the first lines why."""
    start = time.monotonic()
    target = folder / (source.stem + ".o")
    command = ["nvcc", *ARCHITECTURES, *OPTIONS, *include, "-c", str(source), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    ok = result.returncode == 0
    print(f"{source.stem}: {'ok' if ok else 'FAILED'} ({time.monotonic() - start:.0f} s)")
    if not ok:
        print("\n".join((result.stdout + result.stderr).splitlines()[:40]), file=sys.stderr)
    return ok


def headers(folder: Path) -> list[Path]:
    """A translation unit for each .cuh, with SPLATSEG_INSTANTIATE set so that its templates are compiled too."""
    units = []
    for header in sorted((ROOT / "cuda").glob("*.cuh")):
        unit = folder / f"{header.stem}_cuh.cu"
        unit.write_text(f'#define SPLATSEG_INSTANTIATE\n#include "cuda/{header.name}"\n')
        units.append(unit)
    return units


def torch_include(folder: Path) -> list[str]:
    """Include options for torch's headers, with the stand-in last so that a CUDA build's own header wins."""
    stand_in = folder / STAND_IN
    stand_in.parent.mkdir(parents=True, exist_ok=True)
    stand_in.write_text("#pragma once\n")
    return [*(f"-isystem={path}" for path in include_paths()), f"-isystem={folder}"]


def wanted(source: Path) -> bool:
    """Whether the command line asks for this file; without words it asks for all."""
    return len(sys.argv) < 2 or any(word in source.name for word in sys.argv[1:])


def main() -> int:
    if shutil.which("nvcc") is None:
        print("compile_check: skipped, nvcc is not on the PATH")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        include = torch_include(folder)
        # The .cu first, as they take longest.
        work = [(source, include) for source in sorted((ROOT / "cuda").glob("*.cu"))]
        work += [(unit, []) for unit in headers(folder)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ok = list(pool.map(lambda one: compile_one(*one, folder), (one for one in work if wanted(one[0]))))
    if not ok:
        print(f"compile_check: no file matches {sys.argv[1:]}", file=sys.stderr)
    return 0 if ok and all(ok) else 1


if __name__ == "__main__":
    sys.exit(main())
