"""The feature fit: it separates objects, resumes exactly, keeps its memory bound, and pools train like full renders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_geometry import camera_at

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import View
from splatseg.fit.features import FeatureConfig, FeatureTrainer, fit_features, learning_rate
from splatseg.fit.hooks import FitHooks
from splatseg.fit.mask_clustering import MaskClusteringConfig
from splatseg.fit.pixel_pools import SamplingConfig, draw_batch, sample_pool, sample_pools
from splatseg.fit.pool_cache import PoolCache
from splatseg.fit.regions import RegionConfig
from splatseg.masks import MaskSet
from splatseg.masks.hierarchy import PatchHierarchy, build_hierarchy
from splatseg.ops import AdamConfig, SparseFeatureAdam, blend, hierarchical_contrastive_loss_and_grad
from splatseg.ops.drawing import drawn
from splatseg.render import render, trace

QUIET = FitHooks()


@pytest.fixture(scope="module")
def world() -> tuple[Gaussians, tuple[View, ...], Callable[[View], PatchHierarchy], torch.Tensor]:
    """Four well separated opaque clusters, their exact masks in eight views, and the cluster of every Gaussian."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[-1.2, -0.8, 0], [1.2, -0.8, 0], [-1.2, 0.8, 0], [1.2, 0.8, 0]])
    cluster = torch.arange(4).repeat_interleave(100)
    quats = torch.zeros(400, 4)
    quats[:, 0] = 1
    gaussians = Gaussians(
        means=centers[cluster] + 0.15 * torch.randn(400, 3, generator=generator),
        quats=quats,
        log_scales=torch.full((400, 3), -2.3),
        opacity_logits=torch.full((400,), 3.0),
        sh=torch.zeros(400, 1, 3),
    )
    views = tuple(View(f"{i}.png", camera_at(0.1 * i, 96, 72), None) for i in range(8))  # type: ignore[arg-type]
    hierarchies = {}
    for view in views:
        shares = render(gaussians, view.camera, features=torch.nn.functional.one_hot(cluster, 4).float()).features
        masks = (shares > 0.5).permute(2, 0, 1)
        pairs = torch.stack([masks[0] | masks[1], masks[2] | masks[3]])  # two groups above the four objects
        hierarchies[view.name] = build_hierarchy(MaskSet.from_dense(torch.cat([masks, pairs]).numpy()))
    return gaussians, views, lambda view: hierarchies[view.name], cluster


def small(**changes: Any) -> FeatureConfig:
    sampling = SamplingConfig(pool_pixels=1500, batch_pixels=800)
    base = FeatureConfig(dim=8, steps=150, sampling=sampling, lr_final=0.005, init="noise")
    return replace(base, **changes)


def cosines(features: torch.Tensor, cluster: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """(4, 4) mean cosine between seen Gaussians of two clusters."""
    unit = torch.nn.functional.normalize(features, dim=1)
    means = torch.stack([unit[(cluster == k) & seen].mean(0) for k in range(4)])
    return means @ means.T


def seen_gaussians(gaussians: Gaussians, views: tuple[View, ...]) -> torch.Tensor:
    """(n,) bool: weighs at least half in some pixel. Those inside are never seen and keep their noise."""
    seen = torch.zeros(len(gaussians), dtype=torch.bool)
    pixels = torch.cartesian_prod(torch.arange(96), torch.arange(72)).to(torch.int32)
    for view in views:
        contributions = trace(gaussians, view.camera, pixels, min_weight=0.5)
        seen[contributions.ids.long()] = True
    return seen


@pytest.mark.parametrize("full_render", [False, True])
def test_objects_separate_and_groups_lie_closer(world: Any, full_render: bool) -> None:
    gaussians, views, hierarchy_of, cluster = world
    field = fit_features(gaussians, views, hierarchy_of, small(full_render=full_render), QUIET)
    found = cosines(field.features, cluster, seen_gaussians(gaussians, views))
    assert float(found.diagonal().min()) > 0.9, "Gaussians of one object agree"
    same_group = torch.stack([found[0, 1], found[2, 3]])
    other_group = found[:2, 2:]
    assert float(other_group.max()) < float(same_group.min()), "the hierarchy orders the distances"


def test_pools_and_full_renders_give_the_same_step(world: Any) -> None:
    """Rendering is linear in the features, so the two modes differ only by dropped weights and half precision."""
    gaussians, views, hierarchy_of, _ = world
    pooled = FeatureTrainer(gaussians, views, hierarchy_of, small())
    rendered = FeatureTrainer(gaussians, views, hierarchy_of, small(full_render=True))
    first = [trainer.step(0) for trainer in (pooled, rendered)]
    assert first[0] == pytest.approx(first[1], rel=5e-3)


def test_resumed_fit_equals_uninterrupted(world: Any) -> None:
    gaussians, views, hierarchy_of, _ = world
    saved: list[dict[str, Any]] = []

    def keep(state: dict[str, Any]) -> None:
        saved.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()})

    config = small(steps=40)
    whole = fit_features(gaussians, views, hierarchy_of, config, FitHooks(save_checkpoint=keep, checkpoint_seconds=0.0))
    resumed = fit_features(gaussians, views, hierarchy_of, config, FitHooks(load_checkpoint=lambda: saved[16]))
    assert torch.equal(whole.features, resumed.features)


