"""Planned views of a splat alone: where cameras stand, what they cover, laws of the plan, and the commands, twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_splats import CUPBOARD, ROOM, STOOL, ball, box, joined, rectangle, room, table
from rank_launcher import RankLauncher
from scipy.spatial.transform import Rotation
from script_runner import run_script
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import Points
from splatseg.fit.splat_transform import transformed
from splatseg.fit.views import positions
from splatseg.fit.views.config import ViewPlanConfig
from splatseg.fit.views.frame import plan_frame
from splatseg.fit.views.grid import MARGIN
from splatseg.fit.views.plan import ViewPlan, plan_views
from splatseg.io.colmap import load_colmap
from splatseg.io.colmap_model import read_model
from splatseg.io.colmap_write import write_colmap_text
from splatseg.io.ply import save_gaussians
from splatseg.io.run import Run
from splatseg.io.run_scene import load_run_scene

SMALL = ViewPlanConfig(views=24, width=160, height=120)


def places(plan: ViewPlan) -> Tensor:
    return torch.stack([camera.position for camera in plan.cameras])


def forward(plan: ViewPlan) -> Tensor:
    return torch.stack([camera.cam_from_world[2, :3] for camera in plan.cameras])


@pytest.fixture(scope="module")
def room_plan() -> ViewPlan:
    return plan_views(room(), SMALL)


@pytest.fixture(scope="module")
def table_plan() -> ViewPlan:
    return plan_views(table(), SMALL)


# Where cameras stand -------------------------------------------------------------------------------------------------


def test_a_room_is_looked_at_from_inside(room_plan: ViewPlan) -> None:
    assert room_plan.kind == "inside" and len(room_plan.cameras) == SMALL.views
    assert bool((places(room_plan).abs() < torch.tensor(ROOM) - 0.1).all())


@pytest.mark.parametrize("thing", [CUPBOARD, STOOL])
def test_no_camera_stands_in_what_is_in_a_room(room_plan: ViewPlan, thing: tuple[tuple[float, ...], ...]) -> None:
    low, high = (torch.tensor(corner) for corner in thing)
    inside = ((places(room_plan) > low - 0.1) & (places(room_plan) < high + 0.1)).all(dim=1)
    assert not bool(inside.any())


def test_things_on_a_table_are_looked_at_from_around(table_plan: ViewPlan) -> None:
    assert table_plan.kind == "outside"
    at, look = places(table_plan), forward(table_plan)
    assert len({(x > 0, y > 0) for x, y in at[:, :2].tolist()}) == 4
    assert float((-at * look).sum(dim=1).sign().mean()) > 0.6  # they look at it
    assert not bool((at.abs() < torch.tensor([0.1, 0.2, 0.5])).all(dim=1).any())


def test_a_hollow_ball_is_an_object() -> None:
    plan = plan_views(ball((0.0, 0.0, 0.0), 1.0, 6000, 0.5), SMALL)
    assert plan.kind == "outside" and bool((places(plan).norm(dim=1) > 1.05).all())


def test_the_kind_may_be_told() -> None:
    plan = plan_views(ball((0.0, 0.0, 0.0), 1.0, 6000, 0.5), replace(SMALL, kind="inside", views=8))
    assert plan.kind == "inside" and bool((places(plan).norm(dim=1) < 1).all())


def test_a_floater_is_not_stood_in() -> None:
    middle = (0.0, -0.5, 0.2)
    plan = plan_views(joined([room(), ball(middle, 0.3, 800, 0.1)]), SMALL)
    assert bool(((places(plan) - torch.tensor(middle)).norm(dim=1) > 0.35).all())


# Up, and what belongs to a scene --------------------------------------------------------------------------------------


def person() -> Gaussians:
    """Someone who stands, y down, on nothing: flat from front to back, as people are, and facing nowhere special."""
    legs = [box((x - 0.1, 0.0, -0.1), (x + 0.1, 0.9, 0.1), 0.04, 0.2) for x in (-0.15, 0.15)]
    return joined(
        [*legs, box((-0.3, -0.7, -0.12), (0.3, 0.0, 0.12), 0.04, 0.5), ball((0.0, -0.85, 0.0), 0.14, 800, 0.8)]
    )


def test_what_stands_on_no_floor_has_the_up_of_most_tools() -> None:
    """Its front is the largest of its planes, and across it the thing is smallest: it was taken for lying on it."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("y", 30, degrees=True).as_matrix()
    plan = plan_views(transformed(person(), matrix, (0.0, 0.0, 0.0)), replace(SMALL, views=8))
    assert plan.up == pytest.approx((0, -1, 0), abs=0.05)
    assert all(float(camera.cam_from_world[1, 1]) >= 0 for camera in plan.cameras)  # y goes down in the picture


