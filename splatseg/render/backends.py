"""Which backend draws tensors of a device. The one place above ``ops`` where devices are told apart."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import torch

from splatseg.core.errors import SplatsegError
from splatseg.core.ranks import launched
from splatseg.ops.extension import build_info

BACKENDS = {"cpu": "splatseg.render.cpu", "cuda": "splatseg.render.gsplat"}


def backend_of(device: torch.device) -> ModuleType:
    """The module with ``render`` and ``trace`` for tensors on ``device``.

    Raises:
        SplatsegError: no backend for this kind of device.
    """
    name = BACKENDS.get(device.type)
    if name is None:
        raise SplatsegError(f"gaussians: expected tensors on {' or '.join(BACKENDS)}, found {device}")
    return importlib.import_module(name)


def choose_device(name: str) -> torch.device:
    """The device that ``name`` asks for: ``auto`` (CUDA where :func:`cuda_obstacle` finds none), ``cpu`` or ``cuda``.

    Raises:
        SplatsegError: another name, or ``cuda`` where it cannot be used.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise SplatsegError(f"device: expected auto, cpu or cuda, found '{name}'")
    obstacle = "" if name == "cpu" else cuda_obstacle()
    if name == "cuda" and obstacle:
        raise SplatsegError(f"device: expected a usable CUDA device, found none ({obstacle})")
    if obstacle and torch.cuda.is_available():
        warnings.warn(f"the GPU is left alone: {obstacle}", RuntimeWarning, stacklevel=2)
    return torch.device("cpu" if name == "cpu" or obstacle else "cuda")


def cuda_obstacle() -> str:
    """Why fits cannot run on a GPU here, with what mends it; empty where they can."""
    if torch.version.cuda is None:
        return "this torch is built for the CPU"
    if not torch.cuda.is_available():
        return "no GPU answers; see nvidia-smi"
    info = build_info()
    if info is None or not info.has_cuda:
        return "splatseg._C is built without CUDA: SPLATSEG_CUDA=1 pip install --no-build-isolation -e ."
    return ""


def take_own_gpu() -> None:
    """Give each rank of this machine the next GPU: "cuda" then means this process's own. One alone keeps the first."""
    _, size, local = launched()
    if size > 1 and torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())


def check_own_gpu(device: torch.device, neighbors: int) -> None:
    """Raise :class:`SplatsegError` where ranks that compute on GPUs (``neighbors`` on this machine) would share one."""
    if device.type == "cuda" and neighbors > torch.cuda.device_count():
        raise SplatsegError(
            f"device: expected a GPU for each of {neighbors} ranks on a machine, found {torch.cuda.device_count()}; "
            "fewer ranks (--nproc-per-node) or --device cpu"
        )
