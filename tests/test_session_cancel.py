"""Cancelling what takes long: whenever it comes, nothing half-written is left and older files are untouched."""

from __future__ import annotations

import errno
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from known_run import KnownRun, make_run

from splatseg.core.atomic import remove_leftovers, write_together
from splatseg.core.errors import SplatsegError
from splatseg.core.label_tree import LabelTree, tree_from_leaves
from splatseg.io import ply
from splatseg.session import Cancelled, Change, Job, Session
from splatseg.session.colors import Look
from splatseg.session.exports import export_image, export_labels, export_masks, export_selection, export_without

Export = Callable[[Session, Job], object]
EXPORTS: dict[str, Export] = {
    "selection": lambda session, job: export_selection(session, job=job),
    "without": lambda session, job: export_without(session, job=job),
    "labels": lambda session, job: export_labels(session, job=job),
    "objects": lambda session, job: export_labels(session, "objects", "objects", job=job),
    "masks": lambda session, job: export_masks(session, job=job),
    "image": lambda session, job: export_image(session, session.workspace.camera("front"), job=job),
}


class Impatient(Job):
    """A job that is cancelled just before its n-th report."""

    def __init__(self, reports: int) -> None:
        super().__init__()
        self.left = reports
        self.shares: list[float] = []

    def report(self, step: str, share: float) -> None:
        if self.left == 0:
            self.cancel()
        self.left -= 1
        self.shares.append(share)
        super().report(step, share)


@pytest.fixture
def known(tmp_path: Path) -> KnownRun:
    return make_run(tmp_path)


