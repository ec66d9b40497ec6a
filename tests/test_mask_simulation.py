"""The mask simulator: each knob does what its number says, measured on exact labels of ray-cast views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from splatseg.core.errors import SplatsegError
from splatseg.masks import MaskSet
from splatseg.synthetic import MaskSimulation, SceneConfig, build_world, cast_view, make_cameras, write_scene
from splatseg.synthetic.mask_simulation import (
    SMALLEST,
    SimulatedMask,
    encode_masks,
    move_border,
    simulate_masks,
    visible_masks,
)

CONFIG = SceneConfig(objects=9, views=12, test_views=1, width=120, height=90)
WORLD = build_world(CONFIG.objects, CONFIG.seed)
NODES = {node.id: node for node in WORLD.nodes}
VIEWS = tuple(f"train_{index:03}" for index in range(CONFIG.views))
perfect = MaskSimulation.perfect


@cache
def levels_of(view: str) -> np.ndarray:
    camera = make_cameras(CONFIG, np.random.default_rng(0))[0][VIEWS.index(view)]
    return WORLD.level_table()[:, cast_view(WORLD, camera).leaf]


def simulated(view: str, config: MaskSimulation) -> list[SimulatedMask]:
    return simulate_masks(WORLD.nodes, levels_of(view), view, config)


@cache
def exact(view: str) -> dict[int, np.ndarray]:
    return visible_masks(NODES, levels_of(view), SMALLEST)


def test_perfect_masks_are_the_visible_nodes_themselves() -> None:
    for view in VIEWS[:3]:
        masks, truth = simulated(view, perfect()), exact(view)
        assert [one.node for one in masks] == sorted(truth)
        assert all(np.array_equal(one.mask, truth[one.nodes[0]]) for one in masks)


LEVELS: dict[str, Callable[[int], bool]] = {
    "keep_parts": lambda n: NODES[n].depth >= 2 and not NODES[n].stuff,
    "keep_objects": lambda n: NODES[n].depth == 1 and not NODES[n].stuff,
    "keep_groups": lambda n: NODES[n].depth == 0 and not NODES[n].stuff,
    "keep_stuff": lambda n: NODES[n].stuff,
}


@pytest.mark.parametrize("knob", LEVELS)
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_share_kept_is_the_share_asked_for_at_its_level_only(knob: str, share: float) -> None:
    kept = visible = others = 0
    for seed in range(6):
        for view in VIEWS:
            nodes = {one.node for one in simulated(view, perfect(**{knob: share}, seed=seed))}
            chosen = {number for number in exact(view) if LEVELS[knob](number)}
            kept, visible = kept + len(nodes & chosen), visible + len(chosen)
            others += len(exact(view).keys() - chosen - nodes)
    assert others == 0 and visible >= 200
    assert abs(kept / visible - share) <= 3.5 * np.sqrt(share * (1 - share) / visible)  # deviations of a binomial


def test_a_larger_share_keeps_what_a_smaller_one_kept() -> None:
    few, more = (
        {(view, one.node) for view in VIEWS for one in simulated(view, perfect(keep_parts=share))}
        for share in (0.3, 0.6)
    )
    assert few < more


def border_distance(moved: np.ndarray, mask: np.ndarray) -> float:
    """Mean distance in pixels from the moved border to the first one; the image's edge is no border."""

    def border(one: np.ndarray) -> np.ndarray:
        return one & ndimage.binary_dilation(~one)

    return float(ndimage.distance_transform_edt(~border(mask))[border(moved)].mean())


@pytest.mark.parametrize("error", [1.0, 2.0, 4.0])
def test_the_border_error_is_the_mean_distance_of_the_border(error: float) -> None:
    y, x = np.mgrid[0:180, 0:200]
    disk, half = (x - 95) ** 2 + (y - 90) ** 2 < 60**2, x + 0.3 * y < 130
    found = []
    for number in range(12):
        for mask in (disk, half):
            moved = move_border(mask, error, np.random.default_rng(number))
            distance = np.where(mask, ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask))
            assert distance[moved ^ mask].max() <= 3 * error + 1, "farther than three times the error"
            found.append(border_distance(moved, mask))
    assert np.mean(found) == pytest.approx(error, rel=0.2)


