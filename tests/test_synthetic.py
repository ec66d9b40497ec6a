"""Synthetic captures: exact labels, a layout that loader and evaluator read, and the same files for the same seed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from splatseg.core.errors import SplatsegError
from splatseg.evaluate.hierarchical import load_hierarchical
from splatseg.io import load_colmap
from splatseg.masks import MaskSet
from splatseg.synthetic import SceneConfig, build_world, cast_view, look_at, make_cameras, write_scene
from splatseg.synthetic.surface import inside, sample_surface
from splatseg.synthetic.world import MAX_OBJECTS, ROOM_HALF

ROOT = Path(__file__).parent.parent
SMALL = SceneConfig(objects=3, views=5, test_views=2, width=96, height=72, seed=3)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("synthetic") / "scene", SMALL)


def levels_of(scene: Path, view: str) -> np.ndarray:
    with np.load(scene / "gt" / f"{view}.npz") as file:
        return file["levels"]


def test_the_tree_has_parts_in_objects_in_groups() -> None:
    world = build_world(6, seed=0)
    nodes = {node.id: node for node in world.nodes}
    assert sorted(nodes) == list(range(1, len(nodes) + 1)) and world.depth == 3
    for node in world.nodes:
        assert node.depth == node.name.count("/")
        assert node.parent == 0 if node.depth == 0 else nodes[node.parent].name == node.name.rpartition("/")[0]
    objects = [n for n in world.nodes if n.depth == 1 and not n.stuff]
    assert len(objects) == 6
    for node in objects:
        assert 2 <= sum(child.parent == node.id for child in world.nodes) <= 3
    table = world.level_table()
    leaf = next(n for n in world.nodes if n.depth == 2)
    assert table[:, leaf.id].tolist() == [leaf.id, leaf.parent, nodes[leaf.parent].parent]
    floor = next(n for n in world.nodes if n.name == "room/floor")
    assert table[:, floor.id].tolist() == [floor.id, floor.id, floor.parent]  # a shallow leaf fills the finer level
    assert not table[:, 0].any()


@pytest.mark.parametrize("objects", [1, 4, MAX_OBJECTS])
def test_objects_stand_on_the_floor_and_in_the_room(objects: int) -> None:
    world = build_world(objects, seed=1)
    assert len(world.footprints) == objects
    for solid in world.solids:
        corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3) * solid.half @ solid.axes.T
        assert np.allclose(solid.axes.T @ solid.axes, np.eye(3), atol=1e-12)
        assert (corners + solid.center)[:, 2].min() > -0.03  # a wheel's box is a few percent lower than the wheel
        assert (np.abs((corners + solid.center)[:, :2]) < ROOM_HALF[:2]).all()


def test_depth_and_leaf_agree_with_the_solids_themselves() -> None:
    # A hit point is on the surface of a solid of its leaf: just before it lies in no solid, just behind it in one.
    world = build_world(4, seed=2)
    camera = make_cameras(SMALL, np.random.default_rng(0))[0][1]
    frame = cast_view(world, camera)
    rows, columns = np.nonzero(np.isin(frame.leaf, [s.leaf for s in world.solids]))
    assert len(rows) > 300
    pixels = torch.from_numpy(np.stack([columns, rows], 1))
    depth = torch.from_numpy(frame.depth[rows, columns])
    before = camera.unproject(pixels, depth * 0.999).double().numpy()
    behind = camera.unproject(pixels, depth * 1.001).double().numpy()
    covered = np.zeros(len(rows), bool)
    for solid in world.solids:
        assert not inside(solid, before, margin=2e-3).any()
        covered |= (frame.leaf[rows, columns] == solid.leaf) & inside(solid, behind, margin=0)
    # Rays that graze a silhouette leave the solid again within the 0.1 % step; they are few.
    assert covered.mean() > 0.97


def test_labels_follow_the_camera_rule_of_pixel_centers() -> None:
    # The center of a lone solid, seen from straight ahead, projects into pixels labeled with its leaf.
    world = build_world(1, seed=0)
    shade = max(world.solids, key=lambda s: s.center[2])
    position = shade.center + np.array([1.5, 0.3, 0.4])
    camera = look_at(position, shade.center, 65, 49)
    frame = cast_view(world, camera)
    uv, depth = camera.project(torch.tensor(shade.center[None], dtype=torch.float32))
    u, v = (int(x) for x in uv[0].floor())
    assert (u, v) == (32, 24) and frame.leaf[v, u] == shade.leaf
    nearest, farthest = shade.half.min(), shade.half.max()
    assert depth[0] - farthest <= frame.depth[v, u] <= depth[0] - nearest + 1e-6


def test_a_camera_close_to_a_solid_sees_it_whole() -> None:
    # The bounding rectangle is not usable when a corner is behind the camera: the whole image must be searched.
    world = build_world(1, seed=0)
    base = min(world.solids, key=lambda s: s.center[2])
    camera = look_at(base.center + np.array([0, 0.02, base.half[2] + 0.03]), base.center, 40, 30)
    assert (cast_view(world, camera).leaf == base.leaf).mean() > 0.2


def test_the_same_seed_gives_the_same_files_and_another_seed_others(scene: Path, tmp_path: Path) -> None:
    again = write_scene(tmp_path / "again", SMALL)
    files = sorted(p.relative_to(scene) for p in scene.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert [f for f in files if (scene / f).read_bytes() != (again / f).read_bytes()] == []
    assert (build_world(3, 3).solids[0].center != build_world(3, 4).solids[0].center).any()


def test_the_capture_loads_as_a_colmap_scene(scene: Path) -> None:
    loaded = load_colmap(scene)
    assert [view.name for view in loaded.views] == [f"train_{i:03}.jpg" for i in range(5)]
    expected = make_cameras(SMALL, np.random.default_rng(SMALL.seed))[0]
    for view, camera in zip(loaded.views, expected, strict=True):
        assert torch.allclose(view.camera.cam_from_world, camera.cam_from_world, atol=1e-6)
        assert torch.allclose(view.camera.K, camera.K) and view.image().shape == (72, 96, 3)
    assert len(loaded.points.xyz) > 500
    # Sparse points are on surfaces: in the room, and colored like the pixel they project to in the first view.
    assert bool((loaded.points.xyz.abs()[:, :2] <= torch.tensor(ROOM_HALF[:2]) + 1e-3).all())


def test_ground_truth_reads_as_a_hierarchical_scene_with_nested_queries(scene: Path) -> None:
    truth = load_hierarchical(scene)
    assert sorted(truth.views) == ["test_000", "test_001"] and len(truth.queries) >= 8
    assert any(q.core for q in truth.queries) and any(not q.core for q in truth.queries)
    for query in truth.queries:
        levels = truth.levels(query.view)
        part, whole = (levels == query.l1).any(0), (levels == query.l2).any(0)
        assert part[query.pixel[1], query.pixel[0]]
        assert not (part & ~whole).any() and part.sum() < whole.sum()
        assert truth.nodes[query.l1].parent == query.l2


def test_levels_nest_and_are_the_rays_labels(scene: Path) -> None:
    levels = levels_of(scene, "train_002")
    assert levels.shape == (3, 72, 96) and levels.dtype == np.uint16 and (levels > 0).all()
    camera = make_cameras(SMALL, np.random.default_rng(SMALL.seed))[0][2]
    assert np.array_equal(levels[0], cast_view(build_world(3, 3), camera).leaf)
    parents = {n["id"]: n["parent"] for n in json.loads((scene / "gt/tree.json").read_text())["nodes"]}
    for fine, coarse in ((0, 1), (1, 2)):
        for a, b in np.unique(np.stack([levels[fine].ravel(), levels[coarse].ravel()]), axis=1).T.tolist():
            assert a == b or parents[a] == b


def test_surface_points_carry_the_levels_and_are_not_buried(scene: Path) -> None:
    rows = PlyData.read(str(scene / "gt/points.ply"))["vertex"].data
    assert len(rows) == 20_000 and rows.dtype.names == ("x", "y", "z", "level_0", "level_1", "level_2")
    world = build_world(3, 3)
    table = world.level_table()
    assert np.array_equal(np.stack([rows["level_1"], rows["level_2"]]), table[1:, rows["level_0"]])
    points, _ = sample_surface(world, 2000, np.random.default_rng(0))
    assert not any(inside(solid, points, margin=1e-3).any() for solid in world.solids)


def test_simulated_masks_are_what_amg_writes_and_overlap_the_truth_imperfectly(scene: Path) -> None:
    best = []
    for index in range(SMALL.views):
        annotations = json.loads((scene / "masks_2d" / f"train_{index:03}.json").read_text())
        masks = MaskSet.from_coco(annotations)
        assert (masks.height, masks.width) == (72, 96) and len(masks) >= 5
        assert [a["area"] for a in annotations] == masks.areas.tolist()
        assert [a["bbox"] for a in annotations] == masks.boxes().tolist()
        levels = levels_of(scene, f"train_{index:03}")
        truth = [(levels == node).any(0) for node in np.unique(levels)]
        dense = masks.stack().numpy()
        for annotation, mask in zip(annotations, dense, strict=True):
            (x, y), *_ = annotation["point_coords"]
            assert mask[int(y), int(x)]
            best.append(max((mask & t).sum() / (mask | t).sum() for t in truth))
    assert np.mean(np.array(best) > 0.6) > 0.5  # most are near a node of the tree ...
    assert min(best) < 0.5 and np.mean(best) < 0.95  # ... some are no node, and borders have moved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objects": 0}, r"objects: expected 1\.\.12, found 0"),
        ({"objects": 13}, r"objects: expected 1\.\.12, found 13"),
        ({"views": 2}, "views: expected at least 3, found 2"),
        ({"test_views": 0}, "test_views: expected at least 1"),
        ({"width": 8}, "width: expected at least 32"),
        ({"seed": -1}, "seed: expected at least 0"),
    ],
)
def test_sizes_out_of_range_are_named_and_nothing_is_left(
    tmp_path: Path, options: dict[str, int], message: str
) -> None:
    with pytest.raises(SplatsegError, match=message):
        write_scene(tmp_path / "scene", SceneConfig(**options))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(SplatsegError, match="expected a new or empty folder"):
        write_scene(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_script_writes_a_scene_and_refuses_to_overwrite_it(tmp_path: Path) -> None:
    size = ["--objects", "1", "--views", "3", "--test-views", "1", "--width", "48", "--height", "36"]
    command = [sys.executable, "scripts/synthesize.py", str(tmp_path / "s"), *size]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(load_colmap(tmp_path / "s").views) == 3
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120)
    assert again.returncode == 2 and again.stderr.startswith(f"error: {tmp_path / 's'}: expected a new or empty folder")
    assert again.stderr.count("\n") == 1
