"""Sessions as files, the autosave that outlives a killed server, and what a session exports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from known_run import KnownRun, make_run, part
from PIL import Image
from plyfile import PlyData

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import tree_from_leaves
from splatseg.core.selection import Selection
from splatseg.core.splat import FeatureSplat
from splatseg.io.labels import load_labels, save_labels
from splatseg.io.ply import load_gaussians
from splatseg.session import Cancelled, Change, Job, Session, Workspace, file_stem
from splatseg.session.colors import DISPLAY_MODES, Look, Painter
from splatseg.session.detail import level_of_detail
from splatseg.session.exports import (
    export_image,
    export_labels,
    export_masks,
    export_selection,
    export_without,
)


@pytest.fixture
def known(tmp_path: Path) -> KnownRun:
    return make_run(tmp_path)


@pytest.fixture
def session(known: KnownRun) -> Session:
    return Session(known.workspace)


def again(known: KnownRun) -> Workspace:
    """The same run, opened by another process as it were."""
    return Workspace(known.workspace.run, FeatureSplat(known.splat.gaussians, known.splat.field), known.workspace.scene)


def work(known: KnownRun, session: Session) -> None:
    """A hidden and a visible object, labels, and a selection at a chosen threshold with an unwanted click."""
    session.click("front", *known.splat.pixel_of(0))
    session.keep("first", color=(9, 8, 7))
    session.click("front", *known.splat.pixel_of(4))
    session.keep("second")
    session.show("second", False)
    tree = tree_from_leaves(known.splat.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 0)
    known.workspace.shared.apply(Change(trees=((None, 0), (tree, 1))))
    session.click("front", *known.splat.pixel_of(2))
    session.set_threshold(0.5)
    session.click("front", *known.splat.pixel_of(3), mode="subtract")


def check_work(known: KnownRun, session: Session) -> None:
    first, second = session.objects
    assert (first.name, first.color, first.visible) == ("first", (9, 8, 7), True)
    assert (second.name, second.visible) == ("second", False)
    assert first.selection(len(known.workspace)) == part(known, 0)
    assert session.tree is not None and session.tree.levels == 2 and session.label_level == 1
    assert session.selection == part(known, 2)
    assert session.active is not None and session.active.threshold == 0.5
    assert len(session.active.query.negative) == 1


def test_save_and_reopen(known: KnownRun, session: Session) -> None:
    work(known, session)
    path = session.save("my work/../x")
    assert path.parent == known.workspace.run.folder / "sessions"
    fresh = Session(again(known))
    assert fresh.workspace.saved_sessions() == (path.stem,)
    fresh.reopen(path.stem)
    check_work(known, fresh)
    fresh.undo()
    assert fresh.objects == () and fresh.tree is None and len(fresh.selection) == 0


def test_new_objects_after_reopening_get_new_ids(known: KnownRun, session: Session) -> None:
    work(known, session)
    session.save("s")
    fresh = Session(again(known))
    fresh.reopen("s")
    assert fresh.keep("third").id > max(o.id for o in session.objects)


@pytest.mark.parametrize("damage", ["missing", "truncated", "not a zip", "other splat", "ids", "nan meta"])
def test_bad_session_files_are_refused_and_change_nothing(known: KnownRun, session: Session, damage: str) -> None:
    work(known, session)
    path = session.save("s")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "not a zip":
        path.write_bytes(b"hello")
    else:
        arrays = dict(np.load(path))
        meta = json.loads(arrays["meta"].tobytes())
        if damage == "other splat":
            meta["fingerprint"] = "0" * 16
        elif damage == "ids":
            arrays["ids"] = arrays["ids"] + 100_000
        else:
            meta = []
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        np.savez(path, **arrays)
    fresh = Session(again(known))
    with pytest.raises(SplatsegError, match=r"s\.npz"):
        fresh.reopen("s")
    assert fresh.objects == () and not fresh.can_undo


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import known_run
from splatseg.io.run import Run
from splatseg.segment import SegmentableSplat
from splatseg.session import Session, Workspace
from tiny_splat import make_splat
run = Run(Path({run!r}))
scene = known_run.make_scene(Path({photos!r}))
workspace = Workspace(run, SegmentableSplat.load(run.geometry, run.features), scene)
workspace.start_autosave()
session = Session(workspace)
session.click("front", *make_splat().pixel_of(2))
session.keep("survivor")
print("kept", flush=True)
time.sleep(60)
"""