def test_masks_without_a_border_and_without_error_stay() -> None:
    rng = np.random.default_rng(0)
    whole, none = np.ones((20, 30), bool), np.zeros((20, 30), bool)
    assert move_border(whole, 3.0, rng).all() and not move_border(none, 3.0, rng).any()
    disk = np.hypot(*(np.mgrid[0:20, 0:30] - 10)) < 6
    assert np.array_equal(move_border(disk, 0, rng), disk)


def test_the_border_at_the_edge_of_the_image_stays_there() -> None:
    mask = np.zeros((60, 80), bool)
    mask[:, :40] = True
    moved = move_border(mask, 3.0, np.random.default_rng(1))
    assert moved[:, :25].all() and not moved[:, 55:].any() and (moved != mask).any()


def test_merged_masks_are_two_siblings_that_touch() -> None:
    merged = total = 0
    for view in VIEWS:
        truth = exact(view)
        for one in simulated(view, perfect(merges=1.0)):
            total += 1
            if len(one.nodes) == 1:
                near = ndimage.binary_dilation(one.mask, iterations=2)
                siblings = [n for n in truth if n != one.node and NODES[n].parent == NODES[one.nodes[0]].parent]
                assert not any((near & truth[n]).any() for n in siblings), "a sibling touches and is left out"
                continue
            merged += 1
            first, second = one.nodes
            assert NODES[first].parent == NODES[second].parent and one.node is None
            assert np.array_equal(one.mask, truth[first] | truth[second])
    assert merged > 0.5 * total
    some = [one for view in VIEWS for one in simulated(view, perfect(merges=0.3))]
    assert 0.15 < sum(len(one.nodes) == 2 for one in some) / merged < 0.45


def test_split_masks_are_the_two_pieces_of_a_node() -> None:
    for view in VIEWS[:4]:
        truth, pieces = exact(view), {}
        for one in simulated(view, perfect(splits=1.0)):
            assert one.piece and one.node is None
            pieces.setdefault(one.nodes[0], []).append(one.mask)
        assert max(map(len, pieces.values())) == 2
        for number, masks in pieces.items():
            assert not np.all(masks, axis=0).any() or len(masks) == 1
            assert not (np.any(masks, axis=0) & ~truth[number]).any()


def test_clutter_adds_regions_that_are_no_node() -> None:
    counts = []
    for view in VIEWS:
        plain, more = simulated(view, perfect()), simulated(view, perfect(clutter=20))
        assert [one.nodes for one in more[: len(plain)]] == [one.nodes for one in plain]
        rest = more[len(plain) :]
        assert all(one.nodes == () and one.node is None for one in rest)
        counts.append(len(rest))
    assert 15 <= np.mean(counts) <= 20  # some lie outside the image or are too small


@pytest.mark.parametrize("merges", [0.0, 0.5])
def test_only_parts_and_only_wholes(merges: float) -> None:
    parents = {node.parent for node in WORLD.nodes}
    for view in VIEWS:
        truth = exact(view)
        parts = [truth[n] for n in truth if NODES[n].depth >= 2 or n not in parents]
        objects = {n for n in truth if NODES[n].depth <= 1}
        shown = simulated(view, perfect(show="parts", merges=merges))
        for one in shown:
            within = [not (one.mask & ~part).any() for part in parts]
            assert any(within) or len(one.nodes) == 2
        wholes = simulated(view, perfect(show="wholes", merges=merges))
        assert {n for one in wholes for n in one.nodes} == objects
        assert shown and wholes


