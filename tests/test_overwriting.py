"""Nothing is written over what a command reads: every writer of splats and labels, asked for the file that it read, by
name and through a link, says so in a line, exits with 2, and every byte is where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from script_runner import run_script
from tiny_splat import make_splat, write_run

from splatseg.core.label_tree import tree_from_columns
from splatseg.io.labels import save_labels
from splatseg.io.run import Run
from splatseg.io.splats import SUFFIXES, save_splat


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run with labels, its photos PNGs, and a session of the viewer."""
    splat = make_splat()
    folder = write_run(tmp_path / "run", splat)
    save_labels(folder / "labels.ply", splat.gaussians, tree_from_columns([splat.objects.numpy() + 1]))
    (folder / "capture.json").write_text("{}")
    (folder / "sessions").mkdir()
    (folder / "sessions" / "autosave.npz").write_bytes(b"a session")
    return Run.existing(folder)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


CLICK = ("--view", "view_0.png", "--pixel", *make_splat().pixel_of(0), "--quiet")
# The command after RUN, and what it is asked to write, as seen from the run's folder.
WRITERS: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {
    "export": (("--quiet", "--out"), ("geometry.ply", "capture.ply", "views/a.ply", "sessions/autosave.ply")),
    "export --sidecar": (("--quiet", "--sidecar", "--out"), ("geometry.ply", "metrics.ply")),
    "export --format": (("--quiet", "--format", "splat", "--out"), ("labels.splat", "masks/a.splat")),
    "export --label": (("--label", "1", "--out"), ("geometry.ply", "labels.ply")),
    "export --without": (("--without", "1", "--out"), ("geometry.ply", "labels.ply")),
    "export --split-by": (("--split-by", "label", "--out"), (".", "stages", "sessions", "views/parts")),
    "export --panoptic": (("--quiet", "--panoptic"), (".", "masks", "../run-capture/images")),
    "segment": ((*CLICK, "--out"), ("geometry.ply", "labels.ply", "masks.ply", "../run-capture/images.ply")),
    "clean": (("--no-photos", "--quiet", "--out"), ("geometry.ply", "labels.ply", "features/../labels.ply")),
}


@pytest.mark.parametrize(
    ("writer", "place"), [(writer, place) for writer, (_, places) in WRITERS.items() for place in places]
)
def test_a_run_is_not_written_over(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], writer: str, place: str
) -> None:
    """All but clean did so: a fit's splat was replaced by one label of it, a photo by a mask; exit code 0."""
    (run.folder / "features").mkdir()
    before = everything(tmp_path)
    script = f"{writer.partition(' ')[0]}.py"
    for _ in range(2):
        assert run_script(script, run.folder, *WRITERS[writer][0], run.folder / place) == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith("error: ") and "expected" in told and "found" in told and "\n" not in told
    assert everything(tmp_path) == before


@pytest.mark.parametrize("writer", ["export --label", "export --without", "segment", "clean"])
def test_nor_through_a_link(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], writer: str) -> None:
    link, folder_link = tmp_path / "link.ply", tmp_path / "linked"
    link.symlink_to(run.geometry)
    folder_link.symlink_to(run.folder)
    before = everything(run.folder)
    for out in (link, folder_link / "geometry.ply"):
        assert run_script(f"{writer.partition(' ')[0]}.py", run.folder, *WRITERS[writer][0], out) == 2
        assert "expected" in capsys.readouterr().err
    assert everything(run.folder) == before and link.is_symlink()


def test_labels_from_elsewhere_are_not_written_over_the_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """``labels import --out RUN/capture.ply`` wrote the tree over capture.json."""
    theirs = run.folder.parent / "theirs.npy"
    np.save(theirs, make_splat().objects.numpy() + 1)
    before = everything(run.folder)
    for name in ("capture.ply", "geometry.ply"):
        assert run_script("labels.py", "import", run.folder, theirs, "--out", run.folder / name) == 2
        assert "expected" in capsys.readouterr().err
    assert everything(run.folder) == before
    assert run_script("labels.py", "import", run.folder, theirs, "--out", run.exports / "theirs.ply") == 0


def test_own_labels_and_places_of_their_own_are_written(run: Run) -> None:
    """What is refused is not more than that: labels are made anew in place, exports lie anywhere else."""
    kept = {name: content for name, content in everything(run.folder).items() if "labels" not in name}
    for arguments in (
        ("--quiet",),
        ("--quiet", "--sidecar"),
        ("--quiet", "--out", run.labels),
        ("--label", "1", "--out", run.folder / "one.ply"),
        ("--split-by", "label", "--out", run.folder / "parts"),
        ("--quiet", "--panoptic", run.exports / "panoptic"),
    ):
        assert run_script("export.py", run.folder, *arguments) == 0, arguments
    after = everything(run.folder)
    assert {name: after[name] for name in kept} == kept


@pytest.mark.parametrize("kind", ["ply", "splat"])
@pytest.mark.parametrize("command", ["clean.py", "views.py"])
def test_a_splat_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, command: str
) -> None:
    path = tmp_path / f"a{SUFFIXES[kind]}"  # type: ignore[index]
    save_splat(path, make_splat().gaussians, kind)  # type: ignore[arg-type]
    (tmp_path / f"link{path.suffix}").symlink_to(path)
    before = everything(tmp_path)
    for source, out in ((path, path), (path, tmp_path / f"link{path.suffix}"), (tmp_path / f"link{path.suffix}", path)):
        assert run_script(command, source, "--out", out, "--quiet") == 2
        assert "expected" in capsys.readouterr().err
    assert everything(tmp_path) == before


def test_a_splat_among_views_that_would_be_replaced_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The views of another plan took its folder's place, and the splat was gone with it."""
    for place in ("images", "sparse/0"):
        folder = tmp_path / place.partition("/")[0] / "views"
        path = folder / place / "a.ply"
        save_splat(path, make_splat().gaussians)
        (folder / "views.json").write_text("{}")
        before = everything(folder)
        for _ in range(2):
            assert run_script("views.py", path, "--out", folder, "--quiet", "--views", 4) == 2
            assert "expected a folder whose views may be replaced, found the splat" in capsys.readouterr().err
        assert everything(folder) == before
