"""Labels beside a splat find their rows again, and are not put where they do not belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_run import make_run
from script_runner import run_script
from splat_transform import needs_splat_transform, splat_transform
from test_splats import a_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.label_tree import tree_from_columns
from splatseg.io.labels import load_labels, save_labels
from splatseg.io.ply import load_extra, load_gaussians, save_gaussians
from splatseg.io.sidecar import Sidecar, attach, load_sidecar, row_keys, save_sidecar
from splatseg.io.splats import SUFFIXES, SplatFormat, load_splat, save_splat

COUNT = 4000


def sidecar_of(splat: Gaussians) -> Sidecar:
    """A sidecar whose column is the number of the row."""
    return Sidecar({"row": np.arange(len(splat))}, row_keys(splat), splat.fingerprint(), splat.offset)


@pytest.mark.parametrize("kind", ["compressed-ply", "spz", "sog", "splat", "ksplat"])
def test_rows_are_found_after_each_format(tmp_path: Path, kind: SplatFormat) -> None:
    splat = a_splat(COUNT)
    save_splat(tmp_path / f"a{SUFFIXES[kind]}", splat, kind)
    read = load_splat(tmp_path / f"a{SUFFIXES[kind]}").gaussians
    attached = attach(read, sidecar_of(splat), tmp_path)
    rows = torch.from_numpy(attached.columns["row"])
    assert attached.found.mean() >= 0.995
    right = (read.means - splat.means[rows]).norm(dim=1) < 0.01
    assert float((right & torch.from_numpy(attached.found)).float().mean()) >= 0.995
    assert len(np.unique(rows[attached.found])) == attached.found.sum()


@needs_splat_transform
@pytest.mark.parametrize("kind", ["compressed-ply", "spz", "sog"])
def test_rows_are_found_after_splat_transform_and_a_crop(tmp_path: Path, kind: SplatFormat) -> None:
    splat = a_splat(COUNT)
    save_gaussians(tmp_path / "a.ply", splat, {"row": np.arange(COUNT, dtype=np.int32)})
    crop = splat_transform(tmp_path / "a.ply", tmp_path / "crop.ply", "-B", "-0.5,-1,-1,1,1,1")
    truth = load_extra(crop)["row"]
    middle = splat_transform(crop, tmp_path / f"b{SUFFIXES[kind]}")
    back = load_gaussians(splat_transform(middle, tmp_path / "back.ply"))
    attached = attach(back, sidecar_of(splat), tmp_path)
    assert attached.found.mean() >= 0.995
    found = attached.columns["row"][attached.found]
    assert len(np.intersect1d(found, truth)) >= 0.995 * len(truth)
    assert float((back.means - splat.means[attached.columns["row"]]).norm(dim=1).median()) < 2e-3


def test_a_splat_that_was_moved_or_scaled_is_not_taken_for_this_one() -> None:
    splat = a_splat(COUNT)
    for means in (2 * splat.means, splat.means + 0.5, splat.means.flip(1)):
        other = Gaussians(means, splat.quats, splat.log_scales, splat.opacity_logits, splat.sh)
        assert attach(other, sidecar_of(splat), Path("a.npz")).found.mean() < 0.1


def test_a_row_belongs_to_one_gaussian() -> None:
    """The whole scene beside the labels of a crop: its neighbors must not share the crop's rows."""
    splat = a_splat(COUNT)
    inside = splat.means[:, 0] > 0
    attached = attach(splat, sidecar_of(splat.select(inside)), Path("a.npz"))
    assert np.array_equal(attached.found, inside.numpy())


