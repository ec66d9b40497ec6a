"""The one error class of the package and checks that name what was wrong.

Every check raises :class:`SplatsegError` with the argument's name, what was expected and what came, on one line, so
that the command lines can print it as it is and leave with exit code 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SplatsegError(ValueError):
    """Bad input from outside (a file, a setting, a tensor). The message is one line a person can act on."""


class MissingExtraError(SplatsegError):
    """An optional dependency is not installed; the message names the extra that brings it."""


def require_extra(module: str, extra: str) -> SplatsegError:
    """Return the error for an optional ``module`` that did not import, naming the pip extra that installs it."""
    return MissingExtraError(f"{module}: not installed; install it with: pip install 'splatseg[{extra}]'")


def check_dims(
    name: str, tensor: Tensor, dims: Sequence[str | int], sizes: dict[str, int] | None = None
) -> dict[str, int]:
    """Check ``tensor`` against named dimensions and return the sizes bound so far.

    Args:
        name: argument name for the message.
        tensor: the tensor to check.
        dims: one entry a dimension: an int must match exactly, a name must match ``sizes`` or is bound to what came.
        sizes: names already bound by earlier checks; not modified.

    Raises:
        SplatsegError: wrong number of dimensions or a size that does not match.
    """
    bound = dict(sizes or {})
    expected = "(" + ", ".join(f"{d}={bound[d]}" if isinstance(d, str) and d in bound else str(d) for d in dims) + ")"
    found = tuple(tensor.shape)
    if len(found) != len(dims):
        raise SplatsegError(f"{name}: expected shape {expected}, found {found}")
    for dim, size in zip(dims, found, strict=True):
        want = dim if isinstance(dim, int) else bound.setdefault(dim, size)
        if want != size:
            raise SplatsegError(f"{name}: expected shape {expected}, found {found}")
    return bound


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise :class:`SplatsegError` naming the first non-finite entry of ``tensor``, if there is one."""
    bad = ~torch.isfinite(tensor)
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise SplatsegError(f"{name}: expected finite values, found {float(tensor[index])} at index {index}")
