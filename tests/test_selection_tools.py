"""Outlines, solids, growing, pieces and properties, as functions of a splat: against what they are defined as."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny_splat import make_camera, make_gaussians, make_splat

import splatseg.render as rendering
from splatseg.core.errors import SplatsegError
from splatseg.segment import outlines, properties, region_tools, solids
from splatseg.segment.clicks import Box, select_box
from splatseg.segment.region_tools import Touching

SPLAT = make_splat()
TOUCHING = Touching(SPLAT.gaussians)
PARTS = SPLAT.parts.numpy()


def lasso(*corners: tuple[float, float]) -> outlines.Lasso:
    return outlines.Lasso(SPLAT.camera, corners)


def rectangle(left: float, top: float, right: float, bottom: float) -> outlines.Lasso:
    return lasso((left, top), (right, top), (right, bottom), (left, bottom))


# Outlines ------------------------------------------------------------------------------------------------------------


def crosses(corners: list[tuple[float, float]], u: float, v: float) -> bool:
    """The even-odd rule, one ray at a time."""
    inside = False
    for (u0, v0), (u1, v1) in itertools.pairwise([*corners, corners[0]]):
        if (v < v0) != (v < v1) and u < u0 + (v - v0) * (u1 - u0) / (v1 - v0):
            inside = not inside
    return inside


def test_points_in_polygons_by_the_even_odd_rule() -> None:
    generator = np.random.default_rng(3)
    for corners in (3, 4, 7, 20):  # most of them cross themselves
        polygon = [tuple(row) for row in generator.uniform(-5, 40, (corners, 2)).round(0).tolist()]
        points = generator.uniform(-10, 50, (500, 2))
        found = lasso(*polygon).holds(torch.from_numpy(points)).numpy()
        assert found.tolist() == [crosses(polygon, u, v) for u, v in points]
        assert found.any()


def test_a_lasso_takes_what_any_of_its_pixels_shows() -> None:
    shape = lasso((8, 6), (30, 10), (26, 27), (14, 14))
    pixels = torch.cartesian_prod(torch.arange(48), torch.arange(32)).int()
    shown = rendering.trace(SPLAT.gaussians, SPLAT.camera, pixels[shape.holds(pixels + 0.5)]).ids.long()
    centers, _ = SPLAT.camera.project(SPLAT.gaussians.means)
    expected = torch.zeros(len(SPLAT.parts), dtype=torch.bool)
    expected[shown] = True
    expected &= shape.holds(centers)
    assert 0 < int(expected.sum()) < len(expected)
    assert torch.equal(outlines.lasso_seen(SPLAT.gaussians, shape).mask, expected)
    through = outlines.lasso_through(SPLAT.gaussians, shape)
    assert torch.equal(through.mask, shape.holds(centers)) and bool((through.mask & ~expected).any())


def test_a_lasso_around_a_rectangle_is_the_rectangle() -> None:
    box = Box(SPLAT.camera, ((10, 4), (31, 20)))
    shape = rectangle(10, 4, 32, 21)  # as far as the last pixels that the rectangle touches
    assert outlines.lasso_seen(SPLAT.gaussians, shape) == select_box(SPLAT.gaussians, box)
    assert outlines.lasso_through(SPLAT.gaussians, rectangle(10, 4, 31, 20)) == outlines.box_through(
        SPLAT.gaussians, box
    )


def test_what_is_behind_the_camera_is_in_no_outline() -> None:
    behind = make_gaussians(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -12.0]]))
    everything = rectangle(-1e4, -1e4, 1e4, 1e4)
    for found in (outlines.lasso_through(behind, everything), outlines.lasso_seen(behind, everything)):
        assert found.mask.tolist() == [True, False]
    assert outlines.box_through(behind, Box(SPLAT.camera, ((0, 0), (48, 32)))).mask.tolist() == [True, False]


@pytest.mark.parametrize(
    ("corners", "found"),
    [
        (((0, 0), (1, 1)), "found 2"),
        (((0.0, 0.0), (np.nan, 1.0), (3.0, 3.0)), "finite"),
        (((5.1, 5.1), (5.3, 5.1), (5.3, 5.3)), "found none"),
        (((-9, 2), (-2, 2), (-2, 9)), "found none"),
        (((60, 2), (70, 2), (70, 9)), "found none"),
    ],
)
def test_lassos_that_hold_nothing_are_refused(corners: tuple[tuple[float, float], ...], found: str) -> None:
    with pytest.raises(SplatsegError, match=found):
        lasso(*corners).window()


# Solids --------------------------------------------------------------------------------------------------------------


def test_boxes_and_balls() -> None:
    means = SPLAT.gaussians.means
    box = solids.inside(SPLAT.gaussians, solids.Cuboid((0.0, 0.5, 0.0), (1.0, 0.9, 1.0)))
    assert torch.equal(box.mask, SPLAT.parts == 2)
    ball = solids.inside(SPLAT.gaussians, solids.Ball((2.0, 0.0, 0.0), 0.7))
    assert torch.equal(ball.mask, (means - torch.tensor([2.0, 0, 0])).norm(dim=1) <= 0.7)


def test_a_box_turns_with_its_rotation() -> None:
    quarter = (2.0, 0.0, 0.0, 2.0)  # of any length: x goes to y
    flat = solids.Cuboid((1.0, 2.0, 3.0), (6.0, 0.2, 0.2), quarter)
    points = torch.tensor([[1.0, 4.9, 3.0], [3.9, 2.0, 3.0], [1.0, 2.0, 3.1], [1.0, 2.0, 3.11]])
    assert flat.holds(points).tolist() == [True, False, True, False]
    tilted = solids.Cuboid((0.0, 0.0, 0.0), (2.0, 2.0, 0.1), (0.9, 0.1, -0.3, 0.2))
    axes = tilted.axes()
    torch.testing.assert_close(axes @ axes.T, torch.eye(3, dtype=torch.float64))
    assert float(torch.linalg.det(axes)) == pytest.approx(1)
    assert tilted.holds((axes @ torch.tensor([[0.99, 0.99, 0.04]], dtype=torch.float64).T).T).all()


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: solids.Cuboid((0, 0, 0), (1, 0, 1)), "box.size"),
        (lambda: solids.Cuboid((0, 0, np.inf), (1, 1, 1)), "box.center"),
        (lambda: solids.Cuboid((0, 0, 0), (1, 1, 1), (0, 0, 0, 0)), "box.wxyz"),
        (lambda: solids.Ball((0, 0, 0), -1.0), "sphere.radius"),
        (lambda: solids.Ball((0, 0), 1.0), "sphere.center"),
    ],
)
def test_solids_that_are_none_are_refused(make: object, found: str) -> None:
    with pytest.raises(SplatsegError, match=found):
        make()  # type: ignore[operator]


# Neighborhoods -------------------------------------------------------------------------------------------------------


def of(*parts: int) -> np.ndarray:
    return np.isin(PARTS, parts)


def test_touching_is_symmetric_and_stops_at_gaps() -> None:
    graph = TOUCHING.graph
    assert (graph != graph.T).nnz == 0 and graph.nnz > 0
    between = graph.tocoo()
    assert (SPLAT.objects[between.row] == SPLAT.objects[between.col]).all()
    distances = (SPLAT.gaussians.means[between.row] - SPLAT.gaussians.means[between.col]).norm(dim=1)
    assert float(distances.max()) <= region_tools.REACH * 0.1 + 1e-6


def test_growing_fills_an_object_and_no_other() -> None:
    seed = np.zeros(len(PARTS), bool)
    seed[np.flatnonzero(PARTS == 2)[0]] = True
    sizes = [1]
    grown = seed
    for _ in range(40):
        more = TOUCHING.grow(grown)
        assert (grown <= more).all()
        grown = more
        sizes.append(int(grown.sum()))
    assert (grown == of(2, 3)).all() and len(set(sizes)) > 4
    assert (TOUCHING.grow(seed, 3) == TOUCHING.grow(TOUCHING.grow(seed, 2))).all()
    assert (TOUCHING.grow(seed, 40, of(2)) == of(2)).all()  # what is hidden is no bridge


def test_shrinking_is_growing_of_the_rest() -> None:
    for mask in (of(2), of(0, 3), TOUCHING.grow(of(4)) & (np.arange(len(PARTS)) % 7 > 0)):
        for steps in (1, 2):
            assert (TOUCHING.shrink(mask, steps) == ~TOUCHING.grow(~mask, steps)).all()
    whole = of(2, 3)
    assert (TOUCHING.shrink(whole, 5) == whole).all()  # it borders on nothing
    assert (TOUCHING.shrink(of(2), 1, of(2)) == of(2)).all()  # ... nor on what is hidden


def test_holes_are_filled_and_what_is_beside_is_not() -> None:
    whole = of(2, 3)
    inside = np.flatnonzero(PARTS == 2)[[30, 31, 44]]
    holed = whole.copy()
    holed[inside] = False
    for mask, expected in ((holed, whole), (of(2), of(2)), (whole, whole), (of(0, 2, 4), of(0, 2, 4))):
        assert (TOUCHING.fill_holes(mask) == expected).all()
        assert (TOUCHING.fill_holes(TOUCHING.fill_holes(mask)) == expected).all()
    assert (TOUCHING.fill_holes(of(2), largest=1.0) == of(2, 3)).all()
    shown = np.ones(len(PARTS), bool)
    shown[inside[0]] = False
    filled = TOUCHING.fill_holes(holed, shown)
    assert not filled[inside[0]] and filled[inside[1:]].all()


def test_one_piece_is_kept() -> None:
    mask = of(0, 2, 3)
    assert (TOUCHING.piece(mask) == of(2, 3)).all()
    assert (TOUCHING.piece(mask, int(np.flatnonzero(PARTS == 0)[5])) == of(0)).all()
    for seed in (None, int(np.flatnonzero(PARTS == 4)[0])):
        with pytest.raises(SplatsegError, match="found none"):
            TOUCHING.piece(mask if seed is not None else np.zeros_like(mask), seed)


def test_splats_of_few_gaussians_have_a_graph() -> None:
    for count in (1, 2, 5):
        few = Touching(make_gaussians(torch.arange(3.0 * count).reshape(count, 3) * 0.01))
        mask = np.arange(count) == 0
        assert few.grow(mask, count).all() and (few.piece(mask) == mask).all()
    same = Touching(make_gaussians(torch.zeros(30, 3)))  # all at one place
    assert same.piece(np.ones(30, bool)).sum() >= region_tools.NEIGHBORS + 1


def test_by_feature_the_most_similar_come_and_the_least_similar_go() -> None:
    unit, parts = SPLAT.field.unit, SPLAT.parts
    everything = torch.ones(len(parts), dtype=torch.bool)
    grown = region_tools.grow_by_feature(unit, parts == 2, everything)
    assert torch.equal(grown, (parts == 2) | (parts == 3))  # all of them are equally similar
    assert torch.equal(region_tools.grow_by_feature(unit, parts == 2, parts != 3), everything & (parts != 3))
    odd = (parts == 2).clone()
    odd[0] = True  # one Gaussian of another thing: at most a fringe of what is selected
    assert float(region_tools.similarity(unit, odd)[0]) < 0.5
    assert torch.equal(region_tools.shrink_by_feature(unit, odd, 0.01), parts == 2)
    assert torch.equal(region_tools.shrink_by_feature(unit, parts == 2), parts == 2)  # no one is the least
    none = torch.zeros_like(everything)
    assert torch.equal(region_tools.grow_by_feature(unit, none, everything), none)
    assert torch.equal(region_tools.shrink_by_feature(unit, none), none)


# Properties ----------------------------------------------------------------------------------------------------------


def test_views_that_see_a_gaussian_are_counted_over_all_pixels() -> None:
    cameras = [make_camera(x) for x in (0.0, 0.5, 30.0)]  # the last one sees nothing
    found = properties.visibility(SPLAT.gaussians, cameras)
    weights, views = torch.zeros(len(SPLAT.parts)), torch.zeros(len(SPLAT.parts), dtype=torch.int32)
    pixels = torch.cartesian_prod(torch.arange(48), torch.arange(32)).int()
    for camera in cameras:
        traced = rendering.trace(SPLAT.gaussians, camera, pixels, properties.SEEN)
        weights.index_add_(0, traced.ids.long(), traced.weights)
        views += torch.zeros(len(weights), dtype=torch.bool).index_fill_(0, traced.ids.long().unique(), True)
    assert torch.equal(found.views, views) and set(views.tolist()) >= {2}
    torch.testing.assert_close(found.weight, weights)
    with pytest.raises(SplatsegError, match="photos"):
        properties.visibility(SPLAT.gaussians, [])


def test_bands_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = properties.visibility(SPLAT.gaussians, [SPLAT.camera])
    monkeypatch.setattr(properties, "BLOCK_PIXELS", 48 * 5)
    banded = properties.visibility(SPLAT.gaussians, [SPLAT.camera])
    assert torch.equal(whole.views, banded.views)
    torch.testing.assert_close(whole.weight, banded.weight)


def test_color_differences_are_those_of_the_book() -> None:
    """CIELAB of sRGB primaries: Lindbloom's values, D65."""
    rgb = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    lab = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(properties.cielab(rgb), torch.tensor(lab), atol=0.03, rtol=0)
    gray = make_gaussians(torch.zeros(2, 3))
    assert properties.color_distance(gray, (128, 128, 128)).max() < 1
    with pytest.raises(SplatsegError, match=r"0\.\.255"):
        properties.color_distance(gray, (0, 300, 0))


