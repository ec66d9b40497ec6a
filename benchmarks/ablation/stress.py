"""The table ``stress``: how the fit bears masks that are worse than those it was made with, a kind of fault at a time.

Each kind is a :class:`~splatseg.synthetic.MaskSimulation` on the exact labels of a scene's training views; splat,
queries and ceiling are those of the scene. Masks can teach only what they show: a query's level counts where at least
``SHOWN_VIEWS`` views have a mask of its node, alone and whole, and the ceiling is that of the same levels.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from benchmarks.ablation.cells import AblationScene, Cell, measure_cells, read_cell
from benchmarks.ablation.rows import FROM_NOISE, Row
from benchmarks.machine import machine
from splatseg.core.atomic import write_text
from splatseg.evaluate.report import Value, markdown_table
from splatseg.io.digests import digest
from splatseg.masks import MaskSet
from splatseg.masks.hierarchy import HierarchyFolder, build_hierarchy
from splatseg.synthetic import MaskSimulation, simulate_masks
from splatseg.synthetic.mask_simulation import SimulatedMask

SHOWN_VIEWS = 3  # what fewer views have, no agreement can confirm
NEEDED = 0.93  # of the ceiling, in every kind
OURS, ALONE = Row("ours"), Row("loss alone", FROM_NOISE)


@dataclass(frozen=True)
class Kind:
    """One thing that is wrong with the masks."""

    name: str
    masks: MaskSimulation


KINDS = (
    Kind("as simulated for the scenes", MaskSimulation()),
    Kind("30 % of the masks", MaskSimulation(keep_parts=0.3, keep_objects=0.3, keep_groups=0.3, keep_stuff=0.3)),
    Kind("borders 3 px off", MaskSimulation(border_error=3.0)),
    Kind("30 % merged with a neighbor", MaskSimulation(merges=0.3)),
    Kind("40 texture regions per view", MaskSimulation(clutter=40)),
    Kind("one mask per view", MaskSimulation(show="center")),
    Kind("only parts", MaskSimulation(show="parts")),
    Kind("only wholes", MaskSimulation(show="wholes")),
    Kind("every fourth view", MaskSimulation(every=4)),
    Kind(
        "half of the masks, 2 px off, 15 % merged, 15 texture regions",
        MaskSimulation(keep_parts=0.5, keep_objects=0.5, keep_groups=0.5, border_error=2.0, merges=0.15, clutter=15),
    ),
)


@dataclass(frozen=True, eq=False)
class StressScene:
    """``base`` with the patch hierarchies of one kind of masks, and the nodes that these show."""

    base: AblationScene
    kind: Kind
    scene: AblationScene
    shown: frozenset[int]

    def cell(self, row: Row, seed: int) -> Cell:
        return Cell(self.scene, replace(row.config(), seed=seed))


@dataclass(frozen=True)
class StressRow:
    """A kind on one scene: means over the levels shown, of the seeds that are measured.

    Attributes:
        levels: number of levels of core queries that the masks show; of all.
        ours, alone: (seeds) mean IoU of the default and of the loss from noise.
        ceiling: mean IoU that the splat allows; None where it is not measured.
    """

    scene: str
    kind: Kind
    levels: tuple[int, int]
    ours: tuple[float, ...]
    alone: tuple[float, ...]
    ceiling: float | None

    @property
    def share(self) -> float | None:
        """Ours as a share of the ceiling."""
        return float(np.mean(self.ours)) / self.ceiling if self.ours and self.ceiling else None

    @property
    def holds(self) -> bool | None:
        """Whether ours reaches ``NEEDED`` of the ceiling and the loss alone; None where not all is measured."""
        if self.share is None or not self.alone:
            return None
        return self.share >= NEEDED and float(np.mean(self.ours)) >= float(np.mean(self.alone))


def make_masks(base: AblationScene, kind: Kind, out: Path) -> StressScene:
    """Simulate the masks of all training views and build their patch hierarchies, once per folder ``out``.

    Raises:
        SplatsegError: ground truth of a training view is missing.
    """
    views = {PurePosixPath(view.name).stem: view for view in base.views}
    truth = [base.gt.folder / "gt" / f"{stem}.npz" for stem in views]
    key = digest({"masks": asdict(kind.masks), "shown": SHOWN_VIEWS, "views": list(views)}, files=truth)
    folder = HierarchyFolder(out / "masks" / base.name / key)
    done = folder.folder / "shown.json"  # written last: it says that the folder is whole
    if not done.is_file():
        shown: Counter[int] = Counter()
        masked = kind.masks.views(list(views))
        tree = list(base.gt.nodes.values())
        for stem, view in views.items():
            levels = base.gt.levels(stem)
            masks = simulate_masks(tree, levels, stem, kind.masks) if stem in masked else []
            shown.update({one.node for one in masks if one.node is not None})
            build_hierarchy(_mask_set(masks, levels.shape[1:])).save(folder.path(view.name))
        write_text(done, json.dumps(sorted(node for node, count in shown.items() if count >= SHOWN_VIEWS)) + "\n")
    nodes = frozenset(json.loads(done.read_text(encoding="utf-8")))
    return StressScene(base, kind, replace(base, hierarchies=folder), nodes)


def _mask_set(masks: Sequence[SimulatedMask], shape: tuple[int, ...]) -> MaskSet:
    if not masks:
        return MaskSet(shape[0], shape[1], ())
    return MaskSet.from_dense(np.stack([one.mask for one in masks]))


def run_stress(
    scenes: Sequence[AblationScene],
    seeds: Sequence[int],
    out: Path,
    after: Callable[[list[StressRow]], object] = lambda rows: None,
    quiet: bool = False,
    measure: bool = True,
) -> tuple[list[StressRow], list[str]]:
    """Measure what has no result in ``out`` yet.

    Args:
        after: called with all rows so far after every kind.
        measure: False only reads the results that are there.

    Returns:
        The rows, and a line for each cell that could not be measured.
    """
    rows: list[StressRow] = []
    failures: list[str] = []
    ceilings = [Cell(scene, None) for scene in scenes]
    if measure:
        failures += measure_cells(ceilings, out, quiet=quiet)
    for kind in KINDS:
        made = [make_masks(scene, kind, out) for scene in scenes]
        if measure:
            cells = [one.cell(row, seed) for seed in seeds for one in made for row in (OURS, ALONE)]
            failures += measure_cells(cells, out, quiet=quiet)
        rows += [stress_row(one, ceiling, seeds, out) for one, ceiling in zip(made, ceilings, strict=True)]
        after(rows)
    return rows, failures


def stress_row(one: StressScene, ceiling: Cell, seeds: Sequence[int], out: Path) -> StressRow:
    """What lies in ``out`` for a kind on a scene."""
    wanted = shown_levels(one)

    def means(cells: Sequence[Cell]) -> tuple[float, ...]:
        found = [record for cell in cells if (record := read_cell(cell, out)) is not None]
        return tuple(float(np.asarray(record["queries"])[wanted].mean()) for record in found if wanted.any())

    core = sum(query.core for query in one.base.gt.queries)
    return StressRow(
        one.base.name,
        one.kind,
        (int(wanted.sum()), 2 * core),
        means([one.cell(OURS, seed) for seed in seeds]),
        means([one.cell(ALONE, seed) for seed in seeds]),
        next(iter(means([ceiling])), None),
    )


def shown_levels(one: StressScene) -> np.ndarray:
    """(queries, 2) bool: the levels of core queries whose node the masks show."""
    queries = one.base.gt.queries
    return np.array([[query.core and node in one.shown for node in (query.l1, query.l2)] for query in queries])


def stress_to_markdown(rows: Sequence[StressRow], seeds: Sequence[int]) -> str:
    """One row per kind and scene, the worst share of the ceiling first; machine and seeds above."""
    about = machine()
    head = (
        f"### stress: masks of other kinds\n\n{about['processor']}, torch {about['torch']}, {about['kernels']}; "
        f"seeds {', '.join(map(str, seeds))}. IoU at the best threshold, mean over the levels of core queries that the "
        f"masks show (in at least {SHOWN_VIEWS} views, alone and whole); needed: {NEEDED:.0%} of the ceiling for the "
        "same levels, and no less than the loss alone.\n\n"
    )
    lines: list[list[Value]] = []
    for row in sorted(rows, key=lambda row: (row.share is None, row.share)):
        verdict = {True: "yes", False: "NO", None: None}[row.holds]
        share = None if row.share is None else f"{100 * row.share:.1f} %"
        ours, alone = (float(np.mean(values)) if values else None for values in (row.ours, row.alone))
        lines.append(
            [row.scene, row.kind.name, "{} of {}".format(*row.levels), ours, alone, row.ceiling, share, verdict]
        )
    header = ["scene", "masks", "levels shown", "ours", "loss alone", "ceiling", "ours of ceiling", "holds"]
    return head + markdown_table(header, lines)


def stress_to_json(rows: Sequence[StressRow], seeds: Sequence[int]) -> dict[str, Any]:
    """Everything in the table, each seed on its own, and the settings of the simulations."""
    return {
        "machine": machine(),
        "seeds": list(seeds),
        "needed": NEEDED,
        "rows": [{**asdict(row), "share": row.share, "holds": row.holds} for row in rows],
    }
