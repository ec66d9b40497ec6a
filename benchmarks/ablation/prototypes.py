"""Time our CPU kernels against the project's own prototypes (../shared/prototypes) on this machine, in one run.

The figures published for the prototypes are from a processor with AVX-512. Here their sources are compiled, unchanged
and where they lie, for the processor at hand: natively if it has AVX-512, else with wide_vectors.h in the
place of the intrinsics, each a pair of AVX2 vectors. Then their bit masks cost an expansion, and their 32 registers
spills, that a port to AVX2 would avoid: the ratios are against the prototypes' *source* on this processor.

The contenders take turns on the same inputs, after a check that their values agree. What the two sides do not share is
in the docstrings of prototype_cases.py and in the notes of the output. Times are the best of all turns. The
first ratio is the median over turns of the prototype's time over ours, the second that of the best times; above 1 means
that ours is faster. Writes benchmarks/results/prototypes.json.

    python -m benchmarks.ablation.prototypes [--threads 1 2] [--sizes 50000 200000] [--turns 18] [--out FILE]

Exits with 2 where the prototypes' folder is missing. The first run compiles for minutes (ninja must be in PATH).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.ablation.prototype_cases import (
    TOLERANCE,
    Comparison,
    Traces,
    feature_cases,
    iteration_cases,
    loss_cases,
    rasterize_cases,
    trace_cases,
)
from benchmarks.ablation.prototype_sources import Prototypes, compile_prototypes
from benchmarks.machine import processor
from benchmarks.rasterize import HEIGHT, WIDTH
from splatseg.core.errors import SplatsegError
from splatseg.fit.malloc import freed_memory_kept
from splatseg.io import write_text
from splatseg.ops.extension import build_info

CASES = ("rasterize", "iteration", "pools", "loss")
NOTES = (
    "a part in parentheses is timed but not counted in the totals and the first two ratios; handing conics and "
    "visibility from one of the prototype's sources to the other is not timed",
    "rasterize: ours also blends depth, and its backward also gives the gradients of the SH coefficients and, by the "
    "view direction, of the means; the prototype's SH backward exists only fused with Adam",
    "iteration: ours also has depth, the 2D gradients for densification, the view-direction gradient and Adam's bias "
    "correction; the prototype's Adam also moves rows that are not drawn",
    "feature step: Adam without the norm term, as the prototype has it; ours checks ids and gradients and gives the "
    "same bits for any number of threads, the prototype adds into a copy of the field a thread",
    "loss: both make their level tables from membership bits; only ours also finds which patches are kept",
)


def run_cases(modules: Prototypes, options: argparse.Namespace) -> Iterator[Comparison]:
    """Every case at the number of threads that is set."""
    turns, loss_turns = options.turns, 20 * options.turns
    if "rasterize" in options.cases:
        for n in options.sizes:
            for channels in (3, 19):
                yield from rasterize_cases(modules, n, channels, turns)
    if "iteration" in options.cases:
        for n in options.sizes:
            yield from iteration_cases(modules, n, turns)
    if "pools" in options.cases:
        traces = Traces(modules, options.gaussians, options.views)
        yield from trace_cases(traces, rounds=2)
        yield from feature_cases(traces, steps=8 * options.views)
    if "loss" in options.cases:
        for p in options.patches:
            yield from loss_cases(modules, p, loss_turns)


def line(c: Comparison) -> str:
    text = f"{c.case:30} {c.threads:7} {c.ours_ms:9.2f} {c.prototype_ms:12.2f} {c.ratio:7.2f} {c.ratio_of_best:8.2f}"
    if c.case.startswith("iteration"):
        text += f"   {1e3 / c.ours_ms:.1f} and {1e3 / c.prototype_ms:.1f} it/s"
    if c.ratio_with_uncounted != c.ratio:
        text += f"   ({c.ratio_with_uncounted:.2f} with the part in parentheses)"
    for side, parts in (("ours", c.ours_parts), ("prototype", c.prototype_parts)):
        if len(parts) > 1:
            text += f"\n    {side}: " + ", ".join(f"{name} {ms:.2f}" for name, ms in parts.items())
    return text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000], help="of rasterize and iteration")
    parser.add_argument("--gaussians", type=int, default=100_000, help="of the pools")
    parser.add_argument("--views", type=int, default=50)
    parser.add_argument("--patches", type=int, nargs="+", default=[50, 200, 500])
    parser.add_argument("--turns", type=int, default=18)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results/prototypes.json")
    return parser.parse_args()


def main() -> None:
    options = parse()
    try:
        modules = compile_prototypes()
    except SplatsegError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    info = build_info()
    isa = info.isa if info else None
    print(f"{processor()}, torch {torch.__version__}, {WIDTH}x{HEIGHT}, best of {options.turns} turns or more")
    print(f"ours: {isa}; prototype: {modules.vectors}; values agree to {TOLERANCE:.0e} of their norm")
    print(f"{'':30} threads   ours ms prototype ms   ratio of best")
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        with freed_memory_kept():  # as the fit does
            for row in run_cases(modules, options):
                rows.append(row)
                print(line(row), flush=True)
    print("\n".join(NOTES))
    document = {
        "machine": processor(),
        "isa": isa,
        "prototype": modules.vectors,
        "torch": torch.__version__,
        "turns": options.turns,
        "notes": NOTES,
        "rows": [vars(row) for row in rows],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.out, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
