"""``blend``: features of pixels as a sparse product, linear in the Gaussians' features and differentiable in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from splatseg.core.errors import SplatsegError, check_dims
from splatseg.ops.contributions import Contributions
from splatseg.ops.extension import compiled, has_kernel
from splatseg.ops.reference import blend as reference


def blend(contributions: Contributions, features: Tensor, rows: Tensor | None = None) -> Tensor:
    """Blend the features of the Gaussians that pixels show: ``out[i] = sum_k w_k features[id_k]`` over row ``rows[i]``.

    Not divided by alpha, as ``render`` draws features. Differentiable in ``features``, to any order (the transpose's
    gradient is ``blend`` again). Both directions give the same bits for any number of threads; on CUDA the transpose
    adds atomically, in a fixed order only under ``torch.use_deterministic_algorithms(True)``. Non-finite features
    reach exactly the pixels that show them.

    Args:
        contributions: blending weights of m pixels.
        features: (n, d) float32 or float64, any d; 8, 16 and 32 are fastest.
        rows: (r,) int64 rows of ``contributions`` to compute, in any order, repeats allowed; all m if None.

    Returns:
        (r, d), dtype of ``features``.

    Raises:
        SplatsegError: wrong shapes or dtypes; on the CPU also a row outside 0..m-1 or a Gaussian id that ``features``
            does not have (CUDA leaves those out: checking would cost a synchronization).
    """
    check_dims("features", features, ("n", "d"))
    if features.dtype not in (torch.float32, torch.float64):
        raise SplatsegError(f"features: expected float32 or float64, found {features.dtype}")
    rows = check_rows(rows)
    c = contributions
    weights = weights_beside(c.weights, features.dtype)
    try:
        if has_kernel("blend", features):
            return torch.ops.splatseg.blend(c.offsets, c.ids, weights, features, rows)
        check_ranges(c, rows, features.shape[0])
        return reference.blend(c.offsets, c.ids, weights, features, rows)
    except IndexError as error:
        raise range_error(c, features.shape[0], error) from None


def check_rows(rows: Tensor | None) -> Tensor | None:
    """``rows`` as the kernels want it, (r,) int64 or None."""
    if rows is None:
        return None
    check_dims("rows", rows, ("r",))
    if rows.dtype not in (torch.int32, torch.int64):
        raise SplatsegError(f"rows: expected int64, found {rows.dtype}")
    return rows.to(torch.int64)


def weights_beside(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """``weights`` in a type the kernels take beside matrices of ``dtype``: float64 goes with float64 alone."""
    if (weights.dtype == torch.float64) == (dtype == torch.float64):
        return weights
    return weights.to(dtype)


def check_ranges(contributions: Contributions, rows: Tensor | None, n: int) -> None:
    """What the kernels check as they go, for the reference: PyTorch would take negative indices from the end."""
    for values, size in ((contributions.ids, n), (rows, len(contributions))):
        if values is not None and values.numel() and not 0 <= int(values.min()) <= int(values.max()) < size:
            raise IndexError(f"found {int(values.min())}..{int(values.max())} for a size of {size}")


def range_error(contributions: Contributions, n: int, error: IndexError) -> SplatsegError:
    """One line for rows or ids out of range, which only the kernels see."""
    detail = str(error).splitlines()[0]
    return SplatsegError(
        f"contributions: expected rows in 0..{len(contributions) - 1} and Gaussian ids in 0..{n - 1} ({detail})"
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    offsets, ids, weights, features, rows = inputs
    ctx.n = features.shape[0]
    ctx.save_for_backward(offsets, ids, weights, rows)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    offsets, ids, weights, rows = ctx.saved_tensors
    return None, None, None, torch.ops.splatseg.blend_transpose(offsets, ids, weights, grad, rows, ctx.n), None


def _transpose_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    offsets, ids, weights, _, rows, _ = inputs
    ctx.save_for_backward(offsets, ids, weights, rows)


def _transpose_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    offsets, ids, weights, rows = ctx.saved_tensors
    return None, None, None, torch.ops.splatseg.blend(offsets, ids, weights, grad, rows), None, None


def _blend_fake(offsets: Tensor, ids: Tensor, weights: Tensor, features: Tensor, rows: Tensor | None) -> Tensor:
    count = offsets.shape[0] - 1 if rows is None else rows.shape[0]
    return features.new_empty((count, features.shape[1]))


def _transpose_fake(offsets: Tensor, ids: Tensor, weights: Tensor, grad: Tensor, rows: Tensor | None, n: int) -> Tensor:
    return grad.new_empty((n, grad.shape[1]))


def _accumulate_fake(
    offsets: Tensor, ids: Tensor, weights: Tensor, grad: Tensor, rows: Tensor | None, sum: Tensor, touched: Tensor
) -> None:
    return None


def _register() -> None:
    torch.library.register_fake("splatseg::blend", _blend_fake)
    torch.library.register_fake("splatseg::blend_transpose", _transpose_fake)
    torch.library.register_fake("splatseg::blend_transpose_", _accumulate_fake)
    torch.library.register_autograd("splatseg::blend", _backward, setup_context=_setup_context)
    torch.library.register_autograd(
        "splatseg::blend_transpose", _transpose_backward, setup_context=_transpose_setup_context
    )


if compiled():
    _register()