def test_checkpoint_of_another_width_is_refused(world: Any) -> None:
    gaussians, views, hierarchy_of, _ = world
    trainer = FeatureTrainer(gaussians, views, hierarchy_of, small())
    with pytest.raises(SplatsegError, match="checkpoint of the features"):
        trainer.restore({**trainer.checkpoint(3), "features": torch.zeros(400, 4)})


def test_views_without_masks_are_passed_over(world: Any) -> None:
    gaussians, views, hierarchy_of, _ = world
    empty = build_hierarchy(MaskSet.from_dense(torch.zeros(0, 72, 96, dtype=torch.bool).numpy()))
    field = fit_features(
        gaussians, views, lambda v: hierarchy_of(v) if v.name == "3.png" else empty, small(steps=5), QUIET
    )
    assert bool(torch.isfinite(field.features).all())
    with pytest.raises(SplatsegError, match="expected at least one view with a mask"):
        fit_features(gaussians, views, lambda v: empty, small(steps=5), QUIET)


def test_pools_keep_the_memory_bound(world: Any) -> None:
    gaussians, views, hierarchy_of, _ = world
    config = small(steps=60, sampling=SamplingConfig(pool_pixels=5000, batch_pixels=512, memory_mb=2))
    trainer = FeatureTrainer(gaussians, views, hierarchy_of, config)
    for step in range(60):
        trainer.step(step)
    assert 0 < trainer.pools.nbytes <= 2 * 2**20


