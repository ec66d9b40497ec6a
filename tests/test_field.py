"""FeatureField: what it accepts, how it normalizes, and what a file must hold to be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_splat import make_gaussians, make_splat

from splatseg.core.errors import SplatsegError
from splatseg.core.field import FeatureField, unit_features


def test_unit_vectors_have_length_one_and_zero_stays_zero() -> None:
    unit = unit_features(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-12, 0.0]]))
    torch.testing.assert_close(unit[0], torch.tensor([0.6, 0.8]), rtol=1e-6, atol=0)  # 1e-6 / |f| is below rounding
    assert unit[1].tolist() == [0, 0]  # no NaN from 0 / 0
    assert float(unit[2].norm()) < 1e-5  # a vanishing feature has no direction: it must not become a unit vector


def test_save_and_load_give_the_same_bits(tmp_path: Path) -> None:
    splat = make_splat(noise=0.1)
    path = tmp_path / "features.safetensors"
    splat.field.save(path)
    loaded = FeatureField.load(path, splat.gaussians)
    assert torch.equal(loaded.features, splat.field.features)
    assert loaded.fingerprint == splat.field.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file stays behind


def test_save_replaces_and_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.safetensors"
    FeatureField(torch.ones(2, 3), "a").save(path)
    FeatureField(torch.zeros(2, 3), "b").save(path)
    assert FeatureField.load(path).fingerprint == "b"

    def full_disk(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(SplatsegError, match=r"f\.safetensors.*no space left"):
        FeatureField(torch.ones(2, 3), "c").save(path)
    assert FeatureField.load(path).fingerprint == "b"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_another_splat_is_refused(tmp_path: Path) -> None:
    splat = make_splat()
    path = tmp_path / "f.safetensors"
    splat.field.save(path)
    moved = make_gaussians(splat.gaussians.means + 1)
    with pytest.raises(SplatsegError, match=rf"{path}: expected features of the splat with fingerprint"):
        FeatureField.load(path, moved)
    with pytest.raises(SplatsegError, match=r"expected one feature for each of 3 Gaussians, found 432"):
        FeatureField.load(path, splat.gaussians.select(torch.arange(3)))


@pytest.mark.parametrize("cut", [0, 5, 40, -1])  # empty, inside the length, inside the header, last byte gone
def test_truncated_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "f.safetensors"
    FeatureField(torch.ones(4, 3), "a").save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SplatsegError, match=r"f\.safetensors: expected a whole safetensors file"):
        FeatureField.load(path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(SplatsegError, match="not found"):
        FeatureField.load(tmp_path / "none.safetensors")
    path = tmp_path / "foreign.safetensors"
    save_file({"weights": torch.ones(2)}, path)
    with pytest.raises(SplatsegError, match=r"expected a 'splatseg-features-1' file .* found format None"):
        FeatureField.load(path)


def test_poison_in_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nan.safetensors"
    features = torch.ones(3, 2)
    features[1, 0] = float("nan")
    save_file({"features": features}, path, metadata={"format": "splatseg-features-1", "fingerprint": "x"})
    with pytest.raises(SplatsegError, match=r"nan\.safetensors: features: expected finite values, found nan at index"):
        FeatureField.load(path)


@pytest.mark.parametrize("bad", [torch.ones(3), torch.ones(3, 0), torch.ones(3, 2, dtype=torch.float64)])
def test_wrong_shape_or_type(bad: torch.Tensor) -> None:
    with pytest.raises(SplatsegError, match=r"^features: expected"):
        FeatureField(bad, "x")