@pytest.mark.parametrize("turn", [[1.0, 2.0, 0.5], [-2.0, 0.3, 0.9], [0.1, 0.1, 2.5]])
@pytest.mark.parametrize("scene", [room, table])
def test_a_floor_says_where_up_is_however_it_lies(scene: Callable[[], Gaussians], turn: list[float]) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(turn).as_matrix()
    frame = plan_frame(transformed(scene(), matrix, (0.0, 0.0, 0.0)))
    assert frame.rotation[2].numpy() == pytest.approx(matrix[:3, 2], abs=0.05)


def test_what_stands_on_wide_ground_belongs_to_the_scene() -> None:
    """Nine of ten Gaussians are the ground's: what rises above it was taken for something far away."""
    ground = rectangle((0.0, 0.0, 0.0), (1.5, 0, 0), (0, 1.5, 0), 0.025, 0.4)
    thing = ball((0.0, 0.0, 0.8), 0.3, 1500, 0.8)
    frame = plan_frame(joined([ground, thing]))
    assert bool((frame.to_local(thing.means).abs() <= frame.half + MARGIN).all())  # what the grid of the plan holds
    far = ball((0.0, 0.0, 30.0), 4.0, 300, 0.8)  # and what is far away still does not
    assert plan_frame(joined([table(), far])).size < 2


# What they cover -----------------------------------------------------------------------------------------------------


def test_what_can_be_seen_is_covered(room_plan: ViewPlan, table_plan: ViewPlan) -> None:
    for plan, enough in ((room_plan, 0.7), (table_plan, 0.85)):
        assert plan.coverage.enough <= plan.coverage.once <= 1
        assert plan.coverage.enough >= enough
    assert table_plan.coverage.once >= 0.95
    assert plan_views(table(), replace(SMALL, views=3)).coverage.enough < 0.5


def test_what_nobody_can_see_is_told_and_not_missed() -> None:
    """A ball in a ball, of as many Gaussians: none of its surface is in a picture, and none is asked for."""
    outer, inner = ball((0.0, 0.0, 0.0), 1.0, 6000, 0.5), ball((0.0, 0.0, 0.0), 0.5, 6000, 0.9)
    alone, both = (plan_views(splat, SMALL).coverage for splat in (outer, joined([outer, inner])))
    assert alone.visible > 0.99 and alone.enough > 0.9
    assert both.visible == pytest.approx(alone.visible / 2, abs=0.05) and both.enough > 0.75


# Laws ----------------------------------------------------------------------------------------------------------------


def test_up_is_up_and_pictures_stand_upright(room_plan: ViewPlan, table_plan: ViewPlan) -> None:
    for plan in (room_plan, table_plan):
        assert plan.up[2] > 0.99
        assert all(float(camera.cam_from_world[1, 2]) < 0.01 for camera in plan.cameras)  # z goes up in the picture
    told = plan_views(table(), replace(SMALL, views=4, up="-z"))
    assert told.up == pytest.approx((0, 0, -1))


def test_the_same_seed_gives_the_same_plan(table_plan: ViewPlan) -> None:
    again = plan_views(table(), SMALL)
    assert torch.equal(places(again), places(table_plan)) and again.coverage == table_plan.coverage
    other = plan_views(table(), replace(SMALL, seed=1))
    assert not torch.equal(places(other), places(table_plan))


