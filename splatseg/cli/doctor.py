"""Say what is installed, what works, and which command mends what does not.

    splatseg doctor

Lines that begin with ! are needed, lines that begin with - are optional. The
exit code is 1 where one of the former is there.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from splatseg._processors import usable_processors
from splatseg.cli.endings import parse
from splatseg.core.machine import available_memory
from splatseg.ops.extension import build_info

REQUIRED = ("torch", "numpy", "gsplat", "plyfile", "pycolmap", "scipy", "hdbscan", "tyro", "safetensors", "pillow")
# distribution -> extra of setup.py that brings it
OPTIONAL = {
    "viser": "viewer",
    "gaussforge": "formats",
    "segment-anything": "sam",
    "torchvision": "sam",
    "sam2": "sam2",
    "mobile_sam": "mobilesam",
    "matplotlib": "plots",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, and the command that mends it ('' for none)."""

    subject: str
    state: str
    mend: str = ""
    required: bool = True

    @property
    def ok(self) -> bool:
        return not self.mend


def examine() -> list[Finding]:
    """All findings, in the order a person would ask."""
    return [*versions(), *_devices(), *extension(), *_kernels(), _gsplat(), _memory()]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> list[Finding]:
    found = [Finding("python", f"{platform.python_version()} on {platform.machine()} {platform.system()}")]
    for name in REQUIRED:
        version = _version(name)
        found.append(Finding(name, version or "missing", "" if version else f"pip install {name}"))
    for name, extra in OPTIONAL.items():
        version = _version(name)
        note = "missing (optional)"
        if name == "torchvision":
            note = "missing: the built-in stand-in serves the segmenters"
            extra = ""
        mend = f"pip install 'splatseg[{extra}]'" if extra and not version else ""
        found.append(Finding(name, version or note, mend, required=False))
    return found


def _devices() -> list[Finding]:
    found = [
        Finding(
            "cpu", f"{usable_processors()} of {os.cpu_count()} cores usable, {torch.get_num_threads()} threads in use"
        )
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            found.append(Finding(f"cuda:{index}", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"))
    elif torch.version.cuda:
        found.append(
            Finding("cuda", f"torch has CUDA {torch.version.cuda}, but no device answers", "nvidia-smi", False)
        )
    else:
        found.append(Finding("cuda", "none: this torch is built for the CPU"))
    return found


def extension() -> list[Finding]:
    info = build_info()
    build = "pip install --no-build-isolation -e ."
    if info is None:
        return [Finding("splatseg._C", "not built: slow PyTorch references run instead", build)]
    found = [Finding("splatseg._C", f"built, CPU kernels use {info.isa}")]
    if torch.cuda.is_available() and not info.has_cuda:
        found.append(Finding("splatseg._C (CUDA)", "built without CUDA", f"SPLATSEG_CUDA=1 {build}"))
    return found


def op_names() -> list[str]:
    """Names of all registered ``splatseg::`` ops, sorted."""
    names = torch._C._dispatch_get_all_op_names()
    return sorted({name.removeprefix("splatseg::").split(".")[0] for name in names if name.startswith("splatseg::")})


def has_kernel(op: str, key: str) -> bool:
    """Whether an op has a kernel for a dispatch key ('CPU' or 'CUDA')."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"splatseg::{op}", key))


def _kernels() -> list[Finding]:
    if build_info() is None:
        return []
    found = []
    for name in op_names():
        devices = [key for key in ("CPU", "CUDA") if has_kernel(name, key)]
        found.append(Finding(f"op {name}", " and ".join(devices) or "CUDA only, not in this build"))
    return found


def _gsplat() -> Finding:
    if _version("gsplat") is None:
        return Finding("gsplat kernels", "gsplat missing", "pip install gsplat")
    if not torch.cuda.is_available():
        return Finding("gsplat kernels", "not needed: rendering runs on splatseg's CPU kernels")
    try:
        backend = importlib.import_module("gsplat.cuda._backend")
    except ImportError as error:
        return Finding("gsplat kernels", f"do not load ({error})", "pip install --force-reinstall --no-deps gsplat")
    if getattr(backend, "_C", None) is None:
        where = shutil.which("nvcc") or "no nvcc found"
        return Finding("gsplat kernels", f"not compiled ({where})", "install the CUDA toolkit of torch.version.cuda")
    return Finding("gsplat kernels", "compiled")


def _memory() -> Finding:
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    memory = available_memory()
    told = "an unknown amount of" if memory is None else f"{memory / 2**30:.1f} GiB"
    return Finding("free", f"{told} memory, {disk:.1f} GiB disk here")


@dataclass(frozen=True)
class Arguments:
    """Look at this installation."""


def main() -> int:
    parse(Arguments, description=__doc__)
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = " " if finding.ok else ("!" if finding.required else "-")
        print(
            f"{mark} {finding.subject:<{width}}  {finding.state}" + (f"   ->  {finding.mend}" if finding.mend else "")
        )
    return int(any(finding.required and not finding.ok for finding in findings))
