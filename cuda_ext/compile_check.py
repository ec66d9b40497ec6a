"""Compile, link and load the CUDA side without a GPU. Exits with 1 if a part fails, with 0 and a message without nvcc.

1. Every .cuh on its own (no ATen), for sm_80, sm_90 and PTX. What ``ptxas -v`` says is shown as a table for sm_90; a
   kernel that a fit runs and that spills registers is a failure.
2. With a CUDA build of torch in this Python: the whole extension by setup.py, for sm_90, into ``build/compile_check``,
   where a second run finds what has not changed. Then it is imported in a process of its own, as torch aborts Python
   where two devices register an op with different types. With a CPU build of torch every .cu is compiled against
   torch's headers, and nothing is linked.

    python cuda_ext/compile_check.py [--quick] [--table docs/development/cuda.md] [WORD...]

``--quick`` is for CI: all .cuh in one translation unit for sm_90, and all .cu in another, with their host sides, to the
PTX of compute_80: torch's headers are read once, each kernel meets ptxas once and the code of both architectures is
compiled. What ptxas alone would refuse for sm_80, and whether each .cuh includes all it needs, is left to the full form
(and, of files of kernels, to the emulator's tests). Nothing is linked then, as with words.
Words choose the .cuh and .cu whose names hold one of them: then nothing is linked. The CPU build of torch lacks a few
CUDA headers that hold no code (the names of build options); empty ones stand in.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from kernel_table import Kernel, read_kernels, table, write_table
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parent
ARCHITECTURES = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
]
QUICK_HEADERS = ["-gencode=arch=compute_90,code=sm_90"]
QUICK_SOURCES = ["-gencode=arch=compute_80,code=compute_80"]
SHOWN = 90
USUAL = [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
OPTIONS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "--extended-lambda", "-DSPLATSEG_WITH_CUDA", f"-I{ROOT}"]
STAND_IN = "c10/cuda/impl/cuda_cmake_macros.h"
LOAD = """
import splatseg._C as built
assert built.has_cuda(), "built without CUDA kernels"
print("loaded", built.__file__)
"""


def cuda_home() -> Path | None:
    """Folder of the CUDA toolkit: ``$CUDA_HOME``, the usual places, or where nvcc says that it is.

    torch takes the folder above the nvcc on the PATH, which may be a wrapper far from the toolkit's headers.
    """
    for home in [Path(os.environ.get("CUDA_HOME") or "/nowhere"), *USUAL]:
        if (home / "include/cuda_runtime_api.h").is_file() and (home / "bin/nvcc").is_file():
            return home
    if shutil.which("nvcc") is None:
        return None
    dry = subprocess.run(["nvcc", "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.*)$", dry.stderr, re.MULTILINE)
    return Path(top[1].strip()).resolve() if top else None


def compile_one(source: Path, command: list[str], folder: Path) -> str | None:
    """Compile one file to an object that is thrown away; what ptxas says, or None after a failure, which is shown."""
    start = time.monotonic()
    target = folder / (source.stem + ".o")
    result = subprocess.run([*command, "-c", str(source), "-o", str(target)], capture_output=True, text=True)
    ok = result.returncode == 0
    print(f"{source.stem}: {'ok' if ok else 'FAILED'} ({time.monotonic() - start:.0f} s)", flush=True)
    if ok:
        return result.stderr
    errors = [line for line in (result.stdout + result.stderr).splitlines() if "ptxas info" not in line]
    print("\n".join(errors[:40]), file=sys.stderr)
    return None


def including(unit: Path, files: list[Path]) -> Path:
    """A translation unit of ``files``, with SPLATSEG_INSTANTIATE set so that a .cuh's templates are compiled too."""
    includes = "".join(f'#include "cuda/{file.name}"\n' for file in files)
    unit.write_text(("#define SPLATSEG_INSTANTIATE\n" if files[0].suffix == ".cuh" else "") + includes)
    return unit


def headers(folder: Path, together: bool) -> list[Path]:
    """A translation unit for each .cuh, or one of all: what several include is compiled once then."""
    files = sorted((ROOT / "cuda").glob("*.cuh"))
    if together:
        return [including(folder / "every_header.cu", files)]
    return [including(folder / f"{file.stem}_cuh.cu", [file]) for file in files]


def sources(folder: Path, together: bool) -> list[Path]:
    """Every .cu, or one that includes them all: what they keep to themselves must have names of its own for that."""
    files = sorted((ROOT / "cuda").glob("*.cu"))
    return [including(folder / "every_source.cu", files)] if together else files


def torch_include(folder: Path) -> list[str]:
    """Include options for torch's headers, with the stand-in last so that a CUDA build's own header wins."""
    stand_in = folder / STAND_IN
    stand_in.parent.mkdir(parents=True, exist_ok=True)
    stand_in.write_text("#pragma once\n")
    return [*(f"-isystem={path}" for path in include_paths()), f"-isystem={folder}"]


