"""Clicks, scores, selections, undo, and their way back into the views."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_splat import PART_COSINE, TinySplat, make_camera, make_gaussians, make_splat

import splatseg.render as rendering
from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.segment.clicks import Box, Click, PointClick, Query, make_query, select_box
from splatseg.segment.scores import Scores, pixel_scores, project_selection, project_selections, score_features, scores
from splatseg.session.history import History


@pytest.fixture(scope="module")
def splat() -> TinySplat:
    return make_splat()


def click_scores(splat: TinySplat, *clicks: Click | PointClick | Box) -> Scores:
    return scores(splat.field, make_query(FeatureSplat(splat.gaussians, splat.field), clicks))


def part_click(splat: TinySplat, part: int, positive: bool = True) -> Click:
    return Click(splat.camera, splat.pixel_of(part), positive)


# Clicks ------------------------------------------------------------------------------------------------------------


def test_click_selects_part_then_object(splat: TinySplat) -> None:
    found = click_scores(splat, part_click(splat, 2))
    assert torch.equal(found.above((1 + PART_COSINE) / 2).mask, splat.parts == 2)
    assert torch.equal(found.above(PART_COSINE / 2).mask, splat.objects == 1)


def test_click_on_a_gaussian_equals_the_click_on_its_pixel(splat: TinySplat) -> None:
    gaussian = int((splat.parts == 3).nonzero()[0])
    by_id, by_pixel = click_scores(splat, PointClick(gaussian)), click_scores(splat, part_click(splat, 3))
    # The pixel blends a little of what lies around; inside a part that is the part itself.
    torch.testing.assert_close(by_id.values, by_pixel.values, rtol=0, atol=1e-2)


def test_click_into_empty_space_says_so(splat: TinySplat) -> None:
    with pytest.raises(SplatsegError, match=r"click at column 0, row 0: .*empty space"):
        make_query(FeatureSplat(splat.gaussians, splat.field), [Click(splat.camera, (0, 0))])


@pytest.mark.parametrize("pixel", [(-1, 3), (48, 3), (3, 32), (float("nan"), 3)])
def test_click_outside_the_image(splat: TinySplat, pixel: tuple[float, float]) -> None:
    with pytest.raises(SplatsegError, match=r"pixel: expected column in 0\.\.47 and row in 0\.\.31"):
        make_query(FeatureSplat(splat.gaussians, splat.field), [Click(splat.camera, pixel)])


def test_click_on_a_gaussian_that_is_not_there(splat: TinySplat) -> None:
    for gaussian in (-1, len(splat.field)):
        with pytest.raises(SplatsegError, match=rf"expected a Gaussian in 0\.\.431, found {gaussian}"):
            make_query(FeatureSplat(splat.gaussians, splat.field), [PointClick(gaussian)])


def test_click_on_zero_features_is_refused(splat: TinySplat) -> None:
    blank = FeatureField(torch.zeros(len(splat.field), 4), splat.field.fingerprint)
    for click in (PointClick(0), part_click(splat, 0)):
        with pytest.raises(SplatsegError, match=r"features? (to search for|is zero|are zero)"):
            make_query(FeatureSplat(splat.gaussians, blank), [click])


def test_only_negative_clicks_are_no_query(splat: TinySplat) -> None:
    with pytest.raises(SplatsegError, match="at least one positive click"):
        make_query(FeatureSplat(splat.gaussians, splat.field), [part_click(splat, 0, positive=False)])
    with pytest.raises(SplatsegError, match="at least one positive click"):
        make_query(FeatureSplat(splat.gaussians, splat.field), [])


# Rectangles --------------------------------------------------------------------------------------------------------


def test_box_over_two_objects_asks_for_both(splat: TinySplat) -> None:
    (u0, v0), (u1, v1) = splat.pixel_of(1), splat.pixel_of(2)
    found = click_scores(splat, Box(splat.camera, ((u1, v1), (u0, v0))))
    assert torch.equal(found.above(0.3).mask, splat.objects < 2)


def test_box_selects_what_is_seen_through_it(splat: TinySplat) -> None:
    center_column = splat.pixel_of(2)[0]
    box = Box(splat.camera, ((center_column - 6, 0), (center_column + 6, 31)))
    mask = select_box(splat.gaussians, box).mask
    assert bool((splat.objects[mask] == 1).all())
    front = (splat.objects == 1) & (splat.gaussians.means[:, 2] == 0)
    assert torch.equal(mask & front, front)  # every Gaussian of the visible side


def noisy_wall(n: int, seed: int) -> Gaussians:
    """Small Gaussians of all sizes and shapes, a few deep: many are seen in a pixel or two only."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(n, 3, generator=generator) * torch.tensor([16.0, 12.0, 1.0]) - torch.tensor([8.0, 6.0, 0.0])
    quats = torch.randn(n, 4, generator=generator)
    log_scales = torch.empty(n, 3).uniform_(-5, -2.5, generator=generator)
    return Gaussians(means, quats, log_scales, torch.randn(n, generator=generator), torch.zeros(n, 1, 3))


