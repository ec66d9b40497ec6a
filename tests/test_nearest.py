"""Nearest points by halves of space, against all distances and, bit by bit, against the specification."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch

from splatseg.core.errors import SplatsegError
from splatseg.ops.extension import compiled
from splatseg.ops.nearest import nearest, nearest_others
from splatseg.ops.reference import nearest as reference

needs_kernel = pytest.mark.skipif(not compiled(), reason="splatseg._C is not built")


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_the_same_as_by_all_distances() -> None:
    """With points far outside, too."""
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


def surface(count: int, dtype: type = np.float32) -> np.ndarray:
    """Points on a wall and beside it, some of them at one place, and a few far away."""
    draw = np.random.default_rng(5)
    points = draw.random((count, 3)) * [1, 1, 0.01]
    points[: count // 20] = points[0]
    points[-3:] = [[1e4, 0, 0], [-1e4, 1, 1], [0, 0, -3e4]]
    return points[draw.permutation(count)].astype(dtype)


def lattice(side: int) -> np.ndarray:
    """Nearly all distances are ties."""
    return np.stack(np.meshgrid(*[np.arange(side, dtype=np.float32)] * 3), axis=-1).reshape(-1, 3)


CASES = {
    "one": np.zeros((1, 3), np.float32),
    "a leaf": surface(16),
    "one more than a leaf": surface(17),
    "a wall": surface(3000),
    "a wall in float64": surface(3000, np.float64),
    "lattice": lattice(11),
    "all at one place": np.ones((100, 3), np.float32),
    "largest numbers": np.float32(3e38) * (lattice(3) - 1),
}


@cache
def specified(case: str) -> list[tuple[int, np.ndarray | None, bool, tuple[np.ndarray, np.ndarray]]]:
    """What the specification finds: how many, of which places (None: of the points), without each point itself, what.
    It is slow, and the same for any number of threads."""
    points, draw, found = CASES[case], np.random.default_rng(1), []
    places = np.concatenate([points[::7], draw.normal(size=(200, 3)) * 3]).astype(points.dtype)
    for count in (1, min(9, len(points)), min(40, len(points))):
        for asked, without in ((places, False), (None, False), (None, True)):
            if not without or count < len(points):
                given = None if asked is None else torch.from_numpy(asked)
                ids, distances = reference.nearest_points(torch.from_numpy(points), given, count, without)
                found.append((count, asked, without, (np.asarray(ids), np.asarray(distances))))
    return found


@needs_kernel
@pytest.mark.parametrize("case", CASES)
def test_bits_of_the_specification_whatever_the_threads(case: str, threads: int) -> None:
    """Ids, too: of points equally near those of the lowest ids are found, in that order."""
    points = CASES[case]
    for count, asked, without, expected in specified(case):
        found = nearest_others(points, count) if without else nearest(points, asked, count)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_others_leave_out_the_point_itself_where_points_coincide() -> None:
    ids, distances = nearest_others(np.zeros((4, 3), np.float32), 2)
    assert ids.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]] and not distances.any()


def test_mixed_types_are_compared_in_float64() -> None:
    """1 + 1e-9 is another place than 1, which float32 does not know."""
    points = np.array([[1.0, 0, 0], [1 + 1e-9, 0, 0]])
    assert nearest(points, np.array([[2, 0, 0]], np.float32))[0].tolist() == [[1]]


@pytest.mark.parametrize(
    ("points", "places", "count", "message"),
    [
        (np.full((2, 3), np.nan), None, 1, "points: expected finite"),
        (np.zeros((2, 3)), np.array([[0, np.inf, 0]]), 1, "places: expected finite"),
        (np.zeros((2, 3)), None, 3, r"count: expected 1\.\.2 of 2 points, found 3"),
        (np.zeros((2, 3)), None, 0, "count: expected"),
        (np.zeros((0, 3)), None, 1, r"count: expected 1\.\.0 of 0 points"),
        (np.zeros((2, 2)), None, 1, "points: expected shape"),
        (np.zeros((2, 3)), np.zeros(3), 1, "places: expected shape"),
    ],
)
def test_what_has_no_answer_is_refused(points: np.ndarray, places: np.ndarray | None, count: int, message: str) -> None:
    for _ in range(2):
        with pytest.raises(SplatsegError, match=message):
            nearest(points, places, count)
    with pytest.raises(SplatsegError, match=r"count: expected 1\.\.1 of 2 points, found 2"):
        nearest_others(np.zeros((2, 3)), 2)


@needs_kernel
def test_the_kernel_refuses_what_would_leave_its_buffers() -> None:
    op = torch.ops.splatseg.nearest_points
    points = torch.zeros(4, 3)
    for given, message in (
        ((points / 0, None, 1, False), "points: expected finite"),
        ((points, points / 0, 1, False), "places: expected finite"),
        ((points, None, 4, True), "count"),
        ((points, points, 1, True), "others"),
        ((points.T, None, 1, False), "points: expected"),
        ((points, points.double(), 1, False), "places: expected float32"),
        ((points.int(), None, 1, False), "points: expected float32"),
    ):
        with pytest.raises(ValueError, match=message):
            op(*given)
    torch.library.opcheck(op.default, (points, None, 2, True))
    torch.library.opcheck(op.default, (points, points[:1].clone(), 2, False))
