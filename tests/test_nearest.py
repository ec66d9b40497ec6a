"""Nearest points along a Z curve, against all distances."""

from __future__ import annotations

import numpy as np
import pytest

from splatseg.core.nearest import nearest


@pytest.mark.parametrize("queries", [7, 1 << 20])
def test_the_same_as_by_all_distances(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether asked for in one go or in many, and with points far outside, which share the curve's outermost cells."""
    monkeypatch.setattr("splatseg.core.nearest.QUERIES", queries)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 3)).astype(np.float32)
    points[:5] *= 1e4
    places = rng.normal(size=(60, 3)).astype(np.float32)
    for asked, given in ((places, places), (points, None)):
        apart = np.linalg.norm(asked[:, None].astype(np.float64) - points[None], axis=2)
        ids, distances = nearest(points, given, 4)
        assert (ids.dtype, distances.dtype, ids.shape) == (np.int32, np.float32, (len(asked), 4))
        assert np.array_equal(ids, np.argsort(apart, axis=1)[:, :4])
        np.testing.assert_allclose(distances, np.sort(apart, axis=1)[:, :4], rtol=1e-6)


def test_points_at_one_place_and_a_single_one() -> None:
    ids, distances = nearest(np.zeros((5, 3), np.float32), count=5)
    assert np.array_equal(np.sort(ids, axis=1), np.tile(np.arange(5), (5, 1))) and not distances.any()
    ids, distances = nearest(np.zeros((1, 3)), np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]]))
    assert ids.tolist() == [[0], [0]] and distances.tolist() == [[5.0], [2.0]]
    assert nearest(np.zeros((2, 3)), np.zeros((0, 3)))[0].shape == (0, 1)


def test_places_far_from_all_points() -> None:
    """Behind a plane of points, and one point far from the rest: what no photo shows, and a floater."""
    draw = np.random.default_rng(3)
    points = np.concatenate([draw.random((400, 3)) * [1, 1, 0], [[1e6, 0, 0]]]).astype(np.float32)
    places = (draw.random((50, 3)) + np.array([0, 0, 30])).astype(np.float32)
    ids, distances = nearest(points, places, 3)
    apart = np.linalg.norm(points[None].astype(np.float64) - places[:, None].astype(np.float64), axis=2)
    assert np.allclose(distances, np.sort(apart, axis=1)[:, :3], rtol=1e-6)
    assert np.allclose(np.take_along_axis(apart, ids.astype(np.int64), 1), distances, rtol=1e-6)