def test_one_mask_per_view_is_the_object_in_the_middle() -> None:
    for view in VIEWS:
        (one,) = simulated(view, MaskSimulation(show="center", border_error=0.0, clutter=9, keep_objects=0.0))
        assert one.node is not None and NODES[one.node].depth == 1 and not NODES[one.node].stuff
        truth = exact(view)
        assert np.array_equal(one.mask, truth[one.node])
        y, x = np.mgrid[0 : CONFIG.height, 0 : CONFIG.width]
        away = np.hypot(x + 0.5 - CONFIG.width / 2, y + 0.5 - CONFIG.height / 2)
        others = [n for n in truth if NODES[n].depth == 1 and not NODES[n].stuff]
        assert away[one.mask].min() == min(away[truth[n]].min() for n in others)
    empty = np.zeros_like(levels_of(VIEWS[0]))
    assert simulate_masks(WORLD.nodes, empty, "empty", MaskSimulation(show="center")) == []


def test_every_fourth_view_has_masks_and_the_others_none(tmp_path: Path) -> None:
    assert MaskSimulation(every=4).views(["c", "a", "b", "e", "d"]) == ["a", "e"]
    config = replace(CONFIG, views=9, width=64, height=48, masks=MaskSimulation(every=4))
    folder = write_scene(tmp_path / "scene", config)
    assert sorted(path.stem for path in (folder / "masks_2d").iterdir()) == ["train_000", "train_004", "train_008"]
    assert len(list((folder / "images").iterdir())) == 9


def test_equal_seed_and_name_give_equal_masks_and_others_do_not() -> None:
    def bits(view: str, name: str, seed: int) -> list[bytes]:
        config = MaskSimulation(seed=seed)
        return [one.mask.tobytes() for one in simulate_masks(WORLD.nodes, levels_of(view), name, config)]

    first = bits(VIEWS[0], "a", 0)
    assert first == bits(VIEWS[0], "a", 0)
    assert first != bits(VIEWS[0], "b", 0) and first != bits(VIEWS[0], "a", 1)


def test_the_draws_of_one_knob_do_not_move_those_of_another() -> None:
    plain, cluttered = (simulated(VIEWS[1], MaskSimulation(clutter=count)) for count in (0, 12))
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(plain, cluttered, strict=False))
    whole = {one.node: one.mask for one in simulated(VIEWS[1], perfect(border_error=2.0))}
    fewer = simulated(VIEWS[1], perfect(border_error=2.0, keep_parts=0.5))
    assert fewer and all(np.array_equal(one.mask, whole[one.node]) for one in fewer)


def test_masks_are_written_as_amg_writes_them() -> None:
    masks = simulated(VIEWS[2], MaskSimulation())
    written = encode_masks(masks, VIEWS[2])
    assert written == encode_masks(masks, VIEWS[2]) and encode_masks([], VIEWS[2]) == []
    assert np.array_equal(MaskSet.from_coco(written).stack().numpy(), np.stack([one.mask for one in masks]))
    assert all(one.mask.sum() >= SMALLEST * one.mask.size for one in masks)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"keep_parts": 1.5}, r"masks.keep_parts: expected a share in 0..1, found 1.5"),
        ({"merges": -0.1}, r"masks.merges: expected a share in 0..1, found -0.1"),
        ({"border_error": float("nan")}, r"masks.border_error: expected 0..20 pixels, found nan"),
        ({"border_error": 21.0}, r"masks.border_error: expected 0..20 pixels, found 21.0"),
        ({"clutter": -1}, "masks.clutter: expected at least 0, found -1"),
        ({"every": 0}, "masks.every: expected at least 1, found 0"),
        ({"show": "some"}, "masks.show: expected one of all, parts, wholes, center, found 'some'"),
    ],
)
def test_knobs_out_of_range_are_named(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(SplatsegError, match=message):
        MaskSimulation(**knobs)  # type: ignore[arg-type]
