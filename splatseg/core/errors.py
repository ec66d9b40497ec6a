"""The one error class of the package and checks that name what was wrong.

Every check raises :class:`SplatsegError` with the argument's name, what was expected and what came, on one line, so
that the command lines can print it as it is and leave with exit code 2.
"""

from __future__ import annotations

import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class SplatsegError(ValueError):
    """Bad input from outside (a file, a setting, a tensor). The message is one line a person can act on, also where it
    quotes a parser's of several."""

    def __init__(self, message: object = "") -> None:
        super().__init__(_LINE_ENDS.sub(" ", str(message)))


_LINE_ENDS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")

DAMAGED: tuple[type[Exception], ...] = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, IndexError, AttributeError, OverflowError, RuntimeError),
    *(MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
"""What numpy, zipfile, json and torch raise on a damaged file and on values in it that no field can hold: a header that
claims a terabyte, JSON nested too deep (a RuntimeError), a number of 400 digits. For the readers of files only, around
the reading alone. SplatsegError is among them, as a ValueError."""


@contextmanager
def naming(where: object) -> Iterator[None]:
    """A :class:`SplatsegError` of the block with ``where`` before it: for what is made of a file's values, whose own
    checks do not know the file."""
    try:
        yield
    except SplatsegError as error:
        raise SplatsegError(f"{where}: {error}") from None


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
