"""Small inputs of the hierarchical contrastive loss, shared by its tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.ops.loss_config import LossConfig
from splatseg.ops.reference import loss as reference
from splatseg.ops.reference.levels import levels


@dataclass(frozen=True)
class LossCase:
    features: Tensor  # (n, d)
    patch: Tensor  # (n,) int64
    votes: Tensor  # (p, p) int32
    membership: Tensor  # (p, words) int64

    def to(self, device: torch.device) -> LossCase:
        return LossCase(*(t.to(device) for t in (self.features, self.patch, self.votes, self.membership)))


def pack(contains: Tensor) -> Tensor:
    """(p, words) bit matrix of a (p, masks) boolean matrix."""
    words = max(1, -(-contains.shape[1] // 64))
    padded = torch.zeros(len(contains), words * 64, dtype=torch.int64)
    padded[:, : contains.shape[1]] = contains.long()
    return (padded.view(len(contains), words, 64) << torch.arange(64)).sum(-1)


def case(contains: Tensor, patch: Tensor, d: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> LossCase:
    """A case from a (p, masks) matrix: features scatter around a center per patch, with norms far from one."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(len(contains), d, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(patch), d, generator=generator, dtype=torch.float64)
    features = (1.5 * centers[patch] + noise).to(dtype)
    votes = (contains.double() @ contains.double().T).to(torch.int32)
    return LossCase(features, patch, votes, pack(contains))


def nested_masks(p: int, masks: int = 40, seed: int = 0) -> Tensor:
    """(p, masks) random overlapping intervals of patches; every patch but 0 has a mask of its own as well."""
    generator = torch.Generator().manual_seed(seed)
    begin = torch.randint(1, max(2, p), (masks,), generator=generator)
    length = torch.randint(1, p // 3 + 3, (masks,), generator=generator)
    k = torch.arange(p)[:, None]
    intervals = (k >= begin) & (k < begin + length)
    return torch.cat([intervals, torch.eye(p, dtype=torch.bool)[:, 1:]], 1)


def random_case(p: int = 24, n: int = 1500, d: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> LossCase:
    """Overlapping masks, patches of very different size, some below ``min_pixels``, some without samples."""
    generator = torch.Generator().manual_seed(seed + 1)
    share = torch.rand(p, generator=generator) ** 2 + 0.01
    patch = torch.multinomial(share, n, replacement=True, generator=generator)
    return case(nested_masks(p, seed=seed), patch, d, seed, dtype)


def detached_loss(features: Tensor, case: LossCase, config: LossConfig) -> Tensor:
    """The same value with the running max cut off from the gradient: what the op must not compute."""
    ids = reference.kept_patches(case.patch, config.min_pixels)
    unit = features / (features.detach().norm(dim=1, keepdim=True) + 1e-6)
    clusters = [unit[case.patch == k] for k in ids]
    means = torch.stack([c.mean(0) for c in clusters])
    phi = torch.stack([reference.concentration(c, u, config) for c, u in zip(clusters, means, strict=True)])
    table = levels(case.votes[ids][:, ids])
    total = features.new_zeros(())
    for i, cluster in enumerate(clusters):
        nll = -torch.log_softmax(cluster @ (means / phi[:, None]).T, 1)
        running = torch.full((len(cluster), 1), -torch.inf, dtype=nll.dtype)
        for level in range(int(table[i].max()) + 1):
            own = torch.maximum(nll[:, table[i] == level], running.detach())
            total = total + config.level_decay**level * own.mean(1).sum()
            running = own.max(1, keepdim=True).values
    return config.weight * total
