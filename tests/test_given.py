"""A splat that is given: PLYs as people have them, transforms, and the comparison with the photos."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation
from script_runner import run_script

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import Gaussians
from splatseg.core.scene import Points, Scene, View
from splatseg.fit.given import agreement, check_agreement
from splatseg.fit.splat_transform import read_splat_transform, rotated_harmonics, transformed
from splatseg.io.ply import load_gaussians, save_gaussians
from splatseg.render import render

OFFSET = (448262.5, -5411932.0, 131.0)


def splat(degree: int = 3, count: int = 200) -> Gaussians:
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    sh = random(count, (degree + 1) ** 2, 3) * 0.4
    return Gaussians(random(count, 3) * 0.6, random(count, 4), random(count, 3) * 0.3 - 2, random(count) + 2, sh)


def camera(angle: float = 0.0) -> Camera:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0, angle, 0]).as_matrix()
    pose[2, 3] = 4
    K = torch.tensor([[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]])
    return Camera(K, torch.from_numpy(pose).float(), 64, 48)


def similarity(scale: float = 0.25) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_rotvec([0.4, -1.3, 2.0]).as_matrix()
    matrix[:3, 3] = [3.0, -2.0, 0.5]
    return matrix


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Four photos of :func:`splat` with its means as sparse points."""
    views = []
    for number in range(4):
        picture = (render(splat(), camera(0.4 * number)).color.clamp(0, 1) * 255).round().to(torch.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture.numpy()).save(path)
        views.append(View(path.name, camera(0.4 * number), path))
    means = splat().means
    return Scene(tuple(views), Points(means, torch.zeros(means.shape, dtype=torch.uint8)))


# Transforms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_moved_splat_is_seen_alike_by_a_moved_camera(degree: int) -> None:
    matrix, gaussians = similarity(), splat(degree)
    moved = transformed(gaussians, matrix, (0.0, 0.0, 0.0))
    before = camera()
    pose = before.cam_from_world.double().numpy() @ np.linalg.inv(matrix)
    pose[:3] *= 0.25  # a camera has no scale: all of its depths are a quarter
    after = replace(before, cam_from_world=torch.from_numpy(pose).float(), near=before.near * 0.25)
    torch.testing.assert_close(render(moved, after).color, render(gaussians, before).color, atol=2e-4, rtol=0)


def test_rotated_harmonics_are_a_rotation() -> None:
    one, two = (torch.from_numpy(Rotation.from_rotvec(v).as_matrix()) for v in ([0.1, 2, -1], [1.0, 0, 0.3]))
    sh = splat().sh
    torch.testing.assert_close(rotated_harmonics(sh, torch.eye(3, dtype=torch.float64)), sh)
    both = rotated_harmonics(rotated_harmonics(sh, one), two)
    torch.testing.assert_close(both, rotated_harmonics(sh, two @ one), atol=1e-5, rtol=0)
    torch.testing.assert_close(both.square().sum(dim=1), sh.square().sum(dim=1))


def test_offsets_meet_in_float64() -> None:
    far = replace(splat(), offset=OFFSET)
    assert torch.equal(transformed(far, np.eye(4), OFFSET).means, far.means)
    shifted = transformed(far, np.eye(4), (OFFSET[0] - 1, *OFFSET[1:]))
    torch.testing.assert_close(shifted.means, far.means + torch.tensor([1.0, 0, 0]))


def test_transforms_of_every_kind_agree(tmp_path: Path) -> None:
    wanted = similarity()
    inverse = np.linalg.inv(wanted)
    scale = float(np.cbrt(np.linalg.det(inverse[:3, :3])))
    (tmp_path / "m.json").write_text(json.dumps(wanted.tolist()))
    np.savetxt(tmp_path / "m.txt", wanted, fmt="%.17g")
    (tmp_path / "commas.txt").write_text("\n".join(", ".join(map(repr, row)) for row in wanted.tolist()) + "\n")
    nerfstudio = {"transform": (inverse[:3] / scale).tolist(), "scale": scale}
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(nerfstudio))
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(read_splat_transform(path), wanted, atol=1e-9)
    swap = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]])
    found = read_splat_transform(tmp_path / "dataparser_transforms.json", swap)
    np.testing.assert_allclose(found[:3], swap[:, :3] @ wanted[:3], atol=1e-9)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected 4x4 or 3x4"),
        ("1 2 3", "expected 4x4 or 3x4"),
        ("[[1,0,0,0],[0,1,0,0],[0,0,NaN,0]]", "finite"),
        ("1 0 0 0\n0 1 0 0\n0 0 -1 0", "expected a rotation times one positive scale"),
        ("1 0 0 0\n0 2 0 0\n0 0 1 0", "expected a rotation times one positive scale"),
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 2", "expected a rotation times one positive scale"),
        ('{"scale": 1}', "transform: expected 4x4"),
        ('{"transform": [[1,0,0,0],[0,1,0,0],[0,0,1,0]], "scale": -1}', "scale: expected a positive number, found -1"),
    ],
)
def test_broken_transforms_are_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "t").write_text(content)
    with pytest.raises(SplatsegError) as refused:
        read_splat_transform(tmp_path / "t")
    assert words in str(refused.value) and str(tmp_path / "t") in str(refused.value)
    with pytest.raises(SplatsegError, match="No such file"):
        read_splat_transform(tmp_path / "none")


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comment", ["Größe".encode("latin-1"), "Größe".encode(), b"\xff\xfe end?"])
def test_comments_in_any_encoding(tmp_path: Path, comment: bytes) -> None:
    gaussians = replace(splat(), offset=OFFSET)
    save_gaussians(tmp_path / "plain.ply", gaussians)
    content = (tmp_path / "plain.ply").read_bytes()
    line = b"\ncomment " + comment + b"\nelement"
    (tmp_path / "it.ply").write_bytes(content.replace(b"\nelement", line, 1))
    found = load_gaussians(tmp_path / "it.ply")
    assert found.fingerprint() == gaussians.fingerprint() and found.offset == OFFSET
    broken = content.replace(b"\nelement vertex", b"\nelement v\xe9rtex", 1)
    (tmp_path / "broken.ply").write_bytes(broken)
    with pytest.raises(SplatsegError, match=r"broken.ply"):
        load_gaussians(tmp_path / "broken.ply")