@pytest.mark.parametrize("corners", [((0, 0), (320, 240)), ((31.5, 20.2), (250.7, 199.9)), ((300.0, 9.0), (5.0, 9.5))])
@pytest.mark.parametrize("seed", range(2))
def test_box_selects_all_that_is_seen_through_it(corners: tuple, seed: int) -> None:
    """Also what is seen in one pixel, of a rectangle of more pixels than any grid or block has."""
    gaussians = noisy_wall(6000, seed)
    camera = Camera(torch.tensor([[120.0, 0, 160], [0, 120.0, 120], [0, 0, 1]]), make_camera().cam_from_world, 320, 240)
    columns, rows = sorted(int(u) for u, _ in corners), sorted(int(v) for _, v in corners)
    low, high = (columns[0], rows[0]), (min(columns[1], 319), min(rows[1], 239))
    pixels = torch.cartesian_prod(torch.arange(low[0], high[0] + 1), torch.arange(low[1], high[1] + 1)).int()
    centers, depths = camera.project(gaussians.means)
    inside = ((centers >= torch.tensor(low)) & (centers <= torch.tensor(high) + 1)).all(1) & (depths > 0)
    seen = torch.zeros(len(gaussians), dtype=torch.bool)
    seen[rendering.trace(gaussians, camera, pixels).ids.long()] = True
    for _ in range(2):
        assert torch.equal(select_box(gaussians, Box(camera, corners)).mask, seen & inside)
    assert int((seen & inside).sum()) > 10


def test_box_reports_and_can_be_stopped(splat: TinySplat) -> None:
    shares: list[float] = []
    camera = splat.camera.resized(600, 300)
    select_box(splat.gaussians, Box(camera, ((0, 0), (600, 300))), shares.append)
    assert shares[0] == 0 and len(shares) == 9 and shares == sorted(shares) and shares[-1] < 1

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select_box(splat.gaussians, Box(camera, ((0, 0), (600, 300))), stop)


def test_box_is_clipped_and_refused_outside(splat: TinySplat) -> None:
    whole = Box(splat.camera, ((-100, -100), (500, 500)))
    assert len(select_box(splat.gaussians, whole)) > 100
    for corners in (((-9.0, -9.0), (-1.0, -1.0)), ((48.0, 0.0), (60.0, 9.0))):
        with pytest.raises(SplatsegError, match="rectangle: expected it inside the 48x32 image"):
            select_box(splat.gaussians, Box(splat.camera, corners))


def test_box_over_nothing(splat: TinySplat) -> None:
    with pytest.raises(SplatsegError, match=r"rectangle: .*empty space"):
        make_query(FeatureSplat(splat.gaussians, splat.field), [Box(splat.camera, ((0, 0), (1, 1)))])


# Scores ------------------------------------------------------------------------------------------------------------


