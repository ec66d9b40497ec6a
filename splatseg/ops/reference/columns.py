"""Specification of the transpose of ``blend`` and Adam over a batch's columns, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from splatseg.ops.reference.adam import adam_
from splatseg.ops.reference.blend import select_rows


def pooled_transpose_adam_(
    cells: Tensor,
    batch_columns: Tensor,
    batch_entries: Tensor,
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
    """Adam, as ``adam_``, on the Gaussians that batch b = ``cells[2]`` shows, with the ``rates`` of step ``cells[1]``.

    The columns of the batch are ``batch_columns[b, 0]`` up to ``batch_columns[b, 3]``, each of one Gaussian of ``ids``;
    its gradient is the sum of weight * row of ``grad`` (rows, d) over the column's entries, of which ``offsets`` tells
    (:class:`splatseg.ops.columns.PoolColumns`). A Gaussian without a column stays as it is. Without a batch (-1)
    nothing happens. ``most`` sizes the launch of kernels.
    """
    step, batch = cells[1:].tolist()
    if not (0 <= step < len(rates) and 0 <= batch < len(batch_columns)):
        return
    begin, *_, end = batch_columns[batch].tolist()
    entries, column = select_rows(offsets[begin + batch : end + batch + 1].long(), None)
    entries = entries + batch_entries[batch]
    gaussian = ids[begin:end][column].long()
    sums, touched = params.new_zeros(1, *params.shape), params.new_zeros(1, len(params), dtype=ids.dtype)
    sums[0].index_add_(0, gaussian, weights[entries].to(grad.dtype)[:, None] * grad[positions[entries].long()])
    touched[0, gaussian] = 1
    adam_(params, exp_avg, exp_avg_sq, sums, touched, None, rates[step], bad, beta1, beta2, eps, norm_weight, True)
