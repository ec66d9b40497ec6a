"""Package metadata and the build of ``splatseg._C``.

The CPU side is always built; the CUDA side when the installed torch was built with CUDA. ``SPLATSEG_CUDA=1`` forces
it on (and fails loudly where it cannot be had), ``SPLATSEG_CUDA=0`` leaves it out. Build with ``--no-build-isolation``:
torch must be the one that will run the ops, so it is no build requirement that pip may choose. A wheel asks for the
torch that it was built with, up to its last number: torch's C++ interface changes with the number before.

``SPLATSEG_BUILT=PATH`` packs the extension at PATH, built before from these sources, instead of compiling it.
"""

from __future__ import annotations

import os
import platform
import re
import runpy
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from setuptools import find_packages, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

ROOT = Path(__file__).parent
SOURCES = Path("cuda_ext")
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "splatseg/__init__.py").read_text(), re.MULTILINE).group(1)
sources_digest = runpy.run_path(str(ROOT / "splatseg/ops/sources.py"))["sources_digest"]
X86_ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mpopcnt", "-mlzcnt"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=256"],
}
TORCH = ".".join(torch.__version__.split(".")[:2])
# -fno-math-errno and -fno-trapping-math change no result; the rest of -ffast-math does and stays off.
COMMON_FLAGS = ["-O3", "-std=c++20", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]


def with_cuda() -> bool:
    """Whether to build the CUDA side (see the module docstring)."""
    wanted = os.environ.get("SPLATSEG_CUDA", "auto")
    if wanted not in ("0", "1", "auto"):
        raise SystemExit(f"SPLATSEG_CUDA: expected 0, 1 or auto, found {wanted!r}")
    has_cuda = torch.version.cuda is not None
    if wanted == "1" and not has_cuda:
        raise SystemExit(f"SPLATSEG_CUDA=1: expected a torch built with CUDA, found torch {torch.__version__} (CPU)")
    return wanted == "1" or (wanted == "auto" and has_cuda)


def compile_kernels(build_dir: Path) -> list[str]:
    """Compile every cpu/kernels/*.cpp once per instruction set; return the objects."""
    isas = X86_ISA_FLAGS if platform.machine() in ("x86_64", "AMD64") else {"baseline": []}
    compiler = os.environ.get("CXX", "g++")
    headers = max(p.stat().st_mtime for p in (SOURCES / "cpu").rglob("*.h"))

    def compile_one(source: Path, isa: str) -> str:
        target = build_dir / f"{source.stem}.{isa}.o"
        if not target.exists() or target.stat().st_mtime < max(source.stat().st_mtime, headers):
            command = [compiler, *COMMON_FLAGS, *isas[isa], f"-DSPLATSEG_ISA={isa}", f"-I{SOURCES}"]
            subprocess.run([*command, "-c", str(source), "-o", str(target)], check=True)
            check_symbols(target, isa)
        return str(target)

    build_dir.mkdir(parents=True, exist_ok=True)
    jobs = [(source, isa) for source in sorted((SOURCES / "cpu/kernels").glob("*.cpp")) for isa in isas]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        return list(pool.map(lambda job: compile_one(*job), jobs))


def check_symbols(target: Path, isa: str) -> None:
    """Refuse weak symbols outside the set's own namespace: the linker may keep the AVX-512 copy for every processor."""
    lines = subprocess.run(["nm", "-C", str(target)], check=True, capture_output=True, text=True).stdout.splitlines()
    weak = [line for line in lines if " W " in line and f"splatseg::{isa}::" not in line]
    if weak:
        target.unlink()
        raise SystemExit(f"{target.name}: weak symbols outside splatseg::{isa}: {weak[0].split(' W ')[1]}")