@pytest.mark.parametrize(("turn", "scale"), [([np.pi / 2, 0, 0], 2.0), ([0.4, -1.3, 2.0], 0.37)])
def test_a_moved_splat_gives_the_moved_plan(room_plan: ViewPlan, turn: list[float], scale: float) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_rotvec(turn).as_matrix()
    matrix[:3, 3] = [30.0, -20.0, 5.0]
    plan = plan_views(transformed(room(), matrix, (0.0, 0.0, 0.0)), SMALL)
    wanted = places(room_plan).double() @ torch.from_numpy(matrix[:3, :3]).T + torch.from_numpy(matrix[:3, 3])
    misses = torch.cdist(places(plan).double(), wanted).amin(dim=1) / scale
    # The last digits of float32 may turn a close choice: most cameras, and the coverage, are those of the plan.
    assert float((misses < 0.01).double().mean()) > 0.75
    assert plan.coverage.once == pytest.approx(room_plan.coverage.once, abs=0.02)


def faint() -> Gaussians:
    return replace(table(), opacity_logits=torch.full((len(table()),), -6.0))


@pytest.mark.parametrize(
    ("splat", "words"),
    [
        (faint, "opacity above"),
        (lambda: replace(table(), means=torch.zeros(len(table()), 3)), "at different places"),
        (lambda: replace(table(), means=table().means * torch.nan), "means"),
    ],
)
def test_splats_that_cannot_be_looked_at_are_refused(splat: object, words: str) -> None:
    with pytest.raises(SplatsegError, match=words):
        plan_views(splat(), SMALL)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("field", "value"), [("views", 0), ("width", 10), ("height", 10**6), ("field_of_view", 170.0), ("seed", -1)]
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(SplatsegError, match=f"{field}: expected"):
        ViewPlanConfig(**{field: value})  # type: ignore[arg-type]


# The model ----------------------------------------------------------------------------------------------------------


def test_a_written_model_is_read_back(tmp_path: Path, table_plan: ViewPlan) -> None:
    cameras: list[Camera] = list(table_plan.cameras[:3])
    points = Points(torch.rand(5, 3), torch.randint(0, 256, (5, 3)).to(torch.uint8))
    offset = (448262.5, -5411932.0, 131.0)
    write_colmap_text(tmp_path, cameras, ["a b.jpg", "b.jpg", "c.jpg"], points, offset)
    model = read_model(tmp_path)
    assert [image.name for image in model.images] == ["a b.jpg", "b.jpg", "c.jpg"] and len(model.cameras) == 1
    for image, camera in zip(model.images, cameras, strict=True):
        pose = image.cam_from_world()
        pose[:3, 3] += pose[:3, :3] @ np.array(offset)
        np.testing.assert_allclose(pose, camera.cam_from_world.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.xyz - offset, points.xyz.numpy(), atol=1e-6)
    assert np.array_equal(model.rgb, points.rgb.numpy())


# The commands, twice -------------------------------------------------------------------------------------------------

PLAN = ["--views", "6", "--width", "96", "--height", "72"]
FEW_RAYS = 512  # from a place; how good these plans are is none of what is tested here
FIT = ["--preset", "fast", "--config.features.steps=20", "--quiet"]
FIT += ["--config.views.views=6", "--config.views.width=96", "--config.views.height=72"]


@pytest.fixture
def few_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "RAYS", FEW_RAYS)


@pytest.fixture(scope="module")
def splat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("splat") / "table.ply"
    save_gaussians(path, table())
    return path


def stamps(folder: Path) -> dict[str, int]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