def test_replayed_steps_keep_the_memory_bound(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pools by pixel and by Gaussian together: the pools alone would be given more than half of the bound."""
    gaussians = world[0]
    views = [View(f"{i}.png", camera_at(0.1 * i, 96, 72).resized(300, 225), None) for i in range(8)]  # type: ignore[arg-type]
    membership = torch.tensor([[0], [1]])

    def hierarchy_of(view: View) -> PatchHierarchy:
        return PatchHierarchy((render(gaussians, view.camera).alpha > 0.5).to(torch.int32), membership)

    monkeypatch.setattr("splatseg.fit.features.can_replay", lambda _: True)
    for batch, least in ((128, 2), (512, 1)):  # a pool is a whole number of batches
        config = small(steps=2, sampling=SamplingConfig(pool_pixels=5000, batch_pixels=batch, memory_mb=4))
        steps = FeatureTrainer(gaussians, views, hierarchy_of, config).replay()
        assert steps.columns.nbytes > 0.5 * steps.stack.contributions.nbytes
        assert least * 2**20 < steps.columns.nbytes + steps.stack.contributions.nbytes <= 4 * 2**20
        assert steps.stack.batch_start.diff().unique().tolist() == [batch]


def test_hierarchy_of_another_size_is_refused(world: Any) -> None:
    gaussians, views, _, _ = world
    wrong = build_hierarchy(MaskSet.from_dense(torch.ones(1, 10, 10, dtype=torch.bool).numpy()))
    with pytest.raises(SplatsegError, match=r"hierarchy of view '0\.png': expected 96x72 pixels, found 10x10"):
        sample_pool(gaussians, views[0], wrong, SamplingConfig(), torch.Generator())


def test_pool_never_holds_the_reserved_patch(world: Any) -> None:
    gaussians, views, hierarchy_of, _ = world
    hierarchy = hierarchy_of(views[0])
    pool = sample_pool(gaussians, views[0], hierarchy, SamplingConfig(), torch.Generator().manual_seed(0))
    assert pool is not None
    assert int(pool.patch.min()) >= 1
    columns, rows = pool.contributions.pixels.long().unbind(1)
    expected = hierarchy.membership[hierarchy.patch_ids[rows, columns].long()]
    assert torch.equal(pool.membership[pool.patch], expected), "rows and patches stay together through tile sorting"


def test_unmasked_pixels_are_evidence_but_not_in_batches(world: Any) -> None:
    gaussians, views, hierarchy_of, _ = world
    generator = torch.Generator().manual_seed(0)
    pool = sample_pool(gaussians, views[0], hierarchy_of(views[0]), SamplingConfig(unmasked=True), generator)
    assert pool is not None
    assert len(pool.patch) == 96 * 72 and int((pool.patch == 0).sum()) > 0
    assert bool((pool.patch[pool.rows] > 0).all()) and not bool(pool.membership[0].any())


def test_batches_repeat_no_pixel(world: Any) -> None:
    gaussians, views, hierarchy_of, _ = world
    pool = sample_pool(gaussians, views[0], hierarchy_of(views[0]), SamplingConfig(), torch.Generator().manual_seed(0))
    assert pool is not None
    batch = draw_batch(pool, 100, torch.Generator().manual_seed(5))
    assert len(batch.rows.unique()) == 100
    everything = draw_batch(pool, len(pool) + 1, torch.Generator())
    assert torch.equal(everything.rows, pool.rows)


def test_rate_falls_along_a_half_cosine() -> None:
    config = small(steps=100, lr=0.1, lr_final=0.01)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 50) == pytest.approx(0.055)
    assert learning_rate(config, 100) == pytest.approx(0.01)


def test_mask_clustering_separates_objects_and_holds_their_codes(world: Any) -> None:
    gaussians, views, hierarchy_of, cluster = world
    trainer = FeatureTrainer(gaussians, views, hierarchy_of, small(init="segments", hold_segments=True))
    trainer.start()
    first = trainer.features.clone()
    seen = seen_gaussians(gaussians, views)
    assert trainer.held is not None and bool(trainer.held[seen].all()), "every seen Gaussian lies in its object's masks"
    found = cosines(first, cluster, seen)
    assert float(found.diagonal().min()) > 0.9
    assert float(found[:2, 2:].max()) < float(torch.stack([found[0, 1], found[2, 3]]).min())
    for step in range(3):
        trainer.step(step)
    assert torch.equal(trainer.features[trainer.held], first[trainer.held])


def test_mask_clustering_looks_at_no_more_pixels_than_its_bounds(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """96x72 = 6912 pixels per view, eight views; no view's evidence is kept beside the next one's."""
    gaussians, views, hierarchy_of, _ = world
    for bounds, expected in (({"pixels": 500}, 500), ({"total_pixels": 1600}, 200), ({}, 6912)):
        drawn: list[int] = []

        def spy(*arguments: Any, drawn: list[int] = drawn) -> Any:
            pools = sample_pools(*arguments)
            drawn.extend(len(pool.contributions) for pool in pools if pool is not None)
            return pools

        monkeypatch.setattr("splatseg.fit.pool_cache.sample_pools", spy)
        config = small(init="segments", mask_clustering=MaskClusteringConfig(**bounds))
        trainer = FeatureTrainer(gaussians, views, hierarchy_of, config)
        trainer.start()
        assert drawn == [expected] * 8
        assert trainer.pools.nbytes == 0


def test_pools_that_are_kept_lie_apart_from_what_comes_and_goes(world: Any) -> None:
    """Pools of 50 views of 6.4M Gaussians, 0.3 GB, held 11 GB: each lay where a large block could have come again."""
    gaussians, views, hierarchy_of, _ = world
    cache = PoolCache(gaussians, views, hierarchy_of, SamplingConfig(pool_pixels=300, batch_pixels=300), 3)
    pieces, storages = set(), []

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        storages.append(tensor.untyped_storage().data_ptr())
        return tensor

    for _ in range(2):
        storages.clear()
        for index in range(len(views)):
            pool = cache.get(index)
            assert pool is not None
            pool.each(noted)
        assert len(storages) >= 8 * len(views) and len(set(storages)) == 1
        pieces.add(storages[0])
        held = cache.get(0)  # the piece is still in use when the next is taken
        cache.forget()
    assert held is not None and len(pieces) == 2


def test_pools_made_beside_the_evidence_are_those_made_alone(world: Any, device: torch.device) -> None:
    """Where steps need the pools of all views at once, each view's masks are read and its splat projected once."""
    gaussians, views, hierarchy_of, _ = world
    read: list[str] = []

    def counted(view: View) -> PatchHierarchy:
        read.append(view.name)
        return hierarchy_of(view)

    sampling = SamplingConfig(pool_pixels=300, batch_pixels=300)
    seen = replace(sampling, pool_pixels=500, unmasked=True)
    arguments = (gaussians.to(device), views, counted, sampling, 3)
    alone, together = PoolCache(*arguments), PoolCache(*arguments, together=True)
    for repeat in range(2):
        evidence = [together.another(k, counted(view), seen) for k, view in enumerate(views)]
        assert together.nbytes > 0
        read.clear()
        kept = list(together.once())
        assert not read and together.nbytes == 0, "made with the evidence, for one use"
        for k, (one, other) in enumerate(zip(kept, alone.once(), strict=True)):
            assert one is not None and other is not None
            assert torch.equal(one.patch, other.patch) and torch.equal(one.rows, other.rows)
            assert torch.equal(one.contributions.ids, other.contributions.ids)
            assert torch.equal(one.membership, other.membership)
            mine = alone.another(k, hierarchy_of(views[k]), seen)
            assert mine is not None and evidence[k] is not None
            assert torch.equal(evidence[k].contributions.ids, mine.contributions.ids)
        assert alone.nbytes == 0 and len(read) == len(views), repeat


def test_the_loss_trains_what_no_segment_holds(world: Any) -> None:
    """The masks of one object are in two views only, too few to be confirmed: the loss alone places it."""
    gaussians, views, hierarchy_of, cluster = world
    alone = (cluster == 3).float()[:, None]

    def with_gaps(view: View) -> PatchHierarchy:
        whole = hierarchy_of(view)
        if view.name in ("0.png", "4.png"):
            return whole
        shares = render(gaussians, view.camera, features=alone).features
        assert shares is not None
        masks = [whole.mask(m) for m in range(6)]
        kept = torch.stack([mask for mask in masks if not bool((mask & (shares[..., 0] > 0.5)).any())])
        return build_hierarchy(MaskSet.from_dense(kept.numpy()))

    with_regions = FeatureTrainer(gaussians, views, with_gaps, small(init="segments", hold_segments=True))
    with_regions.start()
    assert with_regions.held is not None
    assert bool(with_regions.held[(cluster == 3) & seen_gaussians(gaussians, views)].all()), (
        "six of eight views disagree"
    )
    config = small(init="segments", hold_segments=True, regions=RegionConfig(most=0))
    trainer = FeatureTrainer(gaussians, views, with_gaps, config)
    trainer.start()
    assert trainer.held is not None and not bool(trainer.held[cluster == 3].any())
    first, free = trainer.features.clone(), ~trainer.held
    for step in range(20):
        trainer.step(step)
    moved = (trainer.features != first).any(1)
    assert bool(moved[free & (cluster == 3)].any()) and not bool(moved[trainer.held].any())


def test_codes_may_be_trained_on(world: Any) -> None:
    gaussians, views, hierarchy_of, _ = world
    trainer = FeatureTrainer(gaussians, views, hierarchy_of, small(init="segments", hold_segments=False))
    trainer.start()
    first = trainer.features.clone()
    trainer.step(0)
    assert trainer.held is not None and not torch.equal(trainer.features[trainer.held], first[trainer.held])


def test_resumed_fit_from_segments_equals_uninterrupted(world: Any) -> None:
    gaussians, views, hierarchy_of, _ = world
    saved: list[dict[str, Any]] = []

    def keep(state: dict[str, Any]) -> None:
        saved.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()})

    config = small(steps=12, init="segments")
    hooks = FitHooks(save_checkpoint=keep, checkpoint_seconds=0.0)
    whole = fit_features(gaussians, views, hierarchy_of, config, hooks)
    resumed = fit_features(gaussians, views, hierarchy_of, config, FitHooks(load_checkpoint=lambda: saved[5]))
    assert torch.equal(whole.features, resumed.features)