def test_sizes_anisotropies_and_distances() -> None:
    gaussians = make_gaussians(torch.tensor([[0.0, 0, -6], [3, 4, -6]]))
    gaussians.log_scales[1] = torch.tensor([0.1, 0.8, 0.2]).log()
    torch.testing.assert_close(properties.sizes(gaussians), torch.tensor([0.1, 0.8]))
    torch.testing.assert_close(properties.anisotropy(gaussians), torch.tensor([1.0, 4.0]))
    cameras = [make_camera(), make_camera(10.0)]
    torch.testing.assert_close(properties.camera_distance(gaussians, cameras), torch.tensor([0.0, 5.0]))


def test_histograms_count_everyone_once() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(1000, generator=generator) ** 3 + 1e-4
    for logarithmic in (False, True):
        found = properties.histogram(values, 20, logarithmic)
        assert found.counts.sum() == 1000 and len(found.edges) == 21 and (np.diff(found.edges) > 0).all()
        for count, low, high in zip(found.counts[:-1], found.edges, found.edges[1:], strict=False):
            assert count == int(((values.double() >= low) & (values.double() < high)).sum())
    assert properties.histogram(torch.full((7,), 3.0), 5).counts.sum() == 7
    with pytest.raises(SplatsegError, match="found 0"):
        properties.histogram(values[:0])


def test_bounds_are_inclusive_and_in_order() -> None:
    values = torch.tensor([1.0, 2, 3])
    assert properties.between(values, 2, None).tolist() == [False, True, True]
    assert properties.between(values, None, 2).tolist() == [True, True, False]
    for low, high in ((3, 2), (np.nan, 1)):
        with pytest.raises(SplatsegError, match="lowest"):
            properties.between(values, low, high)
