"""Two captures side by side as one: dev_kitchen, and behind its back wall dev_robots, 110 photos; fitted in blocks.

Writes the scene to WORK/two_rooms (a COLMAP model, photos, masks, held-out views, truth and queries of both; names of
views and nodes begin with the room's) and does with it what benchmarks/blocks.py does; core means are told of each
room, too. With more than one rank the fit is started by torchrun.

    python -m benchmarks.two_rooms --data ../shared/data --work /tmp/blocks --blocks 1 2 --ranks 1 --preset fast
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plyfile import PlyData, PlyElement

from benchmarks.blocks import main_of, options
from splatseg.core.scene import Points
from splatseg.io.colmap import load_colmap
from splatseg.io.colmap_write import write_colmap_text

SHIFT = (0.0, 4.9, 0.0)  # of the second room: its cameras stand behind the first one's back wall and look away from it
LEVELS = 5


@dataclass(frozen=True)
class Room:
    """A capture, what its names begin with, where it is put, and what its node ids are counted from."""

    folder: Path
    name: str
    shift: tuple[float, float, float]
    first: int

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """Of the truth's tree, under their new ids and names."""
        nodes: list[dict[str, Any]] = self.read("gt/tree.json")["nodes"]
        return [
            {**n, "id": self.id(n["id"]), "parent": self.id(n["parent"]), "name": f"{self.name}/{n['name']}"}
            for n in nodes
        ]

    @property
    def queries(self) -> list[dict[str, Any]]:
        return [
            {**q, "view": f"{self.name}_{q['view']}", "l1": self.id(q["l1"]), "l2": self.id(q["l2"])}
            for q in self.read("queries.json")["queries"]
        ]

    @property
    def test_images(self) -> list[dict[str, Any]]:
        """``images`` of test_cameras.json: x_cam = R (x - shift) + t."""
        moved = []
        for image in self.read("test_cameras.json")["images"]:
            t = np.array(image["t"]) - np.array(image["R"]) @ np.array(self.shift)
            moved.append({**image, "name": f"{self.name}_{image['name']}", "t": t.tolist()})
        return moved

    def id(self, node: int) -> int:
        return node + self.first if node else 0

    def copy_files(self, out: Path) -> None:
        """Photos, masks and label maps."""
        for folder in ("images", "test_images", "masks_2d"):
            for path in sorted((self.folder / folder).iterdir()):
                shutil.copyfile(path, out / folder / f"{self.name}_{path.name}")
        for path in sorted((self.folder / "gt").glob("*.npz")):
            levels = padded(np.load(path)["levels"])
            moved = np.where(levels > 0, levels + self.first, 0).astype(np.uint16)
            np.savez_compressed(out / "gt" / f"{self.name}_{path.name}", levels=moved)

    def points(self) -> np.ndarray:
        """Labeled surface points, as ``gt/points.ply`` holds them."""
        found = PlyData.read(str(self.folder / "gt/points.ply"))["vertex"].data
        names = [name for name in found.dtype.names if name.startswith("level_")]
        levels = padded(np.stack([found[name] for name in names]))
        kinds = [(axis, "f4") for axis in "xyz"] + [(f"level_{k}", "u2") for k in range(LEVELS)]
        rows = np.empty(len(found), kinds)
        for axis, by in zip("xyz", self.shift, strict=True):
            rows[axis] = found[axis] + by
        for k in range(LEVELS):
            rows[f"level_{k}"] = np.where(levels[k] > 0, levels[k] + self.first, 0)
        return rows


def padded(levels: np.ndarray) -> np.ndarray:
    """(LEVELS, ...) of (k, ...): the finest once more."""
    return np.concatenate([levels[:1]] * (LEVELS - len(levels)) + [levels])


def write_two_rooms(data: Path, out: Path) -> Path:
    """Write the scene to ``out`` if it is not there; returns ``out``."""
    if (out / "queries.json").is_file():  # written last
        return out
    kitchen = Room(data / "dev_kitchen", "kitchen", (0.0, 0.0, 0.0), 0)
    rooms = [kitchen, Room(data / "dev_robots", "robots", SHIFT, max(node["id"] for node in kitchen.nodes))]
    for folder in ("images", "test_images", "masks_2d", "gt"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    write_model(rooms, out / "sparse/0")
    for room in rooms:
        room.copy_files(out)
    vertices = PlyElement.describe(np.concatenate([room.points() for room in rooms]), "vertex")
    PlyData([vertices]).write(str(out / "gt/points.ply"))
    cameras = {**kitchen.read("test_cameras.json"), "images": [image for room in rooms for image in room.test_images]}
    tree = {**kitchen.read("gt/tree.json"), "nodes": [node for room in rooms for node in room.nodes]}
    asked = {**kitchen.read("queries.json"), "queries": [query for room in rooms for query in room.queries]}
    for name, content in (("test_cameras.json", cameras), ("gt/tree.json", tree), ("queries.json", asked)):
        (out / name).write_text(json.dumps(content), encoding="utf-8")
    return out


def write_model(rooms: list[Room], folder: Path) -> None:
    """Poses and points of all rooms."""
    cameras, names, xyz, rgb = [], [], [], []
    for room in rooms:
        scene = load_colmap(room.folder)
        cameras += [view.camera.with_origin([-by for by in room.shift]) for view in scene.views]
        names += [f"{room.name}_{view.name}" for view in scene.views]
        xyz.append(scene.points.xyz + torch.tensor(room.shift))
        rgb.append(scene.points.rgb)
    write_colmap_text(folder, cameras, names, Points(torch.cat(xyz), torch.cat(rgb)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options(parser)
    chosen, arguments = parser.parse_known_args()
    main_of(write_two_rooms(chosen.data, chosen.work / "two_rooms"), chosen, arguments)


if __name__ == "__main__":
    main()
