"""A captured scene: posed photographs and the sparse points they were registered with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError, check_dims, check_finite
from splatseg.core.photos import read_mask, read_photo


@dataclass(frozen=True)
class PhotoSource:
    """The photo as it was taken, before it was resized and undistorted: its size, and COLMAP's camera of it."""

    width: int
    height: int
    model: str
    params: tuple[float, ...]


@dataclass(frozen=True)
class View:
    """One posed image. ``name`` is the COLMAP image name (posix, may contain folders) and is unique in a scene.

    ``mask_path`` is an image of the camera's size whose pixels of value 0 are no part of the scene (people who walk
    by): the geometry loss leaves them out. ``source`` is set where the photo was resized or undistorted.
    """

    name: str
    camera: Camera
    image_path: Path
    mask_path: Path | None = None
    source: PhotoSource | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the view's pixels come from."""
        return (self.image_path,) if self.mask_path is None else (self.image_path, self.mask_path)

    def image(self) -> Tensor:
        """(height, width, 3) uint8 RGB; black where the photo is transparent (:mod:`splatseg.core.photos`).

        Raises:
            SplatsegError: the file is missing, unreadable, or of another size than the camera.
        """
        return self.photo()[0]

    def photo(self) -> tuple[Tensor, Tensor | None]:
        """:meth:`image`, and (height, width) bool of the pixels that the splat is fitted to, None for all of them.

        Raises:
            SplatsegError: as :meth:`image`; the same for the mask.
        """
        photo = read_photo(self.image_path, self.name)
        self._check_size(self.image_path, photo.pixels.shape)
        fitted = photo.shown
        if self.mask_path is not None:
            mask = read_mask(self.mask_path)
            self._check_size(self.mask_path, mask.shape)
            fitted = mask if fitted is None else mask & fitted
        return torch.from_numpy(photo.pixels), None if fitted is None else torch.from_numpy(fitted)

    def _check_size(self, path: Path, shape: tuple[int, ...]) -> None:
        expected = (self.camera.height, self.camera.width)
        if shape[:2] != expected:
            raise SplatsegError(
                f"{path}: expected {expected[1]}x{expected[0]} pixels as its camera says, found {shape[1]}x{shape[0]}"
            )


@dataclass(frozen=True, eq=False)
class Points:
    """Sparse points: ``xyz`` (m, 3) float32 world units, ``rgb`` (m, 3) uint8."""

    xyz: Tensor
    rgb: Tensor

    def __post_init__(self) -> None:
        sizes = check_dims("points.xyz", self.xyz, ("m", 3))
        check_dims("points.rgb", self.rgb, ("m", 3), sizes)
        check_finite("points.xyz", self.xyz)


NEAR_SHARE = 1e-3  # of a scene's extent: the least depth that is drawn
SAME_PLACE = 1e-6  # cameras nearer together than this share of their points' distance give no size


def frame_size(centers: NDArray[np.float64], points: NDArray[np.float64]) -> float:
    """:attr:`Scene.extent` of camera positions (m, 3) and points (n, 3); 1 where neither says anything."""
    middle = centers.mean(0)
    spread = 1.1 * float(np.linalg.norm(centers - middle, axis=1).max())
    reach = float(np.median(np.linalg.norm(points - middle, axis=1))) if len(points) else 0.0
    return spread if spread > SAME_PLACE * reach else reach or 1.0


@dataclass(frozen=True)
class Scene:
    """Registered views, sorted by name, and sparse points.

    ``offset`` is where the origin of cameras and points lies in the capture's frame, world units, float64: not zero
    where float32 cannot hold positions there.
    """

    views: tuple[View, ...]
    points: Points
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        names = [view.name for view in self.views]
        if not names:
            raise SplatsegError("scene: expected at least one registered view, found none")
        if len(set(names)) != len(names):
            raise SplatsegError("scene: expected unique view names, found duplicates")

    def in_frame(self, offset: tuple[float, float, float]) -> Scene:
        """The scene with its origin at ``offset`` of the capture's frame: that of a splat whose ``offset`` this is."""
        origin = np.array(offset, np.float64) - np.array(self.offset, np.float64)
        if not origin.any():
            return self
        views = tuple(replace(view, camera=view.camera.with_origin(origin.tolist())) for view in self.views)
        xyz = (self.points.xyz.double() - torch.from_numpy(origin)).to(self.points.xyz.dtype)
        return Scene(views, replace(self.points, xyz=xyz), offset)

    def view(self, name: str) -> View:
        """The view called ``name``; its file stem alone will do where that is unique.

        Raises:
            SplatsegError: no such view.
        """
        found = [v for v in self.views if v.name == name] or [v for v in self.views if Path(v.name).stem == name]
        if len(found) != 1:
            examples = ", ".join(v.name for v in self.views[:3])
            raise SplatsegError(
                f"view '{name}': expected one of the scene's views ({examples}, ...), found {len(found)}"
            )
        return found[0]

    @property
    def extent(self) -> float:
        """1.1 x the largest distance of a camera from the mean camera position, world units (3DGS' scene scale); where
        all cameras are at one place, the median distance of the points from it. Positive."""
        centers = torch.stack([view.camera.position for view in self.views]).double()
        return frame_size(centers.numpy(), self.points.xyz.double().numpy())

    def split(self, every: int) -> tuple[tuple[View, ...], tuple[View, ...]]:
        """(training views, held-out views): every ``every``-th view is held out, none if that is 0 or there is one."""
        if every <= 0 or len(self.views) == 1:
            return self.views, ()
        train = tuple(v for i, v in enumerate(self.views) if i % every != 0)
        held_out = tuple(v for i, v in enumerate(self.views) if i % every == 0)
        return train, held_out


def spread_views(views: Sequence[View], count: int) -> list[View]:
    """Up to ``count`` views, evenly spaced from the first to the last."""
    return [views[round(i)] for i in torch.linspace(0, len(views) - 1, min(count, len(views))).tolist()]