def test_autosave_survives_a_kill(known: KnownRun, tmp_path: Path) -> None:
    folder = known.workspace.run.folder
    names = {"tests": str(Path(__file__).parent), "run": str(folder), "photos": str(tmp_path / "photos")}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    server = subprocess.Popen([sys.executable, "-c", KILLED.format(**names)], stdout=subprocess.PIPE, env=environment)
    try:
        assert server.stdout is not None and server.stdout.readline() == b"kept\n"
        autosave = folder / "sessions" / "autosave.npz"
        deadline = time.monotonic() + 20
        while not autosave.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(SplatsegError, match=f"process {server.pid}"):
            again(known).start_autosave()
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
    workspace = again(known)
    workspace.start_autosave()
    session = Session(workspace)
    assert [o.name for o in session.objects] == ["survivor"]
    assert workspace.restored is not None and "1 object" in workspace.restored
    step = workspace.take_restored_step()
    assert step is not None and workspace.take_restored_step() is None
    assert session.selection == Selection.none(len(workspace))
    session.resume(step)
    assert session.selection == part(known, 2)
    workspace.close()


def test_close_writes_the_last_change_and_frees_the_run(known: KnownRun, session: Session) -> None:
    known.workspace.start_autosave()
    work(known, session)
    known.workspace.close()
    workspace = again(known)
    workspace.start_autosave()
    fresh = Session(workspace)
    fresh.resume(workspace.take_restored_step())  # type: ignore[arg-type]
    check_work(known, fresh)
    workspace.close()


def test_damaged_autosave_is_kept_aside(known: KnownRun) -> None:
    folder = known.workspace.run.folder / "sessions"
    folder.mkdir()
    (folder / "autosave.npz").write_bytes(b"broken")
    known.workspace.start_autosave()
    assert known.workspace.restored is not None and "could not be used" in known.workspace.restored
    assert [p.read_bytes() for p in folder.glob("*.unreadable")] == [b"broken"]
    known.workspace.close()


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "..", "a/b\\c", "\x00", "", "con:aux", "🦊"])
def test_names_stay_in_their_folder(known: KnownRun, name: str) -> None:
    for path, folder in (
        (known.workspace.export_path(name, ".ply"), known.workspace.run.exports),
        (known.workspace.session_path(name), known.workspace.sessions_folder),
    ):
        assert path.parent == folder and path.resolve().parent == folder.resolve()
        assert not path.name.startswith(".") and set(path.name) <= set(file_stem(path.name) + ".")


def test_autosave_name_is_reserved(session: Session) -> None:
    with pytest.raises(SplatsegError, match="another name"):
        session.save("autosave")


def test_export_selection_and_the_scene_without_it(known: KnownRun, session: Session) -> None:
    session.click("front", *known.splat.pixel_of(2))
    chosen, rest = export_selection(session), export_without(session)
    assert chosen.parent == known.workspace.run.exports
    assert len(PlyData.read(chosen)["vertex"]) == len(part(known, 2))
    assert torch.equal(load_gaussians(chosen).means, known.splat.gaussians.means[part(known, 2).mask])
    assert len(load_gaussians(rest)) == len(known.workspace) - len(part(known, 2))
    session.keep("gone")
    session.show("gone", False)
    assert len(load_gaussians(export_without(session))) == len(known.workspace) - len(part(known, 2))
    assert len(load_gaussians(export_selection(session, "g", "gone"))) == len(part(known, 2))
    with pytest.raises(SplatsegError, match="selected"):
        export_selection(session)


def test_export_labels_of_tree_and_of_objects(known: KnownRun, session: Session) -> None:
    for source in ("labels", "objects"):
        with pytest.raises(SplatsegError):
            export_labels(session, source=source)
    work(known, session)
    files = export_labels(session)
    assert {p.suffix for p in files} == {".ply", ".json", ".npz"} and all(p.is_file() for p in files)
    assert np.array_equal(load_labels(files[0]).labels, session.tree.labels)  # type: ignore[union-attr]
    vertices = PlyData.read(files[0])["vertex"]
    assert {"label", "label_0", "label_1"} <= {p.name for p in vertices.properties}
    objects = load_labels(export_labels(session, "objects", "objects")[0])
    assert [node.name for node in objects.nodes] == ["first", "second"]
    assert objects.selection(session.objects[0].id) == part(known, 0)


