"""Copies of objects: where they stand, what is exported of them, and undo of it by two sessions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_run import KnownRun, click, make_run, part
from scipy.spatial.transform import Rotation

from splatseg.core.errors import SplatsegError
from splatseg.io.ply import load_gaussians
from splatseg.render import render
from splatseg.segment.clicks import EMPTY_ALPHA
from splatseg.session import Session, Workspace
from splatseg.session.colors import Look, Painter, painted
from splatseg.session.copies import Placement, placed, together
from splatseg.session.exports import export_labels, export_scene, export_selection, objects_tree

TURNED = tuple(Rotation.from_euler("y", 90, degrees=True).as_quat(scalar_first=True).tolist())


@pytest.fixture
def known(tmp_path: Path) -> KnownRun:
    return make_run(tmp_path)


@pytest.fixture
def mine(known: KnownRun) -> Session:
    return Session(known.workspace)


def kept(session: Session, known: KnownRun, number: int = 2) -> int:
    click(session, known, number)
    return session.keep("mug").id


def test_a_placement_moves_turns_and_scales(known: KnownRun) -> None:
    """Against the definition, point by point, and against the picture of a camera that moves the other way."""
    splat = known.splat.gaussians.select(part(known, 2).mask)
    placement = Placement((0.0, 0.2, 0.0), (1.0, -2.0, 0.5), TURNED, 1.5)
    moved = placed(splat, placement)
    rotation = Rotation.from_quat(TURNED, scalar_first=True).as_matrix()
    expected = (splat.means.double().numpy() - placement.origin) @ (1.5 * rotation).T + placement.center
    np.testing.assert_allclose(moved.means.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(moved.scales.numpy(), 1.5 * splat.scales.numpy(), rtol=1e-5)
    torch.testing.assert_close(moved.opacity_logits, splat.opacity_logits)
    back = placed(moved, Placement(placement.center, placement.origin, (TURNED[0], 0.0, -TURNED[2], 0.0), 1 / 1.5))
    np.testing.assert_allclose(back.means.numpy(), splat.means.numpy(), atol=1e-5)
    camera = known.splat.camera
    with torch.no_grad():
        shifted = placed(splat, Placement((0.0, 0.0, 0.0), (0.3, 0.0, 0.0)))
        pose = camera.cam_from_world.clone()
        pose[:3, 3] += pose[:3, :3] @ torch.tensor([0.3, 0.0, 0.0])
        seen = render(splat, type(camera)(camera.K, pose, camera.width, camera.height, camera.near)).color
        torch.testing.assert_close(render(shifted, camera).color, seen, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "fields", [{"scale": 0.0}, {"scale": float("nan")}, {"wxyz": (0.0,) * 4}, {"center": (1.0, 2.0)}]
)
def test_placements_that_are_none_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(SplatsegError, match="placement"):
        Placement(**{"origin": (0.0,) * 3, "center": (0.0,) * 3, **fields})  # type: ignore[arg-type]


def test_a_copy_turns_around_the_thing_and_not_around_its_strays(known: KnownRun, mine: Session) -> None:
    """What a click takes may hold a Gaussian or two at the other end of the room."""
    original = mine.duplicate(kept(mine, known)).placement
    assert original is not None
    means = known.splat.gaussians.means
    own = means[part(known, 2).mask]
    far = int((means - own.mean(0)).norm(dim=1).argmax())
    click(mine, known, 2)
    mine.select_sphere(tuple(means[far].tolist()), 1e-4, "add")
    assert len(mine.selection) == len(own) + 1
    for _ in range(2):
        strayed = mine.duplicate(mine.keep("mug and a stray").id).placement
        assert strayed is not None
        size = float((own.max(0).values - own.min(0).values).max())
        assert np.abs(np.subtract(strayed.origin, original.origin)).max() < 0.1 * size


def test_a_copy_is_a_layer_of_its_own(known: KnownRun, mine: Session) -> None:
    other = Session(known.workspace)
    original = kept(mine, known)
    copy = mine.duplicate(original)
    assert copy.name == "copy of mug" and copy.placement is not None and copy.placement.center == copy.placement.origin
    for turn in range(2):
        before = other.objects[1]
        moved = mine.place(copy.id, (0.0, 5.0, 0.0), TURNED, 2.0 + turn)
        assert moved.placement is not None and moved.placement.scale == 2.0 + turn
        assert other.objects[1] is moved
        mine.undo()
        assert other.objects[1] is before
        mine.redo()
    # neither hidden nor labels nor clicks know of it
    mine.show(copy.id, False)
    assert mine.hidden() is None
    assert set(objects_tree(mine).labels.ravel()) == {0, original}
    assert mine.combine(copy.id, "replace") == part(known, 2)
    with pytest.raises(SplatsegError, match="duplicate it first"):
        mine.place(original, (0.0, 0.0, 0.0))
    mine.show(copy.id)
    mine.isolate(copy.id)
    with pytest.raises(SplatsegError, match="empty space"):
        click(mine, known, 2)
    mine.isolate(None)
    colors = Painter(mine, torch.arange(len(known.workspace))).paint(Look("labels"))
    assert len({int(colors[i]) for i in part(known, 2).ids}) == 1


def test_a_drag_of_the_gizmo_is_one_step_and_scales_stay(known: KnownRun, mine: Session) -> None:
    copy = mine.duplicate(kept(mine, known))
    mine.place(copy.id, scale=2.0)
    before = mine.objects[1]
    for drag, ends in ((1, (0.1, 0.2, 0.3)), (2, (0.5, 0.6))):
        for x in ends:
            mine.place(copy.id, (x, 0.0, 0.0), drag=drag)
        placement = mine.objects[1].placement
        assert placement is not None and placement.center == (ends[-1], 0.0, 0.0) and placement.scale == 2.0
    mine.undo()
    assert mine.objects[1].placement.center == (0.3, 0.0, 0.0)  # type: ignore[union-attr]
    mine.undo()
    assert mine.objects[1] is before


def test_the_edited_scene_is_exported_with_its_copies(known: KnownRun, mine: Session) -> None:
    copy = mine.duplicate(kept(mine, known))
    moved = mine.place(copy.id, (0.0, 9.0, 0.0), scale=2.0)
    n, m = len(known.workspace), len(copy)
    assert moved.placement is not None
    source = known.splat.gaussians.select(part(known, 2).mask)
    for hidden in (0, m):
        found = load_gaussians(export_scene(mine, "scene"))
        assert len(found) == n - hidden + m
        torch.testing.assert_close(found.means[-m:], placed(source, moved.placement).means)
        alone = load_gaussians(export_selection(mine, "copy", copy.id))
        torch.testing.assert_close(alone.means, placed(source, moved.placement).means)
        drawn = painted(mine, Look())
        assert len(drawn) == n + m
        mine.show("mug", False)
    mine.show(copy.id, False)
    assert len(load_gaussians(export_scene(mine, "scene"))) == n - m
    assert all(path.is_file() for path in export_labels(mine, "objects", "objects"))
    with torch.no_grad():
        assert float(render(painted(mine, Look()), known.splat.camera).alpha.max()) > EMPTY_ALPHA
    assert len(together([source, source, source])) == 3 * m


def test_copies_are_saved_and_come_back(known: KnownRun, mine: Session) -> None:
    copy = mine.duplicate(kept(mine, known), "twin")
    mine.place(copy.id, (1.0, 2.0, 3.0), TURNED, 0.5)
    wanted = mine.objects[1].placement
    mine.save("with a copy")
    mine.delete(copy.id)
    for _ in range(2):
        fresh = Session(Workspace(known.workspace.run, known.workspace.splat, known.workspace.scene))
        fresh.reopen("with_a_copy")
        assert [o.name for o in fresh.objects] == ["mug", "twin"] and fresh.objects[0].placement is None
        assert fresh.objects[1].placement == wanted
    mine.reopen("with_a_copy")
    assert mine.objects[1].placement == wanted
