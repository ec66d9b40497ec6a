"""A digest of tensors, numbers and text in dicts and lists: what a file of ours vouches for itself with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError


def value_digest(value: Any) -> str:
    """64 hex digits of SHA-256 over names, types, shapes and bytes: equal for values that are equal to the bit, and
    only for them. Dicts count in their order.

    Raises:
        SplatsegError: something that is no tensor, number, text, bytes, None, dict, list or tuple.
    """
    result = hashlib.sha256()
    _add(result, value)
    return result.hexdigest()


def _add(result: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        values = value.detach().to("cpu").contiguous()
        result.update(f"{values.dtype}{tuple(values.shape)}:".encode())
        flat = values.as_strided((values.numel(),), (1,))  # of one value or none, whose stride may be anything
        result.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        result.update(f"{{{len(value)}:".encode())
        for name, item in value.items():
            _add(result, name)
            _add(result, item)
    elif isinstance(value, list | tuple):
        result.update(f"{'[' if isinstance(value, list) else '('}{len(value)}:".encode())
        for item in value:
            _add(result, item)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        said = repr(value).encode()
        result.update(f"{type(value).__name__}{len(said)}:".encode() + said)
    else:
        raise SplatsegError(f"digest: expected tensors, numbers and text, found {type(value).__name__}")
