"""The watershed source: nesting, determinism, borders on known edges, degenerate images, and the merge tree's laws."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.scene import View
from splatseg.masks import mask_source
from splatseg.masks.merge_tree import MergeWeights, RegionGraph, merge_regions
from splatseg.masks.watershed import WatershedConfig, WatershedMasks, region_graph, watershed_masks


def house(noise: float = 4.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An RGB image of a house with a door and a window on a plain ground, and the mask of each."""
    parts = {name: np.zeros((96, 128), bool) for name in ("house", "door", "window")}
    parts["house"][20:80, 30:100] = parts["door"][40:80, 40:60] = parts["window"][30:50, 70:90] = True
    image = np.full((96, 128, 3), (70, 120, 70), float)
    for name, color in (("house", (200, 60, 50)), ("door", (120, 60, 30)), ("window", (150, 150, 220))):
        image[parts[name]] = color
    image += np.random.default_rng(0).normal(0, noise, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), parts


def best_iou(masks: torch.Tensor, target: np.ndarray) -> float:
    wanted = torch.from_numpy(target)
    return float(((masks & wanted).sum((1, 2)) / (masks | wanted).sum((1, 2))).max())


def test_finds_parts_and_the_whole():
    image, parts = house()
    found = watershed_masks(image).stack()
    for name in parts:
        # A border may be off by a pixel all round, which costs the 20 x 20 window 1 - 18^2 / 20^2 = 19 %.
        assert best_iou(found, parts[name]) > 0.8, name


def test_any_two_masks_are_nested_or_disjoint_and_differ():
    masks = watershed_masks(house()[0])
    stack = masks.stack().flatten(1)
    assert len({counts.tobytes() for counts in masks.counts}) == len(masks) > 3
    for a, b in itertools.combinations(stack, 2):
        shared = int((a & b).sum())
        assert shared in (0, min(int(a.sum()), int(b.sum())))


def test_same_image_same_masks():
    image, _ = house()
    assert watershed_masks(image).to_coco() == watershed_masks(image.copy()).to_coco()


def test_areas_stay_within_the_settings():
    config = WatershedConfig(min_area=200, max_share=0.5, max_overlap=0.6)
    masks = watershed_masks(house()[0], config)
    assert masks.areas.min() >= 200 and masks.areas.max() <= 0.5 * 96 * 128
    stack = masks.stack().flatten(1)
    for a, b in itertools.permutations(stack, 2):
        if not bool((a & ~b).any()):  # a lies in b
            assert int(a.sum()) <= 0.6 * int(b.sum())


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (40, 40)], ids=str)
def test_images_without_any_edge_have_no_masks(shape: tuple[int, int]):
    image = np.full((*shape, 3), 128, np.uint8)
    masks = watershed_masks(image)
    assert (masks.height, masks.width, len(masks)) == (*shape, 0)
    assert region_graph(image, WatershedConfig()).areas.tolist() == [shape[0] * shape[1]]


def test_checkerboard_of_single_pixels_works():
    image = np.zeros((32, 48, 3), np.uint8)
    image[::2, ::2] = image[1::2, 1::2] = 255
    masks = watershed_masks(image)
    assert (masks.height, masks.width) == (32, 48)


def line_graph(colors: list[float]) -> RegionGraph:
    """Regions of one pixel in a row, alike by their gray values alone."""
    n = len(colors)
    borders: list[dict[int, tuple[float, float]]] = [{} for _ in range(n)]
    for i in range(n - 1):
        borders[i][i + 1] = borders[i + 1][i] = (1.0, 0.0)
    values = np.array(colors, float)
    return RegionGraph(np.arange(n)[None], np.ones(n), np.stack([values] * 3, 1), borders)


def test_the_most_alike_merge_first():
    tree = merge_regions(line_graph([0, 1, 10, 14, 50]), MergeWeights(border=0, color=1, size=0))
    assert tree.parents.tolist() == [5, 5, 6, 6, 8, 7, 7, 8, -1]
    assert tree.areas.tolist() == [1, 1, 1, 1, 1, 2, 2, 4, 5]


@pytest.mark.parametrize("regions", [1, 2, 5, 20, 100])
def test_every_cut_tiles_the_image(regions: int):
    graph = region_graph(house()[0], WatershedConfig())
    tree = merge_regions(graph, MergeWeights(1, 0.05, 0.4))
    nodes = tree.cut(regions)
    assert len(nodes) == min(regions, tree.leaves)
    rank, begin, end = tree.leaf_ranges()
    assert sorted(rank.tolist()) == list(range(tree.leaves))
    covered = sorted(r for node in nodes for r in range(begin[node], end[node]))
    assert covered == list(range(tree.leaves))
    areas = np.bincount(rank, graph.areas)
    assert [areas[begin[n] : end[n]].sum() for n in nodes] == tree.areas[nodes].tolist()


def test_more_regions_than_basins_gives_the_basins():
    tree = merge_regions(line_graph([0, 1, 2]), MergeWeights(0, 1, 0))
    assert tree.cut(50).tolist() == [0, 1, 2]


def test_source_reads_the_views_image(tmp_path: Path):
    image, _ = house()
    Image.fromarray(image).save(tmp_path / "a.png")
    camera = Camera(torch.eye(3), torch.eye(4), 128, 96)
    source = mask_source("watershed", config=WatershedConfig(cuts=(8, 4)))
    assert source.masks(View("a.png", camera, tmp_path / "a.png")).to_coco() == (
        watershed_masks(image, WatershedConfig(cuts=(8, 4))).to_coco()
    )
    assert source.settings()["cuts"] == (8, 4) and source.settings() != WatershedMasks().settings()
    with pytest.raises(SplatsegError, match=r"b\.png: image of view 'b\.png' not found"):
        source.masks(View("b.png", camera, tmp_path / "b.png"))


@pytest.mark.parametrize(
    "settings",
    [
        {"scales": ()},
        {"scales": (0.0,)},
        {"spacing": 0},
        {"cuts": ()},
        {"cuts": (0,)},
        {"max_share": 0.0},
        {"max_overlap": 1.1},
        {"min_area": -1},
        {"size": float("nan")},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict):
    with pytest.raises(SplatsegError, match=next(iter(settings))):
        WatershedConfig(**settings)