def test_saved_and_loaded_and_older_ones_without_keys(tmp_path: Path) -> None:
    splat, path = a_splat(30), tmp_path / "a.npz"
    save_sidecar(path, splat, {"label": np.arange(30, dtype=np.int32)})
    read = load_sidecar(path)
    assert read.fingerprint == splat.fingerprint() and len(read) == 30 and list(read.columns) == ["label"]
    turned = splat.select(torch.arange(29, -1, -1))
    assert attach(turned, read, path).columns["label"].tolist() == list(range(29, -1, -1))
    np.savez(path, label=np.arange(30))
    assert attach(splat, load_sidecar(path), path).found.all()
    with pytest.raises(SplatsegError, match=r"a\.npz: expected keys of its rows .* found 30 labels without keys"):
        attach(a_splat(31), load_sidecar(path), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": np.zeros(3, int), "b": np.zeros(4, int)}, r"found columns of \[3, 4\] rows"),
        ({"a": np.zeros(3)}, "found none"),
        ({"a": np.zeros(3, int), "position": np.zeros((2, 3))}, r"position: expected \(3, 3\) finite numbers"),
        ({"a": np.zeros(3, int), "position": np.full((3, 3), np.nan)}, "position: expected"),
        ({"a": np.array([None])}, r"expected a sidecar of labels \(\.npz, \.npy\)"),
    ],
)
def test_broken_sidecars_are_one_line(tmp_path: Path, content: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(SplatsegError, match=rf"a\.npz: .*{message}"):
        load_sidecar(tmp_path / "a.npz")


def test_levels_that_do_not_nest_are_made_to() -> None:
    coarse, fine = np.array([5, 5, 9, 9, 0, -1]), np.array([1, 2, 2, 0, 3, 3])
    tree = tree_from_columns([coarse, fine])
    labels = tree.labels
    assert (labels[4:] == 0).all()
    assert labels[0, 0] == labels[1, 0] != labels[2, 0] == labels[3, 0]
    assert len(set(labels[:4, 1].tolist())) == 4  # what is not divided at the finer level is one there
    with pytest.raises(SplatsegError, match="expected numbers above 0, found none"):
        tree_from_columns([np.zeros(4, int)])


def test_attach_and_import_by_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A round trip through another format and back into a run, twice; nothing is written over an input."""
    run = make_run(tmp_path).workspace.run
    splat = load_gaussians(run.geometry)
    tree = tree_from_columns([1 + (splat.means[:, 0] > 0).numpy().astype(int)])
    save_labels(tmp_path / "x.spz", splat, tree)
    side, out = tmp_path / "x.npz", tmp_path / "x.labels.ply"
    for _ in range(2):
        assert run_script("labels.py", "attach", tmp_path / "x.spz", side) == 0
        assert np.array_equal(load_extra(out)["label"], tree.labels[:, 0])
    assert run_script("labels.py", "attach", out, side, "--out", out) == 2
    assert "expected another file than the input" in capsys.readouterr().err
    assert run_script("labels.py", "import", run.folder, out) == 0
    assert np.array_equal(load_labels(run.labels, splat).labels[:, 0], tree.labels[:, 0])
    assert run_script("labels.py", "import", run.folder, out) == 2
    assert "expected no labels yet, found some" in capsys.readouterr().err
    assert run_script("labels.py", "import", run.folder, run.geometry, "--out", tmp_path / "n.ply") == 2
    assert "expected integer properties" in capsys.readouterr().err and not (tmp_path / "n.ply").exists()


@pytest.mark.parametrize("kind", ["npy", "bool npy", "npz", "ply"])
def test_a_selection_made_elsewhere_becomes_labels(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """LichtFeld's ``scene.selection_mask`` is uint8, a number of a group each; by numpy.save it is a file."""
    run = make_run(tmp_path).workspace.run
    splat = load_gaussians(run.geometry)
    groups = (np.arange(len(splat)) % 3).astype(np.uint8)
    path = tmp_path / f"mask.{kind.split()[-1]}"
    if kind == "ply":
        save_gaussians(path, splat.select(torch.arange(len(splat) - 1, -1, -1)), {"selection": groups[::-1].copy()})
    elif kind == "npz":
        np.savez(path, selection=groups)
    else:
        np.save(path, groups > 0 if kind == "bool npy" else groups)
    wanted = np.minimum(groups, 1) if kind == "bool npy" else groups
    for out in (tmp_path / "first.ply", tmp_path / "second.ply"):
        assert run_script("labels.py", "import", run.folder, path, "--out", out) == 0
        labels = load_extra(out)["label"]
        assert np.array_equal(labels == 0, wanted == 0)
        assert len(np.unique(labels)) == len(np.unique(wanted)) == len(np.unique(np.stack([labels, wanted]), axis=1)[0])
    np.save(tmp_path / "short.npy", groups[:-1])
    assert run_script("labels.py", "import", run.folder, tmp_path / "short.npy", "--out", tmp_path / "n.ply") == 2
    told = capsys.readouterr().err
    assert "short.npy: expected keys of its rows" in told and "labels without keys" in told and told.count("\n") == 1
    assert not (tmp_path / "n.ply").exists()


def test_gaussians_flatter_than_a_format_holds_are_found(tmp_path: Path) -> None:
    """SPZ has no size below e^-10: of a fitted room of 164,039 Gaussians, 1.5 % are flatter and were not found."""
    splat, order = a_splat(2000), torch.randperm(2000, generator=torch.Generator().manual_seed(1))
    splat.log_scales[::3, 1] = -17.0
    splat.log_scales[::50, 0] = 7.0
    save_sidecar(tmp_path / "side.npz", splat, {"row": np.arange(2000)})
    save_splat(tmp_path / "a.spz", splat.select(order), "spz")
    back = load_splat(tmp_path / "a.spz").gaussians
    assert float(back.log_scales.min()) == -10.0
    found = attach(back, load_sidecar(tmp_path / "side.npz"), tmp_path / "side.npz")
    assert found.found.all() and np.mean(found.columns["row"] == order.numpy()) > 0.998
