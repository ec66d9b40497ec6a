"""Times of the hierarchical contrastive loss, forward and backward: Python loops, vectorized PyTorch and the fused op.

All three are measured in one run on the same inputs, after a check that values and gradients agree; the fused op makes
its level tables from the membership bits inside its time, the other two get theirs for nothing. Every sample is kept
(min_pixels 1). They take turns, as the speed of a shared machine changes within seconds: times are the best of all
turns, and so are the ratios. Writes benchmarks/results/loss.json.

    PYTHONPATH=. python benchmarks/loss.py [--sizes 4096 8192 32768] [--patches 50 200 500] [--threads 2]

On a loaded machine `--threads 1 --cpu-time` counts one thread's processor time, which waiting does not lengthen.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.loss_baselines import Batch, level_table, loop_loss, make_batch, vectorized_loss
from splatseg.core.atomic import write_text
from splatseg.ops import LossConfig, hierarchical_contrastive_loss, hierarchical_contrastive_loss_and_grad
from splatseg.ops.extension import build_info

CONFIG = replace(LossConfig.gs(), min_pixels=1)
RESULT = Path(__file__).parent / "results/loss.json"
TURNS = 9


Clock = Callable[[], float]


def milliseconds(run: Callable[[], object], device: torch.device, repeats: int, clock: Clock) -> float:
    """Shortest of ``repeats`` calls after one to warm up: other processes only ever add time."""
    run()
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = clock()
        run()
        synchronize(device)
        times.append(clock() - start)
    return 1e3 * min(times)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def with_gradient(loss: Callable[[Tensor], Tensor], features: Tensor) -> tuple[Tensor, Tensor]:
    leaf = features.detach().requires_grad_()
    value = loss(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def contenders(batch: Batch) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """Value and gradient by each implementation."""
    table = level_table(batch, CONFIG)
    f, patch, votes, membership = batch.features, batch.patch, batch.votes, batch.membership
    return {
        "loops": lambda: with_gradient(lambda x: loop_loss(x, patch, votes, CONFIG), f),
        "vectorised": lambda: with_gradient(lambda x: vectorized_loss(x, table, CONFIG), f),
        "op_autograd": lambda: with_gradient(
            lambda x: hierarchical_contrastive_loss(x, patch, membership=membership, config=CONFIG), f
        ),
        "op": lambda: hierarchical_contrastive_loss_and_grad(f, patch, membership=membership, config=CONFIG),
    }


def check_agreement(runs: dict[str, Callable[[], tuple[Tensor, Tensor]]]) -> None:
    """Refuse to time what does not compute the same: float32 and log(sum + 1e-6) leave 1e-4."""
    want_loss, want_grad = runs["op"]()
    for name, run in runs.items():
        loss, grad = run()
        error = max(float((loss - want_loss).abs() / want_loss), float((grad - want_grad).norm() / want_grad.norm()))
        if error > 1e-4:
            raise SystemExit(f"{name}: differs from the op by {error:.1e}, expected at most 1e-4")


def ceilings(device: torch.device, clock: Clock) -> dict[str, float]:
    """Measured, not from a data sheet: GFLOP/s of a float32 matrix product and GB/s of a copy."""
    size = 4096 if device.type == "cuda" else 1024
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    elements = 2**28 if device.type == "cuda" else 2**25
    source, target = torch.zeros(elements, device=device), torch.zeros(elements, device=device)
    product = milliseconds(lambda: a @ b, device, 10, clock)
    copy = milliseconds(lambda: target.copy_(source), device, 10, clock)
    return {"gflops": 2e-6 * size**3 / product, "gb_s": 2 * 4e-6 * elements / copy}


def op_work(batch: Batch) -> dict[str, float]:
    """Operations that the three products need and bytes in and out, each counted once; the exps are not counted."""
    n, d = batch.features.shape
    k = len(torch.unique(batch.patch))
    moved = 2 * batch.features.nbytes + batch.patch.nbytes + batch.membership.nbytes
    return {"patches_sampled": k, "gflop": 3 * 2e-9 * n * k * d, "mb": 1e-6 * moved}


def measure(n: int, p: int, d: int, device: torch.device, repeats: int, clock: Clock) -> dict[str, float | str]:
    batch = make_batch(n, p, d).to(device)
    runs = contenders(batch)
    check_agreement(runs)
    few = {"loops": max(1, repeats // 80), "vectorised": max(2, repeats // 20)}
    turns = [
        {name: milliseconds(run, device, few.get(name, repeats), clock) for name, run in runs.items()}
        for _ in range(TURNS)
    ]
    ms = {name: min(turn[name] for turn in turns) for name in runs}
    work = op_work(batch)
    return {
        "device": device.type,
        "n": n,
        "p": p,
        "d": d,
        **work,
        **{f"{name}_ms": value for name, value in ms.items()},
        "loops_over_op": ms["loops"] / ms["op"],
        "vectorised_over_op": ms["vectorised"] / ms["op"],
        "op_gflops": 1e3 * work["gflop"] / ms["op"],
        "op_gb_s": work["mb"] / ms["op"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192, 32768], metavar="N")
    parser.add_argument("--patches", type=int, nargs="+", default=[50, 200, 500], metavar="P")
    parser.add_argument("--channels", type=int, default=16, metavar="D")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=100, help="of the op in a turn; the slower ones repeat less")
    parser.add_argument("--cpu-time", action="store_true", help="processor time of one thread; CPU only")
    args = parser.parse_args()
    if args.cpu_time and args.threads != 1:
        parser.error("--cpu-time: expected --threads 1 with it")
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    devices = [torch.device("cpu")] + (
        [torch.device("cuda")] if torch.cuda.is_available() and not args.cpu_time else []
    )
    rows, limits = [], {}
    print("device      n    p   k      loops ms  vectorized ms  autograd ms    op ms  loops/op  vectorized/op")
    for device in devices:
        limits[device.type] = ceilings(device, clock)
        for n in args.sizes:
            for p in args.patches:
                r = measure(n, p, args.channels, device, args.repeats, clock)
                rows.append(r)
                print(
                    f"{r['device']:6} {n:6} {p:4} {r['patches_sampled']:4} {r['loops_ms']:12.2f} "
                    f"{r['vectorised_ms']:14.2f} {r['op_autograd_ms']:12.3f} {r['op_ms']:8.3f} "
                    f"{r['loops_over_op']:9.1f} {r['vectorised_over_op']:14.1f}",
                    flush=True,
                )
    for name, limit in limits.items():
        print(f"{name}: {limit['gflops']:.0f} GFLOP/s in a float32 product, {limit['gb_s']:.1f} GB/s in a copy")
    info = build_info()
    document = {
        "machine": platform.processor() or platform.machine(),
        "threads": args.threads,
        "clock": "processor time" if args.cpu_time else "wall",
        "torch": torch.__version__,
        "isa": info.isa if info else None,
        "ceilings": limits,
        "rows": rows,
    }
    RESULT.parent.mkdir(exist_ok=True)
    write_text(RESULT, json.dumps(document, indent=1) + "\n")
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
