"""Steps without the host: with the references in the place of kernels, the same fit as step by step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from listener import Listener
from test_features import small, world  # noqa: F401  (a fixture)

from splatseg.core.errors import SplatsegError
from splatseg.fit.features import FeatureTrainer, fit_features
from splatseg.fit.hooks import FitHooks
from splatseg.fit.pixel_pools import SamplingConfig
from splatseg.ops import AdamConfig, SparseFeatureAdam, replay
from splatseg.ops.replay import BatchSize, PoolStack, joined


def trainers(world: Any, **changes: Any) -> tuple[FeatureTrainer, FeatureTrainer]:  # noqa: F811
    """Two of one fit, the second of which replays."""
    gaussians, views, hierarchy_of, *_ = world
    pair = tuple(FeatureTrainer(gaussians, views, hierarchy_of, small(**changes)) for _ in range(2))
    pair[1].replays = True
    return pair  # type: ignore[return-value]


WHOLE = SamplingConfig(pool_pixels=1200, batch_pixels=1200)


def test_batches_as_large_as_the_pool_give_the_same_fit(world: Any) -> None:  # noqa: F811
    """Views with fewer rows than the batch are filled up with rows that show nothing and belong to no patch."""
    plain, replayed = trainers(world, steps=12, sampling=WHOLE)
    losses = [plain.step(step) for step in range(12)]
    done = 0
    while done < 12:
        made, loss = replayed.advance(done, min(done + 5, 12))
        done += made
        # Sums of 1200 samples in another order, float32.
        assert loss == pytest.approx(losses[done - 1], rel=1e-4)
    assert replayed.optimizer.steps == plain.optimizer.steps == 12
    torch.testing.assert_close(replayed.features, plain.features, rtol=1e-2, atol=2e-4)
    assert (plain.features - small().init_sigma).abs().max() > 0.05, "the fit has moved"


def test_held_codes_stay_while_steps_are_replayed(world: Any) -> None:  # noqa: F811
    held = {"steps": 6, "sampling": WHOLE, "init": "segments", "hold_segments": True}
    plain, replayed = trainers(world, **held)
    for trainer in (plain, replayed):
        trainer.start()
    first = replayed.features.clone()
    for step in range(6):
        plain.step(step)
    replayed.advance(0, 6)
    assert replayed.held is not None and bool(replayed.held.any())
    assert torch.equal(replayed.features[replayed.held], first[replayed.held])
    torch.testing.assert_close(replayed.features, plain.features, rtol=1e-2, atol=2e-4)


def test_smaller_batches_fit_too_and_repeat_no_pixel(world: Any) -> None:  # noqa: F811
    _, replayed = trainers(world, steps=40, sampling=SamplingConfig(pool_pixels=1200, batch_pixels=300))
    first = replayed.advance(0, 1)[1]
    stack = replayed._replayed.stack  # type: ignore[union-attr]
    assert stack.batch_start.diff().unique().tolist() == [300] and len(stack.view) > len(stack.membership)
    assert replayed.advance(1, 40)[1] < first
    losses = replayed._replayed.losses  # type: ignore[union-attr]
    assert losses.isfinite().all()


def test_resumes_where_it_was(world: Any) -> None:  # noqa: F811
    changes = {"steps": 10, "sampling": SamplingConfig(pool_pixels=900, batch_pixels=300)}
    _, whole = trainers(world, **changes)
    whole.advance(0, 10)
    _, before = trainers(world, **changes)
    before.advance(0, 4)
    saved = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in before.checkpoint(4).items()}
    _, after = trainers(world, **changes)
    assert after.restore(saved) == 4
    after.advance(4, 10)
    assert torch.equal(after.features, whole.features)


def test_fit_reports_every_twentieth(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The loop around blocks of steps logs what the loop around single ones does."""
    gaussians, views, hierarchy_of, *_ = world
    logs: list[list[dict[str, Any]]] = []
    for replays in (False, True):
        monkeypatch.setattr("splatseg.fit.features.can_replay", lambda _, on=replays: on)
        entries: list[dict[str, Any]] = []
        fit_features(
            gaussians, views, hierarchy_of, small(steps=45, sampling=WHOLE), FitHooks(reporter=Listener(entries))
        )
        logs.append(entries)
    assert [e["step"] for e in logs[0]] == [e["step"] for e in logs[1]] == list(range(2, 46, 2))
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-2)


def test_no_view_with_masks(world: Any) -> None:  # noqa: F811
    gaussians, views, hierarchy_of, *_ = world
    empty = lambda view: replace(hierarchy_of(view), patch_ids=torch.zeros_like(hierarchy_of(view).patch_ids))  # noqa: E731
    trainer = FeatureTrainer(gaussians, views, empty, small())
    trainer.replays = True
    with pytest.raises(SplatsegError, match="at least one view with a mask"):
        trainer.advance(0, 5)


@dataclass
class FakeGraph:
    """A graph of ``step``; like CUDA's, it has run nothing before it is replayed."""

    replay: Callable[[], None]


def run_captured(world: Any, monkeypatch: pytest.MonkeyPatch, capture: Callable[..., Any]) -> FeatureTrainer:  # noqa: F811
    """Eight replayed steps, in two calls, where ``capture`` stands for :func:`replay.captured` on the CPU."""
    _, trainer = trainers(world, steps=8, sampling=WHOLE)
    with monkeypatch.context() as patch:
        patch.setattr(replay, "can_capture", lambda features: True)
        patch.setattr(replay, "captured", capture)
        trainer.advance(0, 5)
        trainer.advance(5, 8)
    return trainer