def test_negative_click_changes_the_score_not_only_the_set(splat: TinySplat) -> None:
    alone = click_scores(splat, part_click(splat, 2))
    against = click_scores(splat, part_click(splat, 2), part_click(splat, 3, positive=False))
    part, sibling, far = splat.parts == 2, splat.parts == 3, splat.objects == 0
    assert float(against.values[part].min()) > 0.99  # what was clicked stays
    assert float(against.values[sibling].max()) < -0.9  # out at any sensible threshold
    assert float(alone.values[sibling].min()) > 0.5
    # What is as far from both clicks is hardly lowered, and not raised.
    lowered = alone.values[far] - against.values[far]
    assert float(lowered.min()) >= 0 and float(lowered.max()) < 0.1


def test_subtracting_one_part_leaves_the_other_parts() -> None:
    """Three parts of an object, alike to each other: unwanted is one, not whatever resembles it."""
    shared, own = (0.64**0.5, 0.36**0.5)
    parts = torch.cat([torch.full((3, 1), shared), own * torch.eye(3)], dim=1)
    values = score_features(parts, Query(parts[:1], parts[1:2]))
    assert float(values[0]) > 0.99 and float(values[1]) < -0.9 and float(values[2]) > 0.5


def test_score_is_the_cosine_without_negative_clicks(splat: TinySplat) -> None:
    query = Query(splat.field.unit[:1], splat.field.unit[:0])
    expected = torch.nn.functional.cosine_similarity(splat.field.features, splat.field.features[:1])
    torch.testing.assert_close(scores(splat.field, query).values, expected, rtol=0, atol=1e-5)


unit_vectors = st.integers(0, 2**31 - 1)


