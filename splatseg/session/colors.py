"""What a session looks like: the color of every drawn Gaussian.

Colors are packed as viser wants them: one uint32 per Gaussian, red in the lowest byte, opacity in the highest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.gaussians import SH_C0, Gaussians
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.draw.sheets import PcaBasis
from splatseg.ops.reference.rasterize import shade
from splatseg.segment.scores import project_selection
from splatseg.session.copies import placed, together
from splatseg.session.object_steps import RED
from splatseg.session.session import Session
from splatseg.session.shared import shown_copies

DisplayMode = Literal["photo", "features", "labels", "depth", "scores", "confidence"]
DISPLAY_MODES: tuple[DisplayMode, ...] = ("photo", "features", "labels", "depth", "scores", "confidence")
# Their colors are values: tinted or grayed by the selection they would be others.
DATA_MODES: tuple[DisplayMode, ...] = ("features", "depth", "scores", "confidence")
HIGHLIGHT = np.array([255, 120, 0], np.float32)
PREVIEW = np.array([0, 170, 255], np.float32)  # of what would be selected
UNLABELED = 150
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Turbo (Mikhailov, 2019) at nine even steps, linear in between.
TURBO = np.array(
    [
        [48, 18, 59],
        [71, 100, 226],
        [46, 164, 253],
        [26, 228, 182],
        [125, 254, 85],
        [208, 235, 52],
        [253, 160, 49],
        [226, 67, 10],
        [122, 4, 3],
    ],
    np.float32,
)


@dataclass(frozen=True)
class Look:
    """How a session is shown.

    Attributes:
        mode: photo colors, feature PCA, labels and objects, depth, the scores of the last click, or how many of the
            views that see a Gaussian agree on what it lies in.
        dim: what is not selected is grayed while something is, except of an object that is shown alone.
        highlight: what is selected is tinted, proposed floaters in red. Colors that stand for a value (``DATA_MODES``)
            are neither grayed nor tinted, those of labels are not tinted.
    """

    mode: DisplayMode = "photo"
    dim: bool = True
    highlight: bool = True

    def __post_init__(self) -> None:
        if self.mode not in DISPLAY_MODES:
            raise SplatsegError(f"display: expected one of {', '.join(DISPLAY_MODES)}, found {self.mode!r}")


def showable(session: Session, look: Look) -> Look:
    """``look``, or photo colors in place of a heat map where nothing is clicked: what a window shows and exports."""
    return replace(look, mode="photo") if look.mode == "scores" and session.active is None else look


class Painter:
    """Colors of the Gaussians ``ids`` for one session; keeps what does not change between two calls."""

    def __init__(self, session: Session, ids: Tensor) -> None:
        self.session = session
        self.ids = ids
        gaussians = session.workspace.gaussians
        self._opacity = (gaussians.opacities[ids].cpu().numpy() * 255 + 0.5).astype(np.uint32) << np.uint32(24)
        self._kept: dict[
            tuple[object, ...],
            tuple[tuple[object, tuple[float, ...]], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]],
        ] = {}

    def paint(self, look: Look, camera: Camera | None = None, previewed: Selection | None = None) -> NDArray[np.uint32]:
        """(m,) packed colors; hidden Gaussians have opacity 0. With a ``camera``, photo colors are those seen from it:
        of all spherical harmonics, not of the constant one alone. They are kept for the same camera object.
        ``previewed`` is shown in place of what is selected, in a color of its own.

        Raises:
            SplatsegError: scores without a click, or depth without a camera.
        """
        tint = np.array(RED, np.float32) if self.session.proposing else HIGHLIGHT
        plain, bright, dimmed = self._shades(look, camera, tint if previewed is None else PREVIEW)
        selection = self.session.selection if previewed is None else previewed
        packed = plain
        if look.mode not in DATA_MODES and (look.dim or look.highlight):
            selected = selection.mask[self.ids].cpu().numpy()
            if selected.any():
                tinted = look.highlight and look.mode != "labels"  # a tinted label would be of another's color
                dim = look.dim and self.session.isolated is None  # what is shown alone is told from nothing
                packed = np.where(selected, bright if tinted else plain, dimmed if dim else plain)
        hidden = self.session.hidden()
        if hidden is not None:
            packed = np.where(hidden[self.ids].numpy(), np.uint32(0), packed)
        return packed

    def _shades(
        self, look: Look, camera: Camera | None, tint: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
        key = (self._key(look.mode, camera), tuple(tint.tolist()))
        kept = self._kept.get((look.mode,))
        if kept is not None and kept[0][0] is not None and kept[0] == key:
            return kept[1:]
        colors = self._colors(look.mode, camera)
        luma = (colors @ LUMA)[:, None]
        bright = 0.3 * colors + tint * (0.385 + 0.315 / 255 * luma)
        dimmed = 0.15 * colors + 0.85 * (110 + 0.45 * luma)
        shades = (self._pack(colors), self._pack(bright), self._pack(dimmed))
        self._kept[(look.mode,)] = (key, *shades)
        return shades

    def _pack(self, colors: NDArray[np.float32]) -> NDArray[np.uint32]:
        c = np.clip(colors, 0, 255).astype(np.uint32)
        return c[:, 0] | c[:, 1] << np.uint32(8) | c[:, 2] << np.uint32(16) | self._opacity

    def _key(self, mode: DisplayMode, camera: Camera | None) -> object:
        """Equal keys mean equal colors; None: not worth keeping."""
        if mode == "labels":
            return self.session.workspace.shared.version
        if mode == "scores":
            return self.session.active.scores if self.session.active else None
        if mode == "depth" or (mode == "photo" and camera is not None):
            return camera
        return mode

    def _colors(self, mode: DisplayMode, camera: Camera | None) -> NDArray[np.float32]:
        """(m, 3) in 0..255."""
        space, ids = self.session.workspace, self.ids
        if mode == "photo":
            return _photo_colors(space.gaussians, ids, camera) * np.float32(255)
        if mode == "features":
            basis = PcaBasis.fit(space.field.unit)
            return basis.colors(space.field.unit[ids]).cpu().numpy().astype(np.float32)
        if mode == "labels":
            return self._label_colors()
        if mode == "confidence":
            return colormap(space.field.confidence[ids.cpu()].numpy())
        if mode == "scores":
            if self.session.active is None:
                raise SplatsegError("heat map: expected a clicked thing, found none; click one first")
            angles = self.session.active.scores.values[ids].cpu().clamp(-1, 1).acos().numpy()
            return colormap(1 - angles * np.float32(2 / np.pi))
        if camera is None:
            raise SplatsegError("depth: expected a camera to measure from, found none")
        depth = camera.project(space.gaussians.means[ids])[1].cpu().numpy()
        low, high = depth_range(space.gaussians, camera)
        return colormap(1 - (depth - low) / max(high - low, 1e-9))

    def _label_colors(self) -> NDArray[np.float32]:
        content = self.session.workspace.shared.content
        if content.tree is None:
            colors = np.full((len(self.session.workspace), 3), UNLABELED, np.uint8)
        else:
            colors = content.tree.colors(content.level).copy()
        for entry in (o for o in content.objects.values() if o.placement is None):
            colors[entry.ids.numpy()] = entry.color
        return colors[self.ids.numpy()].astype(np.float32)


def _photo_colors(gaussians: Gaussians, ids: Tensor, camera: Camera | None) -> NDArray[np.float32]:
    """(m, 3) in [0, 1], as seen from ``camera``; without one the constant part."""
    if camera is None or not gaussians.sh_degree:
        return gaussians.base_colors[ids].cpu().numpy()
    means, pose = gaussians.means[ids], camera.to(gaussians.device).cam_from_world
    return shade(means, gaussians.sh[ids], pose, gaussians.sh_degree).clamp(0, 1).cpu().numpy()


def depth_range(gaussians: Gaussians, camera: Camera) -> tuple[float, float]:
    """The depths that depth colors end at, world units: the 2nd and 98th percentile of what is ahead of ``camera``."""
    depth = camera.project(gaussians.means)[1].cpu().numpy()
    ahead = depth[depth > 0]
    low, high = np.percentile(ahead, [2, 98]) if len(ahead) else (0.0, 1.0)
    return float(low), float(high)


def colormap(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """(m, 3) turbo colors in 0..255 of ``values`` (m,), clipped to [0, 1]."""
    position = np.clip(values, 0, 1).astype(np.float32) * (len(TURBO) - 1)
    low = np.minimum(position.astype(np.int64), len(TURBO) - 2)
    share = (position - low)[:, None]
    return TURBO[low] * (1 - share) + TURBO[low + 1] * share


def painted(session: Session, look: Look, camera: Camera | None = None) -> Gaussians:
    """The whole splat in the colors of ``look``, to be rendered; hidden Gaussians are transparent."""
    space = session.workspace
    shown = space.visible_gaussians(session.isolated)
    if look.mode == "photo" and not len(session.selection):
        return with_copies(session, shown)
    packed = Painter(session, torch.arange(len(space))).paint(look, camera)
    rgb = torch.from_numpy(
        np.stack([packed & 255, packed >> 8 & 255, packed >> 16 & 255], axis=1).astype(np.float32) / 255
    )
    return with_copies(session, replace(shown, sh=((rgb - 0.5) / SH_C0)[:, None].to(shown.device)))


def with_copies(session: Session, shown: Gaussians) -> Gaussians:
    """``shown`` and the copies that are drawn, these in the photos' colors, with as many coefficients of them."""
    space, count = session.workspace, shown.sh.shape[1]
    parts = [shown]
    for entry in shown_copies(space.shared.content, session.isolated):
        assert entry.placement is not None
        copied = placed(space.gaussians.select(entry.ids.long().to(space.gaussians.device)), entry.placement)
        parts.append(replace(copied, sh=copied.sh[:, :count]))
    return together(parts) if len(parts) > 1 else shown


def overlay(session: Session, view: View, with_selection: bool = True, max_width: int = 800) -> NDArray[np.uint8]:
    """(h, w, 3) the photo of ``view``, at most ``max_width`` wide; what the selection covers is tinted if wanted.

    Raises:
        SplatsegError: the photo cannot be read.
    """
    image = Image.fromarray(view.image().numpy())
    width = min(max_width, image.width)
    height = max(round(image.height * width / image.width), 1)
    pixels = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
    if with_selection and len(session.selection):
        with torch.no_grad():
            covered = project_selection(
                session.workspace.visible_gaussians(session.isolated),
                session.selection,
                view.camera.resized(width, height),
            )
        inside = covered.cpu().numpy()
        pixels[inside] = (0.45 * pixels[inside] + 0.55 * HIGHLIGHT).astype(np.uint8)
    return pixels