def test_a_failed_capture_does_not_end_the_fit(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Single launches, one warning, one attempt; the step that was to be captured is made once, as are the others."""
    attempts = []

    def refuse(step: Callable[[], None]) -> None:
        attempts.append(step)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")

    with pytest.warns(RuntimeWarning, match="kernel by kernel.* stream is capturing$") as warned:
        found = run_captured(world, monkeypatch, refuse)
    assert len(warned) == len(attempts) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphs: list[FakeGraph] = []
        want = run_captured(world, monkeypatch, lambda step: graphs.append(FakeGraph(step)) or graphs[0])
    assert len(graphs) == 1, "captured once, replayed from then on"
    assert torch.equal(found.features, want.features)
    assert found.optimizer.steps == want.optimizer.steps == 8
    assert torch.equal(found._replayed.losses, want._replayed.losses) and want._replayed.losses.isfinite().all()  # type: ignore[union-attr]


def test_other_faults_of_a_capture_are_not_hidden(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def wrong(step: Callable[[], None]) -> None:
        raise SplatsegError("features: expected another shape")

    with pytest.raises(SplatsegError, match="another shape"):
        run_captured(world, monkeypatch, wrong)


def test_stack_keeps_rows_patches_and_masks_together(world: Any) -> None:  # noqa: F811
    """A view without masks in the middle is left out; every row still shows what it showed, under its patch."""
    trainer, _ = trainers(world, sampling=SamplingConfig(pool_pixels=400, batch_pixels=100))
    pools = [pool for i in range(len(trainer.views)) if (pool := trainer.pools.get(i)) is not None]
    stack = PoolStack.of(pools, BatchSize(pixels=150, min_pixels=40), torch.Generator().manual_seed(0))
    c, left_out = stack.contributions, 0
    for view, pool in enumerate(pools):
        batches = (stack.view == view).nonzero()[:, 0].tolist()
        assert len(batches) == -(-len(pool.rows) // 150)
        shape, seen = pool.membership.shape, []
        assert torch.equal(stack.membership[view, : shape[0], : shape[1]], pool.membership)
        row_of = {tuple(pixel): row for row, pixel in enumerate(pool.contributions.pixels.tolist())}
        for batch in batches:
            first, last = stack.batch_start[batch : batch + 2].tolist()
            assert last - first == min(150, len(pool.rows))
            rows = torch.tensor([row_of[tuple(pixel)] for pixel in c.pixels[first:last].tolist()])
            assert len(rows.unique()) == len(rows), "no pixel twice in a batch"
            seen += rows.tolist()
            patch = stack.patch[first:last].long()
            assert torch.equal(patch, pool.patch[rows])
            kept = patch.bincount()[patch] >= 40
            assert not kept.diff()[~kept[:-1]].any(), "those of small patches come last"
            assert bool((patch[kept].diff() >= 0).all()), "the others by patch"
            left_out += int((~kept).sum())
            own = pool.contributions
            for k in (0, len(rows) - 1):
                a, b = own.offsets[rows[k] : rows[k] + 2].tolist()
                x, y = c.offsets[first + k : first + k + 2].tolist()
                assert torch.equal(c.ids[x:y], own.ids[a:b]) and torch.equal(c.weights[x:y], own.weights[a:b])
        assert sorted(set(seen)) == pool.rows.tolist(), "each pixel is in a batch"
    assert left_out > 0
    assert int(c.counts[-1]) == 0 and len(c) == int(stack.batch_start[-1]) + 1
    with pytest.raises(SplatsegError, match="pools: expected at least one"):
        PoolStack.of([], BatchSize(1, 1), torch.Generator())
    assert len(joined([pools[0].contributions])) == len(pools[0].contributions) + 1


def test_gradients_that_are_not_finite_are_told_afterwards() -> None:
    features = torch.randn(6, 4)
    optimizer = SparseFeatureAdam(features, AdamConfig())
    rates = torch.tensor(optimizer.config.rates(1), dtype=torch.float64)
    for row in (4, 2):
        grad = torch.ones(6, 4)
        grad[row, 1] = torch.nan
        optimizer.accumulate_dense(grad)
        optimizer.step_at(rates)
    with pytest.raises(SplatsegError, match="found others in row 2"):
        optimizer.check()
    optimizer.check()
    assert features.isfinite().all()


def test_step_at_is_step() -> None:
    twins = [torch.linspace(-1, 1, 24).reshape(6, 4) for _ in range(2)]
    one, other = (SparseFeatureAdam(f, AdamConfig(norm_weight=2.0)) for f in twins)
    for step in range(1, 5):
        grad = torch.sin(torch.arange(24.0) * step).reshape(6, 4)
        for optimizer in (one, other):
            optimizer.accumulate_dense(grad)
        one.step(0.01 * step)
        other.step_at(torch.tensor(other.config.rates(step, 0.01 * step), dtype=torch.float64))
    # In float32, 1 - 0.999 is off by 5e-5 of itself where it is not taken in float64: half that in the step of 0.1.
    torch.testing.assert_close(*twins, rtol=0, atol=5e-6)
    assert SimpleNamespace(a=one.steps, b=other.steps) == SimpleNamespace(a=4, b=0)
