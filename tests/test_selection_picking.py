"""Tracing a few pixels: the same weights as tracing the whole splat, from far fewer Gaussians."""

from __future__ import annotations

import pytest
import torch
from tiny_splat import make_camera, make_gaussians, make_splat

import splatseg.render as rendering
from splatseg.core.gaussians import Gaussians
from splatseg.segment.picking import reachable, trace_few


def cloud(n: int, seed: int) -> Gaussians:
    """Gaussians of all sizes and shapes around and behind the camera at (0, 0, -6), needles and giants among them."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=generator) * torch.tensor([3.0, 3.0, 5.0])
    means[:5] = torch.tensor([0.0, 0.0, -5.9])  # right before the camera
    quats = torch.randn(n, 4, generator=generator)
    log_scales = torch.empty(n, 3).uniform_(-5, 0.5, generator=generator)
    logits = 3 * torch.randn(n, generator=generator)
    return Gaussians(means, quats, log_scales, logits, torch.zeros(n, 1, 3))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "pixels",
    [[[24, 16]], [[0, 0]], [[47, 31]], [[3, 20], [9, 25], [3, 20]]],
    ids=["center", "first", "last", "box with a repeat"],
)
def test_same_weights_as_the_whole_splat(seed: int, pixels: list[list[int]]) -> None:
    gaussians, camera = cloud(400, seed), make_camera()
    where = torch.tensor(pixels, dtype=torch.int32)
    few, whole = trace_few(gaussians, camera, where), rendering.trace(gaussians, camera, where)
    for name in ("pixels", "order", "offsets", "ids"):
        assert torch.equal(getattr(few, name), getattr(whole, name))
    # The pixels' Gaussians come in the same order with the same numbers: nothing may differ.
    assert torch.equal(few.weights, whole.weights)


def test_a_pixel_reaches_a_part_of_the_splat() -> None:
    splat = make_splat()
    column, row = splat.pixel_of(2)
    ids = reachable(splat.gaussians, splat.camera, torch.tensor([[column, row]], dtype=torch.int32))
    assert 0 < len(ids) < len(splat.gaussians) / 3
    assert bool((ids[1:] > ids[:-1]).all())


def test_nothing_in_reach_gives_empty_rows() -> None:
    behind = make_gaussians(torch.tensor([[0.0, 0.0, -20.0]]))
    found = trace_few(behind, make_camera(), torch.tensor([[1, 1], [2, 2]], dtype=torch.int32))
    assert len(found) == 2 and found.offsets.tolist() == [0, 0, 0]
