"""The pinhole camera's laws: unproject undoes project, resizing keeps directions, pixel centers are at + 0.5."""

from __future__ import annotations

import math

import pytest
import torch

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError


def rotation(axis: tuple[float, float, float], angle: float) -> torch.Tensor:
    x, y, z = torch.nn.functional.normalize(torch.tensor(axis), dim=0).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return torch.matrix_exp(cross * angle)


def make_camera(width: int = 64, height: int = 48, angle: float = 0.7) -> Camera:
    pose = torch.eye(4)
    pose[:3, :3] = rotation((1, 2, -0.5), angle)
    pose[:3, 3] = torch.tensor([0.3, -0.2, 1.5])
    K = torch.tensor([[50.0, 0, 31.0], [0, 55.0, 25.0], [0, 0, 1]])
    return Camera(K, pose, width, height)


def test_unproject_then_project_is_the_pixel_center(device: torch.device) -> None:
    camera = make_camera().to(device)
    generator = torch.Generator().manual_seed(0)
    columns = torch.randint(0, camera.width, (500,), generator=generator)
    rows = torch.randint(0, camera.height, (500,), generator=generator)
    pixels = torch.stack([columns, rows], 1).to(device)
    depths = (torch.rand(500, generator=generator) * 10 + 0.1).to(device)
    image, found = camera.project(camera.unproject(pixels, depths))
    # float32 keeps 7 digits: 64 px and 10 units leave about 1e-5; the point at depth 0.1 is 1.5 units from the origin,
    # so cancellation costs a factor of 30.
    assert torch.allclose(image, pixels + 0.5, atol=2e-3)
    assert torch.allclose(found, depths, atol=1e-5)


def test_principal_ray_hits_the_principal_point_at_its_depth() -> None:
    camera = make_camera()
    forward = camera.cam_from_world[2, :3]
    image, depth = camera.project((camera.position + 2.5 * forward)[None])
    assert torch.allclose(image[0], camera.K[:2, 2], atol=1e-4) and depth[0] == pytest.approx(2.5, abs=1e-5)


def test_points_behind_the_camera_have_negative_depth() -> None:
    camera = make_camera()
    _, depth = camera.project((camera.position - camera.cam_from_world[2, :3])[None])
    assert depth[0] == pytest.approx(-1, abs=1e-5)


def test_position_is_where_the_camera_maps_to_zero() -> None:
    camera = make_camera()
    cam = camera.cam_from_world[:3, :3] @ camera.position + camera.cam_from_world[:3, 3]
    assert torch.allclose(cam, torch.zeros(3), atol=1e-6)


def test_pixel_corner_rule_a_full_image_spans_zero_to_width() -> None:
    # A camera with its principal point in the middle sees its left border at u = 0 and the right one at u = width.
    pose = torch.eye(4)
    camera = Camera(torch.tensor([[10.0, 0, 8], [0, 10, 6], [0, 0, 1]]), pose, 16, 12)
    image, _ = camera.project(torch.tensor([[-0.8, -0.6, 1.0], [0.8, 0.6, 1.0]]))
    assert torch.allclose(image, torch.tensor([[0.0, 0.0], [16.0, 12.0]]))
    first = camera.unproject(torch.tensor([[0, 0]]), torch.tensor([1.0]))
    assert torch.allclose(first, torch.tensor([[-0.75, -0.55, 1.0]]))


@pytest.mark.parametrize("size", [(32, 24), (128, 96), (33, 96)])
def test_resizing_scales_image_positions_and_keeps_directions(size: tuple[int, int]) -> None:
    camera = make_camera()
    points = camera.unproject(torch.tensor([[3, 4], [60, 40]]), torch.tensor([1.0, 3.0]))
    before, depth = camera.project(points)
    resized = camera.resized(*size)
    after, same = resized.project(points)
    scale = torch.tensor([size[0] / camera.width, size[1] / camera.height])
    assert torch.allclose(after, before * scale, atol=1e-4) and torch.equal(depth, same)
    assert (resized.width, resized.height) == size


def test_resizing_there_and_back_is_the_identity_and_leaves_the_original() -> None:
    camera = make_camera()
    K = camera.K.clone()
    back = camera.resized(128, 24).resized(camera.width, camera.height)
    assert torch.allclose(back.K, K) and torch.equal(camera.K, K)


@pytest.mark.parametrize(("u", "v", "pixel"), [(0, 0, (0, 0)), (63.9, 47.9, (63, 47)), (10.2, 5.7, (10, 5))])
def test_check_pixel_is_the_pixel_that_holds_the_position(u: float, v: float, pixel: tuple[int, int]) -> None:
    assert make_camera().check_pixel(u, v) == pixel


@pytest.mark.parametrize(("u", "v"), [(-0.1, 5), (64, 5), (5, 48), (5, -3), (math.nan, 5), (5, math.inf)])
def test_positions_outside_the_image_are_refused(u: float, v: float) -> None:
    with pytest.raises(SplatsegError, match=r"pixel: expected column in 0\.\.63 and row in 0\.\.47, found"):
        make_camera().check_pixel(u, v)


def test_bad_matrices_and_sizes_are_named() -> None:
    good = make_camera()
    with pytest.raises(SplatsegError, match=r"camera\.K: expected shape \(3, 3\), found \(4, 4\)"):
        Camera(torch.eye(4), good.cam_from_world, 4, 4)
    with pytest.raises(SplatsegError, match=r"camera\.cam_from_world: expected shape \(4, 4\), found \(3, 4\)"):
        Camera(good.K, good.cam_from_world[:3], 4, 4)
    with pytest.raises(SplatsegError, match=r"camera\.cam_from_world: expected finite values, found nan"):
        Camera(good.K, good.cam_from_world * math.nan, 4, 4)
    with pytest.raises(SplatsegError, match="expected a positive image size, found 0x4"):
        Camera(good.K, good.cam_from_world, 0, 4)