def test_filter_3d_is_applied(tmp_path: Path) -> None:
    """Yu et al. 2024, eq. 9, by the covariances themselves."""
    gaussians = splat(0)
    widths = torch.linspace(0, 0.3, len(gaussians))
    save_gaussians(tmp_path / "plain.ply", gaussians)
    old = PlyData.read(str(tmp_path / "plain.ply"))["vertex"].data
    new = np.empty(len(old), np.dtype([*old.dtype.descr, ("filter_3D", "<f4")]))
    for name in old.dtype.names:
        new[name] = old[name]
    new["filter_3D"] = widths.numpy()
    PlyData([PlyElement.describe(new, "vertex")]).write(str(tmp_path / "mip.ply"))
    found = load_gaussians(tmp_path / "mip.ply")
    before = gaussians.scales.double().square()
    after = before + widths.double().square()[:, None]
    torch.testing.assert_close(found.scales.double(), after.sqrt(), rtol=1e-5, atol=0)
    opacity = gaussians.opacities.double() * (before.prod(dim=1) / after.prod(dim=1)).sqrt()
    torch.testing.assert_close(found.opacities.double(), opacity, rtol=1e-4, atol=1e-9)
    for name in ("means", "quats", "sh"):
        assert torch.equal(getattr(found, name), getattr(gaussians, name))
    save_gaussians(tmp_path / "fused.ply", found)  # not applied a second time
    assert load_gaussians(tmp_path / "fused.ply").fingerprint() == found.fingerprint()


# Comparison ----------------------------------------------------------------------------------------------------------


def test_the_splat_of_the_photos_fits(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    found = check_agreement(Path("it.ply"), splat(), scene, scene.views)
    assert found.fits and found.psnr > 40 > found.flat and found.points > 0.25
    assert len(caplog.records) == 1 and f"it.ply: {found.psnr:.1f} dB on 4 photos" in caplog.text


def test_one_of_both_is_enough(scene: Scene) -> None:
    black = replace(splat(), sh=splat().sh * 0 - 2)
    assert agreement(black, scene, scene.views).fits  # wrong colors at the right place
    nowhere = replace(scene, points=Points(scene.points.xyz * 0 + 1e3, scene.points.rgb))
    assert agreement(splat(), nowhere, scene.views).fits  # right colors, points that are none


@pytest.mark.parametrize("how", ["normalized", "elsewhere", "empty"])
def test_a_splat_in_another_frame_is_refused(scene: Scene, how: str) -> None:
    moved = {
        "normalized": transformed(splat(), similarity(), (0.0, 0.0, 0.0)),
        "elsewhere": replace(splat(), means=splat().means + 100),
        "empty": replace(splat(), opacity_logits=splat().opacity_logits - 30),
    }[how]
    with pytest.raises(SplatsegError, match=r"it.ply: .* dB on 4 photos .* give --splat-transform"):
        check_agreement(Path("it.ply"), moved, scene, scene.views)


# The shown cases -----------------------------------------------------------------------------------------------------


OPTIONS = ["--preset", "fast", "--quiet", "--config.features.steps=2"]
OPTIONS += ["--config.features.sampling.pool-pixels=500", "--config.features.sampling.batch-pixels=500"]


@pytest.mark.parametrize("name", ["good", "non_ascii_comment"])
def test_shown_splats_are_taken(cases: Path, tmp_path: Path, name: str) -> None:
    ply = cases / f"ply_{name}" / f"{name}.ply"
    assert run_script("fit.py", cases / "_base", "--out", tmp_path, "--splat", ply, *OPTIONS) == 0
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["splat_psnr"] > 15 and figures["splat_points"] > 0.25


def test_shown_normalized_splat_is_refused_until_its_transform_is_given(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ply = cases / "ply_normalised_frame" / "normalised_frame.ply"
    call = ["fit.py", cases / "_base", "--out", tmp_path / "run", "--splat", ply, *OPTIONS]
    assert run_script(*call) == 2
    assert "--splat-transform" in capsys.readouterr().err.strip().splitlines()[-1]
    good, moved = load_gaussians(cases / "ply_good" / "good.ply"), load_gaussians(ply)
    source = np.c_[moved.means.double().numpy(), np.ones(len(moved))]
    matrix = np.eye(4)
    matrix[:3] = np.linalg.lstsq(source, good.means.double().numpy(), rcond=None)[0].T
    np.savetxt(tmp_path / "t.txt", matrix)
    assert run_script(*call, "--splat-transform", tmp_path / "t.txt") == 0
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert figures["splat_psnr"] > 15
    found = load_gaussians(tmp_path / "run" / "geometry.ply")
    torch.testing.assert_close(found.means, good.means, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.log_scales, good.log_scales, atol=1e-3, rtol=0)


def test_a_transform_without_a_splat_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("1")
    assert run_script("fit.py", tmp_path, "--out", tmp_path / "r", "--splat-transform", tmp_path / "t.txt") == 2
    assert "--splat-transform: expected --splat beside it" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
