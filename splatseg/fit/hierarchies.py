"""Masks -> patch hierarchies of all views, a view at a time, dealt to ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from splatseg.core.progress import SILENT, Reporter
from splatseg.core.ranks import ALONE, Ranks
from splatseg.core.scene import View
from splatseg.masks.cache import MaskCache
from splatseg.masks.hierarchy import HierarchyConfig, HierarchyFolder, build_hierarchy


def make_hierarchies(
    views: Sequence[View],
    masks: MaskCache,
    folder: HierarchyFolder,
    config: HierarchyConfig,
    reporter: Reporter = SILENT,
    ranks: Ranks = ALONE,
) -> int:
    """Find the masks of every view and write its hierarchy; returns, in rank 0, how many masks there are."""

    def made(numbers: Sequence[int]) -> Iterator[int]:
        mine = [views[number] for number in numbers]
        with closing(masks.all_masks(mine, ranks.neighbors())) as found:
            for view, one in zip(mine, found, strict=True):
                build_hierarchy(one, config).save(folder.path(view.name))
                yield len(one)

    total = 0
    with reporter.count(len(views), "masks", unit="view") as progress:
        for count in ranks.collect(len(views), made, held=len(views)):
            total += count
            progress.advance(masks=str(count))
    return total