def compile_all(home: Path, words: list[str], with_sources: bool, quick: bool) -> tuple[list[Kernel], bool]:
    """Every .cuh and, if asked, every .cu whose name holds one of ``words``; kernels, and whether all compiled."""
    nvcc = [str(home / "bin/nvcc"), *OPTIONS]
    for_headers, for_sources = (QUICK_HEADERS, QUICK_SOURCES) if quick else (ARCHITECTURES, ARCHITECTURES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        together = quick and not words
        work = [(unit, [*nvcc, *for_headers, "-Xptxas", "-v"]) for unit in headers(folder, together)]
        if with_sources:  # first, as they take longest
            include = torch_include(folder)
            work = [(source, [*nvcc, *for_sources, *include]) for source in sources(folder, together)] + work
        wanted = [one for one in work if not words or any(word in one[0].name for word in words)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            said = list(pool.map(lambda one: compile_one(*one, folder), wanted))
    if not said:
        print(f"compile_check: no file matches {words}", file=sys.stderr)
    return read_kernels("\n".join(text or "" for text in said), SHOWN), bool(said) and None not in said


def spilled(kernels: list[Kernel]) -> bool:
    """Whether one that must not does; each is named."""
    bad = [kernel for kernel in kernels if kernel.spills and kernel.must_not_spill]
    for kernel in bad:
        print(f"{kernel.name}: FAILED, {kernel.spills} bytes of registers spilled on sm_{SHOWN}", file=sys.stderr)
    return bool(bad)


def link(home: Path) -> Path | None:
    """Build the whole extension by setup.py; the folder that ``splatseg/_C*.so`` lies in, or None on failure."""
    start = time.monotonic()
    build = ROOT.parent / "build/compile_check" / f"{sysconfig.get_python_version()}-torch{torch.__version__}"
    environment = {
        "TORCH_CUDA_ARCH_LIST": "9.0", "MAX_JOBS": str(os.cpu_count()), **os.environ,
        "CUDA_HOME": str(home), "SPLATSEG_CUDA": "1",
    }  # fmt: skip
    for old in (build / "lib").rglob("_C*.so"):
        old.unlink()
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        f"--build-lib={build}/lib",
        f"--build-temp={build}/objects",
    ]
    result = subprocess.run(command, cwd=ROOT.parent, env=environment, capture_output=True, text=True)
    ok = result.returncode == 0 and any((build / "lib/splatseg").glob("_C*.so"))
    print(f"link: {'ok' if ok else 'FAILED'} ({time.monotonic() - start:.0f} s)", flush=True)
    if not ok:
        errors = [line for line in (result.stdout + result.stderr).splitlines() if "error" in line.lower()]
        print("\n".join(errors[:40] or result.stderr.splitlines()[-20:]), file=sys.stderr)
    return build / "lib" if ok else None


def load(folder: Path) -> bool:
    """Import ``splatseg._C`` of ``folder`` in a process of its own, which it may abort; says how that ended."""
    # In that folder and nothing else of ours, so that this checkout's package is not found. torch first: its libraries.
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", f"import torch\n{LOAD}"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode == 0:
        print("load: ok")
        return True
    how = f"signal {-result.returncode}" if result.returncode < 0 else f"exit code {result.returncode}"
    print(f"load: FAILED ({how})", flush=True)
    print("\n".join(result.stderr.splitlines()[-12:]), file=sys.stderr)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="part of a file's name")
    parser.add_argument("--quick", action="store_true", help="what CI runs: each kernel through ptxas once, no link")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="put the kernels' table between the marks of this file"
    )
    options = parser.parse_args()
    if options.words and options.table is not None:
        parser.error("--table: expected all kernels, found words that choose some")
    home = cuda_home()
    if home is None:
        print("compile_check: skipped, neither nvcc nor a CUDA toolkit is to be found")
        return 0
    whole = torch.version.cuda is not None and not options.words and not options.quick
    kernels, compiled = compile_all(home, options.words, with_sources=not whole, quick=options.quick)
    print(table(kernels))
    ok = not spilled(kernels) and compiled
    if options.table is not None and kernels and compiled:
        write_table(options.table, kernels)
    if not whole:
        given = "words were" if options.words else "--quick was" if options.quick else ""
        why = f"{given} given" if given else f"torch {torch.__version__} is built without CUDA"
        print(f"compile_check: compiled only, neither linked nor loaded: {why}")
        return 0 if ok else 1
    built = link(home)
    return 0 if built is not None and load(built) and ok else 1


if __name__ == "__main__":
    sys.exit(main())
