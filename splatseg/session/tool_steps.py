"""Selection tools beside the click, as steps of a session: outlines, solids, growing, pieces and properties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from splatseg.core.camera import Camera
from splatseg.core.errors import SplatsegError
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.scene import View
from splatseg.core.selection import Selection
from splatseg.segment import outlines, properties, region_tools, solids
from splatseg.segment.clicks import Click, PointClick
from splatseg.segment.picking import trace_few
from splatseg.segment.properties import Histogram, Property
from splatseg.session.locked import locked
from splatseg.session.state import Mode, Pick, combine_sets
from splatseg.session.steps import SessionSteps

By = Literal["space", "feature"]
BYS: tuple[By, ...] = ("space", "feature")


class ToolSteps(SessionSteps):
    """Each method is one step of undo, works on all Gaussians that are visible, and raises :class:`SplatsegError` with
    a line for people where it finds nothing to do; then nothing is changed. ``job`` reports and cancels."""

    _clicked: Click | PointClick | None = None  # what :meth:`Session.click` selected last

    # Outlines and solids ---------------------------------------------------------------------------------------------

    @locked
    def lasso(
        self,
        view: str | View | Camera,
        polygon: Sequence[tuple[float, float]],
        through: bool = False,
        mode: Mode = "replace",
        job: Reporter = SILENT,
    ) -> Selection:
        """Select what is seen inside a polygon of image positions, or with ``through`` everything behind it, too
        (:mod:`splatseg.segment.outlines`)."""
        lasso = outlines.Lasso(self.workspace.camera(view), tuple(polygon))
        return self._outlined("lasso", lasso, through, mode, job)

    @locked
    def brush(
        self,
        view: str | View | Camera,
        path: Sequence[tuple[float, float]],
        radius: float,
        through: bool = False,
        mode: Mode = "add",
        job: Reporter = SILENT,
    ) -> Selection:
        """Paint over the image along ``path``: take what is seen under a round brush of ``radius`` pixels, or with
        ``through`` everything behind it, too."""
        stroke = outlines.Stroke(self.workspace.camera(view), tuple(path), radius)
        return self._outlined("brush", stroke, through, mode, job)

    def _outlined(
        self, label: str, region: outlines.Lasso | outlines.Stroke, through: bool, mode: Mode, job: Reporter
    ) -> Selection:
        if through:
            region.window()  # refused alike, whatever is asked for
            found = outlines.lasso_through(self._gaussians(), region)
        else:
            found = outlines.lasso_seen(self._gaussians(), region, _share(job, "looking what is there", 0.9))
        return self._put_set(label, found, mode, "something inside it", "empty space")

    @locked
    def select_box(
        self,
        center: tuple[float, float, float],
        size: tuple[float, float, float],
        wxyz: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0),
        mode: Mode = "replace",
    ) -> Selection:
        """Select the Gaussians whose centers lie in a box of the world (:class:`splatseg.segment.solids.Cuboid`)."""
        found = solids.inside(self._gaussians(), solids.Cuboid(center, size, wxyz))
        return self._put_set("box", found, mode, "something inside it", "empty space")

    @locked
    def select_sphere(self, center: tuple[float, float, float], radius: float, mode: Mode = "replace") -> Selection:
        """Select the Gaussians whose centers lie in a ball of the world (:class:`splatseg.segment.solids.Ball`)."""
        found = solids.inside(self._gaussians(), solids.Ball(center, radius))
        return self._put_set("sphere", found, mode, "something inside it", "empty space")

    # Neighborhoods ---------------------------------------------------------------------------------------------------

    @locked
    def grow(self, by: By = "space", steps: int = 1, job: Reporter = SILENT) -> Selection:
        """Add what touches the selection, or by ``feature`` what is most similar to it, a tenth of its number.

        Both ``steps`` times; :mod:`splatseg.segment.region_tools` says what touching and similar mean.
        """
        mask, allowed = self._chosen("grow", by, steps)
        if by == "space":
            grown = torch.from_numpy(self._touching(job).grow(mask.numpy(), steps, allowed.numpy()))
        else:
            grown = mask
            for _ in range(steps):
                grown = region_tools.grow_by_feature(self.workspace.field.unit.cpu(), grown, allowed)
        return self._reshaped("grow", mask, grown, "something beside it to add")

    @locked
    def shrink(self, by: By = "space", steps: int = 1, job: Reporter = SILENT) -> Selection:
        """Take out what touches anything that is not selected, or by ``feature`` the least similar tenth."""
        mask, allowed = self._chosen("shrink", by, steps)
        if by == "space":
            left = torch.from_numpy(self._touching(job).shrink(mask.numpy(), steps, allowed.numpy()))
        else:
            left = mask
            for _ in range(steps):
                left = region_tools.shrink_by_feature(self.workspace.field.unit.cpu(), left)
        return self._reshaped("shrink", mask, left, "a border to take away")

    @locked
    def fill_holes(self, job: Reporter = SILENT) -> Selection:
        """Add what is not selected and touches nothing but the selection (pieces of up to a tenth of its number)."""
        mask, allowed = self._chosen("fill holes")
        filled = torch.from_numpy(self._touching(job).fill_holes(mask.numpy(), allowed.numpy()))
        return self._reshaped("fill holes", mask, filled, "a hole in the selection")

    @locked
    def keep_connected(self, where: Literal["click", "largest"] = "largest", job: Reporter = SILENT) -> Selection:
        """Keep one connected piece of the selection: the ``largest``, or the one under the last ``click``."""
        mask, _ = self._chosen("keep connected")
        if where not in ("click", "largest"):
            raise SplatsegError(f"keep connected: expected 'click' or 'largest', found {where!r}")
        seed = self._under_click(mask) if where == "click" else None
        piece = torch.from_numpy(self._touching(job).piece(mask.numpy(), seed))
        return self._reshaped("keep connected", mask, piece, "more than one piece")

    def _under_click(self, mask: Tensor) -> int:
        """The selected Gaussian that weighs most in the pixel that was clicked last."""
        clicked = self._clicked
        if isinstance(clicked, PointClick) and bool(mask[clicked.gaussian]):
            return clicked.gaussian
        if isinstance(clicked, Click):
            camera = clicked.camera
            pixel = torch.tensor([camera.check_pixel(*clicked.pixel)], dtype=torch.int32)
            found = trace_few(self._gaussians(), camera, pixel.to(self._gaussians().device))
            ids = found.ids.long().cpu()
            weights = torch.where(mask[ids], found.weights.cpu(), 0)
            if len(ids) and float(weights.max()) > 0:
                return int(ids[weights.argmax()])
        raise SplatsegError("keep connected: expected a click on what is selected, found none; click it first")

    # Properties ------------------------------------------------------------------------------------------------------

    @locked
    def select_by(
        self,
        name: Property,
        low: float | None = None,
        high: float | None = None,
        mode: Mode = "replace",
        color: tuple[int, int, int] | None = None,
        job: Reporter = SILENT,
        drag: int | None = None,
    ) -> Selection:
        """Select by a property, from ``low`` to ``high`` inclusive; None is no bound.

        Args:
            name: ``size`` (largest standard deviation, world units), ``opacity`` (0..1), ``color`` (CIE76 difference
                from ``color``, 0..255 per channel), ``anisotropy`` (largest over second largest standard deviation),
                ``distance`` (to the nearest photo's camera, world units), ``views`` (photos that see it).
            drag: as :meth:`Session.set_level`: the moves of one drag are one step, each from what was selected before.
        """
        values = self.property_values(name, color, job)
        found = self._visible(Selection(properties.between(values, low, high).cpu()))
        if not len(found):
            bounds = [
                f"{word} {bound:g}" for word, bound in (("at least", low), ("at most", high)) if bound is not None
            ]
            raise SplatsegError(f"{name}: expected Gaussians of {' and '.join(bounds) or 'any value'}, found none")
        if drag is not None and (self.step.label, self.step.drag) == (f"by {name}", drag) and self.can_undo:
            self._history.undo()
        fixed, picks = self._combined(found, mode)
        return self._do(f"by {name}", fixed, picks, drag=drag).selection

    def property_values(
        self, name: Property, color: tuple[int, int, int] | None = None, job: Reporter = SILENT
    ) -> Tensor:
        """(n,) float32 values of a property, as :meth:`select_by` has them, hidden Gaussians included.

        Raises:
            SplatsegError: no such property, no ``color`` for the property of that name, or no photos at hand.
        """
        space = self.workspace
        cameras = [view.camera for view in space.views]
        if name == "size":
            return properties.sizes(space.gaussians)
        if name == "opacity":
            return space.gaussians.opacities
        if name == "anisotropy":
            return properties.anisotropy(space.gaussians)
        if name == "distance":
            return properties.camera_distance(space.gaussians, cameras)
        if name == "views":
            return space.visibility(_share(job, "looking through the photos", 0.95)).views.float()
        if name == "color":
            if color is None:
                raise SplatsegError("color: expected a picked color, found none")
            return properties.color_distance(space.gaussians, color)
        raise SplatsegError(f"property: expected one of {', '.join(properties.PROPERTIES)}, found {name!r}")

    def color_at(self, view: str | View | Camera, u: float, v: float) -> tuple[int, int, int]:
        """The color that :meth:`select_by` compares with, of what is visible at an image position: no step.

        Raises:
            SplatsegError: outside the image, or empty space.
        """
        return properties.color_at(self._gaussians(), self.workspace.camera(view), (u, v))

    def histogram(
        self,
        name: Property,
        bins: int = 40,
        color: tuple[int, int, int] | None = None,
        job: Reporter = SILENT,
    ) -> Histogram:
        """How a property is distributed over what is visible. Errors as :meth:`property_values`, or nothing is."""
        values, hidden = self.property_values(name, color, job), self.hidden()
        shown = values if hidden is None else values[~hidden.to(values.device)]
        return properties.histogram(shown, bins, name in properties.LOGARITHMIC)

    # -----------------------------------------------------------------------------------------------------------------

    def _visible(self, found: Selection) -> Selection:
        hidden = self.hidden()
        return found if hidden is None else Selection(found.mask & ~hidden)

    def _put_set(self, label: str, found: Selection, mode: Mode, expected: str, nothing: str) -> Selection:
        """The step that combines the selection with a set of visible Gaussians."""
        found = self._visible(Selection(found.mask.cpu()))
        if not len(found):
            raise SplatsegError(f"{label}: expected {expected}, found {nothing}")
        return self._select(f"{mode} {label}" if mode != "replace" else label, *self._combined(found, mode))

    def _combined(self, found: Selection, mode: Mode) -> tuple[Selection, tuple[Pick, ...]]:
        """Fixed part and picks of the selection with ``found``; what is added leaves the sliders their pick."""
        if mode == "add":
            return self.step.fixed | found, self.step.picks
        return combine_sets(self.selection, found, mode), ()

    def _chosen(self, label: str, by: str = "space", steps: int = 1) -> tuple[Tensor, Tensor]:
        """The selection and what is visible, (n,) bool each.

        Raises:
            SplatsegError: nothing is selected, or arguments that mean nothing.
        """
        if by not in BYS:
            raise SplatsegError(f"{label}: expected by 'space' or 'feature', found {by!r}")
        if steps < 1:
            raise SplatsegError(f"{label}: expected at least one step, found {steps}")
        mask, hidden = self.selection.mask.cpu(), self.hidden()
        if not bool(mask.any()):
            raise SplatsegError(f"{label}: expected something selected, found nothing")
        return mask, torch.ones_like(mask) if hidden is None else ~hidden

    def _touching(self, job: Reporter) -> region_tools.Touching:
        return self.workspace.touching(_share(job, "looking what touches", 0.9))

    def _reshaped(self, label: str, before: Tensor, after: Tensor, expected: str) -> Selection:
        """The step from the selection ``before`` (n,) to ``after``, a set that no slider moves."""
        if torch.equal(before, after):
            raise SplatsegError(f"{label}: expected {expected}, found none")
        if not bool(after.any()):
            raise SplatsegError(f"{label}: expected something left, found nothing: the selection is all border")
        return self._select(label, Selection(after))


def _share(job: Reporter, step: str, span: float) -> Callable[[float], None]:
    """A callback that reports a share of ``span``."""
    return lambda share: job.report(step, span * share)
