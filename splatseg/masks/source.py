"""What a source of masks is, and every source by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from splatseg.core.errors import SplatsegError
from splatseg.masks.mask_set import MaskSet

if TYPE_CHECKING:
    from splatseg.core.scene import View


class MaskSource(Protocol):
    """Something that finds class-agnostic masks, from parts to groups, in one image at a time.

    One with an attribute ``one_core = True`` keeps a single core busy and is nothing but its settings: it can be
    pickled, and views may be shared out among processes (:mod:`splatseg.masks.workers`).
    """

    name: str

    def settings(self) -> dict[str, Any]:
        """What the masks depend on besides the image: JSON-able, part of the cache key."""
        ...

    def masks(self, view: View) -> MaskSet:
        """The masks of ``view``, of the size of its camera.

        Raises:
            SplatsegError: the image or the masks are unreadable or of another size.
        """
        ...


def mask_source(spec: str | Path, views: Sequence[View] = (), config: Any = None) -> MaskSource:
    """The source that ``spec`` names.

    Args:
        spec: "watershed", "sam", or a folder of masks (:mod:`splatseg.masks.files`). A folder of one of those names is
            reached as ``./sam``.
        views: the views that will be asked for; a folder is checked against them at once.
        config: a ``WatershedConfig`` or ``SamConfig``; None for the defaults. A folder takes none.

    Raises:
        SplatsegError: an unknown name, a missing folder, or what the source itself needs is missing.
    """
    if spec == "watershed":
        from splatseg.masks.watershed import WatershedConfig, WatershedMasks

        return WatershedMasks(config if config is not None else WatershedConfig())
    if spec == "sam":
        from splatseg.masks.sam.source import SamMasks

        return SamMasks(config)
    if not Path(spec).is_dir():
        raise SplatsegError(f"masks: expected 'watershed', 'sam' or a folder of masks, found '{spec}'")
    from splatseg.masks.files import FileMasks

    return FileMasks(spec, views)
