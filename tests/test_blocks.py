"""A geometry that is fitted in blocks: where the capture is cut, what a block is fitted to, and what it leaves."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from script_runner import run_script
from tiny_capture import TINY, write_capture

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.progress import Cancelled, Progress, Reporter
from splatseg.core.scene import Points, Scene, View
from splatseg.evaluate.labels3d import load_points
from splatseg.fit.blocks import fit_block, join_block, merged, plan_blocks, scene_shell
from splatseg.fit.blocks import job as block_job
from splatseg.fit.blocks import plan as block_plan
from splatseg.fit.blocks.borders import border_settings
from splatseg.fit.blocks.cuts import cut
from splatseg.fit.blocks.fit import block_limit, own_limit
from splatseg.fit.blocks.job import block_count
from splatseg.fit.geometry import GeometryConfig, fit_geometry, psnr
from splatseg.fit.geometry import fit as geometry_fit
from splatseg.fit.geometry.config import PUBLISHED_RATES
from splatseg.fit.geometry.frame import FitFrame
from splatseg.fit.geometry.region import HalfSpace, Part, Region, backdrop
from splatseg.fit.hooks import FitHooks
from splatseg.fit.needs import FitSize, stage_needs
from splatseg.fit.pipeline import Fit
from splatseg.fit.settings import FitConfig, FitInputs
from splatseg.io.colmap import load_colmap
from splatseg.io.labels import load_labels
from splatseg.io.ply import load_gaussians
from splatseg.io.run import Run
from splatseg.io.test_cameras import load_test_views
from splatseg.render import render

TURN = torch.linalg.matrix_exp(
    torch.tensor([[0.0, 0.7, -1.1], [-0.7, 0.0, 2.0], [1.1, -2.0, 0.0]], dtype=torch.float64)
)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "scene")


@pytest.fixture(scope="module")
def scene(capture: Path) -> Scene:
    return load_colmap(capture)


def hall(views: int = 24, points: int = 3000) -> Scene:
    """A long hall that cameras walk through, looking along it and to its sides; no photos."""
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(points, 3, generator=generator) * torch.tensor([12.0, 3.0, 2.0])
    K = torch.tensor([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]])
    made = []
    for k in range(views):
        angle = torch.tensor(0.9 * k)
        c, s = float(angle.cos()), float(angle.sin())
        rotation = torch.tensor([[-s, c, 0.0], [0.0, 0.0, -1.0], [c, s, 0.0]])
        position = torch.tensor([0.5 + 11 * k / views, 1.5 + 0.3 * s, 1.0])
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ position
        made.append(View(f"{k:03}.jpg", Camera(K, pose, 64, 48), Path("none.jpg")))
    return Scene(tuple(made), Points(xyz, torch.zeros(points, 3, dtype=torch.uint8)))


def carried(scene: Scene, turn: torch.Tensor, size: float, shift: torch.Tensor) -> Scene:
    """``x -> size * turn x + shift``."""
    views = []
    for view in scene.views:
        pose = view.camera.cam_from_world.double().clone()
        rotation = pose[:3, :3] @ turn.T
        pose[:3, 3] = size * pose[:3, 3] - rotation @ shift
        pose[:3, :3] = rotation
        views.append(dataclasses.replace(view, camera=dataclasses.replace(view.camera, cam_from_world=pose.float())))
    xyz = (size * scene.points.xyz.double() @ turn.T + shift).float()
    return Scene(tuple(views), Points(xyz, scene.points.rgb))


def described(scene: Scene, count: int) -> list[tuple[list[str], list[bool], int]]:
    """Of each block its views, which points are its own, and how many it starts from."""
    return [
        ([view.name for view in block.views], block.region.holds(scene.points.xyz).tolist(), len(block.points.xyz))
        for block in plan_blocks(scene, count)
    ]


# Where a capture is cut ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_moved_turned_and_scaled_capture_has_the_same_blocks(count: int, scene: Scene) -> None:
    """Those of points at a border are the same but for rounding; there is none so near here."""
    for one in (hall(), scene):
        found = described(one, min(count, 3 if one is scene else 5))
        for turn, size, shift in ((torch.eye(3), 1.0, 7.0), (TURN, 1.0, 0.0), (TURN, 250.0, -300.0)):
            moved = carried(one, turn.double(), size, torch.full((3,), shift, dtype=torch.float64))
            assert described(moved, len(found)) == found


def test_equal_captures_have_equal_blocks_and_a_ring_has_a_first_axis() -> None:
    """Points on a circle are spread alike in all directions of its plane: the cut is the same when they are turned."""
    angle = torch.arange(500, dtype=torch.float64) / 500 * 2 * torch.pi + 0.3
    ring = torch.stack([angle.cos(), angle.sin(), 0.01 * (7 * angle).sin()], 1)
    sides = [region.holds(ring).tolist() for region in cut(ring, 2)]
    assert sides == [region.holds(ring).tolist() for region in cut(ring, 2)]
    turned = ring @ TURN.T
    agree = torch.tensor([region.holds(turned).tolist() for region in cut(turned, 2)]) == torch.tensor(sides)
    assert float(agree.double().mean()) > 0.98
    assert 150 < sum(sides[0]) < 350


def test_regions_share_all_of_space() -> None:
    """Every place is in one region: at the points, far away, and on a border itself."""
    one = hall()
    regions = [block.region for block in plan_blocks(one, 5)]
    generator = torch.Generator().manual_seed(1)
    far = torch.randn(5000, 3, generator=generator) * torch.tensor([1.0, 10.0, 1000.0])[torch.arange(5000) % 3, None]
    side = regions[0].sides[0]
    border = torch.tensor(side.normal)[None].double() * side.at
    for xyz in (one.points.xyz, far, border):
        assert torch.stack([region.holds(xyz) for region in regions]).sum(0).tolist() == [1] * len(xyz)
    held = [int(region.holds(one.points.xyz).sum()) for region in regions]
    assert min(held) > 0.5 * len(one.points.xyz) / 5 and max(held) < 1.5 * len(one.points.xyz) / 5


def test_every_camera_is_in_a_block_and_every_block_is_smaller_than_all() -> None:
    one = hall()
    for count in (2, 4):
        blocks = plan_blocks(one, count)
        assert {view.name for block in blocks for view in block.views} == {view.name for view in one.views}
        assert all(len(block.views) < len(one.views) for block in blocks)
        for block in blocks:  # those that stand in it with it, wherever they look
            within = block.region.holds(torch.stack([view.camera.position for view in one.views]))
            standing = {view.name for view, inside in zip(one.views, within.tolist(), strict=True) if inside}
            assert standing <= {view.name for view in block.views}


def test_the_cut_goes_where_little_lies_and_walls_hide() -> None:
    """Two rooms of unequal size with a wall between them, back to back: the cut is in the gap, no camera in both."""
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(1100, 3, generator=generator) * torch.tensor([4.0, 3.0, 2.0])
    second = torch.rand(900, 3, generator=generator) * torch.tensor([4.0, 3.0, 2.0]) + torch.tensor([6.0, 0.0, 0.0])
    grid = torch.cartesian_prod(torch.linspace(0, 3, 12), torch.linspace(0, 2, 10))
    walls = [torch.cat([torch.full((len(grid), 1), x), grid], 1) for x in (4.1, 5.9)]
    xyz = torch.cat([first, second, *walls])
    hall_views = hall(4).views
    facing = torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    views = []
    for k, x in enumerate((-0.5, -0.2, 10.2, 10.5)):
        rotation = facing if x < 5 else facing * torch.tensor([[-1.0], [1.0], [-1.0]])
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ torch.tensor([x, 1.5, 1.0])
        camera = dataclasses.replace(hall_views[0].camera, cam_from_world=pose)
        views.append(dataclasses.replace(hall_views[k], camera=camera))
    one = Scene(tuple(views), Points(xyz, torch.zeros(len(xyz), 3, dtype=torch.uint8)))
    blocks = plan_blocks(one, 2)
    side = blocks[0].region.sides[0]
    assert 4.1 < abs(side.at / side.normal[0]) < 5.9
    assert sorted([v.name for v in block.views] for block in blocks) == [["000.jpg", "001.jpg"], ["002.jpg", "003.jpg"]]
    for block in blocks:  # and what the wall hides is nothing to start from
        beyond = ~block.region.holds(block.points.xyz, expanded=True)
        assert int(beyond.sum()) < 0.1 * int((~block.region.holds(xyz, expanded=True)).sum())


def test_captures_that_cannot_be_cut() -> None:
    few = hall(views=6)
    with pytest.raises(SplatsegError, match=r"^blocks: expected at most 3 for 6 photos, 2 each, found 4$"):
        plan_blocks(few, 4)
    with pytest.raises(SplatsegError, match=r"^blocks: expected at most 1 for 15 sparse points, found 2$"):
        plan_blocks(hall(points=15), 2)
    same = dataclasses.replace(few, points=Points(torch.ones(500, 3), torch.zeros(500, 3, dtype=torch.uint8)))
    with pytest.raises(SplatsegError, match=r"^blocks: expected sparse points at different places, found 500 at one$"):
        plan_blocks(same, 2)
    two = torch.cat([torch.zeros(490, 3), torch.ones(10, 3)])
    with pytest.raises(SplatsegError, match=r"^blocks: expected sparse points at different places, found 500 "):
        cut(two.double(), 2)


# What a block's fit does ---------------------------------------------------------------------------------------------


def test_a_part_starts_with_its_surroundings_thinned_and_grows_in_its_region_alone() -> None:
    side = HalfSpace((1.0, 0.0, 0.0), 2.0, False, 0.5)
    shell = Points(torch.full((3, 3), 50.0), torch.zeros(3, 3, dtype=torch.uint8))
    part = Part(Region((side,)), shell, own=15, around=4)
    xyz = torch.stack([torch.linspace(0, 4, 41), torch.zeros(41), torch.zeros(41)], 1)
    found = part.start(Points(xyz, torch.zeros(41, 3, dtype=torch.uint8))).xyz[:, 0]
    assert found[:20].tolist() == xyz[:20, 0].tolist()
    assert len(found) == 20 + 4 + 4 + 3 and found[-3:].tolist() == [50.0] * 3
    assert bool(((found[20:24] >= 2) & (found[20:24] < 2.5)).all()) and bool((found[24:28] >= 2.5).all())
    assert part.grows(xyz).sum() == 25
    assert part.room(xyz) == 15 - 20
    frame = FitFrame(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), 4.0)
    moved = (xyz.double() - frame.center) / frame.size
    assert torch.equal(part.in_frame(frame).grows(moved), part.grows(xyz))
    assert torch.allclose(part.in_frame(frame).shell.xyz.double() * 4 + frame.center, shell.xyz.double())


class Heard(Reporter):
    """Labels and figures that a fit tells; stops it at the first step of ``stop`` that is ``at`` done."""

    def __init__(self, stop: str = "", at: int = 1) -> None:
        self.stop, self.at = stop, at
        self.labels: list[str] = []
        self.figures: list[dict[str, Any]] = []

    def update(self, progress: Progress) -> None:
        if progress.label not in self.labels:
            self.labels.append(progress.label)
        if progress.label == self.stop and progress.done >= self.at:
            raise Cancelled("stopped")

    def log(self, figures: Mapping[str, Any]) -> None:
        self.figures.append(dict(figures))


GROWING = dataclasses.replace(
    TINY.geometry, steps=60, refine_every=5, grow_grad2d=1e-7, max_gaussians=6000, eval_every=0.02, start="sparse"
)


def in_blocks(scene: Scene, config: GeometryConfig, count: int = 2) -> list[Gaussians]:
    """What each block has in the whole splat."""
    blocks, shell = plan_blocks(scene, count), scene_shell(scene, config, count)
    fitted = [fit_block(scene, block, shell, config) for block in blocks]
    return [join_block(scene, blocks, fitted[number], fitted[:number], config) for number in range(count)]


def test_a_block_keeps_its_bound_and_grows_outside_its_expanded_region_nowhere(scene: Scene) -> None:
    """Everything would be cloned at each refinement, were it not for the bounds."""
    kept = []
    for block in plan_blocks(scene, 2):
        heard = Heard()
        found = fit_block(scene, block, scene_shell(scene, GROWING, 2), GROWING, hooks=FitHooks(reporter=heard))
        assert int((~block.region.holds(found.means, expanded=True)).sum()) < 1.2 * 750  # a quarter of its own
        found = found.select(block.region.holds(found.means))
        assert 2400 < len(found) <= own_limit(6000, 2)
        held = [figures["gaussians"] for figures in heard.figures]
        assert max(held) <= block_limit(6000, 2) + 9 and held[-1] > held[0]  # equal gradients are cloned together
        kept.append(found)
    places = [len(torch.unique(means, dim=0)) for means in (kept[0].means, kept[1].means, merged(kept).means)]
    assert places[0] + places[1] == places[2]  # the two have none in common


def test_blocks_that_add_nothing_have_together_what_the_whole_starts_from(scene: Scene) -> None:
    """Points in both expanded regions are in both fits, and once in the splat; a few cross the border on their way,
    three times as many at the rates of short fits."""
    still = dataclasses.replace(GROWING, refine_start=1.0, **PUBLISHED_RATES)
    whole = merged(in_blocks(scene, still))
    assert abs(len(whole) - len(scene.points.xyz)) <= 0.002 * len(scene.points.xyz)


def test_a_dense_block_has_its_share_of_the_one_shell(scene: Scene) -> None:
    """What the blocks keep of the shell is the whole of it, once; there is none where photos show points before it."""
    config = dataclasses.replace(TINY.geometry, steps=1, start="dense", max_gaussians=20_000)
    shell = scene_shell(scene, config, 2)
    assert 100 < len(shell.xyz) < 0.05 * own_limit(20_000, 2)
    empty = dataclasses.replace(scene, points=Points(scene.points.xyz[:50], scene.points.rgb[:50]))
    assert len(scene_shell(empty, config, 2).xyz) > 1.2 * len(shell.xyz)
    whole = merged(in_blocks(scene, config))
    radius = float((shell.xyz - torch.stack([v.camera.position for v in scene.views]).mean(0)).norm(dim=1).min())
    far = (whole.means - torch.stack([v.camera.position for v in scene.views]).mean(0)).norm(dim=1) > 0.95 * radius
    assert int(far.sum()) == len(shell.xyz)
    nothing = dataclasses.replace(config, start="sparse")
    assert len(scene_shell(scene, nothing, 2).xyz) == 0


def test_the_fit_of_a_part_leaves_nothing_transparent_that_another_part_would_shine_through(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before black, what is dark may stay transparent and look right; not before a color of each step's own."""
    views = []
    for view in scene.views:
        Image.fromarray((view.image() // 16).numpy()).save(tmp_path / f"{view.name}.png")
        views.append(dataclasses.replace(view, image_path=tmp_path / f"{view.name}.png"))
    scene = dataclasses.replace(scene, views=tuple(views))
    config = dataclasses.replace(TINY.geometry, steps=150, start="sparse")
    block, shell = plan_blocks(scene, 2)[0], scene_shell(scene, config, 2)
    through = []
    for black in (False, True):
        if black:
            monkeypatch.setattr(geometry_fit, "backdrop", lambda seed, step: (0.0, 0.0, 0.0))
        found = fit_block(scene, block, shell, config)
        through.append(sum(float(1 - render(found, view.camera).alpha.mean()) for view in block.views))
    assert through[0] < 0.8 * through[1]
    assert backdrop(0, 7) == backdrop(0, 7) != backdrop(0, 8)


def test_a_block_that_is_stopped_goes_on_as_if_it_had_not_been(scene: Scene) -> None:
    block = plan_blocks(scene, 2)[1]
    shell = scene_shell(scene, GROWING, 2)
    saved: list[dict[str, Any]] = []
    hooks = FitHooks(save_checkpoint=lambda state: saved.append(copy.deepcopy(state)), checkpoint_seconds=-1)
    straight = fit_block(scene, block, shell, GROWING, hooks=hooks)
    again = fit_block(scene, block, shell, GROWING, hooks=FitHooks(load_checkpoint=lambda: saved[30]))
    assert straight.fingerprint() == again.fingerprint()


def test_at_a_border_one_side_learns_what_stands_on_the_other(scene: Scene) -> None:
    """The lower number stays as it was; of the higher the Gaussians near the border move, with the same bits when it is
    stopped between; the two together are nearer to the photos."""
    config = dataclasses.replace(TINY.geometry, steps=100)
    blocks, shell = plan_blocks(scene, 2), scene_shell(scene, config, 2)
    fitted = [fit_block(scene, block, shell, config) for block in blocks]
    before = [splat.select(block.region.holds(splat.means)) for block, splat in zip(blocks, fitted, strict=True)]
    saved: list[dict[str, Any]] = []
    hooks = FitHooks(save_checkpoint=lambda state: saved.append(copy.deepcopy(state)), checkpoint_seconds=-1)
    assert join_block(scene, blocks, fitted[0], [], config).fingerprint() == before[0].fingerprint()
    after = join_block(scene, blocks, fitted[1], fitted[:1], config, hooks=hooks)
    resumed = join_block(scene, blocks, fitted[1], fitted[:1], config, hooks=FitHooks(load_checkpoint=lambda: saved[4]))
    assert len(saved) == 10 and resumed.fingerprint() == after.fingerprint()
    far = ~blocks[0].region.holds(before[1].means, expanded=True)
    assert 0 < int(far.sum()) < len(before[1]) == len(after)
    assert torch.equal(after.means[: int(far.sum())], before[1].means[far])
    assert not torch.equal(after.means[int(far.sum()) :], before[1].means[~far])
    assert psnr(merged([before[0], after]), scene.views) > psnr(merged(before), scene.views)


# Blocks as stages of a run -------------------------------------------------------------------------------------------

QUICK = dataclasses.replace(TINY, features=dataclasses.replace(TINY.features, dim=4, steps=2))
IN_TWO = dataclasses.replace(TINY, blocks="2")


def fitted(capture: Path, out: Path, config: FitConfig, reporter: Reporter | None = None) -> dict[str, Any]:
    return Fit(FitInputs(capture, out, str(capture / "masks_2d")), config, reporter or Reporter()).execute()


@pytest.fixture(scope="module")
def finished(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in two blocks."""
    out = tmp_path_factory.mktemp("runs") / "run"
    fitted(capture, out, IN_TWO)
    return out


def geometry_alone(capture: Path, scene: Scene) -> Gaussians:
    return fit_geometry(scene, TINY.geometry, load_test_views(capture, scene))


def test_one_block_is_the_fit_of_the_whole(capture: Path, scene: Scene, tmp_path: Path) -> None:
    """Bit for bit, under the key that runs had before there were blocks; auto is the same where memory allows it."""
    runs = {}
    for blocks in ("auto", "1"):
        fitted(capture, tmp_path / blocks, dataclasses.replace(QUICK, blocks=blocks))
        runs[blocks] = Run(tmp_path / blocks)
    assert load_gaussians(runs["1"].geometry).fingerprint() == geometry_alone(capture, scene).fingerprint()
    assert runs["1"].geometry.read_bytes() == runs["auto"].geometry.read_bytes()
    made_from = runs["1"].made_from("geometry")
    assert made_from is not None and "blocks" not in made_from and made_from == runs["auto"].made_from("geometry")
    assert not runs["1"].blocks.exists()


def test_blocks_are_files_of_their_own_and_the_geometry_is_all_of_them(capture: Path, finished: Path) -> None:
    """A second call does nothing; without the file of one block, and without the geometry, that one is made again."""
    run = Run(finished)
    parts = [load_gaussians(run.blocks / f"border_{k}.ply") for k in range(2)]
    whole = load_gaussians(run.geometry)
    assert merged(parts).fingerprint() == whole.fingerprint()
    assert json.loads(run.metrics.read_text())["blocks"] == 2
    before = run.geometry.stat().st_mtime_ns
    heard = Heard()
    fitted(capture, finished, IN_TWO, heard)
    assert not [label for label in heard.labels if "block" in label or label == "geometry"]
    assert run.geometry.stat().st_mtime_ns == before
    (run.blocks / "border_1.ply").unlink()
    run.geometry.unlink()
    for _ in range(2):
        heard = Heard()
        fitted(capture, finished, dataclasses.replace(TINY, blocks="auto"), heard)  # what the run began with
        again = [label for label in heard.labels if "block" in label]
        assert again == (["borders of block 2"] if _ == 0 else [])
        assert load_gaussians(run.geometry).fingerprint() == whole.fingerprint()
    shutil.rmtree(run.blocks)
    heard = Heard()
    fitted(capture, finished, dataclasses.replace(TINY, blocks="auto"), heard)
    assert not [label for label in heard.labels if "block" in label or label == "geometry"]


def test_a_fit_that_is_killed_between_blocks_goes_on_with_those_not_done(
    capture: Path, finished: Path, tmp_path: Path
) -> None:
    """Stopped at the beginning of the second block, in its midst, and at the border; then what is left is done, to the
    same bits."""
    out = tmp_path / "run"
    for stop, at in (("block 2 of 2", 0), ("block 2 of 2", 20), ("borders of block 2", 1)):
        with pytest.raises(Cancelled):
            fitted(capture, out, IN_TWO, Heard(stop, at))
        assert (Run(out).blocks / "block_0.ply").is_file() and not Run(out).geometry.exists()
    heard = Heard()
    fitted(capture, out, IN_TWO, heard)
    assert [label for label in heard.labels if "block" in label] == ["borders of block 2"]
    assert Run(out).geometry.read_bytes() == Run(finished).geometry.read_bytes()
    assert not list(Run(out).checkpoints.glob("*.pt"))


def test_other_numbers_of_blocks_are_other_geometries(capture: Path, scene: Scene, tmp_path: Path, caplog: Any) -> None:
    """Two, one, and two again; auto then takes what was fitted last."""
    out = tmp_path / "run"
    prints = []
    for blocks in ("2", "1", "auto", "2", "auto"):
        fitted(capture, out, dataclasses.replace(QUICK, blocks=blocks))
        prints.append(load_gaussians(Run(out).geometry).fingerprint())
    assert prints[1] == prints[2] == geometry_alone(capture, scene).fingerprint()
    assert prints[0] == prints[3] == prints[4] != prints[1]
    assert caplog.text.count("geometry: blocks changed, fitted anew") == 2


def test_an_object_across_a_border_has_one_label(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The border goes through the cart's cabin: masks, clustering and labels know nothing of it."""
    truth = load_points(capture / "gt/points.ply")
    cabin = torch.from_numpy(truth.xyz[(truth.levels == 12).any(1)]).float()
    middle = float(cabin[:, 0].median())
    halves = [Region((HalfSpace((1.0, 0.0, 0.0), middle, above, 0.4),)) for above in (False, True)]
    monkeypatch.setattr(block_plan, "cut", lambda points, count: halves)
    fitted(capture, tmp_path / "run", IN_TWO)
    run = Run(tmp_path / "run")
    gaussians = load_gaussians(run.geometry)
    tree = load_labels(run.labels, gaussians)
    seen = cabin[cabin[:, 2] > 0.3]  # what stands on it has no photo of its floor
    nearest = torch.cdist(seen, gaussians.means).argmin(1)
    sides = [half.holds(seen) for half in halves]
    shares = [
        min(float((labels == label)[side].float().mean()) for side in sides)
        for labels in torch.from_numpy(tree.labels)[nearest].unbind(1)
        for label in labels.unique()
    ]
    assert max(shares) > 0.75


# What is asked for ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", "", "²"])
def test_blocks_are_a_number_or_auto(asked: str) -> None:
    with pytest.raises(SplatsegError, match=r"^blocks: expected auto or a whole number of at least 1, found "):
        FitConfig(blocks=asked)


def test_the_command_refuses_in_one_line(capture: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Twice, and nothing is left behind."""
    splat = tmp_path / "splat.ply"
    splat.write_bytes(b"not looked at")
    refusals = {
        ("--blocks", "0"): "blocks: expected auto or a whole number of at least 1, found '0'",
        ("--blocks=-2",): "blocks: expected auto or a whole number of at least 1, found '-2'",
        ("--blocks", "4"): "blocks: expected at most 3 for 6 photos, 2 each, found 4",
        ("--blocks", "2", "--splat", str(splat)): "blocks: expected a geometry to fit, found a splat that is given",
    }
    for options, words in refusals.items():
        for _ in range(2):
            out = tmp_path / "run"
            code = run_script("fit.py", capture, "--out", out, "--masks", capture / "masks_2d", "--quiet", *options)
            stderr = capfd.readouterr().err
            assert code == 2 and words in stderr.strip().splitlines()[-1], stderr
            assert "Traceback" not in stderr and not out.exists()


def test_auto_takes_the_fewest_blocks_that_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And stays with what the run began with, whatever is free later; never so many that a block has few photos."""
    config = FitConfig(geometry=GeometryConfig.preset("quality"))
    size = FitSize(3_000_000, 16, 200, 1_000_000)
    needs = {count: stage_needs(size, config, count)["geometry"] for count in range(1, 11)}
    assert (
        needs[1] > needs[2] > needs[4] and stage_needs(size, config)["labels"] == stage_needs(size, config, 4)["labels"]
    )
    run = Run(tmp_path)
    free = [needs[1], needs[1] - 1, needs[3], needs[10] - 1]
    for have, count in zip(free, (1, 2, 3, 1), strict=True):
        monkeypatch.setattr(block_job, "available_memory", lambda have=have: have)
        assert block_count(run, config, size, True) == count
        assert block_count(run, config, size, False) == 1
        assert block_count(run, dataclasses.replace(config, blocks="7"), size, True) == 7
    run.blocks.mkdir()
    (run.blocks / "blocks.json").write_text('{"blocks": 3}')
    assert block_count(run, config, size, True) == block_count(run, config, size, False) == 3
    (run.blocks / "blocks.json").write_text('{"blo')
    monkeypatch.setattr(block_job, "available_memory", lambda: needs[2])
    assert block_count(run, config, size, True) == 2
    run.mark_done("geometry", "of one block")
    assert block_count(run, config, size, True) == 1


def test_borders_go_on_slowly() -> None:
    """What stands at a border is nearly right: the rates of short fits would shake it, lower ones of a user stay."""
    settings = border_settings(dataclasses.replace(GeometryConfig(), lr_quats=1e-5), 30)
    assert settings.steps == 30 and settings.strategy == "default"
    assert (settings.lr_means, settings.lr_means_final) == (pytest.approx(1.6e-5), 1.6e-6)
    assert (settings.lr_scales, settings.lr_sh0, settings.lr_quats) == (5e-3, 2.5e-3, 1e-5)
