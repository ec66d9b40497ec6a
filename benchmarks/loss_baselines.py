"""What the fused loss is measured against, and the hierarchies it is measured on."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from splatseg.ops import LossConfig
from splatseg.ops.levels import levels


@dataclass(frozen=True)
class Batch:
    """One step's samples: features (n, d), patch (n,), membership (p, words) and votes (p, p) of p patches."""

    features: Tensor
    patch: Tensor
    membership: Tensor
    votes: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(t.to(device) for t in (self.features, self.patch, self.membership, self.votes)))


def tree_masks(p: int, seed: int) -> list[list[int]]:
    """Masks as lists of patches 1..p: groups of 3 to 25, split again and again into 2 to 4, up to 6 deep."""
    rng = random.Random(seed)
    masks: list[list[int]] = []

    def split(ids: list[int], depth: int) -> None:
        masks.append(ids)
        if len(ids) <= 1 or depth >= 6:
            return
        parts: list[list[int]] = [[] for _ in range(min(len(ids), rng.randint(2, 4)))]
        for i in ids:
            rng.choice(parts).append(i)
        for part in parts:
            if 0 < len(part) < len(ids) and rng.random() < 0.85:
                split(part, depth + 1)

    patches = list(range(1, p + 1))
    rng.shuffle(patches)
    begin = 0
    while begin < p:
        size = rng.randint(3, 25)
        split(patches[begin : begin + size], 1)
        begin += size
    return masks


def make_batch(n: int, p: int, d: int, seed: int = 0) -> Batch:
    """n samples of p patches of very different area (log-normal), features scattered around one center per patch."""
    generator = torch.Generator().manual_seed(seed)
    masks = tree_masks(p, seed)
    contains = torch.zeros(p + 1, -(-len(masks) // 64) * 64, dtype=torch.int64)
    for m, ids in enumerate(masks):
        contains[ids, m] = 1
    membership = (contains.view(p + 1, -1, 64) << torch.arange(64)).sum(-1)
    votes = (contains.double() @ contains.double().T).to(torch.int32)
    area = torch.exp(1.2 * torch.randn(p, generator=generator))
    patch = 1 + torch.multinomial(area, n, replacement=True, generator=generator)
    centers = torch.randn(p + 1, d, generator=generator)
    features = 0.7 * centers[patch] + 0.6 * torch.randn(n, d, generator=generator)
    return Batch(features, patch, membership, votes)


def loop_loss(features: Tensor, patch: Tensor, votes: Tensor, config: LossConfig) -> Tensor:
    """Loops over patches and, for each, over levels, one softmax an anchor: the structure of the published code."""
    unit = features / (features.detach().norm(dim=1, keepdim=True) + 1e-6)
    found, counts = torch.unique(patch, return_counts=True)
    ids = found[(counts >= config.min_pixels) & (found > 0)]
    means, phis = [], []
    for k in ids:
        cluster = unit[patch == k]
        mean = cluster.mean(0)
        n = len(cluster)
        spread = (cluster - mean).norm(dim=1).sum().detach() / (n * torch.log(torch.tensor(n + 10.0)))
        means.append(mean)
        phis.append((config.phi_scale * spread).clip(config.phi_min, config.phi_max))
    centers, phi = torch.stack(means), torch.stack(phis)
    among = votes[ids][:, ids]
    total = features.new_zeros(())
    for i, k in enumerate(ids):
        scores = torch.exp(unit[patch == k] @ centers.T / phi)
        nll = -torch.log(scores / (scores.sum(1, keepdim=True) + 1e-6))
        floor = None
        weight = 1.0
        for value in torch.unique(among[i]).flip(0):
            if value == 0:
                break
            own = nll[:, among[i] == value]
            own = own if floor is None else torch.maximum(own, floor)
            total = total + weight * own.mean(1).sum()
            floor = own.max(1, keepdim=True).values
            weight *= config.level_decay
    return config.weight * total


@dataclass(frozen=True)
class LevelTable:
    """What the vectorized form needs of the hierarchy; made outside its time."""

    slot: Tensor  # (n,) number of each sample's patch among those kept
    count: Tensor  # (k,) samples a patch
    level: Tensor  # (k, k) 1 = first level, 0 = unrelated
    weight: Tensor  # (k, k) decay^l over the level's size


def level_table(batch: Batch, config: LossConfig) -> LevelTable:
    """For batches in which every sample is kept (``min_pixels`` 1)."""
    ids, slot, count = torch.unique(batch.patch, return_inverse=True, return_counts=True)
    level = levels(batch.votes[ids][:, ids].cpu()).long().to(slot.device) + 1
    depth = int(level.max())
    ones = torch.ones_like(level, dtype=torch.float32)
    sizes = torch.zeros(len(ids), depth + 1, device=slot.device).scatter_add(1, level, ones)
    scale = config.level_decay ** torch.arange(-1, depth, device=slot.device).clamp(min=0) / sizes.clamp(min=1)
    scale[:, 0] = 0
    return LevelTable(slot, count, level, scale.gather(1, level))


def vectorized_loss(features: Tensor, table: LevelTable, config: LossConfig) -> Tensor:
    """No Python loop: (n, k) matrices, scatter_reduce and cummax for the running max."""
    n, d = features.shape
    k, slot, count = len(table.count), table.slot, table.count.to(features.dtype)
    unit = features / (features.detach().norm(dim=1, keepdim=True) + 1e-6)
    mean = features.new_zeros(k, d).index_add(0, slot, unit) / count[:, None]
    with torch.no_grad():
        spread = features.new_zeros(k).index_add(0, slot, (unit - mean[slot]).norm(dim=1))
        phi = (config.phi_scale * spread / (count * torch.log(count + 10))).clip(config.phi_min, config.phi_max)
    logits = unit @ (mean / phi[:, None]).T
    nll = torch.logsumexp(logits, 1, keepdim=True) - logits
    level = table.level[slot]
    largest = features.new_zeros(n, int(table.level.max()) + 1).scatter_reduce(
        1, level, torch.where(level > 0, nll, 0.0), "amax"
    )
    running = largest.cummax(1).values
    floor = running.gather(1, (level - 1).clamp(min=0))
    return config.weight * (table.weight[slot] * torch.maximum(nll, floor)).sum()
