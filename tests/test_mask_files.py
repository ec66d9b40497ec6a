"""Masks read from folders: every layout, matching to views, and one-line refusals that name the file."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.scene import View
from splatseg.masks import MaskSet, mask_source
from splatseg.masks.files import FileMasks

HEIGHT, WIDTH = 6, 9


def view(name: str = "0001.jpg", height: int = HEIGHT, width: int = WIDTH) -> View:
    return View(name, Camera(torch.eye(3), torch.eye(4), width, height), Path("unused") / name)


def stack() -> np.ndarray:
    """(3, h, w) bool: overlapping masks."""
    masks = np.zeros((3, HEIGHT, WIDTH), bool)
    masks[0, 1:3, 2:5] = masks[1, :, :4] = masks[2, 5, 8] = True
    return masks


def same(found: MaskSet, expected: np.ndarray) -> bool:
    return {c.tobytes() for c in found.counts} == {c.tobytes() for c in MaskSet.from_dense(expected).counts}


def write_png_folder(folder: Path, masks: np.ndarray, table: bool = True) -> None:
    """What segment-anything's amg.py writes: 0/255 PNGs and a table."""
    folder.mkdir(parents=True)
    rows = ["id,area,bbox_x0,bbox_y0,bbox_w,bbox_h"]
    for i, mask in enumerate(masks):
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{i}.png")
        rows.append(f"{i},{mask.sum()},0,0,1,1")
    if table:
        (folder / "metadata.csv").write_text("\n".join(rows))


def write_json(path: Path, masks: np.ndarray) -> None:
    annotations = [{"segmentation": one, "area": 1} for one in MaskSet.from_dense(masks).to_coco()]
    path.write_text(json.dumps(annotations))


def test_amg_folder_of_pngs(tmp_path: Path):
    many = np.random.default_rng(0).random((12, HEIGHT, WIDTH)) < 0.4  # ids of two digits
    write_png_folder(tmp_path / "0001", many)
    found = mask_source(tmp_path, [view()]).masks(view())
    assert torch.equal(found.stack(), torch.from_numpy(many))  # in the table's order
    shutil.rmtree(tmp_path / "0001")
    write_png_folder(tmp_path / "0001", many, table=False)
    assert torch.equal(FileMasks(tmp_path).masks(view()).stack(), torch.from_numpy(many))


def test_amg_json(tmp_path: Path):
    write_json(tmp_path / "0001.json", stack())
    assert same(FileMasks(tmp_path).masks(view()), stack())
    annotations = json.loads((tmp_path / "0001.json").read_text())
    (tmp_path / "0001.json").write_text(json.dumps({"image": {}, "annotations": annotations}))  # SA-1B
    assert same(FileMasks(tmp_path).masks(view()), stack())
    (tmp_path / "0001.json").write_text("[]")  # an image in which nothing was found
    assert len(FileMasks(tmp_path).masks(view())) == 0


def test_real_json_folder(data_dir: Path):
    folder = data_dir / "dev_kitchen/masks_2d"
    views = [view(f"train_{i:03}.jpg", 480, 640) for i in (0, 17)]
    found = mask_source(folder, views).masks(views[1])
    assert len(found) == len(json.loads((folder / "train_017.json").read_text()))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_map_png(tmp_path: Path, dtype: type):
    labels = np.zeros((HEIGHT, WIDTH), dtype)
    labels[:2], labels[3:, 4:] = np.iinfo(dtype).max, 2
    Image.fromarray(labels).save(tmp_path / "0001.png")
    assert same(FileMasks(tmp_path).masks(view()), np.stack([labels == 2, labels == np.iinfo(dtype).max]))


def test_palette_png_gives_indices_not_colors(tmp_path: Path):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[:2], labels[4:] = 1, 2
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 200, 10, 10, 200, 10, 10])  # two ids of one color
    image.save(tmp_path / "0001.png")
    assert same(FileMasks(tmp_path).masks(view()), np.stack([labels == 1, labels == 2]))


def test_arrays_of_ids_levels_and_masks(tmp_path: Path):
    levels = np.zeros((2, HEIGHT, WIDTH), np.int32)
    levels[0, :3], levels[0, 3:, :4], levels[1, :, :7] = 5, 70_000, 5
    np.save(tmp_path / "ids.npy", levels[0])
    np.savez(tmp_path / "levels.npz", levels=levels, other=np.zeros(3))
    np.savez(tmp_path / "bools.npz", stack())
    source = FileMasks(tmp_path)
    assert same(source.masks(view("ids.jpg")), np.stack([levels[0] == 5, levels[0] == 70_000]))
    expected = np.stack([levels[0] == 5, levels[0] == 70_000, levels[1] == 5])
    assert same(source.masks(view("levels.jpg")), expected) and len(source.masks(view("levels.jpg"))) == 3
    assert same(source.masks(view("bools.jpg")), stack())


def test_a_mask_repeated_on_two_levels_counts_once(tmp_path: Path):
    levels = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    levels[:, :3] = 4
    np.save(tmp_path / "0001.npy", levels)
    assert len(FileMasks(tmp_path).masks(view())) == 1


def test_views_are_matched_by_path_name_or_stem(tmp_path: Path):
    (tmp_path / "cam1").mkdir()
    write_json(tmp_path / "cam1" / "0001.json", stack()[:1])
    write_json(tmp_path / "0001.jpg.json", stack()[:2])
    write_json(tmp_path / "0002.json", stack())
    source = FileMasks(tmp_path)
    assert len(source.masks(view("cam1/0001.png"))) == 1
    assert len(source.masks(view("0001.jpg"))) == 2
    assert len(source.masks(view("cam7/0002.jpg"))) == 3


