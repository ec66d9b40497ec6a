"""Specification of the transpose of ``blend`` and Adam over a view's columns, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from splatseg.ops.reference.adam import adam_
from splatseg.ops.reference.blend import select_rows


def pooled_transpose_adam_(
    step: Tensor,
    schedule: Tensor,
    view_start: Tensor,
    view_columns: Tensor,
    ids: Tensor,
    offsets: Tensor,
    positions: Tensor,
    weights: Tensor,
    most: Sequence[int],
    grad: Tensor,
    rates: Tensor,
    params: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    bad: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    norm_weight: float,
) -> None:
    """Adam, as ``adam_``, on the Gaussians that the batch of step number ``step`` () shows.

    The batch is the window of ``pool_batch_``: the entry at position p of its view has row (p - start) mod count of
    ``grad`` (batch, d), where the batch has that row. The columns of view v are ``view_columns[v, 0]`` up to
    ``view_columns[v, 3]``, each of one Gaussian of ``ids``; its gradient is the sum of weight * row over its entries in
    the window. A Gaussian without such entries stays as it is. Beyond the last step nothing happens. ``most`` sizes the
    launch of kernels.
    """
    at = int(step)
    if not 0 <= at < len(schedule):
        return
    view, first = schedule[at].tolist()
    count = int(view_start[view + 1] - view_start[view])
    begin, *_, end = view_columns[view].tolist()
    entries, column = select_rows(offsets[begin : end + 1], None)
    row = (positions[entries].long() - first) % count
    inside = row < len(grad)
    entries, row, gaussian = entries[inside], row[inside], ids[begin:end][column[inside]].long()
    sums, touched = params.new_zeros(1, *params.shape), params.new_zeros(1, len(params), dtype=ids.dtype)
    sums[0].index_add_(0, gaussian, weights[entries].to(grad.dtype)[:, None] * grad[row])
    touched[0, gaussian] = 1
    adam_(params, exp_avg, exp_avg_sq, sums, touched, None, rates, bad, beta1, beta2, eps, norm_weight, True)
