"""A run folder for the viewer's tests that looks like a fitted one: a synthetic room, Gaussians on its known surfaces.

No fit is needed: Gaussians lie where the ray-cast surfaces are, in their colors, and features follow the known tree
(an axis a node, so that two Gaussians are the more alike the deeper their common ancestor).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from splatseg.core.camera import Camera
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import SH_C0, Gaussians
from splatseg.io.ply import save_gaussians
from splatseg.io.run import Run
from splatseg.synthetic import SceneConfig, write_scene
from splatseg.synthetic.raycast import cast_view, texture
from splatseg.synthetic.surface import sample_surface
from splatseg.synthetic.world import World, build_world

FLOOR = 4  # among the room's faces
FLOOR_RADIUS = 1.5
SHARES = (0.3, 0.34, 0.36)  # of the squared length of a feature: group, object, part
DIM = 48


@dataclass(frozen=True)
class KnownScene:
    """A run on disk and the truth about it: ``leaves`` (n,) is the tree's leaf of each Gaussian."""

    run: Run
    world: World
    leaves: np.ndarray

    def ancestor(self, leaf: int, depth: int) -> int:
        """The node above ``leaf`` at ``depth`` (0: group, 1: object, 2: part)."""
        nodes = {node.id: node for node in self.world.nodes}
        while nodes[leaf].depth > depth:
            leaf = nodes[leaf].parent
        return leaf

    def inside(self, leaf: int, depth: int) -> np.ndarray:
        """(n,) bool: Gaussians whose ancestor at ``depth`` is that of ``leaf``."""
        kin = [k for k in np.unique(self.leaves) if self.ancestor(int(k), depth) == self.ancestor(leaf, depth)]
        return np.isin(self.leaves, kin)

    def leaf(self, name: str) -> int:
        """The leaf whose name ends in ``name``, such as ``mug/body``."""
        (found,) = (node.id for node in self.world.nodes if node.name.endswith(name))
        return found

    def pixel_of(self, camera: Camera, leaf: int) -> tuple[float, float]:
        """An image position well inside what ``camera`` sees of ``leaf``, as shares of the picture's size."""
        from scipy.ndimage import distance_transform_edt

        seen = cast_view(self.world, camera).leaf == leaf
        if not seen.any():
            raise AssertionError(f"leaf {leaf} is not seen")
        row, column = np.unravel_index(int(distance_transform_edt(np.pad(seen, 1))[1:-1, 1:-1].argmax()), seen.shape)
        return (column + 0.5) / camera.width, (row + 0.5) / camera.height


def make_known_scene(folder: Path, count: int = 8_000, seed: int = 0, views: int = 3) -> KnownScene:
    """Write a capture to ``folder/scene`` and a run with at most ``count`` Gaussians to ``folder/run``."""
    config = SceneConfig(objects=6, views=views, test_views=1, width=320, height=240, seed=seed)
    scene = write_scene(folder / "scene", config)
    world = build_world(config.objects, seed)
    rng = np.random.default_rng(seed)
    points, leaves = sample_surface(world, count, rng)
    # Far and large walls would only cost drawing time; without them there is empty space to click into.
    stuff = np.isin(leaves, world.room_leaves)
    floor = _floor(count // 6, rng)
    points = np.concatenate([points[~stuff], floor])
    leaves = np.concatenate([leaves[~stuff], np.full(len(floor), world.room_leaves[FLOOR], np.int64)])
    gaussians = _gaussians(world, points.astype(np.float32), leaves, rng)
    run = Run.open(folder / "run", {"scene": str(scene), "downscale": 1})
    save_gaussians(run.geometry, gaussians)
    FeatureField(_features(world, leaves, rng), gaussians.fingerprint()).save(run.features)
    return KnownScene(run, world, leaves)


def _floor(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3) points on a round piece of the floor."""
    radius, angle = FLOOR_RADIUS * np.sqrt(rng.uniform(size=count)), rng.uniform(0, 2 * np.pi, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(count)], axis=1)


def _gaussians(world: World, points: np.ndarray, leaves: np.ndarray, rng: np.random.Generator) -> Gaussians:
    """Balls of about the distance to the next point, in the color of the surface."""
    from scipy.spatial import cKDTree

    spacing = cKDTree(points).query(points, k=4)[0][:, 1:].mean(1)
    n = len(points)
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    scales = torch.from_numpy(np.clip(spacing, 0.004, 0.1)).float()[:, None].expand(n, 3)
    sh = (torch.from_numpy(_colors(world, points, leaves)).float() - 0.5) / SH_C0
    return Gaussians(
        torch.from_numpy(points), quats, scales.mul(0.8).log(), torch.full((n,), 4.0), sh[:, None].contiguous()
    )


def _colors(world: World, points: np.ndarray, leaves: np.ndarray) -> np.ndarray:
    colors = np.full((len(points), 3), 0.5)
    for face, leaf in enumerate(world.room_leaves):
        mine = leaves == leaf
        colors[mine] = texture(world.room_materials[face], points[mine])
    for solid in world.solids:
        local = (points - solid.center) @ solid.axes
        mine = (leaves == solid.leaf) & (np.abs(local) <= solid.half * 1.01).all(1)
        colors[mine] = texture(solid.material, local[mine])
    return colors


def _features(world: World, leaves: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    nodes = {node.id: node for node in world.nodes}
    axes = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]  # orthogonal: a node is its axis
    codes = np.zeros((max(nodes) + 1, DIM))
    for leaf in np.unique(leaves):
        node = nodes[int(leaf)]
        while True:
            codes[leaf] += np.sqrt(SHARES[node.depth]) * axes[node.id]
            if not node.parent:
                break
            node = nodes[node.parent]
    features = codes[leaves] + rng.normal(size=(len(leaves), DIM)) * 0.02
    return torch.from_numpy(features).float()
