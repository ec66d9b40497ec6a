"""FeatureSplat: looked at once when it is put together, not again where the same is only shown or moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_splat import make_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField
from splatseg.core.gaussians import Gaussians
from splatseg.core.splat import FeatureSplat
from splatseg.io.ply import save_gaussians
from splatseg.segment import SegmentableSplat


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each time that Gaussians are hashed."""
    counted: list[int] = []
    fingerprint = Gaussians.fingerprint

    def count(self: Gaussians) -> str:
        counted.append(len(self))
        return fingerprint(self)

    monkeypatch.setattr(Gaussians, "fingerprint", count)
    return counted


def test_hashed_once(tmp_path: Path, hashes: list[int]) -> None:
    tiny = make_splat()
    save_gaussians(tmp_path / "a.ply", tiny.gaussians)
    tiny.field.save(tmp_path / "a.safetensors")
    hashes.clear()
    splat = SegmentableSplat.load(tmp_path / "a.ply", tmp_path / "a.safetensors")
    assert len(hashes) == 1
    hidden = splat.gaussians.opacity_logits.clone()
    hidden[:3] = -20
    for _ in range(2):
        shown = splat.showing(replace(splat.gaussians, opacity_logits=hidden)).to("cpu")
        assert isinstance(shown, SegmentableSplat) and shown.fingerprint == splat.fingerprint
        assert len(shown) == len(splat) and torch.equal(shown.gaussians.opacity_logits, hidden)
    assert len(hashes) == 1


def test_what_does_not_belong_together_is_refused() -> None:
    tiny = make_splat()
    with pytest.raises(SplatsegError, match="fingerprint"):
        FeatureSplat(tiny.gaussians, FeatureField(tiny.field.features, "0" * 16))
    with pytest.raises(SplatsegError, match="expected 432, found 431"):
        FeatureSplat(tiny.gaussians, tiny.field).showing(tiny.gaussians.select(torch.arange(432) > 0))
