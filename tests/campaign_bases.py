"""What the campaign damages, and on which it kills commands: tiny captures, a finished run, a session."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plyfile import PlyData, PlyElement
from test_captures import as_transforms
from test_colmap import make_scene

from splatseg.fit.features import FeatureConfig
from splatseg.fit.geometry import GeometryConfig
from splatseg.fit.hooks import FitHooks
from splatseg.fit.pipeline import Fit
from splatseg.fit.pixel_pools import SamplingConfig
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.fit.stages import Stage, views_stage
from splatseg.fit.views.config import ViewPlanConfig
from splatseg.fit.views.folder import write_views
from splatseg.io.labels import load_labels, save_labels
from splatseg.io.ply import load_gaussians
from splatseg.masks.files import FileMasks
from splatseg.session import Session, Workspace
from splatseg.session.exports import export_labels, export_masks, export_selection
from splatseg.synthetic import SceneConfig, write_scene

TINY = FitConfig(
    geometry=replace(GeometryConfig.preset("fast"), steps=20, max_gaussians=600),
    features=FeatureConfig(dim=8, steps=10, sampling=SamplingConfig(pool_pixels=1000, batch_pixels=1000)),
)
TINY_ARGUMENTS = ["--preset", "fast", "--config.geometry.steps=20", "--config.geometry.max-gaussians=600"]
TINY_ARGUMENTS += ["--config.features.steps=10", "--config.features.dim=8", "--device=cpu", "--quiet"]
TINY_ARGUMENTS += ["--config.features.sampling.pool-pixels=1000", "--config.features.sampling.batch-pixels=1000"]
VIEW = "train_001.jpg"


def build_bases(folder: Path) -> Path:
    """Everything below ``folder``, once; a build that was killed is begun again."""
    done = folder / "built"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_scene(folder / "capture", SceneConfig(objects=2, views=4, test_views=1, width=64, height=48))
        _models(folder)
        _run(folder)
        _masks(folder)
        _splats(folder)
        shutil.copytree(folder / "capture", folder / "truth")
        (folder / "arguments").mkdir()
        words = ["scene", "--out", "run", "--preset", "fast", "--downscale", "2", *TINY_ARGUMENTS[2:]]
        (folder / "arguments/arguments.json").write_text(json.dumps(words))
        done.write_text("")
    return folder


def build_sam_weights(path: Path) -> None:
    """Seeded random weights of a small model of segment-anything's."""
    from test_sam_everything import build_sam

    if not path.is_file():
        torch.save(build_sam().state_dict(), path)


def build_views(folder: Path, splat: Path) -> None:
    """Planned views of ``splat`` in ``folder``, three of them."""
    if not folder.is_dir():
        gaussians, config = load_gaussians(splat), ViewPlanConfig(views=3, width=64, height=64)
        made = folder.with_name("views.part")
        shutil.rmtree(made, ignore_errors=True)
        write_views(made, gaussians, config, views_stage(gaussians, config).key)
        made.rename(folder)


