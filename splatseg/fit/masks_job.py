"""Masks of many views: resumable a file at a time, shared by several processes, with pictures and COCO files on
request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from splatseg.core.atomic import atomic_write, remove_leftovers, write_text
from splatseg.core.progress import SILENT, Reporter
from splatseg.core.ranks import ALONE, Ranks
from splatseg.core.scene import View
from splatseg.draw.mask_preview import Pixels, mask_overlay
from splatseg.io.names import by_stem, run_path
from splatseg.masks.cache import MaskCache
from splatseg.masks.mask_set import MaskSet
from splatseg.masks.sam.everything import ScoredMasks
from splatseg.masks.workers import find_masks

HierarchyPicture = Callable[[Pixels, MaskSet], Image.Image]


@dataclass(frozen=True)
class MaskJob:
    """What to do with each view.

    Attributes:
        cache: where masks come from and go to.
        preview: folder for overlay PNGs; None: none are drawn.
        hierarchy_picture: draws the second picture of a preview from a photo and its masks; None: there is none.
        coco: folder for COCO run-length JSON, as ``amg.py --convert-to-rle`` writes it; None: none is written.
        reporter: hears of progress and a record of each view.
        names: of all views, so that no two write one COCO file.
    """

    cache: MaskCache
    preview: Path | None = None
    hierarchy_picture: HierarchyPicture | None = None
    coco: Path | None = None
    reporter: Reporter = SILENT
    names: tuple[str, ...] = ()

    def overlay_path(self, view: View) -> Path | None:
        return None if self.preview is None else run_path(self.preview, view.name, ".masks.png")

    def hierarchy_path(self, view: View) -> Path | None:
        if self.preview is None or self.hierarchy_picture is None:
            return None
        return run_path(self.preview, view.name, ".hierarchy.png")

    def coco_path(self, view: View) -> Path | None:
        """``NAME.json`` as ``amg.py`` calls it; ``NAME.jpg.json`` where two views share a stem."""
        if self.coco is None:
            return None
        return self._coco_paths.get(view.name) or by_stem(self.coco, [view.name], ".json")[view.name]

    @cached_property
    def _coco_paths(self) -> dict[str, Path]:
        return {} if self.coco is None else by_stem(self.coco, self.names, ".json")


@dataclass(frozen=True)
class Summary:
    """What all processes together did: views whose masks were found, views that were there, masks found, seconds."""

    made: int
    kept: int
    masks: int
    seconds: float


def run_masks(views: Sequence[View], job: MaskJob, ranks: Ranks = ALONE) -> Summary:
    """Find, store and draw the masks of ``views`` that are not there yet.

    The first rank says which views are left and these are dealt: no two ranks work on one view, and a view that a rank
    leaves behind when it dies is left for the next call.

    Raises:
        SplatsegError: from the source, for the first view that fails; what was stored before stays.
    """
    start = time.perf_counter()
    if ranks.first and job.coco is not None:
        for folder in {path.parent for view in views if (path := job.coco_path(view)) is not None}:
            remove_leftovers(folder)  # what a killed call was writing; the others wait for the list
    # Rank 0's list: each would find another one once the others have begun.
    left = set(ranks.deal(ranks.broadcast([view.name for view in views if _is_left(view, job)])))
    mine = [view for view in views if view.name in left]
    made = masks = 0
    to_find = [view for view in mine if job.cache.load(view) is None]
    new = {view.name for view in to_find}
    with (
        closing(find_masks(job.cache.source, to_find, shared_by=ranks.neighbors())) as new_masks,
        job.reporter.count(len(mine), "masks", unit="view") as progress,
    ):
        for view in mine:
            begun = time.perf_counter()
            is_new = view.name in new
            found = next(new_masks) if is_new else job.cache.masks(view)
            _store(view, job, found, is_new)
            made, masks = made + is_new, masks + len(found) * is_new
            if is_new:
                seconds = round(time.perf_counter() - begun, 3)
                record = {"stage": "masks", "view": view.name, "rank": ranks.rank, "masks": len(found)}
                job.reporter.log({**record, "seconds": seconds})
            progress.advance(masks=str(len(found)))
    made, masks = (sum(counts) for counts in zip(*ranks.gather((made, masks)), strict=True))
    return Summary(made, len(views) - made, masks, time.perf_counter() - start)


def _is_left(view: View, job: MaskJob) -> bool:
    outputs = (job.overlay_path(view), job.hierarchy_path(view), job.coco_path(view))
    return any(path is not None and not path.is_file() for path in outputs) or job.cache.load(view) is None


def _store(view: View, job: MaskJob, found: MaskSet, is_new: bool) -> None:
    """Write what the job wants of a view. The cache file comes last: with it the view counts as done even where this
    process dies before the next call looks for the pictures."""
    _write_coco(job.coco_path(view), found)
    _draw(view, job, found)
    if is_new:
        job.cache.save(view, found)


def _draw(view: View, job: MaskJob, masks: MaskSet) -> None:
    overlay, hierarchy = job.overlay_path(view), job.hierarchy_path(view)
    if overlay is None:
        return
    image = view.image().numpy()
    with atomic_write(overlay) as temporary:
        Image.fromarray(mask_overlay(image, masks)).save(temporary, format="PNG")
    if hierarchy is not None and job.hierarchy_picture is not None:
        with atomic_write(hierarchy) as temporary:
            job.hierarchy_picture(image, masks).save(temporary, format="PNG")


def _write_coco(path: Path | None, masks: MaskSet) -> None:
    """amg.py's records; masks without scores (watershed, files, stored ones) have size, counts, area and box."""
    if path is None:
        return
    if isinstance(masks, ScoredMasks):
        records = masks.to_amg()
    else:
        pairs = zip(masks.to_coco(), masks.areas.tolist(), masks.boxes().tolist(), strict=True)
        records = [{"segmentation": mask, "area": area, "bbox": box} for mask, area, box in pairs]
    write_text(path, json.dumps(records))