def test_published_constants_stay_the_published_ones() -> None:
    config = FeatureConfig.published()
    assert (config.init, config.steps, config.init_sigma, config.dim) == ("noise", 1000, 0.25, 16)
    assert (config.loss.phi_min, config.loss.level_decay, config.loss.norm_weight) == (0.5, 0.2, 100.0)


def test_unknown_start_is_refused() -> None:
    with pytest.raises(SplatsegError, match=r"features\.init: expected noise or segments, found 'svd'"):
        FeatureConfig(init="svd")  # type: ignore[arg-type]


def plain_step(trainer: FeatureTrainer, optimizer: SparseFeatureAdam, features: torch.Tensor, step: int) -> None:
    """A step on all features with the held ones frozen: what the trainer's steps on the others alone stand for."""
    generator = torch.Generator().manual_seed(trainer.config.seed * 1_000_003 + step)
    index = int(torch.randperm(len(trainer.views), generator=generator)[0])
    pool = sample_pool(
        trainer.gaussians,
        trainer.views[index],
        trainer.pools.hierarchy_of(trainer.views[index]),
        trainer.config.sampling,
        trainer.pools.generator(index),
    )
    assert pool is not None
    batch = draw_batch(pool, trainer.config.sampling.batch_pixels, generator)
    blended = blend(pool.contributions, features, batch.rows)
    _, grad = hierarchical_contrastive_loss_and_grad(
        blended, batch.patch, membership=pool.membership, config=trainer.config.loss
    )
    optimizer.accumulate(pool.contributions, grad, batch.rows)
    optimizer.step(learning_rate(trainer.config, step))