class Build(BuildExtension):
    """Adds the per-instruction-set objects before the ordinary build."""

    def build_extension(self, ext: CppExtension) -> None:
        if built := os.environ.get("SPLATSEG_BUILT"):
            target = Path(self.get_ext_fullpath(ext.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(built, target)
            return
        ext.extra_objects = compile_kernels(ROOT / self.build_temp / "kernels")
        super().build_extension(ext)


def joined(folder: Path, build_dir: Path, first: str = "") -> str:
    """A source that includes every .cpp of ``folder``: reading torch's headers costs 15 s, and so is paid once."""
    target = build_dir / f"joined_{folder.name}.cpp"
    text = first + "".join(f'#include "{(ROOT / p).resolve()}"\n' for p in sorted(folder.glob("*.cpp")))
    build_dir.mkdir(parents=True, exist_ok=True)
    if not target.exists() or target.read_text() != text:
        target.write_text(text)
    return str(target)


def extension() -> CppExtension:
    digest = f'#define SPLATSEG_SOURCES "{sources_digest(ROOT / SOURCES)}"\n'
    sources = [joined(SOURCES, Path("build"), digest), joined(SOURCES / "cpu", Path("build"))]
    # Bounds of distances are rounded as distances are: no product is fused with a sum behind our back.
    # -g0: Python's own flags may ask for what is stripped below, at twice the time.
    flags = {"cxx": ["-O3", "-g0", "-fopenmp", "-ffp-contract=off", "-Wall", "-Wno-psabi", "-Wno-unknown-pragmas"]}
    include = [str(ROOT / SOURCES)]
    # -fopenmp in compile and link alike: without it at link time the parallel loops run serially, silently.
    link = ["-fopenmp", "-s"]
    if not with_cuda():
        return CppExtension(
            "splatseg._C", sources, include_dirs=include, extra_compile_args=flags, extra_link_args=link
        )
    sources += [str(p) for p in sorted((SOURCES / "cuda").glob("*.cu"))]
    # Older torch would choose C++17 for us.
    flags["cxx"] += ["-std=c++20", "-DSPLATSEG_WITH_CUDA"]
    flags["nvcc"] = ["-O3", "-std=c++20", "-DSPLATSEG_WITH_CUDA", "--expt-relaxed-constexpr", "-lineinfo"]
    return CUDAExtension("splatseg._C", sources, include_dirs=include, extra_compile_args=flags, extra_link_args=link)


setup(
    name="splatseg",
    version=VERSION,
    description="Gaussian-splatting feature fields with hierarchical click segmentation, on CPU and CUDA",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Environment :: Console",
        "Environment :: Web Environment",
        "Environment :: GPU :: NVIDIA CUDA",
        "Natural Language :: English",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Graphics :: 3D Rendering",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    platforms=["Linux"],
    project_urls={"Method": "https://arxiv.org/abs/2311.11666"},
    keywords=["gaussian splatting", "segmentation", "segment anything", "colmap", "feature field"],
    python_requires=">=3.11",
    packages=find_packages(include=["splatseg", "splatseg.*"]),
    package_data={"splatseg": ["py.typed"]},
    ext_modules=[extension()],
    cmdclass={"build_ext": Build},
    entry_points={"console_scripts": ["splatseg = splatseg.cli.command:main"]},
    install_requires=[
        f"torch=={TORCH}.*",
        "numpy>=1.26,<3",
        "gsplat>=1.5.3,<1.7",
        "plyfile>=1.0,<2",
        "pycolmap>=4.0,<5",
        "scipy>=1.11,<2",
        "scikit-image>=0.22,<1",
        "tifffile>=2022.8.12",
        "hdbscan>=0.8.40,<0.9",
        "tyro>=1.0,<2",
        "tqdm>=4.66,<5",
        "filelock>=3.12,<4",
        "platformdirs>=4.0,<5",
        "pyyaml>=6.0,<7",
        "safetensors>=0.4,<1",
        "pillow>=10.1,<14",
    ],
    extras_require={
        "viewer": ["viser>=1.1,<1.2"],
        "formats": ["gaussforge>=0.6.0,<0.6.1"],  # splatseg/io/splats.py puts right what this one does wrong
        "sam": ["segment-anything>=1.0,<2"],
        "sam2": ["sam2>=1.1,<2"],
        # Not on PyPI under its authors' name; the commit is the one that the weights come from.
        "mobilesam": [
            "mobile_sam @ git+https://github.com/ChaoningZhang/MobileSAM.git@f706ad9c4eb7f219c00d9050e46328518ffb65d2",
        ],
        "plots": ["matplotlib>=3.8,<4"],
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.26,<2"],
        "test": [
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "mypy>=1.11",
            "playwright>=1.45",
        ],
    },
)
