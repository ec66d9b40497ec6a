"""Masks to hierarchy: laws of absorption and ordering, votes, the file format, and refusal of damaged files."""

from __future__ import annotations

import gc
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from splatseg.core.errors import SplatsegError
from splatseg.masks import MaskSet
from splatseg.masks.hierarchy import HierarchyConfig, HierarchyFolder, PatchHierarchy, build_hierarchy


def scattered(n: int = 40, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """(n, h, w) bool rectangles of all sizes, each third one a slightly cut copy of the one before: nearly nested."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, height, width), bool)
    for i, mask in enumerate(masks):
        top, left = rng.integers(0, height - 2), rng.integers(0, width - 2)
        mask[top : top + rng.integers(2, height), left : left + rng.integers(2, width)] = True
        if i % 3 == 2:
            mask[:] = masks[i - 1] & (rng.random((height, width)) < 0.97)
    return masks


def equal(a: PatchHierarchy, b: PatchHierarchy) -> bool:
    return torch.equal(a.patch_ids, b.patch_ids) and torch.equal(a.membership, b.membership)


def test_order_of_masks_changes_nothing():
    dense = np.concatenate([scattered(), scattered()[:5]])  # some twice: equal areas and equal masks
    expected = build_hierarchy(MaskSet.from_dense(dense))
    for seed in range(3):
        shuffled = dense[np.random.default_rng(seed).permutation(len(dense))]
        assert equal(build_hierarchy(MaskSet.from_dense(shuffled)), expected)


def test_equal_areas_that_nearly_coincide_do_not_depend_on_order():
    row = np.arange(100)
    dense = np.stack([(row >= start) & (row < start + 50) for start in (0, 2, 4, 6)])[:, None]  # overlaps of 88 to 96 %
    found = [build_hierarchy(MaskSet.from_dense(dense[list(order)])) for order in itertools.permutations(range(4))]
    assert all(equal(one, found[0]) for one in found)


def test_nesting_only_adds_pixels_and_what_is_absorbed_lies_inside():
    masks = MaskSet.from_dense(scattered())
    order = np.argsort(masks.areas, kind="stable")
    plain = build_hierarchy(masks, HierarchyConfig(nesting=1.0))
    nested = build_hierarchy(masks, HierarchyConfig(nesting=0.9))
    grown = torch.stack([nested.mask(i) for i in range(len(masks))])
    before = torch.stack([plain.mask(i) for i in range(len(masks))])
    assert sorted(before.sum((1, 2)).tolist()) == masks.areas[order].tolist()
    assert not bool((before & ~grown).any())
    absorbed = 0
    for j, i in itertools.product(range(len(masks)), repeat=2):
        if i < j and int((grown[i] & before[j]).sum()) > 0.9 * int(grown[i].sum()):
            assert not bool((grown[i] & ~grown[j]).any())
            assert int(grown[i].sum()) <= int(grown[j].sum())
            absorbed += not bool(torch.equal(before[j] & before[i], before[i]))
    assert absorbed > 3  # the scene does hold nearly nested masks


def test_without_nesting_masks_keep_their_pixels():
    dense = scattered(12)
    hierarchy = build_hierarchy(MaskSet.from_dense(dense), HierarchyConfig(nesting=1.0))
    found = {hierarchy.mask(i).numpy().tobytes() for i in range(12)}
    assert found == {mask.tobytes() for mask in dense}


def test_image_without_masks_is_all_patch_zero():
    for masks in (MaskSet.empty(5, 7), MaskSet.from_dense(np.zeros((3, 5, 7)))):
        hierarchy = build_hierarchy(masks)
        assert hierarchy.patch_ids.shape == (5, 7) and int(hierarchy.patch_ids.max()) == 0
        assert hierarchy.membership.shape == (1, 1) and hierarchy.votes().tolist() == [[0]]


def test_fully_covered_image_keeps_id_zero_free():
    dense = np.ones((2, 6, 8), bool)
    dense[0, :, 4:] = False
    hierarchy = build_hierarchy(MaskSet.from_dense(dense))
    assert int(hierarchy.patch_ids.min()) == 1
    assert hierarchy.areas().tolist() == [0, 24, 24]
    assert hierarchy.votes().tolist() == [[0, 0, 0], [0, 2, 1], [0, 1, 1]]


def test_small_masks_are_left_out():
    dense = np.zeros((2, 4, 4), bool)
    dense[0, 0, :2] = dense[1, :, 1:] = True
    assert len(build_hierarchy(MaskSet.from_dense(dense), HierarchyConfig(min_area=3))) == 2
    assert len(build_hierarchy(MaskSet.from_dense(dense), HierarchyConfig(min_area=2))) == 4


def test_votes_of_chosen_patches_are_rows_and_columns_of_all():
    hierarchy = build_hierarchy(MaskSet.from_dense(scattered(100)))
    ids = torch.tensor([5, 0, 17, 5])
    assert torch.equal(hierarchy.votes(ids), hierarchy.votes()[ids][:, ids])


def test_masks_of_a_patch_grow_and_hold_its_pixels():
    hierarchy = build_hierarchy(MaskSet.from_dense(scattered(100)), HierarchyConfig(nesting=1.0))
    patch = int(hierarchy.votes().diagonal().argmax())
    numbers = hierarchy.masks_of(patch)
    assert len(numbers) == int(hierarchy.votes()[patch, patch]) > 2
    areas = [int(hierarchy.mask(number).sum()) for number in numbers]
    assert areas == sorted(areas)
    assert all(bool(hierarchy.mask(number)[hierarchy.patch_ids == patch].all()) for number in numbers)
    assert hierarchy.masks_of(0) == []


@pytest.mark.parametrize("masks", [scattered(70), np.random.default_rng(0).random((30, 260, 260)) < 0.5])
def test_saved_hierarchy_reads_back_to_the_bit(tmp_path: Path, masks: np.ndarray):
    hierarchy = build_hierarchy(MaskSet.from_dense(masks))  # the second has over 2^16 patches: 32-bit rows
    path = tmp_path / "deep" / "view.jpg.npz"
    hierarchy.save(path)
    assert equal(PatchHierarchy.load(path), hierarchy)
    assert [p.name for p in path.parent.iterdir()] == ["view.jpg.npz"]


def test_real_views_stay_small_on_disk(data_dir: Path, tmp_path: Path):
    import json

    for name in ("train_000", "train_003"):
        masks = MaskSet.from_coco(json.loads((data_dir / f"dev_kitchen/masks_2d/{name}.json").read_text()))
        path = tmp_path / f"{name}.npz"
        build_hierarchy(masks).save(path)
        assert path.stat().st_size < 150_000


def test_folder_reads_when_asked(tmp_path: Path):
    folder = HierarchyFolder(tmp_path)
    assert list(folder) == []
    first, second = build_hierarchy(MaskSet.from_dense(scattered(5))), build_hierarchy(MaskSet.empty(3, 4))
    first.save(folder.path("cam0/a.jpg"))
    second.save(folder.path("b.png"))
    assert list(folder) == ["b.png", "cam0/a.jpg"] and len(folder) == 2
    assert equal(folder["cam0/a.jpg"], first) and "b.png" in folder and "c.png" not in folder
    with pytest.raises(KeyError):
        folder["c.png"]


def test_damaged_files_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "view.npz"
    with pytest.raises(SplatsegError, match=r"view\.npz: hierarchy not found"):
        PatchHierarchy.load(path)
    build_hierarchy(MaskSet.from_dense(scattered())).save(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"text", whole[:200] + bytes(100) + whole[300:]):
        path.write_bytes(damaged)
        with pytest.raises(SplatsegError, match=r"view\.npz: "):
            PatchHierarchy.load(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(SplatsegError, match=r"view\.npz: expected a hierarchy"):
        PatchHierarchy.load(path)
    np.savez(path, format=1, rows=np.full((2, 2), 9, np.uint16), membership=np.zeros((2, 1), np.int64))
    with pytest.raises(SplatsegError, match=r"view\.npz: patch_ids: expected 0\.\.1, found 9\.\.18"):
        PatchHierarchy.load(path)


@pytest.mark.parametrize("settings", [{"nesting": 0}, {"nesting": 1.1}, {"min_area": 0}])
def test_settings_out_of_range_are_refused(settings: dict):
    with pytest.raises(SplatsegError, match=next(iter(settings))):
        HierarchyConfig(**settings)


def test_many_threads_read_hierarchies_at_once(tmp_path: Path) -> None:
    """numpy parses an array's header by Python's parser, in which CPython 3.11 bears no second thread at another depth
    of calls, such as one that goes on while garbage is collected: a fit that read ahead ended with a SystemError."""
    path = tmp_path / "one.npz"
    hierarchy = build_hierarchy(MaskSet.from_dense(np.eye(4, dtype=bool)[:, None].repeat(4, 1)))
    hierarchy.save(path)

    def load_below(frames: int) -> PatchHierarchy:
        return load_below(frames - 1) if frames % 9 else PatchHierarchy.load(path)

    thresholds = gc.get_threshold()
    gc.callbacks.append(lambda phase, about: time.sleep(0))
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(load_below, range(300)))
    finally:
        gc.callbacks.pop()
        gc.set_threshold(*thresholds)
    assert all(equal(one, hierarchy) for one in found)
