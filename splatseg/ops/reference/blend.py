"""Specification of ``blend`` and its transpose in plain PyTorch: one multiply and one scatter-add an entry."""

from __future__ import annotations

import torch
from torch import Tensor


def select_rows(offsets: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """Entries (e,) of the chosen CSR rows, in their order, and the output row (e,) that each adds to."""
    counts = offsets.diff()
    starts = offsets[:-1]
    if rows is not None:
        counts, starts = counts[rows], starts[rows]
    output = torch.arange(counts.numel(), device=offsets.device).repeat_interleave(counts)
    within = torch.arange(output.numel(), device=offsets.device) - (counts.cumsum(0) - counts)[output]
    return starts[output] + within, output


def blend(offsets: Tensor, ids: Tensor, weights: Tensor, features: Tensor, rows: Tensor | None = None) -> Tensor:
    """out[i] = sum over the entries k of row ``rows[i]`` of weights[k] * features[ids[k]]; (r, d)."""
    entries, output = select_rows(offsets, rows)
    count = offsets.numel() - 1 if rows is None else rows.numel()
    products = weights[entries].to(features.dtype)[:, None] * features[ids[entries].long()]
    return features.new_zeros(count, features.shape[1]).index_add(0, output, products)


def blend_transpose(offsets: Tensor, ids: Tensor, weights: Tensor, grad: Tensor, rows: Tensor | None, n: int) -> Tensor:
    """sum[g] = sum over chosen entries k with ids[k] = g of weights[k] * grad[output row of k]; (n, d)."""
    entries, output = select_rows(offsets, rows)
    products = weights[entries].to(grad.dtype)[:, None] * grad[output]
    return grad.new_zeros(n, grad.shape[1]).index_add(0, ids[entries].long(), products)