@pytest.fixture
def session(known: KnownRun, monkeypatch: pytest.MonkeyPatch) -> Session:
    """With a part selected, another kept, and labels; PLY files are written in many pieces."""
    monkeypatch.setattr(ply, "_WRITTEN", 50)
    session = Session(known.workspace)
    tree = tree_from_leaves(known.splat.parts.numpy(), [np.arange(6) // 2, np.arange(6)], 0)
    known.workspace.shared.apply(Change(trees=((None, 0), (tree, 1))))
    session.click("front", *known.splat.pixel_of(0))
    session.keep("first")
    session.click("front", *known.splat.pixel_of(2))
    return session


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"folder" for p in folder.rglob("*")}


def cancelled_everywhere(session: Session, export: Export, folder: Path) -> int:
    """Cancel ``export`` at its first report, its second ..., until it comes to its end; returns how often."""
    before = files(folder)
    for number in itertools.count():
        job = Impatient(number)
        try:
            export(session, job)
        except Cancelled:
            assert files(folder) == before
        else:
            assert job.shares == sorted(job.shares) and job.shares[-1] == 1
            return number
    raise AssertionError


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_cancelled_at_any_report_changes_no_file(known: KnownRun, session: Session, name: str) -> None:
    folder, export = known.workspace.run.exports, EXPORTS[name]
    assert cancelled_everywhere(session, export, folder) > 2
    before = files(folder)
    assert before and not any(path.startswith(".") for path in before)
    session.set_threshold(0.5)  # what is exported next differs from what is there
    session.recolor("first", (1, 2, 3))
    session.workspace.shared.apply(Change(trees=((session.tree, 1), (merged_tree(session), 1))))
    assert cancelled_everywhere(session, export, folder) > 2
    after = files(folder)
    assert after.keys() == before.keys() and after != before


def merged_tree(session: Session) -> LabelTree:
    tree = session.tree
    assert tree is not None
    first, second = (node.id for node in tree.at_level(0)[:2])
    return tree.merge(first, second)


@pytest.mark.parametrize("mode", ["replace", "add", "subtract", "intersect"])
def test_a_click_cancelled_at_any_report_changes_nothing(known: KnownRun, session: Session, mode: str) -> None:
    place = known.splat.pixel_of(3)
    step = session.step
    for after in range(2):
        with pytest.raises(Cancelled):
            session.click("front", *place, mode=mode, job=Impatient(after))  # type: ignore[arg-type]
        assert session.step is step
    session.click("front", *place, mode=mode, job=(job := Job()))  # type: ignore[arg-type]
    assert session.step is not step and job.step


def test_files_written_together_appear_together(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "old.png").write_text("old")
    with write_together(tmp_path) as stage:
        (stage / "masks").mkdir()
        (stage / "masks" / "new.png").write_text("new")
        (stage / "labels.json").write_text("{}")
        assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["masks"]
    assert files(tmp_path) == {"masks": b"folder", "masks/new.png": b"new", "labels.json": b"{}"}
    with pytest.raises(SplatsegError, match=str(tmp_path / "x.ply")), write_together(tmp_path) as stage:
        (stage / "labels.json").write_text("[]")
        raise SplatsegError(f"{stage / 'x.ply'}: expected room to write the file, found no space left on the disk")
    assert files(tmp_path) == {"masks": b"folder", "masks/new.png": b"new", "labels.json": b"{}"}


def write_labels(folder: Path, text: str) -> None:
    with write_together(folder) as stage:
        (stage / "masks").mkdir()
        (stage / "masks" / f"{text}.png").write_text(text)
        for name in ("labels.json", "labels.ply"):
            (stage / name).write_text(text)


@pytest.mark.parametrize("call", range(6))
def test_a_move_that_fails_leaves_what_was_there_before(
    tmp_path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever of the moves, and again: on f581d69 the masks of before were gone."""
    write_labels(tmp_path, "old")
    before = files(tmp_path)
    for _ in range(2):
        calls = itertools.count()

        def failing(move: Callable[..., None], calls: Iterator[int] = calls) -> Callable[..., None]:
            def moved(source: Path, target: Path) -> None:
                if next(calls) == call:
                    raise OSError(errno.EIO, "Input/output error", str(source), None, str(target))
                move(source, target)

            return moved

        with monkeypatch.context() as patched:
            for name in ("replace", "rename", "link"):
                patched.setattr(os, name, failing(getattr(os, name)))
            try:
                write_labels(tmp_path, "new")
            except SplatsegError as error:
                assert str(tmp_path) in str(error) and "Input/output error" in str(error)
                assert files(tmp_path) == before
            else:  # links can be done without, and there are no more moves
                assert set(files(tmp_path).values()) == {b"folder", b"new"}
                write_labels(tmp_path, "old")
    write_labels(tmp_path, "new")
    assert files(tmp_path).keys() == {"masks", "masks/new.png", "labels.json", "labels.ply"}


def killed_at(call: int, folder: Path) -> None:
    """Write the labels to ``folder`` in a process that is killed before its ``call``-th move."""
    child = os.fork()
    if child == 0:
        calls = itertools.count()

        def deadly(move: Callable[..., None]) -> Callable[..., None]:
            def moved(*paths: Path) -> None:
                if next(calls) == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                move(*paths)

            return moved

        try:
            for name in ("replace", "rename", "link"):
                setattr(os, name, deadly(getattr(os, name)))
            write_labels(folder, "new")
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("call", range(6))
def test_a_kill_between_the_moves_leaves_all_of_the_new(tmp_path: Path, call: int) -> None:
    """On f581d69 half of the files were new, and the masks of before or after were removed with what was left over."""
    for _ in range(2):
        write_labels(tmp_path, "old")
        killed_at(call, tmp_path)
        assert {p for p in tmp_path.iterdir() if not p.name.startswith(".")} >= {
            tmp_path / "labels.json",
            tmp_path / "labels.ply",
        }
        remove_leftovers(tmp_path)
        found = files(tmp_path)
        assert found.keys() == {"masks", "masks/new.png", "labels.json", "labels.ply"}
        assert set(found.values()) == {b"folder", b"new"}


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SplatsegError, match="file"), write_together(tmp_path / "file"):
        pass


def test_leftovers_of_the_dead_are_removed_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above every process id of Linux
    for name in (
        f".a.{dead}-0123abcd.tmp.npz",
        f".together.{dead}-0123abcd.tmp",
        ".b.1-0123abcd.tmp.ply",
        ".c.tmp",
        "d",
    ):
        (tmp_path / name).write_text("")
    (tmp_path / f".folder.{dead}-0123abcd.tmp").mkdir()
    (tmp_path / f".folder.{dead}-0123abcd.tmp" / "x").write_text("")
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.1-0123abcd.tmp.ply", ".c.tmp", "d"]
    remove_leftovers(tmp_path / "missing")


def test_the_picture_does_not_depend_on_the_job(known: KnownRun, session: Session) -> None:
    camera = known.workspace.camera("front")
    plain = export_image(session, camera, "a", Look("labels")).read_bytes()
    assert export_image(session, camera, "b", Look("labels"), Job()).read_bytes() == plain
    assert torch.equal(session.selection.mask, known.splat.parts == 2)