def build_photos(folder: Path) -> Path | None:
    """Six photos of a capture that SfM registers, 300 to 600 pixels high; None where there are none at hand."""
    source = Path(os.environ.get("SPLATSEG_DATA", Path(__file__).parent.parent.parent / "shared/data")) / "fox/images"
    if not source.is_dir():
        return None
    if not folder.is_dir():
        made = folder.with_name("photos.part")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        for path in sorted(source.iterdir())[:6]:
            photo = Image.open(path).convert("RGB")
            photo.reduce(max(photo.size) // 300 or 1).save(made / path.name, quality=95)
        made.rename(folder)
    return folder


def _models(folder: Path) -> None:
    make_scene(folder / "binary/scene", views=3)
    make_scene(folder / "text/scene", views=3, text=True)
    make_scene(folder / "distorted/scene", "OPENCV", views=3)
    make_scene(folder / "transforms/scene", views=3)
    scene = folder / "transforms/scene"
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(scene / "mask.png")
    columns = [*((axis, "f4") for axis in "xyz"), *((color, "u1") for color in ("red", "green", "blue"))]
    points = np.array([(1.0, 2.0, 3.0, 10, 20, 30)] * 5, columns)
    PlyData([PlyElement.describe(points, "vertex")]).write(str(scene / "points.ply"))
    content = as_transforms(scene, ply_file_path="points.ply")
    content["frames"][0]["mask_path"] = "mask.png"
    (scene / "transforms.json").write_text(json.dumps(content))
    make_scene(folder / "photos/scene", views=3)
    (folder / "photos/scene/masks/sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    (folder / "photos/scene/images/sub/v1.png").unlink()
    Image.fromarray(rng.integers(0, 255, (48, 64, 4), np.uint8)).save(folder / "photos/scene/images/sub/v1.png")
    Image.fromarray(rng.integers(0, 2, (48, 64), np.uint8) * 255).save(folder / "photos/scene/masks/sub/v0.png.png")


def _run(folder: Path) -> None:
    """A finished run with sidecar labels, a checkpoint of either fit, a session and exports."""
    capture = folder / "capture"
    fit = Fit(FitInputs(capture, folder / "run/run", str(capture / "masks_2d"), device="cpu"), TINY)
    saved = {"geometry": 10, "features": 5}

    def hooks(stage: Stage) -> FitHooks:
        def keep(state: dict[str, object]) -> None:
            if state["step"] == saved[stage.name]:
                fit.run.save_checkpoint(f"{stage.name}-kept", {"digest": stage.key, "state": state})

        return FitHooks(save_checkpoint=keep, checkpoint_seconds=0.0)

    fit.records.hooks = hooks  # type: ignore[method-assign]
    fit.execute()
    for name in saved:
        fit.run.checkpoint_path(f"{name}-kept").rename(fit.run.checkpoint_path(name))
    gaussians = load_gaussians(fit.run.geometry)
    save_labels(fit.run.exports / "plain.ply", gaussians, load_labels(fit.run.labels, gaussians), sidecar=True)
    workspace = Workspace.open(fit.run)
    workspace.start_autosave()
    session = Session(workspace)
    session.click_gaussian(5)
    session.keep("first")
    session.click_gaussian(200)
    session.hide_selection()
    session.click_gaussian(50)
    session.save("mine")
    export_selection(session, "chosen", "first")
    export_masks(session, "chosen", "first")
    export_labels(session, "mine")
    workspace.close()
    (fit.run.folder / "sessions/.lock").unlink()


def _masks(folder: Path) -> None:
    """Masks of two views in each layout of :mod:`splatseg.masks.files`, a folder a layout."""
    capture, root = folder / "capture", folder / "masks"
    views = Workspace.open(folder / "run/run").views[:2]
    source = FileMasks(capture / "masks_2d", views)
    for view in views:
        stem, masks = view.name.removesuffix(".jpg"), source.masks(view).stack().numpy()
        labels = np.zeros(masks.shape[1:], np.uint8)
        for number, mask in enumerate(masks, 1):
            labels[mask] = number
        for layout in ("json", "sa1b", "png", "png16", "npz", "npy", "amg"):
            (root / layout / "masks").mkdir(parents=True, exist_ok=True)
        shutil.copy(capture / f"masks_2d/{stem}.json", root / f"json/masks/{stem}.json")
        annotations = json.loads((capture / f"masks_2d/{stem}.json").read_text())
        (root / f"sa1b/masks/{stem}.json").write_text(json.dumps({"image": {}, "annotations": annotations}))
        Image.fromarray(labels).save(root / f"png/masks/{stem}.png")
        Image.fromarray(labels.astype(np.uint16) * 257).save(root / f"png16/masks/{stem}.png")
        np.savez_compressed(root / f"npz/masks/{stem}.npz", levels=np.stack([labels, labels // 2]))
        np.save(root / f"npy/masks/{stem}.npy", masks)
        folder_of_view = root / f"amg/masks/{stem}"
        folder_of_view.mkdir()
        for number, mask in enumerate(masks):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder_of_view / f"{number}.png")
        rows = [f"{number},{int(mask.sum())}" for number, mask in enumerate(masks)]
        (folder_of_view / "metadata.csv").write_text("\n".join(["id,area", *rows]) + "\n")


def _splats(folder: Path) -> None:
    """A binary and an ASCII splat, and a transform in each form."""
    gaussians = load_gaussians(folder / "run/run/geometry.ply").select(torch.arange(40))
    for name in ("binary", "ascii"):
        (folder / f"ply_{name}").mkdir()
    labels = load_labels(folder / "run/run/labels.ply")
    vertices = PlyData.read(str(folder / "run/run/labels.ply"))["vertex"].data[: len(gaussians)]
    assert len(labels)
    element = PlyElement.describe(vertices, "vertex")
    PlyData([element], byte_order="<", comments=["splatseg offset 1.0 2.0 3.0"]).write(
        str(folder / "ply_binary/splat.ply")
    )
    PlyData([element], text=True).write(str(folder / "ply_ascii/splat.ply"))
    (folder / "transform").mkdir()
    matrix = [[0.0, -2.0, 0.0, 1.0], [2.0, 0.0, 0.0, 0.5], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    (folder / "transform/matrix.txt").write_text("\n".join(" ".join(map(str, row)) for row in matrix))
    (folder / "transform/matrix.json").write_text(json.dumps(matrix))
    turn = [[row[c] / (2 if c < 3 else 1) for c in range(4)] for row in matrix[:3]]
    (folder / "transform/dataparser.json").write_text(json.dumps({"transform": turn, "scale": 0.5}))