def test_views_without_masks_are_counted_in_one_warning(tmp_path: Path):
    write_json(tmp_path / "b.json", stack())
    views = [view(f"{name}.jpg") for name in "abcde"]
    with pytest.warns(UserWarning, match=r"4 of 5 views have no masks \(a\.jpg, c\.jpg, d\.jpg, \.\.\.\)") as caught:
        source = mask_source(tmp_path, views)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = source.masks(views[0])
    assert (len(empty), empty.height, empty.width) == (0, HEIGHT, WIDTH)


def test_changed_files_change_the_settings(tmp_path: Path):
    write_json(tmp_path / "a.json", stack())
    before = FileMasks(tmp_path).settings()
    assert FileMasks(tmp_path).settings() == before == json.loads(json.dumps(before))
    write_json(tmp_path / "a.json", stack()[:2])
    assert FileMasks(tmp_path).settings() != before


def truncated_png(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-30])


def wrong_table(path: Path) -> None:
    write_png_folder(path.parent, stack())
    path.write_text("id,area\n0,6\n1,24\n7,1\n")


def short_table(path: Path) -> None:
    write_png_folder(path.parent, stack())
    path.write_text("id,area\n0,6\n")


def nameless_table(path: Path) -> None:
    write_png_folder(path.parent, stack())
    path.write_text("area\n6\n24\n1\n")


def mixed_folder(path: Path) -> None:
    write_png_folder(path, stack())
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path / "1.png")


def empty_mask_counts(path: Path) -> None:
    write_json(path, stack())
    annotations = json.loads(path.read_text())
    annotations[1]["segmentation"]["counts"] = annotations[1]["segmentation"]["counts"][:-1]
    path.write_text(json.dumps(annotations))


BAD = {
    "truncated JSON": ("0001.json", lambda p: p.write_text('[{"segmentation": {"si'), "unreadable JSON"),
    "binary JSON": ("0001.json", lambda p: p.write_bytes(b"\xff\xfe\x00"), "unreadable JSON"),
    "JSON of something else": ("0001.json", lambda p: p.write_text('{"a": 1}'), "expected a list of COCO masks"),
    "JSON with damaged counts": ("0001.json", empty_mask_counts, "mask 1: counts: expected"),
    "JSON of another size": ("0001.json", lambda p: write_json(p, np.ones((1, 4, 4))), "of 9x6 pixels .*, found 4x4"),
    "truncated PNG": ("0001.png", truncated_png, "unreadable image"),
    "PNG that is text": ("0001.png", lambda p: p.write_text("no"), "unreadable image"),
    "color PNG": ("0001.png", lambda p: Image.new("RGB", (WIDTH, HEIGHT)).save(p), "one channel .*, found .* RGB"),
    "PNG of another size": ("0001.png", lambda p: Image.new("L", (6, 9), 1).save(p), "of 9x6 pixels .*, found 6x9"),
    "table with a missing mask": ("0001/metadata.csv", wrong_table, "the mask 7.png that it lists"),
    "table cut short": ("0001/metadata.csv", short_table, "a row for each of 3 masks, found 1"),
    "table without ids": ("0001/metadata.csv", nameless_table, "expected a column 'id'"),
    "folder of mixed sizes": ("0001", mixed_folder, r"mask 1: expected shape \(6, 9\), found \(2, 2\)"),
    "truncated NPZ": ("0001.npz", lambda p: p.write_bytes(b"PK\x03\x04abc"), "unreadable array"),
    "NPZ of several arrays": ("0001.npz", lambda p: np.savez(p, a=np.ones(2), b=np.ones(2)), "expected one array"),
    "NPY of floats": ("0001.npy", lambda p: np.save(p, np.ones((6, 9))), r"found \(6, 9\) float64"),
    "NPY of objects": ("0001.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True), "unreadable array"),
    "NPY of four dimensions": ("0001.npy", lambda p: np.save(p, np.ones((1, 1, 6, 9), int)), "found .1, 1, 6, 9."),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_by_name(tmp_path: Path, case: str):
    name, write, message = BAD[case]
    write(tmp_path / name)
    source = FileMasks(tmp_path, [view()])
    with pytest.raises(SplatsegError, match=message) as caught:
        source.masks(view())
    text = str(caught.value)
    assert text.startswith(str(tmp_path / name)) and "\n" not in text


def test_bad_folders_are_refused(tmp_path: Path):
    with pytest.raises(SplatsegError, match="expected a folder of masks, found nothing"):
        FileMasks(tmp_path / "missing")
    write_json(tmp_path / "other.json", stack())
    with pytest.raises(SplatsegError, match=r"0001\.json, .* found none for any of 2 views"):
        FileMasks(tmp_path, [view("0001.jpg"), view("0002.jpg")])
    with pytest.raises(SplatsegError, match=r"other\.json: .* 'a/other.jpg' and 'b/other.jpg'"):
        FileMasks(tmp_path, [view("a/other.jpg"), view("b/other.jpg")])
    np.save(tmp_path / "other.npy", np.zeros((HEIGHT, WIDTH), int))
    with pytest.raises(SplatsegError, match=r"one set of masks for view 'other\.jpg', found other\.json, other\.npy"):
        FileMasks(tmp_path, [view("other.jpg")])