def test_cancelled_labels_are_not_written(known: KnownRun, session: Session) -> None:
    work(known, session)
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        export_labels(session, job=job)
    assert not list(known.workspace.run.exports.glob("*"))


def test_export_masks_of_every_photo(known: KnownRun, session: Session) -> None:
    session.click("front", *known.splat.pixel_of(2))
    job = Job()
    path = export_masks(session, "my mug", job=job)
    assert path.name == "my_mug_masks.zip" and job.share == 1
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["front.png", "side.png"]
        with archive.open("front.png") as file:
            mask = np.array(Image.open(file))
    column, row = known.splat.pixel_of(2)
    assert mask.shape == (32, 48) and mask[row, column] == 255 and mask[0, 0] == 0


def test_masks_of_a_hidden_object_show_it(known: KnownRun, session: Session) -> None:
    session.click("front", *known.splat.pixel_of(2))
    session.keep("mug")
    shown = export_masks(session, "shown", "mug")
    session.show("mug", False)
    hidden = export_masks(session, "hidden", "mug")
    with zipfile.ZipFile(shown) as a, zipfile.ZipFile(hidden) as b:
        assert [a.read(name) for name in a.namelist()] == [b.read(name) for name in b.namelist()]


def test_cancelled_masks_leave_no_archive(known: KnownRun, session: Session) -> None:
    session.click("front", *known.splat.pixel_of(2))
    job = Job()
    job.cancel()
    with pytest.raises(Cancelled):
        export_masks(session, job=job)
    assert not list(known.workspace.run.exports.glob("*.zip"))


def test_looks(known: KnownRun, session: Session) -> None:
    ids = torch.arange(len(known.workspace))
    painter = Painter(session, ids)
    camera = known.workspace.camera("front")
    with pytest.raises(SplatsegError, match="click"):
        painter.paint(Look("scores"))
    with pytest.raises(SplatsegError, match="camera"):
        painter.paint(Look("depth"))
    with pytest.raises(SplatsegError, match="display"):
        Look("x-ray")  # type: ignore[arg-type]
    plain = painter.paint(Look())
    opacity = np.round(known.splat.gaussians.opacities.numpy() * 255)
    assert np.array_equal(plain >> 24, opacity) and (plain & 255).max() <= 128
    session.click("front", *known.splat.pixel_of(2))
    inside = part(known, 2).mask.numpy()
    lit = painter.paint(Look())
    assert ((lit & 255)[inside] > 150).all() and (lit[~inside] != plain[~inside]).all()
    assert np.array_equal(painter.paint(Look(dim=False))[~inside], plain[~inside])
    assert np.array_equal(painter.paint(Look(dim=False, highlight=False)), plain)
    heat = painter.paint(Look("scores"))
    assert len(np.unique(heat)) >= 3
    for mode in DISPLAY_MODES:
        assert painter.paint(Look(mode), camera).shape == (len(ids),)
    session.hide_selection()
    assert (painter.paint(Look())[inside] == 0).all()


def test_labels_are_painted_anew_when_they_change(known: KnownRun, session: Session) -> None:
    painter = Painter(session, torch.arange(len(known.workspace)))
    gray = painter.paint(Look("labels"))
    session.click("front", *known.splat.pixel_of(2))
    session.keep("mug", color=(200, 10, 20))
    session.clear()
    shown = painter.paint(Look("labels"))
    inside = part(known, 2).mask.numpy()
    assert set((shown[inside] & 0xFFFFFF).tolist()) == {200 | 10 << 8 | 20 << 16}
    assert np.array_equal(shown[~inside], gray[~inside])


def test_level_of_detail_draws_a_subset_and_selects_on_all(known: KnownRun, session: Session) -> None:
    ids = level_of_detail(known.workspace, 100)
    assert len(ids) == 100 and torch.equal(ids, level_of_detail(known.workspace, 100)) and len(ids.unique()) == 100
    painter = Painter(session, ids)
    assert session.click("front", *known.splat.pixel_of(2)) == part(known, 2)
    assert painter.paint(Look()).shape == (100,)


