"""Specification of a replayed step of the feature fit up to the gradient of its pixels, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.ops.loss_config import LossConfig
from splatseg.ops.reference.blend import blend
from splatseg.ops.reference.loss import hierarchical_contrastive_loss


def pooled_loss_(
    cells: Tensor,
    schedule: Tensor,
    batch_start: Tensor,
    view: Tensor,
    offsets: Tensor,
    ids: Tensor,
    weights: Tensor,
    patch: Tensor,
    membership: Tensor,
    tables: Tensor,
    features: Tensor,
    grad: Tensor,
    losses: Tensor,
    phi_min: float,
    phi_max: float,
    phi_scale: float,
    level_decay: float,
    min_pixels: int,
    weight: float,
    deterministic: bool,
) -> None:
    """Loss of the batch of step number ``cells[0]``, noted in ``losses`` (steps,), and its gradient in the blended
    features of the batch's pixels, in the first rows of ``grad`` (rows of the largest batch, d).

    The batch is b = ``schedule[step]``, its pixels are rows ``batch_start[b]:batch_start[b + 1]`` of the contributions
    (``offsets``, ``ids``, ``weights``) and of ``patch``, and the masks that count are ``membership[view[b]]``.
    ``cells`` (3,) then has the number of the next step, of this one, and b. Beyond the last step the batch is -1 and
    nothing else is written. ``tables`` is for kernels: what the loss needs of patches and masks alone.
    """
    step = int(cells[0])
    if not 0 <= step < len(schedule):
        cells[1], cells[2] = step, -1
        return
    batch = int(schedule[step])
    cells.copy_(torch.tensor([step + 1, step, batch]))
    first, last = batch_start[batch : batch + 2].tolist()
    config = LossConfig(phi_min, phi_max, phi_scale, level_decay, min_pixels, weight, deterministic=deterministic)
    rows = torch.arange(first, last, device=offsets.device)
    with torch.enable_grad():
        leaf = blend(offsets, ids, weights, features.detach(), rows).requires_grad_()
        loss = hierarchical_contrastive_loss(leaf, patch[first:last], None, membership[int(view[batch])], config)
        losses[step] = loss.detach()
        grad[: last - first] = torch.autograd.grad(loss, leaf)[0]