def half_held(world: Any) -> FeatureTrainer:
    """A trainer of which half of the Gaussians are held, those of two objects."""
    gaussians, views, hierarchy_of, cluster = world
    trainer = FeatureTrainer(gaussians, views, hierarchy_of, small(hold_segments=True))
    trainer.start()
    trainer.held = cluster < 2
    trainer._hold()
    return trainer


def test_steps_know_only_the_gaussians_that_move(world: Any) -> None:
    """Gradient, averages and pools are of those; steps do what they do with all features and frozen rows."""
    trainer = half_held(world)
    assert trainer.held is not None
    moving = int((~trainer.held).sum())
    features = trainer.features.clone()
    optimizer = SparseFeatureAdam(features, AdamConfig(lr=trainer.config.lr))
    optimizer.freeze(trainer.held)
    first = features.clone()
    for step in range(4):
        trainer.step(step)
        plain_step(trainer, optimizer, features, step)
    torch.testing.assert_close(trainer.features, features, rtol=1e-3, atol=1e-5)
    assert bool((features[~trainer.held] != first[~trainer.held]).any()), "the fit has moved"
    assert len(trainer.optimizer.exp_avg) == moving < len(features)
    pools = [pool for pool in trainer.pools._pools.values() if pool is not None]
    assert all(int(pool.contributions.ids.max()) < moving for pool in pools)


def test_a_checkpoint_of_moving_gaussians_fits_one_of_all(world: Any) -> None:
    """A fit that began on the CPU goes on where steps keep averages of all Gaussians, and back."""
    gaussians, views, hierarchy_of, _ = world
    trainer = half_held(world)
    trainer.step(0)
    saved = trainer.checkpoint(1)
    elsewhere = FeatureTrainer(gaussians, views, hierarchy_of, small(hold_segments=True))
    elsewhere.replays = True
    assert elsewhere.restore(saved) == 1
    assert trainer.held is not None and torch.equal(elsewhere.optimizer.exp_avg[~trainer.held], saved["exp_avg"])
    assert not bool(elsewhere.optimizer.exp_avg[trainer.held].any())
    back = FeatureTrainer(gaussians, views, hierarchy_of, small(hold_segments=True))
    back.restore(elsewhere.checkpoint(1))
    assert torch.equal(back.optimizer.exp_avg, saved["exp_avg"])
    assert torch.equal(back.features, trainer.features)


def test_steps_where_everything_is_held(world: Any) -> None:
    trainer = half_held(world)
    trainer.held = torch.ones(len(trainer.gaussians), dtype=torch.bool)
    trainer._hold()
    first = trainer.features.clone()
    assert trainer.step(0) >= 0 and trainer.step(1) >= 0
    assert torch.equal(trainer.features, first)


def test_few_pixels_of_many_are_drawn_without_repetition(device: torch.device) -> None:
    """All are as likely, none comes twice, and the same seed gives the same ones, however they are drawn."""
    for total in (50, 1000):
        counts = torch.zeros(total, device=device)
        found = torch.zeros(0)
        for seed in range(400):
            found = drawn(total, 40, torch.Generator(device).manual_seed(seed))
            assert len(found.unique()) == 40 and 0 <= int(found.min()) <= int(found.max()) < total
            counts[found] += 1
        assert torch.equal(found, drawn(total, 40, torch.Generator(device).manual_seed(399)))
        expected = 400 * 40 / total
        assert float((counts - expected).abs().max()) < 5.5 * expected**0.5