def test_level_of_detail_keeps_what_covers_much(known: KnownRun) -> None:
    """On f581d69 the area did not count: half of the largest were left out where a third is drawn."""
    n, limit = 30_000, 10_000
    generator = torch.Generator().manual_seed(1)
    size = 1.2 * torch.randn(n, 1, generator=generator) - 4  # log of the standard deviation
    gaussians = Gaussians(
        torch.randn(n, 3, generator=generator),
        torch.randn(n, 4, generator=generator),
        size + 0.3 * torch.randn(n, 3, generator=generator),
        torch.randn(n, generator=generator),
        torch.zeros(n, 1, 3),
    )
    field = FeatureField(torch.ones(n, 2), gaussians.fingerprint())
    space = Workspace(known.workspace.run, FeatureSplat(gaussians, field))
    kept = torch.zeros(n, dtype=torch.bool)
    kept[level_of_detail(space, limit)] = True
    area = gaussians.opacities * gaussians.scales.topk(2, dim=1).values.prod(1)
    largest_first = area.argsort(descending=True)
    tenths = [float(kept[part].float().mean()) for part in largest_first.chunk(10)]
    assert tenths[0] > 0.98 and tenths == sorted(tenths, reverse=True) and tenths[-1] > 0.001
    assert float(area[kept].sum() / area.sum()) > 0.9
    needles = torch.arange(n) < 1000  # long, and cover nothing
    thin = torch.cat([size + 4, size - 20, size - 20], dim=1)
    mixed = replace(gaussians, log_scales=torch.where(needles[:, None], thin, gaussians.log_scales))
    space = Workspace(known.workspace.run, FeatureSplat(mixed, FeatureField(torch.ones(n, 2), mixed.fingerprint())))
    assert int(needles[level_of_detail(space, limit)].sum()) < 20


def test_image_of_the_view_shows_the_highlight(known: KnownRun, session: Session) -> None:
    camera = known.workspace.camera("front")
    session.click("front", *known.splat.pixel_of(2))
    image = np.array(Image.open(export_image(session, camera)))
    column, row = known.splat.pixel_of(2)
    assert image.shape == (32, 48, 3) and image[row, column, 0] > image[row, column, 2] + 60
    assert (image[0, 0] == 255).all()


def test_features_of_another_splat_are_refused(known: KnownRun) -> None:
    field = FeatureField(known.splat.field.features, "0" * 16)
    with pytest.raises(SplatsegError, match="fingerprint"):
        Workspace(known.workspace.run, FeatureSplat(known.splat.gaussians, field))


@pytest.mark.parametrize("damaged", [False, True])
def test_the_labels_of_the_fit_are_there_at_once(
    known: KnownRun, damaged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tree = tree_from_leaves(known.splat.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 1)
    save_labels(known.workspace.run.labels, known.splat.gaussians, tree)
    if damaged:
        known.workspace.run.labels_json.write_text("{}")
    session = Session(known.workspace.run)
    assert (session.tree is None) is damaged and ("labels of the run" in caplog.text) is damaged
    if not damaged:
        camera = known.splat.camera
        assert session.label_level == 1 and session.pick_label(camera, *known.splat.pixel_of(2)) == part(known, 2)
        session.undo()
        session.undo()
        assert session.tree is not None  # no step of the person's


def test_a_run_without_features_is_named(known: KnownRun) -> None:
    known.workspace.run.features.unlink()
    with pytest.raises(SplatsegError, match=r"features\.safetensors"):
        Session(known.workspace.run)


def test_a_camera_does_where_the_photos_are_gone(known: KnownRun) -> None:
    session = Session(Workspace(known.workspace.run, FeatureSplat(known.splat.gaussians, known.splat.field), None))
    camera: Camera = known.splat.camera
    assert session.click(camera, *known.splat.pixel_of(2)) == part(known, 2)
    with pytest.raises(SplatsegError, match="photos"):
        session.click("front", 1, 1)
    with pytest.raises(SplatsegError, match="photos"):
        export_masks(session)