@pytest.mark.usefixtures("few_rays")
def test_views_become_a_capture_once(tmp_path: Path, splat_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "views"
    assert run_script("views.py", splat_file, "--out", out, *PLAN, "--quiet") == 0
    first = capsys.readouterr().out
    assert "6 views from outside; " in first and "% of the surface cannot be seen from 3 places" in first
    scene, before = load_colmap(out), stamps(out)
    assert len(scene.views) == 6 and all(view.image().shape == (72, 96, 3) for view in scene.views)
    assert run_script("views.py", splat_file, "--out", out, *PLAN, "--quiet") == 0
    assert "already there" in capsys.readouterr().out and stamps(out) == before
    (out / "masks").mkdir()  # somebody's, made of the views: stays when they are planned anew
    assert run_script("views.py", splat_file, "--out", out, "--views", "4", *PLAN[2:], "--quiet") == 0
    assert len(list((out / "images").iterdir())) == 4 and (out / "masks").is_dir()


@pytest.fixture(scope="module")
def launcher() -> Iterator[RankLauncher]:
    with RankLauncher() as started:
        yield started


@pytest.fixture(scope="module")
def whole(launcher: RankLauncher, splat_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views that nothing interrupted."""
    out = tmp_path_factory.mktemp("planned") / "whole"
    arguments = [splat_file, "--out", out, *PLAN, "--quiet"]
    assert launcher.run("views", arguments, 1, rank0=[("few_rays", FEW_RAYS)]).codes == [0]
    return out


@pytest.mark.slow
@pytest.mark.usefixtures("few_rays")
@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_kill_between_two_moves_is_gone_on_from(
    tmp_path: Path,
    launcher: RankLauncher,
    splat_file: Path,
    whole: Path,
    moves: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of images, model and views.json some are in their places: the folder is not of somebody else for that."""
    out = tmp_path / "views"
    faults = [("few_rays", FEW_RAYS), ("killed_at_move", moves + 1)]
    for other in ("5", "6"):  # into a new folder, then over views of another plan
        arguments = [splat_file, "--out", out, "--views", other, *PLAN[2:], "--quiet"]
        assert launcher.run("views", arguments, 1, rank0=faults).codes == [-9]
        assert run_script("views.py", splat_file, "--out", out, "--views", other, *PLAN[2:], "--quiet") == 0
        assert f"{other} views from" in capsys.readouterr().out
    assert {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
        p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file()
    }


def test_a_folder_of_others_is_not_written_to(
    tmp_path: Path, splat_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run_script("views.py", splat_file, "--out", tmp_path, *PLAN) == 2
    told = capsys.readouterr().err
    assert "expected a new or empty folder" in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.usefixtures("few_rays")
def test_a_splat_alone_is_fitted_once_and_moves(tmp_path: Path, splat_file: Path) -> None:
    out, moved = tmp_path / "run", tmp_path / "elsewhere" / "run"
    assert run_script("fit.py", "--splat", splat_file, "--out", out, *FIT) == 0
    run = Run.existing(out)
    assert run.scene_settings()["scene"] == "views" and run.labels_json.is_file()
    figures = json.loads(run.metrics.read_text())
    assert figures["views"] == 6 and 0 < figures["views_cover"] <= 1 and "psnr_held_out" not in figures
    before = stamps(out)
    assert run_script("fit.py", "--splat", splat_file, "--out", out, *FIT) == 0
    changed = {name for name, time in stamps(out).items() if before.get(name) != time}
    assert changed <= {"config.yaml", "metrics.json"}
    moved.parent.mkdir()
    shutil.move(out, moved)
    scene = load_run_scene(Run.existing(moved))
    assert len(scene.views) == 6 and scene.views[0].image_path.is_relative_to(moved)
    before = stamps(moved)
    assert run_script("fit.py", "--splat", splat_file, "--out", moved, *FIT) == 0
    changed = {name for name, time in stamps(moved).items() if before.get(name) != time}
    assert changed <= {"config.yaml", "metrics.json"}
    view = scene.views[0].name
    assert run_script("segment.py", moved, "--view", view, "--pixel", 48, 36, "--quiet") == 0
    assert (moved / "exports" / "selection.ply").is_file()


def test_a_fit_without_scene_and_splat_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script("fit.py", "--out", tmp_path / "run") == 2
    assert "SCENE: expected a capture, or --splat FILE alone" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [["--sfm"], ["--model", "0"], ["--splat-transform", "x.json"]])
def test_what_only_a_capture_has_is_refused(
    option: list[str], tmp_path: Path, splat_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script("fit.py", "--splat", splat_file, "--out", tmp_path / "run", *option) == 2
    assert f"{option[0]}: expected a SCENE" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_broken_splat_leaves_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.ply").write_bytes(b"ply\nformat ascii 1.0\n")
    assert run_script("fit.py", "--splat", tmp_path / "broken.ply", "--out", tmp_path / "run", *FIT) == 2
    assert "broken.ply" in capsys.readouterr().err and not (tmp_path / "run").exists()
