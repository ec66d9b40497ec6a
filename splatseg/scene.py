"""A captured scene: posed photographs and the sparse points they were registered with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from splatseg.camera import Camera
from splatseg.errors import SplatsegError, check_dims, check_finite


@dataclass(frozen=True)
class View:
    """One posed image. ``name`` is the COLMAP image name (posix, may contain folders) and is unique in a scene."""

    name: str
    camera: Camera
    image_path: Path

    def image(self) -> Tensor:
        """(height, width, 3) uint8 RGB.

        Raises:
            SplatsegError: the file is missing, unreadable, or of another size than the camera.
        """
        try:
            with Image.open(self.image_path) as file:
                pixels = np.array(file.convert("RGB"))
        except FileNotFoundError:
            raise SplatsegError(f"{self.image_path}: image of view '{self.name}' not found") from None
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise SplatsegError(f"{self.image_path}: unreadable image of view '{self.name}' ({error})") from None
        expected = (self.camera.height, self.camera.width)
        if pixels.shape[:2] != expected:
            raise SplatsegError(
                f"{self.image_path}: expected {expected[1]}x{expected[0]} pixels as its camera says, "
                f"found {pixels.shape[1]}x{pixels.shape[0]}"
            )
        return torch.from_numpy(pixels)


@dataclass(frozen=True, eq=False)
class Points:
    """Sparse points: ``xyz`` (m, 3) float32 world units, ``rgb`` (m, 3) uint8."""

    xyz: Tensor
    rgb: Tensor

    def __post_init__(self) -> None:
        sizes = check_dims("points.xyz", self.xyz, ("m", 3))
        check_dims("points.rgb", self.rgb, ("m", 3), sizes)
        check_finite("points.xyz", self.xyz)


@dataclass(frozen=True)
class Scene:
    """Registered views, sorted by name, and sparse points."""

    views: tuple[View, ...]
    points: Points

    def __post_init__(self) -> None:
        names = [view.name for view in self.views]
        if not names:
            raise SplatsegError("scene: expected at least one registered view, found none")
        if len(set(names)) != len(names):
            raise SplatsegError("scene: expected unique view names, found duplicates")

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
        """1.1 x the largest distance of a camera from the mean camera position, world units (3DGS' scene scale)."""
        centres = torch.stack([view.camera.position for view in self.views])
        return 1.1 * float((centres - centres.mean(0)).norm(dim=1).max())

    def split(self, every: int) -> tuple[tuple[View, ...], tuple[View, ...]]:
        """(training views, held-out views): every ``every``-th view is held out, none if ``every`` is 0."""
        if every <= 0:
            return self.views, ()
        train = tuple(v for i, v in enumerate(self.views) if i % every != 0)
        held_out = tuple(v for i, v in enumerate(self.views) if i % every == 0)
        return train, held_out