@settings(max_examples=50, deadline=None)
@given(unit_vectors, st.integers(1, 4), st.integers(0, 4))
def test_score_laws(seed: int, positives: int, negatives: int) -> None:
    """In [-1, 1]; order of clicks does not matter; a positive click never lowers, a negative never raises its own
    spot."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.nn.functional.normalize(torch.randn(20 + positives + negatives, 5, generator=generator), dim=1)
    pool, p, q = vectors[:20], vectors[20 : 20 + positives], vectors[20 + positives :]
    values = score_features(pool, Query(p, q))
    assert float(values.min()) >= -1 and float(values.max()) <= 1
    shuffled = score_features(pool, Query(p.flip(0), q.flip(0)))
    torch.testing.assert_close(values, shuffled, rtol=0, atol=1e-5)
    at_clicks = score_features(torch.cat([p, q]), Query(p, q))
    assert negatives == 0 or float(at_clicks[:positives].min()) > float(at_clicks[positives:].max())
    if negatives:
        assert bool((values <= score_features(pool, Query(p, q[:0])) + 1e-6).all())


def test_positive_and_negative_click_on_one_spot_stay_finite(splat: TinySplat) -> None:
    feature = splat.field.unit[:1]
    values = score_features(splat.field.unit, Query(feature, feature))
    assert bool(torch.isfinite(values).all())


def test_threshold_is_checked(splat: TinySplat) -> None:
    found = Scores(torch.tensor([0.2, 0.5]))
    assert found.above(0.5).mask.tolist() == [False, False]  # strictly above, as IoU(score > t) in the protocol
    assert found.above(-1).mask.tolist() == [True, True]
    for bad in (1.01, -2.0, float("nan")):
        with pytest.raises(SplatsegError, match=r"threshold: expected a value in \[-1, 1\]"):
            found.above(bad)


# Views -------------------------------------------------------------------------------------------------------------


def test_projection_and_pixel_scores_agree_on_a_clear_object(splat: TinySplat) -> None:
    query = make_query(FeatureSplat(splat.gaussians, splat.field), [part_click(splat, 2)])
    selected = scores(splat.field, query).above(0.3)
    mask = project_selection(splat.gaussians, selected, splat.camera)
    values = pixel_scores(FeatureSplat(splat.gaussians, splat.field), splat.camera, query)
    assert mask.shape == values.shape == (32, 48)
    column, row = splat.pixel_of(2)
    assert mask[row, column] and not mask[0, 0] and values[0, 0] == -1
    assert torch.equal(mask, values > 0.3) and int(mask.sum()) > 50


def test_projection_of_nothing_and_of_all(splat: TinySplat) -> None:
    none = Selection.none(len(splat.gaussians))
    assert not bool(project_selection(splat.gaussians, none, splat.camera).any())
    everything = project_selection(splat.gaussians, none.invert(), splat.camera)
    assert bool(everything[splat.pixel_of(0)[1], splat.pixel_of(0)[0]]) and not bool(everything[0, 0])


@pytest.mark.parametrize("count", [0, 1, 29, 30, 70])
def test_projections_together_are_those_of_each(splat: TinySplat, count: int) -> None:
    g = torch.Generator().manual_seed(count)
    some = [Selection(torch.rand(len(splat.gaussians), generator=g) < k / 70) for k in range(count)]
    together = project_selections(splat.gaussians, some, splat.camera)
    assert len(together) == count
    for mask, selection in zip(together, some, strict=True):
        assert torch.equal(mask, project_selection(splat.gaussians, selection, splat.camera))


def test_half_hidden_selection_does_not_show_through() -> None:
    """A selected wall behind an opaque one is not in the mask of the front view."""
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 11), torch.linspace(-1, 1, 11))
    depth = torch.zeros(121, 1)
    gaussians = make_gaussians(torch.cat([torch.cat([grid, depth], 1), torch.cat([grid, depth + 1], 1)]), scale=0.2)
    camera = make_splat().camera
    back = Selection(torch.arange(242) >= 121)
    assert not bool(project_selection(gaussians, back, camera)[16, 24])
    assert bool(project_selection(gaussians, back.invert(), camera)[16, 24])


def test_selection_of_another_splat(splat: TinySplat) -> None:
    with pytest.raises(SplatsegError, match="selection: expected one of 432 Gaussians, found one of 7"):
        project_selection(splat.gaussians, Selection.none(7), splat.camera)


# Sets and history --------------------------------------------------------------------------------------------------


masks = st.lists(st.booleans(), min_size=6, max_size=6).map(lambda bits: Selection(torch.tensor(bits)))


@given(masks, masks)
def test_set_laws(a: Selection, b: Selection) -> None:
    assert a | b == b | a and a & b == b & a
    assert ~(a | b) == ~a & ~b
    assert a - b == a & ~b
    assert len(a | b) == len(a) + len(b) - len(a & b)
    assert Selection.of(a.ids, 6) == a


def test_selection_rejects_other_sizes_types_and_ids() -> None:
    with pytest.raises(SplatsegError, match="selection of 3 Gaussians, found 4"):
        Selection.none(3).union(Selection.none(4))
    with pytest.raises(SplatsegError, match="expected bool, found int64"):
        Selection(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(SplatsegError, match=r"expected Gaussians 0\.\.2, found 0\.\.3"):
        Selection.of(torch.tensor([0, 3]), 3)
    assert len(Selection.of(torch.tensor([], dtype=torch.int64), 3)) == 0


def test_history_goes_back_and_forth() -> None:
    history = History("a")
    assert not history.can_undo and history.undo() == "a"  # nothing to undo is no error
    history.do("b")
    history.do("c")
    assert history.undo() == "b" and history.undo() == "a" and history.redo() == "b"
    history.do("d")  # a new step forgets what was undone
    assert not history.can_redo and history.redo() == "d" and history.undo() == "b"


def test_history_is_bounded() -> None:
    history = History(0, limit=3)
    for step in range(1, 10):
        history.do(step)
    assert [history.undo() for _ in range(4)] == [8, 7, 6, 6]
    with pytest.raises(SplatsegError, match=r"history\.limit"):
        History(0, limit=0)


@given(st.lists(st.sampled_from(["do", "undo", "redo"]), max_size=40))
def test_history_matches_a_list_with_a_cursor(steps: list[str]) -> None:
    history, states, cursor = History(0), [0], 0
    for number, step in enumerate(steps, 1):
        if step == "do":
            states, cursor = [*states[: cursor + 1], number], cursor + 1
            history.do(number)
        elif step == "undo":
            cursor = max(cursor - 1, 0)
            history.undo()
        else:
            cursor = min(cursor + 1, len(states) - 1)
            history.redo()
        assert history.state == states[cursor]
