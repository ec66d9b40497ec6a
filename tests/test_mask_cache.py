"""The mask cache: one whole file a view, reused while photo, source and settings are the same, remade otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.scene import View
from splatseg.masks import MaskSet
from splatseg.masks.cache import MaskCache


class CountingSource:
    """One mask: the bright pixels. Counts its calls."""

    name = "bright"

    def __init__(self, threshold: int = 128) -> None:
        self.threshold = threshold
        self.calls = 0

    def settings(self) -> dict[str, Any]:
        return {"threshold": self.threshold}

    def masks(self, view: View) -> MaskSet:
        self.calls += 1
        return MaskSet.from_dense((view.image()[..., 0] > self.threshold)[None])


@pytest.fixture
def view(tmp_path: Path) -> View:
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    write_photo(path, seed=0)
    return View("cam0/a.png", Camera(torch.eye(3), torch.eye(4), 12, 8), path)


def write_photo(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)).save(path)


def test_second_call_reads_the_file(tmp_path: Path, view: View):
    source = CountingSource()
    first = MaskCache(tmp_path / "masks", source).masks(view)
    again = MaskCache(tmp_path / "masks", source).masks(view)
    assert source.calls == 1 and again.to_coco() == first.to_coco() == source.masks(view).to_coco()
    assert [p.name for p in (tmp_path / "masks").rglob("*") if p.is_file()] == ["a.png.npz"]


def test_settings_and_photos_are_told_apart(tmp_path: Path, view: View):
    folder = tmp_path / "masks"
    MaskCache(folder, CountingSource()).masks(view)
    assert MaskCache(folder, CountingSource(200)).load(view) is None
    os.utime(view.image_path, (1, 1))  # copied or touched: the same photo
    assert MaskCache(folder, CountingSource()).load(view) is not None
    write_photo(view.image_path, seed=1)
    source = CountingSource()
    found = MaskCache(folder, source).masks(view)
    assert source.calls == 1 and found.to_coco() == source.masks(view).to_coco()


@pytest.mark.parametrize("keep", [0, 10, 200, -1], ids=["empty", "start", "half", "all but a byte"])
def test_damaged_files_are_made_anew(tmp_path: Path, view: View, keep: int):
    cache = MaskCache(tmp_path / "masks", CountingSource())
    expected = cache.masks(view).to_coco()
    whole = cache.path(view).read_bytes()
    cache.path(view).write_bytes(whole[:keep])
    assert cache.load(view) is None
    assert cache.masks(view).to_coco() == expected
    assert cache.load(view) is not None


def test_no_masks_are_kept_too(tmp_path: Path, view: View):
    cache = MaskCache(tmp_path / "masks", CountingSource())
    cache.save(view, MaskSet.empty(8, 12))
    found = cache.load(view)
    assert found is not None and (len(found), found.height, found.width) == (0, 8, 12)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, view: View, monkeypatch: pytest.MonkeyPatch):
    cache = MaskCache(tmp_path / "masks", CountingSource())

    def interrupted(file: Any, **arrays: Any) -> None:
        file.write(b"PK half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.masks(view)
    assert [p for p in (tmp_path / "masks").rglob("*") if p.is_file()] == []


def test_masks_of_another_size_are_not_stored(tmp_path: Path, view: View):
    with pytest.raises(SplatsegError, match=r"view 'cam0/a\.png': expected 12x8 pixels, found 5x4"):
        MaskCache(tmp_path / "masks", CountingSource()).save(view, MaskSet.empty(4, 5))
