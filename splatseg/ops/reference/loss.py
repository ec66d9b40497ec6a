"""The hierarchical contrastive loss (OmniSeg3D eqs. 3-6) in plain PyTorch loops: the specification of the fused op."""

from __future__ import annotations

import torch
from torch import Tensor

from splatseg.ops.loss_config import LossConfig
from splatseg.ops.reference import levels as reference_levels


def hierarchical_contrastive_loss(
    features: Tensor, patch: Tensor, votes: Tensor | None, membership: Tensor | None, config: LossConfig
) -> Tensor:
    """Scalar loss. See :func:`splatseg.ops.loss.hierarchical_contrastive_loss` for arguments and definition."""
    ids = kept_patches(patch, config.min_pixels)
    if len(ids) == 0:
        return (features * 0).sum()
    unit = features / (features.detach().norm(dim=1, keepdim=True) + 1e-6)
    clusters = [unit[patch == k] for k in ids]
    means = torch.stack([cluster.mean(0) for cluster in clusters])
    phi = torch.stack([concentration(c, u, config) for c, u in zip(clusters, means, strict=True)])
    if votes is None:
        assert membership is not None
        table = reference_levels.levels(reference_levels.votes(membership, ids))
    else:
        table = reference_levels.levels(votes[ids][:, ids])
    total = (features * 0).sum()
    for anchor, cluster in enumerate(clusters):
        logits = cluster @ (means / phi[:, None]).T  # (n_i, k)
        nll = torch.logsumexp(logits, dim=1, keepdim=True) - logits  # L_i(s)
        total = total + anchor_loss(nll, table[anchor], config.level_decay)
    return config.weight * total


def kept_patches(patch: Tensor, min_pixels: int) -> Tensor:
    """Ids above 0 with at least ``min_pixels`` samples, ascending."""
    ids, counts = torch.unique(patch[patch > 0], return_counts=True)
    return ids[counts >= min_pixels].long()


def concentration(cluster: Tensor, mean: Tensor, config: LossConfig) -> Tensor:
    """phi of one patch, without gradient (OmniSeg3D eq. 4)."""
    with torch.no_grad():
        n = len(cluster)
        spread = (cluster - mean).norm(dim=1).sum() / (n * torch.log(torch.tensor(n + 10.0, dtype=mean.dtype)))
        return (config.phi_scale * spread).clamp(config.phi_min, config.phi_max)


def anchor_loss(nll: Tensor, levels: Tensor, decay: float) -> Tensor:
    """Sum over levels of decay^l times the mean over the level of L' = max(L, M), M the running max of earlier levels.

    A term equal to the running max keeps its own gradient; the running max belongs to the first pair that reached it
    (in order of level, then patch).
    """
    total = nll.new_zeros(())
    running = nll.new_full((len(nll),), -torch.inf)
    for level in range(int(levels.max()) + 1):
        own = nll[:, levels == level]
        total = total + decay**level * torch.where(own >= running[:, None], own, running[:, None]).mean(1).sum()
        largest = own.max(dim=1).values  # its gradient goes to the first of equals, by torch's promise
        running = torch.where(largest > running, largest, running)
    return total
