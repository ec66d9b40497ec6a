"""Which backend draws tensors of a device. The one place above ``ops`` where devices are told apart."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import torch

from splatseg.errors import SplatsegError

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
    """The device that ``name`` asks for: ``auto`` (CUDA where there is a GPU), ``cpu`` or ``cuda``.

    Raises:
        SplatsegError: another name, or ``cuda`` where no GPU can be used.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise SplatsegError(f"device: expected auto, cpu or cuda, found '{name}'")
    if name == "cuda" and not torch.cuda.is_available():
        why = "this torch is built for the CPU" if torch.version.cuda is None else "no GPU answers"
        raise SplatsegError(f"device: expected a CUDA device, found none ({why})")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
